"""Pre-trains mini-BLIP on still images of the mini world, with BLIP's own three objectives.

`python -m litevl.engine.pretrain` draws the stills, trains, writes the weights in the key layout
of BLIP's checkpoints with their record, and says how far they are from the shipped ones.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

# from litevl.data.dataset import normalise
from litevl.data.stills import draw_stills, vocabulary
from litevl.model.config import LiteVLConfig
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.losses import contrastive_loss, hard_negatives, matching_loss, positive_targets
from litevl.model.text import TextDecoder
from litevl.model.tokenizer import Tokenizer, Tokens
from litevl.model.weights import MINI_BLIP, load_blip, save_blip


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 2022
    num_stills: int = 48_000
    num_validation_stills: int = 1_000
    image_size_px: int = 64
    patch_size_px: int = 16
    vision_width: int = 128
    vision_depth: int = 4
    text_depth: int = 3
    heads: int = 4
    embed_width: int = 64
    epochs: int = 8
    batch_size: int = 96
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup_fraction: float = 0.05
    max_tokens: int = 32


class MiniBlip(nn.Module):
    """BLIP in pre-training: encoder and decoder share all but self-attention."""

    def __init__(self, config: LiteVLConfig) -> None:
        super().__init__()
        self.retrieval = LiteVLForRetrieval(config)
        self.text_decoder = TextDecoder(config)
        encoder, decoder = self.retrieval.text_encoder, self.text_decoder.bert
        decoder.embeddings = encoder.embeddings
        for ours, theirs in zip(decoder.encoder.layer, encoder.encoder.layer, strict=True):
            ours.crossattention = theirs.crossattention
            ours.intermediate = theirs.intermediate
            ours.output = theirs.output

    def losses(
        self, images: Tensor, tokens: Tokens, ids: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """ITC, ITM and LM. images: (B, 1, 3, H, W); ids: (B,), equal for equal captions."""
        model = self.retrieval
        video = model.encode_video(images)
        text = model.encode_text(tokens.input_ids, tokens.attention_mask)
        similarity = video.embedding @ text.embedding.T / model.temp
        targets = positive_targets(ids, ids)
        itc = contrastive_loss(similarity, similarity.T, targets, targets)
        itm = self.matching(video, text, similarity.detach(), ids, generator)
        source = video.tokens.flatten(1, 2)
        return itc, itm, self.language_loss(source, tokens)

    def matching(self, video, text, similarity, ids, generator) -> Tensor:  # type: ignore[no-untyped-def]
        """ITM over the pairs, one hard text for each image and one hard image for each text."""
        own = torch.arange(len(ids))
        other_text = hard_negatives(similarity, ids, generator)
        other_video = hard_negatives(similarity.T, ids, generator)
        logits = self.retrieval.match(
            video.select(torch.cat([own, own, other_video])),
            text.select(torch.cat([own, other_text, own])),
        )
        labels = torch.zeros(len(logits), dtype=torch.long)
        labels[: len(own)] = 1
        return matching_loss(logits, labels, torch.ones(len(logits), dtype=torch.bool))

    def language_loss(self, source: Tensor, tokens: Tokens) -> Tensor:
        """Mean negative log-likelihood of the next word, with label smoothing 0.1 as in BLIP."""
        ids = tokens.input_ids.clone()
        ids[:, 0] = self.retrieval.config.vocab_size - 2  # [DEC]
        logits = self.text_decoder(ids, tokens.attention_mask, source)[:, :-1]
        wanted = ids[:, 1:].masked_fill(tokens.attention_mask[:, 1:] == 0, -100)
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), label_smoothing=0.1)
