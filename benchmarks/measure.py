"""One study of the regression check: trained, evaluated, and read off as named numbers.

    python -m benchmarks.measure STUDY --to FILE [options]

does one, with another seed, other arithmetic or a fault if asked, and writes it as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, TypeVar
from unittest import mock

import torch
from pydantic import Field

import litevl.run
from benchmarks.faults import FAULTS
from litevl.engine.distributed import ALONE
from litevl.engine.precision import repeatable
from litevl.errors import LiteVLError
from litevl.model.weights import load_blip
from litevl.plan import planned
from litevl.prepare import prepare
from litevl.run import train_and_score
from litevl.spec import (
    Count,
    CountOrZero,
    Name,
    Positive,
    Resolved,
    Table,
    Text,
    as_dict,
    load_spec,
    resolve,
)
from litevl.spec_problems import merged, nested

ROOT = Path(__file__).parents[1]
CHECK_FILE = Path(__file__).with_name("regression.toml")
DEVICE = torch.device("cpu")  # the same numbers bit for bit; no GPU promises that

COUNTS = ("found", "captions", "questions", "outside_list")  # of each split

Settings = dict[str, Any]  # dotted key -> value
AnyModule = TypeVar("AnyModule", bound=torch.nn.Module)


class Arithmetic(Table):
    """Another way to round: what another machine would do to the same seed."""

    name: Text
    threads: Count = 1
    noise_seed: CountOrZero | None = None
    """Moves the starting weights by `Spread.noise`."""
    environment: dict[str, str] = Field(default_factory=dict)


class Spread(Table):
    """How far numbers may move for reasons that are nobody's fault; see `benchmarks.golden`."""

    seeds: Annotated[tuple[CountOrZero, ...], Field(min_length=1, strict=False)]
    noise: Positive
    arithmetic: Annotated[tuple[Arithmetic, ...], Field(min_length=1, strict=False)]


class Study(Table):
    """A reproduction made small enough to be trained in a minute."""

    name: Name
    spec: Text
    steps: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)]
    """Training losses are compared after these; multiples of LOG_EVERY_STEPS, or the last."""
    outcomes: Annotated[tuple[Text, ...], Field(min_length=1, strict=False)]
    """Metrics of the test split, as records name them."""
    set: Settings


class Check(Table):
    """regression.toml."""

    seed: CountOrZero
    set: Settings
    spread: Spread
    study: Annotated[tuple[Study, ...], Field(min_length=1, strict=False)]


@dataclass(frozen=True)
class Measured:
    """What came out of one study."""

    values: dict[str, float]  # by name, without the study's
    num_queries: dict[str, int]  # behind each percentage
    seconds: dict[str, float]  # of each phase


def load_check(path: Path = CHECK_FILE) -> Check:
    """The check's settings; pydantic's ValidationError lists what is wrong with them."""
    return Check.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))


def settings_of(study: Study, check: Check) -> Resolved:
    """The reproduction's "full" variant under its mini profile, with the check's keys put in.

    Validated whole, like any spec; paths of the check are relative to the repository.
    """
    spec = load_spec(ROOT / study.spec)
    tables = as_dict(resolve(spec, "mini", "full"))
    for changes in (check.set, study.set):
        tables = merged(tables, nested(changes))
    root = {"data": {"root": str(ROOT / tables["data"]["root"])}}
    return Resolved.model_validate(merged(tables, root))


def measure(study: Study, check: Check, seed: int, noise_seed: int | None = None) -> Measured:
    """Train and evaluate a study on the CPU, as `litevl run` would, and keep nothing but numbers.

    The mini world is drawn on the first call and found again later. Raises LiteVLError.
    """
    started = time.perf_counter()
    settings = settings_of(study, check)
    data = prepare(settings, None, False)
    run = planned(settings, seed, None, None)
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="litevl-regression-"))
        stack.enter_context(repeatable(DEVICE))
        if noise_seed is not None:
            stack.enter_context(nudged_weights(check.spread.noise, noise_seed))
        measured, arrays, _ = train_and_score(run, data, ALONE, Path(folder))
    seconds = {"prepare": data.seconds, **measured["timings_seconds"]}
    seconds["total"] = time.perf_counter() - started
    values = named_values(study, measured, arrays)
    return Measured(values, num_queries(study, measured), seconds)


def named_values(
    study: Study, measured: Mapping[str, Any], arrays: Mapping[str, Any]
) -> dict[str, float]:
    """What is compared, by name; a metric or step that is not there is left out, and missed later.

    measured, arrays: as `litevl.run.train_and_score` returns them.
    """
    curves, found = measured["curves"], measured["metrics"]["test"]
    values = {
        f"train/{name}@{point['step']}": point[name]
        for point in curves["train"]
        if point["step"] in study.steps
        for name in ("loss", "vtc", "vtm")
        if name in point
    }
    values["train/steps"] = curves["train"][-1]["step"]
    for split, counts in measured["data"]["splits"].items():
        values |= {f"{split}/{name}": counts[name] for name in COUNTS if name in counts}
    for point in curves["validation"][-1:]:
        values |= {f"validation/{name}": value for name, value in point.items() if name != "step"}
    values |= {f"test/{name}": found[name]["value"] for name in study.outcomes if name in found}
    top = arrays["t2v_top_scores" if "t2v_top_scores" in arrays else "top_scores"]
    values["test/top_score"] = top[:, 0].mean()
    scales = torch.tensor(measured["temporal_scale"] or [0.0])
    values["temporal_scale/spread"] = (scales - 1).abs().mean().item()
    return {name: float(value) for name, value in values.items()}


def num_queries(study: Study, measured: Mapping[str, Any]) -> dict[str, int]:
    """How many queries or questions are behind each percentage; ranks are not percentages.

    The validation curve has no such number: its clips are taken, never more than the queries.
    """
    in_test = measured["metrics"]["test"]
    numbers = {
        f"test/{name}": in_test[name]["n"]
        for name in study.outcomes
        if name in in_test and not name.endswith(("/MdR", "/MnR"))
    }
    num_clips = measured["data"]["splits"]["validation"]["found"]
    for point in measured["curves"]["validation"][-1:]:
        numbers |= {f"validation/{name}": num_clips for name in point if name != "step"}
    return numbers


@contextmanager
def nudged_weights(relative: float, seed: int) -> Iterator[None]:
    """Multiply every weight a run starts from by 1 + relative * noise, drawn by `seed`."""

    def load_nudged(*args: Any, **options: Any) -> Any:
        model, report = load_blip(*args, **options)
        return nudged(model, relative, seed), report

    with mock.patch.object(litevl.run, "load_blip", load_nudged):
        yield


def nudged(model: AnyModule, relative: float, seed: int) -> AnyModule:
    """The model, each of its weights multiplied by 1 + relative * noise in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + relative * torch.randn(parameter.shape, generator=generator))
    return model


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one study and write what came out as JSON; 1 where it stops with an error."""
    check = load_check()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measure", allow_abbrev=False)
    parser.add_argument("study", choices=[study.name for study in check.study])
    parser.add_argument("--to", type=Path, required=True, metavar="FILE")
    parser.add_argument("--seed", type=int, default=check.seed)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--noise-seed", type=int)
    parser.add_argument("--fault", choices=[fault.name for fault in FAULTS])
    chosen = parser.parse_args(argv)
    torch.set_num_threads(chosen.threads)
    study = next(study for study in check.study if study.name == chosen.study)
    try:
        with ExitStack() as stack:
            for fault in FAULTS:
                if fault.name == chosen.fault:
                    stack.enter_context(fault.plant())
            measured = measure(study, check, chosen.seed, chosen.noise_seed)
    except LiteVLError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    chosen.to.write_text(json.dumps(vars(measured)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
