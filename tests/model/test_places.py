"""What a spec may name as weights, where it lies, and how it is fetched."""

import json
from pathlib import Path

import pytest
from hub import COMMIT, hub

from litevl.assets import MINI_BLIP
from litevl.cli import main
from litevl.errors import WeightsError
from litevl.model.places import (
    fetch_command,
    fetch_from_hub,
    require_weights,
    revision_of,
    vocabulary_beside,
    weights_path,
)

WHOLE = {"config.json": b"{}", "model.safetensors": b"1", "pytorch_model.bin": b"2"}
SHARDS = {
    "config.json": b"{}",
    "vocab.txt": b"[PAD]",
    "pytorch_model.bin.index.json": b"{}",
    "pytorch_model-00001-of-00002.bin": b"1",
    "pytorch_model-00002-of-00002.bin": b"2",
    "flax_model.msgpack": b"3",
}


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with hub({"me/whole": WHOLE, "me/shards": SHARDS, "me/none": {"config.json": b"{}"}}) as site:
        yield site


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mini-blip", MINI_BLIP),
        ("some/where.pth", Path("some/where.pth")),
        ("blip:model_base_14M", Path("data/weights/model_base_14M.pth")),
        ("hub:me/blip-itm.2", Path("data/weights/hub/me/blip-itm.2")),
        ("hub:me/blip@v1.0", Path("data/weights/hub/me/blip@v1.0")),
    ],
)
def test_name_stands_for_a_place(name, place):
    assert weights_path(name) == place


@pytest.mark.parametrize(
    "name", ["hub:", "hub:blip", "hub:me/../blip", "hub:me/blip@", "hub:a/b/c", "hub:me/.."]
)
def test_name_of_a_hub_repository_has_two_parts(name):
    with pytest.raises(WeightsError, match="expected hub:OWNER/NAME"):
        weights_path(name)


def test_unknown_checkpoint_of_blip_lists_those_that_there_are():
    with pytest.raises(WeightsError, match="did you mean 'blip:model_base_14M'") as caught:
        weights_path("blip:model_base_14m")
    assert "blip:model_base_capfilt_large" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("blip:model_vqa", "litevl data fetch blip:model_vqa"),
        ("data/weights/model_vqa.pth", "litevl data fetch blip:model_vqa"),
        ("hub:me/blip", "litevl data fetch hub:me/blip"),
        ("elsewhere/model_vqa.pth", None),  # the command would put it in another place
        ("data/weights/my_own.pth", None),
    ],
)
def test_missing_checkpoint_is_told_with_the_command_that_fetches_it(
    name, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert fetch_command(name) == command
    with pytest.raises(WeightsError, match=command or "no such file; give 'mini-blip' or a check"):
        require_weights(name)


def test_vocabulary_lies_in_the_folder_or_beside_the_file(tmp_path):
    assert vocabulary_beside(tmp_path) == tmp_path / "vocab.txt"
    assert vocabulary_beside(tmp_path / "model.pth") == tmp_path / "vocab.txt"


def test_checkpoint_of_the_hub_is_fetched_once_from_one_commit(site, tmp_path):
    fetched = fetch_from_hub("hub:me/whole", tmp_path, site.url)
    folder = tmp_path / "hub/me/whole"
    assert [each.path for each in fetched] == [
        folder / "config.json",
        folder / "model.safetensors",  # where there is a choice, nothing pickled
    ]
    assert revision_of(folder) == COMMIT
    again = fetch_from_hub("hub:me/whole", tmp_path, site.url)
    assert not any(each.is_new for each in again)
    described = [path for _, path, _ in site.requests if path.startswith("/api/")]
    assert described[0] == "/api/models/me/whole"
    # Whatever was pushed there since: the rest of the first call, and all of the second.
    assert set(described[1:]) == {f"/api/models/me/whole/revision/{COMMIT}"}


def test_shards_and_vocabulary_are_fetched_and_nothing_else(site, tmp_path):
    fetched = fetch_from_hub("hub:me/shards@v1", tmp_path, site.url)
    assert {each.path.name for each in fetched} == set(SHARDS) - {"flax_model.msgpack"}
    assert revision_of(tmp_path / "hub/me/shards@v1") == COMMIT


def test_repository_without_weights_is_refused(site, tmp_path):
    with pytest.raises(WeightsError, match=r"me/none: no weights; looked for model.safetensors"):
        fetch_from_hub("hub:me/none", tmp_path, site.url)


def test_command_fetches_from_the_hub(site, tmp_path, monkeypatch, capsys):
    from litevl.model import places

    def fetch(name, root):
        return fetch_from_hub(name, root, site.url)

    monkeypatch.setattr(places, "fetch_from_hub", fetch)
    command = ["data", "fetch", "hub:me/whole", "--root", str(tmp_path), "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["root"] == str(tmp_path / "hub/me/whole")
    assert [Path(each["path"]).name for each in told["files"]] == [
        "config.json",
        "model.safetensors",
    ]
