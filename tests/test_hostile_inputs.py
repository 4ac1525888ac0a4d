"""Files from strangers: nothing in them is run, leads elsewhere, or acts on who reads about it."""

import ast
import json
import pickle
import re
import shutil
import tomllib
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pages import Page
from question_files import both_sets, problems_of
from question_records import question_run_id, write_question_study
from records import change_record, run_id, write_study
from small import SHIPPED, write_spec

from litevl.cli import main
from litevl.data.checked import note_on_check, outcome_file
from litevl.data.fingerprint import HASH_FILE, file_hashes, read_kept
from litevl.data.mini_annotations import read_twins
from litevl.data.msrvtt import load_msrvtt
from litevl.data.prepared import PREPARED_FILE, note_on_preparation
from litevl.engine.checkpoint import read_checkpoint
from litevl.errors import DataError, LiteVLError, RunError, SpecError, WeightsError
from litevl.model.checkpoints import read_tensors
from litevl.profiles import missing_for_paper
from litevl.record import read_arrays, read_plan
from litevl.report import render_report
from litevl.report.page import _tex, markdown
from litevl.spec import load_spec

REPOSITORY = Path(__file__).parents[1]
STEERING = "\x1b[2J \x7f \x9b \u202egnp.exe\u2066 \ud800"


def changed_spec(tmp_path, change) -> Path:
    """MSRVTT-QA's shipped file with a change made to its tables."""
    spec = tomllib.loads((SHIPPED / "msrvtt_qa.toml").read_text("utf-8"))
    change(spec)
    return write_spec(tmp_path / "spec.toml", spec)


def complaint(file) -> str:
    """What is wrong with a spec."""
    with pytest.raises(SpecError) as raised:
        load_spec(file)
    return str(raised.value)


# Code


class Hostile:
    """Unpickled, it would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.mkdir, (Path(self.path),)


def test_pickles_are_read_in_two_places_only_and_nothing_of_them_is_run():
    """Where a third is added, say here how it is kept from running what a file holds."""
    found = []
    for path in sorted((REPOSITORY / "litevl").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name.partition(".")[0] for alias in node.names]
                modules = {*names, (getattr(node, "module", None) or "").partition(".")[0]}
                assert not modules & {"joblib", "yaml", "dill", "shelve", "marshal", "cloudpickle"}
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node.func)
            assert call not in ("eval", "exec", "compile", "__import__"), path
            assert not call.startswith("pickle."), path
            if call in ("torch.load", "np.load", "numpy.load"):
                options = {word.arg: ast.unparse(word.value) for word in node.keywords}
                guard = "weights_only" if call == "torch.load" else "allow_pickle"
                assert options[guard] == str(call == "torch.load")
                found.append(f"{path.relative_to(REPOSITORY / 'litevl').as_posix()}: {call}")
    assert [each for each in found if "checkpoint" not in each] == ["record.py: np.load"]
    assert len(found) >= 3


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_code_in_a_run_s_checkpoint_is_not_run(tmp_path, is_zip):
    content = {"step": 3, "model": Hostile(tmp_path / "mark")}
    path = tmp_path / "last.pt"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(RunError, match="cannot be read"):
        read_checkpoint(path, torch.device("cpu"))
    assert not (tmp_path / "mark").exists()


def test_checkpoint_that_unpacks_without_end_is_not_unpacked(tmp_path):
    """torch.save compresses nothing, so its files hold no more than their size."""
    path = tmp_path / "last.pt"
    torch.save({"step": 3}, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("last/data/0", bytes(1 << 20))
    refusal = "compressed; torch.save compresses nothing"
    with pytest.raises(RunError, match=refusal):
        read_checkpoint(path, torch.device("cpu"))
    with pytest.raises(WeightsError, match=refusal):
        read_tensors(path)


@pytest.mark.parametrize("member", ["array", "bare"])
def test_code_in_a_record_s_arrays_is_not_run(tmp_path, member):
    folder = write_study(tmp_path / "records", ["full"], num_queries=4)
    path = folder / f"{run_id('full', 0)}.npz"
    arrays = read_arrays(path)
    if member == "array":
        np.savez(path, **arrays | {"captions": np.array([Hostile(tmp_path / "mark")] * 4, object)})
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("captions.npy", pickle.dumps(Hostile(tmp_path / "mark")))
    with pytest.raises(DataError, match="cannot be read"):
        read_arrays(path)
    assert not (tmp_path / "mark").exists()


# Values that cannot be, in files of the right shape


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("truth", 4, "truth should hold places from 0 to 3"),
        ("t2v_top", -1, "t2v_top should hold places from 0 to 3"),
        ("v2t_ranks", 0, "v2t_ranks should hold ranks from 1, the best before the worst"),
        ("t2v_ranks", 5, "t2v_ranks should hold ranks up to 4"),
        ("v2t_itc_ranks", 5, "v2t_itc_ranks should hold ranks up to 4"),
        ("order_right", 7.0, "order_right should hold only 0, 0.5 and 1"),
    ],
)
def test_retrieval_s_values_that_cannot_be_are_damage(tmp_path, name, value, reason):
    folder = write_study(tmp_path / "records", ["full"], num_queries=4)
    path = folder / f"{run_id('full', 0)}.npz"
    arrays = read_arrays(path)
    arrays[name][0] = value
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=reason):
        read_arrays(path)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("top", 10, "top should hold places from 0 to 9"),
        ("kinds", "why", "kinds should hold only what, who, how, when, where"),
        ("in_list", 0.5, "in_list should hold only 0 and 1"),
        ("in_list", 0.0, "right is 1 where in_list is 0"),
        ("right", 0.0, "right is not 1 just where the first of top is the gold answer"),
    ],
)
def test_answers_values_that_cannot_be_are_damage(tmp_path, name, value, reason):
    folder = write_question_study(tmp_path / "records", ["full"], num_questions=10)
    path = folder / f"{question_run_id('full', 0)}.npz"
    arrays = read_arrays(path)
    arrays[name][arrays["right"] == 1] = value
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=reason):
        read_arrays(path)


def test_record_without_a_single_query_is_damage(tmp_path):
    folder = write_study(tmp_path / "records", ["full"], num_queries=4)
    path = folder / f"{run_id('full', 0)}.npz"
    np.savez(path, **{name: array[:0] for name, array in read_arrays(path).items()})
    with pytest.raises(DataError, match="no entries on axis Q"):
        read_arrays(path)


def test_strips_of_other_queries_become_a_warning_on_the_page(tmp_path):
    folder = write_study(tmp_path / "records", ["full"], num_queries=4)
    path = folder / f"{run_id('full', 0)}.strips.npz"
    with np.load(path) as stored:
        strips = {name: stored[name] for name in stored.files}
    strips["queries"][0] = 99
    np.savez(path, **strips)
    with mock.patch.object(Figure, "savefig"):
        page = render_report(folder.parent, tmp_path)
    assert "queries should hold places from 0 to 3" in Page(page).text


def test_arrays_that_unpack_without_end_are_not_unpacked(tmp_path, monkeypatch):
    folder = write_study(tmp_path / "records", ["full"], num_queries=4)
    path = folder / f"{run_id('full', 0)}.npz"
    monkeypatch.setattr("litevl.record.MAX_BYTES", 4 << 20)
    np.savez_compressed(path, **read_arrays(path), bomb=np.zeros(5 << 20, np.uint8))
    with (
        mock.patch.object(np, "load", side_effect=AssertionError("unpacked")),
        pytest.raises(DataError, match="5 MiB unpacked, more than any run's"),
    ):
        read_arrays(path)


# Places


@pytest.mark.parametrize("file", ["../answers.json", "/etc/passwd", "a/../../b", "C:\\a.json"])
def test_answer_list_outside_the_root_is_refused_by_the_spec_and_by_the_loader(tmp_path, file):
    def name_it(spec):
        spec["profile"]["paper"]["data"]["answers"]["file"] = file

    message = complaint(changed_spec(tmp_path, name_it))
    assert "data.answers.file: " in message
    assert "is not below data.root; copy it there" in message
    (tmp_path / "answers.json").write_text('["secret", "secret"]')
    (problem,) = problems_of(tmp_path / "root", both_sets(), answer_file=file)
    assert problem == f"data.answers.file: {file!r} is not below the data set's folder"


def test_data_and_weights_may_lie_anywhere(tmp_path):
    def move(spec):
        spec["profile"]["paper"]["data"]["root"] = "/volume/../msrvtt"
        spec["profile"]["paper"]["model"]["weights"] = "../weights/model.pth"

    load_spec(changed_spec(tmp_path, move))


@pytest.mark.parametrize("table", ["data.root", "model.weights"])
@pytest.mark.parametrize(
    ("path", "reason"),
    [("a\0b", "holds a NUL"), ("x" * 300, "too long"), ("x/" * 2000, "too long")],
)
def test_path_that_no_disk_has_is_told_with_its_key(tmp_path, table, path, reason):
    section, key = table.split(".")

    def change(spec):
        spec["profile"]["paper"][section][key] = path

    file = changed_spec(tmp_path, change)
    file.write_text(file.read_text("utf-8").replace("\0", "\\u0000"), "utf-8")
    assert re.search(rf"\n  profile\.paper\.{table}: {reason}", complaint(file))


def test_start_from_a_path_that_no_disk_has_is_told(tmp_path):
    file = changed_spec(tmp_path, lambda spec: spec["start"][0].update(weights="x" * 300))
    assert re.search(r"\n  start\.\w+\.weights: too long for a path", complaint(file))


def test_name_too_long_for_a_file_s_name_is_told(tmp_path):
    file = changed_spec(tmp_path, lambda spec: spec.update(name="x" * 65))
    assert "name: expected a length of at most 64, got the string" in complaint(file)


def test_plan_that_asks_for_records_elsewhere_is_refused(tmp_path):
    folder = write_study(tmp_path / "records", ["full"], num_queries=4)
    plan = json.loads((folder / "mini.plan.json").read_text())
    plan["ids"] = ["../../x-mini-full-s0-0123abcd"]
    (folder / "mini.plan.json").write_text(json.dumps(plan))
    with pytest.raises(DataError, match=r"ids\.0"):
        read_plan(folder / "mini.plan.json")


@pytest.mark.parametrize("name", ["../../video0", "a/video0", "video0.mp4", "..", "a\0b", "C:x"])
def test_clip_id_that_is_a_path_is_refused(tmp_path, name):
    video = {"video_id": name, "url": "u", "split": "train"}
    official = {"videos": [video], "sentences": [{"video_id": name, "caption": "a disc"}]}
    (tmp_path / "official.json").write_text(json.dumps(official))
    with pytest.raises(DataError) as raised:
        load_msrvtt(tmp_path, "9k")
    assert "official.json videos[0]: video_id " in str(raised.value)
    assert 'is no id, as "video7010" is' in str(raised.value)


# Commands that are shown to be copied


def test_command_shown_for_a_root_does_what_it_says_however_the_root_is_called(tmp_path):
    def change(spec):
        spec["profile"]["paper"]["data"]["root"] = "a; rm -rf ~"

    (_, way_out), *_ = missing_for_paper(load_spec(changed_spec(tmp_path, change)))
    assert "litevl data fetch msrvtt-qa --root 'a; rm -rf ~'; then" in way_out


def test_start_is_fetched_by_a_plain_name(tmp_path):
    file = changed_spec(tmp_path, lambda spec: spec["start"][0].update(fetch="blip:a; rm -rf ~"))
    assert '.fetch: expected "blip:NAME" or "hub:OWNER/NAME", got' in complaint(file)


# What readers see


def test_message_does_nothing_to_the_terminal_it_is_printed_on():
    message = str(LiteVLError(f"line one {STEERING}\n\tline two"))
    assert message == ("line one \\x1b[2J \\x7f \\x9b \\u202egnp.exe\\u2066 \\ud800\n\tline two")


def test_file_names_do_nothing_to_the_terminal_either(tmp_path, capsys):
    (tmp_path / "\x1b[31m.csv").write_text("video_id,sentence\nvideo7010,a disc\n")
    main(["data", "check", "msrvtt", "--root", str(tmp_path), "--annotations-only"])
    out = capsys.readouterr().out
    assert "\\x1b[31m.csv" in out
    assert "\x1b" not in out


HOSTILE = (
    '"><script>alert(1)</script></title></style><img src=x onerror=alert(1)>',
    "# title javascript:alert(1) ' onload='alert(1) \u202e\u2066 turned \u2069",
    "[a](javascript:alert(1)) `b` | c \\input{/etc/passwd} % $x$",
)
KEPT = {"dataset", "id", "profile", "variant", "spec", "status", "select", "schema", "metric"}
KEPT |= {"better", "worse", "ids", "name", "source", "spec_file", "layout"}


def every_string(content, by, key=""):
    """The content with every text replaced whose value the schema leaves open."""
    if isinstance(content, dict):
        return {name: every_string(one, by, name) for name, one in content.items()}
    if isinstance(content, list):
        return [every_string(one, by, key) for one in content]
    return by if isinstance(content, str) and key not in KEPT else content


class Elements(Page):
    """A page's elements, each with the names of its attributes."""

    def __init__(self, path) -> None:
        self.elements: list[tuple[str, ...]] = []
        super().__init__(path)

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        self.elements.append((tag, *(name for name, _ in attrs)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Records of two tasks with a harmless word in place of every text, and their pages."""
    folder = tmp_path_factory.mktemp("plain")
    write_study(folder / "records", ["full"], num_queries=4)
    write_question_study(folder / "records", ["full"], num_questions=10)
    return folder


def rendered(folder, plain, word) -> dict[str, Path]:
    """The pages of the plain records with a word in place of every text; by name."""
    shutil.copytree(plain / "records", folder / "records")
    for name, run in (("msrvtt", run_id("full", 0)), ("msvd-qa", question_run_id("full", 0))):
        place = folder / "records" / name
        change_record(place, run, lambda record: record.update(every_string(record, word)))
        plan = json.loads((place / "mini.plan.json").read_text())
        (place / "mini.plan.json").write_text(json.dumps(every_string(plan, word)))
        arrays = read_arrays(place / f"{run}.npz")
        for key in ("captions", "query_ids", "gallery_ids", "questions", "clip_ids"):
            if key in arrays:
                arrays[key] = np.array([word] * len(arrays[key]))
        np.savez(place / f"{run}.npz", **arrays)
    with mock.patch.object(Figure, "savefig"):  # pages hold their size and description only
        render_report(folder / "records", folder)
    return {page.parent.name: page for page in sorted(folder.glob("*/index.html"))}


def test_texts_of_a_record_make_no_element_no_attribute_and_no_link(tmp_path, plain):
    """Every word in turn, over all texts at once: the pages keep the elements they have."""
    expected = rendered(tmp_path / "plain", plain, "word")
    assert expected.keys() == {"msrvtt-mini", "msvd-qa-mini", "combined-mini"}
    for number, word in enumerate(HOSTILE):
        for name, page in rendered(tmp_path / str(number), plain, word).items():
            found, usual = Elements(page), Elements(expected[name])
            breaks = ("wbr",)
            assert [e for e in found.elements if e != breaks] == [
                e for e in usual.elements if e != breaks
            ]
            assert found.links == usual.links
            assert not re.search("[\u202a-\u202e\u2066-\u2069]", page.read_text("utf-8"))
            text = (page.parent / "report.md").read_text("utf-8")
            outside_code = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
            usual_text = (expected[name].parent / "report.md").read_text("utf-8")
            usual_text = re.sub(r"```.*?```", "", usual_text, flags=re.DOTALL)
            assert "<" not in outside_code.replace("\\<", "")
            assert not re.search(r"(?<!\\)\]\((?!figures/|\.\./)", outside_code)
            headings = [re.findall("^#+ ", one, re.M) for one in (outside_code, usual_text)]
            assert headings[0] == headings[1]


def test_text_starts_no_heading_quote_or_list_in_markdown_and_numbers_stay():
    starts = ("# a", "> a", "- a", "+ a", "1. a", "12) a", "= a")
    assert all(re.match(r"\d*\\", str(markdown(text))) for text in starts)
    assert [str(markdown(text)) for text in ("5.2", "-", "-5", "+5.1")] == [
        "5.2",
        "-",
        "-5",
        "+5.1",
    ]


def test_text_ends_no_cell_in_latex():
    assert _tex("a\n\nb\\input{c}\x1b") == r"a b\textbackslash{}input\{c\}\textbackslash{}x1b"


# What commands leave in a data set's folder, changed by somebody


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "video_id,reversed_id\n1\n", "", '"', "\udce4"])
def test_twins_that_are_none_are_told(tmp_path, text):
    (tmp_path / "twins.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"twins\.csv: not video_id and reversed_id in each row"):
        read_twins(tmp_path)


@pytest.mark.parametrize(
    "text", ['{"conversion": 3}', '{"conversion": {"first_seconds": "5"}}', "["]
)
def test_damaged_account_of_preparation_is_told(tmp_path, text):
    (tmp_path / PREPARED_FILE).write_text(text)
    with pytest.raises(DataError, match="damaged; it does not say what was done to the clips"):
        note_on_preparation(tmp_path, 5.0)


def test_what_only_saves_time_is_made_again_when_it_is_damaged(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"clip")
    for row in (3, [], ["a"], None, {"a": 1}):
        (tmp_path / HASH_FILE).write_text(json.dumps({clip.name: row}))
        assert len(file_hashes([clip])[clip]) == 64
    outcome_file(tmp_path, "msrvtt").write_text('{"fingerprint": "f"}')
    assert "decoded on None" in note_on_check(tmp_path, "msrvtt", "f")
    (tmp_path / HASH_FILE).write_text("[" * 100_000)
    assert read_kept(tmp_path / HASH_FILE) == {}
