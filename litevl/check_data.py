"""A data set checked before any run: its clips counted, every one decoded, the outcome kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from litevl.data.checked import Decoded, decode_every_clip, outcome_file, write_outcome
from litevl.data.counting import DataReport, count_clips, without_broken
from litevl.data.video import decoder_versions
from litevl.prepare import SPLITS, count_questions, read_annotations
from litevl.spec import DataSpec

logger = logging.getLogger(__name__)

NUM_SHOWN = 20  # missing clips of a split; those that are broken are all named


def check_data(
    data: DataSpec, decoder: str, num_workers: int, timeout_seconds: float, progress: bool = True
) -> dict[str, Any]:
    """Count the clips against the spec and decode every one; returns the outcome.

    Its fingerprint is the one a run over the same clips records. It is written into the root, for
    such a run to see (`note_on_check`). Raises DataError where the annotations cannot be read.
    """
    root, expected = Path(data.root), data.expected.model_dump()
    annotations = read_annotations(data)
    report = count_clips(annotations, {split: expected[f"{split}_clips"] for split in SPLITS})
    problems = count_questions(annotations, expected, allow_missing=True)
    report = replace(report, not_comparable_because=(*report.not_comparable_because, *problems))
    clips = [clip for some in report.data.splits.values() for clip in some]
    decoded = decode_every_clip(
        clips, root, decoder, num_workers, timeout_seconds, progress, data.first_seconds
    )
    report = without_broken(report, decoded.broken)
    missing = {
        split: [c.id for c in some if c.id in report.left_out and c.id not in report.broken]
        for split, some in annotations.splits.items()
    }
    outcome = as_outcome(data, report, missing, decoder, decoded)
    write_outcome(root, data.dataset, outcome)
    return outcome


def as_outcome(
    data: DataSpec,
    report: DataReport,
    missing: dict[str, list[str]],
    decoder: str,
    decoded: Decoded,
) -> dict[str, Any]:
    """What the check found, as it is kept and printed."""
    splits = {
        split: {**counts, "missing": len(missing[split])} for split, counts in report.splits.items()
    }
    return {
        "ok": not report.not_comparable_because,
        "dataset": data.dataset,
        "root": data.root,
        "checked": datetime.now(UTC).isoformat(timespec="seconds"),
        "decoder": ", ".join([decoder, *decoder_versions(decoder)]),
        "fingerprint": report.fingerprint,
        "splits": splits,
        "missing": missing,
        "broken": dict(report.broken),
        "problems": list(report.not_comparable_because),
        "notes": list(report.data.notes),
        "decoded": decoded.num_decoded,
        "known_to_decode": decoded.num_known,
    }


def described(outcome: dict[str, Any]) -> str:
    """The outcome for a reader: a table of counts, every broken clip, the first missing ones."""
    columns = ["expected", "found", "missing", "broken", "captions", "questions"]
    shown = [c for c in columns if any(c in counts for counts in outcome["splits"].values())]
    lines = [
        f"{outcome['dataset']} in {outcome['root']}, decoded with {outcome['decoder']}",
        f"  {'split':<10}" + "".join(f"{column:>11}" for column in shown),
    ]
    for split, counts in outcome["splits"].items():
        lines.append(f"  {split:<10}" + "".join(f"{counts.get(c, 0):>11,}" for c in shown))
    for split, names in outcome["missing"].items():
        lines += named(f"missing in {split}", names)
    if outcome["broken"]:
        lines.append(f"broken: {len(outcome['broken'])}")
        lines += [f"  {reason}" for reason in outcome["broken"].values()]
    lines += [f"note: {note}" for note in outcome["notes"]]
    lines.append(
        f"{outcome['decoded']} clips decoded now, {outcome['known_to_decode']} by an earlier check"
    )
    kept = outcome_file(Path(outcome["root"]), outcome["dataset"])
    lines.append(f"fingerprint {outcome['fingerprint']} (kept in {kept})")
    lines += [f"problem: {problem}" for problem in outcome["problems"]]
    lines.append("all there, all decode" if outcome["ok"] else "not what the spec expects")
    return "\n".join(lines)


def named(title: str, names: Sequence[str]) -> list[str]:
    """The first NUM_SHOWN names under a title, or nothing."""
    if not names:
        return []
    more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    return [f"{title}: {len(names)}", f"  {', '.join(names[:NUM_SHOWN])}{more}"]
