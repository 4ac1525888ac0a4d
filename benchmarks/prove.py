"""The proof that the check can fail: faults planted one at a time, each has to be noticed."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.check import check_studies, check_study, verdict
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
    rows, num_unnoticed = [], 0
    for fault in faults:
        print(f"\n{fault.name}: {fault.sentence}", flush=True)
        row = None
        for study in studies_for(fault, check, studies, golden):
            with fault.plant():
                found, count, seconds = check_study(check, study, golden)
            print(f"  {study.name}: {len(found)} of {count} values off, {seconds}", flush=True)
            if found:
                row = noticed(fault, study, found)
                print(f"  {verdict(found)}", flush=True)
                break
        num_unnoticed += row is None
        rows.append(row or (fault.name, "NOT NOTICED", *["-"] * 7))
    print("\n" + table(HEADINGS, rows))
    print(
        f"\n{len(faults) - num_unnoticed} of {len(faults)} faults noticed; without a fault the "
        f"check is {'green' if is_green else 'RED'}"
    )
    return 0 if is_green and not num_unnoticed else 1


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
