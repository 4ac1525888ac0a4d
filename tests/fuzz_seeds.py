"""Whole inputs for `benchmarks.fuzz` to damage: `python tests/fuzz_seeds.py FOLDER KIND`."""

import json
import shutil
import sys
import zipfile
from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "reproductions"
VARIANTS = ("full", "mean-pooling")


def write_seeds(folder: Path, kind: str) -> None:
    """Write a folder of whole inputs of one kind."""
    folder = folder / kind
    folder.mkdir(parents=True)
    if kind == "specs":
        for spec in SHIPPED.glob("*.toml"):
            shutil.copy(spec, folder)
    elif kind == "records":
        from question_records import write_question_study
        from records import write_study

        write_study(folder, VARIANTS, (0,), "mini", 12)
        write_question_study(folder, VARIANTS, (0,), "mini", 30)
    elif kind == "checkpoints":
        write_checkpoints(folder)
    else:
        from litevl.tasks import TASKS

        for dataset in TASKS:
            write_data_set(folder / dataset, dataset)
        write_other_formats(folder / "msrvtt-qa.others")


def write_checkpoints(folder: Path) -> None:
    """Every layout that is read: a folder for each, with a vocabulary."""
    import torch
    from blip_files import write_blip
    from small import write_weights
    from tiny import tiny_config, tiny_model

    from litevl import LiteVLForQuestionAnswering
    from litevl.data.stills import vocabulary
    from litevl.engine.checkpoint import write_checkpoint

    torch.manual_seed(0)
    files = ("zip", "legacy", "litevl", "transformers", "bin", "shards", "retrieval", "questions")
    for name in (*files, "run"):
        (folder / name).mkdir(parents=True)
        (folder / name / "vocab.txt").write_text("\n".join(vocabulary()), encoding="utf-8")
    state = write_blip(folder / "zip" / "model.pth", image_size_px=16)
    torch.save({"model": state}, folder / "legacy/model.pth", _use_new_zipfile_serialization=False)
    write_weights(folder / "litevl")
    write_transformers(folder)
    tiny_model().save_pretrained(folder / "retrieval")
    LiteVLForQuestionAnswering(tiny_config()).save_pretrained(folder / "questions")
    parameters = {"weight": torch.randn(8, 8), "bias": torch.zeros(8)}
    rng = torch.get_rng_state()
    content = {"model": parameters, "step": 3, "rng": rng, "ids": ["a", "b"], "best": None}
    for name in ("last.pt", "best.pt"):
        write_checkpoint(folder / "run" / name, content)


def write_transformers(folder: Path) -> None:
    """A retrieval checkpoint as transformers writes it: whole, pickled, and in shards."""
    import torch
    from blip_oracle import oracle
    from safetensors.torch import load_file, save_file
    from tiny import tiny_model

    still = {"temporal_attention": False, "time_embedding": "none", "scaling": "none"}
    oracle(tiny_model(**still, num_frames=1, pooling="concat")).save_pretrained(
        folder / "transformers"
    )
    state = load_file(folder / "transformers" / "model.safetensors")
    for name in ("bin", "shards"):
        shutil.copy(folder / "transformers" / "config.json", folder / name)
    torch.save(state, folder / "bin" / "pytorch_model.bin")
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[::2]}
    parts["model-00002-of-00002.safetensors"] = names[1::2]
    for part, keys in parts.items():
        save_file({key: state[key] for key in keys}, folder / "shards" / part)
    index = {"weight_map": {key: part for part, keys in parts.items() for key in keys}}
    text = json.dumps({"metadata": {"total_size": 1}} | index)
    (folder / "shards" / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def write_data_set(folder: Path, dataset: str) -> None:
    """A small world's annotation files, an archive of them, and what a check leaves there."""
    from litevl.data.mini import plan_world
    from litevl.data.mini_annotations import write_annotations
    from litevl.spec import World, task_of

    folder.mkdir(parents=True)
    is_didemo, asks = dataset == "didemo", task_of(dataset) == "question-answering"
    world = World(
        seed=5, train_scenes=8, validation_scenes=2, test_scenes=4,
        captions_per_clip=3 if dataset == "msrvtt" else None,
        questions_per_clip=3 if asks else None,
        num_frames=30 if is_didemo else 12, frames_per_second=1 if is_didemo else 8, size_px=32,
    )  # fmt: skip
    write_annotations(folder, dataset, plan_world(dataset, world), world)
    archive = folder.parent / f"{dataset}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.iterdir()):
            packed.write(path, f"annotations/{path.name}")
    archive.rename(folder / "all.zip")
    checked = {"ok": True, "fingerprint": "f" * 64, "checked": "2026-01-02T03:04:05+00:00"}
    (folder / f".litevl-checked-{dataset}.json").write_text(json.dumps(checked), encoding="utf-8")
    how = {"short_side_px": 256, "first_seconds": 5.0, "frames_per_second": None}
    prepared = {"conversion": how, "clips": {}}
    (folder / ".litevl-prepared.json").write_text(json.dumps(prepared), encoding="utf-8")
    (folder / "videos").mkdir()


def write_other_formats(folder: Path) -> None:
    """Questions as JSON lines and in two kinds of CSV, and an answer list."""
    from question_files import TEST, TRAIN, VAL, as_hqga, as_just_ask, as_lines, msrvtt_set

    files = msrvtt_set()
    answers = sorted({entry["answer"] for entries in files.values() for entry in entries})
    (folder / "videos").mkdir(parents=True)
    (folder / "answers.json").write_text(json.dumps(answers[:4]), encoding="utf-8")
    (folder / "train.jsonl").write_text(as_lines(files[TRAIN]), encoding="utf-8")
    (folder / "val.csv").write_text(as_hqga(files[VAL]), encoding="utf-8")
    (folder / "test.csv").write_text(as_just_ask(files[TEST]), encoding="utf-8")


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]), sys.argv[2])
