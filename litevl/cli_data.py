"""`litevl data`: fetch a data set's files, check them, prepare its clips; own data as a spec.

One function adds each command's options, and one runs it. Heavy imports wait until they run.
"""

import argparse
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args

from litevl.cli_options import Help
from litevl.errors import DataError, RunError, SpecError, printable
from litevl.tasks import OWN_TASKS, AnyDataset, Dataset

if TYPE_CHECKING:
    from litevl.data.sources import Sources
    from litevl.spec import Resolved

OWN_WEIGHTS = "blip:model_base_14M"  # what the paper profiles start from


class AddParser(Protocol):
    """What adds a command to the command line."""

    def __call__(self, name: str, *, help: str, epilog: str) -> argparse.ArgumentParser: ...


def add_data(add: AddParser) -> None:
    """Add `litevl data` and its commands."""
    data = add(
        "data",
        help="fetch, check and prepare a data set's files, or begin with your own",
        epilog="litevl data fetch msrvtt",
    )
    commands = data.add_subparsers(required=True, metavar="COMMAND")
    add_command = partial(commands.add_parser, allow_abbrev=False, formatter_class=Help)
    add_fetch(add_command)
    add_check(add_command)
    add_prepare(add_command)
    add_new(add_command)


def add_data_set(sub: argparse.ArgumentParser, names: Any = Dataset) -> None:
    """The options that every command has: which data set, and where its files are."""
    sub.add_argument("name", choices=get_args(names), metavar="NAME", help="the data set")
    sub.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="folder of its files (default: the spec's data.root; data/NAME where no spec is read)",
    )


def root_of(arguments: argparse.Namespace) -> Path:
    """The folder of the data set's files."""
    root: Path | None = arguments.root
    return root or Path("data", arguments.name.replace("-", "_"))


def add_fetch(add: AddParser) -> None:
    """`litevl data fetch`."""
    sub = add(
        "fetch",
        help="download the files of a data set, or a checkpoint of BLIP",
        epilog="litevl data fetch blip:model_base_14M --accept-licence",
    )
    sub.add_argument("name", metavar="NAME", help="a data set, blip:CHECKPOINT or hub:OWNER/NAME")
    sub.add_argument(
        "--root", type=Path, metavar="DIR",
        help="folder for its files (default: data/NAME; data/weights for checkpoints)",
    )  # fmt: skip
    sub.add_argument("--annotations-only", action="store_true", help="leave the clips out")
    sub.add_argument("--clips-from", metavar="PLACE", help="another place to have the clips from")
    sub.add_argument(
        "--accept-licence", action="store_true", help="accept the terms that are shown, unasked"
    )
    sub.add_argument("--json", action="store_true", help="print the outcome as JSON")
    sub.set_defaults(command=fetch)


def fetch(arguments: argparse.Namespace) -> int:
    """Show the terms, fetch what is not there, and say what is left to do by hand."""
    from litevl.data.fetch import fetch as fetch_all
    from litevl.data.sources import BLIP, sources
    from litevl.model.places import WEIGHTS

    if arguments.name.startswith("hub:"):
        return fetch_checkpoint(arguments)
    source = sources(arguments.name)
    is_checkpoint = source.name.startswith(f"{BLIP}:")
    root = arguments.root or WEIGHTS if is_checkpoint else root_of(arguments)
    require_accepted(source, root, arguments.accept_licence)
    outcome = fetch_all(
        source, root, clips_from=arguments.clips_from, annotations_only=arguments.annotations_only
    )
    if arguments.json:
        print(json.dumps({"name": source.name, "root": str(root), **outcome.summary()}, indent=2))
    else:
        print(*outcome.lines(), sep="\n")
    if outcome.problems:
        raise outcome.problem()
    if not (is_checkpoint or arguments.json):
        print(f"Next: litevl data check {source.name} --root {root}")
    return 0


def fetch_checkpoint(arguments: argparse.Namespace) -> int:
    """Fetch a checkpoint from the hub, whose page has its terms."""
    from litevl.data.fetch import Outcome
    from litevl.model.places import WEIGHTS, fetch_from_hub, weights_path

    root = arguments.root or WEIGHTS
    outcome = Outcome(files=list(fetch_from_hub(arguments.name, root)))
    if arguments.json:
        place = str(weights_path(arguments.name, root))
        print(json.dumps({"name": arguments.name, "root": place, **outcome.summary()}, indent=2))
    else:
        print(*outcome.lines(), sep="\n")
    return 0


def require_accepted(source: "Sources", root: Path, is_accepted: bool) -> None:
    """Show the terms, once for each folder, and go on only if they are accepted."""
    from litevl.data.fetch import accept_licence, is_licence_accepted

    if is_licence_accepted(source, root):
        return
    print(source.licence, file=sys.stderr)
    if not is_accepted and not sys.stdin.isatty():
        raise DataError("nobody to ask: pass --accept-licence once you accept the terms above")
    if not is_accepted:
        print("Fetch it under these terms? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise DataError("the terms were not accepted; nothing was fetched")
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        advice = "Choose a folder you may write to with --root."
        raise RunError(f"{root}: {error.strerror}.\n  {advice}") from error
    accept_licence(source, root)


def add_check(add: AddParser) -> None:
    """`litevl data check`."""
    sub = add(
        "check",
        help="count the clips and decode every one, or compare the annotations",
        epilog="litevl data check msrvtt --root /videos/msrvtt --annotations-only",
    )
    add_data_set(sub, AnyDataset)
    sub.add_argument(
        "--annotations-only", action="store_true",
        help="count what the annotation files hold, recognised by content anywhere below DIR",
    )  # fmt: skip
    add_spec(sub)
    add_processes(sub)
    sub.add_argument("--json", action="store_true", help="print the outcome as JSON")
    sub.set_defaults(command=check)


def add_spec(sub: argparse.ArgumentParser) -> None:
    """The option that says which spec's paper profile describes the data set."""
    sub.add_argument(
        "--spec", type=Path, metavar="SPEC",
        help="reproduction file whose profile paper, or own, says what the data set is to hold "
        "(default: reproductions/NAME.toml)",
    )  # fmt: skip


def add_processes(sub: argparse.ArgumentParser) -> None:
    """How many clips are worked on at once, and how long one may take."""
    sub.add_argument(
        "--workers", type=at_least_one, metavar="N",
        help="processes (default: one for each core this one may use)",
    )  # fmt: skip
    sub.add_argument(
        "--timeout", type=at_least_one, default=120, metavar="SECONDS",
        help="a clip that takes longer is broken (default: 120)",
    )  # fmt: skip


def at_least_one(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got '{text}'")
    return int(text)


def settings_of(arguments: argparse.Namespace) -> "Resolved":
    """The spec that describes the data set, at the scale of real clips, with the root asked for."""
    from litevl.profiles import real_profile
    from litevl.spec import load_spec, resolve

    file = arguments.spec or Path("reproductions", f"{arguments.name.replace('-', '_')}.toml")
    if arguments.spec is None and not file.is_file():
        raise SpecError(f"{file}: not found from here; name the file with --spec")
    spec = load_spec(file)
    settings = resolve(spec, real_profile(spec), spec.variant[0].name)
    if settings.data.dataset != arguments.name:
        raise SpecError(f'{file}: describes "{settings.data.dataset}", not "{arguments.name}"')
    root = str(arguments.root or settings.data.root)
    return settings.model_copy(update={"data": settings.data.model_copy(update={"root": root})})


def check(arguments: argparse.Namespace) -> int:
    """Print what is there. Returns 1 where that is not what is expected."""
    if not arguments.annotations_only:
        return check_clips(arguments)
    return check_annotations(arguments)


def check_annotations(arguments: argparse.Namespace) -> int:
    """Print what the annotation files hold. Returns 1 where that is not what was published."""
    from litevl.data.acceptance import acceptance, described, summary
    from litevl.data.recognise import recognise, unused_note

    root = root_of(arguments)
    if arguments.name in OWN_TASKS:
        raise DataError(f"{arguments.name}: no counts were published to compare with")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; name the one of the annotation files with --root")
    found = recognise(root)
    checks = acceptance(arguments.name, found)
    if all(check.found is None for check in checks):
        message = f"{root}: no annotation file of {arguments.name} recognised"
        raise DataError("\n  ".join([message, *filter(None, [unused_note(found, ())])]))
    outcome = {"name": arguments.name, "root": str(root), **summary(checks, found)}
    print(json.dumps(outcome, indent=2) if arguments.json else printable(described(checks, found)))
    return 0 if outcome["ok"] else 1


def check_clips(arguments: argparse.Namespace) -> int:
    """Print which clips are there and decode. Returns 1 where any is missing or broken."""
    settings = settings_of(arguments)
    from litevl.check_data import check_data, described
    from litevl.record import usable_cores

    workers = arguments.workers or usable_cores()
    outcome = check_data(settings.data, settings.frames.decoder, workers, arguments.timeout)
    print(json.dumps(outcome, indent=2) if arguments.json else printable(described(outcome)))
    return 0 if outcome["ok"] else 1


def add_prepare(add: AddParser) -> None:
    """`litevl data prepare`."""
    sub = add(
        "prepare",
        help="convert the clips into a folder of their own, smaller and upright",
        epilog="litevl data prepare msrvtt --to data/msrvtt-256px --short-side 256",
    )
    add_data_set(sub)
    sub.add_argument(
        "--to", type=Path, metavar="DIR", help="folder for the result (default: ROOT-prepared)"
    )
    add_spec(sub)
    sub.add_argument(
        "--short-side", type=at_least_one, default=256, metavar="PX",
        help="shrink clips whose short side is longer (default: 256)",
    )  # fmt: skip
    sub.add_argument(
        "--frames-per-second", type=at_least_one, metavar="N",
        help="(default: each clip's own mean rate, at most 30)",
    )  # fmt: skip
    add_processes(sub)
    sub.add_argument("--json", action="store_true", help="print the outcome as JSON")
    sub.set_defaults(command=prepare)


def prepare(arguments: argparse.Namespace) -> int:
    """Convert every clip. Returns 1 where any is missing or cannot be converted."""
    data = settings_of(arguments).data
    from litevl.data.conversion import Conversion
    from litevl.prepare_data import described, prepare_data
    from litevl.record import usable_cores

    root = Path(data.root)
    outcome = prepare_data(
        data,
        arguments.to or Path(f"{os.path.abspath(root)}-prepared"),  # root may be "."
        Conversion(arguments.short_side, data.first_seconds, arguments.frames_per_second),
        arguments.workers or usable_cores(),
        arguments.timeout,
    )
    print(json.dumps(outcome, indent=2) if arguments.json else printable(described(outcome)))
    return 0 if outcome["ok"] else 1


def add_new(add: AddParser) -> None:
    """`litevl data new`."""
    sub = add(
        "new",
        help="make a spec of your own clips and texts",
        epilog="litevl data new my-clips --clips clips --annotations texts.csv",
    )
    sub.description = (
        "Check a folder of clips and a file of texts, and write a spec that runs LiteVL and its "
        "ablations on them. The file's columns are clip, caption, split or clip, question, answer, "
        "split; docs/own-data.md has it all."
    )
    sub.add_argument("name", metavar="NAME", help="small letters, digits and single hyphens")
    sub.add_argument("--clips", type=Path, required=True, metavar="FOLDER", help="the clips")
    sub.add_argument(
        "--annotations", type=Path, required=True, metavar="FILE", help=".csv or .jsonl"
    )
    sub.add_argument(
        "--output", type=Path, metavar="SPEC",
        help="file to write (default: NAME.toml beside the annotations)",
    )  # fmt: skip
    sub.add_argument(
        "--weights", default=OWN_WEIGHTS, metavar="WEIGHTS",
        help="what to start from, as model.weights of a spec has it; mini-blip is small and knows "
        f"drawn scenes only, to try the way (default: {OWN_WEIGHTS})",
    )  # fmt: skip
    sub.set_defaults(command=new)


def new(arguments: argparse.Namespace) -> int:
    """Write a spec and say what to do with it."""
    from litevl.new_data import described, new_spec

    output = arguments.output or arguments.annotations.parent / f"{arguments.name}.toml"
    made = new_spec(
        arguments.name, arguments.clips, arguments.annotations, output, arguments.weights
    )
    print(printable(described(made)))
    return 0
