"""Files of hub repositories, fetched by the real client from a hub on this machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub import COMMIT, blob_id, hub, sha256, usage

import litevl.transfer
from litevl.download import Known, fetch_hub
from litevl.errors import DataError, RunError

LARGE = np.random.default_rng(0).bytes(3_000_000)
FILES = {"clips.zip": LARGE, "lists/train.json": b"[1]", "lists/test.json": b"[2]", "card.md": b"x"}
NAME = "datasets/me/clips"


@pytest.fixture(autouse=True)
def straight(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def site():
    with hub({NAME: dict(FILES), "me/model": {"config.json": b"{}"}}) as site:
        yield site


def fetch(site, folder, *filenames, repo_id="me/clips", **options):
    options = {"repo_type": "dataset", "endpoint": site.url, **options}
    return fetch_hub(repo_id, filenames, folder, **options)


def test_files_arrive_with_the_commit_they_are_of(site, tmp_path):
    large, small = fetch(site, tmp_path, "clips.zip", "lists/train.json", revision="v1")
    assert (tmp_path / "clips.zip").read_bytes() == LARGE
    assert large.path == tmp_path / "clips.zip"
    assert (large.revision, large.sha256, large.num_bytes) == (COMMIT, sha256(LARGE), 3_000_000)
    assert large.source == f"hf://{NAME}@{COMMIT}/clips.zip"
    assert small.path.read_bytes() == b"[1]"
    asked = [path for _, path, _ in site.requests if "/resolve/" in path]
    assert asked
    assert all(f"/resolve/{COMMIT}/" in path for path in asked)  # not of what "v1" is by now
    assert large.is_new
    assert small.is_new


def test_pattern_stands_for_every_file_that_matches(site, tmp_path):
    found = fetch(site, tmp_path, "lists/*.json", "*/train.json")
    assert [each.path.name for each in found] == ["train.json", "test.json"]


def test_model_repositories_are_fetched_too(site, tmp_path):
    (found,) = fetch(site, tmp_path, "config.json", repo_id="me/model", repo_type="model")
    assert found.source == f"hf://me/model@{COMMIT}/config.json"


def test_second_call_fetches_nothing_again(site, tmp_path):
    fetch(site, tmp_path, "clips.zip", "card.md")
    site.sent = 0
    again = fetch(site, tmp_path, "clips.zip", "card.md")
    assert site.sent == 0
    assert not any(each.is_new for each in again)


def test_connection_cut_in_the_middle_is_continued(site, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    site.cuts = [1_000_000]
    fetch(site, tmp_path, "clips.zip")
    assert (tmp_path / "clips.zip").read_bytes() == LARGE
    assert len(LARGE) <= site.sent <= len(LARGE) + 1_000_000
    asked = [asked for method, path, asked in site.requests if path.startswith("/cdn/")]
    assert [bool(each) for each in asked] == [False, True]


@pytest.mark.parametrize("name", ["clips.zip", "card.md"])
def test_content_other_than_the_hub_says_is_refused(site, tmp_path, name):
    content = FILES[name]
    site.lies[name] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(DataError, match=f"{name}: not the file that is expected"):
        fetch(site, tmp_path, name)


@pytest.mark.parametrize("name", ["sha256", "md5"])
def test_checksum_given_goes_before_what_the_hub_says(site, tmp_path, name):
    with pytest.raises(DataError, match=f"{name}: expected 0000, found "):
        fetch(site, tmp_path, "clips.zip", known={"clips.zip": Known(**{name: "0000"})})


def test_file_here_that_differs_is_reported_and_kept(site, tmp_path):
    (tmp_path / "card.md").write_bytes(b"mine")
    with pytest.raises(DataError, match=f"git_blob: expected {blob_id(b'x')}"):
        fetch(site, tmp_path, "card.md")
    assert (tmp_path / "card.md").read_bytes() == b"mine"


def test_every_file_that_is_not_there_is_named(site, tmp_path):
    with pytest.raises(DataError, match=r"no such file:\n  clips\.tar\n  videos/\*"):
        fetch(site, tmp_path, "card.md", "clips.tar", "videos/*")
    assert os.listdir(tmp_path) == []


def test_unknown_revision_is_named(site, tmp_path):
    with pytest.raises(DataError, match=f"{NAME}: the hub has no revision 'v9' of it"):
        fetch(site, tmp_path, "card.md", revision="v9")


def test_gated_repository_says_how_to_get_in(site, tmp_path):
    site.gated = [NAME]
    with pytest.raises(DataError, match=r"accepted its terms(.|\n)*then log in: hf auth login"):
        fetch(site, tmp_path, "card.md")


def test_unknown_repository_is_named(site, tmp_path):
    with pytest.raises(DataError, match=r"datasets/me/nothing: .*repository"):
        fetch(site, tmp_path, "card.md", repo_id="me/nothing")


def test_hub_that_fails_is_not_the_users_mistake(site, tmp_path):
    site.statuses = [500] * 99
    with pytest.raises(RunError, match=r"could not be reached: .*500(.|\n)*command continues"):
        fetch(site, tmp_path, "card.md")


def test_hub_that_is_not_there_is_said_so(tmp_path):
    with hub({}) as site:
        pass
    with pytest.raises(RunError, match=r"could not be reached: .*refused"):
        fetch(site, tmp_path, "card.md")


@pytest.mark.parametrize("name", ["me/clips--old", "me/clips.git"])
def test_name_that_the_hub_cannot_have_is_the_users_mistake(site, tmp_path, name):
    with pytest.raises(DataError, match=f"datasets/{name}: no name that the hub could have: "):
        fetch(site, tmp_path, "card.md", repo_id=name)


def test_file_that_xet_cannot_fetch_is_no_traceback(site, tmp_path, monkeypatch):
    def break_off(*_args, **_options):
        raise RuntimeError("Task error: CAS Client Error: error sending request")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", break_off)
    with pytest.raises(RunError, match=r"could not be reached: Task error(.|\n)*command continues"):
        fetch(site, tmp_path, "clips.zip")


def test_names_that_leave_the_folder_are_refused(site, tmp_path):
    site.contents[NAME]["../evil.json"] = b"evil"
    with pytest.raises(DataError, match=r"leave the folder: \['\.\./evil\.json'\]"):
        fetch(site, tmp_path / "in", "*.json")
    assert os.listdir(tmp_path) == []


def test_disk_without_room_is_told_before_anything_is_fetched(site, tmp_path, monkeypatch):
    free = litevl.transfer.SPARE_BYTES + 2_000_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free))
    with pytest.raises(RunError, match=r"3\.0 MB more are needed, 69\.1 MB are free"):
        fetch(site, tmp_path, "clips.zip")
    assert site.sent == 0


def test_address_of_the_hub_can_be_given_by_the_environment(site, tmp_path):
    code = (
        "from pathlib import Path; from litevl.download import fetch_hub;"
        "print(fetch_hub('me/clips', ['card.md'], Path('x'), repo_type='dataset')[0].revision)"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": site.url,
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == COMMIT, done.stderr
