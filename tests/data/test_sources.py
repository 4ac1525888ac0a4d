"""The list of places that files are had from, as it ships."""

import re
from pathlib import Path
from typing import get_args

import pytest

from litevl.data.annotations import CLIP_FOLDERS
from litevl.data.sources import GITHUB, sources
from litevl.download import leaves_folder
from litevl.errors import DataError
from litevl.tasks import Dataset

DATA_SETS = get_args(Dataset)


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_file_on_github_is_pinned_to_a_commit_and_a_content(name):
    files = [each for each in sources(name).files if each.url and each.url.startswith(GITHUB)]
    assert files == list(sources(name).files)
    for each in files:
        assert re.fullmatch("[0-9a-f]{40}", each.revision), each.path
        assert f"/{each.revision}/" in each.url
        known = each.known
        if known.sha256:
            assert re.fullmatch("[0-9a-f]{64}", known.sha256), each.path
            assert known.num_bytes, each.path
        else:
            assert re.fullmatch("[0-9a-f]{40}", known.git_blob), each.path


@pytest.mark.parametrize("name", DATA_SETS)
def test_clips_go_where_the_loaders_look(name):
    for archives in sources(name).clips.values():
        folders = [each.folder for each in archives]
        assert set(folders) <= {*CLIP_FOLDERS, "YouTubeClips"}
        assert len(set(folders)) == len(folders)  # one archive each


@pytest.mark.parametrize("name", [*DATA_SETS, "blip:model_base_14M"])
def test_every_place_is_an_address_and_every_file_stays_in_its_folder(name):
    source = sources(name)
    archives = [each for place in source.clips.values() for each in place]
    for each in [*source.files, *archives]:
        assert each.address.startswith(("https://", "hf://")), each
        assert not leaves_folder(each.path)
        assert (each.url is None) == (each.hub is not None)
    assert source.licence
    assert len({each.path for each in source.files}) == len(source.files)


def test_both_data_sets_on_the_same_clips_have_the_same_official_files():
    theirs = {each.path: each for each in sources("msrvtt").files}
    shared = [each for each in sources("msrvtt-qa").files if each.path in theirs]
    assert len(shared) == 2
    assert all(theirs[each.path] == each for each in shared)


def test_checkpoint_is_one_file_and_its_words():
    file, words = sources("blip:model_base_14M").files
    assert (file.path, words.path) == ("model_base_14M.pth", "vocab.txt")
    assert file.url.endswith("/BLIP/models/model_base_14M.pth")


def test_unknown_name_lists_those_that_there_are():
    with pytest.raises(DataError, match=r"did you mean 'msvd-qa'\?\n  msrvtt\n") as caught:
        sources("msvdqa")
    assert "  blip:model_large_retrieval_flickr" in str(caught.value)


@pytest.mark.data
def test_what_is_known_of_the_published_files_is_so(annotations):
    places = {
        "msrvtt": ["official/train_val_annotation.zip", "official/test_videodatainfo.json.zip",
                   "MSRVTT_JSFUSION_test.csv", "MSRVTT_train.9k.csv", "MSRVTT_train.7k.csv"],
        "didemo": ["original/val_data.json"],
        "msvd-qa": ["original/train_qa.json", "original/val_qa.json",
                    "original/youtube_mapping.txt"],
        "msrvtt-qa": ["clipbert/val.jsonl", "clipbert/train_ans2label.json"],
    }  # fmt: skip
    for name, paths in places.items():
        there = {Path(path).name: annotations / name.replace("-", "_") / path for path in paths}
        files_there = [each for each in sources(name).files if each.path in there]
        assert len(files_there) == len(paths)
        for each in files_there:
            _, differences = each.known.differences(there[each.path])
            assert differences == [], each.path


def test_clips_are_kept_out_of_the_loaders_sight_until_they_are_unpacked():
    archives = [each for place in sources("msrvtt").clips.values() for each in place]
    assert all(each.path.startswith(".downloads/") for each in archives)
