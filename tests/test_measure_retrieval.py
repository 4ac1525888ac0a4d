"""What a run reports of a retrieval model: metrics, per-query values and film strips."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small import clip_sets, new_model, small_settings, write_spec, write_weights
from tiny import fill

from litevl.engine.evaluate import evaluate, evaluate_shuffled
from litevl.measure_retrieval import film_strips, score_run
from litevl.model.weights import NEW_BY_DESIGN
from litevl.spec import load_spec, resolve

WEIGHTS = ("frame_weights", "patch_weights")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny weights, and a spec that names them."""
    folder = tmp_path_factory.mktemp("measuring")
    spec = small_settings(folder / "none", write_weights(folder))
    write_spec(folder / "spec.toml", spec)
    return folder


@pytest.fixture(scope="module")
def settings(folder):
    """Return a function that gives the settings of a variant."""
    spec = load_spec(folder / "spec.toml")
    return lambda variant="full": resolve(spec, "mini", variant)


@pytest.fixture(scope="module")
def clips(folder):
    """The small world's clips by split."""
    return clip_sets(folder, folder / "model.safetensors")


@pytest.fixture(scope="module")
def model(settings):
    """A model whose temporal parts have moved away from their start."""
    model = new_model(settings())
    fill(model, 5, NEW_BY_DESIGN.match)
    return model.eval()


@pytest.fixture(scope="module")
def scored(model, settings, clips):
    """Everything that is measured of that model."""
    return score_run(model, settings(), clips, seed=0)


# Metrics


def test_both_splits_are_scored_and_the_arrays_are_those_of_the_test_split(scored, clips):
    assert scored.metrics.keys() == {"validation", "test"}
    ids = [clip.id for clip in clips["test"].clips]
    assert scored.arrays["gallery_ids"].tolist() == ids
    assert scored.arrays["query_ids"].tolist() == [f"{clip}#0" for clip in ids]
    assert scored.arrays["captions"].tolist() == [c.captions[0] for c in clips["test"].clips]
    assert scored.arrays["clusters"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for name, split in scored.metrics.items():
        assert split["t2v/R@1"]["n"] == len(clips[name])
        assert {"v2t/R@10", "t2v-itc/R@1", "v2t-itc/MdR", "order_accuracy"} <= split.keys()


def test_ranks_are_those_of_the_scores_in_both_directions(model, settings, clips, scored):
    rng = np.random.default_rng([0, 0])
    scores = evaluate(model, clips["test"], settings(), rng).scores
    for name, matrix in (
        ("t2v_ranks", scores.text_to_video),
        ("v2t_ranks", scores.video_to_text.T),
        ("t2v_itc_ranks", scores.itc),
        ("v2t_itc_ranks", scores.itc.T),
    ):
        best = [1 + int((row > row[place]).sum()) for place, row in enumerate(matrix)]
        assert scored.arrays[name][:, 0].tolist() == best, name
    top, top_scores = scored.arrays["t2v_top"], scored.arrays["t2v_top_scores"]
    for query, row in enumerate(scores.text_to_video):
        assert top_scores[query].tolist() == sorted(row, reverse=True)
        assert row[top[query]].tolist() == top_scores[query].tolist()


def test_without_validation_clips_only_the_test_split_is_scored(model, settings, clips):
    none = clips | {"validation": replace(clips["validation"], clips=())}
    assert score_run(model, settings(), none, seed=0).metrics.keys() == {"test"}


def test_same_seed_gives_the_same_intervals(model, settings, clips, scored):
    again = score_run(model, settings(), clips, seed=0)
    assert again.metrics == scored.metrics


def test_model_that_sees_no_time_scores_shuffled_frames_the_same(settings, clips):
    """Only rounding can differ: the frames' mean is taken in another order."""
    chosen = settings("no-temporal-attention")
    model, rng = new_model(chosen), np.random.default_rng(0)
    plain = evaluate(model, clips["test"], chosen, rng).scores.text_to_video
    shuffled = evaluate_shuffled(model, clips["test"], chosen, rng)
    assert np.allclose(plain, shuffled, atol=1e-5)
    own, twin = clips["test"].twins()
    assert np.allclose(plain[:, own], plain[:, twin], atol=1e-5)


def test_model_that_sees_time_does_not(model, settings, clips):
    rng = np.random.default_rng(0)
    plain = evaluate(model, clips["test"], settings(), rng).scores.text_to_video
    shuffled = evaluate_shuffled(model, clips["test"], settings(), rng)
    assert np.abs(plain - shuffled).max() > 1e-3


# Film strips


def strips_of(model, settings, clips, ranks, variant="full"):
    """Film strips where the test captions have these ranks."""
    chosen = settings(variant)
    evaluation = evaluate(model, clips["test"], chosen, np.random.default_rng(0))
    order = np.argsort(-evaluation.scores.text_to_video, axis=1, kind="stable")
    arrays = {
        "t2v_ranks": np.repeat(np.array(ranks)[:, None], 2, axis=1),
        "t2v_top": order,
        "t2v_top_scores": np.take_along_axis(evaluation.scores.text_to_video, order, axis=1),
    }
    return film_strips(model, chosen, clips["test"], evaluation, arrays), arrays


@pytest.mark.parametrize(
    ("ranks", "num_right", "num_wrong"),
    [
        ([1, 1, 1, 2, 3, 4, 5, 6], 3, 5),
        ([1] * 8, 8, 0),
        ([2] * 8, 0, 8),
        ([1, 2, 2, 2, 2, 2, 2, 2], 1, 7),
    ],
    ids=["both", "all right", "all wrong", "one right"],
)
def test_strips_show_right_and_wrong_queries(model, settings, clips, ranks, num_right, num_wrong):
    strips, arrays = strips_of(model, settings, clips, ranks)
    assert strips["right"].tolist() == [True] * num_right + [False] * num_wrong
    queries = strips["queries"]
    assert len(set(queries.tolist())) == num_right + num_wrong
    assert [ranks[query] == 1 for query in queries] == strips["right"].tolist()
    assert np.array_equal(strips["top"], arrays["t2v_top"][queries, :5])
    assert np.array_equal(strips["scores"], arrays["t2v_top_scores"][queries, :5])
    assert strips["frames"].shape == (len(queries), 5, 4, 32, 32, 3)


def test_strips_hold_the_frames_that_were_scored(model, settings, clips):
    strips, _ = strips_of(model, settings, clips, [1, 2] * 4)
    sampled = np.array([1, 4, 7, 10])  # the middle ones of 12 frames in 4 segments
    for row, clip in zip(strips["frames"][0], strips["top"][0], strict=True):
        assert np.array_equal(row, clips["test"].store.frames(int(clip), sampled))


def test_weights_are_those_of_the_query_and_have_mean_one(model, settings, clips):
    strips, _ = strips_of(model, settings, clips, [1, 2] * 4)
    evaluation = evaluate(model, clips["test"], settings(), np.random.default_rng(0))
    query, clip = int(strips["queries"][4]), int(strips["top"][4, 1])
    with torch.no_grad():
        own = model.pooling_weights(
            evaluation.video.select(torch.tensor([clip])),
            evaluation.text.select(torch.tensor([query])),
        )
    for name, count, one in zip(WEIGHTS, (4, 4), own, strict=True):
        assert strips[name].shape == (8, 5, count)
        assert np.allclose(strips[name].mean(axis=2), 1, atol=1e-6)
        assert np.ptp(strips[name], axis=2).min() > 0
        assert np.allclose(strips[name][4, 1], one[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("variant", ["mean-pooling", "concat-pooling"])
def test_weights_are_one_where_the_text_does_not_weigh(settings, clips, variant):
    strips, _ = strips_of(new_model(settings(variant)), settings, clips, [1, 2] * 4, variant)
    assert all((strips[name] == 1).all() for name in WEIGHTS)


def test_gallery_of_one_clip_is_shown(model, settings, clips):
    one = clips | {"test": replace(clips["test"], clips=clips["test"].clips[:1])}
    scored = score_run(model, settings(), one, seed=0)
    assert scored.strips["frames"].shape[:2] == (1, 1)
    assert scored.metrics["test"]["t2v/R@1"]["value"] == 100
