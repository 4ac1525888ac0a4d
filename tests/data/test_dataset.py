"""The frame cache, frames as the model takes them, and batches."""

import multiprocessing
import os
import shutil
import time
from collections import Counter

import numpy as np
import pytest
import torch
from clips import REASONS, write_damaged
from hypothesis import given
from hypothesis import strategies as st

from litevl.data import dataset, fingerprint
from litevl.data.annotations import Clip
from litevl.data.dataset import (
    CLIP_MEAN,
    CLIP_STD,
    FrameStore,
    epoch_batches,
    normalise,
)
from litevl.data.fingerprint import file_hashes
from litevl.data.msrvtt import load_msrvtt
from litevl.data.processes import Failure
from litevl.data.video import DECODERS, read_frames
from litevl.errors import DataError, RunError, ShapeError

pytestmark = pytest.mark.usefixtures("in_this_process")


def open_store(clips, folder, size_px=32, decoder="pyav"):
    return FrameStore.open(clips, folder, size_px, decoder, num_workers=1, progress=False)


# FrameStore


@pytest.mark.parametrize("decoder", DECODERS)
def test_store_holds_the_frames_of_every_clip(clips, tmp_path, decoder):
    store = open_store(clips, tmp_path / "cache", decoder=decoder)
    assert len(store) == 6
    for index, clip in enumerate(clips):
        whole = read_frames(clip.path, None, 32, decoder)
        assert store.num_frames(index) == len(whole) == 4 + index
        assert np.array_equal(store.frames(index, np.arange(len(whole))), whole)
    picked = store.frames(5, np.array([8, 0, 0]))
    assert np.array_equal(picked, whole[[8, 0, 0]])
    assert picked.dtype == np.uint8


def test_frames_are_a_copy_that_may_be_changed(clips, tmp_path):
    store = open_store(clips, tmp_path)
    frames = store.frames(0, np.array([1]))
    before = frames.copy()
    frames += 1
    assert np.array_equal(store.frames(0, np.array([1])), before)


@pytest.mark.parametrize("index", [-1, 4])
def test_frame_outside_a_clip_is_never_its_neighbours(clips, tmp_path, index):
    store = open_store(clips, tmp_path)
    with pytest.raises(IndexError, match="clip 0 has 4 frames"):
        store.frames(0, np.array([0, index]))


def test_second_opening_builds_nothing(clips, tmp_path, monkeypatch):
    first = open_store(clips, tmp_path / "cache")
    monkeypatch.setattr(dataset, "decode_clips", None)
    again = open_store(clips, tmp_path / "cache")
    assert np.array_equal(again.frames(3, np.arange(7)), first.frames(3, np.arange(7)))


@pytest.mark.parametrize("change", ["size", "decoder", "order", "content", "version"])
def test_store_is_built_anew_after_a_change_of(clips, tmp_path, make_clip, monkeypatch, change):
    open_store(clips, tmp_path / "cache")
    size_px, decoder = 32, "pyav"
    if change == "size":
        size_px = 48
    elif change == "decoder":
        decoder = "decord"
    elif change == "order":
        clips = clips[::-1]
    elif change == "content":
        make_clip("video0.mp4", num_frames=9)
    else:
        monkeypatch.setattr("importlib.metadata.version", lambda name: f"{name} 99")
    store = open_store(clips, tmp_path / "cache", size_px, decoder)
    assert len([*(tmp_path / "cache").iterdir()]) == 2
    assert np.array_equal(
        store.frames(0, np.array([3])), read_frames(clips[0].path, [3], size_px, decoder)
    )


def test_cut_store_is_built_anew(clips, tmp_path):
    open_store(clips, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    os.truncate(folder / "frames.u8", 1000)
    store = open_store(clips, tmp_path / "cache")
    assert np.array_equal(
        store.frames(5, np.array([8])), read_frames(clips[5].path, [8], 32, "pyav")
    )


def test_store_below_the_data_root_is_not_taken_for_annotations(clips, tmp_path):
    open_store(clips, tmp_path / "frames")
    file_hashes([clip.path for clip in clips])
    with pytest.raises(DataError) as raised:
        load_msrvtt(tmp_path, "9k")
    assert "files not used" not in str(raised.value)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_frames_that_are_not_what_the_clip_decodes_to_name_the_clip(clips, tmp_path, decoder):
    open_store(clips, tmp_path / "cache", 32, decoder)
    (file,) = (tmp_path / "cache").rglob("frames.u8")
    content = bytearray(file.read_bytes())
    content[32 * 32 * 3 * 2] ^= 1  # in the first clip's third frame
    file.write_bytes(content)
    with pytest.raises(DataError) as error:
        open_store(clips, tmp_path / "cache", 32, decoder)
    assert str(error.value).startswith(f"{clips[0].path}: decodes otherwise than it did")
    assert "(1 of 4 frames differ)" in str(error.value)
    shutil.rmtree(file.parent)
    assert str(file.parent) in str(error.value)
    open_store(clips, tmp_path / "cache", 32, decoder)


def test_clip_damaged_without_a_trace_in_size_or_times_is_named(clips, tmp_path, monkeypatch):
    open_store(clips, tmp_path / "cache")
    state = {clip.path: fingerprint._state(clip.path) for clip in clips}
    content = bytearray(clips[5].path.read_bytes())
    content[-1] ^= 1
    clips[5].path.write_bytes(content)
    monkeypatch.setattr(fingerprint, "_state", state.get)  # as after damage on the disk
    with pytest.raises(DataError, match=r"video5.mp4: its bytes changed, though its size"):
        open_store(clips, tmp_path / "cache")


def test_no_clips_make_an_empty_store(tmp_path):
    assert len(open_store((), tmp_path)) == 0


def test_all_broken_clips_are_listed_in_one_error(clips, tmp_path):
    broken = tuple(
        Clip(damage, write_damaged(tmp_path / f"{damage}.mp4", damage), "s", ("a",))
        for damage in REASONS
        if damage != "missing"
    )
    with pytest.raises(DataError, match="7 of 13 clips cannot be decoded") as raised:
        open_store(clips + broken, tmp_path / "cache")
    lines = str(raised.value).splitlines()
    for clip in broken:
        assert sum(line.strip().startswith(f"{clip.path}: ") for line in lines) == 1
    assert "--allow-missing" in lines[-2]
    assert [*(tmp_path / "cache").iterdir()] == []


def test_broken_clips_allowed_are_left_out_and_the_others_keep_their_order(clips, tmp_path):
    clips[1].path.write_bytes(b"not a video")
    store = FrameStore.open(clips, tmp_path / "cache", 32, "pyav", 1, False, allow_broken=True)
    assert store.broken == {1: f"{clips[1].path}: not a video file that FFmpeg knows"}
    kept = [clips[0], *clips[2:]]
    assert [store.num_frames(index) for index in range(len(store))] == [4, 6, 7, 8, 9]
    for index, clip in enumerate(kept):
        whole = read_frames(clip.path, None, 32, "pyav")
        assert np.array_equal(store.frames(index, np.arange(len(whole))), whole)


def test_store_with_broken_clips_serves_only_who_allows_them(clips, tmp_path, monkeypatch):
    clips[1].path.write_bytes(b"not a video")
    options = (clips, tmp_path / "cache", 32, "pyav", 1, False)
    first = FrameStore.open(*options, allow_broken=True)
    monkeypatch.setattr(dataset, "decode_clips", None)
    assert FrameStore.open(*options, allow_broken=True).broken == first.broken
    with pytest.raises(DataError, match="1 of 6 clips cannot be decoded"):
        FrameStore.open(*options)


def test_store_without_a_clip_that_took_too_long_is_built_again(clips, tmp_path, monkeypatch):
    def out_of_time(jobs, *_rest):
        return ((job.clip_id, Failure(job.clip_id, "too slow", is_lasting=False)) for job in jobs)

    options = (clips[:2], tmp_path / "cache", 32, "pyav", 1, False)
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "decode_clips", out_of_time)
        assert FrameStore.open(*options, allow_broken=True).broken == {0: "too slow", 1: "too slow"}
    assert FrameStore.open(*options).num_frames(1) == 5


def test_clip_made_whole_again_is_in_the_store_again(clips, tmp_path):
    whole = clips[1].path.read_bytes()
    clips[1].path.write_bytes(whole[:-400])
    options = (clips, tmp_path / "cache", 32, "pyav", 1, False)
    assert len(FrameStore.open(*options, allow_broken=True)) == 5
    clips[1].path.write_bytes(whole)
    assert len(FrameStore.open(*options)) == 6


def test_missing_clips_are_listed_before_anything_is_decoded(clips, tmp_path, monkeypatch):
    clips[1].path.unlink()
    clips[2].path.unlink()
    monkeypatch.setattr(dataset, "decode_clips", None)
    with pytest.raises(DataError, match="2 of 6 clips cannot be decoded"):
        open_store(clips, tmp_path / "cache")


def test_interrupted_build_leaves_nothing(clips, tmp_path, monkeypatch):
    def interrupted(jobs, *_args):
        yield jobs[0].clip_id, np.zeros((2, 32, 32, 3), np.uint8)
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "decode_clips", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_store(clips, tmp_path / "cache")
    assert [*(tmp_path / "cache").iterdir()] == []


def open_slowly(clips, folder, log, barrier):
    """Life of a process that needs the store; notes when it builds it."""
    decode_clips = dataset.decode_clips

    def decode(*arguments):
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.5)
        return decode_clips(*arguments)

    dataset.decode_clips = decode
    barrier.wait()
    assert open_store(clips, folder).frames(0, np.array([0])).any()


def test_of_two_processes_one_builds_the_store_and_the_other_waits(clips, tmp_path):
    cache, log = tmp_path / "cache", tmp_path / "log"
    fork = multiprocessing.get_context("fork")  # torch is loaded already
    barrier = fork.Barrier(2)
    file_hashes([clip.path for clip in clips])
    needed = (clips[:2], cache, log, barrier)
    processes = [fork.Process(target=open_slowly, args=needed) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert log.read_text() == "built\n"
    assert len([*cache.iterdir()]) == 1


def test_full_disk_is_one_message_and_leaves_nothing(clips, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(dataset, "decode_clips", full)
    with pytest.raises(RunError, match="cache cannot be written: No space left on device"):
        open_store(clips, tmp_path / "cache")
    assert [*(tmp_path / "cache").iterdir()] == []


def test_store_too_large_for_the_disk_stops_early(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "NUM_BETWEEN_CHECKS", 2)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    with pytest.raises(RunError, match=r"no room for the frame cache: it needs 0\.0 GiB more"):
        open_store(clips, tmp_path / "cache")
    assert [*(tmp_path / "cache").iterdir()] == []


def test_folder_that_cannot_be_made_is_one_message(clips, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="the frame cache cannot be written: Not a directory"):
        open_store(clips, tmp_path / "file" / "cache")


@pytest.mark.usefixtures("with_processes")
def test_building_shows_how_many_clips_are_done(clips, tmp_path, capsys):
    FrameStore.open(clips, tmp_path, 32, "pyav", num_workers=1)
    assert "6/6" in capsys.readouterr().err


# normalise


def test_normalise_gives_clips_mean_and_deviation():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 3), np.uint8)
    out = normalise(frames)
    assert out.shape == (2, 3, 3, 4, 4)
    assert out.dtype == torch.float32
    for channel in range(3):
        expected = (frames[..., channel] / 255 - CLIP_MEAN[channel]) / CLIP_STD[channel]
        np.testing.assert_allclose(out[:, :, channel].numpy(), expected, atol=1e-5)


def test_normalise_is_to_the_last_bit_the_formula_with_channels_last():
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    expected = ((frames.float() / 255 - mean) / std).movedim(-1, -3)
    assert torch.equal(normalise(frames), expected)
    assert normalise(frames).is_contiguous()


def test_normalise_takes_tensors_and_single_clips():
    frames = torch.randint(0, 256, (3, 4, 4, 3), dtype=torch.uint8)
    assert torch.equal(normalise(frames), normalise(frames.numpy()))
    assert normalise(frames).shape == (3, 3, 4, 4)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((2, 3, 4, 4), np.uint8),
    ],
)
def test_normalise_names_both_shapes(frames):
    with pytest.raises(ShapeError, match=r"should be uint8 \(\.\.\., T, S, S, 3\), got torch\."):
        normalise(frames)


# epoch_batches


def names(sources):
    return [f"s{source}" for source in sources]


@given(
    sources=st.lists(st.integers(0, 12), max_size=60),
    batch_size=st.integers(1, 9),
    grouped=st.booleans(),
    seed=st.integers(0, 5),
)
def test_every_item_is_in_exactly_one_batch(sources, batch_size, grouped, seed):
    rng = np.random.default_rng(seed)
    batches = epoch_batches(names(sources), batch_size, grouped, rng)
    assert sorted(int(item) for batch in batches for item in batch) == [*range(len(sources))]
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert all(batch.dtype == np.int64 for batch in batches)


@given(
    sources=st.lists(st.integers(0, 12), max_size=60),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_items_of_one_source_share_as_few_batches_as_can_hold_them(sources, batch_size, seed):
    rng = np.random.default_rng(seed)
    batches = epoch_batches(names(sources), batch_size, True, rng)
    for source, number in Counter(sources).items():
        sharing = sum(any(sources[item] == source for item in batch) for batch in batches)
        assert sharing == -(-number // batch_size)


def test_ungrouped_batches_are_full_but_the_last():
    batches = epoch_batches(names(range(10)), 4, False, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [4, 4, 2]


def test_pairs_fill_every_batch_but_the_last():
    sources = names(n // 2 for n in range(50))
    batches = epoch_batches(sources, 8, True, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [8] * 6 + [2]


@pytest.mark.parametrize("grouped", [True, False])
def test_batches_differ_by_epoch_and_repeat_by_seed(grouped):
    sources = names(n // 2 for n in range(40))

    def two_epochs():
        rng = np.random.default_rng(7)
        return [[b.tolist() for b in epoch_batches(sources, 8, grouped, rng)] for _ in range(2)]

    first, second = two_epochs()
    assert first != second
    assert two_epochs() == [first, second]


def test_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="batch_size is 0"):
        epoch_batches(names([1]), 0, False, np.random.default_rng(0))
