"""Shapes, backgrounds and the H.264 files they are written to."""

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from litevl.data.drawing import (
    COLOURS,
    SHAPES,
    State,
    Thing,
    background,
    coverage,
    distance,
    draw_frames,
    write_clip,
)
from litevl.data.video import read_frames
from litevl.errors import DataError

MIDDLE = State(0.5, 0.5, 0.3, 0.0, 1.0)
SIZE = 64


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_lies_within_its_radius_and_is_no_speck(shape):
    covered = coverage(Thing("red", shape), MIDDLE, SIZE)
    assert covered.min() >= 0
    assert covered.max() == 1
    rows, columns = np.nonzero(covered > 0.5)
    far = np.hypot(rows + 0.5 - SIZE / 2, columns + 0.5 - SIZE / 2).max() / SIZE
    assert 0.2 < far < 0.3 * 1.3
    assert 0.2 < (covered > 0.5).sum() / (np.pi * (0.3 * SIZE) ** 2) < 1.1


def test_shapes_differ_from_each_other():
    masks = [coverage(Thing("red", shape), MIDDLE, SIZE) > 0.5 for shape in SHAPES]
    for number, one in enumerate(masks):
        for other in masks[:number]:
            assert (one ^ other).sum() / (one | other).sum() > 0.15


def test_unknown_shape_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown shape 'cube'; known: circle, square"):
        distance("cube", np.zeros(1), np.zeros(1))


def test_arrow_points_up_and_turns_clockwise():
    def arrow(angle):
        return coverage(Thing("red", "arrow"), State(0.5, 0.5, 0.3, angle, 1.0), SIZE)

    widths = (arrow(0.0) > 0.5).sum(axis=1)
    assert widths[: SIZE // 2].max() > 2 * widths[SIZE // 2 :].max()  # the head is above
    for quarters in (1, 2, 3):
        turned = np.rot90(arrow(0.0), -quarters)  # numpy counts the other way round
        assert np.allclose(arrow(90.0 * quarters), turned, atol=1e-6)


def test_place_is_measured_from_the_upper_left_corner():
    covered = coverage(Thing("red", "circle"), State(0.25, 0.75, 0.1, 0.0, 1.0), SIZE)
    rows, columns = np.nonzero(covered > 0.5)
    assert rows.mean() == pytest.approx(0.75 * SIZE - 0.5, abs=0.5)
    assert columns.mean() == pytest.approx(0.25 * SIZE - 0.5, abs=0.5)


def test_opacity_mixes_the_thing_with_what_is_behind():
    thing = Thing("white", "square")
    states = [State(0.5, 0.5, 0.3, 0.0, opacity) for opacity in (0.0, 0.5, 1.0)]
    none, half, whole = draw_frames(
        [[(thing, state)] for state in states], 32, np.random.default_rng(0)
    ).astype(float)
    assert np.array_equal(none.astype(np.uint8), draw_frames([[]], 32, np.random.default_rng(0))[0])
    assert np.abs(half - (none + whole) / 2).max() <= 1
    assert (whole[16, 16] == COLOURS["white"]).all()


def test_later_things_cover_earlier_ones():
    red, blue = Thing("red", "circle"), Thing("blue", "circle")
    frames = draw_frames(
        [[(red, MIDDLE), (blue, MIDDLE)], [(blue, MIDDLE), (red, MIDDLE)]],
        32,
        np.random.default_rng(0),
    )
    assert tuple(frames[0, 16, 16]) == COLOURS["blue"]
    assert tuple(frames[1, 16, 16]) == COLOURS["red"]


def test_background_is_textured_dim_and_the_same_from_the_same_seed():
    one = background(32, np.random.default_rng(0))
    assert np.array_equal(one, background(32, np.random.default_rng(0)))
    assert not np.array_equal(one, background(32, np.random.default_rng(1)))
    assert one.std() > 8
    assert one.mean() < 120


def test_article_goes_with_the_colour():
    assert str(Thing("orange", "ring")) == "an orange ring"
    assert str(Thing("red", "ring")) == "a red ring"


def test_clip_is_one_video_stream_of_as_many_frames_at_the_asked_rate(tmp_path):
    frames = draw_frames([[(Thing("red", "star"), MIDDLE)]] * 10, 32, np.random.default_rng(0))
    write_clip(tmp_path / "clip.mp4", frames, 5)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        (stream,) = container.streams
        assert (stream.type, stream.codec_context.name) == ("video", "h264")
        assert (stream.frames, stream.average_rate) == (10, 5)
        assert (stream.width, stream.height) == (32, 32)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_avi_gives_the_same_frames_as_mp4_and_the_same_file_again(tmp_path, decoder):
    things = [Thing("red", "star"), Thing("blue", "ring")]
    states = [State(0.1 + 0.03 * n, 0.5, 0.2, 5.0 * n, 1.0) for n in range(24)]
    frames = draw_frames(
        [[(things[0], state), (things[1], MIDDLE)] for state in states],
        SIZE,
        np.random.default_rng(0),
    )
    names = ("clip.mp4", "clip.avi", "again.avi")
    for name in names:
        write_clip(tmp_path / name, frames, 8)
    mp4, avi, _ = (read_frames(tmp_path / name, None, SIZE, decoder) for name in names)
    assert avi.shape == frames.shape
    assert np.array_equal(avi, mp4)
    assert (tmp_path / "clip.avi").read_bytes() == (tmp_path / "again.avi").read_bytes()
    with av.open(str(tmp_path / "clip.avi")) as container:
        (stream,) = container.streams.video
        assert (container.format.name, stream.codec_context.name) == ("avi", "h264")
        assert PictureType.B in {frame.pict_type for frame in container.decode(stream)}


def test_odd_size_is_named_before_the_encoder_fails(tmp_path):
    with pytest.raises(DataError, match=r"world\.size_px: 31 is odd"):
        write_clip(tmp_path / "clip.mp4", np.zeros((2, 31, 31, 3), np.uint8), 8)
