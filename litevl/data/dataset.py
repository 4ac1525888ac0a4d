"""Clips ready to use: decoded once into a frame cache, normalised, cut into batches.

Legend: B clips, T frames, S = size_px.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from litevl.data.annotations import Clip
from litevl.data.decode import DecodeJob, decode_clips
from litevl.data.fingerprint import HASH_FILE, file_hash, file_hashes
from litevl.data.processes import Failure
from litevl.data.samplers import Indices
from litevl.data.video import Frames, decoder_versions, expect_decoder, read_frames
from litevl.errors import DataError, RunError, ShapeError
from litevl.locks import alone_with
from litevl.whole import whole_folder

if TYPE_CHECKING:
    import torch

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, which BLIP took over; RGB, 0 to 1
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PLACES_FILE = ".places"  # hidden from who looks for annotations below a data root
STORE_FORMAT = 3
DECODE_SECONDS = 120.0  # for one clip; MSRVTT's take under one
NUM_FRAMES_COMPARED = 8  # of a clip that is decoded again
NUM_BETWEEN_CHECKS = 50  # clips decoded between two looks at the free space

Places = list[tuple[int, int]]  # first frame and number of frames, for each clip
PlacesOrWhy = list[tuple[int, int] | str]  # for a clip that cannot be decoded, why


# Their frames.


class Store(Protocol):
    """Where the frames of a list of clips come from; see `FrameStore` for what each does."""

    broken: dict[int, str]

    def __len__(self) -> int: ...

    def num_frames(self, clip_index: int) -> int: ...

    def frames(self, clip_index: int, indices: Indices) -> Frames: ...

    def pictures(self, asked: Sequence[tuple[int, Indices]]) -> Frames: ...


class FrameStore:
    """All frames of a list of clips, in one memory-mapped file that is built once.

    The file's name is a hash of all that decides its content (the clips' bytes and order, the size,
    the decoder and its version), so a stale one is never read; any may be deleted.
    """

    def __init__(
        self, file: Path, places: Places, size_px: int, broken: Mapping[int, str] | None = None
    ) -> None:
        """Map an existing file. places: first frame and number of frames of each clip.

        broken: of the clips that `open` was given, those it left out, by index, and why.
        """
        self.broken = dict(broken or {})
        self._starts = np.asarray([start for start, _ in places], dtype=np.int64)
        self._counts = [count for _, count in places]
        shape = (sum(self._counts), size_px, size_px, 3)
        if shape[0]:
            self._frames: Frames = np.memmap(file, np.uint8, "r", shape=shape)
        else:
            self._frames = np.empty(shape, np.uint8)

    @classmethod
    def open(
        cls,
        clips: Sequence[Clip],
        folder: Path,
        size_px: int,
        decoder: str,
        num_workers: int,
        progress: bool = True,
        allow_broken: bool = False,
        first_seconds: float | None = None,
    ) -> "FrameStore":
        """The store of these clips, in this order; decodes them first if `folder` has none.

        Raises DataError listing every clip that cannot be decoded, RunError when the file cannot be
        written. A store is renamed into place when complete: an interrupted build leaves none. Of
        several processes one builds it, the others wait.
        allow_broken: leave clips that cannot be decoded out of the store, and list them in its
            `broken`; the clips after them move up. Where one of them might decode another time, as
            it took too long, the store serves this once.
        first_seconds: of each clip; see `read_frames`.
        """
        expect_decoder(decoder)
        expect_files(clips)
        store = folder / _store_key(clips, size_px, decoder, first_seconds)
        places = _read_places(store, size_px)
        is_new = places is None
        if places is None:
            try:
                with alone_with(store):
                    places = _read_places(store, size_px)
                    if places is None:  # nobody else was faster
                        jobs = [DecodeJob(str(i), clip.path) for i, clip in enumerate(clips)]
                        reading = (size_px, decoder, num_workers, DECODE_SECONDS, progress)
                        answers = decode_clips(jobs, *reading, first_seconds)
                        with whole_folder(store) as new:
                            places = _build(answers, len(clips), new, allow_broken)
            except OSError as error:
                raise RunError(
                    f"{folder}: the frame cache cannot be written: {error.strerror}"
                ) from error
        broken = {index: why for index, why in enumerate(places) if isinstance(why, str)}
        if not allow_broken:
            expect_clips_decode([*broken.values()], len(clips))
        whole = [place for place in places if not isinstance(place, str)]
        opened = cls(store / "frames.u8", whole, size_px, broken)
        if not is_new:
            kept = [clip for index, clip in enumerate(clips) if index not in broken]
            expect_same_frames(opened, store, kept, (size_px, decoder, first_seconds), np.arange)
        return opened

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._counts)

    def num_frames(self, clip_index: int) -> int:
        """Number of frames of one clip."""
        return self._counts[clip_index]

    def frames(self, clip_index: int, indices: Indices) -> Frames:
        """The asked frames of one clip, in the asked order, as a copy: uint8 (T, S, S, 3)."""
        num_frames = self.num_frames(clip_index)
        if len(indices) and (indices.min() < 0 or indices.max() >= num_frames):
            raise IndexError(f"clip {clip_index} has {num_frames} frames, not {indices.tolist()}")
        return np.asarray(self._frames[self._starts[clip_index] + indices])

    def pictures(self, asked: Sequence[tuple[int, Indices]]) -> Frames:
        """Frames of several clips, given by index and numbers: uint8 (B, T, S, S, 3)."""
        return np.stack([self.frames(*one) for one in asked])


def expect_files(clips: Sequence[Clip]) -> None:
    """Raise DataError that names every clip without a file."""
    missing = [f"{clip.path}: missing: no such file" for clip in clips if not clip.path.is_file()]
    if missing:
        raise DataError(_message_broken(missing, len(clips)))


def expect_clips_decode(reasons: Sequence[str], num_clips: int) -> None:
    """Raise DataError that lists why some clips of so many cannot be decoded, if any."""
    if reasons:
        raise DataError(_message_broken(reasons, num_clips))


def _message_broken(reasons: Sequence[str], num_clips: int) -> str:
    lines = [f"{len(reasons)} of {num_clips} clips cannot be decoded", *sorted(reasons)]
    lines.append("Replace these files, or pass --allow-missing to run without them;")
    lines.append("the record will then say comparable: false.")
    return "\n  ".join(lines)


def _store_key(
    clips: Sequence[Clip], size_px: int, decoder: str, first_seconds: float | None
) -> str:
    hashes = file_hashes([clip.path for clip in clips])
    decides = [
        STORE_FORMAT,
        size_px,
        decoder,
        decoder_versions(decoder),
        [hashes[clip.path] for clip in clips],
        *([] if first_seconds is None else [first_seconds]),
    ]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:20]


def expect_same_frames(
    opened: Store,
    store: Path,
    clips: Sequence[Clip],
    reading: tuple[int, str, float | None],
    kept: Callable[[int], Indices],
) -> None:
    """Read the first and the last clip again: DataError for one that is not as in the store.

    kept: which frames of a clip the store has, by how many there are.
    Damage that leaves a file's size and times as they were is told by nothing else. In this
    process: what was hashed first is what was decoded before, so it cannot hang the decoder now.
    """
    hashes = file_hashes([clip.path for clip in clips])
    for index in sorted({0, len(clips) - 1}) if clips else ():
        path = clips[index].path
        if file_hash(path) != hashes[path]:
            raise DataError(
                f"{path}: its bytes changed, though its size and times did not: it is damaged\n"
                "  Put the clip back as it was published. Others may be damaged too: delete the "
                f"{HASH_FILE} beside it, and every clip is read again."
            )
        wanted = kept(opened.num_frames(index))[:NUM_FRAMES_COMPARED]
        found = read_frames(path, wanted, *reading)
        differ = (found != opened.frames(index, wanted)).any(axis=(1, 2, 3))
        if differ.any():
            raise DataError(
                f"{path}: decodes otherwise than it did for the frame cache "
                f"({differ.sum()} of {len(wanted)} frames differ)\n"
                "  The cache is damaged, or from a machine that decodes otherwise: delete "
                f"{store}, and it is made again."
            )


def _read_places(store: Path, size_px: int) -> PlacesOrWhy | None:
    """What the store says of each clip; None when there is no whole store."""
    try:
        places: PlacesOrWhy = json.loads((store / PLACES_FILE).read_text(encoding="utf-8"))
        num_bytes = (store / "frames.u8").stat().st_size
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    num_frames = sum(place[1] for place in places if not isinstance(place, str))
    return places if num_bytes == num_frames * size_px * size_px * 3 else None


def _build(
    answers: Iterable[tuple[str, Frames | Failure]],
    num_clips: int,
    folder: Path,
    allow_broken: bool,
) -> PlacesOrWhy:
    """Write all frames into `folder`; they lie in the file in the order in which they come.

    answers: for each clip its index, as a string, and its frames.
    Without PLACES_FILE, so that it is built again, where a failure need not last.
    """
    places: PlacesOrWhy = [(0, 0)] * num_clips
    failures: list[Failure] = []
    num_frames = 0
    with (folder / "frames.u8").open("wb") as file:
        for num_done, (index, answer) in enumerate(answers, 1):
            if isinstance(answer, Failure):
                failures.append(answer)
                places[int(index)] = answer.reason
                continue
            file.write(answer.data)
            places[int(index)] = (num_frames, len(answer))
            num_frames += len(answer)
            expect_room(folder.parents[1], file.tell(), num_done, num_clips)
    if not allow_broken:
        expect_clips_decode([failure.reason for failure in failures], num_clips)
    if all(failure.is_lasting for failure in failures):
        (folder / PLACES_FILE).write_text(json.dumps(places), encoding="utf-8")
    return places


def expect_room(cache: Path, num_bytes: int, num_done: int, num_clips: int) -> None:
    """Stop early, not after hours, when the disk will not hold all clips at the mean size."""
    if num_done % NUM_BETWEEN_CHECKS:
        return
    needed_gib = num_bytes * (num_clips / num_done - 1) / 2**30
    free_gib = shutil.disk_usage(cache).free / 2**30
    if needed_gib > free_gib:
        raise RunError(
            f"{cache}: no room for the frame cache: "
            f"it needs {needed_gib:.1f} GiB more, {free_gib:.1f} GiB are free"
        )


def normalise(frames: "npt.NDArray[np.uint8] | torch.Tensor") -> "torch.Tensor":
    """Frames as the model takes them: uint8 (..., T, S, S, 3) to float32 (..., T, 3, S, S).

    0 to 255 becomes 0 to 1, then CLIP's mean and standard deviation, as BLIP does.
    """
    import torch

    pixels = torch.as_tensor(frames)
    if pixels.dtype != torch.uint8 or pixels.ndim < 4 or pixels.shape[-1] != 3:
        raise ShapeError(
            f"frames should be uint8 (..., T, S, S, 3), got {pixels.dtype} {tuple(pixels.shape)}"
        )
    # Channels first, while a pixel is one byte; then in place.
    planes = pixels.movedim(-1, -3).contiguous().float()  # (..., T, 3, S, S)
    top, mean, std = (
        torch.tensor(value, device=pixels.device).reshape(-1, 1, 1)
        for value in (255.0, CLIP_MEAN, CLIP_STD)  # CUDA multiplies by a plain number's inverse
    )
    return planes.div_(top).sub_(mean).div_(std)


# Batches.


def epoch_batches(
    sources: Sequence[str], batch_size: int, group_by_source: bool, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Indices of all items, shuffled, in batches of batch_size or fewer; every item exactly once.

    sources: the source video of each item: of a clip, or of the clip that a question is about.
    group_by_source: items of the same video share a batch; sources with more items than a batch
        holds are cut into chunks first. Gaps that whole sources cannot fill leave some batches
        short, so the number of batches may differ from epoch to epoch.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}")
    order = rng.permutation(len(sources))
    if not group_by_source:
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    by_source: dict[str, list[int]] = {}
    for place in order:
        by_source.setdefault(sources[place], []).append(int(place))
    chunks = [
        members[start : start + batch_size]
        for members in by_source.values()
        for start in range(0, len(members), batch_size)
    ]
    # Best fit: each chunk goes to the fullest open batch that still takes it.
    full: list[list[int]] = []
    by_room: list[list[list[int]]] = [[] for _ in range(batch_size + 1)]
    for chunk in chunks:
        room = next((r for r in range(len(chunk), batch_size + 1) if by_room[r]), batch_size)
        batch = by_room[room].pop() if by_room[room] else []
        batch.extend(chunk)
        (by_room[room - len(chunk)] if len(batch) < batch_size else full).append(batch)
    short = [batch for batches in by_room for batch in batches]
    batches = [np.asarray(batch, dtype=np.int64) for batch in full]
    shuffled = [batches[place] for place in rng.permutation(len(batches))]
    return shuffled + [np.asarray(batch, dtype=np.int64) for batch in sorted(short, key=len)[::-1]]
