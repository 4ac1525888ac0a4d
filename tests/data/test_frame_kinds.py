"""Clips of every kind, read by both decoders: as many frames, the same ones, the same pixels.

What differs is measured here and listed in reproductions/README.md.
"""

from itertools import product
from pathlib import Path

import decord
import numpy as np
import pytest
from clips import levels
from frame_kinds import IRREGULAR, KINDS, NUM_FRAMES, write_kind

from litevl.data.samplers import SAMPLERS
from litevl.data.video import DECODERS, count_frames, read_frames
from litevl.errors import DataError

README = Path(__file__).parents[2] / "reproductions" / "README.md"
# (kind, size_px) -> mean difference of 255 levels; all others are the same bit for bit
DIFFERENT = {("128 x 96", 96): 0.35, ("rotated by 180", 96): 0.36, ("10 bit", 96): 0.34}
ONLY_PYAV = "MPEG transport stream"
NUM_SHOWN = {"cut at an open GOP": 15}  # of NUM_FRAMES


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a function that writes the clip of a kind, once."""
    folder, paths = tmp_path_factory.mktemp("kinds"), {}

    def path_of(kind: str) -> Path:
        if kind not in paths:
            suffix, settings = KINDS[kind]
            paths[kind] = write_kind(folder / f"{len(paths)}{suffix}", **settings)
        return paths[kind]

    return path_of


def num_shown(kind):
    return NUM_SHOWN.get(kind, KINDS[kind][1].get("num_frames", NUM_FRAMES))


@pytest.mark.parametrize("size_px", [48, 96])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != ONLY_PYAV])
def test_decoders_give_the_same_frames_or_differ_as_measured(written, kind, size_px):
    frames, others = (read_frames(written(kind), None, size_px, decoder) for decoder in DECODERS)
    assert len(frames) == len(others) == count_frames(written(kind)) == num_shown(kind)
    difference = np.abs(frames.astype(int) - others).mean()
    if (kind, size_px) in DIFFERENT:
        assert difference == pytest.approx(DIFFERENT[kind, size_px], abs=0.05)
    else:
        assert difference == 0


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_all_there_in_the_order_of_time(written, kind):
    frames = read_frames(written(kind), None, 96, "pyav")
    num_written = KINDS[kind][1].get("num_frames", NUM_FRAMES)
    expected = [20 + 200 * number // num_written for number in range(num_written)]
    turned = np.rot90(frames, 2, axes=(1, 2)) if kind == "rotated by 180" else frames
    within = 17 if kind == "grey" else 8  # two frames are 10 apart; grey is stored in full range
    assert levels(turned[:, :, 48:60]) == pytest.approx(expected[-len(frames) :], abs=within)


def test_transport_stream_is_refused_to_decord_which_would_show_other_frames(written):
    clip = written(ONLY_PYAV)
    with pytest.raises(DataError, match=r'cannot rewind .* set frames\.decoder = "pyav"'):
        read_frames(clip, None, 96, "decord")
    reader = decord.VideoReader(str(clip))  # what it is refused for
    assert len(reader) == NUM_FRAMES
    assert levels(reader.next().asnumpy()[None])[0] > 100


def test_transport_stream_of_a_camera_is_one_too(written, tmp_path):
    content, clip = written(ONLY_PYAV).read_bytes(), tmp_path / "clip.m2ts"
    packets = [content[start : start + 188] for start in range(0, len(content), 188)]
    clip.write_bytes(b"".join(bytes(4) + packet for packet in packets))
    with pytest.raises(DataError, match="an MPEG transport stream, which decord cannot rewind"):
        read_frames(clip, None, 96, "decord")
    same = read_frames(clip, None, 96, "pyav") == read_frames(written(ONLY_PYAV), None, 96, "pyav")
    assert same.all()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("kind", "corner"),
    [
        ("H.264, closed GOP", (0, 0)),
        ("rotated by 90", (-1, 0)),
        ("rotated by 180", (-1, -1)),
        ("rotated by 270", (0, -1)),
    ],
)
def test_pictures_are_upright(written, kind, corner, decoder):
    (frame,) = read_frames(written(kind), [0], 96, decoder)
    corners = {(row, column): frame[row, column].mean() for row in (0, -1) for column in (0, -1)}
    assert max(corners, key=corners.__getitem__) == corner


def test_frame_numbers_count_frames_not_time(written):
    """Frames stand for 1 to 16 ticks here; sampling by number takes no notice."""
    assert np.diff(IRREGULAR).max() == 16
    regular = read_frames(written("H.264, closed GOP"), [0, 7, 13], 48, "pyav")
    for decoder in DECODERS:
        irregular = read_frames(written("variable rate, MP4"), [0, 7, 13], 48, decoder)
        assert levels(irregular) == pytest.approx(levels(regular), abs=2)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("one frame")])
def test_clip_of_one_frame_gives_it_as_often_as_asked(written, kind, decoder):
    indices = SAMPLERS["segment-middle"](count_frames(written(kind)), 4, np.random.default_rng(0))
    frames = read_frames(written(kind), indices, 48, decoder)
    assert frames.shape == (4, 48, 48, 3)
    assert (frames == frames[0]).all()


@pytest.mark.parametrize(
    ("kind", "decoder"),
    [pair for pair in product(KINDS, DECODERS) if pair != (ONLY_PYAV, "decord")],
)
def test_some_frames_are_those_of_the_whole_clip_bit_for_bit(written, kind, decoder):
    clip = written(kind)
    whole = read_frames(clip, None, 48, decoder)
    rng = np.random.default_rng(0)
    for num_wanted in (1, 1, 2, 4, 8):
        indices = rng.integers(0, len(whole), num_wanted)
        assert np.array_equal(read_frames(clip, indices, 48, decoder), whole[indices]), indices


@pytest.mark.parametrize(
    ("sampler", "num_decoded"), [("blip-uniform", 260), ("segment-middle", 281)]
)
def test_decord_stops_after_the_last_wanted_frame_and_neither_seeks_nor_skips(
    tmp_path, monkeypatch, sampler, num_decoded
):
    decoded = []

    class Counted(decord.VideoReader):
        skip_frames = seek = seek_accurate = get_batch = None

        def next(self):
            decoded.append(1)
            return super().next()

    clip = write_kind(tmp_path / "clip.mp4", num_frames=300, size=(32, 32))
    indices = SAMPLERS[sampler](300, 8, np.random.default_rng(0))
    monkeypatch.setattr(decord, "VideoReader", Counted)
    read_frames(clip, indices, 32, "decord")
    assert len(decoded) == num_decoded


def test_readme_lists_every_kind_with_its_differences():
    text = README.read_text(encoding="utf-8")
    for kind in KINDS:
        sizes = [f"{DIFFERENT.get((kind, size_px), 0):.2f}" for size_px in (96, 48)]
        row = "only PyAV" if kind == ONLY_PYAV else " | ".join([str(num_shown(kind)), *sizes])
        assert f"| {kind} | {row} |" in text, kind
