"""What holds the project together: lock, sessions, README's commands, and what git tracks."""

import ast
import io
import re
import subprocess
import tokenize
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import litevl

ROOT = Path(__file__).parents[1]

# Stable contracts: none of these may be renamed or removed.
STABLE_SESSIONS = {
    "reproduce-msrvtt", "reproduce-didemo", "reproduce-msvd-qa", "reproduce-msrvtt-qa", "reproduce",
    "tests", "lint", "typecheck", "regression", "golden", "report", "pretrain-mini-blip",
    "benchmark",
}  # fmt: skip

START = "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox -s "
# What torch brings for its platform; the lock's header says why it is not pinned.
PLATFORM_PACKAGES = re.compile(r"nvidia-|cuda-|triton")

MACHINE_PATH = re.compile(rb"(?<![\w.~}])/(?:work|opt|root|home|mnt|Users)/[\w.]|[A-Z]:\\\\?Users")
REGISTRY = re.compile(rb"index[-_]url|find[-_]links|files\.python[h]osted|py[p]i\.org/simple")
# Not API names anywhere, so their place is prose; the house spells British.
AMERICAN = re.compile(
    r"\b(behavior|favor|neighbor|analyz|recogniz|summariz|emphasiz|labeled|modeled|canceled)\w*"
)


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads(text("pyproject.toml"))


@pytest.fixture(scope="module")
def requirements(pyproject):
    """Every requirement pyproject.toml states: of the package, its extras, and the sessions."""
    project = pyproject["project"]
    groups = [*pyproject["dependency-groups"].values(), *project["optional-dependencies"].values()]
    stated = [entry for group in groups for entry in group if isinstance(entry, str)]
    return [Requirement(line) for line in project["dependencies"] + stated]


@pytest.fixture(scope="module")
def lock():
    """The locked version of each package, by its canonical name."""
    lines = [line for line in text("requirements.lock").splitlines() if not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.fixture(scope="module")
def tracked():
    """The path of each file that git tracks and that is still there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def sessions():
    """Names of the sessions in noxfile.py, read without importing nox."""
    names = set()
    for node in ast.parse(text("noxfile.py")).body:
        for decorator in getattr(node, "decorator_list", []):
            keywords = {k.arg: k.value for k in getattr(decorator, "keywords", [])}
            if "nox.session" in ast.unparse(decorator):
                names.add(ast.literal_eval(keywords["name"]) if "name" in keywords else node.name)
    return names


def test_every_locked_version_is_exact():
    for line in text("requirements.lock").splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line), line


def test_locked_versions_satisfy_the_ranges_of_pyproject(requirements, lock):
    for requirement in requirements:
        version = Version(lock[canonicalize_name(requirement.name)])
        assert version in requirement.specifier, f"{requirement} but {version} is locked"


def test_every_range_has_a_lower_end(requirements):
    for requirement in requirements:
        assert any(part.operator == ">=" for part in requirement.specifier), requirement


def brought_by(requirement):
    """What an installed package requires here, with the extras it is asked for."""
    extras = requirement.extras or {""}
    for needed in map(Requirement, metadata.requires(requirement.name) or []):
        if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
            yield needed


def test_lock_covers_all_that_the_requirements_bring(requirements, lock):
    waiting = [each for each in requirements if each.marker is None or each.marker.evaluate()]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen or PLATFORM_PACKAGES.match(name):
            continue
        seen.add(key)
        assert name in lock, f"{name} is required but not locked"
        waiting += brought_by(requirement)
    assert len(seen) > len(requirements)


def test_lock_leaves_the_platform_packages_of_torch_open(lock):
    assert lock["torch"] == "2.13.0"
    assert not [name for name in lock if PLATFORM_PACKAGES.match(name)]


def test_sessions_keep_their_names():
    assert sessions() == STABLE_SESSIONS


def test_every_session_that_is_called_exists():
    documents = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
    documents += [str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")]
    for name in [*documents, ".ci/run", ".github/workflows/ci.yml"]:
        for call in re.findall(r"nox -s ([a-z -]+?)(?= -- |`|\n|$)", text(name)):
            assert set(call.split()) <= sessions(), f"{name}: nox -s {call}"


@pytest.mark.parametrize("session", ["reproduce-msrvtt", "tests"])
def test_readme_has_one_whole_line_from_nothing_to_the_session(session):
    assert START + session in text("README.md").splitlines()


def test_ci_ends_with_the_tests_command_of_the_readme():
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"
    assert text(".ci/run").splitlines()[-1] == START + "tests"


def test_versions_agree(pyproject):
    version = pyproject["project"]["version"]
    assert litevl.__version__ == version
    assert f"\nversion: {version}\n" in text("CITATION.cff")


def test_links_between_documents_lead_somewhere(tracked):
    for path in (path for path in tracked if path.suffix == ".md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)}: {target}"


def test_no_tracked_file_names_a_machine_path_or_a_registry(tracked):
    found = [
        f"{path.relative_to(ROOT)}: {match.group().decode(errors='replace')}"
        for path in tracked
        for pattern in (MACHINE_PATH, REGISTRY)
        for match in pattern.finditer(path.read_bytes())
    ]
    assert not found


def prose(path):
    """Comments and strings of a Python file, all of any other."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return re.sub(r"`[^`]*`", "", source)
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", None)}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return "\n".join(token.string for token in tokens if token.type in kinds)


def test_words_are_spelt_the_british_way(tracked):
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked
        if path.suffix in {".py", ".md", ".toml"} and path != Path(__file__)
        for match in AMERICAN.finditer(prose(path).lower())
    ]
    assert not found


def test_sources_are_ascii(tracked):
    for path in (path for path in tracked if path.suffix in {".py", ".md", ".toml", ".lock"}):
        assert path.read_bytes().isascii(), f"{path.relative_to(ROOT)} has characters beyond ASCII"
