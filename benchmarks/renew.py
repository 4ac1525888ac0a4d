"""golden.json measured again: values, and how far they move for reasons that are nobody's fault."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from benchmarks.apart import AS_IT_IS, Job, side_by_side
from benchmarks.check import in_words, machine, with_study
from benchmarks.golden import (
    Entry,
    Golden,
    Header,
    entry_of,
    renewal_table,
    with_kept_commits,
    write_golden,
)
from benchmarks.measure import ROOT, Check, Measured, Study
from litevl.record import code_state, package_versions


def renew(check: Check, studies: Sequence[Study], old: Golden | None, keep_spreads: bool) -> int:
    """Measure the studies again, print what moved, write golden.json; returns the exit status.

    Other studies keep their entries. keep_spreads: tolerances stay as golden.json has them; 2 is
    returned where it lacks one. 1 is returned, and nothing written, where a study fails.
    """
    by_study = measured_again(check, studies, keep_spreads)
    if not all(found.values for several in by_study.values() for found in several):
        return 1
    before = {} if old is None else old.metrics
    others = {study.name for study in check.study} - by_study.keys()
    entries = {metric: e for metric, e in before.items() if study_of(metric) in others}
    commit = commit_of_code()
    for study in studies:
        if keep_spreads:
            values = with_study(study, by_study[study.name][0].values)
            unknown = sorted(values.keys() - before.keys())
            if unknown:
                print(f"no spread known of {', '.join(unknown)}: measure it", file=sys.stderr)
                return 2
            entries |= {
                metric: before[metric].model_copy(update={"value": value, "commit": commit})
                for metric, value in values.items()
            }
        else:
            entries |= with_study(study, new_entries(check, by_study[study.name], commit))
    entries = with_kept_commits(entries, old)
    print("\n" + renewal_table(old, entries))
    seconds = {} if old is None else old.header.seconds
    known = {name: spent for name, spent in seconds.items() if name in others}
    known |= {name: own_seconds(several[0]) for name, several in by_study.items()}
    write_golden(Golden(header=header(check, commit, known), metrics=entries))
    return 0


def measured_again(
    check: Check, studies: Sequence[Study], keep_spreads: bool
) -> dict[str, list[Measured]]:
    """Study -> its measurements: as it is; unless keep_spreads, each arithmetic, each seed."""
    ways = [(check.seed, AS_IT_IS)]
    if not keep_spreads:
        ways += [(check.seed, other) for other in check.spread.arithmetic]
        ways += [(seed, AS_IT_IS) for seed in check.spread.seeds]
    jobs = [Job(study.name, seed, arithmetic) for seed, arithmetic in ways for study in studies]
    by_study: dict[str, list[Measured]] = {study.name: [] for study in studies}
    for job, found in zip(jobs, side_by_side(jobs), strict=True):
        spent = in_words(found.seconds)
        print(f"{job.study}, seed {job.seed}, {job.arithmetic.name}: {spent}", flush=True)
        by_study[job.study].append(found)
    return by_study


def new_entries(check: Check, several: Sequence[Measured], commit: str) -> dict[str, Entry]:
    """One study's entries, their tolerances from its measurements; see `measured_again`."""
    here, *others = several
    rounded, seeded = others[: len(check.spread.arithmetic)], others[len(check.spread.arithmetic) :]
    return {
        name: entry_of(
            name,
            value,
            [other.values[name] for other in rounded],
            [other.values[name] for other in seeded],
            here.num_queries.get(name),
            commit,
        )
        for name, value in here.values.items()
    }


def own_seconds(measured: Measured) -> float:
    """What a study takes with its data at hand."""
    return round(measured.seconds["train"] + measured.seconds["evaluate"], 1)


def header(check: Check, commit: str, seconds: dict[str, float]) -> Header:
    """Where and how golden values are measured now."""
    names = ", ".join(other.name for other in check.spread.arithmetic)
    seeds = ", ".join(str(seed) for seed in check.spread.seeds)
    return Header(
        date=datetime.now(UTC).date().isoformat(),
        commit=commit,
        packages=package_versions(),
        machine=machine(),
        spreads=(
            f"arithmetic: seed {check.seed} again under {names} (noise: relative "
            f"{check.spread.noise:g} on every starting weight); seeds: {check.seed}, {seeds}"
        ),
        seconds=seconds,
    )


def study_of(metric: str) -> str:
    """The study that a metric of golden.json belongs to."""
    return metric.partition("/")[0]


def commit_of_code() -> str:
    """The commit whose code runs, with "+changes" where files differ from it."""
    code = code_state(ROOT)
    return f"{code['commit']}+changes" if code["dirty"] else str(code["commit"])
