"""What a user can get wrong, or a machine can run out of: one message, the way out, no traceback.

Every test goes through the command line. Nothing is skipped or replaced in silence, and runs that
were finished before stay as they are.
"""

import csv
import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from clips import write_audio, write_clip
from safetensors import SafetensorError
from small import small_settings, small_world, the_record, write_spec

from litevl import measure_retrieval, prepare
from litevl import run as engine
from litevl.cli import main
from litevl.data import dataset, mini
from litevl.engine import retrieval
from litevl.record import read_record
from litevl.report import page

pytestmark = pytest.mark.usefixtures("in_this_process")
FEW = small_world(train_scenes=2, validation_scenes=1, test_scenes=2)
QUICK = ("--variant", "full", "--max-steps", "1")
JSON = "train_val_videodatainfo.json"
TEST_CSV = "MSRVTT_JSFUSION_test.csv"


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """Leave out the report, which has its own tests."""
    monkeypatch.setattr(page, "render_report", lambda *_: Path("no report"))


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """A world of five scenes that tests copy."""
    root = tmp_path_factory.mktemp("few") / "world"
    mini.ensure_world(root, "msrvtt", FEW, num_workers=1, progress=False)
    return root


@pytest.fixture
def world(few, tmp_path) -> Path:
    """A copy of the world, to be damaged."""
    return shutil.copytree(few, tmp_path / "world")


@pytest.fixture
def spec(small, world) -> dict:
    """A spec of that world as nested tables, to be changed."""
    return small_settings(world, small / "model.safetensors", FEW)


@pytest.fixture
def run(spec, tmp_path, capsys):
    """Return a function that runs the spec: exit code and what stands on stderr, without bars."""

    def run(*options: str, output: Path = tmp_path / "out") -> tuple[int, str]:
        file = write_spec(tmp_path / "spec.toml", spec)
        code = main(["run", str(file), "--output", str(output), *QUICK, *options])
        lines = capsys.readouterr().err.replace("\r", "\n").split("\n")
        kept = [line for line in lines if line.strip() and "it/s" not in line and "%|" not in line]
        return code, "\n".join(kept)

    return run


# The spec


@pytest.mark.parametrize(
    ("edit", "lines"),
    [
        (("[frames]", "[frames]\ntrian = 8"), ["frames.trian: unknown key; did you mean"]),
        (("num_frames = 8", 'num_frames = "8"'), ["frames.num_frames: expected a whole number"]),
        (
            ('"model.scaling" = "none" }', '"model.scaling" = "layer" }'),
            ["variant.no-temporal-attention.model.scaling", 'set it to "none"'],
        ),
        (("[frames]", "[frames"), ["not TOML", "line"]),
    ],
    ids=["unknown key", "wrong type", "impossible combination", "not TOML"],
)
@pytest.mark.parametrize("command", ["check", "plan", "run"])
def test_wrong_spec_is_told_by_every_command(tmp_path, capsys, command, edit, lines):
    text = (Path(__file__).parents[1] / "reproductions" / "msrvtt.toml").read_text("utf-8")
    assert edit[0] in text
    file = tmp_path / "spec.toml"
    file.write_text(text.replace(*edit, 1), encoding="utf-8")
    output = [] if command == "check" else ["--output", str(tmp_path / "out")]
    assert main([command, str(file), *output]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"SpecError: {file}: ")
    assert all(line in err for line in lines)
    assert not (tmp_path / "out").exists()


def test_spec_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["run", str(tmp_path / "absent.toml")]) == 2
    assert f"{tmp_path / 'absent.toml'}" in capsys.readouterr().err


# Clips


def test_missing_and_empty_clips_are_named_with_the_way_out(run, world, tmp_path):
    (world / "videos" / "video0.mp4").unlink()
    (world / "videos" / "video7.mp4").write_bytes(b"")
    code, err = run()
    assert code == 2
    assert err.startswith("DataError: the clips are not those the spec expects\n")
    assert "train: 3 of 4 clips found; 1 missing (first: video0" in err
    assert "test: 3 of 4 clips found; 1 empty or not readable (first: video7" in err
    assert "Pass --allow-missing to run anyway" in err
    assert not list(tmp_path.glob("out/records/*/*full*"))
    code, _ = run("--allow-missing")
    assert code == 0
    record = the_record(tmp_path / "out")
    assert not record.run.comparable
    assert "1 missing (first: video0" in record.run.not_comparable_because[0]
    assert record.metrics.test["t2v/R@1"].n == 3


def test_clips_that_cannot_be_decoded_are_listed_together(run, world, tmp_path):
    clip = world / "videos" / "video0.mp4"
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    write_audio(world / "videos" / "video2.mp4")
    (world / "videos" / "video3.mp4").write_bytes(b"no video at all" * 100)
    code, err = run()
    assert code == 2
    assert err.startswith("DataError: 3 of 4 clips cannot be decoded\n")
    assert "video0.mp4: truncated" in err
    assert "video2.mp4: holds no video stream, only: audio" in err
    assert "video3.mp4: not a video file" in err
    assert "pass --allow-missing" in err
    assert not list(tmp_path.glob("out/records/*/*full*"))


def test_clips_that_cannot_be_decoded_are_left_out_and_counted_where_that_is_allowed(
    run, world, tmp_path, caplog
):
    clips = [world / "videos" / f"video{number}.mp4" for number in (0, 7)]
    for clip in clips:
        clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    assert run("--allow-missing")[0] == 0
    assert all(f"left out: {clip}: truncated: " in caplog.text for clip in clips)
    record = the_record(tmp_path / "out")
    assert not record.run.comparable
    assert record.run.not_comparable_because[:2] == (
        "train: 1 of 4 clips cannot be decoded (first: video0)",
        "test: 1 of 4 clips cannot be decoded (first: video7)",
    )
    assert record.data.splits["test"].found == 3
    assert record.data.splits["test"].broken == 1
    assert record.metrics.test["t2v/R@1"].n == 3


def test_clip_of_one_frame_is_used_its_frame_repeated(run, world, tmp_path):
    """As decord users see it: leaving such a clip out would change what is counted."""
    write_clip(world / "videos" / "video0.mp4", num_frames=1, size_px=32)
    assert run()[0] == 0
    record = the_record(tmp_path / "out")
    assert record.status == "complete"
    assert record.data.splits["train"].broken == 0


# Annotations


def rewrite(world: Path, edit) -> None:
    """Pass the training annotations through a function that changes them."""
    content = json.loads((world / JSON).read_text(encoding="utf-8"))
    edit(content)
    (world / JSON).write_text(json.dumps(content), encoding="utf-8")


def rewrite_test(world: Path, edit) -> None:
    """Pass the rows of the test table through a function that changes them."""
    with (world / TEST_CSV).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    edit(rows)
    with (world / TEST_CSV).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def test_annotation_row_without_its_clip_is_named(run, world):
    rewrite(world, lambda content: content["sentences"][0].update(video_id="video999"))
    rewrite_test(world, lambda rows: rows.append(["ret9", "msr9", "video998", "a red circle"]))
    code, err = run()
    assert code == 2
    assert f"DataError: {world}: 2 problems in the MSRVTT annotations" in err
    assert f"{JSON} sentences[0]: names video999, which is not among the videos" in err
    assert f"{TEST_CSV} line 6: video998 is not in the official JSON" in err


def test_empty_captions_are_named_with_file_and_row(run, world):
    rewrite(world, lambda content: content["sentences"][1].update(caption="  "))
    rewrite_test(world, lambda rows: rows[1].__setitem__(3, ""))
    code, err = run()
    assert code == 2
    assert f"{JSON} sentences[1]: empty caption for video0" in err
    assert f"{TEST_CSV} line 2: empty caption for video6" in err


@pytest.mark.parametrize("split", ["train", "test"])
def test_too_long_caption_is_named_with_its_clip_and_the_key_to_raise(run, world, split):
    words = "a red circle " * 11
    if split == "train":
        rewrite(world, lambda content: content["sentences"][1].update(caption=words))
    else:
        rewrite_test(world, lambda rows: rows[1].__setitem__(3, words))
    code, err = run()
    assert code == 2
    clip = "video0" if split == "train" else "video6"
    assert err.startswith(
        f"DataError: {world}: texts that cannot be used\n  {split} captions: 1 of "
    )
    assert f"\n    {clip}: more than 32 word pieces: 'a red circle a red" in err
    assert err.endswith("raise data.max_tokens in the spec.")
    assert not list(world.with_name("world-frames").glob("*"))  # told before the long decoding


def test_caption_without_a_single_word_is_named_with_its_clip(run, world):
    rewrite_test(world, lambda rows: rows[2].__setitem__(3, "\u200b"))  # a space of no width
    code, err = run()
    assert code == 2
    assert "\n    video7: empty text: " in err


def test_only_the_first_captions_that_cannot_be_used_are_listed(run, world, monkeypatch):
    monkeypatch.setattr(prepare, "NUM_SHOWN", 2)
    rewrite(world, lambda content: [s.update(caption="a " * 40) for s in content["sentences"]])
    code, err = run()
    assert code == 2
    assert "\n  train captions: 12 of 12\n" in err
    assert "\n  validation captions: 2 of 2\n" in err
    assert err.count("more than 32 word pieces") == 2 * 2
    assert "\n    ...\n" in err


def test_world_with_more_scenes_than_there_are_is_told(run, spec):
    spec["profile"]["mini"]["data"]["world"]["train_scenes"] = 10**6
    code, err = run()
    assert code == 2
    assert "different scenes, the spec asks for 1000003" in err
    assert "Lower train_scenes" in err


def test_data_root_that_holds_something_else_is_left_alone(run, world):
    (world / "world.json").unlink()
    code, err = run()
    assert code == 2
    assert f"DataError: {world}: holds files that are not a mini world\n" in err
    assert (world / "videos" / "video0.mp4").exists()


def test_weights_that_are_not_there_are_told(run, spec, small, tmp_path):
    spec["profile"]["mini"]["model"]["weights"] = str(tmp_path / "absent.safetensors")
    shutil.copy(small / "vocab.txt", tmp_path)
    assert run()[0] == 1
    record = the_record(tmp_path / "out")
    assert record.status == "failed"
    assert "absent.safetensors: no such file; give 'mini-blip' or a checkpoint's" in record.error


def test_texts_longer_than_the_weights_have_positions_for_are_told_before_training(
    run, spec, tmp_path, monkeypatch
):
    monkeypatch.setattr(engine, "train", None)
    spec["profile"]["mini"]["data"]["max_tokens"] = 65
    assert run()[0] == 1
    error = the_record(tmp_path / "out").error
    assert "data.max_tokens: 65 word pieces, but " in error
    assert "has positions for 64\n  Lower data.max_tokens" in error


# The disk


def no_space(*_, **__):
    """A write on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["output", "records", "runs"])
def test_output_that_cannot_be_written_is_told_before_training(run, tmp_path, where):
    output = tmp_path / "out"
    if where == "output":
        output.write_text("a file in the way")
    else:
        output.mkdir()
        (output / where).write_text("a file in the way")
    code, err = run(output=output)
    assert code == 1
    assert str(output) in err
    assert "--output" in err
    assert (output if where == "output" else output / where).read_text() == "a file in the way"


def test_no_space_for_the_world_is_told(run, world, monkeypatch):
    shutil.rmtree(world)
    monkeypatch.setattr(mini, "make_world", no_space)
    code, err = run()
    assert code == 1
    assert err.startswith(f"RunError: {world}: the mini world cannot be written: No space left")


def test_no_space_for_the_frame_cache_is_told(run, world, monkeypatch):
    monkeypatch.setattr(dataset, "_build", no_space)
    code, err = run()
    assert code == 1
    assert err.startswith(f"RunError: {world}-frames: the frame cache cannot be written: No space")


def test_no_space_for_a_checkpoint_is_a_failed_run_and_others_stay(run, tmp_path, monkeypatch):
    assert run("--seed", "7")[0] == 0
    (finished,) = (tmp_path / "out" / "records").rglob("*full-s7-*.json")
    before = finished.read_bytes()

    def save(*_, **__):
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        code, _ = run()
    assert code == 1
    (failed,) = (tmp_path / "out" / "records").rglob("*full-s0-*.json")
    error = read_record(failed).error
    assert "last.pt: the checkpoint cannot be written (no space left" in error
    assert "the same command continues" in error
    assert finished.read_bytes() == before
    assert run()[0] == 0
    assert read_record(failed).status == "complete"


def test_no_space_for_the_trained_model_is_a_failed_run(run, tmp_path, monkeypatch):
    def save_pretrained(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(engine.LiteVLForRetrieval, "save_pretrained", save_pretrained)
    assert run()[0] == 1
    record = the_record(tmp_path / "out")
    assert record.status == "failed"
    assert "model: the trained model cannot be written (" in record.error
    assert "No space left" in record.error
    assert "the same command continues" in record.error


def test_no_space_for_the_record_is_told_and_the_same_command_continues(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("litevl.record.os.fsync", no_space)
        code, err = run()
    assert code == 1
    assert ": no space left on the disk.\n" in err
    assert "goes on where it stopped" in err
    assert not list(tmp_path.glob("out/records/*/*full*"))
    assert run()[0] == 0


# Ctrl-C


@pytest.mark.parametrize("where", ["drawing", "decoding", "training", "scoring"])
def test_ctrl_c_is_one_line_and_leaves_nothing_half_done(run, world, tmp_path, monkeypatch, where):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "drawing":
            shutil.rmtree(world)
            patch.setattr(mini, "make_world", interrupt)
        elif where == "decoding":
            patch.setattr(dataset, "_build", interrupt)
        elif where == "training":
            patch.setattr(retrieval.RetrievalObjective, "backward", interrupt)
        else:
            patch.setattr(measure_retrieval, "score_run", interrupt)
        code, err = run()
    assert code == 130
    assert err.endswith(
        "Interrupted. Finished runs are kept; the same command continues with the rest."
    )
    assert not list(tmp_path.glob("out/records/*/*full*"))
    assert not list(tmp_path.glob("*partial*"))
    assert not list(tmp_path.glob("world-frames/*partial*"))
