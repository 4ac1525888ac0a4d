"""Which profile and which start a spec runs with, and what its paper profile lacks."""

from pathlib import Path

import pytest
from spec_texts import SHIPPED, TEXTS

from litevl.data.checked import write_outcome
from litevl.errors import DataError, SpecError
from litevl.plan import plan
from litevl.profiles import choose, choose_profile, start_of, starting_from, unsourced
from litevl.spec import Spec, load_spec, resolve


@pytest.fixture(scope="module")
def msrvtt() -> Spec:
    return load_spec(SHIPPED / "msrvtt.toml")


@pytest.fixture(params=TEXTS)
def shipped(request) -> Spec:
    """Each reproduction in turn."""
    return load_spec(SHIPPED / f"{request.param}.toml")


@pytest.fixture
def data_of_the_paper(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/msrvtt/videos").mkdir(parents=True)
    (tmp_path / "data/msrvtt/videos/video7020.mp4").touch()
    (tmp_path / "data/weights").mkdir()
    (tmp_path / "data/weights/model_base_14M.pth").touch()


# Which profile runs


def test_auto_is_mini_and_says_what_paper_lacks(msrvtt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile, reason = choose_profile(msrvtt, "auto")
    assert profile == "mini"
    assert reason == "not found for paper: data/msrvtt, data/weights/model_base_14M.pth"


def test_asking_for_paper_without_data_says_how_to_get_it_and_where_it_goes(
    shipped, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    settings = resolve(shipped, "paper", "full")
    (Path(settings.data.root) / "videos").mkdir(parents=True)
    (Path(settings.data.root) / "test_qa.json").touch()  # annotations alone are no data set
    with pytest.raises(DataError) as caught:
        choose_profile(shipped, "paper")
    files = f"{shipped.name} --root {settings.data.root}"
    assert str(caught.value).split("\n")[1:] == [
        f"  {settings.data.root}: litevl data fetch {files}; then litevl data check {files}",
        f"  {settings.model.weights}: litevl data fetch blip:{Path(settings.model.weights).stem}",
        "  --profile mini runs without any of this.",
    ]


@pytest.mark.usefixtures("data_of_the_paper")
def test_auto_is_paper_where_weights_are_present_and_clips_were_found_whole(msrvtt):
    write_outcome(Path("data/msrvtt"), "msrvtt", {"ok": True})
    why = "its clips are checked and its weights present"
    assert choose_profile(msrvtt, "auto") == ("paper", why)
    assert choose_profile(msrvtt, "mini") == ("mini", "asked for")


@pytest.mark.usefixtures("data_of_the_paper")
@pytest.mark.parametrize("outcome", [None, {"ok": False}, {}], ids=str)
def test_auto_is_mini_where_clips_were_not_found_whole_and_names_the_check(msrvtt, outcome):
    if outcome is not None:
        write_outcome(Path("data/msrvtt"), "msrvtt", outcome)
    assert choose_profile(msrvtt, "auto") == (
        "mini",
        "data/msrvtt is there, but not checked and found whole: "
        "litevl data check msrvtt --root data/msrvtt",
    )
    assert choose_profile(msrvtt, "paper") == ("paper", "asked for")


# Starts


def test_without_a_choice_the_start_is_the_paper_profiles_own(shipped):
    spec = starting_from(shipped, None)
    assert (spec.name, spec.profile) == (shipped.name, shipped.profile)
    assert {target.start for target in spec.target} == {"14m"}
    assert starting_from(shipped, "14m") == spec


def test_another_start_is_another_study_with_its_own_weights_and_targets(shipped):
    spec = starting_from(shipped, "129m")
    assert spec.name == f"{shipped.name}-129m"
    assert spec.title == f"{shipped.title}, LiteVL-L"
    assert {target.start for target in spec.target} == {"129m"}
    assert start_of(spec) == shipped.start[1]
    here, there = (plan(one, "paper", [], [], None, None) for one in (shipped, spec))
    assert len(here) == len(there) == 15
    assert not {run.id for run in here} & {run.id for run in there}
    assert {run.resolved.model.weights for run in there} == {shipped.start[1].weights}


def test_weights_that_are_no_start_have_no_targets_of_one(msrvtt):
    paper = msrvtt.profile.paper | {"model": {"weights": "mine.pth"}}
    profile = msrvtt.profile.model_copy(update={"paper": paper})
    spec = starting_from(msrvtt.model_copy(update={"profile": profile}), None)
    assert start_of(spec) is None
    assert spec.target == ()


def test_unknown_start_is_told_with_the_known_ones(msrvtt):
    with pytest.raises(
        SpecError, match=r"no start '128m'; did you mean '129m'\? \(it has: 14m, 129m"
    ):
        choose(msrvtt, "paper", "128m")


@pytest.mark.parametrize("requested", ["auto", "mini"])
def test_start_is_refused_where_mini_runs(msrvtt, requested, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="--start 129m is for the paper profile, and mini runs"):
        choose(msrvtt, requested, "129m")


@pytest.mark.usefixtures("data_of_the_paper")
def test_data_for_one_start_are_not_enough_for_the_other(msrvtt):
    assert choose(msrvtt, "paper", "14m")[1] == "paper"
    with pytest.raises(DataError, match=r"large\.pth: litevl data fetch blip:\w*_large"):
        choose(msrvtt, "paper", "129m")


# Provenance


def test_every_value_of_a_shipped_paper_profile_has_its_provenance(shipped):
    assert unsourced(shipped) == []


def test_value_without_provenance_is_named_also_where_only_a_variant_sets_it(msrvtt):
    left = {
        k: v for k, v in msrvtt.provenance.items() if k not in ("train.epochs", "data.expected")
    }
    spec = msrvtt.model_copy(update={"provenance": left})
    clips = [f"data.expected.{split}_clips" for split in ("train", "validation", "test")]
    assert unsourced(spec) == [*clips, "train.epochs"]
    named = left | {"profile.paper.train.epochs": msrvtt.provenance["train.epochs"]}
    assert unsourced(spec.model_copy(update={"provenance": named})) == clips
