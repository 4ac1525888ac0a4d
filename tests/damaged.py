"""Two hundred damaged clips for tests, made from a few whole ones with fixed seeds."""

import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from clips import write_audio, write_clip, write_overclaiming

NUM_EACH = 40
SIZE_PX = 64
CODECS = {".mp4": "libx264", ".mkv": "libx264", ".avi": "mpeg4", ".ts": "libx264", ".flv": "flv"}


def write_damaged_clips(folder: Path) -> dict[str, list[Path]]:
    """Write NUM_EACH clips of every kind of damage; returns the paths by kind.

    They are called .mp4 whatever they hold, as a data set's files would be.
    """
    sources = [path.read_bytes() for path in write_sources(folder)]
    makers: dict[str, Callable[[Path, random.Random], None]] = {
        "truncated": lambda path, rng: path.write_bytes(truncated(rng.choice(sources), rng)),
        "flipped": lambda path, rng: path.write_bytes(flipped(rng.choice(sources), rng)),
        "wrong container": write_wrong_container,
        "zero bytes": lambda path, rng: path.write_bytes(
            bytes(rng.choice([0, 1, 8, 100, 5000, 200_000]))
        ),
        "claims too many frames": lambda path, rng: write_overclaiming(
            path, extra=rng.choice([1, 2, 16, 200, 2000])
        ),
    }
    made: dict[str, list[Path]] = {}
    for kind, make in makers.items():
        rng = random.Random(kind)
        made[kind] = [folder / f"{kind.replace(' ', '-')}-{n}.mp4" for n in range(NUM_EACH)]
        for path in made[kind]:
            make(path, rng)
    return made


def write_sources(folder: Path) -> list[Path]:
    """Write whole clips in the ways that data sets hold: index last or first, AVI, Matroska."""
    kept = []
    for number, (suffix, options) in enumerate(
        [(".mp4", {}), (".mp4", {"movflags": "faststart"}), (".avi", {}), (".mkv", {})]
    ):
        path = folder / f"source{number}{suffix}"
        codec = CODECS[suffix]
        kept.append(write_clip(path, 24, SIZE_PX, container_options=options, codec=codec))
    return kept


def truncated(content: bytes, rng: random.Random) -> bytes:
    """The clip up to a random byte."""
    return content[: rng.randrange(1, len(content))]


def flipped(content: bytes, rng: random.Random) -> bytes:
    """The clip with a random number of random bits turned."""
    damaged = bytearray(content)
    for _ in range(rng.choice([1, 3, 10, 100, 1000])):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def write_wrong_container(path: Path, rng: random.Random) -> None:
    """Write something else under the name of a clip: no video at all, or another container."""
    kind = rng.choice(
        ["text", "page", "archive", "picture", "audio", ".mkv", ".avi", ".ts", ".flv"]
    )
    if kind == "text":
        path.write_text("video0\n" * rng.randrange(1, 1000), encoding="utf-8")
    elif kind == "page":  # what a server answers when the clip is gone
        path.write_text("<!DOCTYPE html><title>404 Not Found</title>" * 9, encoding="utf-8")
    elif kind == "archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("video0.mp4", rng.randbytes(1000))
    elif kind == "picture":
        write_picture(path)
    elif kind == "audio":
        write_audio(path)
    else:
        other = path.with_name(f"{path.stem}.other{kind}")
        codec = CODECS[kind]
        write_clip(other, rng.randrange(2, 24), SIZE_PX, codec=codec)
        other.rename(path)


def write_picture(path: Path) -> None:
    """Write a PNG."""
    with av.open(str(path), "w", format="image2pipe") as container:
        stream = container.add_stream("png", rate=1)
        stream.width = stream.height = SIZE_PX
        stream.pix_fmt = "rgb24"
        pixels = np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)
        for packet in (*stream.encode(av.VideoFrame.from_ndarray(pixels)), *stream.encode()):
            container.mux(packet)
