"""What a trained question-answering model is worth: metrics, per-question values, film strips.

Legend: Q questions, E example questions, K answers kept, T frames, S pixels.
"""

from __future__ import annotations

import numpy as np
import torch

from litevl import metrics
from litevl.data.dataset import normalise
from litevl.engine.answering import answer_questions, is_right
from litevl.engine.clips import ClipSet
from litevl.engine.distributed import ALONE, Group
from litevl.engine.precision import computing
from litevl.measure import NUM_EXAMPLES, Arrays, Scored, picked, shrunk, weights_of
from litevl.model.question_answering import LiteVLForQuestionAnswering
from litevl.question_metrics import question_metrics, shuffle_sensitivity
from litevl.spec import Resolved

NUM_TOP = 5  # answers kept per question


def score_run(
    model: LiteVLForQuestionAnswering,
    settings: Resolved,
    clips: dict[str, ClipSet],
    seed: int,
    group: Group = ALONE,
) -> Scored:
    """Answer the questions of the validation split (if any) and of the test split."""
    found: dict[str, dict[str, metrics.Metric]] = {}
    arrays: Arrays = {}
    for split in ("validation", "test"):
        if clips[split].questions():
            found[split], arrays = score_split(model, settings, clips[split], split, seed, group)
    return Scored(found, arrays, film_strips(model, settings, clips["test"], arrays))


def score_split(
    model: LiteVLForQuestionAnswering,
    settings: Resolved,
    clips: ClipSet,
    split: str,
    seed: int,
    group: Group,
) -> tuple[dict[str, metrics.Metric], Arrays]:
    """Metrics and per-question arrays of one split; an answer outside the list counts as wrong."""
    precision = settings.evaluate.precision
    plain, shuffled = (
        answer_questions(
            model,
            clips,
            settings,
            np.random.default_rng([seed, int(shuffle)]),
            precision,
            shuffle,
            f"answering {split}" + (", frames shuffled" if shuffle else ""),
            group,
        )
        for shuffle in (False, True)
    )
    asked = clips.questions()
    clusters, listed = clips.clusters(), set(clips.answers)
    needs_order = clips.needs_order()
    arrays: Arrays = {
        "query_ids": np.array([question.id for _, question in asked]),
        "questions": np.array([question.text for _, question in asked]),
        "answers": np.array([question.answer for _, question in asked]),
        "kinds": np.array([question.kind for _, question in asked]),
        "clip_ids": np.array([clips.clips[clip].id for clip, _ in asked]),
        "clusters": clusters[[clip for clip, _ in asked]],
        "answer_list": np.array(clips.answers),
        "top": plain.top[:, :NUM_TOP],
        "top_scores": plain.scores[:, :NUM_TOP],
        "right": is_right(plain, clips),
        "in_list": np.array([float(question.answer in listed) for _, question in asked]),
        "shuffled_right": is_right(shuffled, clips),
    }
    if needs_order is not None:
        arrays["needs_order"] = needs_order
    rng = np.random.default_rng(seed)
    values = question_metrics(
        arrays["right"],
        arrays["in_list"],
        arrays["answers"],
        arrays["kinds"],
        needs_order,
        arrays["clusters"],
        rng,
    )
    values["shuffle_sensitivity"] = shuffle_sensitivity(
        arrays["right"], arrays["shuffled_right"], arrays["clusters"], rng
    )
    return values, arrays


@torch.inference_mode()
def film_strips(
    model: LiteVLForQuestionAnswering, settings: Resolved, clips: ClipSet, arrays: Arrays
) -> Arrays:
    """Some questions answered right and some wrong, with the weights in their clip.

    Weights have mean 1.
    """
    chosen = picked(arrays["right"] > 0, NUM_EXAMPLES)
    asked = [clips.questions()[query] for query in chosen]
    sampler, rng = settings.frames.eval_sampler, np.random.default_rng(0)
    pictures = clips.pictures([clip for clip, _ in asked], sampler, rng)
    device = next(model.parameters()).device
    questions = clips.tokens([question.text for _, question in asked]).to(device)
    model.eval()
    with computing(settings.evaluate.precision, device):
        video = model.encode_video(normalise(pictures).to(device))
        of_frames, of_patches = model.pooling_weights(video, model.encode_question(questions))
    return {
        "queries": np.array(chosen, dtype=np.int64),
        "frames": shrunk(pictures.numpy()),
        "frame_weights": weights_of(of_frames, (len(chosen), settings.frames.num_frames)),
        "patch_weights": weights_of(of_patches, (len(chosen), model.config.num_patches)),
        "right": arrays["right"][chosen] > 0,
    }
