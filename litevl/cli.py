"""The `litevl` command: check, plan, run, data, report. Heavy imports wait until needed."""

import argparse
import contextlib
import errno
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from litevl import __version__
from litevl.cli_data import add_data
from litevl.errors import LiteVLError, RunError, SpecError
from litevl.preemption import REQUEUE, Preempted, preemptible

if TYPE_CHECKING:
    from litevl.plan import PlannedRun
    from litevl.spec import Profile, Spec

INTERRUPTED = 130  # 128 + SIGINT, what shells expect
CONTINUES = "Finished runs are kept; the same command continues with the rest."
ASSUMPTIONS = ("device_tflops", "fp32_tflops", "utilisation", "text_tokens")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns 0, 1 for a failed run, 2 for a user's mistake, 75 after SIGTERM, 130 for Ctrl-C.
    """
    arguments = parser().parse_args(argv)
    logging.basicConfig(format="%(message)s")  # other packages: warnings only
    logging.getLogger("litevl").setLevel(logging.INFO)
    try:
        with preemptible():
            code: int = arguments.command(arguments)
        sys.stdout.flush()
    except LiteVLError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\nInterrupted. {CONTINUES}", file=sys.stderr)
        return INTERRUPTED
    except Preempted:
        print(f"\nAsked to end (SIGTERM). {CONTINUES}", file=sys.stderr)
        return REQUEUE
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1  # a run may be cut short by this
    return code


def parser() -> argparse.ArgumentParser:
    """The command line: what can be asked for, and the help."""
    top = argparse.ArgumentParser(
        prog="litevl",
        description="Reproduce LiteVL (arXiv 2210.11929): check a spec, run it, report.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"litevl {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    add = partial(commands.add_parser, allow_abbrev=False)

    sub = add("check", help="check a reproduction file, every problem at once")
    sub.add_argument("spec", nargs="?", type=Path, metavar="SPEC")
    sub.add_argument("--schema", action="store_true", help="print the JSON Schema, for editors")
    sub.add_argument("--json", action="store_true", help="print the outcome as JSON")
    sub.set_defaults(command=check)

    sub = add("plan", help="list the runs of a spec, what is done of them, and what they cost")
    add_selection(sub)
    add_assumptions(sub)
    sub.add_argument("--json", action="store_true", help="print the list as JSON")
    sub.set_defaults(command=plan)

    sub = add("run", help="run what is not done yet, then report")
    add_selection(sub)
    sub.add_argument("--rerun", action="store_true", help="run again what is done, too")
    sub.add_argument(
        "--allow-missing",
        action="store_true",
        help="run although clips or questions are missing; the records will say comparable: false",
    )
    sub.add_argument(
        "--jobs", type=jobs, default=1, metavar="N",
        help="runs side by side, each with its share of the cores; auto is one a core without a "
        "GPU, else one (default: 1)",
    )  # fmt: skip
    sub.set_defaults(command=run)

    add_data(add)

    sub = add("report", help="render reports again from the records alone")
    sub.add_argument(
        "output", nargs="?", type=Path, default=Path("reports"), metavar="DIR",
        help="the --output of the runs (default: reports)",
    )  # fmt: skip
    sub.add_argument("--spec", metavar="NAME", help="only this reproduction, by its name")
    sub.add_argument("--profile", choices=("mini", "paper"), help="only this scale")
    sub.set_defaults(command=report)
    return top


def add_selection(sub: argparse.ArgumentParser) -> None:
    """The options that say which runs of a spec are meant; the same for plan and run."""
    sub.add_argument("spec", type=Path, metavar="SPEC", help="reproduction file (.toml)")
    sub.add_argument(
        "--profile", choices=("auto", "mini", "paper"), default="auto",
        help="scale; auto is paper where its clips and weights are present, else mini",
    )  # fmt: skip
    sub.add_argument(
        "--start", metavar="NAME",
        help="paper profile: the weights to start from, one of the spec's [[start]]; its study has "
        "its own name and targets (default: the profile's model.weights)",
    )  # fmt: skip
    sub.add_argument(
        "--variant", action="append", default=[], metavar="NAME", dest="variants",
        help="only this variant; may be repeated",
    )  # fmt: skip
    sub.add_argument(
        "--seed", action="append", default=[], metavar="N", dest="seeds", type=seed,
        help="this seed instead of the profile's; may be repeated",
    )  # fmt: skip
    sub.add_argument(
        "--subset", type=count, metavar="N",
        help="only the first N clips of each split, in the order of the annotation files, with all "
        "their captions or questions; the records will say comparable: false",
    )  # fmt: skip
    sub.add_argument(
        "--max-steps", type=count, metavar="N",
        help="stop training after N steps; the records will say comparable: false",
    )  # fmt: skip
    sub.add_argument(
        "--output", type=Path, default=Path("reports"), metavar="DIR",
        help="folder for records and reports (default: reports)",
    )  # fmt: skip


def add_assumptions(sub: argparse.ArgumentParser) -> None:
    """The options that say what the cost of a plan takes for granted."""
    kinds = {"utilisation": share, "text-tokens": count}
    about = {
        "device-tflops": "peak in bf16 (default: an A100's 312)",
        "fp32-tflops": "peak in fp32 (default: an A100's 19.5)",
        "utilisation": "share of the peak that is reached, 0 to 1 (default: 0.35)",
        "text-tokens": "word pieces that captions and questions are padded to (default: 32)",
    }
    for name, words in about.items():
        kind, help_text = kinds.get(name, positive), f"paper profile's cost: {words}"
        sub.add_argument(f"--{name}", type=kind, metavar="N", help=help_text)


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got '{text}'")
    return number


def share(text: str) -> float:
    """A number above 0 and up to 1."""
    if positive(text) > 1:
        raise argparse.ArgumentTypeError(f"expected a share up to 1, got '{text}'")
    return positive(text)


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got '{text}'")
    return int(text)


def jobs(text: str) -> int | None:
    """A whole number from 1, or None for "auto"."""
    return None if text == "auto" else count(text)


def seed(text: str) -> int:
    """A whole number from 0 that every random generator takes."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2**32-1, got '{text}'")
    return int(text)


def check(arguments: argparse.Namespace) -> int:
    """Say that a spec is right, or all that is wrong with it; or print the schema."""
    from litevl.profiles import unsourced
    from litevl.spec import json_schema, load_spec

    if arguments.schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    if arguments.spec is None:
        raise SpecError("nothing to check: name a SPEC, or ask for --schema")
    try:
        spec = load_spec(arguments.spec)
    except SpecError as error:
        if arguments.json:
            first, *problems = [line.strip() for line in str(error).splitlines()]
            print(json.dumps({"ok": False, "problems": problems or [first]}, indent=2))
        raise
    warnings = [f"{key}: no [provenance] for the paper profile's value" for key in unsourced(spec)]
    if arguments.json:
        print(json.dumps({"ok": True, "problems": [], "warnings": warnings}, indent=2))
    else:
        num_unknown = sum(target.value is None for target in spec.target)
        unknown = f", {num_unknown} of them unknown" if num_unknown else ""
        counts = f"{len(spec.variant)} variants, {len(spec.claim)} claims"
        print(f"{arguments.spec}: ok ({counts}, {len(spec.target)} targets{unknown})")
        for warning in warnings:
            print(f"  warning: {warning}")
    return 0


def selected(
    arguments: argparse.Namespace, needs_data: bool = True
) -> "tuple[Spec, Profile, str, tuple[PlannedRun, ...]]":
    """The spec, the profile and why, and the runs that the options ask for."""
    from litevl.plan import plan as plan_runs
    from litevl.profiles import choose
    from litevl.spec import load_spec

    asked = arguments.profile, arguments.start
    spec, profile, reason = choose(load_spec(arguments.spec), *asked, needs_data)
    limits = arguments.subset, arguments.max_steps
    return (
        spec,
        profile,
        reason,
        plan_runs(spec, profile, arguments.variants, arguments.seeds, *limits),
    )


def plan(arguments: argparse.Namespace) -> int:
    """Print the runs, one a line, with what is done of them; for paper also what they cost.

    Planning needs no data, so asking for paper without them is not a mistake here.
    """
    from litevl.plan import state

    spec, profile, reason, runs = selected(arguments, needs_data=False)
    found, assumed = None, None
    if profile == "paper":
        from litevl import cost

        asked = {name: getattr(arguments, name) for name in ASSUMPTIONS}
        given = {name: value for name, value in asked.items() if value is not None}
        assumed = cost.Assumptions(**given)
        found = cost.estimates(runs, assumed)
    rows = [
        {
            "id": entry.id,
            "variant": entry.resolved.variant,
            "seed": entry.seed,
            "state": state(entry, arguments.output / "records"),
        }
        for entry in runs
    ]
    if arguments.json:
        head = {"spec": spec.name, "profile": profile, "profile_reason": reason}
        limits = {"subset": arguments.subset, "max_steps": arguments.max_steps}
        costs = {"cost": cost.as_json(found, assumed)} if found and assumed else {}
        print(json.dumps({**head, **limits, "runs": rows, **costs}, indent=2))
        return 0
    print(f"{spec.name}, profile {profile} ({reason})")
    width = max(len(entry.id) for entry in runs)
    print(f"  {'run':{width}}  state")
    for row in rows:
        print(f"  {row['id']:{width}}  {row['state']}")
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(name)} {name}" for name in ("done", "failed", "missing"))
    print(f"{len(rows)} run{'s' if len(rows) > 1 else ''}: {counts}")
    if found and assumed:
        print(*cost.lines(found, assumed), sep="\n")
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run what the options ask for and is not done yet."""
    selected(arguments)  # a mistake in the spec or an option shows before torch is loaded
    output: Path = arguments.output
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise disk_error(error, output) from error
    with writing_to(output):
        from litevl.run import execute_plan

        return execute_plan(
            spec_path=arguments.spec,
            profile=arguments.profile,
            variants=arguments.variants,
            seeds=arguments.seeds,
            subset=arguments.subset,
            max_steps=arguments.max_steps,
            output=output,
            rerun=arguments.rerun,
            allow_missing=arguments.allow_missing,
            start=arguments.start,
            jobs=arguments.jobs,
        )


def report(arguments: argparse.Namespace) -> int:
    """Render the reports of an output folder again, and print where they are."""
    output: Path = arguments.output
    with writing_to(output):
        from litevl.report.page import render_all

        pages, combined = render_all(output / "records", output, arguments.spec, arguments.profile)
    print(*pages, *combined, sep="\n")
    return 0


@contextlib.contextmanager
def writing_to(output: Path) -> Iterator[None]:
    """Turn a full disk or missing permission into a RunError; other errors are ours and pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*NO_SPACE, *NO_ACCESS):
            raise
        raise disk_error(error, output) from error


def disk_error(error: OSError, output: Path) -> RunError:
    """A full disk, or a place that cannot be written, as a message with the way out."""
    path = Path(os.fsdecode(error.filename)) if error.filename else output
    is_ours = output.absolute() in (path.absolute(), *path.absolute().parents)
    elsewhere = ", or choose another folder with --output" if is_ours else ""
    if error.errno in NO_SPACE:
        what, way_out = "no space left on the disk", f"Free some space{elsewhere}. {CONTINUES}"
    else:
        what, way_out = str(error.strerror), f"Make it a folder you may write to{elsewhere}."
    return RunError(f"{path}: {what}.\n  {way_out}")
