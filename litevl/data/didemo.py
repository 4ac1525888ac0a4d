"""DiDeMo's annotation files, in the formats in circulation, read into clips with one paragraph.

The original files list moments: a sentence, the clip it describes, and for each annotator the
first and last of the five-second chunks in which the moment happens. Paragraph-to-video retrieval
joins all sentences about a clip. Ready-made lists hold the paragraphs. Which file is what is told
by its content (`litevl.data.recognise`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from litevl.data.annotations import Annotations, Clip, clip_files, problems_message
from litevl.data.didemo_files import (
    Paragraphs,
    paragraphs,
    read_moments,
    read_names,
    read_paragraphs,
)
from litevl.data.recognise import Found, Recognised, only, recognise, recognised_note, unused_note
from litevl.errors import DataError
from litevl.tasks import SentenceOrder

FILES = {"train": "train_data.json", "validation": "val_data.json", "test": "test_data.json"}
ORIGINAL = "original JSON"
CLIP_FOLDER = "videos"


@dataclass(frozen=True)
class _Split:
    """The paragraphs of a split, and the file they are from."""

    file: Found
    clips: Paragraphs


def load_didemo(
    root: Path, leave_out: Sequence[str] = (), sentence_order: SentenceOrder = "annotator-mode"
) -> Annotations:
    """Clips of DiDeMo, each with all its sentences as one caption.

    root:      folder with an original or a ready-made list for each split (at any depth, also in
               zip archives) and the clips, `videos/<stem>.<anything>`.
    leave_out: ids of clips that the protocol is without, such as videos nobody could recover.
    sentence_order: see `litevl.data.didemo_files.paragraphs`; a ready-made list keeps its own.
    A clip's id is its stem; its source is the Flickr user, the text before the first underscore:
    clips of one user often show one event, so they are not independent. Where there are both, the
    original list is used, and a ready-made one must have the same sentences.
    Clip files are not opened here; see `litevl.data.counting.check_clips`.
    Raises DataError, listing all problems.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; DiDeMo's annotation files and clips belong there")
    found = recognise(root)
    problems: list[str] = []
    notes: list[str] = []
    splits = _read_splits(found, sentence_order, leave_out, problems, notes)
    _expect_apart(splits, problems)
    known = {stem for split in splits.values() for stem in split.clips}
    is_ready_made = any(split.file.kind.format != ORIGINAL for split in splits.values())
    strangers = [stem for stem in leave_out if stem not in known]
    if strangers and is_ready_made:  # these lists are without the clips nobody could recover
        notes.append(f"{len(strangers)} clips to leave out are in no list")
    else:
        problems += [
            f"leave_out: no clip {stem}; ids are names without what follows the last dot"
            for stem in strangers
        ]
    paths = clip_files(root, [CLIP_FOLDER], known - {*leave_out}, problems)
    if problems:
        message = problems_message(root, "DiDeMo", problems)
        others = unused_note(found, [some.name for some in found.files])
        files = [recognised_note(found, "didemo"), *filter(None, [others])]
        raise DataError("\n  ".join([message, *(f"({line})" for line in files)]))
    clips: dict[str, tuple[Clip, ...]] = {}
    for name, split in splits.items():
        kept = {stem: some for stem, some in split.clips.items() if stem not in leave_out}
        clips[name] = tuple(
            Clip(
                stem,
                paths.get(stem, root / CLIP_FOLDER / f"{stem}.mp4"),
                stem.partition("_")[0],
                (paragraph.text,),
            )
            for stem, paragraph in kept.items()
        )
        notes.append(_note(name, split, len(split.clips) - len(kept)))
    return Annotations(clips["train"], clips["validation"], clips["test"], tuple(notes))


def _read_splits(
    found: Recognised,
    order: SentenceOrder,
    leave_out: Sequence[str],
    problems: list[str],
    notes: list[str],
) -> dict[str, _Split]:
    """The splits that some file holds; a problem for each other, and for files that disagree."""
    splits: dict[str, _Split] = {}
    by_id: dict[int, str] = {}
    for name, usual in FILES.items():
        files = found.of("didemo", name)
        candidates = []
        original = only([some for some in files if some.kind.format == ORIGINAL], problems, notes)
        if original:
            moments = read_moments(original, by_id, problems)
            candidates.append(_Split(original, paragraphs(moments, order)))
        candidates += [
            _Split(some, read_paragraphs(some, problems))
            for some in files
            if some.kind.format != ORIGINAL
        ]
        for other in candidates[1:]:
            _compare(candidates[0], other, leave_out, problems, notes)
        if candidates:
            splits[name] = candidates[0]
            for names in found.of("didemo", f"{name} list"):
                _compare_names(candidates[0], names, notes)
        else:
            problems.append(
                f"no {usual}, the original list of moments, nor a ready-made list of paragraphs"
            )
    return splits


def _compare(
    one: _Split, other: _Split, leave_out: Sequence[str], problems: list[str], notes: list[str]
) -> None:
    """A problem if two lists have different clips or sentences; else a note on their order."""
    stems = (one.clips.keys() | other.clips.keys()) - {*leave_out}
    differing = [
        stem
        for stem in stems
        if stem not in one.clips
        or stem not in other.clips
        or one.clips[stem].words != other.clips[stem].words
    ]
    if differing:
        problems.append(
            f"{other.file.name}: differs from {one.file.name} about {len(differing)} clips, first "
            f"{min(differing)}; keep one of them, or name clips to be without in data.leave_out"
        )
        return
    same = sum(one.clips[stem].text == other.clips[stem].text for stem in stems)
    notes.append(
        f"{other.file.name}: not used, the sentences of {one.file.name}, "
        f"{same} of {len(stems)} paragraphs in the same order"
    )


def _compare_names(split: _Split, names: Found, notes: list[str]) -> None:
    listed = {*read_names(names)}
    both = len(listed & split.clips.keys())
    notes.append(
        f"{names.name}: not used, names {both} of the {len(split.clips)} clips of "
        f"{split.file.name}" + f", and {len(listed) - both} others" * (both < len(listed))
    )


def _expect_apart(splits: dict[str, _Split], problems: list[str]) -> None:
    """Add a problem for every clip that stands in two splits."""
    first: dict[str, str] = {}
    for split in splits.values():
        for stem in split.clips:
            other = first.setdefault(stem, split.file.name)
            if other != split.file.name:
                problems.append(f"{stem}: stands in {other} and in {split.file.name}")


def _note(name: str, split: _Split, num_left_out: int) -> str:
    """What a split was read from, and how."""
    num_sentences = sum(len(some.sentences) for some in split.clips.values())
    two_names = sum(len(some.names) > 1 for some in split.clips.values())
    note = f"{name}: {split.file.name}, {num_sentences} sentences about {len(split.clips)} clips"
    note += f", {two_names} of them under two names" * bool(two_names)
    note += ", ready-made" * (split.file.kind.format != ORIGINAL)
    return note + f"; {num_left_out} clips left out by name" * bool(num_left_out)
