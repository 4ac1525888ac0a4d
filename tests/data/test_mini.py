"""The mini worlds: planned alike from the same seed, drawn once, replaced when settings change."""

import errno
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from small import small_world

import litevl
from benchmarks.kills import members
from litevl.data import mini
from litevl.data.mini import ensure_world, make_world, plan_world
from litevl.data.mini_annotations import SPLITS, write_annotations
from litevl.data.moments import num_different_moments
from litevl.data.scenes import num_different_scenes, render
from litevl.data.video import read_frames
from litevl.errors import DataError, RunError
from litevl.tasks import TASKS


@pytest.fixture(scope="module")
def world():
    return small_world()


@pytest.fixture(scope="module")
def root(tmp_path_factory, world):
    """A world on disk. Tests do not change it."""
    folder = tmp_path_factory.mktemp("worlds") / "world"
    ensure_world(folder, "msrvtt", world, num_workers=1, progress=False)
    return folder


def files(root: Path) -> dict[str, str]:
    """Name -> sha256 of every file below a folder."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("dataset", TASKS)
def test_same_seed_gives_the_same_clips_and_another_seed_others(dataset):
    world = small_world(dataset)
    clips = plan_world(dataset, world)
    assert plan_world(dataset, world) == clips
    other = plan_world(dataset, world.model_copy(update={"seed": world.seed + 1}))
    assert not {clip.captions for clip in clips} <= {clip.captions for clip in other}


@pytest.mark.parametrize("dataset", TASKS)
def test_asking_for_more_scenes_than_there_are_is_an_error_not_an_endless_loop(dataset):
    possible = num_different_moments() if dataset == "didemo" else num_different_scenes()
    too_many = small_world(dataset, train_scenes=possible)
    with pytest.raises(DataError, match=rf"{possible} different scenes, the spec asks for"):
        plan_world(dataset, too_many)


@pytest.mark.parametrize("dataset", TASKS)
def test_splits_share_no_scene_and_test_captions_are_unique(dataset):
    clips = plan_world(dataset, small_world(dataset, train_scenes=200, test_scenes=256))
    keys = {split: {clip.scene.key for clip in clips if clip.split == split} for split in SPLITS}
    assert [len(keys[split]) for split in SPLITS] == [200, 2, 256]
    assert len(set.union(*keys.values())) == 458
    test = [clip for clip in clips if clip.split == "test"]
    assert len({clip.captions for clip in test}) == 512
    if dataset != "didemo":
        assert all(len(clip.captions) == 1 for clip in test)


@pytest.mark.parametrize("dataset", TASKS)
def test_twins_share_a_source_and_nobody_else_has_it(dataset):
    clips = plan_world(dataset, small_world(dataset, train_scenes=100))
    for clip, twin in zip(clips[::2], clips[1::2], strict=True):
        assert (clip.source, clip.split) == (twin.source, twin.split)
        assert twin.scene == clip.scene.twin()
    assert len({clip.source for clip in clips}) == len(clips) / 2
    assert len({clip.id for clip in clips}) == len(clips)


@pytest.mark.parametrize("dataset", ["msvd-qa", "msrvtt-qa"])
def test_clip_and_twin_are_asked_the_same_and_answer_differently_only_about_order(dataset):
    clips = plan_world(dataset, small_world(dataset, train_scenes=100, questions_per_clip=5))
    num_different = 0
    for clip, twin in zip(clips[::2], clips[1::2], strict=True):
        assert [text for text, _ in clip.questions] == [text for text, _ in twin.questions]
        for (text, answer), (_, other) in zip(clip.questions, twin.questions, strict=True):
            assert (answer != other) == text.startswith("when")
            num_different += answer != other
    assert num_different > 60


def test_didemo_world_whose_clips_are_not_as_long_as_its_annotations_say_is_an_error():
    world = small_world("didemo", num_frames=30, frames_per_second=2)
    with pytest.raises(
        DataError, match=r"30 frames at 2 per second; .* 30 seconds\n.*num_frames = 60"
    ):
        plan_world("didemo", world)


def test_training_clips_have_several_captions_and_twins_the_same_ones_backwards(world):
    clips = [clip for clip in plan_world("msrvtt", world) if clip.split == "train"]
    for clip, twin in zip(clips[::2], clips[1::2], strict=True):
        assert len(set(clip.captions)) == len(clip.captions) == world.captions_per_clip
        assert clip.source == twin.source
        assert twin.scene == clip.scene.twin()
        assert all(a != b for a, b in zip(clip.captions, twin.captions, strict=True))
    assert len({clip.source for clip in clips}) == world.train_scenes


def test_clips_are_h264_with_b_frames_and_show_their_scene(root, world):
    for clip in plan_world("msrvtt", world)[:4]:
        path = root / "videos" / f"{clip.id}.mp4"
        with av.open(str(path)) as container:
            (stream,) = container.streams.video
            assert stream.codec_context.name == "h264"
            kinds = [frame.pict_type for frame in container.decode(stream)]
        assert len(kinds) == world.num_frames
        assert PictureType.B in kinds
        shown = read_frames(path, None, world.size_px, "decord").astype(float)
        drawn = render(clip.scene, world.num_frames, world.size_px).astype(float)
        own = np.abs(shown - drawn).mean()
        assert own < 10  # H.264 keeps colour at half the resolution
        assert own < np.abs(shown[::-1] - drawn).mean()


@pytest.mark.parametrize("dataset", TASKS)
def test_clip_and_twin_are_written_from_the_same_frames_to_the_last_bit(
    tmp_path, monkeypatch, dataset
):
    written = {}
    monkeypatch.setattr(
        mini, "write_clip", lambda path, frames, _: written.update({path.name: frames.copy()})
    )
    world = small_world(dataset)
    clip = plan_world(dataset, world)[0]
    mini._write_scene((tmp_path / "clip.mp4", tmp_path / "twin.mp4", clip.scene, world))
    assert np.array_equal(written["twin.mp4"], written["clip.mp4"][::-1])
    frames = render(clip.scene, world.num_frames, world.size_px)
    assert np.array_equal(written["clip.mp4"], frames)
    assert not np.array_equal(frames, frames[::-1])


@pytest.mark.parametrize("dataset", ["didemo", "msvd-qa"])
@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_clips_of_other_worlds_show_their_scenes_too(tmp_path, dataset, decoder):
    world = small_world(dataset, train_scenes=1, validation_scenes=0, test_scenes=1)
    make_world(tmp_path, dataset, world, num_workers=1, progress=False)
    suffix = ".avi" if dataset == "msvd-qa" else ".mp4"
    clips = plan_world(dataset, world)
    assert {path.name for path in (tmp_path / "videos").iterdir()} == {
        f"{clip.id}{suffix}" for clip in clips
    }
    for clip in clips:
        path = tmp_path / "videos" / f"{clip.id}{suffix}"
        shown = read_frames(path, None, world.size_px, decoder).astype(float)
        drawn = render(clip.scene, world.num_frames, world.size_px).astype(float)
        own = np.abs(shown - drawn).mean()
        assert own < 10
        assert own < np.abs(shown[::-1] - drawn).mean()


def test_same_seed_gives_the_same_files_and_another_seed_others(root, world, tmp_path):
    make_world(tmp_path / "again", "msrvtt", world, num_workers=2, progress=False)
    first, again = files(root), files(tmp_path / "again")
    assert first.pop("world.json")
    assert first == again
    few = {"train_scenes": 1, "validation_scenes": 0, "test_scenes": 1}
    other = world.model_copy(update={**few, "seed": 9})
    make_world(tmp_path / "other", "msrvtt", other, num_workers=1, progress=False)
    changed = files(tmp_path / "other")
    assert changed["videos/video0.mp4"] != first["videos/video0.mp4"]
    assert changed["MSRVTT_JSFUSION_test.csv"] != first["MSRVTT_JSFUSION_test.csv"]


# Making it once


@pytest.fixture
def drawn(monkeypatch):
    """Draw no clips, only annotations; the folders drawn are listed."""
    folders = []

    def make(root, dataset, world, num_workers, progress):  # noqa: ARG001
        folders.append(root)
        (root / "videos").mkdir(parents=True)
        write_annotations(root, dataset, plan_world(dataset, world), world)

    monkeypatch.setattr(mini, "make_world", make)
    return folders


def test_world_that_is_there_is_not_drawn_again(tmp_path, world, drawn):
    for _ in range(2):
        ensure_world(tmp_path / "deep" / "world", "msrvtt", world, 1)
    assert len(drawn) == 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["world"]


def test_other_settings_or_another_version_replace_the_world(tmp_path, world, drawn, monkeypatch):
    root = tmp_path / "world"
    ensure_world(root, "msrvtt", world, 1)
    (root / "left over").touch()
    other = world.model_copy(update={"seed": 5})
    ensure_world(root, "msrvtt", other, 1)
    assert json.loads((root / "world.json").read_text())["seed"] == 5
    assert not (root / "left over").exists()
    monkeypatch.setattr(mini, "WORLD_VERSION", mini.WORLD_VERSION + 1)
    ensure_world(root, "msrvtt", other, 1)
    assert len(drawn) == 3


def test_world_of_another_data_set_is_replaced(tmp_path, world, drawn):
    asked = world.model_copy(update={"questions_per_clip": 3})
    ensure_world(tmp_path / "world", "msvd-qa", asked, 1)
    ensure_world(tmp_path / "world", "msrvtt-qa", asked, 1)
    assert len(drawn) == 2
    assert not (tmp_path / "world" / "youtube_mapping.txt").exists()


@pytest.mark.parametrize("content", ["clips", "another world.json", "damaged world.json", "a file"])
def test_folder_that_holds_something_else_is_refused_and_left_alone(
    tmp_path, world, drawn, content
):
    root = tmp_path / "world"
    if content == "a file":
        root.touch()
    else:
        (root / "videos").mkdir(parents=True)
        (root / "videos" / "video0.mp4").write_bytes(b"precious")
    if content == "another world.json":
        (root / "world.json").write_text('{"country": "Norway"}')
    elif content == "damaged world.json":
        (root / "world.json").write_text('{"version": 1, "train_sc')
    with pytest.raises(DataError, match=r"not a mini world\n.*profile\.mini\.data\.root") as error:
        ensure_world(root, "msrvtt", world, 1)
    assert str(root) in str(error.value)
    assert drawn == []
    assert content == "a file" or (root / "videos" / "video0.mp4").read_bytes() == b"precious"


@pytest.mark.parametrize("cause", ["Ctrl-C", "full disk"])
def test_interrupted_drawing_leaves_nothing_and_keeps_the_world_before(
    tmp_path, world, drawn, monkeypatch, cause
):
    root = tmp_path / "world"
    ensure_world(root, "msrvtt", world, 1)
    before = files(root)

    def interrupted(folder, *_):
        (folder / "videos").mkdir(parents=True)
        if cause == "Ctrl-C":
            raise KeyboardInterrupt
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mini, "make_world", interrupted)
    other = world.model_copy(update={"seed": 2})
    for place, settings in ((root, other), (tmp_path / "elsewhere", world)):
        if cause == "Ctrl-C":
            with pytest.raises(KeyboardInterrupt):
                ensure_world(place, "msrvtt", settings, 1)
        else:
            message = rf"{place}: .* cannot be written: No space left .*\n  Free some space"
            with pytest.raises(RunError, match=message):
                ensure_world(place, "msrvtt", settings, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
    assert files(root) == before
    assert len(drawn) == 1


def ensure_slowly(root, world, log, barrier):
    """Life of a process that needs the world; notes when it makes it."""
    make_world = mini.make_world

    def make(*arguments):
        with log.open("a") as file:
            file.write("drawn\n")
        time.sleep(0.5)
        make_world(*arguments)

    mini.make_world = make
    barrier.wait()
    ensure_world(root, "msrvtt", world, 1, progress=False)
    assert (root / "world.json").exists()


def test_of_two_processes_one_replaces_the_world_and_the_other_waits(tmp_path, world):
    root, log = tmp_path / "world", tmp_path / "log"
    root.mkdir()
    (root / "world.json").write_text('{"train_scenes": 1}')
    fork = multiprocessing.get_context("fork")  # torch is loaded already
    barrier = fork.Barrier(2)
    few = world.model_copy(update={"train_scenes": 1, "validation_scenes": 0, "test_scenes": 1})
    given = (root, few, log, barrier)
    processes = [fork.Process(target=ensure_slowly, args=given) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert log.read_text() == "drawn\n"
    assert {path.name for path in tmp_path.iterdir()} == {"world", "log"}


def test_error_of_a_drawing_process_reaches_the_caller(tmp_path, world):
    odd = {"train_scenes": 1, "validation_scenes": 0, "test_scenes": 1, "size_px": 31}
    with pytest.raises(DataError, match=r"world\.size_px: 31 is odd"):
        make_world(tmp_path / "world", "msrvtt", world.model_copy(update=odd), 1, progress=False)


DRAWING = """
import json, sys
from pathlib import Path
from litevl.data.mini import make_world
from litevl.spec import World

if __name__ == "__main__":
    make_world(Path("world"), "msrvtt", World.model_validate(json.loads(sys.argv[1])), 1, False)
"""


def test_drawing_processes_end_when_their_parent_is_killed(tmp_path, world):
    (tmp_path / "draw.py").write_text(DRAWING)
    many = world.model_copy(update={"train_scenes": 400}).model_dump_json()
    parent = subprocess.Popen(
        [sys.executable, "draw.py", many],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(litevl.__file__).parents[1])},
        start_new_session=True,
    )
    until(lambda: len(list(tmp_path.glob("world/videos/*"))) > 2)
    assert len(members(parent.pid)) > 1
    parent.kill()
    parent.wait()
    until(lambda: not members(parent.pid))
    assert not (tmp_path / "world" / "twins.csv").exists()  # it was in the middle of it


def until(is_so):
    """Wait for something; fail where it does not come within a minute."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
