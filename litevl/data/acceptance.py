"""Whether the annotation files at hand hold what was published: every count, expected and found.

The expected values are those of the published files, counted; what a file says is read by the
functions that the loaders read it by.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from litevl.data.acceptance_questions import (
    MSRVTT_QA,
    MSVD_QA,
    measure_msrvtt_qa,
    measure_msvd_qa,
)
from litevl.data.acceptance_retrieval import DIDEMO, MSRVTT, measure_didemo, measure_msrvtt
from litevl.data.recognise import Recognised
from litevl.errors import DataError

Value = int | float | str
Status = Literal["ok", "differs", "not at hand"]
# Fills in what the files at hand say, by the names of the expected values; and the problems met.
Measure = Callable[[Recognised, list[str]], Mapping[str, Value]]

EXPECTED: dict[str, tuple[Mapping[str, Value], Measure]] = {
    "msrvtt": (MSRVTT, measure_msrvtt),
    "didemo": (DIDEMO, measure_didemo),
    "msvd-qa": (MSVD_QA, measure_msvd_qa),
    "msrvtt-qa": (MSRVTT_QA, measure_msrvtt_qa),
}


@dataclass(frozen=True)
class Check:
    """One value: as published, and as found; found is None where its file is not at hand."""

    name: str
    expected: Value
    found: Value | None
    note: str = ""

    @property
    def status(self) -> Status:
        """ "ok", "differs", or "not at hand"."""
        if self.found is None:
            return "not at hand"
        return "ok" if self.found == self.expected else "differs"


def acceptance(dataset: str, found: Recognised) -> list[Check]:
    """Every check of a data set, in a fixed order; the last counts the problems in their rows."""
    if dataset not in EXPECTED:
        raise DataError(f"{dataset}: no published counts to compare with")
    expected, measure = EXPECTED[dataset]
    problems: list[str] = []
    values = measure(found, problems)
    assert not values.keys() - expected.keys(), "a value that nothing is expected of"
    checks = [Check(name, value, values.get(name)) for name, value in expected.items()]
    note = "; ".join(problems[:3])
    counted = len(problems) if values or problems else None
    return [*checks, Check("problems", 0, counted, note)]


def summary(checks: Sequence[Check], found: Recognised) -> dict[str, Any]:
    """The outcome for another program: all checks, and what every file was recognised as."""
    return {
        "ok": all(check.status != "differs" for check in checks),
        "checks": [asdict(check) | {"status": check.status} for check in checks],
        "recognised": [{"file": some.name} | asdict(some.kind) for some in found.files],
        "not_recognised": found.others,
    }


def described(checks: Sequence[Check], found: Recognised) -> str:
    """The outcome for a reader: the files, one line a check, and how many of them are well."""
    lines = [
        f"{some.name}: {some.kind.dataset}, {some.kind.role} ({some.kind.format})"
        for some in found.files
    ]
    lines += [f"{name}: not recognised ({why})" for name, why in found.others.items() if why]
    width = max(len(check.name) for check in checks)
    for check in checks:
        values = f"{_shown(check.found)}, published {_shown(check.expected)}"
        note = f" ({check.note})" if check.note else ""
        lines.append(f"  {check.status:11}  {check.name:{width}}  {values}{note}")
    states = [check.status for check in checks]
    counts = (f"{states.count(state)} {state}" for state in ("ok", "differs", "not at hand"))
    return "\n".join([*lines, f"{len(checks)} checks: {', '.join(counts)}"])


def _shown(value: Value | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:,}"
