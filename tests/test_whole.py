"""Files and folders that appear whole, or not at all, whatever happens to who writes them."""

import os
import platform
import resource
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from small import small_world

from litevl import whole
from litevl.data import dataset, mini
from litevl.data.annotations import Clip
from litevl.data.dataset import FrameStore
from litevl.data.mini import ensure_world
from litevl.engine.checkpoint import write_checkpoint
from litevl.errors import RunError
from litevl.run import save_model
from litevl.trained import Use
from litevl.whole import whole_file, whole_folder, write_bytes

USE = Use(task="retrieval", dataset="x", decoder="pyav", sampler="segment-middle", max_tokens=8)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dead_process() -> int:
    """The number of a process that has ended."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_file_and_folder_stand_under_their_names_only_when_done(tmp_path):
    with whole_file(tmp_path / "file") as file:
        file.write(b"new")
        assert not (tmp_path / "file").exists()
    with whole_folder(tmp_path / "folder") as folder:
        (folder / "part").write_bytes(b"new")
        assert not (tmp_path / "folder").exists()
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "folder" / "part").read_bytes() == b"new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_failure_leaves_what_was_there(tmp_path, error):
    write_bytes(tmp_path / "file", b"old")
    with whole_folder(tmp_path / "folder") as folder:
        (folder / "part").write_bytes(b"old")

    def break_off(write, name):
        with write(tmp_path / name) as place:
            place.write(b"half") if name == "file" else (place / "part").write_bytes(b"half")
            raise error

    for write, name in ((whole_file, "file"), (whole_folder, "folder")):
        with pytest.raises(error):
            break_off(write, name)
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"old"
    assert (tmp_path / "folder" / "part").read_bytes() == b"old"


def test_newer_folder_takes_the_whole_place_of_the_older(tmp_path):
    for name in ("one", "two"):
        with whole_folder(tmp_path / "folder") as folder:
            (folder / name).touch()
    assert names(tmp_path / "folder") == ["two"]
    assert names(tmp_path) == ["folder"]


def test_older_folder_is_never_seen_in_part(tmp_path, monkeypatch):
    """It is renamed away in one step: a deletion could be killed half-way."""
    for name in ("one", "two"):
        (tmp_path / "folder" / name).mkdir(parents=True)
    seen = []
    rename, rmtree = os.rename, whole.shutil.rmtree
    look = lambda: seen.append((tmp_path / "folder").exists() and names(tmp_path / "folder"))  # noqa: E731
    monkeypatch.setattr(os, "rename", lambda *both: (look(), rename(*both), look()))
    monkeypatch.setattr(whole.shutil, "rmtree", lambda *all, **how: (look(), rmtree(*all, **how)))
    with whole_folder(tmp_path / "folder") as folder:
        (folder / "new").touch()
    assert seen == [["one", "two"], False, False, ["new"], ["new"]]


def test_folder_behind_a_link_is_written_where_the_link_leads(tmp_path):
    (tmp_path / "disk" / "there").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "there")
    with whole_folder(tmp_path / "link") as folder:
        (folder / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "disk") == ["there"]
    assert names(tmp_path / "disk" / "there") == ["new"]


def test_what_killed_processes_left_is_cleared_away_and_nothing_else(tmp_path):
    here, gone = platform.node(), dead_process()
    kept = [
        f".file.{here}.{os.getppid()}.tmp",  # its writer is alive
        f".file.elsewhere.{gone}.tmp",  # nobody can tell
        f".other.{here}.{gone}.tmp",  # not of this name
        ".file.notes",
    ]
    for name in (*kept, f".file.{here}.{gone}.tmp", ".file.elsewhere.7.tmp"):
        (tmp_path / name).write_bytes(b"half")
    yesterday = time.time() - whole.OLD_SECONDS - 60
    os.utime(tmp_path / ".file.elsewhere.7.tmp", (yesterday, yesterday))
    write_bytes(tmp_path / "file", b"whole")
    assert names(tmp_path) == sorted(["file", *kept])


def test_folder_that_a_killed_process_left_is_cleared_away(tmp_path):
    left = tmp_path / f".folder.{platform.node()}.{dead_process()}.tmp"
    (left / "new" / "deep").mkdir(parents=True)
    with whole_folder(tmp_path / "folder"):
        pass
    assert names(tmp_path) == ["folder"]


def in_a_process_with_small_files(write, num_bytes: int) -> str:
    """The first line of the RunError of a write on a system that cuts files short."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        message = "written"
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
        try:
            write()
        except RunError as error:
            message = str(error).split("\n")[0]
        finally:  # also where it is another error
            os.write(theirs, message.encode())
            os._exit(0)
    os.waitpid(child, 0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        return pipe.read()


class Model:
    """Its weights take 200 kB."""

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        save_file({"weight": np.zeros(50_000, np.float32)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("checkpoint", "last.pt: the checkpoint cannot be written ("),
        ("record", "record.json: cannot be written (File too large)"),
        ("model", "model: the trained model cannot be written ("),
        ("frames", "frames: the frame cache cannot be written: File too large"),
        ("world", "world: the mini world cannot be written: File too large"),
    ],
)
def test_write_that_the_system_cuts_short_is_one_message_and_leaves_nothing(
    tmp_path, make_clip, monkeypatch, kind, message
):
    clip, weights = Clip("a", make_clip(num_frames=2), "s", ("a",)), torch.zeros(50_000)
    frames = np.zeros((2, 200, 200, 3), np.uint8)
    monkeypatch.setattr(dataset, "decode_clips", lambda *_: iter([("0", frames)]))
    monkeypatch.setattr(
        mini, "make_world", lambda folder, *_: (folder / "clip").write_bytes(b"x" * 200_000)
    )
    root = tmp_path / "out"
    write = {
        "checkpoint": lambda: write_checkpoint(root / "last.pt", {"weight": weights}),
        "record": lambda: write_bytes(root / "record.json", b"x" * 200_000),
        "model": lambda: save_model(Model(), root / "model", USE, SimpleNamespace(words=list)),
        "frames": lambda: FrameStore.open([clip], root / "frames", 200, "pyav", 1, False),
        "world": lambda: ensure_world(root / "world", "msrvtt", small_world(), 1),
    }[kind]
    assert message in in_a_process_with_small_files(write, 100_000)
    assert [path for path in root.rglob("*") if path.name != "frames"] == []
    write()
    assert not list(root.rglob(".*.tmp"))
    assert sum(path.is_file() for path in root.rglob("*"))


def test_folder_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"(?s)cannot be written \(File exists\).*--output"):
        write_bytes(tmp_path / "file" / "below", b"x")
