"""Still images of the mini world: what can be seen, never what happens."""

from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from litevl.data import stills as stills_module
from litevl.data.drawing import State, Thing, draw_frames
from litevl.data.scenes import PHRASES, draw_scene, states
from litevl.data.stills import (
    NUM_QUESTIONS,
    Still,
    describe,
    draw_still,
    draw_stills,
    place_words,
    still_caption,
    vocabulary,
)
from litevl.model.tokenizer import Tokenizer

MIDDLE = State(0.5, 0.5, 0.17, 0.0, 1.0)


@pytest.fixture(scope="module")
def many() -> list[Still]:
    """Many stills, too small to see anything."""
    rng = np.random.default_rng(0)
    return [draw_still(rng, 8) for _ in range(600)]


@pytest.fixture(scope="module")
def captions(many) -> list[str]:
    """Their captions."""
    return [still.caption for still in many]


@pytest.fixture(scope="module")
def stills():
    """A few more stills than are drawn at a time, made by one process."""
    return draw_stills(520, 8, seed=4, num_workers=1)


def test_same_seed_gives_the_same_stills_however_many_are_asked_for(stills):
    images, captions, questions = stills
    assert images.shape == (520, 8, 8, 3)
    assert len(captions) == len(questions) == 520
    fewer, fewer_captions, fewer_questions = draw_stills(20, 8, seed=4, num_workers=2)
    assert np.array_equal(fewer, images[:20])
    assert fewer_captions == captions[:20]
    assert fewer_questions == questions[:20]


def test_another_seed_gives_other_stills(stills):
    images, captions, questions = stills
    others, other_captions, other_questions = draw_stills(20, 8, seed=5, num_workers=1)
    assert not np.array_equal(others, images[:20])
    assert other_captions != captions[:20]
    assert other_questions != questions[:20]


def test_stills_of_different_chunks_differ(stills):
    images, captions, questions = stills
    assert not np.array_equal(images[:20], images[500:])
    assert captions[:20] != captions[500:]
    assert questions[:20] != questions[500:]


def drawn(seed: int, count: int = 60) -> list[Still]:
    """Stills drawn one after the other from one generator."""
    rng = np.random.default_rng(seed)
    return [draw_still(rng, 8) for _ in range(count)]


def test_images_and_captions_do_not_depend_on_the_questions(monkeypatch):
    """Stills without questions were there first; mini-BLIP's captions are still drawn from them."""
    asked = drawn(7)

    def ask_nothing(_scene, _state, _count, rng):
        rng.random(99)
        return ()

    monkeypatch.setattr(stills_module, "ask_about_still", ask_nothing)
    unasked = drawn(7)
    for one, other in zip(asked, unasked, strict=True):
        assert np.array_equal(one.image, other.image)
        assert one.caption == other.caption
        assert one.questions != other.questions


def test_images_and_captions_are_drawn_as_they_were_before_there_were_questions():
    rng = np.random.default_rng(7)
    for still in drawn(7):
        scene = draw_scene(rng)
        state = states(scene, 33)[int(rng.integers(33))]
        things = [(scene.other, scene.other_state), (scene.actor, state)]
        assert np.array_equal(still.image, draw_frames([things], 8, rng)[0])
        assert still.caption == still_caption(scene, state, rng)


def test_every_still_has_questions_of_different_types_with_answers(many):
    kinds = Counter()
    for still in many:
        of_still = [text.split()[0] for text, _ in still.questions]
        assert len(of_still) == len(set(of_still)) == NUM_QUESTIONS
        assert all(answer and " " not in answer for _, answer in still.questions)
        kinds.update(of_still)
    assert kinds.keys() == {"what", "who", "how", "where"}
    assert min(kinds.values()) > 0.7 * NUM_QUESTIONS * len(many) / 4


def test_questions_of_stills_are_not_all_the_same_from_one_generator():
    """Each still has a stream of its own for its questions; they do not repeat each other."""
    orders = [tuple(text.split()[0] for text, _ in still.questions) for still in drawn(7)]
    assert len(set(orders)) > 10


def test_captions_of_stills_never_say_what_happens(captions):
    words = {phrase.split()[0] for phrase in chain(*PHRASES.values())}
    assert {"moves", "grows", "appears", "turns"} <= words
    seen = set(" ".join(captions).split())
    assert not seen & (words | {"then", "while", "stays"})


def test_vocabulary_holds_every_word_of_stills_and_of_questions(many, captions, tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.from_vocabulary(path)
    for caption in captions:
        assert tokenizer.bert.tokenize(caption) == caption.split()
    pairs = {pair for still in many for pair in still.questions}
    for question in {question for question, _ in pairs}:
        assert "[UNK]" not in tokenizer.bert.tokenize(question)
    for answer in {answer for _, answer in pairs}:
        assert tokenizer.bert.tokenize(answer) == [answer]
    assert tokenizer.bert.tokenize("what does move first") == ["what", "does", "move", "first"]


def test_vocabulary_names_each_piece_once_after_berts_own_five():
    pieces = vocabulary()
    assert len(set(pieces)) == len(pieces)
    assert pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert vocabulary() == pieces


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (0.2, 0.5, {"on the left"}),
        (0.8, 0.5, {"on the right"}),
        (0.5, 0.2, {"at the top"}),
        (0.5, 0.8, {"at the bottom"}),
        (0.5, 0.5, {"in the middle"}),
        (0.1, 0.9, {"on the left", "at the bottom"}),
    ],
)
def test_place_is_told_by_one_of_its_coordinates(x, y, words):
    rng = np.random.default_rng(0)
    assert {place_words(replace(MIDDLE, x=x, y=y), rng) for _ in range(30)} == words


@pytest.mark.parametrize(
    ("angle", "direction"),
    [(0, "up"), (90, "right"), (180, "down"), (270, "left"), (-80, "left"), (380, "up")],
)
def test_arrow_points_where_it_is_drawn_to_point(angle, direction):
    arrow, rng = Thing("orange", "arrow"), np.random.default_rng(0)
    said = {describe(arrow, replace(MIDDLE, angle=float(angle)), rng) for _ in range(60)}
    assert said == {
        "an orange arrow", "an orange arrow in the middle", f"an orange arrow pointing {direction}",
    }  # fmt: skip


@pytest.mark.parametrize(("radius", "size"), [(0.1, "small"), (0.24, "large"), (0.17, None)])
def test_size_is_told_where_it_is_special(radius, size):
    thing, rng = Thing("red", "ring"), np.random.default_rng(0)
    said = {describe(thing, replace(MIDDLE, radius=radius), rng) for _ in range(60)}
    assert said == {"a red ring", "a red ring in the middle"} | (
        {f"a {size} red ring"} if size else set()
    )


def test_actor_that_cannot_be_seen_is_not_named():
    rng = np.random.default_rng(0)
    scene = draw_scene(rng)
    for _ in range(20):
        gone = still_caption(scene, replace(scene.track[0], opacity=0.1), rng)
        assert scene.actor.shape not in gone.split()
        assert scene.other.shape in gone.split()
        seen = still_caption(scene, replace(scene.track[0], opacity=1.0), rng).split()
        assert scene.actor.shape in seen
        assert scene.other.shape in seen
