"""DiDeMo, MSVD-QA and MSRVTT-QA from a spec to records and a report, on tiny worlds.

What all data sets share is tested on MSRVTT, in test_run.py.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small import NUM_ANSWERS, SCENES, the_arrays, the_record

from litevl import run as engine
from litevl.cli import main
from litevl.report import page

pytestmark = pytest.mark.usefixtures("in_this_process")
render_report = page.render_report
QUESTION_SETS = ("msvd-qa", "msrvtt-qa")
NUM_TEST = 2 * SCENES["test"]  # clips: each scene gives two
about_questions = pytest.mark.parametrize("dataset", QUESTION_SETS)


@pytest.fixture
def no_report(monkeypatch):
    """Leave the report out: it takes longer than a tiny run."""
    monkeypatch.setattr(page, "render_report", lambda *_: Path("no report"))


def run(folder: Path, output: Path, *options: str) -> int:
    """The exit code of `litevl run` of the full variant."""
    chosen = ["--variant", "full", "--output", str(output), *options]
    return main(["run", str(folder / "spec.toml"), *chosen])


@pytest.fixture(scope="module")
def finished(small_of, tmp_path_factory) -> Callable[[str], Path]:
    """Return a function from a data set to the output of a whole run, made when first asked for."""
    made: dict[str, Path] = {}

    def output_of(dataset: str) -> Path:
        if dataset not in made:
            made[dataset] = tmp_path_factory.mktemp("output")
            with pytest.MonkeyPatch.context() as patch:  # whoever asks first may have no_report
                patch.setattr(page, "render_report", render_report)
                assert run(small_of(dataset), made[dataset]) == 0
        return made[dataset]

    return output_of


def entries(world: Path, file: str) -> list[dict]:
    """An annotation file as it stands there, read without a loader."""
    return json.loads((world / file).read_text(encoding="utf-8"))


# Every data set


@pytest.mark.parametrize("dataset", ["didemo", *QUESTION_SETS])
def test_run_leaves_a_whole_record_of_every_clip_and_a_report(dataset, finished):
    output = finished(dataset)
    record = the_record(output)
    assert record.status == "complete"
    assert record.run.comparable
    assert record.data.dataset == dataset
    counts = {split: (part.expected, part.found) for split, part in record.data.splits.items()}
    assert counts == {split: (2 * scenes, 2 * scenes) for split, scenes in SCENES.items()}
    assert len(record.curves.validation) == 2  # one for each epoch
    assert record.curves.train[-1].step == record.curves.validation[-1].step > 1
    assert record.selection.epoch in (1, 2)
    assert record.weights.new_by_design
    assert record.cost.flops_per_pair > 0
    assert np.shape(record.temporal_scale) == (1, 4)
    folder = output / f"{dataset}-mini"
    assert record.run.id in (folder / "report.md").read_text(encoding="utf-8")
    assert (folder / "index.html").is_file()


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("dataset", ["didemo", *QUESTION_SETS])
def test_second_run_trains_nothing_and_reads_no_clip(
    dataset, small_of, finished, monkeypatch, capsys
):
    output = finished(dataset)
    (record,) = (path for path in output.glob("records/*/*.json") if "plan" not in path.name)
    before = record.stat().st_mtime_ns
    capsys.readouterr()
    monkeypatch.setattr(engine, "prepare", None)
    monkeypatch.setattr(engine, "train", None)
    assert run(small_of(dataset), output) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("1 runs, 1 done before")
    assert record.stat().st_mtime_ns == before


# DiDeMo


def test_didemo_is_ranked_by_paragraphs_of_all_sentences(small_of, finished):
    arrays = the_arrays(finished("didemo"))
    sentences: dict[str, list[str]] = {}
    for entry in entries(small_of("didemo") / "world", "test_data.json"):
        stem = entry["video"].rpartition(".")[0]
        sentences.setdefault(stem, []).append(entry["description"])
    assert arrays["gallery_ids"].tolist() == list(sentences)
    assert len(sentences) == NUM_TEST
    for stem, paragraph in zip(arrays["gallery_ids"], arrays["captions"], strict=True):
        several = sentences[str(stem)]
        assert len(several) > 1
        assert all(sentence in paragraph for sentence in several)
        assert len(paragraph) == len(" ".join(several))


def test_didemo_has_recall_order_accuracy_and_shuffle_sensitivity(finished):
    record = the_record(finished("didemo"))
    for metrics in (record.metrics.test, record.metrics.validation):
        assert {"t2v/R@1", "v2t/R@1", "order_accuracy", "shuffle_sensitivity"} <= metrics.keys()
    assert {value.n for value in record.metrics.test.values()} == {NUM_TEST}
    assert record.data.splits["test"].captions == NUM_TEST
    assert record.data.splits["test"].questions is None


# Question answering


@about_questions
def test_questions_and_gold_answers_are_those_of_the_annotations(dataset, small_of, finished):
    world, output = small_of(dataset) / "world", finished(dataset)
    arrays = the_arrays(output)
    asked = entries(world, "test_qa.json")
    assert arrays["query_ids"].tolist() == [str(entry["id"]) for entry in asked]
    assert arrays["questions"].tolist() == [entry["question"] for entry in asked]
    assert arrays["answers"].tolist() == [entry["answer"] for entry in asked]
    assert arrays["kinds"].tolist() == [entry["question"].split()[0] for entry in asked]
    names = {entry["video_id"]: f"video{entry['video_id']}" for entry in asked}
    if dataset == "msvd-qa":
        lines = (world / "youtube_mapping.txt").read_text(encoding="utf-8").split("\n")
        names = {int(number[3:]): name for name, number in map(str.split, lines)}
        assert all((world / "videos" / f"{name}.avi").is_file() for name in names.values())
    assert arrays["clip_ids"].tolist() == [names[entry["video_id"]] for entry in asked]
    first = 1 if dataset == "msvd-qa" else 0
    scenes = [(entry["video_id"] - first) // 2 for entry in asked]  # a clip and its twin share one
    pairs = set(zip(arrays["clusters"].tolist(), scenes, strict=True))
    assert len(pairs) == len(set(scenes)) == len(set(arrays["clusters"].tolist()))


@about_questions
def test_answer_list_is_of_the_training_questions_and_what_it_lacks_is_counted(
    dataset, small_of, finished
):
    world, output = small_of(dataset) / "world", finished(dataset)
    record, arrays = the_record(output), the_arrays(output)
    trained = Counter(entry["answer"] for entry in entries(world, "train_qa.json"))
    listed = [answer for answer, _ in trained.most_common(NUM_ANSWERS)]
    assert arrays["answer_list"].tolist() == listed
    for split, file in [("train", "train_qa"), ("validation", "val_qa"), ("test", "test_qa")]:
        asked = entries(world, f"{file}.json")
        outside = sum(entry["answer"] not in listed for entry in asked)
        assert record.data.splits[split].questions == len(asked)
        assert record.data.splits[split].outside_list == outside
        assert 0 < outside < len(asked)
    in_list = [float(answer in listed) for answer in arrays["answers"].tolist()]
    assert arrays["in_list"].tolist() == in_list
    answerable = record.metrics.test["answerable"]
    assert answerable.value == pytest.approx(100 * np.mean(in_list))
    assert answerable.n == len(in_list)  # those outside the list stay in every denominator
    text = (output / f"{dataset}-mini" / "report.md").read_text(encoding="utf-8")
    assert f"{in_list.count(0.0)} of {len(in_list)} have an answer outside the list" in text


@about_questions
def test_right_is_the_gold_answer_on_top_and_never_one_outside_the_list(dataset, finished):
    arrays = the_arrays(finished(dataset))
    chosen = arrays["answer_list"][arrays["top"][:, 0]]
    assert (arrays["right"] == (chosen == arrays["answers"])).all()
    assert 0 < arrays["right"].sum() < len(arrays["right"])
    assert not arrays["right"][arrays["in_list"] == 0].any()
    assert (np.diff(arrays["top_scores"], axis=1) <= 0).all()


@about_questions
def test_every_group_has_its_accuracy_and_baselines_over_its_own_questions(dataset, finished):
    record, arrays = the_record(finished(dataset)), the_arrays(finished(dataset))
    kinds, answers = arrays["kinds"], arrays["answers"]
    groups = {"": np.ones(len(kinds), bool), "/order": arrays["needs_order"]}
    groups |= {f"/{kind}": kinds == kind for kind in set(kinds.tolist())}
    assert len(groups) == 7  # all, order, and the five types
    found = record.metrics.test
    grouped = ("accuracy", "majority", "type-majority")
    names = {f"{name}{group}" for name in grouped for group in groups}
    assert found.keys() == names | {"answerable", "shuffle_sensitivity"}
    always = {*grouped, "accuracy/order", "answerable", "shuffle_sensitivity"}
    assert always <= record.metrics.validation.keys()
    for group, mine in groups.items():
        assert {found[f"{name}{group}"].n for name in grouped} == {mine.sum()}
        right = arrays["right"][mine]
        assert found[f"accuracy{group}"].value == pytest.approx(100 * right.mean())
        (_, most), *_ = Counter(answers[mine].tolist()).most_common(1)
        assert found[f"majority{group}"].value == pytest.approx(100 * most / mine.sum())
        by_type = sum(
            Counter(answers[mine & (kinds == kind)].tolist()).most_common(1)[0][1]
            for kind in set(kinds[mine].tolist())
        )
        assert found[f"type-majority{group}"].value == pytest.approx(100 * by_type / mine.sum())
    lost = 100 * (arrays["right"] - arrays["shuffled_right"])
    assert found["shuffle_sensitivity"].value == pytest.approx(lost.mean())


@about_questions
def test_questions_about_order_are_those_a_reversed_clip_answers_otherwise(dataset, finished):
    arrays = the_arrays(finished(dataset))
    assert arrays["needs_order"].any()
    assert (arrays["needs_order"] == (arrays["kinds"] == "when")).all()
    assert set(arrays["answers"][arrays["needs_order"]].tolist()) == {"first", "last"}


@about_questions
def test_curves_of_question_answering_have_a_loss_and_an_accuracy(dataset, finished):
    curves = the_record(finished(dataset)).curves
    assert {point.vtc for point in curves.train} == {point.vtm for point in curves.train} == {None}
    for point in curves.validation:
        assert 0 <= point.accuracy <= 100
        assert 0 <= point.order_accuracy <= 100
        assert point.recall_at_1 is None


# The first clips


@pytest.mark.usefixtures("no_report")
def test_subset_of_retrieval_is_the_first_clips_of_the_annotations_every_time(
    small_of, finished, tmp_path
):
    limits = ["--subset", "3", "--max-steps", "1"]
    for name in ("one", "two"):
        assert run(small_of("didemo"), tmp_path / name, *limits) == 0
    one, two = (the_record(tmp_path / name) for name in ("one", "two"))
    assert one.run.id == two.run.id != the_record(finished("didemo")).run.id
    whole = the_arrays(finished("didemo"))["gallery_ids"].tolist()
    for name in ("one", "two"):
        assert the_arrays(tmp_path / name)["gallery_ids"].tolist() == whole[:3]
    assert one.metrics == two.metrics
    assert [part.captions for part in one.data.splits.values()] == [3, 3, 3]
    expect_not_comparable(one)


def expect_not_comparable(record):
    """A subset of three clips and one step of training are two reasons."""
    assert not record.run.comparable
    assert record.run.not_comparable_because == (
        "subset: the first 3 clips of each split",
        "max-steps: training stopped after 1 steps",
    )


@pytest.mark.usefixtures("no_report")
@about_questions
def test_subset_of_question_answering_keeps_all_questions_about_the_first_clips(
    dataset, small_of, finished, tmp_path
):
    world = small_of(dataset) / "world"
    limits = ["--subset", "3", "--max-steps", "1"]
    for name in ("one", "two"):
        assert run(small_of(dataset), tmp_path / name, *limits) == 0
    one, two = (the_record(tmp_path / name) for name in ("one", "two"))
    assert one.run.id == two.run.id != the_record(finished(dataset)).run.id
    asked = entries(world, "test_qa.json")
    first = list(dict.fromkeys(entry["video_id"] for entry in asked))[:3]
    kept = [str(entry["id"]) for entry in asked if entry["video_id"] in first]
    assert len(kept) > len(first)
    whole = the_arrays(finished(dataset))
    for name in ("one", "two"):
        arrays = the_arrays(tmp_path / name)
        assert arrays["query_ids"].tolist() == kept
        assert arrays["answer_list"].tolist() == whole["answer_list"].tolist()
    assert one.metrics == two.metrics
    assert one.metrics.test["accuracy"].n == len(kept) == 9
    assert [part.questions for part in one.data.splits.values()] == [9, 9, 9]
    outside = the_arrays(tmp_path / "one")["in_list"] == 0
    assert one.data.splits["test"].outside_list == outside.sum()
    expect_not_comparable(one)
