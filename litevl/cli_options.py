"""The options that commands share: which runs of a spec are meant, and what each needs."""

import argparse
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litevl.plan import PlannedRun
    from litevl.spec import Profile, Spec


class Help(argparse.HelpFormatter):
    """Fills paragraphs, but leaves a command's example in one line: it is there to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if re.match("litevl [a-z]", text):  # not the version
            return f"example:\n  {text}"
        return super()._fill_text(text, width, indent)


def add_selection(sub: argparse.ArgumentParser) -> None:
    """The options that say which runs of a spec are meant; the same for plan and run."""
    sub.add_argument("spec", type=Path, metavar="SPEC", help="reproduction file (.toml)")
    sub.add_argument(
        "--profile", choices=("auto", "mini", "paper", "own"), default="auto",
        help="scale; auto is paper where its clips and weights are present, else mini; own data "
        "have one scale, own",
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
        "their captions, or their first five questions; the records will say comparable: false",
    )  # fmt: skip
    sub.add_argument(
        "--max-steps", type=count, metavar="N",
        help="stop training after N steps; the records will say comparable: false",
    )  # fmt: skip
    sub.add_argument(
        "--output", type=Path, default=Path("reports"), metavar="DIR",
        help="folder for records and reports (default: reports)",
    )  # fmt: skip


def add_allow_missing(sub: argparse.ArgumentParser) -> None:
    """The option to go on without clips; the same for run and submit."""
    sub.add_argument(
        "--allow-missing",
        action="store_true",
        help="run although clips or questions are missing; the records will say comparable: false",
    )


def add_needs(sub: argparse.ArgumentParser) -> None:
    """The options of `litevl submit` that say what each run needs of the cluster."""
    sub.add_argument(
        "--executor", choices=("slurm", "local"), default="slurm",
        help="slurm, or this machine: all runs at once, to try it out (default: slurm)",
    )  # fmt: skip
    sub.add_argument("--partition", metavar="NAME", help="where Slurm is to look for nodes")
    sub.add_argument(
        "--gpus-per-node", type=seed, default=1, metavar="N",
        help="GPUs for each run, on one node; several are trained on through torchrun (default: 1)",
    )  # fmt: skip
    sub.add_argument(
        "--cpus-per-task", type=count, default=8, metavar="N",
        help="cores for each run (default: 8)",
    )  # fmt: skip
    sub.add_argument(
        "--timeout-min", type=count, default=24 * 60, metavar="N",
        help="minutes until a run is stopped and queued again, to go on where it was "
        "(default: 1440)",
    )  # fmt: skip
    sub.add_argument(
        "--slurm", action="append", default=[], metavar="KEY=VALUE", type=key_value,
        help="any other option of sbatch, such as account=vision or qos=low; may be repeated",
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


def as_json(run: "PlannedRun", found_state: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a scheduler's script has to know about a run."""
    command = ["litevl", *arguments_of(run, arguments)]
    return {
        "id": run.id,
        "variant": run.resolved.variant,
        "seed": run.seed,
        "subset": run.subset,
        "max_steps": run.max_steps,
        "state": found_state,
        "command": shlex.join(command),
    }


def arguments_of(run: "PlannedRun", asked: argparse.Namespace) -> list[str]:
    """The arguments of `litevl` that do this run only, and leave the report to another command."""
    only = {
        "--profile": run.resolved.profile,
        "--start": asked.start,
        "--variant": run.resolved.variant,
        "--seed": run.seed,
        "--subset": run.subset,
        "--max-steps": run.max_steps,
        "--output": asked.output,
    }
    options = [str(part) for pair in only.items() if pair[1] is not None for part in pair]
    options += ["--allow-missing"] if getattr(asked, "allow_missing", False) else []
    return ["run", str(asked.spec), *options, "--no-report"]


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


def key_value(text: str) -> tuple[str, str]:
    """Two words with "=" between them."""
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got '{text}'")
    return key.removeprefix("--").replace("-", "_"), value


def jobs(text: str) -> int | None:
    """A whole number from 1, or None for "auto"."""
    return None if text == "auto" else count(text)


def seed(text: str) -> int:
    """A whole number from 0 that every random generator takes."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2**32-1, got '{text}'")
    return int(text)
