"""BLIP's text side: a BERT whose layers can also attend to a clip, and its language-model twin.

Legend: B texts, W words, S source tokens, D text width, Dv source width, H heads, V vocabulary.

Parameter names are those of BLIP's checkpoints. Padding is masked everywhere, in self- and in
cross-attention (transformers' BLIP has ignored the cross-attention mask since 4.54).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litevl.errors import ShapeError
from litevl.model.config import LiteVLConfig
from litevl.model.shapes import expect


class AttentionHeads(nn.Module):
    """Query, key and value projections and the attention itself."""

    def __init__(self, width: int, source_width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout  # of the attention weights
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """What each word gathers from the source: (B, W, D).

        x: (B, W, D). source: (B, S, D or Dv). mask: True where the source may be seen, of a shape
        that broadcasts to (B, H, W, S); None where all of it may.
        """
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, W or S, D/H)
            for part in (self.query(x), self.key(source), self.value(source))
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        return mixed.transpose(1, 2).flatten(2)  # (B, W, D)


class AddAndNorm(nn.Module):
    """A linear layer and dropout, added to the stream, then LayerNorm."""

    def __init__(self, in_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, stream: Tensor) -> Tensor:
        """x: (B, W, in). stream: (B, W, D). Returns (B, W, D)."""
        out: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + stream)
        return out


class AttentionLayer(nn.Module):
    """Attention with its residual."""

    def __init__(self, config: LiteVLConfig, source_width: int) -> None:
        super().__init__()
        width = config.text_width
        self.self = AttentionHeads(width, source_width, config.text_heads, config.dropout)
        self.output = AddAndNorm(width, width, config.dropout)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Shapes as in AttentionHeads."""
        out: Tensor = self.output(self.self(x, source, mask), x)
        return out


class Intermediate(nn.Module):
    """The first half of the MLP."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, W, D). Returns (B, W, hidden)."""
        return F.gelu(self.dense(x))


class TextLayer(nn.Module):
    """Self-attention, cross-attention where there is a clip, MLP."""

    def __init__(self, config: LiteVLConfig, source_width: int) -> None:
        super().__init__()
        self.attention = AttentionLayer(config, config.text_width)
        self.crossattention = AttentionLayer(config, source_width)
        self.intermediate = Intermediate(config.text_width, config.text_mlp_width)
        self.output = AddAndNorm(config.text_mlp_width, config.text_width, config.dropout)

    def forward(
        self, x: Tensor, mask: Tensor, source: Tensor | None, source_mask: Tensor | None
    ) -> Tensor:
        """x: (B, W, D). source: (B, S, Dv) or None for the text alone. Returns (B, W, D)."""
        x = self.attention(x, x, mask)
        if source is not None:
            x = self.crossattention(x, source, source_mask)
        out: Tensor = self.output(self.intermediate(x), x)
        return out


class Embeddings(nn.Module):
    """Word and position embeddings; BLIP has no token types."""

    def __init__(self, config: LiteVLConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.text_width)
        self.position_embeddings = nn.Embedding(config.max_positions, config.text_width)
        self.LayerNorm = nn.LayerNorm(config.text_width, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor) -> Tensor:
        """input_ids: (B, W). Returns (B, W, D)."""
        places = self.position_embeddings.weight[: input_ids.shape[1]]
        out: Tensor = self.dropout(self.LayerNorm(self.word_embeddings(input_ids) + places))
        return out


class Layers(nn.Module):
    """The stack, under the name that BLIP's checkpoints give it."""

    def __init__(self, config: LiteVLConfig, source_width: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            TextLayer(config, source_width) for _ in range(config.text_depth)
        )


class TextEncoder(nn.Module):
    """BERT, alone or grounded in a source: bidirectional, or causal when it serves the decoder.

    source_width: of the tokens that cross-attention looks at; None for a clip's.
    """

    def __init__(self, config: LiteVLConfig, source_width: int | None = None) -> None:
        super().__init__()
        self.source_width = source_width or config.vision_width
        self.embeddings = Embeddings(config)
        self.encoder = Layers(config, self.source_width)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """The last layer's words (B, W, D).

        input_ids: (B, W). attention_mask: (B, W), 1 for a word, 0 for padding. source: (B, S, Dv)
        to attend to, source_mask: (B, S), 1 where it may be seen. Raises ShapeError.
        """
        sizes = expect("input_ids", input_ids, "B W")
        expect("attention_mask", attention_mask, "B W", **sizes)
        if source is not None:
            sizes = expect("source", source, "B S Dv", **sizes, Dv=self.source_width)
        if source_mask is not None:
            expect("source_mask", source_mask, "B S", **sizes)
        words, places = sizes["W"], self.embeddings.position_embeddings.num_embeddings
        if words > places:
            raise ShapeError(
                f"input_ids should be (B W) with W <= {places}, got {tuple(input_ids.shape)}"
            )
        mask = attention_mask.bool()[:, None, None, :]  # (B, 1, 1, W)
        if is_causal:
            mask = mask & torch.ones(words, words, dtype=torch.bool, device=mask.device).tril()
        if source_mask is not None:
            source_mask = source_mask.bool()[:, None, None, :]  # (B, 1, 1, S)
        x: Tensor = self.embeddings(input_ids)
        for layer in self.encoder.layer:
            x = layer(x, mask, source, source_mask)
        return x


class Transform(nn.Module):
    """The step between the last layer and the vocabulary."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, W, D). Returns (B, W, D)."""
        out: Tensor = self.LayerNorm(F.gelu(self.dense(x)))
        return out


class Predictions(nn.Module):
    """Logits over the vocabulary; the word matrix is the embedding's."""

    def __init__(self, config: LiteVLConfig) -> None:
        super().__init__()
        self.transform = Transform(config.text_width)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))


class LanguageHead(nn.Module):
    """Holds the predictions under the name that BLIP's checkpoints give them."""

    def __init__(self, config: LiteVLConfig) -> None:
        super().__init__()
        self.predictions = Predictions(config)


class TextDecoder(nn.Module):
    """BLIP's decoder: the text layers with a causal mask, and next-word logits.

    source_width: as for TextEncoder. In pre-training BLIP's decoder looks at a picture's tokens, in
    question answering at a question's words; for ViT-L these have different widths.
    """

    def __init__(self, config: LiteVLConfig, source_width: int | None = None) -> None:
        super().__init__()
        self.bert = TextEncoder(config, source_width)
        self.cls = LanguageHead(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        source: Tensor,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        """Next-word logits (B, W, V).

        input_ids: (B, W), starting with [DEC]. source: (B, S, Dv), source_mask: (B, S).
        """
        x = self.bert(input_ids, attention_mask, source, source_mask, is_causal=True)
        head = self.cls.predictions
        return F.linear(head.transform(x), self.bert.embeddings.word_embeddings.weight, head.bias)
