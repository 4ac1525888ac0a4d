"""`litevl data check`: every clip counted and decoded once, interrupted or not; what runs see."""

import json
import os
import shutil
from pathlib import Path

import pytest
from paper_data import copy_world, paper_spec

from litevl.cli import main
from litevl.data import checked
from litevl.data.checked import DECODED_FILE, note_on_check, outcome_file
from litevl.data.counting import check_clips
from litevl.prepare import prepare, read_annotations
from litevl.spec import load_spec, resolve

pytestmark = pytest.mark.usefixtures("in_this_process")
NAMES = {"train": 16, "validation": 4, "test": 8}


@pytest.fixture
def root(small, tmp_path) -> Path:
    """Return a copy of the small world, as if it were MSRVTT: 28 clips."""
    return copy_world(small, tmp_path / "msrvtt")


@pytest.fixture
def check(root, tmp_path, capsys):
    """Return a function that checks the data: exit code and the outcome printed as JSON."""
    spec = paper_spec(tmp_path, root)

    def check(*options: str) -> tuple[int, dict]:
        command = ["data", "check", "msrvtt", "--spec", str(spec), "--workers", "1"]
        code = main([*command, "--json", *options])
        return code, json.loads(capsys.readouterr().out)

    return check


def fingerprint_of_run(tmp_path: Path) -> str:
    """The fingerprint that a run of the spec records, with what is missing allowed."""
    data = resolve(load_spec(tmp_path / "spec.toml"), "paper", "full").data
    report = check_clips(read_annotations(data), NAMES, allow_missing=True)
    return report.fingerprint


def test_whole_data_set_is_counted_and_decoded(check, root, tmp_path):
    code, outcome = check()
    assert code == 0
    assert outcome["ok"]
    counts = {split: (part["expected"], part["found"]) for split, part in outcome["splits"].items()}
    assert counts == {split: (number, number) for split, number in NAMES.items()}
    assert all(part["missing"] == part["broken"] == 0 for part in outcome["splits"].values())
    assert outcome["decoded"] == 28
    assert outcome["fingerprint"] == fingerprint_of_run(tmp_path)
    assert json.loads(outcome_file(root, "msrvtt").read_text()) == outcome


def rename_as_published(root: Path, dataset: str) -> None:
    """Give the clips of a small world the file names that the data set's archives have."""
    if dataset == "didemo":  # original names, and what the download script makes of them
        endings = (".mov", ".avi", ".mov.mp4", "..mp4", ".", ".3gp")
        for number, clip in enumerate(sorted((root / "videos").glob("*@*"))):
            clip.rename(clip.with_name(clip.stem + endings[number % len(endings)]))
    elif dataset == "msvd-qa":
        (root / "videos").rename(root / "YouTubeClips")
    else:
        (root / "videos").rename(root / "TrainValVideo")


@pytest.mark.parametrize("dataset", ["didemo", "msvd-qa", "msrvtt-qa"])
def test_clips_are_found_under_their_published_names(dataset, small_of, tmp_path, capsys):
    root = copy_world(small_of(dataset), tmp_path / "root")
    rename_as_published(root, dataset)
    spec = paper_spec(tmp_path, root, dataset)
    command = ["data", "check", dataset, "--spec", str(spec), "--workers", "1", "--json"]
    assert main(command) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert {split: part["found"] for split, part in outcome["splits"].items()} == NAMES
    assert outcome["decoded"] == 28
    first = sorted(root.glob("*/*[!s]"))[3]
    first.write_bytes(first.read_bytes()[:500])
    assert main(command) == 1
    (reason,) = json.loads(capsys.readouterr().out)["broken"].values()
    assert reason.startswith(f"{first}: ")


def test_missing_and_broken_clips_are_named_with_their_split_and_reason(check, root, tmp_path):
    videos = root / "videos"
    (videos / "video0.mp4").unlink()
    (videos / "video20.mp4").write_bytes(b"")
    whole = (videos / "video21.mp4").read_bytes()
    (videos / "video21.mp4").write_bytes(whole[: len(whole) // 2])
    code, outcome = check()
    assert code == 1
    assert outcome["missing"] == {"train": ["video0"], "validation": [], "test": []}
    assert outcome["splits"]["train"]["missing"] == 1
    assert outcome["splits"]["test"] | {"captions": 6} == {
        "expected": 8, "found": 6, "missing": 0, "broken": 2, "captions": 6,
    }  # fmt: skip
    assert outcome["broken"] == {
        "video20": f"{videos / 'video20.mp4'}: empty or not readable",
        "video21": f"{videos / 'video21.mp4'}: truncated: begins as an MP4 file but ends before "
        "its index (moov) is complete",
    }
    assert len(outcome["problems"]) == 3
    # A run leaves the same clips out, and then has the same fingerprint.
    (videos / "video21.mp4").unlink()
    assert outcome["fingerprint"] == fingerprint_of_run(tmp_path)


def test_second_check_decodes_only_what_changed_or_was_broken(check, root):
    broken = root / "videos" / "video3.mp4"
    whole = broken.read_bytes()
    broken.write_bytes(b"no video at all")
    assert check()[1]["decoded"] == 28
    os.utime(root / "videos" / "video5.mp4")  # touched, with the same content
    shutil.copy(root / "videos" / "video7.mp4", root / "videos" / "video6.mp4")
    code, outcome = check()
    assert (code, outcome["decoded"], outcome["known_to_decode"]) == (1, 2, 26)
    broken.write_bytes(whole)
    code, outcome = check()
    assert (code, outcome["decoded"], outcome["known_to_decode"]) == (0, 1, 27)


def test_another_decoder_version_decodes_everything_again(check, monkeypatch):
    check()
    monkeypatch.setattr(checked, "decoder_versions", lambda _decoder: ["other 1.0"])
    assert check()[1]["decoded"] == 28


def test_interrupted_check_continues(check, root, monkeypatch):
    decode_clips = checked.decode_clips

    def interrupted(*args):
        answers = decode_clips(*args)
        for _ in range(5):
            yield next(answers)
        raise KeyboardInterrupt

    monkeypatch.setattr(checked, "decode_clips", interrupted)
    with pytest.raises(json.JSONDecodeError):  # nothing is printed
        check()
    assert len(json.loads((root / DECODED_FILE).read_text())) == 5
    assert not outcome_file(root, "msrvtt").exists()
    monkeypatch.setattr(checked, "decode_clips", decode_clips)
    code, outcome = check()
    assert (code, outcome["decoded"], outcome["known_to_decode"]) == (0, 23, 5)


def test_all_clips_of_a_split_gone_is_an_outcome_too(check, root):
    for number in range(20, 28):
        (root / "videos" / f"video{number}.mp4").unlink()
    code, outcome = check()
    assert code == 1
    assert outcome["splits"]["test"]["found"] == 0
    assert len(outcome["missing"]["test"]) == 8


@pytest.mark.usefixtures("with_processes")
def test_text_names_counts_clips_and_fingerprint(root, tmp_path, capsys):
    (root / "videos" / "video0.mp4").unlink()
    (root / "videos" / "video20.mp4").write_bytes(b"<html>404</html>")
    spec = paper_spec(tmp_path, root)
    assert main(["data", "check", "msrvtt", "--spec", str(spec), "--workers", "1"]) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert "27/27" in captured.err
    assert lines[1].split() == ["split", "expected", "found", "missing", "broken", "captions"]
    assert lines[2].split() == ["train", "16", "15", "1", "0", "45"]
    assert lines[4].split() == ["test", "8", "7", "0", "1", "7"]
    assert lines[lines.index("missing in train: 1") + 1] == "  video0"
    assert "  " + f"{root / 'videos' / 'video20.mp4'}: not a video file that FFmpeg knows" in lines
    assert any(line.startswith("fingerprint ") for line in lines)
    assert lines[-1] == "not what the spec expects"


def test_mistakes_of_the_user_are_told(root, tmp_path, monkeypatch, capsys):
    spec = str(paper_spec(tmp_path, root))
    assert main(["data", "check", "didemo", "--spec", spec]) == 2
    assert 'describes "msrvtt", not "didemo"' in capsys.readouterr().err
    assert main(["data", "check", "msrvtt", "--spec", spec, "--root", str(tmp_path / "no")]) == 2
    assert "no such folder" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", "msrvtt"]) == 2
    assert "name the file with --spec" in capsys.readouterr().err


def test_folder_that_cannot_be_written_is_checked_all_the_same(check, monkeypatch, caplog):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("litevl.data.fingerprint.whole_file", refuse)
    assert check()[0] == 0
    assert ".litevl-checked-msrvtt.json: not kept for the next time" in caplog.text


# What a run says about it


def test_run_over_the_checked_data_says_so(check, root):
    _, outcome = check()
    note = note_on_check(root, "msrvtt", outcome["fingerprint"])
    assert note == f"the clips are those that `litevl data check` decoded on {outcome['checked']}"


def test_run_over_data_changed_since_the_check_says_so(check, root, caplog):
    _, outcome = check()
    note = note_on_check(root, "msrvtt", "another")
    assert note.startswith(f"the data changed since `litevl data check` of {outcome['checked']}")
    assert outcome["fingerprint"] in note
    assert "the data changed" in caplog.text


def test_run_over_data_never_checked_says_so(root):
    assert note_on_check(root, "msrvtt", "a").startswith("clips not checked beforehand")


@pytest.mark.parametrize("subset", [None, 4])
def test_record_of_a_run_carries_the_checks_fingerprint_and_a_note(small, check, root, subset):
    _, outcome = check()
    settings = resolve(load_spec(small / "spec.toml"), "mini", "full")
    data = settings.data.model_copy(update={"root": str(root), "world": None})
    report = prepare(settings.model_copy(update={"data": data}), subset, False).report
    is_noted = any("`litevl data check` decoded on" in note for note in report.data.notes)
    assert is_noted == (report.fingerprint == outcome["fingerprint"]) == (subset is None)


def test_files_of_the_check_are_not_taken_for_annotations(check):
    before = check()[1]["notes"]
    assert check()[1]["notes"] == before
    assert not any("litevl" in note for note in before)
