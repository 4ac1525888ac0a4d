"""Which annotation file of MSVD-QA or MSRVTT-QA a file is.

A question's clip tells the data sets apart: "video7010" is MSRVTT's, "-4wsuPCjDBc_5_15" MSVD's; a
number is MSRVTT's where a category stands beside it. The published numbers of questions and of
clips tell the splits apart; a list of another size, as in a drawn world, goes by its name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from litevl.data.annotations import is_whole
from litevl.data.folder import TextFile
from litevl.data.kinds import Kind
from litevl.data.retrieval_kinds import MSRVTT_ID, clip_id, split_in_name
from litevl.tasks import Dataset

MSVD_NAME = re.compile(r"([^\s/]+)_\d+_\d+")  # YouTube's id, first and last second
MAPPING_LINE = re.compile(rf"({MSVD_NAME.pattern})\s+vid(\d+)")

# Data set -> split -> number of questions, and the first and last number of its clips.
PUBLISHED: dict[Dataset, dict[str, tuple[int, int, int]]] = {
    "msvd-qa": {
        "train": (30_933, 1, 1200),
        "validation": (6415, 1201, 1450),
        "test": (13_157, 1451, 1970),
    },
    "msrvtt-qa": {
        "train": (158_581, 0, 6512),
        "validation": (12_278, 6513, 7009),
        "test": (72_821, 7010, 9999),
    },
}
# Number of entries -> whose published answer list it is.
ANSWER_LISTS: dict[int, Dataset] = {
    1852: "msvd-qa", 2423: "msvd-qa", 1500: "msrvtt-qa", 4000: "msrvtt-qa",
}  # fmt: skip


def question_kind(file: TextFile) -> Kind | str | None:
    """The file's kind; why it is none although it looks like one; or None."""
    file = as_rows(file)
    if file.form == "lines" and mostly(file, lambda line: MAPPING_LINE.fullmatch(line)):
        return Kind("msvd-qa", "mapping", "names of clips")
    if file.form == "table":
        return _questions(file, file.content, file.columns)
    rows = [row for row in file.content if isinstance(row, dict)] if file.form == "rows" else []
    if rows and mostly(file, lambda row: isinstance(row, dict) and "question" in row):
        shared = [key for key in rows[0] if sum(key in row for row in rows) * 2 >= len(rows)]
        return _questions(file, rows, shared)
    return _answer_list(file)


def as_rows(file: TextFile) -> TextFile:
    """The same file; JSON lines of a single line, which look like one JSON object, as rows.

    An object of numbers only is an answer list: "question" is a published answer, too.
    """
    if file.form != "object" or "question" not in file.content:
        return file
    if all(is_whole(value) for value in file.content.values()):
        return file
    return replace(file, form="rows", content=[file.content], numbers=(1,))


def mostly(file: TextFile, holds: Callable[[Any], object]) -> bool:
    """Whether something holds of at least half of the entries."""
    num = sum(bool(holds(entry)) for entry in file.content)
    return num > 0 and num * 2 >= len(file.content)


def video_of(row: Mapping[str, Any]) -> int | str | None:
    """The clip that a question is about: MSVD's or MSRVTT's number, or MSVD's name of it.

    None where the row does not say. A file's name or a number in text means the same.
    """
    said = row.get("video_id", row.get("video"))
    if is_whole(said):
        return said if said >= 0 else None
    if not isinstance(said, str) or not said.strip():
        return None
    name = clip_id(said, MSVD_NAME)
    number = re.fullmatch(r"(?:video|vid)?([0-9]+)", name)
    if number is not None:
        return int(number[1])
    return name if MSVD_NAME.fullmatch(name) else None


def _questions(
    file: TextFile, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> Kind | str | None:
    """The kind of a list of questions, whose rows have these keys."""
    there = {*keys, "video_id"} if "video" in keys else {*keys}
    lacking = [key for key in ("question", "answer", "video_id") if key not in there]
    if lacking:
        has_most = len(lacking) == 1
        return f"lacks {lacking[0]}; has {', '.join(keys)}" if has_most else None
    videos = [video for video in map(video_of, rows) if video is not None]
    if not videos or len(videos) * 2 < len(rows):
        return "questions about clips of another data set"
    dataset = _dataset(rows, videos)
    split = _split(file, dataset, videos)
    if not split:
        return f"questions of an unknown split of {dataset}"
    return Kind(dataset, split, _format(file, keys))


def _format(file: TextFile, keys: Sequence[str]) -> str:
    if file.form == "table":
        return "CSV"
    if file.numbers:
        return "JSON lines"
    return "original JSON" if {"id", "video_id"} <= {*keys} else "JSON list"


def _dataset(rows: Sequence[Mapping[str, Any]], videos: Sequence[int | str]) -> Dataset:
    if any(isinstance(video, str) for video in videos):
        return "msvd-qa"
    numbers = [video for video in videos if isinstance(video, int)]
    is_named = [MSRVTT_ID.match(str(row.get("video_id", row.get("video")))) for row in rows]
    category = [str(row.get("category_id", row.get("type", ""))).isdecimal() for row in rows]
    first, last = PUBLISHED["msvd-qa"]["train"][1], PUBLISHED["msvd-qa"]["test"][2]
    beyond = min(numbers) < first or max(numbers) > last
    return "msrvtt-qa" if any(is_named) or sum(category) * 2 > len(rows) or beyond else "msvd-qa"


def _split(file: TextFile, dataset: Dataset, videos: Sequence[int | str]) -> str:
    """The split: as published, else as the name says, else where the clips' numbers lie."""
    numbers = [video for video in videos if isinstance(video, int)]
    within = [
        split
        for split, (_, first, last) in PUBLISHED[dataset].items()
        if numbers and first <= min(numbers) and max(numbers) <= last
    ]
    for split, (count, _, _) in PUBLISHED[dataset].items():
        if len(file.content) == count and (split in within or not numbers):
            return split
    return split_in_name(file) or next(iter(within), "")


def _answer_list(file: TextFile) -> Kind | None:
    """A published answer list, by its number of entries."""
    if file.form == "object":
        fits = all(is_whole(label) for label in file.content.values())
    else:
        fits = all(isinstance(entry, str) and entry.strip() for entry in file.content)
    dataset = ANSWER_LISTS.get(len(file.content))
    return Kind(dataset, "answers", "answer list") if fits and dataset else None
