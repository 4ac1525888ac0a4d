"""The text files below a folder, also those in zip archives, read as far as their syntax goes.

Whoever unpacks a data set puts its files anywhere and renames them, so every file is looked into,
whatever its name. Nothing is extracted and nothing repaired: what cannot be read is listed with the
reason. The limits keep a wrong folder, a zip bomb or a loop of links from costing more than time.
"""

import csv
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from litevl.data.annotations import CLIP_FOLDERS

MAX_DEPTH = 12  # folders in folders
MAX_FILES = 100_000  # looked into, those in archives included
MAX_BYTES = 1 << 28  # of one text file; the largest published one has about 30 MB
SNIFFED_BYTES = 4096
# Clips, frames and weights are no annotations, and opening thousands of them takes minutes.
NO_TEXT = {
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".m4v",
    ".wav", ".mp3", ".m4a", ".jpg", ".jpeg", ".png", ".gif", ".webp", ".npy", ".npz", ".h5",
    ".hdf5", ".lmdb", ".mdb", ".pkl", ".parquet", ".arrow", ".pt", ".pth", ".bin", ".safetensors",
    ".tar", ".gz", ".tgz", ".xz", ".bz2", ".pdf", ".py", ".pyc", ".u8",
}  # fmt: skip

# What a damaged file or archive raises in being read; NotImplementedError is a RuntimeError.
UNREADABLE = (
    OSError, EOFError, ValueError, OverflowError, RuntimeError, struct.error, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip

Form = Literal["object", "rows", "table", "lines"]


@dataclass(frozen=True)
class TextFile:
    """One text file, told apart by its syntax.

    name:    where it lies below the folder, "archive.zip:member" inside an archive.
    form:    "object" a JSON object; "rows" a JSON list, or JSON lines; "table" a CSV with a header;
             "lines" anything else.
    content: a dict; a list; a list of dicts by column; a list of stripped lines, empty ones left
             out.
    columns: of a table.
    numbers: line of each entry of content; empty for what stands in one JSON text.
    faults:  lines that could not be read, each with its number and the reason.
    """

    name: str
    form: Form
    content: Any
    columns: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def base_name(self) -> str:
        """The name without folders and archive."""
        return self.name.rpartition(":")[2].rpartition("/")[2]

    def place(self, row: int) -> str:
        """Where an entry stands, for messages."""
        return f"{self.name} line {self.numbers[row]}" if self.numbers else f"{self.name}[{row}]"


@dataclass(frozen=True)
class Unread:
    """A file that is no annotation file one can read; reason is empty where it is no text."""

    name: str
    reason: str = ""


def read_folder(root: Path) -> Iterator[TextFile | Unread]:
    """Every file below root in the order of names, read; but for clips and other NO_TEXT.

    Folders of clips (CLIP_FOLDERS), hidden files and what lies deeper than MAX_DEPTH are left out.
    Links are followed to files, not to folders.
    """
    opened = 0
    for path, name in paths_to_read(root):
        try:
            with path.open("rb") as file:
                for entry in _entries(name, file):
                    opened += 1
                    yield entry
                    if opened == MAX_FILES:
                        yield Unread(name, f"the rest was not looked at: {MAX_FILES} files so far")
                        return
        except UNREADABLE as error:
            yield Unread(name, f"cannot be read: {error}")


def read_file(path: Path) -> TextFile | Unread:
    """One text file, called by its name without folders."""
    try:
        with path.open("rb") as file:
            return _read(path.name, file)
    except UNREADABLE as error:
        return Unread(path.name, f"cannot be read: {error}")


def paths_to_read(root: Path) -> Iterator[tuple[Path, str]]:
    """Every file to look into, and its name below root."""
    for folder, children, files in os.walk(root):
        inside = Path(folder).relative_to(root)
        children[:] = sorted(
            child
            for child in children
            if not child.startswith(".")
            and (inside / child).as_posix() not in CLIP_FOLDERS
            and len(inside.parts) < MAX_DEPTH
        )
        for name in sorted(files):
            path = Path(folder, name)
            if _may_be_text(name) and path.is_file():  # not a pipe, not a link to nowhere
                yield path, (inside / name).as_posix()


def _may_be_text(name: str) -> bool:
    base = name.rpartition("/")[2]
    return bool(base) and not base.startswith(".") and Path(base).suffix.lower() not in NO_TEXT


def _entries(name: str, file: BinaryIO) -> Iterator[TextFile | Unread]:
    """What a file holds: itself, or the members of a zip archive."""
    if file.read(4) != b"PK\x03\x04":
        file.seek(0)
        yield _read(name, file)
        return
    with zipfile.ZipFile(file) as archive:
        for member in filter(lambda info: _may_be_text(info.filename), archive.infolist()):
            shown = f"{name}:{member.filename}"
            if member.flag_bits & 1:
                yield Unread(shown, "is encrypted")
                continue
            try:
                with archive.open(member) as opened:
                    yield _read(shown, opened)
            except UNREADABLE as error:
                yield Unread(shown, f"cannot be read: {error}")


def _read(name: str, file: Any) -> TextFile | Unread:
    """One open file: its syntax, or why it has none."""
    start = file.read(SNIFFED_BYTES)
    if b"\0" in start:
        return Unread(name)
    raw = start + file.read(max(0, MAX_BYTES + 1 - len(start)))
    if len(raw) > MAX_BYTES:
        return Unread(name, f"not looked at: more than {MAX_BYTES >> 20} MB of text")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Unread(name, f"cannot be read: {error}")
    return parse(name, text)


def parse(name: str, text: str) -> TextFile | Unread:
    """The syntax of a text."""
    start = text.lstrip()[:1]
    if start in ("{", "["):
        return _parse_json(name, text)
    header = _header(text.partition("\n")[0].strip())
    if len(header) > 1 and all(column.replace(" ", "_").isidentifier() for column in header):
        return _parse_table(name, text, header)
    lines = [(line.strip(), number) for number, line in enumerate(text.split("\n"), 1)]
    kept = [(line, number) for line, number in lines if line]
    content, numbers = [line for line, _ in kept], tuple(number for _, number in kept)
    return TextFile(name, "lines", content, numbers=numbers)


def _parse_json(name: str, text: str) -> TextFile | Unread:
    try:
        content = json.loads(text)
    except RecursionError:
        return Unread(name, "not JSON that can be read (nested too deeply)")
    except ValueError as error:
        return _parse_json_lines(name, text) or Unread(name, f"not JSON ({error}); cut short?")
    return TextFile(name, "object" if isinstance(content, dict) else "rows", content)


def _parse_json_lines(name: str, text: str) -> TextFile | None:
    """JSON lines; None if already the first line is none."""
    content, numbers, faults = [], [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            content.append(json.loads(line))
            numbers.append(number)
        except (ValueError, RecursionError) as error:
            if not content:
                return None
            faults.append(f"{name} line {number}: not JSON ({error}); cut short?")
    if not isinstance(content[0], dict):
        return None
    return TextFile(name, "rows", content, numbers=tuple(numbers), faults=tuple(faults))


def _header(line: str) -> list[str]:
    """The columns that a line names; none where it is no line of a CSV."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _parse_table(name: str, text: str, header: list[str]) -> TextFile:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    content, numbers, faults = [], [], []
    try:
        for row in rows:
            if None in row or None in row.values():
                faults.append(f"{name} line {rows.line_num}: more or fewer fields than the header")
            else:
                content.append(row)
                numbers.append(rows.line_num)
    except csv.Error as error:
        faults.append(f"{name} after line {rows.line_num}: {error}; an open quote?")
    return TextFile(name, "table", content, tuple(header), tuple(numbers), tuple(faults))
