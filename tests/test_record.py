"""Records: whole or not there, readable by nothing but their own schema, honest about the code."""

import errno
import json
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from question_records import make_question_arrays, make_question_record, make_question_strips
from records import make_arrays, make_record, make_strips

from litevl import record as record_module
from litevl.errors import DataError, RunError
from litevl.record import (
    code_state,
    hardware,
    package_versions,
    read_arrays,
    read_plan,
    read_record,
    read_strips,
    write_plan,
    write_record,
)


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    return make_arrays("full", 0, num_queries=12)


@pytest.fixture
def record(arrays: dict[str, Any]) -> dict[str, Any]:
    return make_record("full", 0, arrays)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_record_arrays_and_strips_come_back_as_written(tmp_path: Path, record, arrays) -> None:
    strips = make_strips(arrays, num_frames=3, size_px=8)
    path = write_record(tmp_path / "records" / "msrvtt", record, arrays, strips)
    assert names_in(path.parent) == [
        f"{path.stem}{end}" for end in (".json", ".npz", ".strips.npz")
    ]
    assert json.loads(path.read_text()) == record
    found, examples = read_arrays(path), read_strips(path)
    assert examples is not None
    for stored, written in ((found, arrays), (examples, strips)):
        assert set(stored) == set(written)
        assert all((stored[name] == written[name]).all() for name in written)
    assert read_record(path).metrics.test["t2v/R@1"].n == 12


def test_record_of_question_answering_comes_back_as_written(tmp_path: Path) -> None:
    arrays = make_question_arrays("full", 0, num_questions=20)
    record = make_question_record("full", 0, arrays)
    strips = make_question_strips(arrays, num_frames=3, size_px=8)
    path = write_record(tmp_path, record, arrays, strips)
    assert json.loads(path.read_text()) == record
    found, examples = read_arrays(path), read_strips(path)
    assert examples is not None
    for stored, written in ((found, arrays), (examples, strips)):
        assert set(stored) == set(written)
        assert all((stored[name] == written[name]).all() for name in written)


def test_arrays_of_the_other_task_are_not_written(tmp_path: Path, record, arrays) -> None:
    answered = make_question_arrays("full", 0, num_questions=20)
    of_answers = make_question_record("full", 0, answered)
    with pytest.raises(ValueError, match=r"captions is missing.*answer_list is unknown"):
        write_record(tmp_path, record, answered)
    with pytest.raises(ValueError, match=r"answer_list is missing.*gallery_ids is unknown"):
        write_record(tmp_path, of_answers, arrays)
    with pytest.raises(ValueError, match=r"full-s0-0123abcd\.strips\.npz: .*frames should be"):
        write_record(tmp_path, of_answers, answered, make_strips(arrays))
    record["data"]["dataset"] = "msvd"
    with pytest.raises(ValueError, match="no data set 'msvd'; known: msrvtt, didemo, msvd-qa, "):
        write_record(tmp_path, record, arrays)
    failed = record | {"status": "failed", "error": "x", "data": None}
    with pytest.raises(ValueError, match="does not say of which data set"):
        write_record(tmp_path, failed, arrays)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer_list": np.zeros(10, int)}, r"answer_list should be \(A\), got int64"),
        ({"top": np.zeros((20, 3), int)}, r"top_scores should be \(Q, K\)"),
        ({"right": np.ones(19)}, r"right should be \(Q\)"),
        ({"needs_order": np.ones(20)}, r"needs_order should be \(Q\), got float64"),
        ({"truth": np.zeros(20, int)}, "truth is unknown"),
    ],
)
def test_damaged_arrays_of_question_answering_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    arrays = make_question_arrays("full", 0, num_questions=20)
    path = write_record(tmp_path, make_question_record("full", 0, arrays), arrays)
    np.savez(path.with_suffix(".npz"), **arrays | change)
    with pytest.raises(DataError, match=rf"{path.stem}\.npz: damaged.*{message}"):
        read_arrays(path)


def test_record_from_before_question_answering_is_still_read(tmp_path: Path, record) -> None:
    for point in record["curves"]["validation"]:
        del point["accuracy"]
    for counts in record["data"]["splits"].values():
        del counts["questions"], counts["outside_list"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(record))
    read = read_record(path)
    assert read.curves.validation[0].recall_at_1 is not None
    assert read.data is not None
    assert read.data.splits["test"].questions is None


@pytest.mark.parametrize("both", [None, 50.0])
def test_validation_point_is_of_one_task(tmp_path: Path, record, arrays, both: Any) -> None:
    record["curves"]["validation"][0] |= {"t2v-itc/R@1": both, "accuracy": both}
    with pytest.raises(ValidationError, match="either t2v-itc/R@1 or accuracy"):
        write_record(tmp_path, record, arrays)


def test_the_same_record_gives_the_same_bytes(tmp_path: Path, record, arrays) -> None:
    first = write_record(tmp_path / "a", record, arrays)
    again = write_record(tmp_path / "b", read_record(first), read_arrays(first))
    for end in (".json", ".npz"):
        assert first.with_suffix(end).read_bytes() == again.with_suffix(end).read_bytes()


def test_failed_run_needs_no_arrays_but_says_why(tmp_path: Path, record) -> None:
    for part in ("data", "weights", "timings_seconds", "cost", "selection"):
        record[part] = None
    record |= {"status": "failed", "error": "loss is NaN at step 12", "metrics": {}}
    path = write_record(tmp_path, record)
    assert read_record(path).error == "loss is NaN at step 12"
    assert read_strips(path) is None
    with pytest.raises(ValidationError, match="what went wrong"):
        write_record(tmp_path, record | {"error": None})


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("run", {"id": "../elsewhere"}, "pattern"),
        ("run", {"comparable": False}, "not_comparable_because"),
        ("run", {"not_comparable_because": ["121 clips missing"]}, "not_comparable_because"),
        ("run", {"colour": "red"}, "Extra inputs"),
        ("metrics", {"test": {"t2v/R@1": {"value": 1, "low": 2, "high": 1, "n": 3}}}, "ends at"),
        ("metrics", {"test": {"t2v/R@1": {"value": 1, "low": 2, "high": None, "n": 3}}}, "neither"),
        ("metrics", {"test": {"a": {"value": np.nan, "low": 0, "high": 1, "n": 3}}}, "finite"),
        ("metrics", {"test": {}}, r"metrics\.test"),
    ],
)
def test_record_that_contradicts_itself_is_not_written(
    tmp_path: Path, record, arrays, part: str, change: dict[str, Any], message: str
) -> None:
    record[part] = record[part] | change
    with pytest.raises(ValidationError, match=message):
        write_record(tmp_path, record, arrays)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": np.zeros(11, int)}, r"truth should be \(Q\), got int64 \(11,\)"),
        ({"t2v_ranks": np.ones((12, 3), int)}, "t2v_ranks should be"),
        ({"order_right": np.full(12, np.nan)}, "order_right holds NaN"),
        ({"captions": np.array([None] * 12)}, "captions should be"),
        ({"colour": np.zeros(12)}, "colour is unknown"),
    ],
)
def test_arrays_that_do_not_fit_are_not_written(
    tmp_path: Path, record, arrays, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_record(tmp_path, record, arrays | change)
    with pytest.raises(ValueError, match="truth is missing"):
        write_record(tmp_path, record, {k: v for k, v in arrays.items() if k != "truth"})
    with pytest.raises(ValueError, match="needs its per-query arrays"):
        write_record(tmp_path, record)
    assert names_in(tmp_path) == []


def fail_to_sync(monkeypatch: pytest.MonkeyPatch, number: int, after: int = 0) -> None:
    """Let `after` files through to the disk, then answer every flush with an error."""
    calls: list[int] = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > after:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(record_module.os, "fsync", fsync)


def test_full_disk_gives_a_run_error_and_leaves_the_old_record(
    tmp_path: Path, record, arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_record(tmp_path, record, arrays)
    before = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}
    fail_to_sync(monkeypatch, errno.ENOSPC)
    with pytest.raises(RunError, match=r"(?s)no space left.*intact.*--output"):
        write_record(tmp_path, record | {"packages": {}}, arrays)
    assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)} == before
    assert read_record(path).packages


def test_json_is_written_last_so_a_broken_write_leaves_no_record(
    tmp_path: Path, record, arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_sync(monkeypatch, errno.EIO, after=2)  # the .npz and its folder
    with pytest.raises(RunError, match="cannot be written"):
        write_record(tmp_path, record, arrays)
    assert [Path(name).suffix for name in names_in(tmp_path)] == [".npz"]


def test_folder_that_cannot_be_made_gives_a_run_error(tmp_path: Path, record, arrays) -> None:
    (tmp_path / "reports").write_text("a file in the way")
    with pytest.raises(RunError, match=r"(?s)cannot be written.*--output"):
        write_record(tmp_path / "reports" / "records", record, arrays)


def test_record_cut_short_anywhere_gives_one_data_error(tmp_path: Path, record, arrays) -> None:
    path = write_record(tmp_path, record, arrays)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"{path.name}: damaged"):
            read_record(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema: this version reads schema 1, found 2"),
        ({"status": "done"}, "status"),
        ({"colour": "red"}, "colour"),
        ({"error": "x", "cost": None}, "complete run"),
    ],
)
def test_record_of_another_schema_names_file_and_key(
    tmp_path: Path, record, arrays, change: dict[str, Any], message: str
) -> None:
    path = write_record(tmp_path, record, arrays)
    path.write_text(json.dumps(record | change))
    with pytest.raises(DataError, match=rf"{path.name}: damaged.*{message}"):
        read_record(path)


def test_absent_record_and_absent_arrays_give_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        read_record(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"none\.npz: the per-query values"):
        read_arrays(tmp_path / "none.json")


def test_damaged_arrays_give_one_data_error(tmp_path: Path, record, arrays) -> None:
    path = write_record(tmp_path, record, arrays).with_suffix(".npz")
    whole = path.read_bytes()
    for length in range(0, len(whole), 211):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=path.name):
            read_arrays(path)
    for place in range(0, len(whole), 211):  # one byte flipped: refused, or nothing that matters
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found = read_arrays(path)
        except DataError:
            continue
        assert all((found[name] == arrays[name]).all() for name in arrays)


class Trap:
    """Makes a file when it is unpickled, as a malicious array could do anything."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


def test_pickled_arrays_are_never_loaded(tmp_path: Path, record, arrays) -> None:
    path = write_record(tmp_path, record, arrays).with_suffix(".npz")
    trap = np.array([Trap(tmp_path / "sprung")] * 12, dtype=object)
    np.savez(path, **arrays | {"captions": trap})
    with pytest.raises(DataError, match=path.name):
        read_arrays(path)
    assert not (tmp_path / "sprung").exists()


def test_record_is_replaced_and_never_written_over(tmp_path: Path, record, arrays) -> None:
    path = write_record(tmp_path, record, arrays)
    before = path.read_bytes()
    os.link(path, tmp_path / "held open by a reader")
    write_record(tmp_path, record | {"packages": {}}, arrays)
    assert (tmp_path / "held open by a reader").read_bytes() == before
    assert path.read_bytes() != before


def test_infinity_hidden_in_the_spec_is_not_written(tmp_path: Path, record, arrays) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_record(tmp_path, record | {"spec": {"train": {"learning_rate": np.inf}}}, arrays)


def test_arrays_with_a_member_left_out_are_refused(tmp_path: Path, record, arrays) -> None:
    path = write_record(tmp_path, record, arrays).with_suffix(".npz")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new", "w") as new:
        for name in old.namelist():
            if name != "truth.npy":
                new.writestr(name, old.read(name))
    (tmp_path / "new").replace(path)
    with pytest.raises(DataError, match="truth is missing"):
        read_arrays(path)


def test_plan_comes_back_as_written(tmp_path: Path) -> None:
    plan = {
        "ids": ["msrvtt-mini-full-s0-0123abcd"],
        "spec_file": "reproductions/msrvtt.toml",
        "claims": [
            {
                "name": "temporal",
                "better": "full",
                "worse": "no-temporal-attention",
                "metric": "t2v/R@1",
                "sentence": "Temporal attention helps.",
            }
        ],
        "targets": [],
        "published": [
            {
                "system": "another",
                "values": {"t2v/R@1": 40.0},
                "flags": ["7K"],
                "provenance": {"source": "secondary", "note": "its README"},
            }
        ],
        "provenance": {"model.scaling": {"source": "reconstructed", "note": "why"}},
        "variants": [{"name": "full", "title": "LiteVL"}],
        "command": "litevl run reproductions/msrvtt.toml",
        "start": None,
        "estimates": [],
        "assumptions": {},
    }
    path = write_plan(tmp_path, "mini", plan)
    assert path.name == "mini.plan.json"
    assert json.loads(path.read_text()) == plan
    assert read_plan(path).claims[0].better == "full"
    path.write_text("{}")
    with pytest.raises(DataError, match=r"mini\.plan\.json"):
        read_plan(path)


def git(repo: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(repo), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "litevl").mkdir()
    (tmp_path / "litevl" / "__init__.py").write_text("a = 1\n")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--no-verify", "-m", "first")
    return tmp_path


def test_code_state_gives_the_commit_and_sees_uncommitted_code(repo: Path) -> None:
    clean = code_state(repo)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (repo / "reports").mkdir()
    (repo / "reports" / "page.html").write_text("a report changes no number")
    assert code_state(repo) == clean
    (repo / "litevl" / "new.py").write_text("")
    assert code_state(repo) == clean | {"dirty": True}


def test_code_state_outside_git_names_the_code_by_its_content(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    first = code_state(repo)
    assert first["commit"].startswith("source:")
    assert code_state(repo) == first
    (repo / "litevl" / "__init__.py").write_text("a = 2\n")
    assert code_state(repo)["commit"] != first["commit"]


def test_code_state_does_not_take_the_commit_of_a_checkout_around_it(repo: Path) -> None:
    packages = repo / "venv" / "site-packages"
    (packages / "litevl").mkdir(parents=True)
    (packages / "litevl" / "__init__.py").write_text("")
    assert code_state(packages)["commit"].startswith("source:")


def test_package_versions_leave_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "PACKAGES", ("numpy", "no-such-package"))
    assert package_versions() == {"numpy": np.__version__}


def test_hardware_is_described_without_git_or_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    from litevl.schema import Hardware

    found = Hardware.model_validate(hardware("cpu"))
    assert found.cores >= 1
    assert found.memory_gib > 0
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(record_module.Path, "read_text", lambda _: (_ for _ in ()).throw(OSError))
    monkeypatch.delattr(record_module.os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(record_module.os, "sysconf")
    bare = Hardware.model_validate(hardware("cpu"))
    assert bare.processor
    assert (bare.cores >= 1, bare.memory_gib) == (True, 0.0)
