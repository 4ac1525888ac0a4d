"""The momentum encoder and its queue."""

import math

import pytest
import torch
from tiny import (
    TOLERANCE,
    largest_difference,
    random_captions,
    random_frames,
    tiny_model,
)

from litevl.errors import SpecError
from litevl.model.losses import contrastive_loss, positive_targets
from litevl.model.momentum import NO_CLIP, MomentumTeacher
from litevl.model.tokenizer import Tokens

CLOSE = TOLERANCE[torch.float32]
TEMPERATURE = torch.tensor(0.07)


def batch(ids, seed=0):
    """Frames and captions for clips with the given ids."""
    lengths = [4 + number % 3 for number in range(len(ids))]
    tokens = Tokens(*random_captions(lengths, seed=10 + seed))
    return random_frames(len(ids), seed=20 + seed), tokens, torch.tensor(ids)


def loss_of(teacher, model, ids, alpha, seed=0):
    """The teacher's contrastive loss for a batch of the given clips, which then joins the queue."""
    frames, tokens, ids = batch(ids, seed)
    video = model.encode_video(frames).embedding
    text = model.encode_text(tokens.input_ids, tokens.attention_mask).embedding
    slow, rows = teacher.encode(frames, tokens), range(len(ids))
    loss = teacher.contrastive_loss(video, text, slow, ids, rows, TEMPERATURE, alpha)
    teacher.enqueue(*slow, ids)
    return loss


def moved_model(seed=5):
    """A student that is no longer equal to a teacher made from seed 0."""
    return tiny_model(seed=seed)


def in_batch_loss(student, teacher, ids):
    """The loss with hard targets among the batch alone, from student and slow features."""
    frames, tokens, ids = batch(ids)
    video, slow_video = (m.encode_video(frames).embedding for m in (student, teacher.slow))
    text, slow_text = (
        m.encode_text(tokens.input_ids, tokens.attention_mask).embedding
        for m in (student, teacher.slow)
    )
    targets = positive_targets(ids, ids)
    return contrastive_loss(
        video @ slow_text.T / TEMPERATURE, text @ slow_video.T / TEMPERATURE, targets, targets
    )


# Following


@torch.no_grad()
def test_following_is_an_exponential_moving_average():
    teacher, student = MomentumTeacher(tiny_model(), 0, momentum=0.9), moved_model()
    before = {name: p.clone() for name, p in teacher.slow.named_parameters()}
    teacher.follow(student)
    teacher.follow(student)
    for name, fast in student.named_parameters():
        expected = 0.9 * (0.9 * before[name] + 0.1 * fast) + 0.1 * fast
        assert largest_difference(dict(teacher.slow.named_parameters())[name], expected) <= CLOSE


def test_teacher_starts_equal_to_the_model_and_shares_nothing_with_it():
    model = tiny_model()
    teacher = MomentumTeacher(model, 0, 0.995)
    for slow, fast in zip(teacher.slow.parameters(), model.parameters(), strict=True):
        assert torch.equal(slow, fast)
        assert slow.data_ptr() != fast.data_ptr()


def test_only_the_student_gets_gradients():
    student = moved_model()
    teacher = MomentumTeacher(tiny_model(), 4, 0.995)
    loss_of(teacher, student, [0, 1], alpha=0.4).backward()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert student.vision_proj.weight.grad.any()
    assert student.text_proj.weight.grad.any()


def test_teacher_does_without_dropout_while_the_student_trains():
    student = tiny_model().train()
    teacher = MomentumTeacher(student, 4, 0.995)
    loss_of(teacher, student, [0, 1], alpha=0.0)
    first = teacher.queue_text[:2].clone()
    loss_of(teacher, student, [0, 1], alpha=0.0)
    assert torch.equal(teacher.queue_text[2:], first)


# The loss


@torch.no_grad()
def test_alpha_zero_and_an_empty_queue_equal_hard_targets_in_the_batch():
    student, teacher = moved_model(), MomentumTeacher(tiny_model(), 8, 0.995)
    expected = in_batch_loss(student, teacher, [3, 5, 3])
    found = loss_of(teacher, student, [3, 5, 3], alpha=0.0)
    assert largest_difference(found, expected) <= CLOSE


@torch.no_grad()
def test_queue_of_size_zero_works():
    student, teacher = moved_model(), MomentumTeacher(tiny_model(), 0, 0.995)
    expected = in_batch_loss(student, teacher, [3, 5, 3])
    for _ in range(2):
        found = loss_of(teacher, student, [3, 5, 3], alpha=0.0)
        assert largest_difference(found, expected) <= CLOSE


@torch.no_grad()
def test_loss_with_a_queue_equals_a_loop():
    """Student rows against slow columns; positives in the queue; soft targets of weight alpha."""
    alpha, ids, queued = 0.4, [3, 5], [5, 7, 3]
    student, teacher = moved_model(), MomentumTeacher(tiny_model(), 8, 0.995)
    loss_of(teacher, student, queued, alpha, seed=1)
    columns = {"video": teacher.queue_video[:3].clone(), "text": teacher.queue_text[:3].clone()}
    found = loss_of(teacher, student, ids, alpha).item()

    frames, tokens, _ = batch(ids)
    rows = {}
    for name, model in (("student", student), ("slow", teacher.slow)):
        rows[name, "video"] = model.encode_video(frames).embedding
        rows[name, "text"] = model.encode_text(tokens.input_ids, tokens.attention_mask).embedding
    expected = 0.0
    for side, other in (("video", "text"), ("text", "video")):
        candidates = torch.cat([rows["slow", other], columns[other]])
        for row, own in enumerate(ids):
            logits = (rows["student", side][row] @ candidates.T / TEMPERATURE).tolist()
            slow = (rows["slow", side][row] @ candidates.T / TEMPERATURE).tolist()
            is_positive = [clip == own for clip in ids + queued]
            log_sum = math.log(sum(math.exp(value) for value in logits))
            slow_sum = sum(math.exp(value) for value in slow)
            for logit, soft, positive in zip(logits, slow, is_positive, strict=True):
                target = alpha * math.exp(soft) / slow_sum
                target += (1 - alpha) * positive / sum(is_positive)
                expected += target * (log_sum - logit) / len(ids) / 2
    assert found == pytest.approx(expected, rel=CLOSE)


@torch.no_grad()
def test_batch_meets_the_queue_as_it_was_before_it_joined():
    student, teacher = moved_model(), MomentumTeacher(tiny_model(), 8, 0.995)
    alone = loss_of(teacher, student, [1, 2], alpha=0.0).item()
    with_itself = loss_of(teacher, student, [1, 2], alpha=0.0).item()
    assert with_itself > alone + 0.1  # each clip twice among the candidates, both positive


# The queue


def numbered(*numbers):
    """Embeddings that carry a number, to be found again (B, E)."""
    return torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, 8)


def test_queue_starts_empty():
    teacher = MomentumTeacher(tiny_model(), 6, 0.995)
    assert (teacher.queue_ids == NO_CLIP).all()


def test_queue_wraps_around_over_the_oldest():
    teacher = MomentumTeacher(tiny_model(), 6, 0.995)
    teacher.enqueue(numbered(1, 2, 3, 4), -numbered(1, 2, 3, 4), torch.tensor([11, 12, 13, 14]))
    assert teacher.queue_ids.tolist() == [11, 12, 13, 14, NO_CLIP, NO_CLIP]
    teacher.enqueue(numbered(5, 6, 7, 8), -numbered(5, 6, 7, 8), torch.tensor([15, 16, 17, 18]))
    assert teacher.queue_ids.tolist() == [17, 18, 13, 14, 15, 16]
    assert teacher.queue_video[:, 0].tolist() == [7, 8, 3, 4, 5, 6]
    assert teacher.queue_text[:, 0].tolist() == [-7, -8, -3, -4, -5, -6]
    assert teacher.place.item() == 2


def test_batch_as_large_as_the_queue_replaces_it():
    teacher = MomentumTeacher(tiny_model(), 2, 0.995)
    for ids in ([1, 2], [3, 4]):
        teacher.enqueue(numbered(*ids), numbered(*ids), torch.tensor(ids))
        assert teacher.queue_ids.tolist() == ids


def test_batch_larger_than_the_queue_is_an_error():
    teacher = MomentumTeacher(tiny_model(), 2, 0.995)
    with pytest.raises(SpecError, match=r"train.queue_size: 2 is smaller than the batch \(3\)"):
        teacher.enqueue(numbered(1, 2, 3), numbered(1, 2, 3), torch.arange(3))


@torch.no_grad()
def test_queue_survives_a_checkpoint():
    student, teacher = moved_model(), MomentumTeacher(tiny_model(), 6, 0.995)
    loss_of(teacher, student, [1, 2, 3, 4], alpha=0.4)
    again = MomentumTeacher(tiny_model(seed=9), 6, 0.995)
    again.load_state_dict(teacher.state_dict())
    found, expected = (loss_of(t, student, [1, 2], alpha=0.4, seed=1) for t in (again, teacher))
    assert torch.equal(found, expected)
    assert torch.equal(again.queue_ids, teacher.queue_ids)
