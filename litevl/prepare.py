"""A data set made ready: drawn if it is the mini world, read, counted, decoded, its text checked.

Everything that is wrong with the data shows here, before any training starts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from litevl.data.annotations import Annotations, Clip
from litevl.data.checked import note_on_check
from litevl.data.counting import DataReport, check_clips, expect_some_left, without_broken
from litevl.data.dataset import FrameStore, Store
from litevl.data.didemo import load_didemo
from litevl.data.mini import ensure_world
from litevl.data.mini_annotations import read_twins
from litevl.data.msrvtt import load_msrvtt
from litevl.data.own import load_own
from litevl.data.prepared import note_on_preparation, prepared_hash
from litevl.data.reader import ClipReader
from litevl.data.shards import Reading, Shards
from litevl.data.video_qa import load_msrvtt_qa, load_msvd_qa
from litevl.engine.clips import ClipSet
from litevl.errors import DataError
from litevl.model.question_answering import answer_tokens
from litevl.model.tokenizer import Tokenizer
from litevl.record import usable_cores
from litevl.spec import DataSpec, Resolved, Sampler, task_of

logger = logging.getLogger(__name__)

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

    subset: as for `check_clips`; the other clips are neither looked for nor decoded.
    """
    started = time.perf_counter()
    data, root, workers = settings.data, Path(settings.data.root), usable_cores()
    if data.world is not None:
        assert data.dataset != "own-retrieval"  # both are the spec's check
        assert data.dataset != "own-qa"
        ensure_world(root, data.dataset, data.world, workers)
    expected = data.expected.model_dump()
    annotations = read_annotations(data)
    num_clips = {split: expected[f"{split}_clips"] for split in SPLITS}
    report = check_clips(annotations, num_clips, allow_missing, subset)
    other = count_questions(annotations, expected, allow_missing)
    report = replace(report, not_comparable_because=(*report.not_comparable_because, *other))
    tokenizer = Tokenizer.for_weights(settings.model.weights)
    expect_usable_text(data, report.data, tokenizer)
    stores, report = decoded(report, settings, workers, allow_missing)
    if data.world is None and subset is None:  # a subset has a fingerprint of its own
        note = note_on_check(root, data.dataset, report.fingerprint)
        report = replace(report, data=replace(report.data, notes=(*report.data.notes, note)))
    twins = read_twins(root)
    clips = {
        split: ClipSet(
            report.data.splits[split],
            store,
            tokenizer,
            settings.frames.num_frames,
            data.max_tokens,
            twins,
            report.data.answers,
            data.max_answer_tokens or 0,
            settings.frames.choices_per_segment,
        )
        for split, store in stores.items()
    }
    return Prepared(report, clips, time.perf_counter() - started)


def decoded(
    report: DataReport, settings: Resolved, workers: int, allow_missing: bool
) -> tuple[dict[str, Store], DataReport]:
    """The frames of each split's clips, and the report without those that cannot be decoded.

    Such clips are a DataError that names them all, unless `allow_missing`.
    """
    stores: dict[str, Store] = {}
    broken: dict[str, str] = {}
    for split, clips in report.data.splits.items():
        stores[split] = opened(clips, split, settings, workers, allow_missing)
        broken |= {clips[index].id: why for index, why in stores[split].broken.items()}
    for why in broken.values():
        logger.warning("left out: %s", why)
    return stores, expect_some_left(without_broken(report, broken))


def opened(
    clips: Sequence[Clip], split: str, settings: Resolved, workers: int, allow_missing: bool
) -> Store:
    """The frames of a split's clips, kept as the spec says, beside the data set."""
    frames, first_seconds = settings.frames, settings.data.first_seconds
    root = Path(settings.data.root)
    folder = root.with_name(root.name + "-frames")
    if frames.cache == "whole":
        how = (frames.size_px, frames.decoder, workers)
        return FrameStore.open(
            clips, folder, *how, allow_broken=allow_missing, first_seconds=first_seconds
        )
    sampler: Sampler | None = frames.train_sampler if split == "train" else frames.eval_sampler
    if frames.cache == "none":
        sampler = None
    reading = Reading(
        frames.size_px,
        frames.decoder,
        first_seconds,
        sampler,
        frames.num_frames,
        frames.choices_per_segment if sampler == "segment-random" else None,
    )
    kept = Shards.open(clips, folder, reading, workers, allow_broken=allow_missing)
    return ClipReader(clips, kept, workers) if frames.cache == "none" else kept


def read_annotations(data: DataSpec) -> Annotations:
    """The data set's annotation files, as published; DataError lists all that is wrong in them.

    Of a folder of prepared clips also what was done to them.
    """
    found, root = _published(data), Path(data.root)
    prepared = prepared_hash(root)
    if prepared is None:
        return found
    note = note_on_preparation(root, data.first_seconds)
    return replace(found, prepared=prepared, notes=(*found.notes, note))


def _published(data: DataSpec) -> Annotations:
    root = Path(data.root)
    if data.dataset == "msrvtt":
        assert data.train_split is not None  # the spec's check
        return load_msrvtt(root, data.train_split)
    if data.dataset == "didemo":
        return load_didemo(root, data.leave_out, data.sentence_order or "annotator-mode")
    if data.annotations is not None:
        wanted = (data.answers.count, data.answers.file) if data.answers is not None else None
        return load_own(root, Path(data.annotations), task_of(data.dataset), wanted)
    assert data.answers is not None  # the spec's check
    load = load_msvd_qa if data.dataset == "msvd-qa" else load_msrvtt_qa
    return load(root, data.answers.count, data.answers.file)


def count_questions(
    found: Annotations, expected: dict[str, int | None], allow_missing: bool
) -> tuple[str, ...]:
    """Why a run is not comparable: splits with other than the expected number of questions.

    Raises DataError unless `allow_missing`.
    """
    problems = []
    for split, clips in found.splits.items():
        wanted, asked = expected[f"{split}_questions"], sum(len(clip.questions) for clip in clips)
        if wanted is not None and wanted != asked:
            problems.append(f"{split}: {asked} questions, the spec expects {wanted}")
    if problems and not allow_missing:
        listed = "\n  ".join(problems)
        raise DataError(
            f"the questions are not those the spec expects\n  {listed}\n"
            "  Pass --allow-missing to run anyway; the record will say comparable: false."
        )
    return tuple(problems)


def expect_usable_text(data: DataSpec, found: Annotations, tokenizer: Tokenizer) -> None:
    """Raise DataError that names captions, questions and answers that are empty or too long.

    Of the answer list also those that `answer_tokens` names. An answer of the other splits than
    train is only compared with the chosen one: whatever it is, it counts as outside the list.
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
        if split == "train":
            key = "max_answer_tokens"
            problems += unusable(f"{split} answers", answers, tokenizer, key, most_of_answer)
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
