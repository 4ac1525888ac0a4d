"""Examples to look at: queries answered right and wrong, their clips, and what the text weighed.

Shapes: T frames, S pixels, N patches.
"""

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.image import imsave

from litevl.data.video import Frames
from litevl.errors import DataError
from litevl.report.runs import Run
from litevl.report.tables import number
from litevl.schema import MOST_PIXELS, Arrays

DARKEST = 0.7  # how much of a patch without any weight is covered


@dataclass(frozen=True)
class Film:
    """The frames of a clip side by side, and how much the text made of them; 1 is no preference."""

    stem: str
    alt: str
    jpeg: bytes
    width_px: int
    height_px: int
    weights: tuple[str, ...]
    """Of each frame."""
    heights: tuple[int, ...]
    """Of the weights' bars, in percent of the largest of the example."""
    veil: str
    """A small picture as a URL, darker where patches weigh less; "" where they all weigh alike."""


@dataclass(frozen=True)
class Answer:
    """An answer or a clip in the order in which the model ranked it."""

    text: str
    score: str
    is_right: bool
    film: Film | None = None


@dataclass(frozen=True)
class Example:
    """A query, what became of it, and what the model ranked first for it."""

    kind: Literal["right", "wrong"]
    outcome: str
    query: str
    answers: tuple[Answer, ...]
    film: Film | None = None
    """Of the clip that a question is about."""
    clip: str = ""
    gold: str = ""
    """The right answer of a question."""

    @property
    def films(self) -> Iterator[Film]:
        """Every film strip of the example."""
        own = [answer.film for answer in self.answers]
        yield from (film for film in (self.film, *own) if film is not None)


def examples_of(run: Run, strips: Arrays) -> list[Example]:
    """The recorded examples of a run: captions or questions, those answered right first."""
    assert run.arrays is not None
    make = _question if "answer_list" in run.arrays else _caption
    return [make(run.arrays, strips, place) for place in range(len(strips["queries"]))]


def _caption(arrays: Arrays, strips: Arrays, place: int) -> Example:
    """A caption with the clips ranked first for it."""
    query, is_right = int(strips["queries"][place]), bool(strips["right"][place])
    truth, rank = int(arrays["truth"][query]), int(arrays["t2v_ranks"][query, 1])
    answers = tuple(
        Answer(
            str(arrays["gallery_ids"][clip]),
            number(float(strips["scores"][place, row]), 2),
            int(clip) == truth,
            _film(strips, (place, row), f"film-{place + 1}-{row + 1}"),
        )
        for row, clip in enumerate(strips["top"][place])
    )
    outcome = "right clip first" if is_right else f"right clip at rank {rank}"
    caption = str(arrays["captions"][query])
    return Example("right" if is_right else "wrong", outcome, caption, answers)


def _question(arrays: Arrays, strips: Arrays, place: int) -> Example:
    """A question about a clip, with the answers ranked first and their log-likelihoods."""
    query, is_right = int(strips["queries"][place]), bool(strips["right"][place])
    gold, given = str(arrays["answers"][query]), arrays["answer_list"][arrays["top"][query]]
    outcome = "right" if is_right else "wrong"
    if not arrays["in_list"][query]:
        outcome += ", the answer is not in the list"
    return Example(
        "right" if is_right else "wrong",
        outcome,
        str(arrays["questions"][query]),
        tuple(
            Answer(str(answer), number(float(score), 2), str(answer) == gold)
            for answer, score in zip(given, arrays["top_scores"][query], strict=True)
        ),
        _film(strips, (place,), f"film-{place + 1}"),
        str(arrays["clip_ids"][query]),
        gold,
    )


def _film(strips: Arrays, at: tuple[int, ...], stem: str) -> Film:
    """One clip of an example. at: the example, and for captions the clip's rank from 0 on."""
    frames, weights = strips["frames"][at], strips["frame_weights"][at]
    tallest = max(1.5, float(strips["frame_weights"][at[0]].max()))
    strip = film_strip(frames)
    return Film(
        stem,
        f"{len(frames)} frames of the clip in their order",
        _encoded(strip, "jpeg", {"quality": 88}),
        strip.shape[1],
        strip.shape[0],
        tuple(number(float(weight), 2) for weight in weights),
        tuple(round(100 * float(weight) / tallest) for weight in weights),
        _veil(strips["patch_weights"][at]) if "patch_weights" in strips else "",
    )


def film_strip(frames: Frames) -> Frames:
    """Frames (T, S, S, 3) side by side, thinned out to at most MOST_PIXELS: (S', T * S', 3)."""
    stride = math.ceil(frames.shape[1] / MOST_PIXELS)
    return np.concatenate([*frames[:, ::stride, ::stride]], axis=1)


def _veil(weights: np.ndarray) -> str:
    """The URL of a black picture (G, G), G * G = N, that covers patches of little weight."""
    side = math.isqrt(len(weights))
    if side * side != len(weights) or np.ptp(weights) == 0:
        return ""
    black = np.zeros((side, side, 4), np.uint8)
    black[..., 3] = np.round(255 * DARKEST * (1 - weights / weights.max())).reshape(side, side)
    png = _encoded(black, "png", None)
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _encoded(picture: Frames, kind: str, options: dict[str, Any] | None) -> bytes:
    buffer, unsigned = io.BytesIO(), dict[str, Any](Software=None)
    metadata = unsigned if kind == "png" else None
    imsave(buffer, picture, format=kind, metadata=metadata, pil_kwargs=options)
    return buffer.getvalue()


def write_picture(path: Path, picture: Frames) -> None:
    """Write an image (H, W, 3). DataError where that cannot be done."""
    try:
        imsave(path, picture)
    except KeyError:
        raise DataError(
            f"{path}: no kind of image has names in '{path.suffix}'; name it .png"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be written as an image ({error})") from None
