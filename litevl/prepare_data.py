"""A data set's clips converted into a folder of their own, before any run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from litevl.data.conversion import Conversion
from litevl.data.counting import count_clips
from litevl.data.prepared import prepare_clips, prepared_hash
from litevl.prepare import SPLITS, read_annotations
from litevl.spec import DataSpec

NUM_SHOWN = 20  # missing clips; those that failed are all named


def prepare_data(
    data: DataSpec,
    to: Path,
    conversion: Conversion,
    num_workers: int,
    timeout_seconds: float,
    progress: bool = True,
) -> dict[str, Any]:
    """Convert every clip that the spec names and that is there; returns the outcome.

    Raises DataError where the annotations cannot be read, or `to` holds something else.
    """
    root, expected = Path(data.root), data.expected.model_dump()
    annotations = read_annotations(data)
    report = count_clips(annotations, {split: expected[f"{split}_clips"] for split in SPLITS})
    clips = [clip for some in report.data.splits.values() for clip in some]
    failed, num_done, num_before = prepare_clips(
        clips, root, to, conversion, num_workers, timeout_seconds, progress
    )
    failed = {**report.broken, **failed}
    missing = [name for name in report.left_out if name not in report.broken]
    return {
        "ok": not failed and not missing,
        "dataset": data.dataset,
        "root": data.root,
        "to": str(to),
        "converted": num_done,
        "converted_before": num_before,
        "missing": missing,
        "failed": failed,
        "conversion": conversion.described(),
        "sha256": prepared_hash(to),
    }


def described(outcome: dict[str, Any]) -> str:
    """The outcome for a reader: counts, every clip that failed, the first missing, what next."""
    done, before = outcome["converted"], outcome["converted_before"]
    lines = [f"{outcome['dataset']}: {done} clips prepared, {before} were before"]
    if outcome["missing"]:
        shown = ", ".join(outcome["missing"][:NUM_SHOWN])
        more = len(outcome["missing"]) - NUM_SHOWN
        lines.append(f"missing: {len(outcome['missing'])}")
        lines.append(f"  {shown}" + (f" and {more} more" if more > 0 else ""))
    if outcome["failed"]:
        lines.append(f"failed: {len(outcome['failed'])}")
        lines += [f"  {reason}" for reason in outcome["failed"].values()]
    lines.append(f'To run on them, set profile.paper.data.root = "{outcome["to"]}" in the spec.')
    lines.append(f"Next: litevl data check {outcome['dataset']} --root {outcome['to']}")
    return "\n".join(lines)
