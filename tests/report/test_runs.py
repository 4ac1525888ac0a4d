"""Which records a report takes, and which numbers it lets out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from question_records import (
    make_question_arrays,
    make_question_metrics,
    question_run_id,
    write_question_study,
)
from records import (
    change_arrays,
    change_record,
    make_arrays,
    make_metrics,
    make_plan,
    make_record,
    run_id,
    write_study,
)

from litevl import metrics
from litevl.errors import DataError
from litevl.record import write_plan, write_record
from litevl.report.runs import (
    Study,
    find_studies,
    load_study,
    over_seeds,
    per_query,
    same_test,
    sources,
    summary,
)


def load(folder: Path, profile: str = "mini") -> Study:
    return load_study(folder.parent, "msrvtt", profile)


def outcomes(study: Study) -> list[tuple[str, int, str]]:
    return [(run.variant, run.seed, run.outcome) for run in study.runs]


def test_every_spec_and_profile_with_a_plan_or_a_record_is_found(tmp_path: Path) -> None:
    folder = write_study(tmp_path, ["full"])
    write_plan(tmp_path / "didemo", "paper", make_plan(["didemo-paper-full-s0-00000000"]))
    (folder / "mini.plan.json").unlink()
    assert find_studies(tmp_path) == [("didemo", "paper"), ("msrvtt", "mini")]


def test_only_planned_runs_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    folder = write_study(tmp_path, ["full", "no-scaling"])
    arrays = make_arrays("full", 0)
    old = make_record("full", 0, arrays)
    old["run"]["id"] = run_id("full", 0, key="00000000")
    write_record(folder, old, arrays)
    study = load(folder)
    assert [run.id for run in study.runs] == [run_id("full", 0), run_id("no-scaling", 0)]
    assert study.num_outdated == 1


def test_finished_seeds_that_the_last_command_did_not_ask_for_are_told_from_other_settings(
    tmp_path: Path,
) -> None:
    folder = write_study(tmp_path, ["full", "no-scaling"], seeds=[0, 1, 2, 3, 4, 5])
    write_plan(folder, "mini", make_plan([run_id("full", 0)]))
    changes: dict[int, Callable[[dict[str, Any]], None]] = {
        2: lambda r: r["spec"]["train"].update(seeds=[0, 1], hard_negatives=None),
        3: lambda r: r["spec"]["train"].update(epochs=2),
        4: lambda r: r["run"]["limits"].update(subset=20),
        5: lambda r: r["weights"].update(sha256="0" * 64),
    }
    for seed, change in changes.items():
        change_record(folder, run_id("full", seed), change)
    study = load(folder)
    assert [run.id for run in study.runs] == [run_id("full", 0)]
    assert [run.id for run in study.unasked] == [run_id("full", 1), run_id("full", 2)]
    assert study.num_outdated == 3 + 6
    (folder / "mini.plan.json").unlink()
    assert load(folder).unasked == ()


def test_without_a_plan_the_latest_record_of_a_variant_and_seed_is_shown(tmp_path: Path) -> None:
    folder = write_study(tmp_path, ["full"])
    arrays = make_arrays("full", 0)
    newer = make_record("full", 0, arrays)
    newer["run"] |= {"id": run_id("full", 0, key="00000000"), "started": "2026-02-01T00:00:00"}
    write_record(folder, newer, arrays)
    (folder / "mini.plan.json").unlink()
    study = load(folder)
    assert [run.id for run in study.runs] == [newer["run"]["id"]]
    assert study.num_outdated == 1


def test_planned_runs_without_a_whole_record_stay_visible(tmp_path: Path) -> None:
    variants = ["full", "no-scaling", "mean-pooling", "concat-pooling"]
    folder = write_study(tmp_path, variants)
    (folder / f"{run_id('full', 0)}.json").unlink()
    (folder / f"{run_id('no-scaling', 0)}.npz").unlink()
    (folder / f"{run_id('mean-pooling', 0)}.json").write_text('{"schema": 1')
    change_record(
        folder,
        run_id("concat-pooling", 0),
        lambda r: r.update(status="failed", error="loss is NaN", metrics={}),
    )
    study = load(folder)
    assert outcomes(study) == [
        ("full", 0, "not run"),
        ("no-scaling", 0, "damaged"),
        ("mean-pooling", 0, "damaged"),
        ("concat-pooling", 0, "failed"),
    ]
    assert study.shown == ()
    assert "mean-pooling-s0-0123abcd.json: damaged" in str(study.runs[2].damage)


def test_record_under_another_runs_name_is_damaged(tmp_path: Path) -> None:
    folder = write_study(tmp_path, ["full", "no-scaling"])
    for end in (".json", ".npz"):
        shutil.copy(
            folder / f"{run_id('full', 0)}{end}", folder / f"{run_id('no-scaling', 0)}{end}"
        )
    assert "holds the record of another run" in str(load(folder).runs[1].damage)


def test_number_that_does_not_follow_from_the_queries_is_damaged(tmp_path: Path) -> None:
    folder = write_study(tmp_path, ["full"])

    def polish(record: dict[str, Any]) -> None:
        record["metrics"]["test"]["t2v/R@1"] |= {"value": 99.0, "high": 99.5}

    change_record(folder, run_id("full", 0), polish)
    assert "t2v/R@1 is 99.0 over 60 queries, but the values beside it give" in str(
        load(folder).runs[0].damage
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"limits": {"subset": 20, "max_steps": None}}, "only a subset of 20 was used"),
        ({"limits": {"subset": None, "max_steps": 5}}, "training was cut off after 5 steps"),
        ({"comparable": False, "not_comparable_because": ["3 clips missing"]}, "3 clips missing"),
    ],
)
def test_short_or_incomparable_run_is_withheld_with_its_reason(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    folder = write_study(tmp_path, ["full"])
    change_record(folder, run_id("full", 0), lambda record: record["run"].update(change))
    study = load(folder)
    assert study.runs[0].reasons == (reason,)
    assert study.published("full") == ()


def test_run_without_a_commit_is_withheld(tmp_path: Path) -> None:
    folder = write_study(tmp_path, ["full"])
    change_record(folder, run_id("full", 0), lambda record: record["code"].update(commit=None))
    assert load(folder).runs[0].reasons == ("the record does not say which code made it",)


def test_file_with_a_foreign_name_is_reported(tmp_path: Path) -> None:
    folder = write_study(tmp_path, ["full"])
    (folder / "notes.json").write_text("{}")
    with pytest.raises(DataError, match=r"(?s)notes\.json.*<spec>-<profile>-<variant>"):
        load(folder)


def test_plan_with_variants_that_never_ran_still_makes_a_study(tmp_path: Path) -> None:
    folder = tmp_path / "msrvtt"
    write_plan(folder, "paper", make_plan([run_id("no-temporal-attention", 2, "paper")]))
    study = load(folder, "paper")
    assert outcomes(study) == [("no-temporal-attention", 2, "not run")]
    assert (study.profile, study.reference) == ("paper", "full")


def test_mean_of_the_query_values_is_the_metric() -> None:
    arrays = make_arrays("full", 0)
    found = make_metrics(arrays)
    for name, stated in found.items():
        values = per_query(name, arrays)
        assert values is not None
        middle = np.median if name.endswith("MdR") else np.mean
        assert middle(values) == pytest.approx(stated["value"])
    bare = {name: arrays[name] for name in arrays if "itc" not in name and "order" not in name}
    assert per_query("t2v-itc/R@1", bare) is None
    assert per_query("order_accuracy", bare) is None
    assert per_query("loss", bare) is None


def test_mean_of_the_question_values_is_the_metric() -> None:
    arrays = make_question_arrays("full", 0)
    found = make_question_metrics(arrays)
    assert len(found) == 3 * 7 + 2
    for name, stated in found.items():
        values = per_query(name, arrays)
        assert values is not None
        assert values.mean() == pytest.approx(stated["value"])
        assert len(values) == len(sources(name, arrays)) == stated["n"]
    bare = {name: arrays[name] for name in arrays if name not in ("needs_order", "shuffled_right")}
    for name in ("accuracy/order", "shuffle_sensitivity", "t2v/R@1", "accuracy/why", "order"):
        assert per_query(name, bare) is None


def test_values_of_a_group_go_with_the_clusters_of_its_questions() -> None:
    arrays = make_question_arrays("full", 0, num_questions=4) | {
        "kinds": np.array(["who", "when", "who", "when"]),
        "clusters": np.array([7, 8, 9, 9]),
        "needs_order": np.array([False, True, False, False]),
        "right": np.array([1.0, 0.0, 0.0, 1.0]),
    }
    wanted: dict[str, tuple[list[float], list[int]]] = {
        "accuracy": ([100, 0, 0, 100], [7, 8, 9, 9]),
        "accuracy/who": ([100, 0], [7, 9]),
        "accuracy/when": ([0, 100], [8, 9]),
        "accuracy/order": ([0], [8]),
    }
    for name, (values, clusters) in wanted.items():
        found = per_query(name, arrays)
        assert found is not None
        assert (found.tolist(), sources(name, arrays).tolist()) == (values, clusters)


def test_accuracy_over_seeds_is_a_percentage_with_its_exact_end(tmp_path: Path) -> None:
    folder = write_question_study(tmp_path, ["full"], seeds=[0, 1])
    runs = load_study(tmp_path, "msvd-qa", "mini").published("full")
    together = summary("accuracy/when", runs)
    values = over_seeds("accuracy/when", runs)
    assert values is not None
    assert together is not None
    assert values.shape == (2, 20)
    assert together["value"] == pytest.approx(values.mean())
    for seed in (0, 1):
        path = folder / f"{question_run_id('full', seed)}.npz"
        arrays = dict(np.load(path)) | {"in_list": np.ones(100), "right": np.ones(100)}
        arrays |= {"answers": np.array(["red"] * 100), "top": np.zeros((100, 4), int)}
        np.savez(path, **arrays | {"shuffled_right": np.ones(100)})
        change_record(folder, path.stem, lambda record: record["metrics"]["test"].clear())
        change_record(
            folder,
            path.stem,
            lambda record: record["metrics"]["test"].update(
                accuracy={"value": 100.0, "low": None, "high": None, "n": 100}
            ),
        )
    perfect = summary("accuracy", load_study(tmp_path, "msvd-qa", "mini").published("full"))
    assert perfect is not None
    assert (perfect["value"], perfect["high"]) == (100.0, 100.0)
    assert perfect["low"] == pytest.approx(100 * 0.025 ** (1 / 25))


@pytest.mark.parametrize(
    "name", ["accuracy", "accuracy/when", "majority/order", "answerable", "shuffle_sensitivity"]
)
def test_question_metric_that_does_not_follow_is_damaged(tmp_path: Path, name: str) -> None:
    folder = write_question_study(tmp_path, ["full"])
    assert load_study(tmp_path, "msvd-qa", "mini").runs[0].damage is None
    change_record(
        folder,
        question_run_id("full", 0),
        lambda record: record["metrics"]["test"][name].update(value=99.0, high=99.5),
    )
    (run,) = load_study(tmp_path, "msvd-qa", "mini").runs
    assert f"{name} is 99.0 over" in str(run.damage)


@pytest.mark.parametrize(
    "change",
    [
        {"answers": np.array(["red"] * 100)},
        {"answer_list": np.array([f"word{i}" for i in range(10)])},
        {"kinds": np.array(["how"] * 100)},
        {"needs_order": np.zeros(100, bool)},
        {"clusters": np.arange(100)},
    ],
)
def test_runs_asked_or_judged_otherwise_did_not_take_the_same_test(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = write_question_study(tmp_path, ["full"], seeds=[0, 1])
    assert same_test(load_study(tmp_path, "msvd-qa", "mini").published("full"))
    path = folder / f"{question_run_id('full', 1)}.npz"
    arrays = dict(np.load(path)) | change
    first = arrays["answer_list"][arrays["top"][:, 0]]
    arrays["right"] = (first == arrays["answers"]).astype(float)
    arrays["in_list"] = np.isin(arrays["answers"], arrays["answer_list"]).astype(float)
    np.savez(path, **arrays)
    found = make_question_metrics(arrays)
    change_record(folder, path.stem, lambda record: record["metrics"].update(test=found))
    runs = load_study(tmp_path, "msvd-qa", "mini").published("full")
    assert len(runs) == 2
    assert not same_test(runs)
    assert summary("accuracy/when", runs) is None


def test_video_to_text_values_are_clustered_by_clip() -> None:
    arrays = {
        "clusters": np.array([7, 7, 9]),
        "truth": np.array([1, 1, 0]),  # two captions of clip 1
        "gallery_ids": np.array(["a", "b"]),
    }
    assert sources("t2v/R@1", arrays).tolist() == [7, 7, 9]
    assert sources("v2t/R@1", arrays).tolist() == [9, 7]


def test_one_seed_keeps_its_own_interval_and_several_share_the_resamples(tmp_path: Path) -> None:
    study = load(write_study(tmp_path, ["full"], seeds=[0, 1, 2]))
    runs = study.published("full")
    alone = summary("t2v/R@1", runs[:1])
    assert runs[0].record is not None
    assert alone == runs[0].record.metrics.test["t2v/R@1"].model_dump()
    together = summary("t2v/R@1", runs)
    values = over_seeds("t2v/R@1", runs)
    assert values is not None
    assert together is not None
    assert values.shape == (3, 60)
    assert together["value"] == pytest.approx(values.mean())
    assert together == metrics.interval(
        values, np.arange(60) // 2, np.random.default_rng(20221109), bounds=(0, 100)
    )


@pytest.mark.parametrize(
    "change",
    [
        {"query_ids": np.array([f"other{i}" for i in range(60)])},
        {"gallery_ids": np.array([f"other{i}" for i in range(60)])},
        {"truth": np.arange(60)[::-1]},
    ],
)
def test_seeds_that_answered_other_queries_are_not_averaged(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = write_study(tmp_path, ["full"], seeds=[0, 1])
    change_arrays(folder, run_id("full", 1), **change)
    runs = load(folder).published("full")
    assert len(runs) == 2
    assert not same_test(runs)
    assert summary("t2v/R@1", runs) is None


def other_data(record: dict[str, Any]) -> None:
    record["data"]["fingerprint"] = "0" * 64


def test_other_data_fingerprint_is_another_test(tmp_path: Path) -> None:
    folder = write_study(tmp_path, ["full", "no-scaling"])
    ours = load(folder).runs
    change_record(folder, run_id("no-scaling", 0), other_data)
    assert same_test(ours)
    assert not same_test(load(folder).runs)


@pytest.mark.parametrize(
    ("changed", "withheld"),
    [
        (["mean-pooling"], ["mean-pooling"]),
        (["full", "no-scaling"], ["mean-pooling"]),  # the others are most
        (["full", "mean-pooling"], ["no-scaling"]),
    ],
)
def test_run_that_saw_other_data_than_most_is_withheld(
    tmp_path: Path, changed: list[str], withheld: list[str]
) -> None:
    folder = write_study(tmp_path, ["full", "no-scaling", "mean-pooling"])
    for variant in changed:
        change_record(folder, run_id(variant, 0), other_data)
    runs = load(folder).runs
    assert [run.variant for run in runs if not run.is_published] == withheld
    assert {run.reasons for run in runs if run.variant in withheld} == {
        ("it saw other data than most runs",)
    }


def test_of_as_many_runs_on_either_data_the_references_stay(tmp_path: Path) -> None:
    folder = write_study(tmp_path, ["full", "no-temporal-attention"])
    plan = json.loads((folder / "mini.plan.json").read_text())
    plan["variants"].reverse()
    write_plan(folder, "mini", plan)
    change_record(folder, run_id("full", 0), other_data)
    assert [run.variant for run in load(folder).shown] == ["full"]


def test_records_are_ordered_by_the_plans_variants_and_by_seed(tmp_path: Path) -> None:
    folder = write_study(tmp_path, ["mean-pooling", "full"], seeds=[1, 0])
    plan = json.loads((folder / "mini.plan.json").read_text())
    assert plan["ids"][0] == run_id("mean-pooling", 1)
    assert [(run.variant, run.seed) for run in load(folder).runs] == [
        ("full", 0),
        ("full", 1),
        ("mean-pooling", 0),
        ("mean-pooling", 1),
    ]
