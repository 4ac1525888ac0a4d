"""Every published count, on the real files where they are at hand, and on files that differ."""

import json

import pytest

from litevl.cli import main
from litevl.data.acceptance import Check, acceptance, described
from litevl.data.recognise import recognise

# All that cannot be counted without a file that may not be handed on, or could not be had.
NOT_AT_HAND = {
    "didemo": {
        "train: sentences", "train: clips", "train list: names", "train, ready-made: clips",
        "test: sentences", "test: clips", "test: names", "test: clips under two names",
        "test list: names", "test list: names of other clips", "test, ready-made: clips",
        "test, ready-made: paragraphs as in annotator-mode order",
        "test, ready-made: paragraphs as in file order",
    },
    "msrvtt": set(),
}  # fmt: skip


def official(*clips):
    """The official JSON for (number, split) pairs, with three captions each."""
    ids = [(f"video{number}", split) for number, split in clips]
    return {
        "videos": [{"video_id": name, "url": "u", "split": split} for name, split in ids],
        "sentences": [{"video_id": name, "caption": "a"} for name, _ in ids * 3],
    }


def moment(video, sentence):
    """One entry of DiDeMo's original lists; all of them have one id."""
    known = {"annotation_id": 1, "num_segments": 6, "times": [[0, 0]]}
    return known | {"video": video, "description": sentence}


@pytest.fixture
def check(capsys):
    """Return a function that runs the command on a folder: exit code, and the parsed outcome."""

    def run(name, root):
        code = main(["data", "check", name, "--annotations-only", "--root", str(root), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else err

    return run


@pytest.mark.data
@pytest.mark.parametrize("name", ["msrvtt", "didemo"])
def test_real_files_hold_every_published_count(check, annotations, name):
    code, outcome = check(name, annotations)
    assert {some["name"] for some in outcome["checks"] if some["status"] == "not at hand"} == (
        NOT_AT_HAND[name]
    )
    assert [some for some in outcome["checks"] if some["status"] == "differs"] == []
    assert (code, outcome["ok"]) == (0, True)


@pytest.mark.data
def test_real_val_paragraphs_are_counted_in_both_orders(check, annotations):
    _, outcome = check("didemo", annotations)
    found = {some["name"]: some["found"] for some in outcome["checks"]}
    assert found["validation, ready-made: paragraphs as in annotator-mode order"] == 1065
    assert found["validation, ready-made: paragraphs as in file order"] == 280


def test_file_that_differs_is_told_with_both_counts(check, tmp_path):
    content = official((0, "train"), (1, "validate"), (7010, "test"))
    (tmp_path / "a").write_text(json.dumps(content))
    code, outcome = check("msrvtt", tmp_path)
    assert (code, outcome["ok"]) == (1, False)
    by_name = {some["name"]: some for some in outcome["checks"]}
    assert by_name["official JSON: captions"] == {
        "name": "official JSON: captions", "expected": 200_000, "found": 9, "note": "",
        "status": "differs",
    }  # fmt: skip
    assert by_name["1k-A test: clips"]["status"] == "not at hand"
    assert outcome["recognised"] == [
        {"file": "a", "dataset": "msrvtt", "role": "clips", "format": "official JSON"}
    ]


def test_problems_in_rows_are_counted_and_the_first_named(tmp_path):
    rows = [moment("1@N00_1_a.mov", "a"), moment("1@N00_2_b.mov", "")]
    (tmp_path / "val_data.json").write_text(json.dumps(rows))
    found = recognise(tmp_path)
    last = acceptance("didemo", found)[-1]
    assert last == Check(
        "problems", 0, 2,
        "val_data.json[1] (annotation_id 1): empty description; "
        "val_data.json[1] (annotation_id 1): val_data.json[0] has the same id",
    )  # fmt: skip
    text = described(acceptance("didemo", found), found)
    assert "val_data.json: didemo, validation (original JSON)\n" in text
    assert "  differs      validation: sentences" in text
    assert "not at hand  train: sentences" in text


def test_folder_with_nothing_known_is_the_users_mistake(check, tmp_path):
    (tmp_path / "cut.json").write_text("[")
    code, message = check("msrvtt", tmp_path)
    assert code == 2
    assert message.startswith(f"DataError: {tmp_path}: no annotation file of msrvtt recognised\n")
    assert "cut.json (not JSON" in message
    code, message = check("didemo", tmp_path / "nowhere")
    assert (code, "no such folder" in message) == (2, True)
