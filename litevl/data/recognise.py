"""Which published annotation file a file is, told by what it holds, not by its name or place.

Each data set has a function that looks at one file and says what kind it is, or nothing. A name
decides only where the content leaves it open: which split a list is that has not the published
size, as in a drawn world.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from litevl.data.folder import TextFile, read_folder
from litevl.data.kinds import Kind
from litevl.data.question_kinds import question_kind
from litevl.data.retrieval_kinds import retrieval_kind

# One function a family of data sets: the file's kind; or why it is none, though it looks like one;
# or None, for a file that it knows nothing of.
RECOGNISERS: tuple[Callable[[TextFile], Kind | str | None], ...] = (
    retrieval_kind,
    question_kind,
)


@dataclass(frozen=True)
class Found:
    """A recognised file."""

    kind: Kind
    file: TextFile

    @property
    def name(self) -> str:
        """Where it lies below the folder."""
        return self.file.name


@dataclass(frozen=True)
class Recognised:
    """What lies below a folder.

    files:  the recognised ones, in the order of their names.
    others: name -> why it was not recognised, "" where nothing can be said.
    empty:  those of the others that are a list without entries: a split of a drawn world that has
            no clips. Whose list it is only its name can say.
    """

    root: Path
    files: tuple[Found, ...]
    others: dict[str, str]
    empty: tuple[TextFile, ...] = ()

    def of(self, dataset: str, role: str = "") -> list[Found]:
        """The files of a data set, or only those with one role."""
        return [
            found
            for found in self.files
            if found.kind.dataset == dataset and role in ("", found.kind.role)
        ]


MAX_FILES_SHOWN = 30


def recognise(root: Path) -> Recognised:
    """Look into every file below a folder; see `litevl.data.folder` for what is left out."""
    files: list[Found] = []
    others: dict[str, str] = {}
    empty: list[TextFile] = []
    for file in read_folder(root):
        verdict = _kind(file) if isinstance(file, TextFile) else file.reason
        if isinstance(verdict, Kind) and isinstance(file, TextFile):
            files.append(Found(verdict, file))
        else:
            others[file.name] = str(verdict)
            if isinstance(file, TextFile) and file.form == "rows" and not file.content:
                empty.append(file)
    return Recognised(root, tuple(files), others, tuple(empty))


def _kind(file: TextFile) -> Kind | str:
    """The file's kind, or why it has none."""
    reason = ""
    for kind_of in RECOGNISERS:
        verdict = kind_of(file)
        if isinstance(verdict, Kind):
            return verdict
        reason = reason or verdict or ""
    return reason


def only(candidates: Sequence[Found], problems: list[str], notes: list[str]) -> Found | None:
    """The first of the files of one kind; None when there is none.

    Another that holds the same is noted, one that holds something else is a problem.
    """
    for other in candidates[1:]:
        first = candidates[0]
        if other.file.content == first.file.content:
            notes.append(f"{other.name}: not used, a copy of {first.name}")
        else:
            problems.append(f"{other.name}: differs from {first.name}; keep one of them")
    return candidates[0] if candidates else None


def recognised_note(found: Recognised, dataset: str) -> str:
    """Which files of a data set were recognised, and as what."""
    files = [f"{some.name} ({some.kind.format}: {some.kind.role})" for some in found.of(dataset)]
    return f"recognised: {_some(files) or 'nothing'}"


def unused_note(found: Recognised, used: Collection[str]) -> str:
    """Which files were not used, with the reason where one is known; "" if there are none."""
    rest = [some.name for some in found.files if some.name not in used]
    others = {name: why for name, why in found.others.items() if name not in used}
    rest += [f"{name} ({why})" if why else name for name, why in others.items()]
    return f"files not used: {_some(sorted(rest))}" if rest else ""


def _some(names: Sequence[str]) -> str:
    """The first MAX_FILES_SHOWN names, and how many more there are."""
    more = len(names) - MAX_FILES_SHOWN
    return ", ".join(names[:MAX_FILES_SHOWN]) + (f" and {more} more" if more > 0 else "")
