"""Fine-tuning for text-video retrieval: contrastive and matching loss, and the validation curve.

Legend: B pairs in a batch, T frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from litevl.data.dataset import epoch_batches, normalise
from litevl.engine.clips import ClipSet
from litevl.engine.distributed import ALONE, Group, rows_at_once
from litevl.engine.evaluate import encode_captions, encode_clips, twin_scores
from litevl.engine.features import Features, parts_of
from litevl.engine.precision import computing, sendable
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
    """Clips with one caption each. Of the frames only those of the clips encoded here."""

    frames: Tensor  # uint8 (C, T, S, S, 3), of this process's share of the B clips
    tokens: Tokens
    ids: Tensor  # (B,) index of each clip in its split


@dataclass(frozen=True)
class Pairs:
    """Pairs of a clip and a caption of the batch, for the cross-encoder."""

    video: Tensor  # (P,)
    text: Tensor  # (P,), equal to `video` where the two belong together
    times: Tensor  # (P,), how often the pair was drawn

    def select(self, part: range) -> Pairs:
        """Those of the pairs that stand there."""
        rows = slice(part.start, part.stop)
        return Pairs(self.video[rows], self.text[rows], self.times[rows])


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
        group: Group = ALONE,
    ) -> None:
        self.model = model
        self.settings, self.seed, self.group = settings, seed, group
        self.clips, self.validation_clips = train_clips, validation_clips
        self.device = next(model.parameters()).device
        options = settings.train
        self.at_once = rows_at_once(options.batch_size, options.device_batch_size, group)
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

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the given one on, with random frames and captions.

        Every process draws for the whole batch and loads its own share.
        """
        rng, sampler = np.random.default_rng([self.seed, epoch]), self.settings.frames.train_sampler
        for number, index in enumerate(self._indices(rng)):
            chosen = [self.clips.clips[clip].captions for clip in index]
            captions = [several[int(rng.integers(len(several)))] for several in chosen]
            if number < first:
                self.clips.places(index, sampler, rng)  # the same draws as the run before
                continue
            own = self.group.share(len(index)) or range(1)
            frames = self.clips.pictures(index, sampler, rng, own=own)
            frames = sendable(frames, self.device)
            yield Batch(frames, self.clips.tokens(captions), torch.as_tensor(index))

    def backward(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Add the gradients of this process's share of VTC and VTM; return those shares.

        Over the processes, gradients and losses add up to those of the whole batch. Pairs and hard
        negatives pass the cross-encoder together, each pair once. generator: draws the negatives.
        """
        count, rows = len(batch.ids), self.group.share(len(batch.ids))
        tokens, ids = batch.tokens.to(self.device), batch.ids.to(self.device)
        batch = replace(batch, frames=batch.frames.to(self.device, non_blocking=True))
        encode = partial(self._encode, batch, tokens)
        features = Features(encode, count, self.at_once, self.group, self.device)
        video_tokens, video_embedding, cls, text_embedding = features.whole
        video = VideoFeatures(video_tokens, video_embedding)
        text = TextFeatures(cls, text_embedding, tokens.input_ids, tokens.attention_mask)
        slow = self._slow_embeddings(batch, tokens)
        with self._computing():
            similarity = similarities(video.embedding, text.embedding) / self.model.temp  # (B, B)
            vtc = self._contrastive_loss(similarity, video, text, slow, ids, rows, step)
        vtc.backward()  # type: ignore[no-untyped-call]
        num_negatives = self.settings.train.hard_negatives or 1
        pairs = draw_pairs(similarity.detach(), ids, generator, num_negatives)
        vtm = torch.zeros((), device=self.device)
        at_once = (1 + 2 * num_negatives) * self.at_once
        for part in parts_of(self.group.share(len(pairs.times)), at_once):
            some = pairs.select(part)
            with self._computing():
                loss = pair_loss(self.model, video, text, some)
                loss = loss * (some.times.sum() / pairs.times.sum())
            loss.backward()  # type: ignore[no-untyped-call]
            vtm += loss.detach()
        features.backward()
        if self.teacher is not None and slow is not None:
            self.teacher.enqueue(*slow, ids)
        return {"vtc": vtc.detach(), "vtm": vtm}

    def _encode(self, batch: Batch, tokens: Tokens, rows: range) -> tuple[Tensor, ...]:
        """Features of some rows of the batch; of its frames, those of this process come first."""
        frames, words = self._rows_of(batch, tokens, rows)
        with self._computing():
            video = self.model.encode_video(frames)
            text = self.model.encode_text(words.input_ids, words.attention_mask)
        return video.tokens, video.embedding, text.cls, text.embedding

    def _rows_of(self, batch: Batch, tokens: Tokens, rows: range) -> tuple[Tensor, Tokens]:
        first = (self.group.share(len(batch.ids)) or range(1)).start
        frames = normalise(batch.frames[rows.start - first : rows.stop - first])
        return frames, tokens.select(torch.arange(rows.start, rows.stop, device=self.device))

    @torch.no_grad()
    def _slow_embeddings(self, batch: Batch, tokens: Tokens) -> tuple[Tensor, Tensor] | None:
        """The teacher's embeddings of the whole batch, where there is a teacher."""
        if self.teacher is None:
            return None

        def encode(rows: range) -> tuple[Tensor, Tensor]:
            assert self.teacher is not None
            with self._computing():
                return self.teacher.encode(*self._rows_of(batch, tokens, rows))

        features = Features(encode, len(batch.ids), self.at_once, self.group, self.device)
        video, text = features.whole
        return video.detach(), text.detach()

    def _contrastive_loss(
        self,
        similarity: Tensor,
        video: VideoFeatures,
        text: TextFeatures,
        slow: tuple[Tensor, Tensor] | None,
        ids: Tensor,
        rows: range,
        step: int,
    ) -> Tensor:
        """VTC of this process's rows, as their share of the batch's mean: ()."""
        if not rows:
            return similarity.sum() * 0.0
        if self.teacher is None or slow is None:
            own, targets = slice(rows.start, rows.stop), positive_targets(ids, ids)
            loss = contrastive_loss(similarity[own], similarity.T[own], targets[own], targets[own])
        else:
            loss = self.teacher.contrastive_loss(
                video.embedding, text.embedding, slow, ids, rows, self.model.temp, self.alpha(step)
            )
        return loss * (len(rows) / len(ids))

    def _computing(self) -> AbstractContextManager[object]:
        return computing(self.settings.train.precision, self.device)

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
            video = encode_clips(
                self.model, clips, settings.frames.eval_sampler, size, rng, group=self.group
            )
            text = encode_captions(self.model, clips)
            right, twin = twin_scores(
                self.model, video, text, clips, options.score, size, self.group
            )
        self.model.train()
        itc = similarities(text.embedding, video.embedding).cpu().numpy()
        point = {self.best_by: recall_at(1, ranks(itc, np.arange(len(clips))))}
        if len(right):
            point["order_accuracy"] = 100 * float(order_right(right, twin).mean())
        return point


def draw_pairs(
    similarity: Tensor, ids: Tensor, generator: torch.Generator, num_negatives: int = 1
) -> Pairs:
    """The pairs, and so many hard captions for each clip and hard clips for each caption.

    similarity: (B, B), clips by captions, divided by temperature. ids: (B,). A clip and a caption
    that are each other's hard negative are one pair, drawn twice.
    """
    own = torch.arange(len(ids), device=ids.device)
    captions = hard_negatives(similarity, ids, generator, num_negatives)  # (B, K), for each clip
    clips = hard_negatives(similarity.T, ids, generator, num_negatives)  # (B, K), for each caption
    again = own.repeat_interleave(captions.shape[1])
    text = torch.cat([own, captions.flatten(), again])
    video = torch.cat([own, again, clips.flatten()])
    is_valid = (torch.arange(len(text), device=ids.device) < len(ids)) | (ids[video] != ids[text])
    drawn = torch.stack([video, text])[:, is_valid]  # a clip without negatives drew itself
    (video, text), times = torch.unique(drawn, dim=1, return_counts=True)
    return Pairs(video, text, times)


def pair_loss(
    model: LiteVLForRetrieval, video: VideoFeatures, text: TextFeatures, pairs: Pairs
) -> Tensor:
    """VTM, the mean over all that were drawn: ()."""
    logits = model.match_pairs(video, text, pairs.video, pairs.text)  # (P, 2)
    return matching_loss(logits, (pairs.video == pairs.text).long(), pairs.times)
