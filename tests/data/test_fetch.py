"""`litevl data fetch` against a web server and a hub on this machine."""

import errno
import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hub import COMMIT, hub
from web import files, serve

import litevl.data.fetch
import litevl.data.sources
import litevl.transfer
from litevl.cli import main
from litevl.data.fetch import RECORD, clip_name, fetch
from litevl.data.sources import Source, Sources
from litevl.download import Known
from litevl.errors import DataError, RunError

TRAIN, TEST = b'{"train": []}', b'{"test": []}'


def zipped(contents):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return packed.getvalue()


CLIPS = zipped({"all/video0.mp4": b"0", "all/video1.mp4": b"1", "readme.txt": b"read"})
MORE = zipped({"video2.mp4": b"2"})


@pytest.fixture(autouse=True)
def straight_and_without_waiting(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(litevl.transfer, "BACKOFF_SECONDS", (0.0,))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def site():
    site = files({"/train.json": TRAIN, "/test.json": TEST, "/clips.zip": CLIPS})
    with serve(site.handle) as site.address:
        yield site


@pytest.fixture
def their_hub():
    with hub({"datasets/me/clips": {"data/all.zip": CLIPS, "more.zip": MORE}}) as their_hub:
        yield their_hub


@pytest.fixture
def source(site):
    known = Known(sha256=hashlib.sha256(TRAIN).hexdigest(), num_bytes=len(TRAIN))
    return Sources(
        name="msrvtt",
        licence="Only for research.",
        files=(
            Source("train.json", f"{site.address}/train.json", revision="f" * 40, known=known),
            Source("test.json", f"{site.address}/test.json"),
        ),
        clips={
            "web": (Source(".downloads/clips.zip", f"{site.address}/clips.zip", folder="videos"),),
            "hub": (
                hub_source("data/all.zip", "TrainValVideo"), hub_source("more.zip", "TestVideo"),
            ),
        },
        by_hand=("Ask their authors: DIR/videos is where clips go.",),
    )  # fmt: skip


def hub_source(file, folder):
    return Source(f".downloads/{file}", hub="datasets/me/clips", file=file, folder=folder)


@pytest.fixture
def command(source, monkeypatch):
    """`litevl data fetch` for the data set of this file, into "root"."""
    monkeypatch.setattr(litevl.data.sources, "sources", lambda _: source)
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # nobody is there
    return lambda *more: main(["data", "fetch", "msrvtt", "--root", "root", *more])


def record(root):
    return json.loads((root / RECORD).read_text())


def clips(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def test_files_and_clips_are_fetched_checked_and_written_down(source, site, tmp_path):
    outcome = fetch(source, tmp_path)
    assert (tmp_path / "train.json").read_bytes() == TRAIN
    assert clips(tmp_path / "videos") == {"video0.mp4": b"0", "video1.mp4": b"1"}
    assert [each.is_new for each in outcome.files] == [True] * 3
    assert (outcome.unpacked["videos"].num_files, outcome.unpacked["videos"].num_left_out) == (2, 1)
    assert (outcome.problems, outcome.by_hand) == ([], [])
    written = record(tmp_path)["files"]
    assert set(written) == {"train.json", "test.json", ".downloads/clips.zip"}
    entry = written["train.json"]
    assert entry.pop("date")[:2] == "20"
    assert entry == {
        "source": f"{site.address}/train.json", "revision": "f" * 40, "bytes": len(TRAIN),
        "sha256": hashlib.sha256(TRAIN).hexdigest(), "fetched": True,
    }  # fmt: skip


def test_second_call_asks_nobody_and_loses_nothing(source, site, tmp_path):
    fetch(source, tmp_path)
    before = record(tmp_path)
    (tmp_path / "videos" / "mine.mp4").write_bytes(b"mine")
    (tmp_path / ".downloads" / "clips.zip").unlink()  # unpacked, so it is no longer needed
    site.requests.clear()
    outcome = fetch(source, tmp_path)
    assert site.requests == []
    assert not any(each.is_new for each in outcome.files)
    assert (tmp_path / "videos" / "mine.mp4").exists()
    assert record(tmp_path) == before


def test_file_that_cannot_be_had_does_not_keep_the_others_away(source, site, tmp_path):
    del site.contents["/train.json"], site.contents["/clips.zip"]
    outcome = fetch(source, tmp_path)
    assert [each.path.name for each in outcome.files] == ["test.json"]
    assert isinstance(outcome.problem(), RunError)
    assert str(outcome.problem()).count("there is no such file (404") == 2
    assert "--clips-from hub: hf://datasets/me/clips/data/all.zip" in outcome.by_hand[1]
    assert outcome.by_hand[-1] == f"Ask their authors: {tmp_path}/videos is where clips go."


def test_clips_that_are_there_already_are_left_alone(source, tmp_path):
    (tmp_path / "TestVideo").mkdir()
    (tmp_path / "TestVideo" / "video7010.mp4").write_bytes(b"mine")
    outcome = fetch(source, tmp_path)
    assert outcome.notes == ["TestVideo: already there, so no clips are fetched"]
    assert not (tmp_path / ".downloads" / "clips.zip").exists()


def test_clips_had_from_one_place_are_not_fetched_from_another(source, their_hub, tmp_path):
    fetch(source, tmp_path, clips_from="hub", endpoint=their_hub.url)
    outcome = fetch(source, tmp_path)
    assert outcome.notes == ["TrainValVideo and TestVideo: already there, so no clips are fetched"]


def test_clips_can_be_left_out(source, site, tmp_path):
    outcome = fetch(source, tmp_path, annotations_only=True)
    assert len(outcome.files) == 2
    assert len(outcome.by_hand) == 3
    assert "/clips.zip" not in site.sent


def test_clips_from_the_hub_carry_the_commit_they_are_of(source, their_hub, tmp_path):
    outcome = fetch(source, tmp_path, clips_from="hub", endpoint=their_hub.url)
    assert outcome.problems == []
    assert clips(tmp_path / "TrainValVideo") == {"video0.mp4": b"0", "video1.mp4": b"1"}
    assert clips(tmp_path / "TestVideo") == {"video2.mp4": b"2"}
    assert record(tmp_path)["files"][".downloads/data/all.zip"]["revision"] == COMMIT


def test_lost_file_of_the_hub_is_fetched_again_of_the_same_commit(source, their_hub, tmp_path):
    fetch(source, tmp_path, clips_from="hub", endpoint=their_hub.url)
    for path in sorted((tmp_path / "TestVideo").iterdir()):
        path.unlink()
    (tmp_path / ".downloads" / "more.zip").unlink()
    their_hub.requests.clear()
    fetch(source, tmp_path, clips_from="hub", endpoint=their_hub.url)
    assert their_hub.requests[0][1] == f"/api/datasets/me/clips/revision/{COMMIT}"
    assert clips(tmp_path / "TestVideo") == {"video2.mp4": b"2"}


def test_file_of_the_hub_that_is_there_is_checked_without_it(source, tmp_path):
    with hub({"datasets/me/clips": {"data/all.zip": CLIPS, "more.zip": MORE}}) as their_hub:
        fetch(source, tmp_path, clips_from="hub", endpoint=their_hub.url)
    for path in sorted((tmp_path / "TestVideo").iterdir()):
        path.unlink()
    assert fetch(source, tmp_path, clips_from="hub", endpoint=their_hub.url).problems == []
    for path in sorted((tmp_path / "TestVideo").iterdir()):
        path.unlink()
    (tmp_path / ".downloads" / "more.zip").write_bytes(b"damaged")
    (problem,) = fetch(source, tmp_path, clips_from="hub", endpoint=their_hub.url).problems
    assert "sha256: expected" in str(problem)


def test_two_that_write_down_what_they_fetched_lose_nothing(source, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "litevl.locks")
    is_at_it, goes_on = threading.Event(), threading.Event()
    write = litevl.data.fetch.write_bytes

    def write_late(path, content):
        if not is_at_it.is_set():
            is_at_it.set()
            goes_on.wait(timeout=60)
        write(path, content)

    monkeypatch.setattr(litevl.data.fetch, "write_bytes", write_late)
    train, test = (replace(source, files=(each,), clips={}) for each in source.files)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(fetch, train, tmp_path)
        is_at_it.wait(timeout=60)
        second = threads.submit(fetch, test, tmp_path)
        while not caplog.messages and not second.done():
            time.sleep(0.01)
        goes_on.set()
    assert first.result().problems == second.result().problems == []
    assert set(record(tmp_path)["files"]) == {"train.json", "test.json"}


def test_file_that_was_put_there_is_written_down_too(source, site, tmp_path):
    (tmp_path / "train.json").write_bytes(TRAIN)
    fetch(source, tmp_path)
    assert "/train.json" not in site.sent
    assert record(tmp_path)["files"]["train.json"]["fetched"] is False


def test_file_of_the_hub_that_is_not_the_known_one_is_refused(source, their_hub, tmp_path):
    (more,) = source.clips["hub"][1:]
    known = replace(source, clips={"hub": (replace(more, known=Known(md5="0" * 32)),)})
    (problem,) = fetch(known, tmp_path, endpoint=their_hub.url).problems
    assert f"md5: expected {'0' * 32}" in str(problem)
    assert not (tmp_path / "TestVideo").exists()


def test_unknown_place_is_told_before_anything_is_fetched(source, site, tmp_path):
    with pytest.raises(DataError, match="no clips from 'kaggle'; places: web, hub"):
        fetch(source, tmp_path, clips_from="kaggle")
    assert site.requests == []


def test_damaged_archive_leaves_no_clips(source, site, tmp_path):
    site.contents["/clips.zip"] = CLIPS[:-30]
    (problem,) = fetch(source, tmp_path).problems
    assert isinstance(problem, DataError)
    assert not (tmp_path / "videos").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MSRVTT/videos/all/video7.mp4", "video7.mp4"),
        ("YouTubeClips/-4wsuPCjDBc_5_15.avi", "-4wsuPCjDBc_5_15.avi"),
        ("10052357@N03_7585070382_5762149bfc..mp4", "10052357@N03_7585070382_5762149bfc..mp4"),
        ("test/5@N03_75_ab.null", "5@N03_75_ab.null"),
        ("MSRVTT/annotation/MSR_VTT.json", None),
        ("__MACOSX/videos/video7.mp4", None),
        ("videos/._video7.mp4", None),
        ("LISTS/TRAIN.TXT", None),
    ],
)
def test_clips_are_told_from_what_lies_beside_them(name, expected):
    assert clip_name(name) == expected


# The command


def test_without_anybody_to_ask_the_terms_have_to_be_accepted_beforehand(command, site, capsys):
    assert command() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Only for research.\n")
    assert "pass --accept-licence" in err
    assert site.requests == []
    assert not Path("root").exists()


def test_terms_are_accepted_once_for_a_folder(command, source, monkeypatch, capsys):
    assert command("--accept-licence") == 0
    capsys.readouterr()
    assert command() == 0
    assert "Only for research" not in capsys.readouterr().err
    assert record(Path("root"))["licences"]["msrvtt"]["date"][:2] == "20"
    changed = types.SimpleNamespace(**{**vars(source), "licence": "Not for research."})
    monkeypatch.setattr(litevl.data.sources, "sources", lambda _: changed)
    assert command() == 2


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("Yes\n", 0), ("\n", 2), ("", 2)])
def test_somebody_at_a_terminal_is_asked(command, site, monkeypatch, capsys, answer, code):
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    assert command() == code
    assert "Fetch it under these terms? [y/N] " in capsys.readouterr().err
    assert bool(site.requests) == (code == 0)


def test_command_says_what_it_did_and_what_is_next(command, capsys):
    assert command("--accept-licence") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["fetched", "13", "bytes", "root/train.json"]
    assert "videos: 2 clips unpacked, 1 other files left out" in out
    assert "root/.downloads/clips.zip is unpacked and may be deleted" in out
    assert out[-1] == "Next: litevl data check msrvtt --root root"


def test_outcome_as_json_is_all_that_is_printed(command, capsys):
    assert command("--accept-licence", "--annotations-only", "--json") == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["root"] == "root"
    assert [each["fetched"] for each in outcome["files"]] == [True, True]
    assert outcome["files"][0]["sha256"] == hashlib.sha256(TRAIN).hexdigest()
    assert len(outcome["by_hand"]) == 3
    assert outcome["problems"] == []


def test_problem_is_in_the_json_and_decides_the_exit_code(command, site, capsys):
    site.contents["/train.json"] = b"{}"
    assert command("--accept-licence", "--json") == 2
    out, err = capsys.readouterr()
    (problem,) = json.loads(out)["problems"]
    assert "the file there has 2 bytes; 13 are expected" in problem
    assert problem in err


def test_clips_that_nobody_gives_out_are_left_to_the_user(command, source, monkeypatch, capsys):
    alone = types.SimpleNamespace(**{**vars(source), "clips": {}})
    monkeypatch.setattr(litevl.data.sources, "sources", lambda _: alone)
    assert command("--accept-licence") == 0
    out = capsys.readouterr().out
    assert "Left to do by hand, one of:\n  Ask their authors: root/videos is where clips go." in out


def test_folder_that_cannot_be_written_is_said_so(command, capsys):
    Path("root").write_text("a file")
    assert command("--accept-licence") == 1
    assert "Choose a folder you may write to with --root" in capsys.readouterr().err


def test_folder_of_a_disk_that_is_read_only_is_said_so(command, site, monkeypatch, capsys):
    def refuse(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert command("--accept-licence") == 1
    assert "Choose a folder you may write to with --root" in capsys.readouterr().err
    assert not site.requests


def test_damaged_record_is_said_so(command, capsys):
    Path("root").mkdir()
    (Path("root") / RECORD).write_text("[")
    assert command("--accept-licence") == 2
    assert "not the record of what was fetched" in capsys.readouterr().err


def test_checkpoint_goes_to_the_folder_of_weights(site, monkeypatch, capsys):
    file = Source("model_base.pth", f"{site.address}/train.json")
    one = Sources("blip:model_base", "BSD", (file,), {}, ())
    monkeypatch.setattr(litevl.data.sources, "sources", lambda _: one)
    assert main(["data", "fetch", "blip:model_base", "--accept-licence"]) == 0
    assert Path("data/weights/model_base.pth").read_bytes() == TRAIN
    assert "Next:" not in capsys.readouterr().out


def test_fetching_loads_no_torch():
    code = (
        "import sys; from litevl.cli import main; main(['data', 'fetch', 'nothing']);"
        "print(sorted({'torch', 'transformers', 'pandas', 'huggingface_hub'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
