"""What a report is made from: the runs a plan asked for, and what their records say.

A run's numbers are published only if its record is whole, comparable with the others, and says
which code made it. Everything else stays visible, with the reason, away from the main tables.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from litevl import metrics, question_metrics
from litevl.errors import DataError
from litevl.plan import MAY_CHANGE
from litevl.record import PlanFile, Record, read_arrays, read_plan, read_record
from litevl.schema import Arrays, VariantTitle
from litevl.spec import Profile
from litevl.spec_problems import flat

Outcome = Literal["complete", "failed", "interrupted", "damaged", "not run"]

RESAMPLING_SEED = 20221109

# What makes two tests the same. The second line is retrieval's, the third question answering's.
TEST_ARRAYS = (
    *("query_ids", "clusters"),
    *("gallery_ids", "truth"),
    *("answer_list", "answers", "kinds", "needs_order"),
)

RUN_ID = re.compile(
    r"(?P<spec>.+)-(?P<profile>mini|paper|own)-(?P<variant>.+)-s(?P<seed>\d+)-[^-]+"
)

NOT_MINI: dict[str, Profile] = {"paper": "paper", "own": "own"}


@dataclass(frozen=True)
class Run:
    """One planned run: its record, if there is one, or what is wrong with it."""

    id: str
    variant: str
    seed: int
    path: Path
    record: Record | None = None
    arrays: Arrays | None = None
    damage: str | None = None
    saw_other_data: bool = False
    """Than most runs of its study."""

    @property
    def outcome(self) -> Outcome:
        if self.damage is not None:
            return "damaged"
        return "not run" if self.record is None else self.record.status

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why a complete run's numbers may not stand beside the others'; empty if they may."""
        if self.record is None or self.outcome != "complete":
            return ()
        run, reasons = self.record.run, list(self.record.run.not_comparable_because)
        if run.limits.subset is not None and not any("subset" in reason for reason in reasons):
            reasons.append(f"only a subset of {run.limits.subset} was used")
        if run.limits.max_steps is not None and not any("step" in reason for reason in reasons):
            reasons.append(f"training was cut off after {run.limits.max_steps} steps")
        if self.record.code.commit is None:
            reasons.append("the record does not say which code made it")
        if self.saw_other_data:
            reasons.append("it saw other data than most runs")
        return tuple(reasons)

    @property
    def is_published(self) -> bool:
        return self.outcome == "complete" and not self.reasons


@dataclass(frozen=True)
class Study:
    """All runs of one spec under one profile, in the order of its variants and seeds."""

    spec: str
    profile: Profile
    title: str
    profile_reason: str
    variants: tuple[VariantTitle, ...]
    runs: tuple[Run, ...]
    plan: PlanFile | None
    num_outdated: int
    """Records of other settings or earlier versions of the spec, left out."""
    unasked: tuple[Run, ...] = ()
    """Finished runs that differ from a planned one in their seed only, left out as well."""

    def published(self, variant: str) -> tuple[Run, ...]:
        """The runs of a variant whose numbers may be shown, by seed."""
        return tuple(run for run in self.runs if run.variant == variant and run.is_published)

    @property
    def shown(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.is_published)

    @property
    def reference(self) -> str:
        """The variant that the others are compared with: `full`, or else the first."""
        names = [variant.name for variant in self.variants]
        return "full" if "full" in names else names[0]


def find_studies(records_dir: Path) -> list[tuple[str, str]]:
    """Every (spec, profile) with a plan or a record under the folder, sorted."""
    found = set()
    for path in sorted(records_dir.glob("*/*.json")):
        if path.name.endswith(".plan.json"):
            profile = path.name.removesuffix(".plan.json")
        else:
            profile = _parts(path.stem, path)[1]
        found.add((path.parent.name, profile))
    return sorted(found)


def load_study(records_dir: Path, spec: str, profile: str) -> Study:
    """Read a study's plan and records. A damaged record becomes a damaged run, not an error.

    With a plan file, exactly its runs are shown, also those that have no record. Without one, the
    latest record of each variant and seed is.
    """
    folder = records_dir / spec
    plan_path = folder / f"{profile}.plan.json"
    plan = read_plan(plan_path) if plan_path.exists() else None
    own = [
        path
        for path in sorted(folder.glob("*.json"))
        if not path.name.endswith(".plan.json") and _parts(path.stem, path)[1] == profile
    ]
    if plan is not None:
        runs = [_load(folder / f"{run_id}.json") for run_id in plan.ids]
    else:
        runs = _latest(_load(path) for path in own)
    records = [run.record for run in runs if run.record is not None]
    names = plan.variants if plan is not None else ()
    names += tuple(
        VariantTitle(name=name, title=name)
        for name in dict.fromkeys(run.variant for run in runs)
        if name not in {variant.name for variant in names}
    )
    place = {variant.name: i for i, variant in enumerate(names)}
    left_out = [path for path in own if path.stem not in {run.id for run in runs}]
    unasked = _unasked(runs, left_out) if plan is not None else ()
    study = Study(
        spec=spec,
        profile=NOT_MINI.get(profile, "mini"),
        title=records[0].run.title if records else spec,
        profile_reason=records[-1].run.profile_reason if records else "no record says so yet",
        variants=names,
        runs=tuple(sorted(runs, key=lambda run: (place[run.variant], run.seed))),
        plan=plan,
        num_outdated=len(left_out) - len(unasked),
        unasked=unasked,
    )
    return replace(study, runs=_with_other_data_told(study))


def _with_other_data_told(study: Study) -> tuple[Run, ...]:
    """The runs, those marked that saw other data than most; of as many, the reference's count."""
    by_reference = sorted(study.shown, key=lambda run: run.variant != study.reference)
    counts = Counter(_fingerprint(run) for run in by_reference)
    if len(counts) < 2:
        return study.runs
    usual = counts.most_common(1)[0][0]  # of equals the first
    return tuple(
        replace(run, saw_other_data=_fingerprint(run) not in (None, usual)) for run in study.runs
    )


def _fingerprint(run: Run) -> str | None:
    return run.record.data.fingerprint if run.record and run.record.data else None


def _unasked(planned: Sequence[Run], left_out: Iterable[Path]) -> tuple[Run, ...]:
    """Of the records left out, the finished runs that share all but the seed with a planned one."""
    seeds = {(run.variant, run.seed) for run in planned}
    settings = [_all_but_seed(run.record) for run in planned if run.record is not None]
    return tuple(
        run
        for run in map(_load, left_out)
        if run.record is not None
        and run.outcome == "complete"
        and (run.variant, run.seed) not in seeds  # an earlier version would have the same seed
        and _all_but_seed(run.record) in settings
    )


def _all_but_seed(record: Record) -> tuple[object, ...]:
    """What two runs of the same settings share; a setting that says nothing may be left unsaid."""
    settings = {
        key: value
        for key, value in flat(record.spec).items()
        if key not in MAY_CHANGE and value not in (None, [])
    }
    data = record.data.fingerprint if record.data is not None else None
    weights = record.weights.sha256 if record.weights is not None else None
    return record.run.variant, record.run.limits, settings, data, weights


def _parts(run_id: str, path: Path) -> tuple[str, str, str, int]:
    """Spec, profile, variant and seed of a run's id."""
    match = RUN_ID.fullmatch(run_id)
    if match is None:
        raise DataError(
            f"{path}: the run id should read <spec>-<profile>-<variant>-s<seed>-<key>.\n"
            "  Move the file out of the folder of records."
        )
    return match["spec"], match["profile"], match["variant"], int(match["seed"])


def _load(path: Path) -> Run:
    _, profile, variant, seed = _parts(path.stem, path)
    if not path.exists():
        return Run(path.stem, variant, seed, path)
    try:
        record = read_record(path)
        arrays = read_arrays(path) if record.status == "complete" else None
        run = record.run
        if (run.id, run.profile, run.variant, run.seed) != (path.stem, profile, variant, seed):
            raise DataError(f"{path}: holds the record of another run, {run.id}")
        if arrays is not None:
            _check_agreement(path, record, arrays)
    except DataError as error:
        return Run(path.stem, variant, seed, path, damage=without_folder(error, path))
    return Run(path.stem, variant, seed, path, record, arrays)


def without_folder(error: DataError, path: Path) -> str:
    """An error's text with bare file names: a report tells nothing about the machine's folders."""
    return str(error).replace(f"{path.parent}{os.sep}", "")


def _check_agreement(path: Path, record: Record, arrays: Arrays) -> None:
    """Every test metric must follow from the values per query: no number is written by hand."""
    for name, stated in record.metrics.test.items():
        values = per_query(name, arrays)
        if values is None:
            continue
        followed = float(np.median(values) if name.endswith("/MdR") else values.mean())
        if abs(followed - stated.value) > 1e-6 or len(values) != stated.n:
            raise DataError(
                f"{path}: {name} is {stated.value} over {stated.n} queries, but the values beside "
                f"it give {followed} over {len(values)}.\n"
                "  Move the record away and run again to make a new one."
            )


def _latest(runs: Iterable[Run]) -> list[Run]:
    """For each variant and seed the run that started last; a damaged one only if it is alone."""
    chosen: dict[tuple[str, int], Run] = {}
    for run in runs:
        key = (run.variant, run.seed)
        if key not in chosen or _started(run) >= _started(chosen[key]):
            chosen[key] = run
    return list(chosen.values())


def _started(run: Run) -> str:
    return run.record.run.started if run.record is not None else ""


def per_query(metric: str, arrays: Arrays) -> metrics.Floats | None:
    """A metric's value for each query it is about: percent, points or rank.

    (Q,), for v2t (G,), and for a group of questions as many as it has. Their mean is the metric,
    for MdR their median. None where the run did not record it.
    """
    if "answer_list" in arrays:
        return question_metrics.per_question(metric, arrays)
    if metric == "order_accuracy":
        return 100.0 * arrays["order_right"] if "order_right" in arrays else None
    if metric == "shuffle_sensitivity":
        if "t2v_shuffled_ranks" not in arrays:
            return None
        shuffled = metrics.hits_at(1, arrays["t2v_shuffled_ranks"])
        return metrics.hits_at(1, arrays["t2v_ranks"]) - shuffled
    direction, _, name = metric.partition("/")
    ranking = arrays.get(f"{direction.replace('-', '_')}_ranks")
    if ranking is None:
        return None
    if name in ("MdR", "MnR"):
        return metrics.worst(ranking).astype(np.float64)
    if name.endswith("-best-ties"):
        ranking, name = np.repeat(ranking[:, :1], 2, axis=1), name.removesuffix("-best-ties")
    cutoff = name.removeprefix("R@")
    return metrics.hits_at(int(cutoff), ranking) if cutoff.isdigit() else None


def sources(metric: str, arrays: Arrays) -> metrics.Ints:
    """The cluster of each value of `per_query`: of the queries, or for v2t of the clips."""
    clusters = arrays["clusters"]
    if "answer_list" in arrays:
        return np.asarray(clusters[question_metrics.members(metric, arrays)], np.int64)
    if metric.startswith("v2t"):
        return metrics.gallery_clusters(clusters, arrays["truth"], len(arrays["gallery_ids"]))
    return clusters


def same_test(runs: Iterable[Run]) -> bool:
    """Whether the runs answered the same queries, in the same order, over the same data."""
    found = [(run.record.data, run.arrays) for run in runs if run.record and run.arrays]
    return len({data.fingerprint for data, _ in found if data is not None}) <= 1 and all(
        np.array_equal(arrays.get(name, ()), found[0][1].get(name, ()))
        for _, arrays in found
        for name in TEST_ARRAYS
    )


def over_seeds(metric: str, runs: tuple[Run, ...]) -> metrics.Floats | None:
    """A metric's values per seed and query, (S, Q); None if a run lacks it or they do not match."""
    values = [per_query(metric, run.arrays) for run in runs if run.arrays is not None]
    present = [row for row in values if row is not None]
    if not present or len(present) < len(runs) or not same_test(runs):
        return None
    return np.stack(present)


def resampling() -> np.random.Generator:
    """A fresh generator for one interval: a number is the same in every table and figure."""
    return np.random.default_rng(RESAMPLING_SEED)


def summary(metric: str, runs: tuple[Run, ...]) -> metrics.Metric | None:
    """A metric over the runs' seeds: their mean, with the interval over queries. None as above.

    One seed: the record's own value and interval. Several: a bootstrap over their shared queries.
    """
    values = over_seeds(metric, runs)
    if values is None:
        return None
    if len(runs) == 1 and runs[0].record and metric in runs[0].record.metrics.test:
        stated = runs[0].record.metrics.test[metric]
        return {"value": stated.value, "low": stated.low, "high": stated.high, "n": stated.n}
    is_percent = "R@" in metric or metric == "order_accuracy"
    is_percent |= metric.partition("/")[0] in question_metrics.PERCENTAGES
    return metrics.interval(
        values,
        sources(metric, runs[0].arrays or {}),
        resampling(),
        "median" if metric.endswith("/MdR") else "mean",
        bounds=metrics.PERCENT if is_percent else None,
    )
