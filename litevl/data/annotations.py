"""Clips with the sentences or questions about them, and what the loaders of all data sets share.

Each data set has its own loader: `litevl.data.msrvtt`, `didemo` and `video_qa`. They report every
wrong row, with file and row, in one DataError. Nothing is repaired, and nothing is skipped in
silence.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

QUESTION_TYPES = ("what", "who", "how", "when", "where")
# Where the archives in circulation put their clips; the first folder that holds a clip wins.
CLIP_FOLDERS = ("videos", "videos/all", "video", "TrainValVideo", "TestVideo")
TEXT_SUFFIXES = (".json", ".csv", ".txt")
MAX_PROBLEMS_SHOWN = 200


@dataclass(frozen=True)
class Question:
    """A question about a clip, and the one answer that counts as right."""

    id: str
    text: str
    answer: str

    @property
    def kind(self) -> str:
        """Its type, the first word in lower case: one of QUESTION_TYPES."""
        return self.text.split()[0].lower()


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


def text_files(
    root: Path, problems: list[str], names: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Name and text of every JSON, CSV and TXT file below root, also in zip archives.

    names: only the files of these names, in whatever folder or archive.
    """

    def is_wanted(name: str) -> bool:
        return Path(name).name in names if names else _is_text(name)

    for folder, children, files in os.walk(root):
        inside = Path(folder).relative_to(root)
        children[:] = sorted(
            child
            for child in children
            if not child.startswith(".") and (inside / child).as_posix() not in CLIP_FOLDERS
        )
        for name in sorted(files):
            shown = (inside / name).as_posix()
            try:
                if is_wanted(name):
                    yield shown, (root / shown).read_text(encoding="utf-8-sig")
                elif name.lower().endswith(".zip"):
                    with zipfile.ZipFile(root / shown) as archive:
                        for member in filter(is_wanted, archive.namelist()):
                            yield f"{shown}:{member}", archive.read(member).decode("utf-8-sig")
            except (OSError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error) as error:
                problems.append(f"{shown}: cannot be read: {error}")


def _is_text(name: str) -> bool:
    return not Path(name).name.startswith(".") and name.lower().endswith(TEXT_SUFFIXES)


def named_files(
    root: Path, names: Collection[str], problems: list[str], notes: list[str]
) -> dict[str, tuple[str, str]]:
    """Name -> where below root it lies, and its text, for those of the names that are there.

    A second file of the same name is noted when it is a copy, and a problem when it differs.
    """
    found: dict[str, tuple[str, str]] = {}
    for shown, text in text_files(root, problems, names):
        name = Path(shown.rpartition(":")[2]).name
        first, its_text = found.setdefault(name, (shown, text))
        if its_text != text:
            problems.append(f"{shown}: differs from {first}; keep one of them")
        elif first != shown:
            notes.append(f"{shown}: not used, a copy of {first}")
    return found


def json_list(name: str, text: str, problems: list[str]) -> list[Any]:
    """The entries of a JSON list; none and a problem when it is something else."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        problems.append(f"{name}: not JSON ({error}); cut short?")
        return []
    if isinstance(content, list):
        return content
    problems.append(f"{name}: should be a list, is a {type(content).__name__}")
    return []


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
    shown = problems[:MAX_PROBLEMS_SHOWN]
    lines = [
        f"{root}: {len(problems)} problem{'s' * (len(problems) > 1)} in the {name} annotations"
    ]
    lines += [f"  {problem}" for problem in shown]
    if len(shown) < len(problems):
        lines.append(f"  ... and {len(problems) - len(shown)} more")
    return "\n".join(lines)
