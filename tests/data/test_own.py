"""One's own texts: what a file says, and everything that can be wrong with it, in one reading."""

import json
import re
from pathlib import Path

import pytest

from litevl.data.annotations import OTHER_TYPE
from litevl.data.own import FORMS, load_own, read_texts
from litevl.errors import DataError

DOCS = Path(__file__).parents[2] / "docs" / "own-data.md"
HEADER = "clip,caption,split\n"
ENOUGH = "a,one,train\nb,two,train\nc,three,test\nd,four,test\n"
QUESTIONS = [
    {"clip": "a", "question": "what moves?", "answer": "dog", "split": "train"},
    {"clip": "a", "question": "is it wet?", "answer": "no", "split": "train"},
    {"clip": "b", "question": "who sits?", "answer": "cat", "split": "validation"},
    {"clip": "c", "question": "Where is it?", "answer": "left", "split": "test"},
]


@pytest.fixture
def clips(tmp_path) -> Path:
    """A folder with the files that the rows name; nothing is decoded here."""
    folder = tmp_path / "clips"
    (folder / "more").mkdir(parents=True)
    for name in ("a.mp4", "b.AVI", "c.mp4", "d.mkv", "d.txt", "more/e.mov"):
        (folder / name).touch()
    return folder


@pytest.fixture
def read(clips, tmp_path):
    """Return a function from a file's content to what is read of it."""

    def texts(content: str | bytes, name: str = "texts.csv"):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_texts(clips, file)

    return texts


def lines(rows: list[dict]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


# What is read


def test_captions_go_to_their_clips_in_the_order_of_the_file(read, clips):
    texts = read(
        HEADER + "b.AVI,first,train\na,one,train\nb,again,train\nmore/e,x,test\nc,y,test\n"
    )
    assert texts.problems == texts.missing == []
    assert texts.task == "retrieval"
    train = texts.clips["train"]
    assert {clip.id: clip.captions for clip in train.values()} == {
        "b.AVI": ("first", "again"),
        "a.mp4": ("one",),
    }
    assert list(train) == ["b.AVI", "a.mp4"]
    assert texts.clips["test"]["more/e.mov"].path == clips / "more/e.mov"
    assert texts.clips["test"]["more/e.mov"].source == "more/e.mov"


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + HEADER + ENOUGH,
        (HEADER + ENOUGH).replace("\n", "\r\n"),
        '"clip","caption","split"\n"a","one","train"\nb, two ,train\n\nc,three,test\nd,four, test',
        "split,clip,caption\ntrain,a,one\ntrain,b,two\ntest,c,three\ntest,d,four",
    ],
    ids=["byte order mark", "CRLF", "quotes and spaces", "other order, no last line end"],
)
def test_spellings_of_one_file_say_the_same(read, content):
    plain, other = read(HEADER + ENOUGH), read(content, "other.csv")
    assert other.problems == []
    assert other.clips == plain.clips


def test_json_lines_and_a_json_list_say_what_a_csv_does(read):
    rows = [dict(zip(("clip", "caption", "split"), line.split(","), strict=True))
            for line in ENOUGH.splitlines()]  # fmt: skip
    plain = read(HEADER + ENOUGH).clips
    assert read(lines(rows), "texts.jsonl").clips == plain
    assert read(json.dumps(rows), "texts.json").clips == plain


def test_quoted_commas_quotes_and_line_ends_belong_to_the_text(read):
    texts = read(HEADER + ENOUGH + 'more/e,"one, ""two""\r\n and  three",train\n')
    assert texts.problems == []
    assert texts.captions("train") == ["one", "two", 'one, "two" and three']


def test_questions_have_their_type_by_the_first_word(read):
    texts = read(lines(QUESTIONS), "texts.jsonl")
    assert texts.problems == []
    assert texts.task == "question-answering"
    kinds = [question.kind for question in texts.questions("train")]
    assert kinds == ["what", OTHER_TYPE]
    assert texts.questions("test")[0].kind == "where"
    ids = [question.id for split in texts.clips for question in texts.questions(split)]
    assert len(set(ids)) == len(ids) == 4


def test_loaded_questions_have_the_answers_of_training_and_say_how_many_they_serve(clips, tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text(lines(QUESTIONS))
    found = load_own(clips, file, "question-answering", (2, None))
    assert found.answers == ("dog", "no")
    assert "test: 0 of 1 questions (0.00%) have a listed answer" in found.notes
    with pytest.raises(DataError, match="3, but the training questions have 2 answers"):
        load_own(clips, file, "question-answering", (3, None))
    with pytest.raises(DataError, match="the file is for question-answering, the spec for retriev"):
        load_own(clips, file, "retrieval", None)


def test_captions_that_test_clips_share_are_noted(clips, tmp_path):
    file = tmp_path / "texts.csv"
    file.write_text(HEADER + ENOUGH.replace("four", "three"))
    notes = load_own(clips, file, "retrieval", None).notes
    assert any("1 captions belong to more than one clip (first: 'three')" in note for note in notes)


def test_examples_of_the_documentation_are_right(tmp_path):
    text = DOCS.read_text(encoding="utf-8")
    for kind, task in (("csv", "retrieval"), ("json", "question-answering")):
        (example,) = re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)
        folder = tmp_path / kind
        for name in ("dog.mp4", "kitchen/pan.mp4", "door.avi", "rain.mov", "train.mkv"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        (tmp_path / f"{kind}.txt").write_text(example)
        texts = read_texts(folder, tmp_path / f"{kind}.txt")
        assert (texts.task, texts.problems, texts.missing) == (task, [], [])


# What is wrong


def test_everything_wrong_is_told_at_once_with_its_line(read, clips):
    (clips / "b.mp4").touch()
    texts = read(
        "clip,caption,split,note\n"
        "a,one,trian,\n"  # 2
        "b,two,train,\n"
        "z,three,train,\n"  # 4
        "c, ,train,\n"
        "../a,x,test,\n"  # 6
        "c,x,test,\n"
        "c,y,test,\n"  # 8
        "c,x,test,\n"
        "c,z,train,\n"  # 10
        "d,a \x1b[2J b,test,\n"
        "d,short,test\n"  # 12
        f"{'n' * 300},long,train,\n"
    )
    name = "texts.csv line"
    assert texts.problems == [
        f"{name} 12: more or fewer fields than the header",
        f"column 'note' is unknown; the columns are {FORMS}",
        f"{name} 2: split 'trian'; did you mean 'train'? (train, validation or test)",
        f"{name} 3: clip 'b' may be b.AVI or b.mp4; write which",
        f"{name} 5: empty caption",
        f"{name} 6: clip '../a' is not below the folder of clips",
        f"{name} 8: a second caption of c.mp4, a test clip; scores are over one caption for each "
        "clip, so keep one, or join them into one text",
        f"{name} 9: the same caption of c.mp4 as at {name} 7",
        f"{name} 10: c.mp4 is in train, and in test at {name} 7",
        f"{name} 11: caption holds '\\x1b', a letter that cannot be shown",
        f"{name} 13: clip: too long for a path: 300 letters, the longest name 300 bytes",
        "train: 1 clips; there should be 2 at least",
        "test: 1 clips; there should be 2 at least",
    ]
    assert texts.missing == [f"{name} 4: no clip 'z' in {clips}"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "empty; its first line should name the columns, clip,caption,split or"),
        (HEADER, "no rows"),
        ("a,one,train\nb,two,test\n", "neither a column 'caption' nor"),
        ("my clip!,caption,split\n", "line 1: should name the columns, .* is 'my clip!,caption"),
        (HEADER.replace(",", ";") + ENOUGH.replace(",", ";"), "columns parted by semicolons"),
        (HEADER.replace(",", "\t") + ENOUGH.replace(",", "\t"), "columns parted by tabs"),
        ("clip,captions,split\n" + ENOUGH, "'captions' is unknown; did you mean 'caption'"),
        ("clip,caption\na,one\n", "no column 'split'"),
        ("clip,question,split\na,what?,train\n", "no column 'answer'"),
        ("clip,caption,caption,split\na,one,two,train\n", "column 'caption' stands 2 times"),
        ("clip,caption,question,answer,split\na,b,c,d,train\n", "both captions and questions"),
        (HEADER + 'a,"one,train\nb,two,test\n', "an open quote?"),
        (HEADER + f"a,{'x' * 200_000},train\n", "field larger than field limit"),
        ((HEADER + ENOUGH).encode("utf-16"), "holds NUL, .* save it as text in UTF-8"),
        ((HEADER + "a,gr\u00fcn,train\n").encode("latin-1"), "cannot be read: .* save it as text"),
        ('{"clip": "a", "caption"', "not JSON"),
        ('{"clip": "a", "caption": "b", "split": "train"}', "train: 1 clips"),
        ('[["a"], {"clip": "a", "caption": "x", "split": "test"}]', r"\[0\]: should be an object"),
        (lines([{"clip": "a", "caption": 2, "split": None}]), "caption should be a text, is 2"),
        (lines([{"clip": "a", "caption": "x", "split": None}]), "line 1|0.*: no split"),
        (lines([{"clip": "\ud800", "caption": "x", "split": "test"}]), r"clip holds '\\ud800'"),
    ],
    ids=range(21),
)  # fmt: skip
def test_damaged_file_is_a_problem_and_no_traceback(read, content, problem):
    problems = read(content).problems
    assert any(re.search(problem, line) for line in problems), problems


def test_neither_folder_nor_file_is_told_together(tmp_path):
    texts = read_texts(tmp_path / "clips", tmp_path / "texts.csv")
    assert [line.partition(": ")[2] for line in texts.problems] == [
        "no such folder; it should hold the clips",
        "no such file; it should hold the texts",
    ]


def test_same_question_twice_is_told_whatever_its_answer(read):
    rows = [*QUESTIONS, QUESTIONS[0] | {"answer": "cat"}]
    (problem,) = read(lines(rows), "q.jsonl").problems
    assert problem == "q.jsonl line 5: the same question of a.mp4 as at q.jsonl line 1"


def test_problems_of_a_long_file_are_cut_and_counted(clips, tmp_path):
    file = tmp_path / "texts.csv"
    file.write_text(HEADER + ENOUGH + "a,,train\n" * 1000)
    with pytest.raises(DataError) as caught:
        load_own(clips, file, "retrieval", None)
    told = str(caught.value).split("\n")
    assert told[0] == f"{file}: 1000 problems in the own annotations"
    assert told[-1] == "  ... and 800 more"
