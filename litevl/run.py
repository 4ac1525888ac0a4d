"""From a spec to records and a report: what is planned, what is left of it, one run after another.

The order in each run: data, model with BLIP's weights, training (which never sees the test split),
scores, record. A run that fails leaves a record that says so; the others go on.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from litevl import measure
from litevl.data.annotations import Clip
from litevl.data.dataset import DataReport, FrameStore, check_clips
from litevl.data.mini import ensure_world, read_twins
from litevl.data.msrvtt import load_msrvtt
from litevl.engine.clips import ClipSet
from litevl.engine.precision import repeatable
from litevl.engine.train import History, train
from litevl.errors import DataError, LiteVLError, RunError, SpecError
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.tokenizer import Tokenizer
from litevl.model.weights import WeightsReport, load_blip
from litevl.plan import PlannedRun, plan, state
from litevl.record import code_state, hardware, package_versions, write_plan, write_record
from litevl.spec import Resolved, Spec, as_dict, choose_profile, load_spec

logger = logging.getLogger(__name__)
SPLITS = ("train", "validation", "test")
NUM_SHOWN = 5  # captions that cannot be used


@dataclass(frozen=True)
class Prepared:
    """A data set checked and decoded."""

    report: DataReport
    clips: dict[str, ClipSet]  # by split
    seconds: float


def execute_plan(
    spec_path: Path,
    profile: Any,
    variants: Sequence[str],
    seeds: Sequence[int],
    subset: int | None,
    max_steps: int | None,
    output: Path,
    rerun: bool,
    allow_missing: bool,
) -> int:
    """Run what is not done yet and render the report; 0, or 1 if a run failed."""
    spec = load_spec(spec_path)
    chosen, reason = choose_profile(spec, profile)
    runs = plan(spec, chosen, variants, seeds, subset, max_steps)
    records = output / "records"
    left = [run for run in runs if rerun or state(run, records) != "done"]
    headline = f"{spec.name}, profile {chosen} ({reason})"
    print(f"{headline}: {len(runs)} runs, {len(runs) - len(left)} done before", flush=True)
    write_plan(records / spec.name, chosen, plan_file(spec, spec_path, runs, variants, seeds))
    prepared: dict[str, Prepared] = {}
    failed = 0
    for number, run in enumerate(left, start=1):
        print(f"  run {number} of {len(left)}: {run.id}", flush=True)
        if rerun:
            shutil.rmtree(output / "runs" / run.id, ignore_errors=True)
        key = repr((run.resolved.data, run.resolved.frames))
        if key not in prepared:
            prepared[key] = prepare(run.resolved, subset, allow_missing)
        failed += not execute(run, prepared[key], reason, output)
    from litevl.report.page import render_report

    page = render_report(records, output, spec.name, chosen)
    print(f"report: {page}")
    outcome = f"{len(left) - failed} runs finished" + (f", {failed} failed" if failed else "")
    print(f"{headline}: {outcome}, {len(runs) - len(left)} done before")
    return 1 if failed else 0


def plan_file(
    spec: Spec,
    spec_path: Path,
    runs: Sequence[PlannedRun],
    variants: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """What the report has to show, as `record.PlanFile` describes it."""
    command = ["litevl", "run", str(spec_path)]
    command += [part for name in variants for part in ("--variant", name)]
    command += [part for seed in seeds for part in ("--seed", str(seed))]
    return {
        "ids": [run.id for run in runs],
        "spec_file": str(spec_path),
        "claims": spec.claim,
        "targets": spec.target,
        "provenance": spec.provenance,
        "variants": [{"name": entry.name, "title": entry.title} for entry in spec.variant],
        "command": shlex.join(command),
    }


def prepare(settings: Resolved, subset: int | None, allow_missing: bool) -> Prepared:
    """Check the data set, making the mini world first where the spec describes one; decode it."""
    started = time.perf_counter()
    root, workers = Path(settings.data.root), os.cpu_count() or 1
    if settings.data.world is not None:
        ensure_world(root, settings.data.world, workers)
    if settings.data.dataset != "msrvtt":
        raise SpecError(f"data.dataset: {settings.data.dataset!r} cannot be run yet")
    expected = settings.data.expected.model_dump()
    data = load_msrvtt(root, settings.data.train_split)
    report = check_clips(
        data, {split: expected[f"{split}_clips"] for split in SPLITS}, allow_missing
    )
    if subset is not None:
        report = first_clips(report, subset)
    tokenizer = Tokenizer.for_weights(settings.model.weights)
    twins = read_twins(root)
    clips = {}
    for split in SPLITS:
        some: tuple[Clip, ...] = getattr(report.data, split)
        store = FrameStore.open(
            some,
            root.with_name(root.name + "-frames"),
            settings.frames.size_px,
            settings.frames.decoder,
            workers,
        )
        clips[split] = ClipSet(
            some, store, tokenizer, settings.frames.num_frames, settings.data.max_tokens, twins
        )
        expect_usable_captions(root, split, clips[split])
    return Prepared(report, clips, time.perf_counter() - started)


def expect_usable_captions(root: Path, split: str, clips: ClipSet) -> None:
    """Raise DataError that names the clips whose captions are empty or have too many words."""
    try:
        clips.tokens([caption for clip in clips.clips for caption in clip.captions])
    except DataError as error:
        listed = []
        for clip in clips.clips:
            try:
                clips.tokens(clip.captions)
            except DataError as of_clip:
                listed += [f"  {clip.id}:{line}" for line in str(of_clip).split("\n")[1:-1]]
        first, way_out = str(error).split("\n")[0], str(error).split("\n")[-1]
        shown = [*listed[:NUM_SHOWN], *(["  ..."] if len(listed) > NUM_SHOWN else []), way_out]
        raise DataError(f"{root}, {split} captions: {first}\n" + "\n".join(shown)) from None


def first_clips(report: DataReport, count: int) -> DataReport:
    """The report cut to the first `count` clips of each split, in the order of the annotations."""
    data = report.data
    kept = replace(
        data,
        train=data.train[:count],
        validation=data.validation[:count],
        test=data.test[:count],
    )
    why = (*report.not_comparable_because, f"subset: the first {count} clips of each split")
    return replace(report, data=kept, not_comparable_because=why)


def execute(run: PlannedRun, data: Prepared, profile_reason: str, output: Path) -> bool:
    """Train, score and record one run; False where it failed, which its record then says."""
    settings = run.resolved
    started = datetime.now(UTC)
    folder = output / "records" / settings.name
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    why = list(data.report.not_comparable_because)
    if run.max_steps is not None:
        why.append(f"max-steps: training stopped after {run.max_steps} steps")
    record: dict[str, Any] = {
        "run": {
            "id": run.id,
            "spec": settings.name,
            "title": settings.title,
            "profile": settings.profile,
            "profile_reason": profile_reason,
            "variant": settings.variant,
            "seed": run.seed,
            "started": started.isoformat(timespec="seconds"),
            "comparable": not why,
            "not_comparable_because": why,
            "limits": {"subset": run.subset, "max_steps": run.max_steps},
        },
        "spec": as_dict(settings),
        "code": code_state(Path(__file__).parents[1]),
        "packages": package_versions(),
        "hardware": hardware(str(device)),
    }
    try:
        with repeatable(device):
            measured, arrays, strips = train_and_score(run, data, device, output)
    except LiteVLError as error:
        logger.error("%s failed: %s", run.id, error)
        write_record(folder, record | {"status": "failed", "error": str(error)})
        return False
    measured["timings_seconds"]["data"] = data.seconds
    measured["timings_seconds"]["total"] = sum(measured["timings_seconds"].values())
    write_record(folder, record | measured | {"status": "complete"}, arrays, strips)
    for checkpoint in (output / "runs" / run.id).glob("*.pt"):
        checkpoint.unlink()  # the trained model stays, in `model/`
    return True


def train_and_score(
    run: PlannedRun, data: Prepared, device: torch.device, output: Path
) -> tuple[dict[str, Any], measure.Arrays, measure.Arrays]:
    """The measured part of a record, its per-query arrays and its film strips."""
    settings = run.resolved
    generator = torch.Generator().manual_seed(run.seed)
    model, weights = load_blip(
        LiteVLForRetrieval, settings.model.weights, generator, **model_options(settings)
    )
    model.to(device)
    history = train(
        model,
        settings,
        data.clips["train"],
        data.clips["validation"],
        run.seed,
        run.max_steps,
        output / "runs" / run.id,
        f"{settings.variant}, seed {run.seed}",
    )
    save_model(model, output / "runs" / run.id / "model")
    trained = time.perf_counter()
    scored = measure.score_run(model, settings, data.clips, run.seed)
    finished = time.perf_counter()
    measured = {
        "data": {
            "dataset": settings.data.dataset,
            "fingerprint": data.report.fingerprint,
            "splits": data.report.splits,
            "notes": data.report.data.notes,
        },
        "weights": weights_part(weights),
        "timings_seconds": {"train": history.seconds, "evaluate": finished - trained},
        "cost": measure.cost(model, settings, device)
        | {"device_hours": (history.seconds + finished - trained) / 3600},
        **history_part(history, settings),
        "metrics": scored.metrics,
        "temporal_scale": measure.learned_scale(model),
    }
    return measured, scored.arrays, scored.strips


def save_model(model: LiteVLForRetrieval, folder: Path) -> None:
    """Write the trained model, as `from_pretrained` reads it; RunError where that fails."""
    try:
        model.save_pretrained(folder)
    except (OSError, SafetensorError) as error:  # the latter hides a full disk in its text
        raise RunError(
            f"{folder}: the trained model cannot be written ({error})\n"
            "  Free some space or choose another --output; finished runs are kept and the same "
            "command continues."
        ) from None


def model_options(settings: Resolved) -> dict[str, Any]:
    """The fields of LiteVLConfig that the spec decides; the others come with the weights."""
    options = settings.model.model_dump(exclude={"weights"})
    return options | {
        "num_frames": settings.frames.num_frames,
        "image_size_px": settings.frames.size_px,
    }


def weights_part(report: WeightsReport) -> dict[str, Any]:
    """The weights report as a record holds it."""
    return vars(report)


def history_part(history: History, settings: Resolved) -> dict[str, Any]:
    """Selection and curves as a record holds them."""
    return {
        "selection": {"select": settings.train.select, "epoch": history.selected_epoch},
        "curves": {"train": history.steps, "validation": history.validations},
    }
