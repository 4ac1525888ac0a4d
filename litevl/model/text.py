"""BLIP's text side: a BERT whose layers can also attend to a clip, and its language-model twin.

Legend: B texts, W words, C source rows, S source tokens, D text width, Dv source width, H heads,
V vocabulary.

Parameter names are those of BLIP's checkpoints. Padding is masked everywhere, in self- and in
cross-attention (transformers' BLIP has ignored the cross-attention mask since 4.54).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litevl.errors import ShapeError
from litevl.model.attention import attend
from litevl.model.config import LiteVLConfig
from litevl.model.shapes import expect


@dataclass(frozen=True)
class Source:
    """What texts attend to besides themselves: a clip's tokens, or a question's words.

    Keys and values are projected once for each of its rows, however many texts attend to it, and
    where texts weigh the tokens, too: a layer's key of a token that weighs w is w (W x) + b.
    """

    tokens: Tensor  # (C, S, Dv)
    mask: Tensor | None = None  # (C, S), 1 where it may be seen; None where all of it may
    row: Tensor | None = None  # (B,), the row that each text sees; None where text i sees row i
    weights: Tensor | None = None  # (B, S), how much each text makes of each token; None for 1
    kept: dict[nn.Module, tuple[Tensor, Tensor]] | None = None  # see `keeping`

    def keeping(self) -> Source:
        """The same, to be seen more than once: remembers each layer's keys and values."""
        return replace(self, kept={})

    @property
    def num_texts(self) -> int:
        """How many texts see it."""
        return len(self.tokens if self.row is None else self.row)

    def seen(self, row: Tensor | None, weights: Tensor | None = None) -> Source:
        """The same, as some texts see it."""
        return replace(self, row=row, weights=weights)

    def projected(self, heads: CrossAttentionHeads) -> tuple[Tensor, Tensor]:
        """A layer's keys and values without their biases, (C, H, S, D/H) each."""
        if self.kept is None:
            return heads.project(self.tokens)
        if heads not in self.kept:
            self.kept[heads] = heads.project(self.tokens)
        return self.kept[heads]


class AttentionHeads(nn.Module):
    """The projections of an attention."""

    def __init__(self, width: int, source_width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout  # of the attention weights
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)

    def split(self, x: Tensor) -> Tensor:
        """One part for each head: (B, W, D) to (B, H, W, D/H)."""
        batch, words, width = x.shape
        return x.view(batch, words, self.num_heads, width // self.num_heads).transpose(1, 2)

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """What each word gathers: (B, W, D). All others (B, H, W or S, D/H)."""
        dropout = self.dropout if self.training else 0.0
        mixed = attend(query, key, value, mask, dropout)
        return mixed.transpose(1, 2).flatten(2)


class SelfAttentionHeads(AttentionHeads):
    """Words that attend to the words of their own text."""

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """What words gather from all of their text: (B, W, D), or (B, 1, D) for the first alone.

        x: (B, W or 1, D), who gathers. words: (B, W, D). mask: True where a word may be seen, of a
        shape that broadcasts to (B, H, W, W).
        """
        query, key, value = self.query(x), self.key(words), self.value(words)
        return self.mix(self.split(query), self.split(key), self.split(value), mask)


class CrossAttentionHeads(AttentionHeads):
    """Words that attend to a source."""

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values without their biases. tokens: (C, S, Dv). Returns 2 x (C, H, S, D/H)."""
        key, value = F.linear(tokens, self.key.weight), F.linear(tokens, self.value.weight)
        return self.split(key), self.split(value)

    def forward(self, x: Tensor, source: Source) -> Tensor:
        """What each word gathers from the source. x: (B, W, D). Returns (B, W, D)."""
        query = self.split(self.query(x))  # (B, H, W, D/H)
        key, value = source.projected(self)
        if len(source.tokens) == 1 and source.mask is None and not torch.is_grad_enabled():
            return self._mix_one(query, key[0], value[0], source.weights)
        row, mask = source.row, source.mask
        if row is not None:
            key, value = key[row], value[row]
            mask = None if mask is None else mask[row]
        key = self._weighted(key, self.key.bias, source.weights)
        value = self._weighted(value, self.value.bias, source.weights)
        return self.mix(query, key, value, None if mask is None else mask.bool()[:, None, None, :])

    def _weighted(self, part: Tensor, bias: Tensor, weights: Tensor | None) -> Tensor:
        """Keys or values of weighted tokens, with their bias: (B, H, S, D/H)."""
        bias = bias.to(part.dtype).view(self.num_heads, 1, -1)
        if weights is None:
            return part + bias
        return torch.addcmul(bias, part, weights[:, None, :, None].to(part.dtype))

    def _mix_one(self, query: Tensor, key: Tensor, value: Tensor, weights: Tensor | None) -> Tensor:
        """The same for texts that all see one row: their words stand in one product per head.

        The key's bias adds the same to all logits of a word, which softmax does not see; what is
        gathered of the value's is all of it, as the shares of a word add up to 1.

        query: (B, H, W, D/H). key, value: (H, S, D/H). weights: (B, S). Returns (B, W, D).
        """
        texts, heads, words, _ = query.shape
        asked = query.transpose(0, 1).flatten(1, 2)  # (H, B * W, D/H)
        logits = asked @ (key * key.shape[-1] ** -0.5).transpose(1, 2)  # (H, B * W, S)
        if weights is None:
            gathered = logits.softmax(dim=-1) @ value
        else:
            shape = heads, texts, words, -1
            factor = weights[:, None].to(logits.dtype)  # (B, 1, S)
            share = logits.view(shape).mul_(factor).softmax(dim=-1).mul_(factor)
            gathered = share.flatten(1, 2).to(value.dtype) @ value  # (H, B * W, D/H)
        mixed = gathered.view(heads, texts, words, -1).permute(1, 2, 0, 3).flatten(2)
        out: Tensor = mixed + self.value.bias.to(mixed.dtype)
        return out


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

    def __init__(self, config: LiteVLConfig, heads: AttentionHeads) -> None:
        super().__init__()
        self.self = heads
        self.output = AddAndNorm(config.text_width, config.text_width, config.dropout)

    def forward(self, x: Tensor, *seen: Tensor | Source) -> Tensor:
        """seen: as the heads take it. x: (B, W, D), of the shape of what is returned."""
        out: Tensor = self.output(self.self(x, *seen), x)
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
        width, num_heads, dropout = config.text_width, config.text_heads, config.dropout
        words = SelfAttentionHeads(width, width, num_heads, dropout)
        source = CrossAttentionHeads(width, source_width, num_heads, dropout)
        self.attention = AttentionLayer(config, words)
        self.crossattention = AttentionLayer(config, source)
        self.intermediate = Intermediate(config.text_width, config.text_mlp_width)
        self.output = AddAndNorm(config.text_mlp_width, config.text_width, config.dropout)

    def among_words(self, x: Tensor, mask: Tensor, first_only: bool = False) -> Tensor:
        """What words make of their own text. x: (B, W, D). Returns (B, W, D), or (B, 1, D)."""
        out: Tensor = self.attention(x[:, :1] if first_only else x, x, mask)
        return out

    def forward(self, x: Tensor, source: Source | None) -> Tensor:
        """The rest of the layer. x: (B, W, D), returned too. source: None for the text alone."""
        if source is not None:
            x = self.crossattention(x, source)
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
        source: Source | None = None,
        is_causal: bool = False,
        first_only: bool = False,
        text: Tensor | None = None,
    ) -> Tensor:
        """The last layer's words (B, W, D).

        input_ids: (B, W). attention_mask: (B, W), 1 for a word, 0 for padding. source: what to
        attend to besides. first_only: return the first word's (B, 1, D), for which the last layer
        need not compute the others'. text: (P,), which of the texts each one is that attends to the
        source; what it makes of its own words before that is computed once. P rows are returned
        then, for B. Raises ShapeError.
        """
        sizes = expect("input_ids", input_ids, "B W")
        expect("attention_mask", attention_mask, "B W", **sizes)
        if source is not None:
            self._expect_source(source, sizes["B"] if text is None else len(text))
        words, places = sizes["W"], self.embeddings.position_embeddings.num_embeddings
        if words > places:
            raise ShapeError(
                f"input_ids should be (B W) with W <= {places}, got {tuple(input_ids.shape)}"
            )
        mask = attention_mask.bool()[:, None, None, :]  # (B, 1, 1, W)
        if is_causal:
            mask = mask & torch.ones(words, words, dtype=torch.bool, device=mask.device).tril()
        x: Tensor = self.embeddings(input_ids)
        last = len(self.encoder.layer) - 1
        for number, layer in enumerate(self.encoder.layer):
            assert isinstance(layer, TextLayer)
            x = layer.among_words(x, mask, first_only and number == last)
            if number == 0 and text is not None:
                x, mask = x[text], mask[text]
            x = layer(x, source)
        return x

    def _expect_source(self, source: Source, texts: int) -> None:
        known = {} if source.row is not None else {"B": texts}
        sizes = expect("source.tokens", source.tokens, "B S Dv", **known, Dv=self.source_width)
        if source.mask is not None:
            expect("source.mask", source.mask, "B S", **sizes)
        if source.row is not None:
            expect("source.row", source.row, "B", B=texts)
        if source.weights is not None:
            expect("source.weights", source.weights, "B S", B=texts, S=sizes["S"])


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
        source: Source,
    ) -> Tensor:
        """Next-word logits (B, W, V). input_ids: (B, W), starting with [DEC]."""
        x = self.bert(input_ids, attention_mask, source, is_causal=True)
        head = self.cls.predictions
        return F.linear(head.transform(x), self.bert.embeddings.word_embeddings.weight, head.bias)
