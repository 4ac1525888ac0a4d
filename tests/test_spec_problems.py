"""What is wrong with a reproduction file: its syntax, its shape, its names; all of it at once."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spec_texts import TEXT, TEXTS, edited, problem_lines, set_in

from litevl import spec as spec_module
from litevl.errors import SpecError
from litevl.spec import PROFILES, Settings, Spec, load_spec, resolve

# All problems at once


def test_unknown_key_wrong_type_and_impossible_value_are_reported_together(tmp_path):
    lines = problem_lines(
        tmp_path,
        edited(
            ('decoder = "pyav"', 'decoder = "pyav"\ntrian = 3'),
            set_in("profile.mini.train", "learning_rate", '"1e-5"'),
            set_in("profile.mini.evaluate", "rerank_k", "2000"),
        ),
    )
    assert lines == [
        "frames.trian: unknown key; did you mean 'train'?",
        'profile.mini.train.learning_rate: expected a number, got the string "1e-5"',
        "profile.mini.evaluate.rerank_k: 2000 is more than the gallery holds (512)",
    ]


def test_first_line_names_the_file_and_counts_the_problems(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(edited(("num_frames = 8", "num_frames = 0"), ('"text"', '"txt"')))
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert str(caught.value).startswith(f"{path}: 2 problems\n  frames.num_frames: ")
    path.write_text(edited(("num_frames = 8", "num_frames = 0")))
    with pytest.raises(SpecError, match="1 problem\n"):
        load_spec(path)


def test_name_of_the_combined_report_is_taken(tmp_path):
    lines = problem_lines(tmp_path, edited(('name = "msrvtt"', 'name = "combined"')))
    assert lines == [
        'name: "combined" is what the report of all data sets goes by; give another name'
    ]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        pytest.param(
            'scaling = "dynamic"', 'scaling = "dynamik"',
            'model.scaling: expected "dynamic", "layer", "input" or "none", '
            "got the string \"dynamik\"; did you mean 'dynamic'?",
            id="misspelt choice",
        ),
        pytest.param(
            "num_frames = 8", "num_frames = 8\nbatch_size = 3",
            "frames.batch_size: unknown key; did you mean 'evaluate.batch_size'?",
            id="key of another table",
        ),
        pytest.param(
            "num_frames = 8", "num_frames = 8.0",
            "frames.num_frames: expected a whole number, got 8.0", id="fraction for a count",
        ),
        pytest.param(
            "num_frames = 8", "num_frames = true",
            "frames.num_frames: expected a whole number, got true", id="truth for a count",
        ),
        pytest.param(
            "temporal_attention = true", "temporal_attention = 1",
            "model.temporal_attention: expected true or false, got 1", id="count for a truth",
        ),
        pytest.param(
            "momentum = 0.995", "momentum = nan",
            "train.momentum: expected a finite number, got nan", id="not a number",
        ),
        pytest.param(
            "pooling_temperature = 0.1", "pooling_temperature = 0.0",
            "model.pooling_temperature: expected a number above 0.0, got 0.0",
            id="zero temperature",
        ),
        pytest.param(
            "warmup_fraction = 0.1", "warmup_fraction = 10",
            "train.warmup_fraction: expected at most 1.0, got 10", id="percent for a fraction",
        ),
        pytest.param(
            "seeds = [0]", "seeds = [true]",
            "profile.mini.train.seeds[0]: expected a whole number, got true",
            id="seed of no number",
        ),
        pytest.param(
            "seeds = [0]", "seeds = []",
            "profile.mini.train.seeds: expected at least one entry, got an empty array",
            id="no seed",
        ),
        pytest.param(
            "seeds = [0]", "seeds = 0",
            "profile.mini.train.seeds: expected an array, got 0", id="seed outside an array",
        ),
        pytest.param(
            "seeds = [0]", "seeds = [3, 3]",
            "profile.mini.train.seeds: the same seed twice is one run, not two", id="seed twice",
        ),
        pytest.param(
            "weight_decay = 0.05", "", "train.weight_decay: missing", id="missing everywhere"
        ),
        pytest.param(
            *set_in("profile.mini.train", "epochs", None),
            "profile.mini.train.epochs: missing", id="missing in one profile",
        ),
        pytest.param(
            "expected = { train_clips = 9000, validation_clips = 0, test_clips = 1000 }", "",
            "profile.paper.data.expected: missing", id="missing table",
        ),
        pytest.param(
            'title = "LiteVL"', 'title = ""',
            "variant.full.title: expected some text, got the string \"\"", id="empty text",
        ),
        pytest.param(
            'name = "msrvtt"', 'name = "../msrvtt"',
            "name: expected small letters, digits and single hyphens, "
            'got the string "../msrvtt"',
            id="name that is a path",
        ),
        pytest.param(
            "weight_decay = 0.05", "weight_decay = 1979-05-27",
            "train.weight_decay: expected a number, got 1979-05-27", id="date for a number",
        ),
        pytest.param(
            "num_frames = 8", f"num_frames = 0x{'f' * 5000}",
            "frames.num_frames: expected at most 4294967295, got a number beyond any use here",
            id="number of thousands of digits",
        ),
    ],
)  # fmt: skip
def test_one_mistake_gives_one_line(tmp_path, old, new, line):
    assert problem_lines(tmp_path, edited((old, new))) == [line]


def test_misspelt_key_is_told_with_the_key_that_is_then_missing(tmp_path):
    lines = problem_lines(
        tmp_path, edited(("temporal_attention = true", "temporal_atention = true"))
    )
    assert lines == [
        "model.temporal_atention: unknown key; did you mean 'temporal_attention'?",
        "model.temporal_attention: missing",
    ]


def test_misspelt_table_is_told_with_the_table_meant(tmp_path):
    lines = problem_lines(tmp_path, edited(("[frames]", "[frame]")))
    assert "frame: unknown key; did you mean 'frames'?" in lines


def test_value_that_both_profiles_replace_is_checked_all_the_same(tmp_path):
    lines = problem_lines(tmp_path, edited(("[train]\n", '[train]\nepochs = "many"\n')))
    assert lines == ['train.epochs: expected a whole number, got the string "many"']


def test_wrong_key_in_one_array_of_tables_goes_by_the_name_of_its_entry(tmp_path):
    lines = problem_lines(
        tmp_path,
        edited(('worse = "no-scaling"\n', 'worse = "no-scaling"\nbest = "full"\n')),
    )
    assert lines == ["claim.dynamic-scaling-helps.best: unknown key; did you mean 'better'?"]


@pytest.mark.parametrize("section", ["data", "frames", "model", "train", "evaluate", "provenance"])
@pytest.mark.parametrize("value", ["3", '"text"', "[]", "1979-05-27"])
def test_section_that_is_not_a_table_is_one_problem(section, value):
    document = tomllib.loads(f"x = {value}")
    whole = spec_module.with_dotted_keys(tomllib.loads(TEXT))
    found = spec_module.problems(whole | {section: document["x"]}, Spec, Settings)
    assert [key for key, _ in found if key == section] == [section]
    assert all("missing" not in what for _, what in found)


# Names


@pytest.mark.parametrize(
    ("edits", "line"),
    [
        pytest.param(
            [('better = "full"', 'better = "ful"')],
            "claim.temporal-attention-helps.better: no variant 'ful'; did you mean 'full'?",
            id="claim",
        ),
        pytest.param(
            [('worse = "mean-pooling"', 'worse = "full"')],
            "claim.text-dependent-pooling-helps: compares a variant with itself",
            id="claim about one variant",
        ),
        pytest.param(
            [("value = 46.7", 'value = 46.7\nvariant = "whole"')],
            "target[0].variant: no variant 'whole'",
            id="target",
        ),
        pytest.param(
            [('metric = "t2v/R@5"', 'metric = "t2v/R@1"')],
            "target[1]: a second target for t2v/R@1 of 'full' from '14m'",
            id="target twice",
        ),
        pytest.param(
            [('start = "129m"', 'start = "128m"')],
            "target[4].start: no start '128m'; did you mean '129m'?",
            id="start of a target",
        ),
        pytest.param(
            [("value = 46.7\n", "")], "target[0].value: missing", id="target without a number"
        ),
        pytest.param(
            [
                (
                    'source = "secondary", note = "LiteVL-S as',
                    'source = "unknown", note = "LiteVL-S as',
                ),
                ("value = 46.7\n", ""),
            ],
            'target[0].tolerance: a number whose source is "unknown"',
            id="unknown with a number",
        ),
        pytest.param(
            [('"model.scaling" = { source', '"model.scalling" = { source')],
            "provenance.model.scalling: no such setting; did you mean 'model.scaling'?",
            id="provenance",
        ),
        pytest.param(
            [('set = { "model.scaling"', 'set = { "model.scalling"')],
            "variant.no-scaling.model.scalling: unknown key; did you mean 'scaling'?",
            id="variant's key",
        ),
        pytest.param(
            [('set = { "model.pooling" = "mean" }', 'set = { "model.pooling" = "median" }')],
            'variant.mean-pooling.model.pooling: expected "text", "mean", "concat", '
            '"text-temporal" or "text-spatial", got the string "median"; did you mean \'mean\'?',
            id="variant's value",
        ),
        pytest.param(
            [('set = { "model.pooling" = "mean" }', 'set = { "train.seeds" = [4] }')],
            "variant.mean-pooling.train.seeds: all variants share clips and seeds, so that their "
            "runs can be paired",
            id="variant with its own seeds",
        ),
        pytest.param(
            [('name = "concat-pooling"', 'name = "mean-pooling"')],
            "variant.mean-pooling: two entries have this name",
            id="variant twice",
        ),
    ],
)
def test_unknown_or_double_name_is_one_line(tmp_path, edits, line):
    assert problem_lines(tmp_path, edited(*edits)) == [line]


def test_dotted_keys_mean_the_same_with_and_without_quotes(tmp_path):
    path = tmp_path / "unquoted.toml"
    path.write_text(
        edited(
            ('set = { "model.pooling" = "mean" }', "set = { model.pooling = 'mean' }"),
            ('"model.pooling" = { source', "model.pooling = { source"),
            ('"train.epochs" = { source', "profile.paper.train.epochs = { source"),
        )
    )
    spec = load_spec(path)
    assert resolve(spec, "mini", "mean-pooling").model.pooling == "mean"
    assert {"model.pooling", "profile.paper.train.epochs"} <= spec.provenance.keys()


# Files that are no spec


def test_file_that_is_not_toml_is_told_with_the_line(tmp_path):
    (line,) = problem_lines(tmp_path, 'name = "x"\ntitle = no quotes\n')
    assert "not TOML" in line
    assert "line 2" in line


def test_key_given_twice_is_told_with_the_line(tmp_path):
    (line,) = problem_lines(tmp_path, "[train]\nepochs = 1\nepochs = 2\n")
    assert "not TOML" in line
    assert "line 3" in line


def test_missing_file_names_the_specs_there_are(tmp_path):
    (tmp_path / "didemo.toml").touch()
    with pytest.raises(SpecError, match=r"no such file; there is .*didemo\.toml"):
        load_spec(tmp_path / "didmo.toml")


def test_folder_instead_of_a_file_is_a_spec_error(tmp_path):
    with pytest.raises(SpecError, match="a folder; name the"):
        load_spec(tmp_path)


def test_file_that_cannot_be_read_is_a_spec_error(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(SpecError, match=r"locked\.toml: cannot be read: Permission denied"):
        load_spec(tmp_path / "locked.toml")


@pytest.mark.parametrize("value", ["3", "[]", '"text"'])
def test_profile_that_is_not_a_table_is_one_problem(value):
    whole = spec_module.with_dotted_keys(tomllib.loads(TEXT))
    mini = tomllib.loads(f"mini = {value}")
    found = spec_module.problems(whole | {"profile": whole["profile"] | mini}, Spec, Settings)
    assert [key for key, _ in found] == ["profile.mini"]


def test_file_that_is_not_text_is_told_with_the_line(tmp_path):
    (line,) = problem_lines(tmp_path, b'name = "x"\ntitle = "\xff"\n')
    assert "line 2 is not UTF-8 text" in line


def test_empty_file_lists_what_a_spec_needs(tmp_path):
    lines = problem_lines(tmp_path, "")
    assert {"name: missing", "variant: missing", "profile: missing"} <= set(lines)


@pytest.mark.parametrize(
    "text", ["x = " + "[" * 20_000, "a" + ".a" * 3_000 + " = 1", f"x = {'9' * 5000}"]
)
def test_absurd_nesting_or_number_is_a_spec_error(tmp_path, text):
    assert problem_lines(tmp_path, text)


# Nothing but a SpecError, whatever the file holds

VALUES = ["0", "-1", "1e400", "nan", "-inf", "true", '""', '"x"', "[]", "[[1], 2]", "{}",
          "{ a = 1 }", "[{}]", "1979-05-27", "12:30:00", "0xffffffffffffffffffffffff", '"\\u0000"',
          "{ name = 3 }", "[{ name = [] }]"]  # fmt: skip
PLACES = st.integers(0, 10_000)  # lines, counted from the start again after the last


@pytest.mark.parametrize("name", ["msrvtt", "didemo", "msvd_qa"])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edits=st.lists(st.tuples(PLACES, st.sampled_from(VALUES)), max_size=4),
    dropped=st.lists(PLACES, max_size=3),
    added=st.lists(st.tuples(PLACES, st.sampled_from(list(TEXTS)), PLACES), max_size=2),
)
def test_mutated_spec_loads_or_gives_a_spec_error(tmp_path, name, edits, dropped, added):
    lines = TEXTS[name].splitlines()
    assignments = [i for i, line in enumerate(lines) if "=" in line and not line.startswith("#")]
    for place, value in edits:
        index = assignments[place % len(assignments)]
        lines[index] = f"{lines[index].split('=')[0]}= {value}"
    for place in dropped:
        del lines[place % len(lines)]
    for place, origin, of_origin in added:
        others = TEXTS[origin].splitlines()
        lines.insert(place % len(lines), others[of_origin % len(others)])
    path = tmp_path / "mutated.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    try:
        spec = load_spec(path)
    except SpecError:
        return
    for profile in PROFILES:  # what passes the check can be resolved, every variant of it
        for variant in spec.variant:
            resolve(spec, profile, variant.name)


TOML_VALUES = st.recursive(
    st.none().map(lambda _: 0)
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "set", "model", "train", "model.scaling", "", ".", "a..b", "mini"]
            )
            | st.text(max_size=4),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(list(Spec.model_fields)), TOML_VALUES, max_size=6))
def test_any_tables_can_be_checked_without_an_exception(tables):
    document = spec_module.with_dotted_keys(tomllib.loads(TEXT) | tables)
    found = spec_module.problems(document, Spec, Settings)
    if not found:
        Spec.model_validate(document)
