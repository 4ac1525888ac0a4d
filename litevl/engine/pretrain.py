"""Pre-trains mini-BLIP on still images of the mini world, with BLIP's own three objectives.

`python -m litevl.engine.pretrain` draws the stills, trains, writes the weights in the key layout
of BLIP's checkpoints with their record, and says how far they are from the shipped ones. The
decoder shares all but its self-attention with the text encoder, as in BLIP's pre-training.

Legend: B images with one caption each, W words.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from litevl.assets import MINI_BLIP
from litevl.data.dataset import normalise
from litevl.data.stills import draw_stills, vocabulary
from litevl.engine.precision import computing, repeatable
from litevl.engine.train import learning_rate_factor, pair_loss
from litevl.model.config import LiteVLConfig
from litevl.model.litevl import LiteVLForRetrieval, similarities
from litevl.model.losses import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    contrastive_loss,
    positive_targets,
)
from litevl.model.text import TextDecoder
from litevl.model.tokenizer import Tokenizer, Tokens
from litevl.model.weights import save_blip
from litevl.record import code_state, package_versions

CPU = torch.device("cpu")
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
        similarity = similarities(video.embedding, text.embedding) / model.temp
        targets = positive_targets(ids, ids)
        itc = contrastive_loss(similarity, similarity.T, targets, targets)
        itm = pair_loss(model, video, text, similarity.detach(), ids, generator)
        source = video.tokens.flatten(1, 2)
        return itc, itm, self.language_loss(source, tokens)

    def language_loss(self, source: Tensor, tokens: Tokens) -> Tensor:
        """Mean negative log-likelihood of the next word, with label smoothing 0.1 as in BLIP."""
        ids = tokens.input_ids.clone()
        ids[:, 0] = self.retrieval.config.vocab_size - 2  # [DEC]
        logits = self.text_decoder(ids, tokens.attention_mask, source)[:, :-1]
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


def pretrain(
    recipe: Recipe, vocabulary_file: Path, num_workers: int
) -> tuple[MiniBlip, dict[str, Any]]:
    """A trained mini-BLIP, and its validation figures and curve."""
    tokenizer = Tokenizer.from_vocabulary(vocabulary_file)
    size, seed = recipe.image_size_px, recipe.seed
    print(f"drawing {recipe.num_stills} stills")
    images, captions = draw_stills(recipe.num_stills, size, seed, num_workers)
    held_out = draw_stills(recipe.num_validation_stills, size, seed + 1, num_workers)
    tokens = tokenizer(captions, recipe.max_tokens)
    number_of = {text: number for number, text in enumerate(dict.fromkeys(captions))}
    ids = torch.tensor([number_of[text] for text in captions])
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = MiniBlip(mini_config(recipe, len(tokenizer)))
    initialise(model, generator)
    optimizer = torch.optim.AdamW(
        model.parameters(), weight_decay=recipe.weight_decay, betas=(0.9, 0.98), fused=True
    )
    steps_per_epoch = len(images) // recipe.batch_size
    total, step, curve = recipe.epochs * steps_per_epoch, 0, []
    bar = tqdm(total=total, desc="mini-BLIP", unit="step")
    for _ in range(recipe.epochs):
        order = rng.permutation(len(images))[: steps_per_epoch * recipe.batch_size]
        for index in order.reshape(steps_per_epoch, -1):
            factor = learning_rate_factor(step, total, recipe.warmup_fraction)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * factor
            batch = torch.from_numpy(index)
            with computing("auto", CPU):
                itc, itm, lm = model.losses(
                    normalise(images[index][:, None]), tokens.select(batch), ids[batch], generator
                )
            optimizer.zero_grad()
            (itc + itm + lm).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                model.retrieval.temp.clamp_(MIN_TEMPERATURE, MAX_TEMPERATURE)
            step += 1
            bar.update()
            if step % 100 == 0 or step == total:
                losses = {"itc": itc.item(), "itm": itm.item(), "lm": lm.item()}
                curve.append({"step": step, **{k: round(v, 4) for k, v in losses.items()}})
                bar.set_postfix({k: f"{v:.2f}" for k, v in losses.items()})
    bar.close()
    redraw_unseen_words(model, tokens, generator=torch.Generator().manual_seed(seed))
    figures = validate(model, *held_out, tokenizer, recipe)
    return model, {"validation": figures, "curve": curve}


@torch.no_grad()
def redraw_unseen_words(model: MiniBlip, tokens: Tokens, generator: torch.Generator) -> None:
    """Give words that no caption used embeddings as far apart as those of the others.

    The language model's softmax pushes all words that never come into one direction (cosine 0.99
    between any two): fine-tuning could then hardly tell "grows" from "shrinks". BERT's words, which
    BLIP starts from, are all distinct.
    """
    words = model.retrieval.text_encoder.embeddings.word_embeddings.weight
    is_unseen = torch.ones(len(words), dtype=torch.bool)
    is_unseen[tokens.input_ids.flatten()] = False
    is_unseen[:5] = is_unseen[-2:] = False  # [PAD] to [MASK]; [DEC] and [ENC]
    words[is_unseen] = UNSEEN_WORD_STD * torch.randn(
        int(is_unseen.sum()), words.shape[1], generator=generator
    )


@torch.no_grad()
def validate(
    model: MiniBlip, images: np.ndarray, captions: list[str], tokenizer: Tokenizer, recipe: Recipe
) -> dict[str, float]:
    """How well held-out stills and captions find each other. Equal captions count as right."""
    model.eval()
    tokens = tokenizer(captions, recipe.max_tokens)
    texts = np.array(captions)
    same = torch.from_numpy(texts[:, None] == texts[None])
    with computing("fp32", CPU):
        video = model.retrieval.encode_video(normalise(images[:, None]))
        text = model.retrieval.encode_text(tokens.input_ids, tokens.attention_mask)
        similarity = similarities(video.embedding, text.embedding)
        best = similarity.argmax(dim=1)
        hardest = similarity.masked_fill(same, -2).argmax(dim=1)
        own = torch.arange(len(texts))
        right = model.retrieval.match(video, text)[:, 1]
        wrong = model.retrieval.match(video, text.select(hardest))[:, 1]
        lm = model.language_loss(video.tokens.flatten(1, 2), tokens)
    return {
        "itc_recall_at_1_percent": round(100 * same[own, best].float().mean().item(), 2),
        "itm_beats_hardest_percent": round(100 * (right > wrong).float().mean().item(), 2),
        "lm_loss": round(lm.item(), 4),
    }


def blip_layout(model: MiniBlip) -> dict[str, Tensor]:
    """The weights under the names of BLIP's pre-training checkpoints."""
    retrieval = model.retrieval.state_dict()
    decoder = {
        f"text_decoder.{key}": value for key, value in model.text_decoder.state_dict().items()
    }
    head = "text_decoder.cls.predictions"
    tied = {
        f"{head}.decoder.weight": retrieval["text_encoder.embeddings.word_embeddings.weight"],
        f"{head}.decoder.bias": decoder[f"{head}.bias"],
    }
    return retrieval | decoder | tied


def compare(ours: Path, shipped: Path) -> str:
    """How far one file of weights is from another, in words."""
    first, second = load_file(ours), load_file(shipped)
    if first.keys() != second.keys():
        return f"{len(first.keys() ^ second.keys())} keys differ from the shipped weights"
    if any(first[key].shape != second[key].shape for key in first):
        return "sizes differ from the shipped weights"
    gaps = [(first[key].float() - second[key].float()).abs().max().item() for key in first]
    scale = max(tensor.float().abs().max().item() for tensor in second.values())
    same = sum(gap == 0 for gap in gaps)
    return (
        f"{same} of {len(gaps)} tensors equal the shipped ones bit for bit; "
        f"largest difference {max(gaps):.2g} (largest weight {scale:.2g})"
    )


def main() -> None:
    """Pre-train, write, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/mini-blip"), metavar="DIR")
    parser.add_argument("--ship", action="store_true", help="write into the package itself")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--stills", type=int, default=Recipe.num_stills)
    arguments = parser.parse_args()
    code = code_state(Path(__file__).parents[2])  # before anything is written
    folder = MINI_BLIP.parent if arguments.ship else arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    words = folder / "vocab.txt"
    words.write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    recipe = Recipe(epochs=arguments.epochs, num_stills=arguments.stills)
    started = time.perf_counter()
    with repeatable(CPU):
        model, figures = pretrain(recipe, words, num_workers=2)
    path = folder / MINI_BLIP.name
    sha256 = save_blip(path, blip_layout(model), model.retrieval.config)
    record = {
        "recipe": asdict(recipe),
        "code": code,
        "packages": package_versions(),
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": sha256,
        **figures,
    }
    (folder / "record.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, sha256 {sha256}")
    print(f"validation: {figures['validation']}")
    shipped = MINI_BLIP.with_name("record.json")
    if not arguments.ship and shipped.exists():
        print(f"shipped:    {json.loads(shipped.read_text())['validation']}")
        print(compare(path, MINI_BLIP))


if __name__ == "__main__":
    main()
