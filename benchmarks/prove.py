"""The proof that the check can fail: faults planted one at a time, each has to be noticed."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.apart import Job, side_by_side
from benchmarks.check import check_studies, findings, in_words, verdict
from benchmarks.faults import Fault
from benchmarks.golden import Finding, Golden, kind_of, shown, table
from benchmarks.measure import Check, Study, settings_of
from litevl.tasks import task_of

HEADINGS = (
    "fault", "study", "off", "outcomes", "worst metric", "golden", "now", "tolerance", "off by",
)  # fmt: skip


def prove(check: Check, studies: Sequence[Study], golden: Golden, faults: Sequence[Fault]) -> int:
    """Plant each fault and run the studies it can show in, cheapest first, until one is red.

    Returns 0 if the check is green without a fault and red with each.
    """
    print("without a fault", flush=True)
    is_green = not check_studies(check, studies, golden)
    left = {fault: studies_for(fault, check, studies, golden) for fault in faults}
    rows: dict[Fault, tuple[str, ...]] = {}
    while any(left.values()):
        tried = [(fault, some.pop(0)) for fault, some in left.items() if some]
        jobs = [Job(study.name, check.seed, fault=fault.name) for fault, study in tried]
        for (fault, study), measured in zip(tried, side_by_side(jobs), strict=True):
            found = findings(study, measured, golden)
            print(f"\n{fault.name}: {fault.sentence}\n  {study.name}: {len(found)} values off, "
                  f"{in_words(measured.seconds)}", flush=True)  # fmt: skip
            if found:
                print(f"  {verdict(found)}", flush=True)
                rows[fault] = noticed(fault, study, found)
                left[fault] = []
    unnoticed = [fault for fault in faults if fault not in rows]
    table_rows = [rows.get(fault, (fault.name, "NOT NOTICED", *["-"] * 7)) for fault in faults]
    print("\n" + table(HEADINGS, table_rows))
    print(
        f"\n{len(rows)} of {len(faults)} faults noticed; without a fault the check is "
        f"{'green' if is_green else 'RED'}"
    )
    return 0 if is_green and not unnoticed else 1


def studies_for(
    fault: Fault, check: Check, studies: Sequence[Study], golden: Golden
) -> list[Study]:
    """The studies a fault can show in, cheapest first."""
    seconds = golden.header.seconds
    able = [
        study for study in studies if task_of(settings_of(study, check).data.dataset) in fault.tasks
    ]
    return sorted(able, key=lambda study: seconds.get(study.name, 0.0))


def noticed(fault: Fault, study: Study, found: Sequence[Finding]) -> tuple[str, ...]:
    """A line of the table at the end."""
    outcomes = sum(kind_of(finding.metric) == "outcome" for finding in found)
    worst = found[0]
    numbers = [shown(number) for number in (worst.golden, worst.now, worst.tolerance)]
    off = f"{worst.times:.0f} x" if worst.problem == "moved" else worst.problem
    counts = str(len(found)), str(outcomes)
    return (fault.name, study.name, *counts, worst.metric, *numbers, off)
