"""`litevl data new`: a spec of one's own clips, and what check, plan and run make of it."""

import json
import shlex
import tomllib
from pathlib import Path

import pytest

from litevl.cli import main
from litevl.errors import SpecError
from litevl.plan import plan
from litevl.profiles import choose, unsourced
from litevl.spec import load_spec, resolve

SHIPPED = Path(__file__).parents[1] / "reproductions"
CAPTIONS = "clip,caption,split\na,one,train\nb,two,train\nc,three,test\nd,four,test\n"
ASKED = (
    "clip,question,answer,split\na,what?,x,train\nb,what?,y,train\nc,is it?,x,validation\n"
    "d,who?,z,test\n"
)
FILES = {"own-retrieval": CAPTIONS, "own-qa": ASKED}
both = pytest.mark.parametrize("dataset", FILES)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, with clips and both files of texts."""
    monkeypatch.chdir(tmp_path)
    Path("clips").mkdir()
    for letter in "abcd":
        Path("clips", f"{letter}.mp4").touch()
    for dataset, content in FILES.items():
        Path(f"{dataset}.csv").write_text(content)
    return tmp_path


def new(dataset: str, *options: str, name: str = "mine") -> int:
    """The exit code of `litevl data new`."""
    files = ["--clips", "clips", "--annotations", f"{dataset}.csv"]
    return main(["data", "new", name, *files, *options])


@both
@pytest.mark.parametrize("weights", [(), ("--weights", "mini-blip")], ids=["BLIP", "mini-BLIP"])
def test_new_spec_is_right_and_tells_the_source_of_every_value(dataset, weights, capsys):
    assert new(dataset, *weights) == 0
    capsys.readouterr()
    assert main(["check", "mine.toml"]) == 0
    assert capsys.readouterr().out == "mine.toml: ok (5 variants, 3 claims, 0 targets)\n"
    assert unsourced(load_spec(Path("mine.toml"))) == []


@both
@pytest.mark.parametrize("weights", ["blip:model_base_14M", "mini-blip"])
def test_variants_claims_and_method_are_those_of_the_reproductions(dataset, weights):
    assert new(dataset, "--weights", weights) == 0
    name = {"own-retrieval": "msrvtt", "own-qa": "msrvtt_qa"}[dataset]
    made, shipped = load_spec(Path("mine.toml")), load_spec(SHIPPED / f"{name}.toml")
    assert made.variant == shipped.variant
    assert made.claim == shipped.claim
    paper = resolve(shipped, "paper" if weights != "mini-blip" else "mini", "full")
    own = resolve(made, "own", "full")
    chosen = {"weights": own.model.weights}
    assert own.model == paper.model.model_copy(update=chosen)
    here, there = own.train.model_dump(), paper.train.model_dump()
    kept = ("learning_rate", "temporal_learning_rate", "weight_decay", "warmup_fraction")
    assert {key: here[key] for key in kept} == {key: there[key] for key in kept}
    assert own.frames.size_px == paper.frames.size_px


def test_numbers_of_the_spec_are_those_of_the_texts():
    assert new("own-retrieval") == new("own-qa", name="asked") == 0
    mine, asked = (tomllib.loads(Path(f"{n}.toml").read_text()) for n in ("mine", "asked"))
    assert mine["data"]["expected"] == {"train_clips": 2, "validation_clips": 0, "test_clips": 2}
    assert (mine["train"]["select"], mine["evaluate"]["rerank_k"]) == ("last", 2)
    assert asked["data"]["expected"]["validation_questions"] == 1
    assert asked["data"]["answers"] == {"count": 2}
    assert (asked["train"]["select"], asked["evaluate"]["rerank_k"]) == ("best-validation", 2)


def test_next_commands_are_printed_and_begin_with_the_weights(capsys):
    assert new("own-retrieval", "--output", "a b/mine.toml") == 0
    told = capsys.readouterr().out.split("Next:\n")
    assert told[1].split("\n")[:4] == [
        "  litevl data fetch blip:model_base_14M",
        "  litevl check 'a b/mine.toml'",
        "  litevl plan 'a b/mine.toml'",
        "  litevl run 'a b/mine.toml'",
    ]
    assert "note: no validation clips" in told[0]
    assert main(shlex.split(told[1].split("\n")[1].strip())[1:]) == 0


def test_everything_wrong_with_command_clips_and_texts_is_one_message(capsys):
    Path("own-retrieval.csv").write_text(CAPTIONS + "z,five,tset\nz,five,test\nq,six,test\n")
    Path("there.toml").write_text("precious")
    options = ("--output", "there.toml", "--weights", "blip:model_bse_14M")
    assert new("own-retrieval", *options, name="My Clips") == 2
    told = capsys.readouterr().err.split("\n")
    assert told[0] == "DataError: own-retrieval.csv: 6 problems, no spec made"
    beginnings = [
        "name 'My Clips': should be small",
        "there.toml: is there already",
        "weights: 'bl",
    ]
    beginnings += ["own-retrieval.csv line 6: split", "own-retrieval.csv line 7: no clip 'z'"]
    beginnings += ["own-retrieval.csv line 8: no clip 'q' in clips", ""]
    for line, beginning in zip(told[1:], beginnings, strict=True):
        assert line.strip().startswith(beginning)
    assert Path("there.toml").read_text() == "precious"
    assert sorted(path.suffix for path in Path().iterdir()) == ["", ".csv", ".csv", ".toml"]


@pytest.mark.parametrize("name", ["combined", "a" * 65, "../up", ""])
def test_name_that_no_report_can_have_is_refused(name, capsys):
    assert new("own-retrieval", "--output", "mine.toml", name=name) == 2
    assert f"name {name!r}: " in capsys.readouterr().err
    assert not Path("mine.toml").exists()


def test_path_that_would_end_a_comment_is_refused(capsys):
    assert new("own-retrieval", "--output", "a\nname = 1.toml") == 2
    assert "holds a letter that cannot be shown" in capsys.readouterr().err


def test_folder_without_a_name_of_its_own_is_written_whole(folder, monkeypatch):
    monkeypatch.chdir("clips")
    options = ["--clips", ".", "--annotations", "../own-retrieval.csv"]
    assert main(["data", "new", "mine", *options]) == 0
    spec = tomllib.loads((folder / "mine.toml").read_text())
    assert spec["data"]["root"] == str(folder / "clips")


def test_paths_with_quotes_and_backslashes_survive(folder):
    odd = folder / 'cl"i\\ps'
    (folder / "clips").rename(odd)
    options = ["--clips", str(odd), "--annotations", "own-retrieval.csv"]
    assert main(["data", "new", "mine", *options]) == 0
    assert load_spec(Path("mine.toml")).data["root"] == str(odd)


# Length of texts


@pytest.mark.parametrize(("num_words", "most"), [(63, 128), (64, 512)])
def test_room_for_texts_grows_with_the_longest(num_words, most):
    Path("own-retrieval.csv").write_text(CAPTIONS.replace("one", "word " * num_words))
    assert new("own-retrieval") == 0
    assert load_spec(Path("mine.toml")).data["max_tokens"] == most


# Profile, plan and ids


def test_own_data_have_one_profile(capsys):
    assert new("own-retrieval", "--weights", "mini-blip") == 0
    spec = load_spec(Path("mine.toml"))
    assert choose(spec, "auto", None)[1:] == choose(spec, "own", None)[1:] == ("own", "own clips")
    for options in (["--profile", "mini"], ["--profile", "paper"], ["--start", "14m"]):
        capsys.readouterr()
        assert main(["plan", "mine.toml", *options]) == 2
        assert f"leave {options[0]} out" in capsys.readouterr().err
    with pytest.raises(SpecError, match="profile own is for own data"):
        choose(load_spec(SHIPPED / "msrvtt.toml"), "own", None)


def test_run_without_clips_and_weights_says_what_to_get_and_plan_does_not_need_them(capsys):
    assert new("own-retrieval") == 0
    Path("clips").rename("elsewhere")
    capsys.readouterr()
    assert main(["run", "mine.toml"]) == 2
    told = capsys.readouterr().err.split("\n")
    assert told[0] == "DataError: mine: not found"
    assert told[1].startswith("  clips: the folder of clips, data.root")
    assert told[2].endswith("model_base_14M.pth: litevl data fetch blip:model_base_14M")
    assert main(["plan", "mine.toml", "--variant", "full"]) == 0
    told = capsys.readouterr().out
    assert "mine, profile own (own clips; to run it, get clips, data/weights/" in told
    assert "device-hours in all" in told


def test_plan_of_the_small_model_estimates_no_cost(capsys):
    assert new("own-qa", "--weights", "mini-blip") == 0
    capsys.readouterr()
    assert main(["plan", "mine.toml", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["id"].rpartition("-")[0] == "mine-own-full-s0"
    assert not any("cost" in row for row in rows)
    assert "--profile own" in rows[0]["command"]


def test_runs_are_others_once_a_text_changes(capsys):
    assert new("own-retrieval") == 0
    spec = load_spec(Path("mine.toml"))
    before = [run.id for run in plan(spec, "own", [], [], None, None)]
    Path("own-retrieval.csv").write_text(CAPTIONS.replace("four", "4"))
    after = [run.id for run in plan(spec, "own", [], [], None, None)]
    assert not {*before} & {*after}
    Path("own-retrieval.csv").unlink()
    assert main(["plan", "mine.toml"]) == 2
    assert "own-retrieval.csv: cannot be read: No such file" in capsys.readouterr().err


# What a spec of own data must not have, and must have


@pytest.mark.parametrize(
    ("old", "new_text", "line"),
    [
        ('annotations = "own-retrieval.csv"\n', "", 'data.annotations: missing; "own-retrieval"'),
        ("[frames]", "[profile.mini.frames]\n[frames]", "profile: own data have one scale"),
        ("[frames]", "[data.world]\nseed = 1\n[frames]", "data.world: own clips are not drawn"),
        ("[frames]", '[[target]]\nmetric = "t2v/R@1"\n[frames]', "target: is for published num"),
        ('"t2v/R@1"', '"accuracy"', 'claim.temporal-attention-helps.metric: "accuracy" is for qu'),
        ("rerank_k = 2", "rerank_k = 3", "evaluate.rerank_k: 3 is more than the gallery holds (2"),
        ("[frames]", 'train_split = "9k"\n[frames]', 'data.train_split: only for "msrvtt"'),
    ],
)
def test_wrong_key_is_told(old, new_text, line):
    assert new("own-retrieval") == 0
    text = Path("mine.toml").read_text()
    assert old in text
    Path("wrong.toml").write_text(text.replace(old, new_text, 1))
    with pytest.raises(SpecError) as caught:
        load_spec(Path("wrong.toml"))
    assert any(part.strip().startswith(line) for part in str(caught.value).split("\n"))


def test_spec_of_a_published_data_set_still_needs_its_profiles_and_no_annotations():
    text = (SHIPPED / "msrvtt.toml").read_text()
    Path("cut.toml").write_text(text[: text.index("# Mini:")])
    with pytest.raises(SpecError, match="\n  profile: missing"):
        load_spec(Path("cut.toml"))
    Path("more.toml").write_text(text.replace("[data]\n", '[data]\nannotations = "x.csv"\n', 1))
    with pytest.raises(SpecError, match=r"annotations: only for .own-retrieval. and .own-qa."):
        load_spec(Path("more.toml"))


def test_published_counts_are_not_compared_with_own_data(capsys):
    arguments = ["data", "check", "own-qa", "--annotations-only", "--root", "clips"]
    assert main(arguments) == 2
    assert "no counts were published" in capsys.readouterr().err
