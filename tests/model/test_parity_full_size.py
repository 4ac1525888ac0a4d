"""Our model computes what transformers' BLIP computes at ViT-B/16, in float32: at most 1e-4 apart.

Random weights of the size that trained ones have, so that what comes out is of size one and more;
every test states it, and `pytest --junit-xml` records both. Only where padding plays no part; see
test_oracle_traps.py. One copy of the weights serves both models.
"""

import blip_oracle
import pytest
import torch
from tiny import WITHOUT_TEMPORAL, largest_difference
from torch import nn

from litevl import LiteVLConfig, LiteVLForQuestionAnswering, LiteVLForRetrieval
from litevl.model.tokenizer import Tokens
from litevl.model.vision import VideoEncoder

LARGEST_DIFFERENCE = 1e-4
CLS, SEP = 101, 102  # BERT's
TEMPORAL = {"num_frames": 2, "time_embedding": "branch", "time_embedding_scale": 0.5}
STILL = {"num_frames": 1, **WITHOUT_TEMPORAL}


def expect_parity(found, expected, smallest, record):
    """Nowhere further apart than allowed, in numbers that are spread by `smallest` at least."""
    difference, spread = largest_difference(found, expected), expected.std().item()
    record("largest_difference", difference)
    record("largest_value", expected.abs().max().item())
    assert difference <= LARGEST_DIFFERENCE
    assert spread >= smallest, "all alike: their agreement would say little"


def without_start(build):
    """A module with room for its weights, before anything is drawn: that would take longest."""
    with torch.device("meta"):
        module = build()
    return module.to_empty(device="cpu").eval()


@torch.no_grad()
def draw(module, seed=0):
    """Draw every weight: matrices by their fan-in, embeddings, biases and norms as BLIP's are."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if name.endswith("temp"):
            parameter.fill_(0.07)
        elif "temporal_scale" in name:
            parameter.zero_()
        elif parameter.dim() < 2:
            is_norm_weight = "norm" in name.lower() and name.endswith("weight")
            parameter.normal_(float(is_norm_weight), 0.1, generator=generator)
        elif name.endswith(("pos_embed", "cls_token", "position_embeddings.weight")):
            parameter.normal_(0.0, 0.2, generator=generator)
        else:
            parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
    if hasattr(module, "visual_encoder"):
        module.visual_encoder.start_from_image_encoder(generator)
    return module


def pictures(*shape):
    """Random pictures (..., 3, S, S)."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def words(length, seed):
    """One text of random words (W,), from [CLS] to [SEP]."""
    ids = torch.randint(1000, 30522, (length,), generator=torch.Generator().manual_seed(seed))
    ids[0], ids[-1] = CLS, SEP
    return ids


def padded(texts):
    """Several texts as one batch (B, W)."""
    mask = [torch.ones_like(text) for text in texts]
    return Tokens(
        nn.utils.rnn.pad_sequence(texts, batch_first=True),
        nn.utils.rnn.pad_sequence(mask, batch_first=True),
    )


CAPTIONS = [words(7, 2), words(12, 3)]


@pytest.fixture(scope="module")
def retrieval():
    """ViT-B/16 at 224 px with temporal parts at their start, its twin, and two clips encoded."""
    config = LiteVLConfig(pooling="concat", **TEMPORAL)
    model = draw(without_start(lambda: LiteVLForRetrieval(config)))
    blip = blip_oracle.oracle(model)
    frames = pictures(2, 2, 3, 224, 224)
    with torch.no_grad():
        return model, blip, model.encode_video(frames), blip_oracle.image_tokens(blip, frames)


@torch.no_grad()
def test_frame_tokens_at_224_px(retrieval, record_property):
    _, _, video, tokens = retrieval
    assert tokens.shape == (2, 2, 197, 768)
    expect_parity(video.tokens, tokens.flatten(1, 2), 0.5, record_property)


@torch.no_grad()
def test_clip_embeddings(retrieval, record_property):
    _, blip, video, tokens = retrieval
    expected = torch.stack([blip_oracle.embedding(blip, clip) for clip in tokens])
    expect_parity(video.embedding, expected, 0.03, record_property)


@torch.no_grad()
def test_caption_embeddings(retrieval, record_property):
    model, blip, _, _ = retrieval
    batch = padded(CAPTIONS)
    found = model.encode_text(batch.input_ids, batch.attention_mask)
    expected = torch.stack([blip_oracle.text_cls(blip, caption) for caption in CAPTIONS])
    expect_parity(found.cls, expected, 0.5, record_property)
    projected = nn.functional.normalize(blip.text_proj(expected), dim=-1)
    assert largest_difference(found.embedding, projected) <= LARGEST_DIFFERENCE


@torch.no_grad()
def test_matching_logits_of_padded_captions_and_clips(retrieval, record_property):
    model, blip, video, tokens = retrieval
    batch = padded(CAPTIONS)
    found = model.match(video, model.encode_text(batch.input_ids, batch.attention_mask))
    pairs = zip(CAPTIONS, tokens.flatten(1, 2), strict=True)
    expected = torch.stack([blip_oracle.matching_logits(blip, *pair) for pair in pairs])
    expect_parity(found, expected, 0.1, record_property)


@torch.no_grad()
def test_image_tokens_at_384_px(record_property):
    config = LiteVLConfig(image_size_px=384, **STILL)
    encoder = draw(without_start(lambda: VideoEncoder(config)))
    blip = blip_oracle.vision_oracle(encoder)
    images = pictures(1, 1, 3, 384, 384)
    found = encoder(images)
    assert found.shape == (1, 1, 577, 768)
    expected = blip(pixel_values=images[0]).last_hidden_state[None]
    expect_parity(found, expected, 0.5, record_property)


@torch.no_grad()
def test_answer_log_likelihoods_of_padded_questions(record_property):
    config = LiteVLConfig(pooling="concat", **STILL)
    model = draw(without_start(lambda: LiteVLForQuestionAnswering(config)))
    blip = blip_oracle.answering_oracle(model)
    frames, questions = pictures(2, 1, 3, 224, 224), [words(6, 4), words(9, 5)]
    answers = [words(3, 6), words(5, 7), words(4, 8)]
    tokens = blip_oracle.image_tokens(blip, frames)[:, 0]
    expected = torch.tensor(
        [
            [blip_oracle.answer_log_likelihood(blip, grounded, answer) for answer in answers]
            for grounded in map(blip_oracle.grounded_words, [blip] * 2, questions, tokens)
        ]
    )
    ranking = model.rank_answers(frames, padded(questions), padded(answers), k=3)
    expect_parity(ranking.scores, expected.gather(1, ranking.indices), 1.0, record_property)
