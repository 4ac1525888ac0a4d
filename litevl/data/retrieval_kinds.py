"""Which annotation file of MSRVTT or DiDeMo a file is.

The published numbers of clips and sentences tell the splits apart; a list of another size, as in a
drawn world, goes by its name.
"""

import re
from collections.abc import Sequence
from typing import Any

from litevl.data.folder import TextFile
from litevl.data.kinds import Kind

MSRVTT_ID = re.compile(r"video[0-9]{1,9}")
DIDEMO_ID = re.compile(r"[^/@\s]+@N\d\d_\d+_\w+")  # Flickr's user, number and secret

FIRST_TEST_NUMBER = 7010  # of MSRVTT's official split; train and validate come before
# DiDeMo: the split of an original list by its sentences; of any other by its clips, of which some
# published lists lack those whose video was never recovered.
DIDEMO_SENTENCES = {33005: "train", 4180: "validation", 4021: "test"}
DIDEMO_SIZES = {
    **dict.fromkeys((8395, 8392, 8381), "train"), 1065: "validation",
    **dict.fromkeys((1004, 1003), "test"),
}  # fmt: skip
NAMED = {"train": "train", "val": "validation", "test": "test"}


def retrieval_kind(file: TextFile) -> Kind | str | None:
    """The file's kind; why it is none although it looks like one; or None."""
    if file.form == "object":
        return _official(file)
    if file.form == "table":
        return _table(file)
    if file.form == "lines":
        return _lines(file)
    rows = [row for row in file.content if isinstance(row, dict)]
    if _most_have(rows, file, ("video", "description", "times")):
        return _moments(file, rows)
    name_key = next((key for key in ("video", "clip_name") if _most_have(rows, file, (key,))), "")
    if name_key and _most_have(rows, file, ("caption",)):
        return _captions(file, [row.get(name_key) for row in rows])
    return None


def clip_id(name: str, pattern: re.Pattern[str] = MSRVTT_ID) -> str:
    """The clip that the name of a file means: without its folders, and without its extensions.

    A name that is not the pattern's up to the first dot ends at the last one.
    """
    base = name.strip().rstrip("/").rpartition("/")[2]
    start = base.partition(".")[0]
    return start if pattern.fullmatch(start) or "." not in base else base.rpartition(".")[0]


def _most_have(rows: Sequence[dict[str, Any]], file: TextFile, keys: tuple[str, ...]) -> bool:
    having = sum(all(key in row for key in keys) and "question" not in row for row in rows)
    return having > 0 and having * 2 >= len(file.content)


def _official(file: TextFile) -> Kind | None:
    if not {"videos", "sentences"} <= file.content.keys():
        return None
    return Kind("msrvtt", "clips", "official JSON")


def _table(file: TextFile) -> Kind | str | None:
    lacking = [name for name in ("video_id", "sentence") if name not in file.columns]
    if not lacking:
        return Kind("msrvtt", "test", "1k-A CSV")
    if "sentence" in file.columns or {"key", "vid_key"} <= {*file.columns}:
        return f"lacks column {' and '.join(lacking)}; has {', '.join(file.columns)}"
    return None


def _moments(file: TextFile, rows: list[dict[str, Any]]) -> Kind | str:
    split = DIDEMO_SENTENCES.get(len(rows)) or split_in_name(file)
    return Kind("didemo", split, "original JSON") if split else "moments of an unknown split"


def _captions(file: TextFile, names: Sequence[object]) -> Kind | str | None:
    """A ready-made list of clips with their captions."""
    form = "JSON lines" if file.numbers else "JSON list"
    if ids := _ids(names, MSRVTT_ID):
        role = _msrvtt_list(file, ids)
        if role == "test" and len({*ids}) < len(ids):
            role = ""  # of the official test clips, say; in 1k-A each has one caption
        if role:
            return Kind("msrvtt", role if role == "test" else f"{role} captions", form)
        return f"captions of {len({*ids})} clips, neither a 9k, a 7k nor a 1k-A list"
    if ids := _ids(names, DIDEMO_ID):
        split = DIDEMO_SIZES.get(len({*ids})) or split_in_name(file)
        return Kind("didemo", split, form) if split else "paragraphs of an unknown split"
    return None


def _lines(file: TextFile) -> Kind | None:
    lines: list[str] = [line.strip('"') for line in file.content]
    if ids := _ids(lines, MSRVTT_ID):
        return Kind("msrvtt", _list_role(file, ids), "list of ids")
    if ids := _ids(lines, DIDEMO_ID):
        split = DIDEMO_SIZES.get(len({*ids})) or split_in_name(file)
        return Kind("didemo", f"{split} list", "list of names") if split else None
    if lines and all(re.fullmatch(r"\d+\t[0-9a-f]{20,}", line) for line in lines):
        return Kind("didemo", "hashes", "YFCC100M hashes")
    return None


def _list_role(file: TextFile, ids: Sequence[str]) -> str:
    role = _msrvtt_list(file, ids)
    return "test list" if role == "test" else role or "list"


def _ids(names: Sequence[object], pattern: re.Pattern[str]) -> list[str]:
    """The clips that the names mean, if at least half of the names mean one; else none."""
    ids = [clip_id(name, pattern) for name in names if isinstance(name, str)]
    matching = [some for some in ids if pattern.fullmatch(some)]
    return matching if len(matching) * 2 >= len(names) else []


def _msrvtt_list(file: TextFile, ids: Sequence[str]) -> str:
    """ "9k", "7k" or "test": by number and numbers of the clips as published, else by the name."""
    numbers = {int(some.removeprefix("video")) for some in ids}
    is_test = {number >= FIRST_TEST_NUMBER for number in numbers}
    published = {"9k": (9000, {True, False}), "7k": (7010, {False}), "test": (1000, {True})}
    by_content = [kind for kind, shape in published.items() if shape == (len(numbers), is_test)]
    name = file.base_name.lower()
    by_name = [kind for kind in published if kind in name]
    return next(iter([*by_content, *by_name]), "")


def split_in_name(file: TextFile) -> str:
    """The split that the file's name says, else ""."""
    name = file.base_name.lower()
    said = [split for word, split in NAMED.items() if word in name]
    return said[0] if len(said) == 1 else ""
