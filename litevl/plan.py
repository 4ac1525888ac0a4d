"""From a spec to its runs: one per variant and seed, each with an id that holds its settings."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from litevl.assets import MINI_BLIP
from litevl.errors import DataError, SpecError
from litevl.spec import Profile, Resolved, Spec, as_dict, resolve

State = Literal["done", "failed", "missing"]

# Settings that are no part of a run's identity: it has the same id, and its record and checkpoint
# serve, whatever they are. Everything else makes another run.
MAY_CHANGE = {
    "title": "says what the run is called",
    "train.seeds": "says which runs there are; a run's own seed is in its id",
    "train.recompute": "the same numbers with less memory",
    "train.compile": "the same operations, in other kernels",
    "train.device_batch_size": "the same batch, in other parts",
    "frames.cache": "the same frames, kept otherwise",
    "train.checkpoint_minutes": "how much work a crash can cost",
}


@dataclass(frozen=True)
class PlannedRun:
    """One training and evaluation, settled to the last value."""

    id: str
    resolved: Resolved
    seed: int
    subset: int | None
    max_steps: int | None


def plan(
    spec: Spec,
    profile: Profile,
    variants: Sequence[str],
    seeds: Sequence[int],
    subset: int | None,
    max_steps: int | None,
) -> tuple[PlannedRun, ...]:
    """The runs of a spec under a profile, each once; all of the first seed come first.

    No `variants` means all of the spec's, no `seeds` the profile's own. Seed by seed, so that a
    plan cut short has compared every variant on at least one seed. SpecError for unknown variants.
    """
    known = [variant.name for variant in spec.variant]
    unknown = [name for name in dict.fromkeys(variants) if name not in known]
    if unknown:
        names = ", ".join(unknown)
        raise SpecError(f"{spec.name}: no such variant: {names} (it has: {', '.join(known)})")
    settings = [resolve(spec, profile, name) for name in dict.fromkeys(variants or known)]
    return tuple(
        planned(resolved, seed, subset, max_steps)
        for seed in dict.fromkeys(seeds or settings[0].train.seeds)  # the same for all variants
        for resolved in settings
    )


# Where these say nothing, ids are those from before there were these options.
LATER_OPTIONS = (
    ("model", "fresh"),
    ("data", "annotations"),
    ("evaluate", "features"),
    ("frames", "choices_per_segment"),
    ("train", "hard_negatives"),
)


def planned(resolved: Resolved, seed: int, subset: int | None, max_steps: int | None) -> PlannedRun:
    """One run with its id: names a reader knows it by, then a key of all that changes its numbers.

    What MAY_CHANGE is left out of the key: none of that is meant to change a run's numbers.
    """
    settings = as_dict(resolved)
    for key in MAY_CHANGE:
        table, _, name = key.rpartition(".")
        (settings[table] if table else settings).pop(name, None)
    for table, name in LATER_OPTIONS:
        if settings[table][name] in (None, []):
            del settings[table][name]
    decides = {"settings": settings, "seed": seed, "subset": subset, "max_steps": max_steps}
    decides |= shipped_parts(resolved)
    text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(text.encode()).hexdigest()
    name = f"{resolved.name}-{resolved.profile}-{resolved.variant}-s{seed}-{key[:8]}"
    return PlannedRun(name, resolved, seed, subset, max_steps)


def shipped_parts(resolved: Resolved) -> dict[str, Any]:
    """What decides numbers and comes with the package: mini-BLIP, and the way clips are drawn.

    A checkpoint or data set given by path is known here by that path only; the record holds hashes.
    One's own annotations change from day to day, so a run's id holds their hash. DataError where
    there is no such file.
    """
    from litevl.data.mini import WORLD_VERSION  # numpy; `litevl --help` needs none

    parts: dict[str, Any] = {}
    if resolved.model.weights == "mini-blip":
        record = json.loads(MINI_BLIP.with_name("record.json").read_text(encoding="utf-8"))
        parts["mini_blip"] = record["sha256"]
    if resolved.data.world is not None:
        parts["world_version"] = WORLD_VERSION
    if resolved.data.annotations is not None:
        try:
            content = Path(resolved.data.annotations).read_bytes()
        except OSError as error:
            raise DataError(
                f"{resolved.data.annotations}: cannot be read: {error.strerror}\n"
                "  It is data.annotations of the spec; start litevl where its paths begin."
            ) from None
        parts["annotations"] = hashlib.sha256(content).hexdigest()
    return parts


def record_path(run: PlannedRun, records_dir: Path) -> Path:
    """Where the record of a run lies below the folder of all records."""
    return records_dir / run.resolved.name / f"{run.id}.json"


def state(run: PlannedRun, records_dir: Path) -> State:
    """What the run's record says: "done" only if it is whole and its per-query values are there.

    A damaged record is "failed"; an interrupted run, or the record of another id, is "missing".
    """
    from litevl.record import read_record  # numpy; listing choices on the way here needs none

    path = record_path(run, records_dir)
    if not path.exists():
        return "missing"
    try:
        record = read_record(path)
    except DataError:
        return "failed"
    if record.status == "failed":
        return "failed"
    is_whole = record.status == "complete" and path.with_suffix(".npz").exists()
    return "done" if is_whole and record.run.id == run.id else "missing"
