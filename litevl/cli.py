"""The `litevl` command and what each of its words does. Heavy imports wait until needed."""

import argparse
import contextlib
import errno
import json
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from litevl import __version__
from litevl.cli_data import add_data
from litevl.cli_options import (
    Help,
    add_allow_missing,
    add_assumptions,
    add_needs,
    add_selection,
    arguments_of,
    as_json,
    jobs,
    selected,
)
from litevl.cli_share import add_share
from litevl.cli_use import add_use
from litevl.errors import LiteVLError, RunError, SpecError, printable
from litevl.preemption import REQUEUE, Preempted, preemptible

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
        with preemptible(), writing_to():
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
        epilog="litevl run reproductions/msrvtt.toml --variant full --seed 0",
        allow_abbrev=False,
        formatter_class=Help,
    )
    top.add_argument("--version", action="version", version=f"litevl {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    add = partial(commands.add_parser, allow_abbrev=False, formatter_class=Help)

    sub = add(
        "check",
        help="check a reproduction file, every problem at once",
        epilog="litevl check reproductions/msrvtt.toml",
    )
    sub.add_argument("spec", nargs="?", type=Path, metavar="SPEC")
    sub.add_argument("--schema", action="store_true", help="print the JSON Schema, for editors")
    sub.add_argument("--json", action="store_true", help="print the outcome as JSON")
    sub.set_defaults(command=check)

    sub = add(
        "plan",
        help="list the runs of a spec, what is done of them, and what they cost",
        epilog="litevl plan reproductions/msrvtt.toml --profile paper --device-tflops 989",
    )
    add_selection(sub)
    add_assumptions(sub)
    sub.add_argument(
        "--json", action="store_true",
        help="print a line of JSON for each run, with the command that does this run only",
    )  # fmt: skip
    sub.set_defaults(command=plan)

    sub = add(
        "run",
        help="run what is not done yet, then report",
        epilog="litevl run reproductions/msrvtt.toml --variant full --variant no-scaling --seed 0",
    )
    add_selection(sub)
    sub.add_argument("--rerun", action="store_true", help="run again what is done, too")
    add_allow_missing(sub)
    sub.add_argument(
        "--no-report", action="store_true",
        help="leave the report and its list of runs as they are; for one task of many",
    )  # fmt: skip
    sub.add_argument(
        "--jobs", type=jobs, default=1, metavar="N",
        help="runs side by side, each with its share of the cores; auto is one a core without a "
        "GPU, else one (default: 1)",
    )  # fmt: skip
    sub.set_defaults(command=run)

    sub = add(
        "submit",
        help="hand what is not done yet to a cluster, a task for each run",
        description="Hand what is not done yet to a cluster, a task for each run.",
        epilog="litevl submit reproductions/msrvtt.toml --profile paper --partition gpu "
        "--gpus-per-node 4 --slurm account=vision",
    )
    add_selection(sub)
    add_allow_missing(sub)
    add_needs(sub)
    sub.set_defaults(command=submit)

    add_use(add)
    add_share(add)
    add_data(add)

    sub = add(
        "report",
        help="render reports again from the records alone",
        epilog="litevl report reports --spec msrvtt --profile mini",
    )
    sub.add_argument(
        "output", nargs="?", type=Path, default=Path("reports"), metavar="DIR",
        help="the --output of the runs (default: reports)",
    )  # fmt: skip
    sub.add_argument("--spec", metavar="NAME", help="only this reproduction, by its name")
    sub.add_argument("--profile", choices=("mini", "paper", "own"), help="only this scale")
    sub.set_defaults(command=report)

    sub = add(
        "compare",
        help="set the records of two commits side by side",
        description="Set the records of two commits side by side: scores by paired differences of "
        "the same queries and seeds, with 95 % intervals, and benchmarks by ratios of medians.",
        epilog="litevl compare main/reports reports --fail-if-worse",
    )
    sub.add_argument("before", type=Path, metavar="A", help="the --output folder as it was")
    sub.add_argument("after", type=Path, metavar="B", help="the --output folder as it is now")
    sub.add_argument("--json", action="store_true", help="print JSON instead of Markdown tables")
    sub.add_argument(
        "--fail-if-worse", action="store_true",
        help="return 1 where an interval of B - A lies below zero, or B lacks scores that A has. "
        "By chance one interval in forty lies there, if both sides have the same trained weights. "
        "Intervals are over queries, not over training runs: between two seeds of one commit it "
        "was 67 in 540; runs that differ only in rounding differ like other seeds",
    )  # fmt: skip
    sub.add_argument(
        "--across-machines", action="store_true",
        help="compare benchmarks although they were measured on different machines",
    )  # fmt: skip
    sub.set_defaults(command=compare)
    return top


def check(arguments: argparse.Namespace) -> int:
    """Say that a spec is right, or all that is wrong with it; or print the schema."""
    from litevl.profiles import real_profile, unsourced
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
    which = f"the {real_profile(spec)} profile's value"
    warnings = [f"{key}: no [provenance] for {which}" for key in unsourced(spec)]
    if arguments.json:
        print(json.dumps({"ok": True, "problems": [], "warnings": warnings}, indent=2))
    else:
        num_unknown = sum(target.value is None for target in spec.target)
        unknown = f", {num_unknown} of them unknown" if num_unknown else ""
        counts = f"{len(spec.variant)} variants, {len(spec.claim)} claims"
        print(f"{arguments.spec}: ok ({counts}, {len(spec.target)} targets{unknown})")
        for warning in warnings:
            print(f"  warning: {printable(warning)}")
    return 0


def plan(arguments: argparse.Namespace) -> int:
    """Print the runs, one a line, with what is done of them, and what they cost at BLIP's size.

    Planning needs no data, so asking for paper without them is not a mistake here.
    """
    from litevl.plan import state

    spec, profile, reason, runs = selected(arguments, needs_data=False)
    found, assumed = None, None
    is_full_size = profile != "mini" and runs[0].resolved.model.weights != "mini-blip"
    if is_full_size:
        from litevl import cost

        asked = {name: getattr(arguments, name) for name in ASSUMPTIONS}
        given = {name: value for name, value in asked.items() if value is not None}
        assumed = cost.Assumptions(**given)
        found = cost.estimates(runs, assumed)
    states = [state(entry, arguments.output / "records") for entry in runs]
    if arguments.json:
        head = {"spec": spec.name, "profile": profile, "profile_reason": reason}
        costs = cost.as_json(found, assumed) if found and assumed else {}
        for entry, found_state in zip(runs, states, strict=True):
            row = {**head, **as_json(entry, found_state, arguments)}
            variant = entry.resolved.variant
            print(json.dumps(row | ({"cost": costs[variant]} if costs else {})))
        return 0
    print(printable(f"{spec.name}, profile {profile} ({reason})"))
    width = max(len(entry.id) for entry in runs)
    print(f"  {'run':{width}}  state")
    for entry, found_state in zip(runs, states, strict=True):
        print(f"  {entry.id:{width}}  {found_state}")
    counts = ", ".join(f"{states.count(name)} {name}" for name in ("done", "failed", "missing"))
    print(f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {counts}")
    if found and assumed:
        print(*cost.lines(found, assumed), sep="\n")
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run what the options ask for and is not done yet."""
    selected(arguments)  # a mistake in the spec or an option shows before torch is loaded
    output: Path = arguments.output
    expect_writable(output)
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
            report=not arguments.no_report,
        )


def submit(arguments: argparse.Namespace) -> int:
    """Hand what is not done yet to a scheduler, a task for each run, and say how to follow it."""
    from litevl.cluster import Needs, expect_submitit, submit_left

    expect_submitit()
    spec, profile, reason, runs = selected(arguments)
    output: Path = arguments.output
    expect_writable(output)
    with writing_to(output):
        from litevl.record import write_plan
        from litevl.run import plan_file

        needs = Needs(
            arguments.executor,
            arguments.partition,
            arguments.gpus_per_node,
            arguments.cpus_per_task,
            arguments.timeout_min,
            dict(arguments.slurm),
        )
        asked = arguments.start, arguments.variants, arguments.seeds
        content = plan_file(spec, arguments.spec, runs, *asked)
        write_plan(output / "records" / spec.name, profile, content)
        print(f"{spec.name}, profile {profile} ({reason})")
        submit_left([(run, arguments_of(run, arguments)) for run in runs], needs, output)
    print(f"report, as far as they are done: litevl report {shlex.quote(str(output))}")
    return 0


def expect_writable(output: Path) -> None:
    """Make the folder; RunError where it cannot be made or written."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise disk_error(error, output) from error


def report(arguments: argparse.Namespace) -> int:
    """Render the reports of an output folder again, and print where they are."""
    output: Path = arguments.output
    with writing_to(output):
        from litevl.report.page import render_all

        pages, combined = render_all(output / "records", output, arguments.spec, arguments.profile)
    print(*pages, *combined, sep="\n")
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Print what changed between two folders; 1 if asked, where scores are worse or lost."""
    from litevl.compare import as_json as compared_as_json
    from litevl.compare import as_markdown, compare_folders

    folders = arguments.before, arguments.after
    found = compare_folders(*folders, arguments.across_machines)
    if arguments.json:
        print(json.dumps(compared_as_json(found), indent=2))
    else:
        print(as_markdown(found, (str(folders[0]), str(folders[1]))))
    return int(arguments.fail_if_worse and (found.is_worse or bool(found.lost)))


@contextlib.contextmanager
def writing_to(output: Path | None = None) -> Iterator[None]:
    """Turn a full disk or missing permission into a RunError; other errors are ours and pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*NO_SPACE, *NO_ACCESS):
            raise
        raise disk_error(error, output) from error


def disk_error(error: OSError, output: Path | None) -> RunError:
    """A full disk, or a place that cannot be written, as a message with the way out."""
    path = Path(os.fsdecode(error.filename)) if error.filename else output or Path.cwd()
    is_ours = output is not None and path.absolute().is_relative_to(output.absolute())
    elsewhere = ", or choose another folder with --output" if is_ours else ""
    if error.errno in NO_SPACE:
        what, way_out = "no space left on the disk", f"Free some space{elsewhere}. {CONTINUES}"
    else:
        what, way_out = str(error.strerror), f"Make it a folder you may write to{elsewhere}."
    return RunError(f"{path}: {what}.\n  {way_out}")
