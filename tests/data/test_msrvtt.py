"""MSRVTT's published formats: right files are read, and every wrong row is named, all at once."""

import csv
import io
import json
import time
import zipfile

import pytest

from litevl.data.msrvtt import load_msrvtt
from litevl.errors import DataError

TRAIN_VAL, TEST = "train_val_videodatainfo.json", "test_videodatainfo.json"
CSV_9K, CSV_7K = "MSRVTT_train.9k.csv", "MSRVTT_train.7k.csv"
CSV_TEST = "MSRVTT_JSFUSION_test.csv"


def official(clips, captions_per_clip=2):
    """The official JSON for (number, split) pairs; captions are not sorted by clip."""
    return {
        "info": {"year": "2016"},
        "videos": [
            {
                "category": 9,
                "url": f"https://example.org/{number // 2}",
                "video_id": f"video{number}",
                "start time": 1.5,
                "end time": 9.5,
                "split": split,
                "id": number,
            }
            for number, split in clips
        ],
        "sentences": [
            {"caption": f"caption {k} of {number}", "video_id": f"video{number}", "sen_id": k}
            for k in range(captions_per_clip)
            for number, _ in clips
        ],
    }


def table(rows):
    """The text of a 1k-A CSV for (clip id, sentence) pairs."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["key", "vid_key", "video_id", "sentence"])
    writer.writerows((f"ret{n}", f"msr{n}", *row) for n, row in enumerate(rows))
    return text.getvalue()


@pytest.fixture
def files():
    """MSRVTT in small: 4 train, 2 validate, 4 test clips; two of the last in the 1k-A test."""
    return {
        TRAIN_VAL: official([(n, "train") for n in range(4)] + [(4, "validate"), (5, "validate")]),
        TEST: official([(n, "test") for n in range(6, 10)]),
        CSV_9K: "video_id\n" + "".join(f"video{n}\n" for n in range(8)),
        CSV_7K: "video_id\n" + "".join(f"video{n}\n" for n in (0, 1, 2, 3, 4, 5)),
        CSV_TEST: table([("video9", "a dog, running"), ("video8", 'a "cat" sits')]),
    }


@pytest.fixture
def load(tmp_path):
    """Return a function that writes the files to a folder and loads them."""

    def write_and_load(files, train_split="9k"):
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return load_msrvtt(tmp_path, train_split)

    return write_and_load


def problems_of(load, files, train_split="9k"):
    """The problems that the DataError lists, without the files that it names below them."""
    lines = error_of(load, files, train_split).splitlines()[1:]
    return [line.strip() for line in lines if not line.startswith("  (")]


def error_of(load, files, train_split="9k"):
    """The text of the DataError."""
    with pytest.raises(DataError) as raised:
        load(files, train_split)
    return str(raised.value)


def ids(clips):
    return [clip.id for clip in clips]


def test_9k_list_trains_on_all_but_the_test_clips(load, files, tmp_path):
    data = load(files)
    assert ids(data.train) == [f"video{n}" for n in range(8)]
    assert data.validation == ()
    assert ids(data.test) == ["video9", "video8"]  # the CSV's order
    first = data.train[0]
    assert first.captions == ("caption 0 of 0", "caption 1 of 0")
    assert first.source == "https://example.org/0" == data.train[1].source
    assert first.path == tmp_path / "videos" / "video0.mp4"


def test_7k_list_trains_on_the_official_train_and_validate_clips(load, files):
    assert ids(load(files, "7k").train) == [f"video{n}" for n in range(6)]


def test_test_clip_has_the_one_caption_of_the_csv(load, files):
    captions = [clip.captions for clip in load(files).test]
    assert captions == [("a dog, running",), ('a "cat" sits',)]


def test_validation_is_what_the_lists_leave_of_the_official_split(load, files):
    files[CSV_9K] = "video_id\nvideo0\nvideo1\nvideo2\nvideo3\n"
    data = load(files)
    assert ids(data.validation) == ["video4", "video5"]
    assert data.validation[0].captions == ("caption 0 of 4", "caption 1 of 4")


def test_files_are_told_apart_by_content(load, files):
    data = load(
        {
            "a.json": files[TRAIN_VAL],
            "deeper/b.json": files[TEST],
            "c.txt": files[CSV_9K].removeprefix("video_id\n"),  # bare ids, as another project has
            "d.csv": files[CSV_7K],
            "e.csv": files[CSV_TEST],
        }
    )
    assert len(data.train) == 8
    assert data.notes[:2] == ("train list: c.txt", "test captions: e.csv")


def test_merged_json_equals_the_two_official_ones(load, files, tmp_path):
    expected = load(files)
    merged = {key: files[TRAIN_VAL][key] + files[TEST][key] for key in ("videos", "sentences")}
    for name in (TRAIN_VAL, TEST):
        (tmp_path / name).unlink()
        del files[name]
    assert load({"MSRVTT_data.json": merged, **files}) == expected


def test_json_is_read_inside_its_zip_and_a_second_copy_is_noted(load, files, tmp_path):
    with zipfile.ZipFile(tmp_path / "train_val_annotation.zip", "w") as archive:
        archive.writestr(TRAIN_VAL, json.dumps(files[TRAIN_VAL]))
        archive.writestr("category.txt", "music\t0\npeople\t1\n")
    both = load(files)
    assert any("6 clips described a second time, identically" in note for note in both.notes)
    (tmp_path / TRAIN_VAL).unlink()
    del files[TRAIN_VAL]
    assert load(files).train == both.train


def test_clips_are_found_in_every_known_folder(load, files, tmp_path):
    for name in ("TrainValVideo/video0.mp4", "TestVideo/video9.mp4", "videos/all/video1.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    data = load(files)
    assert data.train[0].path == tmp_path / "TrainValVideo" / "video0.mp4"
    assert data.train[1].path == tmp_path / "videos" / "all" / "video1.mp4"
    assert data.test[0].path == tmp_path / "TestVideo" / "video9.mp4"


def test_clip_in_two_folders_is_noted(load, files, tmp_path):
    for folder in ("videos", "video"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "video0.mp4").touch()
    data = load(files)
    assert data.train[0].path == tmp_path / "videos" / "video0.mp4"
    assert any("1 clips lie in more than one folder" in note for note in data.notes)


def test_other_files_are_left_alone_and_named(load, files):
    files |= {
        "notes.txt": "nothing to see here\n",
        "words.txt": "one\none\ntwo\n",
        "val_list_jsfusion.txt": "video9\nvideo8\n",
        "other.csv": "video_id,category\nvideo0,3\n",
        "words.json": [{"video": "dog.mp4", "caption": "a dog"}],
    }
    unused = load(files).notes[-1]
    for name in (
        "notes.txt",
        "words.txt",
        "val_list_jsfusion.txt",
        "other.csv",
        "words.json",
        CSV_7K,
    ):
        assert name in unused


def test_every_wrong_row_is_named_in_one_error(load, files):
    train_val = files[TRAIN_VAL]
    train_val["videos"].append(train_val["videos"][1])
    train_val["videos"].append({"video_id": 7})
    train_val["sentences"] = [s for s in train_val["sentences"] if s["video_id"] != "video3"]
    train_val["sentences"] += [
        {"caption": " ", "video_id": "video2"},
        {"caption": "who", "video_id": "video77"},
        {"caption": None, "video_id": "video2"},
    ]
    files[CSV_9K] += "video5\nvideo9\nvideo123\n"
    files[CSV_TEST] += (
        'ret2,msr2,video8,again\nret3,msr3,video50,"a, b"\nret4,msr4,video6, \nret5\nret6,msr6,,c\n'
    )
    assert set(problems_of(load, files)) == {
        f"{TRAIN_VAL} videos[6]: duplicate id video1",
        f"{TRAIN_VAL} videos[7]: needs video_id, url and split as strings",
        f"{TRAIN_VAL} sentences[10]: empty caption for video2",
        f"{TRAIN_VAL} sentences[11]: names video77, which is not among the videos",
        f"{TRAIN_VAL} sentences[12]: needs video_id and caption as strings",
        f"{CSV_9K} line 5: video3 has no captions in {TRAIN_VAL}",
        f"{CSV_9K} line 10: video5 stands already in line 7",
        f"{CSV_9K} line 11: video9 is also a test clip ({CSV_TEST})",
        f"{CSV_9K} line 12: video123 is not in the official JSON",
        f"{CSV_9K} line 8: video6 is also a test clip ({CSV_TEST})",
        f"{CSV_TEST} line 4: video8 stands already in line 3",
        f"{CSV_TEST} line 5: video50 is not in the official JSON",
        f"{CSV_TEST} line 6: empty caption for video6",
        f"{CSV_TEST} line 7: more or fewer fields than the header",
        f"{CSV_TEST} line 8: empty video_id",
    }


def test_validation_clip_without_captions_is_named(load, files):
    files[CSV_9K] = "video_id\nvideo0\n"
    sentences = files[TRAIN_VAL]["sentences"]
    files[TRAIN_VAL]["sentences"] = [s for s in sentences if s["video_id"] != "video5"]
    says = f"{TRAIN_VAL}: video5 (split validate) has no captions"
    assert says in problems_of(load, files)


def test_error_counts_its_problems(load, files):
    files[CSV_9K] += "video123\nvideo124\n"
    with pytest.raises(DataError, match="2 problems in the MSRVTT annotations"):
        load(files)


@pytest.mark.parametrize(
    ("header", "lacks"),
    [("key,vid_key,video_id,caption", "sentence"), ("key,vid_key,id,sentence", "video_id")],
)
def test_csv_without_a_column_says_which(load, files, header, lacks):
    files[CSV_TEST] = files[CSV_TEST].replace("key,vid_key,video_id,sentence", header)
    columns = header.replace(",", ", ")
    error = error_of(load, files)
    assert f"(files not used: {CSV_TEST} (lacks column {lacks}; has {columns})" in error
    assert "no 1k-A test captions: a CSV with columns video_id and sentence" in error


def test_missing_files_are_asked_for_and_the_others_named(load, files, tmp_path):
    del files[CSV_TEST], files[CSV_9K]
    files["notes.txt"] = "nothing"
    assert error_of(load, files).splitlines() == [
        f"{tmp_path}: 2 problems in the MSRVTT annotations",
        "  no 1k-A test captions: a CSV with columns video_id and sentence "
        "(MSRVTT_JSFUSION_test.csv), or JSON with video (or clip_name) and caption",
        "  no 9k train list, a file with one clip id per line",
        f"  (recognised: {CSV_7K} (list of ids: 7k), {TEST} (official JSON: clips), "
        f"{TRAIN_VAL} (official JSON: clips))",
        f"  (files not used: {CSV_7K}, notes.txt)",
    ]


@pytest.mark.parametrize("train_split", ["9k", "7k"])
def test_without_a_list_it_follows_from_the_official_json(load, files, tmp_path, train_split):
    files[CSV_9K] = "video_id\n" + "".join(f"video{n}\n" for n in range(8))
    expected = load(files, train_split)
    for name in (CSV_9K, CSV_7K):
        (tmp_path / name).unlink()
        del files[name]
    data = load(files, train_split)
    assert data.splits == expected.splits
    assert data.notes[0] == "train list: the official JSON's clips, no list found"


def test_without_the_official_json_one_problem_not_thousands(load, files):
    del files[TRAIN_VAL], files[TEST]
    (problem,) = problems_of(load, files)
    assert problem.startswith('no official JSON, with "videos" and "sentences"')


def test_two_lists_that_differ_are_refused(load, files):
    files["copy.9k.csv"] = files[CSV_9K].replace("video0\n", "")
    says = (
        f"copy.9k.csv: a 9k list that differs from {CSV_9K} about 1 clips, first video0; "
        "keep one of them"
    )
    assert says in problems_of(load, files)


def test_two_test_tables_that_differ_are_refused(load, files):
    files["copy.csv"] = table([("video9", "a dog, running"), ("video7", "else")])
    says = (
        f"copy.csv: 1k-A test captions that differ from {CSV_TEST} about 2 clips, first video7; "
        "keep one of them"
    )
    assert says in problems_of(load, files)


def test_clips_that_two_files_describe_differently_are_refused(load, files):
    files["z.json"] = official([(0, "train")], captions_per_clip=1)
    says = f"z.json: video0 differs from its entry in {TRAIN_VAL}"
    assert says in problems_of(load, files)


def test_list_of_test_clips_is_not_taken_for_a_train_list(load, files):
    del files[CSV_7K]
    files["val_list_jsfusion.txt"] = "video9\nvideo8\n"
    files["words.txt"] = "one\ntwo\n"
    assert ids(load(files, "7k").train) == [f"video{n}" for n in range(6)]
    assert load(files, "7k").notes[0] == "train list: the official JSON's clips, no list found"


def test_files_that_cannot_be_read_are_named(load, files, tmp_path):
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "latin.csv").write_bytes(b"video_id\nvid\xe9o1\n")
    files["cut.json"] = '{"videos": ['
    files["odd.json"] = {"videos": 3, "sentences": []}
    problem = "odd.json: videos should be a list, is a int"
    assert problems_of(load, files) == [problem]
    error = error_of(load, files)
    (tmp_path / "odd.json").unlink()
    del files["odd.json"]
    for text in (error, load(files).notes[-1]):
        assert "broken.zip (cannot be read: File is not a zip file)" in text
        assert "latin.csv (cannot be read: 'utf-8' codec" in text
        assert "cut.json (not JSON (" in text


def test_unclosed_quote_in_the_csv_is_named(load, files):
    files[CSV_TEST] += 'ret2,msr2,video8,"never closed\n'
    assert f"{CSV_TEST} after line 3: unexpected end of data; an open quote?" in problems_of(
        load, files
    )


def test_unknown_list_and_missing_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="no list '10k'; known: 9k, 7k"):
        load_msrvtt(tmp_path, "10k")
    with pytest.raises(DataError, match="no such folder"):
        load_msrvtt(tmp_path / "nowhere", "9k")


def test_flood_of_problems_is_cut_and_counted(load, files):
    files[CSV_9K] += "".join(f"video{n}\n" for n in range(1000, 1300))
    problems = problems_of(load, files)
    assert "... and 100 more" in problems
    assert len(problems) < 210


def test_reading_takes_time_linear_in_the_file(load):
    def seconds(num_clips):
        clips = [(n, "train") for n in range(num_clips)]
        files = {
            TRAIN_VAL: official(clips, captions_per_clip=10),
            CSV_7K: "video_id\n" + "".join(f"video{n}\n" for n, _ in clips[1:]),
            CSV_TEST: table([("video0", "a dog")]),
        }
        start = time.perf_counter()
        load(files, "7k")
        return time.perf_counter() - start

    seconds(500)
    assert seconds(8000) < 12 * seconds(2000)  # 4 times if linear, 16 if quadratic


@pytest.mark.data
@pytest.mark.parametrize(("train_split", "num_train"), [("9k", 9000), ("7k", 7010)])
def test_published_files_have_their_known_counts(annotations, train_split, num_train):
    data = load_msrvtt(annotations / "msrvtt", train_split)
    assert len(data.train) == num_train
    assert sum(len(clip.captions) for clip in data.train) == 20 * num_train
    assert len(data.test) == 1000
    assert len({clip.captions for clip in data.test}) == 995
    assert data.validation == ()
    assert not set(ids(data.train)) & set(ids(data.test))
    assert ids(data.test)[:3] == ["video9770", "video9771", "video7020"]
    sources = {clip.source for clip in data.train}
    shared = sum(clip.source in sources for clip in data.test)
    assert shared == {"9k": 372, "7k": 0}[train_split]  # test clips cut from a training video
