"""Before the first training step LiteVL is BLIP: its image encoder, and mini-BLIP's scores."""

import itertools
from dataclasses import replace

import blip_oracle
import pytest
import torch
from tiny import (
    BRANCH,
    TOLERANCE,
    WITHOUT_TEMPORAL,
    largest_difference,
    random_frames,
    tiny_model,
    train_temporal_parts,
)

from litevl.engine.evaluate import score_gallery
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.tokenizer import Tokenizer

TIMES = {
    "stream": {"time_embedding": "stream"},
    "branch": BRANCH,
    "branch, large": {"time_embedding": "branch", "time_embedding_scale": 20.0},
    "none": {"time_embedding": "none"},
}
SCALINGS = ("dynamic", "layer", "input", "none")
OPTIONS = [
    pytest.param({**TIMES[time], "scaling": scaling}, id=f"{time}-{scaling}")
    for time, scaling in itertools.product(TIMES, SCALINGS)
]


def without_temporal_parts(model):
    """The same model with its temporal parts taken out."""
    plain = LiteVLForRetrieval(replace(model.config, time_embedding_scale=0.0, **WITHOUT_TEMPORAL))
    state = model.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    return plain.eval()


def words_of(input_ids, mask):
    """The captions one by one, without their padding."""
    return [row[: count.sum()] for row, count in zip(input_ids, mask, strict=True)]


@pytest.mark.parametrize("options", OPTIONS)
@torch.no_grad()
def test_video_encoder_equals_our_image_encoder_on_each_frame(options):
    model, frames = tiny_model(**options), random_frames(2)
    plain = without_temporal_parts(model)
    per_frame = [plain.visual_encoder(frames[:, [t]])[:, 0] for t in range(frames.shape[1])]
    difference = largest_difference(model.visual_encoder(frames), torch.stack(per_frame, dim=1))
    assert difference <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("options", OPTIONS)
@torch.no_grad()
def test_video_encoder_equals_blip_on_each_frame(options):
    model, frames = tiny_model(**options), random_frames(2)
    blip = blip_oracle.oracle(model)
    expected = blip_oracle.image_tokens(blip, frames)
    assert largest_difference(model.visual_encoder(frames), expected) <= TOLERANCE[torch.float32]


@torch.no_grad()
def test_a_trained_temporal_part_no_longer_equals_blip():
    model, frames = tiny_model(**BRANCH), random_frames(2)
    before = model.visual_encoder(frames)
    after = train_temporal_parts(model).visual_encoder(frames)
    assert largest_difference(before, after) > 0.1


# The shipped mini-BLIP, with weights that were trained


@pytest.fixture(scope="module")
def mini_blip():
    """LiteVL on the shipped weights with BLIP's tokens, and transformers' BLIP with the same."""
    model = LiteVLForRetrieval.from_blip("mini-blip", **BRANCH, pooling="concat").eval()
    return model, blip_oracle.oracle(model)


def mini_frames(model, num_clips):
    """Random clips of the size that mini-BLIP takes."""
    size = model.config.image_size_px
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_clips, model.config.num_frames, 3, size, size, generator=generator)


@torch.no_grad()
def test_mini_blips_video_encoder_equals_blip_on_each_frame(mini_blip):
    model, blip = mini_blip
    frames = mini_frames(model, 2)
    expected = blip_oracle.image_tokens(blip, frames)
    assert largest_difference(model.visual_encoder(frames), expected) <= TOLERANCE[torch.float32]


@torch.no_grad()
def test_mini_blips_scores_equal_blips_own_video_scores(mini_blip):
    model, blip = mini_blip
    tokenizer = Tokenizer.for_weights("mini-blip")
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.encode_id == model.encode_token_id
    frames, tokens = mini_frames(model, 2), tokenizer(["a red circle", "a blue square moves"], 32)
    words = words_of(tokens.input_ids, tokens.attention_mask)
    expected = [[blip_oracle.video_score(blip, clip, row) for clip in frames] for row in words]
    video = model.encode_video(frames)
    text = model.encode_text(tokens.input_ids, tokens.attention_mask)
    found = score_gallery(model, video, text, k=2, score="itm+itc", batch_size=2)
    difference = largest_difference(torch.tensor(found.text_to_video), torch.tensor(expected))
    assert difference <= TOLERANCE[torch.float32]
