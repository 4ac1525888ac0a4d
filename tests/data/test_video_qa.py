"""The published formats of both video QA sets: right files are read, every wrong row is named."""

import json
import zipfile
from collections import Counter

import pytest

from litevl.data.annotations import Clip, Question
from litevl.data.video_qa import declared_answers, load_msrvtt_qa, load_msvd_qa
from litevl.errors import DataError

TRAIN, VAL, TEST = "train_qa.json", "val_qa.json", "test_qa.json"
MAPPING, OFFICIAL = "youtube_mapping.txt", "train_val_videodatainfo.json"


def asked(number, video, question, answer):
    """One entry of the original lists."""
    return {"answer": answer, "id": number, "question": question, "video_id": video}


@pytest.fixture
def files():
    """Both data sets in small: two training clips, one of each of the other splits."""
    return {
        TRAIN: [
            asked(0, 2, "what is chewing on a nut?", "squirrel"),
            asked(1, 2, "Who eats?", "animal"),
            asked(2, 1, "how many dogs run?", "two"),
            asked(3, 2, "what is eaten?", "nut"),
            asked(4, 1, "what runs?", "animal"),
        ],
        VAL: [asked(5, 3, "when does it rain?", "night")],
        TEST: [asked(6, 4, "where is the cat?", "roof"), asked(7, 4, "what sits?", "animal")],
        MAPPING: "".join(f"a_b-{n // 2}_{5 * n}_{5 * n + 4} vid{n}\n" for n in range(1, 6)),
    }


@pytest.fixture
def load(tmp_path):
    """Return a function that writes the files to a folder and loads them."""

    def write_and_load(files, loader=load_msvd_qa, answer_count=2, answer_file=None):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = content if isinstance(content, str) else json.dumps(content)
            path.write_bytes(text.encode())
        return loader(tmp_path, answer_count, answer_file)

    return write_and_load


def problems_of(load, *args, **kwargs):
    """The lines of the DataError, without its headline."""
    with pytest.raises(DataError) as raised:
        load(*args, **kwargs)
    return [line.strip() for line in str(raised.value).splitlines()[1:]]


def as_clipbert(entries):
    """The same questions in the form of ClipBERT: one object per line, without ids."""
    rows = (
        {
            "answer": entry["answer"],
            "question": entry["question"],
            "video_id": f"video{entry['video_id']}",
            "answer_type": entry["question"].split()[0],
        }
        for entry in entries
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


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


def test_two_files_for_one_clip_are_refused_both_named(load, files, tmp_path):
    for name in ("videos/a_b-1_10_14.avi", "YouTubeClips/a_b-1_10_14.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert problems_of(load, files) == [
        "a_b-1_10_14: two files, videos/a_b-1_10_14.avi and YouTubeClips/a_b-1_10_14.mp4; "
        "keep one of them"
    ]


def test_notes_say_what_was_read_and_what_no_listed_answer_fits(load, files):
    assert load(files).notes == (
        "youtube_mapping.txt: 1 of 5 clips have no questions",
        "train: train_qa.json, 5 questions about 2 clips; "
        "2 (40.00%) have an answer that is not listed",
        "validation: val_qa.json, 1 questions about 1 clips; "
        "1 (100.00%) have an answer that is not listed",
        "test: test_qa.json, 2 questions about 1 clips; "
        "1 (50.00%) have an answer that is not listed",
    )


def test_question_whose_answer_is_not_listed_is_kept(load, files):
    data = load(files)
    assert "roof" not in data.answers
    assert [question.answer for question in data.test[0].questions] == ["roof", "animal"]


def test_every_wrong_row_is_named_in_one_error(load, files):
    files[TRAIN] += [
        asked(8, 1, "is it a dog?", "yes"),
        asked(9, 1, " ", "dog"),
        asked(10, 1, "what's it?", ""),
        asked(11, 1, None, 3),
        asked("12", 1, "what is it?", "dog"),
        asked(13, True, "what is it?", "dog"),
        "no object",
    ]
    files[VAL] += [asked(2, 3, "what is it?", "dog"), asked(14, 1, "what is it?", "dog")]
    files[TEST] += [asked(n, video, "what is it?", "dog") for n, video in ((15, 9), (16, 9))]
    files[TEST] += [asked(17, 11, "what is it?", "dog"), asked(18, 3, "what is it?", "dog")]
    files[MAPPING] += "x_1_2 vid6 more\nx_1 vid7\n../x_1_2 vid8\na_b-0_5_9 vid10\ny_1_2 vid2\n"
    types = "should start with one of what, who, how, when, where"
    line = 'should be "<id>_<start>_<end> vid<number>"'
    assert problems_of(load, files) == [
        f"{TRAIN}[5] (id 8): 'is it a dog?' {types}",
        f"{TRAIN}[6] (id 9): empty question",
        f'{TRAIN}[7] (id 10): "what\'s it?" {types}',
        f"{TRAIN}[7] (id 10): empty answer",
        f"{TRAIN}[8] (id 11): needs a question, a string",
        f"{TRAIN}[8] (id 11): needs an answer, a string",
        f"{TRAIN}[9]: needs id and video_id as whole numbers",
        f"{TRAIN}[10]: needs id and video_id as whole numbers",
        f"{TRAIN}[11]: should be an object, is a str",
        f"{VAL}[1] (id 2): {TRAIN}[2] has the same id",
        f"{MAPPING} line 6: 'x_1_2 vid6 more' {line}",
        f"{MAPPING} line 7: 'x_1 vid7' {line}",
        f"{MAPPING} line 8: '../x_1_2 vid8' {line}",
        f"{MAPPING} line 9: a_b-0_5_9 stands already in line 1",
        f"{MAPPING} line 10: vid2 stands already in line 2",
        f"vid9: no line in {MAPPING}; 2 questions are about it",
        f"vid11: no line in {MAPPING}; 1 questions are about it",
        f"a_b-0_5_9: questions in {TRAIN} and in {VAL}",
        f"a_b-1_15_19: questions in {VAL} and in {TEST}",
    ]


def test_missing_files_are_asked_for_by_name(load, files, tmp_path):
    del files[TRAIN], files[TEST], files[MAPPING]
    assert problems_of(load, files) == [
        "no train_qa.json, an original list of questions",
        "no test_qa.json, an original list of questions",
        'no youtube_mapping.txt, the names of the clips, as "<name> vid<number>"',
    ]
    with pytest.raises(DataError, match="nowhere: no such folder; MSVD-QA's questions"):
        load_msvd_qa(tmp_path / "nowhere", 1)


# MSRVTT-QA


def test_number_is_the_name_of_an_msrvtt_clip(load, files, tmp_path):
    (tmp_path / "TrainValVideo").mkdir()
    (tmp_path / "TrainValVideo" / "video1.mp4").touch()
    first, second = load(files, load_msrvtt_qa).train
    assert (first.id, first.path) == ("video2", tmp_path / "videos" / "video2.mp4")
    assert second.path == tmp_path / "TrainValVideo" / "video1.mp4"
    assert [question.id for question in second.questions] == ["2", "4"]


def test_source_is_the_url_where_the_official_json_is_there(load, files, tmp_path):
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


def test_clipberts_lines_stand_in_for_an_original_list_that_is_not_there(load, files):
    expected = load(files, load_msrvtt_qa)
    lines = {"train.jsonl": as_clipbert(files[TRAIN]), "val.jsonl": as_clipbert(files[VAL])}
    both = load(files | lines, load_msrvtt_qa)
    assert both.splits == expected.splits
    assert both.notes[:2] == (
        "train.jsonl: not used, train_qa.json is there",
        "val.jsonl: not used, val_qa.json is there",
    )


def test_clipberts_questions_have_split_and_row_for_id(load, files):
    lines = {"train.jsonl": as_clipbert(files[TRAIN]), "val.jsonl": as_clipbert(files[VAL])}
    data = load({TEST: files[TEST]} | lines, load_msrvtt_qa)
    (first, second), (only,) = data.train, data.validation
    assert [question.id for question in first.questions] == ["train:0", "train:1", "train:3"]
    assert second.questions[0] == Question("train:2", "how many dogs run?", "two")
    assert (only.id, only.questions[0].id) == ("video3", "validation:0")
    assert data.test[0].questions[0].id == "6"


def test_wrong_lines_of_clipbert_are_named(load, files):
    wrong = [
        '{"answer": "dog"',
        '{"answer": "dog", "question": "what?", "video_id": 3}',
        '{"answer": "dog", "question": "it?", "video_id": "video1"}',
        "3",
    ]
    del files[VAL]
    files["val.jsonl"] = as_clipbert([asked(0, 3, "what is it?", "dog")]) + "\n".join(wrong)
    cut, *others = problems_of(load, files, load_msrvtt_qa)
    assert cut.startswith("val.jsonl line 2: not JSON (")
    assert others == [
        'val.jsonl line 3: needs video_id as "video<number>"',
        "val.jsonl line 4 (id validation:3): 'it?' should start with one of "
        "what, who, how, when, where",
        'val.jsonl line 5: needs video_id as "video<number>"',
    ]


def test_wrong_official_json_missing_list_and_second_file_are_named_together(load, files, tmp_path):
    del files[TEST]
    files[OFFICIAL] = '{"videos": ['
    for folder in ("videos", "video"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "video1.mp4").touch()
    missing, cut, second = problems_of(load, files, load_msrvtt_qa)
    assert missing == "no test_qa.json, an original list of questions, and no test.jsonl"
    assert cut.startswith(f"{OFFICIAL}: not JSON")
    assert second == "video1: two files, videos/video1.mp4 and video/video1.mp4; keep one of them"


# The answer list


def test_most_frequent_training_answers_are_listed_the_first_of_a_tie_first(load, files):
    assert load(files, answer_count=1).answers == ("animal",)
    assert load(files, answer_count=3).answers == ("animal", "squirrel", "two")


def test_more_answers_than_the_training_questions_have_are_refused(load, files):
    assert problems_of(load, files, answer_count=5) == [
        "data.answers.count: 5, but the training questions have 4 answers"
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("answers.json", ["nut", "animal", "roof"]),
        ("lists/train_ans2label.json", {"roof": 2, "nut": 0, "animal": 1}),
        ("answers.txt", "nut\nanimal\r\nroof\n"),
    ],
)
def test_answer_list_is_read_from_a_file_of_any_form(load, files, name, content):
    files[name] = content
    assert load(files, answer_count=3, answer_file=name).answers == ("nut", "animal", "roof")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", ["nut", "roof", "nut"], "a.json: entry 3 is 'nut' again, as entry 1"),
        ("a.json", '{"nut": 0, "roof": 1, "nut": 2}', "a.json: entry 3 is 'nut' again, as entry 1"),
        ("a.txt", "nut\nroof\nnut\n", "a.txt: entry 3 is 'nut' again, as entry 1"),
        ("a.json", ["nut", " ", "roof"], "a.json: entry 2 is ' '; should be an answer"),
        ("a.json", ["nut", 3, "roof"], "a.json: entry 2 is 3; should be an answer"),
        ("a.txt", "nut\n\nroof\n", "a.txt: entry 2 is ''; should be an answer"),
        ("a.json", ["nut", "roof"], "a.json: has 2 entries, data.answers.count is 3"),
        ("a.txt", "a\nb\nc\nd\n", "a.txt: has 4 entries, data.answers.count is 3"),
        (
            "a.json",
            {"nut": 0, "roof": 1, "dog": 1},
            "a.json: cannot be read as an answer list: two answers have the same label",
        ),
        (
            "a.json",
            {"nut": 0, "roof": "1"},
            "a.json: cannot be read as an answer list: should be a list, "
            "or an object from answer to label, a whole number",
        ),
        (
            "a.json",
            "3",
            "a.json: cannot be read as an answer list: should be a list, "
            "or an object from answer to label, a whole number",
        ),
        (
            "a.json",
            "[",
            "a.json: cannot be read as an answer list: Expecting value: line 1 column 2 (char 1)",
        ),
    ],
)
def test_answer_list_that_is_wrong_says_how(load, files, name, content, says):
    files[name] = content
    assert problems_of(load, files, answer_count=3, answer_file=name) == [says]


def test_missing_answer_list_is_asked_for(load, files):
    assert problems_of(load, files, answer_file="answers.json") == [
        "no answers.json, the answer list (data.answers.file)"
    ]


def test_answer_list_does_not_depend_on_questions_of_other_splits(load, files):
    expected = load(files).answers
    files[TEST] += [asked(100 + n, 4, "where is it?", "roof") for n in range(50)]
    assert load(files).answers == expected


# Published files


def kinds_of(clips):
    return Counter(question.kind for clip in clips for question in clip.questions)


@pytest.mark.data
def test_published_msvd_lists_have_their_known_counts(annotations, load, tmp_path):
    published = annotations / "msvd_qa" / "original"
    for name in (TRAIN, VAL, MAPPING):
        (tmp_path / name).symlink_to(published / name)
    files = {TEST: [asked(37348, 1451, "who opened the box?", "someone")]}
    data = load(files, answer_count=1852)
    kinds = [kinds_of(data.train), kinds_of(data.validation)]
    assert kinds == [
        {"what": 19485, "who": 10479, "how": 736, "when": 161, "where": 72},
        {"what": 3995, "who": 2168, "how": 185, "when": 51, "where": 16},
    ]
    assert [sum(some.values()) for some in kinds] == [30933, 6415]
    assert [len(clips) for clips in data.splits.values()] == [1161, 245, 1]
    assert data.train[0].id == "-4wsuPCjDBc_5_15"
    assert data.train[0].source == "-4wsuPCjDBc"
    assert data.train[0].questions[0] == Question("0", "what is chewing on a nut?", "animal")
    assert data.notes[0] == "youtube_mapping.txt: 563 of 1970 clips have no questions"
    assert len(set(data.answers)) == 1852
    assert problems_of(load, files, answer_count=1853) == [
        "data.answers.count: 1853, but the training questions have 1852 answers"
    ]
    assert load(files, answer_count=1000).answers == data.answers[:1000]


@pytest.mark.data
def test_published_msrvtt_validation_list_is_the_same_in_both_forms(annotations, load, tmp_path):
    published = annotations / "msrvtt_qa"
    (tmp_path / "labels.json").symlink_to(published / "clipbert" / "train_ans2label.json")
    files = {TRAIN: [asked(0, 0, "what is it?", "dog")], TEST: []}
    loaded = []
    for name, source in (
        ("val.jsonl", published / "clipbert" / "val.jsonl"),
        (VAL, published / "derived" / "val_qa.derived.json"),
    ):
        (tmp_path / name).symlink_to(source)
        loaded.append(load(files, load_msrvtt_qa, answer_count=1500, answer_file="labels.json"))
    lines, original = loaded
    assert kinds_of(original.validation) == {
        "what": 8337,
        "who": 3439,
        "how": 344,
        "when": 106,
        "where": 52,
    }

    def told(data):
        return [
            (clip.id, [(question.text, question.answer) for question in clip.questions])
            for clip in data.validation
        ]

    assert len(original.validation) == 497
    assert told(lines) == told(original)
    assert original.answers[:3] == ("accept", "accident", "act")
    for data in loaded:
        assert "12278 questions about 497 clips; 859 (7.00%) have" in data.notes[-2]


@pytest.mark.data
def test_official_json_names_the_video_of_every_published_clip(annotations, load, tmp_path):
    (tmp_path / VAL).symlink_to(annotations / "msrvtt_qa" / "derived" / "val_qa.derived.json")
    for file in (annotations / "msrvtt" / "official").iterdir():
        (tmp_path / file.name).symlink_to(file)
    data = load({TRAIN: [asked(0, 0, "what is it?", "dog")], TEST: []}, load_msrvtt_qa, 1)
    assert data.notes[0] == "sources: the official JSON names the video of 498 of 498 clips"
    assert all(clip.source.startswith("http") for clip in data.validation)


def test_declared_answers_can_be_had_without_a_data_set(tmp_path):
    problems = []
    assert declared_answers(tmp_path, ["b", "a", "a", "c"], 2, None, problems) == ("a", "b")
    assert problems == []
