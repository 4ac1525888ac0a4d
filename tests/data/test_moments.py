"""Scenes with several moments: stories that make sense, and twins that tell them backwards."""

from collections import Counter
from dataclasses import astuple

import numpy as np
import pytest

from litevl.data import moments
from litevl.data.drawing import COLOURS, coverage
from litevl.data.moments import (
    LENGTHS,
    NUM_CHUNKS,
    STILL,
    STORIES,
    WORDINGS,
    draw_moments,
    num_different_moments,
    sentences,
    spans,
)
from litevl.data.samplers import SAMPLERS
from litevl.data.scenes import PHRASES, REVERSED, draw_scenes, render, reversed_events, states
from litevl.data.stills import vocabulary
from litevl.model.tokenizer import Tokenizer

ASPECTS = {
    "left": "x", "right": "x", "up": "y", "down": "y", "grow": "size", "shrink": "size",
    "appear": "visible", "vanish": "visible",
}  # fmt: skip
EVERY = [story for some in STORIES.values() for story in some]


@pytest.fixture(scope="module")
def scenes():
    """Random scenes, none twice."""
    return draw_scenes(200, np.random.default_rng(0), set(), draw_moments)


# Stories


def test_stories_have_three_to_five_moments_and_nobody_turns():
    assert set(STORIES) == {3, 4, 5}
    assert all(len(story) == count for count, some in STORIES.items() for story in some)
    assert {event for story in EVERY for event in story} == {*ASPECTS, STILL}


def test_each_aspect_changes_once_at_most_and_three_do():
    for story in EVERY:
        changed = [ASPECTS[event] for event in story if event != STILL]
        assert len(set(changed)) == len(changed) >= 3, story
        assert story.count(STILL) <= 1, story


def test_the_actor_can_be_seen_whatever_happens_to_it():
    for story in EVERY:
        assert "appear" not in story[1:], story
        assert "vanish" not in story[:-1], story


def test_every_such_story_is_there_once_and_so_is_its_reverse_but_none_is_its_own():
    assert len(set(EVERY)) == len(EVERY)
    for story in EVERY:
        assert reversed_events(story) != story
        assert reversed_events(story) in STORIES[len(story)]
    assert ("right", "grow", "up") in EVERY
    assert ("appear", "right", "still", "shrink", "down") in EVERY
    assert ("right", "grow", "left") not in EVERY
    # 3 places for x, y and size or, beside appear or vanish at its end, 2 for two of the three
    three = 8 * 6 + 2 * 3 * 4 * 2
    four = 2 * 8 * 6 + 8 * 24 + 2 * 3 * 4 * 6  # one of each; or a pause and three of them
    assert {count: len(some) for count, some in STORIES.items()} == {
        3: three, 4: four, 5: 2 * 8 * 24,
    }  # fmt: skip


def test_moments_take_one_or_two_chunks_and_all_six_together():
    for count, some in LENGTHS.items():
        assert all(len(taken) == count and sum(taken) == NUM_CHUNKS for taken in some)
        assert all(set(taken) <= {1, 2} and taken[::-1] in some for taken in some)
    assert {count: len(some) for count, some in LENGTHS.items()} == {3: 1, 4: 6, 5: 5}


def test_half_of_the_scenes_have_three_moments_and_fewer_have_more(scenes):
    counts = Counter(len(scene.events) for scene in scenes)
    assert counts[3] > counts[4] > counts[5] > 0
    assert sum(moments.SHARES.values()) == pytest.approx(1)


def test_number_of_different_scenes_is_what_drawing_finds(monkeypatch):
    two = {name: COLOURS[name] for name in ("red", "cyan")}
    some = ("left", "grow", "up")
    stories = {count: (some, reversed_events(some)) for count in STORIES}
    for module in ("moments", "scenes"):
        monkeypatch.setattr(f"litevl.data.{module}.COLOURS", two)
        monkeypatch.setattr(f"litevl.data.{module}.SHAPES", ("circle", "square", "arrow"))
    monkeypatch.setattr(moments, "STORIES", {3: stories[3]})
    monkeypatch.setattr(moments, "SHARES", {3: 1.0})
    rng = np.random.default_rng(0)
    found = {draw_moments(rng).key for _ in range(400)}
    assert num_different_moments() == len(found) == 2 * 2 * 1 * 1 * 2


# Pictures


@pytest.mark.parametrize("num_frames", [30, 60])
def test_twin_goes_through_the_same_states_backwards(scenes, num_frames):
    for scene in scenes:
        own, twins = (
            np.array([astuple(state) for state in states(version, num_frames)])
            for version in (scene, scene.twin())
        )
        np.testing.assert_allclose(twins, own[::-1], rtol=0, atol=1e-12)
        assert scene.twin().twin() == scene


def test_twin_shows_the_same_frames_backwards(scenes):
    """But for a value half-way between two; the files of both are made from one drawing."""
    for scene in scenes[:20]:
        own, twins = (render(version, 30, 32).astype(int) for version in (scene, scene.twin()))
        assert np.abs(twins - own[::-1]).max() <= 1


@pytest.mark.parametrize("num_sampled", [6, 10])
def test_frames_sampled_from_a_twin_are_the_same_ones_backwards(scenes, num_sampled):
    sampled = SAMPLERS["segment-middle"](30, num_sampled, np.random.default_rng(0))
    frames, twins = render(scenes[0], 30, 32), render(scenes[0].twin(), 30, 32)
    assert np.array_equal(twins[sampled], frames[sampled][::-1])


def test_actor_is_still_at_both_ends_of_a_moment_and_changes_in_the_middle(scenes):
    for scene in scenes:
        found = states(scene, 300)
        ends = [50 * (first, last + 1)[side] for first, last in spans(scene) for side in (0, 1)]
        for place, (start, end) in enumerate(zip(ends[::2], ends[1::2], strict=True)):
            held = (end - start) // 4
            before, after = scene.track[place : place + 2]
            assert set(found[start : start + held]) == {before}
            assert set(found[end - held : end]) == {after}
            middle = found[(start + end) // 2]
            assert (middle in (before, after)) == (scene.events[place] == STILL)


def test_each_event_changes_what_it_says_and_nothing_else(scenes):
    changes = {
        "left": ("x", -1), "right": ("x", 1), "up": ("y", -1), "down": ("y", 1),
        "grow": ("radius", 1), "shrink": ("radius", -1),
        "appear": ("opacity", 1), "vanish": ("opacity", -1),
        "still": ("angle", 0),
    }  # fmt: skip
    for scene in scenes:
        assert scene.track[0].opacity == (scene.events[0] != "appear")
        for event, before, after in zip(scene.events, scene.track, scene.track[1:], strict=False):
            differ = {
                name: np.sign(getattr(after, name) - getattr(before, name))
                for name in ("x", "y", "radius", "angle", "opacity")
            }
            name, sign = changes[event]
            assert differ.pop(name) == sign, scene.events
            assert set(differ.values()) == {0}, scene.events


def test_actor_stays_in_the_picture_and_away_from_the_other_one(scenes):
    size = 32
    for scene in scenes:
        other = coverage(scene.other, scene.other_state, size) > 0.5
        for state in set(states(scene, 30)):
            edges = (state.x, state.y, 1 - state.x, 1 - state.y)
            assert min(edges) > 0.6 * state.radius, (scene.events, state)
            if state.opacity:
                actor = coverage(scene.actor, state, size) > 0.5
                covered = (actor & other).sum() / other.sum()
                assert covered < 0.5, (scene.events, scene.other_state, state)


# Words


def test_twin_is_told_by_the_reversed_sentences_in_reverse_order(scenes):
    for scene in scenes:
        for own, event, others in zip(
            sentences(scene), scene.events, sentences(scene.twin())[::-1], strict=True
        ):
            wordings = zip(WORDINGS[event], WORDINGS[REVERSED[event]], strict=True)
            assert any(own.replace(*pair) == others for pair in wordings)
            assert (own == others) == (event == STILL)


def test_paragraphs_of_different_scenes_and_directions_differ(scenes):
    every = {sentences(version) for scene in scenes for version in (scene, scene.twin())}
    assert len(every) == 2 * len(scenes)


def test_one_sentence_of_each_scene_names_the_other_one(scenes):
    named = Counter()
    for scene in scenes:
        about = [str(scene.other) in sentence for sentence in sentences(scene)]
        assert sum(about) == 1
        named[about.index(True)] += 1
        actor = f"{scene.actor.colour} {scene.actor.shape}"
        assert all(actor in sentence for sentence in sentences(scene))
    assert set(named) == {0, 1, 2, 3, 4}


def test_wordings_vary(scenes):
    told = " ".join(sentence for scene in scenes for sentence in sentences(scene))
    for event in ASPECTS:
        assert all(phrase in told for phrase in PHRASES[event])
    assert {"the", "beside", "while", "next"} <= set(told.split())


def test_vocabulary_holds_every_word_of_every_sentence(scenes, tmp_path):
    words = tmp_path / "vocab.txt"
    words.write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.from_vocabulary(words)
    for scene in scenes:
        paragraph = " ".join(sentences(scene))
        assert tokenizer.bert.tokenize(paragraph) == paragraph.split()
