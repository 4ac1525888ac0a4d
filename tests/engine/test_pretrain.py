"""Pre-training mini-BLIP: the same file each time, in a layout in which every key has a place."""

import json
import re
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from litevl.engine import pretrain
from litevl.engine.mini_blip import MiniBlip, Recipe, blip_layout, initialise, mini_config
from litevl.engine.pretrain import compare
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.question_answering import LiteVLForQuestionAnswering
from litevl.model.tokenizer import Tokenizer
from litevl.model.weights import load_blip

LITEVL = {
    "num_frames": 4,
    "time_embedding": "branch",
    "time_embedding_scale": 1.0,
    "image_size_px": 32,
}


@dataclass(frozen=True)
class TinyRecipe(Recipe):
    """A few steps on a few stills."""

    num_stills: int = 96
    num_validation_stills: int = 20
    image_size_px: int = 32
    width: int = 16
    vision_depth: int = 1
    text_depth: int = 1
    heads: int = 2
    embed_width: int = 8
    epochs: int = 2
    batch_size: int = 24
    answer_epochs: int = 1


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two folders that the command wrote, and what it printed; the first stands for the shipped."""
    folder, printed = tmp_path_factory.mktemp("pretraining"), []
    drawn = pretrain.draw_stills

    def few(count, size_px, seed, num_workers):  # noqa: ARG001
        return known.setdefault((count, seed), drawn(count, size_px, seed, 1))

    known: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "Recipe", TinyRecipe)
        patch.setattr(pretrain, "draw_stills", few)
        patch.setattr(pretrain, "MINI_BLIP", folder / "package" / "model.safetensors")
        patch.setattr("builtins.print", lambda *words: printed.append(" ".join(map(str, words))))
        for options in (["--ship"], ["--output", str(folder / "again")]):
            patch.setattr(sys, "argv", ["pretrain", *options])
            pretrain.main()
    return folder / "package", folder / "again", printed


def test_recipe_gives_the_same_bytes_again(made):
    shipped, again, _ = made
    for name in ("model.safetensors", "vocab.txt"):
        assert (shipped / name).read_bytes() == (again / name).read_bytes()


def test_command_says_how_close_it_came_to_the_shipped_weights(made):
    _, _, printed = made
    num_tensors = len(load_file(made[0] / "model.safetensors"))
    assert printed[-1].startswith(
        f"{num_tensors} of {num_tensors} tensors equal the shipped ones bit for bit; "
        "largest difference 0 "
    )
    assert sum("shipped" in line for line in printed) == 2  # the first had nothing to compare with


def test_weights_load_for_question_answering_with_every_key_accounted_for(made):
    path = made[0] / "model.safetensors"
    state = load_file(path)
    model, report = load_blip(LiteVLForQuestionAnswering, path, **LITEVL)
    assert report.loaded + len(report.dropped_by_design) == len(state)
    assert report.loaded + len(report.new_by_design) == len(model.state_dict())
    assert all("temporal" in key or "time_embed" in key for key in report.new_by_design)
    head = "text_decoder.cls.predictions"
    matching = ("itm_head.", "vision_proj.", "text_proj.", "temp", f"{head}.decoder.")
    assert all(key.startswith(matching) for key in report.dropped_by_design)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[k], state[k].float()) for k in loaded.keys() & state.keys())


def test_weights_load_with_every_key_accounted_for(made):
    path = made[0] / "model.safetensors"
    state = load_file(path)
    model, report = load_blip(LiteVLForRetrieval, path, **LITEVL)
    assert report.loaded + len(report.dropped_by_design) == len(state)
    assert report.loaded + len(report.new_by_design) == len(model.state_dict())
    assert all(key.startswith("text_decoder.") for key in report.dropped_by_design)
    assert all("temporal" in key or "time_embed" in key for key in report.new_by_design)
    assert all(value.isfinite().all() for value in state.values())


def test_record_says_how_the_weights_were_made(made):
    record = json.loads((made[0] / "record.json").read_text())
    assert record["recipe"]["num_stills"] == 96
    assert record["recipe"]["seed"] == Recipe.seed
    assert record["curve"][-1]["step"] == 8
    assert record["curve"][-1].keys() == {"step", "itc", "itm", "lm"}
    assert record["answer_curve"][-1]["step"] == 4
    assert record["answer_curve"][-1].keys() == {"step", "itc", "itm", "answer"}
    assert record["validation"].keys() == {
        "itc_recall_at_1_percent", "itm_beats_hardest_percent", "answer_accuracy_percent",
    }  # fmt: skip
    assert all(0 <= percent <= 100 for percent in record["validation"].values())
    assert len(record["sha256"]) == 64
    assert record["packages"]["torch"]


def test_another_seed_gives_other_weights(made, tmp_path, monkeypatch):
    shipped, _, _ = made
    asked = (("what is red?", "circle"), ("who is red?", "circle"), ("where is it?", "left"))
    drawn = (np.zeros((24, 32, 32, 3), np.uint8), ["a red circle"] * 24, [asked] * 24)
    monkeypatch.setattr(pretrain, "draw_stills", lambda *_: drawn)
    recipe = TinyRecipe(epochs=1, seed=1)
    model, _ = pretrain.pretrain(recipe, shipped / "vocab.txt", num_workers=1)
    save_file(
        {key: value.half().contiguous().clone() for key, value in blip_layout(model).items()},
        tmp_path / "other.safetensors",
    )
    said = compare(tmp_path / "other.safetensors", shipped / "model.safetensors")
    assert "tensors equal the shipped ones bit for bit" in said
    assert "largest difference 0 " not in said


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        ({"a": torch.zeros(2), "b": torch.ones(1)}, "2 of 2 tensors equal .* difference 0 "),
        ({"a": torch.tensor([0.0, 0.5]), "b": torch.ones(1)}, r"1 of 2 .* difference 0\.5 .* 1\)"),
        ({"a": torch.zeros(3), "b": torch.ones(1)}, "sizes differ"),
        ({"a": torch.zeros(2), "c": torch.ones(1)}, "2 keys differ"),
    ],
)
def test_difference_from_the_shipped_weights_is_put_in_words(tmp_path, ours, words):
    save_file(ours, tmp_path / "ours")
    save_file({"a": torch.zeros(2), "b": torch.ones(1)}, tmp_path / "shipped")
    assert re.search(words, compare(tmp_path / "ours", tmp_path / "shipped"))


@pytest.fixture(scope="module")
def mini_blip(made):
    """A fresh model and four stills with the captions of three, as the losses take them."""
    tokenizer = Tokenizer.from_vocabulary(made[0] / "vocab.txt")
    model = MiniBlip(mini_config(TinyRecipe(), len(tokenizer)))
    initialise(model, torch.Generator().manual_seed(0))
    images = torch.randn(4, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    texts = ["a red circle", "a blue ring", "a green square beside a cyan star", "a red circle"]
    return model, images, tokenizer(texts, 32), torch.tensor([0, 1, 2, 0])


def test_encoder_and_decoder_share_all_but_self_attention(mini_blip):
    model = mini_blip[0]
    encoder, decoder = model.retrieval.text_encoder, model.text_decoder.bert
    shared = {id(parameter) for parameter in encoder.parameters()}
    own = {name for name, value in decoder.named_parameters() if id(value) not in shared}
    assert own
    assert all(".attention." in name for name in own)


def test_losses_are_finite_and_equal_captions_are_no_negatives(mini_blip):
    model, images, tokens, ids = mini_blip
    found = model.losses(images, tokens, ids, torch.Generator().manual_seed(0))
    assert all(loss.isfinite() and loss > 0 for loss in found)
    same = torch.zeros(4, dtype=torch.long)
    itc, itm, _ = model.losses(images, tokens, same, torch.Generator().manual_seed(0))
    assert torch.allclose(itm, loss_of_positives(model, images, tokens), atol=1e-5)
    assert itc.isfinite()


def loss_of_positives(model, images, tokens) -> torch.Tensor:
    """ITM where every pair belongs together: no negative is left."""
    video = model.retrieval.encode_video(images)
    text = model.retrieval.encode_text(tokens.input_ids, tokens.attention_mask)
    logits = model.retrieval.match(video, text)
    return torch.nn.functional.cross_entropy(logits, torch.ones(4, dtype=torch.long))


def test_padding_does_not_change_the_language_loss(mini_blip):
    model, images, tokens, _ = mini_blip
    source = model.retrieval.encode_video(images).tokens
    whole = model.language_loss(source[:1], tokens.select(torch.tensor([0])))
    short = replace(
        tokens,
        input_ids=tokens.input_ids[:1, :5],
        attention_mask=tokens.attention_mask[:1, :5],
    )
    assert tokens.attention_mask[0].sum() == 5
    assert tokens.input_ids.shape[1] > 5
    assert torch.allclose(whole, model.language_loss(source[:1], short), atol=1e-6)
