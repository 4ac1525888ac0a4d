"""Reading and checking a reproduction file."""

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from litevl import spec as spec_module
from litevl.errors import DataError, SpecError, WeightsError
from litevl.spec import (
    PROFILES,
    Resolved,
    Settings,
    Spec,
    as_dict,
    choose_profile,
    json_schema,
    load_spec,
    resolve,
)
from litevl.spec_problems import flat, known_keys, merged, nested

MSRVTT = Path(__file__).parent.parent / "reproductions" / "msrvtt.toml"
TEXT = MSRVTT.read_text(encoding="utf-8")


def edited(*edits: tuple[str, str]) -> str:
    """The real file with each old text, which has to occur, replaced once."""
    text = TEXT
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def set_in(table: str, key: str, value: str | None) -> tuple[str, str]:
    """The edit that gives a key of a table another value, whatever it has now; None removes it."""
    start = TEXT.index(f"[{table}]\n")
    line = TEXT.index(f"\n{key} = ", start) + 1
    end = TEXT.index("\n", line) + 1
    assert "\n[" not in TEXT[start:line], f"{table} has no {key}"
    old = TEXT[start:end]
    return old, TEXT[start:line] + (f"{key} = {value}\n" if value is not None else "")


def problem_lines(folder: Path, text: str | bytes) -> list[str]:
    """The lines of the SpecError that a file gives, without the first; none if it is right."""
    path = folder / "spec.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        load_spec(path)
    except SpecError as error:
        first, *lines = str(error).split("\n")
        assert first.startswith(f"{path}: ")
        return [line.removeprefix("  ") for line in lines] or [first]
    return []


@pytest.fixture(scope="module")
def msrvtt() -> Spec:
    return load_spec(MSRVTT)


# The shipped file


def test_shipped_spec_is_right_and_has_the_variants_and_claims_of_the_paper(msrvtt):
    names = [variant.name for variant in msrvtt.variant]
    assert names == [
        "full",
        "no-temporal-attention",
        "no-scaling",
        "mean-pooling",
        "concat-pooling",
    ]
    pairs = {(claim.better, claim.worse, claim.metric) for claim in msrvtt.claim}
    assert pairs == {
        ("full", "no-temporal-attention", "t2v/R@1"),
        ("full", "no-scaling", "t2v/R@1"),
        ("full", "mean-pooling", "t2v/R@1"),
    }
    quoted = {target.metric: target.value for target in msrvtt.target}
    assert quoted == {"t2v/R@1": 46.7, "t2v/R@5": 71.8, "t2v/R@10": 81.7, "t2v/MdR": 2.0}
    assert {target.provenance.source for target in msrvtt.target} == {"secondary"}


def test_every_setting_that_decides_a_number_has_its_provenance(msrvtt):
    scale_only = {"evaluate.batch_size", "data.root"}
    values = flat(as_dict(resolve(msrvtt, "paper", "full")))
    wanted = {key for key in known_keys(Settings) if values.get(key) not in (None, [])}
    covered = {
        key
        for key in wanted
        if any(key == told or key.startswith(f"{told}.") for told in msrvtt.provenance)
    }
    assert wanted - covered == scale_only


def test_profiles_of_the_shipped_spec_differ_in_scale_and_not_in_method(msrvtt):
    mini, paper = (flat(as_dict(resolve(msrvtt, profile, "full"))) for profile in PROFILES)
    differing = {key for key in mini if mini[key] != paper.get(key)}
    method = {
        "data.dataset",
        "data.train_split",
        "frames.num_frames",
        "frames.train_sampler",
        "frames.eval_sampler",
        *(key for key in known_keys(Settings) if key.startswith("model.")),
        "train.select",
        "evaluate.score",
    } - {"model.weights"}
    assert not differing & method
    assert paper["train.seeds"] == [0, 1, 2]
    assert paper["data.expected.train_clips"] == 9000
    assert paper["data.expected.test_clips"] == 1000
    assert mini["data.expected.test_clips"] == 2 * mini["data.world.test_scenes"]


def test_variants_change_only_their_own_keys(msrvtt):
    full = flat(as_dict(resolve(msrvtt, "mini", "full")))
    for variant in msrvtt.variant:
        values = flat(as_dict(resolve(msrvtt, "mini", variant.name)))
        changed = {key for key in full if values[key] != full[key]} - {"variant"}
        assert changed == set(variant.set), variant.name


def test_resolved_settings_survive_json(msrvtt):
    resolved = resolve(msrvtt, "mini", "no-scaling")
    text = json.dumps(as_dict(resolved))
    assert Resolved.model_validate_json(text) == resolved


def test_resolve_names_the_variants_it_knows(msrvtt):
    with pytest.raises(SpecError, match=r"no variant 'no-scalin'; did you mean 'no-scaling'\?"):
        resolve(msrvtt, "mini", "no-scalin")


def test_settings_cannot_be_changed_after_reading(msrvtt):
    resolved = resolve(msrvtt, "mini", "full")
    with pytest.raises(ValueError, match="frozen"):
        resolved.train.epochs = 1


# All problems at once


def test_unknown_key_wrong_type_and_impossible_value_are_reported_together(tmp_path):
    lines = problem_lines(
        tmp_path,
        edited(
            ('decoder = "decord"', 'decoder = "decord"\ntrian = 3'),
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


# Impossible combinations


@pytest.mark.parametrize(
    ("edits", "line"),
    [
        pytest.param(
            [('"model.scaling" = "none" }', '"model.scaling" = "layer" }')],
            'variant.no-temporal-attention.model.scaling: "layer" acts on temporal attention, '
            'which is off; set it to "none"',
            id="scaling of an attention that is off",
        ),
        pytest.param(
            [('"model.time_embedding" = "none", ', "")],
            'variant.no-temporal-attention.model.time_embedding: "branch" acts on temporal '
            'attention, which is off; set it to "none"',
            id="time embedding of an attention that is off",
        ),
        pytest.param(
            [('time_embedding = "branch"', 'time_embedding = "stream"')],
            'model.time_embedding_scale: "stream" starts at 0, so that step 0 equals BLIP; '
            'use 0.0, or "branch"',
            id="stream that does not start at zero",
        ),
        pytest.param(
            [("rerank_k = 128", "rerank_k = 1001")],
            "profile.paper.evaluate.rerank_k: 1001 is more than the gallery holds (1000)",
            id="more candidates than gallery",
        ),
        pytest.param(
            [('select = "last"', 'select = "best-validation"')],
            'profile.paper.train.select: "best-validation" needs validation clips, and the split '
            'has none; use "last"',
            id="selection on no validation clips",
        ),
        pytest.param(
            [set_in("profile.mini.train", "batch_size", "31")],
            "profile.mini.train.batch_size: 31 is odd; group_by_source fills a batch with pairs "
            "of clips",
            id="pairs in an odd batch",
        ),
        pytest.param(
            [
                set_in("profile.mini.train", "batch_size", "32"),
                ("train_clips = 1600", "train_clips = 16"),
            ],
            "profile.mini.train.batch_size: 32 is more than the training split holds (16 clips)",
            id="batch larger than the split",
        ),
        pytest.param(
            [("queue_size = 57600", "queue_size = 57601")],
            "profile.paper.train.queue_size: 57601 is not a positive multiple of "
            "train.batch_size (64)",
            id="queue that no number of batches fills",
        ),
        pytest.param(
            [("[profile.mini.data.world]", "[data.world]")],
            "profile.paper.data.world: drawn clips belong in [profile.mini.data.world]",
            id="drawn clips for everybody",
        ),
        pytest.param(
            [('weights = "data/weights/model_base_14M.pth"', 'weights = "mini-blip"')],
            'profile.paper.model.weights: "mini-blip" has seen drawings only; name a BLIP '
            "checkpoint",
            id="mini weights for the paper profile",
        ),
        pytest.param(
            [('root = "data/mini/msrvtt"', 'root = "data/msrvtt"')],
            "profile.mini.data.root: both profiles use this folder; drawn clips would mix with "
            "the real ones",
            id="one folder for both profiles",
        ),
    ],
)
def test_impossible_combination_is_one_line(tmp_path, edits, line):
    assert problem_lines(tmp_path, edited(*edits)) == [line]


def test_mini_profile_needs_its_world(tmp_path):
    start = TEXT.index("[profile.mini.data.world]")
    text = TEXT[:start] + TEXT[TEXT.index("[profile.mini.frames]") :]
    assert problem_lines(tmp_path, text) == [
        "profile.mini.data.world: missing; the mini profile draws its clips"
    ]


def test_inert_values_of_the_momentum_encoder_are_no_problem_where_it_is_off(tmp_path):
    text = edited(
        ("queue_size = 57600", "queue_size = 57601"),
        ("momentum_encoder = true", "momentum_encoder = false"),
    )
    assert problem_lines(tmp_path, text) == []


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
            "target[1]: a second target for t2v/R@1 of 'full'",
            id="target twice",
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
LINES = TEXT.splitlines()
ASSIGNMENTS = [i for i, line in enumerate(LINES) if "=" in line and not line.startswith("#")]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edits=st.lists(st.tuples(st.sampled_from(ASSIGNMENTS), st.sampled_from(VALUES)), max_size=4),
    dropped=st.lists(st.integers(0, len(LINES) - 1), max_size=3),
    added=st.lists(st.tuples(st.integers(0, len(LINES)), st.sampled_from(LINES)), max_size=2),
)
def test_mutated_spec_loads_or_gives_a_spec_error(tmp_path, edits, dropped, added):
    lines = list(LINES)
    for index, value in edits:
        lines[index] = f"{lines[index].split('=')[0]}= {value}"
    lines = [line for index, line in enumerate(lines) if index not in dropped]
    for index, line in added:
        lines.insert(index, line)
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


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(list(Spec.model_fields)), TOML_VALUES, max_size=6))
def test_any_tables_can_be_checked_without_an_exception(tables):
    document = spec_module.with_dotted_keys(tomllib.loads(TEXT) | tables)
    found = spec_module.problems(document, Spec, Settings)
    if not found:
        Spec.model_validate(document)


# Dotted keys


def test_flat_and_nested_undo_each_other():
    table = {"a": {"b": 1, "c": {"d": [2]}}, "e": 3}
    assert flat(table) == {"a.b": 1, "a.c.d": [2], "e": 3}
    assert nested(flat(table)) == table


def test_merged_replaces_values_and_joins_tables_without_touching_either():
    base, over = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}, "d": {"e": 5}}
    assert merged(base, over) == {"a": {"b": 1, "c": 4}, "d": {"e": 5}}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}
    assert over == {"a": {"c": 4}, "d": {"e": 5}}


# The schema


def test_schema_knows_every_key_and_its_meaning():
    schema = json_schema()
    json.dumps(schema)
    definitions = schema["$defs"]
    assert definitions["TrainSpec"]["properties"].keys() == set(
        Settings.model_fields["train"].annotation.model_fields
    )
    assert "required" not in definitions["TrainSpec"]  # a profile may complete it
    assert definitions["Profiles"]["properties"]["mini"]["properties"].keys() == set(
        Settings.model_fields
    )
    assert "Folder of clips" in definitions["DataSpec"]["properties"]["root"]["description"]
    assert schema["additionalProperties"] is False


# Which profile runs


@pytest.fixture
def data_of_the_paper(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/msrvtt").mkdir(parents=True)
    (tmp_path / "data/msrvtt/MSRVTT_JSFUSION_test.csv").touch()
    (tmp_path / "data/weights").mkdir()
    (tmp_path / "data/weights/model_base_14M.pth").touch()


def test_auto_is_mini_and_says_what_paper_lacks(msrvtt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile, reason = choose_profile(msrvtt, "auto")
    assert profile == "mini"
    assert reason == "not found for paper: data/msrvtt, data/weights/model_base_14M.pth"


def test_asking_for_paper_without_data_says_what_is_missing_and_where_it_goes(
    msrvtt, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/msrvtt").mkdir(parents=True)  # an empty folder is no data set
    with pytest.raises(DataError) as caught:
        choose_profile(msrvtt, "paper")
    message = str(caught.value)
    assert "data/msrvtt: put the clips and annotation files" in message
    assert "data/weights/model_base_14M.pth: put BLIP's original checkpoint there" in message
    assert "--profile mini" in message


@pytest.mark.usefixtures("data_of_the_paper")
def test_auto_is_paper_where_clips_and_weights_are_present(msrvtt, monkeypatch):
    monkeypatch.setattr(spec_module, "PAPER_PROFILE_BLOCKED", "")
    assert choose_profile(msrvtt, "auto") == ("paper", "its clips and weights are present")
    assert choose_profile(msrvtt, "paper") == ("paper", "asked for")
    assert choose_profile(msrvtt, "mini") == ("mini", "asked for")


@pytest.mark.usefixtures("data_of_the_paper")
def test_paper_is_refused_as_long_as_its_checkpoints_cannot_be_loaded(msrvtt, monkeypatch):
    monkeypatch.setattr(spec_module, "PAPER_PROFILE_BLOCKED", "not yet")
    assert choose_profile(msrvtt, "auto") == (
        "mini",
        "paper has its clips and weights, but not yet",
    )
    with pytest.raises(WeightsError, match="not yet; use --profile mini"):
        choose_profile(msrvtt, "paper")
