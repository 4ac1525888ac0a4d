"""The check, its proof and its renewal, with studies that answer at once; and what is shipped."""

import json
from contextlib import nullcontext
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch

from benchmarks import apart, check, golden, measure, prove, regression, renew
from benchmarks.apart import Job
from benchmarks.faults import BOTH, FAULTS, RETRIEVAL, Fault
from benchmarks.golden import Entry, Golden, Header
from benchmarks.measure import Measured
from litevl.data.mini import plan_world
from litevl.engine.train import LOG_EVERY_STEPS
from litevl.errors import RunError
from litevl.spec import task_of

SHIPPED = measure.load_check()
STUDIES = {study.name: study for study in SHIPPED.study}
VALUES = {"train/loss@10": 1.5, "test/t2v/R@1": 50.0, "test/found": 64.0}
COMMIT = "c" * 40


def golden_of(values=VALUES, studies=STUDIES):
    """Golden values that every study meets, with a tolerance of 0.1, measured on this machine."""
    metrics = {
        f"{study}/{name}": Entry(
            value=value,
            tolerance=0.1,
            arithmetic_spread=0.01,
            seed_spread=0.02,
            reason="because",
            commit=COMMIT,
        )
        for study in studies
        for name, value in values.items()
    }
    header = Header(
        date="2026-01-01",
        commit=COMMIT,
        packages=check.package_versions(),
        machine=check.machine(),
        spreads="counted",
        seconds={"msrvtt": 3.0, "didemo": 2.0, "msvd-qa": 9.0, "msrvtt-qa": 1.0},
    )
    return Golden(header=header, metrics=metrics)


@pytest.fixture
def answers(monkeypatch):
    """Study -> the values it gives at once instead of being trained; may be changed.

    A fault's own values are under its name.
    """
    found = {name: dict(VALUES) for name in STUDIES}

    def measured(jobs):
        for job in jobs:
            values = found[job.study] | found.get(job.fault, {})
            seconds = {"train": 1.0, "evaluate": 2.0} if values else {}
            yield Measured(values, {"test/t2v/R@1": 64}, seconds)

    monkeypatch.setattr(check, "side_by_side", measured)
    monkeypatch.setattr(prove, "side_by_side", measured)
    return found


@pytest.fixture
def shelf(monkeypatch, tmp_path):
    """The path that stands in for golden.json, with golden values in it."""
    path = tmp_path / "golden.json"
    golden.write_golden(golden_of(), path)
    monkeypatch.setattr(regression, "GOLDEN_FILE", path)
    monkeypatch.setattr(regression, "read_golden", lambda: golden.read_golden(path))
    monkeypatch.setattr(renew, "write_golden", lambda content: golden.write_golden(content, path))
    return path


# The check.


@pytest.mark.usefixtures("answers", "shelf")
def test_green_check_says_so_in_a_line_for_each_study(capsys):
    assert regression.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(STUDIES)
    assert all("3 values as they should be" in line for line in lines[:-1])
    assert "train 1 s, evaluate 2 s" in lines[0]
    assert lines[-1].startswith("regression check: green")


@pytest.mark.usefixtures("shelf")
def test_red_check_prints_its_table_and_what_it_means(answers, capsys):
    answers["didemo"]["train/loss@10"] = 1.7
    assert regression.main([]) == 1
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if line.startswith("didemo/train/loss@10"))
    assert row.split() == ["didemo/train/loss@10", "1.5", "1.7", "0.1", "2.0", "x", "ccccccccc"]
    assert "No outcome is off" in text
    assert "regression check: RED" in text
    assert "Note:" not in text


@pytest.mark.usefixtures("shelf")
def test_outcome_that_is_off_is_called_a_broken_method(answers, capsys):
    answers["msrvtt"]["test/t2v/R@1"] = 0.0
    assert regression.main(["msrvtt"]) == 1
    assert "Outcomes are off" in capsys.readouterr().out


@pytest.mark.usefixtures("shelf")
def test_study_that_stops_with_an_error_is_red(answers, capsys):
    answers["msrvtt"] = {}
    assert regression.main(["msrvtt"]) == 1
    text = capsys.readouterr().out
    assert text.count("missing") == len(VALUES)
    assert "stopped" in text


@pytest.mark.usefixtures("answers")
def test_other_packages_and_machines_are_noted_where_the_check_is_red(capsys):
    known = golden_of()
    there = {
        "packages": known.header.packages | {"torch": "1.0", "nonsense": "2"},
        "machine": known.header.machine | {"processor": "abacus"},
    }
    header = known.header.model_copy(update=there)
    gone = {"msrvtt/train/gone": known.metrics["msrvtt/test/found"]}
    other = Golden(header=header, metrics=known.metrics | gone)
    assert check.check_studies(SHIPPED, [STUDIES["msrvtt"]], other)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Note:")]
    assert len(notes) == 3
    assert any("nonsense 2" in note and "(none)" in note for note in notes)
    assert any("processor abacus" in note for note in notes)


@pytest.mark.usefixtures("answers", "shelf")
def test_only_the_studies_named_are_run(capsys):
    assert regression.main(["didemo"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "didemo",
        "regression",
    ]


def test_unknown_study_is_a_mistake_that_names_the_known_ones(capsys):
    assert regression.main(["msrvt"]) == 2
    assert "no study msrvt; there are: msvd-qa, msrvtt, didemo" in capsys.readouterr().err


def test_check_without_golden_values_says_where_they_come_from(shelf, capsys):
    shelf.unlink()
    assert regression.main([]) == 2
    assert "nox -s golden" in capsys.readouterr().err


# The proof.


def fault(name, tasks):
    """A fault that is only known by its name; `answers` has what it changes."""
    return Fault(name, "something breaks", tasks, nullcontext)


def test_proof_runs_the_cheapest_study_that_can_show_the_fault(answers, capsys):
    answers["in-both"] = {"train/loss@10": 9.0}
    answers["in-retrieval"] = {"test/t2v/R@1": 0.0}
    faults = [fault("in-both", BOTH), fault("in-retrieval", RETRIEVAL)]
    assert prove.prove(SHIPPED, SHIPPED.study, golden_of(), faults) == 0
    text = capsys.readouterr().out
    rows = [line.split()[:5] for line in text.splitlines() if line.startswith(("in-both ", "in-r"))]
    assert rows[-2:] == [
        ["in-both", "msrvtt-qa", "1", "0", "msrvtt-qa/train/loss@10"],
        ["in-retrieval", "didemo", "1", "1", "didemo/test/t2v/R@1"],
    ]
    assert text.splitlines()[-1] == "2 of 2 faults noticed; without a fault the check is green"


def test_proof_goes_on_to_other_studies_until_one_is_red(answers, monkeypatch, capsys):
    def measured(jobs):
        for job in jobs:
            shows = job.fault is not None and job.study == "msrvtt"
            yield Measured(VALUES | ({"train/loss@10": 9.0} if shows else {}), {}, {"train": 1.0})

    monkeypatch.setattr(prove, "side_by_side", measured)
    assert prove.prove(SHIPPED, SHIPPED.study, golden_of(), [fault("late", RETRIEVAL)]) == 0
    text = capsys.readouterr().out
    assert text.index("didemo: 0 values off") < text.index("msrvtt: 1 values off")
    assert "msvd-qa: " not in text
    assert answers["msrvtt"] == VALUES


@pytest.mark.usefixtures("answers")
def test_proof_fails_where_a_fault_is_not_noticed_in_any_study(capsys):
    faults = [fault("harmless", RETRIEVAL)]
    assert prove.prove(SHIPPED, SHIPPED.study, golden_of(), faults) == 1
    text = capsys.readouterr().out
    assert "NOT NOTICED" in text
    assert text.count(": 0 values off") == 2
    assert "0 of 1 faults noticed" in text


def test_proof_fails_where_the_check_is_red_without_a_fault(answers):
    answers["noticed"] = {"train/loss@10": 9.0}
    answers["msvd-qa"]["test/found"] = 63.0
    assert prove.prove(SHIPPED, SHIPPED.study, golden_of(), [fault("noticed", BOTH)]) == 1


@pytest.mark.usefixtures("answers", "shelf")
def test_one_fault_can_be_proven_alone(capsys):
    name = FAULTS[0].name
    assert regression.main(["--prove", "--only", name]) == 1  # nothing is trained here: unnoticed
    assert "0 of 1 faults noticed" in capsys.readouterr().out


# The renewal.


@pytest.fixture
def runs(monkeypatch):
    """Every measurement that a renewal asks for, as (study, seed, arithmetic); each moves a bit."""
    asked = []

    def measured(jobs):
        for job in jobs:
            asked.append((job.study, job.seed, job.arithmetic.name))
            rounding = 0.0 if job.arithmetic is apart.AS_IT_IS else 0.01
            values = VALUES | {"train/loss@10": 1.55 + rounding, "test/t2v/R@1": 40.0 + job.seed}
            yield Measured(values, {"test/t2v/R@1": 64}, {"train": 1.0, "evaluate": 0.5})

    monkeypatch.setattr(renew, "side_by_side", measured)
    monkeypatch.setattr(renew, "commit_of_code", lambda: "d" * 40)
    return asked


def test_renewal_measures_every_arithmetic_and_seed(shelf, runs, capsys):
    assert regression.main(["--renew"]) == 0
    spread = SHIPPED.spread
    assert len(runs) == len(STUDIES) * (1 + len(spread.arithmetic) + len(spread.seeds))
    new = golden.read_golden(shelf)
    loss, recall = (new.metrics[f"msrvtt/{name}"] for name in ("train/loss@10", "test/t2v/R@1"))
    assert loss.arithmetic_spread == pytest.approx(0.01)
    assert loss.tolerance == pytest.approx(0.1)
    assert recall.seed_spread == pytest.approx(np.std([0, *spread.seeds], ddof=1))
    assert (loss.commit, recall.commit) == (COMMIT, "d" * 40)  # 1.5 to 1.55 is within 0.1
    assert new.header.commit == "d" * 40
    assert new.header.seconds == dict.fromkeys(STUDIES, 1.5)
    assert "noise 2" in new.header.spreads
    assert capsys.readouterr().out.count(" *") == len(STUDIES)


def test_renewal_of_one_study_leaves_the_others_as_they_are(shelf, runs):
    before = golden.read_golden(shelf)
    assert regression.main(["--renew", "didemo"]) == 0
    after = golden.read_golden(shelf)
    assert {name for name, _, _ in runs} == {"didemo"}
    changed = {m for m in before.metrics if before.metrics[m] != after.metrics[m]}
    assert {m.partition("/")[0] for m in changed} == {"didemo"}


def test_renewal_with_kept_spreads_runs_each_study_once(shelf, runs):
    assert regression.main(["--renew", "--keep-spreads"]) == 0
    assert len(runs) == len(STUDIES)
    recall = golden.read_golden(shelf).metrics["msrvtt/test/t2v/R@1"]
    assert (recall.value, recall.tolerance, recall.commit) == (40.0, 0.1, "d" * 40)


def test_renewal_writes_nothing_where_a_study_fails(shelf, monkeypatch):
    before = shelf.read_bytes()
    nothing = Measured({}, {}, {})
    monkeypatch.setattr(renew, "side_by_side", lambda jobs: iter([nothing] * len(jobs)))
    assert regression.main(["--renew"]) == 1
    assert shelf.read_bytes() == before


# Processes.


@pytest.fixture
def command(monkeypatch):
    """What would be started, as (command, environment); every second process fails."""
    started = []

    def run(command, env, **_options):
        started.append((command, env))
        fails = len(started) % 2 == 0
        if not fails:
            found = {"values": VALUES, "num_queries": {}, "seconds": {"train": 1.0}}
            path = Path(command[command.index("--to") + 1])
            path.write_text(json.dumps(found), encoding="utf-8")
        error = "step 1\rstep 2\nRunError: the loss is nan\n" if fails else ""
        return CompletedProcess(command, int(fails), "", error)

    monkeypatch.setattr(apart.subprocess, "run", run)
    return started


def test_job_is_handed_to_a_process_of_its_own_with_its_arithmetic(command):
    odd = SHIPPED.spread.arithmetic[0].model_copy(
        update={"threads": 2, "noise_seed": 7, "environment": {"MKL_CBWR": "AVX2"}}
    )
    found = apart.measured_apart(Job("msrvtt", 3, odd, "rank-0-is-a-miss"))
    assert found.values == VALUES
    ((arguments, environment),) = command
    line = " ".join(arguments)
    assert "-m benchmarks.measure msrvtt --to" in line
    assert "--seed 3 --threads 2 --noise-seed 7 --fault rank-0-is-a-miss" in line
    assert (environment["MKL_CBWR"], environment["OMP_NUM_THREADS"]) == ("AVX2", "2")


def test_process_that_fails_leaves_no_values_and_its_last_words(command, capsys):
    good, bad = apart.measured_apart(Job("msrvtt", 0)), apart.measured_apart(Job("didemo", 0))
    assert len(command) == 2
    assert (good.values, bad.values) == (VALUES, {})
    assert capsys.readouterr().err == "didemo failed:\nstep 1\nstep 2\nRunError: the loss is nan\n"


def test_jobs_side_by_side_answer_in_their_order(monkeypatch):
    monkeypatch.setattr(
        apart, "measured_apart", lambda job: Measured({job.study: job.seed}, {}, {})
    )
    jobs = [Job(name, seed) for seed in range(3) for name in STUDIES]
    answered = [found.values for found in apart.side_by_side(jobs)]
    assert answered == [{job.study: job.seed} for job in jobs]


def test_process_plants_its_fault_and_writes_what_came_out(monkeypatch, tmp_path):
    import litevl.metrics

    seen, whole = [], litevl.metrics.hits_at

    def measured(study, _check, seed, noise_seed):
        seen.append((study.name, seed, noise_seed, litevl.metrics.hits_at is whole))
        return Measured({"a": 1.0}, {"a": 4}, {"train": 1.0})

    monkeypatch.setattr(measure, "measure", measured)
    monkeypatch.setattr(torch, "set_num_threads", lambda _count: None)
    path = tmp_path / "found.json"
    assert measure.main(["msrvtt", "--to", str(path)]) == 0
    options = ["--seed", "5", "--noise-seed", "6", "--fault", "rank-0-is-a-miss"]
    assert measure.main(["didemo", "--to", str(path), *options]) == 0
    assert seen == [("msrvtt", 0, None, True), ("didemo", 5, 6, False)]
    assert Measured(**json.loads(path.read_text())) == Measured(
        {"a": 1.0}, {"a": 4}, {"train": 1.0}
    )


def test_process_whose_study_fails_says_why(monkeypatch, tmp_path, capsys):
    def stopped(*_arguments):
        raise RunError("step 3: the loss is nan")

    monkeypatch.setattr(measure, "measure", stopped)
    monkeypatch.setattr(torch, "set_num_threads", lambda _count: None)
    assert measure.main(["msrvtt", "--to", str(tmp_path / "found.json")]) == 1
    assert capsys.readouterr().err == "RunError: step 3: the loss is nan\n"
    assert not (tmp_path / "found.json").exists()


@pytest.mark.usefixtures("runs")
def test_spreads_that_were_never_measured_cannot_be_kept(shelf, capsys):
    golden.write_golden(golden_of({"test/found": 64.0}), shelf)
    assert regression.main(["--renew", "--keep-spreads"]) == 2
    assert "/train/loss@10" in capsys.readouterr().err


# What is measured.


def test_values_are_named_after_where_they_come_from():
    study = STUDIES["msrvtt"].model_copy(
        update={"steps": (10,), "outcomes": ("t2v/R@1", "t2v/MnR")}
    )
    point = {"loss": 3.0, "vtc": 1.0, "vtm": 2.0, "learning_rate": 1e-3}
    measured = {
        "curves": {
            "train": [{"step": 10, **point}, {"step": 20, **point}],
            "validation": [{"step": 10, "accuracy": 1.0}, {"step": 20, "accuracy": 60.0}],
        },
        "data": {"splits": {"validation": {"expected": 5, "found": 4, "captions": 8}}},
        "metrics": {
            "test": {"t2v/R@1": {"value": 50.0, "n": 64}, "t2v/MnR": {"value": 2, "n": 64}}
        },
        "temporal_scale": [[0.5, 1.5], [1.0, 1.0]],
    }
    arrays = {"t2v_top_scores": np.array([[3.0, 0.0], [1.0, 0.0]])}
    assert measure.named_values(study, measured, arrays) == {
        "train/loss@10": 3.0,
        "train/vtc@10": 1.0,
        "train/vtm@10": 2.0,
        "train/steps": 20.0,
        "validation/found": 4.0,
        "validation/captions": 8.0,
        "validation/accuracy": 60.0,
        "test/t2v/R@1": 50.0,
        "test/t2v/MnR": 2.0,
        "test/top_score": 2.0,
        "temporal_scale/spread": 0.25,
    }
    assert measure.num_queries(study, measured) == {"test/t2v/R@1": 64, "validation/accuracy": 4}


def test_nudged_weights_differ_by_a_millionth_and_only_inside():
    import litevl.run

    before = litevl.run.load_blip
    layer = torch.nn.Linear(64, 64)
    start = layer.weight.detach().clone()
    with measure.nudged_weights(1e-6, seed=1):
        assert litevl.run.load_blip is not before
    assert litevl.run.load_blip is before
    moved = measure.nudged(layer, 1e-6, seed=1).weight.detach()
    relative = ((moved - start) / start).abs()
    assert 0 < relative.max() < 1e-5
    assert relative.mean() > 1e-7


@pytest.mark.parametrize("study", SHIPPED.study, ids=list(STUDIES))
def test_shipped_study_is_a_spec_in_order_that_counts_its_own_world(study):
    settings = measure.settings_of(study, SHIPPED)
    data = settings.data
    assert settings.train.precision == "fp32"
    assert Path(data.root).parent == measure.ROOT / "data" / "regression"
    clips = plan_world(data.dataset, data.world)
    expected = data.expected.model_dump()
    for split in ("train", "validation", "test"):
        some = [clip for clip in clips if clip.split == split]
        assert len(some) == expected[f"{split}_clips"]
        if task_of(data.dataset) == "question-answering":
            assert sum(len(c.questions) for c in some) == expected[f"{split}_questions"]


@pytest.mark.parametrize("study", SHIPPED.study, ids=list(STUDIES))
def test_shipped_study_compares_losses_that_are_logged(study):
    settings = measure.settings_of(study, SHIPPED)
    unit = "questions" if settings.data.expected.train_questions else "clips"
    items = settings.data.expected.model_dump()[f"train_{unit}"]
    assert all(step % LOG_EVERY_STEPS == 0 for step in study.steps)
    assert max(study.steps) == settings.train.epochs * items // settings.train.batch_size


def test_all_four_reproductions_are_studied():
    files = {measure.ROOT / study.spec for study in SHIPPED.study}
    assert files == set(measure.ROOT.glob("reproductions/*.toml"))
