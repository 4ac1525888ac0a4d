"""What the runs say about the paper: one verdict per claim, one per published number.

A claim is a paired test over the queries and seeds that both variants share. A target compares the
mean over seeds with a tolerance fixed before any run, and only under the paper profile.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from litevl import metrics
from litevl.report.runs import Run, Study, over_seeds, resampling, same_test, sources, summary
from litevl.spec import Claim, Target

ClaimVerdict = Literal["supported", "contradicted", "inconclusive", "incomparable", "not run"]
TargetVerdict = Literal["reproduced", "higher", "lower", "incomparable", "not run", "unknown"]

# Below this, percentile intervals of a bootstrap over clusters are markedly too narrow.
FEWEST_CLUSTERS = 20


@dataclass(frozen=True)
class Comparison:
    """Variant `better` minus variant `worse` on one metric, seed by seed and in all."""

    seeds: tuple[int, ...]
    per_seed: tuple[float, ...]
    difference: metrics.Metric | None
    num_clusters: int
    problem: str | None
    """Why there is no difference."""


@dataclass(frozen=True)
class ClaimResult:
    claim: Claim
    verdict: ClaimVerdict
    comparison: Comparison
    why: str


@dataclass(frozen=True)
class TargetResult:
    target: Target
    verdict: TargetVerdict
    ours: metrics.Metric | None
    seeds: tuple[int, ...]
    why: str


def compare(study: Study, better: str, worse: str, metric: str) -> Comparison:
    """The paired difference of two variants over the seeds with published runs of both."""
    ours = {run.seed: run for run in study.published(better)}
    theirs = {run.seed: run for run in study.published(worse)}
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    if not seeds:
        lacking = [name for name, runs in ((better, ours), (worse, theirs)) if not runs]
        problem = f"no usable run of {' and '.join(lacking)}" if lacking else "no seed in common"
        return Comparison((), (), None, 0, problem)
    left, right = (tuple(side[seed] for seed in seeds) for side in (ours, theirs))
    if not same_test(left + right):
        return Comparison(seeds, (), None, 0, "the runs did not answer the same queries")
    values = over_seeds(metric, left), over_seeds(metric, right)
    if values[0] is None or values[1] is None:
        return Comparison(seeds, (), None, 0, f"the runs did not record {metric}")
    clusters = sources(metric, left[0].arrays or {})
    return Comparison(
        seeds,
        tuple(float(row.mean()) for row in values[0] - values[1]),
        metrics.paired_difference(values[0], values[1], clusters, resampling()),
        len(np.unique(clusters)),
        None,
    )


def judge_claim(study: Study, claim: Claim) -> ClaimResult:
    """Supported if the paired 95 % interval lies above zero, contradicted if below.

    Inconclusive also where a seed's own difference has the other sign: the interval is over
    queries, and other training runs may differ by more.
    """
    found = compare(study, claim.better, claim.worse, claim.metric)
    difference = found.difference
    if difference is None:
        verdict: ClaimVerdict = "incomparable" if found.seeds else "not run"
        return ClaimResult(claim, verdict, found, found.problem or "")
    low, high = difference["low"], difference["high"]
    short = _without(study, (claim.better, claim.worse), found.seeds)
    if low is None or high is None or found.num_clusters < FEWEST_CLUSTERS:
        why = f"only {found.num_clusters} independent sources, {FEWEST_CLUSTERS} needed{short}"
        return ClaimResult(claim, "inconclusive", found, why)
    if low <= 0 <= high:
        return ClaimResult(claim, "inconclusive", found, f"the interval includes zero{short}")
    verdict, where = ("supported", "above") if low > 0 else ("contradicted", "below")
    others = [
        str(seed)
        for seed, value in zip(found.seeds, found.per_seed, strict=True)
        if (value > 0) != (low > 0)
    ]
    if others:
        why = f"the interval lies {where} zero, but seed {', '.join(others)} does not{short}"
        return ClaimResult(claim, "inconclusive", found, why)
    alone = "; one seed: another training run may differ by more" if len(found.seeds) == 1 else ""
    return ClaimResult(claim, verdict, found, f"the interval lies {where} zero{alone}{short}")


def judge_claims(study: Study) -> tuple[ClaimResult, ...]:
    """A verdict for each of the plan's claims."""
    claims = study.plan.claims if study.plan is not None else ()
    return tuple(judge_claim(study, claim) for claim in claims)


def judge_target(study: Study, target: Target) -> TargetResult:
    """Reproduced if the mean over seeds lies within the tolerance of the published value.

    Unknown where no published value could be read; ours then stands alone.
    """
    runs = study.published(target.variant)
    seeds = tuple(run.seed for run in runs)
    if target.value is None or target.tolerance is None:
        ours = summary(target.metric, runs) if runs and not _count_problem(runs) else None
        why = "no published number could be read"
        return TargetResult(target, "unknown", ours, seeds if ours else (), why)
    if not runs:
        ran = [run for run in study.runs if run.variant == target.variant and run.reasons]
        if ran:
            return TargetResult(target, "incomparable", None, (), "; ".join(ran[0].reasons))
        return TargetResult(target, "not run", None, (), f"no usable run of {target.variant}")
    problem = _count_problem(runs)
    ours = summary(target.metric, runs)
    if problem or ours is None:
        why = problem or "the runs differ in their queries, or lack the metric"
        return TargetResult(target, "incomparable", None, seeds, why)
    gap = ours["value"] - target.value
    short = _without(study, (target.variant,), seeds)
    why = f"{abs(gap):.2f} {'above' if gap > 0 else 'below'} the published value{short}"
    if abs(gap) <= target.tolerance + 1e-9:  # 46.7 - 45.5 is not 1.2 in binary
        return TargetResult(target, "reproduced", ours, seeds, why)
    return TargetResult(target, "higher" if gap > 0 else "lower", ours, seeds, why)


def judge_targets(study: Study) -> tuple[TargetResult, ...]:
    """A verdict for each of the plan's targets; none outside the paper profile."""
    if study.plan is None or study.profile != "paper":
        return ()
    return tuple(judge_target(study, target) for target in study.plan.targets)


def _without(study: Study, variants: tuple[str, ...], seeds: tuple[int, ...]) -> str:
    """Which planned seeds a verdict lacks, as the end of its reason."""
    planned = {run.seed for run in study.runs if run.variant in variants}
    lacking = sorted(planned - set(seeds))
    return f"; without seed {', '.join(map(str, lacking))}" if lacking else ""


def _count_problem(runs: tuple[Run, ...]) -> str | None:
    """A split with another number of clips than the spec expects, whatever the record says."""
    for run in runs:
        splits = run.record.data.splits if run.record and run.record.data else {}
        for name, split in splits.items():
            if split.found != split.expected or split.broken:
                return (
                    f"{name}: {split.found} of {split.expected} clips found, {split.broken} broken"
                )
    return None
