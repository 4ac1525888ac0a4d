"""Many clips decoded at once, in processes that the parent can kill.

Legend: K frames asked for, S = size_px.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from litevl.data.processes import Failure, Work, work_on_clips
from litevl.data.video import Frames, expect_decoder, quieten, read_frames


@dataclass(frozen=True)
class DecodeJob:
    """One clip to decode: all its frames, or those at `indices`."""

    clip_id: str
    path: Path
    indices: tuple[int, ...] | None = None


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
    expect_decoder(decoder)
    do = partial(_decode, size_px=size_px, decoder=decoder, first_seconds=first_seconds)
    work = Work("decoding", partial(quieten, decoder), do, timeout_seconds)
    return work_on_clips(jobs, work, num_workers, progress)


def _decode(job: DecodeJob, size_px: int, decoder: str, first_seconds: float | None) -> Frames:
    return read_frames(job.path, job.indices, size_px, decoder, first_seconds)
