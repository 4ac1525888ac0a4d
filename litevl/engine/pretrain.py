"""Pre-trains mini-BLIP on still images of the mini world, with BLIP's own objectives.

`python -m litevl.engine.pretrain` draws the stills, trains, writes the weights in the key layout
of BLIP's checkpoints with their record, and says how far they are from the shipped ones. First
come BLIP's three of pre-training (ITC, ITM, LM), in which the decoder shares all but its
self-attention with the text encoder; then its objective of question answering, beside ITC and ITM,
with a decoder of its own.

Legend: B images with one caption each, W words.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from litevl.assets import MINI_BLIP
from litevl.data.dataset import normalise
from litevl.data.drawing import Pixels
from litevl.data.stills import NUM_QUESTIONS, draw_stills, vocabulary
from litevl.engine.mini_blip import (
    MiniBlip,
    Recipe,
    blip_layout,
    initialise,
    mini_config,
    redraw_unseen_words,
)
from litevl.engine.precision import computing, repeatable
from litevl.engine.train import learning_rate_factor
from litevl.model.checkpoints import save_blip
from litevl.model.litevl import similarities
from litevl.model.losses import MAX_TEMPERATURE, MIN_TEMPERATURE
from litevl.model.tokenizer import Tokenizer, Tokens
from litevl.record import code_state, package_versions
from litevl.whole import write_bytes

Curve = list[dict[str, float]]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Stills:
    """Pictures with what is said, asked and answered about each; all as the model takes them."""

    images: Pixels  # (N, S, S, 3)
    captions: Tokens  # (N, W)
    caption_ids: Tensor  # (N,), equal for equal captions
    questions: Tokens  # (N * NUM_QUESTIONS, W), those of one still side by side
    answers: Tokens  # (N * NUM_QUESTIONS, W)


def prepare_stills(
    count: int, seed: int, recipe: Recipe, tokenizer: Tokenizer, num_workers: int
) -> Stills:
    """Draw stills and turn their words into ids."""
    images, captions, asked = draw_stills(count, recipe.image_size_px, seed, num_workers)
    number_of = {text: number for number, text in enumerate(dict.fromkeys(captions))}
    pairs = [pair for of_still in asked for pair in of_still]
    return Stills(
        images,
        tokenizer(captions, recipe.max_tokens),
        torch.tensor([number_of[text] for text in captions]),
        tokenizer([question for question, _ in pairs], recipe.max_tokens),
        tokenizer([answer for _, answer in pairs], recipe.max_tokens),
    )


def pretrain(
    recipe: Recipe, vocabulary_file: Path, num_workers: int
) -> tuple[MiniBlip, dict[str, Any]]:
    """A trained mini-BLIP, and its validation figures and curves."""
    tokenizer = Tokenizer.from_vocabulary(vocabulary_file)
    print(f"drawing {recipe.num_stills} stills")
    stills = prepare_stills(recipe.num_stills, recipe.seed, recipe, tokenizer, num_workers)
    held_out = prepare_stills(
        recipe.num_validation_stills, recipe.seed + 1, recipe, tokenizer, num_workers
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    model = MiniBlip(mini_config(recipe, len(tokenizer)))
    initialise(model, generator)
    curves = {
        "curve": learn_captions(model, stills, recipe, generator, rng),
        "answer_curve": learn_answers(model, stills, recipe, generator, rng),
    }
    return model, {"validation": validate(model, held_out), **curves}


def learn_captions(
    model: MiniBlip,
    stills: Stills,
    recipe: Recipe,
    generator: torch.Generator,
    rng: np.random.Generator,
) -> Curve:
    """BLIP's pre-training in place: ITC, ITM, LM. Returns the losses every 100 steps."""

    def losses(index: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        batch = torch.from_numpy(index)
        images = normalise(stills.images[index][:, None])
        captions = stills.captions.select(batch)
        itc, itm, lm = model.losses(images, captions, stills.caption_ids[batch], generator)
        return {"itc": itc, "itm": itm, "lm": lm}

    curve = fit(model, losses, len(stills.images), recipe, recipe.epochs, recipe.learning_rate, rng)
    words = model.retrieval.text_encoder.embeddings.word_embeddings.weight
    redraw_unseen_words(
        words, stills.captions.input_ids.flatten(), torch.Generator().manual_seed(recipe.seed)
    )
    return curve


def learn_answers(
    model: MiniBlip,
    stills: Stills,
    recipe: Recipe,
    generator: torch.Generator,
    rng: np.random.Generator,
) -> Curve:
    """BLIP's question answering in place, beside ITC and ITM. Returns the losses as above.

    From here on the decoder has weights of its own, as in BLIP's question answering.
    """
    model.text_decoder = copy.deepcopy(model.text_decoder)
    answering = model.answering()

    def losses(index: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        batch = torch.from_numpy(index)
        images = normalise(stills.images[index][:, None])
        captions = stills.captions.select(batch)
        video = model.retrieval.encode_video(images)
        itc, itm = model.contrast(video, captions, stills.caption_ids[batch], generator)
        asked = (batch[:, None] * NUM_QUESTIONS + torch.arange(NUM_QUESTIONS)).flatten()
        clip_of_question = torch.arange(len(batch)).repeat_interleave(NUM_QUESTIONS)
        answer = answering.loss(
            images,
            stills.questions.select(asked),
            stills.answers.select(asked),
            clip_of_question=clip_of_question,
        )
        return {"itc": itc, "itm": itm, "answer": answer}

    num_epochs, rate = recipe.answer_epochs, recipe.answer_learning_rate
    curve = fit(model, losses, len(stills.images), recipe, num_epochs, rate, rng)
    used = torch.cat([stills.captions.input_ids.flatten(), stills.answers.input_ids.flatten()])
    words = model.text_decoder.bert.embeddings.word_embeddings.weight
    redraw_unseen_words(words, used, torch.Generator().manual_seed(recipe.seed))
    return curve


def fit(
    model: MiniBlip,
    losses_of: Callable[[npt.NDArray[np.int64]], dict[str, Tensor]],
    num_stills: int,
    recipe: Recipe,
    num_epochs: int,
    learning_rate: float,
    rng: np.random.Generator,
) -> Curve:
    """Train in place on the sum of the losses of each batch of stills; rng: their order."""
    optimizer = torch.optim.AdamW(
        model.parameters(), weight_decay=recipe.weight_decay, betas=(0.9, 0.98), fused=True
    )
    steps_per_epoch = num_stills // recipe.batch_size
    total, step, curve = num_epochs * steps_per_epoch, 0, []
    bar = tqdm(total=total, desc="mini-BLIP", unit="step")
    for _ in range(num_epochs):
        order = rng.permutation(num_stills)[: steps_per_epoch * recipe.batch_size]
        for index in order.reshape(steps_per_epoch, -1):
            factor = learning_rate_factor(step, total, recipe.warmup_fraction)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * factor
            with computing("auto", CPU):
                losses = losses_of(index)
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                model.retrieval.temp.clamp_(MIN_TEMPERATURE, MAX_TEMPERATURE)
            step += 1
            bar.update()
            if step % 100 == 0 or step == total:
                values = {name: round(loss.item(), 4) for name, loss in losses.items()}
                curve.append({"step": step, **values})
                bar.set_postfix({name: f"{value:.2f}" for name, value in values.items()})
    bar.close()
    return curve


@torch.no_grad()
def validate(model: MiniBlip, stills: Stills) -> dict[str, float]:
    """How well held-out stills, captions and answers find each other; equal texts are all right."""
    model.eval()
    retrieval, ids = model.retrieval, stills.caption_ids
    images = normalise(stills.images[:, None])
    with computing("fp32", CPU):
        video = retrieval.encode_video(images)
        text = retrieval.encode_text(stills.captions.input_ids, stills.captions.attention_mask)
        similarity = similarities(video.embedding, text.embedding)
        same = ids[:, None] == ids[None]
        best = similarity.argmax(dim=1)
        hardest = similarity.masked_fill(same, -2).argmax(dim=1)
        right = retrieval.match(video, text)[:, 1]
        wrong = retrieval.match(video, text.select(hardest))[:, 1]
        listed, gold = torch.unique(stills.answers.input_ids, dim=0, return_inverse=True)
        ranking = model.answering().rank_answers(
            images,
            stills.questions,
            Tokens(listed, (listed != 0).long()),
            k=len(listed),
            clip_of_question=torch.arange(len(images)).repeat_interleave(NUM_QUESTIONS),
        )
    found = {
        "itc_recall_at_1_percent": same[torch.arange(len(ids)), best],
        "itm_beats_hardest_percent": right > wrong,
        "answer_accuracy_percent": ranking.indices[:, 0] == gold,
    }
    return {name: round(100 * hits.float().mean().item(), 2) for name, hits in found.items()}


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
    write_bytes(folder / "record.json", (json.dumps(record, indent=1) + "\n").encode())
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, sha256 {sha256}")
    print(f"validation: {figures['validation']}")
    shipped = MINI_BLIP.with_name("record.json")
    if not arguments.ship and shipped.exists():
        print(f"shipped:    {json.loads(shipped.read_text())['validation']}")
        print(compare(path, MINI_BLIP))


if __name__ == "__main__":
    main()
