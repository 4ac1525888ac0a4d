"""What a run costs: operations counted on the model itself, device-hours estimated from them.

Two operations for each multiplication and addition; norms, activations and softmax are not
counted. An estimate needs neither weights nor data: it counts on tensors that have a shape and no
content. Everything it takes for granted stands in `Assumptions` and is printed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from litevl.model.config import LiteVLConfig
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.question_answering import LiteVLForQuestionAnswering
from litevl.model.tokenizer import Tokens
from litevl.plan import PlannedRun
from litevl.schema import RunEstimate
from litevl.spec import Resolved, model_options, task_of

Model = LiteVLForRetrieval | LiteVLForQuestionAnswering
Result = TypeVar("Result")

FORWARD_AND_BACKWARD = 3  # the backward pass costs two forward ones


@dataclass(frozen=True)
class Assumptions:
    """What an estimate takes for granted; peaks are an A100's, by its data sheet."""

    device_tflops: float = 312.0  # peak in bf16
    fp32_tflops: float = 19.5  # peak in fp32
    utilisation: float = 0.35  # share of the peak that is reached
    text_tokens: int = 32  # word pieces to which a batch of captions or questions is padded
    answer_tokens: int = 4


@dataclass(frozen=True)
class Counts:
    """Operations of single forward passes."""

    clip: int  # the video encoder, once per clip
    read: int  # the clip's keys and values, once per clip however many texts look at them
    text: int  # a caption alone, or a question grounded in its clip and what answers read of it
    pair: int  # the cross-encoder, or one answer to a grounded question
    start: int  # what pre-selects the answers to a question; 0 for retrieval
    parameters: int


def count(model: Model, text_tokens: int, answer_tokens: int, device: torch.device) -> Counts:
    """The operations of one clip, one text of that length and one pair."""
    config = model.config
    size = config.image_size_px
    frames = torch.zeros(1, config.num_frames, 3, size, size, device=device)
    text, answer, start = (longest(num, device) for num in (text_tokens, answer_tokens, 1))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if isinstance(model, LiteVLForRetrieval):
        video, of_clip = counted(lambda: model.encode_video(frames))
        words, of_text = counted(lambda: model.encode_text(text.input_ids, text.attention_mask))
        read, of_pair = shared_and_own(
            lambda row: model.match(video, words.select(row), row), device
        )
        return Counts(of_clip, read, of_text, of_pair, 0, parameters)
    clip, of_clip = counted(lambda: model.encode_video(frames))
    read, of_text = shared_and_own(lambda row: model.ground(clip, text.select(row), row), device)
    asked = model.ground(clip, text)
    read_of_text, of_pair = shared_and_own(
        lambda row: model.answer_losses(asked.seen(row), answer.select(row), 0.0), device
    )
    _, of_start = shared_and_own(
        lambda row: model.next_words(asked.seen(row), start.select(row)), device
    )
    return Counts(of_clip, read, of_text + read_of_text, of_pair, of_start, parameters)


def shared_and_own(step: Callable[[Tensor], object], device: torch.device) -> tuple[int, int]:
    """Operations that texts which see the same share, and those of each; step: from their rows."""
    one, two = (
        counted(partial(step, torch.zeros(num, dtype=torch.long, device=device)))[1]
        for num in (1, 2)
    )
    return 2 * one - two, two - one


def counted(step: Callable[[], Result]) -> tuple[Result, int]:
    """What a step gives, and its operations."""
    with FlopCounterMode(display=False) as counter:
        result = step()
    return result, counter.get_total_flops()


def longest(num_tokens: int, device: torch.device) -> Tokens:
    """A text of that many words, (1, W)."""
    ids: Tensor = torch.zeros(1, num_tokens, dtype=torch.long, device=device)
    return Tokens(ids, torch.ones_like(ids))


def estimates(
    runs: Sequence[PlannedRun], assumed: Assumptions, sizes: LiteVLConfig | None = None
) -> tuple[RunEstimate, ...]:
    """What each variant of a plan costs per run, were it neither a subset nor cut short.

    sizes: those of the weights; None for BLIP's ViT-B/16. The spec's choices replace the others.
    """
    by_variant = {run.resolved.variant: run.resolved for run in runs}
    names = [run.resolved.variant for run in runs]
    return tuple(
        estimate(settings, names.count(name), assumed, sizes or LiteVLConfig())
        for name, settings in by_variant.items()
    )


def estimate(
    settings: Resolved, num_runs: int, assumed: Assumptions, sizes: LiteVLConfig
) -> RunEstimate:
    """What one run costs, both passes over validation and test included."""
    data, cpu = settings.data, torch.device("cpu")
    is_retrieval = task_of(data.dataset) == "retrieval"
    kind = LiteVLForRetrieval if is_retrieval else LiteVLForQuestionAnswering
    most = data.max_tokens, data.max_answer_tokens or 1
    usual = min(assumed.text_tokens, most[0]), min(assumed.answer_tokens, most[1])
    with FakeTensorMode():
        options = model_options(settings)
        options.pop("fresh")  # which parts start at random changes no count
        model = kind(replace(sizes, **options)).eval()
        at_most, one = (count(model, *lengths, cpu) for lengths in (most, usual))
    steps, training = train_flops(settings, one)
    evaluating = sum(
        evaluation_flops(settings, one, split, is_shuffled)
        for split in ("validation", "test")
        for is_shuffled in (False, True)
    )
    peaks = {"bf16": assumed.device_tflops, "fp32": assumed.fp32_tflops}
    seconds = sum(
        flops / (peaks["fp32" if precision == "fp32" else "bf16"] * 1e12 * assumed.utilisation)
        for flops, precision in (
            (training, settings.train.precision),
            (evaluating, settings.evaluate.precision),
        )
    )
    return RunEstimate(
        variant=settings.variant,
        num_runs=num_runs,
        parameters=one.parameters,
        flops_per_clip=one.clip,
        flops_per_pair=at_most.pair + (0 if is_retrieval else at_most.text),
        flops_per_step=training / steps,
        train_flops=training,
        evaluate_flops=evaluating,
        device_hours=seconds / 3600,
    )


def train_flops(settings: Resolved, one: Counts) -> tuple[int, float]:
    """Steps and operations of training, the validation after each epoch included."""
    options, expected = settings.train, settings.data.expected
    if task_of(settings.data.dataset) == "retrieval":
        num_items, num_clips = expected.train_clips, float(expected.train_clips)
        pairs = 1 + 2 * (options.hard_negatives or 1)  # of each clip, at most
        forward = num_clips * (one.clip + one.read + one.text + pairs * one.pair)
        teacher = num_clips * (one.clip + one.text) if options.momentum_encoder else 0.0
        validation = expected.validation_clips * float(one.clip + one.text)
    else:
        num_items = expected.train_questions or 0
        num_clips = clips_encoded(settings, num_items)
        forward = num_clips * (one.clip + one.read) + num_items * (one.text + one.pair)
        teacher, validation = 0.0, evaluation_flops(settings, one, "validation")
    again = num_clips * one.clip if options.recompute else 0.0
    steps = options.epochs * -(-num_items // options.batch_size)
    per_epoch = FORWARD_AND_BACKWARD * forward + again + teacher + validation
    return steps, options.epochs * per_epoch


def clips_encoded(settings: Resolved, num_questions: int) -> float:
    """How many clips an epoch of questions encodes: a clip counts once in each batch that has it.

    Grouped batches hold all questions about a clip; others draw them independently.
    """
    num_clips, size = settings.data.expected.train_clips, settings.train.batch_size
    if settings.train.group_by_source:
        return float(num_clips)
    drawn = num_clips * (1 - (1 - 1 / num_clips) ** size)  # different clips in a batch, expected
    return drawn * num_questions / size


def evaluation_flops(
    settings: Resolved, one: Counts, split: str, is_shuffled: bool = False
) -> float:
    """Operations of scoring a split once, with its frames in order or shuffled.

    Retrieval: a pair is scored once for both directions, so this is the most there can be; over
    shuffled frames only text to video is ranked.
    """
    expected = settings.data.expected.model_dump()
    num_clips, options = expected[f"{split}_clips"], settings.evaluate
    k = options.rerank_k
    if task_of(settings.data.dataset) == "retrieval":
        pairs = min((k if is_shuffled else 2 * k) * num_clips, num_clips**2)
        encoding = num_clips * (one.clip + one.text)
        if options.score == "itc-only":
            return float(encoding)
        return float(encoding + num_clips * one.read + pairs * one.pair)
    num_questions = expected[f"{split}_questions"] or 0
    per_question = one.text + one.start + k * one.pair
    return float(num_clips * (one.clip + one.read) + num_questions * per_question)


def total_hours(found: Sequence[RunEstimate]) -> float:
    """Device-hours of all runs together."""
    return sum(entry.num_runs * entry.device_hours for entry in found)


def told(assumed: Assumptions) -> str:
    """The assumptions as a sentence."""
    return (
        "Estimated for whole runs from BLIP's ViT-B/16, backward twice the forward pass, on a "
        f"device with a peak of {assumed.device_tflops:g} TFLOPS in bf16 and "
        f"{assumed.fp32_tflops:g} in fp32, {100 * assumed.utilisation:g} % of it reached, texts "
        f"padded to {assumed.text_tokens} word pieces and answers to {assumed.answer_tokens}; data "
        "loading is left out"
    )


def lines(found: Sequence[RunEstimate], assumed: Assumptions) -> list[str]:
    """A table for the terminal, the sum below it, and what it takes for granted."""
    width = max(len(entry.variant) for entry in found)
    rows = [
        f"  {entry.variant:{width}} {entry.parameters / 1e6:10.1f}"
        f" {entry.flops_per_clip / 1e9:10.1f} {entry.flops_per_pair / 1e9:10.2f}"
        f" {entry.flops_per_step / 1e12:10.1f}"
        f" {entry.device_hours:12.2f} {entry.num_runs:5}"
        for entry in found
    ]
    head = f"  {'cost':{width}} {'M params':>10} {'GFLOP/clip':>10} {'GFLOP/pair':>10}"
    head += f" {'TFLOP/step':>10} {'device-hours':>12} {'runs':>5}"
    return [head, *rows, f"{total_hours(found):.1f} device-hours in all. {told(assumed)}."]


def as_json(found: Sequence[RunEstimate], assumed: Assumptions) -> dict[str, dict[str, Any]]:
    """Variant -> the same for a program, about one run."""
    shared = {"variant", "num_runs"}
    return {
        entry.variant: entry.model_dump(exclude=shared) | {"assumptions": asdict(assumed)}
        for entry in found
    }
