"""Counting, fingerprints, the frame cache and batches."""

import json
import logging
import os
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from clips import REASONS, write_damaged
from hypothesis import given
from hypothesis import strategies as st

from litevl.data import dataset
from litevl.data.annotations import Annotations, Clip, Question
from litevl.data.dataset import (
    CLIP_MEAN,
    CLIP_STD,
    HASH_FILE,
    FrameStore,
    check_clips,
    epoch_batches,
    file_hashes,
    normalise,
)
from litevl.data.msrvtt import load_msrvtt
from litevl.data.video import DECODERS, read_frames
from litevl.errors import DataError, RunError, ShapeError

EXPECTED = {"train": 3, "validation": 1, "test": 2}


@pytest.fixture
def clips(make_clip):
    """Six clips of different length; two of each source."""
    return tuple(
        Clip(
            f"video{n}", make_clip(f"video{n}.mp4", num_frames=4 + n), f"source{n // 2}", ("a", "b")
        )
        for n in range(6)
    )


@pytest.fixture
def data(clips):
    return Annotations(clips[:3], clips[3:4], clips[4:], ("a note",))


def open_store(clips, folder, size_px=32, decoder="pyav"):
    return FrameStore.open(clips, folder, size_px, decoder, num_workers=1, progress=False)


# check_clips


def test_whole_data_is_counted_and_comparable(data):
    report = check_clips(data, EXPECTED)
    assert report.splits == {
        "train": {"expected": 3, "found": 3, "broken": 0, "captions": 6},
        "validation": {"expected": 1, "found": 1, "broken": 0, "captions": 2},
        "test": {"expected": 2, "found": 2, "broken": 0, "captions": 4},
    }
    assert report.data == data
    assert report.left_out == report.not_comparable_because == ()


def test_questions_are_counted_with_those_whose_answer_is_not_listed(data):
    asked = tuple(Question(str(n), "what is it?", answer) for n, answer in enumerate("aab"))
    first = replace(data.train[0], captions=(), questions=asked)
    report = check_clips(replace(data, train=(first, *data.train[1:]), answers=("b",)), EXPECTED)
    counts = {"captions": 4, "questions": 3, "outside_list": 2}
    assert report.splits["train"] == {"expected": 3, "found": 3, "broken": 0, **counts}
    assert report.splits["test"].keys() == {"expected", "found", "broken", "captions"}
    assert report.data.answers == ("b",)
    assert report.data.train[0].questions == asked


def test_missing_and_empty_clips_are_counted_together_with_the_way_out(data, clips):
    clips[0].path.unlink()
    clips[5].path.write_bytes(b"")
    with pytest.raises(DataError) as raised:
        check_clips(data, EXPECTED)
    message = str(raised.value)
    assert "train: 2 of 3 clips found; 1 missing (first: video0; expected at " in message
    assert "test: 1 of 2 clips found; 1 empty or not readable (first: video5; " in message
    assert "Pass --allow-missing to run anyway; the record will say comparable: false." in message


def test_allowing_missing_clips_leaves_them_out_and_says_so(data, clips):
    clips[0].path.unlink()
    clips[5].path.write_bytes(b"")
    report = check_clips(data, EXPECTED, allow_missing=True)
    assert report.left_out == ("video0", "video5")
    assert report.data.train == clips[1:3]
    assert report.data.test == clips[4:5]
    assert report.data.notes == ("a note",)
    assert report.splits["train"] == {"expected": 3, "found": 2, "broken": 0, "captions": 4}
    assert report.splits["test"] == {"expected": 2, "found": 1, "broken": 1, "captions": 2}
    assert len(report.not_comparable_because) == 2


def test_counts_other_than_the_specs_are_an_error_too(data):
    wrong = {**EXPECTED, "train": 5}
    says = "train: the annotations name 3 clips, the spec expects 5"
    with pytest.raises(DataError, match=says):
        check_clips(data, wrong)
    assert check_clips(data, wrong, allow_missing=True).not_comparable_because == (says,)


def test_split_without_any_clip_left_is_an_error_in_any_case(data, clips):
    for clip in clips[4:]:
        clip.path.unlink()
    with pytest.raises(DataError, match="Nothing is left to run on: test"):
        check_clips(data, EXPECTED, allow_missing=True)


def test_only_the_first_missing_clips_are_listed(data, tmp_path):
    gone = tuple(Clip(f"gone{n}", tmp_path / f"gone{n}.mp4", "s", ("a",)) for n in range(40))
    with pytest.raises(DataError, match="2 of 42 clips found; 40 missing") as raised:
        check_clips(Annotations(data.train, data.validation, gone + data.test, ()), EXPECTED)
    assert "gone4;" in str(raised.value)
    assert "gone5" not in str(raised.value)


# The fingerprint


def test_fingerprint_is_of_content_not_of_folder_time_or_order(data, clips, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    again = tuple(
        Clip(c.id, shutil.copy(c.path, moved / c.path.name), c.source, c.captions) for c in clips
    )
    other = Annotations(again[2::-1], again[3:4], again[4:], ())
    assert check_clips(data, EXPECTED).fingerprint == check_clips(other, EXPECTED).fingerprint


@pytest.mark.parametrize("change", ["bytes", "caption", "source", "split"])
def test_fingerprint_changes_with(data, clips, change):
    before = check_clips(data, EXPECTED).fingerprint
    first = clips[0]
    if change == "bytes":
        content = bytearray(first.path.read_bytes())
        content[-1] ^= 1
        first.path.write_bytes(content)
    elif change == "caption":
        first = Clip(first.id, first.path, first.source, ("a", "c"))
    elif change == "source":
        first = Clip(first.id, first.path, "other", first.captions)
    changed = (first, *clips[1:])
    if change == "split":
        changed = (clips[3], *clips[1:3], clips[0], *clips[4:])
    changed_data = Annotations(changed[:3], changed[3:4], changed[4:], ())
    assert check_clips(changed_data, EXPECTED).fingerprint != before


@pytest.mark.parametrize("change", ["id", "text", "answer", "list", "order of the list"])
def test_fingerprint_covers_questions_and_answers_and(data, change):
    asked = Question("0", "what is it?", "a")
    other = replace(asked, **{change: "where is b?"}) if change in asked.__dict__ else asked
    listed = {"list": ("a",), "order of the list": ("b", "a")}.get(change, ("a", "b"))

    def fingerprint(question, answers):
        first = replace(data.train[0], questions=(question,))
        changed = replace(data, train=(first, *data.train[1:]), answers=answers)
        return check_clips(changed, EXPECTED).fingerprint

    before = fingerprint(asked, ("a", "b"))
    assert before != fingerprint(other, listed)
    assert before != check_clips(data, EXPECTED).fingerprint


def test_hashes_are_kept_beside_the_clips_and_used_again(clips, monkeypatch):
    paths = [clip.path for clip in clips]
    first = file_hashes(paths)
    assert len(json.loads((paths[0].parent / HASH_FILE).read_text())) == 6
    hashed = []
    monkeypatch.setattr(dataset, "_file_hash", lambda path: hashed.append(path) or "new")
    assert file_hashes(paths) == first
    assert hashed == []


def test_changed_file_is_hashed_again_and_only_that_one(clips, monkeypatch):
    paths = [clip.path for clip in clips]
    file_hashes(paths)
    os.utime(paths[2], ns=(1, 1))
    hashed = []
    monkeypatch.setattr(dataset, "_file_hash", lambda path: hashed.append(path) or "new")
    assert file_hashes(paths)[paths[2]] == "new"
    assert hashed == [paths[2]]


def test_folder_that_cannot_be_written_only_costs_the_cache(clips, monkeypatch, caplog):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    with caplog.at_level(logging.WARNING):
        assert len(file_hashes([clip.path for clip in clips])) == 6
    assert "hashes not kept for the next run: Permission denied" in caplog.text


def test_damaged_hash_file_is_made_again(clips):
    paths = [clip.path for clip in clips]
    first = file_hashes(paths)
    (paths[0].parent / HASH_FILE).write_text('{"video0.mp4": [1')
    assert file_hashes(paths) == first


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


def test_second_opening_decodes_nothing(clips, tmp_path, monkeypatch):
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
    check_clips(Annotations(clips[:3], clips[3:4], clips[4:], ()), EXPECTED)
    with pytest.raises(DataError) as raised:
        load_msrvtt(tmp_path, "9k")
    assert "files not used" not in str(raised.value)


def test_no_clips_make_an_empty_store(tmp_path):
    assert len(open_store((), tmp_path)) == 0


def test_all_broken_clips_are_listed_in_one_error(clips, tmp_path):
    broken = tuple(
        Clip(damage, write_damaged(tmp_path / f"{damage}.mp4", damage), "s", ("a",))
        for damage in REASONS
        if damage != "missing"
    )
    with pytest.raises(DataError, match="8 of 14 clips cannot be decoded") as raised:
        open_store(clips + broken, tmp_path / "cache")
    lines = str(raised.value).splitlines()
    for clip in broken:
        assert sum(line.strip().startswith(f"{clip.path}: ") for line in lines) == 1
    assert "--allow-missing" in lines[-2]
    assert [*(tmp_path / "cache").iterdir()] == []


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
