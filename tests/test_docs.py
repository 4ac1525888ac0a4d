"""The pages in docs/ say what is so: tests exist, commands parse, examples load, words are all."""

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from runpy import run_path
from typing import get_args

import pytest
import torch
from spec_texts import TEXTS

from litevl.cli import parser
from litevl.plan import State
from litevl.report.examples import Example
from litevl.report.runs import Outcome
from litevl.report.verdicts import ClaimVerdict, TargetVerdict
from litevl.spec import TargetProvenance, load_spec, resolve
from litevl.spec_problems import SHARED_BY_VARIANTS

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))}
NUM_COMPLAINTS = 20
NUM_SECTIONS = 18  # of a report
COMMAND = re.compile(r"(?:\.venv/bin/|\.nox/litevl/bin/)?(litevl .*)")


def code_spans(page: str) -> list[str]:
    """Text between single backticks, outside code blocks; the end of a line is a space."""
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands(page: str) -> list[str]:
    """Every `litevl ...` that a page shows, on lines of its own and between backticks."""
    whole = [block.replace("\\\n", " ") for block in blocks(page, "sh")]
    lines = [" ".join(line.split()) for block in whole for line in block.splitlines()]
    return [found[1] for text in lines + code_spans(page) if (found := COMMAND.fullmatch(text))]


def functions(file: Path) -> set[str]:
    """Names of the functions of a Python file, without importing it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def sections(page: str) -> list[str]:
    """What stands under each heading of the second level."""
    return page.split("\n## ")[1:]


@pytest.mark.parametrize("name", PAGES)
def test_every_test_that_is_named_exists(name):
    named = [span.split("::") for span in code_spans(PAGES[name]) if "::" in span]
    for file, function in named:
        assert (ROOT / file).is_file(), file
        assert function in functions(ROOT / file), f"{file}::{function}"


def exit_code(arguments: list[str]) -> int:
    """What litevl's command line says to arguments: 0 if it takes them, or shows their help."""
    try:
        parser().parse_args(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize("name", [name for name in PAGES if commands(PAGES[name])])
def test_every_command_is_one_that_there_is(name):
    """Of litevl, or the mere name of one; tests/test_project.py looks for the sessions of nox."""
    for command in commands(PAGES[name]):
        _, *arguments = shlex.split(command, comments=True)
        is_name = len(arguments) <= 2 and exit_code([*arguments, "--help"]) == 0
        assert is_name or exit_code(arguments) == 0, f"`{command}` is no command"


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_is_named_exists(name):
    named = re.compile(r"(?:litevl|tests|benchmarks|reproductions)/[\w./-]+\.(?:py|toml|md|json)")
    for span in code_spans(PAGES[name]):
        if named.fullmatch(span):
            assert (ROOT / span).is_file(), span


def test_each_complaint_names_its_thread_and_what_shows_the_answer():
    found = sections(PAGES["complaints.md"])[:NUM_COMPLAINTS]
    for number, section in enumerate(found, 1):
        assert section.startswith(f"{number}. ")
        assert re.search(r"\w#\d+", section), f"{number} cites no thread"
        assert any("::" in span for span in code_spans(section)), f"{number} names no test"


def test_variant_of_the_first_example_changes_its_key_and_nothing_else(tmp_path):
    (added, provenance) = blocks(PAGES["variants.md"], "toml")
    text = TEXTS["msrvtt"].replace('\nname = "msrvtt"\n', '\nname = "msrvtt-sharp"\n', 1)
    note = next(line for line in text.splitlines() if line.startswith(provenance.split(" = ")[0]))
    path = tmp_path / "sharp.toml"
    path.write_text(text.replace(note + "\n", provenance) + added, encoding="utf-8")
    spec = load_spec(path)
    assert spec.name == "msrvtt-sharp"
    sharp, full = (resolve(spec, "mini", name) for name in ("sharp-pooling", "full"))
    changed = full.model.model_copy(update={"pooling_temperature": 0.02})
    assert sharp == full.model_copy(update={"variant": "sharp-pooling", "model": changed})
    assert spec.claim[-1].better == "sharp-pooling"
    assert set(SHARED_BY_VARIANTS) <= set(code_spans(PAGES["variants.md"]))


def test_code_of_the_second_example_applies_and_does_what_it_says(tmp_path):
    model = tmp_path / "litevl" / "model"
    model.mkdir(parents=True)
    for name in ("config.py", "pooling.py"):
        shutil.copy(ROOT / "litevl" / "model" / name, model)
    (change,) = blocks(PAGES["variants.md"], "diff")
    apply = ["git", "apply", "--unidiff-zero", "-"]
    subprocess.run(apply, cwd=tmp_path, input=change, text=True, check=True)
    config, pooling = (run_path(str(model / name)) for name in ("config.py", "pooling.py"))
    assert "frame-max" in get_args(config["Pooling"])
    video = torch.randn(2, 4, 10, 24)
    found, mean = (pooling["pooled_tokens"](video, name) for name in ("frame-max", "mean"))
    assert torch.equal(found[:, :5], mean[:, :5])
    assert torch.equal(found[:, 5:], video[:, :, 1:].amax(dim=1))


def test_words_of_a_report_are_those_of_the_code():
    listed = re.findall(r"^\| `([a-z ]+)` \| ([a-z ]+) \|", PAGES["reading-a-report.md"], re.M)
    kinds = {
        "claim": ClaimVerdict,
        "published number": TargetVerdict,
        "run": Outcome,
        "run in a plan": State,
        "source": TargetProvenance.model_fields["source"].annotation,
        "example": Example.__annotations__["kind"],
    }
    known = [(word, kind) for kind, words in kinds.items() for word in get_args(words)]
    assert sorted(listed) == sorted(known)


def test_sections_of_a_report_are_those_that_the_code_writes():
    table = PAGES["reading-a-report.md"].partition("| section |")[2].partition("\n\n")[0]
    titles = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]]
    assert len(titles) == NUM_SECTIONS
    package = ROOT / "litevl" / "report"
    files = [*package.glob("*.py"), *package.glob("templates/*.html.j2")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert [title for title in titles if not re.search(rf'[">]{title}\b', code)] == []
