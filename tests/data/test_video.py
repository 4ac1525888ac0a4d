"""Both decoders against each other and against pictures whose grey level says which they are."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import REASONS, levels, write_clip, write_damaged, write_trimmed

import litevl
from litevl.data.video import DECODERS, count_frames, read_frames
from litevl.errors import DataError

# name -> how the encoder is asked for it
ENCODINGS = {
    "B-frames": {},
    "many key frames": {"bf": "3", "g": "6"},
    "open GOP": {"x264-params": "open-gop=1:keyint=6:bframes=3"},
    "full pyramid": {"x264-params": "bframes=8:b-pyramid=normal:b-adapt=0"},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_frames_come_in_display_order(make_clip, encoding, decoder):
    clip = make_clip(num_frames=40, options=ENCODINGS[encoding])
    frames = read_frames(clip, None, 96, decoder)
    assert frames.shape == (40, 96, 96, 3)
    assert frames.dtype == np.uint8
    assert levels(frames) == pytest.approx([20 + 200 * i // 40 for i in range(40)], abs=2)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_decoders_give_the_same_frames(make_clip, encoding):
    clip = make_clip(num_frames=40, options=ENCODINGS[encoding])
    assert np.array_equal(
        read_frames(clip, None, 96, "decord"), read_frames(clip, None, 96, "pyav")
    )


@pytest.mark.parametrize("size_px", [24, 48, 64, 90, 224])
def test_decoders_agree_on_resized_frames(make_clip, size_px):
    clip = make_clip()
    frames, others = (read_frames(clip, None, size_px, decoder) for decoder in DECODERS)
    assert frames.shape == others.shape == (24, size_px, size_px, 3)
    assert np.array_equal(frames, others)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_chosen_frames_are_those_of_the_whole_clip(make_clip, encoding, decoder):
    # decord's own seeking fails this on "open GOP"
    clip = make_clip(num_frames=40, options=ENCODINGS[encoding])
    whole = read_frames(clip, None, 32, decoder)
    rng = np.random.default_rng(0)
    for _ in range(10):
        indices = rng.integers(0, 40, size=5)
        assert np.array_equal(read_frames(clip, indices, 32, decoder), whole[indices])


@pytest.mark.parametrize("decoder", DECODERS)
def test_frames_cut_off_by_an_edit_list_are_not_shown(tmp_path, decoder):
    # decord's own count is 40 here, with five frames at the end that are none
    clip = write_trimmed(tmp_path / "clip.mp4", num_frames=40)
    frames = read_frames(clip, None, 96, decoder)
    assert len(frames) == count_frames(clip) == 35
    assert levels(frames) == pytest.approx([20 + 200 * i // 40 for i in range(5, 40)], abs=2)


def test_codec_that_only_pyav_knows_is_not_called_damage(make_clip):
    clip = make_clip(codec="libsvtav1", options={"preset": "12"})
    assert len(read_frames(clip, None, 32, "pyav")) == 24
    with pytest.raises(DataError, match="decord cannot decode it, pyav can"):
        read_frames(clip, None, 32, "decord")


@pytest.mark.parametrize("decoder", DECODERS)
def test_no_frames_asked_for_gives_none(make_clip, decoder):
    assert read_frames(make_clip(), [], 16, decoder).shape == (0, 16, 16, 3)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("indices", "named"), [([3, 24], 24), ([-1, 3], -1)])
def test_frame_outside_the_clip_is_refused_not_replaced(make_clip, decoder, indices, named):
    with pytest.raises(DataError, match=f"frame {named} asked for, the clip has frames 0 to 23"):
        read_frames(make_clip(), indices, 64, decoder)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("damage", REASONS)
def test_damaged_clip_has_one_reason(tmp_path, damage, decoder):
    clip = write_damaged(tmp_path / "clip.mp4", damage)
    with pytest.raises(DataError, match=REASONS[damage]) as raised:
        read_frames(clip, None, 32, decoder)
    message = str(raised.value)
    assert message.startswith(f"{clip}: ")
    assert "\n" not in message


def test_folder_in_place_of_a_clip_is_refused(tmp_path):
    with pytest.raises(DataError, match="not a file"):
        count_frames(tmp_path)


def test_count_frames_counts(tmp_path):
    for num_frames in (1, 2, 3, 17):
        assert count_frames(write_clip(tmp_path / "clip.mp4", num_frames)) == num_frames


def test_unknown_decoder_lists_the_known_ones(make_clip):
    with pytest.raises(DataError, match="unknown decoder 'opencv'; known: decord, pyav"):
        read_frames(make_clip(), None, 32, "opencv")


def test_decoder_that_is_not_installed_names_the_other(make_clip, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(DataError, match=r'decord is not installed.* frames\.decoder = "pyav"'):
        read_frames(make_clip(), None, 32, "decord")


def test_metadata_that_is_not_utf8_does_no_harm(make_clip):
    clip = make_clip(container_options={"movflags": "use_metadata_tags"})
    content = clip.read_bytes()
    assert b"Lavf" in content  # the encoder's name, among the metadata
    clip.write_bytes(content.replace(b"Lavf", b"\xbf\xfe\xff\xbf"))
    assert len(read_frames(clip, None, 32, "pyav")) == 24


PEAK_MEMORY = """
import resource, sys
from fractions import Fraction
from pathlib import Path
import av, numpy as np
from litevl.data.video import count_frames, read_frames

def peak_mib():
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit

path = Path(sys.argv[1])
with av.open(str(path), "w") as container:
    stream = container.add_stream("mjpeg", rate=8)
    stream.width = stream.height = 32
    stream.pix_fmt = "yuvj420p"
    (picture,) = stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 32), np.uint8), "yuvj420p"))
    for number in range(96):
        packet = av.Packet(bytes(picture) + bytes(2**20))
        packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 8), True
        packet.pts = packet.dts = number
        container.mux(packet)
before = peak_mib()
assert count_frames(path) == 96
print(peak_mib() - before)
read_frames(path, [95], 32, "pyav")
print(peak_mib() - before)
"""


def test_clip_is_not_held_in_memory_whole(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY, str(tmp_path / "a.mkv")],
        env={**os.environ, "PYTHONPATH": str(Path(litevl.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert max(map(int, result.stdout.split())) < 48  # MiB, of a clip of 96
