"""The figures, one panel per file, so that a page or a paper can set them side by side or below.

The same records give the same bytes: no time stamp, no version, no settings of the user's own.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from litevl.metrics import Metric
from litevl.report.layout import LOSS, Curve, Panel, layout_of
from litevl.report.runs import Run, Study, over_seeds, summary
from litevl.report.tables import baseline_runs, metric_cell, number
from litevl.report.verdicts import ClaimResult, compare
from litevl.schema import Record

Group = Literal["ablation", "claims", "cost", "curves", "scale"]

# Okabe and Ito's palette: told apart with any kind of colour vision. Markers tell apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
INK, QUIET, RIGHT = "#222222", "#8a8a8a", "#009E73"
WIDTH_INCHES = 3.7  # one column of a paper, or the width of a phone
DOTS_PER_INCH = 200
DASHED: Any = {"color": INK, "linewidth": 0.8, "linestyle": (0, (4, 3))}
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters everywhere
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.parse_math": False,  # a dollar sign in a caption is a dollar sign
    "legend.fontsize": 7.0,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Picture:
    """One PNG with the words that go with it; an empty caption where it says all itself."""

    stem: str
    group: Group
    caption: str
    alt: str
    png: bytes
    width_px: int
    height_px: int


def draw(
    stem: str,
    group: Group,
    caption: str,
    alt: str,
    size: tuple[float, float],
    paint: Callable[[Figure], None],
) -> Picture:
    """Paint a figure of a size in inches in the house style."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=size, dpi=DOTS_PER_INCH, facecolor="white")
        paint(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    width, height = (round(inches * DOTS_PER_INCH) for inches in size)
    return Picture(stem, group, caption, alt, buffer.getvalue(), width, height)


def look(study: Study, variant: str) -> tuple[str, str]:
    """A variant's colour and marker, the same in every figure."""
    place = [known.name for known in study.variants].index(variant)
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def ablation_pictures(study: Study) -> list[Picture]:
    """Every variant's headline metrics, and its difference to the reference in the first."""
    names = [variant.name for variant in study.variants if study.published(variant.name)]
    layout, pictures = layout_of(study), []
    for panel in layout.panels:
        found = [_in_all_and_by_seed(panel.metric, study.published(name)) for name in names]
        if any(whole is not None for whole, _ in found):
            pictures.append(_intervals(study, names, found, panel))
    headline = layout.compared[0]
    others = [name for name in names if name != study.reference]
    pairs = [compare(study, name, study.reference, headline.metric) for name in others]
    if any(pair.difference is not None for pair in pairs):
        found = [(pair.difference, pair.per_seed) for pair in pairs]
        title = f"{layout.headline} minus that of {study.reference} (points)"
        panel = Panel(headline.metric, title, "ablation-difference", 0.0, "no difference")
        pictures.insert(1, _intervals(study, others, found, panel))
    return pictures


def _in_all_and_by_seed(
    metric: str, runs: tuple[Run, ...]
) -> tuple[Metric | None, tuple[float, ...]]:
    values = over_seeds(metric, runs)
    by_seed = () if values is None else tuple(float(row.mean()) for row in values)
    return summary(metric, runs), by_seed


def _intervals(
    study: Study,
    names: Sequence[str],
    found: Sequence[tuple[Metric | None, tuple[float, ...]]],
    panel: Panel,
) -> Picture:
    """Dots with 95 % intervals, one row a variant; the seeds as small open marks below them."""
    line = _place_of_line(study, panel)

    def paint(figure: Figure) -> None:
        axes = figure.add_axes((0.38, 0.27 / height, 0.59, (height - 0.6) / height))
        axes.grid(axis="x")
        if line is not None:
            axes.axvline(line, **DASHED)
        for row, (name, (whole, by_seed)) in enumerate(zip(names, found, strict=True)):
            colour, marker = look(study, name)
            if whole is None or whole["low"] is None or whole["high"] is None:
                continue
            axes.plot([whole["low"], whole["high"]], [row, row], color=colour, linewidth=1.6)
            axes.plot(whole["value"], row, marker, color=colour, markersize=5.5)
            if len(by_seed) > 1:
                heights = [row + 0.3] * len(by_seed)
                axes.plot(by_seed, heights, marker, mfc="none", mec=colour, mew=0.7, markersize=3)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        figure.text(0.02, 1 - 0.2 / height, panel.title, fontsize=8.5, fontweight="bold")

    # All panels equally high, so that they line up: also the one without the reference.
    height = 0.7 + 0.34 * len({run.variant for run in study.shown})
    several = any(len(by_seed) > 1 for _, by_seed in found)
    caption = f"{panel.title} with 95 % intervals over queries" + (
        "; open marks are single seeds." if several else ", one seed."
    )
    caption += "" if line is None else f" Dashed: {panel.line_words}."
    alt = f"{panel.title}: " + "; ".join(
        f"{name} {number(whole['value'])}" if whole else f"{name} missing"
        for name, (whole, _) in zip(names, found, strict=True)
    )
    return draw(panel.stem, "ablation", caption, alt, (WIDTH_INCHES, height), paint)


def _place_of_line(study: Study, panel: Panel) -> float | None:
    """Where a panel's dashed line goes: its number, or what its baseline gets."""
    if isinstance(panel.line, str):
        runs = baseline_runs(study)
        found = summary(panel.line, runs) if runs else None
        return found["value"] if found is not None else None
    return panel.line


def cost_pictures(study: Study) -> list[Picture]:
    """What a variant costs to use against what it gets; none without a published run."""
    headline = layout_of(study).compared[0]
    found = []
    for variant in study.variants:
        runs = study.published(variant.name)
        cost = next((run.record.cost for run in runs if run.record), None)
        value = summary(headline.metric, runs) if runs else None
        if cost is None or value is None or value["low"] is None or value["high"] is None:
            continue
        gflops = (cost.flops_per_clip + cost.flops_per_pair) / 1e9
        found.append((variant.name, gflops, value["value"], (value["low"], value["high"])))
    if not found:
        return []

    def paint(figure: Figure) -> None:
        axes = figure.add_axes((0.12, 1.02 / height, 0.85, (height - 1.35) / height))
        axes.grid()
        for name, gflops, value, ends in found:
            colour, marker = look(study, name)
            axes.plot([gflops, gflops], ends, color=colour, linewidth=1.4)
            axes.plot(gflops, value, marker, color=colour, markersize=5.5, label=name)
        axes.margins(x=0.12)
        axes.set_xlabel("GFLOP for a clip and one pair")
        figure.legend(loc="lower center", ncols=2, handlelength=1.2, columnspacing=1.2)
        figure.text(0.02, 1 - 0.2 / height, title, fontsize=8.5, fontweight="bold")

    height, title = 2.9, f"{headline.label} (%) against the cost of using it"
    caption = f"{headline.label} with 95 % intervals over queries, against counted operations."
    alt = f"{title}: " + "; ".join(
        f"{name} {value:.1f} at {gflops:.2f} GFLOP" for name, gflops, value, _ in found
    )
    return [draw("cost", "cost", caption, alt, (WIDTH_INCHES, height), paint)]


def claim_pictures(found: Sequence[tuple[str, ClaimResult]]) -> list[Picture]:
    """Every claim's difference, the same claim on one data set below the other; none without any.

    found: (data set, result), the results of a claim in a row.
    """
    if not any(result.comparison.difference for _, result in found):
        return []
    pairs = dict.fromkeys((result.claim.better, result.claim.worse) for _, result in found)
    places = {title: place for place, title in enumerate(dict.fromkeys(t for t, _ in found))}
    height = 0.75 + 0.2 * (len(found) + 1.4 * len(pairs))

    def paint(figure: Figure) -> None:
        axes = figure.add_axes((0.36, 0.42 / height, 0.61, (height - 0.72) / height))
        axes.grid(axis="x")
        axes.axvline(0, **DASHED)
        row, rows, labels = -0.4, [], []
        for better, worse in pairs:
            row += 1.4
            words, across = f"{better} minus {worse}", axes.get_yaxis_transform()
            paper = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
            axes.text(-0.56, row - 0.9, words, transform=across, va="center", bbox=paper)
            for title, result in found:
                if (result.claim.better, result.claim.worse) == (better, worse):
                    _difference(axes, row, result, places[title])
                    rows.append(row)
                    labels.append(f"{title}, {result.claim.metric.removeprefix('t2v/')}")
                    row += 1
        axes.set_yticks(rows, labels)
        axes.set_ylim(row - 0.3, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("points")
        figure.text(0.02, 1 - 0.2 / height, "What each part adds", fontsize=8.5, fontweight="bold")

    caption = (
        "Each claim's difference in points with its 95 % interval, on each data set. Filled: "
        "supported or contradicted. Open: inconclusive."
    )
    shown = [metric_cell(result.comparison.difference, signed=True).text for _, result in found]
    alt = "Differences in points: " + "; ".join(
        f"{title} {result.claim.better} minus {result.claim.worse} "
        + (result.verdict if difference == "-" else difference)
        for (title, result), difference in zip(found, shown, strict=True)
    )
    return [draw("claims", "claims", caption, alt, (WIDTH_INCHES, height), paint)]


def _difference(axes: Axes, row: float, result: ClaimResult, place: int) -> None:
    """One claim's dot and interval, or the word for why there is none."""
    whole, colour = result.comparison.difference, COLOURS[place % len(COLOURS)]
    if whole is None or whole["low"] is None or whole["high"] is None:
        axes.text(0, row, f" {result.verdict}", color=QUIET, fontsize=6.5, va="center")
        return
    fill = colour if result.verdict in ("supported", "contradicted") else "white"
    marker = MARKERS[place % len(MARKERS)]
    axes.plot([whole["low"], whole["high"]], [row, row], color=colour, linewidth=1.4)
    axes.plot(whole["value"], row, marker, color=colour, markerfacecolor=fill, markersize=5)


def curve_pictures(study: Study) -> list[Picture]:
    """Training loss, and on the validation split what the task looks at, by training step."""
    pictures = []
    for curve in layout_of(study).curves:
        lines = [
            (run.variant, points)
            for run in study.shown
            if run.record is not None and (points := _points(curve, run.record))
        ]
        if lines:
            pictures.append(_curves(study, lines, curve))
    return pictures


def _points(curve: Curve, record: Record) -> list[tuple[int, float]]:
    """What a record has of a curve; the losses of single steps smoothed."""
    points = [(step, value) for step, value in curve.points(record) if value is not None]
    return smoothed(points) if curve is LOSS else points


def smoothed(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """A moving mean over a fortieth of the points, to show the course and not the batches."""
    width = max(1, len(points) // 40)
    values = np.array([value for _, value in points])
    means = np.convolve(values, np.ones(width) / width, mode="valid")
    return [(points[i + width // 2][0], float(mean)) for i, mean in enumerate(means)]


def _curves(
    study: Study, lines: list[tuple[str, list[tuple[int, float]]]], curve: Curve
) -> Picture:
    """One line a run, coloured by variant; the legend below."""

    def paint(figure: Figure) -> None:
        below = 0.5 + 0.14 * num_legend_rows
        axes = figure.add_axes((0.12, below / height, 0.85, (height - below - 0.33) / height))
        axes.grid(axis="y")
        labelled = set()
        for variant, points in lines:
            colour, marker = look(study, variant)
            steps, values = zip(*points, strict=True)
            sparse = len(points) <= 40
            axes.plot(
                steps,
                values,
                marker=marker if sparse else None,
                color=colour,
                linewidth=1.2,
                markersize=3,
                alpha=1.0 if len(lines) <= len(study.variants) else 0.65,
                label=None if variant in labelled else variant,
            )
            labelled.add(variant)
        axes.set_xlabel("training step")
        axes.xaxis.set_major_locator(
            MaxNLocator(6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
        )
        axes.margins(x=0.02)
        if curve.chance is not None:
            axes.axhline(curve.chance, **DASHED)
        figure.legend(loc="lower center", ncols=2, handlelength=1.6, columnspacing=1.2)
        figure.text(0.02, 1 - 0.2 / height, curve.title, fontsize=8.5, fontweight="bold")

    height, num_legend_rows = 2.9, -(-len({variant for variant, _ in lines}) // 2)
    caption = f"{curve.title}, one line a run."
    if curve is LOSS:
        caption = f"{curve.title}, a moving mean over a fortieth of the steps; one line a run."
    caption += "" if curve.chance is None else " Dashed: chance."
    last: dict[str, list[float]] = {}
    for variant, points in lines:
        last.setdefault(variant, []).append(points[-1][1])
    ends = "; ".join(f"{variant} ends at {np.mean(value):.1f}" for variant, value in last.items())
    return draw(
        curve.stem, "curves", caption, f"{curve.title}: {ends}", (WIDTH_INCHES, height), paint
    )


def scale_pictures(study: Study) -> list[Picture]:
    """The learned scale per layer and frame, of the reference or else the first that has one."""
    names = [study.reference, *(variant.name for variant in study.variants)]
    for name in names:
        runs = [run.record for run in study.published(name) if run.record]
        scales = [np.array(record.temporal_scale) for record in runs if record.temporal_scale]
        if scales and len({scale.shape for scale in scales}) == 1:
            return [_scale_picture(name, np.mean(scales, axis=0), len(scales))]
    return []


def _scale_picture(name: str, scale: np.ndarray, num_seeds: int) -> Picture:
    """A heat map with numbers; white is 1, where every scale starts."""
    num_layers, num_frames = scale.shape
    width = max(WIDTH_INCHES, 0.9 + 0.36 * num_frames)
    height = 0.95 + 0.27 * num_layers

    def paint(figure: Figure) -> None:
        axes = figure.add_axes(
            (0.55 / width, 0.42 / height, (width - 0.65) / width, (height - 0.8) / height)
        )
        reach = max(0.02, float(np.abs(scale - 1).max()))
        norm = TwoSlopeNorm(vcenter=1, vmin=1 - reach, vmax=1 + reach)
        axes.imshow(scale, cmap="PuOr_r", norm=norm, aspect="auto")
        for (layer, frame), value in np.ndenumerate(scale):
            ink = "white" if abs(value - 1) > 0.65 * reach else INK
            axes.text(
                frame, layer, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=ink
            )
        axes.set_xticks(range(num_frames), [str(t + 1) for t in range(num_frames)])
        axes.set_yticks(range(num_layers), [str(layer + 1) for layer in range(num_layers)])
        axes.set_xlabel("frame")
        axes.set_ylabel("layer")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        title = f"Learned temporal scale, {name}"
        figure.text(0.08 / width, 1 - 0.2 / height, title, fontsize=8.5, fontweight="bold")

    over = f"mean over {num_seeds} seeds" if num_seeds > 1 else "one seed"
    caption = (
        f"How strongly the temporal attention of {name} acts, per layer and frame ({over}). Every "
        "scale starts at 1 (white) and can move between 0 and 2."
    )
    span = f"{scale.min():.2f} to {scale.max():.2f}"
    alt = f"Heat map of {num_layers} layers by {num_frames} frames, {span}"
    return draw("temporal-scale", "scale", caption, alt, (width, height), paint)
