"""What a run should cost: counted without weights, multiplied out by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hand_counts import VARIANTS, E, T, flops_of_answer, flops_of_clip, flops_of_pair, linear
from small import new_model
from small_questions import new_answerer, task_settings, with_evaluate, with_train
from spec_texts import SHIPPED

from litevl.cli import main
from litevl.cost import (
    Assumptions,
    Counts,
    clips_encoded,
    estimate,
    estimates,
    evaluation_flops,
    train_flops,
)
from litevl.measure import cost
from litevl.model.config import LiteVLConfig
from litevl.plan import plan
from litevl.spec import load_spec, resolve

ONE = Counts(clip=9_000, read=1_000, text=1_000, pair=100, start=10, parameters=1)
NEW = {"msrvtt": new_model, "msvd-qa": new_answerer}
MSRVTT = str(SHIPPED / "msrvtt.toml")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Return a function that gives the small settings of a variant: 16 clips to train on."""
    folder, specs = tmp_path_factory.mktemp("costs"), {}
    for dataset in NEW:
        task_settings(folder, dataset)
        specs[dataset] = load_spec(folder / f"{dataset}.toml")
    return lambda dataset, variant="full": resolve(specs[dataset], "mini", variant)


# Counted


@pytest.mark.parametrize(("variant", "has_temporal", "num_tokens", "weighs"), VARIANTS)
def test_estimate_has_the_operations_counted_by_hand(
    settings, variant, has_temporal, num_tokens, weighs
):
    for dataset, new in NEW.items():
        sizes = new(settings(dataset)).config
        found = estimate(settings(dataset, variant), 3, Assumptions(), sizes)
        if dataset == "msrvtt":
            clip, pair = linear(T, 16, E), flops_of_pair(num_tokens, weighs)
        else:
            clip, pair = 0, flops_of_answer(num_tokens, weighs, sizes.vocab_size)
        assert found.flops_per_clip == flops_of_clip(has_temporal) + clip
        assert found.flops_per_pair == pair
        assert (found.variant, found.num_runs) == (variant, 3)


@pytest.mark.parametrize("dataset", NEW)
def test_estimate_agrees_with_what_a_run_records(settings, dataset):
    chosen = settings(dataset)
    model = NEW[dataset](chosen)
    recorded = cost(model, chosen, torch.device("cpu"))
    found = estimate(chosen, 1, Assumptions(), model.config).model_dump()
    for name in ("parameters", "flops_per_clip", "flops_per_pair"):
        assert found[name] == recorded[name]


def test_paper_size_is_that_of_blips_vit_b_with_and_without_temporal_attention():
    spec = load_spec(SHIPPED / "msrvtt.toml")
    runs = plan(spec, "paper", ["full", "no-temporal-attention"], [0, 1], None, None)
    full, without = estimates(runs, Assumptions())
    assert (full.num_runs, without.num_runs) == (2, 2)
    # BLIP's retrieval model has 223.744 M parameters at 384 px, whose positions are 380 more.
    assert without.parameters == pytest.approx(223.744e6 - 380 * 768, abs=1e3)
    # Per block a norm and two linear layers; then the time embedding and gamma.
    assert full.parameters - without.parameters == 12 * 2_363_904 + 8 * 768 + 12 * 8
    # ViT-B/16 is known for 17.6 billion multiplications per 224 px image.
    assert without.flops_per_clip == pytest.approx(8 * 2 * 17.6e9, rel=0.01)


# Multiplied


def test_training_for_retrieval_is_clips_captions_and_three_pairs_each(settings):
    chosen = with_train(settings("msrvtt"), epochs=5, batch_size=6, momentum_encoder=False)
    step, validation = 3 * 16 * (10_000 + 1_000 + 3 * 100), 4 * (9_000 + 1_000)
    assert train_flops(chosen, ONE) == (5 * 3, 5 * (step + validation))
    taught = with_train(chosen, momentum_encoder=True)
    teacher = 16 * (9_000 + 1_000)
    assert train_flops(taught, ONE) == (5 * 3, 5 * (step + teacher + validation))
    again = with_train(chosen, recompute=True)
    assert train_flops(again, ONE) == (5 * 3, 5 * (step + 16 * 9_000 + validation))


def test_training_for_answers_is_each_question_and_the_clips_of_each_batch(settings):
    chosen = with_train(settings("msvd-qa"), epochs=2, batch_size=12, group_by_source=True)
    questions = chosen.data.expected.train_questions
    assert questions == 48
    step = 3 * (16 * 10_000 + 48 * (1_000 + 100))
    validation = evaluation_flops(chosen, ONE, "validation")
    assert train_flops(chosen, ONE) == (2 * 4, 2 * (step + validation))


def test_questions_drawn_at_random_share_clips_as_often_as_chance_has_it(settings):
    chosen = with_train(settings("msvd-qa"), batch_size=12, group_by_source=False)
    rng = np.random.default_rng(0)
    drawn = [len(np.unique(rng.integers(16, size=12))) for _ in range(20_000)]
    assert clips_encoded(chosen, 48) == pytest.approx(4 * np.mean(drawn), rel=0.01)


def test_ranking_a_gallery_takes_k_pairs_in_each_direction_and_at_most_all(settings):
    chosen, encoded = settings("msrvtt"), 8 * (10_000 + 1_000)
    assert evaluation_flops(with_evaluate(chosen, rerank_k=3), ONE, "test") == encoded + 48 * 100
    assert evaluation_flops(with_evaluate(chosen, rerank_k=7), ONE, "test") == encoded + 64 * 100
    shuffled = evaluation_flops(with_evaluate(chosen, rerank_k=3), ONE, "test", is_shuffled=True)
    assert shuffled == encoded + 24 * 100
    alone = with_evaluate(chosen, score="itc-only")
    assert evaluation_flops(alone, ONE, "test") == 8 * (9_000 + 1_000)


def test_answering_takes_k_answers_a_question_and_what_chooses_them(settings):
    chosen = with_evaluate(settings("msvd-qa"), rerank_k=4)
    assert chosen.data.expected.test_questions == 24
    of_question = 1_000 + 10 + 4 * 100
    assert evaluation_flops(chosen, ONE, "test") == 8 * 10_000 + 24 * of_question


def test_hours_are_operations_over_the_share_of_the_peak_of_each_precision(settings):
    chosen = with_train(settings("msrvtt"), precision="bf16")
    sizes = new_model(chosen).config
    assumed = Assumptions(device_tflops=2.0, fp32_tflops=0.5, utilisation=0.25)
    found = estimate(chosen, 1, assumed, sizes)
    seconds = found.train_flops / 0.5e12 + found.evaluate_flops / 0.125e12
    assert found.device_hours == pytest.approx(seconds / 3600)
    twice = estimate(chosen, 1, replace(assumed, utilisation=0.5), sizes)
    assert twice.device_hours == pytest.approx(found.device_hours / 2)


def test_shorter_texts_cost_less_and_leave_the_longest_pair_as_it_is(settings):
    chosen = settings("msrvtt")
    sizes: LiteVLConfig = new_model(chosen).config
    short, long = (estimate(chosen, 1, Assumptions(text_tokens=n), sizes) for n in (8, 32))
    assert short.train_flops < long.train_flops
    assert short.flops_per_pair == long.flops_per_pair


# Told


def test_plan_of_the_paper_profile_needs_no_data_and_tells_the_cost_and_what_it_assumes(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    options = ["--profile", "paper", "--variant", "full", "--device-tflops", "1000"]
    assert main(["plan", MSRVTT, *options, "--utilisation", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "asked for; to run it, get data/msrvtt, data/weights/model_base_14M.pth" in out
    assert "3 runs: 0 done, 0 failed, 3 missing" in out
    assert "device-hours in all" in out
    assert "a peak of 1000 TFLOPS in bf16 and 19.5 in fp32, 50 % of it reached" in out
    assert main(["plan", MSRVTT, *options, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert row["cost"]["device_hours"] > 0
        assert row["cost"]["assumptions"]["device_tflops"] == 1000
        assert row["cost"]["assumptions"]["utilisation"] == 0.35


@pytest.mark.parametrize("option", ["--utilisation=1.5", "--utilisation=0", "--device-tflops=x"])
def test_assumptions_that_cannot_be_are_a_users_mistake(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["plan", MSRVTT, option])
    assert stopped.value.code == 2
    assert option.partition("=")[0] in capsys.readouterr().err
