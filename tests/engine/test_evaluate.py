"""Ranking by two encoders, re-ranking by the cross-encoder, and the diagnostics."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import (
    BRANCH,
    TOLERANCE,
    random_captions,
    random_frames,
    tiny_model,
    train_temporal_parts,
)

from litevl.data.annotations import Clip
from litevl.data.dataset import FrameStore
from litevl.engine import rerank
from litevl.engine.clips import ClipSet
from litevl.engine.evaluate import (
    candidates,
    encode_clips,
    evaluate,
    score_captions,
    score_gallery,
    twin_scores,
)
from litevl.engine.precision import computing
from litevl.model.tokenizer import Tokens
from litevl.spec import EvaluateSpec

CLOSE = TOLERANCE[torch.float32]
NUM_CAPTIONS, NUM_CLIPS = 6, 5


@pytest.fixture(scope="module")
def model():
    """A model whose scores tell clips and captions apart, with logits below all similarities."""
    model = train_temporal_parts(tiny_model(pooling_temperature=0.1, **BRANCH))
    with torch.no_grad():
        model.itm_head.bias[1] -= 10.0
    return model


@pytest.fixture(scope="module")
def gallery(model):
    """Features of five clips and six captions."""
    with torch.no_grad():
        video = model.encode_video(random_frames(NUM_CLIPS))
        return video, model.encode_text(*random_captions([4, 7, 5, 9, 3, 6]))


@torch.no_grad()
def naive_scores(model, gallery, score):
    """Every caption against every clip, one pair at a time: (Q, G) scores and similarities."""
    video, text = gallery
    scores, similarities = np.zeros((2, NUM_CAPTIONS, NUM_CLIPS))
    for caption in range(NUM_CAPTIONS):
        for clip in range(NUM_CLIPS):
            one, other = torch.tensor([clip]), torch.tensor([caption])
            itc = float(text.embedding[caption] @ video.embedding[clip])
            itm = float(model.match(video.select(one), text.select(other))[0, 1])
            similarities[caption, clip] = itc
            scores[caption, clip] = {"itm+itc": itm + itc, "itm-only": itm, "itc-only": itc}[score]
    return scores, similarities


# The gallery


@pytest.mark.parametrize("score", ["itm+itc", "itm-only", "itc-only"])
def test_all_candidates_score_like_a_loop_over_pairs(model, gallery, score):
    expected, similarities = naive_scores(model, gallery, score)
    found = score_gallery(model, *gallery, k=6, score=score, batch_size=2)
    assert found.text_to_video.shape == (NUM_CAPTIONS, NUM_CLIPS)
    np.testing.assert_allclose(found.text_to_video, expected, atol=CLOSE)
    np.testing.assert_allclose(found.video_to_text, expected, atol=CLOSE)
    np.testing.assert_allclose(found.itc, similarities, atol=CLOSE)


def expect_reranked(scores, reference, similarities, k):
    """Rows: the k most similar have their own scores and stand above all others in their order."""
    for row, expected, similarity in zip(scores, reference, similarities, strict=True):
        order = np.argsort(-similarity)
        chosen, others = order[:k], order[k:]
        np.testing.assert_allclose(row[chosen], expected[chosen], atol=CLOSE)
        assert row[chosen].min() > row[others].max()
        assert (np.diff(row[others]) < 0).all()


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("score", ["itm+itc", "itm-only"])
def test_few_candidates_stand_above_the_rest_in_both_directions(model, gallery, score, k):
    expected, similarities = naive_scores(model, gallery, score)
    found = score_gallery(model, *gallery, k=k, score=score, batch_size=2)
    expect_reranked(found.text_to_video, expected, similarities, k)
    expect_reranked(found.video_to_text.T, expected.T, similarities.T, k)


def test_the_cross_encoder_decides_among_the_candidates(model, gallery):
    expected, similarities = naive_scores(model, gallery, "itm+itc")
    assert (expected.argsort() != similarities.argsort()).any()


@pytest.fixture
def met(model, monkeypatch):
    """(embedding of the caption, of the clip) of each pair that meets the cross-encoder."""
    met, match, match_one = [], model.match, model.match_one

    def values(features):
        return features.embedding[:, 0].tolist()

    def matching(clips, text, row):
        met.extend(zip(values(text), values(clips.select(row)), strict=True))
        return match(clips, text, row)

    def matching_one(clip, text, at_once):
        met.extend((value, *values(clip)) for value in values(text))
        return match_one(clip, text, at_once)

    monkeypatch.setattr(model, "match", matching)
    monkeypatch.setattr(model, "match_one", matching_one)
    return met


@pytest.mark.parametrize("alone_from", [1, 3, 8])
def test_each_pair_meets_the_cross_encoder_once_at_most(
    model, gallery, met, monkeypatch, alone_from
):
    monkeypatch.setattr(rerank, "ALONE_FROM", alone_from)
    score_gallery(model, *gallery, k=2, score="itm+itc", batch_size=1)
    video, text = gallery
    similarity = text.embedding @ video.embedding.T
    wanted = candidates(similarity, 2) | candidates(similarity.T, 2).T
    assert len(met) == len(set(met)) == int(wanted.sum())


@pytest.mark.parametrize("score", ["itm+itc", "itm-only", "itc-only"])
def test_captions_alone_get_the_gallerys_scores_for_fewer_pairs(model, gallery, score, met):
    whole = score_gallery(model, *gallery, k=2, score=score, batch_size=2)
    met.clear()
    found = score_captions(model, *gallery, k=2, score=score, batch_size=2)
    np.testing.assert_allclose(found, whole.text_to_video, atol=CLOSE)
    assert len(met) == (0 if score == "itc-only" else 2 * NUM_CAPTIONS)


def test_similarity_alone_does_without_the_cross_encoder(model, gallery, monkeypatch):
    monkeypatch.setattr(model, "match", lambda *_: pytest.fail("the cross-encoder was asked"))
    found = score_gallery(model, *gallery, k=2, score="itc-only", batch_size=1)
    assert np.array_equal(found.text_to_video, found.itc)
    assert np.array_equal(found.video_to_text, found.itc)


# Candidates


def test_candidates_are_the_highest_and_ties_go_to_the_lower_index():
    similarity = torch.tensor([[0.1, 0.5, 0.5, 0.5], [0.4, 0.3, 0.2, 0.1], [0.0, 0.0, 0.0, 0.0]])
    assert candidates(similarity, 2).int().tolist() == [[0, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_candidates_of_a_long_row_of_ties_are_the_first():
    found = candidates(torch.ones(1, 5000), 128)
    assert found[0, :128].all()
    assert found.sum() == 128


def test_more_candidates_than_clips_are_all_clips():
    assert candidates(torch.ones(2, 3), 9).all()


# Clips with frames and captions


class Words:
    """A tokenizer that makes the same words of the same caption."""

    def __call__(self, texts, max_tokens):
        """One caption each, seeded by its text."""
        rows = [random_captions([6], seed=sum(map(ord, text))) for text in texts]
        assert max_tokens == 8
        return Tokens(*(torch.cat(part) for part in zip(*rows, strict=True)))


@pytest.fixture
def clips(tmp_path):
    """Five clips of eight random frames; c0 and c3 are twins, c1 names one that is not here."""
    frames = np.random.default_rng(0).integers(0, 256, (5 * 8, 24, 24, 3), dtype=np.uint8)
    (tmp_path / "frames").write_bytes(frames.tobytes())
    places = [(8 * number, 8) for number in range(5)]
    return ClipSet(
        clips=tuple(
            Clip(f"c{number}", Path(f"c{number}.mp4"), f"source{number}", (f"caption {number}",))
            for number in range(5)
        ),
        store=FrameStore(tmp_path / "frames", places, 24),
        tokenizer=Words(),
        num_frames=4,
        max_tokens=8,
        twin_of={"c0": "c3", "c3": "c0", "c1": "elsewhere"},
    )


def encoded(model, clips, batch_size, seed=0, shuffle=False):
    """The clips' features with frames drawn from a seed."""
    rng = np.random.default_rng(seed)
    return encode_clips(model, clips, "segment-middle", batch_size, rng, shuffle)


def test_clips_in_batches_equal_clips_at_once(model, clips):
    whole, parts = encoded(model, clips, 5), encoded(model, clips, 2)
    assert whole.tokens.shape == (5, 1 + 4 + 9, 24)
    assert (whole.tokens - parts.tokens).abs().max() <= CLOSE


def test_shuffled_frames_are_the_same_frames_in_an_order_from_the_generator(model, clips):
    frames = clips.frames([1], "segment-middle", np.random.default_rng(0))[0]
    shuffled = clips.frames([1], "segment-middle", np.random.default_rng(3), shuffle=True)[0]
    assert not torch.equal(frames, shuffled)
    assert {tuple(frame.flatten().tolist()) for frame in frames} == {
        tuple(frame.flatten().tolist()) for frame in shuffled
    }
    plain, one, same, other = (
        encoded(model, clips, 5, seed, shuffle).embedding
        for seed, shuffle in ((3, False), (3, True), (3, True), (4, True))
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, plain)


def test_evaluation_scores_first_captions_and_leaves_the_model_as_it_was(model, clips):
    model.train()
    settings = SimpleNamespace(
        frames=SimpleNamespace(eval_sampler="segment-middle"),
        evaluate=EvaluateSpec(rerank_k=99, score="itm+itc", batch_size=2, precision="fp32"),
    )
    found = evaluate(model, clips, settings, np.random.default_rng(0))
    assert model.training
    model.eval()
    with torch.no_grad():
        video = encoded(model, clips, 5)
        tokens = Words()([f"caption {number}" for number in range(5)], 8)
        text = model.encode_text(tokens.input_ids, tokens.attention_mask)
    expected = score_gallery(model, video, text, 5, "itm+itc", 2)
    np.testing.assert_allclose(found.scores.text_to_video, expected.text_to_video, atol=CLOSE)
    assert found.scores.text_to_video.shape == (5, 5)


@pytest.mark.parametrize("score", ["itm+itc", "itm-only", "itc-only"])
def test_twin_scores_are_those_of_the_own_and_of_the_reversed_clips_caption(model, clips, score):
    with torch.no_grad():
        video = encoded(model, clips, 5)
        tokens = Words()([clip.captions[0] for clip in clips.clips], 8)
        text = model.encode_text(tokens.input_ids, tokens.attention_mask)
    own, twin = twin_scores(model, video, text, clips, score, 2)
    every = score_gallery(model, video, text, 5, score, 2).text_to_video
    np.testing.assert_allclose(own, [every[0, 0], every[3, 3]], atol=CLOSE)
    np.testing.assert_allclose(twin, [every[3, 0], every[0, 3]], atol=CLOSE)


def test_clips_without_twins_have_no_twin_scores(model, gallery, clips):
    own, twin = twin_scores(model, *gallery, replace(clips, twin_of={}), "itm+itc", 2)
    assert own.shape == twin.shape == (0,)


def test_scores_are_not_rounded_in_bf16(model, gallery):
    with computing("bf16", torch.device("cpu")):
        found = score_gallery(model, *gallery, k=5, score="itm+itc", batch_size=2)
    exact = score_gallery(model, *gallery, k=5, score="itm+itc", batch_size=2)
    np.testing.assert_allclose(found.itc, exact.itc, atol=CLOSE)
    np.testing.assert_allclose(found.text_to_video, exact.text_to_video, atol=0.1)
