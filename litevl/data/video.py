"""Frames of a clip: how many there are, and how to decode some of them.

The only file that imports decord. decord is what the field's numbers were made with, but it can
loop for ever or abort inside native code: every clip is inspected before decord sees it, and files
that were not tried before go through `litevl.data.decode`, in processes that can be killed.

Legend: K frames asked for, S = size_px.
"""

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from litevl.data.h264 import needed_packets
from litevl.data.samplers import Indices
from litevl.errors import DataError

if TYPE_CHECKING:
    import av
    import av.filter

Frames = npt.NDArray[np.uint8]

# Containers that keep the time at which each frame is shown; AVI's, for one, is made up on reading.
WITH_TIMES = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts")

# Degrees anticlockwise, as PyAV tells a file's rotation -> FFmpeg's filters that show it upright.
TURNS: dict[int, tuple[tuple[str, str], ...]] = {
    0: (),
    90: (("transpose", "cclock"),),
    -90: (("transpose", "clock"),),
    180: (("hflip", ""), ("vflip", "")),
    -180: (("hflip", ""), ("vflip", "")),
}


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
            num_whole, times = 0, list[int | None]()
            for packet in container.demux(stream):
                if packet.size and not packet.is_corrupt:
                    num_whole += 1
                    if not packet.is_discard:  # by an edit list
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


def _h264_extradata(
    container: "av.container.InputContainer", stream: "av.VideoStream"
) -> bytes | None:
    """What the container says of an H.264 decoder; None where it is another, or frames no times."""
    if container.format.name not in WITH_TIMES or stream.codec_context is None:
        return None
    return (stream.codec_context.extradata or b"") if stream.codec_context.name == "h264" else None


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

    def choose(num_frames: int) -> Indices:
        return np.arange(num_frames) if indices is None else np.asarray([*indices], dtype=np.int64)

    return read_chosen(path, choose, size_px, decoder, first_seconds)[1]


def read_chosen(
    path: Path,
    choose: Callable[[int], Indices],
    size_px: int,
    decoder: str,
    first_seconds: float | None = None,
) -> tuple[int, Frames]:
    """As `read_frames`, of the frames that are chosen by how many there are; and that number."""
    expect_decoder(decoder)
    num_frames = count_frames(path, first_seconds)
    wanted = choose(num_frames)
    if not len(wanted):
        return num_frames, np.empty((0, size_px, size_px, 3), np.uint8)
    if wanted.min() < 0 or wanted.max() >= num_frames:
        raise DataError(
            f"{path}: frame {wanted.min() if wanted.min() < 0 else wanted.max()} asked for, "
            f"the clip has frames 0 to {num_frames - 1}"
        )
    needed, place = np.unique(wanted, return_inverse=True)
    frames = np.empty((len(needed), size_px, size_px, 3), np.uint8)
    num_read = 0
    with contextlib.suppress(_DecodingError):  # too few frames: judged below
        for frame in DECODERS[decoder](path, size_px, needed):
            frames[num_read] = frame
            num_read += 1
    if num_read < len(needed):
        raise DataError(f"{path}: {_reason_undecodable(path, num_frames, decoder)}")
    return num_frames, frames if np.array_equal(needed, wanted) else frames[place]


class _DecodingError(Exception):
    """The decoder gave up on damaged data."""


def _decord_frames(path: Path, size_px: int, needed: Indices) -> Iterator[Frames]:
    """The needed frames, resized by decord; numbers ascend.

    All from the start up to the last one: decord's seek returns wrong frames on open-GOP H.264 (31
    of 100 draws in our trial; dmlc/decord issue 195), and its `skip_frames`, which would spare
    resizing, on much else (`benchmarks.exact_frames`).
    """
    import decord

    quieten("decord")
    _expect_rewindable(path)
    num_read = 0
    try:
        reader = decord.VideoReader(
            str(path), ctx=decord.cpu(0), width=size_px, height=size_px, num_threads=1
        )
        for number in range(needed[-1] + 1):
            picture = reader.next()
            if number == needed[num_read]:
                # Rows are padded to 64 bytes, and where a pixel's share of that comes to 4 bytes or
                # more, decord says so: (48, 48, 4) for a 48 px square. Colours are the first bytes.
                rows: Frames = picture.asnumpy().reshape(size_px, -1)
                yield rows[:, : 3 * size_px].reshape(size_px, size_px, 3)
                num_read += 1
    except (decord.DECORDError, RuntimeError, StopIteration) as error:
        raise _DecodingError from error


def _pyav_frames(path: Path, size_px: int, needed: Indices) -> Iterator[Frames]:
    """The needed frames, resized by FFmpeg; numbers ascend.

    Of H.264 only the packets that they need are decoded, which gives the same bits; of what else
    there is, all up to the last one.
    """
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
            packets: Iterable[av.Packet[av.VideoStream]] = container.demux(stream)
            extradata = _h264_extradata(container, stream)
            if extradata is not None:
                packets = list(packets)
                plan = needed_packets(packets, extradata, needed)
                found = plan and _from_few_packets(stream.codec_context, packets, *plan, convert)
                if found and len(found) == len(needed):
                    yield from (found[number] for number in needed.tolist())
                    return
                stream.codec_context.flush_buffers()
            frames = (frame for packet in packets for frame in packet.decode())
            num_read = 0
            for number, frame in enumerate(frames):
                if frame.is_corrupt:
                    raise _DecodingError
                if number == needed[num_read]:
                    yield convert(frame)
                    num_read += 1
                if num_read == len(needed):
                    return
    except av.error.FFmpegError as error:
        raise _DecodingError from error


def _from_few_packets(
    decoder: "av.VideoCodecContext",
    packets: "list[av.Packet[av.VideoStream]]",
    runs: list[list[int]],
    number_of: dict[int, int],
    convert: "Callable[[av.VideoFrame], Frames]",
) -> dict[int, Frames]:
    """Frames by number, of those that `needed_packets` tells how to get; some where that fails."""
    import av

    found: dict[int, Frames] = {}
    with contextlib.suppress(av.error.FFmpegError):
        for run in runs:
            for packet in (*(packets[place] for place in run), None):  # None: what is held back
                for frame in decoder.decode(packet):
                    if frame.is_corrupt:
                        return {}
                    if frame.pts in number_of:
                        found[number_of[frame.pts]] = convert(frame)
            decoder.flush_buffers()
    return found


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


DECODERS: dict[str, Callable[[Path, int, Indices], Iterator[Frames]]] = {
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
        start = file.read(4 + 2 * 192 + 1)
    # Each packet is 188 bytes and begins so; a camera or Blu-ray disc puts 4 bytes before it.
    if b"GGG" in (start[: 2 * 188 + 1 : 188], start[4::192]):
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
    num_decoded, is_damaged = 0, False
    try:
        for _ in _pyav_frames(path, 1, np.arange(num_frames)):
            num_decoded += 1
    except _DecodingError:
        is_damaged = True
    if num_decoded >= num_frames:  # more, where the clip counts up to some second only
        return f'{decoder} cannot decode it, pyav can: set frames.decoder = "pyav"'
    if is_damaged or not num_decoded:
        return f"the container claims {num_frames} frames, decoding stops after {num_decoded}"
    return (
        f"its {num_frames} packets decode to {num_decoded} frames, as of a clip that was cut "
        "without encoding it again; `litevl data prepare` makes them equal"
    )
