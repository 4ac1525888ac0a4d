"""A few frames of each clip, kept in shards: what a sampler can ask for, and no more.

A shard is one file: a line of JSON that lists its clips by the hash of their bytes, then their
frames. Which shard a clip is in is of no account, so splits and subsets share them, a deleted shard
costs the decoding of its own clips, and a build that was broken off goes on where it stopped. Other
settings, decoders or versions have a folder of their own.

Legend: K frames kept of a clip, T frames asked for, S = size_px.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from litevl.data.annotations import Clip
from litevl.data.dataset import (
    DECODE_SECONDS,
    expect_clips_decode,
    expect_files,
    expect_room,
    expect_same_frames,
)
from litevl.data.decode import Decoded, DecodeJob, decode_chosen
from litevl.data.fingerprint import file_hashes
from litevl.data.processes import Failure
from litevl.data.samplers import Indices, possible_frames
from litevl.data.video import Frames, decoder_versions, expect_decoder
from litevl.errors import RunError
from litevl.locks import alone_with
from litevl.whole import whole_file

logger = logging.getLogger(__name__)

SHARD_FORMAT = 1
SHARD_BYTES = 128 * 2**20  # a shard is closed when it holds so much; as much memory is needed


@dataclass(frozen=True)
class Reading:
    """What is kept of a clip, and how it is decoded.

    sampler: keeps all frames that it may ask for; None keeps none, only how many there are.
    num_frames, choices: as the sampler has them. first_seconds: see `read_frames`.
    """

    size_px: int
    decoder: str
    first_seconds: float | None
    sampler: str | None
    num_frames: int
    choices: int | None

    def kept(self, num_available: int) -> Indices:
        """Which frames of a clip of so many are kept: ascending, each once."""
        if self.sampler is None:
            return np.empty(0, np.int64)
        return possible_frames(self.sampler, num_available, self.num_frames, self.choices)

    def key(self) -> str:
        """Names the folder of its shards."""
        decides = [SHARD_FORMAT, decoder_versions(self.decoder), *astuple(self)]
        return "sampled-" + hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Place:
    """Where a clip's frames are: from number `first` on in a shard whose frames begin at `offset`.

    num_available: of the whole clip. reason: why it cannot be decoded, None where it can.
    """

    shard: Path
    offset: int
    first: int
    num_kept: int
    num_available: int
    reason: str | None


class Shards:
    """The kept frames of a list of clips; as `FrameStore`, for those frames.

    broken: of the clips that `open` was given, those it left out, by index, and why.
    """

    def __init__(
        self, places: Sequence[Place], reading: Reading, broken: Mapping[int, str]
    ) -> None:
        self.broken, self.reading, self._places = dict(broken), reading, places
        num_bytes, self._maps = frame_bytes(reading), dict[Path, Frames]()
        for place in places:
            if place.num_kept and place.shard not in self._maps:
                num_frames = (place.shard.stat().st_size - place.offset) // num_bytes
                shape = (num_frames, reading.size_px, reading.size_px, 3)
                self._maps[place.shard] = np.memmap(
                    place.shard, np.uint8, "r", offset=place.offset, shape=shape
                )

    @classmethod
    def open(
        cls,
        clips: Sequence[Clip],
        folder: Path,
        reading: Reading,
        num_workers: int,
        progress: bool = True,
        allow_broken: bool = False,
    ) -> Shards:
        """The frames of these clips, in this order; decodes first what `folder` lacks.

        Raises DataError and RunError as `FrameStore.open`; shards that were finished before an
        error or an interruption stay. Of several processes one decodes, the others wait.
        """
        expect_decoder(reading.decoder)
        expect_files(clips)
        store = folder / reading.key()
        by_path = file_hashes([clip.path for clip in clips])
        paths = {by_path[clip.path]: clip.path for clip in clips}
        known = read_places(store, reading)
        is_new, passing = not paths.keys() <= known.keys(), dict[str, str]()
        if is_new:
            try:
                with alone_with(store):
                    known = read_places(store, reading)  # somebody else may have been faster
                    left = {key: path for key, path in paths.items() if key not in known}
                    passing = build(left, store, reading, num_workers, progress, allow_broken)
            except OSError as error:
                raise RunError(
                    f"{folder}: the frame cache cannot be written: {error.strerror}"
                ) from error
            known = read_places(store, reading)
            known |= {key: Place(store, 0, 0, 0, 0, why) for key, why in passing.items()}
        places = [known[by_path[clip.path]] for clip in clips]
        reasons = {index: place.reason for index, place in enumerate(places)}
        broken = {index: reason for index, reason in reasons.items() if reason is not None}
        if not allow_broken:
            expect_clips_decode([*broken.values()], len(clips))
        kept = [index for index in range(len(clips)) if index not in broken]
        opened = cls([places[index] for index in kept], reading, broken)
        if not is_new and reading.sampler is not None:
            how = (reading.size_px, reading.decoder, reading.first_seconds)
            expect_same_frames(opened, store, [clips[index] for index in kept], how, reading.kept)
        return opened

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._places)

    def num_frames(self, clip_index: int) -> int:
        """Number of frames of one clip, kept or not."""
        return self._places[clip_index].num_available

    def frames(self, clip_index: int, indices: Indices) -> Frames:
        """The asked frames of one clip, in the asked order, as a copy: uint8 (T, S, S, 3).

        IndexError for one that is not kept.
        """
        place = self._places[clip_index]
        kept = self.reading.kept(place.num_available)
        rows = np.searchsorted(kept, indices).clip(max=len(kept) - 1)
        if not np.array_equal(kept[rows], indices):
            raise IndexError(f"clip {clip_index}: kept are {kept.tolist()}, not {indices.tolist()}")
        return np.asarray(self._maps[place.shard][place.first + rows])

    def pictures(self, asked: Sequence[tuple[int, Indices]]) -> Frames:
        """Frames of several clips: uint8 (B, T, S, S, 3)."""
        return np.stack([self.frames(*one) for one in asked])


def frame_bytes(reading: Reading) -> int:
    """Size of one frame."""
    return reading.size_px * reading.size_px * 3


def read_places(store: Path, reading: Reading) -> dict[str, Place]:
    """Clip hash -> its place, from the heads of all whole shards."""
    found: dict[str, Place] = {}
    for shard in sorted(store.glob("*.frames")):
        found |= _places_in(shard, reading) or {}
    return found


def _places_in(shard: Path, reading: Reading) -> dict[str, Place] | None:
    """What one shard holds; None where it is damaged."""
    found: dict[str, Place] = {}
    try:
        with shard.open("rb") as file:
            head = file.readline()
            first = 0
            for key, num_available, num_kept, reason in json.loads(head):
                found[key] = Place(shard, len(head), first, num_kept, num_available, reason)
                first += num_kept
        whole = shard.stat().st_size == len(head) + first * frame_bytes(reading)
    except (OSError, ValueError, TypeError):
        return None
    return found if whole else None


def build(
    left: Mapping[str, Path],
    store: Path,
    reading: Reading,
    num_workers: int,
    progress: bool,
    allow_broken: bool,
) -> dict[str, str]:
    """Decode clips, given by hash, into new shards; DataError that names those that cannot be.

    For one process at a time. Reasons are kept only where broken clips are allowed and another
    attempt would fail too: the others are tried again. Returns why those allowed failed this time.
    """
    store.mkdir(parents=True, exist_ok=True)
    for useless in (*store.glob(".*.tmp"), *store.glob("*.frames")):
        if useless.suffix == ".tmp" or _places_in(useless, reading) is None:
            with contextlib.suppress(FileNotFoundError):
                useless.unlink()
    jobs = [DecodeJob(key, path) for key, path in left.items()]
    how = (reading.size_px, reading.decoder, num_workers, DECODE_SECONDS, progress)
    answers = decode_chosen(jobs, reading.kept, *how, reading.first_seconds)
    failures: list[Failure] = []
    for shard in _shards(answers, failures, store, len(left)):
        rows = [[key, some.num_available, len(some.frames), None] for key, some in shard]
        _write(store, rows, [some.frames for _, some in shard])
    if not allow_broken:
        expect_clips_decode([failure.reason for failure in failures], len(left))
    lasting = sorted((some.clip_id, some.reason) for some in failures if some.is_lasting)
    if lasting:
        _write(store, [[key, 0, 0, reason] for key, reason in lasting], [])
    return {some.clip_id: some.reason for some in failures if not some.is_lasting}


def _shards(
    answers: Iterator[tuple[str, Decoded | Failure]],
    failures: list[Failure],
    store: Path,
    num_clips: int,
) -> Iterator[list[tuple[str, Decoded]]]:
    """Clips in groups of SHARD_BYTES, as they come; the others' failures into `failures`."""
    shard: list[tuple[str, Decoded]] = []
    num_bytes = num_before = 0
    for num_done, (key, answer) in enumerate(answers, 1):
        if isinstance(answer, Failure):
            failures.append(answer)
            continue
        shard.append((key, answer))
        num_bytes += answer.frames.nbytes
        expect_room(store.parent, num_bytes, num_done, num_clips)
        if num_bytes - num_before >= SHARD_BYTES:
            yield shard
            shard, num_before = [], num_bytes
    if shard:
        yield shard


def _write(store: Path, rows: list[list[Any]], frames: Sequence[Frames]) -> None:
    head = json.dumps(rows, separators=(",", ":")).encode() + b"\n"
    name = hashlib.sha256(head).hexdigest()[:20]
    with whole_file(store / f"{name}.frames") as file:
        file.write(head)
        for some in frames:
            file.write(np.ascontiguousarray(some).data)
