"""What a run reports of a question-answering model: metrics, per-question values, film strips."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_questions import (
    ANSWERS,
    OUTSIDE,
    new_answerer,
    question_sets,
    task_settings,
    with_evaluate,
)
from tiny import fill

from litevl import measure_answers
from litevl.engine.answering import Answers, answer_questions
from litevl.measure_answers import NUM_TOP, film_strips, score_run
from litevl.model.weights import NEW_BY_DESIGN
from litevl.schema import ARRAY_TABLES, STRIPS_TABLES, array_problems
from litevl.spec import load_spec, resolve

TASK = "question-answering"

WEIGHTS = ("frame_weights", "patch_weights")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tiny weights, and a spec that names them."""
    folder = tmp_path_factory.mktemp("answers")
    task_settings(folder, "msvd-qa")
    return folder


@pytest.fixture(scope="module")
def settings(folder):
    """Return a function that gives the settings of a variant; seven answers are kept."""
    spec = load_spec(folder / "msvd-qa.toml")
    return lambda variant="full": with_evaluate(resolve(spec, "mini", variant), rerank_k=7)


@pytest.fixture(scope="module")
def clips(folder):
    """The small world's clips by split, with questions."""
    return question_sets(folder, folder / "model.safetensors")


@pytest.fixture(scope="module")
def model(settings):
    """A model whose temporal parts have moved away from their start."""
    model = new_answerer(settings())
    fill(model, 5, NEW_BY_DESIGN.match)
    return model.eval()


@pytest.fixture(scope="module")
def scored(model, settings, clips):
    """Everything that is measured of that model."""
    return score_run(model, settings(), clips, seed=0)


def answered_as(clips, right, k=7) -> Answers:
    """Answers of which the first is the gold one where `right` says so and it is listed."""
    first = []
    for (_, question), hit in zip(clips.questions(), right, strict=True):
        gold = ANSWERS.index(question.answer) if question.answer in ANSWERS else 0
        first.append(gold if hit else (gold + 1) % len(ANSWERS))
    top = (np.array(first)[:, None] + np.arange(k)) % len(ANSWERS)
    return Answers(top, np.tile(-np.arange(k, dtype=float), (len(top), 1)))


def with_outcomes(monkeypatch, plain, shuffled):
    """Let questions be right as the two functions of a question's place say."""

    def answer(_model, clips, _settings, _rng, _precision, shuffle, _title, _group):
        outcome = shuffled if shuffle else plain
        return answered_as(clips, [outcome(n) for n in range(len(clips.questions()))])

    monkeypatch.setattr(measure_answers, "answer_questions", answer)


# Per-question values


def test_arrays_hold_the_test_splits_questions_in_their_order(scored, clips):
    asked = clips["test"].questions()
    found = scored.arrays
    assert found["query_ids"].tolist() == [question.id for _, question in asked]
    assert found["questions"].tolist() == [question.text for _, question in asked]
    assert found["answers"].tolist() == [question.answer for _, question in asked]
    assert found["kinds"].tolist() == [question.text.split()[0] for _, question in asked]
    assert found["clip_ids"].tolist() == [clips["test"].clips[clip].id for clip, _ in asked]
    assert found["clusters"].tolist() == [clip // 2 for clip, _ in asked]
    assert found["answer_list"].tolist() == list(ANSWERS)


def test_arrays_and_strips_are_as_records_want_them(scored):
    assert not list(array_problems(scored.arrays, *ARRAY_TABLES[TASK]))
    assert not list(array_problems(scored.strips, *STRIPS_TABLES[TASK]))


def test_answers_kept_are_the_best_of_those_ranked(model, settings, clips, scored):
    rng = np.random.default_rng([0, 0])
    precision = settings().evaluate.precision
    found = answer_questions(model, clips["test"], settings(), rng, precision)
    assert found.top.shape[1] == 7 > NUM_TOP
    assert np.array_equal(scored.arrays["top"], found.top[:, :NUM_TOP])
    assert np.array_equal(scored.arrays["top_scores"], found.scores[:, :NUM_TOP])
    assert (np.diff(scored.arrays["top_scores"], axis=1) <= 0).all()
    best = [ANSWERS[place] for place in found.top[:, 0]]
    wanted = [float(a == b) for a, b in zip(best, scored.arrays["answers"], strict=True)]
    assert scored.arrays["right"].tolist() == wanted


def test_questions_are_answered_plainly_and_with_shuffled_frames_each_from_its_own_seed(
    settings, clips, monkeypatch
):
    given = []

    def answer(_model, split, _settings, rng, precision, shuffle, _title, _group):
        given.append((split, rng.bit_generator.state, precision, shuffle))
        return answered_as(split, [not shuffle] * len(split.questions()))

    monkeypatch.setattr(measure_answers, "answer_questions", answer)
    chosen = settings()
    scored = score_run(new_answerer(chosen), chosen, clips, seed=3)
    assert [(split, shuffle) for split, _, _, shuffle in given] == [
        (clips[name], shuffle) for name in ("validation", "test") for shuffle in (False, True)
    ]
    for _, drawn, precision, shuffle in given:
        assert drawn == np.random.default_rng([3, int(shuffle)]).bit_generator.state
        assert precision == chosen.evaluate.precision
    assert not scored.arrays["shuffled_right"].any()
    assert scored.arrays["right"].any()


def test_answer_outside_the_list_counts_as_wrong_and_in_list_says_so(
    model, settings, clips, monkeypatch
):
    with_outcomes(monkeypatch, lambda _: True, lambda _: True)
    scored = score_run(model, settings(), clips, seed=0)
    outside = np.isin(scored.arrays["answers"], OUTSIDE)
    assert outside.sum() == 2
    assert scored.arrays["in_list"].tolist() == (~outside).astype(float).tolist()
    assert scored.arrays["right"].tolist() == (~outside).astype(float).tolist()
    assert not set(OUTSIDE) & set(scored.arrays["answer_list"].tolist())
    found = scored.metrics["test"]
    assert found["answerable"]["value"] == found["accuracy"]["value"] == pytest.approx(90)
    assert found["accuracy"]["n"] == 20


def test_questions_about_order_are_known_where_twins_are(model, settings, clips, scored):
    assert scored.arrays["needs_order"].tolist() == (scored.arrays["kinds"] == "when").tolist()
    assert "accuracy/order" in scored.metrics["test"]
    without = {name: replace(split, twin_of={}) for name, split in clips.items()}
    found = score_run(model, settings(), without, seed=0)
    assert "needs_order" not in found.arrays
    assert not any("order" in name for name in found.metrics["test"])
    assert found.arrays["right"].tolist() == scored.arrays["right"].tolist()


# Metrics


def test_both_splits_are_scored_and_the_arrays_are_those_of_the_test_split(scored, clips):
    assert scored.metrics.keys() == {"validation", "test"}
    assert len(scored.arrays["query_ids"]) == 20
    for name, split in scored.metrics.items():
        assert split["accuracy"]["n"] == len(clips[name].questions())


def test_metrics_are_those_of_the_arrays(model, settings, clips, monkeypatch):
    """Accuracy, the best fixed answers and the drop when shuffled, all counted by hand."""
    with_outcomes(monkeypatch, lambda n: n % 3 > 0, lambda n: n % 3 == 1)
    scored = score_run(model, settings(), clips, seed=0)
    arrays, found = scored.arrays, scored.metrics["test"]
    right = arrays["right"]
    for group in ("", "/what", "/how", "/when", "/order"):
        kind = "when" if group == "/order" else group.removeprefix("/")
        mine = (arrays["kinds"] == kind) | (group == "")
        accuracy = found[f"accuracy{group}"]
        assert accuracy["value"] == pytest.approx(100 * right[mine].mean()), group
        assert accuracy["n"] == mine.sum()
        gold = Counter(arrays["answers"][mine].tolist())
        best = 100 * max(gold.values()) / mine.sum()
        assert found[f"majority{group}"]["value"] == pytest.approx(best), group
    assert "accuracy/who" not in found
    by_kind = [Counter(arrays["answers"][arrays["kinds"] == k]) for k in ("what", "how", "when")]
    assert found["type-majority"]["value"] == pytest.approx(
        100 * sum(max(gold.values()) for gold in by_kind) / 20
    )
    lost = 100 * (right - arrays["shuffled_right"]).mean()
    assert found["shuffle_sensitivity"]["value"] == pytest.approx(lost)
    assert lost > 10


@pytest.mark.parametrize("unasked", [False, True])
def test_without_validation_questions_only_the_test_split_is_scored(
    model, settings, clips, unasked
):
    kept = tuple(replace(clip, questions=()) for clip in clips["validation"].clips)
    none = replace(clips["validation"], clips=kept if unasked else ())
    found = score_run(model, settings(), clips | {"validation": none}, seed=0)
    assert found.metrics.keys() == {"test"}


def test_same_seed_gives_the_same_intervals(model, settings, clips, scored):
    again = score_run(model, settings(), clips, seed=0)
    assert again.metrics == scored.metrics


# Film strips


def strips_of(model, settings, clips, right):
    """Film strips where the test questions are right as told."""
    arrays = {"right": np.array(right, dtype=float)}
    return film_strips(model, settings, clips["test"], arrays)


@pytest.mark.parametrize(
    ("right", "num_right", "num_wrong"),
    [([1, 0] * 10, 8, 8), ([1] * 20, 8, 0), ([0] * 20, 0, 8), ([0] * 19 + [1], 1, 8)],
    ids=["both", "all right", "all wrong", "one right"],
)
def test_strips_show_right_and_wrong_questions(model, settings, clips, right, num_right, num_wrong):
    strips = strips_of(model, settings(), clips, right)
    assert strips["right"].tolist() == [True] * num_right + [False] * num_wrong
    queries = strips["queries"]
    assert len(set(queries.tolist())) == num_right + num_wrong
    assert [bool(right[query]) for query in queries] == strips["right"].tolist()
    assert strips["frames"].shape == (len(queries), 4, 32, 32, 3)


def test_strips_of_a_run_are_those_of_its_outcomes(scored):
    right = scored.arrays["right"][scored.strips["queries"]] == 1
    assert scored.strips["right"].tolist() == right.tolist()


def test_strips_hold_the_frames_that_were_scored(model, settings, clips):
    strips = strips_of(model, settings(), clips, [1, 0] * 10)
    sampled = np.array([1, 4, 7, 10])  # the middle ones of 12 frames in 4 segments
    asked = clips["test"].questions()
    for query, frames in zip(strips["queries"], strips["frames"], strict=True):
        assert np.array_equal(frames, clips["test"].store.frames(asked[query][0], sampled))


def test_weights_are_those_of_the_question_and_have_mean_one(model, settings, clips):
    strips = strips_of(model, settings(), clips, [1, 0] * 10)
    for name in WEIGHTS:
        assert strips[name].shape == (16, 4)
        assert np.allclose(strips[name].mean(axis=1), 1, atol=1e-6)
        assert np.ptp(strips[name], axis=1).min() > 0
    split, asked = clips["test"], clips["test"].questions()
    for row, query in enumerate(strips["queries"]):
        clip, question = asked[query]
        frames = split.frames([clip], "segment-middle", np.random.default_rng(0))
        words = split.tokens([question.text])
        with torch.no_grad():
            video, query = model.encode_video(frames), model.encode_question(words)
            own = model.pooling_weights(video, query)
        for name, one in zip(WEIGHTS, own, strict=True):
            assert np.allclose(strips[name][row], one[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("variant", ["mean-pooling", "concat-pooling"])
def test_weights_are_one_where_the_question_does_not_weigh(settings, clips, variant):
    chosen = settings(variant)
    strips = strips_of(new_answerer(chosen), chosen, clips, [1, 0] * 10)
    assert all((strips[name] == 1).all() for name in WEIGHTS)


def test_strips_are_drawn_without_dropout(settings, clips):
    model = new_answerer(settings()).train()
    one, two = (strips_of(model, settings(), clips, [1, 0] * 10) for _ in range(2))
    assert np.array_equal(one["frame_weights"], two["frame_weights"])


def test_one_question_is_enough(model, settings, clips):
    clip = replace(clips["test"].clips[0], questions=clips["test"].clips[0].questions[:1])
    one = clips | {"test": replace(clips["test"], clips=(clip,))}
    found = score_run(model, settings(), one, seed=0)
    assert found.strips["frames"].shape[0] == 1
    assert found.metrics["test"]["accuracy"]["n"] == 1
