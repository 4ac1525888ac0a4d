"""Random checkpoints in the layout of salesforce/BLIP's files, of any size and family.

Names and shapes are listed from BLIP's own modules and not from ours. As a script:
`python tests/blip_files.py PATH [--size tiny|base|large] [--family pretrain|retrieval|vqa]
[--image-size-px N] [--seed N]`
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class BlipSize:
    """Sizes of a BLIP; heads are 64 wide."""

    width: int = 768  # of the image encoder
    depth: int = 12
    text_width: int = 768
    text_depth: int = 12
    text_mlp_width: int = 3072
    vocab_size: int = 30524
    max_positions: int = 512
    embed_width: int = 256
    patch_size_px: int = 16
    queue_size: int = 57600


SIZES = {
    "base": BlipSize(),
    "large": BlipSize(width=1024, depth=24),
    "tiny": BlipSize(
        width=64,
        depth=2,
        text_width=64,
        text_depth=2,
        text_mlp_width=96,
        vocab_size=40,
        max_positions=16,
        embed_width=8,
        patch_size_px=8,
        queue_size=4,
    ),
    "tiny-large": BlipSize(  # the image encoder wider and deeper than the text's, as in ViT-L
        width=128,
        depth=3,
        text_width=64,
        text_depth=2,
        text_mlp_width=96,
        vocab_size=40,
        max_positions=16,
        embed_width=8,
        patch_size_px=8,
        queue_size=4,
    ),
}
IMAGE_SIZES_PX = {"pretrain": 224, "retrieval": 384, "vqa": 480}  # BLIP's configurations
TWINS = ("visual_encoder", "text_encoder", "vision_proj", "text_proj")


def linear(name, out_width, in_width):
    return {f"{name}.weight": (out_width, in_width), f"{name}.bias": (out_width,)}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def vision_shapes(size, image_size_px):
    width, patch = size.width, size.patch_size_px
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + (image_size_px // patch) ** 2, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        **norm("norm", width),
    }
    for layer in range(size.depth):
        block = f"blocks.{layer}"
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width)
        shapes |= linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1", 4 * width, width)
        shapes |= linear(f"{block}.mlp.fc2", width, 4 * width)
    return shapes


def text_shapes(size, source_width):
    width = size.text_width
    shapes = {
        "embeddings.position_ids": (1, size.max_positions),
        "embeddings.word_embeddings.weight": (size.vocab_size, width),
        "embeddings.position_embeddings.weight": (size.max_positions, width),
        **norm("embeddings.LayerNorm", width),
    }
    for place in range(size.text_depth):
        layer = f"encoder.layer.{place}"
        for kind, source in (("attention", width), ("crossattention", source_width)):
            shapes |= linear(f"{layer}.{kind}.self.query", width, width)
            shapes |= linear(f"{layer}.{kind}.self.key", width, source)
            shapes |= linear(f"{layer}.{kind}.self.value", width, source)
            shapes |= linear(f"{layer}.{kind}.output.dense", width, width)
            shapes |= norm(f"{layer}.{kind}.output.LayerNorm", width)
        shapes |= linear(f"{layer}.intermediate.dense", size.text_mlp_width, width)
        shapes |= linear(f"{layer}.output.dense", width, size.text_mlp_width)
        shapes |= norm(f"{layer}.output.LayerNorm", width)
    return shapes


def below(prefix, shapes):
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def blip_shapes(size, family, image_size_px):
    """Name -> shape of a BLIP_Pretrain, BLIP_Retrieval or BLIP_VQA without twins and queues."""
    width, words = size.text_width, size.vocab_size
    shapes = below("visual_encoder", vision_shapes(size, image_size_px))
    shapes |= below("text_encoder", text_shapes(size, size.width))
    if family in ("pretrain", "retrieval"):
        shapes |= linear("vision_proj", size.embed_width, size.width)
        shapes |= linear("text_proj", size.embed_width, width)
        shapes |= linear("itm_head", 2, width) | {"temp": ()}
    if family in ("pretrain", "vqa"):
        head = "text_decoder.cls.predictions"
        source_width = width if family == "vqa" else size.width  # questions, or pictures
        shapes |= below("text_decoder.bert", text_shapes(size, source_width))
        shapes |= linear(f"{head}.transform.dense", width, width)
        shapes |= norm(f"{head}.transform.LayerNorm", width)
        shapes |= linear(f"{head}.decoder", words, width) | {f"{head}.bias": (words,)}
    return shapes


def draw(name, shape, generator):
    """A tensor that keeps the size of what goes through it; norms and biases not 1 and 0."""
    if name.endswith("position_ids"):
        return torch.arange(shape[1])[None]
    if name == "temp":
        return torch.tensor(0.06)
    tensor = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return tensor / tensor[0].numel() ** 0.5
    is_norm_weight = "norm" in name.lower() and name.endswith("weight")
    return 0.2 * tensor + is_norm_weight


def blip_state(size="tiny", family="pretrain", image_size_px=None, seed=0):
    """A checkpoint's tensors: with momentum twins and queues unless it is a VQA model's.

    As in BLIP, the decoder's word matrix is its embedding and its two biases are one tensor; after
    pre-training it shares all with the text encoder but self-attention. Twins are near copies.
    """
    sizes = SIZES[size] if isinstance(size, str) else size
    shapes = blip_shapes(sizes, family, image_size_px or IMAGE_SIZES_PX[family])
    generator = torch.Generator().manual_seed(seed)
    state = {name: draw(name, shape, generator) for name, shape in shapes.items()}
    if family in ("pretrain", "vqa"):
        head, bert = "text_decoder.cls.predictions", "text_decoder.bert."
        if family == "pretrain":
            for name in [name for name in state if name.startswith(bert)]:
                if ".attention." not in name:
                    state[name] = state["text_encoder." + name.removeprefix(bert)]
        state[f"{head}.decoder.weight"] = state[f"{bert}embeddings.word_embeddings.weight"]
        state[f"{head}.decoder.bias"] = state[f"{head}.bias"]
    if family == "vqa":
        return state
    for name in [name for name in state if name.startswith(TWINS)]:
        module, _, rest = name.partition(".")
        is_index = name.endswith("position_ids")
        state[f"{module}_m.{rest}"] = state[name] if is_index else state[name] * 0.995
    queue = sizes.embed_width, sizes.queue_size
    state["image_queue"] = torch.randn(queue, generator=generator)
    state["text_queue"] = torch.randn(queue, generator=generator)
    if family == "retrieval":
        state["idx_queue"] = torch.full((1, sizes.queue_size), -100)
    state["ptr_queue" if family == "retrieval" else "queue_ptr"] = torch.zeros(1).long()
    return state


def write_blip(path, size="tiny", family="pretrain", image_size_px=None, seed=0):
    """Write a random checkpoint as BLIP does; returns its tensors."""
    state = blip_state(size, family, image_size_px, seed)
    torch.save({"model": state, "epoch": 19, "config": {"image_res": 224}}, path)
    return state


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--family", choices=IMAGE_SIZES_PX, default="pretrain")
    parser.add_argument("--image-size-px", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.path.parent.mkdir(parents=True, exist_ok=True)
    write_blip(
        arguments.path, arguments.size, arguments.family, arguments.image_size_px, arguments.seed
    )
