"""MSRVTT's annotation files as their authors published them, read into clips with captions.

The 1k-A protocol (the "JSFusion" split) needs three things, told apart by what they hold, not by
their names:

- the official JSON (`train_val_videodatainfo.json` and `test_videodatainfo.json`, or the merged
  `MSRVTT_data.json`), also inside the zip archives it was published in;
- the 1k-A test CSV, one sentence for each of 1,000 clips;
- a train list, "9k" (all but the test clips) or "7k" (the official train and validate splits).
"""

import csv
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litevl.data.annotations import CLIP_FOLDERS, Annotations, Clip, problems_message, text_files
from litevl.errors import DataError

TRAIN_SPLITS = ("9k", "7k")
OFFICIAL_FILES = ("train_val_videodatainfo.json", "test_videodatainfo.json", "MSRVTT_data.json")

Lines = dict[str, int]  # clip id -> line in its file
Sentences = dict[str, tuple[str, int]]  # clip id -> test caption, line in its file


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
    lists: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # file -> ids, lines
    tables: dict[str, Sentences] = field(default_factory=dict)  # file -> its rows
    not_tables: list[str] = field(default_factory=list)  # CSVs that lack a column, and which
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def load_msrvtt(root: Path, train_split: str) -> Annotations:
    """Clips of MSRVTT: the 9k or 7k train list, the 1k-A test CSV, the rest of "validate".

    root:        folder with the annotation files (at any depth) and the clips, `videos/<id>.mp4`
                 (or in another of CLIP_FOLDERS).
    train_split: "9k" or "7k".
    Validation is the official "validate" split without the clips of the two others: none with the
    published lists. Clip files are not opened here; see `litevl.data.dataset.check_clips`.
    Raises DataError, listing all problems.
    """
    if train_split not in TRAIN_SPLITS:
        raise DataError(f"train_split: no list {train_split!r}; known: {', '.join(TRAIN_SPLITS)}")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; MSRVTT's annotation files and clips belong there")
    found = _Found()
    for name, text in text_files(root, found.problems):
        _sort_in(name, text, found)
    train_name = _pick_train_list(found, train_split)
    test_name = _pick_test_table(found)
    train = _unique(train_name, found.lists.get(train_name, []), found.problems)
    test = found.tables.get(test_name, {})
    if found.official:
        _check_rows(found, train_name, train, test_name, test)
    else:
        found.problems.append(
            'no official JSON, with "videos" and "sentences" (train_val_videodatainfo.json, '
            "test_videodatainfo.json)"
        )
    if found.problems:
        raise DataError(_message(root, found))
    found.notes[:0] = [f"train list: {train_name}", f"test captions: {test_name}"]
    return _assemble(root, found, train, test)


def official_sources(root: Path, problems: list[str]) -> dict[str, str]:
    """Clip id -> url of the video it was cut from, as far as OFFICIAL_FILES below root say."""
    found = _Found(problems=problems)
    for name, text in text_files(root, problems, OFFICIAL_FILES):
        _sort_in(name, text, found)
    return {clip_id: clip.source for clip_id, clip in found.official.items()}


def _assemble(root: Path, found: _Found, train: Lines, test: Sentences) -> Annotations:
    """The clips of the three splits, once nothing is wrong with the annotations."""
    paths = _clip_paths(root, found.notes)

    def clip(clip_id: str, captions: tuple[str, ...]) -> Clip:
        path = paths.get(clip_id, root / CLIP_FOLDERS[0] / f"{clip_id}.mp4")
        return Clip(clip_id, path, found.official[clip_id].source, captions)

    def described(clip_ids: Iterable[str]) -> tuple[Clip, ...]:
        return tuple(clip(clip_id, found.official[clip_id].captions) for clip_id in clip_ids)

    unused = [f"files not used: {', '.join(sorted(found.unused))}"] if found.unused else []
    return Annotations(
        train=described(train),
        validation=described(_rest_of_validate(found, train, test)),
        test=tuple(clip(clip_id, (sentence,)) for clip_id, (sentence, _) in test.items()),
        notes=(*found.notes, *unused),
    )


def _sort_in(name: str, text: str, found: _Found) -> None:
    """Recognise one file by its content and add what it holds."""
    header = [column.strip('"') for column in text.partition("\n")[0].strip().split(",")]
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
    elif "sentence" in header or ("video_id" in header and len(header) > 1):
        _add_table(name, text, header, found)
    elif header == ["video_id"]:
        found.lists[name] = _ids(text)[1:]
    elif all(len(line.split()) < 2 and "," not in line for line in text.splitlines()):
        found.lists[name] = _ids(text)
    else:
        found.unused.append(name)


def _ids(text: str) -> list[tuple[str, int]]:
    """Ids and their line numbers, of a file with one id per line."""
    lines = enumerate(text.splitlines(), 1)
    return [(line.strip().strip('"'), number) for number, line in lines if line.strip()]


def _unique(name: str, ids: list[tuple[str, int]], problems: list[str]) -> Lines:
    """Clip id -> line number; a problem for each id that comes twice."""
    lines: Lines = {}
    for clip_id, number in ids:
        if lines.setdefault(clip_id, number) != number:
            problems.append(
                f"{name} line {number}: {clip_id} stands already in line {lines[clip_id]}"
            )
    return lines


def _add_table(name: str, text: str, header: list[str], found: _Found) -> None:
    """Read a test CSV: one sentence for each clip."""
    lacking = [column for column in ("video_id", "sentence") if column not in header]
    if lacking:
        found.not_tables.append(
            f"{name} line 1: lacks column {' and '.join(lacking)}; has {', '.join(header)}"
        )
        found.unused.append(name)
        return
    table = found.tables.setdefault(name, {})
    rows = csv.DictReader(io.StringIO(text), strict=True)
    try:
        for row in rows:
            _add_sentence(name, rows.line_num, row, table, found.problems)
    except csv.Error as error:
        found.problems.append(f"{name} after line {rows.line_num}: {error}; an open quote?")


def _add_sentence(
    name: str, line: int, row: dict[str, str], table: Sentences, problems: list[str]
) -> None:
    """Add one row of a test CSV to the table."""
    clip_id, sentence = row["video_id"], row["sentence"]
    if None in row or None in row.values():
        problems.append(f"{name} line {line}: more or fewer fields than the header")
    elif not clip_id.strip():
        problems.append(f"{name} line {line}: empty video_id")
    elif clip_id in table:
        problems.append(f"{name} line {line}: {clip_id} stands already in line {table[clip_id][1]}")
    else:
        table[clip_id] = (sentence, line)
        if not sentence.strip():
            problems.append(f"{name} line {line}: empty caption for {clip_id}")


def _add_official(name: str, content: dict[str, Any], found: _Found) -> None:
    """Read an official JSON, and merge it with what other files said of the same clips."""
    sources: dict[str, tuple[str, str]] = {}
    captions: dict[str, list[str]] = {}
    for row, video in enumerate(_rows(name, content, "videos", found.problems)):
        where = f"{name} videos[{row}]"
        if not _has_strings(video, ("video_id", "url", "split")):
            found.problems.append(f"{where}: needs video_id, url and split as strings")
        elif video["video_id"] in sources:
            found.problems.append(f"{where}: duplicate id {video['video_id']}")
        else:
            sources[video["video_id"]] = (video["url"], video["split"])
            captions[video["video_id"]] = []
    for row, sentence in enumerate(_rows(name, content, "sentences", found.problems)):
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


def _rows(name: str, content: dict[str, Any], key: str, problems: list[str]) -> list[Any]:
    rows = content[key]
    if isinstance(rows, list):
        return rows
    problems.append(f"{name}: {key} should be a list, is a {type(rows).__name__}")
    return []


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
    first = {clip_id for clip_id, _ in found.lists[names[0]]}
    for other in names[1:]:
        if {clip_id for clip_id, _ in found.lists[other]} != first:
            found.problems.append(
                f"{other}: a {train_split} list that differs from {names[0]}; keep one of them"
            )
    return names[0]


def _list_kind(name: str, ids: list[tuple[str, int]], official: dict[str, _Official]) -> str:
    """Which train list a list of ids is: "9k", "7k", or "" for neither.

    The published names say it. Otherwise: only Training-9K mixes clips of the official test split
    with others.
    """
    for kind in TRAIN_SPLITS:
        if kind in name.rsplit("/", 1)[-1].rsplit(":", 1)[-1].lower():
            return kind
    splits = {official[clip_id].split for clip_id, _ in ids if clip_id in official}
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
        found.problems.extend(found.not_tables)
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
    found: _Found, train_name: str, train: Lines, test_name: str, test: Sentences
) -> None:
    """Add a problem for every listed clip that has no captions or stands in two splits."""
    problem = found.problems.append
    for clip_id, line in train.items():
        where = f"{train_name} line {line}: {clip_id}"
        if clip_id not in found.official:
            problem(f"{where} is not in the official JSON")
        elif not found.official[clip_id].captions:
            problem(f"{where} has no captions in {found.origin[clip_id]}")
        if clip_id in test:
            problem(f"{where} is also a test clip ({test_name})")
    for clip_id, (_, line) in test.items():
        if clip_id not in found.official:
            problem(f"{test_name} line {line}: {clip_id} is not in the official JSON")
    for clip_id in _rest_of_validate(found, train, test):
        if not found.official[clip_id].captions:
            problem(f"{found.origin[clip_id]}: {clip_id} (split validate) has no captions")


def _rest_of_validate(found: _Found, train: Lines, test: Sentences) -> list[str]:
    return [
        clip_id
        for clip_id, clip in found.official.items()
        if clip.split == "validate" and clip_id not in train and clip_id not in test
    ]


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
    message = problems_message(root, "MSRVTT", found.problems)
    if found.unused:
        message += f"\n  (files not used: {', '.join(sorted(found.unused))})"
    return message
