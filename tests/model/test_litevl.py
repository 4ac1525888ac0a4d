"""The retrieval model: what padding and batching must not change, how it is saved and loaded."""

import json
import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import (
    BRANCH,
    ENC,
    SAME_SCORES,
    TOLERANCE,
    have_same_scores,
    largest_difference,
    random_captions,
    random_frames,
    tiny_model,
    train_temporal_parts,
)
from torch.nn import functional as F

from litevl import LiteVLConfig, LiteVLForRetrieval
from litevl.errors import ShapeError, WeightsError
from litevl.model.checkpoints import save_blip
from litevl.model.config import Pooling
from litevl.model.litevl import TextFeatures, VideoFeatures, similarities

LENGTHS = [5, 9, 3]
CLOSE = TOLERANCE[torch.float32]
POOLINGS = get_args(Pooling)


def used_model(**options):
    """A model whose temporal parts have moved, with weights that differ between frames."""
    options = {"pooling_temperature": 0.1, **BRANCH, **options}
    return train_temporal_parts(tiny_model(**options))


def features(model, padding=None):
    """Three clips and three captions of different length."""
    video = model.encode_video(random_frames(3))
    return video, model.encode_text(*random_captions(LENGTHS, padding=padding))


# Embeddings


@torch.no_grad()
def test_embeddings_have_unit_length():
    video, text = features(used_model())
    for embedding in (video.embedding, text.embedding):
        assert largest_difference(embedding.norm(dim=-1), torch.ones(3)) <= SAME_SCORES


@torch.no_grad()
def test_clip_embedding_is_the_mean_of_its_frames_projected_cls():
    model = used_model()
    video, _ = features(model)
    tokens = model.visual_encoder(random_frames(3))  # (B, T, 1 + N, D)
    per_frame = [model.vision_proj(tokens[:, t, 0]) for t in range(4)]
    expected = F.normalize(sum(per_frame) / 4, dim=-1)
    assert largest_difference(video.embedding, expected) <= CLOSE


def test_embedding_alone_is_the_one_that_comes_with_the_tokens():
    model, frames = tiny_model(), random_frames(3)
    expected = model.encode_video(frames).embedding
    assert largest_difference(model.embed_video(frames), expected) <= CLOSE


def test_similarity_is_the_cosine_of_every_pair():
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(2, 8, generator=generator), dim=-1)
    columns = F.normalize(torch.randn(3, 8, generator=generator), dim=-1)
    for row in range(2):
        expected = F.cosine_similarity(rows[row][None], columns)
        assert largest_difference(similarities(rows, columns)[row], expected) <= CLOSE


# Padding and batching


@pytest.mark.parametrize("padding", [None, "random"])
@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_padded_text_scores_like_the_unpadded_one(pooling, padding):
    model = used_model(pooling=pooling)
    video, padded = features(model, padding)
    logits, weights = model.match(video, padded), model.pooling_weights(video, padded)
    for clip, length in enumerate(LENGTHS):
        words = padded.input_ids[[clip], :length]
        text = model.encode_text(words, torch.ones_like(words))
        one_clip = video.select(torch.tensor([clip]))
        assert have_same_scores(padded.embedding[[clip]], text.embedding)
        assert have_same_scores(logits[[clip]], model.match(one_clip, text))
        for ours, theirs in zip(weights, model.pooling_weights(one_clip, text), strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or have_same_scores(ours[[clip]], theirs)


@torch.no_grad()
def test_clips_alone_and_in_a_batch_have_the_same_features():
    model, frames = used_model(), random_frames(3)
    together = model.encode_video(frames)
    for clip in range(3):
        alone = model.encode_video(frames[[clip]])
        assert largest_difference(together.tokens[[clip]], alone.tokens) <= CLOSE
        assert have_same_scores(together.embedding[[clip]], alone.embedding)


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_pairs_alone_and_in_a_batch_have_the_same_scores(pooling):
    model = used_model(pooling=pooling)
    video, text = features(model)
    clips, captions = torch.tensor([0, 2, 1, 0]), torch.tensor([1, 1, 0, 2])
    together = model.match(video.select(clips), text.select(captions))
    assert together.std() > 0.01
    for place, (clip, caption) in enumerate(zip(clips, captions, strict=True)):
        alone = model.match(video.select(clip[None]), text.select(caption[None]))
        assert have_same_scores(together[[place]], alone)


# Matching


@torch.no_grad()
def test_matching_depends_on_the_clip_and_on_the_words():
    model = used_model()
    video, text = features(model)
    logits = model.match(video, text)
    turned = torch.tensor([1, 2, 0])
    assert largest_difference(logits, model.match(video.select(turned), text)) > 0.01
    assert largest_difference(logits, model.match(video, text.select(turned))) > 0.01


@torch.no_grad()
def test_matching_replaces_cls_by_enc_and_leaves_the_caller_its_words():
    model = used_model()
    video, text = features(model)
    before = text.input_ids.clone()
    logits = model.match(video, text)
    assert torch.equal(text.input_ids, before)
    already = before.clone()
    already[:, 0] = ENC
    same = TextFeatures(text.cls, text.embedding, already, text.attention_mask)
    assert torch.equal(model.match(video, same), logits)
    model.text_encoder.embeddings.word_embeddings.weight[ENC, 0] += 3.0
    assert largest_difference(model.match(video, text), logits) > 0.01


def test_match_needs_one_caption_per_clip():
    model = tiny_model()
    video, text = features(model)
    with pytest.raises(ShapeError, match=r"video.tokens .* with B=3 D=24, got \(2, 14, 24\)"):
        model.match(video.select(torch.tensor([0, 1])), text)


@pytest.mark.parametrize("shape", [(3, 4, 10, 24), (3, 4, 23)])
def test_match_names_both_shapes_of_wrong_video_tokens(shape):
    model = tiny_model()
    video, text = features(model)
    with pytest.raises(ShapeError, match=r"video.tokens should be .*D=24, got \(3, 4"):
        model.match(VideoFeatures(torch.zeros(shape), video.embedding), text)


def test_wrong_words_raise_with_both_shapes():
    ids = torch.zeros(3, 5, dtype=torch.long)
    with pytest.raises(ShapeError, match=r"attention_mask .*B=3 W=5, got \(3, 4\)"):
        tiny_model().encode_text(ids, torch.ones(3, 4))


def test_select_keeps_the_parts_of_a_caption_together():
    text = TextFeatures(*(torch.arange(3.0)[:, None] for _ in range(4)))
    chosen = text.select(torch.tensor([2, 0]))
    parts = (chosen.cls, chosen.embedding, chosen.input_ids, chosen.attention_mask)
    assert all(part.flatten().tolist() == [2, 0] for part in parts)


# Precision


@torch.no_grad()
def test_scores_stay_in_full_precision_under_autocast():
    model = used_model()
    with torch.autocast("cpu", torch.bfloat16):
        video, text = features(model)
        cosines, logits = similarities(text.embedding, video.embedding), model.match(video, text)
    for scores in (cosines, logits):
        assert scores.dtype == torch.float32
        assert not torch.equal(scores, scores.bfloat16().float())  # not rounded on the way either
    assert largest_difference(video.embedding.norm(dim=-1), torch.ones(3)) <= SAME_SCORES


@torch.no_grad()
def test_model_in_another_precision_works():
    model = used_model().to(torch.bfloat16)
    video = model.encode_video(random_frames(3, dtype=torch.bfloat16))
    logits = model.match(video, model.encode_text(*random_captions(LENGTHS)))
    assert logits.dtype == torch.bfloat16


# Saving and loading


def same_weights(one, other):
    """Whether two models have the same tensors."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("options", [{}, {"pooling_temperature": math.inf, "scaling": "input"}])
def test_saved_model_comes_back_as_it_was(tmp_path, options):
    model = used_model(**options)
    model.save_pretrained(tmp_path)
    again = LiteVLForRetrieval.from_pretrained(tmp_path)
    assert again.config == model.config
    assert isinstance(again.config, LiteVLConfig)
    assert same_weights(model, again)
    assert not again.training
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"config.json", "model.safetensors", "README.md"}


def test_saved_weights_can_be_used_with_another_pooling(tmp_path):
    model = used_model()
    model.save_pretrained(tmp_path)
    other = replace(model.config, pooling="mean")
    again = LiteVLForRetrieval.from_pretrained(tmp_path, config=other)
    assert again.config == other
    assert same_weights(model, again)


def test_loaded_model_can_be_saved_again(tmp_path):
    used_model().save_pretrained(tmp_path / "one")
    LiteVLForRetrieval.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_folder_without_config_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no config.json; is it what save_pretrained wrote"):
        LiteVLForRetrieval.from_pretrained(tmp_path)


def test_unknown_field_in_config_json_is_named(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"poolling": "text"}))
    with pytest.raises(WeightsError, match=r"config.json has unknown poolling"):
        LiteVLForRetrieval.from_pretrained(tmp_path)


def test_tensor_that_the_file_lacks_is_not_left_random(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["itm_head.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"itm_head.weight"):
        LiteVLForRetrieval.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "the weights cannot be loaded"),
        (b"", "0 bytes cannot hold the [0-9]+ numbers that config.json describes"),
        (b"not safetensors" * 10_000, "the weights cannot be loaded"),
    ],
    ids=["missing", "empty", "something else"],
)
def test_missing_or_damaged_weights_are_named(tmp_path, content, reason):
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(WeightsError, match=reason):
        LiteVLForRetrieval.from_pretrained(tmp_path)


# From BLIP


@pytest.fixture
def blip_file(tmp_path):
    """A BLIP checkpoint in its own key layout: what a model without temporal parts holds."""
    model = tiny_model(temporal_attention=False, time_embedding="none", scaling="none")
    save_blip(tmp_path / "blip.safetensors", model.state_dict(), model.config)
    return tmp_path / "blip.safetensors"


def test_from_blip_takes_sizes_from_the_file_and_options_from_the_caller(blip_file):
    model = LiteVLForRetrieval.from_blip(blip_file, num_frames=3, pooling="mean", **BRANCH)
    expected = replace(tiny_model().config, num_frames=3, pooling="mean", **BRANCH)
    assert model.config == expected
    assert model.visual_encoder.time_embed.any()


def test_from_blip_lists_unknown_options(blip_file):
    with pytest.raises(WeightsError, match=r"from_blip: unknown option\(s\) frames, poolling"):
        LiteVLForRetrieval.from_blip(blip_file, poolling="mean", frames=3)


def test_from_blip_names_a_file_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere.safetensors: no such file; give 'mini-blip'"):
        LiteVLForRetrieval.from_blip(tmp_path / "nowhere.safetensors")
