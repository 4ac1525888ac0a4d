"""`litevl data fetch`: the files of a data set, from where they are had, checked and written down.

What was fetched from where stands in `.litevl-sources.json` beside the files: source, revision,
sha256, size and date of each.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from litevl.data.annotations import CLIP_FOLDERS
from litevl.data.sources import Source, Sources
from litevl.download import Fetched, Known, checked, fetch_hub, fetch_url
from litevl.errors import DataError, LiteVLError, RunError
from litevl.extract import Extracted, extract, extracted
from litevl.locks import alone_with
from litevl.whole import write_bytes

__all__ = ["Outcome", "accept_licence", "fetch", "is_licence_accepted"]

log = logging.getLogger(__name__)

RECORD = ".litevl-sources.json"
# What lies beside the clips in archives; everything else in an archive of clips is one.
NOT_CLIPS = (
    ".json", ".jsonl", ".txt", ".csv", ".tsv", ".pkl", ".npy", ".npz", ".md", ".pdf", ".html",
    ".zip", ".tar", ".gz", ".jpg", ".png",
)  # fmt: skip


@dataclass
class Outcome:
    """What one call did.   by_hand: what is left to the user.   problems: what failed, and why."""

    files: list[Fetched] = field(default_factory=list)
    unpacked: dict[str, Extracted] = field(default_factory=dict)  # by folder
    notes: list[str] = field(default_factory=list)
    by_hand: list[str] = field(default_factory=list)
    problems: list[LiteVLError] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        files = [
            {"path": str(each.path), "source": each.source, "revision": each.revision,
             "sha256": each.sha256, "bytes": each.num_bytes, "fetched": each.is_new}
            for each in self.files
        ]  # fmt: skip
        return {
            "files": files,
            "unpacked": {folder: asdict(done) for folder, done in self.unpacked.items()},
            "notes": self.notes,
            "by_hand": self.by_hand,
            "problems": [str(problem) for problem in self.problems],
        }

    def lines(self) -> list[str]:
        """All of it but the problems, for a reader."""
        lines = [
            f"{'fetched' if each.is_new else 'present'}  {each.num_bytes:14,} bytes  {each.path}"
            for each in self.files
        ]
        lines += [
            f"{folder}: {done.num_files:,} clips unpacked, {done.num_left_out} other files left out"
            for folder, done in self.unpacked.items()
        ]
        lines += self.notes
        if self.by_hand:
            lines += ["Left to do by hand, one of:", *(f"  {way}" for way in self.by_hand)]
        return lines

    def problem(self) -> LiteVLError:
        """What failed, as one error: a RunError if there are several or one may pass by itself."""
        if len(self.problems) == 1:
            return self.problems[0]
        listed = "\n".join(str(each) for each in self.problems)
        return RunError(f"{len(self.problems)} files could not be had:\n{listed}")


def fetch(
    source: Sources,
    root: Path,
    *,
    clips_from: str | None = None,
    annotations_only: bool = False,
    endpoint: str | None = None,
    progress: bool = True,
) -> Outcome:
    """Fetch all files that are not there yet, then the archives of clips, and unpack those.

    clips_from: one of source.clips; None is the first.   endpoint: the hub's address, or None.
    A file that cannot be had is among `problems`, and the others are fetched nevertheless.
    DataError only for a clips_from that there is not.
    """
    if clips_from is not None and clips_from not in source.clips:
        places = ", ".join(source.clips) or "none"
        raise DataError(f"{source.name}: no clips from '{clips_from}'; places: {places}")
    outcome = Outcome()
    for each in source.files:
        try:
            outcome.files.append(_fetch_one(each, root, endpoint, progress))
        except LiteVLError as error:
            outcome.problems.append(error)
    archives = source.clips[clips_from or next(iter(source.clips))] if source.clips else ()
    folders = dict.fromkeys(each.folder for each in archives if each.folder)
    names = {PurePosixPath(each.path).name for each in archives}
    others = [
        name
        for name in dict.fromkeys((*CLIP_FOLDERS, *folders))
        if _is_filled(root / name) and not names & {_archive_in(root / name)}
    ]
    if others:
        outcome.notes.append(f"{' and '.join(others)}: already there, so no clips are fetched")
    elif annotations_only or not archives:
        outcome.by_hand += _clips_by_hand(source, root)
    else:
        _fetch_clips(source, archives, root, outcome, endpoint, progress)
    return outcome


def _fetch_clips(
    source: Sources, archives: tuple[Source, ...], root: Path, outcome: Outcome,
    endpoint: str | None, progress: bool,
) -> None:  # fmt: skip
    """Fetch archives of clips and unpack each into its folder."""
    for each in archives:
        folder = root / (each.folder or "")
        archive = root / each.path
        try:
            done = extracted(folder)
            if done is None:
                outcome.files.append(_fetch_one(each, root, endpoint, progress))
                log.info("unpacking %s", archive)
                done = extract(archive, folder, clip_name)
            outcome.unpacked[folder.name] = done
            if archive.exists():
                outcome.notes.append(f"{archive} is unpacked and may be deleted")
        except LiteVLError as error:
            outcome.problems.append(error)
    if len(outcome.unpacked) < len(archives):
        outcome.by_hand += _clips_by_hand(source, root)


def clip_name(name: str) -> str | None:
    """The name of a clip's file for its name in an archive; None for what is no clip."""
    path = PurePosixPath(name)
    is_hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return None if is_hidden or path.suffix.lower() in NOT_CLIPS else path.name


def _clips_by_hand(source: Sources, root: Path) -> list[str]:
    """How the clips are had that were not fetched."""
    ways = [
        f"litevl data fetch {source.name} --clips-from {place}: "
        + ", ".join(each.address for each in archives)
        for place, archives in source.clips.items()
    ]
    return [*ways, *(way.replace("DIR", str(root)) for way in source.by_hand)]


def _fetch_one(source: Source, root: Path, endpoint: str | None, progress: bool) -> Fetched:
    """Fetch one file and write down where it is from."""
    path = root / source.path
    before = _read_record(root)["files"].get(source.path, {})
    if source.hub is None:
        assert source.url is not None
        known = vars(source.known)
        found = fetch_url(source.url, path, **known, progress=progress)
    elif path.exists() and before:  # no need to ask the hub
        sha256 = checked(path, Known(before["sha256"], source.known.md5))
        found = Fetched(
            path, before["source"], before["revision"], sha256, path.stat().st_size, is_new=False
        )
    else:
        assert source.file is not None
        repo_type: Literal["dataset", "model"] = "model"
        if source.hub.startswith("datasets/"):
            repo_type = "dataset"
        folder = root / source.path.removesuffix(source.file)  # files keep their paths below it
        (found,) = fetch_hub(
            source.hub.removeprefix("datasets/"), [source.file], folder, repo_type=repo_type,
            revision=source.revision or before.get("revision"), endpoint=endpoint,
            known={source.file: source.known},
        )  # fmt: skip
    if found.is_new or not before:
        entry = {
            "source": found.source, "revision": found.revision or source.revision,
            "sha256": found.sha256, "bytes": found.num_bytes, "date": _now(),
            "fetched": found.is_new,
        }  # fmt: skip
        with alone_with(root / RECORD):
            record = _read_record(root)
            record["files"][source.path] = entry
            _write_record(root, record)
    return found


def is_licence_accepted(source: Sources, root: Path) -> bool:
    """Whether these very terms were accepted for this folder before."""
    accepted = _read_record(root)["licences"].get(source.name, {})
    return bool(accepted.get("sha256") == _sha256(source.licence))


def accept_licence(source: Sources, root: Path) -> None:
    """Write down that the terms were shown and accepted."""
    with alone_with(root / RECORD):
        record = _read_record(root)
        record["licences"][source.name] = {"sha256": _sha256(source.licence), "date": _now()}
        _write_record(root, record)


def _read_record(root: Path) -> dict[str, Any]:
    """What is written down of a folder. DataError if it cannot be read."""
    path = root / RECORD
    empty: dict[str, Any] = {"licences": {}, "files": {}}
    try:
        return {**empty, **json.loads(path.read_text(encoding="utf-8"))}
    except FileNotFoundError:
        return empty
    except OSError as error:
        advice = "Choose a folder you may write to with --root."
        raise RunError(f"{path}: cannot be read ({error.strerror}).\n  {advice}") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: not the record of what was fetched. Delete it.") from error


def _write_record(root: Path, record: Mapping[str, Any]) -> None:
    write_bytes(root / RECORD, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())


def _archive_in(folder: Path) -> str | None:
    """The archive that a folder was unpacked from by this command, None if it was not."""
    done = extracted(folder)
    return done.archive if done else None


def _is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(os.scandir(folder))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
