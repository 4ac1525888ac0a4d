"""Scenes of the mini world: who does what, drawn and told, forwards and backwards."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from litevl.data import scenes as scenes_module
from litevl.data.drawing import COLOURS, SHAPES, Thing, coverage, write_clip
from litevl.data.samplers import SAMPLERS
from litevl.data.scenes import (
    PHRASES,
    REVERSED,
    SEQUENCES,
    TEMPLATES,
    caption,
    draw_scene,
    draw_scenes,
    num_different_scenes,
    render,
    reversed_events,
    states,
)
from litevl.data.stills import vocabulary
from litevl.model.tokenizer import Tokenizer

NUM_SCENES = 300


@pytest.fixture(scope="module")
def scenes():
    """Random scenes, none twice."""
    return draw_scenes(NUM_SCENES, np.random.default_rng(0), set())


def test_same_scene_gives_the_same_pixels_and_the_same_file(tmp_path, scenes):
    frames = render(scenes[0], 12, 32)
    assert np.array_equal(frames, render(scenes[0], 12, 32))
    for name in ("one.mp4", "two.mp4"):
        write_clip(tmp_path / name, frames, 8)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_file_does_not_depend_on_what_was_in_memory_before(tmp_path):
    """x264's macroblock tree reads memory it never wrote; glibc fills it as this variable says."""
    script = (
        "import sys; import numpy as np; from hashlib import sha256; from pathlib import Path\n"
        "from litevl.data.drawing import write_clip\n"
        "from litevl.data.scenes import draw_scenes, render\n"
        "path = Path(sys.argv[1])\n"
        "for scene in draw_scenes(20, np.random.default_rng(0), set()):\n"
        "    write_clip(path, render(scene, 24, 64), 8)\n"
        "    print(sha256(path.read_bytes()).hexdigest())\n"
    )
    hashes = [
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "clip.mp4")],
            env=os.environ | {"MALLOC_PERTURB_": filled_with},
            capture_output=True, text=True, check=True,
        ).stdout.split()
        for filled_with in ("85", "170", "0")
    ]  # fmt: skip
    assert len(set(hashes[0])) == 20
    assert hashes[0] == hashes[1] == hashes[2]


def test_twin_shows_the_same_frames_backwards(scenes):
    for scene in scenes[:40]:
        assert np.array_equal(render(scene.twin(), 24, 32), render(scene, 24, 32)[::-1])
        assert scene.twin().twin() == scene


@pytest.mark.parametrize("num_frames", [24, 12])
def test_frames_sampled_from_a_twin_are_the_same_ones_backwards(scenes, num_frames):
    sampled = SAMPLERS["segment-middle"](num_frames, num_frames // 3, np.random.default_rng(0))
    assert len(set(sampled)) == num_frames // 3
    frames = render(scenes[0], num_frames, 32)
    twins = render(scenes[0].twin(), num_frames, 32)
    assert np.array_equal(twins[sampled], frames[sampled][::-1])


def test_frames_of_a_scene_differ(scenes):
    for scene in scenes[:40]:
        first, *_, last = render(scene, 24, 32).astype(int)
        assert np.abs(first - last).max() > 50, scene.events


def test_what_happens_backwards_is_something_that_can_happen():
    for events in (*((event,) for event in PHRASES), *SEQUENCES):
        backwards = reversed_events(events)
        assert backwards != events
        assert len(events) == 1 or backwards in SEQUENCES
        assert reversed_events(backwards) == events
    assert REVERSED.keys() == {*PHRASES, "still"}


def test_caption_of_a_twin_tells_the_events_backwards(scenes):
    for scene, template, wording in product(scenes[:40], range(len(TEMPLATES)), range(2)):
        phrases = [PHRASES[event][wording] for event in scene.events]
        backwards = [PHRASES[REVERSED[event]][wording] for event in reversed(scene.events)]
        own = caption(scene, template, wording)
        assert caption(scene.twin(), template, wording) == own.replace(
            " then ".join(phrases), " then ".join(backwards)
        )


def test_every_text_belongs_to_one_scene_and_one_direction(scenes):
    """Captions of different keys differ whatever templates they use, so test captions are unique.

    Who and beside whom are whole phrases ("a red circle"), so it is enough to try two things.
    """
    one, other = Thing("red", "circle"), Thing("orange", "ring")
    texts: dict[str, object] = {}
    for actor, still in ((one, other), (other, one)):
        for events in (*((event,) for event in PHRASES), *SEQUENCES):
            scene = replace(scenes[0], actor=actor, other=still, events=events)
            for template, wording in product(range(len(TEMPLATES)), range(2)):
                text = caption(scene, template, wording)
                assert texts.setdefault(text, (actor, still, events)) == (actor, still, events)
    assert len(texts) == 2 * (len(PHRASES) + len(SEQUENCES)) * len(TEMPLATES) * 2


def test_actor_stays_in_the_picture_and_away_from_the_other_one(scenes):
    size = 32
    for scene in scenes:
        other = coverage(scene.other, scene.other_state, size) > 0.5
        for state in states(scene, 12):
            edges = (state.x, state.y, 1 - state.x, 1 - state.y)
            assert min(edges) > 0.6 * state.radius, (scene.events, state)
            if state.opacity:
                visible = replace(state, opacity=1.0)
                actor = coverage(scene.actor, visible, size) > 0.5
                covered = (actor & other).sum() / other.sum()
                assert covered < 0.5, (scene.events, scene.other_state, state)


def test_number_of_different_scenes_is_what_drawing_finds(monkeypatch):
    monkeypatch.setattr(scenes_module, "COLOURS", dict(list(COLOURS.items())[:2]))
    monkeypatch.setattr(scenes_module, "SHAPES", ("circle", "square", "arrow"))
    monkeypatch.setattr(scenes_module, "SEQUENCES", (*SEQUENCES[:1], reversed_events(SEQUENCES[0])))
    rng = np.random.default_rng(0)
    possible = num_different_scenes()
    assert possible == len({draw_scene(rng).key for _ in range(4000)}) == 2 * 2 * (2 * 5 + 1)
    assert len(draw_scenes(possible, rng, set())) == possible


def test_vocabulary_holds_every_word_of_every_caption(tmp_path):
    words = tmp_path / "vocab.txt"
    words.write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.from_vocabulary(words)
    for thing in (Thing(colour, shape) for colour in COLOURS for shape in SHAPES):
        for events, template, wording in product(
            [(event,) for event in PHRASES], range(len(TEMPLATES)), range(2)
        ):
            scene = replace(
                draw_scene(np.random.default_rng(0)), actor=thing, other=thing, events=events
            )
            pieces = tokenizer.bert.tokenize(caption(scene, template, wording))
            assert pieces == caption(scene, template, wording).split()
