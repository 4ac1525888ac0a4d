"""`litevl push` and `export`: a trained model for others, and for other programs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def add_share(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the two commands. add: makes a command's parser."""
    sub = add(
        "push",
        help="put a trained model on the hub, with a model card",
        description="Put a trained model on the hub in one commit: weights, configuration, "
        "vocabulary, a model card, and the run's record, from which the card's numbers are; it "
        "tells the spec's paths and the machine, too. "
        "A new repository is public unless --private is given or OWNER has another rule.",
        epilog="litevl push reports/runs/RUN/model me/litevl-msrvtt --dry-run pushed",
    )
    sub.add_argument("model", type=Path, metavar="MODEL", help="folder that a run left")
    sub.add_argument("name", metavar="OWNER/NAME", help="the repository, made if it is not there")
    sub.add_argument("--private", action="store_true", help="make a new repository private")
    sub.add_argument(
        "--dry-run", type=Path, metavar="FOLDER",
        help="write what would be pushed into FOLDER, and ask no hub",
    )  # fmt: skip
    sub.add_argument(
        "--record", type=Path, metavar="JSON",
        help="the run's record (default: the one in the output folder that MODEL lies in)",
    )  # fmt: skip
    sub.set_defaults(command=push)

    sub = add(
        "export",
        help="write a retrieval model's two encoders for programs without litevl",
        description="Write the video and the text encoder as programs of torch.export, for any "
        "number of clips and texts, with a JSON file that says what goes in and comes out.",
        epilog="litevl export reports/runs/RUN/model exported",
    )
    sub.add_argument("model", type=Path, metavar="MODEL", help="folder that a retrieval run left")
    sub.add_argument("folder", type=Path, metavar="FOLDER", help="for the files, made if need be")
    sub.set_defaults(command=export)


def push(arguments: argparse.Namespace) -> int:
    """Push a model, or write what would be pushed."""
    from litevl.push import push as push_model
    from litevl.push import write_pushed

    model, name, folder = arguments.model, arguments.name, arguments.dry_run
    if folder is None:
        print(push_model(model, name, arguments.record, arguments.private))
    else:
        print(*write_pushed(model, name, folder, arguments.record), sep="\n")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write the encoders, and say where they are."""
    from litevl.export import export as export_model

    print(*export_model(arguments.model, arguments.folder), sep="\n")
    return 0
