"""One's own clips: a folder of video files, and one file of texts about them, CSV or JSON lines.

    clip,caption,split                  for text-video retrieval
    clip,question,answer,split          for question answering

docs/own-data.md describes the format. All problems of a file are found in one reading, each with
its line; nothing is repaired, and nothing is left out in silence.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from litevl.data.annotations import (
    VIDEO_SUFFIXES,
    Annotations,
    Clip,
    Question,
    problems_message,
)
from litevl.data.answer_lists import account, declared_answers, described
from litevl.data.folder import TextFile, Unread, read_file
from litevl.download import leaves_folder
from litevl.errors import UNPRINTABLE, DataError
from litevl.spec_conflicts import unusable_path
from litevl.spec_problems import suggestion
from litevl.tasks import Task

SPLITS = ("train", "validation", "test")
COLUMNS: dict[Task, tuple[str, ...]] = {
    "retrieval": ("clip", "caption", "split"),
    "question-answering": ("clip", "question", "answer", "split"),
}
FORMS = " or ".join(",".join(columns) for columns in COLUMNS.values())
LEAST_TRAINING = 2  # clips with captions, or questions: a batch of one has nothing to tell apart
NUM_SHOWN = 60  # letters of a line that is quoted


@dataclass
class OwnTexts:
    """What a file says about clips, with every problem met on the way.

    task:    None where the columns do not tell.
    clips:   split -> clip id -> clip. An id is the file's path below the folder of clips.
    missing: a line for each clip without a file.
    """

    task: Task | None = None
    clips: dict[str, dict[str, Clip]] = field(default_factory=lambda: {s: {} for s in SPLITS})
    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def questions(self, split: str) -> list[Question]:
        """All questions of a split."""
        return [question for clip in self.clips[split].values() for question in clip.questions]

    def captions(self, split: str) -> list[str]:
        """All captions of a split."""
        return [caption for clip in self.clips[split].values() for caption in clip.captions]


def load_own(
    root: Path, file: Path, task: Task, answer_list: tuple[int, str | None] | None
) -> Annotations:
    """The clips below `root` that a file of texts is about, in the file's order.

    answer_list: count and file as for `declared_answers`; question answering only.
    Every clip counts as cut from a video of its own. Clip files are not opened here; see
    `litevl.data.counting.check_clips`. Raises DataError, listing all problems.
    """
    texts = read_texts(root, file)
    problems, answers, given = texts.problems, tuple[str, ...](), dict[str, list[str]]()
    if texts.task not in (None, task):
        problems.append(f"the file is for {texts.task}, the spec for {task}")
    if answer_list is not None and texts.task == task:
        given = {split: [one.answer for one in texts.questions(split)] for split in SPLITS}
        answers = declared_answers(root, given["train"], *answer_list, problems)
    if problems:
        raise DataError(problems_message(file, "own", problems))
    clips = {split: tuple(texts.clips[split].values()) for split in SPLITS}
    notes, listed = [f"annotations: {file.name}", *shared_captions(texts)], None
    if answer_list is not None:
        listed = account(answers, answer_list[1], given)
        notes += [*answerable(given, answers), described(listed)]
    return Annotations(
        clips["train"], clips["validation"], clips["test"], tuple(notes), answers, listed=listed
    )


def shared_captions(texts: OwnTexts) -> list[str]:
    """A note where test clips have the same caption: only one of them counts as right."""
    counts = Counter(texts.captions("test"))
    several = [caption for caption, count in counts.items() if count > 1]
    if not several:
        return []
    return [
        f"test: {len(several)} captions belong to more than one clip (first: {several[0]!r}); a "
        "search for such a caption counts as right for one of them only"
    ]


def answerable(given: dict[str, list[str]], answers: Sequence[str]) -> list[str]:
    """How many questions of each split the answer list serves."""
    listed = {*answers}
    notes = []
    for split, gold in given.items():
        inside = sum(answer in listed for answer in gold)
        share = inside / max(1, len(gold))
        notes.append(
            f"{split}: {inside} of {len(gold)} questions ({share:.2%}) have a listed answer"
        )
    return notes


def read_texts(root: Path, file: Path) -> OwnTexts:
    """A file of texts, and the clips below `root` that it names; what is wrong is in the result.

    Spaces around a value do not count, and within a text several count as one.
    """
    texts = OwnTexts()
    if not root.is_dir():
        texts.problems.append(f"{root}: no such folder; it should hold the clips")
    table = rows_of(file, texts.problems)
    if table is None:
        return texts
    columns = columns_of(table)
    texts.task = task_told_by(columns, texts.problems)
    if texts.task is None:
        return texts
    wanted = COLUMNS[texts.task]
    lacking = [column for column in wanted if column not in columns]
    texts.problems += [f"{table.name}: no column '{column}'" for column in lacking]
    if lacking:
        return texts
    reading = _Reading(root, texts)
    for place, row in enumerate(table.content):
        where, wrong = table.place(place), len(texts.problems)
        values = values_of(row, wanted, where, texts.problems)
        if len(texts.problems) == wrong:
            reading.add(values, where)
    expect_enough(texts)
    return texts


def rows_of(file: Path, problems: list[str]) -> TextFile | None:
    """The rows of a CSV with a header, or of JSON lines; None and a problem for anything else."""
    if not os.path.isfile(file):
        problems.append(f"{file}: no such file; it should hold the texts")
        return None
    found = read_file(file)
    if isinstance(found, Unread):
        reason = found.reason or "holds NUL, as UTF-16 and pictures do"
        problems.append(f"{found.name}: {reason}; save it as text in UTF-8")
        return None
    problems += found.faults
    if found.form == "object":  # JSON lines with one line
        found = replace(found, form="rows", content=[found.content])
    if found.form == "lines":
        first = found.content[0] if found.content else ""
        other = next((name for sign, name in SEPARATORS.items() if sign in first), None)
        if not first:
            problems.append(f"{found.name}: empty; its first line should name the columns, {FORMS}")
        elif other is not None:
            problems.append(f"{found.name}: columns parted by {other}; save it with commas")
        else:
            quoted = repr(first[:NUM_SHOWN])
            problems.append(f"{found.name} line 1: should name the columns, {FORMS}; is {quoted}")
        return None
    if not found.content and not found.faults:
        problems.append(f"{found.name}: no rows")
        return None
    return found


SEPARATORS = {";": "semicolons", "\t": "tabs"}


def columns_of(table: TextFile) -> list[str]:
    """The columns of a CSV as its header has them, or all keys of JSON lines."""
    if table.form == "table":
        return list(table.columns)
    rows = [row for row in table.content if isinstance(row, dict)]
    return list(dict.fromkeys(key for row in rows for key in row))


def task_told_by(columns: Sequence[str], problems: list[str]) -> Task | None:
    """What the columns are for; a problem for each that is unknown or stands twice."""
    known = dict.fromkeys(column for some in COLUMNS.values() for column in some)
    for column, count in Counter(columns).items():
        if count > 1:
            problems.append(f"column '{column}' stands {count} times")
        if column not in known:
            hint = suggestion(column, known)
            problems.append(f"column '{column}' is unknown{hint}; the columns are {FORMS}")
    has_captions, asks = "caption" in columns, {"question", "answer"} & {*columns}
    if has_captions and asks:
        problems.append(
            "both captions and questions; one file is for one task, so make two files of it"
        )
        return None
    if not has_captions and not asks:
        problems.append("neither a column 'caption' nor columns 'question' and 'answer'")
        return None
    return "retrieval" if has_captions else "question-answering"


def values_of(row: Any, wanted: Sequence[str], where: str, problems: list[str]) -> dict[str, str]:
    """A row's values, stripped; a problem for each that is missing, empty or no plain text."""
    if not isinstance(row, dict):
        problems.append(f"{where}: should be an object with {', '.join(wanted)}")
        return {}
    values = {}
    for column in wanted:
        value = row.get(column)
        if value is None:
            problems.append(f"{where}: no {column}")
            continue
        if not isinstance(value, str):
            problems.append(f"{where}: {column} should be a text, is {value!r}")
            continue
        text = value.strip() if column == "clip" else " ".join(value.split())
        steering = UNPRINTABLE.search(text)
        if not text:
            problems.append(f"{where}: empty {column}")
        elif steering is not None:
            letter = ascii(steering[0])
            problems.append(f"{where}: {column} holds {letter}, a letter that cannot be shown")
            continue
        values[column] = text
    split = values.get("split")
    if split and split not in SPLITS:
        hint = suggestion(split.lower(), SPLITS)
        problems.append(f"{where}: split {split!r}{hint} (train, validation or test)")
    clip = values.get("clip")
    if clip and leaves_folder(clip):
        problems.append(f"{where}: clip {clip!r} is not below the folder of clips")
    elif clip and (unusable := unusable_path(clip)):
        problems.append(f"{where}: clip: {unusable}")
    return values


class _Reading:
    """Rows put together into clips; a problem where two of them do not go together."""

    def __init__(self, root: Path, texts: OwnTexts) -> None:
        self.root, self.texts = root, texts
        self._files: dict[Path, dict[str, list[str]]] = {}  # folder -> stem -> video files
        self._paths: dict[str, Path | None] = {}  # as written -> file, None where it may be several
        self._splits: dict[str, tuple[str, str]] = {}  # clip id -> split, where it stands first
        self._first: dict[tuple[str, str], str] = {}  # clip id and text -> where it stands first

    def add(self, values: dict[str, str], where: str) -> None:
        """Add a row whose values are right one by one."""
        texts, split = self.texts, values["split"]
        if values["clip"] not in self._paths:
            self._paths[values["clip"]] = self._file(values["clip"], where)
        path = self._paths[values["clip"]]
        if path is None:
            return
        clip_id = path.relative_to(self.root).as_posix()
        other, place = self._splits.setdefault(clip_id, (split, where))
        if other != split:
            texts.problems.append(f"{where}: {clip_id} is in {split}, and in {other} at {place}")
            return
        kind = "caption" if texts.task == "retrieval" else "question"
        text = values[kind]
        first = self._first.setdefault((clip_id, text), where)
        if first != where:
            texts.problems.append(f"{where}: the same {kind} of {clip_id} as at {first}")
            return
        clip = texts.clips[split].get(clip_id) or Clip(clip_id, path, clip_id)
        if kind == "question":
            number = f"{clip_id}#{len(clip.questions)}"
            asked = Question(number, text, values["answer"])
            clip = replace(clip, questions=(*clip.questions, asked))
        else:
            if clip.captions and split != "train":
                texts.problems.append(
                    f"{where}: a second caption of {clip_id}, a {split} clip; scores are over one "
                    "caption for each clip, so keep one, or join them into one text"
                )
            clip = replace(clip, captions=(*clip.captions, text))
        texts.clips[split][clip_id] = clip

    def _file(self, name: str, where: str) -> Path | None:
        """The file that a name means; where there is none, the file that there should be."""
        path = self.root / name
        if os.path.isfile(path):
            return path
        if path.parent not in self._files:
            self._files[path.parent] = video_files_by_stem(path.parent)
        found = self._files[path.parent].get(path.name, [])
        if len(found) > 1:
            either = " or ".join(found)
            self.texts.problems.append(f"{where}: clip {name!r} may be {either}; write which")
            return None
        if not found:
            self.texts.missing.append(f"{where}: no clip {name!r} in {self.root}")
        return path.with_name(found[0]) if found else path


def video_files_by_stem(folder: Path) -> dict[str, list[str]]:
    """Name without extension -> the video files of that name in a folder."""
    found: dict[str, list[str]] = {}
    if folder.is_dir():
        for name in sorted(os.listdir(folder)):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in VIDEO_SUFFIXES:
                found.setdefault(stem, []).append(name)
    return found


def expect_enough(texts: OwnTexts) -> None:
    """Add a problem for a split with too little to train on or to test."""
    asks = texts.task == "question-answering"
    unit = "questions" if asks else "clips"
    least = {"train": LEAST_TRAINING, "test": 1 if asks else 2}
    for split, fewest in least.items():
        count = len(texts.questions(split)) if asks else len(texts.clips[split])
        if count < fewest:
            texts.problems.append(f"{split}: {count} {unit}; there should be {fewest} at least")
