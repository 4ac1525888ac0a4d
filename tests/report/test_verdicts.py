"""Verdicts on hand-made runs whose answer is known beforehand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records import (
    CLAIM,
    TARGET,
    change_arrays,
    change_record,
    make_plan,
    run_id,
    write_study,
)

from litevl.record import write_plan
from litevl.report.runs import Study, load_study
from litevl.report.verdicts import compare, judge_claim, judge_claims, judge_targets
from litevl.spec import Claim, Target

FULL, OTHER = "full", "no-temporal-attention"


def study_of(folder: Path, profile: str = "mini") -> Study:
    return load_study(folder.parent, "msrvtt", profile)


def ranks_with(num_right: int, num_queries: int = 100) -> np.ndarray:
    """Rank 1 for the first queries, rank 2 for the rest."""
    column = np.where(np.arange(num_queries) < num_right, 1, 2)
    return np.stack([column, column], axis=1)


def two_variants(
    tmp_path: Path, better: int, worse: int, seeds: tuple[int, ...] = (0,), **arrays: Any
) -> Path:
    """100 queries from 100 sources; so many of them right for either variant, in every seed."""
    folder = write_study(tmp_path, [FULL, OTHER], seeds, num_queries=100)
    arrays = {"clusters": np.arange(100)} | arrays
    for seed in seeds:
        change_arrays(folder, run_id(FULL, seed), t2v_ranks=ranks_with(better), **arrays)
        change_arrays(folder, run_id(OTHER, seed), t2v_ranks=ranks_with(worse), **arrays)
    return folder


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [(60, 40, "supported"), (40, 60, "contradicted"), (51, 50, "inconclusive")],
)
def test_claim_follows_where_the_paired_interval_lies(
    tmp_path: Path, better: int, worse: int, verdict: str
) -> None:
    (result,) = judge_claims(study_of(two_variants(tmp_path, better, worse)))
    assert result.verdict == verdict
    assert result.comparison.difference is not None
    assert result.comparison.difference["value"] == pytest.approx(better - worse)


def test_claim_that_one_seed_contradicts_is_inconclusive_whatever_the_interval(
    tmp_path: Path,
) -> None:
    folder = two_variants(tmp_path, 60, 20, seeds=(0, 1))
    clusters = np.arange(100)
    change_arrays(folder, run_id(FULL, 1), t2v_ranks=ranks_with(15), clusters=clusters)
    (result,) = judge_claims(study_of(folder))
    assert result.comparison.per_seed == (40.0, -5.0)
    assert result.comparison.difference is not None
    assert result.comparison.difference["low"] > 0
    assert result.verdict == "inconclusive"
    assert result.why == "the interval lies above zero, but seed 1 does not"


@pytest.mark.parametrize(("seeds", "is_told"), [((0,), True), ((0, 1), False)])
def test_verdict_of_one_seed_says_so(tmp_path: Path, seeds: tuple[int, ...], is_told: bool) -> None:
    (result,) = judge_claims(study_of(two_variants(tmp_path, 60, 40, seeds)))
    assert result.verdict == "supported"
    assert ("one seed: another training run may differ by more" in result.why) == is_told


def test_pairing_finds_a_difference_that_unpaired_intervals_hide(tmp_path: Path) -> None:
    (result,) = judge_claims(study_of(two_variants(tmp_path, 56, 50)))
    assert result.verdict == "supported"  # six queries gained, none lost


def test_claim_is_tested_over_shared_seeds_only_and_says_which_lack(tmp_path: Path) -> None:
    folder = two_variants(tmp_path, 60, 40, seeds=(0, 1, 2))
    (folder / f"{run_id(OTHER, 1)}.json").unlink()
    (result,) = judge_claims(study_of(folder))
    assert result.comparison.seeds == (0, 2)
    assert result.comparison.per_seed == (20.0, 20.0)
    assert result.why.endswith("without seed 1")


def test_mean_over_seeds_is_tested_and_not_each_seed(tmp_path: Path) -> None:
    folder = two_variants(tmp_path, 60, 40, seeds=(0, 1))
    change_arrays(folder, run_id(FULL, 1), t2v_ranks=ranks_with(20), clusters=np.arange(100))
    comparison = compare(study_of(folder), FULL, OTHER, "t2v/R@1")
    assert comparison.per_seed == (20.0, -20.0)
    assert comparison.difference is not None
    assert comparison.difference["value"] == 0.0


def test_swapping_the_variants_mirrors_the_difference(tmp_path: Path) -> None:
    study = study_of(two_variants(tmp_path, 60, 40))
    there, back = (
        compare(study, *pair, "t2v/R@1").difference for pair in ((FULL, OTHER), (OTHER, FULL))
    )
    assert there is not None
    assert back is not None
    assert (there["low"], there["high"]) == pytest.approx((-back["high"], -back["low"]))


def test_claim_over_other_queries_is_incomparable(tmp_path: Path) -> None:
    folder = two_variants(tmp_path, 60, 40)
    other = np.array([f"clip{i}#1" for i in range(100)])
    change_arrays(folder, run_id(OTHER, 0), query_ids=other)
    (result,) = judge_claims(study_of(folder))
    assert result.verdict == "incomparable"
    assert result.comparison.difference is None


def test_claim_on_a_metric_nobody_recorded_is_incomparable(tmp_path: Path) -> None:
    study = study_of(two_variants(tmp_path, 60, 40))
    for run in study.runs:
        assert run.arrays is not None
        del run.arrays["order_right"]
    result = judge_claim(study, Claim(**CLAIM | {"metric": "order_accuracy"}))
    assert (result.verdict, result.why) == (
        "incomparable",
        "the runs did not record order_accuracy",
    )


def test_claim_with_a_variant_missing_or_withheld_is_not_run(tmp_path: Path) -> None:
    folder = two_variants(tmp_path, 60, 40)
    change_record(
        folder, run_id(OTHER, 0), lambda r: r["run"].update(limits={"subset": 5, "max_steps": None})
    )
    (result,) = judge_claims(study_of(folder))
    assert (result.verdict, result.why) == ("not run", f"no usable run of {OTHER}")


def test_claim_with_no_seed_in_common_is_not_run(tmp_path: Path) -> None:
    folder = two_variants(tmp_path, 60, 40, seeds=(0, 1))
    (folder / f"{run_id(FULL, 0)}.json").unlink()
    (folder / f"{run_id(OTHER, 1)}.json").unlink()
    (result,) = judge_claims(study_of(folder))
    assert (result.verdict, result.why) == ("not run", "no seed in common")


def test_too_few_sources_are_inconclusive_however_clear(tmp_path: Path) -> None:
    folder = two_variants(tmp_path, 100, 0, clusters=np.arange(100) % 19)
    (result,) = judge_claims(study_of(folder))
    assert result.verdict == "inconclusive"
    assert result.why == "only 19 independent sources, 20 needed"


def paper_study(tmp_path: Path, num_right: int, **target: Any) -> Study:
    folder = write_study(tmp_path, [FULL], profile="paper", num_queries=100)
    name = run_id(FULL, 0, "paper")
    change_arrays(folder, name, t2v_ranks=ranks_with(num_right))
    write_plan(folder, "paper", make_plan([name], targets=[TARGET | target]))
    return study_of(folder, "paper")


@pytest.mark.parametrize(
    ("value", "tolerance", "verdict"),
    [
        (50.7, 0.7, "reproduced"),  # 50.7 - 50 is above 0.7 in binary
        (50.0, 0.0, "reproduced"),
        (51.0, 0.9, "lower"),
        (49.0, 0.9, "higher"),
    ],
)
def test_target_compares_the_mean_with_the_tolerance(
    tmp_path: Path, value: float, tolerance: float, verdict: str
) -> None:
    (result,) = judge_targets(paper_study(tmp_path, 50, value=value, tolerance=tolerance))
    assert result.verdict == verdict
    assert result.ours is not None
    assert result.ours["value"] == 50.0


def test_target_over_missing_clips_is_incomparable_whatever_the_record_claims(
    tmp_path: Path,
) -> None:
    paper_study(tmp_path, 50)
    folder = tmp_path / "msrvtt"
    change_record(
        folder,
        run_id(FULL, 0, "paper"),
        lambda record: record["data"]["splits"]["test"].update(found=93),
    )
    (result,) = judge_targets(study_of(folder, "paper"))
    assert (result.verdict, result.ours) == ("incomparable", None)
    assert result.why == "test: 93 of 100 clips found, 0 broken"


def test_target_of_a_withheld_run_is_incomparable(tmp_path: Path) -> None:
    paper_study(tmp_path, 50)
    folder = tmp_path / "msrvtt"
    change_record(
        folder,
        run_id(FULL, 0, "paper"),
        lambda r: r["run"].update(comparable=False, not_comparable_because=["another split"]),
    )
    (result,) = judge_targets(study_of(folder, "paper"))
    assert (result.verdict, result.why) == ("incomparable", "another split")


def test_target_without_a_run_is_not_run(tmp_path: Path) -> None:
    paper_study(tmp_path, 50)
    (tmp_path / "msrvtt" / f"{run_id(FULL, 0, 'paper')}.json").unlink()
    (result,) = judge_targets(study_of(tmp_path / "msrvtt", "paper"))
    assert result.verdict == "not run"


def test_mini_profile_has_no_targets(tmp_path: Path) -> None:
    study = study_of(write_study(tmp_path, [FULL]))
    assert study.plan is not None
    assert study.plan.targets == (Target(**TARGET),)
    assert judge_targets(study) == ()
