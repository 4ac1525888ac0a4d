"""Training losses of retrieval: contrastive (VTC), matching (VTM) and its hard negatives.

Legend: B pairs in the batch, K candidates (the batch, then the queue if there is one).

Sources: BLIP's objectives (ITC, ITM) with clips for images, see DESIGN section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from litevl.model.shapes import expect

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.001, 0.5  # BLIP clamps its learned temperature so
NEGATIVE_EPSILON = 1e-4  # BLIP's pre-training adds it; its retrieval code lacks it and crashes


def positive_targets(ids: Tensor, candidate_ids: Tensor) -> Tensor:
    """Rows that share their weight among all candidates with the row's clip id: (B, K).

    ids: (B,), candidate_ids: (K,). A clip's other captions in the batch are positives too.
    """
    same = (ids[:, None] == candidate_ids[None]).float()
    return same / same.sum(dim=1, keepdim=True)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of -sum(targets * log_softmax(logits)). Both (B, K); returns ()."""
    sizes = expect("logits", logits, "B K")
    expect("targets", targets, "B K", **sizes)
    return -(targets * logits.float().log_softmax(dim=1)).sum(dim=1).mean()


def contrastive_loss(
    video_to_text: Tensor, text_to_video: Tensor, targets_v2t: Tensor, targets_t2v: Tensor
) -> Tensor:
    """VTC: the mean of both directions. All (B, K), similarities divided by temperature."""
    return (
        soft_cross_entropy(video_to_text, targets_v2t)
        + soft_cross_entropy(text_to_video, targets_t2v)
    ) / 2


@torch.no_grad()
def hard_negatives(
    similarity: Tensor, ids: Tensor, generator: torch.Generator, count: int = 1
) -> Tensor:
    """For each row indices of other clips, drawn with probability softmax(similarity): (B, K).

    similarity: (B, B) divided by temperature; ids: (B,) clip of each row. count: so many different
    ones, or as many as every row has. Where the batch holds one clip only there is no negative: the
    row's own index comes back and must be left out. The draw is made on the CPU, so that a seed
    gives the same negatives on any device.
    """
    sizes = expect("similarity", similarity, "B B")
    expect("ids", ids, "B", B=sizes["B"])
    other = ids[:, None] != ids[None]
    # Not finite: the loss is not finite either, and its reader can say so; multinomial would raise.
    finite = similarity.float().nan_to_num()
    weights = (finite.softmax(dim=1) + NEGATIVE_EPSILON) * other
    alone = ~other.any(dim=1)
    weights[alone, torch.arange(len(ids), device=ids.device)[alone]] = 1.0
    weights = weights.cpu()
    fewest = int((weights > 0).sum(dim=1).min())
    drawn = torch.multinomial(weights, min(count, fewest), generator=generator)
    return drawn.to(similarity.device)


def matching_loss(logits: Tensor, labels: Tensor, times: Tensor) -> Tensor:
    """VTM: mean cross entropy of pairs, each of which counts as often as it was drawn.

    logits: (P, 2), index 1 for a match. labels: (P,) 0 or 1. times: (P,). Returns ().
    """
    per_pair = F.cross_entropy(logits.float(), labels, reduction="none")
    return (per_pair * times).sum() / times.sum()
