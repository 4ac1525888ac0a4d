"""A spec of one's own clips: everything checked first, then one file written, yours to change."""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from litevl.data.annotations import listed
from litevl.data.own import SPLITS, OwnTexts, answerable, read_texts, shared_captions
from litevl.errors import UNPRINTABLE, DataError, WeightsError
from litevl.model.places import fetch_command, weights_path
from litevl.spec_conflicts import unusable_path
from litevl.spec_problems import COMBINED, NAME_PATTERN, PATTERN_WORDS
from litevl.tasks import OWN_TASKS
from litevl.whole import write_bytes

TEMPLATE = "own.toml.j2"  # in litevl/assets
LONGEST_NAME = 64
MOST_CANDIDATES = 128  # the paper profiles' rerank_k
# Word pieces: what mini-BLIP and BERT have positions for, and what does for captions of a sentence
# or two, so that costs are not estimated for longer ones.
MINI_TOKENS, BERT_TOKENS, USUAL_TOKENS = 64, 512, 128
PIECES = re.compile(r"\w+|[^\w\s]")  # BERT cuts here, and long words into more
PIECES_PER_WORD = 2


@dataclass(frozen=True)
class NewSpec:
    """A spec that was written. notes: what is odd about the texts but not wrong."""

    path: Path
    dataset: str
    weights: str
    counts: dict[str, dict[str, int]]  # split -> clips, captions or questions
    notes: tuple[str, ...]


def new_spec(name: str, clips: Path, annotations: Path, output: Path, weights: str) -> NewSpec:
    """Write a spec for a folder of clips and a file of texts; returns what it is about.

    Raises DataError with all that is wrong, also with clips that are not there, and RunError where
    the spec cannot be written. Nothing is written then.
    """
    texts = read_texts(clips, annotations)
    found = [*argument_problems(name, clips, annotations, output, weights)]
    found += [*texts.problems, *texts.missing]
    if found:
        many = "s" * (len(found) > 1)
        raise DataError(listed(f"{annotations}: {len(found)} problem{many}, no spec made", found))
    counts = {split: counted(texts, split) for split in SPLITS}
    content = rendered(name, clips, annotations, output, weights, texts)
    write_bytes(output, content.encode())
    return NewSpec(output, dataset_of(texts), weights, counts, notes_on(texts))


def argument_problems(
    name: str, clips: Path, annotations: Path, output: Path, weights: str
) -> list[str]:
    """What is wrong with the command's own words."""
    found = []
    if not re.fullmatch(NAME_PATTERN, name) or len(name) > LONGEST_NAME:
        words = PATTERN_WORDS[NAME_PATTERN]
        found.append(f"name {name!r}: should be {words}, {LONGEST_NAME} at most")
    if name == COMBINED:
        found.append(f"name {name!r}: is what the report of all data sets goes by")
    for path in map(str, (clips, annotations, output)):
        if UNPRINTABLE.search(path) or "\n" in path or "\t" in path:
            found.append(f"{path!r}: holds a letter that cannot be shown; rename it")
        elif unusable := unusable_path(path):
            found.append(f"{path!r}: {unusable}")
    if os.path.lexists(output):
        found.append(f"{output}: is there already; delete it or name another with --output")
    try:
        weights_path(weights)
    except WeightsError as error:
        found.append(f"weights: {str(error).partition(chr(10))[0]}")
    return found


def dataset_of(texts: OwnTexts) -> str:
    """What a spec calls texts of this task."""
    return next(name for name, task in OWN_TASKS.items() if task == texts.task)


def counted(texts: OwnTexts, split: str) -> dict[str, int]:
    """Clips of a split, and captions or questions about them."""
    counts = {"clips": len(texts.clips[split])}
    if texts.task == "retrieval":
        return counts | {"captions": len(texts.captions(split))}
    return counts | {"questions": len(texts.questions(split))}


def rendered(
    name: str, clips: Path, annotations: Path, output: Path, weights: str, texts: OwnTexts
) -> str:
    """The spec as TOML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    is_retrieval, is_trial = texts.task == "retrieval", weights == "mini-blip"
    num_clips = {split: len(texts.clips[split]) for split in SPLITS}
    num_questions = {split: len(texts.questions(split)) for split in SPLITS}
    answers = {question.answer for question in texts.questions("train")}
    rates = {True: ("1e-5", "1e-4"), False: ("2e-5", "2e-4")}[is_retrieval]
    learning_rate, temporal_learning_rate = ("5e-4", "2e-3") if is_trial else rates
    most = 16 if is_trial and is_retrieval else 32 if is_retrieval else 64
    environment = Environment(
        loader=PackageLoader("litevl", "assets"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["toml"] = toml_text
    return environment.get_template(TEMPLATE).render(
        name=name,
        title=f"LiteVL: {'text-video retrieval' if is_retrieval else 'questions'} on {name}",
        output=shlex.quote(str(output)),
        model_spec="msrvtt.toml" if is_retrieval else "msrvtt_qa.toml",
        is_retrieval=is_retrieval,
        is_trial=is_trial,
        dataset=dataset_of(texts),
        root=path_text(clips),
        annotations=str(annotations),
        weights=weights,
        max_tokens=MINI_TOKENS if is_trial else most_tokens(texts),
        clips=num_clips,
        questions=num_questions,
        num_answers=len(answers),
        batch_size=min(most, num_clips["train"] if is_retrieval else num_questions["train"]),
        learning_rate=learning_rate,
        temporal_learning_rate=temporal_learning_rate,
        rerank_k=min(MOST_CANDIDATES, num_clips["test"] if is_retrieval else len(answers)),
        metric="t2v/R@1" if is_retrieval else "accuracy",
    )


def toml_text(text: str) -> str:
    """A text as a basic string of TOML, which is JSON's but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def path_text(folder: Path) -> str:
    """A folder as the spec names it; frames are kept beside it, so it has to have a name."""
    return str(folder) if folder.name not in ("", "..") else os.path.abspath(folder)


def most_tokens(texts: OwnTexts) -> int:
    """Room for the longest text. The run counts word pieces and names texts that are longer."""
    said = [caption for split in SPLITS for caption in texts.captions(split)]
    said += [question.text for split in SPLITS for question in texts.questions(split)]
    longest = max(len(PIECES.findall(text)) for text in said)
    return USUAL_TOKENS if PIECES_PER_WORD * longest + 2 <= USUAL_TOKENS else BERT_TOKENS


def notes_on(texts: OwnTexts) -> tuple[str, ...]:
    """What the user should know of texts that can be used."""
    notes = shared_captions(texts)
    if texts.task == "question-answering":
        given = {split: [one.answer for one in texts.questions(split)] for split in SPLITS}
        asked = {split: gold for split, gold in given.items() if gold and split != "train"}
        notes += answerable(asked, given["train"])
    if not texts.clips["validation"]:
        notes.append("no validation clips: the last epoch is taken, not the best one")
    return tuple(notes)


def described(made: NewSpec) -> str:
    """What was written, and the commands that come next."""
    lines = [f"{made.path}: {made.dataset}"]
    for split, counts in made.counts.items():
        lines.append(f"  {split:<10}" + "".join(f"{n:>8,} {unit}" for unit, n in counts.items()))
    lines += [f"  note: {note}" for note in made.notes]
    spec, command = shlex.quote(str(made.path)), fetch_command(made.weights)
    is_there = weights_path(made.weights).exists()
    first = [] if is_there else [command or f"put the weights at {weights_path(made.weights)}"]
    commands = [*first, f"litevl check {spec}", f"litevl plan {spec}", f"litevl run {spec}"]
    return "\n".join([*lines, "Next:", *(f"  {command}" for command in commands)])
