"""What a trained retrieval model is worth: metrics, per-query values, film strips.

Legend: Q captions, G clips, E example queries, K clips shown per query, T frames, S pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from litevl import metrics
from litevl.engine.clips import ClipSet
from litevl.engine.distributed import ALONE, Group
from litevl.engine.evaluate import Evaluation, evaluate, evaluate_shuffled, twin_scores
from litevl.engine.precision import computing
from litevl.measure import NUM_EXAMPLES, Arrays, Scored, picked, shrunk, weights_of
from litevl.model.litevl import LiteVLForRetrieval
from litevl.spec import Resolved

NUM_TOP = 10  # clips kept per query
NUM_SHOWN = 5  # clips shown per example


def score_run(
    model: LiteVLForRetrieval,
    settings: Resolved,
    clips: dict[str, ClipSet],
    seed: int,
    group: Group = ALONE,
    folder: Path | None = None,
) -> Scored:
    """Score the validation split (if any) and the test split. folder: see `evaluate`."""
    found: dict[str, dict[str, metrics.Metric]] = {}
    arrays: Arrays = {}
    for split in ("validation", "test"):
        if not len(clips[split]):
            continue
        values, arrays, evaluation = score_split(
            model, settings, clips[split], split, seed, group, folder
        )
        found[split] = values
    return Scored(found, arrays, film_strips(model, settings, clips["test"], evaluation, arrays))


def score_split(
    model: LiteVLForRetrieval,
    settings: Resolved,
    clips: ClipSet,
    split: str,
    seed: int,
    group: Group,
    folder: Path | None,
) -> tuple[dict[str, metrics.Metric], Arrays, Evaluation]:
    """Metrics, per-query arrays and scores of one split; caption i belongs to clip i."""
    options = settings.evaluate
    assert options.score is not None  # the spec's check for retrieval

    rng, shuffling = (np.random.default_rng([seed, which]) for which in (0, 1))
    plain = evaluate(model, clips, settings, rng, f"scoring {split}", group, folder)
    shuffled = evaluate_shuffled(
        model, clips, settings, shuffling, f"scoring {split}, frames shuffled", group, folder
    )
    truth, clusters = np.arange(len(clips)), clips.clusters()
    scores = plain.scores
    arrays: Arrays = {
        "query_ids": np.array([f"{clip.id}#0" for clip in clips.clips]),
        "captions": np.array([clip.captions[0] for clip in clips.clips]),
        "gallery_ids": np.array([clip.id for clip in clips.clips]),
        "clusters": clusters,
        "truth": truth,
        "t2v_ranks": metrics.ranks(scores.text_to_video, truth),
        "v2t_ranks": metrics.ranks(scores.video_to_text.T, truth),
        "t2v_itc_ranks": metrics.ranks(scores.itc, truth),
        "v2t_itc_ranks": metrics.ranks(scores.itc.T, truth),
        "t2v_shuffled_ranks": metrics.ranks(shuffled, truth),
    }
    order = np.argsort(-scores.text_to_video, axis=1, kind="stable")[:, :NUM_TOP]
    arrays["t2v_top"] = order
    arrays["t2v_top_scores"] = np.take_along_axis(scores.text_to_video, order, axis=1)
    rng = np.random.default_rng(seed)
    values = metrics.retrieval_metrics(arrays["t2v_ranks"], arrays["v2t_ranks"], clusters, rng)
    for name in ("t2v-itc", "v2t-itc"):
        ranking = arrays[f"{name.replace('-', '_')}_ranks"]
        values |= metrics.direction_metrics(name, ranking, clusters, rng)
    values["shuffle_sensitivity"] = metrics.shuffle_sensitivity(
        arrays["t2v_ranks"], arrays["t2v_shuffled_ranks"], clusters, rng
    )
    own, _ = clips.twins()
    if len(own) == len(clips):
        with computing(options.precision, plain.text.cls.device):
            right, twin = twin_scores(
                model, plain.video, plain.text, clips, options.score, options.batch_size, group
            )
        arrays["order_right"] = metrics.order_right(right, twin)
        values["order_accuracy"] = metrics.order_accuracy(arrays["order_right"], clusters, rng)
    return values, arrays, plain


@torch.inference_mode()
def film_strips(
    model: LiteVLForRetrieval,
    settings: Resolved,
    clips: ClipSet,
    evaluation: Evaluation,
    arrays: Arrays,
) -> Arrays:
    """Some queries answered right and some wrong, with the weights in each of their best clips.

    The queries are drawn at random, the same ones for the same outcome. Weights have mean 1.
    """
    ranking, rng = metrics.worst(arrays["t2v_ranks"]), np.random.default_rng(0)
    chosen = picked(ranking == 1, NUM_EXAMPLES)
    top = arrays["t2v_top"][chosen][:, :NUM_SHOWN]  # (E, K)
    frames = clips.pictures(top.ravel(), settings.frames.eval_sampler, rng).numpy()
    device = evaluation.text.cls.device
    video = evaluation.video.select(torch.as_tensor(top.ravel(), device=device))
    text = evaluation.text.select(torch.as_tensor(np.repeat(chosen, top.shape[1]), device=device))
    of_frames, of_patches = model.pooling_weights(video, text)
    return {
        "queries": np.array(chosen, dtype=np.int64),
        "top": top,
        "scores": arrays["t2v_top_scores"][chosen][:, :NUM_SHOWN],
        "frames": shrunk(frames.reshape(*top.shape, *frames.shape[1:])),
        "frame_weights": weights_of(of_frames, (*top.shape, settings.frames.num_frames)),
        "patch_weights": weights_of(of_patches, (*top.shape, model.config.num_patches)),
        "right": ranking[chosen] == 1,
    }
