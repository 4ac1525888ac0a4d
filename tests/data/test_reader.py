"""Clips decoded when they are needed, in processes that stay."""

import gc
import os
import signal

import numpy as np
import pytest
from clips import write_damaged

from litevl.data import processes
from litevl.data.annotations import Clip
from litevl.data.reader import ClipReader
from litevl.data.shards import Reading, Shards
from litevl.data.video import read_frames
from litevl.errors import DataError

READING = Reading(32, "pyav", None, None, 2, None)


def open_reader(clips, folder, num_workers=2, **options):
    counted = Shards.open(clips, folder, READING, num_workers=1, progress=False, **options)
    return ClipReader(clips, counted, num_workers)


def alive(reader):
    return [worker.process.pid for worker in reader._workers._workers]


def test_batches_are_decoded_by_the_same_processes_which_end_with_the_reader(clips, tmp_path):
    reader = open_reader(clips, tmp_path)
    rng, started = np.random.default_rng(0), set()
    for _ in range(6):
        asked = [(int(clip), rng.integers(0, 4, 3)) for clip in rng.integers(0, 6, 5)]
        found = reader.pictures(asked)
        for frames, (clip, indices) in zip(found, asked, strict=True):
            assert np.array_equal(frames, read_frames(clips[clip].path, indices, 32, "pyav"))
        started |= set(alive(reader))
    assert len(started) == 2
    del reader
    gc.collect()
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_nothing_but_counts_is_kept(clips, tmp_path):
    reader = open_reader(clips, tmp_path / "cache")
    assert [reader.num_frames(index) for index in range(len(reader))] == [4, 5, 6, 7, 8, 9]
    assert sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*.frames")) < 1000
    with pytest.raises(IndexError, match="clip 0 has 4 frames"):
        reader.frames(0, np.array([4]))


def test_clip_that_is_damaged_further_on_is_named_and_the_processes_go_on(clips, tmp_path):
    damaged = write_damaged(tmp_path / "cut.mp4", "claims more frames")
    some = (*clips[:2], Clip("cut", damaged, "s", ("a",)))
    reader = open_reader(some, tmp_path / "cache")
    assert reader.num_frames(2) == 40
    with pytest.raises(DataError) as error:
        reader.pictures([(0, np.array([1])), (2, np.array([39])), (1, np.array([1]))])
    assert str(error.value).startswith(f"{damaged}: the container claims 40 frames")
    assert 'frames.cache = "sampled"' in str(error.value)
    assert np.array_equal(
        reader.frames(1, np.array([3])), read_frames(clips[1].path, [3], 32, "pyav")
    )


def test_clips_that_cannot_be_counted_are_left_out_where_that_is_allowed(clips, tmp_path):
    clips[1].path.write_bytes(b"not a video")
    with pytest.raises(DataError, match="1 of 6 clips cannot be decoded"):
        open_reader(clips, tmp_path / "cache")
    reader = open_reader(clips, tmp_path / "cache", allow_broken=True)
    assert list(reader.broken) == [1]
    assert np.array_equal(
        reader.frames(1, np.array([3])), read_frames(clips[2].path, [3], 32, "pyav")
    )


def test_process_that_was_killed_costs_one_clip_and_is_replaced(clips, tmp_path):
    reader = open_reader(clips, tmp_path, num_workers=1)
    reader.frames(0, np.array([0]))
    (pid,) = alive(reader)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DataError, match="brought its process down"):
        reader.frames(0, np.array([0]))
    assert np.array_equal(
        reader.frames(0, np.array([2])), read_frames(clips[0].path, [2], 32, "pyav")
    )
    assert alive(reader) != [pid]


def test_clip_that_takes_too_long_is_named(clips, tmp_path):
    reader = open_reader(clips, tmp_path, num_workers=1)
    reader.frames(0, np.array([0]))
    (worker,) = reader._workers._workers
    os.kill(worker.process.pid, signal.SIGSTOP)
    worker.work = processes.Work(
        worker.work.title, worker.work.load, worker.work.do, timeout_seconds=0.3
    )
    with pytest.raises(DataError, match=r"decoding took over 0\.3 s; stopped"):
        reader.frames(0, np.array([0]))
