"""What the recognised question files of MSVD-QA and MSRVTT-QA say, whatever their format.

- the original lists: {"answer": "nut", "id": 1, "question": "what ...?", "video_id": 1};
- JSON lines, as ClipBERT and ALPRO have them: the same without ids, with "video_id": "video6513";
- CSV: HQGA's `video,question,answer,qid,type`, whose questions lack their question mark, and Just
  Ask's `question,answer,category_id,video_id,id,type`;
- a JSON list as LAVIS has it: "video", the file's name, and "question_id".

Every wrong row is a problem with its place; nothing is repaired.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from litevl.data.annotations import QUESTION_TYPES, Question, is_whole
from litevl.data.question_kinds import MAPPING_LINE, as_rows, video_of
from litevl.data.recognise import Found, Recognised, only
from litevl.data.retrieval_kinds import split_in_name

ClipOf = Callable[[int | str], str]  # what a row says of its clip -> the clip's id

FORMATS = ("original JSON", "JSON list", "JSON lines", "CSV")  # the first at hand is used
ID_KEYS = ("id", "qid", "question_id")
NEEDS = {
    "train": "train_qa.json, train.jsonl, train.csv",
    "validation": "val_qa.json, val.jsonl, val.csv",
    "test": "test_qa.json, test.jsonl, test.csv",
}


@dataclass(frozen=True)
class Asked:
    """One row of a question file.

    video: as the file has it; see `litevl.data.question_kinds.video_of`.
    """

    where: str
    video: int | str
    question: Question


@dataclass(frozen=True)
class QuestionList:
    """The questions of one file, in its order."""

    name: str
    format: str
    rows: tuple[Asked, ...]

    @property
    def num_without_mark(self) -> int:
        """Questions that do not end with a question mark."""
        return sum(not row.question.text.rstrip().endswith("?") for row in self.rows)


def read_questions(found: Found, problems: list[str]) -> QuestionList:
    """The questions of one file. Where it has no ids, an id is the split and the row."""
    file, split = as_rows(found.file), found.kind.role
    problems += file.faults
    rows: list[Asked] = []
    first_with: dict[str, str] = {}
    keys = Counter(key for row in file.content if isinstance(row, dict) for key in row)
    key = next((key for key in ID_KEYS if keys[key] * 2 >= len(file.content)), None)
    for place, row in enumerate(file.content):
        where = file.place(place)
        if not isinstance(row, dict):
            problems.append(f"{where}: should be an object, is a {type(row).__name__}")
            continue
        said, video = row.get(key) if key else f"{split}:{place}", video_of(row)
        is_id = is_whole(said) or (isinstance(said, str) and bool(said.strip()))
        wrong = [] if is_id else [f"needs {key}, a whole number"]
        if video is None:
            wrong.append(_wrong_video(found))
        wrong += _wrong(row.get("question"), row.get("answer"))
        if is_id and first_with.setdefault(str(said), where) != where:
            wrong.append(f"{first_with[str(said)]} has the same id")
        problems += [f"{where} (id {said}): {what}" for what in wrong]
        if not wrong and video is not None:
            rows.append(Asked(where, video, Question(str(said), row["question"], row["answer"])))
    return QuestionList(found.name, found.kind.format, tuple(rows))


def _wrong_video(found: Found) -> str:
    if found.kind.dataset == "msvd-qa":
        return 'needs video_id, a whole number or the clip\'s name, "<id>_<start>_<end>"'
    return 'needs video_id, a whole number or "video<number>"'


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


def split_questions(
    found: Recognised,
    dataset: str,
    split: str,
    clip_of: ClipOf,
    problems: list[str],
    notes: list[str],
) -> QuestionList | None:
    """The questions of one split; None and a problem where no file has them.

    A list without entries, named after the split, says that the split has none.

    Of several files the first of FORMATS is used. Others that ask the same are noted, whatever
    their order, ids and question marks; others that do not are a problem.
    """
    files = sorted(found.of(dataset, split), key=lambda some: FORMATS.index(some.kind.format))
    lists = [read_questions(some, problems) for some in files] or [
        QuestionList(file.name, FORMATS[0], ())
        for file in found.empty
        if split_in_name(file) == split
    ]
    if not lists:
        problems.append(
            f"no {split} questions: JSON or CSV with question, answer and video_id ({NEEDS[split]})"
        )
        return None
    first = lists[0]
    for other in lists[1:]:
        differing = differences(first, other, clip_of)
        if differing:
            problems.append(
                f"{other.name}: differs from {first.name} about {len(differing)} questions, first "
                f"{differing[0][1]!r} about {differing[0][0]}; keep one of them"
            )
        else:
            notes.append(f"{other.name}: not used, the same questions as {first.name}")
    if first.num_without_mark:
        notes.append(
            f"{first.name}: {first.num_without_mark} of {len(first.rows)} questions have no "
            "question mark, which the original lists have; they are used as they are"
        )
    return first


def differences(
    one: QuestionList, other: QuestionList, clip_of: ClipOf
) -> list[tuple[str, str, str]]:
    """Clip, question and answer of what only one of two lists asks, or asks more often; sorted.

    Order, ids and question marks make no difference.
    """

    def told(rows: Sequence[Asked]) -> Counter[tuple[str, str, str]]:
        return Counter(
            (clip_of(row.video), row.question.text.rstrip(" ?"), row.question.answer)
            for row in rows
        )

    a, b = told(one.rows), told(other.rows)
    return sorted([*(a - b).elements(), *(b - a).elements()])


def read_mapping(
    found: Recognised, problems: list[str], notes: list[str]
) -> tuple[str, dict[int, str]]:
    """Which file is MSVD's `youtube_mapping.txt`, "" if none, and the clips' names by number.

    A problem for each line that is wrong or repeats a name or number. 46 of the published names
    start with "-"; some copies of the file have CRLF line ends.
    """
    chosen = only(found.of("msvd-qa", "mapping"), problems, notes)
    if chosen is None:
        return "", {}
    names: dict[int, str] = {}
    first_with: dict[str, str] = {}  # a clip's name or number -> where it stands
    for row, line in enumerate(chosen.file.content):
        where, match = chosen.file.place(row), MAPPING_LINE.fullmatch(line)
        if match is None:
            problems.append(f'{where}: {line!r} should be "<id>_<start>_<end> vid<number>"')
            continue
        name, number = match[1], int(match[3])
        for what in (name, f"vid{number}"):
            if first_with.setdefault(what, where) != where:
                line_number = first_with[what].rpartition(" ")[2]
                problems.append(f"{where}: {what} stands already in line {line_number}")
        names.setdefault(number, name)
    return chosen.name, names
