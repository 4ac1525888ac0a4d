"""Draws coloured shapes over textured backgrounds, and writes frames as H.264 clips."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from litevl.errors import DataError

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 50),
    "purple": (150, 50, 190),
    "orange": (245, 140, 30),
    "white": (245, 245, 245),
    "cyan": (50, 210, 220),
}
Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "arrow")

# The same frames give the same file: one thread, and no macroblock tree, which in small pictures
# reads memory that x264 never wrote.
X264: dict[str, object] = {
    "crf": "18", "preset": "veryfast", "bf": "2", "threads": "1", "mbtree": "0",
}  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """A coloured shape."""

    colour: str
    shape: str

    def __str__(self) -> str:
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {self.shape}"


@dataclass(frozen=True)
class State:
    """Where and how a thing is drawn; lengths in units of the frame's side, y downwards."""

    x: float
    y: float
    radius: float
    angle: float  # degrees clockwise; 0 points up
    opacity: float


def background(size_px: int, rng: np.random.Generator) -> Floats:
    """A dim, soft texture: (size_px, size_px, 3) float, in 0..255."""
    coarse = rng.uniform(20, 110, size=(5, 5, 1)) + rng.uniform(-15, 15, size=(5, 5, 3))
    places = np.linspace(0, 4, size_px)
    low = np.minimum(places.astype(int), 3)
    part = places - low
    rows = coarse[low] * (1 - part)[:, None, None] + coarse[low + 1] * part[:, None, None]
    soft = rows[:, low] * (1 - part)[None, :, None] + rows[:, low + 1] * part[None, :, None]
    grain = rng.normal(0, 6, size=(size_px, size_px, 1))
    clipped: Floats = np.clip(soft + grain, 0, 255)
    return clipped


def distance(shape: str, x: Floats, y: Floats) -> Any:
    """About how far points lie outside the shape of radius 1 (negative inside); y downwards."""
    radius = np.hypot(x, y)
    if shape == "circle":
        return radius - 0.95
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.85
    if shape == "triangle":
        return np.maximum(0.894 * np.abs(x) - 0.447 * y - 0.447, y - 0.8)
    if shape == "star":
        wave = np.cos(5 * np.arctan2(x, -y))
        return radius - (0.70 + 0.30 * wave)
    if shape == "cross":
        wide = np.maximum(np.abs(x) - 0.95, np.abs(y) - 0.3)
        return np.minimum(wide, np.maximum(np.abs(x) - 0.3, np.abs(y) - 0.95))
    if shape == "ring":
        return np.abs(radius - 0.75) - 0.22
    if shape == "arrow":  # points up
        shaft = np.maximum(np.abs(x) - 0.26, np.maximum(-y - 0.1, y - 0.95))
        head = np.maximum(0.75 * np.abs(x) - 0.66 * y - 0.63, y - 0.0)
        return np.minimum(shaft, head)
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


def coverage(thing: Thing, state: State, size_px: int) -> Floats:
    """How much of each pixel the thing covers: (size_px, size_px) in 0..1, soft at the edge."""
    places = (np.arange(size_px) + 0.5) / size_px
    x, y = np.meshgrid(places - state.x, places - state.y)
    turn = np.deg2rad(state.angle)
    along = (np.cos(turn) * x + np.sin(turn) * y) / state.radius
    across = (np.cos(turn) * y - np.sin(turn) * x) / state.radius
    outside_px = distance(thing.shape, along, across) * state.radius * size_px
    covered: Floats = np.clip(0.5 - outside_px, 0, 1) * state.opacity
    return covered


def draw_frames(
    frames: list[list[tuple[Thing, State]]], size_px: int, rng: np.random.Generator
) -> Pixels:
    """Frames with their things over one background, later things on top: (T, S, S, 3) uint8."""
    backdrop = background(size_px, rng)
    covered: dict[tuple[Thing, State], Floats] = {}  # most things are still most of the time
    pictures = np.empty((len(frames), size_px, size_px, 3), np.uint8)
    for number, things in enumerate(frames):
        picture = backdrop
        for thing, state in things:
            if (thing, state) not in covered:
                covered[thing, state] = coverage(thing, state, size_px)[..., None]
            alpha = covered[thing, state]
            picture = picture * (1 - alpha) + np.array(COLOURS[thing.colour]) * alpha
        pictures[number] = np.round(picture)
    return pictures


def write_clip(path: Path, frames: Pixels, frames_per_second: int) -> None:
    """Write frames (T, S, S, 3) uint8 as an H.264 clip with B-frames, of the path's suffix.

    The suffix is .mp4 or .avi. Raises DataError where S is odd.
    """
    import av

    if frames.shape[1] % 2:
        raise DataError(
            f"world.size_px: {frames.shape[1]} is odd, and H.264 keeps one colour for two pixels"
        )
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(frames_per_second))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = X264
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
