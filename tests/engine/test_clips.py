"""A split as tensors: its questions in order, and which of them only frame order answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_questions import ANSWERS, question_sets, task_settings

from litevl.data.annotations import Clip, Question
from litevl.engine.clips import ClipSet


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, ClipSet]:
    """The small world's clips by split, with questions. Tests do not change them."""
    folder = tmp_path_factory.mktemp("clips")
    return question_sets(folder, Path(task_settings(folder, "msvd-qa").model.weights))


def asking(clips: ClipSet, *asked: dict[str, str], twin_of=None) -> ClipSet:
    """Clips c0, c1, ... that are asked these questions; c0 and c1 are twins unless said."""
    some = tuple(
        Clip(
            f"c{number}",
            Path(f"c{number}.mp4"),
            "source",
            questions=tuple(
                Question(f"{number}-{place}", *pair) for place, pair in enumerate(pairs.items())
            ),
        )
        for number, pairs in enumerate(asked)
    )
    twins = {"c0": "c1", "c1": "c0"} if twin_of is None else twin_of
    return replace(clips, clips=some, twin_of=twins)


# Questions


def test_questions_come_clip_by_clip_each_with_the_index_of_its_clip(clips):
    found = clips["test"].questions()
    wanted = [
        (number, question)
        for number, clip in enumerate(clips["test"].clips)
        for question in clip.questions
    ]
    assert found == wanted
    assert len({question.id for _, question in found}) == len(found) == 2 * (2 + 3 + 2 + 3)
    assert replace(clips["test"], clips=()).questions() == []


def test_answers_become_words_with_a_length_of_their_own(clips):
    tokens = clips["test"].answer_tokens(["first", "in the middle"])
    assert tokens.attention_mask.sum(dim=1).tolist() == [3, 5]
    with pytest.raises(Exception, match="more than 4 word pieces"):
        replace(clips["test"], max_answer_tokens=4).answer_tokens(["in the middle"])


# Which questions need the order of frames


def test_order_is_needed_where_the_twin_is_asked_the_same_and_answers_differently(clips):
    found = clips["test"].needs_order()
    assert found is not None
    assert found.dtype == np.bool_
    asked = [question for _, question in clips["test"].questions()]
    assert found.tolist() == [question.kind == "when" for question in asked]
    assert found.sum() == len(clips["test"])


@pytest.mark.parametrize(
    ("own", "twin", "needed"),
    [
        ({"when is it red?": "first"}, {"when is it red?": "last"}, [True, True]),
        ({"when is it red?": "first"}, {"when is it red?": "first"}, [False, False]),
        ({"when is it red?": "first"}, {"when is it blue?": "last"}, [False, False]),
        ({"when is it red?": "first"}, {}, [False]),
        ({"what is red?": "ring"}, {"what is red?": "star"}, [True, True]),
        (
            {"what is red?": "ring", "who moves?": "ring"},
            {"who moves?": "star", "what is red?": "ring"},
            [False, True, True, False],
        ),
    ],
    ids=["other answer", "same answer", "other question", "nothing", "any type", "other place"],
)
def test_order_is_not_needed_where_anything_else_differs(clips, own, twin, needed):
    found = asking(clips["test"], own, twin).needs_order()
    assert found is not None
    assert found.tolist() == needed


@pytest.mark.parametrize("twin_of", [{}, {"c0": "elsewhere"}, {"elsewhere": "c0"}])
def test_without_twins_in_the_split_nobody_knows_what_needs_order(clips, twin_of):
    pair = ({"when is it red?": "first"}, {"when is it red?": "last"})
    assert asking(clips["test"], *pair, twin_of=twin_of).needs_order() is None


def test_clip_whose_twin_is_missing_needs_no_order_beside_others_that_do(clips):
    found = asking(
        clips["test"],
        {"when is it red?": "first"},
        {"when is it red?": "last"},
        {"when is it red?": "last"},
        twin_of={"c0": "c1", "c1": "c0", "c2": "elsewhere"},
    ).needs_order()
    assert found is not None
    assert found.tolist() == [True, True, False]


def test_declared_answers_are_those_of_the_set(clips):
    assert {name: found.answers for name, found in clips.items()} == dict.fromkeys(clips, ANSWERS)
