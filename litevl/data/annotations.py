"""Clips with the sentences or questions about them, and what the loaders of all data sets share.

Each data set has its own loader: `litevl.data.msrvtt`, `didemo` and `video_qa`. They report every
wrong row, with file and row, in one DataError. Nothing is repaired, and nothing is skipped in
silence.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

QUESTION_TYPES = ("what", "who", "how", "when", "where")
OTHER_TYPE = "other"  # of one's own questions: "is the door open?"
VIDEO_SUFFIXES = (
    ".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv",
    ".3gp", ".ts", ".mts", ".m2ts", ".ogv",
)  # fmt: skip
# Where the archives in circulation put their clips; the first folder that holds a clip wins.
CLIP_FOLDERS = ("videos", "videos/all", "video", "TrainValVideo", "TestVideo")
MAX_PROBLEMS_SHOWN = 200


@dataclass(frozen=True)
class Question:
    """A question about a clip, and the one answer that counts as right."""

    id: str
    text: str
    answer: str

    @property
    def kind(self) -> str:
        """Its type, the first word in lower case where that is one of QUESTION_TYPES."""
        word = self.text.split()[0].lower()
        return word if word in QUESTION_TYPES else OTHER_TYPE


@dataclass(frozen=True)
class Clip:
    """One video file and the sentences or questions about it.

    source: names the video it was cut from; clips of one source are not independent.
    """

    id: str
    path: Path
    source: str
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class ListedAnswers:
    """Where a declared answer list comes from, and which of its answers training never shows.

    only_validation: listed answers that validation questions have and training questions do not.
    only_test:       those that test questions have and no others.
    """

    source: str
    count: int
    only_validation: tuple[str, ...]
    only_test: tuple[str, ...]


@dataclass(frozen=True)
class Annotations:
    """The clips of a data set, by split.

    notes:   which files were used, and what is odd about them but not wrong.
    answers: the declared answer list, and listed what is known of it; question answering only.
    prepared: sha256 of what `litevl data prepare` did to the clips; None where they are as
        published.
    """

    train: tuple[Clip, ...]
    validation: tuple[Clip, ...]
    test: tuple[Clip, ...]
    notes: tuple[str, ...]
    answers: tuple[str, ...] = ()
    prepared: str | None = None
    listed: ListedAnswers | None = None

    @property
    def splits(self) -> dict[str, tuple[Clip, ...]]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def text_counts(clips: Sequence[Clip], answers: Collection[str]) -> dict[str, int]:
    """Number of captions; of clips with questions also of those, and of answers outside the list.

    answers: the declared list.
    """
    counts = {"captions": sum(len(clip.captions) for clip in clips)}
    asked, listed = [question for clip in clips for question in clip.questions], set(answers)
    if asked:
        outside = sum(question.answer not in listed for question in asked)
        counts |= {"questions": len(asked), "outside_list": outside}
    return counts


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value of a JSON file is a whole number, and not true or false."""
    return isinstance(value, int) and not isinstance(value, bool)


def clip_files(
    root: Path, folders: Sequence[str], clip_ids: Collection[str], problems: list[str]
) -> dict[str, Path]:
    """Clip id -> file, from one listing of each folder; ids without a file are not in it.

    A clip's file is called by its id, alone or followed by a dot and anything: DiDeMo's download
    script makes `x.mov.mp4` of `x.mov`. Two files for one clip are a problem.
    """
    files: dict[str, Path] = {}
    for folder in filter(lambda name: (root / name).is_dir(), folders):
        for name in sorted(os.listdir(root / folder)):
            stem = name
            while stem and stem not in clip_ids:
                stem = stem.rpartition(".")[0]
            path = root / folder / name
            if stem and path.is_file() and files.setdefault(stem, path) != path:
                other = files[stem].relative_to(root)
                problems.append(f"{stem}: two files, {other} and {folder}/{name}; keep one of them")
    return files


def problems_message(root: Path, name: str, problems: Sequence[str]) -> str:
    """A headline with the number of problems, then the problems, the first MAX_PROBLEMS_SHOWN."""
    many = "s" * (len(problems) > 1)
    return listed(f"{root}: {len(problems)} problem{many} in the {name} annotations", problems)


def listed(headline: str, problems: Sequence[str]) -> str:
    """The first MAX_PROBLEMS_SHOWN problems under a headline, and how many more there are."""
    shown = problems[:MAX_PROBLEMS_SHOWN]
    lines = [headline, *(f"  {problem}" for problem in shown)]
    if len(shown) < len(problems):
        lines.append(f"  ... and {len(problems) - len(shown)} more")
    return "\n".join(lines)
