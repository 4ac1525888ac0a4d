"""`litevl index`, `search` and `ask`: a trained model on one's own clips."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from litevl.errors import printable

if TYPE_CHECKING:
    from litevl.trained import Trained


def add_use(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the three commands. add: makes a command's parser."""
    sub = add(
        "index",
        help="make one's own clips searchable by text",
        description="Encode all video files below a folder, those that are not in its index yet.",
        epilog="litevl index clips --model reports/runs/RUN/model",
    )
    sub.add_argument("folder", type=Path, metavar="FOLDER", help="clips, at any depth")
    add_model(sub, "folder that a retrieval run left, or OWNER/NAME of the hub")
    sub.add_argument("--index", type=Path, metavar="DIR", help="(default: FOLDER/.litevl-index)")
    sub.set_defaults(command=index)

    sub = add(
        "search",
        help="find clips by what they show",
        description="Rank the clips of an index for a text.",
        epilog='litevl search clips "a red square moves left" --strip found.png',
    )
    sub.add_argument("index", type=Path, metavar="FOLDER", help="clips with an index, or the index")
    sub.add_argument("text", metavar="TEXT", help="what the clip shows")
    sub.add_argument("--top", type=positive, default=5, metavar="N", help="(default: 5)")
    sub.add_argument(
        "--candidates", type=positive, default=32, metavar="N",
        help="most similar clips that the cross-encoder ranks (default: 32)",
    )  # fmt: skip
    sub.add_argument("--strip", type=Path, metavar="PNG", help="draw the frames of what was found")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.set_defaults(command=search)

    sub = add(
        "ask",
        help="ask about a clip",
        description="Answer a question about a clip, with probabilities.",
        epilog='litevl ask clip.mp4 "what moves left?" --model reports/runs/RUN/model',
    )
    sub.add_argument("clip", type=Path, metavar="CLIP")
    sub.add_argument("question", metavar="QUESTION")
    add_model(sub, "folder that a question answering run left, or OWNER/NAME of the hub")
    sub.add_argument(
        "--answer", action="append", default=[], metavar="TEXT", dest="answers",
        help="an answer to choose among; may be repeated (default: those of the training)",
    )  # fmt: skip
    sub.add_argument("--free", action="store_true", help="answer in the model's own words")
    sub.add_argument("--top", type=positive, default=5, metavar="N", help="(default: 5)")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.set_defaults(command=ask)


def add_model(sub: argparse.ArgumentParser, what: str) -> None:
    """The option that names the trained model."""
    sub.add_argument("--model", type=Path, metavar="MODEL", required=True, help=what)


def positive(text: str) -> int:
    """A whole number from 1."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def index(arguments: argparse.Namespace) -> int:
    """Build an index, or what is missing of it."""
    from litevl.index import VideoIndex

    built = VideoIndex.build(arguments.folder, arguments.model, arguments.index, progress=True)
    for problem in built.problems:
        print(f"not indexed: {printable(problem)}", file=sys.stderr)
    left_out = f", {len(built.problems)} cannot be decoded" if built.problems else ""
    print(f"{arguments.folder}: {len(built)} clips can be searched{left_out}")
    return 0


def search(arguments: argparse.Namespace) -> int:
    """Print what an index finds for a text."""
    from litevl.index import VideoIndex

    opened = VideoIndex.open(arguments.index)
    tell_unknown(opened.trained, arguments.text)
    hits = opened.search(arguments.text, arguments.top, arguments.candidates)
    if arguments.strip is not None:
        from litevl.report.examples import write_picture

        write_picture(arguments.strip, opened.film_strip(hits))
    found = [{"rank": hit.rank, "score": hit.score, "clip": str(hit.path)} for hit in hits]
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        for hit in hits:
            print(f"{hit.rank:3}  {hit.score:8.3f}  {printable(str(hit.path))}")
    return 0


def ask(arguments: argparse.Namespace) -> int:
    """Print the answers to a question."""
    from litevl.ask import ask as asking
    from litevl.trained import Trained

    trained = Trained.load(arguments.model)
    tell_unknown(trained, arguments.question)
    asked = arguments.clip, arguments.question, arguments.answers
    found = asking(trained, *asked, arguments.top, arguments.free)
    if arguments.json:
        print(json.dumps([vars(answer) for answer in found], indent=1))
        return 0
    for answer in found:
        share = "" if answer.probability is None else f"{100 * answer.probability:6.1f} %  "
        print(f"{share}{printable(answer.text)}")
    return 0


def tell_unknown(trained: Trained, text: str) -> None:
    """Say which words the model does not know: it cannot look for them."""
    unknown = trained.unknown_words(text)
    if unknown:
        words = printable(", ".join(unknown))
        print(f"words that the model does not know: {words}", file=sys.stderr)
