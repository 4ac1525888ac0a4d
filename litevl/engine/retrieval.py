"""Fine-tuning for text-video retrieval: contrastive and matching loss, and the validation curve.

Legend: B pairs in a batch, T frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from litevl.data.dataset import epoch_batches
from litevl.engine.clips import ClipSet
from litevl.engine.evaluate import encode_captions, encode_clips, twin_scores
from litevl.engine.precision import computing
from litevl.metrics import order_right, ranks, recall_at
from litevl.model.litevl import LiteVLForRetrieval, TextFeatures, VideoFeatures, similarities
from litevl.model.losses import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    contrastive_loss,
    hard_negatives,
    matching_loss,
    positive_targets,
)
from litevl.model.momentum import MomentumTeacher
from litevl.model.tokenizer import Tokens
from litevl.spec import Resolved


@dataclass(frozen=True)
class Batch:
    """Clips with one caption each."""

    frames: Tensor  # (B, T, 3, S, S)
    tokens: Tokens
    ids: Tensor  # (B,) index of each clip in its split


class RetrievalObjective:
    """What `train` needs to know of retrieval; see `litevl.engine.train.Objective`."""

    best_by: ClassVar[str] = "t2v-itc/R@1"

    def __init__(
        self,
        model: LiteVLForRetrieval,
        settings: Resolved,
        train_clips: ClipSet,
        validation_clips: ClipSet,
        seed: int,
    ) -> None:
        self.model = model
        self.settings, self.seed = settings, seed
        self.clips, self.validation_clips = train_clips, validation_clips
        self.device = next(model.parameters()).device
        options = settings.train
        self.teacher: MomentumTeacher | None = None
        if options.momentum_encoder:
            teacher = MomentumTeacher(model, options.queue_size, options.momentum)
            self.teacher = teacher.to(self.device)

    def parts(self) -> dict[str, nn.Module]:
        """What a checkpoint holds besides the optimizer."""
        return {"model": self.model} | ({"teacher": self.teacher} if self.teacher else {})

    def num_batches(self, epoch: int) -> int:
        """Steps of an epoch."""
        return len(self._indices(np.random.default_rng([self.seed, epoch])))

    def _indices(self, rng: np.random.Generator) -> list[np.ndarray]:
        options, sources = self.settings.train, [clip.source for clip in self.clips.clips]
        return epoch_batches(sources, options.batch_size, options.group_by_source, rng)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, with random frames and one random caption per clip."""
        rng = np.random.default_rng([self.seed, epoch])
        for index in self._indices(rng):
            chosen = [self.clips.clips[clip].captions for clip in index]
            captions = [several[int(rng.integers(len(several)))] for several in chosen]
            frames = self.clips.frames(index, self.settings.frames.train_sampler, rng)
            yield Batch(frames, self.clips.tokens(captions), torch.as_tensor(index))

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """VTC and VTM of one batch; generator: draws the negatives."""
        return losses(self.model, self.teacher, batch, generator, self.alpha(step), self.device)

    def alpha(self, step: int) -> float:
        """Weight of the soft targets: from 0 to its value over the first epoch, as in BLIP."""
        options = self.settings.train
        steps_per_epoch = max(1, len(self.clips) // options.batch_size)
        return options.distillation_alpha * min(1.0, step / steps_per_epoch)

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the temperature in BLIP's range; the teacher follows."""
        self.model.temp.clamp_(MIN_TEMPERATURE, MAX_TEMPERATURE)
        if self.teacher is not None:
            self.teacher.follow(self.model)

    def names(self, batch: Batch) -> list[str]:
        """The clips of a batch, for messages."""
        return [self.clips.clips[int(clip)].id for clip in batch.ids]

    def validate(self) -> dict[str, float]:
        """Dual-encoder R@1 and order accuracy in percent; empty without validation clips."""
        clips, settings = self.validation_clips, self.settings
        if not len(clips):
            return {}
        options, rng = settings.evaluate, np.random.default_rng(self.seed)
        assert options.score is not None  # the spec's check for retrieval
        self.model.eval()
        with computing(settings.train.precision, self.device):
            size = options.batch_size
            video = encode_clips(self.model, clips, settings.frames.eval_sampler, size, rng)
            text = encode_captions(self.model, clips)
            right, twin = twin_scores(self.model, video, text, clips, options.score, size)
        self.model.train()
        itc = similarities(text.embedding, video.embedding).cpu().numpy()
        point = {self.best_by: recall_at(1, ranks(itc, np.arange(len(clips))))}
        if len(right):
            point["order_accuracy"] = 100 * float(order_right(right, twin).mean())
        return point


def losses(
    model: LiteVLForRetrieval,
    teacher: MomentumTeacher | None,
    batch: Batch,
    generator: torch.Generator,
    alpha: float,
    device: torch.device,
) -> dict[str, Tensor]:
    """VTC and VTM of one batch; pairs and hard negatives pass the cross-encoder together.

    generator: draws the negatives. alpha: weight of the teacher's soft targets.
    """
    frames, tokens, ids = batch.frames.to(device), batch.tokens.to(device), batch.ids.to(device)
    video = model.encode_video(frames)
    text = model.encode_text(tokens.input_ids, tokens.attention_mask)
    similarity = similarities(video.embedding, text.embedding) / model.temp  # (B, B)
    if teacher is None:
        targets = positive_targets(ids, ids)
        vtc = contrastive_loss(similarity, similarity.T, targets, targets)
    else:
        vtc = teacher.contrastive_loss(video, text, frames, tokens, ids, model.temp, alpha)
    vtm = pair_loss(model, video, text, similarity.detach(), ids, generator)
    return {"vtc": vtc, "vtm": vtm}


def pair_loss(
    model: LiteVLForRetrieval,
    video: VideoFeatures,
    text: TextFeatures,
    similarity: Tensor,
    ids: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """VTM over the pairs, one hard caption for each clip and one hard clip for each caption.

    similarity: (B, B), clips by captions, divided by temperature. ids: (B,). Returns ().
    """
    own = torch.arange(len(ids), device=ids.device)
    text_of_pair = torch.cat([own, hard_negatives(similarity, ids, generator), own])
    video_of_pair = torch.cat([own, own, hard_negatives(similarity.T, ids, generator)])
    logits = model.match(video.select(video_of_pair), text.select(text_of_pair))  # (3B, 2)
    is_positive = torch.arange(len(logits), device=ids.device) < len(ids)
    is_valid = is_positive | (ids[video_of_pair] != ids[text_of_pair])
    return matching_loss(logits, is_positive.long(), is_valid)
