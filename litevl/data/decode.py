"""Many clips decoded at once, in processes that the parent can kill.

Legend: K frames asked for, S = size_px.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from litevl.data.processes import Failure, Work, work_on_clips
from litevl.data.samplers import Indices
from litevl.data.video import Frames, expect_decoder, quieten, read_chosen, read_frames


@dataclass(frozen=True)
class DecodeJob:
    """One clip to decode: all its frames, or those at `indices`."""

    clip_id: str
    path: Path
    indices: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Decoded:
    """Some frames of a clip, and how many it has."""

    num_available: int
    frames: Frames  # (K, S, S, 3)


def decode_clips(
    jobs: Iterable[DecodeJob],
    size_px: int,
    decoder: str,
    num_workers: int,
    timeout_seconds: float,
    progress: bool = False,
    first_seconds: float | None = None,
) -> Iterator[tuple[str, Frames | Failure]]:
    """Decode clips in `num_workers` processes; yield (clip id, frames (K, S, S, 3) or Failure).

    See `work_on_clips`; a clip that takes longer than timeout_seconds is a Failure.
    first_seconds: see `read_frames`.
    """
    work = decoding(size_px, decoder, timeout_seconds, first_seconds)
    return work_on_clips(jobs, work, num_workers, progress)


def decoding(
    size_px: int, decoder: str, timeout_seconds: float, first_seconds: float | None = None
) -> Work:
    """What processes do with a DecodeJob; see `decode_clips`."""
    do = partial(_decode, size_px=size_px, decoder=decoder, first_seconds=first_seconds)
    return _work(do, decoder, timeout_seconds)


def _work(do: Callable[[DecodeJob], Any], decoder: str, timeout_seconds: float) -> Work:
    expect_decoder(decoder)
    return Work("decoding", partial(quieten, decoder), do, timeout_seconds)


def _decode(job: DecodeJob, size_px: int, decoder: str, first_seconds: float | None) -> Frames:
    return read_frames(job.path, job.indices, size_px, decoder, first_seconds)


def decode_chosen(
    jobs: Iterable[DecodeJob],
    choose: Callable[[int], Indices],
    size_px: int,
    decoder: str,
    num_workers: int,
    timeout_seconds: float,
    progress: bool = False,
    first_seconds: float | None = None,
) -> Iterator[tuple[str, Decoded | Failure]]:
    """As `decode_clips`; the frames are chosen by how many a clip has.

    choose: travels to the processes, so it is a function of a module or bound to a plain object.
    """
    do = partial(
        _decode_chosen,
        choose=choose,
        size_px=size_px,
        decoder=decoder,
        first_seconds=first_seconds,
    )
    return work_on_clips(jobs, _work(do, decoder, timeout_seconds), num_workers, progress)


def _decode_chosen(
    job: DecodeJob,
    choose: Callable[[int], Indices],
    size_px: int,
    decoder: str,
    first_seconds: float | None,
) -> Decoded:
    return Decoded(*read_chosen(job.path, choose, size_px, decoder, first_seconds))
