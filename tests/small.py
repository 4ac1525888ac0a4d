"""A reproduction small enough for tests: the shipped spec with a tiny world and tiny weights."""

import tomllib
from pathlib import Path

import numpy as np
import torch
from tiny import WITHOUT_TEMPORAL, fill

from litevl.data.annotations import Clip
from litevl.data.dataset import FrameStore
from litevl.data.mini import plan_world
from litevl.data.scenes import render
from litevl.data.stills import vocabulary
from litevl.engine.clips import ClipSet
from litevl.model.checkpoints import save_blip
from litevl.model.config import LiteVLConfig
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.question_answering import LiteVLForQuestionAnswering
from litevl.model.tokenizer import Tokenizer
from litevl.model.weights import load_blip
from litevl.record import Record, read_arrays, read_record
from litevl.schema import Arrays
from litevl.spec import Resolved, World, model_options, task_of
from litevl.tasks import Dataset

SHIPPED = Path(__file__).parents[1] / "reproductions"
SIZES = {
    "image_size_px": 32,
    "patch_size_px": 16,
    "vision_width": 16,
    "vision_depth": 1,
    "vision_heads": 2,
    "text_width": 16,
    "text_depth": 1,
    "text_heads": 2,
    "text_mlp_width": 32,
    "max_positions": 64,
    "embed_width": 8,
    "dropout": 0.1,
    "num_frames": 1,
    **WITHOUT_TEMPORAL,
}
SCENES = {"train": 8, "validation": 2, "test": 4}
NUM_ANSWERS = 6  # fewer than the questions have, so that some have an answer outside the list


def small_world(dataset: Dataset = "msrvtt", **changes) -> World:
    """The world's settings: 8 scenes to train on, 2 to validate, 4 to test."""
    settings = {
        "seed": 1,
        **{f"{split}_scenes": count for split, count in SCENES.items()},
        "num_frames": 30 if dataset == "didemo" else 12,
        "frames_per_second": 1 if dataset == "didemo" else 8,
        "size_px": 32,
        **({"captions_per_clip": 3} if dataset == "msrvtt" else {}),
        **({"questions_per_clip": 3} if task_of(dataset) == "question-answering" else {}),
    }
    return World.model_validate(settings | changes)


def write_weights(folder: Path, seed: int = 0, dropout: float = 0.1) -> Path:
    """Write random weights in BLIP's layout and the mini world's vocabulary; returns their path."""
    folder.mkdir(parents=True, exist_ok=True)
    words = folder / "vocab.txt"
    words.write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    config = LiteVLConfig(
        **SIZES | {"dropout": dropout}, vocab_size=len(Tokenizer.from_vocabulary(words))
    )
    answering, model = LiteVLForQuestionAnswering(config), LiteVLForRetrieval(config)
    fill(answering, seed + 1)
    fill(model, seed)
    with torch.no_grad():
        model.temp.fill_(0.07)
    both = answering.state_dict() | model.state_dict()
    save_blip(folder / "model.safetensors", both, config)
    return folder / "model.safetensors"


def small_settings(
    root: Path, weights: Path, world: World | None = None, dataset: Dataset = "msrvtt"
) -> dict:
    """The shipped spec as nested tables, with the mini profile made small. May be changed."""
    spec = tomllib.loads((SHIPPED / f"{dataset.replace('-', '_')}.toml").read_text("utf-8"))
    world = world or small_world(dataset)
    mini = spec["profile"]["mini"]
    clips = {split: 2 * getattr(world, f"{split}_scenes") for split in SCENES}
    mini["data"] |= {
        "root": str(root),
        "expected": {f"{split}_clips": count for split, count in clips.items()},
        "world": world.model_dump(exclude_none=True),
    }
    if world.questions_per_clip is not None:
        asked = {
            f"{split}_questions": world.questions_per_clip * count for split, count in clips.items()
        }
        mini["data"]["expected"] |= asked
        mini["data"]["answers"] = {"count": NUM_ANSWERS}
    mini["frames"] |= {"size_px": 32, "num_frames": 4}
    mini["model"] |= {"weights": str(weights)}
    mini["train"] |= {
        "epochs": 2,
        "batch_size": 4 if world.questions_per_clip is None else 12,
        "learning_rate": 1e-3,
        "temporal_learning_rate": 2e-3,
        "precision": "fp32",
        "momentum_encoder": False,
        "group_by_source": True,
        "seeds": [0],
    }
    mini["evaluate"] |= {"rerank_k": 4, "batch_size": 4}
    return spec


def clip_sets(folder: Path, weights: Path) -> dict[str, ClipSet]:
    """The small world's clips by split, as they were drawn: nothing is encoded or decoded.

    folder: takes their frames.
    """
    world, sets = small_world(), {}
    tokenizer = Tokenizer.for_weights(str(weights))
    for split in SCENES:
        some = [clip for clip in plan_world("msrvtt", world) if clip.split == split]
        frames = [render(clip.scene, world.num_frames, world.size_px) for clip in some]
        (folder / split).write_bytes(np.stack(frames).tobytes())
        places = [(world.num_frames * number, world.num_frames) for number in range(len(some))]
        sets[split] = ClipSet(
            tuple(Clip(c.id, Path(f"{c.id}.mp4"), c.source, c.captions) for c in some),
            FrameStore(folder / split, places, world.size_px),
            tokenizer,
            4,
            32,
            {clip.id: f"video{int(clip.id[5:]) ^ 1}" for clip in some},
        )
    return sets


def new_model(settings: Resolved) -> LiteVLForRetrieval:
    """A model that starts from the settings' weights."""
    generator = torch.Generator().manual_seed(0)
    return load_blip(
        LiteVLForRetrieval, settings.model.weights, generator, **model_options(settings)
    )[0]


def the_record(output: Path) -> Record:
    """The only record in an output folder."""
    (path,) = (p for p in (output / "records").rglob("*.json") if "plan" not in p.name)
    return read_record(path)


def the_arrays(output: Path) -> Arrays:
    """The per-query arrays of the only record in an output folder."""
    run = the_record(output).run
    return read_arrays(output / "records" / run.spec / f"{run.id}.npz")


def write_spec(path: Path, spec: dict) -> Path:
    """Write nested tables as TOML; returns the path."""
    path.write_text("\n".join(_lines(spec, ())) + "\n", encoding="utf-8")
    return path


def _lines(table: dict, above: tuple[str, ...]) -> list[str]:
    """Every value under its dotted key; arrays and tables inside arrays are written inline."""
    lines = []
    for key, value in table.items():
        keys = (*above, _value(key))
        if isinstance(value, dict) and value:
            lines += _lines(value, keys)
        else:
            lines.append(f"{'.'.join(keys)} = {_value(value)}")
    return lines


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_value(key)} = {_value(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
