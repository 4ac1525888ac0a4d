"""Files from elsewhere: fetched whole, checked, and never taken for something they are not.

A file appears under its name only when it is complete and its checksum is right. What was fetched
of it before an interruption is kept beside it (`<name>.part`) and continued by the next call.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Literal
from urllib.parse import urlsplit

from litevl.errors import DataError, LiteVLError, RunError
from litevl.locks import alone_with
from litevl.transfer import CHUNK, require_space, state_path, transfer
from litevl.whole import whole_file

__all__ = ["Fetched", "Known", "checked", "fetch_hub", "fetch_url", "hub_error", "leaves_folder"]

RepoType = Literal["model", "dataset"]


@dataclass(frozen=True)
class Fetched:
    """One file that is present and checked.

    source: its address, or hf://[datasets/]<repository>@<commit>/<file>.   revision: the commit of
    its repository, None for a plain address.   is_new: this call fetched it.
    """

    path: Path
    source: str
    revision: str | None
    sha256: str
    num_bytes: int
    is_new: bool


@dataclass(frozen=True)
class Known:
    """What is known of a file beforehand; None: unknown.   git_blob: git's name for its content."""

    sha256: str | None = None
    md5: str | None = None
    git_blob: str | None = None
    num_bytes: int | None = None

    @property
    def has_checksum(self) -> bool:
        """Whether two versions of the file can be told apart."""
        return bool(self.sha256 or self.md5 or self.git_blob)

    def differences(self, path: Path) -> tuple[str, list[str]]:
        """The file's sha256, and what of it is not as known."""
        size = path.stat().st_size
        hashes = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
        hashes["git_blob"] = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                for each in hashes.values():
                    each.update(chunk)
        found: dict[str, Any] = {name: each.hexdigest() for name, each in hashes.items()}
        found["num_bytes"] = size
        return found["sha256"], [
            f"{name}: expected {wanted}, found {found[name]}"
            for name, wanted in vars(self).items()
            if wanted is not None and wanted != found[name]
        ]


def fetch_url(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    git_blob: str | None = None,
    num_bytes: int | None = None,
    progress: bool = True,
) -> Fetched:
    """Fetch one file over HTTP, unless it is already there, and check it.

    Where no checksum is known, the first one found is kept in `<name>.sha256` and holds from then
    on. Of several processes that fetch a file at once, one does and the others wait for it.
    DataError: there is no such file at the address, or what is there, or here, is not what it
    should be. RunError: the connection failed time and again, or the disk is full; the same call
    continues.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url}: only http and https addresses can be fetched")
    known = Known(sha256, md5, git_blob, num_bytes)
    if not path.exists():
        try:
            with alone_with(path):
                if not path.exists():  # nor has another process fetched it meanwhile
                    found = _fetch_new(url, path, known, progress)
                    return Fetched(path, url, None, found, path.stat().st_size, is_new=True)
        except OSError as error:
            raise _disk_error(error, path) from error
    found = checked(path, _or_first_seen(known, path))
    return Fetched(path, url, None, found, path.stat().st_size, is_new=False)


def _fetch_new(url: str, path: Path, known: Known, progress: bool) -> str:
    """Fetch a file that is not here, see `fetch_url`; returns its sha256."""
    known, part = _or_first_seen(known, path), path.with_name(f"{path.name}.part")
    transfer(
        url, part, num_bytes=known.num_bytes, has_checksum=known.has_checksum, progress=progress
    )
    found, differences = known.differences(part)
    first_seen = _first_seen(path)
    if differences:
        part.unlink()
        advice = "The file at the address has changed, or was damaged on the way."
        if first_seen.exists():
            advice += f"\n  If the change is meant: delete {first_seen} and fetch again."
        raise DataError(_lines(f"{url}: not the file that is expected", differences, advice))
    if not known.has_checksum:
        with whole_file(first_seen) as file:
            file.write(f"{found}  {path.name}\n".encode())
    os.replace(part, path)
    state_path(part).unlink(missing_ok=True)
    return found


def _first_seen(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _or_first_seen(known: Known, path: Path) -> Known:
    """What is known of a file; where that is no checksum, with the one that was seen first."""
    if known.has_checksum or not _first_seen(path).exists():
        return known
    sha256 = _first_seen(path).read_text(encoding="utf-8").split()[0]
    return Known(sha256, num_bytes=known.num_bytes)


def fetch_hub(
    repo_id: str,
    filenames: Sequence[str],
    folder: Path,
    *,
    repo_type: RepoType = "model",
    revision: str | None = None,
    endpoint: str | None = None,
    known: Mapping[str, Known] | None = None,
) -> tuple[Fetched, ...]:
    """Fetch files of a hub repository, all from one commit, and check their content against it.

    filenames: in the repository; "*" and "?" make one a pattern, which has to match some file.
    folder: they keep their paths below it.   revision: None is the newest; the commit it stands for
    is in what is returned.   endpoint: None is the hub's address, or that in HF_ENDPOINT.
    known: what is known by file name, to be sure of more than what the hub itself says.
    Errors as for `fetch_url`; a file that is here and differs is reported, never replaced.
    """
    from huggingface_hub import HfApi, hf_hub_download

    # The base of all connection errors; httpx or httpx2, whichever the installed version builds on.
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HFValidationError,
        HTTPError,
    )

    name = f"{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"
    try:
        api = HfApi(endpoint=endpoint)
        info = api.repo_info(repo_id, repo_type=repo_type, revision=revision, files_metadata=True)
        commit = str(info.sha)
        files = getattr(info, "siblings", None) or []
        wanted = _wanted(filenames, name, commit, files, known or {})
        found = {path: checked(folder / path, each) for path, each in wanted.items()
                 if (folder / path).exists()}  # fmt: skip
        missing = [path for path in wanted if path not in found]
        require_space(folder, sum(wanted[path].num_bytes or 0 for path in missing))
        for path in missing:
            hf_hub_download(
                repo_id, path, repo_type=repo_type, revision=commit, local_dir=folder,
                endpoint=endpoint,
            )  # fmt: skip
            found[path] = checked(folder / path, wanted[path])
    except (HTTPError, HFValidationError, OSError, RuntimeError) as error:
        # RuntimeError: what hf_xet makes of a lost connection
        if isinstance(error, OSError) and error.errno is not None:
            raise _disk_error(error, folder) from error
        raise hub_error(error, name, revision) from error
    return tuple(
        Fetched(folder / path, f"hf://{name}@{commit}/{path}", commit, found[path],
                (folder / path).stat().st_size, is_new=path in missing)
        for path in wanted
    )  # fmt: skip


def leaves_folder(name: str) -> bool:
    """Whether a relative name, of an archive's member or a hub's file, could leave its folder.

    True for absolute names, drive letters and "..", with either slash.
    """
    path = PureWindowsPath(name)  # knows all of "/", "\\", "C:" and ".."
    return not path.parts or bool(path.anchor) or ".." in path.parts or "\0" in name


def _wanted(
    filenames: Sequence[str], name: str, commit: str, files: Sequence[Any],
    known: Mapping[str, Known],
) -> dict[str, Known]:  # fmt: skip
    """The files of a repository that are asked for, and what the hub says of each."""
    from fnmatch import fnmatchcase

    by_name = {file.rfilename: file for file in files}
    asked = {each: [path for path in by_name if path == each or fnmatchcase(path, each)]
             for each in filenames}  # fmt: skip
    lost = [f"  {each}" for each, paths in asked.items() if not paths]
    if lost:
        raise DataError("\n".join([f"{name}@{commit[:12]}: no such file:", *lost]))
    outside = [path for paths in asked.values() for path in paths if leaves_folder(path)]
    if outside:
        raise DataError(f"{name}@{commit[:12]}: file names that leave the folder: {outside}")
    return {
        path: _merged(known.get(path, Known()), by_name[path])
        for path in dict.fromkeys(path for paths in asked.values() for path in paths)
    }


def _merged(known: Known, file: Any) -> Known:
    """What is known of a file, and for the rest what the hub says of it."""
    return Known(
        sha256=known.sha256 or (file.lfs.sha256 if file.lfs else None),
        md5=known.md5,
        git_blob=known.git_blob or (None if file.lfs else file.blob_id),
        num_bytes=known.num_bytes or file.size,
    )


def hub_error(error: Exception, name: str, revision: str | None) -> LiteVLError:
    """What the hub library raised, as a message with the way out."""
    from huggingface_hub import errors

    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return DataError(f"{name}: the hub has no revision '{revision}' of it")
    if isinstance(error, errors.GatedRepoError) or status in (401, 403):
        return DataError(
            f"{name}: the hub gives it only to those who accepted its terms, or has no such "
            "repository.\n"
            "  Accept them on its page on the hub, then log in: hf auth login"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return DataError(f"{name}: no such repository on the hub")
    if isinstance(error, errors.HFValidationError):
        return DataError(f"{name}: no name that the hub could have: {error}")
    if isinstance(error, errors.EntryNotFoundError) and status == 404:
        return DataError(f"{name}: the hub lists a file that it does not have: {error}")
    first = (str(error).strip() or repr(error)).splitlines()[0]
    return RunError(
        f"{name}: the hub could not be reached: {first}\n"
        "  What was fetched is kept; the same command continues."
    )


def checked(path: Path, known: Known) -> str:
    """The sha256 of a file that is here. DataError if it is not the one expected."""
    found, differences = known.differences(path)
    if differences:
        advice = "Nothing was changed. Move the file away, or delete it, and fetch again."
        raise DataError(_lines(f"{path}: not the file that is expected", differences, advice))
    return found


def _lines(what: str, differences: Sequence[str], advice: str) -> str:
    return "\n".join([f"{what}:", *(f"  {each}" for each in differences), f"  {advice}"])


def _disk_error(error: OSError, path: Path) -> RunError:
    where = os.fsdecode(error.filename) if error.filename else path
    return RunError(f"{where}: {error.strerror or error}.\n  What was fetched is kept.")
