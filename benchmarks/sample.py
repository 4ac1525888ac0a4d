"""The report that comes with the repository: `python -m benchmarks.sample FOLDER`.

FOLDER is the --output of finished runs. Their records go to reports/sample, with the film strips of
those runs only whose examples a page shows, and the pages are rendered there from these records.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from litevl.report.page import render_all
from litevl.report.runs import find_studies, load_study

SAMPLE = Path(__file__).resolve().parents[1] / "reports" / "sample"


def main(argv: Sequence[str] | None = None) -> int:
    """Replace reports/sample by what the folder holds, and print its pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the --output of the runs")
    pages = take(parser.parse_args(argv).folder / "records", SAMPLE)
    print(*pages, sep="\n")
    return 0


def take(records: Path, sample: Path) -> list[Path]:
    """Copy the planned runs' records and render them; returns the pages."""
    if sample.exists():
        shutil.rmtree(sample)
    for spec, profile in find_studies(records):
        study, folder = load_study(records, spec, profile), sample / "records" / spec
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(records / spec / f"{profile}.plan.json", folder)
        shown = study.published(study.reference)[:1]
        for run in study.runs:
            endings = [".json", ".npz"] + ([".strips.npz"] if run in shown else [])
            for ending in endings:
                shutil.copy(run.path.with_suffix(ending), folder)
    pages, combined = render_all(sample / "records", sample)
    return pages + combined


if __name__ == "__main__":
    raise SystemExit(main())
