"""Annotation files are told apart by what they hold, and a bad folder costs nothing but a line."""

import io
import json
import os
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litevl.data import folder
from litevl.data.kinds import Kind
from litevl.data.recognise import recognise
from litevl.data.retrieval_kinds import DIDEMO_ID, clip_id

MSRVTT_OFFICIAL = {"info": {}, "videos": [], "sentences": []}
MOMENT = {"video": "1@N00_1_a.mov", "description": "a", "times": [[0, 0]], "annotation_id": 1}


def kinds(root):
    """Name -> role and format of every recognised file."""
    return {found.name: (found.kind.role, found.kind.format) for found in recognise(root).files}


def test_names_and_places_do_not_matter(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.bak").write_text(json.dumps(MSRVTT_OFFICIAL))
    (tmp_path / "a" / "no_suffix").write_text("key,vid_key,video_id,sentence\nret0,msr1,video1,a\n")
    (tmp_path / "list").write_text("".join(f"video{n}\n" for n in range(7010)))
    with zipfile.ZipFile(tmp_path / "archive.bin2", "w") as archive:
        archive.writestr("deep/er.txt", "video_id\n" + "".join(f"video{n}\n" for n in range(9000)))
    assert kinds(tmp_path) == {
        "a/b/x.bak": ("clips", "official JSON"),
        "a/no_suffix": ("test", "1k-A CSV"),
        "archive.bin2:deep/er.txt": ("9k", "list of ids"),
        "list": ("7k", "list of ids"),
    }


@pytest.mark.data
def test_real_files_are_recognised_under_any_name(annotations, tmp_path):
    for number, found in enumerate(recognise(annotations).files):
        (tmp_path / f"{number}").symlink_to(annotations / found.name.partition(":")[0])
    by_content = {found.kind for found in recognise(tmp_path).files}
    assert by_content == {found.kind for found in recognise(annotations).files}
    assert by_content >= {
        Kind("msrvtt", "clips", "official JSON"),
        Kind("msrvtt", "test", "1k-A CSV"),
        Kind("msrvtt", "test", "JSON list"),
        Kind("msrvtt", "9k", "list of ids"),
        Kind("msrvtt", "7k", "list of ids"),
        Kind("didemo", "validation", "original JSON"),
        Kind("didemo", "validation", "JSON list"),
        Kind("didemo", "validation list", "list of names"),
        Kind("didemo", "hashes", "YFCC100M hashes"),
    }


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ([{"video": "video7010.mp4", "caption": "a"}], ("test", "JSON list")),
        ([{"clip_name": "video7010", "caption": "a"}], ("test", "JSON list")),
        ([{"video": "video1.mp4", "caption": "a"}] * 2, None),  # in 1k-A a clip has one caption
        ([{"video": "video1.mp4", "caption": "a", "question": "what?"}], None),
        ([{"video": "1@N00_1_a.mp4", "caption": ["a", "b"]}], ("test", "JSON list")),
        ([MOMENT], ("test", "original JSON")),
        ([MOMENT, 3], ("test", "original JSON")),
        ([MOMENT, 3, 3], None),
        (MSRVTT_OFFICIAL, ("clips", "official JSON")),
        ({"videos": []}, None),
        ('{"clip_name": "video7010", "caption": "a"}\r\n', None),
        ('{"clip_name": "video1", "caption": "a"}\n{"clip_name": "video2", "caption": "a"}\n',
         ("test", "JSON lines")),
        ('\ufeff"key","vid_key","video_id","sentence"\r\n"r","m","video1","a"\r\n',
         ("test", "1k-A CSV")),
        ('"video1"\r\n"video2"\r\n', ("test list", "list of ids")),
        ("1@N00_1_a.\n1@N00_2_b.mov\n", ("test list", "list of names")),
        ("12345\t5b85c5f263745fa9ff83787ba78cfb\n", ("hashes", "YFCC100M hashes")),
        ("some words\n", None),
        ("", None),
        ("[]", None),
    ],
)  # fmt: skip
def test_each_format_is_told_from_the_others(tmp_path, text, kind):
    text = text if isinstance(text, str) else json.dumps(text)
    (tmp_path / "test").write_text(text, encoding="utf-8", newline="")
    assert kinds(tmp_path) == ({"test": kind} if kind else {})


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("video7.mp4", "video7"), ("videos/all/video7.mp4", "video7"), ("video7/", "video7"),
        ("video7", "video7"), ("x.y.mp4", "x.y"), (" video7 ", "video7"),
    ],
)  # fmt: skip
def test_clip_is_known_however_a_file_writes_its_name(name, stem):
    assert clip_id(name) == stem


@pytest.mark.parametrize("name", ["9@N00_4_d.", "9@N00_4_d.mov.mp4", "test/9@N00_4_d.3gp"])
def test_didemo_clip_is_known_by_its_stem(name):
    assert clip_id(name, DIDEMO_ID) == "9@N00_4_d"


def test_what_is_no_annotation_file_is_listed_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "MAX_BYTES", 100)
    (tmp_path / "binary").write_bytes(b"\0" * 9)
    (tmp_path / "clip.mp4").write_bytes(b"not looked into")
    (tmp_path / "cut.json").write_text('{"videos": [')
    (tmp_path / "deep.json").write_text("[" * 99)
    (tmp_path / "latin.csv").write_bytes(b"video_id\nvid\xe9o1\n")
    (tmp_path / "large.txt").write_text("video1\n" * 50)
    (tmp_path / "list.txt").write_text("video1\n")
    (tmp_path / "no.zip").write_bytes(b"PK\x03\x04 and no more")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.txt", "0" * 100_000)
        archive.writestr("../../outside.txt", "video1\nvideo2\n")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = recognise(tmp_path)
    assert [some.name for some in found.files] == ["bomb.zip:../../outside.txt", "list.txt"]
    assert {name: reason.partition(" (")[0][:21] for name, reason in found.others.items()} == {
        "binary": "", "bomb.zip:zeros.txt": "not looked at: more t", "cut.json": "not JSON",
        "deep.json": "not JSON", "large.txt": "not looked at: more t",
        "latin.csv": "cannot be read: 'utf-", "no.zip": "cannot be read: File ",
    }  # fmt: skip
    assert not (tmp_path.parents[1] / "outside.txt").exists()


def test_only_so_many_files_are_looked_into_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "MAX_FILES", 2)
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(f"video{number}\n")
    found = recognise(tmp_path)
    assert [some.name for some in found.files] == ["0.txt", "1.txt"]
    assert found.others == {"1.txt": "the rest was not looked at: 2 files so far"}


def test_folders_too_deep_and_folders_of_clips_are_left_out(tmp_path):
    deep = tmp_path.joinpath(*"abcdefghijklmnop")
    for place in (deep, tmp_path / "videos", tmp_path / ".hidden"):
        place.mkdir(parents=True)
        (place / "list.txt").write_text("video1\n")
    assert kinds(tmp_path) == {}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_archives_and_lists_are_listed_and_raise_nothing(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("damaged")
    rows = json.dumps([MOMENT, {"video": "video1.mp4", "caption": "a"}]).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("val_data.json", rows)
        archive.writestr("list.csv", "key,vid_key,video_id,sentence\nret0,m,video1,a\n")
    for name, whole in (("a.zip", packed.getvalue()), ("b.json", rows)):  # bytes changed, then cut
        damaged = bytearray(whole)
        for _ in range(data.draw(st.integers(0, 4))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        (root / name).write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    found = recognise(root)
    listed = [some.name for some in found.files] + list(found.others)
    assert listed.count("b.json") == 1
    assert all(name.startswith("a.zip") for name in listed if name != "b.json")


def test_line_too_long_for_a_csv_is_no_table_and_no_error(tmp_path):
    (tmp_path / "words").write_text('"' + "a" * 200_000)
    assert recognise(tmp_path).others == {"words": ""}
