"""What the scores of a network are, and the best classes that they name."""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor


class ScoresKind(Enum):
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
