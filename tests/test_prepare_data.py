"""`litevl data prepare`: converted clips in a folder that loaders, checks and runs take."""

import json
import os
import shutil
from pathlib import Path

import av
import pytest
from paper_data import copy_world, paper_spec

from litevl.cli import main
from litevl.data import prepared
from litevl.data.prepared import PREPARED_FILE
from litevl.errors import RunError
from litevl.locks import held
from litevl.prepare import read_annotations
from litevl.spec import load_spec, resolve

pytestmark = pytest.mark.usefixtures("in_this_process")
NUM_CLIPS = 28


@pytest.fixture
def root(small, tmp_path) -> Path:
    """Return a copy of the small world, as if it were MSRVTT: 28 clips of 32 px."""
    return copy_world(small, tmp_path / "msrvtt")


@pytest.fixture
def litevl_data(root, tmp_path, capsys):
    """Return a function that runs a data command: exit code and the outcome printed as JSON."""
    spec = paper_spec(tmp_path, root)

    def command(verb: str, *options: str) -> tuple[int, dict]:
        start = ["data", verb, "msrvtt", "--spec", str(spec), "--workers", "1", "--json"]
        code = main([*start, *options])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else printed.err

    return command


def test_prepared_folder_passes_the_check_and_says_in_notes_and_fingerprint_what_was_done(
    litevl_data, tmp_path
):
    code, outcome = litevl_data("prepare", "--short-side", "24")
    to = tmp_path / "msrvtt-prepared"
    assert (code, outcome["to"]) == (0, str(to))
    assert (outcome["converted"], outcome["converted_before"]) == (NUM_CLIPS, 0)
    with av.open(str(to / "videos" / "video0.mp4")) as container:
        assert container.streams.video[0].width == 24
    published = litevl_data("check")[1]
    code, checked = litevl_data("check", "--root", str(to))
    assert code == 0
    assert checked["splits"] == published["splits"]
    assert checked["notes"][:-1] == published["notes"]
    assert "short side at most 24 px" in checked["notes"][-1]
    assert outcome["sha256"] in checked["notes"][-1]
    content = json.loads((to / PREPARED_FILE).read_text())
    content["conversion"]["note"] = "another way to the same clips"
    (to / PREPARED_FILE).write_text(json.dumps(content))
    assert litevl_data("check", "--root", str(to))[1]["fingerprint"] != checked["fingerprint"]


def test_root_may_be_the_folder_one_is_in(litevl_data, root, tmp_path, monkeypatch):
    def prepare_data(_data, to, *_how):
        return {"ok": True, "to": str(to)}

    monkeypatch.setattr("litevl.prepare_data.prepare_data", prepare_data)
    monkeypatch.chdir(root)
    assert litevl_data("prepare", "--root", ".")[1]["to"] == str(tmp_path / "msrvtt-prepared")


def test_second_time_converts_only_what_changed_is_damaged_or_gone(litevl_data, root, tmp_path):
    litevl_data("prepare")
    videos = tmp_path / "msrvtt-prepared" / "videos"
    os.utime(videos / "video1.mp4")  # touched, with the same content
    (videos / "video2.mp4").unlink()
    (videos / "video3.mp4").write_bytes(b"cut")
    shutil.copy(root / "videos" / "video5.mp4", root / "videos" / "video4.mp4")
    before = (videos / "video4.mp4").read_bytes()
    code, outcome = litevl_data("prepare")
    assert (code, outcome["converted"], outcome["converted_before"]) == (0, 3, NUM_CLIPS - 3)
    assert (videos / "video4.mp4").read_bytes() != before


def test_interrupted_preparation_continues(litevl_data, tmp_path, monkeypatch):
    work_on_clips = prepared.work_on_clips

    def interrupted(*args):
        answers = work_on_clips(*args)
        for _ in range(5):
            yield next(answers)
        answers.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(prepared, "work_on_clips", interrupted)
    assert litevl_data("prepare")[0] == 130
    done = json.loads((tmp_path / "msrvtt-prepared" / PREPARED_FILE).read_text())["clips"]
    assert len(done) == 5
    monkeypatch.setattr(prepared, "work_on_clips", work_on_clips)
    code, outcome = litevl_data("prepare")
    assert (code, outcome["converted"], outcome["converted_before"]) == (0, NUM_CLIPS - 5, 5)
    names = {path.name for path in (tmp_path / "msrvtt-prepared" / "videos").iterdir()}
    assert {name for name in names if not name.startswith(".litevl")} == {
        f"video{number}.mp4" for number in range(NUM_CLIPS)
    }


@pytest.mark.usefixtures("with_processes")
def test_clips_that_fail_or_are_missing_are_named_and_the_others_prepared(litevl_data, root):
    short, empty, gone = (root / "videos" / f"video{n}.mp4" for n in (20, 1, 0))
    short.write_bytes(short.read_bytes()[:-400])
    empty.write_bytes(b"")
    code, outcome = litevl_data("prepare")
    assert (code, outcome["converted"], outcome["missing"]) == (1, NUM_CLIPS - 2, [])
    assert outcome["failed"].keys() == {"video20", "video1"}
    assert outcome["failed"]["video20"].startswith(f"{short}: truncated")
    assert outcome["failed"]["video1"] == f"{empty}: empty or not readable"
    for clip in (short, empty, gone):
        clip.unlink()
    code, outcome = litevl_data("prepare")
    assert (code, outcome["converted"], outcome["failed"]) == (1, 0, {})
    assert sorted(outcome["missing"]) == ["video0", "video1", "video20"]


def test_annotations_are_those_of_the_root_also_after_a_change(litevl_data, root, tmp_path):
    litevl_data("prepare")
    table = tmp_path / "msrvtt-prepared" / "MSRVTT_JSFUSION_test.csv"
    assert table.read_bytes() == (root / table.name).read_bytes()
    changed = (root / table.name).read_text().replace(",", ", ", 0) + "\n"
    (root / table.name).unlink()
    (root / table.name).write_text(changed)
    litevl_data("prepare")
    assert table.read_text() == changed


def test_preparation_interrupted_before_its_first_clip_continues(litevl_data, monkeypatch):
    def interrupted(_paths):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "file_hashes", interrupted)
        litevl_data("prepare")
    code, outcome = litevl_data("prepare")
    assert (code, outcome["converted"]) == (0, NUM_CLIPS)


def test_of_two_preparations_of_a_folder_the_second_waits(litevl_data, tmp_path, monkeypatch):
    to, work_on_clips = tmp_path / "msrvtt-prepared", prepared.work_on_clips

    def watched(*args):
        with held(tmp_path / f".{to.name}.lock") as is_free:
            assert not is_free
        return work_on_clips(*args)

    monkeypatch.setattr(prepared, "work_on_clips", watched)
    assert litevl_data("prepare")[0] == 0
    assert not list(tmp_path.glob(".*.lock"))


def test_folder_of_something_else_is_left_alone(litevl_data, root, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    for to, told in [
        (tmp_path / "full", "holds other files"),
        (root, "the published files"),
        (root / "small", "the published files"),
    ]:
        code, message = litevl_data("prepare", "--to", str(to))
        assert code == 2
        assert told in message
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_other_settings_are_not_mixed_into_a_prepared_folder(litevl_data):
    litevl_data("prepare")
    code, message = litevl_data("prepare", "--short-side", "16")
    assert code == 2
    assert "short_side_px was 256, is 16" in message


def test_full_disk_stops_and_says_so(litevl_data, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    code, message = litevl_data("prepare")
    assert code == 1
    assert "1 MiB are left on the disk" in message


def test_clips_cut_shorter_than_the_spec_wants_are_refused(litevl_data, tmp_path):
    litevl_data("prepare")
    to = tmp_path / "msrvtt-prepared"
    content = json.loads((to / PREPARED_FILE).read_text())
    content["conversion"]["first_seconds"] = 1.0
    (to / PREPARED_FILE).write_text(json.dumps(content))
    code, message = litevl_data("check", "--root", str(to))
    assert code == 2
    assert "its clips were cut to 1 s, the spec takes whole clips" in message
    data = resolve(load_spec(tmp_path / "spec.toml"), "paper", "full").data
    fits = data.model_copy(update={"root": str(to), "first_seconds": 1.0})
    assert "first 1 s" in read_annotations(fits).notes[-1]


@pytest.mark.parametrize("work", ["check_data.check_data", "prepare_data.prepare_data"])
def test_processes_are_as_many_as_the_cores_that_may_be_used(root, tmp_path, monkeypatch, work):
    told = []

    def stop(*arguments):
        told.extend(arguments)
        raise RunError("enough seen")

    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0, 3, 5}, raising=False)
    monkeypatch.setattr(f"litevl.{work}", stop)
    verb = work.partition("_")[0]
    assert main(["data", verb, "msrvtt", "--spec", str(paper_spec(tmp_path, root))]) == 1
    assert told[-2] == 3
