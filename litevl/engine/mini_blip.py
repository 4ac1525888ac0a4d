"""mini-BLIP as it is pre-trained: a small BLIP whose encoder and decoder share their weights.

What it is made of and where its weights start; `litevl.engine.pretrain` trains it.

Legend: B images with one caption each, W words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litevl.engine.retrieval import draw_pairs, pair_loss
from litevl.model.config import LiteVLConfig
from litevl.model.litevl import LiteVLForRetrieval, VideoFeatures, similarities
from litevl.model.losses import contrastive_loss, positive_targets
from litevl.model.question_answering import LiteVLForQuestionAnswering
from litevl.model.text import Source, TextDecoder
from litevl.model.tokenizer import Tokens

UNSEEN_WORD_STD = 0.09  # that of the words the stills do use, after training


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 2022
    num_stills: int = 40_000
    num_validation_stills: int = 1_000
    image_size_px: int = 64
    patch_size_px: int = 16
    width: int = 128
    vision_depth: int = 4
    text_depth: int = 3
    heads: int = 4
    embed_width: int = 64
    epochs: int = 12
    batch_size: int = 96
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup_fraction: float = 0.05
    max_tokens: int = 32
    answer_epochs: int = 4
    answer_learning_rate: float = 5e-4


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
        video = self.retrieval.encode_video(images)
        itc, itm = self.contrast(video, tokens, ids, generator)
        return itc, itm, self.language_loss(video.tokens, tokens)

    def contrast(
        self, video: VideoFeatures, tokens: Tokens, ids: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """ITC and ITM. video: B stills, as encoded."""
        model = self.retrieval
        text = model.encode_text(tokens.input_ids, tokens.attention_mask)
        similarity = similarities(video.embedding, text.embedding) / model.temp
        targets = positive_targets(ids, ids)
        itc = contrastive_loss(similarity, similarity.T, targets, targets)
        return itc, pair_loss(model, video, text, draw_pairs(similarity.detach(), ids, generator))

    def answering(self) -> LiteVLForQuestionAnswering:
        """Question answering over the very same weights."""
        model = LiteVLForQuestionAnswering(self.retrieval.config)
        model.visual_encoder = self.retrieval.visual_encoder
        model.text_encoder = self.retrieval.text_encoder
        model.text_decoder = self.text_decoder
        return model.train(self.training)

    def language_loss(self, source: Tensor, tokens: Tokens) -> Tensor:
        """Mean negative log-likelihood of the next word, with label smoothing 0.1 as in BLIP."""
        ids = tokens.input_ids.clone()
        ids[:, 0] = self.retrieval.config.vocab_size - 2  # [DEC]
        logits = self.text_decoder(ids, tokens.attention_mask, Source(source))[:, :-1]
        wanted = ids[:, 1:].masked_fill(tokens.attention_mask[:, 1:] == 0, -100)
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), label_smoothing=0.1)


def mini_config(recipe: Recipe, vocab_size: int) -> LiteVLConfig:
    """Mini-BLIP's sizes; a still is a clip of one frame, without anything temporal."""
    return LiteVLConfig(
        image_size_px=recipe.image_size_px,
        patch_size_px=recipe.patch_size_px,
        vision_width=recipe.width,
        vision_depth=recipe.vision_depth,
        vision_heads=recipe.heads,
        vocab_size=vocab_size,
        text_width=recipe.width,
        text_depth=recipe.text_depth,
        text_heads=recipe.heads,
        text_mlp_width=4 * recipe.width,
        max_positions=64,
        embed_width=recipe.embed_width,
        dropout=0.0,
        num_frames=1,
        temporal_attention=False,
        time_embedding="none",
        scaling="none",
        pooling="concat",
    )


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew: linear layers by their fan-in, embeddings small, biases zero."""
    for name, parameter in model.named_parameters():
        if name.endswith(("pos_embed", "cls_token")):
            parameter.normal_(std=0.2, generator=generator)
        elif "embeddings.weight" in name:
            parameter.normal_(std=0.05, generator=generator)
        elif parameter.ndim > 1:
            fan_in = parameter[0].numel()
            parameter.normal_(std=0.8 * fan_in**-0.5, generator=generator)
        elif name.endswith("bias"):
            parameter.zero_()


@torch.no_grad()
def redraw_unseen_words(words: Tensor, used: Tensor, generator: torch.Generator) -> None:
    """Give words that were never used embeddings as far apart as those of the others.

    The decoder's softmax pushes all words that never come into one direction (cosine 0.99 between
    any two): fine-tuning could then hardly tell "grows" from "shrinks". BERT's words, which BLIP
    starts from, are all distinct. words: (V, D), changed in place.
    used: ids, any number of them.
    """
    is_unseen = torch.ones(len(words), dtype=torch.bool)
    is_unseen[used] = False
    is_unseen[:5] = is_unseen[-2:] = False  # [PAD] to [MASK]; [DEC] and [ENC]
    words[is_unseen] = UNSEEN_WORD_STD * torch.randn(
        int(is_unseen.sum()), words.shape[1], generator=generator
    )


def blip_layout(model: MiniBlip) -> dict[str, Tensor]:
    """The weights under the names of BLIP's pre-training checkpoints."""
    retrieval = model.retrieval.state_dict()
    decoder = {
        f"text_decoder.{key}": value for key, value in model.text_decoder.state_dict().items()
    }
    head = "text_decoder.cls.predictions"
    tied = {
        f"{head}.decoder.weight": decoder["text_decoder.bert.embeddings.word_embeddings.weight"],
        f"{head}.decoder.bias": decoder[f"{head}.bias"],
    }
    return retrieval | decoder | tied
