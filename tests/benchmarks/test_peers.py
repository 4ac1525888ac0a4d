"""The peers compute what they are meant to compute: on tiny models, the same numbers as we do."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_questions import with_train
from tiny import (
    BRANCH,
    random_captions,
    random_frames,
    tiny_config,
    tiny_model,
    train_temporal_parts,
)

from benchmarks.peers import (
    BlipStep,
    blip_reranked,
    eager_attention,
    grounded_words,
    sdpa_attention,
    straightforward_reranked,
    timesformer,
)
from litevl.data.dataset import normalise
from litevl.engine.evaluate import score_gallery
from litevl.engine.retrieval import Batch, RetrievalObjective
from litevl.model.litevl import similarities
from litevl.model.text import Source
from litevl.model.tokenizer import Tokens
from litevl.spec import load_spec, resolve

CLOSE = 1e-4
LENGTHS = (5, 8, 3, 7, 6)
SPEC = Path(__file__).parents[2] / "reproductions" / "msrvtt.toml"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(**options):
    return train_temporal_parts(tiny_model(dropout=0.0, **BRANCH, **options))


def ours_and(peer, pooling, k, space="hidden"):
    """Our scores and a peer's of all captions against all clips, and which pairs were re-ranked."""
    model = trained(pooling=pooling, pooling_temperature=0.1, pooling_space=space)
    frames, (ids, mask) = random_frames(6), random_captions(LENGTHS)
    with torch.inference_mode():
        video, text = model.encode_video(frames), model.encode_text(ids, mask)
        similarity = similarities(text.embedding, video.embedding)
        ours = score_gallery(model, video, text, k, "itm+itc", 4).text_to_video
        tokens = model.visual_encoder(frames)
        theirs = peer(model, tokens, similarity, text, k, range(len(LENGTHS)))
    return torch.as_tensor(ours), theirs, theirs > -99


def test_blips_way_scores_pairs_as_our_concat_pooling_does():
    ours, theirs, among = ours_and(blip_reranked, "concat", k=3)
    assert among.sum(dim=1).tolist() == [3] * len(LENGTHS)
    assert (ours - theirs)[among].abs().max() < CLOSE
    assert (ours < -99).logical_not().equal(among)


@pytest.mark.parametrize("space", ["hidden", "projected"])
def test_the_straightforward_way_scores_pairs_as_our_text_pooling_does(space):
    ours, theirs, among = ours_and(straightforward_reranked, "text", 3, space)
    assert (ours - theirs)[among].abs().max() < CLOSE
    assert (ours < -99).logical_not().equal(among)


def test_scores_of_different_pooling_differ():
    # Else the two tests above could not fail.
    ours, theirs, among = ours_and(blip_reranked, "text", k=3)
    assert (ours - theirs)[among].abs().max() > 100 * CLOSE


@pytest.mark.parametrize("attend", [eager_attention, sdpa_attention])
def test_texts_of_the_peers_are_ours_with_and_without_a_source(attend):
    model = trained()
    ids, mask = random_captions(LENGTHS)
    source = torch.randn(len(LENGTHS), 7, 24, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for given, same in ((None, None), (source, Source(source))):
            theirs = grounded_words(model.text_encoder, ids, mask, given, attend)
            ours = model.text_encoder(ids, mask, same)
            assert (theirs - ours)[mask.bool()].abs().max() < CLOSE


# The training step


def settings_with(**train):
    settings = resolve(load_spec(SPEC), "mini", "full")
    return with_train(settings, batch_size=2, precision="fp32", **train)


def both_steps(num_pairs):
    """Our objective and BLIP's step, each with its own copy of one model, and a batch for them."""
    first, second = trained(pooling="concat"), trained(pooling="concat")
    blip = BlipStep(second, 8, 0.9, torch.Generator().manual_seed(3))
    settings = settings_with(
        momentum_encoder=True, momentum=0.9, queue_size=8, distillation_alpha=0.4
    )
    objective = RetrievalObjective(first, settings, (), (), 0)
    objective.teacher.queue_video.copy_(blip.queue_video.T)
    objective.teacher.queue_text.copy_(blip.queue_text.T)
    objective.teacher.queue_ids.copy_(blip.queue_ids)
    ids, mask = random_captions(LENGTHS[:num_pairs])
    shape = (num_pairs, 4, 24, 24, 3)
    pictures = torch.randint(
        256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    return objective, blip, Batch(pictures, Tokens(ids, mask), torch.arange(num_pairs))


def test_blips_step_has_our_losses_and_gradients_where_negatives_leave_no_choice():
    # Two clips: each has one negative. Without dropout nothing else is random.
    objective, blip, batch = both_steps(2)
    ours = objective.backward(batch, 1, torch.Generator().manual_seed(0))
    vtc, vtm = blip.losses(normalise(batch.frames), batch.tokens, batch.ids, 0.4)
    (vtc + vtm).backward()
    assert abs(ours["vtc"] - vtc) < CLOSE
    assert abs(ours["vtm"] - vtm) < CLOSE
    found = dict(blip.model.named_parameters())
    for name, parameter in objective.model.named_parameters():
        assert (parameter.grad is None) == (found[name].grad is None), name
        if parameter.grad is not None:
            assert (parameter.grad - found[name].grad).abs().max() < CLOSE, name
    assert found["text_encoder.encoder.layer.1.crossattention.self.key.weight"].grad.abs().max() > 0


def test_blips_step_moves_its_momentum_encoders_and_its_queue():
    _, blip, batch = both_steps(2)
    with torch.no_grad():
        blip.model.text_proj.bias += 1.0
    before = blip.slow.text_proj.bias.clone()
    blip.losses(normalise(batch.frames), batch.tokens, batch.ids, 0.4)
    assert torch.allclose(blip.slow.text_proj.bias, before + 0.1)
    assert blip.queue_ids.tolist() == [0, 1] + [-100] * 6
    again = replace(batch, ids=torch.tensor([4, 5]))
    for _ in range(4):
        blip.losses(normalise(again.frames), again.tokens, again.ids, 0.4)
    assert blip.queue_ids.tolist() == [4, 5] * 4
    assert all(parameter.grad is None for parameter in blip.slow.parameters())


def test_blips_negatives_are_of_other_clips():
    _, blip, _ = both_steps(2)
    ids = torch.tensor([0, 0, 1, 2])
    drawn = [blip._drawn(torch.zeros(4, 4), ids) for _ in range(50)]
    assert {row[0] for row in drawn} == {2, 3}
    assert all(ids[column] != ids[row] for each in drawn for row, column in enumerate(each))


# The video encoder


def test_timesformer_has_our_sizes_and_takes_our_frames():
    config = tiny_config()
    peer = timesformer(config)
    with torch.inference_mode():
        tokens = peer(pixel_values=random_frames(2)).last_hidden_state
    assert tokens.shape == (2, 1 + config.num_frames * config.num_patches, config.vision_width)
    blocks = sum(p.numel() for p in peer.encoder.layer[0].parameters())
    ours = sum(p.numel() for p in tiny_model().visual_encoder.blocks[0].parameters())
    # A linear layer more after its temporal attention, no scale per frame.
    width = config.vision_width
    assert blocks == ours + width * (width + 1) - config.num_frames
