"""BLIP's momentum encoder and queue: slow copies of the encoders that supply more negatives.

Legend: B pairs in the batch, K queue entries, E embedding width.

Sources: BLIP's retrieval fine-tuning (momentum 0.995, queue 57,600, alpha 0.4), see DESIGN
section 2. Students compare themselves with the slow copies' features of the batch and the queue.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litevl.errors import SpecError
from litevl.model.litevl import LiteVLForRetrieval, similarities
from litevl.model.losses import contrastive_loss, positive_targets
from litevl.model.tokenizer import Tokens

NO_CLIP = -1  # marks queue places that nothing has been written to


class MomentumTeacher(nn.Module):
    """The slow copies and their queue of embeddings."""

    queue_video: Tensor  # (K, E)
    queue_text: Tensor  # (K, E)
    queue_ids: Tensor  # (K,)
    place: Tensor  # ()

    def __init__(self, model: LiteVLForRetrieval, queue_size: int, momentum: float) -> None:
        super().__init__()
        self.slow = copy.deepcopy(model).requires_grad_(False).eval()
        self.momentum = momentum
        width = model.config.embed_width
        self.register_buffer("queue_video", torch.zeros(queue_size, width))
        self.register_buffer("queue_text", torch.zeros(queue_size, width))
        self.register_buffer("queue_ids", torch.full((queue_size,), NO_CLIP))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def follow(self, model: LiteVLForRetrieval) -> None:
        """Move the slow copies towards the model: slow = m * slow + (1 - m) * fast."""
        for slow, fast in zip(self.slow.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast.detach(), 1 - self.momentum)

    @torch.no_grad()
    def encode(self, frames: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """The slow copies' embeddings of clips and captions, (B, E) each.

        frames: (B, T, 3, H, W).
        """
        video = self.slow.embed_video(frames)
        text = self.slow.encode_text(tokens.input_ids, tokens.attention_mask).embedding
        return video, text

    def contrastive_loss(
        self,
        video: Tensor,
        text: Tensor,
        slow: tuple[Tensor, Tensor],
        ids: Tensor,
        rows: range,
        temperature: Tensor,
        alpha: float,
    ) -> Tensor:
        """VTC of some rows against slow features of the batch and the queue.

        video, text: (B, E), the students' embeddings. slow: those of `encode`. ids: (B,) clip of
        each pair. rows: of the batch, whose mean is returned. alpha: weight of the slow copies' own
        similarities in the targets, 0 to 1. Returns ().
        """
        slow_video, slow_text = slow
        own = slice(rows.start, rows.stop)
        with torch.no_grad():
            filled = self.queue_ids != NO_CLIP
            all_video = torch.cat([slow_video.float(), self.queue_video[filled]])  # (B + K, E)
            all_text = torch.cat([slow_text.float(), self.queue_text[filled]])
            hard = positive_targets(ids[own], torch.cat([ids, self.queue_ids[filled]]))
            targets_v2t, targets_t2v = (
                alpha * F.softmax(similarities(some[own], others) / temperature, dim=1)
                + (1 - alpha) * hard
                for some, others in ((slow_video, all_text), (slow_text, all_video))
            )
        v2t = similarities(video[own], all_text) / temperature
        t2v = similarities(text[own], all_video) / temperature
        return contrastive_loss(v2t, t2v, targets_v2t, targets_t2v)

    @torch.no_grad()
    def enqueue(self, video: Tensor, text: Tensor, ids: Tensor) -> None:
        """Write a batch over the oldest entries. video, text: (B, E); ids: (B,)."""
        size = len(self.queue_ids)
        if not size:
            return
        if len(ids) > size:
            raise SpecError(f"train.queue_size: {size} is smaller than the batch ({len(ids)})")
        places = (self.place + torch.arange(len(ids), device=ids.device)) % size
        self.queue_video[places] = video.to(self.queue_video.dtype)
        self.queue_text[places] = text.to(self.queue_text.dtype)
        self.queue_ids[places] = ids
        self.place.copy_((self.place + len(ids)) % size)
