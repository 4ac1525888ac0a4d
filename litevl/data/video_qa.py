"""MSVD-QA and MSRVTT-QA, in the formats in circulation, read into clips with questions.

A folder's files are recognised by their content (`litevl.data.recognise`): a list of questions for
each split, in any of the formats of `litevl.data.question_files`. MSVD-QA needs the names of its
clips, too, `youtube_mapping.txt`; in MSRVTT-QA the number is the name, and MSRVTT's official JSON,
where it is there, says which clips were cut from one video.

A program made the questions from captions. They are of five types, told apart by the first word. A
model chooses from a declared list of answers; a question whose answer is not on that list is kept,
and counted, as one that nobody can answer right.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from litevl.data.annotations import (
    CLIP_FOLDERS,
    Annotations,
    Clip,
    Question,
    clip_files,
    problems_message,
)
from litevl.data.answer_lists import account, declared_answers, described
from litevl.data.msrvtt_files import read_official
from litevl.data.question_files import ClipOf, read_mapping, split_questions
from litevl.data.recognise import Recognised, recognise, recognised_note, unused_note
from litevl.errors import DataError

MSVD_FOLDERS = ("videos", "YouTubeClips")
SPLITS = ("train", "validation", "test")


@dataclass
class _Read:
    """What the question files say, with every problem met on the way.

    files: split -> the file it was read from.
    asked: split -> clip id -> the questions about it.
    given: split -> the answers of its questions, in the file's order.
    used:  other files that were read.
    """

    found: Recognised
    files: dict[str, str] = field(default_factory=dict)
    asked: dict[str, dict[str, list[Question]]] = field(default_factory=dict)
    given: dict[str, list[str]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def numbers(self) -> dict[str, int]:
        """Clip id -> number of questions about it."""
        counts: dict[str, int] = {}
        for by_clip in self.asked.values():
            for clip_id, questions in by_clip.items():
                counts[clip_id] = counts.get(clip_id, 0) + len(questions)
        return counts


def load_msvd_qa(root: Path, answer_count: int, answer_file: str | None = None) -> Annotations:
    """Clips of MSVD-QA with their questions, in the order of the first question about each.

    root: folder with the lists of questions and the mapping (at any depth, also in zip archives)
        and the clips, named as in the mapping: `videos/<name>.avi` or `YouTubeClips/<name>.avi`, or
        with another extension.
    answer_count, answer_file: see `litevl.data.answer_lists.declared_answers`.
    A clip's id is its name in the mapping, which lists that name the clips do without; its source
    is the YouTube id that the name starts with. Clip files are not opened here; see
    `litevl.data.counting.check_clips`. Raises DataError, listing all problems.
    """
    read = _start(root, "MSVD-QA")
    mapping, names = read_mapping(read.found, read.problems, read.notes)

    def clip_of(video: int | str) -> str:
        return video if isinstance(video, str) else names.get(video, f"vid{video}")

    _ask(read, "msvd-qa", clip_of)
    numbers, known = read.numbers(), {*names.values()}
    if mapping:
        read.used.add(mapping)
        read.problems += [
            f"{clip_id}: no line in {mapping}; {count} questions are about it"
            for clip_id, count in numbers.items()
            if clip_id not in known
        ]
        without = len(known - numbers.keys())
        read.notes.append(f"{mapping}: {without} of {len(known)} clips have no questions")
    elif any(re.fullmatch(r"vid[0-9]+", clip_id) for clip_id in numbers) or not numbers:
        read.problems.append(
            'no names of the clips, lines as "<name> vid<number>" (youtube_mapping.txt)'
        )
    sources = {clip_id: clip_id.rsplit("_", 2)[0] for clip_id in numbers}
    files = clip_files(root, MSVD_FOLDERS, numbers, read.problems)
    paths = {name: files.get(name, root / MSVD_FOLDERS[0] / f"{name}.avi") for name in numbers}
    return _assemble(read, "msvd-qa", sources, paths, answer_count, answer_file)


def load_msrvtt_qa(root: Path, answer_count: int, answer_file: str | None = None) -> Annotations:
    """Clips of MSRVTT-QA with their questions, in the order of the first question about each.

    root: folder with the lists of questions (at any depth, also in zip archives) and the clips,
        `videos/video<number>.mp4` (or in another of CLIP_FOLDERS).
    answer_count, answer_file: see `litevl.data.answer_lists.declared_answers`.
    A clip's source is its url in MSRVTT's official JSON, if that lies below root; otherwise the
    clip itself, although clips of one video stand in all splits. `notes` say which.
    Clip files are not opened here; see `litevl.data.counting.check_clips`.
    Raises DataError, listing all problems.
    """
    read = _start(root, "MSRVTT-QA")
    official = read_official(read.found.of("msrvtt", "clips"), read.problems, read.notes)
    read.used |= {*official.origin.values()}
    _ask(read, "msrvtt-qa", msrvtt_clip)
    names = read.numbers()
    known = {name: clip.source for name, clip in official.clips.items() if name in names}
    read.notes.append(
        f"sources: the official JSON names the video of {len(known)} of {len(names)} clips"
        + "; the others count as one video each" * (len(known) < len(names))
    )
    files = clip_files(root, CLIP_FOLDERS, names, read.problems)
    paths = {name: files.get(name, root / CLIP_FOLDERS[0] / f"{name}.mp4") for name in names}
    sources = {name: known.get(name, name) for name in names}
    return _assemble(read, "msrvtt-qa", sources, paths, answer_count, answer_file)


def msrvtt_clip(video: int | str) -> str:
    """MSRVTT's id of the clip that a row of MSRVTT-QA names."""
    return video if isinstance(video, str) else f"video{video}"


def _start(root: Path, title: str) -> _Read:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; {title}'s questions and clips belong there")
    return _Read(recognise(root))


def _ask(read: _Read, dataset: str, clip_of: ClipOf) -> None:
    """Add the questions of the three splits; an id or a clip in two of them is a problem."""
    first_with: dict[str, str] = {}  # question id -> where it stands
    split_of: dict[str, str] = {}  # clip id -> the split of its first question
    for split in SPLITS:
        some = split_questions(read.found, dataset, split, clip_of, read.problems, read.notes)
        by_clip: dict[str, list[Question]] = {}
        for row in some.rows if some else ():
            number, clip_id = row.question.id, clip_of(row.video)
            if first_with.setdefault(number, row.where) != row.where:
                where = f"{row.where} (id {number})"
                read.problems.append(f"{where}: {first_with[number]} has the same id")
            by_clip.setdefault(clip_id, []).append(row.question)
        read.asked[split] = by_clip
        read.given[split] = [row.question.answer for row in some.rows] if some else []
        if some is None:
            continue
        read.files[split] = some.name
        for clip_id in by_clip:
            other = split_of.setdefault(clip_id, split)
            if other != split:
                files = f"{read.files[other]} and in {some.name}"
                read.problems.append(f"{clip_id}: questions in {files}")


def _assemble(
    read: _Read,
    dataset: str,
    sources: dict[str, str],
    paths: dict[str, Path],
    answer_count: int,
    answer_file: str | None,
) -> Annotations:
    """The clips of the three splits; raises DataError with all problems if there are any."""
    root, given = read.found.root, read.given
    answers: tuple[str, ...] = ()
    if answer_file is not None or given["train"]:  # else a list of questions is asked for already
        answers = declared_answers(root, given["train"], answer_count, answer_file, read.problems)
    used = {*read.used, *read.files.values(), answer_file or ""}
    unused = unused_note(read.found, used)
    if read.problems:
        title = dataset.upper()
        message = problems_message(root, title, read.problems)
        files = [recognised_note(read.found, dataset), *filter(None, [unused])]
        raise DataError("\n  ".join([message, *(f"({line})" for line in files)]))
    clips = {
        split: tuple(
            Clip(name, paths[name], sources[name], questions=tuple(questions))
            for name, questions in by_clip.items()
        )
        for split, by_clip in read.asked.items()
    }
    listed = account(answers, answer_file, given)
    counts = [_count(read, split, answers) for split in SPLITS]
    notes = (*read.notes, *counts, described(listed), *filter(None, [unused]))
    return Annotations(
        clips["train"], clips["validation"], clips["test"], notes, answers, listed=listed
    )


def _count(read: _Read, split: str, answers: Sequence[str]) -> str:
    """What a split was read from, and how many of its questions the answer list serves."""
    given, listed = read.given[split], {*answers}
    inside = sum(answer in listed for answer in given)
    return (
        f"{split}: {read.files[split]}, {len(given)} questions about {len(read.asked[split])} "
        f"clips; {inside} ({inside / max(1, len(given)):.2%}) have a listed answer"
    )
