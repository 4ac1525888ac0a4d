"""From a spec to records and a report, through the command line, on a tiny world."""

import copy
import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import SCENES, clip_sets, small_settings, write_spec
from small_questions import with_evaluate
from tiny import TOLERANCE

from litevl import measure_retrieval
from litevl import run as engine
from litevl.cli import main
from litevl.engine import gallery, retrieval
from litevl.engine import train as training
from litevl.engine.evaluate import evaluate
from litevl.errors import WeightsError
from litevl.model.litevl import LiteVLForRetrieval
from litevl.plan import plan
from litevl.record import read_arrays, read_record
from litevl.report import page
from litevl.run import execute_plan
from litevl.spec import load_spec

pytestmark = pytest.mark.usefixtures("in_this_process")
FULL = ["--variant", "full"]


@pytest.fixture
def spec(small) -> dict:
    """The spec as nested tables, to be changed and written."""
    return small_settings(small / "world", small / "model.safetensors")


@pytest.fixture
def no_report(monkeypatch):
    """Leave the report out: it has its own tests, and takes longer than a tiny run."""
    monkeypatch.setattr(page, "render_report", lambda *_: Path("no report"))


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The titles of the runs that were trained."""
    titles = []
    original = training.train

    def train(*arguments):
        titles.append(arguments[5])
        return original(*arguments)

    monkeypatch.setattr(engine, "train", train)
    return titles


def records(output: Path) -> dict:
    """Variant and seed -> record."""
    found = [
        read_record(path)
        for path in (output / "records" / "msrvtt").glob("*.json")
        if not path.name.endswith(".plan.json")
    ]
    return {(record.run.variant, record.run.seed): record for record in found}


def arrays(output: Path, variant: str = "full", seed: int = 0) -> dict[str, np.ndarray]:
    """The per-query arrays of a run."""
    run_id = records(output)[variant, seed].run.id
    return read_arrays(output / "records" / "msrvtt" / f"{run_id}.npz")


def run(spec_file: Path, output: Path, *options: str) -> int:
    """The exit code of `litevl run` with an output folder."""
    return main(["run", str(spec_file), "--output", str(output), *options])


# End to end


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """Output folder, what was printed, and the exit code of a run of every variant."""
    output = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        code = run(small / "spec.toml", output)
    return output, lines, code


def test_run_of_a_spec_leaves_a_record_of_every_variant_and_a_report(finished):
    output, _, code = finished
    assert code == 0
    names = ["full", "no-temporal-attention", "no-scaling", "mean-pooling", "concat-pooling"]
    assert set(records(output)) == {(name, 0) for name in names}
    for record in records(output).values():
        assert record.status == "complete"
        assert record.run.comparable
        assert record.data.splits["test"].found == 2 * SCENES["test"]
        assert record.metrics.test["t2v/R@1"].n == 2 * SCENES["test"]
        assert record.metrics.validation["t2v/R@1"].n == 2 * SCENES["validation"]
        assert record.curves.train[-1].step == 8
        assert len(record.curves.validation) == 2
        assert record.cost.flops_per_pair > 0
    assert (output / "msrvtt-mini" / "report.md").is_file()
    assert (output / "msrvtt-mini" / "index.html").is_file()


def test_first_and_last_printed_line_name_profile_and_reason(finished):
    _, lines, _ = finished
    for line in (lines[0], lines[-1]):
        assert line.startswith("msrvtt, profile mini (")
        assert "data/msrvtt" in line  # what the paper profile lacks
    assert lines[0].endswith("5 runs, 0 done before")
    assert lines[-1].endswith("5 runs finished, 0 done before")


def test_step_count_and_scale_are_those_of_the_variant(finished):
    found = records(finished[0])
    assert found["no-scaling", 0].temporal_scale is None
    assert np.shape(found["full", 0].temporal_scale) == (1, 4)
    assert found["full", 0].weights.new_by_design
    assert found["no-temporal-attention", 0].weights.new_by_design == ()


@pytest.mark.parametrize(("variant", "is_seen"), [("no-temporal-attention", False), ("full", True)])
def test_order_is_seen_by_temporal_attention_only(small, finished, tmp_path, variant, is_seen):
    """As drawn, without noise of the codec, twins hold the same frames: only their order differs.

    Sums over frames in another order are all that is left without temporal attention.
    """
    (one,) = plan(load_spec(small / "spec.toml"), "mini", [variant], [0], None, None)
    clips = clip_sets(tmp_path, small / "model.safetensors")["test"]
    settings = with_evaluate(one.resolved, precision="fp32", rerank_k=len(clips))
    model = LiteVLForRetrieval.from_pretrained(finished[0] / "runs" / one.id / "model")
    found = evaluate(model, clips, settings, np.random.default_rng(0)).scores.text_to_video
    twins = found[:, [number ^ 1 for number in range(len(clips))]]
    assert (np.abs(found - twins).max() > TOLERANCE[torch.float32]) == is_seen


def test_second_run_trains_nothing_and_reads_no_clip(small, finished, trained, monkeypatch, capsys):
    output, _, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (output / "records").rglob("*full*")}
    monkeypatch.setattr(engine, "prepare", None)
    monkeypatch.setattr(page, "render_report", lambda *_: Path("no report"))
    assert run(small / "spec.toml", output) == 0
    assert trained == []
    assert capsys.readouterr().out.splitlines()[0].endswith("5 runs, 5 done before")
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_run_leaves_a_model_that_loads_again(finished):
    output, _, _ = finished
    run_id = records(output)["full", 0].run.id
    folder = output / "runs" / run_id
    assert not list(folder.glob("*.pt"))
    model = LiteVLForRetrieval.from_pretrained(folder / "model")
    learned = model.visual_encoder.temporal_scales().double().tolist()
    assert np.allclose(learned, records(output)["full", 0].temporal_scale)


# What is done and what is left


@pytest.mark.usefixtures("no_report")
def test_changing_one_variant_runs_that_variant_only(spec, trained, tmp_path):
    spec["variant"] = [v for v in spec["variant"] if v["name"] in ("full", "mean-pooling")]
    spec["claim"] = []
    write_spec(tmp_path / "spec.toml", spec)
    assert run(tmp_path / "spec.toml", tmp_path / "out") == 0
    assert trained == ["full, seed 0", "mean-pooling, seed 0"]
    spec["variant"][1]["set"] = {"model.pooling": "text-spatial"}
    write_spec(tmp_path / "spec.toml", spec)
    assert run(tmp_path / "spec.toml", tmp_path / "out") == 0
    assert trained[2:] == ["mean-pooling, seed 0"]


@pytest.mark.usefixtures("no_report")
def test_same_seed_gives_the_same_metrics_and_arrays_to_the_last_bit(small, finished, tmp_path):
    torch.rand(3)
    assert run(small / "spec.toml", tmp_path / "two", *FULL) == 0
    assert run(small / "spec.toml", tmp_path / "other", *FULL, "--seed", "1") == 0
    one, two = (records(output)["full", 0] for output in (finished[0], tmp_path / "two"))
    assert one.metrics == two.metrics
    assert one.curves == two.curves
    assert one.temporal_scale == two.temporal_scale
    first, second = arrays(finished[0]), arrays(tmp_path / "two")
    other = arrays(tmp_path / "other", seed=1)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["t2v_top_scores"], other["t2v_top_scores"])


@pytest.mark.usefixtures("no_report")
def test_a_run_computes_repeatably_and_leaves_torch_as_it_was(small, tmp_path, monkeypatch):
    # At the sizes of these tests no thread is late; at real ones, sums came in another order.
    seen, train = [], engine.train

    def noting(*arguments):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return train(*arguments)

    monkeypatch.setattr(engine, "train", noting)
    assert run(small / "spec.toml", tmp_path, *FULL) == 0
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("no_report")
def test_rerun_trains_again_from_the_start(small, trained, tmp_path):
    assert run(small / "spec.toml", tmp_path, *FULL) == 0
    (checkpoints,) = (tmp_path / "runs").iterdir()
    (checkpoints / "last.pt").write_bytes(b"stale")
    assert run(small / "spec.toml", tmp_path, *FULL) == 0
    assert trained == ["full, seed 0"]
    assert run(small / "spec.toml", tmp_path, *FULL, "--rerun") == 0
    assert trained == ["full, seed 0"] * 2


# Limits


@pytest.mark.usefixtures("no_report")
def test_subset_and_max_steps_say_that_they_are_not_comparable(small, tmp_path):
    limits = ["--subset", "4", "--max-steps", "1"]
    assert run(small / "spec.toml", tmp_path, *FULL, *limits) == 0
    record = records(tmp_path)["full", 0]
    assert not record.run.comparable
    assert record.run.not_comparable_because == (
        "subset: the first 4 clips of each split",
        "max-steps: training stopped after 1 steps",
    )
    assert record.metrics.test["t2v/R@1"].n == 4
    assert [point.step for point in record.curves.train] == [1]
    assert (record.run.limits.subset, record.run.limits.max_steps) == (4, 1)


@pytest.mark.usefixtures("no_report")
def test_subset_that_parts_twins_has_no_order_accuracy(small, tmp_path):
    assert run(small / "spec.toml", tmp_path, *FULL, "--subset", "3", "--max-steps", "1") == 0
    assert "order_accuracy" not in records(tmp_path)["full", 0].metrics.test
    assert "order_right" not in arrays(tmp_path)


# Failures


@pytest.mark.usefixtures("no_report")
def test_failed_run_leaves_its_record_the_others_finish_and_it_can_run_again(
    small, trained, tmp_path, monkeypatch, capsys, caplog
):
    caplog.set_level(logging.ERROR, "litevl")
    original = retrieval.RetrievalObjective.backward

    def diverge(objective, *rest):
        factor = float("nan") if objective.model.config.pooling == "mean" else 1.0
        return {name: factor * loss for name, loss in original(objective, *rest).items()}

    chosen = ["--variant", "mean-pooling", *FULL]
    with monkeypatch.context() as patch:
        patch.setattr(retrieval.RetrievalObjective, "backward", diverge)
        assert run(small / "spec.toml", tmp_path, *chosen) == 1
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith("1 runs finished, 1 failed, 0 done before")
    )
    found = records(tmp_path)
    assert found["full", 0].status == "complete"
    failed = found["mean-pooling", 0]
    assert failed.status == "failed"
    assert "step 1: the loss is nan" in failed.error
    assert "first: video" in failed.error
    assert "step 1: the loss is nan" in caplog.text
    assert main(["plan", str(small / "spec.toml"), "--output", str(tmp_path), *chosen]) == 0
    assert "1 done, 1 failed, 0 missing" in capsys.readouterr().out
    assert run(small / "spec.toml", tmp_path, *chosen) == 0
    assert records(tmp_path)["mean-pooling", 0].status == "complete"
    assert trained == ["mean-pooling, seed 0", "full, seed 0", "mean-pooling, seed 0"]


@pytest.mark.usefixtures("no_report")
def test_weights_that_diverge_in_the_last_update_are_a_failed_run_too(spec, tmp_path):
    spec = copy.deepcopy(spec)
    spec["profile"]["mini"]["train"] |= {"learning_rate": 1e30, "temporal_learning_rate": 1e30}
    write_spec(tmp_path / "spec.toml", spec)
    two = [*FULL, "--variant", "mean-pooling", "--max-steps", "1"]
    assert run(tmp_path / "spec.toml", tmp_path / "out", *two) == 1
    found = records(tmp_path / "out")
    assert [record.status for record in found.values()] == ["failed"] * 2
    assert all("hold NaN or infinity: training has diverged" in r.error for r in found.values())


def test_variants_that_start_from_other_weights_have_words_of_their_own(small):
    (one,) = plan(load_spec(small / "spec.toml"), "mini", ["full"], [0], None, None)
    model = one.resolved.model.model_copy(update={"weights": "elsewhere"})
    other = replace(one, resolved=one.resolved.model_copy(update={"model": model}))
    assert engine.data_key(one) == engine.data_key(replace(one, seed=1)) != engine.data_key(other)


def test_run_in_which_everything_fails_still_ends_with_a_report(spec, tmp_path, monkeypatch):
    def fail(*_):
        raise engine.LiteVLError("out of luck")

    monkeypatch.setattr(engine, "train", fail)
    write_spec(tmp_path / "spec.toml", spec)
    assert run(tmp_path / "spec.toml", tmp_path / "out", *FULL) == 1
    assert "out of luck" in (tmp_path / "out" / "msrvtt-mini" / "report.md").read_text()


@pytest.mark.usefixtures("no_report")
def test_ctrl_c_in_training_keeps_finished_runs_and_the_same_command_continues(
    small, finished, tmp_path, monkeypatch, capsys
):
    chosen = [*FULL, "--variant", "mean-pooling"]
    original = retrieval.RetrievalObjective.batches
    drawn: list[int] = []

    def batches(objective, epoch, first):
        drawn.append(epoch)
        if len(drawn) == 4:  # the second variant's second epoch
            raise KeyboardInterrupt
        yield from original(objective, epoch, first)

    output = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(retrieval.RetrievalObjective, "batches", batches)
        assert run(small / "spec.toml", output, *chosen) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert set(records(output)) == {("full", 0)}
    drawn.clear()
    monkeypatch.setattr(retrieval.RetrievalObjective, "batches", batches)
    assert run(small / "spec.toml", output, *chosen) == 0
    assert drawn == [1]
    for variant in ("full", "mean-pooling"):
        whole, resumed = (records(folder)[variant, 0] for folder in (finished[0], output))
        assert whole.metrics == resumed.metrics
        assert whole.curves == resumed.curves


# Settings


@pytest.mark.usefixtures("no_report")
def test_checkpoints_that_a_killed_process_left_of_a_finished_run_go(small, tmp_path):
    assert run(small / "spec.toml", tmp_path, *FULL) == 0
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    (folder / "last.pt").write_bytes(b"left")
    assert run(small / "spec.toml", tmp_path, *FULL) == 0
    assert [path.name for path in folder.iterdir()] == ["model"]


@pytest.mark.usefixtures("no_report")
def test_features_on_the_disk_score_as_those_in_memory_and_are_found_again(
    spec, finished, tmp_path, monkeypatch
):
    spec = copy.deepcopy(spec)
    spec["profile"]["mini"]["evaluate"]["features"] = "disk"
    write_spec(tmp_path / "spec.toml", spec)
    output = tmp_path / "out"
    with monkeypatch.context() as broken:
        broken.setattr(measure_retrieval, "film_strips", lambda *_: interrupted())
        assert run(tmp_path / "spec.toml", output, *FULL) == 130
    (folder,) = (path for path in (output / "runs").iterdir() if path.is_dir())
    # In order and shuffled, of the validation and the test split.
    assert len(list(folder.glob("features-*.f16"))) == 4
    monkeypatch.setattr(gallery, "_create", lambda _: pytest.fail("encoded again"))
    assert run(tmp_path / "spec.toml", output, *FULL) == 0
    assert [path.name for path in folder.iterdir()] == ["model"]
    plain, found = (records(folder)["full", 0] for folder in (finished[0], output))
    assert found.run.id != plain.run.id
    for name in ("t2v-itc/R@1", "v2t-itc/R@5"):
        assert found.metrics.test[name].value == plain.metrics.test[name].value


def interrupted():
    """What Ctrl-C does."""
    raise KeyboardInterrupt


@pytest.mark.usefixtures("no_report")
def test_compiling_makes_no_other_run(spec, finished, tmp_path, monkeypatch):
    """tests/engine/test_precision.py sees what really compiled encoders compute."""
    compiled = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__)
    )
    spec["profile"]["mini"]["train"]["compile"] = True
    write_spec(tmp_path / "spec.toml", spec)
    assert run(tmp_path / "spec.toml", tmp_path / "out", *FULL) == 0
    assert compiled == ["VideoEncoder", "TextEncoder"]
    plain, found = (records(output)["full", 0] for output in (finished[0], tmp_path / "out"))
    assert found.run.id == plain.run.id
    assert found.curves == plain.curves


@pytest.mark.usefixtures("no_report")
def test_plan_written_for_the_report_holds_the_command_and_the_claims(small, tmp_path):
    options = [*FULL, "--seed", "3", "--max-steps", "1", "--subset", "2"]
    assert run(small / "spec.toml", tmp_path, *options) == 0
    content = json.loads((tmp_path / "records" / "msrvtt" / "mini.plan.json").read_text())
    assert content["command"].startswith("litevl run ")
    assert content["command"].endswith("--variant full --seed 3")
    assert [claim["name"] for claim in content["claims"]] == [
        "temporal-attention-helps", "dynamic-scaling-helps", "text-dependent-pooling-helps",
    ]  # fmt: skip


def test_execute_plan_is_what_the_command_line_calls(small, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "render_report", lambda *_: Path("no report"))
    code = execute_plan(
        small / "spec.toml", "mini", ["full"], [0], 2, 1, tmp_path, rerun=False, allow_missing=False
    )
    assert code == 0
    assert records(tmp_path)["full", 0].run.profile_reason == "asked for"


def test_weights_trained_with_another_vocabulary_are_refused():
    settings = SimpleNamespace(model=SimpleNamespace(weights="model.pth"))
    engine.expect_vocabulary(settings, 30524, 30524)
    with pytest.raises(WeightsError, match=r"model.pth: word embeddings for 30524 .* has 30522"):
        engine.expect_vocabulary(settings, 30524, 30522)
