"""With what the numbers may be compared: footnotes to them, and published systems beside them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from litevl.report.layout import layout_of
from litevl.report.runs import Run, Study, summary
from litevl.report.tables import (
    NUMBER_COLUMNS,
    Cell,
    Table,
    metric_cell,
    number,
    numbers_of,
    tidy_frame,
)
from litevl.schema import VariantTitle
from litevl.spec import Published
from litevl.spec_problems import flat
from litevl.tasks import task_of

SAMPLERS = {
    "segment-middle": "the middle frame of equal segments",
    "segment-random": "a random frame of each of equal segments",
    "blip-uniform": "BLIP's grid of frames",
    "lavis-uniform": "LAVIS's grid of frames",
}


def footnotes(study: Study) -> list[str]:
    """What a number of this study was made by, as far as it decides what it may be set beside.

    From the records of the published runs; where they differ, both are said.
    """
    notes = [list(_notes(run)) for run in study.shown]
    return list(dict.fromkeys(note for of_run in notes for note in of_run))


def _notes(run: Run) -> Iterator[str]:
    """One run's: splits, frames, scores, selection, answers, denominators."""
    assert run.record is not None
    spec, data = flat(run.record.spec), run.record.data
    if spec.get("data.train_split") is not None:
        yield f"Training split: {spec['data.train_split']}."
    if "frames.num_frames" in spec:
        sampler = str(spec.get("frames.eval_sampler", ""))
        yield (
            f"Frames: {spec['frames.num_frames']} of {spec.get('frames.size_px')} px, for the "
            f"scores {SAMPLERS.get(sampler, sampler)}; no audio, no subtitles."
        )
    if data is None:
        return
    is_retrieval = task_of(data.dataset) == "retrieval"
    if is_retrieval and "evaluate.rerank_k" in spec:
        yield (
            f"Re-ranking: the cross-encoder scores the first {spec['evaluate.rerank_k']} of the "
            f"dual encoder ({spec.get('evaluate.score')}); nothing is normalised over the test "
            "queries (no dual softmax, no query bank)."
        )
    if not is_retrieval:
        yield "Answers: right only if equal to the annotated one, letter for letter."
    if run.record.selection is not None:
        by = run.record.selection.select
        rule = "the last" if by == "last" else "the best on the validation split"
        yield f"Epoch: {rule}; test data choose nothing."
    if data.answer_list is not None:
        listed = data.answer_list
        given = f"{len(listed.only_test)} known from" if listed.only_test else "none from"
        yield (
            f"Answer list: {listed.count} answers, {listed.source}; {given} test questions alone."
        )
    test = data.splits.get("test")
    if test is not None:
        num_queries = test.captions if test.questions is None else test.questions
        lacking = f"; {test.outside_list} with an answer outside the list count as wrong"
        yield (
            f"Denominator: {num_queries} {'captions' if is_retrieval else 'questions'} of "
            f"{test.found} test clips, {test.expected} expected{lacking * bool(test.outside_list)}."
        )


def published_table(study: Study) -> Table:
    """Published systems by their first number, our variants among them; paper profile only."""
    layout, plan = layout_of(study), study.plan
    systems = plan.published if plan is not None and study.profile == "paper" else ()
    columns = [c for c in layout.columns if any(c.metric in row.values for row in systems)]
    metrics = [column.metric for column in columns]
    ours = [variant for variant in study.variants if metrics and study.published(variant.name)]
    rows = [_quoted(row, metrics) for row in systems if row.values.keys() & set(metrics)]
    rows += [_own(variant, study.published(variant.name), metrics) for variant in ours]
    rows.sort(key=lambda row: row.first)
    return Table(
        "published",
        "Published systems",
        ("system", "flags", "source", *(column.label for column in columns)),
        tuple(row.cells for row in rows),
        tidy_frame(
            [line for row in rows for line in row.lines],
            ("system", "metric", "flags", "source", "note", *NUMBER_COLUMNS),
        ),
        "As quoted, none of them run here. The flags are what is known to differ, not all of it.",
        num_text_columns=3,
    )


@dataclass(frozen=True)
class _Row:
    """A row of the table of published systems, its place in it, and its lines in the CSV."""

    first: float
    cells: tuple[Cell, ...]
    lines: list[dict[str, object]]


def _quoted(row: Published, metrics: Sequence[str]) -> _Row:
    """Another system's."""
    values = {str(metric): value for metric, value in row.values.items()}
    told, source = "; ".join(row.flags), row.provenance
    cells = [Cell(row.system), Cell(told or "-"), Cell(source.source, source.note)]
    cells += [Cell(number(values[m])) if m in values else Cell("-") for m in metrics]
    same = {"system": row.system, "flags": told, "source": source.source, "note": source.note}
    lines: list[dict[str, object]] = [
        same | {"metric": metric, "value": value} for metric, value in values.items()
    ]
    return _Row(values.get(metrics[0], 0.0), tuple(cells), lines)


def _own(variant: VariantTitle, runs: tuple[Run, ...], metrics: Sequence[str]) -> _Row:
    """One of our variants'."""
    found = {metric: summary(metric, runs) for metric in metrics}
    first = found[metrics[0]]
    cells = [Cell(variant.title, variant.name, "good"), Cell("see the footnotes"), Cell("ours")]
    cells += [metric_cell(value) for value in found.values()]
    same = {"system": variant.name, "source": "ours"}
    lines = [same | {"metric": name} | numbers_of(value, runs) for name, value in found.items()]
    return _Row(first["value"] if first else 0.0, tuple(cells), lines)
