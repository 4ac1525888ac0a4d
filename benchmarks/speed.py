"""Speed and memory of LiteVL beside its peers; `nox -s benchmark` calls this.

    python -m benchmarks.speed [--only NAME ...] [--quick] [--output DIR] [--device cpu]

measures, writes a record for each benchmark into DIR (reports/benchmarks), and renders all that lie
there as tables and plots. --quick takes small sizes, to try that it works, and writes elsewhere.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.encoder import encoder
from benchmarks.galleries import galleries
from benchmarks.harness import ROOT, Measured, quartiles, record_of
from benchmarks.input import inputs
from benchmarks.page import render
from benchmarks.reranking import growth, reranking
from benchmarks.training import training
from benchmarks.worlds import Setting
from litevl.benchmark_record import Contender, Figure, Row, write_benchmark
from litevl.errors import LiteVLError
from litevl.record import hardware

FOLDER = Path("reports") / "benchmarks"
QUICK = "quick"  # below it; git ignores it


@dataclass(frozen=True)
class Benchmark:
    """One of the things to measure, each with a record of its own."""

    title: str
    measure: Callable[[Setting], Measured]
    takes_long: bool = False
    """Left out unless it is asked for by name."""


def reproduction(setting: Setting) -> Measured:
    """The whole of `nox -s reproduce-msrvtt` from nothing, its environment installed already."""
    spec = ROOT / "reproductions" / "msrvtt.toml"
    limits = ["--subset", "16", "--max-steps", "1", "--variant", "full"] if setting.quick else []
    with TemporaryDirectory(prefix="litevl-benchmark-") as folder:
        command = [sys.executable, "-m", "litevl", "run", str(spec), "--profile", "mini"]
        started = time.perf_counter()
        subprocess.run(
            [*command, "--jobs", "auto", "--output", folder, *limits], check=True, cwd=folder
        )
        seconds = time.perf_counter() - started
    contender = Contender(name="ours", seconds=quartiles([seconds]), items=1)
    row = Row(
        name="msrvtt",
        item="reproductions",
        rounds=1,
        conditions={"jobs": "auto", "includes": "drawing the clips"},
        contenders=(contender,),
    )
    figure = Figure(
        name="reproduction-minutes",
        claim="`nox -s reproduce-msrvtt` as a whole, its environment installed",
        unit="min",
        at_most=8.0,
        value=seconds / 60,
    )
    return [row], [figure]


BENCHMARKS = {
    "re-ranking": Benchmark("Re-ranking by the cross-encoder", reranking),
    "encoder": Benchmark("The video encoder, forward", encoder),
    "training": Benchmark("A training step", training),
    "growth": Benchmark("How the cost of re-ranking grows", growth),
    "input": Benchmark("Clips from cache and files", inputs),
    "galleries": Benchmark("Large galleries", galleries),
    "reproduction": Benchmark("A whole reproduction", reproduction, takes_long=True),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for, write the records, render what lies there. Returns 0."""
    arguments = parser().parse_args(argv)
    device = torch.device(arguments.device)
    setting = Setting(device, arguments.quick)
    torch.set_num_threads(arguments.threads)
    folder: Path = arguments.output / QUICK if arguments.quick else arguments.output
    names = arguments.only or [
        name for name, benchmark in BENCHMARKS.items() if not benchmark.takes_long
    ]
    for name in dict.fromkeys(names):
        benchmark, started = BENCHMARKS[name], time.perf_counter()
        print(f"{name} ...", end=" ", flush=True)
        rows, figures = benchmark.measure(setting)
        of_device = name if device.type == "cpu" else f"{name}-{device.type}"
        record = record_of(of_device, benchmark.title, rows, figures, device, arguments.quick)
        try:
            path = write_benchmark(folder, record)
        except LiteVLError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return error.exit_code
        print(f"{time.perf_counter() - started:.0f} s, {path}")
        for figure in figures:
            print(f"  {told(figure)}")
    print(render(folder))
    return 0


def told(figure: Figure) -> str:
    """A figure in a line."""
    target = f">= {figure.at_least:g}" if figure.at_least is not None else f"<= {figure.at_most:g}"
    if figure.value is None:
        return f"not measured  {figure.claim} ({target}): {figure.why_not}"
    outcome = "met" if figure.is_met else "NOT met"
    return f"{outcome:12}  {figure.claim}: {figure.value:.4g} {figure.unit} ({target})"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__.partition("\n")[0],
        epilog="nox -s benchmark -- --only re-ranking",
        allow_abbrev=False,
    )
    top.add_argument(
        "--only", action="append", choices=BENCHMARKS, metavar="NAME",
        help=f"only this, may be repeated: {', '.join(BENCHMARKS)} (the last only when asked for)",
    )  # fmt: skip
    top.add_argument("--quick", action="store_true", help="small sizes; the numbers mean nothing")
    top.add_argument(
        "--output", type=Path, default=FOLDER, metavar="DIR", help=f"(default: {FOLDER})"
    )
    top.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu",
        help="as torch names it (default: the GPU where there is one)",
    )  # fmt: skip
    top.add_argument(
        "--threads", type=int, default=hardware("cpu")["cores"], metavar="N",
        help="of the CPU (default: one for each core)",
    )  # fmt: skip
    return top


if __name__ == "__main__":
    sys.exit(main())
