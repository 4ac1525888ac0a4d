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
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from litevl import measure, measure_answers, measure_retrieval
from litevl.cost import Assumptions, Model, estimates
from litevl.engine.answering import AnsweringObjective
from litevl.engine.distributed import Group, join_group, shared
from litevl.engine.precision import compile_encoders, repeatable
from litevl.engine.retrieval import RetrievalObjective
from litevl.engine.train import History, Objective, train
from litevl.errors import LiteVLError, RunError, SpecError, WeightsError
from litevl.locks import alone
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.question_answering import LiteVLForQuestionAnswering
from litevl.model.tokenizer import Tokenizer
from litevl.model.weights import WeightsReport, load_blip
from litevl.plan import PlannedRun, plan
from litevl.prepare import Prepared, prepare
from litevl.profiles import choose, start_of
from litevl.record import code_state, hardware, package_versions, write_plan, write_record
from litevl.sharing import Left, Options, left_of, remove_checkpoints, tidy, turns
from litevl.side_by_side import CONTEXT, execute_side_by_side, num_side_by_side
from litevl.spec import Resolved, Spec, as_dict, load_spec, model_options, task_of
from litevl.trained import Use, use_of, write_use
from litevl.whole import whole_folder

logger = logging.getLogger(__name__)


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
    start: str | None = None,
    jobs: int | None = 1,
    report: bool = True,
) -> int:
    """Run what is not done yet and render the report; 0, or 1 if a run failed.

    Other processes may do the same at the same time: each run is executed by one of them.
    jobs: runs at a time; None for as many as suit the machine.
    report: whether this is the plan to report on; else plan and report stay as they are.
    """
    group = join_group()
    spec, chosen, reason = choose(load_spec(spec_path), profile, start)
    runs = plan(spec, chosen, variants, seeds, subset, max_steps)
    records, options = output / "records", Options(subset, allow_missing, rerun, reason)
    left = group.on_main(lambda: left_of(runs, output, rerun))
    num_left, num_before = len(left.runs), len(runs) - len(left.runs)
    if group.is_main:  # one that was killed between its record and this has left them
        is_left = {run.id for run in left.runs}
        for run in runs:
            if run.id not in is_left:
                tidy(run, output)
    headline = f"{spec.name}, profile {chosen} ({reason})"
    say = print if group.is_main else silence
    say(f"{headline}: {len(runs)} runs, {num_before} done before", flush=True)
    if report and group.is_main:
        write_plan(
            records / spec.name, chosen, plan_file(spec, spec_path, runs, start, variants, seeds)
        )
    at_once = num_side_by_side(jobs, num_left) if group.size == 1 else 1
    doers = CONTEXT.RawArray("q", num_left)
    if at_once > 1:
        for run in {data_key(run): run for run in left.runs}.values():
            prepare(run.resolved, subset, allow_missing)
        rest = num_left % at_once  # these have the cores to themselves
        execute_side_by_side(left.first(num_left - rest), options, at_once, doers)
        if rest > 1:
            execute_side_by_side(left, options, rest, doers)
    execute_left(left, options, doers, group)
    if report and group.is_main:
        from litevl.report.page import render_report

        with alone(output / ".report.lock", "report"):
            page = render_report(records, output, spec.name, chosen)
        print(f"report: {page}")
    failed = group.on_main(lambda: [left.outcome(n) for n in range(num_left)].count("failed"))
    outcome = f"{num_left - failed} runs finished" + (f", {failed} failed" if failed else "")
    num_elsewhere = list(doers).count(0)
    outcome += f", {num_elsewhere} of them by other processes" if num_elsewhere else ""
    say(f"{headline}: {outcome}, {num_before} done before")
    return 1 if failed else 0


def execute_left(left: Left, options: Options, doers: Any, group: Group, wait: bool = True) -> None:
    """Execute the runs that no other command does, one after another; see `turns`.

    doers: takes this process's id for each of them.
    """
    prepared: dict[str, Prepared] = {}
    with closing(turns(left, wait)) as mine:  # so that an error gives the lock back at once
        while (number := group.on_main(lambda: next(mine, None))) is not None:
            run, doers[number] = left.runs[number], os.getpid()
            if group.is_main:
                print(f"  run {number + 1} of {len(left.runs)}: {run.id}", flush=True)
            if options.rerun:
                folder = left.output / "runs" / run.id
                group.on_main(partial(shutil.rmtree, folder, ignore_errors=True))
            key = data_key(run)
            if key not in prepared:
                ready = partial(prepare, run.resolved, options.subset, options.allow_missing)
                prepared[key] = group.main_first(ready)
                expect_same_clips(group.each(prepared[key].report.fingerprint))
            execute(run, prepared[key], options.profile_reason, left.output, group)


def expect_same_clips(fingerprints: Sequence[str]) -> None:
    """Raise RunError, in every process, unless all have prepared the same clips."""
    if len(set(fingerprints)) > 1:
        raise shared(
            RunError(
                "a clip that took too long to decode for one process did not for another: they "
                "would train on different clips\n"
                "  Repeat the command; such clips are tried again."
            )
        )


def data_key(run: PlannedRun) -> str:
    """The same for runs whose clips, frames and words are the same."""
    return repr((run.resolved.data, run.resolved.frames, run.resolved.model.weights))


def plan_file(
    spec: Spec,
    spec_path: Path,
    runs: Sequence[PlannedRun],
    start: str | None,
    variants: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """What the report has to show, as `record.PlanFile` describes it."""
    command = ["litevl", "run", str(spec_path)]
    command += ["--start", start] if start is not None else []
    command += [part for name in variants for part in ("--variant", name)]
    command += [part for seed in seeds for part in ("--seed", str(seed))]
    return {
        "ids": [run.id for run in runs],
        "spec_file": str(spec_path),
        "claims": spec.claim,
        "targets": spec.target,
        "provenance": spec.provenance,
        **(paper_part(spec, runs) if runs[0].resolved.profile == "paper" else {}),
        "variants": [{"name": entry.name, "title": entry.title} for entry in spec.variant],
        "command": shlex.join(command),
    }


def paper_part(spec: Spec, runs: Sequence[PlannedRun]) -> dict[str, Any]:
    """What a plan of the paper profile says besides: its start, and what its runs may cost."""
    assumed = Assumptions()
    return {
        "start": start_of(spec),
        "published": spec.published,
        "estimates": estimates(runs, assumed),
        "assumptions": asdict(assumed),
    }


def silence(*_values: object, **_options: Any) -> None:
    """Print nothing: rank 0 says it."""


def execute(
    run: PlannedRun, data: Prepared, profile_reason: str, output: Path, group: Group
) -> bool:
    """Train, score and record one run; False where it failed, which its record then says.

    An error of one process of several is raised there: the others wait for it and end with it.
    """
    settings = run.resolved
    started = datetime.now(UTC)
    folder = output / "records" / settings.name
    device = group.device
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
        "hardware": hardware(str(device)) | {"processes": group.size},
    }
    try:
        with repeatable(device):
            measured, arrays, strips = train_and_score(run, data, group, output)
    except LiteVLError as error:
        if group.is_main:
            logger.error("%s failed: %s", run.id, error)
            write_record(folder, record | {"status": "failed", "error": str(error)})
        if group.size > 1 and not error.is_shared:
            raise RunError(f"{run.id}, process {group.rank} of {group.size}: {error}") from error
        return False
    if not group.is_main:
        return True
    measured["timings_seconds"]["data"] = data.seconds
    measured["timings_seconds"]["total"] = sum(measured["timings_seconds"].values())
    write_record(folder, record | measured | {"status": "complete"}, arrays, strips)
    remove_checkpoints(output / "runs" / run.id)
    return True


def train_and_score(
    run: PlannedRun, data: Prepared, group: Group, output: Path
) -> tuple[dict[str, Any], measure.Arrays, measure.Arrays]:
    """The measured part of a record, its per-query arrays and its film strips."""
    settings, seed, folder = run.resolved, run.seed, output / "runs" / run.id
    device = group.device
    ready = partial(begin, settings, data, seed, group, folder)
    model, objective, weights, score_run = group.together(ready)
    title = f"{settings.variant}, seed {seed}"
    identity = {"spec": as_dict(settings), "fingerprint": data.report.fingerprint}
    history = train(objective, settings.train, seed, run.max_steps, folder, title, group, identity)
    use, tokenizer = use_of(settings, data.clips["test"].answers), data.clips["test"].tokenizer
    group.on_main(lambda: save_model(model, folder / "model", use, tokenizer))
    trained = time.perf_counter()
    scored = score_run(settings, data.clips, seed, group)
    finished = time.perf_counter()
    listed = data.report.data.listed
    measured = {
        "data": {
            "dataset": settings.data.dataset,
            "fingerprint": data.report.fingerprint,
            "splits": data.report.splits,
            "notes": data.report.data.notes,
            "answer_list": listed and vars(listed),
        },
        "weights": vars(weights),
        "timings_seconds": {"train": history.seconds, "evaluate": finished - trained},
        "cost": measure.cost(model, settings, device)
        | {
            "device_hours": (history.seconds + finished - trained) / 3600 * group.size,
            "waiting_share": history.waiting_seconds / max(history.step_seconds, 1e-9),
        },
        **history_part(history, settings),
        "metrics": scored.metrics,
        "temporal_scale": measure.learned_scale(model),
    }
    return measured, scored.arrays, scored.strips


def begin(
    settings: Resolved, data: Prepared, seed: int, group: Group, folder: Path
) -> tuple[Model, Objective, WeightsReport, Callable[..., measure.Scored]]:
    """The model with BLIP's weights, its objective, where each weight is from, and its test."""
    start = settings.model.weights, torch.Generator().manual_seed(seed)
    data_of_task = settings, data.clips["train"], data.clips["validation"], seed, group
    device, options = group.device, model_options(settings)
    model: Model
    objective: Objective
    if task_of(settings.data.dataset) == "retrieval":
        ranker, weights = load_blip(LiteVLForRetrieval, *start, **options)
        model, objective = ranker, RetrievalObjective(ranker.to(device), *data_of_task)
        score_run = partial(measure_retrieval.score_run, ranker, folder=folder)
    else:
        answerer, weights = load_blip(LiteVLForQuestionAnswering, *start, **options)
        model, objective = answerer, AnsweringObjective(answerer.to(device), *data_of_task)
        score_run = partial(measure_answers.score_run, answerer)
    model.visual_encoder.recompute = settings.train.recompute
    if settings.train.compile:
        compile_encoders(objective.parts().values())
    expect_positions(settings, model.config.max_positions)
    expect_vocabulary(settings, model.config.vocab_size, len(data.clips["train"].tokenizer))
    return model, objective, weights, score_run


def expect_positions(settings: Resolved, num_positions: int) -> None:
    """Raise SpecError where a text may be longer than the weights have positions for.

    Otherwise training would stop at whichever step first draws such a text.
    """
    limits = {
        "data.max_tokens": settings.data.max_tokens,
        "data.max_answer_tokens": settings.data.max_answer_tokens or 0,
    }
    for key, most in limits.items():
        if most > num_positions:
            raise SpecError(
                f"{key}: {most} word pieces, but {settings.model.weights} has positions for "
                f"{num_positions}\n  Lower {key}, or choose other weights."
            )


def expect_vocabulary(settings: Resolved, num_words: int, num_known: int) -> None:
    """Raise WeightsError where the weights were trained with another vocabulary.

    BLIP's [DEC] and [ENC] are its last two: with one entry more or less they would be other words.
    """
    if num_words != num_known:
        raise WeightsError(
            f"{settings.model.weights}: word embeddings for {num_words} tokens, but the vocabulary "
            f"with [DEC] and [ENC] has {num_known}\n"
            "  Put the vocab.txt that these weights were trained with beside them."
        )


def save_model(model: Model, folder: Path, use: Use, tokenizer: Tokenizer) -> None:
    """Write the trained model, as `Trained.load` reads it; RunError where that fails."""
    try:
        with whole_folder(folder) as new:
            model.save_pretrained(new)
            write_use(new, use, tokenizer)
    except (OSError, SafetensorError) as error:  # the latter hides a full disk in its text
        raise RunError(
            f"{folder}: the trained model cannot be written ({error})\n"
            "  Free some space or choose another --output; finished runs are kept and the same "
            "command continues."
        ) from None


def history_part(history: History, settings: Resolved) -> dict[str, Any]:
    """Selection and curves as a record holds them."""
    return {
        "selection": {"select": settings.train.select, "epoch": history.selected_epoch},
        "curves": {"train": history.steps, "validation": history.validations},
    }
