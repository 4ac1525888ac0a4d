"""What MSRVTT's recognised annotation files say: the official JSON, lists of clips, captions.

Clips are known by their ids, "video7010", however a file writes them: with folders, with ".mp4".
Every wrong row is a problem with its place; nothing is repaired.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from litevl.data.recognise import Found
from litevl.data.retrieval_kinds import MSRVTT_ID, clip_id
from litevl.download import leaves_folder


@dataclass(frozen=True)
class OfficialClip:
    """One clip of the official JSON."""

    source: str
    split: str  # "train", "validate" or "test"
    captions: tuple[str, ...]


@dataclass
class Official:
    """The clips of all official JSON files, merged.

    origin: clip id -> the file that described it first.
    """

    clips: dict[str, OfficialClip] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ClipList:
    """The clips of one list, in its order.

    places:   clip id -> where it stands, "" for a list that was not in a file.
    captions: clip id -> its captions; empty for a list of ids.
    """

    name: str
    places: dict[str, str]
    captions: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_official(files: Sequence[Found], problems: list[str], notes: list[str]) -> Official:
    """The official JSON files: train and validate, test, both merged, or several of them."""
    official = Official()
    for found in files:
        clips = _official_clips(found.name, found.file.content, problems)
        repeated = 0
        for name, clip in clips.items():
            if official.clips.setdefault(name, clip) != clip:
                other = official.origin[name]
                problems.append(f"{found.name}: {name} differs from its entry in {other}")
            elif official.origin.setdefault(name, found.name) != found.name:
                repeated += 1
        if repeated:
            notes.append(f"{found.name}: {repeated} clips described a second time, identically")
    return official


def _official_clips(
    name: str, content: dict[str, Any], problems: list[str]
) -> dict[str, OfficialClip]:
    sources: dict[str, tuple[str, str]] = {}
    captions: dict[str, list[str]] = {}
    for row, video in enumerate(_rows(name, content, "videos", problems)):
        where = f"{name} videos[{row}]"
        if not _has_strings(video, ("video_id", "url", "split")):
            problems.append(f"{where}: needs video_id, url and split as strings")
        elif clip_id(video["video_id"]) != video["video_id"] or leaves_folder(video["video_id"]):
            problems.append(f'{where}: video_id {video["video_id"]!r} is no id, as "video7010" is')
        elif video["video_id"] in sources:
            problems.append(f"{where}: duplicate id {video['video_id']}")
        else:
            sources[video["video_id"]] = (video["url"], video["split"])
            captions[video["video_id"]] = []
    for row, sentence in enumerate(_rows(name, content, "sentences", problems)):
        where = f"{name} sentences[{row}]"
        if not _has_strings(sentence, ("video_id", "caption")):
            problems.append(f"{where}: needs video_id and caption as strings")
        elif sentence["video_id"] not in captions:
            problems.append(f"{where}: names {sentence['video_id']}, which is not among the videos")
        elif not sentence["caption"].strip():
            problems.append(f"{where}: empty caption for {sentence['video_id']}")
        else:
            captions[sentence["video_id"]].append(sentence["caption"])
    return {
        name: OfficialClip(source, split, tuple(captions[name]))
        for name, (source, split) in sources.items()
    }


def _rows(name: str, content: dict[str, Any], key: str, problems: list[str]) -> list[Any]:
    rows = content[key]
    if isinstance(rows, list):
        return rows
    problems.append(f"{name}: {key} should be a list, is a {type(rows).__name__}")
    return []


def _has_strings(row: object, keys: tuple[str, ...]) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(key), str) for key in keys)


def read_ids(found: Found, problems: list[str]) -> ClipList:
    """A list of ids, one a line, with or without the header "video_id"."""
    file, places = found.file, dict[str, str]()
    for row, line in enumerate(file.content):
        name = clip_id(line.strip('"'))
        if row == 0 and name == "video_id":
            continue
        if name in places:
            problems.append(f"{file.place(row)}: {name} stands already in {_short(places[name])}")
        places.setdefault(name, file.place(row))
    return ClipList(found.name, places)


def read_captions(found: Found, problems: list[str]) -> ClipList:
    """The 1k-A CSV, or a ready-made list of clips with captions; both may name a clip's file.

    In a test list every clip stands once; in a train list each row may add captions.
    """
    file, is_test = found.file, found.kind.role == "test"
    problems += file.faults
    places: dict[str, str] = {}
    captions: dict[str, tuple[str, ...]] = {}
    for row, entry in enumerate(file.content):
        where = file.place(row)
        if file.form == "table":
            name, said = entry["video_id"], entry["sentence"]
        elif isinstance(entry, dict):
            name, said = entry.get("video", entry.get("clip_name")), entry.get("caption")
        else:
            problems.append(f"{where}: should be an object, is a {type(entry).__name__}")
            continue
        texts = said if isinstance(said, list) and said else [said]
        if not isinstance(name, str) or not all(isinstance(text, str) for text in texts):
            problems.append(f"{where}: needs the name of a clip and its caption as strings")
            continue
        name = clip_id(name)
        if not name:
            problems.append(f"{where}: empty video_id")
        elif name in places and is_test:
            problems.append(f"{where}: {name} stands already in {_short(places[name])}")
        else:
            places.setdefault(name, where)
            captions[name] = (*captions.get(name, ()), *texts)
            if not all(text.strip() for text in texts):
                problems.append(f"{where}: empty caption for {name}")
            if is_test and len(texts) > 1:
                problems.append(f"{where}: {len(texts)} captions for {name}; 1k-A has one")
    return ClipList(found.name, places, captions)


def _short(place: str) -> str:
    """A place in the file that is being read, without the file's name."""
    _, line, number = place.rpartition(" line ")
    return f"line {number}" if line else place


def list_role(found: Found, official: Official) -> str:
    """Which list of ids this is, where its size and name leave it open: "9k", "7k" or "".

    Only Training-9K mixes clips of the official test split with others.
    """
    if found.kind.role != "list":
        return found.kind.role
    names = [clip_id(line.strip('"')) for line in found.file.content]
    splits = {official.clips[name].split for name in names if name in official.clips}
    if not splits or splits == {"test"}:
        return ""
    return "9k" if "test" in splits else "7k"


def train_ids(official: Official, test: ClipList, train_split: str) -> list[str]:
    """The clips of a train list as published, in its order, from what defines it.

    9k: all clips but the 1k-A test, by number. 7k: the official splits train and validate, by name,
    as a listing of the clips' files that takes no notice of the dot.
    """
    if train_split == "9k":
        return sorted((name for name in official.clips if name not in test.places), key=_number)
    names = [name for name, clip in official.clips.items() if clip.split != "test"]
    return sorted(names, key=lambda name: f"{name}mp4")  # "video10" comes before "video1"


def _number(name: str) -> int:
    return int(name.removeprefix("video")) if MSRVTT_ID.fullmatch(name) else -1
