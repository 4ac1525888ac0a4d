"""Frames of a clip: which ones to look at, and how to decode them.

The only file that imports decord. decord is what the field's numbers were made with, but it can
loop for ever or abort inside native code: every clip is inspected before decord sees it, and files
that were not tried before go through `litevl.data.decode`, in processes that can be killed.

Legend: K frames asked for, S = size_px.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from litevl.errors import DataError

if TYPE_CHECKING:
    import av
    import av.filter

Frames = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

# Degrees anticlockwise, as PyAV tells a file's rotation -> FFmpeg's filters that show it upright.
TURNS: dict[int, tuple[tuple[str, str], ...]] = {
    0: (),
    90: (("transpose", "cclock"),),
    -90: (("transpose", "clock"),),
    180: (("hflip", ""), ("vflip", "")),
    -180: (("hflip", ""), ("vflip", "")),
}


# Samplers: num_available frames in the clip, num_wanted of them, as sorted indices (num_wanted,).
# Clips shorter than num_wanted repeat frames; no index is ever outside the clip.


def blip_uniform(num_available: int, num_wanted: int, _rng: np.random.Generator) -> Indices:
    """BLIP's and ALPRO's grid, `np.arange(0, n, n / k, dtype=int)`: 0, d, 2d, ..., d = n // k.

    numpy truncates the step, not the index, so the clip's tail is never seen, and a clip shorter
    than num_wanted gives its first frame only. Kept to compare with BLIP's own numbers.
    """
    _expect_counts(num_available, num_wanted)
    return np.arange(num_wanted, dtype=np.int64) * (num_available // num_wanted)


def lavis_uniform(num_available: int, num_wanted: int, _rng: np.random.Generator) -> Indices:
    """LAVIS's `load_video` grid, `np.arange(0, n, n / k).astype(int)`: the index is truncated.

    Rounding makes some indices one smaller than the fraction's: frame 7 of 14 from 122 is 60.
    Some grids are one index too long, such as 7 of 17; the one too many is left out.
    """
    _expect_counts(num_available, num_wanted)
    grid = np.arange(0, num_available, num_available / num_wanted)
    return grid.astype(np.int64)[:num_wanted]


def segment_middle(num_available: int, num_wanted: int, _rng: np.random.Generator) -> Indices:
    """The middle frame of each of num_wanted equal segments: Frozen in Time's `sample_frames`.

    Singularity, VindLU and UMT took it over. Theirs rounds an edge down by one now and then.
    A clip shorter than num_wanted gives all its frames, then repeats the last, as Singularity's.
    """
    first, last = _segments(num_available, num_wanted)
    return _repeat_last((first + last) // 2, num_wanted)


def segment_random(num_available: int, num_wanted: int, rng: np.random.Generator) -> Indices:
    """One frame of each of the same segments, drawn evenly by `rng`; short clips as above.

    Frozen in Time's `random.choice(range(first, last))` never draws a segment's last frame.
    """
    first, last = _segments(num_available, num_wanted)
    return _repeat_last(rng.integers(first, last, endpoint=True), num_wanted)


SAMPLERS: dict[str, Callable[[int, int, np.random.Generator], Indices]] = {
    "blip-uniform": blip_uniform,
    "lavis-uniform": lavis_uniform,
    "segment-middle": segment_middle,
    "segment-random": segment_random,
}


def _segments(num_available: int, num_wanted: int) -> tuple[Indices, Indices]:
    """First and last frame of each segment, both (min(num_available, num_wanted),)."""
    _expect_counts(num_available, num_wanted)
    num_segments = min(num_available, num_wanted)
    edges = np.arange(num_segments + 1, dtype=np.int64) * num_available // num_segments
    return edges[:-1], edges[1:] - 1


def _repeat_last(indices: Indices, num_wanted: int) -> Indices:
    return np.pad(indices, (0, num_wanted - len(indices)), mode="edge")


def _expect_counts(num_available: int, num_wanted: int) -> None:
    if num_available < 1 or num_wanted < 1:
        raise ValueError(f"cannot sample {num_wanted} frames of {num_available}")


# Reading one clip.


def count_frames(path: Path, first_seconds: float | None = None) -> int:
    """Number of frames in the file, by reading its packets; nothing is decoded.

    first_seconds: only frames shown in so many seconds from the first one count.
    Raises DataError, with the reason, for a file that cannot be a whole clip: missing, empty,
    truncated, without video, with fewer frames than its container claims, or a still picture. A
    video file with a single frame is a clip, as it is to decord: samplers repeat that frame.
    """
    import av

    quieten("pyav")
    _expect_file(path)
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")  # not the cover picture
            if not isinstance(stream, av.VideoStream):
                kinds = ", ".join(sorted({stream.type for stream in container.streams}))
                raise DataError(f"{path}: holds no video stream, only: {kinds or 'nothing'}")
            if container.format.name == "image2" or container.format.name.endswith("_pipe"):
                raise DataError(f"{path}: a still picture, not a clip")
            num_claimed = len(stream.index_entries) or stream.frames
            num_whole, times = 0, []
            for packet in container.demux(stream):
                if packet.size and not packet.is_corrupt:
                    num_whole += 1
                    if not packet.is_discard:  # cut off by an edit list: not shown
                        times.append(packet.pts if packet.pts is not None else packet.dts)
            num_frames = _num_early(times, stream.time_base, first_seconds)
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"{path}: {_reason_unreadable(path)}") from error
    if num_whole < num_claimed:
        raise DataError(
            f"{path}: truncated: the container claims {num_claimed} frames, {num_whole} are there"
        )
    if not num_frames:
        raise DataError(f"{path}: holds a video stream without any frame")
    return num_frames


def _num_early(
    times: list[int | None], time_base: Fraction | None, first_seconds: float | None
) -> int:
    """How many frames are shown in the first seconds, in ticks of time_base."""
    if first_seconds is None or time_base is None or None in times:
        return len(times)
    ticks = [time for time in times if time is not None]
    start = min(ticks, default=0)
    return sum((time - start) * time_base < first_seconds for time in ticks)


def read_frames(
    path: Path,
    indices: Iterable[int] | None,
    size_px: int,
    decoder: str,
    first_seconds: float | None = None,
) -> Frames:
    """The asked frames of a clip, in the asked order, resized to a square: (K, S, S, 3) RGB.

    indices: frame numbers from 0 in display order, repeats allowed; None for all frames.
    first_seconds: what is shown later does not count as a frame of the clip.
    decoder: "decord" or "pyav". Both give the same frames, bit for bit; reproductions/README.md has
             what differs. Pictures are turned upright as the file says; the resize distorts the
             aspect ratio, as BLIP's and ALPRO's does.
    Frames are counted, not timed: one that is shown for long is one.
    Raises DataError when the file is not a whole clip or holds fewer frames than asked for.
    No time limit: decord can hang on a damaged file, so `decode_clips` is for files not yet tried.
    """
    expect_decoder(decoder)
    num_frames = count_frames(path, first_seconds)
    wanted = np.arange(num_frames) if indices is None else np.asarray([*indices], dtype=np.int64)
    if not len(wanted):
        return np.empty((0, size_px, size_px, 3), np.uint8)
    if wanted.min() < 0 or wanted.max() >= num_frames:
        raise DataError(
            f"{path}: frame {wanted.min() if wanted.min() < 0 else wanted.max()} asked for, "
            f"the clip has frames 0 to {num_frames - 1}"
        )
    # From the start up to the last wanted frame, without seeking: decord's seek returns wrong
    # frames on open-GOP H.264 (31 of 100 draws in our trial; dmlc/decord issue 195).
    needed = np.unique(wanted)
    frames = np.empty((len(needed), size_px, size_px, 3), np.uint8)
    num_kept = 0
    with contextlib.suppress(_DecodingError):  # too few frames: judged below
        for number, frame in enumerate(DECODERS[decoder](path, size_px)):
            if number == needed[num_kept]:
                frames[num_kept] = frame()
                num_kept += 1
            if num_kept == len(needed):
                break
    if num_kept < len(needed):
        raise DataError(f"{path}: {_reason_undecodable(path, num_frames, decoder)}")
    return frames if indices is None else frames[np.searchsorted(needed, wanted)]


class _DecodingError(Exception):
    """The decoder gave up on damaged data."""


def _decord_frames(path: Path, size_px: int) -> Iterator[Callable[[], Frames]]:
    """All frames in display order, resized by decord. Each comes as a call that copies it out."""
    import decord

    quieten("decord")
    _expect_rewindable(path)

    def pixels(frame: Any) -> Frames:
        # Rows are padded to 64 bytes, and where a pixel's share of that comes to 4 bytes or more,
        # decord says so: (48, 48, 4) for a 48 px square. The colours are the row's first bytes.
        rows: Frames = frame.asnumpy().reshape(size_px, -1)
        return rows[:, : 3 * size_px].reshape(size_px, size_px, 3)

    try:
        reader = decord.VideoReader(
            str(path), ctx=decord.cpu(0), width=size_px, height=size_px, num_threads=1
        )
        for _ in range(len(reader)):
            yield functools.partial(pixels, reader.next())
    except (decord.DECORDError, RuntimeError, StopIteration) as error:
        raise _DecodingError from error


def _pyav_frames(path: Path, size_px: int) -> Iterator[Callable[[], Frames]]:
    """All frames in display order, resized by FFmpeg. Each comes as a call that converts it."""
    import av

    graphs: dict[tuple[int, int, str, int], av.filter.Graph] = {}  # one, unless the size changes

    def convert(frame: av.VideoFrame) -> Frames:
        kind = (frame.width, frame.height, frame.format.name, frame.rotation)
        if kind not in graphs:
            graphs[kind] = _square_graph(frame, size_px)
        graphs[kind].vpush(frame)
        return graphs[kind].vpull().to_ndarray().astype(np.uint8, copy=False)

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            assert isinstance(stream, av.VideoStream)  # count_frames has seen to it
            stream.thread_type = "NONE"
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    return
                yield functools.partial(convert, frame)
    except av.error.FFmpegError as error:
        raise _DecodingError from error


def _square_graph(frame: "av.VideoFrame", size_px: int) -> "av.filter.Graph":
    """decord's own chain of filters: upright first, then a square, then RGB.

    PyAV's `reformat` minds where H.264 places the colours between the pixels, decord does not: the
    two differ by 1 of 255 levels in the mean.
    """
    import av.filter

    graph = av.filter.Graph()
    graph.threads = 1
    nodes = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1)
        ),
        *(graph.add(name, arguments) for name, arguments in TURNS.get(frame.rotation, ())),
        graph.add("scale", f"{size_px}:{size_px}:flags=bilinear"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph


DECODERS: dict[str, Callable[[Path, int], Iterator[Callable[[], Frames]]]] = {
    "decord": _decord_frames,
    "pyav": _pyav_frames,
}


PACKAGES = {"decord": "decord", "pyav": "av"}  # decoder -> what it needs installed


def expect_decoder(decoder: str) -> None:
    """Raise DataError for a decoder that is unknown or not installed."""
    if decoder not in DECODERS:
        raise DataError(f"unknown decoder {decoder!r}; known: {', '.join(DECODERS)}")
    if importlib.util.find_spec(PACKAGES[decoder]) is None:
        raise DataError(
            f"decoder {decoder!r}: package {PACKAGES[decoder]} is not installed (decord has wheels "
            'for Linux and Windows on x86-64 only); frames.decoder = "pyav" works everywhere'
        )


def decoder_versions(decoder: str) -> list[str]:
    """The packages that decide which frames a decoder gives; av counts them for both."""
    packages = sorted({"av", PACKAGES[decoder]})
    return [f"{name} {importlib.metadata.version(name)}" for name in packages]


def quieten(decoder: str) -> None:
    """Load a decoder and silence what its FFmpeg prints: the reasons in DataErrors say it."""
    import av

    av.logging.set_level(av.logging.PANIC)
    if decoder == "decord":
        import decord

        decord.logging.set_level(decord.logging.QUIET)


def _expect_file(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: missing: no such file")
    if not path.is_file():
        raise DataError(f"{path}: not a file")
    num_bytes = path.stat().st_size
    if num_bytes == 0:
        raise DataError(f"{path}: empty: 0 bytes")
    num_claimed = _riff_bytes(path)
    if num_claimed > num_bytes:  # FFmpeg takes such a file for a shorter clip
        raise DataError(
            f"{path}: truncated: its AVI header claims {num_claimed} bytes, {num_bytes} are there"
        )


def _expect_rewindable(path: Path) -> None:
    """Refuse MPEG transport streams to decord, which shows their last frames in place of others.

    It reads a clip through to count its frames, then back from the first; here that seek misses.
    """
    with path.open("rb") as file:
        start = file.read(2 * 188 + 1)
    if start[::188] == b"GGG":  # each packet is 188 bytes and begins so
        raise DataError(
            f"{path}: an MPEG transport stream, which decord cannot rewind and would show wrongly: "
            'set frames.decoder = "pyav", or put it into an MP4 file'
        )


def _riff_bytes(path: Path) -> int:
    """How long an AVI file says it is; 0 for any other file."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return 0  # opening it again says why
    is_avi = start[:4] == b"RIFF" and start[8:] == b"AVI "
    return 8 + int.from_bytes(start[4:8], "little") if is_avi else 0


def _reason_unreadable(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    if start[4:8] == b"ftyp":
        return "truncated: begins as an MP4 file but ends before its index (moov) is complete"
    return "not a video file that FFmpeg knows"


def _reason_undecodable(path: Path, num_frames: int, decoder: str) -> str:
    # Counted by PyAV for both: decord's decoding thread fails at a different frame each time.
    num_decoded = 0
    with contextlib.suppress(_DecodingError):
        for _ in _pyav_frames(path, 1):
            num_decoded += 1
    if num_decoded >= num_frames:  # more, where the clip counts up to some second only
        return f'{decoder} cannot decode it, pyav can: set frames.decoder = "pyav"'
    return f"the container claims {num_frames} frames, decoding stops after {num_decoded}"
