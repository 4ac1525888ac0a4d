"""The tables of accounts: what ran, where, at which cost, from which data, weights and settings."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean

import pandas as pd

from litevl.record import Record
from litevl.report.layout import layout_of
from litevl.report.runs import Outcome, Run, Study
from litevl.report.tables import Cell, Table, number, seeds_text, short_commit, value_text
from litevl.schema import Weights
from litevl.spec import Provenance
from litevl.spec_problems import flat

OUTCOME_TONES: dict[Outcome, str] = {"failed": "bad", "damaged": "bad", "interrupted": "warn"}
COMMIT = re.compile("[0-9a-f]{40}")
SHORT = 12  # characters of a hash that the page shows; the CSV files have all of them


def _table(
    stem: str,
    title: str,
    header: tuple[str, ...],
    rows: Sequence[tuple[Cell, ...]],
    note: str = "",
    num_text_columns: int = 1,
) -> Table:
    """A table whose CSV holds the very texts that the page shows."""
    texts = [[" ".join(filter(None, (cell.text, cell.detail))) for cell in row] for row in rows]
    frame = pd.DataFrame(texts, columns=list(header))
    return Table(stem, title, header, tuple(rows), frame, note, num_text_columns=num_text_columns)


def runs_table(study: Study) -> Table:
    """Every planned run and what became of it, failures with their error."""
    rows = []
    for run in study.runs:
        error = run.damage or (run.record.error if run.record else None) or ""
        error = error or "; ".join(run.reasons)
        record = run.record
        epoch = str(record.selection.epoch) if record and record.selection else "-"
        rows.append(
            (
                Cell(run.id),
                Cell(run.outcome, error, OUTCOME_TONES.get(run.outcome, "")),
                Cell(_commit(record) if record else "-"),
                Cell(record.run.started[:16].replace("T", " ") if record else "-"),
                Cell(epoch, record.selection.select if record and record.selection else ""),
                Cell(number(record.timings_seconds.total / 60, 1))
                if record and record.timings_seconds
                else Cell("-"),
            )
        )
    header = ("run", "outcome", "commit", "started", "epoch", "minutes")
    return _table("runs", "Runs", header, rows, num_text_columns=4)


def commands(study: Study) -> list[str]:
    """How to make each run's numbers again: the commands, under the commit they were made from."""
    if study.plan is None:
        return []
    lines, start = [], study.plan.start
    commits: dict[str, list[Run]] = {}
    for run in study.runs:
        code = run.record.code if run.record is not None else None
        commits.setdefault((code.commit if code is not None else None) or "", []).append(run)
    for commit, runs in commits.items():
        lines += [f"git checkout {commit}"] if COMMIT.fullmatch(commit) else []
        for run in runs:
            parts = ["litevl", "run", study.plan.spec_file, "--profile", study.profile]
            parts += ["--start", start.name] if start is not None else []
            parts += ["--variant", run.variant, "--seed", str(run.seed), "--rerun"]
            lines.append(shlex.join(parts))
    return lines


def _commit(record: Record) -> str:
    short = short_commit(record.code.commit, SHORT)
    return f"{short}+changes" if record.code.dirty else short


def code_warnings(study: Study) -> list[str]:
    """What a reader should know about the code and data behind the published runs."""
    records = [run.record for run in study.shown if run.record is not None]
    commits = sorted({record.code.commit or "unknown" for record in records})
    warnings = []
    if len(commits) > 1:
        short = ", ".join(commit[:SHORT] for commit in commits)
        warnings.append(f"The runs come from {len(commits)} different commits: {short}.")
    num_dirty = sum(record.code.dirty for record in records)
    if num_dirty:
        warnings.append(
            f"{num_dirty} of {len(records)} runs used code that was changed after the commit named."
        )
    if any(run.saw_other_data for run in study.runs):
        warnings.append(
            "The runs did not all see the same data; those that differ from most are not compared."
        )
    if len({record.weights.sha256 for record in records if record.weights}) > 1:
        warnings.append("The runs did not all start from the same weights.")
    pairs = dict.fromkeys(
        (claim.better, claim.worse) for claim in (study.plan.claims if study.plan else ())
    )
    for better, worse in pairs:
        ours, theirs = _starting_weights(study, better), _starting_weights(study, worse)
        if ours and theirs and ours != theirs:
            warnings.append(
                f"A claim compares {better} with {worse}, which started from other weights: the "
                "difference may come from these."
            )
    return warnings


def _starting_weights(study: Study, variant: str) -> set[str]:
    """The hashes of the weights that a variant's published runs started from."""
    records = [run.record for run in study.published(variant) if run.record is not None]
    return {record.weights.sha256 for record in records if record.weights is not None}


COST_CELLS: dict[str, tuple[float, int]] = {  # what the page shows, its unit and number of digits
    "parameters": (1e6, 2),
    "flops_per_clip": (1e9, 2),
    "flops_per_pair": (1e9, 3),
    "train_seconds": (60, 1),
    "evaluate_seconds": (60, 1),
    "device_hours": (1, 3),
    "peak_memory_gib": (1, 2),
}


def cost_table(study: Study) -> Table:
    """What a variant costs, averaged over its published runs; times over those of one machine."""
    machines = Counter(_machine(run) for run in study.shown)
    usual = machines.most_common(1)[0][0] if machines else None
    rows, tidy = [], []
    for variant in study.variants:
        runs = study.published(variant.name)
        timed = [run for run in runs if _machine(run) == usual]
        values = _mean_costs(runs) | _mean_times(timed)
        cells = (
            Cell(number(values[key] / unit, digits) if key in values else "-")
            for key, (unit, digits) in COST_CELLS.items()
        )
        rows.append((Cell(variant.title, variant.name), *cells))
        if values:
            seeds = {"seeds": seeds_text(runs), "timed_seeds": seeds_text(timed)}
            tidy.append({"variant": variant.name} | seeds | values)
    header = (
        *("variant", "parameters (M)", "GFLOP per clip", "GFLOP per pair"),
        *("training (min)", "evaluation (min)", "device hours", "peak memory (GiB)"),
    )
    note = (
        "Means over seeds. Per clip: the video encoder once, without the keys and values that "
        "texts look at. Per pair: "
        f"{layout_of(study).pair_words}. Device hours: wall time times "
        "devices, for the whole run. Peak memory: of the process, earlier runs included."
    )
    if len(machines) > 1:
        note += (
            f" Times and device hours leave out {len(study.shown) - machines[usual]} of "
            f"{len(study.shown)} runs: these had another device, processor or number of threads "
            "or processes than most."
        )
    return Table(
        "cost",
        "Cost",
        header,
        tuple(rows),
        pd.DataFrame(tidy),
        note,
    )


def _machine(run: Run) -> tuple[str, str, int, int] | None:
    """What has to be the same for two runs' times to be averaged."""
    if run.record is None:
        return None
    hardware = run.record.hardware
    return hardware.device, hardware.processor, hardware.threads, hardware.processes


def _mean_costs(runs: Sequence[Run]) -> dict[str, float]:
    costs = [run.record.cost for run in runs if run.record and run.record.cost]
    names = ("parameters", "flops_per_clip", "flops_per_pair", "peak_memory_gib")
    return {name: fmean(getattr(cost, name) for cost in costs) for name in names if costs}


def _mean_times(runs: Sequence[Run]) -> dict[str, float]:
    records = [run.record for run in runs if run.record is not None]
    times = [record.timings_seconds for record in records if record.timings_seconds]
    if not times:
        return {}
    return {
        "device_hours": fmean(record.cost.device_hours for record in records if record.cost),
        "train_seconds": fmean(time.train for time in times),
        "evaluate_seconds": fmean(time.evaluate for time in times),
    }


def estimate_table(study: Study) -> Table:
    """What whole runs should cost, as estimated when they were planned."""
    found = study.plan.estimates if study.plan is not None else ()
    titles = {variant.name: variant.title for variant in study.variants}
    rows = [
        (
            Cell(titles.get(entry.variant, entry.variant), entry.variant),
            Cell(number(entry.parameters / 1e6, 2)),
            Cell(number(entry.flops_per_clip / 1e9, 2)),
            Cell(number(entry.flops_per_pair / 1e9, 3)),
            Cell(number(entry.flops_per_step / 1e12, 1)),
            Cell(number(entry.train_flops / 1e15, 1)),
            Cell(number(entry.evaluate_flops / 1e15, 1)),
            Cell(number(entry.device_hours, 2)),
            Cell(str(entry.num_runs)),
        )
        for entry in found
    ]
    hours = sum(entry.num_runs * entry.device_hours for entry in found)
    assumed = study.plan.assumptions if study.plan is not None else {}
    return _table(
        "estimate",
        "Estimated cost",
        (
            *("variant", "parameters (M)", "GFLOP per clip", "GFLOP per pair", "TFLOP per step"),
            *("training (PFLOP)", "evaluation (PFLOP)", "device hours", "runs"),
        ),
        rows,
        f"{number(hours)} device hours in all, for whole runs from BLIP's ViT-B/16. Counted on the "
        "model's operations, a backward pass as two forward ones; data loading is left out. "
        "Assumed: " + ", ".join(f"{name} {value:g}" for name, value in assumed.items()) + ".",
    )


def data_table(study: Study) -> Table:
    """Clips expected, found and broken, and the texts used, for each data set that was seen."""
    counts = layout_of(study).counts
    seen = {
        run.record.data.fingerprint: run.record.data
        for run in study.runs
        if run.record is not None and run.record.data is not None
    }
    rows = [
        (
            Cell(f"{data.dataset}: {name}", f"fingerprint {fingerprint[:SHORT]}"),
            *(Cell(str(n)) for n in (split.expected, split.found, split.broken)),
            *(Cell("-" if (n := count(split)) is None else str(n)) for _, count in counts),
        )
        for fingerprint, data in seen.items()
        for name, split in data.splits.items()
    ]
    notes = dict.fromkeys(note for data in seen.values() for note in data.notes)
    return _table(
        "data",
        "Data",
        ("split", "clips expected", "found", "broken", *(name for name, _ in counts)),
        rows,
        " ".join(note if note.endswith(".") else f"{note}." for note in notes),
    )


def weights_table(study: Study) -> Table:
    """Where each variant's weights came from and what became of every tensor."""
    rows, tidy = [], []
    for variant in study.variants:
        records = [run.record for run in study.runs if run.variant == variant.name and run.record]
        found = next((record.weights for record in records if record.weights is not None), None)
        if found is None:
            continue
        rows.append(
            (
                Cell(variant.name),
                Cell(found.source, _origin(found)),
                Cell(str(found.loaded), ". ".join(found.resized)),
                Cell(str(len(found.new_by_design)), _kinds(found.new_by_design)),
                Cell(str(len(found.fresh)), _kinds(found.fresh)),
                Cell(str(len(found.dropped_by_design)), _kinds(found.dropped_by_design)),
            )
        )
        line = {"variant": variant.name, "source": found.source, "sha256": found.sha256}
        line |= {"loaded": str(found.loaded), "new_by_design": " ".join(found.new_by_design)}
        line |= {"fresh": " ".join(found.fresh), "resized": "; ".join(found.resized)}
        line |= {"dropped_by_design": " ".join(found.dropped_by_design)}
        line |= {"layout": found.layout or "", "revision": found.revision or ""}
        tidy.append(line | {"notes": "; ".join(found.notes)})
    return Table(
        "weights",
        "Weights",
        ("variant", "source", "loaded", "new by design", "fresh", "dropped by design"),
        tuple(rows),
        pd.DataFrame(tidy),
        "Tensors. Every one is accounted for: loaded, new because BLIP has no such part, fresh "
        "because the checkpoint lacks it and the spec lets it start at random, or dropped because "
        "the model has none. The CSV file names them all.",
        num_text_columns=2,
    )


def _origin(weights: Weights) -> str:
    """What a reader should know of a checkpoint besides its name."""
    parts = [f"sha256 {weights.sha256[:SHORT]}"]
    if weights.layout in ("blip", "transformers"):
        parts.append(f"in the layout of {weights.layout}")
    if weights.revision:
        parts.append(f"revision {weights.revision[:SHORT]}")
    return ", ".join(parts) + "".join(f". {note}" for note in weights.notes)


def _kinds(names: Iterable[str]) -> str:
    """Tensor names with their numbers starred, each pattern once, the first three of them."""
    starred = (".".join("*" if p.isdigit() else p for p in name.split(".")) for name in names)
    patterns = list(dict.fromkeys(starred))
    more = f" and {len(patterns) - 3} more kinds" if len(patterns) > 3 else ""
    return ", ".join(patterns[:3]) + more


def settings_table(study: Study) -> Table:
    """The reference variant's settings, each with where its value comes from."""
    runs = [run for run in study.runs if run.record is not None]
    shown = next((run for run in runs if run.variant == study.reference), runs[0] if runs else None)
    values = flat(shown.record.spec) if shown is not None and shown.record is not None else {}
    known = study.plan.provenance if study.plan is not None else {}
    rows = []
    for key in dict.fromkeys([*values, *known]):
        is_table = any(longer.startswith(f"{key}.") for longer in values)
        if is_table or key in ("name", "title", "profile", "variant"):
            continue
        found = _provenance(key, known)
        value = value_text(values[key]) if key in values else ""
        source = Cell(found.source, tone=SOURCE_TONES[found.source]) if found else Cell("-")
        rows.append((Cell(key), Cell(value), source, Cell(found.note if found else "")))
    return _table(
        "settings",
        f"Settings of {shown.variant if shown else study.reference}, and where they come from",
        ("setting", "value", "source", "note"),
        rows,
        "paper: read in the paper. secondary: quoted by the source named. reconstructed: ours, "
        "with the reason. A note on a whole table holds for each of its keys.",
        num_text_columns=4,
    )


SOURCE_TONES = {"paper": "good", "secondary": "", "reconstructed": "mild"}


def _provenance(key: str, known: dict[str, Provenance]) -> Provenance | None:
    """The provenance of a dotted key, or else of the nearest table that holds it."""
    while key and key not in known:
        key = key.rpartition(".")[0]
    return known.get(key)


def machines_table(study: Study) -> Table:
    """Each machine and set of package versions, with the runs made there."""
    made: dict[tuple[Cell, ...], list[Run]] = {}
    for run in study.runs:
        if run.record is None:
            continue
        machine, record = run.record.hardware, run.record
        packages = " ".join(f"{name} {version}" for name, version in record.packages.items())
        cells = (
            Cell(machine.device, machine.processor),
            Cell(f"{machine.cores} ({machine.threads})"),
            Cell(number(machine.memory_gib)),
            Cell(machine.platform, f"Python {machine.python}"),
            Cell(f"litevl {record.code.version}", packages),
            Cell(record.code.commit or "unknown", "with changes" if record.code.dirty else ""),
        )
        made.setdefault(cells, []).append(run)
    rows = [(Cell(f"{len(runs)}"), *cells) for cells, runs in made.items()]
    return _table(
        "machines",
        "Machines and code",
        ("runs", "device", "cores (threads)", "memory (GiB)", "system", "packages", "commit"),
        rows,
        num_text_columns=7,
    )
