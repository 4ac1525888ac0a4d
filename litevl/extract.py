"""Archives of others, unpacked without trusting them: into their folder, whole, or not at all."""

import json
import lzma
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from litevl.download import leaves_folder
from litevl.errors import DataError, RunError
from litevl.locks import alone_with
from litevl.transfer import CHUNK, require_space

__all__ = ["Extracted", "extract", "extracted"]

MARKER = ".litevl-extracted.json"  # written into the folder last: a folder with it is whole
MAX_RATIO = 100  # unpacked to packed; the annotations of MSR-VTT reach 7, clips 1
SMALL_BYTES = 100 << 20  # up to here any ratio is harmless
MAX_MEMBERS = 1_000_000
MAX_TARGET = 4096  # characters of a path that a link points to
REFUSED = "Nothing was unpacked."
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


@dataclass(frozen=True)
class Extracted:
    """What a folder holds of an archive.   num_left_out: files of it that were not asked for."""

    archive: str
    archive_bytes: int
    num_files: int
    num_bytes: int
    num_left_out: int


@dataclass(frozen=True)
class _Member:
    """One entry of an archive.   link: where it points, from the top of the archive, if it is one.

    open: gives the content of a file.   is_special: a device, a pipe or the like.
    """

    name: str
    num_bytes: int
    open: Callable[[], IO[bytes] | None]
    is_folder: bool = False
    is_special: bool = False
    link: str | None = None


@dataclass
class _Unpacked:
    """What was unpacked so far.   names: name below the folder, by name in the archive."""

    names: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=lambda: {MARKER})
    links: list[tuple[str, str, str]] = field(default_factory=list)  # name, its new one, target
    num_members: int = 0
    num_bytes: int = 0
    num_left_out: int = 0


def extract(
    archive: Path, folder: Path, rename: Callable[[str], str | None] | None = None
) -> Extracted:
    """Unpack a zip or tar archive into a folder that is not there yet, or is empty.

    rename: gives a file's name below the folder for its name in the archive, None to leave it out.

    Nothing appears under the folder's name before all of it is unpacked. A folder that holds this
    archive already is left as it is, with all that was changed or added in it.
    A link to a file of the archive becomes that file; other links inside are left out.
    DataError: the archive is damaged, or has an entry that would leave the folder, stands for a
    device, occurs twice or unpacks to an absurd size; or the folder holds something else.
    """
    folder = folder.resolve()  # it may be a link to a larger disk
    try:
        with alone_with(folder):
            return _extract(archive, folder, rename or str)
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # not from a decompressor
            raise RunError(f"{folder}: {error.strerror}. {REFUSED}") from error
        raise DataError(
            f"{archive}: cannot be unpacked, damaged or with a password: {error}\n"
            f"  {REFUSED} Delete it and fetch it again."
        ) from error


def _extract(archive: Path, folder: Path, rename: Callable[[str], str | None]) -> Extracted:
    """`extract` without its handling of errors, while no other process does the same."""
    done = extracted(folder)
    size = archive.stat().st_size
    if done and (done.archive, done.archive_bytes) == (archive.name, size):
        return done
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = f"what was unpacked of {done.archive}" if done else "files"
        raise DataError(
            f"{folder}: holds {what}; {archive.name} is not unpacked over it.\n"
            "  Move the folder away first."
        )
    temporary = folder.with_name(f".{folder.name}.unpacking")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a call that was killed
        temporary.mkdir(parents=True)
        done = _unpack_all(archive, size, temporary, rename)
        if not done.num_files:
            raise DataError(f"{archive}: holds none of the files that are looked for. {REFUSED}")
        marker = json.dumps(asdict(done), indent=2)
        (temporary / MARKER).write_text(marker + "\n", encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return done


def extracted(folder: Path) -> Extracted | None:
    """What `extract` put into a folder, None if it did not."""
    try:
        return Extracted(**json.loads((folder / MARKER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _members(archive: Path, root: Path) -> Iterator[_Member]:
    """The entries of a zip or tar archive, in its order. RunError if the disk is too small."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            require_space(root, sum(info.file_size for info in packed.infolist()))
            for info in packed.infolist():
                yield _zip_member(packed, info)
    elif tarfile.is_tarfile(archive):
        require_space(root, archive.stat().st_size)  # at the least
        with tarfile.open(archive) as packed_tar:
            for entry in packed_tar:
                yield _tar_member(packed_tar, entry)
            while packed_tar.fileobj and packed_tar.fileobj.read(CHUNK):
                pass  # a compressed stream has its checksum at its end
    else:
        raise DataError(f"{archive}: neither a zip nor a tar archive, or cut short")


def _zip_member(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive is not from Unix
    is_link = kind == stat.S_IFLNK and info.file_size < MAX_TARGET
    target = packed.read(info).decode("utf-8", "replace") if is_link else None
    return _Member(
        info.filename,
        info.file_size,
        lambda: packed.open(info),
        is_folder=info.is_dir(),
        is_special=not is_link and kind not in (0, stat.S_IFREG, stat.S_IFDIR),
        link=_from_top(info.filename, target),
    )


def _tar_member(packed: tarfile.TarFile, entry: tarfile.TarInfo) -> _Member:
    is_link = entry.issym() or entry.islnk()
    target = _from_top(entry.name, entry.linkname) if entry.issym() else entry.linkname
    return _Member(
        entry.name,
        entry.size,
        lambda: packed.extractfile(entry),
        is_folder=entry.isdir(),
        is_special=not (entry.isreg() or entry.isdir() or is_link),
        link=target if is_link else None,
    )


def _from_top(name: str, target: str | None) -> str | None:
    """Where a symbolic link points, seen from the top of the archive instead of from its folder."""
    return None if target is None else posixpath.normpath(posixpath.join(name, "..", target))


def _unpack_all(
    archive: Path, size: int, root: Path, rename: Callable[[str], str | None]
) -> Extracted:
    """Unpack every entry below root; nothing that the archive says of links or modes is used."""
    so_far = _Unpacked()
    for member in _members(archive, root):
        so_far.num_members += 1
        reason = _refusal(member, so_far.num_members)
        if reason:
            raise DataError(f"{archive}: {member.name!r} {reason}. {REFUSED}")
        if member.is_folder:
            continue
        name = posixpath.normpath(member.name)
        new = rename(name)
        if new is None:
            so_far.num_left_out += 1
        elif member.link is not None:
            so_far.links.append((name, new, posixpath.normpath(member.link)))
        else:
            _unpack(member, archive, size, root / new, so_far, new)
            so_far.names[name] = new
    for name, new, target in so_far.links:
        source = so_far.names.get(target)
        if source is None or source == new:
            so_far.num_left_out += 1
            continue
        _take(new, archive, name, so_far)
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / source, root / new)
    num_files = len(so_far.taken) - 1
    return Extracted(archive.name, size, num_files, so_far.num_bytes, so_far.num_left_out)


def _refusal(member: _Member, number: int) -> str:
    """Why an entry is not unpacked, "" if it may be."""
    if _is_outside(member.name):
        return "would leave the folder"
    if member.link is not None and _is_outside(member.link):
        return f"is a link out of the folder, to {member.link!r}"
    if member.is_special:
        return "is neither a file nor a folder nor a link"
    return f"is entry {number:,}" if number > MAX_MEMBERS else ""


def _is_outside(name: str) -> bool:
    return leaves_folder(name) and posixpath.normpath(name) != "."  # "./", the folder itself


def _take(new: str, archive: Path, name: str, so_far: _Unpacked) -> None:
    """Note a name below the folder as taken. DataError if it is already."""
    above = (parent.as_posix() for parent in PurePosixPath(new).parents)
    if new in so_far.taken or any(parent in so_far.taken for parent in above):
        raise DataError(f"{archive}: {name!r} occurs twice, as {new!r}. {REFUSED}")
    so_far.taken.add(new)


def _unpack(
    member: _Member, archive: Path, size: int, path: Path, so_far: _Unpacked, new: str
) -> None:
    """Write one file, no longer than the archive says it is."""
    _take(new, archive, member.name, so_far)
    so_far.num_bytes += member.num_bytes
    if so_far.num_bytes > max(MAX_RATIO * size, SMALL_BYTES):
        raise DataError(f"{archive}: unpacks to over {MAX_RATIO} times its size. {REFUSED}")
    require_space(path.parent, member.num_bytes)
    path.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    assert source is not None  # a regular file
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file, CHUNK)
    if path.stat().st_size != member.num_bytes:
        raise DataError(f"{archive}: {member.name!r} is cut short. {REFUSED}")
