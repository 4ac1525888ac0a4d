"""The declared answers: made of the training questions, or a file, and what it gives away."""

import pytest
from question_files import TEST, TRAIN, VAL, asked, both_sets, load_from, problems_of

from litevl.data.answer_lists import account, declared_answers, described


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


def test_most_frequent_training_answers_are_listed_the_first_of_a_tie_first(load, files):
    assert load(files, answer_count=1).answers == ("animal",)
    assert load(files, answer_count=3).answers == ("animal", "squirrel", "two")


def test_more_answers_than_the_training_questions_have_are_refused(problems, files):
    assert problems(files, answer_count=5) == [
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
            "[",
            "a.json: cannot be read as an answer list: Expecting value: line 1 column 2 (char 1)",
        ),
    ],
)
def test_answer_list_that_is_wrong_says_how(problems, files, name, content, says):
    files[name] = content
    assert problems(files, answer_count=3, answer_file=name) == [says]


def test_missing_answer_list_is_asked_for(problems, files):
    assert problems(files, answer_file="answers.json") == [
        "no answers.json, the answer list (data.answers.file)"
    ]


def test_answer_list_does_not_depend_on_questions_of_other_splits(load, files):
    expected = load(files).answers
    files[TEST] += [asked(100 + n, 4, "where is it?", "roof") for n in range(50)]
    assert load(files).answers == expected


def test_declared_answers_can_be_had_without_a_data_set(tmp_path):
    found = []
    assert declared_answers(tmp_path, ["b", "a", "a", "c"], 2, None, found) == ("a", "b")
    assert found == []


def test_tie_goes_to_the_answer_that_comes_first_in_the_file_not_in_the_clip(load, files):
    files[TRAIN] = files[TRAIN][1:]  # clip 2, clip 1, clip 2, clip 1: animal, two, nut, animal
    assert load(files, answer_count=3).answers == ("animal", "two", "nut")


# What a list gives away


def test_listed_answers_that_only_other_splits_have_are_counted_and_named(load, files):
    files[VAL].append(asked(8, 3, "what else?", "both"))
    files[TEST] += [asked(9, 4, "what else?", "both"), asked(10, 4, "what more?", "nut")]
    files["list.json"] = ["nut", "roof", "night", "both", "animal", "nobody"]
    data = load(files, answer_count=6, answer_file="list.json")
    assert data.listed.source == "list.json"
    assert data.listed.count == 6
    assert data.listed.only_validation == ("night", "both")
    assert data.listed.only_test == ("roof",)
    assert data.notes[-1] == (
        "answer list: 6 answers of list.json; "
        "the list holds 2 answers that only validation questions have (night, both); "
        "the list holds 1 answers that only test questions have (roof)"
    )


def test_list_of_the_training_questions_gives_nothing_away(load, files):
    data = load(files, answer_count=4)
    assert data.listed.only_validation == data.listed.only_test == ()
    assert data.notes[-1] == "answer list: 4 answers of the training questions"


def test_only_the_first_answers_given_away_are_named_and_all_are_counted():
    listed = account(tuple("abcdefg"), "x", {"train": [], "validation": [], "test": [*"abcdefg"]})
    assert described(listed).endswith(
        "7 answers that only test questions have (a, b, c, d, e, ... 2 more)"
    )
