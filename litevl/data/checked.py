"""What `litevl data check` leaves beside the clips: which ones decode, and the whole outcome.

A clip that decoded is not decoded again while its bytes and the decoder are the same; one that did
not is tried each time, as a time limit may have been too short. A run reads the outcome to say in
its record whether it used the data that were checked.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litevl.data.annotations import Clip
from litevl.data.decode import DecodeJob, decode_clips
from litevl.data.fingerprint import file_hashes, read_kept, read_rows, write_kept
from litevl.data.processes import Failure
from litevl.data.video import decoder_versions

logger = logging.getLogger(__name__)

DECODED_FILE = ".litevl-decoded.json"  # path below the root -> [sha256, decoder, frames]
SIZE_PX = 32  # every frame is decoded whole and made this small: only whether it decodes counts
SAVE_SECONDS = 10.0

Row = list[Any]


def outcome_file(root: Path, dataset: str) -> Path:
    """Where the outcome of the last check lies. Two data sets may share a folder of clips."""
    return root / f".litevl-checked-{dataset}.json"


@dataclass(frozen=True)
class Decoded:
    """What decoding every clip said. broken: clip id -> reason."""

    broken: dict[str, str]
    num_decoded: int
    num_known: int  # decoded whole by an earlier check


def decode_every_clip(
    clips: Sequence[Clip],
    root: Path,
    decoder: str,
    num_workers: int,
    timeout_seconds: float,
    progress: bool = True,
    first_seconds: float | None = None,
) -> Decoded:
    """Decode each clip once, in processes that are killed when a clip takes longer than allowed.

    What is known is kept in DECODED_FILE every SAVE_SECONDS and when interrupted.
    first_seconds: of each clip; see `read_frames`.
    """
    hashes = file_hashes([clip.path for clip in clips])
    versions = ", ".join([decoder, *decoder_versions(decoder)])
    versions += f", first {first_seconds:g} s" if first_seconds is not None else ""
    known = read_rows(root / DECODED_FILE)
    names = {clip.id: os.path.relpath(clip.path, root) for clip in clips}
    rows: dict[str, Row] = {clip.id: [hashes[clip.path], versions] for clip in clips}
    left = [clip for clip in clips if known.get(names[clip.id], [])[:2] != rows[clip.id]]
    jobs = [DecodeJob(clip.id, clip.path) for clip in left]
    broken, saved = {}, time.monotonic()
    try:
        for clip_id, answer in decode_clips(
            jobs, SIZE_PX, decoder, num_workers, timeout_seconds, progress, first_seconds
        ):
            if isinstance(answer, Failure):
                broken[clip_id] = answer.reason
                known.pop(names[clip_id], None)
                continue
            known[names[clip_id]] = [*rows[clip_id], len(answer)]
            if time.monotonic() > saved + SAVE_SECONDS:
                write_kept(root / DECODED_FILE, known)
                saved = time.monotonic()
    finally:
        if jobs:
            write_kept(root / DECODED_FILE, known)
    return Decoded(broken, len(jobs), len(clips) - len(jobs))


def write_outcome(root: Path, dataset: str, outcome: Mapping[str, Any]) -> None:
    """Keep the outcome of a check for runs; a folder that cannot be written is a warning."""
    write_kept(outcome_file(root, dataset), dict(outcome))


def was_found_whole(root: Path, dataset: str) -> bool:
    """Whether the last check found all clips that the spec expects, and all of them decoded."""
    return read_kept(outcome_file(root, dataset)).get("ok") is True


def note_on_check(root: Path, dataset: str, fingerprint: str) -> str:
    """Whether a run's data are those that were checked, in a sentence for its record.

    Data that changed since are noted, not refused: a run counts, hashes and decodes its clips
    itself, so its record is right either way, and refusing would cost hours of checking again.
    """
    file = outcome_file(root, dataset)
    outcome = read_kept(file)
    if not outcome:
        return f"clips not checked beforehand: no {file.name}"
    if outcome.get("fingerprint") == fingerprint:
        return f"the clips are those that `litevl data check` decoded on {outcome.get('checked')}"
    logger.warning(
        "%s: the data changed since `litevl data check` of %s; the record says so",
        root,
        outcome.get("checked"),
    )
    return (
        f"the data changed since `litevl data check` of {outcome.get('checked')}: "
        f"fingerprint {outcome.get('fingerprint')} then"
    )
