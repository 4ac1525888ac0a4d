"""Still images of the mini world: what can be seen, never what happens."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from litevl.data.drawing import State, Thing
from litevl.data.scenes import PHRASES, draw_scene
from litevl.data.stills import (
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
def captions() -> list[str]:
    """The captions of many stills."""
    rng = np.random.default_rng(0)
    return [draw_still(rng, 8)[1] for _ in range(600)]


@pytest.fixture(scope="module")
def stills():
    """A few more stills than are drawn at a time, made by one process."""
    return draw_stills(520, 8, seed=4, num_workers=1)


def test_same_seed_gives_the_same_stills_however_many_are_asked_for(stills):
    images, captions = stills
    assert images.shape == (520, 8, 8, 3)
    assert len(captions) == 520
    fewer, fewer_captions = draw_stills(20, 8, seed=4, num_workers=2)
    assert np.array_equal(fewer, images[:20])
    assert fewer_captions == captions[:20]


def test_another_seed_gives_other_stills(stills):
    images, captions = stills
    others, other_captions = draw_stills(20, 8, seed=5, num_workers=1)
    assert not np.array_equal(others, images[:20])
    assert other_captions != captions[:20]


def test_stills_of_different_chunks_differ(stills):
    images, _ = stills
    assert not np.array_equal(images[:20], images[500:])


def test_captions_of_stills_never_say_what_happens(captions):
    words = {phrase.split()[0] for phrase in chain(*PHRASES.values())}
    assert {"moves", "grows", "appears", "turns"} <= words
    seen = set(" ".join(captions).split())
    assert not seen & (words | {"then", "while", "stays"})


def test_vocabulary_holds_every_word_of_stills_and_of_questions(captions, tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.from_vocabulary(path)
    for caption in captions:
        assert tokenizer.bert.tokenize(caption) == caption.split()
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
