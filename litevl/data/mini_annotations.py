"""The annotation files of the mini worlds, each in its data set's own published format."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from litevl.data.moments import NUM_CHUNKS, spans
from litevl.data.scenes import Scene
from litevl.errors import DataError

if TYPE_CHECKING:
    from litevl.spec import World
    from litevl.tasks import Dataset

SPLITS = ("train", "validation", "test")
MSRVTT_SPLITS = {"train": "train", "validation": "validate", "test": "test"}
SHORT = {"train": "train", "validation": "val", "test": "test"}  # in names of files
EXTENSIONS = ("mov", "mov", "avi", "avi", "mp4", "mpg", "3gp", "")  # of DiDeMo's names
SHARE_OF_TWO_NAMES = 0.1  # of DiDeMo's clips
NUM_ANNOTATORS = 4
TWINS_HEADER = ["video_id", "reversed_id"]


@dataclass(frozen=True)
class MiniClip:
    """One clip of a world with its captions or questions.

    captions:  of a DiDeMo clip its sentences, in the order of time.
    questions: each with its answer.
    """

    id: str
    source: str
    split: str  # one of SPLITS
    scene: Scene
    captions: tuple[str, ...]
    questions: tuple[tuple[str, str], ...] = ()


def write_annotations(
    root: Path, dataset: Dataset, clips: Sequence[MiniClip], world: World
) -> None:
    """Write the annotation files of a data set, and which clip is whose twin, under `root`.

    clips:     all clips of the world, each beside its twin.
    msrvtt:    train_val_videodatainfo.json, test_videodatainfo.json, MSRVTT_train.9k.csv,
               MSRVTT_JSFUSION_test.csv.
    didemo:    train_data.json, val_data.json, test_data.json.
    msvd-qa:   train_qa.json, val_qa.json, test_qa.json, youtube_mapping.txt.
    msrvtt-qa: train_qa.json, val_qa.json, test_qa.json and the two videodatainfo files.
    All:       twins.csv, for retrieval without the training clips.
    """
    if dataset == "didemo":
        _write_didemo(root, clips, np.random.default_rng(world.seed))
    elif dataset == "msvd-qa":
        _write_questions(root, clips, first_number=1, category={})
        lines = [f"{clip.id} vid{number}" for number, clip in enumerate(clips, 1)]
        (root / "youtube_mapping.txt").write_text("\n".join(lines), encoding="utf-8")
    else:
        _write_videodatainfo(root, clips, world)
        if dataset == "msrvtt":
            _write_msrvtt_splits(root, clips)
        else:
            _write_questions(root, clips, first_number=0, category={"category_id": 0})
    in_files = SPLITS if dataset in ("msvd-qa", "msrvtt-qa") else ("validation", "test")
    pairs = [[c.id, clips[n ^ 1].id] for n, c in enumerate(clips) if c.split in in_files]
    _write_csv(root / "twins.csv", TWINS_HEADER, pairs)


def _write_videodatainfo(root: Path, clips: Sequence[MiniClip], world: World) -> None:
    sentence_id = 0
    for name, splits in (("train_val", ("train", "validation")), ("test", ("test",))):
        videos, sentences = [], []
        for number, clip in enumerate(clips):
            if clip.split not in splits:
                continue
            videos.append(
                {
                    "category": 0,
                    "url": clip.source,
                    "video_id": clip.id,
                    "start time": 0.0,
                    "end time": world.num_frames / world.frames_per_second,
                    "split": MSRVTT_SPLITS[clip.split],
                    "id": number,
                }
            )
            for text in clip.captions:
                sentences.append({"caption": text, "video_id": clip.id, "sen_id": sentence_id})
                sentence_id += 1
        content = {"info": {"seed": world.seed}, "videos": videos, "sentences": sentences}
        _write_json(root / f"{name}_videodatainfo.json", content)


def _write_msrvtt_splits(root: Path, clips: Sequence[MiniClip]) -> None:
    train = [[clip.id] for clip in clips if clip.split == "train"]
    test = [clip for clip in clips if clip.split == "test"]
    rows = [
        [f"ret{row}", f"msr{clip.id.removeprefix('video')}", clip.id, clip.captions[0]]
        for row, clip in enumerate(test)
    ]
    _write_csv(root / "MSRVTT_train.9k.csv", ["video_id"], train)
    _write_csv(root / "MSRVTT_JSFUSION_test.csv", ["key", "vid_key", "video_id", "sentence"], rows)


def _write_didemo(root: Path, clips: Sequence[MiniClip], rng: np.random.Generator) -> None:
    """Moments stand in no order among those of a clip and its twin; the original mixes all clips.

    As there, some clips go by two names, and some names end in a dot.
    """
    annotation_id = 0
    for split in SPLITS:
        some = [clip for clip in clips if clip.split == split]
        moments = []
        for clip, twin in zip(some[::2], some[1::2], strict=True):
            both = [*_moments(clip, rng), *_moments(twin, rng)]
            moments += [both[int(place)] for place in rng.permutation(len(both))]
        for moment in moments:
            moment["annotation_id"] = annotation_id
            annotation_id += 1
        _write_json(root / f"{SHORT[split]}_data.json", moments)


def _moments(clip: MiniClip, rng: np.random.Generator) -> list[dict[str, Any]]:
    """DiDeMo's entries about one clip, without their ids."""
    extensions = [EXTENSIONS[int(rng.integers(len(EXTENSIONS)))]]
    if rng.random() < SHARE_OF_TWO_NAMES:
        extensions = ["mov", "mp4"]
    return [
        {
            "num_segments": NUM_CHUNKS,
            "description": sentence,
            "dl_link": f"mini://video/{clip.id.split('_')[1]}",
            "times": _times(first, last, rng),
            "video": f"{clip.id}.{extensions[place % len(extensions)]}",
        }
        for place, (sentence, (first, last)) in enumerate(
            zip(clip.captions, spans(clip.scene), strict=True)
        )
    ]


def _times(first: int, last: int, rng: np.random.Generator) -> list[list[int]]:
    """What the annotators gave: at least two the true chunks, each of the others something else."""
    near = [
        [start, end]
        for start in (first - 1, first, first + 1)
        for end in (last - 1, last, last + 1)
        if 0 <= start <= end < NUM_CHUNKS and (start, end) != (first, last)
    ]
    num_wrong = int(rng.integers(NUM_ANNOTATORS - 1))
    wrong = [near[int(place)] for place in rng.permutation(len(near))[:num_wrong]]
    times = [[first, last]] * (NUM_ANNOTATORS - num_wrong) + wrong
    return [times[int(place)] for place in rng.permutation(NUM_ANNOTATORS)]


def _write_questions(
    root: Path, clips: Sequence[MiniClip], first_number: int, category: dict[str, int]
) -> None:
    """first_number: which number the first clip has. category: what else each question has."""
    question_id = 0
    for split in SPLITS:
        rows = []
        for number, clip in enumerate(clips, first_number):
            if clip.split != split:
                continue
            for text, answer in clip.questions:
                about = {"id": question_id, "question": text, "video_id": number}
                rows.append({"answer": answer} | category | about)
                question_id += 1
        _write_json(root / f"{SHORT[split]}_qa.json", rows)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def read_twins(root: Path) -> dict[str, str]:
    """Clip id -> id of the clip that shows the same scene backwards; empty where none is known.

    DataError where the file is not as `write_annotations` wrote it.
    """
    path = root / "twins.csv"
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
        if header != TWINS_HEADER:
            raise ValueError(f"its columns are {header}")
        return dict(rows)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path}: not {' and '.join(TWINS_HEADER)} in each row ({error})\n"
            "  It is made with a mini world: delete the world, the next run draws it again. In a "
            "folder of published clips it has no use: delete it."
        ) from None
