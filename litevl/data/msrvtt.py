"""MSRVTT's annotation files, in the formats in circulation, read into clips with captions.

The 1k-A protocol (the "JSFusion" split) is put together from what lies in a folder, recognised by
its content (`litevl.data.recognise`):

- the official JSON (`train_val_videodatainfo.json` and `test_videodatainfo.json`, or the merged
  `MSRVTT_data.json`), also inside the zip archives it was published in;
- the 1k-A test captions, one for each of 1,000 clips: the CSV, or a JSON list or JSON lines;
- a train list, "9k" (all but the test clips) or "7k" (the official train and validate splits).
  Without one it follows from the official JSON.

A ready-made list of the training clips with their captions does instead of the official JSON.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from litevl.data.annotations import CLIP_FOLDERS, Annotations, Clip, problems_message
from litevl.data.msrvtt_files import (
    ClipList,
    Official,
    list_role,
    read_captions,
    read_ids,
    read_official,
    train_ids,
)
from litevl.data.recognise import Recognised, recognise, recognised_note, unused_note
from litevl.errors import DataError

TRAIN_SPLITS = ("9k", "7k")
TEST_FORMATS = ("1k-A CSV", "JSON list", "JSON lines")  # the first at hand gives the order
NEEDS_OFFICIAL = (
    'no official JSON, with "videos" and "sentences" (train_val_videodatainfo.json, '
    "test_videodatainfo.json)"
)
NEEDS_TEST = (
    "no 1k-A test captions: a CSV with columns video_id and sentence (MSRVTT_JSFUSION_test.csv), "
    "or JSON with video (or clip_name) and caption"
)


def load_msrvtt(root: Path, train_split: str) -> Annotations:
    """Clips of MSRVTT: the 9k or 7k train list, the 1k-A test captions, the rest of "validate".

    root:        folder with the annotation files (at any depth) and the clips, `videos/<id>.mp4`
                 (or in another of CLIP_FOLDERS).
    train_split: "9k" or "7k".
    Validation is the official "validate" split without the clips of the two others: none with the
    published lists, or without the official JSON. A clip's source is the url of the video it was
    cut from; without the official JSON, its id. Clip files are not opened here; see
    `litevl.data.counting.check_clips`. Raises DataError, listing all problems.
    """
    if train_split not in TRAIN_SPLITS:
        raise DataError(f"train_split: no list {train_split!r}; known: {', '.join(TRAIN_SPLITS)}")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; MSRVTT's annotation files and clips belong there")
    found = recognise(root)
    problems: list[str] = []
    notes: list[str] = []
    official = read_official(found.of("msrvtt", "clips"), problems, notes)
    test = _test_list(found, problems)
    train = _train_list(found, train_split, official, test, problems)
    if official.clips:
        _check_rows(official, train, test, problems)
    elif train is None or not train.captions:
        problems.append(NEEDS_OFFICIAL)
    elif test:
        _expect_apart(train, test, problems)
    used = {*official.origin.values()} | {some.name for some in (train, test) if some}
    unused = unused_note(found, used)
    if problems or train is None or test is None:
        message = problems_message(root, "MSRVTT", problems)
        files = [recognised_note(found, "msrvtt"), *filter(None, [unused])]
        raise DataError("\n  ".join([message, *(f"({line})" for line in files)]))
    notes[:0] = [f"train list: {train.name}", f"test captions: {test.name}"]
    if not official.clips:
        notes.append("no official JSON: which clips were cut from one video is not known")
    return _assemble(root, official, train, test, [*notes, *filter(None, [unused])])


def _assemble(
    root: Path, official: Official, train: ClipList, test: ClipList, notes: list[str]
) -> Annotations:
    """The clips of the three splits, once nothing is wrong with the annotations."""
    paths = _clip_paths(root, notes)

    def clip(name: str, captions: tuple[str, ...]) -> Clip:
        path = paths.get(name, root / CLIP_FOLDERS[0] / f"{name}.mp4")
        source = official.clips[name].source if official.clips else name
        return Clip(name, path, source, captions)

    def described(name: str) -> Clip:
        return clip(name, official.clips[name].captions if official.clips else train.captions[name])

    return Annotations(
        train=tuple(described(name) for name in train.places),
        validation=tuple(described(name) for name in _rest_of_validate(official, train, test)),
        test=tuple(clip(name, test.captions[name]) for name in test.places),
        notes=tuple(notes),
    )


def _test_list(found: Recognised, problems: list[str]) -> ClipList | None:
    """The 1k-A test captions; None and a problem when there are none, or two that differ."""
    files = found.of("msrvtt", "test")
    files.sort(key=lambda some: TEST_FORMATS.index(some.kind.format))
    lists = [read_captions(some, problems) for some in files]
    for other in lists[1:]:
        if other.captions != lists[0].captions:
            problems.append(
                f"{other.name}: 1k-A test captions that differ from {lists[0].name}"
                f"{_first_difference(lists[0], other)}; keep one of them"
            )
    if not lists:
        problems.append(NEEDS_TEST)
    return lists[0] if lists else None


def _train_list(
    found: Recognised,
    train_split: str,
    official: Official,
    test: ClipList | None,
    problems: list[str],
) -> ClipList | None:
    """The asked train list: of ids, with captions, or as it follows from the official JSON."""
    files = [some for some in found.of("msrvtt") if list_role(some, official) == train_split]
    lists = [read_ids(some, problems) for some in files]
    ready = [
        read_captions(some, problems) for some in found.of("msrvtt", f"{train_split} captions")
    ]
    if not lists and not ready and official.clips and test:
        names = train_ids(official, test, train_split)
        return ClipList("the official JSON's clips, no list found", dict.fromkeys(names, ""))
    both = [*lists, *ready]
    for other in both[1:]:
        if other.places.keys() != both[0].places.keys():
            problems.append(
                f"{other.name}: a {train_split} list that differs from {both[0].name}"
                f"{_first_difference(both[0], other)}; keep one of them"
            )
    known = {name: clip.captions for name, clip in official.clips.items()}
    _expect_same_captions(ready, known, problems)
    if not both:
        problems.append(f"no {train_split} train list, a file with one clip id per line")
    return next((some for some in ready if not official.clips), both[0] if both else None)


def _first_difference(one: ClipList, other: ClipList) -> str:
    """ ", first in video7" for the first clip that the two do not agree about, by name."""
    differing = [
        name
        for name in one.places.keys() | other.places.keys()
        if name not in one.places
        or name not in other.places
        or (one.captions and other.captions and one.captions[name] != other.captions[name])
    ]
    return f" about {len(differing)} clips, first {min(differing)}" if differing else ""


def _expect_same_captions(
    ready: Sequence[ClipList], known: dict[str, tuple[str, ...]], problems: list[str]
) -> None:
    """Add a problem for a ready-made list whose captions are not those of the official JSON."""
    for some in ready:
        known = known or some.captions
        differing = [
            name
            for name, captions in some.captions.items()
            if name in known and sorted(known[name]) != sorted(captions)
        ]
        if differing:
            problems.append(
                f"{some.name}: other captions of {len(differing)} clips, first {differing[0]}, "
                "than the other files have; keep one of them"
            )


def _check_rows(
    official: Official, train: ClipList | None, test: ClipList | None, problems: list[str]
) -> None:
    """Add a problem for every listed clip that has no captions or stands in two splits."""
    for name, place in train.places.items() if train else ():
        where = f"{place or 'train list'}: {name}"
        if name not in official.clips:
            problems.append(f"{where} is not in the official JSON")
        elif not official.clips[name].captions:
            problems.append(f"{where} has no captions in {official.origin[name]}")
    for name, place in test.places.items() if test else ():
        if name not in official.clips:
            problems.append(f"{place}: {name} is not in the official JSON")
    if train and test:
        _expect_apart(train, test, problems)
        for name in _rest_of_validate(official, train, test):
            if not official.clips[name].captions:
                where = official.origin[name]
                problems.append(f"{where}: {name} (split validate) has no captions")


def _expect_apart(train: ClipList, test: ClipList, problems: list[str]) -> None:
    problems += [
        f"{place}: {name} is also a test clip ({test.name})"
        for name, place in train.places.items()
        if name in test.places
    ]


def _rest_of_validate(official: Official, train: ClipList, test: ClipList) -> list[str]:
    return [
        name
        for name, clip in official.clips.items()
        if clip.split == "validate" and name not in train.places and name not in test.places
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
