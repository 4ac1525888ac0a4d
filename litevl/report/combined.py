"""All studies of one profile on one page: the paper's table layout, and every claim's verdict."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import pandas as pd

from litevl.metrics import Metric
from litevl.report.accounts import SHORT, code_warnings
from litevl.report.layout import (
    DATASET_TITLES,
    LAYOUTS,
    SEEDS_NOTE,
    Layout,
    dataset_of,
    layout_of,
)
from litevl.report.runs import Run, Study, summary
from litevl.report.tables import (
    CLAIM_COLUMNS,
    CLAIM_TONES,
    CLAIMS_NOTE,
    MISSING,
    NUMBER_COLUMNS,
    Cell,
    Heading,
    Table,
    baseline_runs,
    claim_row,
    commits_text,
    counts_text,
    kinds_text,
    metric_cell,
    numbers_of,
    seeds_text,
    tidy_frame,
)
from litevl.report.verdicts import ClaimResult, TargetResult
from litevl.tasks import task_of


@dataclass(frozen=True)
class Judged:
    """A study with its verdicts."""

    study: Study
    claims: tuple[ClaimResult, ...]
    targets: tuple[TargetResult, ...]


def folder_name(study: Study) -> str:
    """The folder of a study's own report."""
    return f"{study.spec}-{study.profile}"


@dataclass(frozen=True)
class Block:
    """One data set's columns; without a study where no run of it was ever planned."""

    title: str
    layout: Layout
    judged: Judged | None

    @property
    def study(self) -> Study | None:
        return self.judged.study if self.judged is not None else None

    @property
    def link(self) -> str:
        """The study's own report, seen from the folder of the combined one."""
        return f"../{quote(folder_name(self.study))}/index.html" if self.study is not None else ""

    def runs(self, variant: str) -> tuple[Run, ...]:
        return self.study.published(variant) if self.study is not None else ()


def blocks_of(studies: Sequence[Judged]) -> list[Block]:
    """The paper's data sets in its order, each with its study or studies, then any other study."""
    blocks = []
    for name, title in DATASET_TITLES.items():
        of_it = [judged for judged in studies if dataset_of(judged.study) == name]
        for judged in of_it:
            more = f" ({judged.study.spec})" if len(of_it) > 1 else ""
            blocks.append(Block(title + more, layout_of(judged.study), judged))
        if not of_it:
            blocks.append(Block(title, LAYOUTS[task_of(name)], None))
    others = [judged for judged in studies if not dataset_of(judged.study)]
    return blocks + [Block(j.study.spec, layout_of(j.study), j) for j in others]


def results_table(blocks: Sequence[Block]) -> Table:
    """A row for each variant of any study, a group of columns for each data set."""
    titles: dict[str, str] = {}
    for block in blocks:
        for variant in block.study.variants if block.study is not None else ():
            titles.setdefault(variant.name, variant.title)
    found = {
        (block.title, name): {c.metric: summary(c.metric, runs) for c in block.layout.combined}
        for block in blocks
        for name in titles
        if (runs := block.runs(name))
    }
    rows, tidy = [], []
    for name, title in titles.items():
        cells = [Cell(title, name), Cell(_seeds(blocks, name))]
        for block in blocks:
            values = found.get((block.title, name), {})
            for column in block.layout.combined:
                value = values.get(column.metric)
                cells.append(metric_cell(value) if values else _absent(block, name))
                line = _line(block, name, column.metric)
                tidy.append(line | numbers_of(value, block.runs(name)))
        rows.append(tuple(cells))
    foot, of_foot = _baselines(blocks)
    notes = dict.fromkeys(block.layout.combined_note for block in blocks)
    return Table(
        "combined",
        "Results",
        ("variant", "seeds", *(column.label for b in blocks for column in b.layout.combined)),
        tuple(rows),
        tidy_frame(tidy + of_foot, ("dataset", "spec", "variant", "metric", *NUMBER_COLUMNS)),
        " ".join((*notes, SEEDS_NOTE, BASELINE_NOTE if foot else "")).strip(),
        (Heading("", 2), *(_heading(block, found) for block in blocks)),
        foot=foot,
    )


BASELINE_NOTE = (
    "The rows at the foot need no model: majority answers are chosen in hindsight, on the test "
    "questions themselves."
)
Found = dict[tuple[str, str], dict[str, Metric | None]]  # block and variant -> metric -> value


def _heading(block: Block, found: Found) -> Heading:
    """A data set's name with the number of its queries."""
    metric = block.layout.combined[0].metric
    count = counts_text(v.get(metric) for (title, _), v in found.items() if title == block.title)
    words = f"{block.title}, {count} {block.layout.queries}" if count else block.title
    return Heading(words, len(block.layout.combined), block.title)


def _line(block: Block, variant: str, metric: str) -> dict[str, object]:
    spec = block.study.spec if block.study is not None else ""
    return {"dataset": block.title, "spec": spec, "variant": variant, "metric": metric}


def _seeds(blocks: Sequence[Block], variant: str) -> str:
    """A variant's seeds, data set by data set where they are not everywhere the same."""
    seeds = {b.title: seeds_text(runs) for b in blocks if (runs := b.runs(variant))}
    if len(set(seeds.values())) > 1:
        return "; ".join(f"{title} {text}" for title, text in seeds.items())
    return next(iter(seeds.values()), "-")


def _absent(block: Block, variant: str) -> Cell:
    """Why a variant has no number on a data set: in one word what became of its runs."""
    if block.study is not None and variant not in {v.name for v in block.study.variants}:
        return Cell("-", tone="quiet")
    runs = block.study.runs if block.study is not None else ()
    mine = [run for run in runs if run.variant == variant and run.outcome != "not run"]
    if any(run.reasons for run in mine):
        return Cell("not comparable", tone="quiet")
    return Cell(mine[0].outcome if mine else MISSING, tone="quiet")


def _baselines(
    blocks: Sequence[Block],
) -> tuple[tuple[tuple[Cell, ...], ...], list[dict[str, object]]]:
    """What needs no model, under the columns of the data sets that have such baselines."""
    test = {b.title: runs for b in blocks if b.study and (runs := baseline_runs(b.study))}
    kinds = {base.title: base for b in blocks if b.title in test for base in b.layout.baselines}
    rows, tidy = [], []
    for kind in kinds.values():
        cells = [Cell(kind.title, kind.detail), Cell("")]
        for block in blocks:
            known = kind.metrics if block.title in test and kind in block.layout.baselines else {}
            for column in block.layout.combined:
                metric = known.get(column.metric)
                value = summary(metric, test[block.title]) if metric else None
                cells.append(metric_cell(value) if metric else Cell(""))
                if metric:
                    line = _line(block, "any", metric)
                    tidy.append(line | numbers_of(value, test[block.title]))
        rows.append(tuple(cells))
    return tuple(rows), tidy


def claims(blocks: Sequence[Block]) -> list[tuple[Block, ClaimResult]]:
    """Every study's claims: the same claim on one data set after the other."""
    found = [(b, result) for b in blocks if b.judged is not None for result in b.judged.claims]
    names = list(dict.fromkeys(result.claim.name for _, result in found))
    return sorted(found, key=lambda entry: names.index(entry[1].claim.name))


def verdicts_table(blocks: Sequence[Block]) -> Table:
    """A row for each claim, a column for each data set: the verdicts at one glance."""
    found = claims(blocks)
    titles = list(dict.fromkeys(block.title for block, _ in found))
    rows: dict[tuple[str, str], dict[str, Cell]] = {}
    for block, result in found:
        shown = metric_cell(result.comparison.difference, signed=True)
        words = f"{shown.text} {shown.detail}" if result.comparison.difference else ""
        cell = Cell(result.verdict, words, CLAIM_TONES.get(result.verdict, "quiet"))
        pair = f"{result.claim.better} above {result.claim.worse}"
        rows.setdefault((pair, result.claim.name), {})[block.title] = cell
    pairs = [pair for pair, _ in rows]
    cells = tuple(
        (
            Cell(pair, name if pairs.count(pair) > 1 else ""),
            *(of_data.get(title, Cell("-")) for title in titles),
        )
        for (pair, name), of_data in rows.items()
    )
    texts = [[f"{cell.text} {cell.detail}".strip() for cell in row] for row in cells]
    return Table(
        "verdicts",
        "Verdicts",
        ("claim", *titles),
        cells,
        pd.DataFrame(texts, columns=["claim", *titles]),
        "Differences in points; what each claim says, and its values by seed, stands below.",
        num_text_columns=1 + len(titles),
    )


def claims_table(blocks: Sequence[Block]) -> Table:
    """One row per claim and data set, with a link to the report that has the details."""
    rows, tidy = [], []
    for block, result in claims(blocks):
        assert block.study is not None
        (claim, *cells), line = claim_row(block.study, result)
        rows.append((claim, Cell(block.title, link=f"{block.link}#claims"), *cells))
        tidy.append({"dataset": block.title, "spec": block.study.spec} | line)
    return Table(
        "claims",
        "Claims",
        ("claim", "data set", "verdict", "difference", "seeds", "queries"),
        tuple(rows),
        tidy_frame(tidy, ("dataset", "spec", *CLAIM_COLUMNS)),
        f"{CLAIMS_NOTE} The intervals are not widened for the number of claims.",
        num_text_columns=3,
    )


def studies_table(blocks: Sequence[Block]) -> Table:
    """Where the numbers come from: each data set's runs, seeds, code, data and weights."""
    rows, tidy = [], []
    for block in blocks:
        study = block.study
        if study is None:
            rows.append((Cell(block.title), Cell(MISSING, tone="quiet"), *[Cell("-")] * 4))
            continue
        records = [run.record for run in study.shown if run.record is not None]
        data = sorted({record.data.fingerprint for record in records if record.data})
        weights = sorted({(r.weights.source, r.weights.sha256) for r in records if r.weights})
        outcomes = kinds_text(run.outcome for run in study.runs)
        seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in study.shown}))
        rows.append(
            (
                Cell(block.title, study.title, link=block.link),
                Cell(outcomes, f"{study.profile} profile: {study.profile_reason}"),
                Cell(seeds or "-"),
                Cell(commits_text(study.shown, SHORT) or "-"),
                Cell(", ".join(fingerprint[:SHORT] for fingerprint in data) or "-"),
                Cell(", ".join(f"{source} {sha[:SHORT]}" for source, sha in weights) or "-"),
            )
        )
        line: dict[str, object] = {
            "dataset": block.title,
            "spec": study.spec,
            "runs": outcomes,
            "seeds": seeds,
        }
        line |= {"commits": commits_text(study.shown), "data": ", ".join(data)}
        line |= {"weights": ", ".join(f"{source} {sha}" for source, sha in weights)}
        tidy.append(line | {"ids": " ".join(run.id for run in study.shown)})
    columns = ("dataset", "spec", "runs", "seeds", "commits", "data", "weights", "ids")
    return Table(
        "studies",
        "Where the numbers come from",
        ("data set", "runs", "seeds", "commits", "data", "weights"),
        tuple(rows),
        tidy_frame(tidy, columns),
        "Each data set's own report has every run, its settings with their sources, and its costs. "
        "The CSV file names the runs behind the numbers and gives every hash in full.",
        num_text_columns=6,
    )


def lead(blocks: Sequence[Block]) -> list[str]:
    """The answer in a few sentences: how much ran, and the verdicts by kind."""
    studies = [block.study for block in blocks if block.study is not None]
    runs = [run for study in studies for run in study.runs]
    lines = [f"{len(runs)} runs planned: {kinds_text(run.outcome for run in runs)}."]
    lacking = [block.title for block in blocks if block.study is None]
    if lacking:
        lines.append(f"No run planned yet: {', '.join(lacking)}.")
    found = [result for _, result in claims(blocks)]
    if found:
        lines.append(f"Claims: {kinds_text(result.verdict for result in found)}.")
    targets = [result for b in blocks if b.judged is not None for result in b.judged.targets]
    if targets:
        lines.append(f"Published numbers: {kinds_text(result.verdict for result in targets)}.")
    shown = [run for study in studies for run in study.shown]
    if shown:
        lines.append(f"Code of the numbers below: {commits_text(shown)}.")
    return lines


def warnings(blocks: Sequence[Block]) -> Iterator[str]:
    """What a reader should know of each study's code and data, and of all of them together."""
    studies = [block.study for block in blocks if block.study is not None]
    for block in blocks:
        if block.study is not None:
            yield from (f"{block.title}: {line}" for line in code_warnings(block.study))
    records = [run.record for study in studies for run in study.shown if run.record is not None]
    commits = {record.code.commit for record in records}
    if len(commits) > 1:
        yield f"The data sets' runs come from {len(commits)} different commits."
    if len({record.weights.sha256 for record in records if record.weights}) > 1:
        yield "The data sets' runs did not all start from the same weights."
