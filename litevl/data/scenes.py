"""Scenes of the mini world: what happens in a clip, in pixels and in words.

Every scene is one actor (a coloured shape) that does something whose order in time matters, beside
a second, still object on a textured background. A scene and its twin, the scene run backwards, hold
the same frames, so no single frame and no unordered bag of frames can tell whose caption is whose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from litevl.data.drawing import COLOURS, SHAPES, Floats, Pixels, State, Thing, draw_frames

REVERSED = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "grow": "shrink",
    "shrink": "grow",
    "appear": "vanish",
    "vanish": "appear",
    "clockwise": "anticlockwise",
    "anticlockwise": "clockwise",
    "still": "still",
}
PHRASES = {
    "left": ("moves left", "slides left"),
    "right": ("moves right", "slides right"),
    "up": ("moves up", "slides up"),
    "down": ("moves down", "slides down"),
    "grow": ("grows", "gets bigger"),
    "shrink": ("shrinks", "gets smaller"),
    "appear": ("appears", "comes into view"),
    "vanish": ("vanishes", "goes out of view"),
    "clockwise": ("turns clockwise", "rotates clockwise"),
    "anticlockwise": ("turns anticlockwise", "rotates anticlockwise"),
}
TEMPLATES = (
    "{actor} {action} beside {other}",
    "{actor} {action} while {other} stays still",
    "next to {other} {actor} {action}",
    "{other} stays still and {actor} {action}",
)
MOVES = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
TURNS = ("clockwise", "anticlockwise")
TRAVEL = 0.58  # how far a move goes, in sides of the frame
SIZES = {"grow": (0.10, 0.24), "shrink": (0.24, 0.10)}
SEQUENCES = tuple(
    (first, second)
    for first, second in product(PHRASES, repeat=2)
    if (first in MOVES and (second in SIZES or second == "vanish"))
    or (second in MOVES and (first in SIZES or first == "appear"))
    or (first in MOVES and second in MOVES and second not in (first, REVERSED[first]))
)
SHARE_OF_SEQUENCES = 0.3
HELD_STILL = 0.12  # share of a clip at either end in which nothing happens
HELD_STILL_IN_CHUNKS = 0.3  # the same, of the chunks in which something happens
CLEAR = 0.25  # how far from the actor's path the other one may stand, in sides of the frame


@dataclass(frozen=True)
class Scene:
    """Who does what beside whom; `events` in the order of time."""

    actor: Thing
    other: Thing
    events: tuple[str, ...]
    track: tuple[State, ...]  # the actor's state at the knots: one more than there are events
    other_state: State
    background_seed: int
    tellings: tuple[tuple[int, int], ...]  # template and wording of each sentence about it
    chunks: tuple[int, ...] = ()  # how long events last, see `moments`; () for no pause between

    @property
    def key(self) -> tuple[Thing, Thing, frozenset[tuple[str, ...]]]:
        """What must differ between train, validation and test; a scene and its twin share it."""
        return self.actor, self.other, frozenset((self.events, reversed_events(self.events)))

    def twin(self) -> Scene:
        """The same scene run backwards."""
        return replace(
            self,
            events=reversed_events(self.events),
            track=self.track[::-1],
            tellings=self.tellings[::-1],
            chunks=self.chunks[::-1],
        )


def reversed_events(events: tuple[str, ...]) -> tuple[str, ...]:
    """What one sees when the clip runs backwards."""
    return tuple(REVERSED[event] for event in reversed(events))


def caption(scene: Scene, template: int, wording: int) -> str:
    """The scene in words, by one of the templates and one of the wordings."""
    action = " then ".join(PHRASES[event][wording] for event in scene.events)
    return TEMPLATES[template].format(actor=str(scene.actor), other=str(scene.other), action=action)


def draw_scene(rng: np.random.Generator) -> Scene:
    """One random scene."""
    events: tuple[str, ...]
    if rng.random() < SHARE_OF_SEQUENCES:
        events = SEQUENCES[rng.integers(len(SEQUENCES))]
    else:
        events = (tuple(PHRASES)[rng.integers(len(PHRASES))],)
    actor, other = draw_things(any(event in TURNS for event in events), rng)
    track, other_state = draw_track(events, actor.shape == "arrow", rng)
    return Scene(
        actor,
        other,
        events,
        track,
        other_state,
        background_seed=int(rng.integers(2**31)),
        tellings=((int(rng.integers(len(TEMPLATES))), int(rng.integers(2))),),
    )


def draw_things(turns: bool, rng: np.random.Generator) -> tuple[Thing, Thing]:
    """The actor, an arrow if it turns, and the other one: of another colour and another shape."""
    shapes = [shape for shape in SHAPES if shape != "arrow"]
    actor = Thing(_pick(rng, COLOURS), "arrow" if turns else _pick(rng, shapes))
    other = Thing(
        _pick(rng, [colour for colour in COLOURS if colour != actor.colour]),
        _pick(rng, [shape for shape in SHAPES if shape != actor.shape]),
    )
    return actor, other


def draw_track(
    events: tuple[str, ...], is_arrow: bool, rng: np.random.Generator
) -> tuple[tuple[State, ...], State]:
    """The actor's state before the first event and after each, and the state of the other one."""
    start, other_state = _places(events, is_arrow, rng)
    track = [start]
    for event in events:
        track.append(_after(event, track[-1], rng))
    return tuple(track), other_state


def _pick(rng: np.random.Generator, names: Iterable[str]) -> str:
    choices = list(names)
    return choices[int(rng.integers(len(choices)))]


def _places(
    events: tuple[str, ...], is_arrow: bool, rng: np.random.Generator
) -> tuple[State, State]:
    """Where the actor starts and where the other one stands, so that they do not meet."""
    x, y = rng.uniform(0.28, 0.72, size=2)
    ways = [event for event in events if event in MOVES]
    for event in _firsts(ways):
        dx, dy = MOVES[event]
        x = 0.5 - TRAVEL / 2 * dx + rng.uniform(-0.03, 0.03) if dx else x
        y = 0.5 - TRAVEL / 2 * dy + rng.uniform(-0.03, 0.03) if dy else y
    radius = next((SIZES[event][0] for event in events if event in SIZES), 0.17)
    angle = float(rng.integers(8)) * 45.0 if is_arrow else 0.0
    actor = State(float(x), float(y), radius, angle, 0.0 if events[0] == "appear" else 1.0)
    path = _path(actor, events)
    corners = [(cx, cy) for cx in (0.18, 0.5, 0.82) for cy in (0.18, 0.5, 0.82)]
    clearance = [min(np.hypot(cx - px, cy - py) for px, py in path) for cx, cy in corners]
    second, first = np.argsort(clearance)[-2:]
    free = [second, first] if clearance[second] > CLEAR else [first]
    cx, cy = corners[int(free[rng.integers(len(free))])]
    return actor, State(cx, cy, 0.13, float(rng.integers(4)) * 90.0, 1.0)


def _firsts(events: Iterable[str]) -> list[str]:
    """The events without those that undo or repeat an earlier one's."""
    firsts: list[str] = []
    for event in events:
        if event not in firsts and REVERSED[event] not in firsts:
            firsts.append(event)
    return firsts


def _path(start: State, events: tuple[str, ...]) -> list[tuple[float, float]]:
    """Points that the actor passes."""
    x, y = start.x, start.y
    points = [(x, y)]
    for event in events:
        dx, dy = MOVES.get(event, (0.0, 0.0))
        points += [
            (x + TRAVEL * dx * part, y + TRAVEL * dy * part) for part in (0.25, 0.5, 0.75, 1)
        ]
        x, y = points[-1]
    return points


def _after(event: str, state: State, rng: np.random.Generator) -> State:
    """The actor's state when the event is over."""
    if event in MOVES:
        dx, dy = MOVES[event]
        return replace(state, x=state.x + TRAVEL * dx, y=state.y + TRAVEL * dy)
    if event in SIZES:
        return replace(state, radius=SIZES[event][1])
    if event in ("appear", "vanish"):
        return replace(state, opacity=1.0 if event == "appear" else 0.0)
    if event == "still":
        return state
    turn = rng.uniform(110.0, 170.0)
    return replace(state, angle=state.angle + (turn if event == "clockwise" else -turn))


def states(scene: Scene, num_frames: int) -> list[State]:
    """The actor's state in each frame, between the knots of its track."""
    times, knots, track = _timing(scene, num_frames)
    names = ("x", "y", "radius", "angle", "opacity")
    columns = [np.interp(times, knots, [getattr(state, name) for state in track]) for name in names]
    return [State(*map(float, row)) for row in zip(*columns, strict=True)]


def _timing(scene: Scene, num_frames: int) -> tuple[Floats, Floats, Sequence[State]]:
    """When the frames are taken, and when the actor is in which state."""
    if not scene.chunks:
        times = np.linspace(0.0, 1.0, num_frames)
        moving = np.clip((times - HELD_STILL) / (1 - 2 * HELD_STILL), 0.0, 1.0)
        return moving, np.linspace(0.0, 1.0, len(scene.track)), scene.track
    times = (np.arange(num_frames) + 0.5) / num_frames * sum(scene.chunks)
    starts = np.cumsum(scene.chunks) - scene.chunks
    parts = np.array([HELD_STILL_IN_CHUNKS, 1 - HELD_STILL_IN_CHUNKS])
    knots = starts[:, None] + np.array(scene.chunks)[:, None] * parts
    pairs = zip(scene.track[:-1], scene.track[1:], strict=True)
    return times, knots.ravel(), [state for pair in pairs for state in pair]


def render(scene: Scene, num_frames: int, size_px: int) -> Pixels:
    """The scene's frames: (T, size_px, size_px, 3) uint8."""
    return draw_frames(
        [
            [(scene.other, scene.other_state), (scene.actor, state)]
            for state in states(scene, num_frames)
        ],
        size_px,
        np.random.default_rng(scene.background_seed),
    )


def num_different_scenes() -> int:
    """How many scenes differ in their key: what may happen, by whom, beside whom."""
    turns = len(TURNS)
    events_of_shapes = len(PHRASES) - turns + len(SEQUENCES)
    actions = ((len(SHAPES) - 1) * events_of_shapes + turns) // 2  # each way round; arrows turn
    return len(COLOURS) * actions * (len(COLOURS) - 1) * (len(SHAPES) - 1)


def draw_scenes(
    count: int,
    rng: np.random.Generator,
    taken: set[object],
    draw: Callable[[np.random.Generator], Scene] = draw_scene,
) -> list[Scene]:
    """Random scenes whose keys are not taken; `taken` grows by theirs."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = draw(rng)
        if scene.key not in taken:
            taken.add(scene.key)
            scenes.append(scene)
    return scenes
