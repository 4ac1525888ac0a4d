"""golden.json: what each study has to find, how far it may be off, and why that far.

Three kinds of numbers. `exact` ones do not depend on the model. A `trajectory` is a training loss
after so many steps: with the same seed only rounding moves it, so a small fault shows, and so does
any other way to draw the same random numbers. An `outcome` says what a trained model is worth: its
tolerance covers other seeds, so where an outcome leaves it, something is broken.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.measure import COUNTS
from litevl.spec import Table
from litevl.whole import write_bytes

GOLDEN_FILE = Path(__file__).with_name("golden.json")

Kind = Literal["exact", "trajectory", "outcome"]
Problem = Literal["moved", "missing", "unknown", "not finite"]

EXACT = 1e-9
SPREADS = 3  # times the measured spread, of an outcome
ROUNDINGS = (
    10  # times the measured deviation of a loss: rounding grows from step to step, by chance
)
ROUNDING = 1e-4  # of a loss: for kernels that were not measured
FEWEST_QUERIES = 2  # no percentage is held closer than so many queries
SHARE = 0.02  # of a value that is not a percentage
BASELINES = ("majority", "type-majority", "answerable")

REASONS: dict[Kind, str] = {
    "exact": "Follows from the data alone, no model computes it: nothing may move it.",
    "trajectory": (
        "The same seed gives the same batches and draws, so only rounding may move it: 10 times "
        "the largest deviation under other threads, other kernels and starting weights nudged by "
        "1e-6 (3 times was too little: of three further ways to round, one was 2.3 times as far "
        "off), and at least 0.01 % for kernels that were not measured."
    ),
    "outcome": (
        "Another seed gives another model that is as good: 3 standard deviations over seeds, at "
        "least 3 times the largest deviation under other arithmetic, and at least 2 queries (2 % "
        "where it is not a percentage)."
    ),
}


class Entry(Table):
    """A value with its tolerance; spreads are None where nothing was measured (`exact`)."""

    value: float
    tolerance: float
    arithmetic_spread: float | None
    """Largest deviation from the value with the same seed."""
    seed_spread: float | None
    """Standard deviation over seeds."""
    reason: str
    commit: str
    """The code that last moved the value beyond its tolerance."""


class Header(Table):
    """Where and how the values were measured."""

    date: str
    commit: str
    packages: dict[str, str]
    machine: dict[str, str | int | float]
    spreads: str
    """How they were measured, in words."""
    seconds: dict[str, float]
    """Of each study, with its data at hand."""


class Golden(Table):
    """golden.json; metrics are named `<study>/<name>`."""

    header: Header
    metrics: dict[str, Entry]


@dataclass(frozen=True)
class Finding:
    """A number that is not what it should be."""

    metric: str
    problem: Problem
    golden: float | None
    now: float | None
    tolerance: float | None
    commit: str
    times: float  # the deviation in tolerances; infinite where there is nothing to compare


def read_golden(path: Path = GOLDEN_FILE) -> Golden:
    """The golden values. FileNotFoundError, or pydantic's ValidationError for a damaged file."""
    return Golden.model_validate_json(path.read_bytes())


def write_golden(golden: Golden, path: Path = GOLDEN_FILE) -> None:
    """Write the golden values, one line a field, whole or not at all."""
    write_bytes(path, (json.dumps(golden.model_dump(), indent=1) + "\n").encode())


def kind_of(metric: str) -> Kind:
    """What kind of number it is, by its name, with or without the study's in front."""
    if "/train/" in f"/{metric}" and "@" in metric:
        return "trajectory"
    of_data = metric.endswith(("/steps", *(f"/{name}" for name in COUNTS)))
    is_baseline = any(f"/test/{name}" in f"/{metric}" for name in BASELINES)
    return "exact" if of_data or is_baseline else "outcome"


def compare(golden: Golden, now: Mapping[str, float], studies: Sequence[str]) -> list[Finding]:
    """All that is not as it should be in the studies that were measured, worst first.

    now: values by `<study>/<name>`. A value that vanished, one that is not golden and one that is
    not a number are findings like one that moved.
    """
    entries = {m: e for m, e in golden.metrics.items() if m.partition("/")[0] in studies}
    found = [Finding(m, "unknown", None, now[m], None, "", math.inf) for m in now.keys() - entries]
    for metric, entry in entries.items():
        value, problem = now.get(metric), _problem(entry, now.get(metric))
        if problem is not None:
            off = math.inf if value is None or problem != "moved" else abs(value - entry.value)
            of_entry = entry.tolerance, entry.commit, off / entry.tolerance
            found.append(Finding(metric, problem, entry.value, value, *of_entry))
    return sorted(found, key=lambda finding: (-finding.times, finding.metric))


def _problem(entry: Entry, value: float | None) -> Problem | None:
    if value is None:
        return "missing"
    if not math.isfinite(value):
        return "not finite"
    return "moved" if abs(value - entry.value) > entry.tolerance else None


def tolerance(
    kind: Kind, value: float, arithmetic: float, seeds: float, num_queries: int | None
) -> float:
    """How far a number may be off, by the rule that its kind's REASON puts in words.

    arithmetic: largest deviation with the same seed. seeds: standard deviation over seeds.
    num_queries: behind a percentage, None where it is not one.
    """
    if kind == "exact":
        return EXACT
    if kind == "trajectory":
        return max(ROUNDINGS * arithmetic, ROUNDING * abs(value))
    least = SHARE * abs(value) if num_queries is None else FEWEST_QUERIES * 100 / num_queries
    return max(SPREADS * seeds, SPREADS * arithmetic, least) + EXACT


def entry_of(
    metric: str,
    value: float,
    other_arithmetic: Sequence[float],
    other_seeds: Sequence[float],
    num_queries: int | None,
    commit: str,
) -> Entry:
    """A value with the tolerance that its measured spreads give.

    other_arithmetic: the same seed under other arithmetic. other_seeds: other seeds.
    """
    kind = kind_of(metric)
    if kind == "exact":
        return Entry(
            value=value,
            tolerance=EXACT,
            arithmetic_spread=None,
            seed_spread=None,
            reason=REASONS[kind],
            commit=commit,
        )
    arithmetic = max(abs(other - value) for other in other_arithmetic)
    seeds = statistics.stdev([value, *other_seeds])
    return Entry(
        value=value,
        tolerance=tolerance(kind, value, arithmetic, seeds, num_queries),
        arithmetic_spread=arithmetic,
        seed_spread=seeds,
        reason=REASONS[kind],
        commit=commit,
    )


def with_kept_commits(new: Mapping[str, Entry], old: Golden | None) -> dict[str, Entry]:
    """The new entries; where the value stayed within the old tolerance, with the old commit."""
    before = {} if old is None else old.metrics
    kept = {}
    for metric, entry in new.items():
        is_same = metric in before and _problem(before[metric], entry.value) is None
        commit = before[metric].commit if is_same else entry.commit
        kept[metric] = entry.model_copy(update={"commit": commit})
    return kept


# Tables for people.


def findings_table(findings: Sequence[Finding], subjects: Mapping[str, str]) -> str:
    """metric, golden, now, tolerance, how many tolerances off, and which commit last moved it.

    subjects: commit -> first line of its message, where known.
    """
    headings = ("metric", "golden", "now", "tolerance", "off by", "last moved by")
    rows = []
    for found in findings:
        numbers = [shown(number) for number in (found.golden, found.now, found.tolerance)]
        off = f"{found.times:.1f} x" if found.problem == "moved" else found.problem
        commit = f"{found.commit[:9]} {subjects.get(found.commit, '')}".strip()
        rows.append((found.metric, *numbers, off, commit or "-"))
    return table(headings, rows)


def renewal_table(old: Golden | None, new: Mapping[str, Entry]) -> str:
    """Every metric's old and new value; `*` where the new one is beyond the old tolerance."""
    before = {} if old is None else old.metrics
    headings = ("metric", "old", "new", "difference", "old tolerance", "tolerance", "")
    rows = []
    for metric in sorted(before.keys() | new.keys()):
        was, now = before.get(metric), new.get(metric)
        if was is None or now is None:
            mark, difference = "new" if was is None else "gone", None
        else:
            mark = "*" if _problem(was, now.value) else ""
            difference = now.value - was.value
        values = [None if entry is None else entry.value for entry in (was, now)]
        limits = [None if entry is None else entry.tolerance for entry in (was, now)]
        numbers = [shown(number) for number in (*values, difference, *limits)]
        rows.append((metric, *numbers, mark))
    return table(headings, rows)


def shown(value: float | None) -> str:
    """A number with six digits that count, `-` for none."""
    return "-" if value is None else f"{value:.6g}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of even width under their headings; all but the first and last to the right."""
    rows = [headings, *rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place in (0, len(row) - 1) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
