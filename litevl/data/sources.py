"""Where the files of a data set, or a checkpoint of BLIP, are had: litevl/assets/sources.toml."""

import difflib
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from litevl.download import Known
from litevl.errors import DataError

BLIP = "blip"  # blip:<name> is one checkpoint
DOWNLOADS = ".downloads"  # hidden, because loaders look for annotations in every other archive
GITHUB = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Source:
    """One file: on GitHub, on the hub or at another address; the fields are the file's.

    path: where it goes.   folder: where the clips of an archive go, None for any other file.
    """

    path: str
    url: str | None = None
    hub: str | None = None
    file: str | None = None
    revision: str | None = None
    known: Known = field(default_factory=Known)
    folder: str | None = None

    @property
    def address(self) -> str:
        """Where it is had, for a reader."""
        return self.url or f"hf://{self.hub}/{self.file}"


@dataclass(frozen=True)
class Sources:
    """All of one data set.   clips: archives by the place they are had from, the usual one first.

    licence: what is known of the terms.   by_hand: what a user does who has no other way.
    """

    name: str
    licence: str
    files: tuple[Source, ...]
    clips: dict[str, tuple[Source, ...]]
    by_hand: tuple[str, ...]


def sources(name: str) -> Sources:
    """Where the files of a data set are had, or one checkpoint, "blip:<name>".

    DataError for any other name, with those that there are.
    """
    text = resources.files("litevl.assets").joinpath("sources.toml").read_text(encoding="utf-8")
    tables: dict[str, Any] = tomllib.loads(text)
    checkpoints = {
        f"{BLIP}:{row['path'].removesuffix('.pth')}": row for row in tables[BLIP]["files"]
    }
    data_sets = [each for each in tables if each != BLIP]
    if name in checkpoints:
        table = {**tables[BLIP], "files": [checkpoints[name], tables[BLIP]["vocabulary"]]}
    elif name in data_sets:
        table = tables[name]
    else:
        names = [*data_sets, *checkpoints]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        lines = "\n".join(f"  {each}" for each in names)
        raise DataError(f"'{name}': nothing of that name can be fetched{hint}\n{lines}")
    clips: dict[str, tuple[Source, ...]] = {}
    for row in table.get("clips", []):
        place = row["from"]
        clips[place] = (*clips.get(place, ()), _source(row))
    return Sources(
        name=name,
        licence=table["licence"].strip(),
        files=tuple(_source(row) for row in table["files"]),
        clips=clips,
        by_hand=tuple(table["by_hand"]),
    )


def _source(row: dict[str, Any]) -> Source:
    """One row of the file."""
    given = {key: value for key, value in row.items() if key != "from"}
    names = ("sha256", "md5", "git_blob", "num_bytes")
    known = Known(**{key: given.pop(key) for key in names if key in given})
    repository = given.pop("github", None)
    if repository is not None:
        given["url"] = f"{GITHUB}/{repository}/{given['revision']}/{given['file']}"
    if "hub" in given:
        given["path"] = given["file"]
    if "folder" in given:
        given["path"] = f"{DOWNLOADS}/{given['path']}"
    return Source(known=known, **given)
