"""DiDeMo's published format: one paragraph per clip, and every wrong entry named, all at once."""

import json
import zipfile

import pytest

from litevl.data.annotations import Clip
from litevl.data.didemo import load_didemo
from litevl.errors import DataError

TRAIN, VAL, TEST = "train_data.json", "val_data.json", "test_data.json"


def moment(number, video, sentence, *times, num_segments=6):
    """One entry of the original lists."""
    return {
        "num_segments": num_segments,
        "description": sentence,
        "dl_link": "https://example.org/1",
        "times": [list(pair) for pair in times],
        "video": video,
        "annotation_id": number,
    }


# Beside the real validation list, whose ids are others.
SMALL = {
    TRAIN: [moment(-1, "0@N00_1_aa.mov", "a", (0, 0))],
    TEST: [moment(-2, "0@N00_2_bb.mov", "a", (0, 0))],
}


@pytest.fixture
def files():
    """DiDeMo in small: two training clips, one of them of two moments, and one each of the rest."""
    return {
        TRAIN: [
            moment(0, "7@N00_11_aa.mov", "then it sits.", (3, 3), (2, 3), (3, 3), (4, 4)),
            moment(1, "7@N00_22_bb.avi", "a cat", (0, 0), (0, 0), (1, 1)),
            moment(2, "7@N00_11_aa.mov", "a dog comes in", (0, 1), (0, 1), (0, 0)),
        ],
        VAL: [moment(3, "8@N00_33_cc.mp4", "a bird", (0, 0))],
        TEST: [moment(4, "9@N00_44_dd.3gp", "a fish", (5, 5))],
    }


@pytest.fixture
def load(tmp_path):
    """Return a function that writes the files to a folder and loads them."""

    def write_and_load(files, leave_out=()):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = content if isinstance(content, str) else json.dumps(content)
            path.write_text(text, encoding="utf-8")
        return load_didemo(tmp_path, leave_out)

    return write_and_load


def problems_of(load, files, leave_out=()):
    """The problems that the DataError lists, without the files that it names below them."""
    with pytest.raises(DataError) as raised:
        load(files, leave_out)
    lines = str(raised.value).splitlines()[1:]
    return [line.strip() for line in lines if not line.startswith("  (")]


def paragraph(load, files, *moments):
    """The paragraph of a training clip with these moments."""
    files[TRAIN] = [
        moment(100 + place, "x.mov", sentence, *times)
        for place, (sentence, *times) in enumerate(moments)
    ]
    (clip,) = load(files).train
    return clip.captions[0]


def test_clip_has_the_stem_as_id_the_user_as_source_and_one_paragraph(load, files, tmp_path):
    assert load(files).train == (
        Clip(
            "7@N00_11_aa",
            tmp_path / "videos" / "7@N00_11_aa.mp4",
            "7@N00",
            ("a dog comes in then it sits.",),
        ),
        Clip("7@N00_22_bb", tmp_path / "videos" / "7@N00_22_bb.mp4", "7@N00", ("a cat",)),
    )


def test_sentences_are_ordered_by_the_chunks_that_most_annotators_gave(load, files):
    assert paragraph(load, files, ("b", (2, 2), (0, 0), (2, 2)), ("a", (1, 1), (5, 5), (1, 1))) == (
        "a b"
    )


def test_of_chunks_given_equally_often_the_first_given_count(load, files):
    assert paragraph(load, files, ("b", (2, 2), (0, 0)), ("a", (1, 1), (5, 5))) == "a b"


def test_moments_with_one_start_are_ordered_by_their_end(load, files):
    assert paragraph(load, files, ("b", (1, 3)), ("a", (1, 1))) == "a b"


def test_sentences_of_one_moment_keep_the_order_of_the_file(load, files):
    assert paragraph(load, files, ("b", (1, 1)), ("c", (1, 1)), ("a", (1, 1))) == "b c a"


def test_video_under_two_extensions_is_one_clip_and_noted(load, files):
    files[TEST].append(moment(5, "9@N00_44_dd.mp4", "a net", (0, 0)))
    data = load(files)
    (clip,) = data.test
    assert clip.captions == ("a net a fish",)
    assert data.notes[-1] == (
        "test: test_data.json, 2 sentences about 1 clips, 1 of them under two names"
    )


@pytest.mark.parametrize(
    ("name", "stem"),
    [("9@N00_4_d.", "9@N00_4_d"), ("9@N00_4_d", "9@N00_4_d"), ("9@N00_4.d.mov", "9@N00_4.d")],
)
def test_stem_is_what_stands_before_the_last_dot(load, files, name, stem):
    files[TEST] = [moment(5, name, "a", (0, 0))]
    assert [clip.id for clip in load(files).test] == [stem]


@pytest.mark.parametrize("name", ["", ".mp4", ".mov", ".mov.mp4", ".", "..mp4"])
def test_clip_file_is_found_whatever_follows_the_stem(load, files, tmp_path, name):
    path = tmp_path / "videos" / f"7@N00_11_aa{name}"
    path.parent.mkdir()
    path.touch()
    (path.parent / "7@N00_11_aab.mp4").touch()  # somebody else's
    assert load(files).train[0].path == path


def test_files_lie_at_any_depth_and_in_archives(load, files, tmp_path):
    expected = load(files)
    for name in (TRAIN, VAL):
        (tmp_path / name).unlink()
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr(f"data/{VAL}", json.dumps(files[VAL]))
    data = load({f"data/original/{TRAIN}": files[TRAIN]})
    assert data.splits == expected.splits
    assert data.notes[:2] == (
        "train: data/original/train_data.json, 3 sentences about 2 clips",
        "validation: more.zip:data/val_data.json, 1 sentences about 1 clips",
    )


def test_second_copy_of_a_file_is_noted_and_another_of_its_name_refused(load, files):
    files[f"copy/{TRAIN}"] = files[TRAIN]
    assert load(files).notes[0] == "copy/train_data.json: not used, a copy of train_data.json"
    files[f"copy/{TRAIN}"] = files[TRAIN][:2]
    assert problems_of(load, files) == [
        "copy/train_data.json: differs from train_data.json; keep one of them"
    ]


def test_left_out_clips_are_not_in_the_data_and_counted(load, files):
    data = load(files, ["7@N00_22_bb"])
    assert [clip.id for clip in data.train] == ["7@N00_11_aa"]
    assert data.notes[0].endswith("3 sentences about 2 clips; 1 clips left out by name")
    assert "left out" not in "".join(data.notes[1:])


def test_every_wrong_entry_is_named_in_one_error(load, files, tmp_path):
    files[TRAIN] += [
        moment(5, "a.mov", "no times"),
        moment(6, "b.mov", "odd", (1, 1), (3, 2), (0, 6), (-1, 0), (1,), (1, True), "1"),
        moment(7, "c.mov", " ", (0, 0)),
        moment(8, "", "no name", (0, 0)),
        moment(9, "../d.mov", "elsewhere", (0, 0)),
        moment(0, "e.mov", "twice", (0, 0)),
        {**moment(10, "f.mov", None, (0, 0)), "num_segments": None},
        {**moment(11, None, "no id", (0, 0)), "annotation_id": None},
        {**moment(12, "g.mov", "no list"), "times": 3},
        "no object",
    ]
    files[VAL] += [moment(13, "7@N00_11_aa.mp4", "also here", (0, 0)), moment(4, "h", "", (9, 9))]
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "9@N00_44_dd.mp4").touch()
    (tmp_path / "videos" / "9@N00_44_dd.3gp").touch()
    one_of = "should be first and last chunk, from 0 to 5"
    assert problems_of(load, files, ["7@N00_11_aa", "7@N00_22_bb.avi"]) == [
        f"{TRAIN}[3] (annotation_id 5): has no times; needs first and last chunk for each "
        "annotator",
        f"{TRAIN}[4] (annotation_id 6): times[1] is [3, 2]; {one_of}",
        f"{TRAIN}[4] (annotation_id 6): times[2] is [0, 6]; {one_of}",
        f"{TRAIN}[4] (annotation_id 6): times[3] is [-1, 0]; {one_of}",
        f"{TRAIN}[4] (annotation_id 6): times[4] is [1]; {one_of}",
        f"{TRAIN}[4] (annotation_id 6): times[5] is [1, True]; {one_of}",
        f"{TRAIN}[4] (annotation_id 6): times[6] is ['1']; {one_of}",
        f"{TRAIN}[5] (annotation_id 7): empty description",
        f"{TRAIN}[6] (annotation_id 8): video should be a file name, is ''",
        f"{TRAIN}[7] (annotation_id 9): video should be a file name, is '../d.mov'",
        f"{TRAIN}[8] (annotation_id 0): {TRAIN}[0] has the same id",
        f"{TRAIN}[9] (annotation_id 10): needs a description, a sentence",
        f"{TRAIN}[9] (annotation_id 10): needs num_segments, the number of chunks",
        f"{TRAIN}[10] (annotation_id None): needs annotation_id, a whole number",
        f"{TRAIN}[10] (annotation_id None): video should be a file name, is None",
        f"{TRAIN}[11] (annotation_id 12): has no times; needs first and last chunk for each "
        "annotator",
        f"{TRAIN}[12] (annotation_id None): should be an object, is a str",
        f"{VAL}[2] (annotation_id 4): empty description",
        f"{VAL}[2] (annotation_id 4): times[0] is [9, 9]; {one_of}",
        f"{TEST}[0] (annotation_id 4): {VAL}[2] has the same id",
        f"7@N00_11_aa: stands in {TRAIN} and in {VAL}",
        "leave_out: no clip 7@N00_22_bb.avi; ids are names without what follows the last dot",
    ]


def test_two_files_for_one_clip_are_refused_both_named(load, files, tmp_path):
    (tmp_path / "videos").mkdir()
    for name in ("9@N00_44_dd.3gp", "9@N00_44_dd.3gp.mp4", "7@N00_22_bb.avi", "7@N00_22_bb.mp4"):
        (tmp_path / "videos" / name).touch()
    assert problems_of(load, files, ["7@N00_22_bb"]) == [
        "9@N00_44_dd: two files, videos/9@N00_44_dd.3gp and videos/9@N00_44_dd.3gp.mp4; "
        "keep one of them"
    ]


def test_missing_files_are_asked_for_by_name(load, files, tmp_path):
    del files[TRAIN], files[TEST]
    assert problems_of(load, files) == [
        f"no {name}, the original list of moments, nor a ready-made list of paragraphs"
        for name in (TRAIN, TEST)
    ]
    with pytest.raises(DataError, match="no such folder"):
        load_didemo(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[{"video": ', f"(files not used: {TRAIN} (not JSON ("),
        ("{}", f"(files not used: {TRAIN})"),
    ],
)
def test_file_that_is_no_list_is_missing_and_named(load, files, text, says):
    files[TRAIN] = text
    with pytest.raises(DataError) as raised:
        load(files)
    assert f"\n  no {TRAIN}, the original list" in str(raised.value)
    assert says in str(raised.value)


@pytest.mark.data
def test_published_validation_file_gives_the_known_paragraphs(annotations, load, tmp_path):
    (tmp_path / VAL).symlink_to(annotations / "didemo" / "original" / VAL)
    data = load(SMALL)
    derived = annotations / "didemo" / "derived" / "didemo_ret_val.derived.json"
    expected = [
        (row["video"].removesuffix(".mp4"), (" ".join(row["caption"]),))
        for row in json.loads(derived.read_text())
    ]
    assert len(expected) == 1065
    assert [(clip.id, clip.captions) for clip in data.validation] == expected
    assert "4180 sentences about 1065 clips, 29 of them under two names" in data.notes[1]
    listed = (annotations / "didemo" / "ce" / "val_list.txt").read_text().split()
    assert {clip.id for clip in data.validation} == {name.rpartition(".")[0] for name in listed}


def test_sentences_stand_in_the_order_of_the_file_where_that_is_asked_for(load, files, tmp_path):
    load(files)
    in_file_order = load_didemo(tmp_path, sentence_order="file")
    assert in_file_order.train[0].captions == ("then it sits. a dog comes in",)


def ready_made(*rows):
    """Ready-made paragraphs, as Singularity and VindLU have them."""
    return [{"video": name, "caption": caption} for name, *caption in rows]


def test_ready_made_paragraphs_do_instead_of_the_original_in_their_own_order(load, files):
    files[TRAIN] = ready_made(
        ("train/7@N00_11_aa.mp4", "then it", "sits."),
        ("7@N00_22_bb.avi", "a cat"),
        ("train/7@N00_11_aa.mp4", "a dog comes in"),  # the same clip in another row
    )
    lines = [{"clip_name": f"9@N00_{n}_dd", "caption": f"a fish. {n}"} for n in (44, 45)]
    files[TEST] = "\r\n".join(map(json.dumps, lines))
    data = load(files, ["7@N00_99_zz"])
    assert [(clip.id, *clip.captions) for clip in data.train] == [
        ("7@N00_11_aa", "then it sits. a dog comes in"),
        ("7@N00_22_bb", "a cat"),
    ]
    assert [(clip.id, *clip.captions) for clip in data.test] == [
        ("9@N00_44_dd", "a fish. 44"),
        ("9@N00_45_dd", "a fish. 45"),
    ]
    assert data.notes[:2] == (
        "1 clips to leave out are in no list",
        f"train: {TRAIN}, 4 sentences about 2 clips, ready-made",
    )


def test_ready_made_paragraphs_beside_the_original_must_have_its_sentences(load, files):
    files["ret_train.json"] = ready_made(
        ("7@N00_11_aa.mp4", "then it sits.", "a dog comes in"), ("7@N00_22_bb.mp4", "a cat")
    )
    assert load(files).notes[0] == (
        f"ret_train.json: not used, the sentences of {TRAIN}, 1 of 2 paragraphs in the same order"
    )
    files["ret_train.json"].pop()
    says = (
        f"ret_train.json: differs from {TRAIN} about 1 clips, first 7@N00_22_bb; "
        "keep one of them, or name clips to be without in data.leave_out"
    )
    assert problems_of(load, files) == [says]
    assert len(load(files, ["7@N00_22_bb"]).train) == 1


def test_wrong_rows_of_ready_made_paragraphs_are_named(load, files):
    files[TRAIN] = [*ready_made(("7@N00_11_aa.mp4", "a"), ("7@N00_22_bb.mp4", " "), (" ", "b")), 3]
    assert problems_of(load, files) == [
        f"{TRAIN}[1]: needs a caption, sentences that are not empty",
        f"{TRAIN}[2]: video should be a file name, is ' '",
        f"{TRAIN}[3]: should be an object, is a int",
    ]


def test_line_of_ready_made_paragraphs_that_is_cut_short_is_named(load, files):
    lines = [json.dumps(row) for row in ready_made(("9@N00_44_dd.3gp", "a"), ("9@N00_55_ee", "b"))]
    files[TEST] = "\n".join(lines)[:-5]
    (problem,) = problems_of(load, files)
    assert problem.startswith(f"{TEST} line 2: not JSON (")


def test_list_of_names_is_compared_and_not_used(load, files):
    files["ce/train_list.txt"] = "7@N00_11_aa.\n7@N00_55_ee.mov\n"
    assert f"ce/train_list.txt: not used, names 1 of the 2 clips of {TRAIN}, and 1 others" in (
        load(files).notes
    )


@pytest.mark.data
def test_published_paragraphs_keep_the_other_order_in_280_clips_only(annotations, load, tmp_path):
    (tmp_path / VAL).symlink_to(annotations / "didemo" / "original" / VAL)
    derived = annotations / "didemo" / "derived" / "didemo_ret_val.derived.json"
    expected = {
        row["video"].removesuffix(".mp4"): " ".join(row["caption"])
        for row in json.loads(derived.read_text())
    }
    load(SMALL)
    in_file_order = load_didemo(tmp_path, sentence_order="file").validation
    assert sum(clip.captions == (expected[clip.id],) for clip in in_file_order) == 280
