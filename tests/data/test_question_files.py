"""The formats of question files, told apart by content; damaged ones are named, never repaired."""

import json

import pytest
from question_files import (
    MAPPING,
    TEST,
    TRAIN,
    VAL,
    as_hqga,
    as_just_ask,
    as_lines,
    as_table,
    asked,
    both_sets,
    load_from,
    msrvtt_set,
    of_msrvtt,
    problems_of,
    told,
    without_marks,
    write_files,
)

from litevl.data.recognise import recognise
from litevl.data.video_qa import load_msrvtt_qa, load_msvd_qa
from litevl.errors import DataError

NAMES = {2: "a_b-1_10_14", 1: "a_b-0_5_9", 3: "a_b-1_15_19", 4: "a_b-2_20_24"}
HQGA_MSVD = {"video": "video_id", "width": "600", "height": "480", "question": "question"} | {
    "answer": "answer",
    "qid": "id",
}
IN_OTHER_FORMS = {
    "lines": lambda rows: as_lines(rows),
    "HQGA": lambda rows: as_hqga(rows),
    "Just Ask": lambda rows: as_just_ask(rows),
    "LAVIS": lambda rows: [
        {
            "video": f"video{row['video_id']}.mp4",
            "question": row["question"],
            "answer": row["answer"],
            "question_id": row["id"],
        }
        for row in rows
    ],
}


@pytest.mark.parametrize("form", sorted(IN_OTHER_FORMS))
def test_every_format_of_msrvtt_asks_the_same(tmp_path, form):
    files = msrvtt_set()
    expected = load_from(tmp_path / "original", files, load_msrvtt_qa)
    other = {f"{name}.x": IN_OTHER_FORMS[form](rows) for name, rows in files.items()}
    found = load_from(tmp_path / "other", other, load_msrvtt_qa)
    for split, clips in expected.splits.items():
        asks = told(clips)
        if form == "HQGA":
            asks = [(clip, text.rstrip("?"), answer) for clip, text, answer in asks]
        assert told(found.splits[split]) == asks
    ids = [question.id for clip in found.test for question in clip.questions]
    assert ids == (["test:0", "test:1"] if form == "lines" else ["6", "7"])
    assert found.answers == expected.answers


@pytest.mark.parametrize(
    "form",
    [
        lambda rows: as_lines(rows, NAMES.get),
        lambda rows: as_lines(rows, lambda number: f"{NAMES[number]}.avi"),
        lambda rows: as_lines(rows, lambda number: f"vid{number}"),
        lambda rows: as_table(rows, HQGA_MSVD),
        lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    ],
    ids=["names", "files", "vid", "HQGA", "original lines"],
)
def test_every_format_of_msvd_asks_the_same(tmp_path, form):
    files = both_sets()
    expected = load_from(tmp_path / "original", files)
    other = {name: form(files[name]) for name in (TRAIN, VAL, TEST)} | {MAPPING: files[MAPPING]}
    found = load_from(tmp_path / "other", other)
    for split, clips in expected.splits.items():
        assert told(found.splits[split]) == told(clips)
        assert [clip.source for clip in found.splits[split]] == [clip.source for clip in clips]


def test_questions_that_name_their_clips_need_no_mapping(tmp_path):
    files = {name: as_lines(both_sets()[name], NAMES.get) for name in (TRAIN, VAL, TEST)}
    (first, second), *_ = load_from(tmp_path, files).splits.values()
    assert (first.id, first.source) == ("a_b-1_10_14", "a_b-1")
    assert second.path == tmp_path / "videos" / "a_b-0_5_9.avi"


def test_name_that_the_mapping_lacks_is_a_problem(tmp_path):
    files = both_sets()
    files[VAL] = as_lines(files[VAL], lambda _: "other_1_2")
    assert problems_of(tmp_path, files) == [
        f"other_1_2: no line in {MAPPING}; 1 questions are about it"
    ]


# Several files of one split


def test_files_that_ask_the_same_in_another_form_are_noted(tmp_path):
    files = msrvtt_set()
    shuffled = list(reversed(files[TRAIN]))
    more = {"a.train.csv": as_hqga(shuffled), "b.train.jsonl": as_lines(files[TRAIN])}
    data = load_from(tmp_path, files | more, load_msrvtt_qa)
    assert data.notes[:2] == (
        f"b.train.jsonl: not used, the same questions as {TRAIN}",
        f"a.train.csv: not used, the same questions as {TRAIN}",
    )


def test_files_that_ask_something_else_are_a_problem(tmp_path):
    files = msrvtt_set()
    other = [*files[TRAIN][:-1], {**files[TRAIN][-1], "answer": "nobody"}]
    files["train.csv"] = as_just_ask(other)
    assert problems_of(tmp_path, files, load_msrvtt_qa) == [
        f"train.csv: differs from {TRAIN} about 2 questions, first 'what runs' about video1; "
        "keep one of them"
    ]


def test_question_asked_twice_differs_from_one_asked_once(tmp_path):
    files = msrvtt_set()
    files["train.jsonl"] = as_lines([*files[TRAIN], files[TRAIN][0]])
    (problem,) = problems_of(tmp_path, files, load_msrvtt_qa)
    assert "about 1 questions, first 'what is chewing on a nut' about video2" in problem


def test_questions_without_their_mark_are_used_as_they_are_and_counted(tmp_path):
    files = msrvtt_set()
    files[TEST] = without_marks(files[TEST])[:1] + files[TEST][1:]
    data = load_from(tmp_path, files, load_msrvtt_qa)
    assert data.test[0].questions[0].text == "where is the cat"
    (note,) = (note for note in data.notes if "question mark" in note)
    assert note.startswith(f"{TEST}: 1 of 2 questions have no question mark")


# What a file is


def kinds(root, files):
    """Name -> data set, role and format; and why others are none."""
    write_files(root, files)
    found = recognise(root)
    known = {some.name: (some.kind.dataset, some.kind.role) for some in found.files}
    return known | found.others


def published(first, last, count):
    """As many questions as published about clips with these numbers."""
    return [asked(n, first + n % (last - first + 1), "what?", "it") for n in range(count)]


def test_published_sizes_tell_the_splits_apart_under_any_name(tmp_path):
    val = published(6513, 7009, 12278)
    assert kinds(
        tmp_path,
        {
            "test.json": of_msrvtt(val),  # misnamed
            "x": as_lines(val),
            "y": as_hqga(of_msrvtt(val)),
            "test.csv": as_table(published(1201, 1450, 6415), HQGA_MSVD),  # some copies' name
        },
    ) == {
        "test.json": ("msrvtt-qa", "validation"),
        "x": ("msrvtt-qa", "validation"),
        "y": ("msrvtt-qa", "validation"),
        "test.csv": ("msvd-qa", "validation"),
    }


def test_published_size_of_a_split_whose_clips_are_others_says_nothing(tmp_path):
    rows = published(1, 1200, 6415)  # as many as validation has, about the clips of train
    assert kinds(tmp_path, {"a.json": rows}) == {"a.json": ("msvd-qa", "train")}


def test_other_sizes_go_by_name_then_by_the_clips_numbers(tmp_path):
    rows = of_msrvtt(published(7010, 9999, 9))
    assert kinds(
        tmp_path,
        {"train_qa.json": rows, "z.json": rows, "mixed.json": rows + of_msrvtt(published(0, 0, 1))},
    ) == {
        "train_qa.json": ("msrvtt-qa", "train"),
        "z.json": ("msrvtt-qa", "test"),
        "mixed.json": "questions of an unknown split of msrvtt-qa",
    }


def test_numbers_without_a_category_are_msvds_unless_it_has_none_such(tmp_path):
    found = kinds(
        tmp_path,
        {
            "train1.json": published(1, 9, 9),
            "train2.json": published(1965, 1975, 11),
            "train3.json": of_msrvtt(published(1, 9, 9)),
            "train4.json": published(0, 5, 5),
        },
    )
    assert [dataset for dataset, _ in found.values()] == [
        "msvd-qa",
        "msrvtt-qa",
        "msrvtt-qa",
        "msrvtt-qa",
    ]


@pytest.mark.parametrize("column", ["question", "answer", "video"])
def test_missing_column_is_named_with_those_that_are_there(tmp_path, column):
    columns = {name: key for name, key in HQGA_MSVD.items() if name != column}
    found = kinds(tmp_path, {"train.csv": as_table(both_sets()[TRAIN], columns)})
    lacks = "video_id" if column == "video" else column
    assert found == {"train.csv": f"lacks {lacks}; has {', '.join(columns)}"}


def test_list_without_questions_goes_by_its_name(tmp_path):
    data = load_from(tmp_path, both_sets() | {VAL: []})
    assert not data.splits["validation"]
    assert not [note for note in data.notes if "not used" in note]
    unnamed = {name: rows for name, rows in both_sets().items() if name != VAL}
    assert problems_of(tmp_path / "unnamed", unnamed | {"more.json": []}) == [
        "no validation questions: JSON or CSV with question, answer and video_id "
        "(val_qa.json, val.jsonl, val.csv)"
    ]


def test_missing_column_shows_where_the_questions_are_asked_for(tmp_path):
    files = msrvtt_set()
    del files[TRAIN]
    files["train.csv"] = "video,question,qid\n1,what is it,0\n"
    write_files(tmp_path, files)
    with pytest.raises(DataError, match=r"train\.csv \(lacks answer; has video, question, qid\)"):
        load_msrvtt_qa(tmp_path, 1)


def test_questions_about_other_clips_are_not_ours(tmp_path):
    rows = [{"question": "what?", "answer": "it", "video_id": clip} for clip in ("v_a", "v_b", 7)]
    reason = "questions about clips of another data set"
    assert kinds(tmp_path, {"train.json": rows}) == {"train.json": reason}


@pytest.mark.parametrize(
    ("count", "dataset"), [(1852, "msvd-qa"), (2423, "msvd-qa"), (1500, "msrvtt-qa"), (9, None)]
)
def test_published_answer_lists_are_told_by_their_size(tmp_path, count, dataset):
    words = ["question", "answer", "video"]  # of an answer list, they are no keys
    answers = [*words, *(f"a{n}" for n in range(count - len(words)))]
    forms = {"a": {answer: n for n, answer in enumerate(answers)}, "b": answers}
    expected = (dataset, "answers") if dataset else ""
    assert kinds(tmp_path, forms | {"c": "\n".join(answers)}) == dict.fromkeys("abc", expected)


# Damaged files


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["", "BOM"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("form", ["lines", "HQGA", "Just Ask"])
def test_byte_order_marks_and_line_ends_make_no_difference(tmp_path, form, start, end):
    texts = {name: IN_OTHER_FORMS[form](rows) for name, rows in msrvtt_set().items()}
    plain = load_from(tmp_path / "plain", texts, load_msrvtt_qa)
    changed = {n: start + text.encode().replace(b"\n", end) for n, text in texts.items()}
    found = load_from(tmp_path / "changed", changed, load_msrvtt_qa)
    assert [told(clips) for clips in found.splits.values()] == [
        told(clips) for clips in plain.splits.values()
    ]


def test_wrong_json_lines_are_named(tmp_path):
    files = msrvtt_set()
    good = as_lines([asked(0, 3, "what is it?", "dog")] * 5)
    wrong = [
        '{"answer": "dog"',
        '{"answer": "dog", "question": "what is it?", "video_id": -3}',
        '{"answer": "dog", "question": "it?", "video_id": "video1"}',
        "3",
    ]
    del files[VAL]
    files["val.jsonl"] = good + "\n".join(wrong)
    cut, *others = problems_of(tmp_path, files, load_msrvtt_qa)
    assert cut.startswith("val.jsonl line 6: not JSON (")
    assert (
        others
        == [
            'val.jsonl line 7 (id validation:5): needs video_id, a whole number or "video<number>"',
            "val.jsonl line 8 (id validation:6): 'it?' should start with one of "
            "what, who, how, when, where",
            "val.jsonl line 9: should be an object, is a int",
            f"video1: questions in {TRAIN} and in val.jsonl",
        ][:3]
    )


def test_wrong_rows_of_a_table_are_named(tmp_path):
    files = msrvtt_set()
    good = as_just_ask(files[VAL])
    files[VAL] = good + "\n".join(
        [
            ",dog,7,3,6,0",
            "what is it?,dog,7,3,5,0",
            "what is it?,dog,7,3",
            "what is it?,dog,7,three,8,0",
            '"what is it, then?",dog,7,3,9,0',
        ]
    )
    assert problems_of(tmp_path, files, load_msrvtt_qa) == [
        f"{VAL} line 5: more or fewer fields than the header",
        f"{VAL} line 3 (id 6): empty question",
        f"{VAL} line 4 (id 5): {VAL} line 2 has the same id",
        f'{VAL} line 6 (id 8): needs video_id, a whole number or "video<number>"',
    ]


def test_open_quote_is_named(tmp_path):
    files = msrvtt_set()
    files[VAL] = as_just_ask(files[VAL]) + '"what is it?,dog,7,3,6,0\n'
    (problem,) = problems_of(tmp_path, files, load_msrvtt_qa)
    assert problem.startswith(f"{VAL} after line ")
    assert problem.endswith("an open quote?")


def test_list_cut_short_is_not_used_and_says_why(tmp_path):
    files = both_sets()
    files[VAL] = json.dumps(files[VAL])[:-9]
    write_files(tmp_path, files)
    with pytest.raises(DataError, match=r"val_qa\.json \(not JSON \(.*cut short\?\)"):
        load_msvd_qa(tmp_path, 1)
