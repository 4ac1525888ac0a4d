"""What bytes a data set consists of: a hash of each file, and one of the whole."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from litevl.data.annotations import Annotations
from litevl.errors import DataError
from litevl.whole import whole_file

logger = logging.getLogger(__name__)

HASH_FILE = ".litevl-hashes.json"
NUM_SHOWN = 8  # changed files by name


def fingerprint(data: Annotations) -> str:
    """sha256 over every clip's split, id, file size, file hash, source and captions, sorted.

    Also over its questions, where it has any, over the answer list, where there is one, and over
    what was done to the clips, where they were prepared.
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
    if data.prepared is not None:
        rows.append(["prepared", data.prepared])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def file_hashes(paths: Sequence[Path]) -> dict[Path, str]:
    """sha256 of each file's bytes; DataError for the first that cannot be read."""
    hashes, problems = readable_hashes(paths)
    for problem in problems.values():
        raise problem
    return hashes


def readable_hashes(paths: Sequence[Path]) -> tuple[dict[Path, str], dict[Path, DataError]]:
    """sha256 of each file's bytes, and why the others cannot be read.

    Kept beside the files, in HASH_FILE, and used again while name, size and times are the same:
    hashing MSRVTT's clips takes about a minute, the second time a second. A file whose bytes are
    others than those kept is named in a warning.
    """
    known = {folder: read_kept(folder / HASH_FILE) for folder in {path.parent for path in paths}}
    states = {path: _state(path) for path in paths}
    kept = {path: _entry(known[path.parent].get(path.name)) for path in paths}
    hashes = {path: str(kept[path][-1]) for path in paths if kept[path][:-1] == states[path]}
    unknown = [path for path in states if path not in hashes]
    if not unknown:
        return hashes, {}
    logger.info("hashing %d files", len(unknown))
    problems: dict[Path, DataError] = {}
    try:
        with ThreadPoolExecutor() as threads:
            work = threads.map(_hash_or_problem, unknown, [states[path] for path in unknown])
            values = tqdm(work, "hashing", len(unknown), disable=None)
            for path, value in zip(unknown, values, strict=True):
                if isinstance(value, DataError):
                    problems[path] = value
                    continue
                hashes[path] = value
                known[path.parent][path.name] = [*states[path], value]
    finally:  # also when interrupted: what was hashed is not hashed again
        for folder in {path.parent for path in unknown}:
            write_kept(folder / HASH_FILE, known[folder])
    read = [path for path in unknown if path in hashes]
    changed = [path for path in read if kept[path][-1] not in (None, hashes[path])]
    if changed:
        shown = ", ".join(map(str, changed[:NUM_SHOWN])) + (" ..." if changed[NUM_SHOWN:] else "")
        logger.warning("%d files changed since they were last read: %s", len(changed), shown)
    return hashes, problems


def _entry(found: Any) -> list[Any]:
    """A file's state and hash as they were kept; a file from another version has none."""
    return found if isinstance(found, list) and found else [None]


def _state(path: Path) -> list[int]:
    """What is other when a file was changed or another took its place, without reading it.

    The second time is that of the inode: whoever copies or moves a file with its old time of
    change, as rsync and `cp -p` do, sets the inode's to now.
    """
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes. DataError where they cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}\n"
            "  Look after the disk and the file's permissions, or put the file there again."
        ) from error


def _hash_or_problem(path: Path, state: Sequence[int]) -> str | DataError:
    try:
        return _hash_in_state(path, *state)
    except DataError as error:
        return error


@cache  # for folders beside whose files nothing can be kept
def _hash_in_state(path: Path, *_state: int) -> str:
    return file_hash(path)


def read_kept(file: Path) -> dict[str, Any]:
    """What `write_kept` left; nothing where there is no such file, or a damaged one."""
    if not file.is_file():  # a pipe would never end
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # only kept to save time: made again
    return content if isinstance(content, dict) else {}


def read_rows(file: Path) -> dict[str, list[Any]]:
    """The entries of such a file that are lists."""
    return {name: row for name, row in read_kept(file).items() if isinstance(row, list)}


def write_kept(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object whole or not at all; a warning where that fails: it only saves time."""
    try:
        write_whole(file, content)
    except OSError as error:
        logger.warning("%s: not kept for the next time: %s", file, error.strerror)


def write_whole(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object whole or not at all; OSError where that fails."""
    with whole_file(file) as opened:
        opened.write(json.dumps(content).encode())
