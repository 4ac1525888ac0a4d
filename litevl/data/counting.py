"""Which clips of a data set are there, against what the spec expects."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from litevl.data.annotations import Annotations, Clip, text_counts
from litevl.data.fingerprint import fingerprint, readable_hashes
from litevl.errors import DataError

NUM_SHOWN = 5


@dataclass(frozen=True)
class DataReport:
    """What `count_clips` found. `data` holds the clips that are there, `left_out` the other ids.

    splits: split -> expected (by the spec), found, broken (by file or by content), captions; with
        questions also their number, and outside_list: those whose answer is not a listed one.
    broken: id -> why the clip cannot be used; those of left_out that are missing are not in it.
    """

    splits: dict[str, dict[str, int]]
    fingerprint: str
    data: Annotations
    left_out: tuple[str, ...]
    not_comparable_because: tuple[str, ...]
    broken: Mapping[str, str] = field(default_factory=dict)


QUESTIONS_OF_SUBSET = 5  # about each clip; the published sets have some 25, which is no short try


def check_clips(
    data: Annotations,
    expected: Mapping[str, int],
    allow_missing: bool = False,
    subset: int | None = None,
) -> DataReport:
    """Count the clips of each split against what the spec expects, and fingerprint them.

    expected: clips by split: "train", "validation", "test".
    allow_missing: go on with the clips that are there; the report names the others and says why the
        scores are not comparable. Without it any difference is a DataError that names them.
    subset: keep only the first so many clips of each split, in the order of the annotations, with
        all their captions, or their first QUESTIONS_OF_SUBSET questions. The others need not be
        there, but the annotations have to name as many as expected all the same. The answer list
        stays as it was declared.
    Files are opened only to be hashed; that they can be decoded shows when FrameStore is built.
    """
    report = count_clips(data, expected, subset)
    if report.not_comparable_because and not allow_missing:
        raise DataError(_message_missing(report))
    expect_some_left(report)
    if subset is None:
        return report
    why = (*report.not_comparable_because, f"subset: the first {subset} clips of each split")
    return replace(report, not_comparable_because=why)


def with_few_questions(clip: Clip) -> Clip:
    """A clip as a subset has it."""
    return replace(clip, questions=clip.questions[:QUESTIONS_OF_SUBSET])


def count_clips(
    data: Annotations, expected: Mapping[str, int], subset: int | None = None
) -> DataReport:
    """`check_clips` without an error: what is wrong stands in not_comparable_because."""
    splits, problems, left_out = {}, [], []
    kept: dict[str, tuple[Clip, ...]] = {}
    reasons: dict[str, str] = {}
    chosen = {
        name: clips if subset is None else tuple(map(with_few_questions, clips[:subset]))
        for name, clips in data.splits.items()
    }
    filled = {clip.path for clips in chosen.values() for clip in clips if _has_content(clip.path)}
    readable, _ = readable_hashes(sorted(filled))
    for name, clips in chosen.items():
        num_named = len(data.splits[name])
        missing = [clip for clip in clips if not clip.path.exists()]
        gone = {clip.id for clip in missing}
        broken = [clip for clip in clips if clip.id not in gone and clip.path not in readable]
        gone |= {clip.id for clip in broken}
        kept[name] = tuple(clip for clip in clips if clip.id not in gone)
        left_out += sorted(gone)
        reasons |= {clip.id: f"{clip.path}: empty or not readable" for clip in broken}
        splits[name] = {
            "expected": expected[name],
            "found": len(kept[name]),
            "broken": len(broken),
            **text_counts(kept[name], data.answers),
        }
        if num_named != expected[name]:
            problems.append(
                f"{name}: the annotations name {num_named} clips, the spec expects {expected[name]}"
            )
        for state, some in (("missing", missing), ("empty or not readable", broken)):
            if some:
                problems.append(
                    f"{name}: {len(kept[name])} of {len(clips)} clips found; "
                    f"{len(some)} {state} (first: {', '.join(c.id for c in some[:NUM_SHOWN])}; "
                    f"expected at {some[0].path})"
                )
    there = replace(data, train=kept["train"], validation=kept["validation"], test=kept["test"])
    return DataReport(
        splits=splits,
        fingerprint=fingerprint(there),
        data=there,
        left_out=tuple(left_out),
        not_comparable_because=tuple(problems),
        broken=reasons,
    )


def without_broken(report: DataReport, broken: Mapping[str, str]) -> DataReport:
    """The report with these clips, id -> reason, left out: counted as broken, and named."""
    if not broken:
        return report
    splits, problems = {}, []
    kept: dict[str, tuple[Clip, ...]] = {}
    for name, clips in report.data.splits.items():
        some = [clip.id for clip in clips if clip.id in broken]
        kept[name] = tuple(clip for clip in clips if clip.id not in broken)
        counts = report.splits[name]
        splits[name] = counts | {
            "found": counts["found"] - len(some),
            "broken": counts["broken"] + len(some),
            **text_counts(kept[name], report.data.answers),
        }
        if some:
            problems.append(
                f"{name}: {len(some)} of {len(clips)} clips cannot be decoded "
                f"(first: {', '.join(some[:NUM_SHOWN])})"
            )
    there = replace(
        report.data, train=kept["train"], validation=kept["validation"], test=kept["test"]
    )
    return replace(
        report,
        splits=splits,
        fingerprint=fingerprint(there),
        data=there,
        left_out=(*report.left_out, *sorted(broken)),
        not_comparable_because=(*report.not_comparable_because, *problems),
        broken={**report.broken, **broken},
    )


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0 and os.access(path, os.R_OK)


def expect_some_left(report: DataReport) -> DataReport:
    """The report itself; DataError where a split that should hold clips has none."""
    if _nothing_left(report):
        raise DataError(_message_missing(report))
    return report


def _nothing_left(report: DataReport) -> list[str]:
    splits = report.data.splits
    return [name for name, clips in splits.items() if report.splits[name]["expected"] and not clips]


def _message_missing(report: DataReport) -> str:
    lines = ["the clips are not those the spec expects"]
    lines += [f"  {line}" for line in report.not_comparable_because]
    nothing_left = _nothing_left(report)
    if nothing_left:
        lines.append(f"  Nothing is left to run on: {', '.join(nothing_left)}.")
    else:
        lines.append("  Scores over fewer clips are not comparable with the paper.")
        lines.append("  Pass --allow-missing to run anyway; the record will say comparable: false.")
    return "\n".join(lines)
