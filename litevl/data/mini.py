"""The mini world: small clips in which only the order of frames tells twins apart.

Each scene gives two clips, forwards and backwards, with captions to match (see
`litevl.data.scenes`). Clips are H.264 MP4 files with B-frames; annotations are in the data sets'
own published formats. The same seed gives the same annotations and the same pixels.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from litevl.data.decode import interrupts_held_back
from litevl.data.drawing import write_clip
from litevl.data.mini_annotations import MiniClip, write_annotations
from litevl.data.scenes import (
    TEMPLATES,
    Scene,
    caption,
    draw_scenes,
    num_different_scenes,
    render,
)
from litevl.errors import DataError, RunError

if TYPE_CHECKING:
    from litevl.spec import World
    from litevl.tasks import Dataset

WORLD_VERSION = 2  # raised whenever the same settings would give other clips
MARKER = "world.json"  # the settings a world was made with; written last


def plan_world(dataset: Dataset, world: World) -> list[MiniClip]:
    """All clips of the world; twins stand side by side and share a source.

    Raises DataError where it asks for more scenes than there are.
    """
    assert dataset == "msrvtt"
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
    for split, count in zip(("train", "validation", "test"), counts, strict=True):
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


def ensure_world(
    root: Path, dataset: Dataset, world: World, num_workers: int, progress: bool = True
) -> None:
    """Make the world under `root` unless it is there already; one of other settings is replaced.

    Raises DataError where the folder holds something else, RunError where it cannot be written. The
    world appears under its name when whole.
    """
    wanted = {"version": WORLD_VERSION, "dataset": dataset, **world.model_dump()}
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
        make_world(partial, dataset, world, num_workers, progress)
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


def make_world(
    root: Path, dataset: Dataset, world: World, num_workers: int, progress: bool
) -> None:
    """Write clips, videos/<id>.mp4, and annotations (see `write_annotations`) under `root`."""
    clips = plan_world(dataset, world)
    (root / "videos").mkdir(parents=True, exist_ok=True)
    jobs = [(root / "videos" / f"{clip.id}.mp4", clip.scene, world) for clip in clips]
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        with interrupts_held_back():  # Ctrl-C is for the parent; its children would each complain
            written = pool.map(_write_scene, jobs, chunksize=16)
        deque(tqdm(written, "drawing clips", len(jobs), False, disable=not progress), maxlen=0)
    write_annotations(root, dataset, clips, world)


def _write_scene(job: tuple[Path, Scene, World]) -> None:
    path, scene, world = job
    write_clip(path, render(scene, world.num_frames, world.size_px), world.frames_per_second)
