"""MSVD-QA and MSRVTT-QA as their authors published them, read into clips with questions.

Both come as `train_qa.json`, `val_qa.json` and `test_qa.json`, the original lists, with entries as
{"answer": "nut", "id": 1, "question": "what is a small animal chewing on?", "video_id": 1}. MSVD-QA
has the names of its clips in `youtube_mapping.txt`; in MSRVTT-QA the number is the name, and the
questions also go round as ClipBERT's `train.jsonl`, `val.jsonl` and `test.jsonl`.

A program made the questions from captions. They are of five types, told apart by the first word. A
model chooses from a declared list of answers; a question whose answer is not on that list is kept,
and counted, as one that nobody can answer right.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litevl.data.annotations import (
    CLIP_FOLDERS,
    QUESTION_TYPES,
    Annotations,
    Clip,
    Question,
    clip_files,
    is_whole,
    json_list,
    named_files,
    problems_message,
)
from litevl.data.msrvtt import official_sources
from litevl.errors import DataError

ORIGINAL = {"train": "train_qa.json", "validation": "val_qa.json", "test": "test_qa.json"}
CLIPBERT = {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}
MAPPING = "youtube_mapping.txt"
MSVD_FOLDERS = ("videos", "YouTubeClips")

Rows = Iterable[tuple[str, str, int, Any]]  # where it stands, question id, video number, the row


@dataclass(frozen=True)
class _Video:
    """What a video number stands for: a clip's id, its file name if none is there, its source."""

    id: str
    file: str
    source: str


@dataclass
class _Found:
    """What the question files hold, with every problem met on the way."""

    root: Path
    files: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> place, text
    used: dict[str, str] = field(default_factory=dict)  # split -> file
    asked: dict[str, dict[int, list[Question]]] = field(default_factory=dict)  # by video number
    answers: dict[str, list[str]] = field(default_factory=dict)  # split -> one for each question
    by_id: dict[str, str] = field(default_factory=dict)  # question id -> where it stands
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def numbers(self) -> dict[int, int]:
        """Video number -> number of questions about it."""
        counts: Counter[int] = Counter()
        for by_number in self.asked.values():
            counts.update({number: len(questions) for number, questions in by_number.items()})
        return counts


def load_msvd_qa(root: Path, answer_count: int, answer_file: str | None = None) -> Annotations:
    """Clips of MSVD-QA with their questions, in the order of the first question about each.

    root: folder with train_qa.json, val_qa.json, test_qa.json and youtube_mapping.txt (at any
        depth, also in zip archives) and the clips, named as in the mapping: `videos/<name>.avi` or
        `YouTubeClips/<name>.avi`, or with another extension.
    answer_count, answer_file: see `declared_answers`.
    A clip's id is its name in the mapping; its source is the YouTube id that the name starts with.
    Clip files are not opened here; see `litevl.data.dataset.check_clips`.
    Raises DataError, listing all problems.
    """
    found = _find(root, "MSVD-QA", [*ORIGINAL.values(), MAPPING])
    for split, name in ORIGINAL.items():
        if name in found.files:
            _read_original(split, found)
        else:
            found.problems.append(f"no {name}, an original list of questions")
    videos: dict[int, _Video] = {}
    if MAPPING in found.files:
        videos = _mapping(found)
        found.problems += [
            f"vid{number}: no line in {found.files[MAPPING][0]}; {count} questions are about it"
            for number, count in found.numbers().items()
            if number not in videos
        ]
        without = len(videos.keys() - found.numbers())
        found.notes.append(f"{MAPPING}: {without} of {len(videos)} clips have no questions")
    else:
        found.problems.append(f'no {MAPPING}, the names of the clips, as "<name> vid<number>"')
    answers = _answers(found, answer_count, answer_file)
    return _assemble(found, "MSVD-QA", videos, MSVD_FOLDERS, answers)


def load_msrvtt_qa(root: Path, answer_count: int, answer_file: str | None = None) -> Annotations:
    """Clips of MSRVTT-QA with their questions, in the order of the first question about each.

    root: folder with train_qa.json, val_qa.json and test_qa.json, or for a split that has none of
        them ClipBERT's train.jsonl, val.jsonl or test.jsonl (at any depth, also in zip archives),
        and the clips, `videos/video<number>.mp4` (or in another of CLIP_FOLDERS).
    answer_count, answer_file: see `declared_answers`.
    A clip's source is its url in MSRVTT's official JSON, if that lies below root; otherwise the
    clip itself, although clips of one video stand in all splits. `notes` say which.
    Clip files are not opened here; see `litevl.data.dataset.check_clips`.
    Raises DataError, listing all problems.
    """
    found = _find(root, "MSRVTT-QA", [*ORIGINAL.values(), *CLIPBERT.values()])
    for split, name in ORIGINAL.items():
        other = CLIPBERT[split]
        if name in found.files:
            _read_original(split, found)
            if other in found.files:
                found.notes.append(f"{found.files[other][0]}: not used, {name} is there")
        elif other in found.files:
            _read_clipbert(split, found)
        else:
            found.problems.append(f"no {name}, an original list of questions, and no {other}")
    urls = official_sources(root, found.problems)
    names = {number: f"video{number}" for number in found.numbers()}
    videos = {
        number: _Video(name, f"{name}.mp4", urls.get(name, name)) for number, name in names.items()
    }
    num_known = sum(name in urls for name in names.values())
    found.notes.append(
        f"sources: the official JSON names the video of {num_known} of {len(names)} clips"
        + "; the others count as one video each" * (num_known < len(names))
    )
    answers = _answers(found, answer_count, answer_file)
    return _assemble(found, "MSRVTT-QA", videos, CLIP_FOLDERS, answers)


# The questions.


def _find(root: Path, name: str, names: Sequence[str]) -> _Found:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; {name}'s questions and clips belong there")
    found = _Found(root)
    found.asked, found.answers = (
        {split: {} for split in ORIGINAL},
        {split: [] for split in ORIGINAL},
    )
    found.files = named_files(root, names, found.problems, found.notes)
    return found


def _read_original(split: str, found: _Found) -> None:
    """Add the questions of an original list."""
    name, text = found.files[ORIGINAL[split]]
    found.used[split] = name

    def rows() -> Iterator[tuple[str, str, int, Any]]:
        for place, row in enumerate(json_list(name, text, found.problems)):
            where = f"{name}[{place}]"
            if not isinstance(row, dict):
                found.problems.append(f"{where}: should be an object, is a {type(row).__name__}")
            elif not is_whole(row.get("id")) or not is_whole(row.get("video_id")):
                found.problems.append(f"{where}: needs id and video_id as whole numbers")
            else:
                yield where, str(row["id"]), row["video_id"], row

    _add(split, rows(), found)


def _read_clipbert(split: str, found: _Found) -> None:
    """Add the questions of a file with one JSON object per line, which have no ids of their own."""
    name, text = found.files[CLIPBERT[split]]
    found.used[split] = name

    def rows() -> Iterator[tuple[str, str, int, Any]]:
        for place, line in enumerate(text.rstrip().split("\n")):
            where = f"{name} line {place + 1}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                found.problems.append(f"{where}: not JSON ({error})")
                continue
            number = row.get("video_id") if isinstance(row, dict) else None
            if not isinstance(number, str) or not re.fullmatch(r"video[0-9]+", number):
                found.problems.append(f'{where}: needs video_id as "video<number>"')
            else:
                yield where, f"{split}:{place}", int(number.removeprefix("video")), row

    _add(split, rows(), found)


def _add(split: str, rows: Rows, found: _Found) -> None:
    """Add questions that have an id and a video number, except those that have a problem."""
    for where, question_id, number, row in rows:
        wrong = _wrong(row.get("question"), row.get("answer"))
        first = found.by_id.setdefault(question_id, where)
        if first != where:
            wrong.append(f"{first} has the same id")
        found.problems += [f"{where} (id {question_id}): {what}" for what in wrong]
        if not wrong:
            question = Question(question_id, row["question"], row["answer"])
            found.asked[split].setdefault(number, []).append(question)
            found.answers[split].append(question.answer)


def _wrong(text: object, answer: object) -> list[str]:
    """What is wrong with a question and its answer."""
    wrong = []
    if not isinstance(text, str) or not text.strip():
        wrong.append("empty question" if isinstance(text, str) else "needs a question, a string")
    elif Question("", text, "").kind not in QUESTION_TYPES:
        wrong.append(f"{text!r} should start with one of {', '.join(QUESTION_TYPES)}")
    if not isinstance(answer, str) or not answer.strip():
        wrong.append("empty answer" if isinstance(answer, str) else "needs an answer, a string")
    return wrong


# The clips.


def _mapping(found: _Found) -> dict[int, _Video]:
    """MSVD's videos by number; a problem for each line that is wrong or repeats a name or number.

    46 of the published names start with "-"; some copies of the file have CRLF line ends.
    """
    name, text = found.files[MAPPING]
    videos: dict[int, _Video] = {}
    lines: dict[str, int] = {}  # a clip's name or number -> the line it stands in
    for line, content in enumerate(text.splitlines(), 1):
        match = re.fullmatch(r"(([^\s/]+)_[0-9]+_[0-9]+)\s+vid([0-9]+)", content.strip())
        if match is None:
            found.problems.append(
                f'{name} line {line}: {content!r} should be "<id>_<start>_<end> vid<number>"'
            )
            continue
        clip_id, source, number = match[1], match[2], int(match[3])
        for what in (clip_id, f"vid{number}"):
            if lines.setdefault(what, line) != line:
                found.problems.append(
                    f"{name} line {line}: {what} stands already in line {lines[what]}"
                )
        videos.setdefault(number, _Video(clip_id, f"{clip_id}.avi", source))
    return videos


def _assemble(
    found: _Found,
    name: str,
    videos: dict[int, _Video],
    folders: Sequence[str],
    answers: tuple[str, ...],
) -> Annotations:
    """The clips of the three splits; raises DataError with all problems if there are any."""
    splits: dict[int, str] = {}
    for split, by_number in found.asked.items():
        for number in by_number:
            other = splits.setdefault(number, split)
            if other != split:
                known = videos[number].id if number in videos else f"vid{number}"
                found.problems.append(
                    f"{known}: questions in {found.used[other]} and in {found.used[split]}"
                )
    ids = {videos[number].id for number in splits if number in videos}
    paths = clip_files(found.root, folders, ids, found.problems)
    if found.problems:
        raise DataError(problems_message(found.root, name, found.problems))
    clips: dict[str, tuple[Clip, ...]] = {}
    for split, by_number in found.asked.items():
        asked = [(videos[number], tuple(some)) for number, some in by_number.items()]
        clips[split] = tuple(
            Clip(
                video.id,
                paths.get(video.id, found.root / folders[0] / video.file),
                video.source,
                questions=questions,
            )
            for video, questions in asked
        )
    notes = (*found.notes, *(_note(split, found, answers) for split in found.asked))
    return Annotations(clips["train"], clips["validation"], clips["test"], notes, answers)


def _note(split: str, found: _Found, answers: Sequence[str]) -> str:
    """What a split was read from, and how many of its questions the answer list leaves out."""
    listed, given = set(answers), found.answers[split]
    outside = sum(answer not in listed for answer in given)
    return (
        f"{split}: {found.used[split]}, {len(given)} questions about {len(found.asked[split])} "
        f"clips; {outside} ({outside / max(1, len(given)):.2%}) have an answer that is not listed"
    )


# The answer list.


def _answers(found: _Found, count: int, file: str | None) -> tuple[str, ...]:
    """The declared list; an empty one, without a further problem, when its source is missing."""
    if file is None and not found.asked["train"]:
        return ()
    return declared_answers(found.root, found.answers["train"], count, file, found.problems)


def declared_answers(
    root: Path, training: Sequence[str], count: int, file: str | None, problems: list[str]
) -> tuple[str, ...]:
    """The `count` answers to choose from, which never depend on the questions of another split.

    training: the answers of the training questions. Without a file, the most frequent of them make
        the list, of equally frequent ones those that come first.
    file: below root; a JSON list, a JSON object from answer to label (listed by label), or a text
        file with one answer per line. It has to hold exactly `count` answers.
    """
    if file is None:
        most = [answer for answer, _ in Counter(training).most_common(count)]
        if len(most) < count:
            problems.append(
                f"data.answers.count: {count}, but the training questions have {len(most)} answers"
            )
        return tuple(most)
    if not (root / file).is_file():
        problems.append(f"no {file}, the answer list (data.answers.file)")
        return ()
    try:
        text = (root / file).read_text(encoding="utf-8-sig")
        entries = _entries(text, is_json=file.lower().endswith(".json"))
    except (OSError, ValueError) as error:
        problems.append(f"{file}: cannot be read as an answer list: {error}")
        return ()
    first: dict[str, int] = {}
    for place, answer in enumerate(entries, 1):
        if not isinstance(answer, str) or not answer.strip():
            problems.append(f"{file}: entry {place} is {answer!r}; should be an answer")
        elif first.setdefault(answer, place) != place:
            problems.append(f"{file}: entry {place} is {answer!r} again, as entry {first[answer]}")
    if len(entries) != count:
        problems.append(f"{file}: has {len(entries)} entries, data.answers.count is {count}")
    return tuple(first)


def _entries(text: str, is_json: bool) -> Sequence[Any]:
    """The entries of an answer list; ValueError for JSON of another form."""
    if not is_json:
        return [line.strip() for line in text.splitlines()]
    # As pairs: a plain dict would keep the last of several entries for one answer, without a word.
    content = json.loads(text, object_pairs_hook=tuple)
    if isinstance(content, list):
        return content
    if not isinstance(content, tuple) or not all(is_whole(label) for _, label in content):
        raise ValueError("should be a list, or an object from answer to label, a whole number")
    labels = [label for _, label in content]
    if len(set(labels)) < len(labels):
        raise ValueError("two answers have the same label")
    return [answer for answer, _ in sorted(content, key=lambda pair: pair[1])]
