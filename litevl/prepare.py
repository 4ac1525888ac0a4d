"""A data set made ready: drawn if it is the mini world, read, counted, decoded, its text checked.

Everything that is wrong with the data shows here, before any training starts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from litevl.data.annotations import Annotations, Clip
from litevl.data.dataset import DataReport, FrameStore, check_clips
from litevl.data.didemo import load_didemo
from litevl.data.mini import ensure_world
from litevl.data.mini_annotations import read_twins
from litevl.data.msrvtt import load_msrvtt
from litevl.data.video_qa import load_msrvtt_qa, load_msvd_qa
from litevl.engine.clips import ClipSet
from litevl.errors import DataError
from litevl.model.question_answering import answer_tokens
from litevl.model.tokenizer import Tokenizer, Tokens
from litevl.spec import DataSpec, Resolved

SPLITS = ("train", "validation", "test")
NUM_SHOWN = 5  # texts that cannot be used


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
    answers = report.data.answers
    if answers:
        answer_tokens(list(answers), tokenizer, data.max_answer_tokens or 0)
    twins = read_twins(root)
    clips = {}
    for split in SPLITS:
        some: tuple[Clip, ...] = getattr(report.data, split)
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
            answers,
            data.max_answer_tokens or 0,
        )
        expect_usable_text(root, split, clips[split])
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
    """The report cut to the first `count` clips of each split, in the order of the annotations."""
    data = report.data
    kept = replace(
        data, train=data.train[:count], validation=data.validation[:count], test=data.test[:count]
    )
    why = (*report.not_comparable_because, f"subset: the first {count} clips of each split")
    return replace(report, data=kept, not_comparable_because=why)


def expect_usable_text(root: Path, split: str, clips: ClipSet) -> None:
    """Raise DataError that names the captions, questions or answers that are empty or too long."""
    captions = [(clip.id, text) for clip in clips.clips for text in clip.captions]
    questions = [(f"question {asked.id}", asked.text) for _, asked in clips.questions()]
    answers = [(f"question {asked.id}", asked.answer) for _, asked in clips.questions()]
    problems = [
        *unusable(f"{split} captions", captions, clips.tokens),
        *unusable(f"{split} questions", questions, clips.tokens),
        *unusable(f"{split} answers", answers, clips.answer_tokens),
    ]
    if problems:
        raise DataError("\n".join([f"{root}:", *problems]))


def unusable(
    title: str, texts: Sequence[tuple[str, str]], tokens: Callable[[Sequence[str]], Tokens]
) -> list[str]:
    """What the tokenizer says against some (name, text), the first few by name; empty if nothing.

    Only the texts it cannot take are tried one by one.
    """
    try:
        tokens([text for _, text in texts])
    except DataError as error:
        listed = []
        for name, text in texts:
            try:
                tokens([text])
            except DataError as of_text:
                listed += [f"    {name}:{line}" for line in str(of_text).split("\n")[1:-1]]
        first, way_out = str(error).split("\n")[0], str(error).split("\n")[-1]
        more = ["    ..."] if len(listed) > NUM_SHOWN else []
        return [f"  {title}: {first}", *listed[:NUM_SHOWN], *more, way_out]
    return []
