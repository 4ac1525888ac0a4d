"""Questions about scenes of the mini world, each with a one-word answer.

There is one question of each type: "what", "who", "how" and "where" are answered by a single frame
or by several in any order, "when" by the order of frames alone. A scene and its time-reversed twin
are asked the same; their answers differ where, and only where, order is what was asked about.
"""

from __future__ import annotations

import numpy as np

from litevl.data.drawing import COLOURS, State, Thing
from litevl.data.scenes import MOVES, SIZES, Scene

Asked = tuple[str, str, str]  # question, answer, answer about the twin


def ask(scene: Scene, count: int, rng: np.random.Generator) -> tuple[Asked, ...]:
    """1 to 5 questions of different types, the one about order first where there is one."""
    several = [(text, answer, answer) for text, answer in about_frames(scene, rng)]
    chosen = [several[int(place)] for place in rng.permutation(len(several))]
    in_time = about_order(scene, rng)
    return tuple(([in_time] if in_time else []) + chosen)[:count]


def about_frames(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """One question each of "what", "who", "how" and "where"; a reversed clip answers them alike."""
    things = (scene.actor, scene.other)
    who = [(f"who is {thing.colour}?", thing.shape) for thing in things]
    who.append(("who stays still?", scene.other.shape))
    if any(event in MOVES for event in scene.events):
        who.append(("who moves?", scene.actor.shape))
    return [
        _pick(what_is_seen(things), rng),
        _pick(who, rng),
        how_many(things, rng),
        (f"where is the {scene.other.shape}?", place(scene.other_state)),
    ]


def what_is_seen(things: tuple[Thing, ...]) -> list[tuple[str, str]]:
    """Colour by shape and shape by colour of each thing."""
    return [(f"what colour is the {thing.shape}?", thing.colour) for thing in things] + [
        (f"what is {thing.colour}?", thing.shape) for thing in things
    ]


def how_many(things: tuple[Thing, ...], rng: np.random.Generator) -> tuple[str, str]:
    """How many things have a colour: as often one that is there as one that is not."""
    there = [thing.colour for thing in things]
    absent = [colour for colour in COLOURS if colour not in there]
    is_there = rng.random() < 0.5
    colours = there if is_there else absent
    colour = colours[int(rng.integers(len(colours)))]
    return f"how many {colour} things are there?", "one" if is_there else "no"


def place(state: State) -> str:
    """The side on which a thing stands; left or right where it is off the middle both ways."""
    if abs(state.x - 0.5) > 0.15:
        return "left" if state.x < 0.5 else "right"
    if abs(state.y - 0.5) > 0.15:
        return "top" if state.y < 0.5 else "bottom"
    return "middle"


def about_order(scene: Scene, rng: np.random.Generator) -> Asked | None:
    """A "when" question, answered "first" or "last"; None for a scene that only turns."""
    choices = list(when_states(scene))
    if len(scene.events) > 1 and sum(event in MOVES for event in scene.events) == 1:
        choices.append(("does the {} move", scene.events[0] in MOVES))
    if not choices:
        return None
    clause, is_first = choices[int(rng.integers(len(choices)))]
    text = f"when {clause.format(f'{scene.actor.colour} {scene.actor.shape}')}?"
    answers = ("first", "last") if is_first else ("last", "first")
    return text, *answers


def when_states(scene: Scene) -> list[tuple[str, bool]]:
    """What the actor is at one end of the clip only, and whether that is the first.

    One state is asked about for each kind of change, not its opposite as well.
    """
    found = []
    for event in scene.events:
        dx, dy = MOVES.get(event, (0.0, 0.0))
        if dx:
            found.append(("is the {} on the left", dx > 0))
        if dy:
            found.append(("is the {} at the top", dy > 0))
        if event in SIZES:
            found.append(("is the {} large", event == "shrink"))
        if event in ("appear", "vanish"):
            found.append(("is the {} in view", event == "vanish"))
    return found


def _pick(choices: list[tuple[str, str]], rng: np.random.Generator) -> tuple[str, str]:
    return choices[int(rng.integers(len(choices)))]


def ask_about_still(
    scene: Scene, state: State, count: int, rng: np.random.Generator
) -> tuple[tuple[str, str], ...]:
    """1 to 4 questions that one picture of the scene answers; the actor is in `state`."""
    seen = [(scene.other, scene.other_state)]
    if state.opacity >= 0.4:
        seen.append((scene.actor, state))
    things = tuple(thing for thing, _ in seen)
    where, how = seen[int(rng.integers(len(seen)))], how_many(things, rng)
    if len(seen) == 2 and abs(state.radius - 0.17) > 0.03 and rng.random() < 0.5:
        size = "small" if state.radius < 0.17 else "large"
        how = (f"how large is the {scene.actor.shape}?", size)
    questions = (
        _pick(what_is_seen(things), rng),
        _pick([(f"who is {thing.colour}?", thing.shape) for thing in things], rng),
        how,
        (f"where is the {where[0].shape}?", place(where[1])),
    )
    return tuple(questions[int(chosen)] for chosen in rng.permutation(4)[:count])
