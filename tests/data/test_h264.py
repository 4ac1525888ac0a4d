"""Which packets of an H.264 clip are decoded: few, enough, and all where nothing is plain."""

import av
import numpy as np
import pytest
from clips import write_clip, write_trimmed

from litevl.data import video
from litevl.data.h264 import needed_packets
from litevl.data.video import read_frames

NUM_FRAMES = 60
CLOSED = {"x264-params": "keyint=12:bframes=3:scenecut=0"}  # IDR pictures at 0, 12, 24, 36, 48
OPEN = {"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0"}  # the first is the only one
REFRESH = {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}  # no whole key frame but the first
FIELDS = {"x264-params": "interlaced=1:keyint=12:bframes=2"}
STREAMS = {
    "closed GOP": {"options": CLOSED},
    "open GOP": {"options": OPEN},
    "intra refresh": {"options": REFRESH},
    "interlaced": {"options": FIELDS},
    "pyramid": {"options": {"x264-params": "bframes=8:b-pyramid=normal:b-adapt=0:keyint=20"}},
    "one slice per row": {"options": {"x264-params": "slices=4:keyint=12"}},
    "baseline": {"options": {"profile": "baseline", "g": "12"}},
}


def packets_of(path):
    """A clip's packets, and what its container says of the decoder."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return list(container.demux(stream)), stream.codec_context.extradata or b""


def plan(path, *frames):
    return needed_packets(*packets_of(path), np.array(frames))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
@pytest.mark.parametrize("stream", STREAMS)
def test_frames_from_few_packets_are_those_of_the_whole_clip(tmp_path, stream, suffix):
    clip = write_clip(tmp_path / f"clip{suffix}", NUM_FRAMES, **STREAMS[stream])
    whole = read_frames(clip, None, 32, "pyav")
    assert len(whole) == NUM_FRAMES
    rng = np.random.default_rng(0)
    for num_wanted in (1, 1, 1, 2, 4, 8):
        indices = rng.integers(0, NUM_FRAMES, num_wanted)
        assert np.array_equal(read_frames(clip, indices, 32, "pyav"), whole[indices]), indices


@pytest.mark.parametrize("cut", range(3, 12))
def test_edit_list_that_cuts_anywhere_in_a_group_does_not_move_frames(tmp_path, cut):
    clip = write_trimmed(tmp_path / "clip.mp4", num_frames=NUM_FRAMES, options=CLOSED)
    whole = read_frames(clip, None, 32, "pyav")
    for index in (0, 1, cut, 2 * cut, len(whole) - 1):
        assert np.array_equal(read_frames(clip, [index], 32, "pyav")[0], whole[index])


def test_decoding_begins_at_the_idr_picture_before_and_ends_at_the_wanted_one(make_clip):
    runs, times = plan(make_clip(num_frames=NUM_FRAMES, options=CLOSED), 30)
    (run,) = runs
    assert run[0] == 24
    assert 26 <= run[-1] < 36
    assert list(times.values()) == [30]


def test_wanted_frames_of_one_group_are_decoded_in_one_go(make_clip):
    clip = make_clip(num_frames=NUM_FRAMES, options=CLOSED)
    assert [run[0] for run in plan(clip, 26, 30, 50)[0]] == [24, 48]
    assert [run[0] for run in plan(clip, 14, 26, 27, 30, 50, 52)[0]] == [12, 24, 48]


def test_pictures_that_none_refers_to_are_decoded_only_where_they_are_wanted(make_clip):
    options = {"x264-params": "bframes=3:b-adapt=0:b-pyramid=none:keyint=60:scenecut=0"}
    clip = make_clip(num_frames=NUM_FRAMES, options=options)  # I B B B P B B B P ...
    (run,), _ = plan(clip, 40)
    assert len(run) == 11
    (run,), _ = plan(clip, 41)
    assert len(run) == 13  # also what it lies between
    (run,), _ = plan(clip, 38, 40)
    assert len(run) == 12


def test_open_group_is_decoded_from_the_last_idr_picture_not_the_last_key_frame(make_clip):
    clip = make_clip(num_frames=NUM_FRAMES, options=OPEN)
    packets, _ = packets_of(clip)
    keys = [place for place, packet in enumerate(packets) if packet.is_keyframe]
    assert len(keys) > 3
    ((first, *_),), _ = plan(clip, 40)
    assert first == 0


def test_where_all_are_needed_or_frames_cannot_be_told_apart_nothing_is_planned(make_clip):
    clip = make_clip(num_frames=NUM_FRAMES, options=CLOSED)
    packets, extradata = packets_of(clip)
    assert needed_packets(packets, extradata, np.arange(NUM_FRAMES)) is None
    assert needed_packets(packets, extradata, np.array([NUM_FRAMES])) is None
    assert needed_packets(packets, b"", np.array([30])) is None  # lengths taken for marks
    packets[7].pts = packets[8].pts
    assert needed_packets(packets, extradata, np.array([30])) is None
    packets[7].pts = None
    assert needed_packets(packets, extradata, np.array([30])) is None


@pytest.mark.parametrize(
    "mistake", ["no IDR picture", "a reference missing", "another time", "a run missing"]
)
def test_plan_that_goes_wrong_falls_back_on_decoding_everything(make_clip, monkeypatch, mistake):
    clip = make_clip(num_frames=NUM_FRAMES, options=CLOSED)
    whole = read_frames(clip, None, 32, "pyav")
    tried = []

    def wrong(*given):
        tried.append(1)
        ((run, other), number_of) = needed_packets(*given)
        if mistake == "no IDR picture":
            return [run[1:], other], number_of
        if mistake == "a reference missing":
            return [run[-1:], other], number_of
        if mistake == "a run missing":
            return [run], number_of
        return [run, other], {time + 1: number for time, number in number_of.items()}

    monkeypatch.setattr(video, "needed_packets", wrong)
    assert np.array_equal(read_frames(clip, [30, 50], 32, "pyav"), whole[[30, 50]])
    assert tried == [1]
