"""Clips as training gets them: from the compact cache, from their files, and whether it waits.

Clips are drawn and encoded here, as large and as long as MSR-VTT's. All contenders read the same
files, which the system keeps in memory after the first round: what a disk costs is not in it.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import decord
import numpy as np
import torch

from benchmarks.harness import ROOT, Measured, Way, measured_row, quartiles, ratio_figure
from benchmarks.worlds import Setting
from litevl.benchmark_record import Conditions, Contender, Figure, Row
from litevl.data.annotations import Clip
from litevl.data.samplers import SAMPLERS, Indices, sampler_of
from litevl.data.shards import Reading, Shards
from litevl.data.video import Frames, read_frames
from litevl.engine.precision import repeatable
from litevl.engine.retrieval import RetrievalObjective
from litevl.engine.train import History, train
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.weights import load_blip
from litevl.prepare import prepare
from litevl.spec import Resolved, load_spec, model_options, resolve

SIZE_PX = 224
WIDTH, HEIGHT, RATE = 320, 240, 25
CHOICES = 4  # as the paper profiles have it
CPU = torch.device("cpu")  # where clips are read, wherever the model is


def inputs(setting: Setting) -> Measured:
    """Clips per second from cache and from files beside decord's, and training's waiting share."""
    rows, figures = [], []
    with TemporaryDirectory(prefix="litevl-input-") as name:
        folder = Path(name)
        num_seconds = (1, 1) if setting.quick else (10, 12, 13, 15)
        clips = [
            draw_clip(folder / f"clip{number}.mp4", seconds * RATE, number)
            for number, seconds in enumerate(num_seconds)
        ]
        for num_frames in (8, 16):
            row = cached_row(clips, folder / "cache", num_frames, setting)
            rows.append(row)
            figures.append(against_decord(row, f"Cached clips, {num_frames} frames", 8.0))
        for decoder in ("pyav", "decord"):
            row = decoding_row(clips, decoder, setting)
            rows.append(row)
            if decoder == "pyav":  # what the specs decode by; the other row is for comparison
                figures.append(against_decord(row, f"Cold decoding by {decoder}, 8 frames", 1.0))
        rows.append(waiting_row(folder, setting))
    share = (
        rows[-1].contender("waiting").seconds.median / rows[-1].contender("steps").seconds.median
    )
    figures.append(
        Figure(
            name="input-waiting",
            claim="Share of the steps' time that training in the mini profile waits for its input",
            unit="",
            at_most=0.05,
            value=share,
        )
    )
    return rows, figures


def against_decord(row: Row, what: str, at_least: float) -> Figure:
    """The figure of a row: ours against the loop over `decord.VideoReader(...).get_batch`."""
    name = f"input-{row.name.replace('/', '-')}"
    claim = f"{what}, against decord.get_batch on the files"
    return ratio_figure(name, claim, at_least, row, "decord")


def draw_clip(path: Path, num_frames: int, seed: int) -> Path:
    """Write an H.264 clip with x264's usual groups of frames: a noisy texture that moves."""
    rng = np.random.default_rng(seed)
    rough = rng.normal(128, 40, (HEIGHT // 8, WIDTH // 8, 3)).clip(0, 255).astype(np.int16)
    texture = np.kron(rough, np.ones((8, 8, 1), np.int16))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(num_frames):
            picture = np.roll(texture, (number // 2, 2 * number), axis=(0, 1))
            left = 5 * number % (WIDTH - 40)
            picture[60:120, left : left + 40] = (250, 60, 20)
            picture = (picture + rng.integers(-6, 7, picture.shape)).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def decord_loop(clips: list[Path], num_frames: int, num_threads: int) -> Callable[[], list[Frames]]:
    """What one would write: each clip opened at the model's size, the middle frames as a batch."""

    def call() -> list[Frames]:
        found = []
        for clip in clips:
            reader = decord.VideoReader(
                str(clip), width=SIZE_PX, height=SIZE_PX, num_threads=num_threads
            )
            found.append(reader.get_batch(middles(len(reader), num_frames)).asnumpy())
        return found

    return call


def middles(num_available: int, num_frames: int) -> Indices:
    """The frames of `segment-middle`."""
    return SAMPLERS["segment-middle"](num_available, num_frames, np.random.default_rng(0))


def cached_row(clips: list[Path], cache: Path, num_frames: int, setting: Setting) -> Row:
    """Batches of all clips with other random frames each time, from shards that are there."""
    reading = Reading(SIZE_PX, "decord", None, "segment-random", num_frames, CHOICES)
    some = [Clip(path.stem, path, path.stem, ("a",)) for path in clips]
    store = Shards.open(some, cache, reading, num_workers=1, progress=False)
    sample, rng = sampler_of("segment-random", CHOICES), np.random.default_rng(0)

    def ours() -> Frames:
        drawn = [sample(store.num_frames(index), num_frames, rng) for index in range(len(clips))]
        return store.pictures(list(enumerate(drawn)))

    ways = [
        Way("ours", ours, len(clips), len(clips) * num_frames * SIZE_PX * SIZE_PX * 3),
        Way("decord", decord_loop(clips, num_frames, 1), len(clips)),
    ]
    conditions = {**clip_conditions(clips, num_frames), "files": "in memory"}
    return measured_row(
        f"cached/{num_frames}-frames", "clips", conditions, ways, setting.effort, CPU
    )


def decoding_row(clips: list[Path], decoder: str, setting: Setting) -> Row:
    """The same middle frames of each clip, decoded from its file; one thread decodes."""

    def ours() -> list[Frames]:
        return [read_frames(clip, middles(count, 8), SIZE_PX, decoder) for clip, count in counted]

    counted = [(clip, len(decord.VideoReader(str(clip)))) for clip in clips]
    for mine, theirs in zip(ours(), decord_loop(clips, 8, 1)(), strict=True):
        assert np.array_equal(mine, theirs), "not the same frames"
    ways = [
        Way("ours", ours, len(clips)),
        Way("decord", decord_loop(clips, 8, 1), len(clips)),
        Way("decord-own-threads", decord_loop(clips, 8, 0), len(clips)),
    ]
    return measured_row(
        f"decoding/{decoder}", "clips", clip_conditions(clips, 8), ways, setting.effort, CPU
    )


def clip_conditions(clips: list[Path], num_frames: int) -> Conditions:
    """What the clips are."""
    return {
        "clips": len(clips),
        "clip": f"{WIDTH}x{HEIGHT}, {RATE}/s, H.264",
        "kib_each": statistics.mean(clip.stat().st_size for clip in clips) // 1024,
        "frames": num_frames,
        "size_px": SIZE_PX,
    }


def waiting_row(folder: Path, setting: Setting) -> Row:
    """Training in the mini profile on fewer clips of its world: in all, and until batches came.

    loading: what making the batches takes by itself, which is what would be waited for if nobody
    made them ahead.
    """
    settings = mini_settings(folder, 4 if setting.quick else 160)
    data = prepare(settings, None, False)
    max_steps, rounds = (2, 1) if setting.quick else (60, 3)
    histories: list[History] = []
    loading: list[float] = []
    for number in range(rounds):
        start = settings.model.weights, torch.Generator().manual_seed(0)
        model, _ = load_blip(LiteVLForRetrieval, *start, **model_options(settings))
        objective = RetrievalObjective(
            model.to(setting.device), settings, data.clips["train"], data.clips["validation"], 0
        )
        with repeatable(setting.device):
            histories.append(
                train(objective, settings.train, 0, max_steps, folder / f"run{number}", "training")
            )
        loading.append(seconds_of(objective, max_steps))
    seconds = {
        "steps": [history.step_seconds for history in histories],
        "waiting": [history.waiting_seconds for history in histories],
        "loading": loading,
    }
    return Row(
        name="training/mini",
        item="steps",
        rounds=rounds,
        conditions={"clips": len(data.clips["train"]), "batch": settings.train.batch_size},
        contenders=tuple(
            Contender(name=name, seconds=quartiles(values), items=max_steps)
            for name, values in seconds.items()
        ),
    )


def mini_settings(folder: Path, num_scenes: int) -> Resolved:
    """The mini profile of MSR-VTT in a folder of its own, with fewer training scenes."""
    settings = resolve(load_spec(ROOT / "reproductions" / "msrvtt.toml"), "mini", "full")
    data = settings.data
    assert data.world is not None
    scenes = {"train_scenes": num_scenes, "validation_scenes": 2, "test_scenes": 2}
    counts = {f"{name.partition('_')[0]}_clips": 2 * count for name, count in scenes.items()}
    batch_size = min(settings.train.batch_size, 2 * num_scenes)
    changed = {
        "root": str(folder / "mini"),
        "world": data.world.model_copy(update=scenes),
        "expected": data.expected.model_copy(update=counts),
    }
    return settings.model_copy(
        update={
            "data": data.model_copy(update=changed),
            "train": settings.train.model_copy(update={"batch_size": batch_size}),
        }
    )


def seconds_of(objective: RetrievalObjective, num_steps: int) -> float:
    """How long it takes to make the batches of so many steps."""
    epochs = itertools.count()
    batches = itertools.chain.from_iterable(map(objective.batches, epochs))
    started = time.perf_counter()
    for _ in itertools.islice(batches, num_steps):
        pass
    return time.perf_counter() - started
