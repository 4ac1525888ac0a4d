"""LiteVL for text-video retrieval: BLIP's two encoders and its matching head on clips.

Legend: B clips or texts, T frames, N patches, S tokens of a clip that texts see, W words, D vision
width, Dt text width, E embedding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litevl.model.config import LiteVLConfig
from litevl.model.pooling import pooled_tokens, pooling_weights, token_weights
from litevl.model.saved import Saved
from litevl.model.shapes import expect
from litevl.model.text import Source, TextEncoder
from litevl.model.vision import VideoEncoder


@dataclass(frozen=True)
class VideoFeatures:
    """Clips as the model sees them."""

    tokens: Tensor  # (B, S, D), pooled as texts see them before they weigh them; CLS first
    embedding: Tensor  # (B, E), unit length

    def select(self, index: Tensor | slice) -> VideoFeatures:
        """The clips at the given indices, in that order."""
        return VideoFeatures(self.tokens[index], self.embedding[index])


@dataclass(frozen=True)
class TextFeatures:
    """Captions as the model sees them without a clip, and their words for matching."""

    cls: Tensor  # (B, Dt)
    embedding: Tensor  # (B, E), unit length
    input_ids: Tensor  # (B, W)
    attention_mask: Tensor  # (B, W)

    def select(self, index: Tensor) -> TextFeatures:
        """The captions at the given indices, in that order."""
        return TextFeatures(
            self.cls[index],
            self.embedding[index],
            self.input_ids[index],
            self.attention_mask[index],
        )

    def cut(self, num_words: int) -> TextFeatures:
        """The captions without what comes after so many word pieces: padding, if none is longer."""
        ids, mask = self.input_ids[:, :num_words], self.attention_mask[:, :num_words]
        return TextFeatures(self.cls, self.embedding, ids, mask)


def in_full_precision(head: nn.Linear, x: Tensor) -> Tensor:
    """A head's output in its weights' precision, also under autocast.

    x: (..., D). In bf16, matching logits between 4 and 8 lie 1/32 apart: candidates would tie.
    """
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.to(head.weight.dtype), head.weight, head.bias)


def similarities(rows: Tensor, columns: Tensor) -> Tensor:
    """Cosine similarities (Q, G), in float32 also under autocast.

    rows: (Q, E), columns: (G, E), of unit length. Rounded to bf16 they would have 8 bits: ranks
    would tie, and one step divided by a temperature of 0.07 would be up to 0.06.
    """
    with torch.autocast(rows.device.type, enabled=False):
        return rows.float() @ columns.float().T


class LiteVLForRetrieval(
    nn.Module,
    Saved,
    library_name="litevl",  # and no licence: that is the weights', see litevl.card
    tags=["video-text-retrieval", "arxiv:2210.11929"],
):
    """Ranks clips for a text by embeddings, and scores single pairs by a cross-encoder."""

    DROPPED_BY_DESIGN: ClassVar[re.Pattern[str]] = re.compile(r"text_decoder\.")

    def __init__(self, config: LiteVLConfig) -> None:
        super().__init__()
        self.config = config
        self.visual_encoder = VideoEncoder(config)
        self.text_encoder = TextEncoder(config)
        self.vision_proj = nn.Linear(config.vision_width, config.embed_width)
        self.text_proj = nn.Linear(config.text_width, config.embed_width)
        self.itm_head = nn.Linear(config.text_width, 2)
        self.temp = nn.Parameter(torch.tensor(0.07))

    def encode_video(self, frames: Tensor) -> VideoFeatures:
        """frames: (B, T, 3, H, W), normalised as BLIP does.

        The embedding is normalize(mean over frames of vision_proj(CLS)), as in BLIP's evaluation
        on video. Raises ShapeError.
        """
        return self.video_features(self.visual_encoder(frames))

    def video_features(self, tokens: Tensor) -> VideoFeatures:
        """What the rest of the model needs of the encoder's tokens (B, T, 1 + N, D)."""
        return VideoFeatures(pooled_tokens(tokens, self.config.pooling), self._embedding(tokens))

    def embed_video(self, frames: Tensor) -> Tensor:
        """`encode_video(frames).embedding` (B, E), with no more work than that takes."""
        return self._embedding(self.visual_encoder(frames, cls_only=True))

    def _embedding(self, tokens: Tensor) -> Tensor:
        """Of each frame's first token (B, T, 1 + N, D)."""
        embedding = in_full_precision(self.vision_proj, tokens[:, :, 0]).mean(dim=1)  # (B, E)
        return F.normalize(embedding, dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> TextFeatures:
        """input_ids, attention_mask: (B, W), starting with [CLS]. Raises ShapeError."""
        cls = self.text_encoder(input_ids, attention_mask, first_only=True)[:, 0]  # (B, Dt)
        embedding = F.normalize(in_full_precision(self.text_proj, cls), dim=-1)
        return TextFeatures(cls, embedding, input_ids, attention_mask)

    def match(self, video: VideoFeatures, text: TextFeatures, row: Tensor | None = None) -> Tensor:
        """Logits (B, 2) of clip and caption belonging together; index 1 means they do.

        row: (B,), the clip that each caption is compared with; None where caption i is compared
        with clip i. However many captions meet a clip, its keys and values are computed once.
        Raises ShapeError where there is not one caption per clip, or one row per caption.
        """
        known = {} if row is not None else {"B": len(text.cls)}
        expect("video.tokens", video.tokens, "B S D", **known, D=self.config.vision_width)
        if row is not None:
            expect("row", row, "B", B=len(text.cls))
        return self._match(Source(video.tokens), text, row)

    def match_pairs(
        self, video: VideoFeatures, text: TextFeatures, clip: Tensor, caption: Tensor
    ) -> Tensor:
        """`match` of chosen clips with chosen captions, any of them more than once: logits (P, 2).

        clip, caption: (P,), which they are. What belongs to a clip or a caption alone is computed
        once for all of its pairs. Raises ShapeError.
        """
        expect("video.tokens", video.tokens, "B S D", D=self.config.vision_width)
        expect("caption", caption, "P", **expect("clip", clip, "P"))
        clips, row = torch.unique(clip, return_inverse=True)
        captions, which = torch.unique(caption, return_inverse=True)
        return self._match(Source(video.tokens[clips]), text.select(captions), row, which)

    def match_one(self, video: VideoFeatures, text: TextFeatures, at_once: int) -> Tensor:
        """`match` of a single clip with many captions, for evaluation: logits (B, 2).

        Captions of like length go together, `at_once` at a time, without the padding that only
        longer ones need. Raises ShapeError where there is not one clip.
        """
        expect("video.tokens", video.tokens, "1 S D", D=self.config.vision_width)
        clip = Source(video.tokens).keeping()
        lengths = text.attention_mask.sum(dim=1)  # (B,)
        logits = torch.zeros(len(text.cls), 2, device=text.cls.device)
        for some in torch.split(lengths.argsort(stable=True), at_once):
            captions = text.select(some).cut(int(lengths[some[-1]]))
            logits[some] = self._match(clip, captions, torch.zeros_like(some)).to(logits.dtype)
        return logits

    def _match(
        self, clips: Source, text: TextFeatures, row: Tensor | None, which: Tensor | None = None
    ) -> Tensor:
        cls = text.cls if which is None else text.cls[which]
        weights = self._pooling_weights(clips.tokens, cls, row)
        seen = clips.seen(row, token_weights(clips.tokens.shape[1], *weights))
        input_ids = text.input_ids.clone()
        input_ids[:, 0] = self.encode_token_id  # BLIP grounds [ENC] ...; [CLS] is text alone
        hidden = self.text_encoder(
            input_ids, text.attention_mask, seen, first_only=True, text=which
        )
        return in_full_precision(self.itm_head, hidden[:, 0])

    def pooling_weights(
        self, video: VideoFeatures, text: TextFeatures
    ) -> tuple[Tensor | None, Tensor | None]:
        """Text-dependent weights of frames (B, T) and patches (B, N), mean 1; None where unused."""
        width = self.config.vision_width
        expect("video.tokens", video.tokens, "B S D", B=len(text.cls), D=width)
        return self._pooling_weights(video.tokens, text.cls, None)

    def _pooling_weights(
        self, tokens: Tensor, cls: Tensor, row: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        projected = self.config.pooling_space == "projected"
        projections = (self.vision_proj, self.text_proj) if projected else None
        return pooling_weights(tokens, cls, self.config, projections, row)

    @property
    def encode_token_id(self) -> int:
        """Id of [ENC]; BLIP appends [DEC] and [ENC] to BERT's vocabulary, in that order."""
        return self.config.vocab_size - 1
