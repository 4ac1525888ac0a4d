"""Tiny clips for tests, whole and damaged. Frame i of n is grey at level 20 + 200 * i / n."""

import random
import struct
from pathlib import Path

import av
import numpy as np

CONTAINERS = (b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl")


def write_clip(
    path: Path,
    num_frames: int = 24,
    size_px: int = 96,
    options=None,
    container_options=None,
    codec: str = "libx264",
) -> Path:
    """Write an H.264 clip with B-frames: a bright square crosses a background that brightens."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=8)
        stream.width = stream.height = size_px
        stream.pix_fmt = "yuv420p"
        own = {"bf": "2", "crf": "10", "threads": "1"} if codec == "libx264" else {}
        stream.options = own | (options or {})
        for number in range(num_frames):
            picture = np.full((size_px, size_px, 3), 20 + 200 * number // num_frames, np.uint8)
            left = number * (size_px - 16) // num_frames
            picture[8:24, left : left + 16] = (250, 60, 20)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_audio(path: Path) -> Path:
    """Write an MP4 that holds a second of silence and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        silence = np.zeros((1, 16000), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)
    return path


def levels(frames: np.ndarray) -> list[int]:
    """The background's grey level in each frame (K, S, S, 3)."""
    return [int(level) for level in np.median(frames[:, -8:], axis=(1, 2, 3))]


def edit_boxes(path: Path, edit) -> Path:
    """Pass the payload of each box of an MP4 through edit(kind, payload) and put it back."""

    def walk(payload: bytes) -> bytes:
        out, start = b"", 0
        while start < len(payload):
            size, kind = struct.unpack_from(">I4s", payload, start)
            inner = payload[start + 8 : start + size]
            inner = walk(inner) if kind in CONTAINERS else edit(kind, inner)
            out += struct.pack(">I4s", 8 + len(inner), kind) + inner
            start += size
        return out

    path.write_bytes(walk(path.read_bytes()))
    return path


def write_trimmed(path: Path, **kwargs) -> Path:
    """Write a clip whose edit list cuts off the first frames, as `ffmpeg -ss -c copy` leaves it."""

    def shift_start(kind: bytes, payload: bytes) -> bytes:
        if kind != b"elst":
            return payload
        head, length, start, rate = struct.unpack(">8sIiI", payload)
        return struct.pack(">8sIiI", head, length, start + 10_000, rate)  # 1/16384 s; 5 of 8 fps

    return edit_boxes(write_clip(path, **kwargs), shift_start)


def write_overclaiming(path: Path, extra: int = 16) -> Path:
    """Write a clip whose index lists more frames than there are; they point at other bytes."""

    def claim_more(kind: bytes, payload: bytes) -> bytes:
        if kind == b"mdat":
            return payload + bytes(50 * extra)
        if kind == b"stsz":  # sizes
            (count,) = struct.unpack_from(">I", payload, 8)
            return payload[:8] + struct.pack(">I", count + extra) + payload[12:] + SIZE_50 * extra
        if kind == b"stts":  # durations
            count, duration = struct.unpack(">II", payload[-8:])
            return payload[:-8] + struct.pack(">II", count + extra, duration)
        if kind == b"stsc":  # samples of the only chunk
            return payload[:12] + struct.pack(">I", NUM_FRAMES + extra) + payload[16:]
        if kind == b"elst":
            head, length, start, rate = struct.unpack(">8sIiI", payload)
            length = length * (NUM_FRAMES + extra) // NUM_FRAMES
            return struct.pack(">8sIiI", head, length, start, rate)
        return payload

    return edit_boxes(write_clip(path, NUM_FRAMES, options={"bf": "0"}), claim_more)


NUM_FRAMES = 24
SIZE_50 = struct.pack(">I", 50)


def write_damaged(path: Path, damage: str) -> Path:
    """Write one of the clips that go wrong: see the names below."""
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "random bytes":
        path.write_bytes(random.Random(0).randbytes(5000))
    elif damage == "cut before the index":
        whole = write_clip(path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "cut after the index":
        whole = write_clip(path, container_options={"movflags": "faststart"}).read_bytes()
        path.write_bytes(whole[: int(len(whole) * 0.8)])
    elif damage == "last byte cut":
        whole = write_clip(path, container_options={"movflags": "faststart"}).read_bytes()
        path.write_bytes(whole[:-1])
    elif damage == "audio only":
        write_audio(path)
    elif damage == "claims more frames":
        write_overclaiming(path)
    else:
        assert damage == "missing", damage
    return path


# damage -> what the one reason for it says
REASONS = {
    "missing": "no such file",
    "empty": "0 bytes",
    "random bytes": "not a video file",
    "cut before the index": "truncated: .* before its index",
    "cut after the index": r"truncated: the container claims 24 frames, \d+ are there",
    "last byte cut": "truncated: the container claims 24 frames, 23 are there",
    "audio only": "no video stream, only: audio",
    "claims more frames": r"claims 40 frames, decoding stops after 2\d",
}
