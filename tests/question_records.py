"""Made-up runs of question answering: the right shapes, invented answers."""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from records import CLAIM, SPEC, TARGET, VARIANTS, make_arrays, make_plan, make_record

from litevl import question_metrics
from litevl.record import write_plan, write_record

KINDS = ("what", "who", "how", "when", "where")
ANSWERS = ("red", "blue", "disc", "ring", "one", "two", "first", "last", "left", "right")
OUTSIDE = "mauve"  # a gold answer that is not listed
STRENGTH = dict(zip(VARIANTS, (0.8, 0.55, 0.75, 0.6, 0.8), strict=True))


def question_run_id(variant: str, seed: int, profile: str = "mini", key: str = "0123abcd") -> str:
    return f"msvd-qa-{profile}-{variant}-s{seed}-{key}"


def make_question_arrays(variant: str, seed: int, num_questions: int = 100) -> dict[str, Any]:
    """Two questions on each clip, of each type in turn; two listed answers fit each type."""
    which = np.arange(num_questions)
    place = which % len(KINDS)
    gold = 2 * place + np.random.default_rng(7).integers(2, size=num_questions)
    answers = np.array(ANSWERS)[gold].astype("U8")
    answers[::17] = OUTSIDE
    rng = np.random.default_rng([seed, len(variant)])
    scores = np.log(rng.random((num_questions, len(ANSWERS))))
    knows = rng.random(num_questions) < STRENGTH[variant]
    scores[which, gold] += np.where(knows, 9.0, 0.0)
    top = np.argsort(-scores, axis=1, kind="stable")[:, :4]
    right = (np.array(ANSWERS)[top[:, 0]] == answers).astype(float)
    needs_order = KINDS.index("when") == place
    return {
        "query_ids": np.array([f"{i}" for i in which]),
        "questions": np.array([f"{KINDS[p]} is on frame {i}?" for i, p in enumerate(place)]),
        "answers": answers,
        "kinds": np.array(KINDS)[place],
        "clip_ids": np.array([f"vid{i // 2}" for i in which]),
        "clusters": which // 4,
        "answer_list": np.array(ANSWERS),
        "top": top,
        "top_scores": np.take_along_axis(scores, top, axis=1),
        "right": right,
        "in_list": np.isin(answers, ANSWERS).astype(float),
        "needs_order": needs_order,
        "shuffled_right": np.where(needs_order & (rng.random(num_questions) < 0.5), 0.0, right),
    }


def make_question_strips(
    arrays: dict[str, Any], num_frames: int = 8, size_px: int = 64
) -> dict[str, Any]:
    """Grey frames that grow lighter, for three right and three wrong questions."""
    right = arrays["right"] == 1
    queries = np.concatenate([np.flatnonzero(right)[:3], np.flatnonzero(~right)[:3]])
    frames = np.zeros((len(queries), num_frames, size_px, size_px, 3), np.uint8)
    frames += np.linspace(20, 220, num_frames).astype(np.uint8)[:, None, None, None]
    rng = np.random.default_rng(1)
    weights, patches = (rng.gamma(4, size=(len(queries), count)) for count in (num_frames, 64))
    return {
        "queries": queries,
        "frames": frames,
        "frame_weights": weights / weights.mean(axis=1, keepdims=True),
        "patch_weights": patches / patches.mean(axis=1, keepdims=True),
        "right": right[queries],
    }


def make_question_metrics(arrays: dict[str, Any]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    names = ("right", "in_list", "answers", "kinds", "needs_order", "clusters")
    found = question_metrics.question_metrics(*(arrays[name] for name in names), rng)
    found["shuffle_sensitivity"] = question_metrics.shuffle_sensitivity(
        arrays["right"], arrays["shuffled_right"], arrays["clusters"], rng
    )
    return found


def make_question_curves(variant: str) -> dict[str, Any]:
    return {
        "train": [
            {
                "step": s,
                "loss": 4 * float(np.exp(-s / 150)),
                "vtc": None,
                "vtm": None,
                "learning_rate": 1e-4,
            }
            for s in range(0, 600, 10)
        ],
        "validation": [
            {
                "step": s,
                "t2v-itc/R@1": None,
                "accuracy": 100 * STRENGTH[variant] * (1 - float(np.exp(-s / 200))),
                "order_accuracy": s / 15,
            }
            for s in range(100, 601, 100)
        ],
    }


def make_question_record(
    variant: str, seed: int, arrays: dict[str, Any], profile: str = "mini"
) -> dict[str, Any]:
    """A complete, comparable record; change it as a test needs."""
    record = make_record(variant, seed, make_arrays(variant, seed, 2), profile)
    num = len(arrays["query_ids"])
    title = "Video question answering on MSVD-QA"
    record["run"] |= {
        "id": question_run_id(variant, seed, profile),
        "spec": "msvd-qa",
        "title": title,
        "profile_reason": "no MSVD-QA clips under data/msvd-qa",
    }
    data = {"dataset": "msvd-qa", "max_tokens": 32, "max_answer_tokens": 4}
    record["spec"] |= {"name": "msvd-qa", "title": title, "data": SPEC["data"] | data}
    counts = {"expected": num // 2, "found": num // 2, "broken": 0, "captions": 0}
    outside = int((arrays["in_list"] == 0).sum())
    record["data"] |= {
        "dataset": "msvd-qa",
        "splits": {
            "train": counts | {"questions": num, "outside_list": 0},
            "test": counts | {"questions": num, "outside_list": outside},
        },
    }
    record["metrics"] = {"test": make_question_metrics(arrays), "validation": {}}
    record["curves"] = make_question_curves(variant)
    return record


QUESTION_CLAIM = CLAIM | {"metric": "accuracy", "sentence": "Temporal attention improves answers."}
QUESTION_TARGET = TARGET | {"metric": "accuracy"}


def write_question_study(
    records_dir: Path,
    variants: Iterable[str] = tuple(VARIANTS),
    seeds: Iterable[int] = (0,),
    profile: str = "mini",
    num_questions: int = 100,
) -> Path:
    """Complete records with strips, and the plan that asked for them; returns their folder."""
    folder, ids = records_dir / "msvd-qa", []
    for seed, variant in product(seeds, variants):
        arrays = make_question_arrays(variant, seed, num_questions)
        record = make_question_record(variant, seed, arrays, profile)
        write_record(folder, record, arrays, make_question_strips(arrays, size_px=16))
        ids.append(record["run"]["id"])
    plan = make_plan(
        ids,
        spec_file="reproductions/msvd_qa.toml",
        claims=[QUESTION_CLAIM],
        targets=[],
        command="nox -s reproduce-msvd-qa",
    )
    write_plan(folder, profile, plan)
    return folder
