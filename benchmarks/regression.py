"""Tells in minutes whether a change broke what the paper's method depends on.

    nox -s regression [-- STUDY ...]        compare with golden.json
    nox -s regression -- --prove            plant faults, each has to be noticed
    nox -s golden [-- STUDY ...]            measure golden.json again

Small versions of the four reproductions are trained and evaluated on the CPU with a fixed seed.
What they are stands in regression.toml, what has to come out in golden.json. Exit status 0 if all
is as it should be, 1 if not, 2 for a mistake in how it was called. Without nox:
python -m benchmarks.regression, with --renew for the last one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

from benchmarks.check import check_studies
from benchmarks.faults import FAULTS
from benchmarks.golden import GOLDEN_FILE, read_golden
from benchmarks.measure import load_check
from benchmarks.prove import prove
from benchmarks.renew import renew


def main(argv: Sequence[str] | None = None) -> int:
    """Check, prove or renew; returns the exit status."""
    check = load_check()
    names = [study.name for study in check.study]
    chosen = parser(names).parse_args(argv)
    unknown = sorted(set(chosen.studies) - set(names))
    if unknown:
        print(f"no study {', '.join(unknown)}; there are: {', '.join(names)}", file=sys.stderr)
        return 2
    studies = [study for study in check.study if study.name in (chosen.studies or names)]
    golden = read_golden() if GOLDEN_FILE.exists() else None
    if chosen.renew:
        return renew(check, studies, golden, chosen.keep_spreads)
    if golden is None:
        print(f"{GOLDEN_FILE}: missing; nox -s golden makes it", file=sys.stderr)
        return 2
    if chosen.prove:
        faults = [fault for fault in FAULTS if chosen.only in (None, fault.name)]
        return prove(check, studies, golden, faults)
    return 1 if check_studies(check, studies, golden) else 0


def parser(names: Iterable[str]) -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.regression",
        description="Compare small runs of the four reproductions with golden values.",
        allow_abbrev=False,
    )
    top.add_argument("studies", nargs="*", metavar="STUDY", help=f"only {', '.join(names)}")
    do = top.add_mutually_exclusive_group()
    do.add_argument("--prove", action="store_true", help="plant faults: each must be noticed")
    do.add_argument("--renew", action="store_true", help="measure the golden values again")
    top.add_argument("--only", choices=[fault.name for fault in FAULTS], help="only this fault")
    top.add_argument(
        "--keep-spreads",
        action="store_true",
        help="renew values only; tolerances keep the spreads measured last",
    )
    return top


if __name__ == "__main__":
    sys.exit(main())
