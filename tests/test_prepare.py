"""A data set made ready: questions counted, every text checked at once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import SHIPPED

from litevl import prepare as module
from litevl.data.annotations import Annotations, Clip, Question
from litevl.data.samplers import possible_frames
from litevl.engine.clips import ClipSet
from litevl.errors import DataError
from litevl.model.tokenizer import Tokenizer
from litevl.prepare import count_questions, expect_usable_text
from litevl.spec import AnswerList, DataSpec, load_spec, resolve

pytestmark = pytest.mark.usefixtures("in_this_process")
WORDS = {"train": 3, "validation": 1, "test": 2}  # questions
EXPECTED = {f"{split}_questions": count for split, count in WORDS.items()}


def clip(name: str, *asked: tuple[str, str], captions: tuple[str, ...] = ()) -> Clip:
    """A clip with questions, whose ids are the clip's with a number."""
    questions = tuple(Question(f"{name}.{n}", *pair) for n, pair in enumerate(asked))
    return Clip(name, Path(f"{name}.mp4"), name, captions, questions)


@pytest.fixture
def found() -> Annotations:
    """Two training clips with 2 and 1 questions, then clips with 1 and with 2."""
    return Annotations(
        (
            clip("a", ("what is red?", "circle"), ("who moves?", "circle")),
            clip("b", ("where is the circle?", "left")),
        ),
        (clip("c", ("who moves?", "star")),),
        (clip("d", ("who moves?", "circle")), clip("e", ("what is red?", "star"))),
        (),
        ("circle", "left"),
    )


def data_spec(dataset: str, **changes) -> DataSpec:
    """The data table of the shipped spec, changed."""
    spec = load_spec(SHIPPED / f"{dataset.replace('-', '_')}.toml")
    return resolve(spec, "mini", "full").data.model_copy(update=changes)


# Questions counted


@pytest.mark.parametrize("allow_missing", [False, True])
def test_as_many_questions_as_expected_are_no_reason_against_comparing(found, allow_missing):
    assert count_questions(found, EXPECTED, allow_missing) == ()


def test_data_sets_without_questions_expect_none(found):
    assert count_questions(found, dict.fromkeys(EXPECTED), allow_missing=False) == ()


def test_other_numbers_of_questions_are_named_together_with_the_way_out(found):
    expected = EXPECTED | {"train_questions": 5, "test_questions": 1}
    with pytest.raises(DataError) as caught:
        count_questions(found, expected, allow_missing=False)
    lines = str(caught.value).split("\n")
    assert lines[1:3] == [
        "  train: 3 questions, the spec expects 5",
        "  test: 2 questions, the spec expects 1",
    ]
    assert "--allow-missing" in lines[3]
    assert "comparable: false" in lines[3]


def test_other_numbers_of_questions_are_allowed_and_say_why_nothing_is_comparable(found):
    expected = EXPECTED | {"validation_questions": 2}
    assert count_questions(found, expected, allow_missing=True) == (
        "validation: 1 questions, the spec expects 2",
    )


def test_split_without_any_question_is_counted_as_none(found):
    with pytest.raises(DataError, match="validation: 0 questions, the spec expects 1"):
        count_questions(replace(found, validation=()), EXPECTED, allow_missing=False)


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


def test_usable_captions_questions_and_answers_pass(found, tokenizer):
    expect_usable_text(data_spec("msvd-qa"), found, tokenizer)
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
        (
            clip("a", ("who moves?", "circle"), ("where is the large red circle?", "left")),
            clip("b", ("who moves?", "a b c d")),
        ),
        (),
        (),
        (),
        ("circle", "left"),
    )
    data = data_spec("msvd-qa", max_tokens=7, max_answer_tokens=4)
    message = complaint(data, found, tokenizer)
    assert "  train questions: 1 of 3\n    question a.1: more than 7 word pieces: 'where" in message
    assert "raise data.max_tokens in" in message
    assert "  train answers: 1 of 3\n    question b.0: more than 4 word pieces:" in message
    assert "raise data.max_answer_tokens in" in message
    assert "answer list" not in message


def test_answers_that_nobody_is_trained_on_may_be_anything(found, tokenizer):
    odd = clip("f", ("who moves?", "a b c d"), ("who moves?", "\u6f22"))
    data = data_spec("msvd-qa", max_answer_tokens=4)
    expect_usable_text(data, replace(found, validation=(odd,), test=(odd,)), tokenizer)


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
    found, tokenizer, answers, line, file
):
    asked = clip("e", ("what " * 40, "circle"))
    found = replace(found, test=(asked,), answers=answers)
    data = data_spec("msvd-qa", answers=AnswerList(count=len(answers), file=file))
    message = complaint(data, found, tokenizer)
    assert line in message
    assert (file or "the answers of the training questions") in message
    assert "test questions: 1 of 1\n    question e.0: more than 32 word pieces" in message


@pytest.mark.parametrize(
    ("order", "asked"),
    [("file", "file"), ("annotator-mode", "annotator-mode"), (None, "annotator-mode")],
)
def test_sentences_are_read_in_the_order_of_the_spec(monkeypatch, order, asked):
    calls = []
    monkeypatch.setattr(module, "load_didemo", lambda *arguments: calls.append(arguments))
    module.read_annotations(data_spec("didemo", sentence_order=order, leave_out=("a",)))
    assert [(left_out, given) for _, left_out, given in calls] == [(("a",), asked)]


# Frames


@pytest.fixture
def drawn(tmp_path, make_clip):
    """Opens four clips of 16 to 19 frames as a split of a ClipSet, kept in the way asked for."""
    clips = tuple(
        Clip(f"c{n}", make_clip(f"c{n}.mp4", num_frames=16 + n), "s", ("a",)) for n in range(4)
    )
    shipped = resolve(load_spec(SHIPPED / "msrvtt.toml"), "mini", "full")
    few = {"size_px": 32, "num_frames": 4, "choices_per_segment": 2, "decoder": "pyav"}

    def open_as(cache: str, split: str) -> ClipSet:
        frames = shipped.frames.model_copy(update=few | {"cache": cache})
        data = shipped.data.model_copy(update={"root": str(tmp_path / "root")})
        settings = shipped.model_copy(update={"frames": frames, "data": data})
        store = module.opened(clips, split, settings, 1, False)
        words = Tokenizer.for_weights("mini-blip")
        return ClipSet(clips, store, words, 4, 32, {}, choices_per_segment=2)

    return open_as


@pytest.mark.parametrize(
    ("split", "sampler", "num_kept"),
    [("train", "segment-random", 8), ("validation", "segment-middle", 4)],
)
def test_a_split_keeps_what_its_sampler_may_ask_for_and_gives_the_same_frames(
    drawn, split, sampler, num_kept
):
    whole, few, none = (drawn(cache, split) for cache in ("whole", "sampled", "none"))
    assert len(few.store.reading.kept(19)) == num_kept
    seen = set()
    for seed in range(8):
        wanted, found, decoded = (
            some.pictures([3, 0, 2], sampler, np.random.default_rng(seed), True, own=[0, 2])
            for some in (whole, few, none)
        )
        assert torch.equal(wanted, found)
        assert torch.equal(wanted, decoded)
        seen.add(found.numpy().tobytes())
    assert len(seen) > 4


@pytest.mark.parametrize(
    ("dataset", "title"),
    [
        ("msrvtt", "MSR-VTT"),
        ("didemo", "DiDeMo"),
        ("msvd_qa", "MSVD-QA"),
        ("msrvtt_qa", "MSRVTT-QA"),
    ],
)
def test_readme_tells_how_large_the_paper_profiles_cache_becomes(dataset, title):
    settings = resolve(load_spec(SHIPPED / f"{dataset}.toml"), "paper", "full")
    frames, expected = settings.frames, settings.data.expected
    others = expected.validation_clips + expected.test_clips
    sizes = [
        num_clips * len(possible_frames(sampler, 10_000, frames.num_frames, choices))
        for num_clips, sampler, choices in (
            (expected.train_clips, frames.train_sampler, frames.choices_per_segment),
            (others, frames.eval_sampler, None),
        )
    ]
    gigabytes = sum(sizes) * frames.size_px**2 * 3 / 1e9
    row = f"| {title} | {expected.train_clips:,} | {others:,} | {gigabytes:.1f} |"
    assert row in (SHIPPED / "README.md").read_text("utf-8")


def test_clips_are_drawn_and_decoded_by_as_many_processes_as_cores_may_be_used(monkeypatch):
    def stop(_root, _dataset, _world, num_workers):
        raise RuntimeError(f"{num_workers} processes")

    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0, 3, 5}, raising=False)
    monkeypatch.setattr(module, "ensure_world", stop)
    settings = resolve(load_spec(SHIPPED / "msrvtt.toml"), "mini", "full")
    with pytest.raises(RuntimeError, match="3 processes"):
        module.prepare(settings, None, False)
