"""What can be wrong in the files of DiDeMo, MSVD-QA and MSRVTT-QA, through the command line.

One message with file, place and way out, exit code 2 and no traceback; nothing is left out in
silence. Every test damages a copy of a small drawn world.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small import small_settings, small_world, the_arrays, the_record, write_spec

from litevl.cli import main
from litevl.data.mini import ensure_world
from litevl.report import page

pytestmark = pytest.mark.usefixtures("in_this_process")
FEW = {"train_scenes": 2, "validation_scenes": 1, "test_scenes": 2}
QUICK = ("--variant", "full", "--max-steps", "1")
Edit = Callable[[list[dict]], object]


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """Leave out the report, which has its own tests."""
    monkeypatch.setattr(page, "render_report", lambda *_: Path("no report"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function from a data set to its world of five scenes, drawn when first asked for."""
    made: dict[str, Path] = {}

    def world_of(dataset) -> Path:
        if dataset not in made:
            made[dataset] = tmp_path_factory.mktemp(dataset) / "world"
            world = small_world(dataset, **FEW)
            ensure_world(made[dataset], dataset, world, num_workers=1, progress=False)
        return made[dataset]

    return world_of


class Case:
    """A copy of a data set's world and a spec of it, both to be damaged, then run."""

    def __init__(self, dataset: str, drawn: Path, folder: Path, weights: Path, capsys) -> None:
        self.world, self.output = shutil.copytree(drawn, folder / "world"), folder / "out"
        settings = small_world(dataset, **FEW)
        self.spec = small_settings(self.world, weights, settings, dataset)
        self.data = self.spec["profile"]["mini"]["data"]
        if "answers" in self.data:
            self.data["answers"] = {"count": 4}
        self.folder, self.capsys = folder, capsys

    def edit(self, file: str, change: Edit) -> None:
        """Pass the entries of an annotation file through a function that changes them."""
        content = json.loads((self.world / file).read_text(encoding="utf-8"))
        change(content)
        (self.world / file).write_text(json.dumps(content), encoding="utf-8")

    def list_answers(self, text: str, count: int, file: str = "answers.json") -> None:
        """Write an answer list and name it in the spec."""
        (self.world / file).write_text(text, encoding="utf-8")
        self.data["answers"] = {"count": count, "file": file}
        self.spec["profile"]["mini"]["evaluate"]["rerank_k"] = 1

    def run(self, *options: str) -> tuple[int, str]:
        """Exit code, and what stands on stderr."""
        file = write_spec(self.folder / "spec.toml", self.spec)
        code = main(["run", str(file), "--output", str(self.output), *QUICK, *options])
        return code, self.capsys.readouterr().err

    def complaint(self) -> str:
        """What is said against the data; nothing has been decoded or recorded by then."""
        code, message = self.run()
        assert code == 2
        assert message.startswith("DataError: ")
        assert "Traceback" not in message
        assert not list(self.output.glob("records/*/*full*"))
        assert not (self.folder / "world-frames").exists()
        return message


@pytest.fixture
def case_of(drawn, small, tmp_path, capsys) -> Callable[[str], Case]:
    """Return a function from a data set to its case."""
    weights = small / "model.safetensors"
    return lambda dataset: Case(dataset, drawn(dataset), tmp_path, weights, capsys)


about_questions = pytest.mark.parametrize("dataset", ["msvd-qa", "msrvtt-qa"])


# The answer list


@about_questions
@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("answers.json", '["red", "left", "red"]', "entry 3 is 'red' again, as entry 1"),
        ("answers.json", '{"red": 0, "left": 1, "red": 2}', "entry 3 is 'red' again, as entry 1"),
        ("answers.json", '{"red": 0, "left": 1, "blue": 1}', "two answers have the same label"),
        ("answers.txt", "red\nleft\nred\n", "entry 3 is 'red' again, as entry 1"),
        ("answers.txt", "red\n\nleft\n", "entry 2 is ''; should be an answer"),
        ("answers.txt", "red\nleft\n", "has 2 entries, data.answers.count is 3"),
        ("answers.json", '["red", "left", ', "cannot be read as an answer list"),
    ],
    ids=["list", "object", "label", "lines", "empty line", "count", "cut short"],
)
def test_wrong_answer_list_is_named_with_file_and_entry(case_of, dataset, file, text, line):
    case = case_of(dataset)
    case.list_answers(text, 3, file)
    message = case.complaint()
    assert f"{case.world}: 1 problem in the {dataset.upper()} annotations" in message
    assert f"\n  {file}: " in message
    assert line in message


@about_questions
def test_answer_list_that_is_not_there_is_told_with_its_key(case_of, dataset):
    case = case_of(dataset)
    case.data["answers"]["file"] = "absent.json"
    assert "no absent.json, the answer list (data.answers.file)" in case.complaint()


@about_questions
def test_more_answers_than_the_training_questions_have_are_told_with_the_key(case_of, dataset):
    case = case_of(dataset)
    case.data["answers"] = {"count": 500}
    assert "data.answers.count: 500, but the training questions have " in case.complaint()


def test_answers_the_tokenizer_cannot_tell_apart_or_express_are_named_with_the_list(case_of):
    case = case_of("msvd-qa")
    case.list_answers('["red", "Red", "\\u6f22", "left"]', 4)
    message = case.complaint()
    assert "\n  answers.json:\n" in message
    assert "'Red': the same as 'red', which comes earlier" in message
    assert "'\u6f22': has a word outside the vocabulary" in message
    assert "Correct the list" in message


def test_answers_of_the_training_questions_that_cannot_be_ranked_are_told_too(case_of):
    case = case_of("msrvtt-qa")
    case.edit("train_qa.json", lambda rows: [row.update(answer="\u6f22") for row in rows[:9]])
    message = case.complaint()
    assert "\n  the answers of the training questions:\n" in message
    assert "'\u6f22': has a word outside the vocabulary" in message


@about_questions
def test_answer_outside_the_list_is_no_error_and_counts_as_wrong_and_as_outside(case_of, dataset):
    case = case_of(dataset)
    assert case.run()[0] == 0
    before = the_record(case.output).data.splits["test"].outside_list
    listed = the_arrays(case.output)["answer_list"].tolist()
    shutil.rmtree(case.output)

    odd = ("\u6f22", "cow " * 99)  # not expressible, and longer than any answer may be

    def change(rows):
        several = [row for row in rows if row["answer"] in listed]
        for row, answer in zip(several, odd, strict=False):
            row["answer"] = answer

    case.edit("test_qa.json", change)
    assert case.run()[0] == 0
    record, arrays = the_record(case.output), the_arrays(case.output)
    assert record.status == "complete"
    part = record.data.splits["test"]
    assert part.outside_list == before + len(odd)
    assert part.questions == record.metrics.test["accuracy"].n == len(arrays["right"])
    outsiders = np.isin(arrays["answers"], odd)
    assert outsiders.sum() == len(odd)
    assert not (arrays["right"] + arrays["in_list"])[outsiders].any()
    outside = np.count_nonzero(arrays["in_list"] == 0)
    assert part.outside_list == outside
    share = 100 * (1 - outside / part.questions)
    assert record.metrics.test["answerable"].value == pytest.approx(share)
    (note,) = (note for note in record.data.notes if note.startswith("test: "))
    assert f"; {part.questions - outside} (" in note
    assert "have a listed answer" in note


# Questions and what they are about


@about_questions
def test_questions_without_a_type_word_or_an_answer_are_named_together(case_of, dataset):
    case = case_of(dataset)
    case.edit("train_qa.json", lambda rows: rows[1].update(question="is it red?"))
    case.edit("val_qa.json", lambda rows: rows[0].update(question="the red one?", answer=" "))
    case.edit("test_qa.json", lambda rows: rows[2].pop("answer"))
    message = case.complaint()
    types = "should start with one of what, who, how, when, where"
    assert f"{case.world}: 4 problems in the {dataset.upper()} annotations" in message
    assert f"\n  train_qa.json[1] (id 1): 'is it red?' {types}\n" in message
    assert f"\n  val_qa.json[0] (id 12): 'the red one?' {types}\n" in message
    assert "\n  val_qa.json[0] (id 12): empty answer\n" in message
    assert "\n  test_qa.json[2] (id 20): needs an answer, a string" in message


def test_video_number_without_a_line_in_the_mapping_is_named_with_its_questions(case_of):
    case = case_of("msvd-qa")
    mapping = case.world / "youtube_mapping.txt"
    lines = mapping.read_text(encoding="utf-8").split("\n")
    mapping.write_text("\n".join(lines[:2] + lines[3:]), encoding="utf-8")
    case.edit("test_qa.json", lambda rows: rows[0].update(video_id=99))
    message = case.complaint()
    assert "2 problems" in message
    assert "\n  vid3: no line in youtube_mapping.txt; 3 questions are about it\n" in message
    assert "\n  vid99: no line in youtube_mapping.txt; 1 questions are about it" in message


def test_question_about_a_video_that_is_not_there_is_a_missing_clip(case_of):
    case = case_of("msrvtt-qa")
    case.edit("test_qa.json", lambda rows: rows[0].update(video_id=99))
    message = case.complaint()
    assert "test: the annotations name 5 clips, the spec expects 4" in message
    assert "test: 4 of 5 clips found; 1 missing (first: video99; expected at " in message


@about_questions
def test_other_numbers_of_questions_are_told_or_allowed_as_not_comparable(case_of, dataset):
    case = case_of(dataset)
    case.edit("train_qa.json", lambda rows: rows.pop(1))
    case.edit("test_qa.json", lambda rows: rows.pop(1))
    message = case.complaint()
    assert "\n  train: 11 questions, the spec expects 12\n" in message
    assert "\n  test: 11 questions, the spec expects 12\n" in message
    assert "--allow-missing" in message
    assert case.run("--allow-missing")[0] == 0
    record = the_record(case.output)
    assert not record.run.comparable
    assert "test: 11 questions, the spec expects 12" in record.run.not_comparable_because
    assert record.metrics.test["accuracy"].n == record.data.splits["test"].questions == 11


def test_missing_clip_takes_its_questions_along(case_of):
    case = case_of("msvd-qa")
    clip_id = (case.world / "youtube_mapping.txt").read_text(encoding="utf-8").split()[-2]
    (case.world / "videos" / f"{clip_id}.avi").unlink()
    message = case.complaint()
    assert f"test: 3 of 4 clips found; 1 missing (first: {clip_id}; expected at " in message
    assert case.run("--allow-missing")[0] == 0
    record = the_record(case.output)
    clips, _ = record.run.not_comparable_because  # the questions are all in the annotations
    assert "3 of 4 clips found" in clips
    assert record.data.splits["test"].questions == 9
    assert record.metrics.test["accuracy"].n == 9


# DiDeMo


def test_moments_without_times_are_named_with_file_and_entry(case_of):
    case = case_of("didemo")
    case.edit("val_data.json", lambda rows: rows[1].pop("times"))
    case.edit("test_data.json", lambda rows: rows[0].update(times=[]))
    case.edit("train_data.json", lambda rows: rows[2].update(times=[[0, 9]]))
    message = case.complaint()
    assert f"{case.world}: 3 problems in the DiDeMo annotations" in message
    entries = json.loads((case.world / "val_data.json").read_text(encoding="utf-8"))
    number = entries[1]["annotation_id"]
    assert f"\n  val_data.json[1] (annotation_id {number}): has no times; needs first" in message
    assert "\n  test_data.json[0] (annotation_id " in message
    assert "train_data.json[2] (annotation_id 2): times[0] is [0, 9]; should be first" in message


def test_paragraph_that_is_too_long_is_named_with_its_clip_and_the_key(case_of):
    case = case_of("didemo")
    case.edit("test_data.json", lambda rows: rows[0].update(description="the red circle " * 20))
    (entry, *_) = json.loads((case.world / "test_data.json").read_text(encoding="utf-8"))
    message = case.complaint()
    stem = entry["video"].rpartition(".")[0]
    assert "\n  test captions: 1 of 4\n" in message
    assert f"\n    {stem}: more than 64 word pieces: '" in message
    assert "raise data.max_tokens in the spec" in message


def test_clip_left_out_that_is_none_is_named(case_of):
    case = case_of("didemo")
    case.data["leave_out"] = ["no_such_clip"]
    assert "leave_out: no clip no_such_clip; ids are names without" in case.complaint()


# Clips


@pytest.mark.parametrize("dataset", ["didemo", "msvd-qa", "msrvtt-qa"])
def test_two_files_for_one_clip_are_both_named(case_of, dataset):
    case = case_of(dataset)
    first, *_ = sorted((case.world / "videos").iterdir())
    shutil.copy(first, first.with_suffix(".mov"))
    message = case.complaint()
    one, two = sorted([first.name, f"{first.stem}.mov"])
    problem = f"{first.stem}: two files, videos/{one} and videos/{two}; keep one of them"
    assert f"\n  {problem}" in message
