"""Both video QA sets as loaders read them: clips with questions, every wrong row named."""

import json
import zipfile

import pytest
from question_files import (
    MAPPING,
    TEST,
    TRAIN,
    VAL,
    as_lines,
    asked,
    both_sets,
    load_from,
    msrvtt_set,
    problems_of,
)

from litevl.data.annotations import Clip, Question
from litevl.data.video_qa import load_msrvtt_qa, load_msvd_qa
from litevl.errors import DataError

OFFICIAL = "train_val_videodatainfo.json"


@pytest.fixture
def files():
    """MSVD-QA in small."""
    return both_sets()


@pytest.fixture
def load(tmp_path):
    """Return a function that writes the files to a folder and loads them."""
    return lambda *args, **kwargs: load_from(tmp_path, *args, **kwargs)


@pytest.fixture
def problems(tmp_path):
    """Return a function that does the same and returns the problems it raises."""
    return lambda *args, **kwargs: problems_of(tmp_path, *args, **kwargs)


def official(*numbers):
    """MSRVTT's official JSON; two clips of each video."""
    videos = [
        {"video_id": f"video{n}", "url": f"https://example.org/{n // 2}", "split": "train"}
        for n in numbers
    ]
    return {"videos": videos, "sentences": []}


# MSVD-QA


def test_clips_come_in_the_order_of_their_first_question(load, files, tmp_path):
    assert load(files).train == (
        Clip(
            "a_b-1_10_14",
            tmp_path / "videos" / "a_b-1_10_14.avi",
            "a_b-1",
            questions=(
                Question("0", "what is chewing on a nut?", "squirrel"),
                Question("1", "Who eats?", "animal"),
                Question("3", "what is eaten?", "nut"),
            ),
        ),
        Clip(
            "a_b-0_5_9",
            tmp_path / "videos" / "a_b-0_5_9.avi",
            "a_b-0",
            questions=(
                Question("2", "how many dogs run?", "two"),
                Question("4", "what runs?", "animal"),
            ),
        ),
    )


def test_kind_of_a_question_is_its_first_word_in_lower_case(load, files):
    kinds = [question.kind for clip in load(files).train for question in clip.questions]
    assert kinds == ["what", "who", "what", "how", "what"]


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_mapping_has_either_line_end_and_none_after_its_last_line(load, files, tmp_path, end):
    expected = load(files)
    files[MAPPING] = files[MAPPING].rstrip().replace("\n", end)
    assert load(files) == expected
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:  # nothing translates its line ends
        archive.writestr(MAPPING, files[MAPPING])
    (tmp_path / MAPPING).unlink()
    del files[MAPPING]
    assert load(files).splits == expected.splits


@pytest.mark.parametrize("name", ["videos/{}.avi", "YouTubeClips/{}.avi", "YouTubeClips/{}.mp4"])
def test_clip_is_found_in_either_folder_with_any_extension(load, files, tmp_path, name):
    path = tmp_path / name.format("a_b-1_10_14")
    path.parent.mkdir()
    path.touch()
    assert load(files).train[0].path == path


def test_two_files_for_one_clip_are_refused_both_named(problems, files, tmp_path):
    for name in ("videos/a_b-1_10_14.avi", "YouTubeClips/a_b-1_10_14.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert problems(files) == [
        "a_b-1_10_14: two files, videos/a_b-1_10_14.avi and YouTubeClips/a_b-1_10_14.mp4; "
        "keep one of them"
    ]


def test_notes_say_what_was_read_and_how_many_questions_have_a_listed_answer(load, files):
    assert load(files).notes == (
        "youtube_mapping.txt: 1 of 5 clips have no questions",
        "train: train_qa.json, 5 questions about 2 clips; 3 (60.00%) have a listed answer",
        "validation: val_qa.json, 1 questions about 1 clips; 0 (0.00%) have a listed answer",
        "test: test_qa.json, 2 questions about 1 clips; 1 (50.00%) have a listed answer",
        "answer list: 2 answers of the training questions",
    )


def test_file_that_is_not_used_is_noted(load, files):
    assert load({**files, "readme.txt": "hello"}).notes[-1] == "files not used: readme.txt"


def test_question_whose_answer_is_not_listed_is_kept(load, files):
    data = load(files)
    assert "roof" not in data.answers
    assert [question.answer for question in data.test[0].questions] == ["roof", "animal"]


def test_every_wrong_row_is_named_in_one_error(problems, files):
    files[TRAIN] += [
        asked(8, 1, "is it a dog?", "yes"),
        asked(9, 1, " ", "dog"),
        asked(10, 1, "what's it?", ""),
        asked(11, 1, None, 3),
        asked(None, 1, "what is it?", "dog"),
        asked(13, True, "what is it?", "dog"),
        "no object",
    ]
    files[VAL] += [asked(2, 3, "what is it?", "dog"), asked(14, 1, "what is it?", "dog")]
    files[TEST] += [asked(n, video, "what is it?", "dog") for n, video in ((15, 9), (16, 9))]
    files[TEST] += [asked(17, 11, "what is it?", "dog"), asked(18, 3, "what is it?", "dog")]
    files[TEST] += [asked(18, 4, "what is it?", "dog")]
    types = "should start with one of what, who, how, when, where"
    video = 'needs video_id, a whole number or the clip\'s name, "<id>_<start>_<end>"'
    assert problems(files) == [
        f"{TRAIN}[5] (id 8): 'is it a dog?' {types}",
        f"{TRAIN}[6] (id 9): empty question",
        f'{TRAIN}[7] (id 10): "what\'s it?" {types}',
        f"{TRAIN}[7] (id 10): empty answer",
        f"{TRAIN}[8] (id 11): needs a question, a string",
        f"{TRAIN}[8] (id 11): needs an answer, a string",
        f"{TRAIN}[9] (id None): needs id, a whole number",
        f"{TRAIN}[10] (id 13): {video}",
        f"{TRAIN}[11]: should be an object, is a str",
        f"{VAL}[1] (id 2): {TRAIN}[2] has the same id",
        f"a_b-0_5_9: questions in {TRAIN} and in {VAL}",
        f"{TEST}[6] (id 18): {TEST}[5] has the same id",
        f"a_b-1_15_19: questions in {VAL} and in {TEST}",
        f"vid9: no line in {MAPPING}; 2 questions are about it",
        f"vid11: no line in {MAPPING}; 1 questions are about it",
    ]


def test_every_wrong_line_of_the_mapping_is_named(problems, files):
    files[MAPPING] += "x_1_2 vid6 more\nx_1 vid7\n../x_1_2 vid8\na_b-0_5_9 vid10\ny_1_2 vid2\n"
    line = 'should be "<id>_<start>_<end> vid<number>"'
    assert problems(files) == [
        f"{MAPPING} line 6: 'x_1_2 vid6 more' {line}",
        f"{MAPPING} line 7: 'x_1 vid7' {line}",
        f"{MAPPING} line 8: '../x_1_2 vid8' {line}",
        f"{MAPPING} line 9: a_b-0_5_9 stands already in line 1",
        f"{MAPPING} line 10: vid2 stands already in line 2",
    ]


def test_missing_files_are_asked_for_with_what_is_there(files, tmp_path):
    del files[TRAIN], files[TEST], files[MAPPING]
    with pytest.raises(DataError) as raised:
        load_from(tmp_path, {**files, "cut.json": '[{"answer": "nut", "id": 1'})
    form = "JSON or CSV with question, answer and video_id"
    _, *lines, recognised, unused = [line.strip() for line in str(raised.value).splitlines()]
    assert lines == [
        f"no train questions: {form} (train_qa.json, train.jsonl, train.csv)",
        f"no test questions: {form} (test_qa.json, test.jsonl, test.csv)",
        'no names of the clips, lines as "<name> vid<number>" (youtube_mapping.txt)',
    ]
    assert recognised == "(recognised: val_qa.json (original JSON: validation))"
    assert unused.startswith("(files not used: cut.json (not JSON (")
    with pytest.raises(DataError, match="nowhere: no such folder; MSVD-QA's questions"):
        load_msvd_qa(tmp_path / "nowhere", 1)


# MSRVTT-QA


def test_number_is_the_name_of_an_msrvtt_clip(load, tmp_path):
    (tmp_path / "TrainValVideo").mkdir()
    (tmp_path / "TrainValVideo" / "video1.mp4").touch()
    first, second = load(msrvtt_set(), load_msrvtt_qa).train
    assert (first.id, first.path) == ("video2", tmp_path / "videos" / "video2.mp4")
    assert second.path == tmp_path / "TrainValVideo" / "video1.mp4"
    assert [question.id for question in second.questions] == ["2", "4"]


def test_source_is_the_url_where_the_official_json_is_there(load, tmp_path):
    files = msrvtt_set()
    alone = load(files, load_msrvtt_qa)
    assert [clip.source for clip in alone.train + alone.test] == ["video2", "video1", "video4"]
    assert alone.notes[0] == (
        "sources: the official JSON names the video of 0 of 4 clips; "
        "the others count as one video each"
    )
    files[OFFICIAL] = official(1, 2, 3)
    some = load(files, load_msrvtt_qa)
    assert [clip.source for clip in some.train + some.validation + some.test] == [
        "https://example.org/1",
        "https://example.org/0",
        "https://example.org/1",
        "video4",
    ]
    with zipfile.ZipFile(tmp_path / "test_videodatainfo.json.zip", "w") as archive:
        archive.writestr("test_videodatainfo.json", json.dumps(official(4)))
    data = load(files, load_msrvtt_qa)
    assert data.test[0].source == "https://example.org/2"
    assert data.notes[0] == "sources: the official JSON names the video of 4 of 4 clips"


def test_questions_without_ids_have_split_and_row_for_id(load):
    files = msrvtt_set()
    lines = {
        "train.jsonl": as_lines(both_sets()[TRAIN]),
        "val.jsonl": as_lines(both_sets()[VAL]),
    }
    data = load({TEST: files[TEST]} | lines, load_msrvtt_qa)
    (first, second), (only,) = data.train, data.validation
    assert [question.id for question in first.questions] == ["train:0", "train:1", "train:3"]
    assert second.questions[0] == Question("train:2", "how many dogs run?", "two")
    assert (only.id, only.questions[0].id) == ("video3", "validation:0")
    assert data.test[0].questions[0].id == "6"


def test_both_data_sets_in_one_folder_are_told_apart(load, files):
    mixed = {f"msvd/{name}": content for name, content in files.items()}
    mixed |= {f"msrvtt/{name}": content for name, content in msrvtt_set().items()}
    assert load(mixed).train[0].id == "a_b-1_10_14"
    assert load({}, load_msrvtt_qa).train[0].id == "video2"


def test_wrong_official_json_missing_list_and_second_file_are_named_together(problems, tmp_path):
    files = msrvtt_set()
    del files[TEST]
    files[OFFICIAL] = official(1) | {"sentences": 3}
    for folder in ("videos", "video"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "video1.mp4").touch()
    assert problems(files, load_msrvtt_qa) == [
        f"{OFFICIAL}: sentences should be a list, is a int",
        "no test questions: JSON or CSV with question, answer and video_id "
        "(test_qa.json, test.jsonl, test.csv)",
        "video1: two files, videos/video1.mp4 and video/video1.mp4; keep one of them",
    ]
