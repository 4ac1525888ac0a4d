"""Fifty times SIGKILL in the middle of a small run, and the same command again until it is done.

    python -m benchmarks.kills [--kills N] [--seed S]

After every kill nothing half-written may stand under a final name and no process may be left; what
comes out in the end has to equal an unbroken run's to the last bit. Prints which part of the run
each kill hit, and exits with 1 where anything is wrong. Linux only: it looks into /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import select
import signal
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

# torch is imported by functions: the processes that draw and decode import this file too.

SPEC = Path(__file__).with_name("small.toml")
NUM_CLIPS = 36
# Each part of a run with the function that does it, by the name under which it is looked up.
PARTS = {
    "drawing": "litevl.data.mini.make_world",
    "decoding": "litevl.data.dataset._build",
    "training": "litevl.run.train",
    "checkpoint": "litevl.engine.train.write_checkpoint",
    "model": "litevl.run.save_model",
    "evaluation": "litevl.measure_retrieval.score_run",
    "record": "litevl.run.write_record",
    "report": "litevl.report.page.render_report",
}
# Each broken run is hit in these parts, in this order, and then finished.
ROUND = (
    "drawing", "decoding", "decoding", "training", "checkpoint", "training", "checkpoint",
    "model", "evaluation", "record", "report",
)  # fmt: skip
ENDS = {".png": b"IEND", ".html": b"</html>"}
LOOK_SECONDS = 0.002
LEFT_SECONDS = 20.0  # for the children of a killed process to notice
EXIT_SECONDS = 1200.0


@dataclass
class Command:
    """One `litevl run`: what it was busy with, as it went through the parts above.

    Its clock is the work it has done, processor time of its processes: how fast the machine is just
    now does not matter.
    """

    process: int
    now: float = 0.0  # seconds of work
    begun: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    open: list[tuple[str, float]] = field(default_factory=list)
    exit_code: int = 0

    def note(self, line: str) -> None:
        """Take in a line "+part" or "-part"."""
        part = line[1:]
        if line[0] == "+":
            self.begun[part] += 1
            self.open.append((part, self.now))
            return
        self.seconds.setdefault(part, []).append(self.now - self.open.pop()[1])

    def look(self) -> None:
        """Read the clock."""
        with contextlib.suppress(OSError):  # one of them has just ended
            children = Path(f"/proc/{self.process}/task/{self.process}/children").read_text()
            processes = [self.process, *map(int, children.split())]
            self.now = max(self.now, sum(map(processor_seconds, processes)))

    @property
    def part(self) -> str:
        """The innermost part it is in."""
        return self.open[-1][0] if self.open else "between"


def main() -> int:
    """Run once unbroken, then broken off until there were enough kills; 1 where it differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    preload()
    rng, hits, problems = random.Random(chosen.seed), Counter[str](), list[str]()
    with TemporaryDirectory(prefix="litevl-kills-") as temporary:
        whole = Path(temporary, "whole")
        unbroken = command(whole, never)
        if unbroken.exit_code:
            print(f"the unbroken run failed: {(whole / 'log.txt').read_text()}", file=sys.stderr)
            return 1
        wanted = outcome(whole)
        for part, seconds in unbroken.seconds.items():
            print(f"{part:12} {len(seconds):4} times, {sum(seconds):7.2f} s", flush=True)
        for number in count(1):
            if sum(hits.values()) >= chosen.kills:
                break
            print(f"run {number}:", end=" ", flush=True)
            folder = Path(temporary, f"broken-{number}")
            found = broken_off(folder, unbroken, rng, chosen.kills, hits)
            if not found:
                found = half_written(folder) + leftovers(folder)
                found += differences(wanted, outcome(folder))
            print("finished,", *(found or ["equal to the last bit"]), flush=True)
            problems += [f"run {number}: {what}" for what in found]
    print("kills:", ", ".join(f"{part} {hits[part]}" for part in (*PARTS, "between")))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def broken_off(
    folder: Path, unbroken: Command, rng: random.Random, most_kills: int, hits: Counter[str]
) -> list[str]:
    """One run, killed in each part of a ROUND, then finished; returns what was wrong on the way.

    hits: which parts kills hit so far; these are added.
    """
    problems = []
    for part in ROUND:
        if sum(hits.values()) == most_kills:
            break
        done = command(folder, moment(part, unbroken, rng))
        problems += [f"{what}, after a kill in {done.part}" for what in half_written(folder)]
        if done.exit_code != -signal.SIGKILL:
            print(f"({part} missed)", end=" ", flush=True)
            break  # it is finished
        hits[done.part] += 1
        print(done.part, end=", ", flush=True)
    done = command(folder, never)
    return problems + ([f"exit code {done.exit_code}"] if done.exit_code else [])


def processor_seconds(process: int) -> float:
    """What a process has used so far, by the clock that Linux keeps for it."""
    return time.clock_gettime(~process << 3 | 2)


Moment = Callable[[Command], bool]


def moment(part: str, unbroken: Command, rng: random.Random) -> Moment:
    """When to kill: somewhere in a part, all of it as likely.

    Of what is done several times, one of the first is hit, and of training its first half: a run
    that is continued has less of both. A part that ends too early is followed by the kill at once.
    """
    durations = unbroken.seconds[part]
    which = rng.randrange(max(1, len(durations) // 5))
    delay = rng.uniform(0, durations[which] * (0.5 if part == "training" else 1))

    def is_now(running: Command) -> bool:
        if running.begun[part] <= which:
            return False
        begun = next((at for name, at in running.open if name == part), running.now - delay)
        return running.now >= begun + delay

    return is_now


def never(_running: Command) -> bool:
    """Not at all."""
    return False


def command(folder: Path, is_now: Moment) -> Command:
    """`litevl run` in the folder, killed when it is time; its children end by themselves."""
    folder.mkdir(exist_ok=True)
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        run_and_exit(folder, theirs)
    os.close(theirs)
    running, rest, is_killed = Command(child), b"", False
    deadline = time.monotonic() + EXIT_SECONDS
    with os.fdopen(ours, "rb", buffering=0) as pipe:
        while True:
            if select.select([pipe], [], [], LOOK_SECONDS)[0]:
                running.look()
                lines = os.read(pipe.fileno(), 1 << 16)
                if not lines:
                    break
                *whole, rest = (rest + lines).split(b"\n")
                for line in whole:
                    running.note(line.decode())
            running.look()
            if not is_killed and (is_now(running) or time.monotonic() > deadline):
                os.kill(child, signal.SIGKILL)
                is_killed = True
    running.exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    expect_alone(child)
    return running


def preload() -> None:
    """Import what a run needs, once for all of them."""
    for name in ("litevl.run", "litevl.cli", "litevl.report.page"):
        importlib.import_module(name)


def run_and_exit(folder: Path, pipe: int) -> None:
    """Life of a process that is forked off: the command, its parts told to the pipe."""
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.set_inheritable(pipe, False)
        from litevl.cli import main as litevl

        with ExitStack() as stack:
            # One process that draws and decodes is as good as two, and starts sooner.
            stack.enter_context(mock.patch("litevl.prepare.usable_cores", return_value=1))
            for part, target in PARTS.items():
                stack.enter_context(told(part, target, pipe))
            arguments = ["run", str(SPEC), "--profile", "mini", "--variant", "full"]
            code = litevl([*arguments, "--output", "out"])
    finally:
        os._exit(code)


@contextlib.contextmanager
def told(part: str, target: str, pipe: int) -> Iterator[None]:
    """Say when a function begins and when it has ended."""
    module, _, name = target.rpartition(".")
    original = getattr(importlib.import_module(module), name)

    def telling(*arguments: Any, **options: Any) -> Any:
        os.write(pipe, f"+{part}\n".encode())
        try:
            return original(*arguments, **options)
        finally:
            os.write(pipe, f"-{part}\n".encode())

    with mock.patch(target, telling):
        yield


def expect_alone(session: int) -> None:
    """Raise RuntimeError where processes of a session are still there after LEFT_SECONDS."""
    deadline = time.monotonic() + LEFT_SECONDS
    while left := members(session):
        if time.monotonic() > deadline:
            for process in left:
                os.kill(process, signal.SIGKILL)
            raise RuntimeError(f"processes left behind {LEFT_SECONDS:.0f} s after the kill: {left}")
        time.sleep(0.05)


def members(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(int(folder.name))
    return found


# What is there.


def half_written(folder: Path) -> list[str]:
    """Every file under a final name that cannot be read whole, and every record without arrays."""
    problems = []
    for path in finals(folder):
        try:
            read_whole(path)
        except Exception as error:  # whatever a reader makes of half a file
            problems.append(f"{path.relative_to(folder)}: {error.__class__.__name__}: {error}")
    num_clips = len(list(folder.glob("data/videos/*.mp4")))
    if (folder / "data" / "world.json").exists() and num_clips != NUM_CLIPS:
        problems.append(f"data: {num_clips} clips in a world that is said to be whole")
    return problems


def finals(folder: Path) -> Iterator[Path]:
    """Files that are not below a temporary name."""
    for path in folder.rglob("*"):
        names = path.relative_to(folder).parts
        if path.is_file() and not any(is_temporary(name) for name in names):
            yield path


def is_temporary(name: str) -> bool:
    """Whether a file or folder has the name that it has until it is whole."""
    return name.startswith(".") and name.endswith(".tmp")


def read_whole(path: Path) -> None:
    """Read a file with what reads it in use; raises where it is not whole."""
    import torch
    from safetensors.numpy import load_file

    from litevl.engine.checkpoint import read_checkpoint
    from litevl.record import read_arrays, read_plan, read_record

    if path.name.endswith(".plan.json"):
        read_plan(path)
    elif path.parent.parent.name == "records" and path.suffix == ".json":
        if read_record(path).status == "complete":
            read_arrays(path)
    elif path.suffix == ".json" or path.name == ".places":
        json.loads(path.read_text(encoding="utf-8"))
        frames = path.with_name("frames.u8")
        if path.name == ".places" and not frames.is_file():
            raise FileNotFoundError(frames)
    elif path.suffix == ".npz":
        if zipfile.ZipFile(path).testzip() is not None:
            raise ValueError("wrong checksum")
    elif path.suffix == ".pt":
        aside = path.with_name("alone") / path.name  # no generation before, which would hide damage
        aside.parent.mkdir(exist_ok=True)
        os.link(path, aside)
        read_checkpoint(aside, torch.device("cpu"))
        aside.unlink()
        aside.parent.rmdir()
    elif path.suffix == ".safetensors":
        load_file(path)
    elif path.suffix in ENDS and ENDS[path.suffix] not in path.read_bytes()[-12:]:
        raise ValueError("cut off")


def leftovers(folder: Path) -> list[str]:
    """What a finished run should have cleared away."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if is_temporary(path.name) or path.suffix == ".pt"
    ]


def outcome(folder: Path) -> dict[str, Any]:
    """What has to be the same to the last bit: metrics, curves, arrays, strips, weights."""
    from litevl.record import read_arrays, read_record, read_strips

    (path,) = (
        path for path in (folder / "out/records/small").glob("*.json") if "plan" not in path.name
    )
    record = read_record(path).model_dump(mode="json")
    kept: dict[str, Any] = {
        name: json.dumps(record[name], sort_keys=True)
        for name in ("status", "data", "metrics", "curves", "selection", "temporal_scale")
    }
    for kind, arrays in (("array", read_arrays(path)), ("strip", read_strips(path) or {})):
        kept |= {f"{kind} {name}": value.tobytes() for name, value in arrays.items()}
    (weights,) = folder.glob("out/runs/*/model/model.safetensors")
    return kept | {"model": weights.read_bytes()}


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Names of what is not the same."""
    names = [*wanted, *(name for name in found if name not in wanted)]
    return [f"{name} differs" for name in names if wanted.get(name) != found.get(name)]


if __name__ == "__main__":
    sys.exit(main())
