"""Checkpoints: whole or not at all, and nothing in them is ever run."""

import errno
import logging
import os

import pytest
import torch

from litevl.engine import checkpoint
from litevl.engine.checkpoint import (
    expect_same_data,
    expect_same_settings,
    read_checkpoint,
    write_checkpoint,
)
from litevl.errors import RunError
from litevl.sharing import remove_checkpoints

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
    assert names(path) == ["last.pt"]


def test_no_checkpoint_is_none(path):
    assert read_checkpoint(path, CPU) is None


def test_newer_checkpoint_replaces_the_older_which_is_kept_as_the_one_before(path):
    for step in (1, 2, 3):
        write_checkpoint(path, {"step": step})
    assert read_checkpoint(path, CPU) == {"step": 3}
    assert read_checkpoint(path.with_name("previous.pt"), CPU) == {"step": 2}
    assert names(path) == ["last.pt", "previous.pt"]


def test_no_older_best_is_kept_that_could_be_taken_for_the_best(path):
    best = path.with_name("best.pt")
    write_checkpoint(best, {"step": 1})
    write_checkpoint(best, {"step": 2})
    assert names(path) == ["best.pt"]
    flip(best, 0)
    with pytest.raises(RunError, match=r"best.pt: the checkpoint .*\n.*delete .*runs to start"):
        read_checkpoint(best, CPU)


def names(path):
    """What the checkpoint's folder holds."""
    return sorted(file.name for file in path.parent.iterdir())


def flip(path, place):
    """Turn one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << place % 8
    path.write_bytes(content)


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
    assert names(path) == ["last.pt"]


def test_interrupted_write_leaves_the_old_file(path, monkeypatch):
    write_checkpoint(path, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", half_write(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(path, {"step": 2})
    assert torch.equal(read_checkpoint(path, CPU)["weight"], OLD["weight"])
    write_checkpoint(path, {"step": 3})
    assert names(path) == ["last.pt", "previous.pt"]


def test_file_is_on_disk_before_the_old_one_loses_its_place(path, monkeypatch):
    write_checkpoint(path, OLD)
    order = []
    fsync, replace = os.fsync, os.replace

    def flushing(number):
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{number}") else "file"
        order.append(f"flush {kind}")
        fsync(number)

    def renaming(source, target):
        order.append(f"{target.name} appears")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(os, "replace", renaming)
    write_checkpoint(path, {"step": 2})
    once = [step for place, step in enumerate(order) if order.index(step) == place]
    assert once == ["flush file", "previous.pt appears", "flush folder", "last.pt appears"]
    assert order[-1] == "flush folder"


@pytest.mark.parametrize("number_of_renames", [0, 1])
def test_kill_between_the_renames_leaves_a_whole_checkpoint(path, monkeypatch, number_of_renames):
    write_checkpoint(path, {"step": 1})
    write_checkpoint(path, {"step": 2})
    replace, done = os.replace, []

    def killed(*names):
        if len(done) == number_of_renames:
            os._exit(9)
        done.append(replace(*names))

    monkeypatch.setattr(os, "replace", killed)
    child = os.fork()
    if not child:
        write_checkpoint(path, {"step": 3})
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    monkeypatch.undo()
    assert any(name.endswith(f".{child}.tmp") for name in names(path))
    assert read_checkpoint(path, CPU)["step"] == 2
    write_checkpoint(path, {"step": 4})
    assert read_checkpoint(path, CPU)["step"] == 4
    assert names(path) == ["last.pt", "previous.pt"]


# Damage


def test_any_flipped_bit_is_found_or_changes_nothing(path):
    write_checkpoint(path, {"step": 1, "weight": torch.arange(50.0)})
    whole = path.read_bytes()
    found = 0
    for place in range(0, len(whole), 9):
        path.write_bytes(whole)
        flip(path, place)
        try:
            content = read_checkpoint(path, CPU)
        except RunError:
            found += 1
            continue
        assert content["step"] == 1
        assert torch.equal(content["weight"], torch.arange(50.0))
    assert found > 20  # the rest is padding and dates


def test_flipped_bit_in_a_weight_is_found_though_torch_reads_it(path, caplog):
    write_checkpoint(path, OLD)
    write_checkpoint(path, {"step": 2, "weight": torch.full((64,), 1.5)})
    flip(path, path.read_bytes().index(torch.full((64,), 1.5).numpy().tobytes()) + 100)
    assert torch.load(path)["step"] == 2
    assert read_checkpoint(path, CPU)["step"] == 1
    (warning,) = caplog.messages
    assert "last.pt: the checkpoint is damaged: wrong checksum of " in warning
    assert "Continuing from the checkpoint before, previous.pt, after step 1." in warning


def test_damaged_checkpoint_never_takes_the_place_of_the_whole_one_before(path):
    write_checkpoint(path, {"step": 1})
    write_checkpoint(path, {"step": 2})
    flip(path, 0)
    assert read_checkpoint(path, CPU)["step"] == 1
    assert names(path) == ["last.damaged.pt", "previous.pt"]
    assert read_checkpoint(path, CPU)["step"] == 1
    write_checkpoint(path, {"step": 3})
    flip(path, 0)
    assert read_checkpoint(path, CPU)["step"] == 1


def test_both_damaged_are_both_named_with_what_to_do(path):
    for step in (1, 2):
        write_checkpoint(path, {"step": step})
    flip(path, 0)
    path.with_name("previous.pt").write_bytes(b"")
    with pytest.raises(RunError) as error:
        read_checkpoint(path, CPU)
    last, previous, way_out = str(error.value).split("\n")
    assert last.startswith(f"{path}: the checkpoint is damaged: wrong checksum of ")
    assert previous.startswith(f"{path.with_name('previous.pt')}: the checkpoint cannot be read")
    assert way_out.endswith(f"delete {path.parent} to start this run again.")


def test_finished_run_keeps_none_of_its_checkpoints(path):
    for step in (1, 2):
        write_checkpoint(path, {"step": step})
    path.with_name(".last.pt.elsewhere.1.tmp").write_bytes(b"half")
    path.with_name("model").mkdir()
    remove_checkpoints(path.parent)
    assert names(path) == ["model"]


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
    with pytest.raises(RunError, match=r"(?s)last.pt: the checkpoint cannot be read .* delete .*"):
        read_checkpoint(path, CPU)


def test_nothing_in_a_checkpoint_is_run(path, tmp_path):
    write_checkpoint(path, {"weight": Attack(tmp_path / "attacked")})
    with pytest.raises(RunError, match="cannot be read"):
        read_checkpoint(path, CPU)
    assert not (tmp_path / "attacked").exists()


# What may not change


def settings(**train):
    """Nested settings as a checkpoint holds them."""
    return {"title": "a", "train": {"learning_rate": 1e-5, "epochs": 2, "recompute": False} | train}


def test_every_setting_that_changed_is_listed(caplog):
    caplog.set_level(logging.INFO)
    expect_same_settings(settings(), settings())
    with pytest.raises(RunError) as error:
        expect_same_settings(
            settings(select="last"), settings(epochs=3, learning_rate=2e-5, recompute=True)
        )
    assert str(error.value).split("\n")[1:] == [
        "  train.learning_rate: 1e-05 -> 2e-05",
        "  train.epochs: 2 -> 3",
        "  train.select: 'last' -> 'nothing'",
        "  Put them back, or pass --rerun to start this run again.",
    ]


def test_settings_that_may_change_are_listed_with_the_reason(caplog):
    caplog.set_level(logging.INFO)
    expect_same_settings(settings(), settings(recompute=True, device_batch_size=4))
    (line,) = caplog.messages
    assert "train.recompute: False -> True (the same numbers with less memory)" in line
    assert "train.device_batch_size: 'nothing' -> 4 (" in line


def test_other_data_than_at_the_start_are_refused():
    expect_same_data("abc", "abc")
    with pytest.raises(
        RunError, match=r"(?s)fingerprint then: abc\n  fingerprint now:  abd.*--rerun"
    ):
        expect_same_data("abc", "abd")
