"""Records of benchmarks as a page of tables and plots, from the records alone.

The same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import ScalarFormatter

from litevl.benchmark_record import (
    BenchmarkRecord,
    Figure,
    Quartiles,
    Row,
    machine_words,
    read_benchmarks,
)
from litevl.compare import markdown_table
from litevl.report.figures import COLOURS, MARKERS, WIDTH_INCHES, Picture, draw
from litevl.whole import write_bytes

PAGE = "README.md"
ACROSS = {  # first half of a row's name -> what grows
    "frames": "frames of a clip",
    "k": "candidates of a caption (k)",
    "gallery": "clips of the gallery",
}


def render(folder: Path) -> Path:
    """Write the page and its plots beside the records of a folder; returns the page's path.

    Raises DataError for a damaged record, RunError where it cannot write.
    """
    records = read_benchmarks(folder)
    pictures = [picture for record in records for picture in plots(record)]
    for picture in pictures:
        write_bytes(folder / f"{picture.stem}.png", picture.png)
    write_bytes(folder / PAGE, page(records, pictures).encode())
    return folder / PAGE


def page(records: Sequence[BenchmarkRecord], pictures: Sequence[Picture]) -> str:
    """The page in Markdown."""
    parts = [
        "# Speed and memory",
        "Rendered by `nox -s benchmark` from the records beside it; nothing here is typed by hand. "
        "Contenders of a row took turns in one process, on the same tensors. A ratio is the median "
        "over rounds of the seconds per item of the one beside those of the other, with its "
        "quartiles.",
    ]
    if any(record.quick for record in records):
        parts.append("**Small sizes (`--quick`): these numbers mean nothing.**")
    parts += ["## What was asked for", figures_table(records)]
    for record in records:
        parts += [f"## {record.title}", origin(record)]
        parts += [rows_table(record.rows)]
        parts += [
            f"![{picture.alt}]({picture.stem}.png)"
            for picture in pictures
            if picture.stem.startswith(f"{record.name}-")
        ]
    return "\n\n".join(parts) + "\n"


def origin(record: BenchmarkRecord) -> str:
    """Machine, versions and commit behind a record."""
    state = " with changes" if record.code.dirty else ""
    return (
        f"{machine_words(record.hardware)}; torch {record.packages.get('torch', 'unknown')}; "
        f"commit {(record.code.commit or 'unknown')[:12]}{state}."
    )


def figures_table(records: Sequence[BenchmarkRecord]) -> str:
    """Every figure with its target, and whether it is met."""
    rows = [
        (figure.claim, asked(figure), measured(figure), verdict(figure))
        for record in records
        for figure in record.figures
    ]
    return markdown_table(("figure", "asked", "measured", ""), rows)


def asked(figure: Figure) -> str:
    """The target in words."""
    if figure.at_least is not None:
        return f"at least {figure.at_least:g} {figure.unit}".rstrip()
    return f"at most {figure.at_most:g} {figure.unit}".rstrip()


def measured(figure: Figure) -> str:
    """The value, or why there is none."""
    if figure.value is None:
        return f"not measured: {figure.why_not}"
    return f"{figure.value:.3g} {figure.unit}".rstrip()


def verdict(figure: Figure) -> str:
    """Met, not met, or nothing."""
    return {None: "", True: "met", False: "**not met**"}[figure.is_met]


def rows_table(rows: Sequence[Row]) -> str:
    """All contenders of a record's rows."""
    lines = []
    for row in rows:
        conditions = ", ".join(f"{name} {value}" for name, value in row.conditions.items())
        ratios = {ratio.slower: ratio.times for ratio in row.ratios}
        for place, contender in enumerate(row.contenders):
            per_item = None if contender.flops is None else contender.flops / contender.items / 1e9
            peak = contender.peak_memory_mib
            lines.append(
                (
                    row.name if place == 0 else "",
                    contender.name,
                    f"{contender.rate:.3g} {row.item}/s",
                    seconds(contender.seconds),
                    "" if per_item is None else f"{per_item:.3g}",
                    "" if peak is None else f"{peak:.0f}",
                    times(ratios.get(contender.name)),
                    f"{conditions}; {row.rounds} rounds" if place == 0 else "",
                )
            )
    header = ("row", "contender", "rate", "seconds a call", "GFLOP an item", "peak MiB")
    return markdown_table((*header, f"{rows[0].contenders[0].name} is", "conditions"), lines)


def seconds(found: Quartiles) -> str:
    """The median, and the quartiles around it."""
    return f"{found.median:.3g} ({found.low:.3g} to {found.high:.3g})"


def times(found: Quartiles | None) -> str:
    """How many times as fast."""
    if found is None:
        return ""
    return f"{found.median:.2f} times as fast ({found.low:.2f} to {found.high:.2f})"


def plots(record: BenchmarkRecord) -> list[Picture]:
    """One plot for each kind of row that shows how cost grows: milliseconds an item."""
    found = []
    for kind, rows in groupby(record.rows, key=lambda row: row.name.partition("/")[0]):
        if kind in ACROSS:
            found.append(growth_plot(f"{record.name}-{kind}", ACROSS[kind], list(rows)))
    return found


def growth_plot(stem: str, across: str, rows: Sequence[Row]) -> Picture:
    """Milliseconds an item of each contender, against the number in the rows' names."""
    places = [int(row.name.partition("/")[2]) for row in rows]
    names = [contender.name for contender in rows[0].contenders]
    item = rows[0].item.removesuffix("s")

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        for number, name in enumerate(names):
            cost = [1e3 / row.contender(name).rate for row in rows]
            axes.plot(
                places,
                cost,
                color=COLOURS[number],
                marker=MARKERS[number],
                markersize=4,
                label=name,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(places, labels=[str(place) for place in places])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.grid(visible=True)
        axes.set_xlabel(across)
        axes.set_ylabel(f"milliseconds a {item}")
        axes.legend()
        canvas.tight_layout()

    alt = f"Milliseconds a {item} against {across}: {', '.join(names)}"
    return draw(stem, "curves", "", alt, (WIDTH_INCHES, 2.6), paint)
