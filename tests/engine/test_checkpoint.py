"""Checkpoints: whole or not at all, and nothing in them is ever run."""

import errno
import os

import pytest
import torch

from litevl.engine import checkpoint
from litevl.engine.checkpoint import read_checkpoint, write_checkpoint
from litevl.errors import RunError

CPU = torch.device("cpu")
OLD = {"step": 1, "weight": torch.arange(3.0)}


class Attack:
    """An object whose unpickling would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def path(tmp_path):
    """The place of a checkpoint in a folder that is not there yet."""
    return tmp_path / "runs" / "last.pt"


def test_content_comes_back_with_plain_values(path):
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "history": {"steps": [{"step": 10, "loss": 0.5}], "selected_epoch": 0},
    }
    write_checkpoint(path, content)
    found = read_checkpoint(path, CPU)
    assert found["epoch"] == 3
    assert found["history"] == content["history"]
    assert torch.equal(found["model"]["weight"], model.weight)
    moments = found["optimizer"]["state"][0]
    assert torch.equal(moments["exp_avg"], optimizer.state[model.weight]["exp_avg"])
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_no_checkpoint_is_none(path):
    assert read_checkpoint(path, CPU) is None


def test_newer_checkpoint_replaces_the_older(path):
    write_checkpoint(path, OLD)
    write_checkpoint(path, {"step": 2})
    assert read_checkpoint(path, CPU) == {"step": 2}


def half_write(error):
    """A torch.save that writes a few bytes and fails."""

    def save(_content, file):
        file.write(b"half")
        raise error

    return save


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"no space left"),
        (RuntimeError("PytorchStreamWriter failed writing file"), r"no space left"),
        (OSError(errno.EIO, "Input/output error"), os.strerror(errno.EIO)),
    ],
)
def test_failed_write_leaves_the_old_file_and_no_other(path, monkeypatch, error, reason):
    write_checkpoint(path, OLD)
    monkeypatch.setattr(checkpoint.torch, "save", half_write(error))
    with pytest.raises(RunError, match=rf"last.pt: the checkpoint cannot be written \({reason}"):
        write_checkpoint(path, {"step": 2})
    assert read_checkpoint(path, CPU)["step"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_interrupted_write_leaves_the_old_file(path, monkeypatch):
    write_checkpoint(path, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", half_write(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(path, {"step": 2})
    assert torch.equal(read_checkpoint(path, CPU)["weight"], OLD["weight"])
    write_checkpoint(path, {"step": 3})
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_file_is_on_disk_before_it_takes_the_old_ones_place(path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("fsync"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("replace"), replace(*names)))
    write_checkpoint(path, OLD)
    assert order == ["fsync", "replace"]


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match=r"runs/last.pt: the checkpoint cannot be written"):
        write_checkpoint(tmp_path / "runs" / "last.pt", OLD)


@pytest.mark.parametrize("damage", ["empty", "cut", "overwritten", "text", "folder"])
def test_damaged_checkpoint_says_to_delete_it(path, damage):
    write_checkpoint(path, OLD)
    whole = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        parts = {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "overwritten": b"\0" * len(whole),
            "text": b"not a checkpoint\n" * 20,
        }
        path.write_bytes(parts[damage])
    with pytest.raises(RunError, match=r"last.pt: the checkpoint cannot be read .*delete it to"):
        read_checkpoint(path, CPU)


def test_nothing_in_a_checkpoint_is_run(path, tmp_path):
    write_checkpoint(path, {"weight": Attack(tmp_path / "attacked")})
    with pytest.raises(RunError, match="cannot be read"):
        read_checkpoint(path, CPU)
    assert not (tmp_path / "attacked").exists()
