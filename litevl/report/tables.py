"""The tables of results: cells for the page and for LaTeX, tidy numbers for CSV."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from litevl.metrics import Metric
from litevl.report.runs import Run, Study, summary
from litevl.report.verdicts import ClaimResult, TargetResult, compare
from litevl.spec_problems import flat

# Metric, column, group; None where the column stands alone.
COLUMNS = (
    ("t2v/R@1", "R@1", "Text to video"),
    ("t2v/R@5", "R@5", "Text to video"),
    ("t2v/R@10", "R@10", "Text to video"),
    ("t2v/MdR", "MdR", "Text to video"),
    ("v2t/R@1", "R@1", "Video to text"),
    ("v2t/R@5", "R@5", "Video to text"),
    ("v2t/R@10", "R@10", "Video to text"),
    ("t2v-itc/R@1", "t2v R@1", "No re-ranking"),
    ("order_accuracy", "order accuracy", "Use of time"),
    ("shuffle_sensitivity", "shuffle sensitivity", "Use of time"),
)
SHORT_GROUPS = {
    "Text to video": "t2v",
    "Video to text": "v2t",
    "No re-ranking": "no re-ranking,",
}
COMPARED = ("t2v/R@1", "t2v/R@5", "v2t/R@1", "order_accuracy")
MISSING = "not run"
COLUMN_NOTE = (
    "R@k: percentage of queries whose right answer is among the first k, ties against us. "
    "MdR: median rank, lower is better. No re-ranking: by the two encoders' similarity alone, "
    "before the cross-encoder sees the candidates. Order accuracy: percentage of captions that "
    "beat their time-reversed twin, 50 is chance. Shuffle sensitivity: points of text-to-video "
    "R@1 lost when the frames are shuffled. Values are means over the seeds; in brackets 95 % "
    "intervals from a bootstrap over source videos."
)


@dataclass(frozen=True)
class Cell:
    """What one cell shows: its text, a smaller second line, and a tone for colour ("good" ...)."""

    text: str
    detail: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table for every medium. `groups` are (label, columns spanned), over the whole width."""

    stem: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    frame: pd.DataFrame
    note: str = ""
    groups: tuple[tuple[str, int], ...] = ()
    num_text_columns: int = 1
    """Columns from the left that hold words and are set flush left."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Column labels that stand without the groups above them: "t2v R@1"."""
        above = [SHORT_GROUPS.get(label, "") for label, span in self.groups for _ in range(span)]
        above = above or [""] * len(self.header)
        return tuple(f"{g} {label}".strip() for g, label in zip(above, self.header, strict=True))


def number(value: float, digits: int = 1) -> str:
    """A number as the page shows it; never "-0.0"."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def metric_cell(found: Metric | None, signed: bool = False) -> Cell:
    """A value above its interval; a number without an interval is not shown."""
    if found is None:
        return Cell("-")
    if found["low"] is None or found["high"] is None:
        return Cell("-", "no interval")
    sign = "+" if signed and float(number(found["value"])) > 0 else ""
    ends = f"[{number(found['low'])}, {number(found['high'])}]"
    return Cell(sign + number(found["value"]), ends)


def seeds_text(runs: Sequence[Run]) -> str:
    return ", ".join(str(run.seed) for run in runs)


def commits_text(runs: Sequence[Run]) -> str:
    """The commits that made some runs, marked where the code was changed after the commit."""
    codes = dict.fromkeys(
        (run.record.code.commit, run.record.code.dirty) for run in runs if run.record
    )
    return ", ".join(
        f"{commit or 'unknown'}{'+changes' if dirty else ''}" for commit, dirty in codes
    )


def _tidy(rows: list[dict[str, object]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns))


NUMBER_COLUMNS = ("value", "low", "high", "n", "seeds", "commits")


def _numbers(found: Metric | None, runs: Sequence[Run]) -> dict[str, object]:
    """The columns that make a number publishable: interval, count, seeds and code."""
    if found is None or found["low"] is None:
        return dict.fromkeys(NUMBER_COLUMNS)
    return {**found, "seeds": seeds_text(runs), "commits": commits_text(runs)}


def main_table(study: Study) -> Table:
    """Every variant's metrics over its published runs."""
    rows, tidy = [], []
    for variant in study.variants:
        runs = study.published(variant.name)
        cells = [Cell(variant.title, variant.name), Cell(seeds_text(runs) or "-")]
        found = {metric: summary(metric, runs) for metric, _, _ in COLUMNS} if runs else {}
        counts = {value["n"] for value in found.values() if value is not None}
        cells.append(Cell("/".join(str(n) for n in sorted(counts, reverse=True)) or "-"))
        for metric, _, _ in COLUMNS:
            cells.append(metric_cell(found[metric]) if found else Cell(MISSING, tone="quiet"))
            line = {"variant": variant.name, "metric": metric}
            tidy.append(line | _numbers(found.get(metric), runs))
        rows.append(tuple(cells))
    spans = tuple((name, len(list(same))) for name, same in groupby(g for _, _, g in COLUMNS))
    return Table(
        "main",
        "Results",
        ("variant", "seeds", "queries", *(label for _, label, _ in COLUMNS)),
        tuple(rows),
        _tidy(tidy, ("variant", "metric", *NUMBER_COLUMNS)),
        COLUMN_NOTE,
        (("", 3), *spans),
    )


def ablation_table(study: Study) -> Table:
    """Every other variant minus the reference, paired by query and seed."""
    rows, tidy = [], []
    for variant in study.variants:
        if variant.name == study.reference:
            continue
        found = {m: compare(study, variant.name, study.reference, m) for m in COMPARED}
        seeds = found[COMPARED[0]].seeds
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
            numbers = _numbers(comparison.difference, runs)
            if comparison.difference is not None:
                numbers["seeds"] = ", ".join(map(str, seeds))
            line = {"variant": variant.name, "minus": study.reference, "metric": metric}
            tidy.append(line | numbers)
        rows.append(tuple(cells))
    labels = ("t2v R@1", "t2v R@5", "v2t R@1", "order accuracy")
    return Table(
        "ablation",
        f"What each change costs: variant minus {study.reference}, in points",
        ("variant", "seeds", *labels),
        tuple(rows),
        _tidy(tidy, ("variant", "minus", "metric", *NUMBER_COLUMNS)),
        "Mean over seeds of the differences query by query, with the 95 % interval of a bootstrap "
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
    rows, tidy = [], []
    for result in results:
        claim, found = result.claim, result.comparison
        per_seed = ", ".join(f"{number(value)}" for value in found.per_seed)
        rows.append(
            (
                Cell(claim.sentence, f"{claim.better} above {claim.worse} on {claim.metric}"),
                Cell(result.verdict, result.why, CLAIM_TONES.get(result.verdict, "quiet")),
                metric_cell(found.difference, signed=True),
                Cell(", ".join(map(str, found.seeds)) or "-", per_seed and f"by seed: {per_seed}"),
                Cell(str(found.difference["n"]) if found.difference else "-"),
            )
        )
        runs = [run for run in study.shown if run.variant in (claim.better, claim.worse)]
        numbers = _numbers(found.difference, [run for run in runs if run.seed in found.seeds])
        if found.difference is not None:
            numbers["seeds"] = ", ".join(map(str, found.seeds))
        line = {"claim": claim.name, "metric": claim.metric, "verdict": result.verdict}
        tidy.append(line | {"why": result.why} | numbers)
    return Table(
        "claims",
        "Claims",
        ("claim", "verdict", "difference", "seeds", "queries"),
        tuple(rows),
        _tidy(tidy, ("claim", "metric", "verdict", "why", *NUMBER_COLUMNS)),
        "Difference in points, paired by query over all shared seeds, with its 95 % interval. The "
        "interval speaks about other queries of this kind; the values by seed show how much "
        "another training run moves it.",
        num_text_columns=2,
    )


def targets_table(study: Study, results: Sequence[TargetResult]) -> Table:
    """One row per published number, ours beside it. Only ever made for the paper profile."""
    rows, tidy = [], []
    for result in results:
        target, ours = result.target, result.ours
        runs = [run for run in study.published(target.variant) if run.seed in result.seeds]
        gap = f"{ours['value'] - target.value:+.1f}" if ours else "-"
        rows.append(
            (
                Cell(f"{target.variant}: {target.metric}"),
                Cell(result.verdict, result.why, TARGET_TONES.get(result.verdict, "quiet")),
                Cell(target.provenance.source, target.provenance.note),
                Cell(number(target.value), f"within {number(target.tolerance)}"),
                metric_cell(ours) if ours else Cell(MISSING if not runs else "-", tone="quiet"),
                Cell(gap),
                Cell(seeds_text(runs) or "-"),
                Cell(str(ours["n"]) if ours else "-"),
            )
        )
        line = {"metric": target.metric, "variant": target.variant, "published": target.value}
        line |= {"tolerance": target.tolerance, "verdict": result.verdict, "why": result.why}
        tidy.append(line | _numbers(ours, runs))
    columns = ("metric", "variant", "published", "tolerance", "verdict", "why", *NUMBER_COLUMNS)
    return Table(
        "targets",
        "Published numbers",
        ("number", "verdict", "source", "published", "ours", "difference", "seeds", "queries"),
        tuple(rows),
        _tidy(tidy, columns),
        "The tolerance was fixed in the spec before any run. The verdict compares the mean over "
        "seeds; the interval speaks about other queries. Lower is better for MdR and MnR.",
        num_text_columns=3,
    )


def withheld_table(study: Study) -> Table:
    """Complete runs that must not stand in the main tables, with the reasons."""
    rows, tidy = [], []
    for run in study.runs:
        if run.record is None or not run.reasons:
            continue
        named = run.record.code.commit is not None  # else its numbers belong to no code
        found = {m: summary(m, (run,)) if named else None for m in COMPARED}
        cells = (metric_cell(value) for value in found.values())
        queries = str(found["t2v/R@1"]["n"]) if found["t2v/R@1"] else "-"
        because = Cell("; ".join(run.reasons))
        rows.append((Cell(run.variant), because, Cell(str(run.seed)), Cell(queries), *cells))
        for metric, value in found.items():
            line = {"variant": run.variant, "metric": metric, "because": "; ".join(run.reasons)}
            tidy.append(line | _numbers(value, [run]))
    return Table(
        "not_comparable",
        "Not comparable",
        (
            "variant",
            "because",
            "seed",
            "queries",
            "t2v R@1",
            "t2v R@5",
            "v2t R@1",
            "order accuracy",
        ),
        tuple(rows),
        _tidy(tidy, ("variant", "metric", "because", *NUMBER_COLUMNS)),
        "These runs are whole, but may not be set beside any other number.",
        num_text_columns=2,
    )
