"""The tables of results: cells for the page and for LaTeX, tidy numbers for CSV."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from litevl.data.answer_lists import given_away
from litevl.metrics import Metric
from litevl.report.layout import Baseline, Column, layout_of
from litevl.report.runs import Run, Study, per_query, same_test, summary
from litevl.report.verdicts import ClaimResult, TargetResult, compare
from litevl.spec import Target
from litevl.spec_problems import flat

MISSING = "not run"


@dataclass(frozen=True)
class Cell:
    """What one cell shows: its text, a smaller second line, and a tone for colour ("good" ...)."""

    text: str
    detail: str = ""
    tone: str = ""
    link: str = ""
    """Where the text leads on the page, relative to it."""


@dataclass(frozen=True)
class Heading:
    """Words above neighbouring columns, and what stands for them in a column's own label."""

    label: str
    span: int
    short: str = ""


@dataclass(frozen=True)
class Table:
    """A table for every medium; `groups` span its whole width."""

    stem: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    frame: pd.DataFrame
    note: str = ""
    groups: tuple[Heading, ...] = ()
    num_text_columns: int = 1
    """Columns from the left that hold words and are set flush left."""
    foot: tuple[tuple[Cell, ...], ...] = ()
    """Rows set apart below the others: baselines."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Column labels that stand without the groups above them: "t2v R@1"."""
        above = [group.short for group in self.groups for _ in range(group.span)]
        above = above or [""] * len(self.header)
        return tuple(f"{g} {label}".strip() for g, label in zip(above, self.header, strict=True))


def number(value: float, digits: int = 1, signed: bool = False) -> str:
    """A number as the page shows it; what rounds to nothing has no sign."""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text if float(text) else text.lstrip("+-")


def metric_cell(found: Metric | None, signed: bool = False) -> Cell:
    """A value above its interval; a number without an interval is not shown."""
    if found is None:
        return Cell("-")
    if found["low"] is None or found["high"] is None:
        return Cell("-", "no interval")
    return Cell(
        number(found["value"], signed=signed), f"[{end(found['low'])}, {end(found['high'])}]"
    )


def end(value: float) -> str:
    """An interval's end, with the digits that it takes to see on which side of zero it lies."""
    digits = next((n for n in (1, 2, 3) if round(value, n)), 1)
    return number(value, digits)


def seeds_text(runs: Sequence[Run]) -> str:
    return ", ".join(str(run.seed) for run in runs)


def commits_text(runs: Sequence[Run], length: int | None = None) -> str:
    """The commits that made some runs, marked where the code was changed after the commit.

    length: characters shown of each; None for all.
    """
    codes = dict.fromkeys(
        (run.record.code.commit, run.record.code.dirty) for run in runs if run.record
    )
    return ", ".join(
        f"{short_commit(commit, length)}{'+changes' if dirty else ''}" for commit, dirty in codes
    )


def short_commit(commit: str | None, length: int | None) -> str:
    """The beginning of a commit's hash; "source:" before a hash of files is not counted."""
    commit = commit or "unknown"
    start = len("source:") if commit.startswith("source:") else 0
    return commit if length is None else commit[: start + length]


def kinds_text(kinds: Iterable[str]) -> str:
    """How many of each kind, in order of appearance: "4 complete, 1 failed"."""
    listed = list(kinds)
    return ", ".join(f"{listed.count(kind)} {kind}" for kind in dict.fromkeys(listed))


def tidy_frame(rows: list[dict[str, object]], columns: Sequence[str]) -> pd.DataFrame:
    """One row per number; counts stay whole beside a row without one."""
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype({"n": "Int64"}) if "n" in columns else frame


NUMBER_COLUMNS = ("value", "low", "high", "n", "seeds", "commits")


def numbers_of(found: Metric | None, runs: Sequence[Run]) -> dict[str, object]:
    """The columns that make a number publishable: interval, count, seeds and code."""
    if found is None or found["low"] is None:
        return dict.fromkeys(NUMBER_COLUMNS)
    return {**found, "seeds": seeds_text(runs), "commits": commits_text(runs)}


def main_table(study: Study) -> Table:
    """Every variant's metrics over its published runs; below them the baselines."""
    layout = layout_of(study)
    columns = shown_columns(layout.columns, study.shown)
    wholes = [column.metric for column in columns if not column.is_part]
    rows, tidy = [], []
    for variant in study.variants:
        runs = study.published(variant.name)
        found = {column.metric: summary(column.metric, runs) for column in columns} if runs else {}
        cells = [Cell(variant.title, variant.name), Cell(seeds_text(runs) or "-")]
        cells.append(Cell(counts_text(found.get(metric) for metric in wholes) or "-"))
        for column in columns:
            value = found.get(column.metric)
            cells.append(metric_cell(value) if runs else Cell(MISSING, tone="quiet"))
            line = {"variant": variant.name, "metric": column.metric}
            tidy.append(line | numbers_of(value, runs))
        rows.append(tuple(cells))
    foot, of_foot = _baselines(study, columns)
    groups = ((name, len(list(same))) for name, same in groupby(c.group for c in columns))
    return Table(
        "main",
        "Results",
        ("variant", "seeds", layout.queries, *(label(column, study.shown) for column in columns)),
        tuple(rows),
        tidy_frame(tidy + of_foot, ("variant", "metric", *NUMBER_COLUMNS)),
        layout.note,
        (
            Heading("", 3),
            *(Heading(name, span, layout.short_groups.get(name, "")) for name, span in groups),
        ),
        foot=foot,
    )


def shown_columns(columns: Sequence[Column], runs: Sequence[Run]) -> tuple[Column, ...]:
    """The columns, without those over a part of the queries that no run has; all without a run."""
    return tuple(c for c in columns if not c.is_part or not runs or _part_sizes(c, runs))


def label(column: Column, runs: Sequence[Run]) -> str:
    """A column's label; over a part of the queries with their number: "when, n = 240"."""
    sizes = _part_sizes(column, runs) if column.is_part else []
    return f"{column.label}, n = {'/'.join(sizes)}" if sizes else column.label


def _part_sizes(column: Column, runs: Sequence[Run]) -> list[str]:
    """Over how many queries the runs have a metric, the different numbers only."""
    found = (per_query(column.metric, run.arrays) for run in runs if run.arrays is not None)
    return [str(size) for size in sorted({len(values) for values in found if values is not None})]


def counts_text(found: Iterable[Metric | None]) -> str:
    """Over how many queries some values are: "512", or "512/510" where they differ."""
    counts = {value["n"] for value in found if value is not None}
    return "/".join(str(count) for count in sorted(counts, reverse=True))


def baseline_runs(study: Study) -> tuple[Run, ...]:
    """One published run, whose queries tell what the baselines get; none where the tests differ."""
    return study.shown[:1] if same_test(study.shown) else ()


def _baselines(
    study: Study, columns: Sequence[Column]
) -> tuple[tuple[tuple[Cell, ...], ...], list[dict[str, object]]]:
    """The rows at the foot of the main table, and their lines in its CSV."""
    runs, rows, tidy = baseline_runs(study), [], []
    for baseline in layout_of(study).baselines if runs else ():
        metrics = [baseline.metrics.get(column.metric, "") for column in columns]
        found = [summary(metric, runs) if metric else None for metric in metrics]
        detail = "; ".join([baseline.detail, *_of_ceiling(baseline, found[0], runs)])
        cells = [Cell(baseline.title, detail), Cell("-"), Cell(counts_text(found[:1]))]
        rows.append((*cells, *(metric_cell(value) for value in found)))
        for metric, value in zip(metrics, found, strict=True):
            if metric:
                tidy.append({"variant": "any", "metric": metric} | numbers_of(value, runs))
    return tuple(rows), tidy


def _of_ceiling(baseline: Baseline, found: Metric | None, runs: Sequence[Run]) -> list[str]:
    """How many queries keep a ceiling from 100, and what its answer list gives away, in words."""
    if found is None or not baseline.lacking:
        return []
    num = round(found["n"] * (1 - found["value"] / 100))
    record = runs[0].record
    listed = record.data.answer_list if record and record.data else None
    told = given_away(listed.only_validation, listed.only_test) if listed else []
    return [f"{num} of {found['n']} {baseline.lacking}", *told]


def ablation_table(study: Study) -> Table:
    """Every other variant minus the reference, paired by query and seed."""
    columns = shown_columns(layout_of(study).compared, study.shown)
    rows, tidy = [], []
    for variant in study.variants:
        if variant.name == study.reference:
            continue
        metrics = [column.metric for column in columns]
        found = {m: compare(study, variant.name, study.reference, m) for m in metrics}
        seeds = found[metrics[0]].seeds
        cells = [Cell(variant.title, changed_keys(study, variant.name))]
        cells.append(Cell(", ".join(map(str, seeds)) or "-"))
        for metric, comparison in found.items():
            cells.append(
                metric_cell(comparison.difference, signed=True)
                if comparison.problem is None
                else Cell(MISSING if not seeds else "-", tone="quiet")
            )
            runs = [r for r in study.published(variant.name) if r.seed in comparison.seeds]
            runs += [r for r in study.published(study.reference) if r.seed in comparison.seeds]
            numbers = numbers_of(comparison.difference, runs)
            if comparison.difference is not None:
                numbers["seeds"] = ", ".join(map(str, seeds))
            line = {"variant": variant.name, "minus": study.reference, "metric": metric}
            tidy.append(line | numbers)
        rows.append(tuple(cells))
    return Table(
        "ablation",
        "What each change costs",
        ("variant", "seeds", *(label(column, study.shown) for column in columns)),
        tuple(rows),
        tidy_frame(tidy, ("variant", "minus", "metric", *NUMBER_COLUMNS)),
        f"Variant minus {study.reference}, in points. Mean over seeds of the differences query by "
        "query, with the 95 % interval of a bootstrap "
        "over source videos. An interval that includes zero shows no difference either way. The "
        "intervals are not widened for the number of comparisons.",
    )


def changed_keys(study: Study, variant: str) -> str:
    """The settings in which a variant differs from the reference, as `key: old -> new`."""
    specs = {run.variant: run.record.spec for run in study.runs if run.record is not None}
    if variant not in specs or study.reference not in specs:
        return variant
    ours, theirs = flat(specs[variant]), flat(specs[study.reference])
    named = {"name", "title", "profile", "variant"}
    return "; ".join(
        f"{key}: {value_text(theirs.get(key))} -> {value_text(ours.get(key))}"
        for key in dict.fromkeys([*theirs, *ours])
        if key not in named and theirs.get(key) != ours.get(key)
    )


def value_text(value: object) -> str:
    """A setting's value as TOML would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(value_text(item) for item in value)
    return "none" if value is None else str(value)


CLAIM_TONES = {"supported": "good", "contradicted": "bad"}
TARGET_TONES = {"reproduced": "good", "higher": "warn", "lower": "bad"}


def claims_table(study: Study, results: Sequence[ClaimResult]) -> Table:
    """One row per claim: what the paper says, and what the paired test found."""
    found = [claim_row(study, result) for result in results]
    return Table(
        "claims",
        "Claims",
        ("claim", "verdict", "difference", "seeds", "queries"),
        tuple(cells for cells, _ in found),
        tidy_frame([line for _, line in found], CLAIM_COLUMNS),
        CLAIMS_NOTE,
        num_text_columns=2,
    )


CLAIM_COLUMNS = ("claim", "metric", "verdict", "why", *NUMBER_COLUMNS)
CLAIMS_NOTE = (
    "Difference in points, paired by query over all shared seeds, with its 95 % interval. The "
    "interval speaks about other queries of this kind; the values by seed show how much another "
    "training run moves it."
)


def claim_row(study: Study, result: ClaimResult) -> tuple[tuple[Cell, ...], dict[str, object]]:
    """A claim's cells, and its line in the CSV."""
    claim, found = result.claim, result.comparison
    per_seed = ", ".join(f"{number(value)}" for value in found.per_seed)
    cells = (
        Cell(claim.sentence, f"{claim.better} above {claim.worse} on {claim.metric}"),
        Cell(result.verdict, result.why, CLAIM_TONES.get(result.verdict, "quiet")),
        metric_cell(found.difference, signed=True),
        Cell(", ".join(map(str, found.seeds)) or "-", per_seed and f"by seed: {per_seed}"),
        Cell(str(found.difference["n"]) if found.difference else "-"),
    )
    runs = [run for run in study.shown if run.variant in (claim.better, claim.worse)]
    numbers = numbers_of(found.difference, [run for run in runs if run.seed in found.seeds])
    if found.difference is not None:
        numbers["seeds"] = ", ".join(map(str, found.seeds))
    line = {"claim": claim.name, "metric": claim.metric, "verdict": result.verdict}
    return cells, line | {"why": result.why} | numbers


def targets_table(study: Study, results: Sequence[TargetResult]) -> Table:
    """One row per published number, ours beside it. Only ever made for the paper profile."""
    rows, tidy = [], []
    for result in results:
        target, ours = result.target, result.ours
        runs = [run for run in study.published(target.variant) if run.seed in result.seeds]
        gap = "-"
        if ours and target.value is not None:
            gap = number(ours["value"] - target.value, signed=True)
        rows.append(
            (
                Cell(f"{target.variant}: {target.metric}"),
                Cell(result.verdict, result.why, _target_tone(result)),
                Cell(target.provenance.source, target.provenance.note),
                published_cell(target),
                metric_cell(ours) if ours else Cell(MISSING if not runs else "-", tone="quiet"),
                Cell(gap),
                Cell(seeds_text(runs) or "-"),
                Cell(str(ours["n"]) if ours else "-"),
            )
        )
        line = {"metric": target.metric, "variant": target.variant, "published": target.value}
        line |= {"tolerance": target.tolerance, "verdict": result.verdict, "why": result.why}
        tidy.append(line | numbers_of(ours, runs))
    columns = ("metric", "variant", "published", "tolerance", "verdict", "why", *NUMBER_COLUMNS)
    return Table(
        "targets",
        "Published numbers",
        ("number", "verdict", "source", "published", "ours", "difference", "seeds", "queries"),
        tuple(rows),
        tidy_frame(tidy, columns),
        "The tolerance was fixed in the spec before any run. The verdict compares the mean over "
        "seeds; the interval speaks about other queries. Lower is better for MdR and MnR."
        + start_note(study),
        num_text_columns=3,
    )


def _target_tone(result: TargetResult) -> str:
    """Of ranks fewer is better."""
    verdict, swapped = result.verdict, {"higher": "lower", "lower": "higher"}
    is_rank = result.target.metric.endswith(("/MdR", "/MnR"))
    return TARGET_TONES.get(swapped.get(verdict, verdict) if is_rank else verdict, "quiet")


def published_cell(target: Target) -> Cell:
    """A published value with its tolerance, or that none could be read."""
    if target.value is None or target.tolerance is None:
        return Cell("unknown", tone="quiet")
    return Cell(number(target.value), f"within {number(target.tolerance)}")


def start_note(study: Study) -> str:
    """Which published row these weights are set beside, and how sure that is."""
    start = study.plan.start if study.plan is not None else None
    return f" {start.title} ({start.provenance.source}): {start.provenance.note}." if start else ""


def withheld_table(study: Study) -> Table:
    """Complete runs that must not stand in the main tables, with the reasons."""
    layout, withheld = layout_of(study), [run for run in study.runs if run.reasons]
    columns = shown_columns(layout.compared, withheld)
    rows, tidy = [], []
    for run in withheld:
        named = run.record is not None and run.record.code.commit is not None
        # Without a commit its numbers belong to no code.
        found = {c.metric: summary(c.metric, (run,)) if named else None for c in columns}
        cells = (metric_cell(value) for value in found.values())
        queries = Cell(counts_text([found[columns[0].metric]]) or "-")
        because = Cell("; ".join(run.reasons))
        rows.append((Cell(run.variant), because, Cell(str(run.seed)), queries, *cells))
        for metric, value in found.items():
            line = {"variant": run.variant, "metric": metric, "because": "; ".join(run.reasons)}
            tidy.append(line | numbers_of(value, [run]))
    return Table(
        "not_comparable",
        "Not comparable",
        (
            *("variant", "because", "seed", layout.queries),
            *(label(column, withheld) for column in columns),
        ),
        tuple(rows),
        tidy_frame(tidy, ("variant", "metric", "because", *NUMBER_COLUMNS)),
        "These runs are whole, but may not be set beside any other number.",
        num_text_columns=2,
    )
