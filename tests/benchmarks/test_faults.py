"""Every planted fault changes what the library computes, and leaves nothing behind."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small import SIZES, clip_sets, small_settings, write_spec, write_weights
from tiny import BRANCH, fill

from benchmarks.faults import BOTH, FAULTS
from litevl import metrics
from litevl.data.annotations import Question
from litevl.engine.answering import AnsweringObjective
from litevl.engine.retrieval import RetrievalObjective
from litevl.model.config import LiteVLConfig
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.losses import hard_negatives, matching_loss
from litevl.model.question_answering import LiteVLForQuestionAnswering
from litevl.spec import load_spec, resolve

BY_NAME = {fault.name: fault for fault in FAULTS}
IN_LOSSES = [fault for fault in FAULTS if fault.name != "rank-0-is-a-miss"]
NAMED_IN_THE_ISSUE = 8
RANKS = np.array([[1, 1], [1, 1], [3, 3], [9, 9]])


@pytest.fixture(scope="module")
def objectives(tmp_path_factory):
    """Both tasks' objectives, over the same clips, with nothing left at its start."""
    folder = tmp_path_factory.mktemp("faults")
    weights = write_weights(folder / "weights")
    clips = clip_sets(folder, weights)["train"]
    asked = replace(
        clips,
        clips=tuple(
            replace(clip, questions=(Question(clip.id, clip.captions[0], clip.captions[0][:8]),))
            for clip in clips.clips
        ),
        max_answer_tokens=32,
    )
    spec = write_spec(folder / "spec.toml", small_settings(folder / "world", weights))
    settings = resolve(load_spec(spec), "mini", "full")
    temporal = {"temporal_attention": True, "scaling": "dynamic", **BRANCH, "num_frames": 4}
    config = LiteVLConfig(**{**SIZES, **temporal, "vocab_size": len(clips.tokenizer)})
    found = {}
    for task, objective, model, data in (
        ("retrieval", RetrievalObjective, LiteVLForRetrieval(config), clips),
        ("question-answering", AnsweringObjective, LiteVLForQuestionAnswering(config), asked),
    ):
        fill(model, seed=0)
        found[task] = objective(model, settings, data, data, seed=0)
    return found


def first_losses(objective):
    """The losses of the first batch, as training computes them."""
    torch.manual_seed(0)
    batch = next(iter(objective.batches(0)))
    losses = objective.backward(batch, 0, torch.Generator().manual_seed(0))
    return torch.stack([*losses.values()]).detach()


def test_the_faults_of_the_issue_are_here_each_under_a_name_of_its_own():
    assert len(BY_NAME) == len(FAULTS) > NAMED_IN_THE_ISSUE


@pytest.mark.parametrize(
    ("fault", "task"),
    [(fault, task) for fault in IN_LOSSES for task in fault.tasks],
    ids=lambda value: getattr(value, "name", value),
)
def test_fault_changes_the_losses_and_is_gone_afterwards(objectives, fault, task):
    whole = first_losses(objectives[task])
    with fault.plant():
        broken = first_losses(objectives[task])
    assert (broken - whole).abs().max() > 1e-4
    assert torch.equal(first_losses(objectives[task]), whole)


def test_fault_is_gone_after_an_error_too(objectives):
    whole = first_losses(objectives["retrieval"])
    for fault in FAULTS:
        with pytest.raises(RuntimeError, match="stopped"), fault.plant():
            raise RuntimeError("stopped")
    assert torch.equal(first_losses(objectives["retrieval"]), whole)
    assert metrics.recall_at(1, RANKS) == 50


def test_faults_in_the_model_show_in_both_tasks_those_in_matching_in_retrieval():
    of_retrieval = {fault.name for fault in FAULTS if fault.tasks != BOTH}
    assert of_retrieval == {
        "matching-labels-swapped",
        "negatives-are-positives",
        "rank-0-is-a-miss",
    }


def test_without_temporal_attention_a_frame_is_encoded_as_if_alone(objectives):
    encode = objectives["retrieval"].model.visual_encoder
    frames = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    other = frames.clone()
    other[:, 1:] = 0
    for name in ("temporal-attention-skipped", "scale-stuck-at-0"):
        with torch.no_grad(), BY_NAME[name].plant():
            assert torch.allclose(encode(frames)[:, 0], encode(other)[:, 0], atol=1e-6)
    with torch.no_grad():
        assert not torch.allclose(encode(frames)[:, 0], encode(other)[:, 0], atol=1e-3)


def test_scale_that_is_never_learned_is_1(objectives):
    scale = objectives["retrieval"].model.visual_encoder.blocks[0].temporal_scale
    patches = torch.ones(1, 4, 2, 16)
    assert not torch.allclose(scale(patches), torch.ones(()), atol=1e-3)
    with BY_NAME["scale-never-learned"].plant():
        assert scale(patches) == 1.0


def test_uniform_pooling_reaches_both_models(objectives):
    words = torch.randn(2, 16, generator=torch.Generator().manual_seed(2))
    for objective in objectives.values():
        video = torch.randn(2, 1 + 4 + 4, 16, generator=torch.Generator().manual_seed(3))
        model = objective.model
        with torch.no_grad(), BY_NAME["pooling-weights-uniform"].plant():
            if isinstance(model, LiteVLForRetrieval):
                ids = torch.tensor([[2, 5, 3], [2, 6, 3]])
                text = replace(model.encode_text(ids, torch.ones_like(ids)), cls=words)
                features = replace(model.encode_video(torch.zeros(2, 4, 3, 32, 32)), tokens=video)
                frames, patches = model.pooling_weights(features, text)
            else:
                frames, patches = model.pooling_weights(video, words)
        assert torch.equal(frames, torch.ones(2, 4))
        assert torch.equal(patches, torch.ones(2, 4))


def test_swapped_labels_and_positive_negatives_are_what_their_names_say():
    import litevl.engine.retrieval as engine

    logits, labels = torch.tensor([[0.0, 4.0], [3.0, 0.0]]), torch.tensor([1, 0])
    times, ids, similarity = torch.tensor([1, 1]), torch.tensor([7, 8]), torch.eye(2)
    with BY_NAME["matching-labels-swapped"].plant():
        swapped = engine.matching_loss(logits, labels, times)
    assert (
        swapped == matching_loss(logits, 1 - labels, times) > matching_loss(logits, labels, times)
    )
    with BY_NAME["negatives-are-positives"].plant():
        drawn = engine.hard_negatives(similarity, ids, torch.Generator())
    assert drawn.tolist() == [[0], [1]]
    assert engine.hard_negatives is hard_negatives
    assert engine.matching_loss is matching_loss


def test_shuffled_loader_has_the_same_frames_in_another_order(objectives):
    clips, rng = objectives["retrieval"].clips, np.random.default_rng
    whole = clips.frames([0, 1], "segment-random", rng(0))
    with BY_NAME["frames-shuffled"].plant():
        broken = clips.frames([0, 1], "segment-random", rng(0))
    assert not torch.equal(broken, whole)
    assert torch.equal(broken.flatten(2).sort(dim=1).values, whole.flatten(2).sort(dim=1).values)


def test_ignored_padding_mask_makes_padding_count(objectives):
    model = objectives["retrieval"].model.eval()
    ids = torch.tensor([[2, 5, 3, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    with torch.no_grad():
        whole = model.encode_text(ids, mask).embedding
        with BY_NAME["padding-mask-ignored"].plant():
            broken = model.encode_text(ids, mask).embedding
            unpadded = model.encode_text(ids[:, :3], mask[:, :3]).embedding
    model.train()
    assert torch.allclose(whole, unpadded, atol=1e-6)
    assert not torch.allclose(whole, broken, atol=1e-3)


def test_rank_0_is_a_miss_in_every_recall():
    clusters, rng = np.arange(len(RANKS)), np.random.default_rng
    with BY_NAME["rank-0-is-a-miss"].plant():
        assert metrics.recall_at(1, RANKS) == 0
        assert metrics.recall_at(5, RANKS) == 25
        found = metrics.direction_metrics("t2v", RANKS, clusters, rng(0))
    assert found["t2v/R@10"]["value"] == 50
    assert metrics.recall_at(5, RANKS) == 75
