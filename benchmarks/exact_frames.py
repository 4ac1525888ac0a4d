"""Frames read on their own against those of the whole clip, over clips encoded at random.

    python -m benchmarks.exact_frames [--seconds 120] [--seed 1]

x264 is asked for groups, B-frames, pyramids, references and scene cuts at random, in MP4, MOV and
Matroska, some in fragments, some at variable rates. LiteVL's PyAV decoder, which decodes only what
the wanted frames need, has to give the whole clip's frames bit for bit, and so has its decord
decoder, which reads on from the start: 1 where one does not. What decord's `get_batch` and its
`skip_frames` give is counted beside it: why LiteVL uses neither. So are whole clips in which the
two decoders differ.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import decord
import numpy as np

from litevl.data.samplers import Indices
from litevl.data.video import Frames, read_frames

SIZE_PX = 40
KINDS: dict[str, tuple[Any, ...]] = {
    "keyint": (2, 5, 12, 25, 250),
    "bframes": (0, 1, 2, 3, 8),
    "b-adapt": (0, 1, 2),
    "scenecut": (0, 40),
    "b-pyramid": ("none", "strict", "normal"),
    "ref": (1, 3, 5),
    "open-gop": (0, 0, 0, 1),
    "slices": (1, 1, 3),
}


def write_clip(path: Path, rng: random.Random) -> str:
    """Write a clip encoded at random; returns in words what it is."""
    asked = {name: rng.choice(values) for name, values in KINDS.items()}
    is_fragmented = path.suffix != ".mkv" and rng.random() < 0.2
    is_irregular, num_frames = rng.random() < 0.4, rng.choice((20, 40, 90))
    options = {"movflags": "frag_keyframe+empty_moov"} if is_fragmented else {}
    noise = np.random.default_rng(rng.randrange(2**32))
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        told = ":".join(f"{name}={value}" for name, value in asked.items())
        stream.options = {"x264-params": told, "crf": "20", "threads": "1"}
        shown = 0
        for number in range(num_frames):
            picture = np.full((48, 64, 3), 20 + 200 * number // num_frames, np.int16)
            picture[4:20, number % 48 : number % 48 + 16] = (250, 60, 20)
            picture = (picture + noise.integers(-9, 10, picture.shape)).clip(0, 255)
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = shown, Fraction(1, 8)
            shown += rng.choice((1, 1, 1, 2, 5)) if is_irregular else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    words = [path.suffix[1:]] + ["fragments"] * is_fragmented + ["variable rate"] * is_irregular
    return ", ".join([*words, "open groups" if asked["open-gop"] else "closed groups"])


def by_get_batch(clip: Path, indices: Indices) -> Frames:
    """What decord's own choice of frames gives."""
    reader = decord.VideoReader(str(clip), width=SIZE_PX, height=SIZE_PX, num_threads=1)
    return np.asarray(reader.get_batch(indices).asnumpy())[..., :3]


def by_skipping(clip: Path, indices: Indices) -> Frames:
    """Read in order, what lies between skipped."""
    reader = decord.VideoReader(str(clip), width=SIZE_PX, height=SIZE_PX, num_threads=1)
    found, at = {}, 0
    for number in np.unique(indices).tolist():
        if number > at:
            reader.skip_frames(number - at)
        found[number] = reader.next().asnumpy()[..., :3]
        at = number + 1
    return np.stack([found[number] for number in indices.tolist()])


def main() -> int:
    """Count draws that differ; 1 if one of LiteVL's does."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exact_frames")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    rng, end = random.Random(chosen.seed), time.monotonic() + chosen.seconds
    draws, wrong = Counter[str](), Counter[str]()
    num_clips = 0
    with TemporaryDirectory(prefix="litevl-frames-") as folder:
        while time.monotonic() < end:
            clip = Path(folder) / f"clip{rng.choice(('.mp4', '.mov', '.mkv'))}"
            kind = write_clip(clip, rng)
            num_clips += 1
            whole = read_frames(clip, None, SIZE_PX, "pyav")
            by_decord = read_frames(clip, None, SIZE_PX, "decord")
            draws["whole clips by decord"] += 1
            if not np.array_equal(by_decord, whole):
                wrong["whole clips by decord"] += 1
                wrong[f"  whole clips by decord: {kind}"] += 1
            drawer = np.random.default_rng(num_clips)
            for num_wanted in (1, 1, 2, 4, 8):
                indices = drawer.integers(0, len(whole), num_wanted)
                ways = {
                    "litevl, pyav": read_frames(clip, indices, SIZE_PX, "pyav"),
                    "litevl, decord": read_frames(clip, indices, SIZE_PX, "decord"),
                    "decord.get_batch": by_get_batch(clip, indices),
                    "decord.skip_frames": by_skipping(clip, indices),
                }
                for name, found in ways.items():
                    draws[name] += 1
                    right = by_decord if name == "litevl, decord" else whole
                    if not np.array_equal(found, right[indices]):
                        wrong[name] += 1
                        wrong[f"  {name}: {kind}"] += 1
    print(f"seed {chosen.seed}: {num_clips} clips")
    for name, count in draws.items():
        print(f"{name}: {wrong[name]} of {count} differ")
        for kind, number in sorted(wrong.items()):
            if kind.startswith(f"  {name}: "):
                print(f"  {kind.partition(': ')[2]}: {number}")
    return 1 if wrong["litevl, pyav"] or wrong["litevl, decord"] else 0


if __name__ == "__main__":
    sys.exit(main())
