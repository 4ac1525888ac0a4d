"""One clip converted: smaller, cut, at a constant frame rate, upright, without sound.

What `litevl data prepare` does to every clip. The result is H.264 in MP4 whatever the source, so
that every decoder gives the same frames of it, and far less has to be read.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litevl.data.drawing import X264
from litevl.data.video import TURNS, count_frames
from litevl.errors import DataError

if TYPE_CHECKING:
    import av
    import av.container
    import av.filter

FASTEST = Fraction(30)  # frames per second, where the clip's own rate is taken
MAX_DENOMINATOR = 1001  # 30000/1001, NTSC's rate


@dataclass(frozen=True)
class Conversion:
    """How every clip is converted.

    short_side_px:     of the result, where the clip's is longer; smaller clips keep their size.
    first_seconds:     what comes later is cut off; None keeps all.
    frames_per_second: frames repeat or fall out to make it so; None takes the clip's own mean rate,
        at most FASTEST.
    """

    short_side_px: int = 256
    first_seconds: float | None = None
    frames_per_second: int | None = None

    def described(self) -> dict[str, Any]:
        """All that decides the result, with versions, as JSON has it."""
        import av

        return {
            **asdict(self),
            "fastest": float(FASTEST),
            "encoder": {"codec": "libx264", "pixels": "yuv420p", **X264},
            "versions": {
                "av": importlib.metadata.version("av"),
                **{name: list(version) for name, version in av.library_versions.items()},
            },
        }


@dataclass(frozen=True)
class ConversionJob:
    """One clip to convert, and where the result goes."""

    clip_id: str
    path: Path
    target: Path


def convert(job: ConversionJob, conversion: Conversion) -> int:
    """Write the converted clip whole or not at all; returns its number of frames.

    Raises DataError, with the reason, for a clip that does not decode to its end or that leaves
    fewer than two frames.
    """
    import av

    num_claimed = count_frames(job.path, conversion.first_seconds)
    partial = job.target.with_name(f".{job.target.name}.partial.mp4")
    try:
        _write(job.path, partial, conversion, num_claimed)
        num_frames = count_frames(partial)
        partial.replace(job.target)
    except (av.error.FFmpegError, OSError) as error:
        at_fault = job.target if error.errno in (errno.ENOSPC, errno.EDQUOT) else job.path
        raise DataError(f"{at_fault}: cannot be converted: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return num_frames


def _write(path: Path, target: Path, conversion: Conversion, num_claimed: int) -> None:
    """Convert the first frames of a file into another."""
    import av

    rate = _rate(path, conversion)
    with (
        av.open(str(path), metadata_errors="replace") as source,
        av.open(str(target), "w", format="mp4") as container,
    ):
        encoder: av.VideoStream | None = None
        decoded = _decoded(source, rate, num_claimed)
        for frame in _filtered(decoded, rate, conversion.short_side_px):
            if encoder is None:
                encoder = container.add_stream("libx264", rate=rate)
                encoder.width, encoder.height = frame.width, frame.height
                encoder.pix_fmt = "yuv420p"
                encoder.options = X264
            container.mux(encoder.encode(frame))
        if encoder is not None:
            container.mux(encoder.encode(None))


def _decoded(
    source: av.container.InputContainer, rate: Fraction, num_claimed: int
) -> Iterator[av.VideoFrame]:
    """The first frames in display order, each with its time; DataError for one that is damaged.

    There may be fewer than packets: those that refer to frames before a cut show nothing.
    """
    import av

    stream = source.streams.best("video")
    assert isinstance(stream, av.VideoStream)  # count_frames has seen to it
    stream.thread_type = "NONE"
    frames = source.decode(stream)
    for number in range(num_claimed):
        try:
            frame = next(frames, None)
            is_damaged = frame.is_corrupt if frame is not None else number == 0
        except av.error.FFmpegError:
            is_damaged = True
        if is_damaged:
            raise DataError(
                f"{source.name}: the container claims {num_claimed} frames, decoding stops after "
                f"{number}"
            )
        if frame is None:
            return
        if frame.rotation not in TURNS:
            raise DataError(f"{source.name}: turned by {frame.rotation} degrees, no quarter turns")
        if frame.pts is None:  # as in some AVI, whose frames are one tick apart
            frame.pts, frame.time_base = number, 1 / (stream.average_rate or rate)
        yield frame


def _filtered(
    frames: Iterator[av.VideoFrame], rate: Fraction, short_side_px: int
) -> Iterator[av.VideoFrame]:
    """The frames of the result: upright, of its size, at its rate."""
    import av

    graph: av.filter.Graph | None = None
    for frame in itertools.chain(frames, [None]):
        if graph is None:
            if frame is None:
                return
            graph = _graph(frame, rate, short_side_px)
        graph.vpush(frame)
        with contextlib.suppress(av.BlockingIOError, av.EOFError):  # it wants more; it is done
            while True:
                yield graph.vpull()


def _rate(path: Path, conversion: Conversion) -> Fraction:
    """Frames per second of the result."""
    import av

    if conversion.frames_per_second is not None:
        return Fraction(conversion.frames_per_second)
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        assert isinstance(stream, av.VideoStream)
        times = [
            packet.pts if packet.pts is not None else packet.dts
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard
        ]
        known = [time for time in times if time is not None]
        stated, ticks = stream.average_rate, max(known, default=0) - min(known, default=0)
        if not ticks or stream.time_base is None:
            return min(stated or FASTEST, FASTEST)
        measured = Fraction(len(known) - 1) / (ticks * stream.time_base)
    # What the container states is exact where it is right; of clips with a variable rate it is not.
    is_right = stated is not None and abs(stated - measured) <= measured / 100
    own = stated if is_right and stated else measured.limit_denominator(MAX_DENOMINATOR)
    return min(own, FASTEST)


def _graph(frame: av.VideoFrame, rate: Fraction, short_side_px: int) -> av.filter.Graph:
    """FFmpeg's filters from a source's frames to those of the result, upright and even-sized."""
    import av.filter

    width, height = frame.width, frame.height
    if frame.rotation in (90, -90):
        width, height = height, width
    scale = min(1.0, short_side_px / min(width, height))
    size = f"{_even(width * scale)}:{_even(height * scale)}"
    graph = av.filter.Graph()
    nodes = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        ),
        graph.add("fps", f"fps={rate}:round=near"),
        *(graph.add(name, arguments) for name, arguments in TURNS[frame.rotation]),
        graph.add("scale", f"{size}:flags=bicubic+accurate_rnd+full_chroma_int+bitexact"),
        graph.add("setsar", "1"),
        graph.add("format", "yuv420p"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph


def _even(pixels: float) -> int:
    """The nearest even number, from 2: H.264 keeps one colour for two pixels."""
    return max(2, 2 * round(pixels / 2))
