"""BLIP's image encoder, made a video encoder by temporal attention with dynamic scaling.

Legend: B clips, T frames, N patches per frame, S tokens, D width, H heads, L layers.

Parameter names are those of BLIP's checkpoints; what LiteVL adds is called `temporal_*` and
`time_embed`. Sources: abstract of arXiv 2210.11929 (temporal attention, learned scaling); the
formulas are reconstructed after TESTA, see DESIGN section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from litevl.model.attention import attend
from litevl.model.config import LiteVLConfig, Scaling
from litevl.model.shapes import expect


class Attention(nn.Module):
    """Multi-head self-attention over the second-last axis."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, S, D). Returns (B, S, D)."""
        query, key, value = self._split(self.qkv(x), 3)
        return self._gathered(query, key, value)

    def of_first(self, x: Tensor) -> Tensor:
        """What the first token alone gathers. x: (B, S, D). Returns (B, 1, D)."""
        width = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias  # rows of the query, then of the others
        (query,) = self._split(F.linear(x[:, :1], weight[:width], bias[:width]), 1)
        key, value = self._split(F.linear(x, weight[width:], bias[width:]), 2)
        return self._gathered(query, key, value)

    def _split(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """One part for each of `count` and head: (B, S, count * D) to count x (B, H, S, D/H)."""
        parts = x.view(*x.shape[:2], count, self.num_heads, -1)
        split: tuple[Tensor, ...] = parts.permute(2, 0, 3, 1, 4).unbind(0)
        return split

    def _gathered(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query: (B, H, W, D/H), key and value: (B, H, S, D/H). Returns (B, W, D)."""
        out: Tensor = self.proj(attend(query, key, value).transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., D). Returns (..., D)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class TemporalScale(nn.Module):
    """Dynamic temporal scaling: a factor in (0, 2) for each frame, 1 at the start.

    `dynamic` and `layer` learn gamma, one per frame or one for all, and give tanh(gamma) + 1;
    `input` predicts it from the frame's mean token by a linear layer that starts at zero.
    """

    def __init__(self, scaling: Scaling, num_frames: int, width: int) -> None:
        super().__init__()
        self.scaling = scaling
        if scaling == "input":
            self.predict = nn.Linear(width, 1)
            nn.init.zeros_(self.predict.weight)
            nn.init.zeros_(self.predict.bias)
        elif scaling != "none":
            self.gamma = nn.Parameter(torch.zeros(num_frames if scaling == "dynamic" else 1))

    def forward(self, patches: Tensor) -> Tensor | float:
        """patches: (B, T, N, D). Returns a factor that broadcasts over it."""
        if self.scaling == "none":
            return 1.0
        if self.scaling == "input":
            return torch.tanh(self.predict(patches.mean(dim=2, keepdim=True))) + 1  # (B, T, 1, 1)
        return torch.tanh(self.gamma).view(1, -1, 1, 1) + 1


class Block(nn.Module):
    """Temporal attention (if any), spatial attention and MLP, each added to the stream."""

    def __init__(self, config: LiteVLConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.has_temporal = config.temporal_attention
        if self.has_temporal:
            self.temporal_norm = nn.LayerNorm(width, eps=1e-6)
            self.temporal_attn = Attention(width, config.vision_heads)
            self.temporal_scale = TemporalScale(config.scaling, config.num_frames, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, config.vision_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, time: Tensor | None, cls_only: bool = False) -> Tensor:
        """x: (B, T, 1 + N, D), CLS first. time: (T, 1, D), added to the temporal branch's input.

        cls_only: what comes of the CLS tokens alone. Returns (B, T, 1 + N, D), or (B, T, 1, D).
        """
        batch, frames, tokens, width = x.shape
        if self.has_temporal:
            x = torch.cat([x[:, :, :1], self.across_time(x[:, :, 1:], time)], dim=2)
        x = x.reshape(batch * frames, tokens, width)
        seen = self.norm1(x)
        x = x[:, :1] + self.attn.of_first(seen) if cls_only else x + self.attn(seen)
        x = x + self.mlp(self.norm2(x))
        return x.view(batch, frames, -1, width)

    def across_time(self, patches: Tensor, time: Tensor | None) -> Tensor:
        """The patches after each has attended to its own place in all frames, scaled per frame.

        patches: (B, T, N, D). time: (T, 1, D). Returns (B, T, N, D).
        """
        batch, frames, places, width = patches.shape
        branch = self.temporal_norm(patches)
        if time is not None:
            branch = branch + time
        # In one piece also for a single clip: the CPU's bf16 products copy the weights for each row
        # of a strided batch.
        branch = branch.transpose(1, 2).contiguous().view(batch * places, frames, width)
        branch = self.temporal_attn(branch).view(batch, places, frames, width).transpose(1, 2)
        out: Tensor = patches + self.temporal_scale(patches) * branch  # (B, T, N, D)
        return out


class PatchEmbed(nn.Module):
    """Non-overlapping patches of an image as tokens."""

    def __init__(self, patch_size_px: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size_px, patch_size_px)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W). Returns (B, N, D)."""
        weight, patch = self.proj.weight, self.proj.kernel_size[0]
        batch, _, height, width = images.shape
        # A convolution whose stride is its size is one matrix product over cut-out patches.
        cut = images.view(batch, 3, height // patch, patch, width // patch, patch)
        cut = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, N, 3 * patch * patch)
        return F.linear(cut, weight.flatten(1), self.proj.bias)


def slow_waves(num_frames: int, width: int, generator: torch.Generator) -> Tensor:
    """Random functions of time, of at most half a period per clip, root mean square 1: (T, D).

    Reconstructed: neighbouring frames start alike and the order of frames is there to be read. In
    trials on the mini world, independent vectors per frame left order accuracy at chance after
    500 steps where smooth ones had begun to tell directions apart.
    """
    frequency = torch.rand(width, generator=generator) * torch.pi / num_frames
    phase = torch.rand(width, generator=generator) * 2 * torch.pi
    angle = torch.arange(num_frames)[:, None] * frequency + phase  # (T, D)
    return 2**0.5 * torch.cos(angle)


class VideoEncoder(nn.Module):
    """BLIP's ViT, frame by frame, with temporal attention between the frames."""

    def __init__(self, config: LiteVLConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False  # see TrainSpec; blocks draw nothing at random
        width = config.vision_width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.num_patches, width))
        self.patch_embed = PatchEmbed(config.patch_size_px, width)
        if config.time_embedding != "none":
            self.time_embed = nn.Parameter(torch.zeros(config.num_frames, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.vision_depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, frames: Tensor, cls_only: bool = False) -> Tensor:
        """frames: (B, T, 3, H, W), normalised as BLIP does. Returns (B, T, 1 + N, D), CLS first.

        cls_only: return each frame's CLS token (B, T, 1, D), for which the last block need not
        compute the patches. Raises ShapeError for another image size; without temporal attention
        any T will do.
        """
        known = {"H": self.config.image_size_px, "W": self.config.image_size_px}
        if self.config.temporal_attention:
            known["T"] = self.config.num_frames
        sizes = expect("frames", frames, "B T 3 H W", **known)
        x = self.patch_embed(frames.flatten(0, 1))  # (B * T, N, D)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        x = (x + self.pos_embed).view(sizes["B"], sizes["T"], -1, x.shape[-1])
        time = None
        if self.config.time_embedding == "branch":
            time = self.time_embed[:, None]  # (T, 1, D)
        elif self.config.time_embedding == "stream":
            x = torch.cat([x[:, :, :1], x[:, :, 1:] + self.time_embed[:, None]], dim=2)
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            given = x, time, cls_only and number == last
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(*given)
        tokens: Tensor = self.norm(x)
        return tokens

    @torch.no_grad()
    def start_from_image_encoder(self, generator: torch.Generator) -> None:
        """Set the temporal parts so that the clip's features equal BLIP's on each frame.

        Norm, query, key and value start as copies of the block's spatial ones, the output
        projection at zero; a `branch` time embedding as random slow waves of the configured scale.
        """
        if self.config.time_embedding != "none":
            waves = slow_waves(self.config.num_frames, self.config.vision_width, generator)
            self.time_embed.copy_(waves * self.config.time_embedding_scale)
        for block in self.blocks:
            assert isinstance(block, Block)
            if block.has_temporal:
                block.temporal_norm.load_state_dict(block.norm1.state_dict())
                block.temporal_attn.qkv.load_state_dict(block.attn.qkv.state_dict())
                nn.init.zeros_(block.temporal_attn.proj.weight)
                nn.init.zeros_(block.temporal_attn.proj.bias)

    @torch.no_grad()
    def temporal_scales(self) -> Tensor | None:
        """The learned scale of each layer and frame (L, T), or None where it is not learned."""
        if self.config.scaling not in ("dynamic", "layer"):
            return None
        rows = []
        for block in self.blocks:
            assert isinstance(block, Block)
            scale = torch.tanh(block.temporal_scale.gamma) + 1  # (T,), or (1,) for `layer`
            rows.append(scale.expand(self.config.num_frames))
        return torch.stack(rows)
