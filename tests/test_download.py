"""Files fetched over HTTP from a server on this machine that has every fault asked for."""

import hashlib
import io
import os
import shutil
import ssl
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from web import files, serve

import litevl.transfer
from litevl.download import fetch_url
from litevl.errors import DataError, RunError
from litevl.transfer import transfer

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
BLOB = hashlib.sha1(b"blob 3000000\0" + CONTENT).hexdigest()  # git's name for the content


@pytest.fixture(autouse=True)
def straight_and_without_waiting(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(litevl.transfer, "BACKOFF_SECONDS", (0.0, 0.0))


@pytest.fixture
def site():
    site = files({"/clips.zip": CONTENT})
    with serve(site.handle) as address:
        site.url = f"{address}/clips.zip"
        yield site


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "clips.zip"


def names(path):
    """What lies beside a file; the lock does, too, and is hidden."""
    return sorted(each.name for each in path.parent.iterdir() if each.name[0] != ".")


def part_of(path):
    return path.with_name(f"{path.name}.part")


def broken_after(site, path, num_bytes, **known):
    """Let a fetch fail after that many bytes of the file, as a killed program leaves it."""
    site.cuts, site.statuses = [num_bytes], []
    site_ranges, site.ranges = site.ranges, True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(litevl.transfer, "BACKOFF_SECONDS", ())
        with pytest.raises(RunError):
            fetch_url(site.url, path, progress=False, **known)
    site.ranges = site_ranges
    site.requests.clear()
    site.sent.clear()


def test_file_is_fetched_whole_and_checked(site, path):
    fetched = fetch_url(
        site.url, path, sha256=SHA256, md5=MD5, git_blob=BLOB, num_bytes=len(CONTENT)
    )
    assert path.read_bytes() == CONTENT
    assert fetched.sha256 == SHA256
    assert (fetched.num_bytes, fetched.source, fetched.is_new) == (len(CONTENT), site.url, True)
    assert names(path) == ["clips.zip"]


def test_second_call_asks_the_server_nothing(site, path):
    fetch_url(site.url, path, sha256=SHA256)
    site.requests.clear()
    assert not fetch_url(site.url, path, sha256=SHA256).is_new
    assert site.requests == []


def test_connection_cut_in_the_middle_is_continued_in_the_same_call(site, path):
    site.cuts = [1_000_000]
    fetch_url(site.url, path, sha256=SHA256, progress=False)
    assert path.read_bytes() == CONTENT
    (_, first), (_, second) = site.requests
    assert first is None
    start = int(second.removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 1_000_000
    assert site.sent["/clips.zip"] == 1_000_000 + len(CONTENT) - start


def test_next_call_continues_what_an_earlier_one_left(site, path):
    broken_after(site, path, 2_000_000, sha256=SHA256)
    kept = (path.parent / "clips.zip.part").stat().st_size
    assert kept > 0
    fetch_url(site.url, path, sha256=SHA256, progress=False)
    assert site.requests == [("/clips.zip", f"bytes={kept}-")]
    assert site.sent["/clips.zip"] == len(CONTENT) - kept
    assert names(path) == ["clips.zip"]


def test_server_that_ignores_range_is_asked_for_all_of_it(site, path):
    broken_after(site, path, 1_000_000, sha256=SHA256)
    site.ranges = False
    fetch_url(site.url, path, sha256=SHA256, progress=False)
    assert path.read_bytes() == CONTENT
    assert site.sent["/clips.zip"] == len(CONTENT)


def test_file_that_changed_in_between_starts_anew(site, path):
    broken_after(site, path, 1_000_000)
    site.contents["/clips.zip"] = changed = CONTENT[::-1]
    fetch_url(site.url, path, progress=False)
    assert path.read_bytes() == changed
    assert [asked is None for _, asked in site.requests] == [False, True]


def test_without_a_mark_of_its_version_or_a_checksum_nothing_is_continued(site, path):
    site.etag = False
    broken_after(site, path, 1_000_000)
    fetch_url(site.url, path, progress=False)
    assert site.requests == [("/clips.zip", None)]


def test_with_a_checksum_it_is_continued_without_a_mark_of_its_version(site, path):
    site.etag = False
    broken_after(site, path, 1_000_000, sha256=SHA256)
    fetch_url(site.url, path, sha256=SHA256, progress=False)
    assert site.requests[0][1] is not None
    assert path.read_bytes() == CONTENT


def test_leftover_longer_than_the_file_is_dropped(site, path):
    broken_after(site, path, 1_000_000)
    with (path.parent / "clips.zip.part").open("ab") as part:
        part.write(CONTENT)
    fetch_url(site.url, path, progress=False)
    assert path.read_bytes() == CONTENT


def test_part_of_the_file_that_is_not_the_one_asked_for_is_not_joined(site, path):
    broken_after(site, path, 1_000_000)
    site.shifts = [1000]
    fetch_url(site.url, path, progress=False)
    assert path.read_bytes() == CONTENT


def test_part_of_the_file_that_does_not_say_which_is_not_taken_for_the_file(site, path):
    broken_after(site, path, 1_000_000)
    site.says_range = False
    fetch_url(site.url, path, progress=False)
    assert path.read_bytes() == CONTENT
    assert [asked is None for _, asked in site.requests] == [False, True]


def test_file_that_was_fetched_whole_but_not_checked_is_not_fetched_again(site, path):
    path.parent.mkdir()
    transfer(site.url, part_of(path), num_bytes=None, has_checksum=False, progress=False)
    fetch_url(site.url, path, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert len(site.requests) == 1


def test_what_is_left_of_a_file_at_another_address_is_dropped(site, path):
    path.parent.mkdir()
    transfer(site.url, part_of(path), num_bytes=None, has_checksum=False, progress=False)
    site.contents["/other.zip"] = CONTENT[::-1]
    fetch_url(site.url.replace("clips.zip", "other.zip"), path, progress=False)
    assert path.read_bytes() == CONTENT[::-1]
    assert site.requests[1:] == [("/other.zip", None)]


def test_what_a_killed_call_left_of_an_old_version_is_not_continued_with_a_new_one(
    site, path, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt

    broken_after(site, path, 1_000_000)
    site.contents["/clips.zip"] = changed = CONTENT[::-1]
    site.ranges = False  # so all of it is sent, from its first byte on
    with monkeypatch.context() as patch:
        patch.setattr(litevl.transfer, "_copy", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch_url(site.url, path, progress=False)
    site.ranges = True
    fetch_url(site.url, path, progress=False)
    assert path.read_bytes() == changed


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, "reset"])
def test_passing_failure_is_tried_again(site, path, status):
    site.statuses = [status, status]
    fetch_url(site.url, path, sha256=SHA256, progress=False)
    assert len(site.requests) == 3


def test_failure_that_does_not_pass_ends_after_a_few_tries(site, path):
    site.statuses = [503] * 9
    with pytest.raises(RunError, match=r"503 Service Unavailable \(tried 3 times\)"):
        fetch_url(site.url, path, progress=False)
    assert len(site.requests) == 3


@pytest.mark.parametrize(("status", "says"), [(404, "no such file"), (403, "to everyone")])
def test_refusal_is_not_tried_again(site, path, status, says):
    site.statuses = [status] * 3
    with pytest.raises(DataError, match=says):
        fetch_url(site.url, path, progress=False)
    assert len(site.requests) == 1
    assert not path.exists()


def test_server_that_is_not_there_is_said_so(tmp_path):
    with serve(lambda _: None) as address:
        pass
    with pytest.raises(RunError, match=r"no connection: .*refused(.|\n)*Nothing of it was fetched"):
        fetch_url(f"{address}/x", tmp_path / "x", progress=False)


@pytest.mark.parametrize("known", [{"sha256": "0" * 64}, {"md5": "0" * 32}, {"git_blob": "0" * 40}])
def test_wrong_checksum_leaves_nothing_behind(site, path, known):
    with pytest.raises(DataError, match=r"expected 0+, found ") as caught:
        fetch_url(site.url, path, progress=False, **known)
    assert not path.exists()
    assert not (path.parent / "clips.zip.part").exists()
    assert site.url in str(caught.value)


def test_wrong_length_is_found_before_anything_is_fetched(site, path):
    with pytest.raises(DataError, match="3,000,000 bytes; 5 are expected"):
        fetch_url(site.url, path, num_bytes=5, progress=False)
    assert not (path.parent / "clips.zip.part").exists()


def test_wrong_length_is_found_where_the_server_does_not_say_it(site, path):
    site.length = False
    with pytest.raises(DataError, match="num_bytes: expected 5, found 3000000"):
        fetch_url(site.url, path, num_bytes=5, progress=False)


def test_file_here_that_differs_is_reported_and_kept(site, path):
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(DataError, match="Nothing was changed"):
        fetch_url(site.url, path, sha256=SHA256)
    assert path.read_bytes() == b"mine"
    assert site.requests == []


def test_first_checksum_seen_holds_from_then_on(site, path):
    fetch_url(site.url, path, progress=False)
    assert (path.parent / "clips.zip.sha256").read_text() == f"{SHA256}  clips.zip\n"
    assert not fetch_url(site.url, path).is_new
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match=f"sha256: expected {SHA256}"):
        fetch_url(site.url, path)


def test_file_that_changed_since_it_was_first_seen_is_refused(site, path):
    fetch_url(site.url, path, progress=False)
    path.unlink()
    site.contents["/clips.zip"] = b"other"
    with pytest.raises(DataError, match=r"If the change is meant: delete .*clips\.zip\.sha256"):
        fetch_url(site.url, path, progress=False)
    assert not path.exists()


def test_page_in_place_of_a_file_is_refused(site, path):
    site.kind = "text/html; charset=utf-8"
    with pytest.raises(DataError, match="a web page is there instead of the file"):
        fetch_url(site.url, path, progress=False)


def test_redirect_is_followed_with_the_range(site, path):
    site.moved["/old.zip"] = site.url
    moved, site.url = site.url.replace("clips.zip", "old.zip"), site.url
    site.cuts = [1_000_000]
    assert fetch_url(moved, path, sha256=SHA256, progress=False).source == moved
    assert site.requests[-1][1] is not None


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirect_to_anything_but_http_is_not_followed(site, path, target):
    site.moved["/clips.zip"] = target
    with pytest.raises(DataError, match="127"):
        fetch_url(site.url, path, progress=False)
    assert not path.exists()


def test_redirect_from_https_to_http_is_not_followed():
    request = urllib.request.Request("https://site.invalid/x")
    with pytest.raises(DataError, match=r"sends on to http://site\.invalid/x"):
        litevl.transfer._Redirects().redirect_request(
            request, io.BytesIO(), 302, "Found", {}, "http://site.invalid/x"
        )


def test_certificate_that_is_not_valid_is_told_at_once(site, path, monkeypatch):
    tries = []

    def refuse(*_, **__):
        tries.append(1)
        raise urllib.error.URLError(ssl.SSLCertVerificationError(1, "self-signed certificate"))

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
    with pytest.raises(DataError, match=r"certificate is not valid: .*self-signed"):
        fetch_url(site.url, path, progress=False)
    assert len(tries) == 1


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "clips.zip"])
def test_only_web_addresses_are_fetched(url, path):
    with pytest.raises(DataError, match="only http and https"):
        fetch_url(url, path)


def test_disk_without_room_is_told_before_anything_is_written(site, path, monkeypatch):
    usage = types.SimpleNamespace(free=litevl.transfer.SPARE_BYTES + 2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RunError, match=r"not enough space: 3\.0 MB more are needed"):
        fetch_url(site.url, path, progress=False)
    assert names(path) == []
    with pytest.raises(RunError, match="not enough space"):
        fetch_url(site.url, path, num_bytes=len(CONTENT), progress=False)
    assert len(site.requests) == 1  # the second time it was known beforehand


def test_folder_that_cannot_be_written_is_said_so(site, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunError, match="file"):
        fetch_url(site.url, tmp_path / "file" / "clips.zip", progress=False)


# Two processes at once


def start_fetching(url, path):
    """A process of its own that fetches a file, and says at once when it waits for another."""
    code = (
        "import logging, sys; from pathlib import Path;"
        "from litevl.download import fetch_url;"
        "logging.basicConfig(format='%(message)s', level=logging.INFO);"
        "print(fetch_url(sys.argv[1], Path(sys.argv[2]), progress=False).is_new)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, url, str(path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_two_processes_one_fetches_and_the_other_waits_for_it(site, path):
    site.held.clear()  # the first one is not served before the second has come
    with start_fetching(site.url, path) as first:
        while not site.requests and first.poll() is None:
            time.sleep(0.01)
        with start_fetching(site.url, path) as second:
            waits = second.stderr.readline()
            site.held.set()
            assert second.communicate()[0] == "False\n"
        assert first.communicate()[0] == "True\n"
    assert waits.startswith(f"{path}: waiting for ")
    assert site.requests == [("/clips.zip", None)]
    assert path.read_bytes() == CONTENT


def test_lock_of_a_killed_process_holds_nobody_up(site, path):
    site.held.clear()
    with start_fetching(site.url, path) as killed:
        while not site.requests and killed.poll() is None:
            time.sleep(0.01)
        killed.kill()
    site.held.set()
    fetch_url(site.url, path, sha256=SHA256, progress=False)
    assert path.read_bytes() == CONTENT
