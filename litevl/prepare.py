"""A data set made ready: drawn if it is the mini world, read, counted, decoded, its text checked.

Everything that is wrong with the data shows here, before any training starts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from litevl.data.annotations import Annotations, text_counts
from litevl.data.dataset import DataReport, FrameStore, check_clips
from litevl.data.didemo import load_didemo
from litevl.data.mini import ensure_world
from litevl.data.mini_annotations import read_twins
from litevl.data.msrvtt import load_msrvtt
from litevl.data.video_qa import load_msrvtt_qa, load_msvd_qa
from litevl.engine.clips import ClipSet
from litevl.errors import DataError
from litevl.model.question_answering import answer_tokens
from litevl.model.tokenizer import Tokenizer
from litevl.spec import DataSpec, Resolved

SPLITS = ("train", "validation", "test")
NUM_SHOWN = 5  # texts that cannot be used, of each kind


@dataclass(frozen=True)
class Prepared:
    """A data set checked and decoded."""

    report: DataReport
    clips: dict[str, ClipSet]  # by split
    seconds: float


def prepare(settings: Resolved, subset: int | None, allow_missing: bool) -> Prepared:
    """Check the data set, making the mini world first where the spec describes one; decode it.

    subset: only the first so many clips of each split, in the order of the annotations, with all
    their captions or questions.
    """
    started = time.perf_counter()
    data, root, workers = settings.data, Path(settings.data.root), os.cpu_count() or 1
    if data.world is not None:
        ensure_world(root, data.dataset, data.world, workers)
    expected = data.expected.model_dump()
    report = check_clips(
        read_annotations(data),
        {split: expected[f"{split}_clips"] for split in SPLITS},
        allow_missing,
    )
    report = count_questions(report, expected, allow_missing)
    if subset is not None:
        report = first_clips(report, subset)
    tokenizer = Tokenizer.for_weights(settings.model.weights)
    expect_usable_text(data, report.data, tokenizer)
    twins = read_twins(root)
    clips = {}
    for split, some in report.data.splits.items():
        frames = root.with_name(root.name + "-frames")
        store = FrameStore.open(
            some, frames, settings.frames.size_px, settings.frames.decoder, workers
        )
        clips[split] = ClipSet(
            some,
            store,
            tokenizer,
            settings.frames.num_frames,
            data.max_tokens,
            twins,
            report.data.answers,
            data.max_answer_tokens or 0,
        )
    return Prepared(report, clips, time.perf_counter() - started)


def read_annotations(data: DataSpec) -> Annotations:
    """The data set's annotation files, as published; DataError lists all that is wrong in them."""
    root = Path(data.root)
    if data.dataset == "msrvtt":
        assert data.train_split is not None  # the spec's check
        return load_msrvtt(root, data.train_split)
    if data.dataset == "didemo":
        return load_didemo(root, data.leave_out)
    assert data.answers is not None  # the spec's check
    load = load_msvd_qa if data.dataset == "msvd-qa" else load_msrvtt_qa
    return load(root, data.answers.count, data.answers.file)


def count_questions(
    report: DataReport, expected: dict[str, int | None], allow_missing: bool
) -> DataReport:
    """The report, not comparable where a split has other than the expected number of questions.

    Raises DataError unless `allow_missing`.
    """
    problems = []
    for split in SPLITS:
        wanted, found = expected[f"{split}_questions"], report.splits[split].get("questions", 0)
        if wanted is not None and wanted != found:
            problems.append(f"{split}: {found} questions, the spec expects {wanted}")
    if problems and not allow_missing:
        listed = "\n  ".join(problems)
        raise DataError(
            f"the questions are not those the spec expects\n  {listed}\n"
            "  Pass --allow-missing to run anyway; the record will say comparable: false."
        )
    why = report.not_comparable_because
    return replace(report, not_comparable_because=(*why, *problems))


def first_clips(report: DataReport, count: int) -> DataReport:
    """The report cut to the first `count` clips of each split, in the order of the annotations.

    They keep all their captions or questions. The answer list stays as it was declared.
    """
    data = report.data
    kept = replace(
        data, train=data.train[:count], validation=data.validation[:count], test=data.test[:count]
    )
    return replace(
        report,
        data=kept,
        splits={
            split: report.splits[split] | text_counts(clips, data.answers)
            for split, clips in kept.splits.items()
        },
        not_comparable_because=(
            *report.not_comparable_because,
            f"subset: the first {count} clips of each split",
        ),
    )


def expect_usable_text(data: DataSpec, found: Annotations, tokenizer: Tokenizer) -> None:
    """Raise DataError that names captions, questions and answers that are empty or too long.

    Of the answer list also those that `answer_tokens` names.
    """
    most, most_of_answer = data.max_tokens, data.max_answer_tokens or 0
    problems = []
    for split, clips in found.splits.items():
        captions = [(clip.id, text) for clip in clips for text in clip.captions]
        asked = [question for clip in clips for question in clip.questions]
        questions = [(f"question {one.id}", one.text) for one in asked]
        answers = [(f"question {one.id}", one.answer) for one in asked]
        problems += unusable(f"{split} captions", captions, tokenizer, "max_tokens", most)
        problems += unusable(f"{split} questions", questions, tokenizer, "max_tokens", most)
        problems += unusable(
            f"{split} answers", answers, tokenizer, "max_answer_tokens", most_of_answer
        )
    if data.answers is not None:
        source = data.answers.file or "the answers of the training questions"
        problems += unrankable(source, found.answers, tokenizer, most_of_answer)
    if problems:
        raise DataError("\n".join([f"{data.root}: texts that cannot be used", *problems]))


def unrankable(
    source: str, answers: Sequence[str], tokenizer: Tokenizer, max_tokens: int
) -> list[str]:
    """What is wrong with the answer list, or nothing."""
    listed = [(f"entry {place}", answer) for place, answer in enumerate(answers, 1)]
    wrong = unusable(f"answer list, {source}", listed, tokenizer, "max_answer_tokens", max_tokens)
    if wrong:
        return wrong
    try:
        answer_tokens(list(answers), tokenizer, max_tokens)
    except DataError as error:
        return [f"  {source}:", *(f"    {line}" for line in str(error).split("\n"))]
    return []


def unusable(
    title: str, texts: Sequence[tuple[str, str]], tokenizer: Tokenizer, key: str, max_tokens: int
) -> list[str]:
    """What is wrong with the lengths of some (name, text), the first few by name; or nothing."""
    wrong = tokenizer.unusable([text for _, text in texts], max_tokens)
    if not wrong:
        return []
    shown = [
        f"    {texts[place][0]}: {what}: {texts[place][1]!r}"
        for place, what in list(wrong.items())[:NUM_SHOWN]
    ]
    more = ["    ..."] if len(wrong) > NUM_SHOWN else []
    way_out = f"    Correct the annotations, or raise data.{key} in the spec."
    return [f"  {title}: {len(wrong)} of {len(texts)}", *shown, *more, way_out]
