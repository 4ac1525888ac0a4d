"""The `litevl` command: what it prints, what it returns, and what it calls."""

import argparse
import errno
import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
import types
from pathlib import Path

import pytest
from records import make_arrays, make_record

import litevl
from litevl.cli import main, parser
from litevl.errors import DataError, RunError, WeightsError
from litevl.plan import plan
from litevl.record import write_record
from litevl.spec import load_spec

ROOT = Path(__file__).parent.parent
REPRODUCTIONS = ("msrvtt", "didemo", "msvd_qa", "msrvtt_qa")
MSRVTT = str(ROOT / "reproductions" / "msrvtt.toml")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def execute_plan(monkeypatch):
    """Stand-in for `litevl.run`: remembers how it was called, returns or raises what it is told."""
    calls = []

    def execute_plan(**arguments):
        calls.append(arguments)
        if isinstance(execute.outcome, BaseException):
            raise execute.outcome
        return execute.outcome

    execute = types.SimpleNamespace(calls=calls, outcome=0)
    module = types.ModuleType("litevl.run")
    module.execute_plan = execute_plan
    monkeypatch.setitem(sys.modules, "litevl.run", module)
    return execute


def json_lines(capsys) -> list[dict]:
    """What was printed, one document a line."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def render_all(monkeypatch):
    """Stand-in for `litevl.report.page`: remembers how it was called."""
    calls = []

    def render_all(records_dir, output_dir, spec, profile):
        calls.append((records_dir, output_dir, spec, profile))
        folders = [output_dir / "msrvtt-mini", output_dir / "combined-mini"]
        return [folders[0] / "index.html"], [folders[1] / "index.html"]

    module = types.ModuleType("litevl.report.page")
    module.render_all = render_all
    monkeypatch.setitem(sys.modules, "litevl.report.page", module)
    return calls


# Start-up


def test_help_loads_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "litevl", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in ("check", "plan", "run", "report"):
        assert f"\n    {name} " in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "litevl.cli" in imported
    assert not imported & {"torch", "numpy", "pydantic", "transformers", "matplotlib"}


def test_help_answers_in_half_a_second():
    def seconds():
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "litevl", "--help"], cwd=ROOT, capture_output=True, check=True
        )
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5  # the best of three: other work may be going on


def parsers(top):
    """A parser and all below it, each with the words that lead there: {("data", "fetch"): ...}."""
    found = {tuple(top.prog.split()[1:]): top}
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                found |= parsers(below)
    return found


def test_every_command_s_help_has_an_example_that_the_command_takes():
    top = parser()
    found = parsers(top)
    assert {("run",), ("data",), ("data", "fetch"), ("compare",)} <= set(found)
    for words, sub in found.items():
        assert sub.epilog, f"litevl {' '.join(words)} --help has no example"
        program, *arguments = shlex.split(sub.epilog)
        assert program == "litevl"
        assert tuple(arguments[: len(words)]) == words
        read = top.parse_args(arguments)  # exits where an option is unknown or one is missing
        if not sub._subparsers:
            assert read.command is sub.get_default("command")
        assert f"example:\n  {sub.epilog}\n" in sub.format_help()  # in one line, to be copied


def test_importing_the_package_loads_no_torch():
    code = "import sys, litevl; print(sorted({'torch', 'pydantic', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_public_names_are_found_on_first_use():
    from litevl.model.config import LiteVLConfig
    from litevl.model.litevl import LiteVLForRetrieval

    assert litevl.LiteVLConfig is LiteVLConfig
    assert litevl.LiteVLForRetrieval is LiteVLForRetrieval
    assert set(litevl.__all__) <= set(dir(litevl))
    with pytest.raises(AttributeError, match="'litevl' has no attribute 'LiteVL'"):
        _ = litevl.LiteVL


def test_version_is_the_one_of_the_project_file(capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"litevl {project['version']}\n"


# check


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_check_says_ok_and_what_the_spec_holds(name, capsys):
    path = ROOT / "reproductions" / f"{name}.toml"
    assert main(["check", str(path)]) == 0
    targets = {"msrvtt": "8 targets", "didemo": "6 targets, 6 of them unknown"}
    told = targets.get(name, "2 targets, 2 of them unknown")
    assert capsys.readouterr().out == f"{path}: ok (5 variants, 3 claims, {told})\n"


def test_check_warns_of_paper_values_whose_source_is_not_told(tmp_path, capsys):
    lines = Path(MSRVTT).read_text().splitlines(keepends=True)
    path = tmp_path / "untold.toml"
    path.write_text("".join(line for line in lines if not line.startswith('"train.epochs" = ')))
    assert main(["check", str(path)]) == 0
    warning = "train.epochs: no [provenance] for the paper profile's value"
    assert capsys.readouterr().out.endswith(f"\n  warning: {warning}\n")
    assert main(["check", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [warning]


def test_check_prints_every_problem_on_stderr_and_returns_2(tmp_path, capsys):
    path = tmp_path / "bad.toml"
    text = Path(MSRVTT).read_text().replace("num_frames = 8", "num_frame = 8")
    path.write_text(text.replace('title = "LiteVL"', "title = 3"))
    assert main(["check", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"SpecError: {path}: 3 problems\n")
    assert "  frames.num_frame: unknown key; did you mean 'num_frames'?\n" in err
    assert "  variant.full.title: expected a string, got 3\n" in err


def test_check_as_json_tells_a_program_the_same(tmp_path, capsys):
    assert main(["check", MSRVTT, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "problems": [], "warnings": []}
    path = tmp_path / "bad.toml"
    path.write_text(re.sub(r"epochs = \d+", "epochs = 0", Path(MSRVTT).read_text(), count=1))
    assert main(["check", str(path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "problems": ["profile.mini.train.epochs: expected at least 1, got 0"],
    }
    assert main(["check", "absent.toml", "--json"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem.startswith("absent.toml: no such file")


def test_check_schema_is_json_schema(capsys):
    assert main(["check", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"name", "data", "variant", "profile"} <= schema["properties"].keys()


def test_check_without_a_file_says_what_to_name(capsys):
    assert main(["check"]) == 2
    assert "name a SPEC" in capsys.readouterr().err


# plan


def test_plan_lists_each_run_with_its_state(tmp_path, capsys):
    assert main(["plan", MSRVTT, "--variant", "full", "--seed", "0", "--json"]) == 0
    (row,) = json_lines(capsys)
    assert (row["variant"], row["seed"], row["state"]) == ("full", 0, "missing")
    arrays = make_arrays("full", 0)
    record = make_record("full", 0, arrays)
    record["run"]["id"] = row["id"]
    write_record(tmp_path / "out" / "records" / "msrvtt", record, arrays)
    assert main(["plan", MSRVTT, "--output", "out"]) == 0
    first, head, *rows, last = capsys.readouterr().out.splitlines()
    assert first.startswith("msrvtt, profile mini (not found for paper: data/msrvtt")
    assert head.split() == ["run", "state"]
    assert rows[0].split() == [row["id"], "done"]
    assert [line.split()[1] for line in rows] == ["done"] + ["missing"] * 4
    assert last == "5 runs: 1 done, 0 failed, 4 missing"


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_plan_lists_the_five_variants_of_each_reproduction(name, capsys):
    path = ROOT / "reproductions" / f"{name}.toml"
    assert main(["plan", str(path), "--json"]) == 0
    rows = json_lines(capsys)
    assert {row["spec"] for row in rows} == {name.replace("_", "-")}
    for row in rows:
        assert row["profile_reason"].startswith(f"not found for paper: data/{name}, ")
    assert [row["variant"] for row in rows] == [
        "full", "no-temporal-attention", "no-scaling", "mean-pooling", "concat-pooling",
    ]  # fmt: skip
    assert {row["state"] for row in rows} == {"missing"}


def test_plan_as_json_is_a_line_for_each_run_with_all_that_a_scheduler_needs(capsys):
    limits = ["--subset", "8", "--max-steps", "2", "--profile", "mini", "--output", "o ut"]
    assert main(["plan", MSRVTT, "--json", *limits, "--seed", "0", "--seed", "1"]) == 0
    rows = json_lines(capsys)
    assert [(row["variant"], row["seed"]) for row in rows[4:6]] == [
        ("concat-pooling", 0), ("full", 1),
    ]  # fmt: skip
    assert rows[5] | {"id": None} == {
        "spec": "msrvtt",
        "profile": "mini",
        "profile_reason": "asked for",
        "id": None,
        "variant": "full",
        "seed": 1,
        "subset": 8,
        "max_steps": 2,
        "state": "missing",
        "command": f"litevl run {MSRVTT} --profile mini --variant full --seed 1 --subset 8 "
        "--max-steps 2 --output 'o ut' --no-report",
    }


def test_command_of_a_planned_run_does_this_run_and_no_other(execute_plan, capsys):
    """Also where the plan says "auto": a data set that arrives meanwhile makes no other run."""
    assert main(["plan", MSRVTT, "--json"]) == 0
    for row in json_lines(capsys):
        execute_plan.calls.clear()
        assert main(shlex.split(row["command"])[1:]) == 0
        (call,) = execute_plan.calls
        asked = [call[name] for name in ("variants", "seeds", "subset", "max_steps")]
        (run,) = plan(load_spec(call["spec_path"]), call["profile"], *asked)
        assert run.id == row["id"]
        assert call["report"] is False


def test_plan_names_the_variants_there_are(capsys):
    assert main(["plan", MSRVTT, "--variant", "none-such"]) == 2
    assert "no such variant: none-such (it has: full, " in capsys.readouterr().err


def test_running_the_paper_profile_without_data_says_what_is_missing(capsys):
    assert main(["run", MSRVTT, "--profile", "paper"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("DataError: msrvtt, profile paper: not found\n  data/msrvtt: ")


@pytest.mark.parametrize(
    "option",
    [
        ["--subset", "0"],
        ["--subset", "-1"],
        ["--max-steps", "many"],
        ["--seed", "-1"],
        ["--seed", str(2**32)],
        ["--profile", "tiny"],
        ["--varian", "full"],
    ],
)
def test_wrong_option_is_a_users_mistake(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["plan", MSRVTT, *option])
    assert stopped.value.code == 2
    assert option[0] in capsys.readouterr().err


# run


def test_help_of_run_says_what_a_subset_is(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert (
        "--subset N only the first N clips of each split, in the order of the annotation files, "
        "with all their captions, or their first five questions; the records will say comparable: "
        "false"
    ) in words


def test_run_passes_everything_on_and_returns_what_came_back(execute_plan, tmp_path):
    execute_plan.outcome = 1
    options = "--profile mini --variant full --variant no-scaling --seed 3 --seed 4 --subset 8"
    rest = "--max-steps 5 --output out --rerun --allow-missing --jobs auto"
    assert main(["run", MSRVTT, *options.split(), *rest.split()]) == 1
    assert execute_plan.calls == [
        {
            "spec_path": Path(MSRVTT),
            "profile": "mini",
            "variants": ["full", "no-scaling"],
            "seeds": [3, 4],
            "subset": 8,
            "max_steps": 5,
            "output": Path("out"),
            "rerun": True,
            "allow_missing": True,
            "start": None,
            "jobs": None,
            "report": True,
        }
    ]
    assert list((tmp_path / "out").iterdir()) == []  # tried, and left as it was


def test_run_without_options_is_the_whole_plan_under_the_auto_profile(execute_plan):
    assert main(["run", MSRVTT]) == 0
    (call,) = execute_plan.calls
    assert call == {
        "spec_path": Path(MSRVTT),
        "profile": "auto",
        "variants": [],
        "seeds": [],
        "subset": None,
        "max_steps": None,
        "output": Path("reports"),
        "rerun": False,
        "allow_missing": False,
        "start": None,
        "jobs": 1,
        "report": True,
    }


def test_mistake_in_spec_or_option_shows_before_anything_is_made(execute_plan, tmp_path, capsys):
    assert main(["run", "absent.toml"]) == 2
    assert main(["run", MSRVTT, "--variant", "none-such"]) == 2
    assert main(["run", MSRVTT, "--profile", "paper"]) == 2
    assert execute_plan.calls == []
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("output", ["taken", "taken/below", "x" * 300])
def test_output_that_cannot_be_a_folder_is_told_before_the_run(
    execute_plan, tmp_path, capsys, output
):
    (tmp_path / "taken").write_text("a file")
    assert main(["run", MSRVTT, "--output", output]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"RunError: {output}: ")
    assert "choose another folder with --output" in err
    assert execute_plan.calls == []
    assert (tmp_path / "taken").read_text() == "a file"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "Permission denied"),
        (errno.EROFS, "Read-only file system"),
        (errno.ENOSPC, "no space left on the disk"),
    ],
)
def test_output_that_cannot_be_written_is_told_before_the_run(
    execute_plan, monkeypatch, capsys, number, words
):
    def refuse(dir):
        raise OSError(number, os.strerror(number), str(dir / "tmp123"))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert main(["run", MSRVTT, "--output", "out"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"RunError: out/tmp123: {words}.\n")
    assert "choose another folder with --output" in err
    assert execute_plan.calls == []


def test_disk_that_fills_up_in_a_run_says_that_finished_runs_are_kept(execute_plan, capsys):
    execute_plan.outcome = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert main(["run", MSRVTT]) == 1
    err = capsys.readouterr().err
    assert err.startswith("RunError: reports: no space left on the disk.\n")
    assert "Finished runs are kept; the same command continues" in err


def test_place_outside_the_output_that_cannot_be_written_is_named_without_blaming_output(
    execute_plan, capsys
):
    execute_plan.outcome = PermissionError(errno.EACCES, "Permission denied", "data/mini/x.mp4")
    assert main(["run", MSRVTT]) == 1
    err = capsys.readouterr().err
    assert err.startswith("RunError: data/mini/x.mp4: Permission denied.\n")
    assert "--output" not in err


@pytest.mark.parametrize(
    ("error", "code"),
    [(RunError("loss not finite"), 1), (DataError("no clips"), 2), (WeightsError("no key"), 2)],
)
def test_known_error_is_one_message_and_its_exit_code(execute_plan, capsys, error, code):
    execute_plan.outcome = error
    assert main(["run", MSRVTT]) == code
    assert capsys.readouterr().err == f"{type(error).__name__}: {error}\n"


@pytest.mark.parametrize("error", [ValueError("ours"), OSError(errno.EIO, "broken disk")])
def test_error_that_no_user_can_cause_keeps_its_traceback(execute_plan, error):
    execute_plan.outcome = error
    with pytest.raises(type(error)):
        main(["run", MSRVTT])


def test_ctrl_c_returns_130_and_says_in_one_line_how_to_go_on(execute_plan, capsys):
    execute_plan.outcome = KeyboardInterrupt()
    assert main(["run", MSRVTT]) == 130
    err = capsys.readouterr().err
    assert err.strip() == (
        "Interrupted. Finished runs are kept; the same command continues with the rest."
    )


# report


def test_report_renders_the_default_folder_and_prints_every_page(render_all, capsys):
    assert main(["report"]) == 0
    assert render_all == [(Path("reports/records"), Path("reports"), None, None)]
    printed = capsys.readouterr().out
    assert printed == "reports/msrvtt-mini/index.html\nreports/combined-mini/index.html\n"


def test_report_renders_what_was_named(render_all):
    assert main(["report", "out", "--spec", "msrvtt", "--profile", "mini"]) == 0
    assert render_all == [(Path("out/records"), Path("out"), "msrvtt", "mini")]


def test_report_without_records_is_a_users_mistake(capsys):
    assert main(["report", "out"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("DataError: out/records: no records")
    assert "litevl run" in err


# Pipes


def test_reader_that_stops_early_gets_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)  # before anything is written, so that no race decides
    command = [sys.executable, "-m", "litevl", "check", "--schema"]
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
