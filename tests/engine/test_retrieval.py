"""Fine-tuning for retrieval: what is drawn, what is minimised, and the validation curve."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_questions import new_objective, question_sets, task_settings, with_train
from tiny import (
    BRANCH,
    TOLERANCE,
    fill,
    random_captions,
    tiny_model,
    train_temporal_parts,
)

from litevl.data.dataset import FrameStore, normalise
from litevl.engine import retrieval
from litevl.engine.clips import ClipSet
from litevl.engine.retrieval import Batch, draw_pairs, pair_loss
from litevl.engine.train import train
from litevl.model.litevl import similarities
from litevl.model.losses import MAX_TEMPERATURE, MIN_TEMPERATURE
from litevl.model.tokenizer import Tokens
from litevl.model.weights import NEW_BY_DESIGN

MOMENTUM = {"momentum_encoder": True, "momentum": 0.9, "queue_size": 8, "distillation_alpha": 0.4}
CLOSE = TOLERANCE[torch.float32]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tiny weights. Tests do not change them."""
    return tmp_path_factory.mktemp("retrieval")


@pytest.fixture(scope="module")
def settings(folder):
    """The `full` variant under the mini profile."""
    return task_settings(folder, "msrvtt")


@pytest.fixture(scope="module")
def clips(folder, settings) -> dict[str, ClipSet]:
    """The small world's clips by split. Tests do not change them."""
    return question_sets(folder, Path(settings.model.weights))


# Batches


def test_batches_hold_twins_together_each_with_one_of_its_captions(settings, clips):
    seen = []
    for batch in new_objective(settings, clips).batches(0):
        ids = batch.ids.tolist()
        assert {index ^ 1 for index in ids} == set(ids)
        assert batch.frames.shape == (4, 4, 32, 32, 3)
        assert batch.frames.dtype == torch.uint8
        for row, index in enumerate(ids):
            own = clips["train"].tokens(clips["train"].clips[index].captions).input_ids
            words = batch.tokens.input_ids[row]
            assert any(words[words > 0].tolist() == c[c > 0].tolist() for c in own)
        seen += ids
    assert sorted(seen) == list(range(16))


def test_epochs_and_seeds_draw_other_batches_and_the_same_ones_again(settings, clips):
    def drawn(seed, epoch):
        found = list(new_objective(settings, clips, seed).batches(epoch))
        return [batch.ids.tolist() for batch in found], [batch.frames for batch in found]

    ids, frames = drawn(0, 0)
    again_ids, again_frames = drawn(0, 0)
    assert ids == again_ids
    assert all(torch.equal(a, b) for a, b in zip(frames, again_frames, strict=True))
    assert ids != drawn(0, 1)[0]
    assert ids != drawn(1, 0)[0]


def test_names_of_a_batch_are_those_of_its_clips(settings, clips):
    nothing = torch.zeros(2)
    batch = Batch(nothing, Tokens(nothing, nothing), torch.tensor([3, 2]))
    wanted = [clips["train"].clips[index].id for index in (3, 2)]
    assert new_objective(settings, clips).names(batch) == wanted


# What is minimised


@pytest.mark.parametrize(("step", "alpha"), [(0, 0.0), (1, 0.1), (2, 0.2), (4, 0.4), (9, 0.4)])
def test_weight_of_soft_targets_grows_over_the_first_epoch(settings, clips, step, alpha):
    chosen = with_train(settings, distillation_alpha=0.4)
    assert len(clips["train"]) // chosen.train.batch_size == 4
    assert new_objective(chosen, clips).alpha(step) == pytest.approx(alpha)


def test_weight_of_soft_targets_reaches_the_teacher(settings, clips, monkeypatch):
    objective = new_objective(with_train(settings, **MOMENTUM), clips)
    batch, weights = next(objective.batches(0)), []
    slow = objective.teacher.contrastive_loss
    monkeypatch.setattr(
        objective.teacher,
        "contrastive_loss",
        lambda *given: weights.append(given[-1]) or slow(*given),
    )
    for step in (0, 2, 9):
        found = objective.backward(batch, step, torch.Generator().manual_seed(0))
        assert found.keys() == {"vtc", "vtm"}
    assert weights == pytest.approx([0.0, 0.2, 0.4])


def pictures(num_clips):
    """Clips as they are stored: uint8 (B, T, 24, 24, 3)."""
    shape = (num_clips, 4, 24, 24, 3)
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def pairs():
    """A model, four clips and captions as encoded, and their similarities divided by temperature.

    The first and the last pair are of one clip.
    """
    model = train_temporal_parts(tiny_model(pooling_temperature=0.1, **BRANCH))
    with torch.no_grad():
        video = model.encode_video(normalise(pictures(4)))
        text = model.encode_text(*random_captions([4, 7, 5, 9]))
        similarity = similarities(video.embedding, text.embedding) / model.temp
    return model, video, text, similarity, torch.tensor([0, 1, 2, 0])


@torch.no_grad()
def loop_over_pairs(model, video, text, triples):
    """Mean of -log p of "match" or "no match", for (clip, caption, is_match) one at a time."""
    total = 0.0
    for clip, caption, is_match in triples:
        one, other = torch.tensor([clip]), torch.tensor([caption])
        log_p = model.match(video.select(one), text.select(other)).log_softmax(dim=1)[0]
        total -= log_p[int(is_match)].item()
    return total / len(triples)


def test_matching_loss_is_that_of_pairs_and_hard_negatives_one_at_a_time(pairs, monkeypatch):
    model, video, text, similarity, ids = pairs
    captions, videos = torch.tensor([1, 2, 3, 2]), torch.tensor([2, 0, 1, 1])
    seen = []

    def drawn(matrix, given, *_):
        seen.append((matrix, given))
        return (captions if len(seen) == 1 else videos)[:, None]

    monkeypatch.setattr(retrieval, "hard_negatives", drawn)
    with torch.no_grad():
        found = pair_loss(model, video, text, draw_pairs(similarity, ids, torch.Generator()))
    triples = [(n, n, True) for n in range(4)]
    triples += [(n, int(captions[n]), False) for n in range(4)]
    triples += [(int(videos[n]), n, False) for n in range(4)]
    assert found.item() == pytest.approx(loop_over_pairs(model, video, text, triples), abs=CLOSE)
    assert torch.equal(seen[0][0], similarity)  # a row for each clip
    assert torch.equal(seen[1][0], similarity.T)  # a row for each caption
    assert all(torch.equal(given, ids) for _, given in seen)


def test_negatives_of_the_same_clip_do_not_count(pairs, monkeypatch):
    model, video, text, similarity, ids = pairs
    captions, videos = torch.tensor([3, 2, 3, 2]), torch.tensor([3, 0, 1, 0])
    answers = iter((captions, videos))
    monkeypatch.setattr(retrieval, "hard_negatives", lambda *_: next(answers)[:, None])
    with torch.no_grad():
        found = pair_loss(model, video, text, draw_pairs(similarity, ids, torch.Generator()))
    triples = [(n, n, True) for n in range(4)]
    triples += [(n, int(captions[n]), False) for n in (1, 2, 3)]  # 0 and 3 are one clip
    triples += [(int(videos[n]), n, False) for n in (1, 2)]
    assert found.item() == pytest.approx(loop_over_pairs(model, video, text, triples), abs=CLOSE)


def test_negatives_that_drew_each_other_pass_the_cross_encoder_once_and_count_twice(
    pairs, monkeypatch
):
    model, video, text, similarity, _ = pairs
    captions, videos = torch.tensor([1, 2, 3, 0]), torch.tensor([3, 0, 0, 1])
    answers = iter((captions, videos))
    monkeypatch.setattr(retrieval, "hard_negatives", lambda *_: next(answers)[:, None])
    drawn = draw_pairs(similarity, torch.arange(4), torch.Generator())
    found = sorted(zip(*(part.tolist() for part in vars(drawn).values()), strict=True))
    # Clip 0 drew caption 1 and caption 1 clip 0; so did clip 3 and caption 0.
    twice, once = [(0, 1), (3, 0)], [(1, 2), (2, 3), (0, 2), (1, 3)]
    own = [(n, n) for n in range(4)]
    assert found == sorted([(*pair, 2) for pair in twice] + [(*pair, 1) for pair in once + own])
    with torch.no_grad():
        loss = pair_loss(model, video, text, drawn)
    triples = [(clip, caption, clip == caption) for clip, caption in own + once + 2 * twice]
    assert loss.item() == pytest.approx(loop_over_pairs(model, video, text, triples), abs=CLOSE)


def test_as_many_negatives_are_drawn_as_the_spec_asks_for(settings, clips, monkeypatch):
    changed = settings.train.model_copy(update={"hard_negatives": 2})
    objective = new_objective(settings.model_copy(update={"train": changed}), clips)
    batch, asked = next(objective.batches(0)), []
    real = retrieval.hard_negatives
    monkeypatch.setattr(
        retrieval, "hard_negatives", lambda *given: asked.append(given[3]) or real(*given)
    )
    objective.backward(batch, 0, torch.Generator().manual_seed(0))
    assert asked == [2, 2]


def test_one_clip_alone_has_its_pairs_and_no_negatives(pairs):
    similarity = pairs[3]
    drawn = draw_pairs(similarity, torch.zeros(4, dtype=torch.long), torch.Generator())
    assert [part.tolist() for part in vars(drawn).values()] == [[0, 1, 2, 3]] * 2 + [[1] * 4]


def test_losses_are_those_of_the_batch_with_several_captions_of_a_clip(settings, clips, pairs):
    model, video, _, similarity, ids = pairs
    tokens = Tokens(*random_captions([4, 7, 5, 9]))
    batch = Batch(pictures(4), tokens, ids)
    objective = new_objective(settings, clips)
    objective.model = model
    found = objective.backward(batch, 0, torch.Generator().manual_seed(0))
    total = 0.0
    for matrix in (similarity, similarity.T):
        log_p = matrix.log_softmax(dim=1)
        for row in range(4):
            same = [column for column in range(4) if ids[column] == ids[row]]
            total -= sum(log_p[row, column].item() for column in same) / len(same)
    assert found["vtc"].item() == pytest.approx(total / 8, rel=CLOSE)
    drawn = draw_pairs(similarity, ids, torch.Generator().manual_seed(0))
    with torch.no_grad():
        text = model.encode_text(tokens.input_ids, tokens.attention_mask)
        vtm = pair_loss(model, video, text, drawn)
    assert found["vtm"].item() == pytest.approx(vtm.item(), rel=CLOSE)


def test_negatives_are_drawn_from_the_generator_and_nothing_else(settings, clips):
    objective = new_objective(settings, clips)
    objective.model.eval()
    batch = next(objective.batches(0))

    def vtm(seed):
        torch.rand(3)
        return objective.backward(batch, 0, torch.Generator().manual_seed(seed))["vtm"].item()

    assert vtm(0) == vtm(0)
    assert len({vtm(seed) for seed in range(8)}) > 1


# Training


def test_training_lowers_the_loss(settings, clips, tmp_path):
    """One batch of four scenes, again and again, is learned by heart."""
    clip_set, kept = clips["train"], [0, 2, 4, 6]
    some = tuple(replace(clip_set.clips[k], captions=clip_set.clips[k].captions[:1]) for k in kept)
    frames = [clip_set.store.frames(k, np.arange(12)) for k in kept]
    (tmp_path / "frames").write_bytes(np.stack(frames).tobytes())
    store = FrameStore(tmp_path / "frames", [(12 * row, 12) for row in range(4)], 32)
    few = clips | {"train": replace(clip_set, clips=some, store=store)}
    options = {"epochs": 100, "learning_rate": 3e-3, "temporal_learning_rate": 3e-3}
    chosen = with_train(settings, **options)
    history = train(new_objective(chosen, few), chosen.train, 0, None, tmp_path, "test")
    found = [point["loss"] for point in history.steps]
    assert found[-1] < 0.5 * found[0], found
    for point in history.steps:
        assert point["loss"] == pytest.approx(point["vtc"] + point["vtm"])


def test_temperature_stays_within_its_bounds(settings, clips, tmp_path):
    wild = with_train(settings, learning_rate=1.0, temporal_learning_rate=1e-6, epochs=1)
    objective = new_objective(wild, clips)
    train(objective, wild.train, 0, 2, tmp_path, "test")
    assert MIN_TEMPERATURE <= objective.model.temp.item() <= MAX_TEMPERATURE


@pytest.mark.parametrize(("given", "kept"), [(0.7, MAX_TEMPERATURE), (-1.0, MIN_TEMPERATURE)])
def test_temperature_is_put_back_and_the_teacher_follows_after_each_step(
    settings, clips, given, kept
):
    objective = new_objective(with_train(settings, **MOMENTUM), clips)
    before = objective.teacher.slow.temp.item()
    with torch.no_grad():
        objective.model.temp.fill_(given)
    objective.after_step()
    assert objective.model.temp.item() == pytest.approx(kept)
    assert objective.teacher.slow.temp.item() == pytest.approx(0.9 * before + 0.1 * kept)


# The validation curve


def test_validation_curve_has_recall_and_order_accuracy(settings, clips):
    objective = new_objective(settings, clips)
    point = objective.validate()
    assert point.keys() == {"t2v-itc/R@1", "order_accuracy"}
    assert objective.best_by == "t2v-itc/R@1"
    assert 0 <= point["t2v-itc/R@1"] <= 100
    assert 0 <= point["order_accuracy"] <= 100
    assert objective.model.training
    without = replace(clips["validation"], twin_of={})
    assert new_objective(settings, clips | {"validation": without}).validate().keys() == {
        "t2v-itc/R@1"
    }


def test_recall_of_the_validation_curve_is_that_of_a_loop_over_captions(settings, clips):
    objective = new_objective(settings, clips | {"validation": clips["train"]})
    model, clip_set = objective.model, clips["train"]
    fill(model, 5, NEW_BY_DESIGN.match)
    found = objective.validate()["t2v-itc/R@1"]
    model.eval()
    sampler, rng = settings.frames.eval_sampler, np.random.default_rng(0)
    with torch.no_grad():
        video = [
            model.encode_video(clip_set.frames([k], sampler, rng)).embedding[0] for k in range(16)
        ]
        hits = 0
        for number, clip in enumerate(clip_set.clips):
            tokens = clip_set.tokens(clip.captions[:1])
            text = model.encode_text(tokens.input_ids, tokens.attention_mask).embedding[0]
            scores = [(text @ embedding).item() for embedding in video]
            hits += all(scores[number] > other for k, other in enumerate(scores) if k != number)
    assert found == pytest.approx(100 * hits / 16)
    assert 0 < hits < 16


def test_without_validation_clips_there_is_no_point(settings, clips):
    none = replace(clips["validation"], clips=())
    assert new_objective(settings, clips | {"validation": none}).validate() == {}
