"""Checkpoints that are damaged, hostile, changed or something else: refused with a reason."""

import json
import os
import pickle
import re
import zipfile

import pytest
import torch
from blip_files import blip_state, write_blip
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import WITHOUT_TEMPORAL, tiny_model

from litevl import LiteVLForQuestionAnswering, LiteVLForRetrieval
from litevl.errors import SpecError, WeightsError
from litevl.model.checkpoints import file_sha256, read_checkpoint, save_blip

BLOCK = "visual_encoder.blocks.1"
STILLS = {**WITHOUT_TEMPORAL, "num_frames": 1, "pooling": "concat"}


class Hostile:
    """Unpickled, it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def refused(path, model_class=LiteVLForRetrieval, **options):
    """The message that loading ends with."""
    with pytest.raises(WeightsError) as caught:
        model_class.from_blip(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_not_run(tmp_path, is_zip):
    mark, path = tmp_path / "mark", tmp_path / "model.pth"
    content = {"model": blip_state(image_size_px=16), "config": Hostile(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    message = refused(path)
    assert re.search(r"asks for \w+\.mkdir to be loaded, which is not a tensor", message)
    assert "nothing was run" in message
    assert "weights_only" not in message  # torch's own advice is to switch the guard off
    assert not mark.exists()


def test_code_in_a_bare_pickle_is_not_run(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "model.bin"
    path.write_bytes(pickle.dumps({"weight": Hostile(mark)}))
    assert "model.bin: " in refused(path)
    assert not mark.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_file_cut_short_is_told(tmp_path, name, share):
    path = tmp_path / name
    if path.suffix == ".pth":
        write_blip(path, image_size_px=16)
    else:
        save_file({"visual_encoder.cls_token": torch.zeros(1, 1, 500)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    message = refused(path)
    assert "damaged, or not a file of torch.save" in message or "not a readable safe" in message


@pytest.mark.parametrize(
    "content",
    [b"<html>not found</html>", b"version https://git-lfs", b"\0" * 99, b"\x80\x02h\x05."],
)
def test_file_of_another_kind_is_told(tmp_path, content):
    (tmp_path / "model.pth").write_bytes(content)
    assert "damaged, or not a file of torch.save" in refused(tmp_path / "model.pth")


def test_archive_of_something_else_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    assert "damaged, or not a file of torch.save" in refused(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "holds no tensors by name"),
        ([torch.zeros(1)], "holds no tensors by name"),
        ({"model": {"lr": 0.1}}, "'lr' is a float"),
        ({"epoch": 3, "weight": torch.zeros(1)}, "'epoch' is a int"),
        (
            {"model": {"conv.weight": torch.zeros(1)}},
            "no BLIP checkpoint; its tensors are called conv",
        ),
    ],
)
def test_content_of_another_kind_is_told(tmp_path, content, reason):
    torch.save(content, tmp_path / "model.pth")
    assert reason in refused(tmp_path / "model.pth")


def test_older_file_format_of_torch_is_read(tmp_path):
    state = blip_state(image_size_px=16)
    torch.save({"model": state}, tmp_path / "model.pth", _use_new_zipfile_serialization=False)
    found = read_checkpoint(tmp_path / "model.pth").state
    assert all(torch.equal(found[key], state[key]) for key in state)


def changed_file(tmp_path, changes, family="pretrain"):
    """A checkpoint with other tensors in some places, or none where the change is None."""
    state = {**blip_state(family=family, image_size_px=16), **changes}
    torch.save({"model": {k: v for k, v in state.items() if v is not None}}, tmp_path / "model.pth")
    return tmp_path / "model.pth"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({f"{BLOCK}.norm1.bias": None}, f"{BLOCK}.norm1.bias: not in the checkpoint"),
        ({f"{BLOCK}.norm3.bias": torch.ones(1)}, f"{BLOCK}.norm3.bias: no place in the model"),
        ({"visual_encode_m.x": torch.ones(1)}, "visual_encode_m.x: no place in the model"),
        ({"temp": torch.ones(1)}, "temp: (1,) in the checkpoint, () wanted"),
        (
            {f"{BLOCK}.mlp.fc1.bias": torch.ones(3)},
            f"{BLOCK}.mlp.fc1.bias: (3,) in the checkpoint, (256,) wanted",
        ),
        ({"itm_head.bias": torch.tensor([1.0, float("nan")])}, "itm_head.bias: holds NaN or infin"),
        ({"itm_head.bias": torch.tensor([1, 2])}, "itm_head.bias: holds int64, not floating-point"),
        (
            {"itm_head.bias": torch.ones(2).to(torch.float8_e4m3fn)},
            "itm_head.bias: holds float8_e4m3fn, not floating-point numbers of 16 bits or more",
        ),
        ({"cls_head.0.bias": torch.ones(1)}, "an NLVR2 checkpoint has two cross-attentions"),
        ({"visual_encoder.pos_embed": None}, "visual_encoder.pos_embed: not in the checkpoint"),
        ({"visual_encoder.pos_embed": torch.ones(1, 7, 64)}, "1 + 6 positions are not [CLS] and a"),
        ({"visual_encoder.pos_embed": torch.ones(7, 64)}, "expected 3 axes, got (7, 64)"),
        (
            {"visual_encoder.patch_embed.proj.weight": torch.ones(72, 3, 8, 8)},
            "vision_width: 72 is not a multiple of 64, the width of each of BLIP's heads",
        ),
    ],
)
def test_key_or_shape_that_does_not_fit_is_named(tmp_path, changes, reason):
    assert reason in refused(changed_file(tmp_path, changes))


def test_every_problem_is_told_at_once(tmp_path):
    changes = {"itm_head.bias": None, "extra": torch.ones(1), "temp": torch.ones(1)}
    message = refused(changed_file(tmp_path, changes))
    assert "3 key(s) do not fit" in message
    assert all(f"\n  {key}: " in message for key in changes)


def test_long_list_of_problems_says_how_many_more(tmp_path):
    changes = {f"extra.{number:02}": torch.ones(1) for number in range(25)}
    message = refused(changed_file(tmp_path, changes))
    assert "25 key(s) do not fit" in message
    assert "extra.19" in message
    assert "extra.20" not in message
    assert message.endswith("and 5 more")


def test_captioning_checkpoint_is_refused_with_the_reason(tmp_path):
    changes = dict.fromkeys(
        key for key in blip_state() if key.startswith(("text_encoder.", "temp"))
    )
    message = refused(changed_file(tmp_path, changes), LiteVLForQuestionAnswering)
    assert "a captioning checkpoint has a decoder and no text encoder" in message


def test_file_that_changed_since_it_was_fetched_is_refused(tmp_path):
    path = changed_file(tmp_path, {})
    note = tmp_path / "model.pth.sha256"
    note.write_text(f"{file_sha256(path)}  model.pth\n")
    LiteVLForRetrieval.from_blip(path)
    changed_file(tmp_path, {"temp": torch.tensor(0.5)})
    message = refused(path)
    assert "model.pth.sha256 beside it says" in message
    assert "Delete it and fetch it again" in message
    note.write_bytes(b"\xff\xfe")
    assert "model.pth.sha256 beside it says" in refused(path)


def test_sizes_in_metadata_are_checked(tmp_path):
    for text in ("{", "[]", '{"vision_width": 64}'):
        save_file({"temp": torch.ones(1)}, tmp_path / "m.safetensors", metadata={"sizes": text})
        assert "metadata's 'sizes' are not a table of" in refused(tmp_path / "m.safetensors")


def test_unpickling_asks_torch_for_tensors_only(tmp_path, monkeypatch):
    asked = {}

    def load(_, **options):
        asked.update(options)
        return {"model": {}}

    monkeypatch.setattr(torch, "load", load)
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
        archive.writestr("data", b"")
    refused(tmp_path / "model.pth")
    assert asked == {"map_location": "cpu", "weights_only": True, "mmap": True}


def test_layer_of_a_high_number_does_not_make_a_deep_model(tmp_path):
    changes = {"visual_encoder.blocks.999999999.norm1.bias": torch.ones(1)}
    message = refused(changed_file(tmp_path, changes))
    assert "visual_encoder.blocks.999999999.norm1.bias: no place in the model" in message


def test_tensor_that_claims_more_numbers_than_it_holds_is_refused(tmp_path):
    changes = {"itm_head.bias": torch.ones(1).expand(2**40)}
    assert "'itm_head.bias' claims more numbers than" in refused(changed_file(tmp_path, changes))


def test_metadata_that_speak_of_another_model_than_the_tensors_are_refused(tmp_path):
    config = tiny_model(**STILLS).config
    for name, value in (("vision_depth", 10**9), ("text_mlp_width", 10**9), ("vocab_size", "40")):
        path = tmp_path / "m.safetensors"
        save_blip(path, tiny_model(**STILLS).state_dict(), config)
        with safe_open(path, framework="pt") as file:
            sizes = json.loads(file.metadata()["sizes"]) | {name: value}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        save_file(state, path, metadata={"sizes": json.dumps(sizes)})
        assert f"{name}: {value!r} in the metadata, " in refused(path)


def test_config_json_of_a_larger_model_than_the_weights_is_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name, value in (("text_depth", 100), ("vocab_size", 10**7)):
        (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
        with pytest.raises(WeightsError, match="bytes cannot hold the"):
            LiteVLForRetrieval.from_pretrained(tmp_path)


def test_size_that_no_model_has_is_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"text_depth": 10**9}))
    with pytest.raises(SpecError, match="text_depth: expected a whole number from 1 to 1000"):
        LiteVLForRetrieval.from_pretrained(tmp_path)
