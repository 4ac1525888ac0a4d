"""What the published files of MSRVTT and DiDeMo hold, and the counts of those at hand."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

from litevl.data.didemo_files import (
    Paragraphs,
    paragraphs,
    read_moments,
    read_names,
    read_paragraphs,
)
from litevl.data.msrvtt_files import (
    ClipList,
    Official,
    OfficialClip,
    list_role,
    read_captions,
    read_ids,
    read_official,
)
from litevl.data.recognise import Found, Recognised, only

Value = int | float | str
Values = dict[str, Value]

# Counted in the published files; the sha256 is of the 1,000 ids, sorted, one a line.
MSRVTT: Mapping[str, Value] = {
    "train_val_annotation.zip, md5": "8a37a31856f575c2cf118f52793991d8",
    "test_videodatainfo.json.zip, md5": "63132fa5f6ebf9e73002df8766216640",
    "official JSON: clips": 10_000,
    "official JSON: clips of train": 6_513,
    "official JSON: clips of validate": 497,
    "official JSON: clips of test": 2_990,
    "official JSON: sources": 7_180,
    "official JSON: captions": 200_000,
    "official JSON: fewest captions of a clip": 20,
    "official JSON: most captions of a clip": 20,
    "9k list: clips": 9_000,
    "7k list: clips": 7_010,
    "7k list: clips not in the 9k list": 0,
    "7k list: clips of the official test split": 0,
    "9k list: captions": 180_000,
    "9k list: captions, each text once": 150_648,
    "7k list: captions": 140_200,
    "1k-A test: clips": 1_000,
    "1k-A test: captions, each text once": 995,
    "1k-A test: ids, sha256": "49a09fb68f7ec52b3b9bbb7e856ffbd3f00233976ed435fded658309c3cd491a",
    "1k-A test: clips of the official test split": 1_000,
    "1k-A test: captions as in the official JSON": 965,
    "1k-A test: captions as there but for blanks and punctuation": 1_000,
    "1k-A test: clips in the 9k list": 0,
    "1k-A test: clips in the 7k list": 0,
    "1k-A test and 9k list: clips": 10_000,
    "1k-A test: clips cut from a video that the 9k list has, too": 372,
    "1k-A test: clips cut from a video that the 7k list has, too": 0,
    "1k-A test: captions that the 9k list has word for word": 107,
    "1k-A test: files that disagree about it": 0,
}
# The number of train sentences is reported by a card on the hub; all others are counted.
DIDEMO: Mapping[str, Value] = {
    "train: sentences": 33_005,
    "train: clips": 8_395,
    "validation: sentences": 4_180,
    "validation: clips": 1_065,
    "validation: names": 1_094,
    "validation: clips under two names": 29,
    "test: sentences": 4_021,
    "test: clips": 1_004,
    "test: names": 1_037,
    "test: clips under two names": 33,
    "train list: names": 8_392,
    "validation list: names": 1_065,
    "validation list: names of other clips": 0,
    "test list: names": 1_004,
    "test list: names of other clips": 0,
    "train, ready-made: clips": 8_381,
    "validation, ready-made: clips": 1_065,
    "validation, ready-made: paragraphs as in annotator-mode order": 1_065,
    "validation, ready-made: paragraphs as in file order": 280,
    "test, ready-made: clips": 1_003,
    "test, ready-made: paragraphs as in annotator-mode order": 1_003,
    "test, ready-made: paragraphs as in file order": 241,
    "YFCC100M hashes": 10_464,
    "YFCC100M hashes: clips without one": 0,
}
ZIPS = {  # the official splits that each archive describes
    frozenset(("train", "validate")): "train_val_annotation.zip, md5",
    frozenset(("test",)): "test_videodatainfo.json.zip, md5",
}


def measure_msrvtt(found: Recognised, problems: list[str]) -> Values:
    """What MSRVTT's files say, by the names in MSRVTT; nothing of a file that is not at hand."""
    files = found.of("msrvtt", "clips")
    official = read_official(files, problems, [])
    values = _archives(found, files)
    clips = official.clips
    if {clip.split for clip in clips.values()} == {"train", "validate", "test"}:
        sizes = [len(clip.captions) for clip in clips.values()]
        values |= {
            "official JSON: clips": len(clips),
            "official JSON: sources": len({clip.source for clip in clips.values()}),
            "official JSON: captions": sum(sizes),
            "official JSON: fewest captions of a clip": min(sizes),
            "official JSON: most captions of a clip": max(sizes),
        }
    for split, count in Counter(clip.split for clip in clips.values()).items():
        values |= {f"official JSON: clips of {split}": count}
    lists = {
        role: read_ids(some, problems)
        for some in reversed(found.of("msrvtt"))
        if (role := list_role(some, official)) in ("9k", "7k")
    }
    for name, some in lists.items():
        values |= {f"{name} list: clips": len(some.places)}
        if some.places.keys() <= clips.keys():
            texts = [text for clip in some.places for text in clips[clip].captions]
            values |= {
                f"{name} list: captions": len(texts),
                f"{name} list: captions, each text once": len({*texts}),
            }
    if {"9k", "7k"} <= lists.keys():
        outside = lists["7k"].places.keys() - lists["9k"].places.keys()
        values |= {"7k list: clips not in the 9k list": len(outside)}
    if "7k" in lists and clips:
        of_test = sum(clips[name].split == "test" for name in lists["7k"].places if name in clips)
        values |= {"7k list: clips of the official test split": of_test}
    values |= _test_list(found.of("msrvtt", "test"), official, lists, problems)
    return {name: value for name, value in values.items() if name in MSRVTT}


def _archives(found: Recognised, files: Sequence[Found]) -> Values:
    """md5 of each archive that one of the two official JSON files is in."""
    values: Values = {}
    for some in files:
        archive, inside, _ = some.name.partition(":")
        videos = some.file.content["videos"]
        rows = videos if isinstance(videos, list) else []
        splits = frozenset(str(row.get("split")) for row in rows if isinstance(row, dict))
        if inside and splits in ZIPS:
            with (found.root / archive).open("rb") as file:
                digest = hashlib.file_digest(file, "md5").hexdigest()
            if values.get(ZIPS[splits]) != MSRVTT[ZIPS[splits]]:
                values[ZIPS[splits]] = digest
    return values


def _test_list(
    files: Sequence[Found], official: Official, lists: Mapping[str, ClipList], problems: list[str]
) -> Values:
    """What the 1k-A test captions say, for themselves and beside the other files."""
    if not files:
        return {}
    test, *others = (read_captions(some, problems) for some in files)
    ids, texts = test.places.keys(), [text for some in test.captions.values() for text in some]
    values: Values = {
        "1k-A test: clips": len(ids),
        "1k-A test: captions, each text once": len({*texts}),
        "1k-A test: ids, sha256": hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest(),
    }
    if others:
        disagreeing = sum(other.captions != test.captions for other in others)
        values |= {"1k-A test: files that disagree about it": disagreeing}
    for name, some in lists.items():
        values |= {f"1k-A test: clips in the {name} list": len(ids & some.places.keys())}
    if "9k" in lists:
        values |= {"1k-A test and 9k list: clips": len(ids | lists["9k"].places.keys())}
    if ids <= official.clips.keys():
        values |= _beside_official(test, official.clips)
        for name, some in lists.items():
            if some.places.keys() <= official.clips.keys():
                values |= _leaks(name, test, some, official.clips)
    return values


def _beside_official(test: ClipList, clips: Mapping[str, OfficialClip]) -> Values:
    """How the test captions are worded in the official JSON."""
    pairs = [(clips[name], text) for name, some in test.captions.items() for text in some]
    return {
        "1k-A test: clips of the official test split": sum(
            clips[name].split == "test" for name in test.places
        ),
        "1k-A test: captions as in the official JSON": sum(
            text in clip.captions for clip, text in pairs
        ),
        "1k-A test: captions as there but for blanks and punctuation": sum(
            _plain(text) in map(_plain, clip.captions) for clip, text in pairs
        ),
    }


def _leaks(name: str, test: ClipList, train: ClipList, clips: Mapping[str, OfficialClip]) -> Values:
    """How much of the test a train list has seen."""
    sources = {clips[clip].source for clip in train.places}
    shared = sum(clips[clip].source in sources for clip in test.places)
    said = {text for clip in train.places for text in clips[clip].captions}
    repeated = sum(text in said for some in test.captions.values() for text in some)
    return {
        f"1k-A test: clips cut from a video that the {name} list has, too": shared,
        f"1k-A test: captions that the {name} list has word for word": repeated,
    }


def _plain(text: str) -> str:
    """A caption without blanks and punctuation."""
    return re.sub(r"[\W_]", "", text)


def measure_didemo(found: Recognised, problems: list[str]) -> Values:
    """What DiDeMo's files say, by the names in DIDEMO; nothing of a file that is not at hand."""
    values: Values = {}
    known: set[str] = set()
    by_id: dict[int, str] = {}
    for split in ("train", "validation", "test"):
        files = found.of("didemo", split)
        original = [some for some in files if some.kind.format == "original JSON"]
        ready = [some for some in files if some.kind.format != "original JSON"]
        orders: dict[str, Paragraphs] = {}
        if listed := only(original, problems, []):
            moments = read_moments(listed, by_id, problems)
            orders = {"annotator-mode": paragraphs(moments, "annotator-mode")}
            orders |= {"file": paragraphs(moments, "file")}
            known |= orders["file"].keys()
            values |= _original(split, orders["file"])
        if ready:
            values |= _ready_made(split, read_paragraphs(ready[0], problems), orders)
        for names in found.of("didemo", f"{split} list"):
            stems = read_names(names)
            values |= {f"{split} list: names": len(stems)}
            if orders:
                strangers = len({*stems} - orders["file"].keys())
                values |= {f"{split} list: names of other clips": strangers}
    for hashes in found.of("didemo", "hashes"):
        numbers = {line.split()[0] for line in hashes.file.content}
        values |= {"YFCC100M hashes": len(hashes.file.content)}
        if known:
            without = sum(stem.split("_")[-2] not in numbers for stem in known if "_" in stem)
            values |= {"YFCC100M hashes: clips without one": without}
    return {name: value for name, value in values.items() if name in DIDEMO}


def _original(split: str, clips: Paragraphs) -> Values:
    names = [some.names for some in clips.values()]
    return {
        f"{split}: sentences": sum(len(some.sentences) for some in clips.values()),
        f"{split}: clips": len(clips),
        f"{split}: names": len({*chain.from_iterable(names)}),
        f"{split}: clips under two names": sum(len(some) > 1 for some in names),
    }


def _ready_made(split: str, ready: Paragraphs, orders: Mapping[str, Paragraphs]) -> Values:
    """How many of the ready-made paragraphs each order of the original sentences gives."""
    values: Values = {f"{split}, ready-made: clips": len(ready)}
    for order, clips in orders.items():
        same = sum(stem in ready and ready[stem].text == clips[stem].text for stem in clips)
        values |= {f"{split}, ready-made: paragraphs as in {order} order": same}
    return values
