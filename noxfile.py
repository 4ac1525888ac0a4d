"""The suite's commands: `nox -l` lists them, arguments after `--` go through.

All sessions share one environment, `.nox/litevl`, which the first of them installs: torch is large,
and a copy of it for each session would cost minutes and gigabytes.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "typecheck", "tests"]

LOCK = "requirements.lock"
PYPROJECT = nox.project.load_toml("pyproject.toml")


def shared_environment(session: nox.Session) -> Path:
    """Return the folder of the shared environment's programs, installing it first where needed.

    The environment is made afresh, from the lock, when its stamp differs from a hash of all that
    decides what is in it; otherwise pip is not started, so that a session begins at once. The
    stamp is written last: a half-installed environment is never taken for a whole one.
    """
    folder = Path(".nox", "litevl").absolute()
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    decides = [PYPROJECT[table] for table in ("build-system", "project", "dependency-groups")]
    decides += [Path(LOCK).read_text(encoding="utf-8"), sys.version, str(folder)]
    wanted = hashlib.sha256(json.dumps(decides).encode()).hexdigest()
    stamp = folder / "stamp"
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted):
        session.log(f"installing {folder.relative_to(Path.cwd())} (torch is the largest part)")
        session.run_install(sys.executable, "-m", "venv", "--clear", str(folder), external=True)
        groups = nox.project.dependency_groups(PYPROJECT, "dev")
        pip = [str(programs / "python"), "-m", "pip", "install", "--constraint", LOCK]
        session.run_install(*pip, "--editable", ".", *groups, external=True)
        stamp.write_text(wanted, encoding="utf-8")
    return programs


def run(session: nox.Session, program: str, *arguments: str, **environment: str) -> None:
    """Run a program of the shared environment, with the session's own arguments last."""
    path = shared_environment(session) / program
    session.run(str(path), *arguments, *session.posargs, env=environment, external=True)


def reproduce_one(session: nox.Session, name: str) -> None:
    """Run one spec, its runs side by side where they share no GPU."""
    run(session, "litevl", "run", f"reproductions/{name}.toml", "--jobs", "auto")


@nox.session
def lint(session: nox.Session) -> None:
    """Check the code with ruff."""
    run(session, "ruff", "check")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check the types of litevl/ and benchmarks/ with mypy, in strict mode."""
    run(session, "mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests with branch coverage; with arguments of your own, only the tests they name."""
    # worksteal: a worker that is done takes over tests of one that is not.
    workers = ["--numprocesses=auto", "--maxprocesses=8", "--dist=worksteal"]
    whole = [*workers, "--cov", "--cov-fail-under=90"]
    # One thread per worker: more only get in each other's way.
    run(session, "pytest", "-q", *([] if session.posargs else whole), OMP_NUM_THREADS="1")


@nox.session(name="reproduce-msrvtt")
def reproduce_msrvtt(session: nox.Session) -> None:
    """Reproduce the text-video retrieval on MSR-VTT: train, evaluate, report."""
    reproduce_one(session, "msrvtt")


@nox.session(name="reproduce-didemo")
def reproduce_didemo(session: nox.Session) -> None:
    """Reproduce the paragraph-to-video retrieval on DiDeMo: train, evaluate, report."""
    reproduce_one(session, "didemo")


@nox.session(name="reproduce-msvd-qa")
def reproduce_msvd_qa(session: nox.Session) -> None:
    """Reproduce the question answering on MSVD-QA: train, evaluate, report."""
    reproduce_one(session, "msvd_qa")


@nox.session(name="reproduce-msrvtt-qa")
def reproduce_msrvtt_qa(session: nox.Session) -> None:
    """Reproduce the question answering on MSRVTT-QA: train, evaluate, report."""
    reproduce_one(session, "msrvtt_qa")


@nox.session
def reproduce(session: nox.Session) -> None:
    """Reproduce all four; the last run renders the combined report of the paper's layout too.

    One that fails does not keep the others from running; the session fails at the end.
    """
    failed = []
    for name in ("msrvtt", "didemo", "msvd_qa", "msrvtt_qa"):
        try:
            reproduce_one(session, name)
        except nox.command.CommandFailed:
            failed.append(name)
    if failed:
        session.error(f"failed: {', '.join(failed)}")


@nox.session
def report(session: nox.Session) -> None:
    """Render the reports again from the records in reports/."""
    run(session, "litevl", "report")


@nox.session
def regression(session: nox.Session) -> None:
    """Compare small runs of all four with golden values; `-- --prove` plants faults."""
    run(session, "python", "-m", "benchmarks.regression")


@nox.session
def golden(session: nox.Session) -> None:
    """Measure the golden values of the regression check again and print what moved."""
    run(session, "python", "-m", "benchmarks.regression", "--renew")


@nox.session
def benchmark(session: nox.Session) -> None:
    """Measure speed and memory beside the peers; `-- --only re-ranking` does one of them."""
    run(session, "python", "-m", "benchmarks.speed")


@nox.session(name="pretrain-mini-blip")
def pretrain_mini_blip(session: nox.Session) -> None:
    """Train mini-BLIP again on still images and say how close it came to the shipped one."""
    run(session, "python", "-m", "litevl.engine.pretrain")
