"""The fuzzing harness sees what it is there to see; a few inputs bring nothing up.

The full counts stand in benchmarks/README.md.
"""

import os
import pickle
import time
from pathlib import Path

import fuzz_seeds
import pytest

from benchmarks.fuzz.__main__ import COUNTS, fuzz, kind_of
from benchmarks.fuzz.workers import Kind, rng_of
from litevl.errors import DataError

# As many as take a few seconds. Records and checkpoints take longer: `python -m benchmarks.fuzz`.
QUICK = {"specs": 60, "annotations": 20}


class Code:
    def __reduce__(self):
        return os.mkdir, ("canary",)


def raise_own() -> None:
    raise DataError("what is wrong")


def allocate() -> None:
    bytearray(b"x") * (2 << 30)


MISDEEDS = {
    "nothing": (lambda: None, ""),
    "an error of ours": (raise_own, ""),
    "another error": (lambda: {}["key"], "KeyError: 'key'"),
    "an empty refusal": (lambda: (_ for _ in ()).throw(DataError(" ")), "refused without a word"),
    "a printed traceback": (
        lambda: print("Traceback (most recent call last):"),
        "a traceback was printed",
    ),
    "steering": (lambda: print("\x1b[2J"), "printed a letter that steers terminals"),
    "a file outside": (
        lambda: Path("../outside").write_text("x"),
        "not allowed: writes ",
    ),
    "a file removed": (lambda: os.remove("/nowhere/file"), "not allowed: os.remove /nowhere/file"),
    "a folder outside": (lambda: os.mkdir("../outside"), "not allowed: os.mkdir "),
    "a command": (lambda: os.system("true"), "not allowed: os.system"),
    "a pickle": (lambda: pickle.loads(pickle.dumps(Code())), "not allowed: pickle.find_class"),
    "a canary": (lambda: Path("canary").touch(), "code in the input was run"),
    "exit": (lambda: os._exit(3), "its process died after"),
    "memory": (allocate, "memory grew by 2"),
}


def test_every_misdeed_is_found_and_nothing_else(tmp_path, capsys):
    """Each is an input of its own, read by processes that are replaced where they must be."""
    (tmp_path / "seeds" / "misdeeds").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    names = list(MISDEEDS)

    def damage(_, folder, rng):
        first = rng.random()
        number = next(n for n in range(len(names)) if rng_of("misdeeds", 0, n).random() == first)
        (folder / "name").write_text(names[number])
        return names[number]

    kind = Kind(
        "misdeeds",
        damage,
        lambda folder, _: MISDEEDS[(folder / "name").read_text()][0](),
        lambda *_: None,
    )
    done = fuzz(kind, tmp_path / "seeds", tmp_path / "work", 0, range(len(names)))
    found = {names[outcome.number]: outcome for outcome in done}
    assert found.keys() == MISDEEDS.keys()
    for name, (_, expected) in MISDEEDS.items():
        assert (expected in found[name].found) if expected else not found[name].found, name
    assert found["an error of ours"].was_refused
    assert not (tmp_path / "work" / "outside").exists()
    assert "misdeeds 2 (another error)" in capsys.readouterr().out


def test_hang_is_found_and_its_process_replaced(tmp_path):
    (tmp_path / "seeds" / "hangs").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    kind = Kind("hangs", lambda *_: "", lambda *_: time.sleep(600), lambda *_: None)
    done = fuzz(kind, tmp_path / "seeds", tmp_path / "work", 0, range(2), timeout_seconds=1)
    assert [outcome.found[:22] for outcome in done] == ["hang: no answer after "] * 2


@pytest.mark.parametrize("name", QUICK)
def test_a_few_damaged_inputs_are_read_or_refused_with_our_own_errors(tmp_path, capsys, name):
    fuzz_seeds.write_seeds(tmp_path / "seeds", name)
    (tmp_path / "work").mkdir()
    capsys.readouterr()
    done = fuzz(kind_of(name), tmp_path / "seeds", tmp_path / "work", 1, range(QUICK[name]))
    assert capsys.readouterr().out == ""  # every finding is printed, with its number
    assert len(done) == QUICK[name]
    assert 0 < sum(outcome.was_refused for outcome in done) < len(done)


@pytest.mark.parametrize("name", COUNTS)
def test_whole_inputs_are_read(tmp_path, monkeypatch, name):
    """Otherwise the damaged ones would be refused for another reason than their damage."""
    fuzz_seeds.write_seeds(tmp_path / "seeds", name)
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    kind_of(name).warm_up(tmp_path / "seeds", place)
