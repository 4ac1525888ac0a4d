"""A data set made ready: questions counted, cut to a subset, every text checked at once."""

from dataclasses import replace
from pathlib import Path

import pytest
from small import SHIPPED, small_world

from litevl import prepare as module
from litevl.data.annotations import Annotations, Clip, Question
from litevl.data.dataset import DataReport
from litevl.data.mini import plan_world
from litevl.data.mini_annotations import write_annotations
from litevl.errors import DataError
from litevl.model.tokenizer import Tokenizer
from litevl.prepare import count_questions, expect_usable_text, first_clips, read_annotations
from litevl.spec import AnswerList, DataSpec, load_spec, resolve

WORDS = {"train": 3, "validation": 1, "test": 2}  # questions
EXPECTED = {f"{split}_questions": count for split, count in WORDS.items()}


def clip(name: str, *asked: tuple[str, str], captions: tuple[str, ...] = ()) -> Clip:
    """A clip with questions, whose ids are the clip's with a number."""
    questions = tuple(Question(f"{name}.{n}", *pair) for n, pair in enumerate(asked))
    return Clip(name, Path(f"{name}.mp4"), name, captions, questions)


def report_on(data: Annotations) -> DataReport:
    """What `check_clips` says where every clip is there."""
    splits = {
        split: {"expected": len(clips), "found": len(clips), "broken": 0}
        | module.text_counts(clips, data.answers)
        for split, clips in data.splits.items()
    }
    return DataReport(splits, "fingerprint", data, (), ())


@pytest.fixture
def report() -> DataReport:
    """Two training clips with 2 and 1 questions, then clips with 1 and with 2."""
    data = Annotations(
        (
            clip("a", ("what is red?", "circle"), ("who moves?", "circle")),
            clip("b", ("where is the circle?", "left")),
        ),
        (clip("c", ("who moves?", "star")),),
        (clip("d", ("who moves?", "circle")), clip("e", ("what is red?", "star"))),
        (),
        ("circle", "left"),
    )
    return report_on(data)


def data_spec(dataset: str, **changes) -> DataSpec:
    """The data table of the shipped spec, changed."""
    spec = load_spec(SHIPPED / f"{dataset.replace('-', '_')}.toml")
    return resolve(spec, "mini", "full").data.model_copy(update=changes)


# Questions counted


@pytest.mark.parametrize("allow_missing", [False, True])
def test_as_many_questions_as_expected_leave_the_report_as_it_is(report, allow_missing):
    assert count_questions(report, EXPECTED, allow_missing) == report


def test_data_sets_without_questions_expect_none(report):
    nothing = dict.fromkeys(EXPECTED)
    assert count_questions(report, nothing, allow_missing=False) == report


def test_other_numbers_of_questions_are_named_together_with_the_way_out(report):
    expected = EXPECTED | {"train_questions": 5, "test_questions": 1}
    with pytest.raises(DataError) as caught:
        count_questions(report, expected, allow_missing=False)
    lines = str(caught.value).split("\n")
    assert lines[1:3] == [
        "  train: 3 questions, the spec expects 5",
        "  test: 2 questions, the spec expects 1",
    ]
    assert "--allow-missing" in lines[3]
    assert "comparable: false" in lines[3]


def test_other_numbers_of_questions_are_allowed_and_say_why_nothing_is_comparable(report):
    before = replace(report, not_comparable_because=("a clip is missing",))
    found = count_questions(before, EXPECTED | {"validation_questions": 2}, allow_missing=True)
    assert found.not_comparable_because == (
        "a clip is missing",
        "validation: 1 questions, the spec expects 2",
    )
    assert found.data == report.data


def test_split_without_any_question_is_counted_as_none(report):
    empty = report_on(replace(report.data, validation=()))
    with pytest.raises(DataError, match="validation: 0 questions, the spec expects 1"):
        count_questions(empty, EXPECTED, allow_missing=False)


# The first clips


def test_first_clips_keep_their_order_and_all_their_questions(report):
    cut = first_clips(report, 1)
    assert cut.data.train == report.data.train[:1]
    assert [question.id for question in cut.data.train[0].questions] == ["a.0", "a.1"]
    assert [len(clips) for clips in cut.data.splits.values()] == [1, 1, 1]
    assert cut.not_comparable_because == ("subset: the first 1 clips of each split",)


def test_counts_of_texts_are_those_of_the_first_clips_and_counts_of_clips_of_all(report):
    found = first_clips(report, 1).splits
    of_clips = {"expected": 2, "found": 2, "broken": 0, "captions": 0}
    assert found["train"] == of_clips | {"questions": 2, "outside_list": 0}
    assert found["test"] == of_clips | {"questions": 1, "outside_list": 0}
    assert report.splits["test"] == of_clips | {"questions": 2, "outside_list": 1}


def test_declared_answers_come_from_all_training_questions_also_of_a_subset(tmp_path):
    world = small_world("msvd-qa")
    write_annotations(tmp_path, "msvd-qa", plan_world("msvd-qa", world), world)
    data = read_annotations(data_spec("msvd-qa", root=str(tmp_path), answers=AnswerList(count=9)))
    cut = first_clips(report_on(data), 1)
    assert cut.data.answers == data.answers
    assert len(data.answers) == 9
    asked = {question.answer for one in cut.data.train for question in one.questions}
    assert not set(data.answers) <= asked


def test_subset_is_one_more_reason_beside_those_there_were(report):
    before = replace(report, not_comparable_because=("a clip is missing",))
    assert len(first_clips(before, 9).not_comparable_because) == 2
    assert first_clips(before, 9).data == report.data


# Texts


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The mini worlds' words; others are spelt letter by letter."""
    return Tokenizer.for_weights("mini-blip")


def complaint(data: DataSpec, found: Annotations, tokenizer: Tokenizer) -> str:
    """What is said against the texts."""
    with pytest.raises(DataError) as caught:
        expect_usable_text(data, found, tokenizer)
    return str(caught.value)


def test_usable_captions_questions_and_answers_pass(report, tokenizer):
    expect_usable_text(data_spec("msvd-qa"), report.data, tokenizer)
    captions = Annotations((clip("a", captions=("a red circle",)),), (), (), ())
    expect_usable_text(data_spec("msrvtt"), captions, tokenizer)


def test_captions_of_all_splits_that_cannot_be_used_are_named_together(tokenizer):
    usable, long = "a red circle", "a red circle " * 3
    found = Annotations(
        (clip("a", captions=(usable, long)), clip("b", captions=(usable,))),
        (),
        (clip("c", captions=(usable,)), clip("d", captions=(" ",))),
        (),
    )
    message = complaint(data_spec("msrvtt", root="clips", max_tokens=8), found, tokenizer)
    way_out = "    Correct the annotations, or raise data.max_tokens in the spec."
    assert message.split("\n") == [
        "clips: texts that cannot be used",
        "  train captions: 1 of 3",
        f"    a: more than 8 word pieces: {long!r}",
        way_out,
        "  test captions: 1 of 2",
        "    d: empty text: ' '",
        way_out,
    ]


def test_questions_and_answers_that_cannot_be_used_are_named_by_the_question(tokenizer):
    found = Annotations(
        (clip("a", ("who moves?", "circle"), ("where is the large red circle?", "left")),),
        (clip("b", ("who moves?", "a b c d")),),
        (),
        (),
        ("circle", "left"),
    )
    data = data_spec("msvd-qa", max_tokens=7, max_answer_tokens=4)
    message = complaint(data, found, tokenizer)
    assert "  train questions: 1 of 2\n    question a.1: more than 7 word pieces: 'where" in message
    assert "raise data.max_tokens in" in message
    assert "  validation answers: 1 of 1\n    question b.0: more than 4 word pieces:" in message
    assert "raise data.max_answer_tokens in" in message
    assert "answer list" not in message


def test_only_the_first_unusable_texts_are_listed_and_all_are_counted(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "NUM_SHOWN", 2)
    found = Annotations((clip("a", captions=("",) * 4),), (), (), ())
    message = complaint(data_spec("msrvtt"), found, tokenizer)
    assert "train captions: 4 of 4" in message
    assert message.count("a: empty text") == 2
    assert "\n    ...\n" in message


@pytest.mark.parametrize(
    ("answers", "line"),
    [
        (("circle", "\u6f22"), "'\u6f22': has a word outside the vocabulary"),
        (("circle", "left", "Circle"), "'Circle': the same as 'circle', which comes earlier"),
        (("circle", "upside down"), "entry 2: more than 6 word pieces: 'upside down'"),
        (("", "circle"), "entry 1: empty text: ''"),
    ],
    ids=["unknown", "twice", "too long", "empty"],
)
@pytest.mark.parametrize("file", [None, "answers.json"])
def test_answers_that_cannot_be_ranked_are_named_with_what_is_wrong_elsewhere(
    report, tokenizer, answers, line, file
):
    asked = clip("e", ("what " * 40, "circle"))
    found = replace(report.data, test=(asked,), answers=answers)
    data = data_spec("msvd-qa", answers=AnswerList(count=len(answers), file=file))
    message = complaint(data, found, tokenizer)
    assert line in message
    assert (file or "the answers of the training questions") in message
    assert "test questions: 1 of 1\n    question e.0: more than 32 word pieces" in message
