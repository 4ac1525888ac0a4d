"""The compact frame cache: the frames a sampler may ask for, the same as those of whole clips."""

import multiprocessing
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from clips import write_damaged

from litevl.data import shards
from litevl.data.annotations import Clip
from litevl.data.dataset import FrameStore
from litevl.data.processes import Failure
from litevl.data.samplers import possible_frames, sampler_of
from litevl.data.shards import Reading, Shards
from litevl.data.video import read_frames
from litevl.errors import DataError, RunError

pytestmark = pytest.mark.usefixtures("in_this_process")
READING = Reading(32, "pyav", None, "segment-random", 2, 2)
MIDDLE = replace(READING, sampler="segment-middle", choices=None)


def open_shards(clips, folder, reading=READING, **options):
    return Shards.open(clips, folder, reading, num_workers=1, progress=False, **options)


@pytest.fixture(autouse=True)
def _two_clips_a_shard(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 6 * 32 * 32 * 3)


@pytest.mark.usefixtures("with_processes")
def test_clips_decoded_by_other_processes_are_the_same(clips, tmp_path):
    broken = write_damaged(tmp_path / "cut.mp4", "cut before the index")
    some = (*clips[:2], Clip("cut", broken, "s", ("a",)))
    store = open_shards(some, tmp_path / "cache", allow_broken=True)
    assert list(store.broken) == [2]
    for index, clip in enumerate(clips[:2]):
        wanted = store.reading.kept(store.num_frames(index))
        assert np.array_equal(
            store.frames(index, wanted), read_frames(clip.path, wanted, 32, "pyav")
        )


@pytest.fixture
def decoded(monkeypatch):
    """Names of the clips that are decoded, as they are handed out."""
    names, original = [], shards.decode_chosen

    def decode_chosen(jobs, *rest):
        names.extend(job.path.name for job in jobs)
        return original(jobs, *rest)

    monkeypatch.setattr(shards, "decode_chosen", decode_chosen)
    return names


def files(folder):
    return sorted(folder.rglob("*.frames"))


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("sampler", ["blip-uniform", "lavis-uniform", "segment-middle"])
def test_evaluation_gets_the_very_frames_that_it_gets_from_whole_clips(
    clips, tmp_path, sampler, decoder
):
    whole = FrameStore.open(clips, tmp_path / "cache", 32, decoder, 1, False)
    reading = Reading(32, decoder, None, sampler, 3, None)
    few, sample = open_shards(clips, tmp_path / "cache", reading), sampler_of(sampler, None)
    assert len(few) == len(whole) == 6
    for index in range(6):
        assert few.num_frames(index) == whole.num_frames(index)
        wanted = sample(few.num_frames(index), 3, np.random.default_rng(0))
        assert np.array_equal(few.frames(index, wanted), whole.frames(index, wanted))
    assert sum(file.stat().st_size for file in files(tmp_path)) < 6 * 3 * 32 * 32 * 3 + 2000


def test_random_draws_are_those_from_whole_clips_with_the_same_choices(clips, tmp_path):
    whole = FrameStore.open(clips, tmp_path / "cache", 32, "pyav", 1, False)
    few, sample = open_shards(clips, tmp_path / "cache"), sampler_of("segment-random", 2)
    drawn = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        asked = [(index, sample(few.num_frames(index), 2, rng)) for index in range(6)]
        assert np.array_equal(few.pictures(asked), whole.pictures(asked))
        drawn.add(tuple(asked[5][1].tolist()))
    assert drawn == {(1, 5), (1, 7), (3, 5), (3, 7)}


@pytest.mark.parametrize("num_wanted", [1, 3, 8])
@pytest.mark.parametrize("choices", [1, 2, 5, 1000, None])
def test_possible_frames_are_all_that_are_ever_drawn_and_no_others(num_wanted, choices):
    sample = sampler_of("segment-random", choices)
    for num_available in (1, 2, 3, 7, 16, 41):
        rng = np.random.default_rng(0)
        drawn = [sample(num_available, num_wanted, rng) for _ in range(400)]
        possible = possible_frames("segment-random", num_available, num_wanted, choices)
        assert sorted(set(np.concatenate(drawn).tolist())) == possible.tolist()
        if choices in (1000, None):
            assert possible.tolist() == list(range(num_available))
        else:
            assert len(possible) <= choices * num_wanted


def test_choices_of_a_segment_are_the_middles_of_its_equal_parts_and_drawn_evenly():
    assert possible_frames("segment-random", 80, 2, 4).tolist() == [5, 15, 25, 35, 45, 55, 65, 75]
    sample, rng = sampler_of("segment-random", 4), np.random.default_rng(0)
    drawn = np.array([sample(80, 2, rng)[0] for _ in range(4000)])
    assert np.unique(drawn, return_counts=True)[1] == pytest.approx([1000] * 4, rel=0.15)


def test_frame_that_is_not_kept_is_refused_not_replaced(clips, tmp_path):
    store = open_shards(clips, tmp_path, MIDDLE)
    kept = store.reading.kept(store.num_frames(5))
    for index in set(range(-1, 10)) - set(kept.tolist()):
        with pytest.raises(IndexError, match=r"clip 5: kept are \[\d, \d\], not"):
            store.frames(5, np.array([kept[0], index]))


def test_frames_are_a_copy_that_may_be_changed(clips, tmp_path):
    store = open_shards(clips, tmp_path, MIDDLE)
    frames = store.frames(0, np.array([0]))
    before = frames.copy()
    frames += 1
    assert np.array_equal(store.frames(0, np.array([0])), before)


def test_second_opening_decodes_nothing(clips, tmp_path, decoded):
    open_shards(clips, tmp_path)
    assert len(decoded) == 6
    open_shards(clips, tmp_path)
    assert len(decoded) == 6


def test_other_order_subset_or_split_uses_the_same_shards(clips, tmp_path, decoded):
    open_shards(clips[:4], tmp_path)
    store = open_shards(clips[::-1], tmp_path)
    assert sorted(decoded) == [f"video{n}.mp4" for n in range(6)]
    for index, clip in enumerate(clips[::-1]):
        wanted = store.reading.kept(store.num_frames(index))
        assert np.array_equal(
            store.frames(index, wanted), read_frames(clip.path, wanted, 32, "pyav")
        )
    assert len(open_shards(clips[2:3], tmp_path)) == 1
    assert len(decoded) == 6


def test_deleted_shard_costs_its_own_clips_only(clips, tmp_path, decoded):
    open_shards(clips, tmp_path)
    found = files(tmp_path)
    assert len(found) > 2
    found[0].unlink()
    decoded.clear()
    store = open_shards(clips, tmp_path)
    assert 1 <= len(decoded) <= 2
    for index, clip in enumerate(clips):
        wanted = store.reading.kept(store.num_frames(index))
        assert np.array_equal(
            store.frames(index, wanted), read_frames(clip.path, wanted, 32, "pyav")
        )


@pytest.mark.parametrize("damage", ["cut", "longer", "no head", "empty"])
def test_damaged_shard_is_removed_and_its_clips_are_decoded_again(clips, tmp_path, decoded, damage):
    open_shards(clips, tmp_path)
    file = files(tmp_path)[0]
    content = file.read_bytes()
    broken = {"cut": content[:-1], "longer": content + b"1", "empty": b""}
    file.write_bytes(broken.get(damage, content[10:]))
    (file.parent / ".left.somewhere.1.tmp").write_bytes(b"half")
    decoded.clear()
    store = open_shards(clips, tmp_path)
    assert 1 <= len(decoded) <= 2
    for index, clip in enumerate(clips):
        wanted = store.reading.kept(store.num_frames(index))
        assert np.array_equal(
            store.frames(index, wanted), read_frames(clip.path, wanted, 32, "pyav")
        )
    assert not list(tmp_path.rglob("*.tmp"))
    decoded.clear()
    open_shards(clips, tmp_path)
    assert decoded == []


@pytest.mark.parametrize("change", ["size", "decoder", "sampler", "seconds", "choices", "version"])
def test_other_settings_have_shards_of_their_own(clips, tmp_path, monkeypatch, decoded, change):
    open_shards(clips, tmp_path)
    reading = {
        "size": replace(READING, size_px=48),
        "decoder": replace(READING, decoder="decord"),
        "sampler": MIDDLE,
        "seconds": replace(READING, first_seconds=0.5),
        "choices": replace(READING, choices=3),
    }.get(change, READING)
    if change == "version":
        monkeypatch.setattr("importlib.metadata.version", lambda name: f"{name} 99")
    store = open_shards(clips, tmp_path, reading)
    assert len(decoded) == 12
    assert len({file.parent for file in files(tmp_path)}) == 2
    assert store.num_frames(5) == (4 if change == "seconds" else 9)


def test_changed_clip_alone_is_decoded_again(clips, tmp_path, make_clip, decoded):
    open_shards(clips, tmp_path / "cache")
    decoded.clear()
    make_clip("video2.mp4", num_frames=11)
    store = open_shards(clips, tmp_path / "cache")
    assert decoded == ["video2.mp4"]
    assert store.num_frames(2) == 11


@pytest.fixture
def broken(clips, tmp_path):
    """The six clips, and one that cannot be decoded."""
    file = write_damaged(tmp_path / "cut.mp4", "claims more frames")
    return (*clips[:2], Clip("cut", file, "s", ("a",)), *clips[2:])


LATE = replace(MIDDLE, num_frames=40)  # looks at all frames there may be


def test_broken_clips_are_named_and_the_others_stay_decoded(broken, tmp_path, decoded):
    with pytest.raises(DataError, match="1 of 7 clips cannot be decoded") as error:
        open_shards(broken, tmp_path / "cache", LATE)
    assert f"{broken[2].path}: the container claims 40 frames" in str(error.value)
    assert "--allow-missing" in str(error.value)
    decoded.clear()
    store = open_shards(broken, tmp_path / "cache", LATE, allow_broken=True)
    assert decoded == ["cut.mp4"]
    assert list(store.broken) == [2]
    assert [store.num_frames(index) for index in range(6)] == [4, 5, 6, 7, 8, 9]
    decoded.clear()
    assert open_shards(broken, tmp_path / "cache", LATE, allow_broken=True).broken == store.broken
    assert decoded == []
    with pytest.raises(DataError, match="1 of 7 clips cannot be decoded"):
        open_shards(broken, tmp_path / "cache", LATE)


def test_clip_that_took_too_long_is_tried_again(clips, tmp_path, decoded, monkeypatch):
    def out_of_time(jobs, *_rest):
        return ((job.clip_id, Failure(job.clip_id, "too slow", is_lasting=False)) for job in jobs)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "decode_chosen", out_of_time)
        store = open_shards(clips[:2], tmp_path / "cache", allow_broken=True)
        assert store.broken == {0: "too slow", 1: "too slow"}
    assert open_shards(clips[:2], tmp_path / "cache").broken == {}
    assert decoded == ["video0.mp4", "video1.mp4"]


def test_missing_clips_are_listed_before_anything_is_decoded(clips, tmp_path, decoded):
    clips[1].path.unlink()
    with pytest.raises(DataError, match="1 of 6 clips cannot be decoded"):
        open_shards(clips, tmp_path / "cache")
    assert decoded == []


def test_frames_that_are_not_what_the_clip_decodes_to_name_the_clip(clips, tmp_path):
    open_shards(clips, tmp_path / "cache")
    for file in files(tmp_path):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"video\d.mp4: decodes otherwise than it did") as error:
        open_shards(clips, tmp_path / "cache")
    shutil.rmtree(files(tmp_path)[0].parent)
    assert str(READING.key()) in str(error.value)
    open_shards(clips, tmp_path / "cache")


def test_interrupted_build_keeps_its_finished_shards(clips, tmp_path, monkeypatch, decoded):
    original = shards.decode_chosen

    def interrupted(jobs, *rest):
        for number, answer in enumerate(original(jobs, *rest)):
            if number == 4:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(shards, "decode_chosen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_shards(clips, tmp_path / "cache")
    monkeypatch.setattr(shards, "decode_chosen", original)
    decoded.clear()
    assert len(open_shards(clips, tmp_path / "cache")) == 6
    assert 2 <= len(decoded) <= 4


def test_full_disk_is_one_message(clips, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(shards, "decode_chosen", full)
    with pytest.raises(RunError, match="cache cannot be written: No space left on device"):
        open_shards(clips, tmp_path / "cache")


def test_cache_too_large_for_the_disk_stops_early(clips, tmp_path, monkeypatch):
    monkeypatch.setattr("litevl.data.dataset.NUM_BETWEEN_CHECKS", 2)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    with pytest.raises(RunError, match=r"no room for the frame cache: it needs 0\.0 GiB more"):
        open_shards(clips, tmp_path / "cache")


def open_slowly(clips, folder, log, barrier):
    """Life of a process that needs the shards; notes which clips it decodes."""
    decode_chosen = shards.decode_chosen

    def decode(jobs, *rest):
        with log.open("a") as file:
            file.write("".join(f"{job.path.name}\n" for job in jobs))
        time.sleep(0.5)
        return decode_chosen(jobs, *rest)

    shards.decode_chosen = decode
    barrier.wait()
    store = open_shards(clips, folder)
    assert store.frames(0, store.reading.kept(store.num_frames(0))).any()


def test_of_two_processes_one_decodes_and_the_other_waits(clips, tmp_path):
    cache, log = tmp_path / "cache", tmp_path / "log"
    fork = multiprocessing.get_context("fork")  # torch is loaded already
    barrier = fork.Barrier(2)
    needed = (clips[:2], cache, log, barrier)
    processes = [fork.Process(target=open_slowly, args=needed) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(log.read_text().split()) == ["video0.mp4", "video1.mp4"]


def test_no_clips_make_an_empty_store(tmp_path):
    assert len(open_shards((), tmp_path)) == 0
