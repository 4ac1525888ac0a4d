"""Still images of the mini world, captions and questions, for the pre-training of mini-BLIP.

A still shows one moment of a scene. Its caption says what can be seen in it (colours, shapes,
places, sizes, directions) and never what happens, and its questions ask for the same: a model that
has seen only these has never seen time.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np

from litevl.data.drawing import COLOURS, SHAPES, Pixels, State, Thing, draw_frames
from litevl.data.questions import ask_about_still
from litevl.data.scenes import PHRASES, TEMPLATES, Scene, draw_scene, states

STILL_TEMPLATES = (
    "{actor} beside {other}",
    "next to {other} {actor}",
    "{actor} and {other}",
    "{other} and {actor}",
)
SHARE_OF_PLAIN = 0.2  # of the things that are named without their state
NUM_QUESTIONS = 3  # about each still

Questions = tuple[tuple[str, str], ...]  # with their answers


class Still(NamedTuple):
    """A picture (S, S, 3) uint8, what it shows in words, and what one can ask about it."""

    image: Pixels
    caption: str
    questions: Questions


def vocabulary() -> list[str]:
    """BERT's special tokens, the words of stills and scenes, and letters to spell the others."""
    sentences = chain(
        TEMPLATES, STILL_TEMPLATES, *PHRASES.values(), COLOURS, SHAPES, STATE_WORDS, QUESTION_WORDS
    )
    words = {word.strip("{}") for sentence in sentences for word in sentence.split()}
    letters = "abcdefghijklmnopqrstuvwxyz0123456789?.,'-"
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return special + pieces + sorted(words - set(pieces))


STATE_WORDS = ("a an the small large on left right at top bottom in middle pointing up down then",)
QUESTION_WORDS = (
    "what who how when where is does did do first last before after many colour shape which one",
    "yes no move moving turn turning grow growing shrink shrinking vanish appear happens thing",
    "to two",
)


def place_words(state: State, rng: np.random.Generator) -> str:
    """Where in the picture a thing is, by one of its coordinates."""
    words = []
    if state.x < 0.4 or state.x > 0.6:
        words.append("on the left" if state.x < 0.5 else "on the right")
    if state.y < 0.4 or state.y > 0.6:
        words.append("at the top" if state.y < 0.5 else "at the bottom")
    return words[int(rng.integers(len(words)))] if words else "in the middle"


def describe(thing: Thing, state: State, rng: np.random.Generator) -> str:
    """A thing in words, with its size, direction or place, or plainly."""
    if rng.random() < SHARE_OF_PLAIN:
        return str(thing)
    facts = [f"{thing} {place_words(state, rng)}"] * 2
    if state.radius < 0.13 or state.radius > 0.2:
        size = "small" if state.radius < 0.15 else "large"
        facts += [f"a {size} {thing.colour} {thing.shape}"] * 2
    if thing.shape == "arrow":
        quarter = round(state.angle / 90) % 4
        facts += [f"{thing} pointing {('up', 'right', 'down', 'left')[quarter]}"] * 2
    return facts[int(rng.integers(len(facts)))]


def still_caption(scene: Scene, state: State, rng: np.random.Generator) -> str:
    """What the still shows; an actor that cannot be seen is not named."""
    other = describe(scene.other, scene.other_state, rng)
    if state.opacity < 0.4:
        return other
    template = STILL_TEMPLATES[int(rng.integers(len(STILL_TEMPLATES)))]
    return template.format(actor=describe(scene.actor, state, rng), other=other)


def draw_still(rng: np.random.Generator, size_px: int) -> Still:
    """One still, its caption and its questions."""
    scene = draw_scene(rng)
    moments = states(scene, 33)
    state = moments[int(rng.integers(len(moments)))]
    things = [(scene.other, scene.other_state), (scene.actor, state)]
    image = draw_frames([things], size_px, rng)[0]
    caption = still_caption(scene, state, rng)
    return Still(image, caption, ask_about_still(scene, state, NUM_QUESTIONS, rng.spawn(1)[0]))


def draw_stills(
    count: int, size_px: int, seed: int, num_workers: int
) -> tuple[Pixels, list[str], list[Questions]]:
    """Stills (count, size_px, size_px, 3) uint8, captions, questions; the same for one seed."""
    seeds = np.random.SeedSequence(seed).spawn(-(-count // 500))
    jobs = [(child, size_px) for child in seeds]
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        stills = list(chain.from_iterable(pool.map(_draw_chunk, jobs)))[:count]
    images = np.stack([still.image for still in stills])
    return images, [still.caption for still in stills], [still.questions for still in stills]


def _draw_chunk(job: tuple[np.random.SeedSequence, int]) -> list[Still]:
    seed, size_px = job
    rng = np.random.default_rng(seed)
    return [draw_still(rng, size_px) for _ in range(500)]
