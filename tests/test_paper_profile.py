"""The paper profile from its shipped specs to records, with small weights and invented clips.

Annotation files are as long as the published ones; what is small is the model and the subset.
"""

import json
from pathlib import Path

import pytest
from paper_world import SPECS, write_world
from small import SHIPPED, the_arrays, the_record

from litevl.cli import main
from litevl.report import page
from litevl.spec import load_spec, resolve

pytestmark = pytest.mark.usefixtures("in_this_process")
SUBSET = 2
METRIC = {"msrvtt": "t2v/R@1", "didemo": "t2v/R@1", "msvd_qa": "accuracy", "msrvtt_qa": "accuracy"}


@pytest.fixture(scope="module", autouse=True)
def _no_report():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "render_report", lambda *_: Path("no report"))
        yield


@pytest.fixture(scope="module", params=SPECS)
def name(request):
    """Each reproduction in turn."""
    return request.param


@pytest.fixture(scope="module")
def finished(name, tmp_path_factory):
    """The output of a run of two steps over a subset, in a folder that holds nothing else."""
    folder = tmp_path_factory.mktemp(name)
    write_world(folder, SUBSET, "small", [name])
    options = ["--subset", str(SUBSET), "--max-steps", "2", "--variant", "full", "--seed", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        spec = str(SHIPPED / f"{name}.toml")
        assert main(["run", spec, "--profile", "paper", "--output", "out", *options]) == 0
    return folder / "out"


def test_paper_profile_runs_from_blips_own_layout_and_leaves_a_whole_record(name, finished):
    record = the_record(finished)
    settings = resolve(load_spec(SHIPPED / f"{name}.toml"), "paper", "full")
    assert (record.status, record.run.profile) == ("complete", "paper")
    assert record.run.not_comparable_because == (
        f"subset: the first {SUBSET} clips of each split",
        "max-steps: training stopped after 2 steps",
    )
    assert record.weights.source == settings.model.weights
    assert record.weights.loaded > 20
    assert any("visual_encoder_m" in key for key in record.weights.dropped_by_design)
    assert record.curves.train[-1].step == 2
    assert len(the_arrays(finished)["query_ids"]) == record.metrics.test[METRIC[name]].n


def test_counts_expected_are_the_specs_and_found_is_the_subset(name, finished):
    expected = resolve(load_spec(SHIPPED / f"{name}.toml"), "paper", "full").data.expected
    for split, part in the_record(finished).data.splits.items():
        assert part.expected == expected.model_dump()[f"{split}_clips"]
        assert part.found == min(SUBSET, part.expected)
        assert part.broken == 0


def test_plan_of_the_run_holds_its_start_with_its_targets_and_what_it_may_cost(finished):
    (path,) = (finished / "records").rglob("paper.plan.json")
    plan = json.loads(path.read_text(encoding="utf-8"))
    assert plan["start"]["title"] == "LiteVL-S"
    assert {target["start"] for target in plan["targets"]} == {"14m"}
    (estimate,) = plan["estimates"]
    assert (estimate["variant"], estimate["num_runs"]) == ("full", 1)
    assert estimate["parameters"] > 200e6  # of BLIP's ViT-B/16, whatever weights these are
    assert estimate["device_hours"] > 0
