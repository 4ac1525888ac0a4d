"""transformers' checkpoints: folders, shards, both kinds of file, and what config.json may say."""

import json

import pytest
import torch
from blip_oracle import answering_oracle, oracle
from safetensors.torch import load_file, save_file
from tiny import WITHOUT_TEMPORAL, random_captions, random_frames, tiny_config, tiny_model
from tiny_answers import BLIP_ALONE, HEAD, answers, qa_model, questions
from transformers import BlipConfig, BlipForConditionalGeneration, BlipModel

from litevl import LiteVLForQuestionAnswering, LiteVLForRetrieval
from litevl.errors import WeightsError
from litevl.model.checkpoints import save_blip
from litevl.model.weights import load_blip

STILLS = {**WITHOUT_TEMPORAL, "num_frames": 1, "pooling": "concat"}


def as_bin(folder):
    """Turn the folder's safetensors into the older pickled file."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.fixture
def ranker(tmp_path):
    """A retrieval model, and transformers' checkpoint of it in tmp_path."""
    model = tiny_model(**STILLS)
    model.temp.data.fill_(0.07)
    oracle(model).save_pretrained(tmp_path)
    return model


@pytest.fixture
def answerer(tmp_path):
    """A question-answering model, and transformers' checkpoint of it in tmp_path."""
    model = qa_model(**BLIP_ALONE)
    answering_oracle(model).save_pretrained(tmp_path)
    return model


def change_config(folder, side, **changes):
    """Change, or with None remove, what config.json says."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in changes.items():
        config[side][name] = value
        if value is None:
            del config[side][name]
    path.write_text(json.dumps(config))


def have_same_weights(one, other):
    """Whether two models hold the same tensors, to the bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("is_bin", [False, True], ids=["safetensors", "bin"])
@torch.no_grad()
def test_retrieval_checkpoint_ranks_as_the_model_it_was_made_from(ranker, tmp_path, is_bin):
    if is_bin:
        as_bin(tmp_path)
    model, report = load_blip(LiteVLForRetrieval, tmp_path, **STILLS)
    assert have_same_weights(model, ranker)
    assert report.layout == "transformers"
    assert report.new_by_design == ("temp",)  # transformers has none
    assert report.dropped_by_design == report.fresh == report.resized == ()
    frames, text = random_frames(2, num_frames=1), random_captions([5, 7])
    ours, theirs = model.eval(), ranker
    expected = theirs.match(theirs.encode_video(frames), theirs.encode_text(*text))
    assert torch.equal(ours.match(ours.encode_video(frames), ours.encode_text(*text)), expected)


@pytest.mark.parametrize("is_bin", [False, True], ids=["safetensors", "bin"])
@torch.no_grad()
def test_question_answering_checkpoint_answers_as_the_model_it_was_made_from(
    answerer, tmp_path, is_bin
):
    if is_bin:
        as_bin(tmp_path)
    model = LiteVLForQuestionAnswering.from_blip(tmp_path, **BLIP_ALONE).eval()
    assert have_same_weights(model, answerer)
    images = random_frames(3, num_frames=1)
    expected = answerer.loss(images, questions(), answers())
    assert torch.equal(model.loss(images, questions(), answers()), expected)


@pytest.mark.parametrize("is_bin", [False, True], ids=["safetensors", "bin"])
def test_shards_are_put_together(ranker, tmp_path, is_bin):
    state = load_file(tmp_path / "model.safetensors")
    whole = "pytorch_model.bin" if is_bin else "model.safetensors"
    stem, _, suffix = whole.rpartition(".")
    names = [f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    shard_of = {key: names[place % 2] for place, key in enumerate(state)}
    for name in names:
        part = {key: state[key] for key in state if shard_of[key] == name}
        (torch.save if is_bin else save_file)(part, tmp_path / name)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / f"{whole}.index.json").write_text(json.dumps({"weight_map": shard_of}))
    model, report = load_blip(LiteVLForRetrieval, tmp_path, **STILLS)
    assert have_same_weights(model, ranker)
    assert len(report.sha256) == 64
    changed = {key: state[key] + 1 for key in state if shard_of[key] == names[1]}
    (torch.save if is_bin else save_file)(changed, tmp_path / names[1])
    assert load_blip(LiteVLForRetrieval, tmp_path, **STILLS)[1].sha256 != report.sha256
    (tmp_path / names[1]).unlink()
    with pytest.raises(WeightsError, match=f"1 of 2 shards missing, first {names[1]}"):
        load_blip(LiteVLForRetrieval, tmp_path, **STILLS)
    index = {"weight_map": {"temp": "x" * 300}}  # longer than any file's name
    (tmp_path / f"{whole}.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="1 of 1 shards missing, first xxx"):
        load_blip(LiteVLForRetrieval, tmp_path, **STILLS)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"temp": "../m.safetensors"}}']
)
def test_index_that_is_none_is_told(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(WeightsError, match=r"index.json: not an index of shards"):
        LiteVLForRetrieval.from_blip(tmp_path)


@pytest.mark.parametrize("kept", ["bias", "decoder.bias"])
def test_either_name_of_a_tied_tensor_is_enough(answerer, tmp_path, kept):
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    bias, words = state.pop(f"{HEAD}.bias"), "text_decoder.bert.embeddings.word_embeddings.weight"
    state[f"{HEAD}.{kept}"] = bias
    if kept == "decoder.bias":
        state[f"{HEAD}.decoder.weight"] = state.pop(words)
    save_file(state, path)
    model = LiteVLForQuestionAnswering.from_blip(tmp_path, **BLIP_ALONE)
    assert have_same_weights(model, answerer)


def test_three_layouts_of_the_same_weights_give_the_same_model(tmp_path):
    state = {
        key: tensor.half().float() for key, tensor in tiny_model(**STILLS).state_dict().items()
    }
    model = LiteVLForRetrieval(tiny_config(**STILLS))
    model.load_state_dict(state | {"temp": torch.tensor(0.07).half().float()})
    save_blip(tmp_path / "ours.safetensors", model.state_dict(), model.config)
    oracle(model).half().save_pretrained(tmp_path / "theirs")
    ours = LiteVLForRetrieval.from_blip(tmp_path / "ours.safetensors", **STILLS)
    theirs = LiteVLForRetrieval.from_blip(tmp_path / "theirs", **STILLS)
    assert have_same_weights(ours, model)
    theirs.temp.data.copy_(model.temp)  # the one value that transformers has no place for
    assert have_same_weights(theirs, model)
    assert all(tensor.dtype == torch.float32 for tensor in theirs.state_dict().values())


def test_commit_that_a_folder_of_the_hub_is_of_is_reported(ranker, tmp_path):  # noqa: ARG001
    assert load_blip(LiteVLForRetrieval, tmp_path, **STILLS)[1].revision is None
    (tmp_path / "revision.txt").write_text("f" * 40 + "\n")
    assert load_blip(LiteVLForRetrieval, tmp_path, **STILLS)[1].revision == "f" * 40


# What config.json may say


@pytest.mark.parametrize("heads", [None, 8], ids=["unsaid", "said"])
def test_transformers_default_of_8_heads_is_not_believed(ranker, tmp_path, heads):  # noqa: ARG001
    change_config(tmp_path, "text_config", num_attention_heads=heads)
    with pytest.raises(WeightsError, match=r"8 heads, transformers' default"):
        LiteVLForRetrieval.from_blip(tmp_path)


def test_number_of_heads_comes_from_config_json(ranker, tmp_path):  # noqa: ARG001
    change_config(tmp_path, "text_config", num_attention_heads=2)
    change_config(tmp_path, "vision_config", num_attention_heads=4)
    config = LiteVLForRetrieval.from_blip(tmp_path).config
    assert (config.text_heads, config.vision_heads) == (2, 4)


@pytest.mark.parametrize("eps", [None, 1e-5], ids=["unsaid", "said"])
def test_another_eps_than_blips_is_noted(ranker, tmp_path, eps):  # noqa: ARG001
    change_config(tmp_path, "vision_config", layer_norm_eps=eps)
    report = load_blip(LiteVLForRetrieval, tmp_path)[1]
    assert report.notes == (
        "config.json says vision_config.layer_norm_eps 1e-05; BLIP's 1e-06 is used",
    )


def test_another_activation_than_blips_is_refused(ranker, tmp_path):  # noqa: ARG001
    change_config(tmp_path, "vision_config", hidden_act="quick_gelu")
    with pytest.raises(WeightsError, match=r"vision_config.hidden_act 'quick_gelu'; BLIP's is"):
        LiteVLForRetrieval.from_blip(tmp_path)


@pytest.mark.parametrize("text", [None, "{", "[]"], ids=["missing", "damaged", "no table"])
def test_config_json_is_needed(ranker, tmp_path, text):  # noqa: ARG001
    (tmp_path / "config.json").unlink()
    if text:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config.json: "):
        LiteVLForRetrieval.from_blip(tmp_path)


@pytest.mark.parametrize(
    ("side", "changes", "reason"),
    [
        ("vision_config", {"layer_norm_eps": "1e-6"}, "layer_norm_eps: expected a number"),
        ("text_config", {"layer_norm_eps": [1]}, "layer_norm_eps: expected a number"),
        ("text_config", {"num_attention_heads": "3"}, "num_attention_heads: expected a whole"),
        ("vision_config", {"num_attention_heads": 0}, "num_attention_heads: expected a whole"),
    ],
)
def test_values_of_another_type_in_config_json_are_told(ranker, tmp_path, side, changes, reason):  # noqa: ARG001
    change_config(tmp_path, side, **changes)
    with pytest.raises(WeightsError, match=f"config.json is damaged\n  {side}.{reason}"):
        load_blip(LiteVLForRetrieval, tmp_path, **STILLS)


def test_table_of_config_json_that_is_none_is_told(ranker, tmp_path):  # noqa: ARG001
    (tmp_path / "config.json").write_text('{"vision_config": [1]}')
    with pytest.raises(WeightsError, match="vision_config: expected a table, got \\[1\\]"):
        load_blip(LiteVLForRetrieval, tmp_path, **STILLS)


# Families without a place


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        (BlipForConditionalGeneration, "a captioning checkpoint has a decoder and no text encoder"),
        (BlipModel, "a BlipModel has no text encoder that looks at a picture"),
    ],
)
def test_family_without_a_place_is_refused_with_the_reason(tmp_path, family, reason):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "encoder_hidden_size": 8, "vocab_size": 40, "intermediate_size": 8}
    vision = {**sizes, "image_size": 16, "patch_size": 8, "intermediate_size": 32}
    family(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=reason):
        LiteVLForRetrieval.from_blip(tmp_path)


def test_a_model_of_ours_is_to_be_loaded_by_from_pretrained(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="this is a LiteVL model; load it with from_pretrained"):
        LiteVLForRetrieval.from_blip(tmp_path)


def test_folder_without_weights_is_told_what_was_looked_for(tmp_path):
    with pytest.raises(WeightsError, match=r"no weights in this folder; looked for model.safe"):
        LiteVLForRetrieval.from_blip(tmp_path)


def test_question_answering_does_not_start_from_a_checkpoint_without_decoder(ranker, tmp_path):  # noqa: ARG001
    with pytest.raises(WeightsError, match=r"text_decoder.bert.*: not in the checkpoint") as caught:
        LiteVLForQuestionAnswering.from_blip(tmp_path)
    assert "Question answering needs a decoder" in str(caught.value)


def test_retrieval_does_not_start_from_a_checkpoint_without_heads(answerer, tmp_path):  # noqa: ARG001
    with pytest.raises(WeightsError) as caught:
        LiteVLForRetrieval.from_blip(tmp_path)
    message = str(caught.value)
    for key in ("itm_head.weight", "text_proj.bias", "vision_proj.weight"):
        assert f"{key}: not in the checkpoint" in message
    assert "or name what may start at random in `fresh`" in message
