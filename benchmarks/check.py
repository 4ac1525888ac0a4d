"""The check itself: every study measured and compared, what is off printed with its history."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch

from benchmarks.apart import Job, side_by_side
from benchmarks.golden import Finding, Golden, Header, compare, findings_table, kind_of
from benchmarks.measure import ROOT, Check, Measured, Study
from litevl.record import hardware, package_versions

Value = TypeVar("Value")
MACHINE = ("processor", "kernels", "python")  # what of it decides how numbers are rounded


def check_studies(check: Check, studies: Sequence[Study], golden: Golden) -> list[Finding]:
    """Measure, compare and print; returns what is not as it should be."""
    started, found = time.perf_counter(), list[Finding]()
    jobs = [Job(study.name, check.seed) for study in studies]
    for study, measured in zip(studies, side_by_side(jobs), strict=True):
        some = findings(study, measured, golden)
        count = len(measured.values)
        outcome = f"{len(some)} values off" if some else f"{count} values as they should be"
        print(f"{study.name:10}  {outcome:28}  {in_words(measured.seconds)}", flush=True)
        found += some
    if found:
        print("\n" + findings_table(found, subjects(found)))
        print("\n" + "\n".join([verdict(found), *differences(golden.header)]))
    total = time.perf_counter() - started
    print(f"regression check: {'RED' if found else 'green'}, {total:.0f} s", flush=True)
    return found


def findings(study: Study, measured: Measured, golden: Golden) -> list[Finding]:
    """What is off in one study; one that stopped with an error has lost all its values."""
    return compare(golden, with_study(study, measured.values), [study.name])


def in_words(seconds: Mapping[str, float]) -> str:
    """The seconds of each phase."""
    return ", ".join(f"{phase} {spent:.0f} s" for phase, spent in seconds.items()) or "stopped"


def with_study(study: Study, values: Mapping[str, Value]) -> dict[str, Value]:
    """Values under the names that golden.json has for them."""
    return {f"{study.name}/{name}": value for name, value in values.items()}


def verdict(found: Sequence[Finding]) -> str:
    """What findings mean, in a sentence or two."""
    if any(kind_of(finding.metric) == "outcome" for finding in found):
        return (
            "Outcomes are off by more than other seeds make them: the method, the data or the "
            "measuring changed."
        )
    return (
        "No outcome is off. Losses of the same seed are: a small fault, or numbers are drawn or "
        "rounded in another way. If that was meant: nox -s golden."
    )


def differences(golden: Header) -> list[str]:
    """Notes on packages and machine, where they are not those of the golden values."""
    here = machine()
    was = golden.packages | {key: golden.machine.get(key) for key in MACHINE}
    now = package_versions() | {key: here.get(key) for key in MACHINE}
    return [
        f"Note: golden values were measured with {name} {was.get(name, '(none)')}, here it is "
        f"{now.get(name, '(none)')}."
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]


def machine() -> dict[str, str | int | float]:
    """This machine, with the CPU kernels that torch uses on it."""
    return hardware("cpu") | {"kernels": torch.backends.cpu.get_cpu_capability()}


def subjects(found: Iterable[Finding]) -> dict[str, str]:
    """The first line of each commit's message, where git knows it."""
    lines = {}
    for commit in {finding.commit for finding in found} - {""}:
        git = ["git", "-C", str(ROOT), "log", "-1", "--format=%s", commit.partition("+")[0]]
        try:
            done = subprocess.run(git, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        lines[commit] = done.stdout.strip()
    return lines
