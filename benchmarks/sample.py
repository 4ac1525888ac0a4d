"""The report that comes with the repository: `python -m benchmarks.sample FOLDER`.

FOLDER is the --output of finished runs. Their records go to reports/sample, with the film strips of
those runs only whose examples a page shows, and the pages are rendered there from these records.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from litevl.errors import DataError, LiteVLError
from litevl.report.page import render_all
from litevl.report.runs import find_studies, load_study

SAMPLE = Path(__file__).resolve().parents[1] / "reports" / "sample"


def main(argv: Sequence[str] | None = None) -> int:
    """Replace reports/sample by what the folder holds, and print its pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the --output of the runs")
    try:
        pages = take(parser.parse_args(argv).folder / "records", SAMPLE)
    except LiteVLError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    print(*pages, sep="\n")
    return 0


def take(records: Path, sample: Path) -> list[Path]:
    """Copy the planned runs' records and render them; returns the pages.

    Raises DataError where a planned run is not complete, and leaves the sample as it is.
    """
    studies = [load_study(records, *found) for found in find_studies(records)]
    lacking = [run.id for study in studies for run in study.runs if run.outcome != "complete"]
    if lacking:
        raise DataError(
            f"{records}: {len(lacking)} planned runs are not complete: {', '.join(lacking)}\n"
            "  Run the reproductions again; what is done is kept."
        )
    if sample.exists():
        shutil.rmtree(sample)
    for study in studies:
        folder = sample / "records" / study.spec
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(records / study.spec / f"{study.profile}.plan.json", folder)
        shown = study.published(study.reference)[:1]
        for run in study.runs:
            endings = [".json", ".npz"] + ([".strips.npz"] if run in shown else [])
            for ending in endings:
                shutil.copy(run.path.with_suffix(ending), folder)
    pages, combined = render_all(sample / "records", sample)
    return pages + combined


if __name__ == "__main__":
    raise SystemExit(main())
