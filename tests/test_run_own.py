"""One's own clips from `litevl data new` to records, a report and search, on tiny clips."""

import re
import shlex
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from small import the_arrays, the_record

from litevl.cli import main
from litevl.data.drawing import write_clip
from litevl.data.mini import plan_world
from litevl.data.own import read_texts
from litevl.data.scenes import render
from litevl.spec import World

pytestmark = pytest.mark.usefixtures("in_this_process")
ROOT = Path(__file__).parents[1]
CLIPS = [f"video{number}" for number in range(12)]
SPLIT = dict(zip(CLIPS, ["train"] * 6 + ["validation"] * 2 + ["test"] * 4, strict=True))
ROWS = {
    "own-retrieval": ["clip,caption,split"]
    + [f"{clip},a red square moves left {place},{SPLIT[clip]}" for place, clip in enumerate(CLIPS)]
    + ["video0,a blue circle,train"],
    "own-qa": ["clip,question,answer,split"]
    + [f"{clip},is it red?,{('red', 'left')[place % 2]},{SPLIT[clip]}"
       for place, clip in enumerate(CLIPS)]
    + ["video8,what moves?,circle,test"],
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory) -> Callable[[str], Path]:
    """Return a function from a data set to a folder with its spec, run when first asked for."""
    made: dict[str, Path] = {}

    def folder_of(dataset: str) -> Path:
        if dataset in made:
            return made[dataset]
        folder = made[dataset] = tmp_path_factory.mktemp(dataset)
        (folder / "clips").mkdir()
        for clip in CLIPS:
            shutil.copy(small / "world" / "videos" / f"{clip}.mp4", folder / "clips")
        (folder / "texts.csv").write_text("\n".join(ROWS[dataset]) + "\n")
        files = ["--clips", str(folder / "clips"), "--annotations", str(folder / "texts.csv")]
        weights = ["--weights", str(small / "model.safetensors")]
        assert main(["data", "new", "mine", *files, *weights]) == 0
        spec = folder / "mine.toml"
        text = spec.read_text().replace("size_px = 224", "size_px = 32")
        spec.write_text(text.replace("max_tokens = 128", "max_tokens = 64"))  # weights' positions
        assert run(folder) == 0
        return folder

    return folder_of


def run(folder: Path, *options: str) -> int:
    """The exit code of two short runs, without `--profile`."""
    variants = ["--variant", "full", "--variant", "mean-pooling", "--max-steps", "2"]
    output = ["--output", str(folder / "out")]
    return main(["run", str(folder / "mine.toml"), *variants, *output, *options])


def records(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "out/records/mine").glob("*.json") if "plan" not in p.name)


@pytest.mark.parametrize("dataset", ROWS)
def test_run_leaves_whole_records_and_a_report_of_their_own(dataset, finished):
    folder = finished(dataset)
    full, other = records(folder)
    assert [path.name.rpartition("-")[0] for path in (full, other)] == [
        "mine-own-full-s0",
        "mine-own-mean-pooling-s0",
    ]
    page = (folder / "out/mine-own/index.html").read_text(encoding="utf-8")
    assert "own profile" in page
    assert "Own data: the paper&#39;s claims" in page or "Own data: the paper's claims" in page
    assert "No run planned" not in page
    assert full.stem in (folder / "out/mine-own/report.md").read_text(encoding="utf-8")
    assert main(["report", str(folder / "out"), "--profile", "own"]) == 0


def test_test_captions_are_those_of_the_file_one_for_each_clip(finished, tmp_path):
    shutil.copytree(finished("own-retrieval") / "out", tmp_path / "out")
    for path in (tmp_path / "out/records/mine").glob("*mean-pooling*"):
        path.unlink()
    record, arrays = the_record(tmp_path / "out"), the_arrays(tmp_path / "out")
    assert arrays["gallery_ids"].tolist() == [f"{clip}.mp4" for clip in CLIPS[8:]]
    assert arrays["captions"].tolist() == [row.split(",")[1] for row in ROWS["own-retrieval"][9:13]]
    assert record.data.splits["train"].captions == 7
    assert record.data.dataset == "own-retrieval"
    assert "annotations: texts.csv" in record.data.notes


def test_questions_of_other_types_are_scored_and_have_a_column(finished, tmp_path):
    folder = finished("own-qa")
    shutil.copytree(folder / "out", tmp_path / "out")
    for path in (tmp_path / "out/records/mine").glob("*mean-pooling*"):
        path.unlink()
    record, arrays = the_record(tmp_path / "out"), the_arrays(tmp_path / "out")
    assert sorted(arrays["kinds"].tolist()) == ["other"] * 4 + ["what"]
    assert record.metrics.test["accuracy/other"].n == 4
    assert record.metrics.test["answerable"].value == 80.0  # "circle" is no training answer
    assert arrays["answer_list"].tolist() == ["red", "left"]


def test_finished_runs_are_kept_and_a_changed_text_runs_anew(finished, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(finished("own-retrieval"), folder)
    spec = folder / "mine.toml"
    spec.write_text(spec.read_text().replace(str(finished("own-retrieval")), str(folder)))
    capsys.readouterr()
    assert run(finished("own-retrieval")) == 0
    assert "2 runs, 2 done before" in capsys.readouterr().out
    texts = folder / "texts.csv"
    texts.write_text(texts.read_text().replace("left 11", "right"))
    planned = ["plan", str(spec), "--variant", "full", "--output", str(folder / "out")]
    assert main(planned) == 0
    assert "0 done" in capsys.readouterr().out
    texts.write_text(texts.read_text() + "video8,another,test\n")
    assert run(folder) == 2
    assert "texts.csv line 15: a second caption of video8.mp4" in capsys.readouterr().err


def test_clip_that_went_away_is_told_and_can_be_left_out(finished, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(finished("own-retrieval"), folder)
    spec = folder / "mine.toml"
    spec.write_text(spec.read_text().replace(str(finished("own-retrieval")), str(folder)))
    (folder / "clips/video11.mp4").unlink()
    shutil.rmtree(folder / "out")
    assert run(folder) == 2
    assert "test: 3 of 4 clips found; 1 missing (first: video11" in capsys.readouterr().err
    assert main(["data", "check", "own-retrieval", "--spec", str(spec)]) == 1
    assert "not what the spec expects" in capsys.readouterr().out


def test_the_folder_is_searched_with_the_model(finished, tmp_path, capsys):
    folder = finished("own-retrieval")
    (model,) = (folder / "out/runs").glob("mine-own-full-*/model")
    shutil.copytree(folder / "clips", tmp_path / "clips")
    assert main(["index", str(tmp_path / "clips"), "--model", str(model)]) == 0
    assert main(["search", str(tmp_path / "clips"), "a red square", "--top", "3"]) == 0
    assert len(re.findall(r"video\d+\.mp4", capsys.readouterr().out)) == 3


# README's example


def shell_lines() -> list[list[str]]:
    """The commands of README's section, one list of words each."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Your own clips\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


def world_of_msrvtt() -> World:
    spec = tomllib.loads((ROOT / "reproductions/msrvtt.toml").read_text(encoding="utf-8"))
    return World.model_validate(spec["profile"]["mini"]["data"]["world"])


def test_example_texts_are_what_the_drawn_clips_show(tmp_path):
    drawn = {clip.id: clip for clip in plan_world("msrvtt", world_of_msrvtt())}
    texts = read_texts(tmp_path, ROOT / "docs/own-data.csv")
    assert texts.problems == []
    for clips in texts.clips.values():
        for clip in clips.values():
            assert {*clip.captions} <= {*drawn[clip.id].captions}
    assert [len(clips) for clips in texts.clips.values()] == [64, 16, 32]


def test_readme_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "docs", "docs")
    world, videos = world_of_msrvtt(), Path("data/mini/msrvtt/videos")
    videos.mkdir(parents=True)
    for clip in plan_world("msrvtt", world)[:112]:
        frames = render(clip.scene, world.num_frames, world.size_px)
        write_clip(videos / f"{clip.id}.mp4", frames, world.frames_per_second)
    copy, new, go = shell_lines()
    assert copy[:2] == ["cp", "-r"]
    shutil.copytree(*copy[2:])
    assert main(new[1:]) == 0
    quick = ["--variant", "full", "--subset", "8", "--max-steps", "2"]
    assert main([*go[1:], *quick]) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "report: reports/my-clips-own/index.html"
    assert the_record(Path("reports")).metrics.test["t2v/R@1"].n == 8
