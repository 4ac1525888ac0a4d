"""The published files of both video QA sets: counts, formats that agree, baselines, coverage."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from question_files import MAPPING, TEST, TRAIN, VAL, asked, load_from, of_msrvtt, told

from litevl.data.acceptance import acceptance
from litevl.data.acceptance_questions import (
    MSRVTT_QA,
    MSVD_QA,
    measure_msrvtt_qa,
    measure_msvd_qa,
)
from litevl.data.annotations import Question
from litevl.data.question_files import differences, read_questions
from litevl.data.recognise import recognise
from litevl.data.video_qa import load_msrvtt_qa, load_msvd_qa, msrvtt_clip
from litevl.question_metrics import majority_right

pytestmark = pytest.mark.data
# What is not at hand, made up: one question, so that the data sets are whole.
MSVD_TEST = {TEST: [asked(37348, 1451, "who opened the box?", "someone")]}
MSRVTT_REST = {
    TRAIN: of_msrvtt([asked(0, 0, "what is it?", "dog")]),
    TEST: of_msrvtt([asked(170859, 7010, "what is it?", "dog")]),
}


def majority_by_hand(clips):
    """Percentage right of the best single answer, and of the best answer for each first word."""
    rows = [(one.text.split()[0], one.answer) for clip in clips for one in clip.questions]
    best = Counter(answer for _, answer in rows).most_common(1)[0][1]
    of_types = {kind: Counter(a for k, a in rows if k == kind) for kind, _ in rows}
    by_type = sum(counts.most_common(1)[0][1] for counts in of_types.values())
    return 100 * best / len(rows), 100 * by_type / len(rows)


def majority_measured(clips):
    """The same as the suite measures it."""
    questions = [question for clip in clips for question in clip.questions]
    answers = [question.answer for question in questions]
    groups = [""] * len(questions), [question.kind for question in questions]
    return tuple(float(np.mean(majority_right(answers, group))) for group in groups)


# MSVD-QA


@pytest.fixture
def msvd(annotations, tmp_path):
    """A folder with the published files."""
    for name in (TRAIN, VAL, MAPPING):
        (tmp_path / name).symlink_to(annotations / "msvd_qa" / "original" / name)
    return tmp_path


def test_msvd_files_hold_what_was_published(annotations):
    problems = []
    found = recognise(annotations / "msvd_qa")
    values = measure_msvd_qa(found, problems)
    assert problems == []
    assert values == {name: MSVD_QA[name] for name in values}
    assert not any(check.status == "differs" for check in acceptance("msvd-qa", found))
    at_hand = {name for name in MSVD_QA if not name.startswith("test")}
    rest = ("answers of all splits", "mapping: clips that no question is about")
    same = ("train", "validation")
    rest += tuple(f"{split}: questions that its files ask differently" for split in same)
    assert values.keys() == at_hand - {*rest}


def test_msvd_is_loaded_with_its_names_sources_and_training_answers(msvd):
    data = load_from(msvd, MSVD_TEST, answer_count=1852)
    assert [len(clips) for clips in data.splits.values()] == [1161, 245, 1]
    assert data.train[0].id == "-4wsuPCjDBc_5_15"
    assert data.train[0].source == "-4wsuPCjDBc"
    assert data.train[0].questions[0] == Question("0", "what is chewing on a nut?", "animal")
    assert data.notes[0] == f"{MAPPING}: 563 of 1970 clips have no questions"
    assert len(set(data.answers)) == 1852
    fewer = load_msvd_qa(msvd, 1000)
    assert fewer.answers == data.answers[:1000]


def test_msvd_baselines_are_those_counted_by_hand(msvd):
    clips = load_from(msvd, MSVD_TEST).validation
    by_hand = majority_by_hand(clips)
    assert majority_measured(clips) == pytest.approx(by_hand)
    assert by_hand == pytest.approx((16.71, 21.90), abs=0.005)


def test_list_with_answers_of_validation_says_how_many_training_never_shows(msvd):
    files = [json.loads((msvd / name).read_text()) for name in (TRAIN, VAL)]
    train, val = ({row["answer"] for row in rows} for rows in files)
    every = sorted(train | val)
    (msvd / "list.txt").write_text("\n".join(every))
    data = load_from(msvd, MSVD_TEST, answer_count=2078, answer_file="list.txt")
    assert set(data.listed.only_validation) == val - train
    assert len(data.listed.only_validation) == 2078 - 1852
    assert data.listed.only_test == ()
    assert "the list holds 226 answers that only validation questions have" in data.notes[-1]


# MSRVTT-QA


FORMS = {
    "clipbert/val.jsonl": "JSON lines",
    "hqga/val.csv": "CSV",
    "derived/val_qa.derived.json": "original JSON",
}


def test_msrvtt_files_hold_what_was_published(annotations):
    problems = []
    found = recognise(annotations / "msrvtt_qa")
    values = measure_msrvtt_qa(found, problems)
    assert problems == []
    assert values == {name: MSRVTT_QA[name] for name in values}
    assert not any(check.status == "differs" for check in acceptance("msrvtt-qa", found))
    others = ("answer list of 1500: entries",)
    at_hand = {name for name in MSRVTT_QA if name.startswith("validation")}
    assert values.keys() == at_hand | {*others}


def test_three_formats_of_the_validation_split_ask_the_same(annotations):
    """They differ in what is no question: ClipBERT's has no ids, HQGA's no question marks."""
    root = annotations / "msrvtt_qa"
    found = {some.name: some for some in recognise(root).of("msrvtt-qa", "validation")}
    assert {name: some.kind.format for name, some in found.items()} == FORMS
    problems = []
    lines, table, original = (read_questions(found[name], problems) for name in FORMS)
    assert problems == []
    for other in (lines, table):
        assert differences(original, other, msrvtt_clip) == []
    text = [row.question.text for row in original.rows]
    assert [row.question.text for row in lines.rows] == text
    assert [row.question.text + "?" for row in table.rows] == text
    assert [row.question.id for row in table.rows] == [row.question.id for row in original.rows]
    assert lines.rows[0].question.id == "validation:0"
    marks = [some.num_without_mark for some in (original, lines, table)]
    assert marks == [0, 0, 12278]


@pytest.mark.parametrize("name", sorted(FORMS))
def test_msrvtt_is_loaded_from_each_format_with_clipberts_answers(annotations, tmp_path, name):
    root = annotations / "msrvtt_qa"
    (tmp_path / "some file").symlink_to(root / name)
    (tmp_path / "labels").symlink_to(root / "clipbert" / "train_ans2label.json")
    data = load_from(tmp_path, MSRVTT_REST, load_msrvtt_qa, 1500, "labels")
    assert len(data.validation) == 497
    assert data.answers[:3] == ("accept", "accident", "act")
    (count,) = (note for note in data.notes if note.startswith("validation: "))
    assert count == (
        "validation: some file, 12278 questions about 497 clips; 11419 (93.00%) have a listed "
        "answer"
    )
    with (root / "hqga" / "val.csv").open(newline="") as file:
        rows = [(f"video{r['video']}", r["question"], r["answer"]) for r in csv.DictReader(file)]
    bare = [(clip, text.rstrip("?"), answer) for clip, text, answer in told(data.validation)]
    assert sorted(bare) == sorted(rows)


def test_msrvtt_baselines_are_those_counted_by_hand(annotations, tmp_path):
    published = annotations / "msrvtt_qa" / "derived" / "val_qa.derived.json"
    (tmp_path / VAL).symlink_to(published)
    clips = load_from(tmp_path, MSRVTT_REST, load_msrvtt_qa, 1).validation
    assert majority_measured(clips) == pytest.approx(majority_by_hand(clips))


def test_official_json_names_the_video_of_every_published_clip(annotations, tmp_path):
    (tmp_path / VAL).symlink_to(annotations / "msrvtt_qa" / "derived" / "val_qa.derived.json")
    for file in (annotations / "msrvtt" / "official").iterdir():
        (tmp_path / file.name).symlink_to(file)
    data = load_from(tmp_path, MSRVTT_REST, load_msrvtt_qa, 1)
    assert data.notes[0] == "sources: the official JSON names the video of 499 of 499 clips"
    assert all(clip.source.startswith("http") for clip in data.validation)
