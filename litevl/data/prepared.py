"""A folder of converted clips beside the published ones, with the same annotation files.

What was done to the clips stands in PREPARED_FILE: settings, versions, and for each clip the sha256
of its source and of the result. A run over such a folder has the file's hash in its fingerprint.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from litevl.data.annotations import Clip
from litevl.data.conversion import Conversion, ConversionJob, convert
from litevl.data.fingerprint import file_hash, file_hashes, read_kept, write_whole
from litevl.data.folder import paths_to_read
from litevl.data.processes import Failure, Work, work_on_clips
from litevl.data.video import quieten
from litevl.errors import DataError, RunError
from litevl.locks import alone_with

PREPARED_FILE = ".litevl-prepared.json"
CLIP_FOLDER = "videos"  # where every loader looks first
SAVE_SECONDS = 10.0
LEAST_FREE_BYTES = 200 << 20


def prepared_hash(root: Path) -> str | None:
    """sha256 of what was done to the clips of a folder; None where they are as published."""
    file = root / PREPARED_FILE
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def note_on_preparation(root: Path, first_seconds: float | None) -> str:
    """What was done to the clips of a prepared folder, in a sentence for a record.

    Raises DataError where it cut off what the spec, first_seconds, wants, or nobody can tell.
    """
    done = read_kept(root / PREPARED_FILE).get("conversion")
    cut = done.get("first_seconds") if isinstance(done, dict) else None
    if not isinstance(done, dict) or not isinstance(cut, float | int | None):
        raise DataError(
            f"{root / PREPARED_FILE}: damaged; it does not say what was done to the clips\n"
            "  Delete the folder and prepare the clips again: litevl data prepare."
        )
    if cut is not None and (first_seconds is None or first_seconds > cut):
        wanted = "whole clips" if first_seconds is None else f"the first {first_seconds:g} s"
        raise DataError(
            f"{root}: its clips were cut to {cut:g} s, the spec takes {wanted}\n"
            "  Prepare them again with this spec, into another folder."
        )
    rate = done.get("frames_per_second") or "their own"
    return (
        f"clips prepared: short side at most {done.get('short_side_px')} px, "
        + (f"first {cut:g} s, " if cut is not None else "")
        + f"frames per second: {rate}; sha256 of {PREPARED_FILE}: {prepared_hash(root)}"
    )


def prepare_clips(
    clips: Sequence[Clip],
    root: Path,
    to: Path,
    conversion: Conversion,
    num_workers: int,
    timeout_seconds: float,
    progress: bool = True,
) -> tuple[dict[str, str], int, int]:
    """Convert clips into `to` and put the annotation files below `root` there too.

    Returns what failed, id -> reason, how many clips were converted, and how many were before.
    A clip is there whole or not at all, and one that is there is not converted again. Raises
    DataError where the folder holds something else, RunError where it cannot be written. Of several
    processes with the same folder one works, the others wait.
    """
    described = conversion.described()
    if to.resolve() == root.resolve() or root.resolve() in to.resolve().parents:
        raise DataError(f"{to}: inside {root}, the published files; name another folder with --to")
    try:
        with alone_with(to.resolve()):
            done = _own_folder(to, described)
            (to / CLIP_FOLDER).mkdir(exist_ok=True)
            _link_annotations(root, to)
            sources = file_hashes([clip.path for clip in clips])
            jobs = _jobs_left(clips, to / CLIP_FOLDER, sources, done)
            by_id = {job.clip_id: job for job in jobs}
            do = partial(convert, conversion=conversion)
            work = Work("preparing", partial(quieten, "pyav"), do, timeout_seconds)
            failed, saved = {}, 0.0
            try:
                for clip_id, answer in work_on_clips(jobs, work, num_workers, progress):
                    if isinstance(answer, Failure):
                        failed[clip_id] = answer.reason
                    else:
                        job = by_id[clip_id]
                        done[clip_id] = [sources[job.path], file_hash(job.target), answer]
                    _expect_room(to)
                    if time.monotonic() > saved + SAVE_SECONDS:
                        _save(to, described, done)
                        saved = time.monotonic()
            finally:
                _save(to, described, done)
    except OSError as error:
        raise RunError(
            f"{to}: cannot be written: {error.strerror}\n"
            "  Clips that are done stay; choose another folder with --to, or repeat the command."
        ) from error
    return failed, len(jobs) - len(failed), len(clips) - len(jobs)


def _jobs_left(
    clips: Sequence[Clip], folder: Path, sources: dict[Path, str], done: dict[str, list[Any]]
) -> list[ConversionJob]:
    """Clips whose result is not there, whole and from the same source; `done` forgets them."""
    jobs = [ConversionJob(clip.id, clip.path, folder / f"{clip.id}.mp4") for clip in clips]
    results = file_hashes([job.target for job in jobs if job.target.is_file()])
    left = []
    for job in jobs:
        if done.get(job.clip_id, [])[:2] != [sources[job.path], results.get(job.target)]:
            done.pop(job.clip_id, None)
            left.append(job)
    return left


def _own_folder(to: Path, described: dict[str, Any]) -> dict[str, list[Any]]:
    """Make the folder where it is none; the clips that are there, done in the same way.

    DataError where it holds something else.
    """
    found = read_kept(to / PREPARED_FILE)
    if not found and to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise DataError(f"{to}: holds other files; name an empty folder with --to")
    before = found.get("conversion", described)
    differs = [
        f"{key} was {before.get(key)}, is {described.get(key)}"
        for key in described
        if before.get(key) != described[key]
    ]
    if differs:
        raise DataError(
            f"{to}: its clips were prepared in another way\n  "
            + "\n  ".join(differs)
            + "\n  Name another folder with --to, or delete this one."
        )
    done: dict[str, list[Any]] = found.get("clips", {})
    to.mkdir(parents=True, exist_ok=True)
    _save(to, described, done)  # it is known as ours, wherever this breaks off
    return done


def _save(to: Path, described: dict[str, Any], done: dict[str, list[Any]]) -> None:
    clips = {clip_id: done[clip_id] for clip_id in sorted(done)}
    write_whole(to / PREPARED_FILE, {"conversion": described, "clips": clips})


def _expect_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        raise RunError(
            f"{folder}: {free >> 20} MiB are left on the disk.\n"
            "  Free some space, then repeat the command: it goes on where it stopped."
        )


def _link_annotations(root: Path, to: Path) -> None:
    """Put the annotation files, and archives of them, where they lie below root; new ones too."""
    for source, name in paths_to_read(root):
        target = to / name
        if target.exists():
            if target.samefile(source) or file_hash(target) == file_hash(source):
                continue
            target.unlink()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another disk, or one that has no links
            shutil.copy2(source, target)
