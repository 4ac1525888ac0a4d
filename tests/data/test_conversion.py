"""Clips converted: same frames in the same order, upright, smaller, cut, at a constant rate."""

import struct
from fractions import Fraction

import av
import decord
import numpy as np
import pytest
from clips import REASONS, edit_boxes, levels, write_clip, write_damaged
from frame_kinds import from_second_key_frame, write_kind

from litevl.data.conversion import Conversion, ConversionJob, convert
from litevl.data.video import count_frames, read_frames
from litevl.errors import DataError

NTSC = Fraction(30000, 1001)
CLOSE = 3.0  # of 255 levels in the mean: encoded twice
# Degrees clockwise -> the first two rows of the matrix that an MP4 keeps for it.
MATRICES = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
TILTED = (0.5**0.5, 0.5**0.5, -(0.5**0.5), 0.5**0.5)


@pytest.fixture
def converted(tmp_path):
    """Return a function that converts a clip; returns the result's path, also in `prepared/`."""
    (tmp_path / "prepared").mkdir()

    def converted(path, **options):
        job = ConversionJob(path.stem, path, tmp_path / "prepared" / f"{path.stem}.mp4")
        assert convert(job, Conversion(**options)) == count_frames(job.target)
        assert [entry.name for entry in job.target.parent.iterdir()] == [job.target.name]
        return job.target

    return converted


def write_corners(path, width, height, num_frames=12, codec="libx264", rate=8, times=None):
    """Write a clip with a colour in each corner. times: of the frames, in 1/100 second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": "5", "threads": "1"}
        for number in range(num_frames):
            picture = np.full((height, width, 3), 40, np.uint8)
            picture[: height // 2, : width // 2] = (250, 20, 20)
            picture[: height // 2, width // 2 :] = (20, 250, 20)
            picture[height // 2 :, : width // 2] = (20, 20, 250)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn(path, matrix):
    """Make an MP4 say that it is to be shown turned."""
    a, b, c, d = (round(each * 2**16) for each in matrix)

    def edit(kind, payload):
        if kind != b"tkhd":
            return payload
        matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        return payload[:40] + matrix + payload[76:]

    return edit_boxes(path, edit)


def shape(path):
    """Width, height, frames per second and kinds of streams of a file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        kinds = [some.type for some in container.streams]
        return stream.width, stream.height, stream.average_rate, kinds


def difference(one, other, size_px=32):
    """How far the frames of two clips are apart in the mean, decoded the same way."""
    frames, others = (read_frames(path, None, size_px, "decord") for path in (one, other))
    assert frames.shape == others.shape
    return np.abs(frames.astype(int) - others).mean()


@pytest.mark.parametrize(
    ("suffix", "rate"),
    [
        *((suffix, rate) for suffix in (".mp4", ".avi", ".mkv") for rate in (8, 15, 25, NTSC)),
        *((".mpg", rate) for rate in (25, NTSC)),  # it has no others below
    ],
)
def test_frames_of_a_clip_at_a_constant_rate_stay_as_they_are(tmp_path, converted, suffix, rate):
    codec = {".avi": "mpeg4", ".mpg": "mpeg2video"}.get(suffix, "libx264")
    clip = write_corners(tmp_path / f"a{suffix}", 96, 64, 24, codec, rate)
    result = converted(clip)
    assert shape(result) == (96, 64, rate, ["video"])
    assert difference(clip, result) < CLOSE


def test_order_of_frames_is_kept(make_clip, converted):
    clip = make_clip(num_frames=40)
    assert levels(read_frames(converted(clip), None, 96, "pyav")) == pytest.approx(
        levels(read_frames(clip, None, 96, "pyav")), abs=2
    )


def test_same_clip_gives_the_same_bytes(make_clip, converted):
    first = converted(make_clip(), short_side_px=64).read_bytes()
    assert converted(make_clip(), short_side_px=64).read_bytes() == first


@pytest.mark.parametrize(
    ("size", "short_side_px", "expected"),
    [
        ((128, 96), 48, (64, 48)),
        ((96, 128), 48, (48, 64)),
        ((128, 96), 256, (128, 96)),  # never enlarged
        ((130, 98), 49, (64, 48)),  # even, as H.264 needs it
        ((512, 32), 8, (128, 8)),
    ],
)
def test_short_side_shrinks_and_sizes_are_even(tmp_path, converted, size, short_side_px, expected):
    clip = write_corners(tmp_path / "a.mp4", *size)
    assert shape(converted(clip, short_side_px=short_side_px))[:2] == expected


def test_odd_size_is_made_even(tmp_path, converted):
    clip = write_corners(tmp_path / "a.avi", 97, 65, codec="mpeg4")
    result = converted(clip)
    assert shape(result)[:2] in ((96, 64), (98, 64), (96, 66), (98, 66))
    assert difference(clip, result) < CLOSE


@pytest.mark.parametrize("degrees", MATRICES)
def test_clip_said_to_be_turned_is_turned(tmp_path, converted, degrees):
    clip = turn(write_corners(tmp_path / "a.mp4", 96, 64), MATRICES[degrees])
    result = converted(clip)
    assert shape(result)[:2] == ((96, 64) if degrees == 180 else (64, 96))
    # decord turns by itself what the file says is turned
    upright, ours = (decord.VideoReader(str(path))[0].asnumpy() for path in (clip, result))
    assert np.abs(upright.astype(int) - ours).mean() < CLOSE


def test_clip_said_to_be_tilted_is_refused(tmp_path, converted):
    clip = turn(write_corners(tmp_path / "a.mp4", 96, 64), TILTED)
    with pytest.raises(DataError, match=r"a\.mp4: turned by -?45 degrees, no quarter turns"):
        converted(clip)


def test_only_the_first_seconds_are_kept(make_clip, converted):
    clip = make_clip(num_frames=40)  # at 8 frames per second
    result = converted(clip, first_seconds=2.0)
    assert count_frames(result) == count_frames(clip, 2.0) == 16
    assert levels(read_frames(result, None, 96, "pyav"))[-1] == pytest.approx(95, abs=2)
    assert converted(clip, first_seconds=30.0).is_file()
    assert count_frames(result) == 40


def test_asked_rate_repeats_frames_or_leaves_some_out(make_clip, converted):
    clip = make_clip(num_frames=40)
    assert shape(converted(clip, frames_per_second=4))[2] == 4
    assert count_frames(converted(clip, frames_per_second=4)) == 20
    assert count_frames(converted(clip, frames_per_second=16)) == 80


def test_faster_clips_are_slowed_to_thirty_frames_per_second(tmp_path, converted):
    clip = write_corners(tmp_path / "a.mp4", 96, 64, 60, rate=60)
    result = converted(clip)
    assert shape(result)[2] == 30
    assert count_frames(result) == 30


def test_variable_rate_becomes_constant_and_frames_stand_at_their_time(tmp_path, converted):
    times = [0, 10, 20, 30, 130, 230, 330, 340, 350, 360, 370, 380]  # hundredths of a second
    clip = write_corners(tmp_path / "a.mkv", 96, 64, 12, times=times)
    result = converted(clip, frames_per_second=10)
    assert count_frames(result) == pytest.approx(39, abs=1)
    with av.open(str(result)) as container:
        gaps = np.diff([frame.time for frame in container.decode(video=0)])
    assert np.allclose(gaps, 0.1)
    own_rate = shape(converted(clip))[2]
    assert float(own_rate) == pytest.approx(11 / 3.8, rel=0.02)


def test_sound_is_left_out(tmp_path, converted):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=8)
        audio = container.add_stream("aac", rate=16000, layout="mono")
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        for _ in range(8):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        sound.sample_rate = 16000
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    assert shape(converted(path))[3] == ["video"]


@pytest.mark.parametrize("damage", REASONS)
def test_damaged_clip_is_named_with_its_reason_and_leaves_nothing(tmp_path, damage):
    path = write_damaged(tmp_path / "a.mp4", damage)
    target = tmp_path / "prepared" / "a.mp4"
    target.parent.mkdir()
    with pytest.raises(DataError, match=REASONS[damage]) as raised:
        convert(ConversionJob("a", path, target), Conversion())
    assert str(raised.value).startswith(f"{path}: ")
    assert [*target.parent.iterdir()] == []


def test_settings_and_versions_describe_what_was_done():
    described = Conversion(first_seconds=30.0).described()
    assert described["short_side_px"] == 256
    assert described["first_seconds"] == 30.0
    assert described["encoder"]["codec"] == "libx264"
    assert described["versions"]["av"] == av.__version__


def test_frames_later_than_the_first_seconds_are_none_of_the_clip(make_clip):
    clip = write_clip(make_clip(), 40)
    whole = read_frames(clip, None, 32, "pyav")
    for decoder in ("decord", "pyav"):
        frames = read_frames(clip, None, 32, decoder, first_seconds=2.0)
        assert len(frames) == 16
        assert np.abs(frames.astype(int) - whole[:16]).mean() < 1
        with pytest.raises(DataError, match="frame 16 asked for, the clip has frames 0 to 15"):
            read_frames(clip, [16], 32, decoder, first_seconds=2.0)


def test_clip_cut_where_its_first_frames_refer_to_others_is_put_right(tmp_path, converted):
    open_gop = {"codec": "mpeg2video", "rate": 25, "options": {"bf": "2", "g": "6"}}
    clip = write_kind(tmp_path / "a.mpg", **open_gop, edit=from_second_key_frame)
    told = r"its 16 packets decode to 14 frames.*; `litevl data prepare` makes them equal"
    with pytest.raises(DataError, match=told):
        read_frames(clip, None, 32, "pyav")
    result = converted(clip)
    whole = read_frames(write_kind(tmp_path / "b.mpg", **open_gop), None, 32, "pyav")
    frames = read_frames(result, None, 32, "pyav")
    assert len(frames) == 14
    assert np.abs(frames.astype(int) - whole[-14:]).mean() < CLOSE
