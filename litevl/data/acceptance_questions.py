"""What the published files of MSVD-QA and MSRVTT-QA hold, and the counts of those at hand."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

from litevl.data.annotations import QUESTION_TYPES
from litevl.data.question_files import (
    FORMATS,
    ClipOf,
    QuestionList,
    differences,
    read_mapping,
    read_questions,
)
from litevl.data.question_kinds import PUBLISHED
from litevl.data.recognise import Recognised, only
from litevl.data.video_qa import msrvtt_clip
from litevl.tasks import Dataset

Value = int | float | str
Values = dict[str, Value]


def _of_split(
    split: str, questions: int, clips: int | None, kinds: Sequence[int], ids: str
) -> Values:
    """The published counts of a split. kinds: by QUESTION_TYPES; none where nobody counted them."""
    values: Values = {f"{split}: questions": questions, f"{split}: ids": ids}
    if clips is not None:
        values[f"{split}: clips"] = clips
    values |= {
        f"{split}: {kind} questions": count
        for kind, count in zip(QUESTION_TYPES, kinds, strict=False)
    }
    return values | {f"{split}: questions that its files ask differently": 0}


# Counted in the published files. Of MSRVTT-QA's training questions only their ids are known so.
MSVD_QA: Mapping[str, Value] = {
    "mapping: clips": 1970,
    "mapping: names that start with a dash": 46,
    "mapping: clips that no question is about": 60,
    **_of_split("train", 30_933, 1161, (19_485, 10_479, 736, 161, 72), "0 to 30932"),
    **_of_split("validation", 6415, 245, (3995, 2168, 185, 51, 16), "30933 to 37347"),
    **_of_split("test", 13_157, 504, (8149, 4552, 370, 58, 28), "37348 to 50504"),
    "answers of train": 1852,
    "answers of train and validation": 2078,
    "answers of all splits": 2423,
    "test: % of questions with an answer of train": 94.08,
}
MSRVTT_QA: Mapping[str, Value] = {
    **_of_split("train", 158_581, None, (), "0 to 158580"),
    **_of_split("validation", 12_278, 497, (8337, 3439, 344, 106, 52), "158581 to 170858"),
    **_of_split("test", 72_821, 2990, (49_869, 20_385, 1640, 677, 250), "170859 to 243679"),
    "answers of test": 4173,
    "answer list of 1500: entries": 1500,
    "validation: % of questions with an answer of that list": 93.00,
    "test: % of questions with an answer of that list": 93.06,
}


def measure_msvd_qa(found: Recognised, problems: list[str]) -> Values:
    """The values of MSVD_QA that the files at hand give."""
    mapping, names = read_mapping(found, problems, [])

    def clip_of(video: int | str) -> str:
        return video if isinstance(video, str) else names.get(video, f"vid{video}")

    lists = _lists(found, "msvd-qa", problems)
    values = _counts(lists, clip_of)
    clips = {split: {clip_of(row.video) for row in some[0].rows} for split, some in lists.items()}
    if mapping:
        values["mapping: clips"] = len(names)
        values["mapping: names that start with a dash"] = sum(
            name.startswith("-") for name in names.values()
        )
        if len(clips) == len(PUBLISHED["msvd-qa"]):
            asked = set(chain(*clips.values()))
            values["mapping: clips that no question is about"] = len({*names.values()} - asked)
    given = _answers(lists)
    together = (("train",), ("train", "validation"), ("train", "validation", "test"))
    titles = ("train", "train and validation", "all splits")
    for splits, title in zip(together, titles, strict=True):
        if given.keys() >= {*splits}:
            values[f"answers of {title}"] = len(set(chain(*(given[split] for split in splits))))
    if given.keys() >= {"train", "test"}:
        share = _percentage(given["test"], given["train"])
        values["test: % of questions with an answer of train"] = share
    return values


def measure_msrvtt_qa(found: Recognised, problems: list[str]) -> Values:
    """The values of MSRVTT_QA that the files at hand give."""
    lists = _lists(found, "msrvtt-qa", problems)
    values, given = _counts(lists, msrvtt_clip), _answers(lists)
    if "test" in given:
        values["answers of test"] = len({*given["test"]})
    entries = [some for some in found.of("msrvtt-qa", "answers") if len(some.file.content) == 1500]
    published = only(entries, problems, [])
    if published is not None:
        listed = list(published.file.content)
        values["answer list of 1500: entries"] = len({*listed})
        for split in given.keys() & {"validation", "test"}:
            share = _percentage(given[split], listed)
            values[f"{split}: % of questions with an answer of that list"] = share
    return {name: value for name, value in values.items() if name in MSRVTT_QA}


def _lists(
    found: Recognised, dataset: Dataset, problems: list[str]
) -> dict[str, list[QuestionList]]:
    """Split -> its question files, read, the one that a loader uses first; splits at hand only."""
    lists = {}
    for split in PUBLISHED[dataset]:
        files = sorted(found.of(dataset, split), key=lambda some: FORMATS.index(some.kind.format))
        if files:
            lists[split] = [read_questions(some, problems) for some in files]
    return lists


def _counts(lists: Mapping[str, Sequence[QuestionList]], clip_of: ClipOf) -> Values:
    values: Values = {}
    for split, files in lists.items():
        first = files[0]
        kinds = Counter(row.question.kind for row in first.rows)
        values[f"{split}: questions"] = len(first.rows)
        values[f"{split}: clips"] = len({clip_of(row.video) for row in first.rows})
        values |= {f"{split}: {kind} questions": kinds[kind] for kind in QUESTION_TYPES}
        for some in files:
            ids = [int(row.question.id) for row in some.rows if row.question.id.isdecimal()]
            if ids and len({*ids}) == len(some.rows) == max(ids) - min(ids) + 1:
                values.setdefault(f"{split}: ids", f"{min(ids)} to {max(ids)}")
            elif ids:
                values.setdefault(f"{split}: ids", f"{len({*ids})} of {min(ids)} to {max(ids)}")
        if len(files) > 1:
            values[f"{split}: questions that its files ask differently"] = max(
                len(differences(first, other, clip_of)) for other in files[1:]
            )
    return values


def _answers(lists: Mapping[str, Sequence[QuestionList]]) -> dict[str, list[str]]:
    return {split: [row.question.answer for row in files[0].rows] for split, files in lists.items()}


def _percentage(given: Sequence[str], listed: Sequence[str]) -> float:
    """How many of some answers are listed, in percent with two decimals."""
    inside = {*listed}
    return round(100 * sum(answer in inside for answer in given) / max(1, len(given)), 2)
