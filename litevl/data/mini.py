"""The mini world: small clips in which only the order of frames tells twins apart.

Every scene is one actor (a coloured shape) that does something whose order in time matters, beside
a second, still object on a textured background. Each scene gives two clips, forwards and backwards,
with captions to match: the two hold the same frames, so no single frame and no unordered bag of
frames can tell which caption is whose. Clips are H.264 MP4 files with B-frames; annotations are
MSRVTT's own published files. The same seed gives the same annotations and the same pixels.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from litevl.data.decode import interrupts_held_back
from litevl.data.drawing import COLOURS, SHAPES, Pixels, State, Thing, draw_frames, write_clip
from litevl.errors import DataError, RunError

if TYPE_CHECKING:
    from litevl.spec import World

WORLD_VERSION = 2  # raised whenever the same settings would give other clips
MARKER = "world.json"  # the settings a world was made with; written last
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


@dataclass(frozen=True)
class Scene:
    """Who does what beside whom; `events` in the order of time."""

    actor: Thing
    other: Thing
    events: tuple[str, ...]
    track: tuple[State, ...]  # the actor's state at the knots: one more than there are events
    other_state: State
    background_seed: int
    template: int
    wording: int

    @property
    def key(self) -> tuple[Thing, Thing, frozenset[tuple[str, ...]]]:
        """What must differ between train, validation and test; a scene and its twin share it."""
        return self.actor, self.other, frozenset((self.events, reversed_events(self.events)))

    def twin(self) -> Scene:
        """The same scene run backwards."""
        return replace(self, events=reversed_events(self.events), track=self.track[::-1])


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
    turns = "clockwise" in events or "anticlockwise" in events
    shapes = [shape for shape in SHAPES if shape != "arrow"]
    actor = Thing(_pick(rng, COLOURS), "arrow" if turns else _pick(rng, shapes))
    other = Thing(
        _pick(rng, [colour for colour in COLOURS if colour != actor.colour]),
        _pick(rng, [shape for shape in SHAPES if shape != actor.shape]),
    )
    start, other_state = _places(events, actor.shape == "arrow", rng)
    track = [start]
    for event in events:
        track.append(_after(event, track[-1], rng))
    if events[-1] in ("shrink", "grow") or events[0] in ("shrink", "grow"):
        track = _with_sizes(events, track)
    if events[0] == "appear":
        track[0] = replace(track[1], opacity=0.0)
    return Scene(
        actor,
        other,
        events,
        tuple(track),
        other_state,
        background_seed=int(rng.integers(2**31)),
        template=int(rng.integers(len(TEMPLATES))),
        wording=int(rng.integers(2)),
    )


def _pick(rng: np.random.Generator, names: Iterable[str]) -> str:
    choices = list(names)
    return choices[int(rng.integers(len(choices)))]


def _places(
    events: tuple[str, ...], is_arrow: bool, rng: np.random.Generator
) -> tuple[State, State]:
    """Where the actor starts and where the other one stands, so that they do not meet."""
    x, y = rng.uniform(0.28, 0.72, size=2)
    for event in events:
        dx, dy = MOVES.get(event, (0.0, 0.0))
        x = 0.5 - TRAVEL / 2 * dx + rng.uniform(-0.03, 0.03) if dx else x
        y = 0.5 - TRAVEL / 2 * dy + rng.uniform(-0.03, 0.03) if dy else y
    angle = float(rng.integers(8)) * 45.0 if is_arrow else 0.0
    actor = State(float(x), float(y), 0.17, angle, 1.0)
    path = _path(actor, events)
    corners = [(cx, cy) for cx in (0.18, 0.5, 0.82) for cy in (0.18, 0.5, 0.82)]
    clearance = [min(np.hypot(cx - px, cy - py) for px, py in path) for cx, cy in corners]
    clearest = np.argsort(clearance)[-2:]
    cx, cy = corners[int(clearest[rng.integers(2)])]
    return actor, State(cx, cy, 0.13, float(rng.integers(4)) * 90.0, 1.0)


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
    if event == "vanish":
        return replace(state, opacity=0.0)
    if event in ("clockwise", "anticlockwise"):
        turn = rng.uniform(110.0, 170.0)
        return replace(state, angle=state.angle + (turn if event == "clockwise" else -turn))
    return state


def _with_sizes(events: tuple[str, ...], track: list[State]) -> list[State]:
    """The track with the radius that growing and shrinking ask for."""
    radii = [0.17] * len(track)
    for place, event in enumerate(events):
        if event in SIZES:
            before, after = SIZES[event]
            radii[: place + 1] = [before] * (place + 1)
            radii[place + 1 :] = [after] * (len(track) - place - 1)
    return [replace(state, radius=radius) for state, radius in zip(track, radii, strict=True)]


def states(scene: Scene, num_frames: int) -> list[State]:
    """The actor's state in each frame, between the knots of its track."""
    times = np.linspace(0.0, 1.0, num_frames)
    moving = np.clip((times - HELD_STILL) / (1 - 2 * HELD_STILL), 0.0, 1.0)
    knots = np.linspace(0.0, 1.0, len(scene.track))
    names = ("x", "y", "radius", "angle", "opacity")
    tracks = [[getattr(state, name) for state in scene.track] for name in names]
    columns = [np.interp(moving, knots, track) for track in tracks]
    return [State(*map(float, row)) for row in zip(*columns, strict=True)]


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
    turns = sum(event in ("clockwise", "anticlockwise") for event in PHRASES)
    events_of_shapes = len(PHRASES) - turns + len(SEQUENCES)
    actions = ((len(SHAPES) - 1) * events_of_shapes + turns) // 2  # each way round; arrows turn
    return len(COLOURS) * actions * (len(COLOURS) - 1) * (len(SHAPES) - 1)


def draw_scenes(count: int, rng: np.random.Generator, taken: set[object]) -> list[Scene]:
    """Random scenes whose keys are not taken; `taken` grows by theirs."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = draw_scene(rng)
        if scene.key not in taken:
            taken.add(scene.key)
            scenes.append(scene)
    return scenes


@dataclass(frozen=True)
class MiniClip:
    """One clip of the world with its captions."""

    id: str
    source: str
    split: str  # "train", "validate" or "test", as MSRVTT names them
    scene: Scene
    captions: tuple[str, ...]


def plan_world(world: World) -> list[MiniClip]:
    """All clips of the world; twins stand side by side and share a source.

    Raises DataError where it asks for more scenes than there are.
    """
    counts = (world.train_scenes, world.validation_scenes, world.test_scenes)
    if sum(counts) > (possible := num_different_scenes()):
        raise DataError(
            f"the mini world has {possible} different scenes, the spec asks for {sum(counts)}\n"
            "  Lower train_scenes, validation_scenes or test_scenes in profile.mini.data.world."
        )
    assert world.captions_per_clip is not None  # the spec's check
    rng = np.random.default_rng(world.seed)
    taken: set[object] = set()
    clips: list[MiniClip] = []
    for split, count in zip(("train", "validate", "test"), counts, strict=True):
        for scene in draw_scenes(count, rng, taken):
            several = _caption_choices(world.captions_per_clip, rng)
            choices = several if split == "train" else [(scene.template, scene.wording)]
            source = f"mini://scene/{len(clips) // 2}"
            for version in (scene, scene.twin()):
                captions = tuple(caption(version, *choice) for choice in choices)
                clips.append(MiniClip(f"video{len(clips)}", source, split, version, captions))
    return clips


def _caption_choices(count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    every = list(product(range(len(TEMPLATES)), range(2)))
    picked = rng.permutation(len(every))[:count]
    return [every[int(index)] for index in picked]


def ensure_world(root: Path, world: World, num_workers: int, progress: bool = True) -> None:
    """Make the world under `root` unless it is there already; one of other settings is replaced.

    Raises DataError where the folder holds something else, RunError where it cannot be written. The
    world appears under its name when whole.
    """
    wanted = {"version": WORLD_VERSION, **world.model_dump()}
    found = _read_marker(root)
    if found == wanted:
        return
    if found is None and root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(
            f"{root}: holds files that are not a mini world\n"
            "  Set profile.mini.data.root to a folder of its own."
        )
    partial = root.with_name(f"{root.name}.partial-{os.getpid()}")
    try:
        make_world(partial, world, num_workers, progress)
        (partial / MARKER).write_text(json.dumps(wanted), encoding="utf-8")
        if _read_marker(root) != wanted:  # nobody else was faster
            shutil.rmtree(root, ignore_errors=True)
            partial.rename(root)
    except OSError as error:
        way_out = "Free some space, or set profile.mini.data.root to another folder."
        reason = f"the mini world cannot be written: {error.strerror}"
        raise RunError(f"{root}: {reason}\n  {way_out}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read_marker(root: Path) -> dict[str, object] | None:
    """The settings of the world under `root`; None where there is none, or something else."""
    try:
        content = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) and "train_scenes" in content else None


def make_world(root: Path, world: World, num_workers: int, progress: bool) -> None:
    """Write clips and annotations under `root`.

    Files: videos/<id>.mp4, train_val_videodatainfo.json, test_videodatainfo.json,
    MSRVTT_train.9k.csv, MSRVTT_JSFUSION_test.csv, twins.csv.
    """
    clips = plan_world(world)
    (root / "videos").mkdir(parents=True, exist_ok=True)
    jobs = [(root / "videos" / f"{clip.id}.mp4", clip.scene, world) for clip in clips]
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        with interrupts_held_back():  # Ctrl-C is for the parent; its children would each complain
            written = pool.map(_write_scene, jobs, chunksize=16)
        deque(tqdm(written, "drawing clips", len(jobs), False, disable=not progress), maxlen=0)
    _write_annotations(root, clips, world)


def _write_scene(job: tuple[Path, Scene, World]) -> None:
    path, scene, world = job
    write_clip(path, render(scene, world.num_frames, world.size_px), world.frames_per_second)


def _write_annotations(root: Path, clips: list[MiniClip], world: World) -> None:
    sentence_id = 0
    for name, splits in (("train_val", ("train", "validate")), ("test", ("test",))):
        videos, sentences = [], []
        for number, clip in enumerate(clips):
            if clip.split not in splits:
                continue
            videos.append(
                {
                    "category": 0,
                    "url": clip.source,
                    "video_id": clip.id,
                    "start time": 0.0,
                    "end time": world.num_frames / world.frames_per_second,
                    "split": clip.split,
                    "id": number,
                }
            )
            for text in clip.captions:
                sentences.append({"caption": text, "video_id": clip.id, "sen_id": sentence_id})
                sentence_id += 1
        content = {"info": {"seed": world.seed}, "videos": videos, "sentences": sentences}
        (root / f"{name}_videodatainfo.json").write_text(json.dumps(content), encoding="utf-8")
    train = [[clip.id] for clip in clips if clip.split == "train"]
    test = [clip for clip in clips if clip.split == "test"]
    rows = [
        [f"ret{row}", f"msr{clip.id.removeprefix('video')}", clip.id, clip.captions[0]]
        for row, clip in enumerate(test)
    ]
    _write_csv(root / "MSRVTT_train.9k.csv", ["video_id"], train)
    _write_csv(root / "MSRVTT_JSFUSION_test.csv", ["key", "vid_key", "video_id", "sentence"], rows)
    pairs = [[c.id, f"video{int(c.id[5:]) ^ 1}"] for c in clips if c.split != "train"]
    _write_csv(root / "twins.csv", ["video_id", "reversed_id"], pairs)


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def read_twins(root: Path) -> dict[str, str]:
    """Clip id -> id of the clip that shows the same scene backwards; empty where none is known."""
    path = root / "twins.csv"
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["video_id"]: row["reversed_id"] for row in csv.DictReader(file)}
