"""Clips with the sentences or questions about them, and what the loaders of all data sets share.

Each data set has its own loader: `litevl.data.msrvtt`, `didemo` and `video_qa`. They report every
wrong row, with file and row, in one DataError. Nothing is repaired, and nothing is skipped in
silence.
"""

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
class Annotations:
    """The clips of a data set, by split.

    notes:   which files were used, and what is odd about them but not wrong.
    answers: the declared answer list; question answering only.
    """

    train: tuple[Clip, ...]
    validation: tuple[Clip, ...]
    test: tuple[Clip, ...]
    notes: tuple[str, ...]
    answers: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, tuple[Clip, ...]]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def text_files(root: Path, problems: list[str]) -> Iterator[tuple[str, str]]:
    """Name and text of every JSON, CSV and TXT file below root, also in zip archives."""
    for folder, children, names in os.walk(root):
        inside = Path(folder).relative_to(root)
        children[:] = sorted(
            child
            for child in children
            if not child.startswith(".") and (inside / child).as_posix() not in CLIP_FOLDERS
        )
        for name in sorted(names):
            shown = (inside / name).as_posix()
            try:
                if _is_text(name):
                    yield shown, (root / shown).read_text(encoding="utf-8-sig")
                elif name.lower().endswith(".zip"):
                    with zipfile.ZipFile(root / shown) as archive:
                        for member in filter(_is_text, archive.namelist()):
                            yield f"{shown}:{member}", archive.read(member).decode("utf-8-sig")
            except (OSError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error) as error:
                problems.append(f"{shown}: cannot be read: {error}")


def _is_text(name: str) -> bool:
    return not Path(name).name.startswith(".") and name.lower().endswith(TEXT_SUFFIXES)


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
