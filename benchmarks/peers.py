"""What LiteVL is timed against: straightforward, with our model's weights.

Legend: G clips, Q captions, k candidates, T frames, N patches, S tokens of a clip, W words,
D width, B pairs in a batch, K queue entries, E embedding width.

Transcribed from what is known of BLIP's retrieval code (salesforce/BLIP, blip_retrieval.py, med.py,
eval_retrieval_video.py), in our words and with our modules as holders of the weights. All start
from a clip's raw tokens, `model.visual_encoder(frames)`: (G, T, 1 + N, D).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import TimesformerConfig, TimesformerModel

from litevl.model.config import LiteVLConfig
from litevl.model.litevl import LiteVLForRetrieval, TextFeatures
from litevl.model.losses import MAX_TEMPERATURE, MIN_TEMPERATURE
from litevl.model.text import AttentionHeads, TextEncoder, TextLayer
from litevl.model.tokenizer import Tokens
from litevl.model.vision import Attention, Block, VideoEncoder

Attend = Callable[[AttentionHeads, Tensor, Tensor, Tensor | None], Tensor]
Encode = Callable[[VideoEncoder, Tensor], Tensor]

NOT_RANKED = -100.0  # BLIP's score of all that is not among the k
MASKED = -10_000.0  # what BLIP's text side adds where a word may not be seen
BLIP_QUEUE_ID = -100  # BLIP's id of queue entries that nothing was written to


# Re-ranking


def blip_reranked(
    model: LiteVLForRetrieval,
    tokens: Tensor,
    similarity: Tensor,
    text: TextFeatures,
    k: int,
    captions: Sequence[int],
) -> Tensor:
    """Scores (len(captions), G) as BLIP's video evaluation computes them, caption by caption.

    tokens: (G, T, 1 + N, D). similarity: (Q, G). text: of all Q captions, padded to one length. All
    tokens of all frames of the k clips are the cross-encoder's source, projected anew for each
    pair, and the attention is written out.
    """
    sequences = tokens.flatten(1, 2)  # (G, T * (1 + N), D)
    scores = torch.full((len(captions), len(tokens)), NOT_RANKED, device=tokens.device)
    for row, caption in enumerate(captions):
        top = similarity[caption].topk(k)
        ids, mask = _of_pairs(model, text, caption, k)
        source = sequences[top.indices]  # (k, T * (1 + N), D)
        hidden = grounded_words(model.text_encoder, ids, mask, source, eager_attention)
        logits = model.itm_head(hidden[:, 0])[:, 1]
        scores[row, top.indices] = logits.float() + top.values.float()
    return scores


def straightforward_reranked(
    model: LiteVLForRetrieval,
    tokens: Tensor,
    similarity: Tensor,
    text: TextFeatures,
    k: int,
    captions: Sequence[int],
) -> Tensor:
    """The same by text-dependent pooling, done again for every pair; shapes as above.

    The weighted tokens of the k clips are made, and the cross-encoder looks at them by SDPA.
    """
    scores = torch.full((len(captions), len(tokens)), NOT_RANKED, device=tokens.device)
    for row, caption in enumerate(captions):
        top = similarity[caption].topk(k)
        ids, mask = _of_pairs(model, text, caption, k)
        cls = text.cls[caption].expand(k, -1)
        source = pooled_by_text(model, tokens[top.indices], cls)
        hidden = grounded_words(model.text_encoder, ids, mask, source, sdpa_attention)
        logits = model.itm_head(hidden[:, 0])[:, 1]
        scores[row, top.indices] = logits.float() + top.values.float()
    return scores


def _of_pairs(
    model: LiteVLForRetrieval, text: TextFeatures, caption: int, k: int
) -> tuple[Tensor, Tensor]:
    """A caption's ids, begun with [ENC], and mask, once for each clip: (k, W) both."""
    ids = text.input_ids[caption].repeat(k, 1)
    ids[:, 0] = model.encode_token_id
    return ids, text.attention_mask[caption].repeat(k, 1)


def pooled_by_text(model: LiteVLForRetrieval, tokens: Tensor, cls: Tensor) -> Tensor:
    """Each clip as its caption sees it: (B, 1 + T + N, D).

    tokens: (B, T, 1 + N, D). cls: (B, D), of the captions.
    """
    patches = tokens[:, :, 1:]
    parts = [tokens[:, :, 0].mean(dim=1, keepdim=True)]
    query = cls
    if model.config.pooling_space == "projected":
        query = model.text_proj(cls)
    for part in (patches.mean(dim=2), patches.mean(dim=1)):  # (B, T, D), (B, N, D)
        seen = model.vision_proj(part) if model.config.pooling_space == "projected" else part
        cosine = F.cosine_similarity(seen, query[:, None], dim=-1)
        weights = part.shape[1] * (cosine / model.config.pooling_temperature).softmax(dim=-1)
        parts.append(part * weights[..., None].to(part.dtype))
    return torch.cat(parts, dim=1)


# The text side as BLIP has it, and with torch's own attention


def grounded_words(
    encoder: TextEncoder,
    input_ids: Tensor,
    attention_mask: Tensor,
    source: Tensor | None,
    attend: Attend,
) -> Tensor:
    """The last layer's words (B, W, D); a text's source is projected for that text alone.

    source: (B, S, D), None for the text alone. BLIP adds a mask of zeros to it, which is left out.
    """
    of_words = (1.0 - attention_mask.float())[:, None, None, :] * MASKED  # (B, 1, 1, W)
    x: Tensor = encoder.embeddings(input_ids)
    for layer in encoder.encoder.layer:
        assert isinstance(layer, TextLayer)
        own, across = layer.attention, layer.crossattention
        x = own.output(attend(own.self, x, x, of_words), x)
        if source is not None:
            x = across.output(attend(across.self, x, source, None), x)
        x = layer.output(layer.intermediate(x), x)
    return x


def heads_of(heads: AttentionHeads, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query (B, H, W, D/H), key and value (B, H, S, D/H)."""
    query, key, value = (
        part.unflatten(-1, (heads.num_heads, -1)).permute(0, 2, 1, 3)
        for part in (heads.query(x), heads.key(source), heads.value(source))
    )
    return query, key, value


def eager_attention(
    heads: AttentionHeads, x: Tensor, source: Tensor, added: Tensor | None
) -> Tensor:
    """softmax(Q K^T / sqrt(d) + added) V with every step's result kept: (B, W, D).

    x: (B, W, D). source: (B, S, D). added: (B, 1, 1, S), None for nothing.
    """
    query, key, value = heads_of(heads, x, source)
    scores = torch.matmul(query, key.transpose(-1, -2)) / query.shape[-1] ** 0.5
    if added is not None:
        scores = scores + added
    weights = F.dropout(scores.softmax(dim=-1), heads.dropout, heads.training)
    return torch.matmul(weights, value).permute(0, 2, 1, 3).flatten(2)


def sdpa_attention(
    heads: AttentionHeads, x: Tensor, source: Tensor, added: Tensor | None
) -> Tensor:
    """The same by torch's own; shapes as above."""
    query, key, value = heads_of(heads, x, source)
    mask = None if added is None else added.to(query.dtype)
    mixed = F.scaled_dot_product_attention(query, key, value, mask)
    return mixed.transpose(1, 2).flatten(2)


# Video encoder


def straightforward_tokens(encoder: VideoEncoder, frames: Tensor) -> Tensor:
    """The encoder's tokens (B, T, 1 + N, D) by BLIP's ViT and divided attention, as one writes it.

    frames: (B, T, 3, H, W). Patches are cut by a convolution, attention is written out, and clips
    are turned from frames of places into places of frames and back in each block.
    """
    batch, num_frames = frames.shape[:2]
    cut = encoder.patch_embed.proj
    x = F.conv2d(frames.flatten(0, 1), cut.weight, cut.bias, cut.stride)
    x = x.flatten(2).transpose(1, 2)  # (B * T, N, D)
    x = torch.cat([encoder.cls_token.expand(len(x), -1, -1), x], dim=1) + encoder.pos_embed
    time = encoder.time_embed if encoder.config.time_embedding == "branch" else 0.0
    for block in encoder.blocks:
        assert isinstance(block, Block)
        if block.has_temporal:
            x = x.view(batch, num_frames, *x.shape[1:])
            patches = x[:, :, 1:]  # (B, T, N, D)
            places = patches.transpose(1, 2).flatten(0, 1)  # (B * N, T, D)
            moved = vit_attention(block.temporal_attn, block.temporal_norm(places) + time)
            moved = moved.view(batch, -1, *moved.shape[1:]).transpose(1, 2)  # (B, T, N, D)
            patches = patches + block.temporal_scale(patches) * moved
            x = torch.cat([x[:, :, :1], patches], dim=2).flatten(0, 1)
        x = x + vit_attention(block.attn, block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    tokens: Tensor = encoder.norm(x).view(batch, num_frames, *x.shape[1:])
    return tokens


def vit_attention(heads: Attention, x: Tensor) -> Tensor:
    """Self-attention as BLIP's ViT writes it. x: (B, S, D). Returns (B, S, D)."""
    parts = heads.qkv(x).unflatten(-1, (3, heads.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = parts[0], parts[1], parts[2]  # each (B, H, S, D/H)
    weights = (query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5
    mixed = (weights.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
    out: Tensor = heads.proj(mixed)
    return out


def timesformer(config: LiteVLConfig) -> nn.Module:
    """transformers' TimeSformer of our video encoder's sizes, random weights, divided attention."""
    sizes = TimesformerConfig(
        image_size=config.image_size_px,
        patch_size=config.patch_size_px,
        num_frames=config.num_frames,
        hidden_size=config.vision_width,
        num_hidden_layers=config.vision_depth,
        num_attention_heads=config.vision_heads,
        intermediate_size=4 * config.vision_width,
        attention_type="divided_space_time",
    )
    model: nn.Module = TimesformerModel(sizes)
    return model.eval()


# BLIP's training step


class BlipStep(nn.Module):
    """BLIP's retrieval fine-tuning step with clips for images, up to its two losses.

    Momentum encoders move first, then come the unimodal passes of both, the contrastive loss
    against momentum features and queue, and two passes of the cross-encoder: the B pairs, then
    their 2 B hard negatives. BLIP has no video encoder; `encode` makes tokens of frames.
    """

    queue_video: Tensor  # (E, K)
    queue_text: Tensor  # (E, K)
    queue_ids: Tensor  # (K,)

    def __init__(
        self,
        model: LiteVLForRetrieval,
        queue_size: int,
        momentum: float,
        generator: torch.Generator,
        encode: Encode = straightforward_tokens,
    ) -> None:
        super().__init__()
        self.model, self.momentum, self.generator = model, momentum, generator
        self.encode = encode
        self.slow = copy.deepcopy(model).requires_grad_(False)
        width, self.place = model.config.embed_width, 0
        for name in ("queue_video", "queue_text"):
            noise = torch.randn(width, queue_size, generator=generator)
            self.register_buffer(name, F.normalize(noise, dim=0))
        self.register_buffer("queue_ids", torch.full((queue_size,), BLIP_QUEUE_ID))

    def losses(
        self, frames: Tensor, tokens: Tokens, ids: Tensor, alpha: float
    ) -> tuple[Tensor, Tensor]:
        """The contrastive and the matching loss, () each, whose sum BLIP takes back.

        frames: (B, T, 3, H, W). tokens: (B, W), padded to one length. ids: (B,) clip of each pair.
        """
        with torch.no_grad():
            self.model.temp.clamp_(MIN_TEMPERATURE, MAX_TEMPERATURE)
        video = self.encode(self.model.visual_encoder, frames)  # (B, T, 1 + N, D)
        video_feature = video_features(self.model, video)  # (B, E)
        text_feature = text_features(self.model, tokens)
        contrast, towards_text, towards_video = self._contrast(
            video_feature, text_feature, frames, tokens, ids, alpha
        )
        match = self._match(video.flatten(1, 2), tokens, ids, towards_text, towards_video)
        return contrast, match

    def _contrast(
        self,
        video: Tensor,
        text: Tensor,
        frames: Tensor,
        tokens: Tokens,
        ids: Tensor,
        alpha: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The contrastive loss, and similarities (B, B) from which negatives are drawn."""
        temp = self.model.temp
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.model.parameters(), strict=True):
                slow.copy_(slow * self.momentum + fast * (1.0 - self.momentum))
            slow_video = video_features(self.slow, self.encode(self.slow.visual_encoder, frames))
            slow_text = text_features(self.slow, tokens)
            all_video = torch.cat([slow_video.T, self.queue_video], dim=1)  # (E, B + K)
            all_text = torch.cat([slow_text.T, self.queue_text], dim=1)
            same = (ids[:, None] == torch.cat([ids, self.queue_ids])[None]).float()
            hard = same / same.sum(dim=1, keepdim=True)  # (B, B + K)
            soft_v2t = (slow_video @ all_text / temp).softmax(dim=1)
            soft_t2v = (slow_text @ all_video / temp).softmax(dim=1)
            targets_v2t = alpha * soft_v2t + (1 - alpha) * hard
            targets_t2v = alpha * soft_t2v + (1 - alpha) * hard
        v2t, t2v = video @ all_text / temp, text @ all_video / temp
        loss_v2t = -(v2t.log_softmax(dim=1) * targets_v2t).sum(dim=1).mean()
        loss_t2v = -(t2v.log_softmax(dim=1) * targets_t2v).sum(dim=1).mean()
        self._enqueue(slow_video, slow_text, ids)
        with torch.no_grad():
            near = video @ text.T / temp  # (B, B)
        return (loss_v2t + loss_t2v) / 2, near, near.T

    @torch.no_grad()
    def _enqueue(self, video: Tensor, text: Tensor, ids: Tensor) -> None:
        end = self.place + len(ids)
        self.queue_video[:, self.place : end] = video.T
        self.queue_text[:, self.place : end] = text.T
        self.queue_ids[self.place : end] = ids
        self.place = end % len(self.queue_ids)

    def _match(
        self,
        video: Tensor,
        tokens: Tokens,
        ids: Tensor,
        towards_text: Tensor,
        towards_video: Tensor,
    ) -> Tensor:
        """The matching loss over B pairs, then over 2 B hard negatives. video: (B, S, D)."""
        encoder, mask = self.model.text_encoder, tokens.attention_mask
        words = tokens.input_ids.clone()
        words[:, 0] = self.model.encode_token_id
        positive = grounded_words(encoder, words, mask, video, eager_attention)[:, 0]
        clips = self._drawn(towards_video, ids)
        captions = self._drawn(towards_text, ids)
        some_video = torch.stack([video[clip] for clip in clips])
        some_words = torch.stack([words[caption] for caption in captions])
        some_mask = torch.stack([mask[caption] for caption in captions])
        negative = grounded_words(
            encoder,
            torch.cat([words, some_words]),
            torch.cat([mask, some_mask]),
            torch.cat([some_video, video]),
            eager_attention,
        )[:, 0]
        logits = self.model.itm_head(torch.cat([positive, negative]))  # (3 B, 2)
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        labels[: len(ids)] = 1
        return F.cross_entropy(logits.float(), labels)

    def _drawn(self, similarity: Tensor, ids: Tensor) -> list[int]:
        """For each row a column of another clip, drawn with probability softmax(similarity)."""
        weights = similarity.float().softmax(dim=1)
        weights = weights.masked_fill(ids[:, None] == ids[None], 0.0).cpu()
        return [int(torch.multinomial(row, 1, generator=self.generator)) for row in weights]


def video_features(model: LiteVLForRetrieval, tokens: Tensor) -> Tensor:
    """normalize(mean over frames of vision_proj(CLS)): (B, E). tokens: (B, T, 1 + N, D)."""
    return F.normalize(model.vision_proj(tokens[:, :, 0]).mean(dim=1).float(), dim=-1)


def text_features(model: LiteVLForRetrieval, tokens: Tokens) -> Tensor:
    """normalize(text_proj(CLS)) of the text alone: (B, E)."""
    words = grounded_words(
        model.text_encoder, tokens.input_ids, tokens.attention_mask, None, eager_attention
    )
    return F.normalize(model.text_proj(words[:, 0]).float(), dim=-1)
