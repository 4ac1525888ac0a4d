"""A small world that stands for a published data set, and a spec whose paper profile names it."""

import shutil
from pathlib import Path

from small import small_settings, small_world, write_spec


def copy_world(small: Path, root: Path) -> Path:
    """Copy a small world's clips and annotations to `root`, as if they had been downloaded."""
    shutil.copytree(small / "world", root)
    (root / "world.json").unlink()
    return root


def paper_spec(folder: Path, root: Path, dataset: str = "msrvtt") -> Path:
    """Write a spec whose paper profile describes the small world at `root`; returns its path."""
    world = small_world(dataset)
    spec = small_settings(folder / "drawn", folder / "none", world, dataset)
    mini, paper = spec["profile"]["mini"], spec["profile"]["paper"]
    paper["data"] |= {"root": str(root), "expected": mini["data"]["expected"]}
    paper["data"].pop("leave_out", None)
    if "answers" in mini["data"]:
        paper["data"]["answers"] = mini["data"]["answers"]
    paper["train"] |= {"batch_size": 4, "momentum_encoder": False, "select": "last"}
    paper["evaluate"] |= {"rerank_k": 4}
    return write_spec(folder / "spec.toml", spec)
