"""MSRVTT in the formats of other projects: any files that say enough load, to the same clips."""

import json

import pytest

from litevl.data.msrvtt import load_msrvtt
from litevl.errors import DataError

OFFICIAL, TRAIN, TEST = "MSRVTT_data.json", "msrvtt_train_9k.json", "msrvtt_test_1k.json"
CSV_TEST = "MSRVTT_JSFUSION_test.csv"
SPLITS = {0: "train", 1: "train", 2: "validate", 3: "test", 4: "test", 5: "test"}


def captions(number):
    return [f"caption {place} of {number}" for place in range(2)]


def official():
    """The merged official JSON; clips 4 and 5 are the test."""
    return {
        "videos": [
            {"video_id": f"video{number}", "url": f"https://example.org/{number}", "split": split}
            for number, split in SPLITS.items()
        ],
        "sentences": [
            {"video_id": f"video{number}", "caption": text}
            for number in SPLITS
            for text in captions(number)
        ],
    }


def of_train(suffix=".mp4"):
    """Singularity's list of the training clips: a row for each caption."""
    return [
        {"video": f"video{number}{suffix}", "caption": text}
        for number in range(4)
        for text in captions(number)
    ]


def of_test(key="video", suffix=".mp4"):
    return [{key: f"video{number}{suffix}", "caption": f"test of {number}"} for number in (5, 4)]


CSV = "key,vid_key,video_id,sentence\nret0,msr5,video5,test of 5\nret1,msr4,video4,test of 4\n"


@pytest.fixture
def load(tmp_path):
    """Return a function that writes the files to a folder and loads them."""

    def write_and_load(files):
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        return load_msrvtt(tmp_path, "9k")

    return write_and_load


def problems_of(load, files):
    """The problems that the DataError lists."""
    with pytest.raises(DataError) as raised:
        load(files)
    lines = str(raised.value).splitlines()[1:]
    return [line.strip() for line in lines if not line.startswith("  (")]


def pairs(clips):
    return [(clip.id, clip.captions) for clip in clips]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (TEST, of_test()),
        (TEST, of_test(suffix="")),
        (TEST, [{**row, "caption": [row["caption"]]} for row in of_test()]),
        ("test.jsonl", "\n".join(map(json.dumps, of_test("clip_name", "")))),
        ("test.jsonl", "\r\n".join(map(json.dumps, of_test("clip_name", "/"))) + "\r\n"),
        (CSV_TEST, CSV),
        (CSV_TEST, "\ufeff" + CSV.replace("\n", "\r\n")),
        (CSV_TEST, CSV.replace("test of 5", '"test of 5"')),
        (CSV_TEST, CSV.replace("video4", '"videos/video4.mp4"')),
    ],
)  # fmt: skip
def test_every_form_of_the_test_captions_says_the_same(load, name, content):
    data = load({OFFICIAL: official(), name: content})
    assert pairs(data.test) == [("video5", ("test of 5",)), ("video4", ("test of 4",))]
    assert data.notes[:2] == (
        "train list: the official JSON's clips, no list found", f"test captions: {name}"
    )  # fmt: skip
    assert [clip.id for clip in data.train] == [f"video{number}" for number in range(4)]


def test_ready_made_lists_do_without_the_official_json_but_know_no_sources(load):
    data = load({TRAIN: of_train(), TEST: of_test()})
    assert pairs(data.train) == [(f"video{number}", tuple(captions(number))) for number in range(4)]
    assert pairs(data.test) == [("video5", ("test of 5",)), ("video4", ("test of 4",))]
    assert data.validation == ()
    assert [clip.source for clip in data.train] == [clip.id for clip in data.train]
    assert data.notes[2] == "no official JSON: which clips were cut from one video is not known"


def test_csv_gives_the_order_of_the_test_where_there_are_several_forms(load):
    data = load({OFFICIAL: official(), "a_test.json": of_test()[::-1], CSV_TEST: CSV})
    assert [clip.id for clip in data.test] == ["video5", "video4"]
    assert data.notes[1] == f"test captions: {CSV_TEST}"


def test_forms_of_the_test_captions_that_disagree_are_refused_both_named(load):
    rows = of_test()
    rows[0]["caption"] = "else"
    assert problems_of(load, {OFFICIAL: official(), TEST: rows, CSV_TEST: CSV}) == [
        f"{TEST}: 1k-A test captions that differ from {CSV_TEST} about 1 clips, first video5; "
        "keep one of them"
    ]


def test_ready_made_captions_must_be_those_of_the_official_json(load):
    files = {OFFICIAL: official(), TRAIN: of_train(), TEST: of_test()}
    assert load(files).notes[0] == f"train list: {TRAIN}"
    files[TRAIN][0]["caption"] = "else"
    assert problems_of(load, files) == [
        f"{TRAIN}: other captions of 1 clips, first video0, than the other files have; "
        "keep one of them"
    ]


def test_ready_made_train_clip_may_not_be_a_test_clip(load):
    rows = [*of_train(), {"video": "video5.mp4", "caption": "seen"}]
    assert problems_of(load, {TRAIN: rows, TEST: of_test()}) == [
        f"{TRAIN}[8]: video5 is also a test clip ({TEST})"
    ]


def test_wrong_rows_of_ready_made_lists_are_named(load):
    lines = [
        *map(json.dumps, of_test("clip_name", "")),
        '{"clip_name": "video3", "caption": " "}',
        '{"clip_name": "video2"}',
        '{"clip_name": 7, "caption": "a"}',
        '{"clip_name": "video1", "caption": ["a", "b"]}',
        "[]",
        '{"clip_name": "video0", "caption": "cut',
    ]
    problems = problems_of(load, {"test.jsonl": "\n".join(lines), TRAIN: of_train()[:2]})
    assert problems[0].startswith("test.jsonl line 8: not JSON (")
    assert problems[1:] == [
        "test.jsonl line 3: empty caption for video3",
        "test.jsonl line 4: needs the name of a clip and its caption as strings",
        "test.jsonl line 5: needs the name of a clip and its caption as strings",
        "test.jsonl line 6: 2 captions for video1; 1k-A has one",
        "test.jsonl line 7: should be an object, is a list",
    ]


def test_error_says_what_is_missing_and_what_was_recognised(load):
    with pytest.raises(DataError) as raised:
        load({TRAIN: of_train(), "category.txt": "music\t0\n"})
    assert str(raised.value).splitlines()[1:] == [
        "  no 1k-A test captions: a CSV with columns video_id and sentence "
        "(MSRVTT_JSFUSION_test.csv), or JSON with video (or clip_name) and caption",
        f"  (recognised: {TRAIN} (JSON list: 9k captions))",
        "  (files not used: category.txt)",
    ]


@pytest.mark.data
@pytest.mark.parametrize("name", ["MSRVTT_JSFUSION_test.csv", "msrvtt_ret_test.json"])
def test_published_forms_of_the_test_load_to_the_same_clips(annotations, tmp_path, name):
    folder = annotations / "msrvtt"
    for number, path in enumerate([folder / name, *sorted((folder / "official").iterdir())]):
        (tmp_path / str(number)).symlink_to(path)
    for split in ("9k", "7k"):  # without their lists
        alone, whole = load_msrvtt(tmp_path, split), load_msrvtt(folder, split)
        for ours, theirs in zip(alone.splits.values(), whole.splits.values(), strict=True):
            assert [(clip.id, clip.captions, clip.source) for clip in ours] == [
                (clip.id, clip.captions, clip.source) for clip in theirs
            ]
