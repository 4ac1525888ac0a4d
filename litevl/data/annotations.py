"""Annotation files as their authors published them, read into clips with captions.

MSRVTT in its 1k-A protocol (the "JSFusion" split) needs three things, told apart by what they
hold, not by their names:

- the official JSON (`train_val_videodatainfo.json` and `test_videodatainfo.json`, or the merged
  `MSRVTT_data.json`), also inside the zip archives it was published in;
- the 1k-A test CSV, one sentence for each of 1,000 clips;
- a train list, "9k" (all but the test clips) or "7k" (the official train and validate splits).

Every wrong row is reported, with file and row, in one DataError. Nothing is repaired, and nothing
is skipped in silence.
"""

import csv
import io
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litevl.errors import DataError

TRAIN_SPLITS = ("9k", "7k")
# Where the archives in circulation put their clips; the first folder that holds a clip wins.
CLIP_FOLDERS = ("videos", "videos/all", "video", "TrainValVideo", "TestVideo")
TEXT_SUFFIXES = (".json", ".csv", ".txt")
MAX_PROBLEMS_SHOWN = 200


@dataclass(frozen=True)
class Clip:
    """One video file and the sentences about it. `source` names the video it was cut from."""

    id: str
    path: Path
    source: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class RetrievalData:
    """The clips of a text-video retrieval data set. `notes` say which files were used."""

    train: tuple[Clip, ...]
    validation: tuple[Clip, ...]
    test: tuple[Clip, ...]
    notes: tuple[str, ...]

    @property
    def splits(self) -> dict[str, tuple[Clip, ...]]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


@dataclass(frozen=True)
class _Official:
    """One clip of the official JSON."""

    source: str
    split: str
    captions: tuple[str, ...]


@dataclass
class _Found:
    """What the annotation files hold, gathered file by file, with every problem met on the way."""

    official: dict[str, _Official] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)  # clip id -> file that described it first
    lists: dict[str, dict[str, int]] = field(default_factory=dict)  # file -> clip id -> line
    tables: dict[str, dict[str, tuple[str, int]]] = field(
        default_factory=dict
    )  # file -> id -> sentence, line
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def load_msrvtt(root: Path, train_split: str) -> RetrievalData:
    """Clips of MSRVTT: the 9k or 7k train list, the 1k-A test CSV, the rest of "validate".

    root:        folder with the annotation files (at any depth) and the clips, `videos/<id>.mp4`
                 (or in another of CLIP_FOLDERS).
    train_split: "9k" or "7k".
    Validation is the official "validate" split without the clips of the two others: none with the
    published lists. Clip files are not opened here; see `litevl.data.dataset.check_clips`.
    Raises DataError, listing all problems.
    """
    if train_split not in TRAIN_SPLITS:
        raise DataError(
            f"train_split: unknown list {train_split!r}; known: {', '.join(TRAIN_SPLITS)}"
        )
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; it should hold the MSRVTT annotation files and the clips"
        )
    found = _Found()
    for name, text in _text_files(root, found.problems):
        _sort_in(name, text, found)
    if not found.official:
        found.problems.append(
            'no official JSON, with "videos" and "sentences" (train_val_videodatainfo.json, '
            "test_videodatainfo.json)"
        )
    train_name = _pick_train_list(found, train_split)
    test_name = _pick_test_table(found)
    train = found.lists.get(train_name, {})
    test = found.tables.get(test_name, {})
    _check_rows(found, train_name, train, test_name, test)
    if found.problems:
        raise DataError(_message(root, found))

    paths = _clip_paths(root, found.notes)

    def clip(clip_id: str, captions: tuple[str, ...]) -> Clip:
        path = paths.get(clip_id, root / CLIP_FOLDERS[0] / f"{clip_id}.mp4")
        return Clip(clip_id, path, found.official[clip_id].source, captions)

    validation = [
        clip_id
        for clip_id, video in found.official.items()
        if video.split == "validate" and clip_id not in train and clip_id not in test
    ]
    notes = [f"train list: {train_name}", f"test captions: {test_name}", *found.notes]
    if found.unused:
        notes.append("files not used: " + ", ".join(sorted(found.unused)))
    return RetrievalData(
        train=tuple(clip(clip_id, found.official[clip_id].captions) for clip_id in train),
        validation=tuple(clip(clip_id, found.official[clip_id].captions) for clip_id in validation),
        test=tuple(clip(clip_id, (sentence,)) for clip_id, (sentence, _) in test.items()),
        notes=tuple(notes),
    )


def _text_files(root: Path, problems: list[str]) -> Iterator[tuple[str, str]]:
    """Name and text of every JSON, CSV and TXT file below root, also in zip archives."""
    for folder, children, names in os.walk(root):
        here = Path(folder)
        children[:] = sorted(
            child
            for child in children
            if not child.startswith(".")
            and (here / child).relative_to(root).as_posix() not in CLIP_FOLDERS
        )
        for name in sorted(names):
            path = here / name
            suffix = path.suffix.lower()
            if name.startswith(".") or suffix not in (*TEXT_SUFFIXES, ".zip"):
                continue
            shown = path.relative_to(root).as_posix()
            try:
                if suffix == ".zip":
                    yield from _zipped_texts(shown, path, problems)
                else:
                    yield shown, path.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError, zipfile.BadZipFile, RuntimeError) as error:
                problems.append(f"{shown}: cannot be read: {error}")


def _zipped_texts(shown: str, path: Path, problems: list[str]) -> Iterator[tuple[str, str]]:
    """Name and text of the JSON, CSV and TXT files inside one zip archive."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if Path(member).suffix.lower() in TEXT_SUFFIXES and not Path(member).name.startswith(
                "."
            ):
                try:
                    yield f"{shown}:{member}", archive.read(member).decode("utf-8-sig")
                except UnicodeDecodeError as error:
                    problems.append(f"{shown}:{member}: cannot be read: {error}")


def _sort_in(name: str, text: str, found: _Found) -> None:
    """Recognise one file by its content and add what it holds."""
    if name.lower().endswith(".json"):
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            found.problems.append(f"{name}: not JSON ({error}); cut short?")
            return
        if isinstance(content, dict) and {"videos", "sentences"} <= content.keys():
            _add_official(name, content, found)
        else:
            found.unused.append(name)
        return
    header = next(csv.reader(io.StringIO(text)), [])
    if "sentence" in header or ("video_id" in header and len(header) > 1):
        _add_table(name, text, header, found)
    elif header == ["video_id"]:
        found.lists[name] = _ids(name, text.splitlines(), 2, found.problems)
    elif text.strip() and all(
        len(line.split()) < 2 and "," not in line for line in text.splitlines()
    ):
        found.lists[name] = _ids(name, text.splitlines(), 1, found.problems)
    else:
        found.unused.append(name)


def _ids(name: str, lines: list[str], first_line: int, problems: list[str]) -> dict[str, int]:
    """Clip id -> line number, of a file with one id per line."""
    ids: dict[str, int] = {}
    for number, line in enumerate(lines[first_line - 1 :], first_line):
        clip_id = line.strip().strip('"')
        if not clip_id:
            continue
        if clip_id in ids:
            problems.append(
                f"{name} line {number}: {clip_id} stands already in line {ids[clip_id]}"
            )
        else:
            ids[clip_id] = number
    return ids


def _add_table(name: str, text: str, header: list[str], found: _Found) -> None:
    """Read a test CSV: one sentence for each clip."""
    lacking = [column for column in ("video_id", "sentence") if column not in header]
    if lacking:
        found.problems.append(
            f"{name} line 1: lacks column {' and '.join(lacking)}; has {', '.join(header)}"
        )
        return
    table = found.tables.setdefault(name, {})
    rows = csv.DictReader(io.StringIO(text))
    for row in rows:
        where = f"{name} line {rows.line_num}"
        clip_id, sentence = row["video_id"], row["sentence"]
        if None in row or clip_id is None or sentence is None:
            found.problems.append(
                f"{where}: the number of fields differs from the header's {len(header)}"
            )
        elif not clip_id.strip():
            found.problems.append(f"{where}: empty video_id")
        elif clip_id in table:
            found.problems.append(f"{where}: {clip_id} stands already in line {table[clip_id][1]}")
        else:
            table[clip_id] = (sentence, rows.line_num)
            if not sentence.strip():
                found.problems.append(f"{where}: empty caption for {clip_id}")


def _add_official(name: str, content: dict[str, Any], found: _Found) -> None:
    """Read an official JSON, and merge it with what other files said of the same clips."""
    sources: dict[str, tuple[str, str]] = {}
    captions: dict[str, list[str]] = {}
    for row, video in enumerate(content["videos"]):
        where = f"{name} videos[{row}]"
        if not _has_strings(video, ("video_id", "url", "split")):
            found.problems.append(f"{where}: needs video_id, url and split as strings")
        elif video["video_id"] in sources:
            found.problems.append(f"{where}: duplicate id {video['video_id']}")
        else:
            sources[video["video_id"]] = (video["url"], video["split"])
            captions[video["video_id"]] = []
    for row, sentence in enumerate(content["sentences"]):
        where = f"{name} sentences[{row}]"
        if not _has_strings(sentence, ("video_id", "caption")):
            found.problems.append(f"{where}: needs video_id and caption as strings")
        elif sentence["video_id"] not in captions:
            found.problems.append(
                f"{where}: names {sentence['video_id']}, which is not among the videos"
            )
        elif not sentence["caption"].strip():
            found.problems.append(f"{where}: empty caption for {sentence['video_id']}")
        else:
            captions[sentence["video_id"]].append(sentence["caption"])
    repeated = 0
    for clip_id, (source, split) in sources.items():
        clip = _Official(source, split, tuple(captions[clip_id]))
        if found.official.setdefault(clip_id, clip) != clip:
            found.problems.append(
                f"{name}: {clip_id} differs from its entry in {found.origin[clip_id]}"
            )
        elif found.origin.setdefault(clip_id, name) != name:
            repeated += 1
    if repeated:
        found.notes.append(f"{name}: {repeated} clips described a second time, identically")


def _has_strings(row: object, keys: tuple[str, ...]) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(key), str) for key in keys)


def _pick_train_list(found: _Found, train_split: str) -> str:
    """Name of the asked train list; "" and a problem when there is none, or two that differ."""
    kinds = {name: _list_kind(name, ids, found.official) for name, ids in found.lists.items()}
    names = [name for name, kind in kinds.items() if kind == train_split]
    found.unused.extend(name for name in kinds if name not in names[:1])
    if not names:
        others = [f"{name} ({kind})" for name, kind in kinds.items() if kind]
        found.problems.append(
            f"no {train_split} train list, a file with one clip id per line; "
            f"found {', '.join(others) or 'none'}"
        )
        return ""
    for other in names[1:]:
        if found.lists[other].keys() != found.lists[names[0]].keys():
            found.problems.append(
                f"{other}: a {train_split} list that differs from {names[0]}; keep one of them"
            )
    return names[0]


def _list_kind(name: str, ids: dict[str, int], official: dict[str, _Official]) -> str:
    """Which train list a list of ids is: "9k", "7k", or "" for neither.

    The published names say it. Otherwise: only Training-9K mixes clips of the official test split
    with others.
    """
    for kind in TRAIN_SPLITS:
        if kind in name.rsplit("/", 1)[-1].rsplit(":", 1)[-1].lower():
            return kind
    splits = {official[clip_id].split for clip_id in ids if clip_id in official}
    if not splits or splits == {"test"}:
        return ""
    return "9k" if "test" in splits else "7k"


def _pick_test_table(found: _Found) -> str:
    """Name of the test CSV; "" and a problem when there is none, or more than one that differ."""
    names = list(found.tables)
    if not names:
        found.problems.append(
            "no 1k-A test CSV, with columns video_id and sentence (MSRVTT_JSFUSION_test.csv)"
        )
        return ""
    first = {clip_id: sentence for clip_id, (sentence, _) in found.tables[names[0]].items()}
    for other in names[1:]:
        if {clip_id: sentence for clip_id, (sentence, _) in found.tables[other].items()} != first:
            found.problems.append(
                f"{other}: a test CSV that differs from {names[0]}; keep one of them"
            )
    found.unused.extend(names[1:])
    return names[0]


def _check_rows(
    found: _Found,
    train_name: str,
    train: dict[str, int],
    test_name: str,
    test: dict[str, tuple[str, int]],
) -> None:
    """Add a problem for every listed clip that has no captions or stands in two splits."""
    for clip_id, line in train.items():
        if clip_id not in found.official:
            found.problems.append(
                f"{train_name} line {line}: {clip_id} is not in the official JSON"
            )
        elif not found.official[clip_id].captions:
            found.problems.append(
                f"{train_name} line {line}: {clip_id} has no captions in {found.origin[clip_id]}"
            )
        if clip_id in test:
            found.problems.append(
                f"{train_name} line {line}: {clip_id} is also a test clip ({test_name})"
            )
    for clip_id, (_, line) in test.items():
        if clip_id not in found.official:
            found.problems.append(f"{test_name} line {line}: {clip_id} is not in the official JSON")
    for clip_id, video in found.official.items():
        if (
            video.split == "validate"
            and not video.captions
            and clip_id not in train
            and clip_id not in test
        ):
            found.problems.append(
                f"{found.origin[clip_id]}: {clip_id} (split validate) has no captions"
            )


def _clip_paths(root: Path, notes: list[str]) -> dict[str, Path]:
    """Clip id -> file, from one listing of each folder that may hold clips."""
    paths: dict[str, Path] = {}
    repeated = 0
    for folder in CLIP_FOLDERS:
        if (root / folder).is_dir():
            for entry in os.scandir(root / folder):
                if entry.name.endswith(".mp4"):
                    repeated += entry.name[:-4] in paths
                    paths.setdefault(entry.name[:-4], root / folder / entry.name)
    if repeated:
        notes.append(
            f"{repeated} clips lie in more than one folder; "
            f"the first of {', '.join(CLIP_FOLDERS)} is used"
        )
    return paths


def _message(root: Path, found: _Found) -> str:
    shown = found.problems[:MAX_PROBLEMS_SHOWN]
    lines = [
        f"{root}: {len(found.problems)} problem{'s' * (len(found.problems) > 1)} "
        "in the MSRVTT annotations"
    ]
    lines += [f"  {problem}" for problem in shown]
    if len(shown) < len(found.problems):
        lines.append(f"  ... and {len(found.problems) - len(shown)} more")
    if found.unused:
        lines.append(f"  (files not used: {', '.join(sorted(found.unused))})")
    return "\n".join(lines)
