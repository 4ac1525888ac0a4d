"""Archives are unpacked whole or not at all, and never outside their folder."""

import gzip
import io
import logging
import os
import shutil
import stat
import tarfile
import threading
import time
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

import litevl.extract
import litevl.transfer
from litevl.errors import DataError, RunError
from litevl.extract import extract, extracted

CLIPS = {"clips/video0.mp4": b"first", "clips/more/video1.mp4": b"second", "readme.txt": b"read"}


def zipped(path, contents, links=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        for name, target in links:
            info = zipfile.ZipInfo(name)
            info.create_system = 3  # Unix
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target)
    return path


def tarred(path, contents, links=(), kind=tarfile.SYMTYPE, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    return path


def unpacked(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def everything(folder):
    """Every name below a folder, with links and hidden files; without the locks beside them."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(name for name in names if not name.endswith(".lock"))


MAKERS = {
    "clips.zip": zipped,
    "clips.tar": tarred,
    "clips.tar.gz": lambda path, *given: tarred(path, *given, mode="w:gz"),
    "clips.tar.xz": lambda path, *given: tarred(path, *given, mode="w:xz"),
}
BOTH = ["clips.zip", "clips.tar"]


@pytest.mark.parametrize("name", list(MAKERS))
def test_archive_is_unpacked_with_its_folders(name, tmp_path):
    archive = MAKERS[name](tmp_path / name, CLIPS)
    done = extract(archive, tmp_path / "deep" / "videos")
    assert unpacked(tmp_path / "deep" / "videos") == CLIPS
    assert (done.num_files, done.num_bytes, done.num_left_out) == (3, 15, 0)
    assert [path for path in (tmp_path / "deep").iterdir() if path.name[0] != "."] == [
        tmp_path / "deep" / "videos"
    ]


@pytest.mark.parametrize("name", BOTH)
def test_files_can_be_renamed_or_left_out(name, tmp_path):
    archive = MAKERS[name](tmp_path / name, CLIPS)
    done = extract(
        archive, tmp_path / "videos",
        lambda name: None if name.endswith(".txt") else name.rpartition("/")[2],
    )  # fmt: skip
    assert unpacked(tmp_path / "videos") == {"video0.mp4": b"first", "video1.mp4": b"second"}
    assert (done.num_files, done.num_left_out) == (2, 1)


def test_archive_without_a_file_that_is_looked_for_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds none of the files that are looked for"):
        extract(zipped(tmp_path / "a.zip", CLIPS), tmp_path / "videos", lambda _: None)
    assert everything(tmp_path) == ["a.zip"]


def test_second_call_keeps_what_was_changed_since(tmp_path):
    archive, folder = zipped(tmp_path / "a.zip", CLIPS), tmp_path / "videos"
    first = extract(archive, folder)
    (folder / "mine.mp4").write_bytes(b"mine")
    (folder / "readme.txt").unlink()
    assert extract(archive, folder) == first == extracted(folder)
    assert (folder / "mine.mp4").read_bytes() == b"mine"
    assert not (folder / "readme.txt").exists()


def test_what_a_killed_call_left_is_cleared_away(tmp_path):
    (tmp_path / ".videos.unpacking").mkdir()
    (tmp_path / ".videos.unpacking" / "half.mp4").write_bytes(b"half")
    extract(zipped(tmp_path / "a.zip", CLIPS), tmp_path / "videos")
    assert unpacked(tmp_path / "videos") == CLIPS
    assert not (tmp_path / ".videos.unpacking").exists()


def test_folder_with_other_files_is_not_unpacked_over(tmp_path):
    archive, folder = zipped(tmp_path / "a.zip", CLIPS), tmp_path / "videos"
    folder.mkdir()
    (folder / "mine.mp4").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"holds files; a\.zip is not unpacked over it"):
        extract(archive, folder)
    assert everything(folder) == ["mine.mp4"]


def test_folder_with_another_archive_is_not_unpacked_over(tmp_path):
    extract(zipped(tmp_path / "a.zip", CLIPS), tmp_path / "videos")
    with pytest.raises(DataError, match=r"holds what was unpacked of a\.zip"):
        extract(zipped(tmp_path / "b.zip", {"x": b""}), tmp_path / "videos")


def test_another_archive_of_the_same_name_is_not_taken_for_the_first(tmp_path):
    extract(zipped(tmp_path / "a.zip", CLIPS), tmp_path / "videos")
    with pytest.raises(DataError, match=r"holds what was unpacked of a\.zip"):
        extract(zipped(tmp_path / "a.zip", {"x": b""}), tmp_path / "videos")


def test_empty_folder_behind_a_link_is_filled(tmp_path):
    (tmp_path / "large_disk").mkdir()
    (tmp_path / "videos").symlink_to(tmp_path / "large_disk")
    extract(zipped(tmp_path / "a.zip", CLIPS), tmp_path / "videos")
    assert unpacked(tmp_path / "large_disk") == CLIPS
    assert (tmp_path / "videos").is_symlink()


def test_of_two_that_unpack_at_once_one_does_and_the_other_waits(tmp_path, caplog):
    caplog.set_level(logging.INFO, "litevl")
    archive, folder = zipped(tmp_path / "a.zip", CLIPS), tmp_path / "videos"
    is_at_it, goes_on = threading.Event(), threading.Event()

    def rename(name):
        is_at_it.set()
        goes_on.wait(timeout=60)
        return name

    with ThreadPoolExecutor() as threads:
        first = threads.submit(extract, archive, folder, rename)
        is_at_it.wait(timeout=60)
        second = threads.submit(extract, archive, folder)
        while not caplog.messages and not second.done():
            time.sleep(0.01)
        goes_on.set()
    assert first.result() == second.result()
    (waiting,) = caplog.messages
    assert waiting.startswith(f"{folder}: waiting for ")
    assert unpacked(folder) == CLIPS


# Attacks


LEAVING = [
    "../evil", "a/../../evil", "/tmp/evil", "C:/evil", "C:evil", "\\\\host\\evil",
    "a\\..\\..\\evil",
]  # fmt: skip


def refused(archive, tmp_path, says):
    """The archive is refused, and nothing is anywhere that was not there before."""
    before = everything(tmp_path)
    with pytest.raises(DataError, match=says):
        extract(archive, tmp_path / "in" / "videos")
    assert everything(tmp_path) == sorted([*before, "in"])


@pytest.mark.parametrize("maker", BOTH)
@pytest.mark.parametrize("name", LEAVING)
def test_names_that_leave_the_folder_are_refused(maker, name, tmp_path):
    archive = MAKERS[maker](tmp_path / maker, {"video0.mp4": b"", name: b"evil"})
    refused(archive, tmp_path, "would leave the folder. Nothing was unpacked")


@pytest.mark.parametrize("maker", BOTH)
@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc", "a/../../../x"])
def test_links_out_of_the_folder_are_refused(maker, target, tmp_path):
    archive = MAKERS[maker](tmp_path / maker, {"d/video0.mp4": b""}, [("d/link", target)])
    refused(archive, tmp_path, "is a link out of the folder")


def test_hard_links_out_of_the_folder_are_refused(tmp_path):
    links = [("video1.mp4", "../secret")]
    archive = tarred(tmp_path / "a.tar", {"video0.mp4": b""}, links, tarfile.LNKTYPE)
    refused(archive, tmp_path, "is a link out of the folder")


@pytest.mark.parametrize("maker", BOTH)
def test_files_behind_a_link_to_a_folder_stay_inside(maker, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    links = [("d", "."), ("d/e", ".."), ("d/e/f", "g")]
    archive = MAKERS[maker](tmp_path / maker, {"d/e/x": b"x"}, links)
    extract(archive, tmp_path / "in" / "videos")
    assert unpacked(tmp_path / "in" / "videos") == {"d/e/x": b"x"}
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]
    assert everything(outside) == []


@pytest.mark.parametrize("maker", BOTH)
def test_links_to_a_file_become_that_file_and_others_are_left_out(maker, tmp_path):
    links = [("train/video0.mp4", "../all/video0.mp4"), ("lost", "nothing"), ("folder", "all")]
    archive = MAKERS[maker](tmp_path / maker, {"all/video0.mp4": b"clip"}, links)
    done = extract(archive, tmp_path / "videos")
    expected = {"all/video0.mp4": b"clip", "train/video0.mp4": b"clip"}
    assert unpacked(tmp_path / "videos") == expected
    assert (done.num_files, done.num_left_out) == (2, 2)


def test_hard_link_becomes_the_file_it_points_to(tmp_path):
    links = [("b/video1.mp4", "a/video0.mp4")]
    archive = tarred(tmp_path / "a.tar", {"a/video0.mp4": b"clip"}, links, tarfile.LNKTYPE)
    extract(archive, tmp_path / "videos")
    assert unpacked(tmp_path / "videos")["b/video1.mp4"] == b"clip"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_refused(kind, tmp_path):
    archive = tarred(tmp_path / "a.tar", {"video0.mp4": b""}, [("dev", "")], kind)
    refused(archive, tmp_path, "is neither a file nor a folder nor a link")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("maker", BOTH)
@pytest.mark.parametrize(
    "second", ["a/video0.mp4", "./a/video0.mp4", "a//video0.mp4", "a/video0.mp4/x"]
)
def test_names_that_occur_twice_are_refused(maker, second, tmp_path):
    path = tmp_path / maker
    MAKERS[maker](path, {"a/video0.mp4": b"1"})
    if maker == "clips.zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(second, b"2")
    else:
        with tarfile.open(path, "a") as archive:
            archive.addfile(tarfile.TarInfo(second), io.BytesIO())
    refused(path, tmp_path, "occurs twice")


def test_two_files_renamed_to_one_are_refused(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"a/x.mp4": b"1", "b/x.mp4": b"2"})
    with pytest.raises(DataError, match=r"'b/x\.mp4' occurs twice, as 'x\.mp4'"):
        extract(archive, tmp_path / "videos", lambda name: name.rpartition("/")[2])


@pytest.mark.parametrize("maker", ["clips.zip", "clips.tar.gz"])
def test_archive_that_unpacks_to_an_absurd_size_is_refused(maker, tmp_path, monkeypatch):
    monkeypatch.setattr(litevl.extract, "SMALL_BYTES", 1000)
    archive = MAKERS[maker](tmp_path / maker, {f"{i}": bytes(10**6) for i in range(3)})
    refused(archive, tmp_path, "unpacks to over 100 times its size")


def test_small_archive_may_unpack_to_any_multiple_of_its_size(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"plain.mp4": bytes(10**6)})
    assert archive.stat().st_size * litevl.extract.MAX_RATIO < 10**6
    extract(archive, tmp_path / "videos")
    assert unpacked(tmp_path / "videos") == {"plain.mp4": bytes(10**6)}


@pytest.mark.parametrize(
    ("size", "says"), [(50, "damaged or with a password"), (9000, r"'video0\.mp4' is cut short")]
)
def test_zip_that_lies_about_a_size_is_refused(tmp_path, size, says):
    archive = zipped(tmp_path / "a.zip", {"video0.mp4": bytes(5000)})
    lying = archive.read_bytes().replace((5000).to_bytes(4, "little"), size.to_bytes(4, "little"))
    archive.write_bytes(lying)
    refused(archive, tmp_path, says)


def test_link_in_a_zip_whose_target_is_no_path_is_not_read(tmp_path):
    links = [("link", "a" * litevl.extract.MAX_TARGET)]
    archive = zipped(tmp_path / "a.zip", {"video0.mp4": b""}, links)
    refused(archive, tmp_path, "is neither a file nor a folder nor a link")


def test_archive_with_an_absurd_number_of_entries_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(litevl.extract, "MAX_MEMBERS", 2)
    archive = zipped(tmp_path / "a.zip", CLIPS)
    refused(archive, tmp_path, "is entry 3. Nothing was unpacked")


@pytest.mark.parametrize("maker", BOTH)
def test_disk_too_small_for_all_files_is_told_before_the_first(maker, tmp_path, monkeypatch):
    """Each of them alone would fit."""
    archive = MAKERS[maker](tmp_path / maker, {f"{n}.mp4": bytes(5 * 10**6) for n in range(2)})
    usage = types.SimpleNamespace(free=litevl.transfer.SPARE_BYTES + 6 * 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RunError, match=r"10\.0 MB more are needed"):
        extract(archive, tmp_path / "in" / "videos")
    assert everything(tmp_path / "in") == []


def test_disk_too_small_for_a_file_of_a_compressed_tar_is_told_before_it(tmp_path, monkeypatch):
    archive = MAKERS["clips.tar.gz"](tmp_path / "a.tar.gz", {"video0.mp4": bytes(10**7)})
    usage = types.SimpleNamespace(free=litevl.transfer.SPARE_BYTES + 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RunError, match=r"10\.0 MB more are needed"):
        extract(archive, tmp_path / "in" / "videos")
    assert everything(tmp_path / "in") == []


@pytest.mark.parametrize("name", list(MAKERS))
def test_archive_cut_short_leaves_nothing(name, tmp_path):
    contents = {f"{i}.mp4": os.urandom(5000) for i in range(20)}
    archive = MAKERS[name](tmp_path / name, contents)
    archive.write_bytes(archive.read_bytes()[:60_000])
    refused(archive, tmp_path, "cut short|damaged")


@pytest.mark.parametrize("name", ["clips.zip", "clips.tar.gz", "clips.tar.xz"])
def test_flipped_bytes_leave_nothing(name, tmp_path):
    contents = {f"{i}.mp4": os.urandom(5000) for i in range(20)}
    archive = MAKERS[name](tmp_path / name, contents)
    content = bytearray(archive.read_bytes())
    content[50_000:50_064] = bytes(byte ^ 0xFF for byte in content[50_000:50_064])
    archive.write_bytes(content)
    refused(archive, tmp_path, "damaged")


def test_compressed_tar_is_read_to_the_checksum_at_its_end(tmp_path):
    """Behind the last entry a tar is padded, by whoever made it with as much as they liked."""
    plain = tarred(tmp_path / "a.tar", {"video0.mp4": b"clip"}).read_bytes() + bytes(10**6)
    content = bytearray(gzip.compress(plain))
    content[-8] ^= 1  # the checksum
    (tmp_path / "a.tar.gz").write_bytes(content)
    refused(tmp_path / "a.tar.gz", tmp_path, "damaged")


def test_page_saved_as_an_archive_is_refused(tmp_path):
    (tmp_path / "a.zip").write_text("<html>gone</html>")
    refused(tmp_path / "a.zip", tmp_path, "neither a zip nor a tar archive")


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    archive = zipped(tmp_path / "a.zip", CLIPS)
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(RunError, match="No space left on device"):
        extract(archive, tmp_path / "in" / "videos")
    assert everything(tmp_path / "in") == []
