"""Small annotation files of both video QA sets, in each format in circulation, written to load."""

import csv
import io
import json

import pytest

from litevl.data.video_qa import load_msvd_qa
from litevl.errors import DataError

TRAIN, VAL, TEST = "train_qa.json", "val_qa.json", "test_qa.json"
MAPPING = "youtube_mapping.txt"


def asked(number, video, question, answer):
    """One entry of the original lists."""
    return {"answer": answer, "id": number, "question": question, "video_id": video}


def of_msrvtt(entries):
    """The same entries as MSRVTT-QA has them, with a category."""
    return [{**entry, "category_id": 7} for entry in entries]


def both_sets():
    """Three lists of questions and a mapping: two training clips, one of each other split."""
    return {
        TRAIN: [
            asked(0, 2, "what is chewing on a nut?", "squirrel"),
            asked(1, 2, "Who eats?", "animal"),
            asked(2, 1, "how many dogs run?", "two"),
            asked(3, 2, "what is eaten?", "nut"),
            asked(4, 1, "what runs?", "animal"),
        ],
        VAL: [asked(5, 3, "when does it rain?", "night")],
        TEST: [asked(6, 4, "where is the cat?", "roof"), asked(7, 4, "what sits?", "animal")],
        MAPPING: "".join(f"a_b-{n // 2}_{5 * n}_{5 * n + 4} vid{n}\n" for n in range(1, 6)),
    }


def msrvtt_set():
    """The same questions as MSRVTT-QA's original lists."""
    return {name: of_msrvtt(both_sets()[name]) for name in (TRAIN, VAL, TEST)}


def as_lines(entries, name=lambda video: f"video{video}"):
    """The same questions as ClipBERT and ALPRO have them: an object a line, without ids."""
    rows = (
        {
            "answer": entry["answer"],
            "question": entry["question"],
            "video_id": name(entry["video_id"]),
            "answer_type": entry["question"].split()[0],
        }
        for entry in entries
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_table(entries, columns):
    """The same questions as CSV. columns: header -> the key of an entry, or a constant value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for entry in entries:
        writer.writerow([entry.get(key, key) for key in columns.values()])
    return text.getvalue()


def without_marks(entries):
    """The same entries; their questions end without a question mark."""
    return [{**entry, "question": entry["question"].rstrip("?")} for entry in entries]


def as_hqga(entries):
    """HQGA's CSV of MSRVTT-QA: no question marks, the category is called a type."""
    names = {"video": "video_id", "question": "question", "answer": "answer", "qid": "id"}
    return as_table(without_marks(entries), names | {"type": "category_id"})


def as_just_ask(entries):
    """Just Ask's CSV of MSRVTT-QA."""
    names = ("question", "answer", "category_id", "video_id", "id")
    return as_table(entries, {name: name for name in names} | {"type": "0"})


def write_files(root, files):
    """Write files by name: text, bytes, or what is to be JSON."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(content)


def load_from(root, files, loader=load_msvd_qa, answer_count=2, answer_file=None):
    """Write the files to a folder and load them."""
    write_files(root, files)
    return loader(root, answer_count, answer_file)


def problems_of(*args, **kwargs):
    """The problems that the DataError lists: without its headline and what files there are."""
    with pytest.raises(DataError) as raised:
        load_from(*args, **kwargs)
    lines = [line.strip() for line in str(raised.value).splitlines()[1:]]
    return [line for line in lines if not line.startswith("(")]


def told(clips):
    """Clip, question and answer of every question, in order."""
    return [(clip.id, one.text, one.answer) for clip in clips for one in clip.questions]
