"""The figures, one panel per file, so that a page or a paper can set them side by side or below.

The same records give the same bytes: no time stamp, no version, no settings of the user's own.
"""

import io
import textwrap
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
from litevl.report.runs import Run, Study, over_seeds, summary
from litevl.report.verdicts import compare
from litevl.schema import Arrays, Record

Group = Literal["ablation", "curves", "scale", "strips"]

# Okabe and Ito's palette: told apart with any kind of colour vision. Markers tell apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
INK, QUIET, RIGHT = "#222222", "#8a8a8a", "#009E73"
WIDTH_INCHES = 3.7  # one column of a paper, or the width of a phone
DOTS_PER_INCH = 200
STRIPS_PER_KIND = 3
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
    """Every variant's R@1 and order accuracy, and its difference to the reference."""
    names = [variant.name for variant in study.variants if study.published(variant.name)]
    if not names:
        return []
    pictures = []
    for metric, title, stem, chance in (
        ("t2v/R@1", "Text-to-video R@1 (%)", "ablation-recall", None),
        ("order_accuracy", "Order accuracy (%)", "ablation-order", 50.0),
    ):
        found = [_in_all_and_by_seed(metric, study.published(name)) for name in names]
        pictures.append(_intervals(study, names, found, title, stem, chance))
    others = [name for name in names if name != study.reference]
    pairs = [compare(study, name, study.reference, "t2v/R@1") for name in others]
    if any(pair.difference is not None for pair in pairs):
        found = [(pair.difference, pair.per_seed) for pair in pairs]
        title = f"R@1 minus that of {study.reference} (points)"
        pictures.insert(1, _intervals(study, others, found, title, "ablation-difference", 0.0))
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
    title: str,
    stem: str,
    line: float | None,
) -> Picture:
    """Dots with 95 % intervals, one row a variant; the seeds as small open marks below them."""

    def paint(figure: Figure) -> None:
        axes = figure.add_axes((0.38, 0.27 / height, 0.59, (height - 0.6) / height))
        axes.grid(axis="x")
        if line is not None:
            axes.axvline(line, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
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
        figure.text(0.02, 1 - 0.2 / height, title, fontsize=8.5, fontweight="bold")

    # All panels equally high, so that they line up: also the one without the reference.
    height = 0.7 + 0.34 * len({run.variant for run in study.shown})
    several = any(len(by_seed) > 1 for _, by_seed in found)
    caption = f"{title} with 95 % intervals over queries" + (
        "; open marks are single seeds." if several else ", one seed."
    )
    alt = f"{title}: " + "; ".join(
        f"{name} {whole['value']:.1f}" if whole else f"{name} missing"
        for name, (whole, _) in zip(names, found, strict=True)
    )
    return draw(stem, "ablation", caption, alt, (WIDTH_INCHES, height), paint)


def curve_pictures(study: Study) -> list[Picture]:
    """Training loss, and on the validation split R@1 and order accuracy, by training step."""
    panels: tuple[tuple[str, str, Callable[[Record], list[tuple[int, float]]]], ...] = (
        (
            "curve-loss",
            "Training loss",
            lambda r: smoothed([(p.step, p.loss) for p in r.curves.train]),
        ),
        (
            "curve-validation-recall",
            "Validation t2v R@1 (%), without re-ranking",
            lambda r: [
                (p.step, p.recall_at_1) for p in r.curves.validation if p.recall_at_1 is not None
            ],
        ),
        (
            "curve-validation-order",
            "Validation order accuracy (%)",
            lambda r: [
                (p.step, p.order_accuracy)
                for p in r.curves.validation
                if p.order_accuracy is not None
            ],
        ),
    )
    pictures = []
    for stem, title, points_of in panels:
        lines = [
            (run.variant, points)
            for run in study.shown
            if run.record is not None and (points := points_of(run.record))
        ]
        if lines:
            pictures.append(_curves(study, lines, title, stem))
    return pictures


def smoothed(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """A moving mean over a fortieth of the points, to show the course and not the batches."""
    width = max(1, len(points) // 40)
    values = np.array([value for _, value in points])
    means = np.convolve(values, np.ones(width) / width, mode="valid")
    return [(points[i + width // 2][0], float(mean)) for i, mean in enumerate(means)]


def _curves(
    study: Study, lines: list[tuple[str, list[tuple[int, float]]]], title: str, stem: str
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
        if stem == "curve-validation-order":
            axes.axhline(50, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        figure.legend(loc="lower center", ncols=2, handlelength=1.6, columnspacing=1.2)
        figure.text(0.02, 1 - 0.2 / height, title, fontsize=8.5, fontweight="bold")

    height, num_legend_rows = 2.9, -(-len({variant for variant, _ in lines}) // 2)
    caption = f"{title}, one line a run."
    if stem == "curve-loss":
        caption = f"{title}, a moving mean over a fortieth of the steps; one line a run."
    last: dict[str, list[float]] = {}
    for variant, points in lines:
        last.setdefault(variant, []).append(points[-1][1])
    ends = "; ".join(f"{variant} ends at {np.mean(value):.1f}" for variant, value in last.items())
    return draw(stem, "curves", caption, f"{title}: {ends}", (WIDTH_INCHES, height), paint)


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


def strip_pictures(run: Run, strips: Arrays) -> list[Picture]:
    """Retrieved clips for a few captions answered right and a few answered wrong."""
    assert run.arrays is not None
    right = strips["right"].astype(bool)
    chosen = [*np.flatnonzero(right)[:STRIPS_PER_KIND], *np.flatnonzero(~right)[:STRIPS_PER_KIND]]
    return [_strip_picture(run.arrays, strips, int(example)) for example in chosen]


def _strip_picture(arrays: Arrays, strips: Arrays, example: int) -> Picture:
    """One caption and the clips ranked first for it, the pooling weight under each frame."""
    query = int(strips["queries"][example])
    truth, top = int(arrays["truth"][query]), strips["top"][example]
    rank, num_rows = int(arrays["t2v_ranks"][query, 1]), len(top)
    lines = textwrap.wrap(str(arrays["captions"][query]), 58, max_lines=3)
    num_frames = strips["frames"].shape[2]
    film = (WIDTH_INCHES - 0.2) / num_frames  # inches a frame is wide and high
    row_height, head = 0.2 + film + 0.42, 0.36 + 0.14 * len(lines)
    height = head + num_rows * row_height + 0.06
    tallest = max(1.5, float(strips["frame_weights"][example].max()))

    def paint(figure: Figure) -> None:
        outcome = "right clip first" if strips["right"][example] else f"right clip at rank {rank}"
        colour = RIGHT if strips["right"][example] else COLOURS[1]
        figure.text(0.03, 1 - 0.2 / height, outcome, fontweight="bold", color=colour, fontsize=8)
        figure.text(0.03, 1 - 0.3 / height, "\n".join(lines), va="top", linespacing=1.25)
        for row in range(num_rows):
            top_edge = height - head - row * row_height
            is_right = int(top[row]) == truth
            words = f"{row + 1}.  {arrays['gallery_ids'][top[row]]}"
            words += f"   score {strips['scores'][example, row]:.2f}"
            words += "   the right clip" if is_right else ""
            ink = RIGHT if is_right else INK
            figure.text(0.03, (top_edge - 0.14) / height, words, fontsize=6.5, color=ink)
            left, across = 0.1 / WIDTH_INCHES, film * num_frames / WIDTH_INCHES
            image = figure.add_axes(
                (left, (top_edge - 0.18 - film) / height, across, film / height)
            )
            _film(image, strips["frames"][example, row], RIGHT if is_right else QUIET)
            bars = figure.add_axes((left, (top_edge - 0.44 - film) / height, across, 0.24 / height))
            _weights(bars, strips["frame_weights"][example, row], tallest)

    kind = "right" if strips["right"][example] else "wrong"
    alt = f"{arrays['captions'][query]} Frames of the {num_rows} clips ranked first; "
    alt += f"the right clip has rank {rank}."
    stem = f"strip-{kind}-{example}"
    return draw(stem, "strips", "", alt, (WIDTH_INCHES, height), paint)


def _film(axes: Axes, frames: np.ndarray, edge: str) -> None:
    """Frames (T, S, S, 3) side by side."""
    stride = max(1, frames.shape[1] // 112)
    small = frames[:, ::stride, ::stride]
    gap = np.full((small.shape[0], small.shape[1], max(1, small.shape[2] // 32), 3), 255, np.uint8)
    spaced = np.concatenate([*np.concatenate([small, gap], axis=2)], axis=1)
    axes.imshow(spaced[:, : -gap.shape[2]], aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(visible=True, color=edge, linewidth=1.6 if edge == RIGHT else 0.5)


def _weights(axes: Axes, weights: np.ndarray, tallest: float) -> None:
    """A bar under each frame; the line marks 1, the weight of every frame without a preference."""
    axes.bar(range(len(weights)), weights, width=0.5, color=COLOURS[5])
    axes.axhline(1, color=QUIET, linewidth=0.5)
    if len(weights) <= 12:
        for place, weight in enumerate(weights):
            axes.text(place, -0.1 * tallest, f"{weight:.2f}", fontsize=5.5, ha="center", va="top")
    axes.set_xlim(-0.5, len(weights) - 0.5)
    axes.set_ylim(0, tallest)
    axes.axis("off")
