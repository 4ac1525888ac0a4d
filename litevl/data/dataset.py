"""Clips ready to use: counted and fingerprinted, decoded once into a frame cache, cut into batches.

Legend: B clips, T frames, S = size_px.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from litevl.data.annotations import Annotations, Clip, text_counts
from litevl.data.decode import DecodeJob, Failure, decode_clips
from litevl.data.video import PACKAGES, Frames, Indices, expect_decoder
from litevl.errors import DataError, RunError, ShapeError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, which BLIP took over; RGB, 0 to 1
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HASH_FILE = ".litevl-hashes.json"
PLACES_FILE = "places"  # JSON, but not to be met by who looks for annotations below a data root
STORE_FORMAT = 2
DECODE_SECONDS = 120.0  # for one clip; MSRVTT's take under one
NUM_SHOWN = 5
NUM_BETWEEN_CHECKS = 50  # clips decoded between two looks at the free space

Places = list[tuple[int, int]]  # first frame and number of frames, for each clip


# Which clips are there.


@dataclass(frozen=True)
class DataReport:
    """What `check_clips` found. `data` holds the clips that are there, `left_out` the other ids.

    splits: split -> expected (by the spec), found, broken (0 bytes or unreadable), captions; with
        questions also their number, and outside_list: those whose answer is not a listed one.
    """

    splits: dict[str, dict[str, int]]
    fingerprint: str
    data: Annotations
    left_out: tuple[str, ...]
    not_comparable_because: tuple[str, ...]


def check_clips(
    data: Annotations, expected: Mapping[str, int], allow_missing: bool = False
) -> DataReport:
    """Count the clips of each split against what the spec expects, and fingerprint them.

    expected: clips by split: "train", "validation", "test".
    allow_missing: go on with the clips that are there; the report names the others and says why the
        scores are not comparable. Without it any difference is a DataError that names them.
    Files are opened only to be hashed; that they can be decoded shows when FrameStore is built.
    """
    splits, problems, left_out = {}, [], []
    kept: dict[str, tuple[Clip, ...]] = {}
    for name, clips in data.splits.items():
        missing = [clip for clip in clips if not clip.path.exists()]
        gone = {clip.id for clip in missing}
        broken = [clip for clip in clips if clip.id not in gone and not _has_content(clip.path)]
        gone |= {clip.id for clip in broken}
        kept[name] = tuple(clip for clip in clips if clip.id not in gone)
        left_out += sorted(gone)
        splits[name] = {
            "expected": expected[name],
            "found": len(kept[name]),
            "broken": len(broken),
            **text_counts(kept[name], data.answers),
        }
        if len(clips) != expected[name]:
            problems.append(
                f"{name}: the annotations name {len(clips)} clips, "
                f"the spec expects {expected[name]}"
            )
        for state, some in (("missing", missing), ("empty or not readable", broken)):
            if some:
                problems.append(
                    f"{name}: {len(kept[name])} of {len(clips)} clips found; "
                    f"{len(some)} {state} (first: {', '.join(c.id for c in some[:NUM_SHOWN])}; "
                    f"expected at {some[0].path})"
                )
    nothing_left = [name for name in kept if expected[name] and not kept[name]]
    if problems and (nothing_left or not allow_missing):
        raise DataError(_message_missing(problems, nothing_left))
    there = replace(data, train=kept["train"], validation=kept["validation"], test=kept["test"])
    return DataReport(
        splits=splits,
        fingerprint=_fingerprint(there),
        data=there,
        left_out=tuple(left_out),
        not_comparable_because=tuple(problems),
    )


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0 and os.access(path, os.R_OK)


def _message_missing(problems: list[str], nothing_left: list[str]) -> str:
    lines = ["the clips are not those the spec expects", *(f"  {line}" for line in problems)]
    if nothing_left:
        lines.append(f"  Nothing is left to run on: {', '.join(nothing_left)}.")
    else:
        lines.append("  Scores over fewer clips are not comparable with the paper.")
        lines.append("  Pass --allow-missing to run anyway; the record will say comparable: false.")
    return "\n".join(lines)


def _fingerprint(data: Annotations) -> str:
    """sha256 over every clip's split, id, file size, file hash, source and captions, sorted.

    Also over its questions, where it has any, and over the answer list, where there is one.
    """
    hashes = file_hashes([clip.path for clips in data.splits.values() for clip in clips])
    rows: list[list[Any]] = []
    for name, clips in data.splits.items():
        for clip in clips:
            size = clip.path.stat().st_size
            row = [name, clip.id, size, hashes[clip.path], clip.source, clip.captions]
            asked = [astuple(question) for question in clip.questions]
            rows.append([*row, asked] if asked else row)
    rows.sort()
    if data.answers:
        rows.append(["answers", *data.answers])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def file_hashes(paths: Sequence[Path]) -> dict[Path, str]:
    """sha256 of each file's bytes.

    Kept beside the files, in HASH_FILE, and used again while name, size and time of change are the
    same: hashing MSRVTT's clips takes about a minute, the second time a second.
    """
    known: dict[Path, dict[str, list[int | str]]] = {
        folder: _read_hashes(folder / HASH_FILE) for folder in {path.parent for path in paths}
    }
    states = {path: path.stat() for path in paths}
    hashes: dict[Path, str] = {}
    for path, state in states.items():
        entry = known[path.parent].get(path.name)
        if entry is not None and entry[:2] == [state.st_size, state.st_mtime_ns]:
            hashes[path] = str(entry[2])
    unknown = [path for path in states if path not in hashes]
    if not unknown:
        return hashes
    logger.info("hashing %d files", len(unknown))
    with ThreadPoolExecutor() as threads:
        for path, value in zip(unknown, threads.map(_file_hash, unknown), strict=True):
            hashes[path] = value
            state = states[path]
            known[path.parent][path.name] = [state.st_size, state.st_mtime_ns, value]
    for folder in {path.parent for path in unknown}:
        _write_hashes(folder / HASH_FILE, known[folder])
    return hashes


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_hashes(file: Path) -> dict[str, list[int | str]]:
    try:
        content: dict[str, list[int | str]] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, PermissionError, json.JSONDecodeError):
        return {}  # only a cache: made again
    return content


def _write_hashes(file: Path, content: dict[str, list[int | str]]) -> None:
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        logger.warning("%s: hashes not kept for the next run: %s", file, error.strerror)


# Their frames.


class FrameStore:
    """All frames of a list of clips, in one memory-mapped file that is built once.

    The file's name is a hash of all that decides its content (the clips' bytes and order, the size,
    the decoder and its version), so a stale one is never read; any may be deleted.
    """

    def __init__(self, file: Path, places: Places, size_px: int) -> None:
        """Map an existing file. places: first frame and number of frames of each clip."""
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
    ) -> "FrameStore":
        """The store of these clips, in this order; decodes them first if `folder` has none.

        Raises DataError listing every clip that cannot be decoded, RunError when the file cannot be
        written. A store is renamed into place when complete: an interrupted build leaves none.
        """
        expect_decoder(decoder)
        _expect_files(clips)
        store = folder / _store_key(clips, size_px, decoder)
        places = _read_places(store, size_px)
        if places is None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                partial = Path(tempfile.mkdtemp(prefix=f"{store.name}.partial-", dir=folder))
                try:
                    _build(clips, partial, size_px, decoder, num_workers, progress)
                    if _read_places(store, size_px) is None:  # nobody else was faster
                        shutil.rmtree(store, ignore_errors=True)
                        partial.rename(store)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
            except OSError as error:
                raise RunError(
                    f"{folder}: the frame cache cannot be written: {error.strerror}"
                ) from error
            places = _read_places(store, size_px)
            assert places is not None
        return cls(store / "frames.u8", places, size_px)

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


def _expect_files(clips: Sequence[Clip]) -> None:
    missing = [f"{clip.path}: missing: no such file" for clip in clips if not clip.path.is_file()]
    if missing:
        raise DataError(_message_broken(missing, len(clips)))


def _message_broken(reasons: Sequence[str], num_clips: int) -> str:
    lines = [f"{len(reasons)} of {num_clips} clips cannot be decoded", *sorted(reasons)]
    lines.append(
        "Replace these files, or delete them and pass --allow-missing to run without them;"
    )
    lines.append("the record will then say comparable: false.")
    return "\n  ".join(lines)


def _store_key(clips: Sequence[Clip], size_px: int, decoder: str) -> str:
    packages = sorted({"av", PACKAGES[decoder]})  # av counts the frames for both
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    hashes = file_hashes([clip.path for clip in clips])
    decides = [STORE_FORMAT, size_px, decoder, versions, [hashes[clip.path] for clip in clips]]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:20]


def _read_places(store: Path, size_px: int) -> Places | None:
    """First frame and number of frames of each clip; None when there is no whole store."""
    try:
        places: Places = json.loads((store / PLACES_FILE).read_text(encoding="utf-8"))
        num_bytes = (store / "frames.u8").stat().st_size
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    num_frames = sum(count for _, count in places)
    return places if num_bytes == num_frames * size_px * size_px * 3 else None


def _build(
    clips: Sequence[Clip],
    folder: Path,
    size_px: int,
    decoder: str,
    num_workers: int,
    progress: bool,
) -> None:
    """Decode all clips into `folder`; they lie in the file in the order in which they were done."""
    jobs = [DecodeJob(str(index), clip.path) for index, clip in enumerate(clips)]
    places: Places = [(0, 0)] * len(clips)
    reasons: list[str] = []
    num_frames = 0
    decoded = decode_clips(jobs, size_px, decoder, num_workers, DECODE_SECONDS, progress)
    with (folder / "frames.u8").open("wb") as file:
        for num_done, (index, answer) in enumerate(decoded, 1):
            if isinstance(answer, Failure):
                reasons.append(answer.reason)
                continue
            file.write(answer.data)
            places[int(index)] = (num_frames, len(answer))
            num_frames += len(answer)
            _expect_room(folder, file.tell(), num_done, len(clips))
    if reasons:
        raise DataError(_message_broken(reasons, len(clips)))
    (folder / PLACES_FILE).write_text(json.dumps(places), encoding="utf-8")


def _expect_room(folder: Path, num_bytes: int, num_done: int, num_clips: int) -> None:
    """Stop early, not after hours, when the disk will not hold all clips at the mean size."""
    if num_done % NUM_BETWEEN_CHECKS:
        return
    needed_gib = num_bytes * (num_clips / num_done - 1) / 2**30
    free_gib = shutil.disk_usage(folder).free / 2**30
    if needed_gib > free_gib:
        raise RunError(
            f"{folder.parent}: no room for the frame cache: "
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
    mean = torch.tensor(CLIP_MEAN, device=pixels.device)
    std = torch.tensor(CLIP_STD, device=pixels.device)
    scaled = (pixels.float() / 255 - mean) / std  # (..., T, S, S, 3)
    return scaled.movedim(-1, -3).contiguous()  # (..., T, 3, S, S)


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
