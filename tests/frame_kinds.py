"""Tiny clips of each kind that decoders may differ on, written by PyAV's own encoders.

Frame i of n has a background at grey level 20 + 200 * i / n (see `clips.levels`), strong colours
along its top, and a white corner that says which way up it is.
"""

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

NUM_FRAMES = 20
COLOURS = [(250, 60, 20), (20, 200, 40), (30, 40, 240), (240, 230, 30)]
IRREGULAR = [0, 1, 2, 5, 6, 7, 8, 20, 21, 22, 23, 24, 40, 41, 42, 43, 44, 45, 46, 60]
Packets = list[av.Packet]


def pictures(num_frames: int, width: int, height: int) -> Iterator[np.ndarray]:
    """The frames: (height, width, 3) uint8."""
    for number in range(num_frames):
        picture = np.full((height, width, 3), 20 + 200 * number // num_frames, np.uint8)
        for place, colour in enumerate(COLOURS):
            left = (place * width // 4 + number) % width
            picture[: height // 3, left : left + width // 5] = colour
        picture[: height // 8, : width // 8] = 255
        yield picture


def write_kind(
    path: Path,
    codec: str = "libx264",
    num_frames: int = NUM_FRAMES,
    size: tuple[int, int] = (96, 96),
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    ticks: list[int] | None = None,
    rate: int = 8,
    degrees: int | None = None,
    matrix: Colorspace | None = None,
    with_sound: bool = False,
    with_cover: bool = False,
    container_options: dict[str, str] | None = None,
    edit: Callable[[Packets], Packets] | None = None,
    **settings: Any,
) -> Path:
    """Write a clip of num_frames of this (width, height).

    ticks: when each frame is shown, in 1 / rate s. degrees: rotation, anticlockwise.
    with_sound, with_cover: in a stream before the clip's own. edit: changes the packets.
    settings: attributes of the encoder, such as its aspect ratio and colours.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        others = [add_sound] * with_sound + [add_cover] * with_cover
        write_others = [add(container) for add in others]
        stream = container.add_stream(codec, rate=rate)
        (stream.width, stream.height), stream.pix_fmt = size, pix_fmt
        own = {"bf": "2", "crf": "10", "threads": "1"} if codec == "libx264" else {}
        stream.options = own | (options or {})
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        if degrees is not None:
            stream.set_display_rotation(degrees)
        for write in write_others:
            write()
        packets: Packets = []
        for number, picture in enumerate(pictures(num_frames, *size)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format=pix_fmt, dst_colorspace=matrix
            )
            if matrix is not None:
                frame.colorspace = matrix
            frame.color_range = settings.get("color_range", ColorRange.UNSPECIFIED)
            frame.pts, frame.time_base = (ticks or range(num_frames))[number], Fraction(1, rate)
            packets += stream.encode(frame)
        packets += stream.encode()
        container.mux(edit(packets) if edit else packets)
    return path


def add_sound(container: av.container.OutputContainer) -> Callable[[], None]:
    stream = container.add_stream("aac", rate=16000, layout="mono")

    def write() -> None:
        silence = np.zeros((1, 16000), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux([*stream.encode(frame), *stream.encode()])

    return write


def add_cover(container: av.container.OutputContainer) -> Callable[[], None]:
    stream = container.add_stream("mjpeg", rate=1)
    stream.width = stream.height = 32
    stream.pix_fmt = "yuvj420p"
    stream.disposition = av.stream.Disposition.attached_pic

    def write() -> None:
        grey = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 128, np.uint8), format="rgb24")
        container.mux([*stream.encode(grey.reformat(format="yuvj420p")), *stream.encode()])

    return write


def from_second_key_frame(packets: Packets) -> Packets:
    """What is left when a clip is cut out of a longer one without encoding it again."""
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    return packets[keys[1] :]


def packed(packets: Packets) -> Packets:
    """MPEG-4 as DivX packed it: a B-frame travels with the frame before it, a stub in its place."""
    stub = b"\x00\x00\x01\xb6\x5f\xff\xff"
    contents = [bytes(packet) for packet in packets]
    contents = [re.sub(rb"\x00\x00\x01\xb2Lavc[\d.]+", DIVX, content) for content in contents]
    for number, content in enumerate(contents[1:], 1):
        start = content.index(b"\x00\x00\x01\xb6") + 4
        if content[start] >> 6 == 2:  # a B-frame
            contents[number - 1] += content
            contents[number] = stub
    out = []
    for content, packet in zip(contents, packets, strict=True):
        out.append(av.Packet(content))
        out[-1].stream, out[-1].time_base = packet.stream, packet.time_base
        out[-1].pts = out[-1].dts = packet.dts
        out[-1].is_keyframe = packet.is_keyframe
    return out


DIVX = b"\x00\x00\x01\xb2DivX503b1393p"
MATRIX_709 = {"matrix": Colorspace.ITU709, "colorspace": Colorspace.ITU709}
MATRIX_601 = {"matrix": Colorspace.ITU601, "colorspace": Colorspace.ITU601}
FULL = {"pix_fmt": "yuvj420p", "color_range": ColorRange.JPEG}
FAST_VP9 = {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}}

# what it is called in reproductions/README.md -> suffix and what is asked of `write_kind`
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "H.264, closed GOP": (".mp4", {"options": {"g": "6"}}),
    "H.264, open GOP": (".mp4", {"options": {"x264-params": "open-gop=1:keyint=6:bframes=3"}}),
    "H.264 in Matroska": (".mkv", {}),
    "H.264 in AVI": (".avi", {}),
    "H.264 in fragments": (
        ".mp4",
        {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    ),
    "VP8": (".webm", {"codec": "libvpx", "options": {"cpu-used": "8"}}),
    "VP9": (".webm", FAST_VP9),
    "VP9, hidden frames": (
        ".webm",
        {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "lag-in-frames": "16"}},
    ),
    "HEVC": (".mp4", {"codec": "libx265", "options": {"x265-params": "bframes=3:log-level=0"}}),
    "MPEG-4 in AVI": (".avi", {"codec": "mpeg4"}),
    "MPEG-4 in AVI, B-frames": (".avi", {"codec": "mpeg4", "options": {"bf": "2"}}),
    "MPEG-4 in AVI, packed B-frames": (
        ".avi",
        {"codec": "mpeg4", "options": {"bf": "1"}, "edit": packed},
    ),
    "MPEG-2 in MPEG-PS": (".mpg", {"codec": "mpeg2video", "rate": 25, "options": {"bf": "2"}}),
    "H.263 in 3GP": (".3gp", {"codec": "h263", "size": (176, 144)}),
    "Sorenson in FLV": (".flv", {"codec": "flv"}),
    "Motion JPEG in QuickTime": (".mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "variable rate, MP4": (".mp4", {"ticks": IRREGULAR}),
    "variable rate, WebM": (".webm", {"ticks": IRREGULAR, **FAST_VP9}),
    "variable rate, AVI": (".avi", {"codec": "mpeg4", "ticks": IRREGULAR}),
    "128 x 96": (".mp4", {"size": (128, 96)}),
    "96 x 128": (".mp4", {"size": (96, 128)}),
    "rotated by 90": (".mp4", {"degrees": 90, "size": (128, 96)}),
    "rotated by 180": (".mp4", {"degrees": 180, "size": (128, 96)}),
    "rotated by 270": (".mp4", {"degrees": -90, "size": (128, 96)}),
    "63 x 47, H.264 4:4:4": (".mp4", {"size": (63, 47), "pix_fmt": "yuv444p"}),
    "63 x 47, MPEG-4": (".avi", {"size": (63, 47), "codec": "mpeg4"}),
    "63 x 47, VP9": (".webm", {"size": (63, 47), **FAST_VP9}),
    "one frame, H.264": (".mp4", {"num_frames": 1}),
    "one frame, MPEG-4 in AVI": (".avi", {"num_frames": 1, "codec": "mpeg4"}),
    "one frame, VP9": (".webm", {"num_frames": 1, **FAST_VP9}),
    "10 bit": (".mp4", {"pix_fmt": "yuv420p10le"}),
    "4:2:2": (".mp4", {"pix_fmt": "yuv422p"}),
    "grey": (".mp4", {"pix_fmt": "gray"}),
    "full range": (".mp4", FULL),
    "BT.601": (".mp4", MATRIX_601),
    "BT.709": (".mp4", MATRIX_709),
    "BT.709, full range": (".mp4", {**MATRIX_709, **FULL}),
    "interlaced": (".mp4", {"options": {"flags": "+ildct+ilme", "x264-params": "tff=1"}}),
    "pixels twice as wide": (".mp4", {"sample_aspect_ratio": Fraction(2, 1)}),
    "sound first": (".mp4", {"with_sound": True}),
    "cover picture first": (".mkv", {"with_cover": True}),
    "cut at an open GOP": (
        ".mkv",
        {
            "options": {"x264-params": "open-gop=1:keyint=6:bframes=3"},
            "edit": from_second_key_frame,
        },
    ),
    "MPEG transport stream": (".ts", {}),
}
