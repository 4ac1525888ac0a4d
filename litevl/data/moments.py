"""Scenes of the DiDeMo world: three to five moments one after the other, a sentence about each.

A clip has six chunks of five seconds, as DiDeMo's annotators saw them, and each moment takes one or
two whole chunks: the actor is still at both ends of a moment and changes in the middle. Each aspect
of the actor changes once at most, so that every change says which way round the clip runs, and only
the order of frames tells a clip from its twin.
"""

from __future__ import annotations

from itertools import combinations, permutations, product

import numpy as np

from litevl.data.drawing import COLOURS, SHAPES
from litevl.data.scenes import (
    PHRASES,
    TEMPLATES,
    Scene,
    draw_things,
    draw_track,
)

CHUNK_SECONDS = 5
NUM_CHUNKS = 6
PLAIN = ("{actor} {action}", "the {name} {action}")
SENTENCES = PLAIN + TEMPLATES  # one moment of each scene names the other one, by TEMPLATES
# Number of moments -> how many chunks each of them may take.
LENGTHS = {
    count: tuple(taken for taken in product((1, 2), repeat=count) if sum(taken) == NUM_CHUNKS)
    for count in (3, 4, 5)
}


SHARES = {3: 0.7, 4: 0.2, 5: 0.1}  # of scenes, by their number of moments
# What can happen to the actor: one of two opposites for each aspect, or nothing.
ASPECTS: tuple[tuple[str, ...], ...] = (
    ("left", "right"),
    ("up", "down"),
    ("grow", "shrink"),
    ("vanish", "appear"),
)
STILL = "still"
WORDINGS = {**PHRASES, STILL: ("stays still", "stays still")}


def _stories() -> dict[int, tuple[tuple[str, ...], ...]]:
    """Number of moments -> what may happen in them: three or four changes, perhaps one pause."""
    found = {}
    for count in LENGTHS:
        kinds: list[tuple[tuple[str, ...], ...]] = [*combinations(ASPECTS, count)]
        if count > 3:
            kinds += [(*changes, (STILL,)) for changes in combinations(ASPECTS, count - 1)]
        found[count] = tuple(
            story
            for some in kinds
            for events in product(*some)
            for story in permutations(events)
            if "vanish" not in story[:-1] and "appear" not in story[1:]  # else nothing is seen
        )
    return found


STORIES = _stories()


def draw_moments(rng: np.random.Generator) -> Scene:
    """One random scene with several moments."""
    count = int(rng.choice(list(SHARES), p=list(SHARES.values())))
    events = STORIES[count][int(rng.integers(len(STORIES[count])))]
    chunks = LENGTHS[count][int(rng.integers(len(LENGTHS[count])))]
    actor, other = draw_things(False, rng)
    track, other_state = draw_track(events, False, rng)
    places = rng.integers(len(PLAIN), size=count)
    places[rng.integers(count)] = len(PLAIN) + rng.integers(len(TEMPLATES))
    wordings = rng.integers(2, size=count)
    tellings = tuple(zip(map(int, places), map(int, wordings), strict=True))
    seed = int(rng.integers(2**31))
    return Scene(actor, other, events, track, other_state, seed, tellings, chunks)


def sentences(scene: Scene) -> tuple[str, ...]:
    """One sentence about each moment, in the order of time."""
    actor, other = scene.actor, scene.other
    return tuple(
        SENTENCES[template].format(
            actor=actor,
            name=f"{actor.colour} {actor.shape}",
            action=WORDINGS[event][wording],
            other=other,
        )
        for event, (template, wording) in zip(scene.events, scene.tellings, strict=True)
    )


def spans(scene: Scene) -> tuple[tuple[int, int], ...]:
    """First and last chunk of each moment, from 0."""
    ends = np.cumsum(scene.chunks)
    return tuple(
        (int(end) - taken, int(end) - 1) for end, taken in zip(ends, scene.chunks, strict=True)
    )


def num_different_moments() -> int:
    """How many scenes with several moments differ in their key."""
    num_stories = sum(map(len, STORIES.values())) // 2  # each way round
    num_shapes = len(SHAPES) - 1  # for the actor, which turns in none of them; for the other one
    return len(COLOURS) * num_shapes * num_stories * (len(COLOURS) - 1) * num_shapes
