"""Which clips are there, counted against what is expected; the fingerprint of those."""

import errno
import hashlib
import json
import logging
import os
import shutil
from dataclasses import replace

import pytest

from litevl.data import fingerprint
from litevl.data.annotations import Annotations, Clip, Question
from litevl.data.counting import check_clips, count_clips, without_broken
from litevl.data.fingerprint import HASH_FILE, file_hashes
from litevl.errors import DataError

EXPECTED = {"train": 3, "validation": 1, "test": 2}


@pytest.fixture
def data(clips):
    return Annotations(clips[:3], clips[3:4], clips[4:], ("a note",))


# check_clips


def test_whole_data_is_counted_and_comparable(data):
    report = check_clips(data, EXPECTED)
    assert report.splits == {
        "train": {"expected": 3, "found": 3, "broken": 0, "captions": 6},
        "validation": {"expected": 1, "found": 1, "broken": 0, "captions": 2},
        "test": {"expected": 2, "found": 2, "broken": 0, "captions": 4},
    }
    assert report.data == data
    assert report.left_out == report.not_comparable_because == ()


def test_questions_are_counted_with_those_whose_answer_is_not_listed(data):
    asked = tuple(Question(str(n), "what is it?", answer) for n, answer in enumerate("aab"))
    first = replace(data.train[0], captions=(), questions=asked)
    report = check_clips(replace(data, train=(first, *data.train[1:]), answers=("b",)), EXPECTED)
    counts = {"captions": 4, "questions": 3, "outside_list": 2}
    assert report.splits["train"] == {"expected": 3, "found": 3, "broken": 0, **counts}
    assert report.splits["test"].keys() == {"expected", "found", "broken", "captions"}
    assert report.data.answers == ("b",)
    assert report.data.train[0].questions == asked


def test_missing_and_empty_clips_are_counted_together_with_the_way_out(data, clips):
    clips[0].path.unlink()
    clips[5].path.write_bytes(b"")
    with pytest.raises(DataError) as raised:
        check_clips(data, EXPECTED)
    message = str(raised.value)
    assert "train: 2 of 3 clips found; 1 missing (first: video0; expected at " in message
    assert "test: 1 of 2 clips found; 1 empty or not readable (first: video5; " in message
    assert "Pass --allow-missing to run anyway; the record will say comparable: false." in message


def test_clip_that_may_not_be_read_is_counted_as_broken(data, clips, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, _mode: path != clips[0].path)
    report = count_clips(data, EXPECTED)
    assert report.broken == {"video0": f"{clips[0].path}: empty or not readable"}


def test_clip_whose_bytes_cannot_be_read_is_broken_and_the_others_are_hashed(
    data, clips, monkeypatch
):
    digest = hashlib.file_digest

    def damaged(file, name):
        if file.name == str(clips[0].path):
            raise OSError(errno.EIO, "Input/output error")  # without a path, as reading raises it
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", damaged)
    report = count_clips(data, EXPECTED)
    assert report.broken == {"video0": f"{clips[0].path}: empty or not readable"}
    assert len(json.loads((clips[0].path.parent / HASH_FILE).read_text())) == 5
    with pytest.raises(DataError, match=f"{clips[0].path}: cannot be read: Input/output error"):
        file_hashes([clip.path for clip in clips])


def test_allowing_missing_clips_leaves_them_out_and_says_so(data, clips):
    clips[0].path.unlink()
    clips[5].path.write_bytes(b"")
    report = check_clips(data, EXPECTED, allow_missing=True)
    assert report.left_out == ("video0", "video5")
    assert report.data.train == clips[1:3]
    assert report.data.test == clips[4:5]
    assert report.data.notes == ("a note",)
    assert report.splits["train"] == {"expected": 3, "found": 2, "broken": 0, "captions": 4}
    assert report.splits["test"] == {"expected": 2, "found": 1, "broken": 1, "captions": 2}
    assert len(report.not_comparable_because) == 2


def test_counts_other_than_the_specs_are_an_error_too(data):
    wrong = {**EXPECTED, "train": 5}
    says = "train: the annotations name 3 clips, the spec expects 5"
    with pytest.raises(DataError, match=says):
        check_clips(data, wrong)
    assert check_clips(data, wrong, allow_missing=True).not_comparable_because == (says,)


def test_split_without_any_clip_left_is_an_error_in_any_case(data, clips):
    for clip in clips[4:]:
        clip.path.unlink()
    with pytest.raises(DataError, match="Nothing is left to run on: test"):
        check_clips(data, EXPECTED, allow_missing=True)


def test_only_the_first_missing_clips_are_listed(data, tmp_path):
    gone = tuple(Clip(f"gone{n}", tmp_path / f"gone{n}.mp4", "s", ("a",)) for n in range(40))
    with pytest.raises(DataError, match="2 of 42 clips found; 40 missing") as raised:
        check_clips(Annotations(data.train, data.validation, gone + data.test, ()), EXPECTED)
    assert "gone4;" in str(raised.value)
    assert "gone5" not in str(raised.value)


# A subset


def test_subset_is_the_first_clips_of_the_annotations_and_says_so(data, clips):
    report = check_clips(data, EXPECTED, subset=2)
    assert report.data.train == clips[:2]
    assert [len(some) for some in report.data.splits.values()] == [2, 1, 2]
    assert report.splits["train"] == {"expected": 3, "found": 2, "broken": 0, "captions": 4}
    assert report.not_comparable_because == ("subset: the first 2 clips of each split",)
    assert check_clips(data, EXPECTED, subset=9).data == data


def test_clips_outside_a_subset_need_not_be_there_and_do_not_change_its_fingerprint(data, clips):
    before = check_clips(data, EXPECTED, subset=1)
    for clip in (clips[1], clips[2], clips[5]):
        clip.path.unlink()
    assert check_clips(data, EXPECTED, subset=1) == before
    with pytest.raises(DataError, match="train: 1 of 2 clips found; 1 missing"):
        check_clips(data, EXPECTED, subset=2)


def test_annotations_of_a_subset_are_counted_whole(data):
    with pytest.raises(DataError, match="the annotations name 3 clips, the spec expects 9000"):
        check_clips(data, EXPECTED | {"train": 9000}, subset=1)


def test_questions_of_a_subset_are_the_first_about_its_clips_and_the_answer_list_stays(data):
    asked = tuple(Question(str(n), "what is it?", answer) for n, answer in enumerate("aabcdef"))
    train = tuple(replace(clip, questions=asked) for clip in data.train)
    of_questions = replace(data, train=train, answers=("b", "z"))
    report = check_clips(of_questions, EXPECTED, subset=1)
    assert report.data.train[0].questions == asked[:5]
    assert report.data.answers == ("b", "z")
    assert report.splits["train"]["questions"] == 5
    assert report.splits["train"]["outside_list"] == 4
    assert check_clips(of_questions, EXPECTED).splits["train"]["questions"] == 3 * len(asked)


def test_clips_that_cannot_be_decoded_are_counted_named_and_not_in_the_fingerprint(data, clips):
    report = without_broken(check_clips(data, EXPECTED), {"video4": "video4.mp4: cut"})
    assert report.splits["test"] == {"expected": 2, "found": 1, "broken": 1, "captions": 2}
    assert report.splits["train"] == check_clips(data, EXPECTED).splits["train"]
    assert report.data.test == clips[5:]
    assert report.left_out == ("video4",)
    assert report.broken == {"video4": "video4.mp4: cut"}
    assert report.not_comparable_because == (
        "test: 1 of 2 clips cannot be decoded (first: video4)",
    )
    clips[4].path.unlink()
    assert report.fingerprint == check_clips(data, EXPECTED, allow_missing=True).fingerprint


def test_nothing_broken_leaves_the_report_as_it_is(data):
    report = check_clips(data, EXPECTED)
    assert without_broken(report, {}) == report


# The fingerprint


def test_fingerprint_is_of_content_not_of_folder_time_or_order(data, clips, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    again = tuple(
        Clip(c.id, shutil.copy(c.path, moved / c.path.name), c.source, c.captions) for c in clips
    )
    other = Annotations(again[2::-1], again[3:4], again[4:], ())
    assert check_clips(data, EXPECTED).fingerprint == check_clips(other, EXPECTED).fingerprint


@pytest.mark.parametrize("change", ["bytes", "caption", "source", "split"])
def test_fingerprint_changes_with(data, clips, change):
    before = check_clips(data, EXPECTED).fingerprint
    first = clips[0]
    if change == "bytes":
        content = bytearray(first.path.read_bytes())
        content[-1] ^= 1
        first.path.write_bytes(content)
    elif change == "caption":
        first = Clip(first.id, first.path, first.source, ("a", "c"))
    elif change == "source":
        first = Clip(first.id, first.path, "other", first.captions)
    changed = (first, *clips[1:])
    if change == "split":
        changed = (clips[3], *clips[1:3], clips[0], *clips[4:])
    changed_data = Annotations(changed[:3], changed[3:4], changed[4:], ())
    assert check_clips(changed_data, EXPECTED).fingerprint != before


@pytest.mark.parametrize("change", ["id", "text", "answer", "list", "order of the list"])
def test_fingerprint_covers_questions_and_answers_and(data, change):
    asked = Question("0", "what is it?", "a")
    other = replace(asked, **{change: "where is b?"}) if change in asked.__dict__ else asked
    listed = {"list": ("a",), "order of the list": ("b", "a")}.get(change, ("a", "b"))

    def fingerprint(question, answers):
        first = replace(data.train[0], questions=(question,))
        changed = replace(data, train=(first, *data.train[1:]), answers=answers)
        return check_clips(changed, EXPECTED).fingerprint

    before = fingerprint(asked, ("a", "b"))
    assert before != fingerprint(other, listed)
    assert before != check_clips(data, EXPECTED).fingerprint


def test_hashes_are_kept_beside_the_clips_and_used_again(clips, monkeypatch):
    paths = [clip.path for clip in clips]
    first = file_hashes(paths)
    assert len(json.loads((paths[0].parent / HASH_FILE).read_text())) == 6
    hashed = []
    monkeypatch.setattr(fingerprint, "file_hash", lambda path: hashed.append(path) or "new")
    assert file_hashes(paths) == first
    assert hashed == []


def test_changed_file_is_hashed_again_and_only_that_one(clips, monkeypatch):
    paths = [clip.path for clip in clips]
    file_hashes(paths)
    os.utime(paths[2], ns=(1, 1))
    hashed = []
    monkeypatch.setattr(fingerprint, "file_hash", lambda path: hashed.append(path) or "new")
    assert file_hashes(paths)[paths[2]] == "new"
    assert hashed == [paths[2]]


def test_folder_that_cannot_be_written_only_costs_the_cache(clips, monkeypatch, caplog):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    paths = [clip.path for clip in clips]
    monkeypatch.setattr(fingerprint, "whole_file", refuse)
    with caplog.at_level(logging.WARNING):
        first = file_hashes(paths)
    assert len(first) == 6
    assert "not kept for the next time: Permission denied" in caplog.text
    os.utime(paths[2], ns=(1, 1))
    hashed = []
    monkeypatch.setattr(fingerprint, "file_hash", lambda path: hashed.append(path) or "new")
    assert file_hashes(paths) == {**first, paths[2]: "new"}
    assert hashed == [paths[2]]  # the others were read by this process already


def test_damaged_hash_file_is_made_again(clips):
    paths = [clip.path for clip in clips]
    first = file_hashes(paths)
    (paths[0].parent / HASH_FILE).write_text('{"video0.mp4": [1')
    assert file_hashes(paths) == first


def test_clip_swapped_for_one_of_the_same_size_and_time_is_found_and_named(clips, caplog):
    caplog.set_level(logging.WARNING, "litevl")
    paths = [clip.path for clip in clips]
    first = file_hashes(paths)
    old = paths[3].stat()
    content = bytearray(paths[3].read_bytes())
    content[-1] ^= 1
    paths[3].write_bytes(content)
    os.utime(paths[3], ns=(old.st_atime_ns, old.st_mtime_ns))
    now = paths[3].stat()
    assert (now.st_size, now.st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    second = file_hashes(paths)
    assert [path for path in paths if first[path] != second[path]] == [paths[3]]
    assert caplog.messages == [f"1 files changed since they were last read: {paths[3]}"]
    caplog.clear()
    assert file_hashes(paths) == second
    assert caplog.messages == []


def test_clip_that_was_only_touched_or_is_new_is_no_change(clips, caplog):
    caplog.set_level(logging.WARNING, "litevl")
    paths = [clip.path for clip in clips]
    file_hashes(paths[:-1])
    os.utime(paths[2], ns=(1, 1))
    file_hashes(paths)
    assert caplog.messages == []
