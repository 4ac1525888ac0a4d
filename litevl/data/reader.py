"""Clips read from their files each time they are needed: nothing is kept but how long they are.

Legend: B clips, T frames, S = size_px.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from litevl.data.annotations import Clip
from litevl.data.dataset import DECODE_SECONDS
from litevl.data.decode import DecodeJob, decoding
from litevl.data.processes import Failure, Workers
from litevl.data.samplers import Indices
from litevl.data.shards import Shards
from litevl.data.video import Frames
from litevl.errors import DataError


class ClipReader:
    """As `FrameStore`, by decoding in processes that stay and can be killed.

    broken: see `Shards`. Clips were counted when this was opened, not decoded: one that is damaged
    further on stops what asks for it with a DataError that names it.
    """

    def __init__(self, clips: Sequence[Clip], counted: Shards, num_workers: int) -> None:
        """Those of the clips that `counted` has; it was opened with them."""
        self.broken, self._counted = counted.broken, counted
        self._paths = [clip.path for n, clip in enumerate(clips) if n not in counted.broken]
        reading = counted.reading
        work = decoding(reading.size_px, reading.decoder, DECODE_SECONDS, reading.first_seconds)
        self._workers = Workers(work, num_workers)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._paths)

    def num_frames(self, clip_index: int) -> int:
        """Number of frames of one clip."""
        return self._counted.num_frames(clip_index)

    def frames(self, clip_index: int, indices: Indices) -> Frames:
        """The asked frames of one clip, in the asked order: uint8 (T, S, S, 3)."""
        pictures = self.pictures([(clip_index, indices)])
        return pictures.reshape(pictures.shape[1:])

    def pictures(self, asked: Sequence[tuple[int, Indices]]) -> Frames:
        """Frames of several clips, decoded side by side: uint8 (B, T, S, S, 3)."""
        for clip, indices in asked:
            num_frames = self.num_frames(clip)
            if len(indices) and (indices.min() < 0 or indices.max() >= num_frames):
                raise IndexError(f"clip {clip} has {num_frames} frames, not {indices.tolist()}")
        jobs = [
            DecodeJob(str(row), self._paths[clip], tuple(indices.tolist()))
            for row, (clip, indices) in enumerate(asked)
        ]
        found = self._workers.answers(jobs)
        failures = [answer.reason for answer in found.values() if isinstance(answer, Failure)]
        if failures:
            raise DataError(
                "\n  ".join(
                    [
                        *sorted(failures),
                        "These clips were counted, not decoded, before "
                        'training: frames.cache = "sampled" or "whole" finds such at the start.',
                    ]
                )
            )
        return np.stack([found[str(row)] for row in range(len(asked))])
