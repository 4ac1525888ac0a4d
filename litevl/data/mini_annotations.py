"""The annotation files of the mini worlds, each in its data set's own published format."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from litevl.data.scenes import Scene

if TYPE_CHECKING:
    from litevl.spec import World
    from litevl.tasks import Dataset

MSRVTT_SPLITS = {"train": "train", "validation": "validate", "test": "test"}


@dataclass(frozen=True)
class MiniClip:
    """One clip of the world with its captions."""

    id: str
    source: str
    split: str  # "train", "validation" or "test"
    scene: Scene
    captions: tuple[str, ...]


def write_annotations(
    root: Path, dataset: Dataset, clips: Sequence[MiniClip], world: World
) -> None:
    """Write the annotation files of a data set, and which clip is whose twin, under `root`.

    msrvtt: train_val_videodatainfo.json, test_videodatainfo.json, MSRVTT_train.9k.csv,
            MSRVTT_JSFUSION_test.csv.
    All:    twins.csv.
    """
    assert dataset == "msrvtt"
    _write_msrvtt(root, clips, world)


def _write_msrvtt(root: Path, clips: Sequence[MiniClip], world: World) -> None:
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
        (root / f"{name}_videodatainfo.json").write_text(json.dumps(content), encoding="utf-8")
    train = [[clip.id] for clip in clips if clip.split == "train"]
    test = [clip for clip in clips if clip.split == "test"]
    rows = [
        [f"ret{row}", f"msr{clip.id.removeprefix('video')}", clip.id, clip.captions[0]]
        for row, clip in enumerate(test)
    ]
    _write_csv(root / "MSRVTT_train.9k.csv", ["video_id"], train)
    _write_csv(root / "MSRVTT_JSFUSION_test.csv", ["key", "vid_key", "video_id", "sentence"], rows)
    pairs = [[c.id, f"video{int(c.id[5:]) ^ 1}"] for c in clips if c.split != "train"]
    _write_csv(root / "twins.csv", ["video_id", "reversed_id"], pairs)


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def read_twins(root: Path) -> dict[str, str]:
    """Clip id -> id of the clip that shows the same scene backwards; empty where none is known."""
    path = root / "twins.csv"
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["video_id"]: row["reversed_id"] for row in csv.DictReader(file)}
