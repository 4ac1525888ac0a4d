"""DiDeMo's annotation files as their authors published them, read into clips with one paragraph.

The original files list moments: a sentence, the clip it describes, and for each annotator the
first and last of the five-second chunks in which the moment happens. Paragraph-to-video retrieval
joins all sentences about a clip, in the order of their moments.

The same video stands under two extensions in dozens of places ("x.mov" and "x.mp4"), and some
names end in a bare dot. So a clip is known by its stem, the name up to the last dot: who compares
whole names loses sentences without noticing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litevl.data.annotations import (
    Annotations,
    Clip,
    clip_files,
    is_whole,
    json_list,
    named_files,
    problems_message,
)
from litevl.errors import DataError

FILES = {"train": "train_data.json", "validation": "val_data.json", "test": "test_data.json"}
CLIP_FOLDER = "videos"

Chunks = tuple[int, int]  # first and last


@dataclass(frozen=True)
class _Moment:
    """One entry: a sentence about a clip, and where its annotators saw it happen."""

    name: str
    sentence: str
    chunks: tuple[Chunks, ...]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0] or self.name

    @property
    def place(self) -> Chunks:
        """The chunks that most annotators gave; of several such, the ones given first."""
        return Counter(self.chunks).most_common(1)[0][0]


def load_didemo(root: Path, leave_out: Sequence[str] = ()) -> Annotations:
    """Clips of DiDeMo, each with all its sentences as one caption.

    root:      folder with train_data.json, val_data.json and test_data.json (at any depth, also in
               zip archives) and the clips, `videos/<stem>.<anything>`.
    leave_out: ids of clips that the protocol is without, such as videos nobody could recover.
    A clip's id is its stem; its source is the Flickr user, the text before the first underscore:
    clips of one user often show one event, so they are not independent. Sentences stand in the
    order of their moments, those of one moment in the order of the file. That gives the paragraphs
    that Singularity and VindLU train and test with; CLIP4Clip keeps the order of the file.
    Clip files are not opened here; see `litevl.data.dataset.check_clips`.
    Raises DataError, listing all problems.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; DiDeMo's annotation files and clips belong there")
    problems: list[str] = []
    notes: list[str] = []
    files = named_files(root, FILES.values(), problems, notes)
    by_id: dict[int, str] = {}  # annotation id -> entry that has it
    moments = {
        split: _moments(*files[name], by_id, problems) if name in files else []
        for split, name in FILES.items()
    }
    problems += [
        f"no {name}, the original list of moments" for name in FILES.values() if name not in files
    ]
    splits = {split: _by_stem(some) for split, some in moments.items()}
    _expect_apart(splits, problems)
    known = {stem for clips in splits.values() for stem in clips}
    problems += [
        f"leave_out: no clip {stem}; ids are names without what follows the last dot"
        for stem in leave_out
        if stem not in known
    ]
    paths = clip_files(root, [CLIP_FOLDER], known - {*leave_out}, problems)
    if problems:
        raise DataError(problems_message(root, "DiDeMo", problems))
    clips: dict[str, tuple[Clip, ...]] = {}
    for split, found in splits.items():
        kept = {stem: some for stem, some in found.items() if stem not in leave_out}
        clips[split] = tuple(_clip(root, stem, some, paths) for stem, some in kept.items())
        notes.append(_note(split, files[FILES[split]][0], found, len(found) - len(kept)))
    return Annotations(clips["train"], clips["validation"], clips["test"], tuple(notes))


def _moments(name: str, text: str, by_id: dict[int, str], problems: list[str]) -> list[_Moment]:
    """The moments of one file, in its order, without those that have a problem."""
    moments = []
    for row, entry in enumerate(json_list(name, text, problems)):
        where = f"{name}[{row}]"
        number = entry.get("annotation_id") if isinstance(entry, dict) else None
        wrong = _wrong(entry)
        if is_whole(number) and by_id.setdefault(number, where) != where:
            wrong.append(f"{by_id[number]} has the same id")
        problems += [f"{where} (annotation_id {number}): {what}" for what in wrong]
        if not wrong:
            chunks = tuple((first, last) for first, last in entry["times"])
            moments.append(_Moment(entry["video"], entry["description"], chunks))
    return moments


def _wrong(entry: Any) -> list[str]:
    """What is wrong with an entry, for itself."""
    if not isinstance(entry, dict):
        return [f"should be an object, is a {type(entry).__name__}"]
    video, sentence, times = (entry.get(key) for key in ("video", "description", "times"))
    num_chunks: Any = entry.get("num_segments")
    wrong = []
    if not is_whole(entry.get("annotation_id")):
        wrong.append("needs annotation_id, a whole number")
    if not isinstance(video, str) or not video.strip(". ") or "/" in video:
        wrong.append(f"video should be a file name, is {video!r}")
    if not isinstance(sentence, str):
        wrong.append("needs a description, a sentence")
    elif not sentence.strip():
        wrong.append("empty description")
    if not isinstance(times, list) or not times:
        wrong.append("has no times; needs first and last chunk for each annotator")
    elif not is_whole(num_chunks):
        wrong.append("needs num_segments, the number of chunks")
    else:
        wrong += [
            f"times[{place}] is {pair}; should be first and last chunk, from 0 to {num_chunks - 1}"
            for place, pair in enumerate(times)
            if not _is_span(pair, num_chunks)
        ]
    return wrong


def _is_span(pair: Any, num_chunks: int) -> bool:
    if not isinstance(pair, list) or len(pair) != 2 or not all(map(is_whole, pair)):
        return False
    return bool(0 <= pair[0] <= pair[1] < num_chunks)


def _by_stem(moments: Sequence[_Moment]) -> dict[str, list[_Moment]]:
    clips: dict[str, list[_Moment]] = {}
    for moment in moments:
        clips.setdefault(moment.stem, []).append(moment)
    return clips


def _expect_apart(splits: dict[str, dict[str, list[_Moment]]], problems: list[str]) -> None:
    """Add a problem for every clip that stands in two splits."""
    first: dict[str, str] = {}
    for split, clips in splits.items():
        for stem in clips:
            other = first.setdefault(stem, split)
            if other != split:
                problems.append(f"{stem}: stands in {FILES[other]} and in {FILES[split]}")


def _clip(root: Path, stem: str, moments: list[_Moment], paths: dict[str, Path]) -> Clip:
    path = paths.get(stem, root / CLIP_FOLDER / f"{stem}.mp4")
    in_order = sorted(moments, key=lambda moment: moment.place)
    paragraph = " ".join(moment.sentence for moment in in_order)
    return Clip(stem, path, stem.partition("_")[0], (paragraph,))


def _note(split: str, name: str, clips: dict[str, list[_Moment]], num_left_out: int) -> str:
    """What a split was read from, and how."""
    num_sentences = sum(len(moments) for moments in clips.values())
    two_names = sum(len({moment.name for moment in moments}) > 1 for moments in clips.values())
    note = f"{split}: {name}, {num_sentences} sentences about {len(clips)} clips"
    note += f", {two_names} of them under two names" * bool(two_names)
    return note + f"; {num_left_out} clips left out by name" * bool(num_left_out)
