"""What the scores of a network are, and the best classes that they name."""

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

_SUM_OFF = 1e-2  # how far from 1 probabilities in half precision may add up


class ScoresKind(StrEnum):
    """What the numbers that a network puts out are."""

    LOGITS = "logits"
    LOG_PROBABILITIES = "log_probabilities"
    PROBABILITIES = "probabilities"
    SIGMOID = "sigmoid"


@dataclass(frozen=True, slots=True)
class ScoredClass:
    """One class and what the network says of it."""

    index: int
    score: float
    probability: float


def probabilities(scores: Tensor, kind: ScoresKind) -> Tensor:
    """Probabilities of the classes along axis 1, same shape as `scores`, float32 or wider. Differentiable."""
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    if kind is ScoresKind.LOGITS:
        return scores.softmax(dim=1)
    return scores.exp() if kind is ScoresKind.LOG_PROBABILITIES else scores


def top_classes(scores: Tensor, kind: ScoresKind, k: int) -> list[list[ScoredClass]]:
    """The k best classes of each sample, best first.

    Args:
        scores: [N, classes], floating.
        kind: how probabilities follow from them.
        k: 0 means none; more than there are means all.
    """
    if k == 0:
        return []
    best = scores.topk(min(k, scores.shape[1]), dim=1)
    chances = probabilities(scores, kind).gather(1, best.indices)
    rows = zip(best.indices.tolist(), best.values.tolist(), chances.tolist(), strict=True)
    return [[ScoredClass(*members) for members in zip(*row, strict=True)] for row in rows]


def contradiction(scores: Tensor, kind: ScoresKind) -> str:
    """What shows that scores, whose classes lie along axis 1, are not of this kind; empty where nothing does."""
    values = scores.double()
    sums = values.sum(dim=1)
    within = bool(((values >= 0) & (values <= 1)).all())
    add_up = torch.allclose(sums, torch.ones_like(sums), atol=_SUM_OFF)
    if not values.isfinite().all():
        return ""
    if kind is ScoresKind.LOGITS and scores.shape[1] > 1 and within and add_up:
        return "for a probe they lie between 0 and 1 and add up to 1, as probabilities do: a second softmax would flatten them"
    if kind is ScoresKind.PROBABILITIES and not (within and add_up):
        return "for a probe they are not between 0 and 1 with a sum of 1"
    if kind is ScoresKind.LOG_PROBABILITIES and contradiction(values.exp(), ScoresKind.PROBABILITIES):
        return "for a probe the sum of their exponentials is not 1"
    if kind is ScoresKind.SIGMOID and not within:
        return "for a probe they are not between 0 and 1"
    return ""
