"""The mini worlds: small clips in which only the order of frames tells twins apart.

Each data set has one. Each scene gives two clips, forwards and backwards, with captions or
questions to match (see `litevl.data.scenes`, `moments` and `questions`). Clips are H.264 files with
B-frames; annotations are in the data sets' own published formats. The same seed gives the same
annotations and the same pixels.
"""

from __future__ import annotations

import json
import math
import string
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from litevl.data.drawing import write_clip
from litevl.data.mini_annotations import MiniClip, write_annotations
from litevl.data.moments import (
    CHUNK_SECONDS,
    NUM_CHUNKS,
    draw_moments,
    num_different_moments,
    sentences,
)
from litevl.data.processes import end_with_parent, interrupts_held_back
from litevl.data.questions import Asked, ask
from litevl.data.scenes import (
    TEMPLATES,
    Scene,
    caption,
    draw_scene,
    draw_scenes,
    num_different_scenes,
    render,
)
from litevl.errors import DataError, RunError
from litevl.locks import alone_with
from litevl.whole import whole_folder

if TYPE_CHECKING:
    from litevl.spec import World
    from litevl.tasks import Dataset

WORLD_VERSION = 2  # raised whenever the same settings would give other clips
MARKER = "world.json"  # the settings a world was made with; written last
YOUTUBE_LETTERS = list(string.ascii_letters + string.digits + "-_")


def plan_world(dataset: Dataset, world: World) -> list[MiniClip]:
    """All clips of a data set's world; twins stand side by side and share a source.

    Raises DataError where it asks for more scenes than there are, or for clips that are not as
    long as the data set's annotations say.
    """
    in_moments = dataset == "didemo"
    if in_moments:
        _expect_whole_chunks(world)
    counts = (world.train_scenes, world.validation_scenes, world.test_scenes)
    possible = num_different_moments() if in_moments else num_different_scenes()
    if sum(counts) > possible:
        raise DataError(
            f"the mini world has {possible} different scenes, the spec asks for {sum(counts)}\n"
            "  Lower train_scenes, validation_scenes or test_scenes in profile.mini.data.world."
        )
    rng = np.random.default_rng(world.seed)
    taken: set[object] = set()
    clips: list[MiniClip] = []
    for split, count in zip(("train", "validation", "test"), counts, strict=True):
        for scene in draw_scenes(count, rng, taken, draw_moments if in_moments else draw_scene):
            clips += _clip_and_twin(dataset, world, split, len(clips), scene, rng)
    return clips


def _expect_whole_chunks(world: World) -> None:
    seconds = NUM_CHUNKS * CHUNK_SECONDS
    if world.num_frames != seconds * world.frames_per_second:
        raise DataError(
            f"world.num_frames: {world.num_frames} frames at {world.frames_per_second} per second; "
            f"DiDeMo's annotations are about {seconds} seconds\n"
            f"  Set profile.mini.data.world.num_frames = {seconds * world.frames_per_second}."
        )


def _clip_and_twin(
    dataset: Dataset, world: World, split: str, number: int, scene: Scene, rng: np.random.Generator
) -> list[MiniClip]:
    """A scene's two clips with what is said or asked about each. number: how many stand before."""
    tellings: Sequence[tuple[int, int]] = scene.tellings
    asked: tuple[Asked, ...] = ()
    if dataset == "msrvtt":
        assert world.captions_per_clip is not None  # the spec's check
        several = _tellings(world.captions_per_clip, rng)
        tellings = several if split == "train" else tellings
    elif dataset != "didemo":
        assert world.questions_per_clip is not None  # the spec's check
        asked = ask(scene, world.questions_per_clip, rng)
    source, *ids = _names(dataset, world, number, rng)
    clips = []
    for place, version in enumerate((scene, scene.twin())):
        if dataset == "didemo":
            captions = sentences(version)
        else:
            captions = tuple(caption(version, *telling) for telling in tellings)
        questions = tuple((text, answers[place]) for text, *answers in asked)
        clips.append(MiniClip(ids[place], source, split, version, captions, questions))
    return clips


def _tellings(count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    every = list(product(range(len(TEMPLATES)), range(2)))
    picked = rng.permutation(len(every))[:count]
    return [every[int(index)] for index in picked]


def _names(
    dataset: Dataset, world: World, number: int, rng: np.random.Generator
) -> tuple[str, str, str]:
    """The source of a scene, and the ids of its clip and its twin, as the data set has them."""
    if dataset == "didemo":  # Flickr's user; its user, number of the video, and a secret
        user = f"{10_000_000 + number}@N{rng.integers(10):02}"
        one, two = (f"{rng.integers(16**10):010x}" for _ in range(2))
        photo = 5_000_000_000 + number
        return user, f"{user}_{photo}_{one}", f"{user}_{photo + 1}_{two}"
    if dataset == "msvd-qa":  # YouTube's id of the video; the same, first and last second
        video = "".join(rng.choice(YOUTUBE_LETTERS, size=11))
        seconds = math.ceil(world.num_frames / world.frames_per_second)
        return video, f"{video}_0_{seconds}", f"{video}_{seconds}_{2 * seconds}"
    return f"mini://scene/{number // 2}", f"video{number}", f"video{number + 1}"


def ensure_world(
    root: Path, dataset: Dataset, world: World, num_workers: int, progress: bool = True
) -> None:
    """Make the world under `root` unless it is there already; one of other settings is replaced.

    Raises DataError where the folder holds something else, RunError where it cannot be written. The
    world appears under its name when whole. Of several processes one makes it, the others wait.
    """
    wanted = {"version": WORLD_VERSION, "dataset": dataset, **world.model_dump()}
    if _read_marker(root) == wanted:
        return
    try:
        with alone_with(root):
            found = _read_marker(root)
            if found == wanted:  # somebody else was faster
                return
            if found is None and root.exists() and (not root.is_dir() or any(root.iterdir())):
                raise DataError(
                    f"{root}: holds files that are not a mini world\n"
                    "  Set profile.mini.data.root to a folder of its own."
                )
            with whole_folder(root) as folder:
                make_world(folder, dataset, world, num_workers, progress)
                (folder / MARKER).write_text(json.dumps(wanted), encoding="utf-8")
    except OSError as error:
        way_out = "Free some space, or set profile.mini.data.root to another folder."
        reason = f"the mini world cannot be written: {error.strerror}"
        raise RunError(f"{root}: {reason}\n  {way_out}") from error


def _read_marker(root: Path) -> dict[str, object] | None:
    """The settings of the world under `root`; None where there is none, or something else."""
    try:
        content = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) and "train_scenes" in content else None


def make_world(
    root: Path, dataset: Dataset, world: World, num_workers: int, progress: bool
) -> None:
    """Write the clips, `videos/<id>.mp4`, and annotations (see `write_annotations`) under `root`.

    MSVD's own clips are AVI files, so these are too.
    """
    clips = plan_world(dataset, world)
    (root / "videos").mkdir(parents=True, exist_ok=True)
    suffix = ".avi" if dataset == "msvd-qa" else ".mp4"
    paths = [root / "videos" / f"{clip.id}{suffix}" for clip in clips]
    scenes = [clip.scene for clip in clips[::2]]
    jobs = list(zip(paths[::2], paths[1::2], scenes, repeat(world), strict=False))
    spawn = get_context("spawn")
    with ProcessPoolExecutor(num_workers, spawn, initializer=end_with_parent) as pool:
        with interrupts_held_back():  # Ctrl-C is for the parent; its children would each complain
            written = pool.map(_write_scene, jobs, chunksize=8)
        deque(tqdm(written, "drawing scenes", len(jobs), False, disable=not progress), maxlen=0)
    write_annotations(root, dataset, clips, world)


def _write_scene(job: tuple[Path, Path, Scene, World]) -> None:
    path, path_of_twin, scene, world = job
    frames = render(scene, world.num_frames, world.size_px)
    write_clip(path, frames, world.frames_per_second)
    write_clip(path_of_twin, frames[::-1], world.frames_per_second)
