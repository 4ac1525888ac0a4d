"""`litevl compare A B`: what a change did, with intervals, or refused where it would mislead."""

import json

import numpy as np
import pytest
from benchmark_records import make_benchmark
from question_records import write_question_study
from records import (
    change_arrays,
    change_record,
    make_arrays,
    make_record,
    run_id,
    write_study,
)

from litevl.benchmark_record import write_benchmark
from litevl.cli import main
from litevl.compare import METRICS, compare_folders
from litevl.errors import DataError
from litevl.metrics import hits_at
from litevl.record import read_arrays, write_record

VARIANTS = ("full", "mean-pooling")


@pytest.fixture
def folders(tmp_path):
    """Two equal outputs of two variants and two seeds: A and B."""
    for name in "AB":
        write_study(tmp_path / name / "records", VARIANTS, seeds=(0, 1))
    return tmp_path / "A", tmp_path / "B"


def worsen(folder, variant="full", seeds=(0, 1), by=5):
    """Push the right clip down by some ranks for every query of a variant."""
    for seed in seeds:
        study = folder / "records" / "msrvtt"
        ranks = read_arrays(study / f"{run_id(variant, seed)}.json")["t2v_ranks"]
        change_arrays(study, run_id(variant, seed), t2v_ranks=np.minimum(ranks + by, len(ranks)))


def of(found, variant, metric):
    return next(d for d in found.differences if (d.variant, d.metric) == (variant, metric))


def test_the_same_records_differ_by_nothing(folders):
    found = compare_folders(*folders)
    assert {d.variant for d in found.differences} == set(VARIANTS)
    assert {d.metric for d in found.differences} == set(METRICS[:7])
    for each in found.differences:
        assert each.seeds == (0, 1)
        assert each.difference == {"value": 0, "low": 0, "high": 0, "n": 60}
    assert not found.is_worse


def test_a_difference_is_b_minus_a_by_query_and_seed(folders):
    worsen(folders[1])
    study = folders[0] / "records" / "msrvtt"
    before = [
        hits_at(1, read_arrays(study / f"{run_id('full', seed)}.json")["t2v_ranks"])
        for seed in (0, 1)
    ]
    found = of(compare_folders(*folders), "full", "t2v/R@1")
    assert found.before == pytest.approx(np.mean(before))
    assert found.after == 0
    assert found.difference["value"] == pytest.approx(-np.mean(before))
    assert found.difference["high"] < 0
    assert found.is_worse
    assert not of(compare_folders(*folders), "mean-pooling", "t2v/R@1").is_worse
    back = of(compare_folders(*reversed(folders)), "full", "t2v/R@1")
    assert back.difference["low"] > 0
    assert not back.is_worse


def test_worse_by_a_few_queries_of_many_is_not_called_worse(folders):
    for seed in (0, 1):
        study = folders[1] / "records" / "msrvtt"
        ranks = read_arrays(study / f"{run_id('full', seed)}.json")["t2v_ranks"].copy()
        first = np.flatnonzero(ranks[:, 1] == 1)[0]
        ranks[first] = 2
        change_arrays(study, run_id("full", seed), t2v_ranks=ranks)
    found = of(compare_folders(*folders), "full", "t2v/R@1")
    assert found.difference["value"] < 0
    assert found.difference["high"] == 0
    assert not found.is_worse


def test_too_few_sources_are_not_believed(tmp_path):
    for name in "AB":
        write_study(tmp_path / name / "records", ("full",), num_queries=30)  # 15 sources
    worsen(tmp_path / "B", seeds=(0,))
    found = of(compare_folders(tmp_path / "A", tmp_path / "B"), "full", "t2v/R@1")
    assert found.difference["high"] < 0
    assert not found.is_worse


def test_question_answering_is_compared_by_its_accuracy(tmp_path):
    for name in "AB":
        write_question_study(tmp_path / name / "records", ("full",))
    found = compare_folders(tmp_path / "A", tmp_path / "B")
    assert "accuracy" in {d.metric for d in found.differences}
    assert not {d.metric for d in found.differences} & {"t2v/R@1", "order_accuracy"}


def test_seeds_and_variants_of_one_side_are_told_and_left_out(folders):
    write_study(folders[1] / "records", (*VARIANTS, "no-scaling"), seeds=(0, 1, 2))
    found = compare_folders(*folders)
    assert of(found, "full", "t2v/R@1").seeds == (0, 1)
    notes = "\n".join(found.notes)
    assert "full: only B has seed 2; left out" in notes
    assert "no-scaling: no finished run in A" in notes
    assert not found.lost
    assert main(["compare", *map(str, folders), "--fail-if-worse"]) == 0


def fail(record):
    record |= {"status": "failed", "error": "the loss is not finite"}


def fail_variant(folder):
    for seed in (0, 1):
        change_record(folder / "records" / "msrvtt", run_id("full", seed), fail)


def fail_seed(folder):
    change_record(folder / "records" / "msrvtt", run_id("full", 1), fail)


def drop_metric(folder):
    study = folder / "records" / "msrvtt"
    path = study / f"{run_id('full', 1)}.npz"
    arrays = read_arrays(path)
    del arrays["order_right"]
    np.savez(path, **arrays)
    change_record(study, path.stem, lambda record: record["metrics"]["test"].pop("order_accuracy"))


def ask_less(folder):
    for seed in (0, 1):
        arrays = make_arrays("full", seed, num_queries=30)
        write_record(folder / "records" / "msrvtt", make_record("full", seed, arrays), arrays)


@pytest.mark.parametrize(
    ("lose", "line"),
    [
        (fail_variant, "msrvtt-mini, full: no finished run in B"),
        (fail_seed, "msrvtt-mini, full: only A has seed 1; left out"),
        (drop_metric, "msrvtt-mini, full: order_accuracy not recorded in B, seed 1"),
        (
            ask_less,
            "msrvtt-mini, full: not the same queries on both sides, or cut short differently",
        ),
    ],
)
def test_what_a_has_and_b_lacks_is_told_and_fails(folders, capsys, lose, line):
    lose(folders[1])
    command = ["compare", *map(str, folders)]
    assert main(command) == 0
    assert f"Lost from A to B:\n\n- {line}\n" in capsys.readouterr().out
    assert main([*command, "--fail-if-worse"]) == 1
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lost"] == [line]


def test_a_study_that_b_lacks_is_told_and_fails(folders, capsys):
    write_question_study(folders[0] / "records", ("full",))
    assert main(["compare", *map(str, folders), "--fail-if-worse"]) == 1
    assert "Lost from A to B:\n\n- msvd-qa-mini: only in A\n" in capsys.readouterr().out


def test_other_settings_are_named(folders):
    def change(record):
        record["spec"]["train"]["learning_rate"] = 3e-4

    for seed in (0, 1):
        change_record(folders[1] / "records" / "msrvtt", run_id("full", seed), change)
    notes = compare_folders(*folders).notes
    assert notes == ("msrvtt-mini, full: settings differ: train.learning_rate",)


def test_runs_cut_short_alike_are_compared_and_others_not(folders):
    def cut(record):
        record["run"]["limits"]["subset"] = 60
        record["run"] |= {"comparable": False, "not_comparable_because": ["a subset of 60"]}

    for seed in (0, 1):
        change_record(folders[1] / "records" / "msrvtt", run_id("full", seed), cut)
    found = compare_folders(*folders)
    assert "full" not in {d.variant for d in found.differences}
    assert any("cut short differently" in each for each in found.lost)
    for seed in (0, 1):
        change_record(folders[0] / "records" / "msrvtt", run_id("full", seed), cut)
    assert "full" in {d.variant for d in compare_folders(*folders).differences}


def test_other_queries_are_not_compared(folders):
    for seed in (0, 1):
        change_arrays(
            folders[1] / "records" / "msrvtt",
            run_id("full", seed),
            query_ids=np.array([f"other{i}" for i in range(60)]),
        )
    found = compare_folders(*folders)
    assert "full" not in {d.variant for d in found.differences}
    assert any("not the same queries" in each for each in found.lost)


def test_a_folder_without_records_is_a_users_mistake(folders, tmp_path):
    with pytest.raises(DataError, match=r"no records in .*nowhere\n  Give the --output folder"):
        compare_folders(folders[0], tmp_path / "nowhere")


def test_every_damaged_record_is_named_before_anything_is_compared(folders):
    for variant in VARIANTS:
        (folders[1] / "records" / "msrvtt" / f"{run_id(variant, 0)}.json").write_text("{")
    with pytest.raises(DataError, match="2 problem") as refusal:
        compare_folders(*folders)
    assert all(run_id(variant, 0) in str(refusal.value) for variant in VARIANTS)


def test_folders_with_nothing_in_common_say_what_each_has(folders, tmp_path):
    write_study(tmp_path / "C" / "records", ("no-scaling",))
    with pytest.raises(DataError, match="nothing that can be compared") as refusal:
        compare_folders(folders[0], tmp_path / "C")
    assert "no-scaling: no finished run in A" in str(refusal.value)


# Benchmarks


def benchmarks(tmp_path, **changes):
    write_benchmark(tmp_path / "A" / "benchmarks", make_benchmark(ours=2.0))
    write_benchmark(tmp_path / "B" / "benchmarks", make_benchmark(ours=1.0, **changes))
    return tmp_path / "A", tmp_path / "B"


def test_benchmarks_are_compared_by_ratios_of_medians_with_both_machines_named(tmp_path, capsys):
    found = compare_folders(*benchmarks(tmp_path))
    assert [(s.contender, s.times) for s in found.speeds] == [("ours", 2.0), ("blip", 1.0)]
    assert main(["compare", str(tmp_path / "A"), str(tmp_path / "B")]) == 0
    out = capsys.readouterr().out
    assert "| re-ranking | fp32 | ours | 0.0312 | 0.0156 | 2.00 times as fast |" in out
    assert out.count("Some Processor, 2 cores") == 2


def test_times_of_other_machines_are_refused_unless_asked_for(tmp_path, capsys):
    other = make_benchmark().hardware.model_copy(update={"processor": "Another"}).model_dump()
    a, b = benchmarks(tmp_path, hardware=other)
    assert main(["compare", str(a), str(b)]) == 2
    err = capsys.readouterr().err
    assert "Some Processor, 2 cores" in err
    assert "Another, 2 cores" in err
    assert "--across-machines" in err
    assert main(["compare", str(a), str(b), "--across-machines"]) == 0
    assert "2.00 times as fast" in capsys.readouterr().out


def test_rows_under_other_conditions_are_not_compared(tmp_path):
    row = make_benchmark(ours=1.0).model_dump(mode="json")["rows"][0]
    a, b = benchmarks(tmp_path, rows=[row | {"conditions": {"frames": 16}}])
    with pytest.raises(DataError, match="re-ranking, fp32: not measured alike in A and B"):
        compare_folders(a, b)


# The command


def test_fail_if_worse_returns_1_only_where_something_is(folders, capsys):
    command = ["compare", *map(str, folders)]
    assert main([*command, "--fail-if-worse"]) == 0
    worsen(folders[1])
    assert main(command) == 0
    assert main([*command, "--fail-if-worse"]) == 1
    out = capsys.readouterr().out
    assert "| msrvtt-mini | full | 0, 1 | t2v/R@1 |" in out
    assert "| worse |" in out


def test_json_tells_a_program_the_same(folders, capsys):
    worsen(folders[1])
    assert main(["compare", *map(str, folders), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["is_worse"]
    worse = [d for d in found["differences"] if d["is_worse"]]
    assert {(d["variant"], d["metric"]) for d in worse} >= {("full", "t2v/R@1")}
    assert worse[0]["difference"]["high"] < 0
    assert found["machines"] is None


def test_what_is_quoted_of_a_record_cannot_steer_a_terminal(folders, capsys):
    for folder in folders:
        for seed in (0, 1):
            change_record(
                folder / "records" / "msrvtt",
                run_id("full", seed),
                lambda record, side=folder.name: record["spec"].update({f"a\x1b[2J{side}": 1}),
            )
    assert main(["compare", *map(str, folders)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "litevl compare main/reports reports --fail-if-worse" in capsys.readouterr().out
