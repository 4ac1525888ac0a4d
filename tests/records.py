"""Made-up runs for the tests of records and reports: the right shapes, invented numbers."""

import json
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from litevl import metrics
from litevl.record import read_arrays, write_plan, write_record

VARIANTS = {
    "full": "LiteVL, everything on",
    "no-temporal-attention": "without temporal attention",
    "no-scaling": "without dynamic temporal scaling",
    "mean-pooling": "mean instead of text-dependent pooling",
    "concat-pooling": "all tokens, BLIP's way",
}
STRENGTH = dict(zip(VARIANTS, (2.6, 1.2, 2.5, 2.0, 2.8), strict=True))


def run_id(variant: str, seed: int, profile: str = "mini", key: str = "0123abcd") -> str:
    return f"msrvtt-{profile}-{variant}-s{seed}-{key}"


def make_arrays(variant: str, seed: int, num_queries: int = 60) -> dict[str, Any]:
    """Ranks from noisy similarities; the noise is partly shared, so that pairing helps."""
    shared = np.random.default_rng(7).normal(size=(num_queries, num_queries))
    rng = np.random.default_rng([seed, len(variant)])
    noise = shared + 0.5 * rng.normal(size=shared.shape)
    right = STRENGTH[variant] * np.eye(num_queries)
    scores, shuffled = noise + right, noise + 0.6 * right
    truth = np.arange(num_queries)
    top = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    t2v, v2t = metrics.ranks(scores, truth), metrics.ranks(scores.T, truth)
    knows_order = variant != "no-temporal-attention"
    return {
        "query_ids": np.array([f"clip{i}#0" for i in range(num_queries)]),
        "captions": np.array(
            [f"a red square moves left past disc {i}" for i in range(num_queries)]
        ),
        "gallery_ids": np.array([f"clip{i}" for i in range(num_queries)]),
        "clusters": truth // 2,
        "truth": truth,
        "t2v_ranks": t2v,
        "v2t_ranks": v2t,
        "t2v_itc_ranks": t2v,
        "v2t_itc_ranks": v2t,
        "order_right": (rng.random(num_queries) < (0.9 if knows_order else 0.5)).astype(float),
        "t2v_shuffled_ranks": metrics.ranks(shuffled, truth) if knows_order else t2v,
        "t2v_top": top,
        "t2v_top_scores": np.take_along_axis(scores, top, axis=1),
    }


def make_strips(arrays: dict[str, Any], num_frames: int = 8, size_px: int = 64) -> dict[str, Any]:
    """A disc that moves across a plain frame, for three right and three wrong queries."""
    first_is_right = arrays["t2v_top"][:, 0] == arrays["truth"]
    queries = np.concatenate(
        [np.flatnonzero(first_is_right)[:3], np.flatnonzero(~first_is_right)[:3]]
    )
    top = arrays["t2v_top"][queries, :3]
    rows, columns = np.mgrid[:size_px, :size_px]
    frames = np.zeros((*top.shape, num_frames, size_px, size_px, 3), np.uint8)
    for at, clip in np.ndenumerate(top):
        colour = np.random.default_rng(int(clip)).integers(60, 255, 3)
        frames[at] = (colour // 3).astype(np.uint8)
        for t in range(num_frames):
            x = size_px * (t + 1) / (num_frames + 1)
            disc = (rows - size_px / 2) ** 2 + (columns - x) ** 2 < (size_px / 7) ** 2
            frames[at][t][disc] = colour
    rng = np.random.default_rng(1)
    weights, patches = (rng.gamma(4, size=(*top.shape, count)) for count in (num_frames, 64))
    return {
        "queries": queries,
        "top": top,
        "scores": arrays["t2v_top_scores"][queries, :3],
        "frames": frames,
        "frame_weights": weights / weights.mean(axis=-1, keepdims=True),
        "patch_weights": patches / patches.mean(axis=-1, keepdims=True),
        "right": first_is_right[queries],
    }


def make_metrics(arrays: dict[str, Any]) -> dict[str, Any]:
    rng, clusters = np.random.default_rng(0), arrays["clusters"]
    found = metrics.retrieval_metrics(arrays["t2v_ranks"], arrays["v2t_ranks"], clusters, rng)
    found["order_accuracy"] = metrics.order_accuracy(arrays["order_right"], clusters, rng)
    found["shuffle_sensitivity"] = metrics.shuffle_sensitivity(
        arrays["t2v_ranks"], arrays["t2v_shuffled_ranks"], clusters, rng
    )
    return found


def make_curves(variant: str, seed: int) -> dict[str, Any]:
    noise = np.random.default_rng([seed, len(variant), 1])
    steps = range(0, 600, 10)
    loss = [1 + 4 * float(np.exp(-s / 150)) + 0.15 * float(noise.normal()) for s in steps]
    return {
        "train": [
            {"step": s, "loss": x, "vtc": 0.6 * x, "vtm": 0.4 * x, "learning_rate": 1e-4}
            for s, x in zip(steps, loss, strict=True)
        ],
        "validation": [
            {
                "step": s,
                "t2v-itc/R@1": 20 * STRENGTH[variant] * (1 - float(np.exp(-s / 200))),
                "accuracy": None,
                "order_accuracy": 50 + (0 if variant == "no-temporal-attention" else s / 15),
            }
            for s in range(100, 601, 100)
        ],
    }


SPEC = {
    "name": "msrvtt",
    "title": "Text-to-video retrieval on MSRVTT",
    "data": {"dataset": "msrvtt", "max_tokens": 40},
    "model": {"temporal_attention": True, "scaling": "dynamic", "pooling": "text"},
    "train": {"epochs": 10, "learning_rate": 1e-4, "seeds": [0, 1, 2]},
}
CHANGES: dict[str, dict[str, Any]] = {
    "full": {},
    "no-temporal-attention": {"temporal_attention": False, "scaling": "none"},
    "no-scaling": {"scaling": "none"},
    "mean-pooling": {"pooling": "mean"},
    "concat-pooling": {"pooling": "concat"},
}


def counts(clips: int, captions: int) -> dict[str, Any]:
    of_questions = {"questions": None, "outside_list": None}
    return {"expected": clips, "found": clips, "broken": 0, "captions": captions} | of_questions


def make_record(variant: str, seed: int, arrays: dict[str, Any], profile: str = "mini") -> dict:
    """A complete, comparable record; change it as a test needs."""
    scale = np.random.default_rng(seed).normal(1, 0.1, (4, 8)).round(4).tolist()
    num = len(arrays["query_ids"])
    return {
        "schema": 1,
        "status": "complete",
        "error": None,
        "run": {
            "id": run_id(variant, seed, profile),
            "spec": "msrvtt",
            "title": SPEC["title"],
            "profile": profile,
            "profile_reason": "no MSRVTT clips under data/msrvtt",
            "variant": variant,
            "seed": seed,
            "started": f"2026-01-02T03:0{seed}:05+00:00",
            "comparable": True,
            "not_comparable_because": [],
            "limits": {"subset": None, "max_steps": None},
        },
        "spec": SPEC | {"variant": variant, "model": SPEC["model"] | CHANGES[variant]},
        "code": {"version": "0.1.0", "commit": "a" * 40, "dirty": False},
        "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
        "hardware": {
            "device": "cpu",
            "processor": "Some Processor",
            "cores": 2,
            "memory_gib": 23.4,
            "python": "3.11.7",
            "platform": "Linux",
            "threads": 2,
            "processes": 1,
        },
        "data": {
            "dataset": "msrvtt",
            "fingerprint": "f" * 64,
            "splits": {
                "train": counts(1200, 3600),
                "test": counts(num, num),
            },
            "notes": ["drawn scenes, seed 0"],
            "answer_list": None,
        },
        "weights": {
            "source": "mini-blip",
            "sha256": "b" * 64,
            "loaded": 120,
            "new_by_design": ["vision.blocks.0.temporal.norm.weight"],
            "dropped_by_design": ["text_decoder.cls.bias"],
            "layout": "litevl",
            "revision": None,
            "fresh": [],
            "resized": [],
            "notes": [],
        },
        "timings_seconds": {"data": 2.0, "train": 90.5, "evaluate": 8.25, "total": 100.75},
        "cost": {
            "parameters": 3_400_000,
            "flops_per_clip": 1_250_000_000,
            "flops_per_pair": 30_000_000,
            "peak_memory_gib": 1.4,
            "device_hours": 0.028,
            "waiting_share": 0.02,
        },
        "selection": {"select": "last", "epoch": 10},
        "metrics": {"test": make_metrics(arrays), "validation": {}},
        "curves": make_curves(variant, seed),
        "temporal_scale": scale if CHANGES[variant].get("scaling") != "none" else None,
    }


CLAIM = {
    "name": "temporal-attention-helps",
    "better": "full",
    "worse": "no-temporal-attention",
    "metric": "t2v/R@1",
    "sentence": "Temporal attention improves retrieval.",
}
TARGET = {
    "metric": "t2v/R@1",
    "variant": "full",
    "value": 83.21,
    "tolerance": 1.2,
    "provenance": {"source": "secondary", "note": "quoted by another paper"},
}
PUBLISHED = {
    "system": "Another model",
    "values": {"t2v/R@1": 99.87, "t2v/R@10": 99.98},
    "flags": ["7K", "two looks at the test"],
    "provenance": {"source": "secondary", "note": "its README"},
}


def make_plan(ids: list[str], **changes: Any) -> dict[str, Any]:
    return {
        "ids": ids,
        "spec_file": "reproductions/msrvtt.toml",
        "claims": [CLAIM],
        "targets": [TARGET],
        "published": [PUBLISHED],
        "provenance": {"model.scaling": {"source": "reconstructed", "note": "our form of it"}},
        "variants": [{"name": name, "title": title} for name, title in VARIANTS.items()],
        "command": "nox -s reproduce-msrvtt",
    } | changes


def write_study(
    records_dir: Path,
    variants: Iterable[str] = tuple(VARIANTS),
    seeds: Iterable[int] = (0,),
    profile: str = "mini",
    num_queries: int = 60,
) -> Path:
    """Complete records with strips, and the plan that asked for them; returns their folder."""
    folder, ids = records_dir / "msrvtt", []
    for seed, variant in product(seeds, variants):
        arrays = make_arrays(variant, seed, num_queries)
        record = make_record(variant, seed, arrays, profile)
        write_record(folder, record, arrays, make_strips(arrays, size_px=16))
        ids.append(record["run"]["id"])
    write_plan(folder, profile, make_plan(ids))
    return folder


def change_record(folder: Path, run_id: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """Edit a written record in place, as a text editor would: nothing checks it."""
    path = folder / f"{run_id}.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return path


def change_arrays(folder: Path, run_id: str, **arrays: Any) -> None:
    """Replace arrays of a written run and let its record's metrics follow."""
    path = folder / f"{run_id}.json"
    changed = read_arrays(path) | arrays
    record = json.loads(path.read_text())
    record["metrics"]["test"] = make_metrics(changed)
    write_record(folder, record, changed)
