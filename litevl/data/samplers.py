"""Which frames of a clip to look at.

A sampler gives num_wanted of the num_available frames of a clip, as sorted indices (num_wanted,).
Clips shorter than num_wanted repeat frames; no index is ever outside the clip.
"""

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def blip_uniform(num_available: int, num_wanted: int, _rng: np.random.Generator) -> Indices:
    """BLIP's and ALPRO's grid, `np.arange(0, n, n / k, dtype=int)`: 0, d, 2d, ..., d = n // k.

    numpy truncates the step, not the index, so the clip's tail is never seen, and a clip shorter
    than num_wanted gives its first frame only. Kept to compare with BLIP's own numbers.
    """
    _expect_counts(num_available, num_wanted)
    return np.arange(num_wanted, dtype=np.int64) * (num_available // num_wanted)


def lavis_uniform(num_available: int, num_wanted: int, _rng: np.random.Generator) -> Indices:
    """LAVIS's `load_video` grid, `np.arange(0, n, n / k).astype(int)`: the index is truncated.

    Rounding makes some indices one smaller than the fraction's: frame 7 of 14 from 122 is 60.
    Some grids are one index too long, such as 7 of 17; the one too many is left out.
    """
    _expect_counts(num_available, num_wanted)
    grid = np.arange(0, num_available, num_available / num_wanted)
    return grid.astype(np.int64)[:num_wanted]


def segment_middle(num_available: int, num_wanted: int, _rng: np.random.Generator) -> Indices:
    """The middle frame of each of num_wanted equal segments: Frozen in Time's `sample_frames`.

    Singularity, VindLU and UMT took it over. Theirs rounds an edge down by one now and then.
    A clip shorter than num_wanted gives all its frames, then repeats the last, as Singularity's.
    """
    first, last = _segments(num_available, num_wanted)
    return _repeat_last((first + last) // 2, num_wanted)


def segment_random(
    num_available: int, num_wanted: int, rng: np.random.Generator, choices: int | None = None
) -> Indices:
    """One frame of each of the same segments, drawn evenly by `rng`; short clips as above.

    choices: draw among so many of a segment's frames, the middles of its equal parts; None for all
        of them. Frozen in Time's `random.choice(range(first, last))` never draws a segment's last.
    """
    first, last = _segments(num_available, num_wanted)
    if choices is None:
        return _repeat_last(rng.integers(first, last, endpoint=True), num_wanted)
    size = last + 1 - first
    parts = np.minimum(choices, size)
    return _repeat_last(first + (2 * rng.integers(0, parts) + 1) * size // (2 * parts), num_wanted)


Sampler = Callable[[int, int, np.random.Generator], Indices]
SAMPLERS: dict[str, Sampler] = {
    "blip-uniform": blip_uniform,
    "lavis-uniform": lavis_uniform,
    "segment-middle": segment_middle,
    "segment-random": segment_random,
}


def fixed_frames(num_available: int, sampler: str, num_wanted: int) -> Indices:
    """The frames that a sampler which draws nothing gives."""
    return SAMPLERS[sampler](num_available, num_wanted, np.random.default_rng(0))


def sampler_of(name: str, choices: int | None) -> Sampler:
    """A sampler by name; choices: see `segment_random`, no other has any."""
    if name == "segment-random":
        return functools.partial(segment_random, choices=choices)
    return SAMPLERS[name]


def possible_frames(
    name: str, num_available: int, num_wanted: int, choices: int | None = None
) -> Indices:
    """All frames that a sampler may ask for: ascending, each once."""
    if name != "segment-random":
        return np.unique(SAMPLERS[name](num_available, num_wanted, np.random.default_rng(0)))
    if choices is None:
        return np.arange(num_available)
    first, last = _segments(num_available, num_wanted)
    size = (last + 1 - first)[:, None]
    parts = np.minimum(choices, size)
    number = np.minimum(np.arange(choices), parts - 1)
    return np.unique(first[:, None] + (2 * number + 1) * size // (2 * parts))


def _segments(num_available: int, num_wanted: int) -> tuple[Indices, Indices]:
    """First and last frame of each segment, both (min(num_available, num_wanted),)."""
    _expect_counts(num_available, num_wanted)
    num_segments = min(num_available, num_wanted)
    edges = np.arange(num_segments + 1, dtype=np.int64) * num_available // num_segments
    return edges[:-1], edges[1:] - 1


def _repeat_last(indices: Indices, num_wanted: int) -> Indices:
    return np.pad(indices, (0, num_wanted - len(indices)), mode="edge")


def _expect_counts(num_available: int, num_wanted: int) -> None:
    if num_available < 1 or num_wanted < 1:
        raise ValueError(f"cannot sample {num_wanted} frames of {num_available}")
