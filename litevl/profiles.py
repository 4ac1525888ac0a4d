"""Which scale and which weights a spec runs with on this machine, and what the paper's scale lacks.

The paper profile may name several starts, BLIP checkpoints that a published row may stand for. One
study has one start, so that its ablations run once and its targets are those of that start.
"""

import shlex
from pathlib import Path
from typing import Literal

from litevl.data.annotations import CLIP_FOLDERS
from litevl.data.video_qa import MSVD_FOLDERS
from litevl.errors import DataError, SpecError
from litevl.model.places import fetch_command, weights_path
from litevl.plan import MAY_CHANGE
from litevl.spec import Profile, Spec, Start, as_dict, resolve
from litevl.spec_problems import flat, merged, suggestion

Requested = Literal["auto", "mini", "paper", "own"]


def real_profile(spec: Spec) -> Profile:
    """The profile of real clips."""
    return "own" if spec.profile is None else "paper"


def starting_from(spec: Spec, name: str | None) -> Spec:
    """The spec with the weights and the targets of one start; None for the paper profile's own.

    Another start than that makes another study: its name and title say which. SpecError for a
    start that the spec lacks.
    """
    by_name = {start.name: start for start in spec.start}
    if name is not None and name not in by_name:
        there = ", ".join(by_name) or "none"
        hint = suggestion(name, by_name)
        raise SpecError(f"{spec.name}: no start '{name}'{hint} (it has: {there})")
    own = start_of(spec)
    start = own if name is None else by_name[name]
    targets = [one for one in spec.target if one.start in (None, start and start.name)]
    changes: dict[str, object] = {"target": tuple(targets)}
    if start is not None and start != own and spec.profile is not None:
        paper = merged(spec.profile.paper, {"model": {"weights": start.weights}})
        changes |= {
            "name": f"{spec.name}-{start.name}",
            "title": f"{spec.title}, {start.title}",
            "profile": spec.profile.model_copy(update={"paper": paper}),
        }
    return spec.model_copy(update=changes)


def start_of(spec: Spec) -> Start | None:
    """The start whose weights the paper profile has; None where it has others."""
    weights = resolve(spec, "paper", spec.variant[0].name).model.weights
    return next((start for start in spec.start if start.weights == weights), None)


def choose(
    spec: Spec,
    requested: Requested,
    start: str | None,
    needs_data: bool = True,
) -> tuple[Spec, Profile, str]:
    """The spec with the start asked for, the profile to run, and why that one.

    needs_data: whether "paper" without its data is an error, as for a run, or is said in the
    reason, as for a plan.

    SpecError where a start is asked for and mini runs, which has one only. Errors as below.
    """
    if spec.profile is None:
        return spec, "own", reason_for_own(spec, requested, start, needs_data)
    chosen = starting_from(spec, start)
    missing = [place for place, _ in missing_for_paper(chosen)]
    if requested == "paper" and missing and not needs_data:
        return chosen, "paper", f"asked for; to run it, get {', '.join(missing)}"
    profile, reason = choose_profile(chosen, requested)
    if start is not None and profile == "mini":
        raise SpecError(
            f"{spec.name}: --start {start} is for the paper profile, and mini runs ({reason})\n"
            "  Leave the option out, or pass --profile paper to see what is missing for it."
        )
    return chosen, profile, reason


def reason_for_own(spec: Spec, requested: Requested, start: str | None, needs_data: bool) -> str:
    """Why one's own data run with profile own, the only one there is.

    SpecError for another profile or a start, DataError, unless `needs_data` is off, for a folder
    of clips or a checkpoint that is not there.
    """
    if requested not in ("auto", "own") or start is not None:
        option = "--profile" if start is None else "--start"
        raise SpecError(f"{spec.name}: own data have one scale and one start; leave {option} out")
    settings = resolve(spec, "own", spec.variant[0].name)
    missing, weights = [], settings.model.weights
    if not Path(settings.data.root).is_dir():
        way_out = "the folder of clips, data.root; start litevl where the spec's paths begin"
        missing.append((settings.data.root, way_out))
    if not weights_path(weights).exists():
        way_out = fetch_command(weights) or "the checkpoint, model.weights"
        missing.append((str(weights_path(weights)), way_out))
    if not missing:
        return "own clips"
    if needs_data:
        lines = [f"  {place}: {way_out}" for place, way_out in missing]
        raise DataError("\n".join([f"{spec.name}: not found", *lines]))
    return f"own clips; to run it, get {', '.join(place for place, _ in missing)}"


def choose_profile(spec: Spec, requested: Requested) -> tuple[Profile, str]:
    """The profile to run and the reason, as a phrase for the first line printed and the record.

    "auto" is paper where its weights are on this machine and its clips are and were checked, else
    mini. "paper" without them is a DataError that says what is missing, how to get it and where it
    goes; unchecked clips it takes, as a run counts and decodes them itself.
    """
    if requested == "own":
        raise SpecError(f"{spec.name}: profile own is for own data; here are mini and paper")
    if requested == "mini":
        return "mini", "asked for"
    missing = missing_for_paper(spec)
    if requested == "paper":
        if missing:
            lines = [f"  {place}: {way_out}" for place, way_out in missing]
            note = "  --profile mini runs without any of this."
            raise DataError("\n".join([f"{spec.name}, profile paper: not found", *lines, note]))
        return "paper", "asked for"
    if missing:
        return "mini", f"not found for paper: {', '.join(place for place, _ in missing)}"
    from litevl.data.checked import was_found_whole  # numpy; to check or plan a spec needs none

    data = resolve(spec, "paper", spec.variant[0].name).data
    if not was_found_whole(Path(data.root), data.dataset):
        command = f"litevl data check {data.dataset} --root {shlex.quote(data.root)}"
        return "mini", f"{data.root} is there, but not checked and found whole: {command}"
    return "paper", "its clips are checked and its weights present"


def missing_for_paper(spec: Spec) -> list[tuple[str, str]]:
    """(path, way out) for the folder of clips and the checkpoint that the paper profile lacks."""
    settings = resolve(spec, "paper", spec.variant[0].name)
    data, root, weights = settings.data, Path(settings.data.root), settings.model.weights
    missing = []
    folders = [root / name for name in dict.fromkeys((*CLIP_FOLDERS, *MSVD_FOLDERS))]
    if not any(folder.is_dir() and any(folder.iterdir()) for folder in folders):
        files = f"{data.dataset} --root {shlex.quote(data.root)}"
        way_out = f"litevl data fetch {files}; then litevl data check {files}"
        missing.append((data.root, way_out))
    if not weights_path(weights).exists():
        start = start_of(spec)
        by_hand = f"litevl data fetch {start.fetch}" if start else "put BLIP's checkpoint there"
        missing.append((str(weights_path(weights)), fetch_command(weights) or by_hand))
    return missing


def unsourced(spec: Spec) -> list[str]:
    """The dotted keys of the real clips' profile that no entry of [provenance] tells the source of.

    A key is told of by its own entry or by one of a table that holds it. Values that are left out
    need none, nor do the settings of a momentum encoder that is off, nor what changes no number.
    """
    found: dict[str, None] = {}
    for variant in spec.variant:
        resolved = resolve(spec, real_profile(spec), variant.name)
        values = flat(as_dict(resolved))
        for key, value in values.items():
            is_unused = key in MOMENTUM and not resolved.train.momentum_encoder
            is_unused |= key in MAY_CHANGE
            if "." in key and value not in (None, [], {}) and not is_unused:
                found[key] = None
    told = {key.removeprefix("profile.paper.") for key in spec.provenance}
    return [k for k in found if not any(k == t or k.startswith(f"{t}.") for t in told)]


MOMENTUM = ("train.momentum", "train.queue_size", "train.distillation_alpha")
