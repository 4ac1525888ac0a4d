"""Two folders of records side by side: what a change did to scores, query by query, and to times.

A is how it was, B how it is now; a difference is B minus A. Each folder is the --output of runs:
records in `records/`, those of `nox -s benchmark` in `benchmarks/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from litevl import metrics
from litevl.benchmark_record import (
    BenchmarkRecord,
    machine_words,
    read_benchmarks,
    same_machine,
)
from litevl.errors import DataError, printable
from litevl.report.runs import (
    Run,
    Study,
    find_studies,
    load_study,
    over_seeds,
    per_query,
    resampling,
    same_test,
    sources,
)
from litevl.report.verdicts import FEWEST_CLUSTERS
from litevl.spec_problems import flat

# Higher is better for all of them; what a run did not record is left out.
METRICS = (
    *("t2v/R@1", "t2v/R@5", "t2v/R@10", "v2t/R@1", "v2t/R@5", "v2t/R@10"),
    *("order_accuracy", "accuracy", "accuracy/order"),
)


@dataclass(frozen=True)
class Difference:
    """One metric of one variant, B minus A over the queries and seeds that both have."""

    spec: str
    profile: str
    variant: str
    seeds: tuple[int, ...]
    metric: str
    before: float
    after: float
    difference: metrics.Metric
    num_clusters: int

    @property
    def is_worse(self) -> bool:
        """Whether the interval lies below zero, over enough sources to be believed."""
        high = self.difference["high"]
        return high is not None and high < 0 and self.num_clusters >= FEWEST_CLUSTERS


@dataclass(frozen=True)
class SpeedChange:
    """One contender's median seconds an item; `times` above 1 means that B is faster."""

    benchmark: str
    row: str
    contender: str
    before: float
    after: float

    @property
    def times(self) -> float:
        """How many times as fast B is."""
        return self.before / self.after


@dataclass(frozen=True)
class Compared:
    """All that could be set side by side, and in words what could not."""

    differences: tuple[Difference, ...]
    speeds: tuple[SpeedChange, ...]
    lost: tuple[str, ...]
    """Scores of A that B lacks, or has over other queries."""
    notes: tuple[str, ...]
    machines: tuple[str, str] | None
    """Those of the benchmarks; None without any."""

    @property
    def is_worse(self) -> bool:
        """Whether any metric is."""
        return any(each.is_worse for each in self.differences)


def compare_folders(before: Path, after: Path, across_machines: bool = False) -> Compared:
    """Everything that both folders hold.

    across_machines: set times of different machines side by side, too. Raises DataError for a
    folder without records, a damaged record, nothing in common, and times of different machines.
    """
    found = [studies_of(folder) for folder in (before, after)]
    benches = [benchmarks_of(folder) for folder in (before, after)]
    empty = [
        folder
        for folder, studies, benchmarks in zip((before, after), found, benches, strict=True)
        if not studies and not benchmarks
    ]
    if empty:
        raise DataError(
            f"no records in {' and '.join(map(str, empty))}\n"
            "  Give the --output folder of `litevl run`, with records/ or benchmarks/ in it."
        )
    problems = damaged(study for studies in found for study in studies.values())
    problems += [] if across_machines else other_machines(*benches)
    if problems:
        raise DataError("\n".join([f"{len(problems)} problem(s)", *(f"  {p}" for p in problems)]))
    differences, lost, notes = compare_studies(*found)
    speeds, more = compare_benchmarks(*benches)
    if not differences and not speeds:
        reasons = [f"  {note}" for note in lost + notes + more]
        raise DataError(
            "\n".join([f"{before} and {after} have nothing that can be compared", *reasons])
        )
    shared = [name for name in benches[0] if name in benches[1]]
    machines = None
    if shared:
        machines = (
            machine_words(benches[0][shared[0]].hardware),
            machine_words(benches[1][shared[0]].hardware),
        )
    return Compared(tuple(differences), tuple(speeds), tuple(lost), tuple(notes + more), machines)


def studies_of(folder: Path) -> dict[tuple[str, str], Study]:
    """The studies of an output folder by spec and profile."""
    records = folder / "records"
    return {
        (spec, profile): load_study(records, spec, profile)
        for spec, profile in find_studies(records)
    }


def benchmarks_of(folder: Path) -> dict[str, BenchmarkRecord]:
    """The benchmarks' records of an output folder by name."""
    return {record.name: record for record in read_benchmarks(folder / "benchmarks")}


def damaged(studies: Iterable[Study]) -> list[str]:
    """What is wrong with runs whose records cannot be read."""
    return [
        f"{run.path.parent}: {run.damage}"
        for study in studies
        for run in study.runs
        if run.damage is not None
    ]


def other_machines(
    before: dict[str, BenchmarkRecord], after: dict[str, BenchmarkRecord]
) -> list[str]:
    """Benchmarks whose times come from machines that differ."""
    found = []
    for name, record in before.items():
        other = after.get(name)
        if other is not None and not same_machine(record.hardware, other.hardware):
            found.append(
                f"{name}: measured on other machines, {machine_words(record.hardware)} and "
                f"{machine_words(other.hardware)}; --across-machines compares them all the same"
            )
    return found


# Scores


def compare_studies(
    before: dict[tuple[str, str], Study], after: dict[tuple[str, str], Study]
) -> tuple[list[Difference], list[str], list[str]]:
    """Every variant of every study that both have, what B lost, and notes about the rest."""
    differences: list[Difference] = []
    lost: list[str] = []
    notes: list[str] = []
    for key in sorted(before.keys() | after.keys()):
        study = "-".join(key)
        if key not in after:
            lost.append(f"{study}: only in A")
            continue
        if key not in before:
            notes.append(f"{study}: only in B")
            continue
        planned = before[key].runs + after[key].runs
        for name in dict.fromkeys(run.variant for run in planned):
            found, gone, problems = compare_variant(before[key], after[key], name)
            differences += found
            lost += [f"{study}, {name}: {each}" for each in gone]
            notes += [f"{study}, {name}: {problem}" for problem in problems]
    return differences, lost, notes


def compare_variant(
    before: Study, after: Study, variant: str
) -> tuple[list[Difference], list[str], list[str]]:
    """How a variant's metrics differ over the seeds of both, what B lost, and what matters."""
    ours, theirs = finished(before, variant), finished(after, variant)
    if not ours:
        return [], [], [f"no finished run in {'A' if theirs else 'A or B'}"]
    if not theirs:
        return [], ["no finished run in B"], []
    seeds = sorted(ours.keys() & theirs.keys())
    gone, added = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    lost = [f"only A has seed {', '.join(map(str, gone))}; left out"] if gone else []
    notes = [f"only B has seed {', '.join(map(str, added))}; left out"] if added else []
    if not seeds:
        return [], lost, notes
    left, right = (tuple(side[seed] for seed in seeds) for side in (ours, theirs))
    limits = {run.record.run.limits for run in left + right if run.record}
    if len(limits) > 1 or not same_test(left + right):
        lost.append("not the same queries on both sides, or cut short differently")
        return [], lost, notes
    changed = changed_settings(left, right)
    if changed:
        notes.append(f"settings differ: {', '.join(changed)}")
    found = [compare_metric(before, left, right, metric) for metric in METRICS]
    lost += lost_metrics(left, right)
    return [each for each in found if each is not None], lost, notes


def compare_metric(
    study: Study, left: tuple[Run, ...], right: tuple[Run, ...], metric: str
) -> Difference | None:
    """How a metric differs between runs of the same seeds; None where a run did not record it."""
    before, after = over_seeds(metric, left), over_seeds(metric, right)
    if before is None or after is None:
        return None
    clusters = sources(metric, left[0].arrays or {})
    return Difference(
        spec=study.spec,
        profile=study.profile,
        variant=left[0].variant,
        seeds=tuple(run.seed for run in left),
        metric=metric,
        before=float(before.mean()),
        after=float(after.mean()),
        difference=metrics.paired_difference(after, before, clusters, resampling()),
        num_clusters=len(np.unique(clusters)),
    )


def lost_metrics(left: tuple[Run, ...], right: tuple[Run, ...]) -> list[str]:
    """Metrics that runs of A recorded and those of the same seeds in B did not, one line each."""
    lost = []
    for metric in METRICS:
        seeds = [
            str(ours.seed)
            for ours, theirs in zip(left, right, strict=True)
            if per_query(metric, ours.arrays or {}) is not None
            and per_query(metric, theirs.arrays or {}) is None
        ]
        if seeds:
            lost.append(f"{metric} not recorded in B, seed {', '.join(seeds)}")
    return lost


def finished(study: Study, variant: str) -> dict[int, Run]:
    """The complete runs of a variant by seed; a subset's count, where both sides are cut alike."""
    return {
        run.seed: run for run in study.runs if run.variant == variant and run.outcome == "complete"
    }


def changed_settings(left: Sequence[Run], right: Sequence[Run]) -> list[str]:
    """Dotted keys of the resolved specs that are not the same on both sides."""
    one, other = (flat(runs[0].record.spec) if runs[0].record else {} for runs in (left, right))
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


# Times


def compare_benchmarks(
    before: dict[str, BenchmarkRecord], after: dict[str, BenchmarkRecord]
) -> tuple[list[SpeedChange], list[str]]:
    """Every contender of every row that both have under the same conditions, and notes."""
    found, notes = [], []
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            notes.append(f"benchmark {name}: only in {'A' if name in before else 'B'}")
            continue
        theirs = {row.name: row for row in after[name].rows}
        for row in before[name].rows:
            other = theirs.get(row.name)
            if other is None or other.conditions != row.conditions:
                notes.append(f"benchmark {name}, {row.name}: not measured alike in A and B")
                continue
            now = {each.name: each for each in other.contenders}
            found += [
                SpeedChange(name, row.name, each.name, 1 / each.rate, 1 / now[each.name].rate)
                for each in row.contenders
                if each.name in now
            ]
    return found, notes


# What is printed

SCORES_HEAD = ("study", "variant", "seeds", "metric", "A", "B", "B - A", "95 % interval", "")
SPEEDS_HEAD = ("benchmark", "row", "contender", "A (s an item)", "B (s an item)", "B is")


def as_markdown(found: Compared, names: tuple[str, str]) -> str:
    """Tables for a pull request. names: what A and B are called."""
    parts = [f"A is {names[0]}, B is {names[1]}."]
    if found.differences:
        rows = [score_cells(each) for each in found.differences]
        parts += [
            markdown_table(SCORES_HEAD, rows),
            "Paired by query and seed, resampled by source clip; every interval stands on its own.",
        ]
    if found.speeds and found.machines:
        rows = [speed_cells(each) for each in found.speeds]
        parts += [
            markdown_table(SPEEDS_HEAD, rows),
            f"A: {found.machines[0]}. B: {found.machines[1]}.",
        ]
    if found.lost:
        parts += ["Lost from A to B:", "\n".join(f"- {each}" for each in found.lost)]
    if found.notes:
        parts += ["\n".join(f"- {note}" for note in found.notes)]
    return printable("\n\n".join(parts))


def speed_cells(each: SpeedChange) -> tuple[str, ...]:
    """A change of speed as cells of the table."""
    return (
        *(each.benchmark, each.row, each.contender),
        *(f"{each.before:.3g}", f"{each.after:.3g}", f"{each.times:.2f} times as fast"),
    )


def score_cells(each: Difference) -> tuple[str, ...]:
    """A difference as cells of the table."""
    low, high = each.difference["low"], each.difference["high"]
    is_sure = low is not None and high is not None and each.num_clusters >= FEWEST_CLUSTERS
    word = "worse" if each.is_worse else "better" if is_sure and low is not None and low > 0 else ""
    if not is_sure:
        word = f"only {each.num_clusters} sources"
    return (
        f"{each.spec}-{each.profile}",
        each.variant,
        ", ".join(map(str, each.seeds)),
        each.metric,
        f"{each.before:.2f}",
        f"{each.after:.2f}",
        f"{each.difference['value']:+.2f}",
        "" if low is None or high is None else f"{low:+.2f} to {high:+.2f}",
        word,
    )


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a letter that would end a cell is written out."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def as_json(found: Compared) -> dict[str, Any]:
    """The same for a program."""
    return {
        "is_worse": found.is_worse,
        "differences": [asdict(each) | {"is_worse": each.is_worse} for each in found.differences],
        "speeds": [asdict(each) | {"times": each.times} for each in found.speeds],
        "machines": found.machines,
        "lost": found.lost,
        "notes": found.notes,
    }
