"""Film strips: what a model did with a few queries, frame by frame.

Shapes: T frames, S pixels.
"""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave

from litevl.data.video import Frames
from litevl.errors import DataError
from litevl.report.figures import COLOURS, INK, QUIET, RIGHT, WIDTH_INCHES, Picture, draw
from litevl.report.runs import Run
from litevl.schema import Arrays

STRIPS_PER_KIND = 3


def strip_pictures(run: Run, strips: Arrays) -> list[Picture]:
    """A few queries answered right and a few answered wrong: captions or questions."""
    assert run.arrays is not None
    right = strips["right"].astype(bool)
    chosen = [*np.flatnonzero(right)[:STRIPS_PER_KIND], *np.flatnonzero(~right)[:STRIPS_PER_KIND]]
    picture = _question_picture if "answer_list" in run.arrays else _caption_picture
    return [picture(run.arrays, strips, int(example)) for example in chosen]


def _caption_picture(arrays: Arrays, strips: Arrays, example: int) -> Picture:
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


def _question_picture(arrays: Arrays, strips: Arrays, example: int) -> Picture:
    """One question, the answers ranked first for it, and its clip with the pooling weights."""
    query, is_right = int(strips["queries"][example]), bool(strips["right"][example])
    question, gold = str(arrays["questions"][query]), str(arrays["answers"][query])
    clip, scores = str(arrays["clip_ids"][query]), arrays["top_scores"][query]
    given = [str(arrays["answer_list"][place]) for place in arrays["top"][query]]
    lines = textwrap.wrap(question, 58, max_lines=3)
    film = (WIDTH_INCHES - 0.2) / strips["frames"].shape[1]  # inches a frame is wide and high
    head = 0.36 + 0.14 * len(lines)
    height = head + 0.2 + film + 0.5 + 0.14 * (len(given) + 1) + 0.06
    weights = strips["frame_weights"][example]
    outcome = "right" if is_right else "wrong"
    if not arrays["in_list"][query]:
        outcome += ", the answer is not in the list"

    def paint(figure: Figure) -> None:
        def write(inches: float, words: str, **how: Any) -> None:
            figure.text(0.03, (height - inches) / height, words, **how)

        colour = RIGHT if is_right else COLOURS[1]
        write(0.2, outcome, fontweight="bold", color=colour, fontsize=8)
        write(0.3, "\n".join(lines), va="top", linespacing=1.25)
        write(head + 0.14, clip, fontsize=6.5)
        left, across = 0.1 / WIDTH_INCHES, (WIDTH_INCHES - 0.2) / WIDTH_INCHES
        image = figure.add_axes(
            (left, (height - head - 0.18 - film) / height, across, film / height)
        )
        _film(image, strips["frames"][example], QUIET)
        bars = figure.add_axes(
            (left, (height - head - 0.44 - film) / height, across, 0.24 / height)
        )
        _weights(bars, weights, max(1.5, float(weights.max())))
        below = head + film + 0.7
        write(below, textwrap.shorten(f"right answer: {gold}", 60), fontsize=6.5, color=RIGHT)
        for place, (answer, score) in enumerate(zip(given, scores, strict=True), start=1):
            words = textwrap.shorten(f"{place}.  {answer}", 50) + f"   {score:.2f}"
            ink = RIGHT if answer == gold else INK
            write(below + 0.14 * place, words, fontsize=6.5, color=ink)

    ranked = ", ".join(f"{answer} {score:.2f}" for answer, score in zip(given, scores, strict=True))
    alt = f"{question} Right answer: {gold}. Answers ranked first: {ranked}. Frames of {clip}."
    kind = "right" if is_right else "wrong"
    return draw(f"strip-{kind}-{example}", "strips", "", alt, (WIDTH_INCHES, height), paint)


def write_picture(path: Path, picture: Frames) -> None:
    """Write an image (H, W, 3). DataError where that cannot be done."""
    try:
        imsave(path, picture)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be written as an image ({error})") from None


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
