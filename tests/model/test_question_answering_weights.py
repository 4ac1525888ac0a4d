"""Question answering with BLIP's weights: loading and saving."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import (
    TOLERANCE,
    WITHOUT_TEMPORAL,
    random_frames,
    tiny_config,
    tiny_model,
)
from tiny_answers import (
    BLIP_ALONE,
    HEAD,
    answers,
    checkpoint,
    qa_model,
    questions,
)

from litevl import LiteVLForQuestionAnswering
from litevl.errors import WeightsError
from litevl.model.checkpoints import save_blip
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.weights import NEW_BY_DESIGN, load_blip

CLOSE = TOLERANCE[torch.float32]


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
        ({f"{HEAD}.transform.dense.bias": None}, r"transform.dense.bias: not in the checkpoint"),
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
