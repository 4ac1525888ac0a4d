"""Question answering with BLIP's weights: parity with transformers, loading, saving."""

import json
import re
from dataclasses import replace

import pytest
import torch
from blip_oracle import VISION_NAMES
from safetensors.torch import load_file, save_file
from tiny import (
    DEC,
    ENC,
    TOLERANCE,
    WITHOUT_TEMPORAL,
    have_same_scores,
    largest_difference,
    random_frames,
    tiny_config,
    tiny_model,
)
from tiny_answers import (
    ANSWER_LENGTHS,
    BLIP_ALONE,
    HEAD,
    answers,
    checkpoint,
    pad,
    qa_model,
    questions,
    unpadded,
)
from transformers import BlipConfig, BlipForQuestionAnswering

from litevl import LiteVLForQuestionAnswering
from litevl.errors import WeightsError
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.weights import NEW_BY_DESIGN, load_blip, save_blip

CLOSE = TOLERANCE[torch.float32]


# Parity with transformers, where padding plays no part


def oracle(model):
    """BlipForQuestionAnswering with the BLIP part of our model's weights, label smoothing 0.1."""
    config = model.config
    blip = BlipForQuestionAnswering(
        BlipConfig(
            vision_config={
                "hidden_size": config.vision_width,
                "intermediate_size": 4 * config.vision_width,
                "num_hidden_layers": config.vision_depth,
                "num_attention_heads": config.vision_heads,
                "image_size": config.image_size_px,
                "patch_size": config.patch_size_px,
                "layer_norm_eps": 1e-6,
            },
            text_config={
                "vocab_size": config.vocab_size,
                "hidden_size": config.text_width,
                "encoder_hidden_size": config.vision_width,
                "intermediate_size": config.text_mlp_width,
                "num_hidden_layers": config.text_depth,
                "num_attention_heads": config.text_heads,
                "max_position_embeddings": config.max_positions,
                "layer_norm_eps": 1e-12,
                "label_smoothing": 0.1,
            },
        )
    )
    state = checkpoint(model)
    for name in [name for name in state if name.startswith("visual_encoder")]:
        theirs = name
        for ours, replacement in VISION_NAMES:
            theirs = re.sub(ours, replacement, theirs)
        state[theirs] = state.pop(name)
    blip.load_state_dict(state)
    return blip.eval()


@torch.no_grad()
def oracle_loss(blip, image, question, answer):
    """transformers' loss of one question (1, W), with [ENC] and [DEC] put in by hand."""
    asked, given = question.input_ids.clone(), answer.input_ids.clone()
    asked[:, 0], given[:, 0] = ENC, DEC
    labels = given.masked_fill(answer.attention_mask == 0, -100)
    return blip(
        input_ids=asked,
        attention_mask=question.attention_mask,
        pixel_values=image,
        decoder_input_ids=given,
        decoder_attention_mask=answer.attention_mask,
        labels=labels,
    ).loss


@torch.no_grad()
def test_loss_on_a_still_equals_transformers_without_padding():
    model = qa_model(**BLIP_ALONE)
    blip, images = oracle(model), random_frames(3, num_frames=1)
    for row, length in enumerate(ANSWER_LENGTHS):
        asked, given = unpadded(questions(), row), unpadded(answers(), row)
        ours = model.loss(images[row : row + 1], asked, given)
        theirs = oracle_loss(blip, images[row], asked, given) * (length - 1)  # its mean, our sum
        assert largest_difference(ours, theirs) <= CLOSE


@torch.no_grad()
def test_transformers_loss_changes_with_padding_and_ours_does_not():
    model = qa_model(**BLIP_ALONE)
    blip, image = oracle(model), random_frames(1, num_frames=1)
    asked, given = unpadded(questions(), 0), unpadded(answers(), 0)
    ours = [model.loss(image, each, given) for each in (asked, pad(asked, 4))]
    theirs = [oracle_loss(blip, image[0], each, given) for each in (asked, pad(asked, 4))]
    assert have_same_scores(*ours)
    assert largest_difference(*theirs) > 0.01


# Weights


@pytest.fixture
def blip_state():
    """A pre-trained BLIP's tensors: retrieval and decoder, projections and momentum twins."""
    retrieval = tiny_model(**WITHOUT_TEMPORAL).state_dict()
    vqa = checkpoint(qa_model(**BLIP_ALONE))
    twins = {"vision_proj_m.weight": torch.zeros(8, 24), "image_queue": torch.zeros(8, 2)}
    positions = {"text_encoder.embeddings.position_ids": torch.arange(16.0)[None]}
    return {**retrieval, **vqa, **twins, **positions}


@pytest.fixture
def blip_file(tmp_path, blip_state):
    """The same as a file."""
    save_blip(tmp_path / "blip.safetensors", blip_state, tiny_config())
    return tmp_path / "blip.safetensors"


TIED = {f"{HEAD}.decoder.weight", f"{HEAD}.decoder.bias"}
OTHERS = {"vision_proj_m.weight", "image_queue", "text_encoder.embeddings.position_ids"}
MATCHING = {"itm_head.weight", "itm_head.bias", "temp"}
PROJECTIONS = {f"{kind}_proj.{part}" for kind in ("vision", "text") for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("space", "dropped"),
    [
        ("hidden", TIED | OTHERS | MATCHING | PROJECTIONS),
        ("projected", TIED | OTHERS | MATCHING),
    ],
)
def test_every_key_of_blip_is_accounted_for(blip_file, blip_state, space, dropped):
    model, report = load_blip(LiteVLForQuestionAnswering, blip_file, pooling_space=space)
    assert set(report.dropped_by_design) == dropped
    assert report.loaded == len(blip_state) - len(dropped)
    assert report.loaded + len(report.new_by_design) == len(model.state_dict())
    assert all(NEW_BY_DESIGN.match(key) for key in report.new_by_design)
    for key, tensor in model.state_dict().items():
        if key not in report.new_by_design:
            assert torch.equal(tensor, blip_state[key].half().float()), key


def test_retrieval_drops_the_decoder_and_keeps_the_rest(blip_file, blip_state):
    _, report = load_blip(LiteVLForRetrieval, blip_file)
    decoder = {key for key in blip_state if key.startswith("text_decoder.")}
    assert set(report.dropped_by_design) == decoder | OTHERS


def test_from_blip_takes_sizes_from_the_file_and_options_from_the_caller(blip_file):
    model = LiteVLForQuestionAnswering.from_blip(blip_file, num_frames=3, pooling="mean")
    assert model.config == tiny_config(num_frames=3, pooling="mean")


@torch.no_grad()
def test_model_from_blip_without_temporal_parts_answers_as_blip(blip_file, blip_state):
    model = LiteVLForQuestionAnswering.from_blip(blip_file, **BLIP_ALONE).eval()
    source = qa_model(**BLIP_ALONE)
    source.load_state_dict({key: blip_state[key].half().float() for key in source.state_dict()})
    images = random_frames(3, num_frames=1)
    assert torch.equal(
        model.loss(images, questions(), answers()), source.loss(images, questions(), answers())
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{HEAD}.bias": None}, rf"{HEAD}.bias: not in the checkpoint"),
        ({"text_decoder.bert.extra": torch.ones(1)}, r"text_decoder.bert.extra: no place"),
        ({f"{HEAD}.decoder.extra": torch.ones(1)}, rf"{HEAD}.decoder.extra: no place"),
        ({f"{HEAD}.decoder.bias": torch.ones(40)}, rf"decoder.bias: differs from {HEAD}.bias"),
        ({f"{HEAD}.decoder.weight": torch.ones(40, 24)}, r"differs from .*word_embeddings.weight"),
    ],
)
def test_key_without_its_place_is_named(tmp_path, blip_state, change, message):
    state = {key: tensor for key, tensor in {**blip_state, **change}.items() if tensor is not None}
    save_blip(tmp_path / "blip.safetensors", state, tiny_config())
    with pytest.raises(WeightsError, match=message):
        LiteVLForQuestionAnswering.from_blip(tmp_path / "blip.safetensors")


def test_checkpoint_without_projections_is_refused_where_they_are_needed(tmp_path):
    model = qa_model(**BLIP_ALONE)
    save_blip(tmp_path / "vqa.safetensors", checkpoint(model), model.config)
    LiteVLForQuestionAnswering.from_blip(tmp_path / "vqa.safetensors")
    with pytest.raises(WeightsError, match=r"text_proj.bias: not in the checkpoint"):
        LiteVLForQuestionAnswering.from_blip(
            tmp_path / "vqa.safetensors", pooling_space="projected"
        )


@pytest.mark.parametrize("space", ["hidden", "projected"])
def test_saved_model_comes_back_as_it_was(tmp_path, space):
    model = qa_model(pooling_space=space)
    model.save_pretrained(tmp_path)
    again = LiteVLForQuestionAnswering.from_pretrained(tmp_path)
    assert again.config == model.config
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not again.training


def test_saved_weights_can_be_used_with_another_pooling(tmp_path):
    model = qa_model()
    model.save_pretrained(tmp_path)
    other = replace(model.config, pooling="mean")
    assert LiteVLForQuestionAnswering.from_pretrained(tmp_path, config=other).config == other


def test_folder_without_config_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no config.json"):
        LiteVLForQuestionAnswering.from_pretrained(tmp_path)


def test_unknown_field_in_config_json_is_named(tmp_path):
    qa_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"poolling": "text"}))
    with pytest.raises(WeightsError, match=r"config.json has unknown poolling"):
        LiteVLForQuestionAnswering.from_pretrained(tmp_path)


def test_tensor_that_the_file_lacks_is_not_left_random(tmp_path):
    qa_model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[f"{HEAD}.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"{HEAD}.bias"):
        LiteVLForQuestionAnswering.from_pretrained(tmp_path)


def test_retrieval_model_is_no_question_answering_model(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="text_decoder"):
        LiteVLForQuestionAnswering.from_pretrained(tmp_path)
