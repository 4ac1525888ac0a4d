"""golden.json measured again: values, and how far they move for reasons that are nobody's fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.check import machine, with_study
from benchmarks.golden import (
    Entry,
    Golden,
    Header,
    entry_of,
    renewal_table,
    with_kept_commits,
    write_golden,
)
from benchmarks.measure import ROOT, Arithmetic, Check, Measured, Study
from litevl.record import code_state, package_versions


def renew(check: Check, studies: Sequence[Study], old: Golden | None, keep_spreads: bool) -> int:
    """Measure the studies again, print what moved, write golden.json; returns the exit status.

    Other studies keep their entries. keep_spreads: the tolerances follow from the spreads that
    golden.json has; 2 is returned where it lacks one.
    """
    commit = commit_of_code()
    metrics = {} if old is None else dict(old.metrics)
    seconds = {} if old is None else dict(old.header.seconds)
    for study in studies:
        before = {m: e for m, e in metrics.items() if m.partition("/")[0] == study.name}
        here = measured_apart(study, check.seed, Arithmetic(name="as it is"))
        if keep_spreads:
            new = with_old_spreads(study, here, before, commit)
            if new is None:
                return 2
        else:
            new = with_new_spreads(check, study, here, commit)
        metrics = {m: e for m, e in metrics.items() if m not in before} | new
        seconds[study.name] = round(here.seconds["train"] + here.seconds["evaluate"], 1)
    known = {study.name for study in check.study}
    metrics = {m: e for m, e in metrics.items() if m.partition("/")[0] in known}
    metrics = with_kept_commits(metrics, old)
    header = Header(
        date=datetime.now(UTC).date().isoformat(),
        commit=commit,
        packages=package_versions(),
        machine=machine(),
        spreads=in_words(check),
        seconds={name: spent for name, spent in seconds.items() if name in known},
    )
    print("\n" + renewal_table(old, metrics))
    write_golden(Golden(header=header, metrics=metrics))
    return 0


def with_new_spreads(check: Check, study: Study, here: Measured, commit: str) -> dict[str, Entry]:
    """The study's entries, their spreads measured now."""
    rounded = [measured_apart(study, check.seed, other) for other in check.spread.arithmetic]
    plain = Arithmetic(name="as it is")
    seeded = [measured_apart(study, seed, plain) for seed in check.spread.seeds]
    for other in (*rounded, *seeded):
        assert other.values.keys() == here.values.keys(), "a run that names other values"
    return with_study(study, {
        name: entry_of(
            name,
            value,
            [other.values[name] for other in rounded],
            [other.values[name] for other in seeded],
            here.num_queries.get(name),
            commit,
        )
        for name, value in here.values.items()
    })  # fmt: skip


def with_old_spreads(
    study: Study, here: Measured, before: Mapping[str, Entry], commit: str
) -> dict[str, Entry] | None:
    """The study's entries with the spreads known already; None, and a message, where one is not."""
    unknown = sorted(with_study(study, here.values).keys() - before.keys())
    if unknown:
        print(f"no spread known: {', '.join(unknown)}; leave out --keep-spreads", file=sys.stderr)
        return None
    entries = {}
    for metric, value in with_study(study, here.values).items():
        was = before[metric]
        entries[metric] = was.model_copy(update={"value": value, "commit": commit})
    return entries


def measured_apart(study: Study, seed: int, arithmetic: Arithmetic) -> Measured:
    """The study measured in a process of its own, under the given arithmetic.

    Raises CalledProcessError where it fails; its messages are on stderr.
    """
    threads, noise_seed = arithmetic.threads, arithmetic.noise_seed
    options = {"--seed": seed, "--threads": threads, "--noise-seed": noise_seed}
    print(f"{study.name}: seed {seed}, {arithmetic.name}", end="", flush=True)
    started = time.perf_counter()
    with TemporaryDirectory(prefix="litevl-golden-") as folder:
        path = Path(folder) / "measured.json"
        command = [sys.executable, "-m", "benchmarks.measure", study.name, "--to", str(path)]
        for option, value in options.items():
            command += [] if value is None else [option, str(value)]
        subprocess.run(command, cwd=ROOT, env=os.environ | arithmetic.environment, check=True)
        measured = Measured(**json.loads(path.read_text(encoding="utf-8")))
    print(f", {time.perf_counter() - started:.0f} s", flush=True)
    return measured


def commit_of_code() -> str:
    """The commit whose code runs, with "+changes" where files differ from it."""
    code = code_state(ROOT)
    return f"{code['commit']}+changes" if code["dirty"] else str(code["commit"])


def in_words(check: Check) -> str:
    """How spreads are measured."""
    names = ", ".join(other.name for other in check.spread.arithmetic)
    return (
        f"arithmetic: seed {check.seed} again under: {names} (noise: relative "
        f"{check.spread.noise:g} on every starting weight); seeds: {check.seed} and "
        f"{', '.join(str(seed) for seed in check.spread.seeds)}"
    )
