"""Which score is explained."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cutaway_server.models.scores import ScoresKind, probabilities

_ALIKE = 3  # classes that a finer map is told apart from, and how much their mean counts: Zhang et al. 2025
_STRENGTH = 0.6


@dataclass(frozen=True)
class Target:
    """Which score is explained.

    Attributes:
        classes: one index for all samples or one for each; empty for the class of each sample's score of this rank.
        against: as classes: what the score of these is taken off; empty for nothing.
        rank: 0 for the best.
        probability: whether the class's probability is meant instead of the network's own score.
        finer: whether part of the score of the classes most alike is taken off.
    """

    classes: tuple[int, ...] = ()
    against: tuple[int, ...] = ()
    rank: int = 0
    probability: bool = False
    finer: bool = False

    def __post_init__(self) -> None:
        for name in ("classes", "against"):
            if len(set(indices := getattr(self, name))) == 1:  # the same for all samples: one score, however it was written
                object.__setattr__(self, name, indices[:1])


PREDICTED = Target()


class Question:
    """A target with its classes decided, for scores of these samples and of any variation of them.

    Args:
        scores: [N, classes, …]: of the samples as they are.
    Attributes:
        classes: [N] int64.
        against: [N] int64; None for nothing.
    """

    def __init__(self, target: Target, scores: Tensor, kind: ScoresKind) -> None:
        self._target = target
        self._kind = kind
        by_class = _by_class(scores.detach())
        self.classes = _chosen(target.classes, scores) if target.classes else _ranked(by_class, target.rank)
        self.against = _chosen(target.against, scores) if target.against else None
        self._alike = _most_alike(by_class, self.classes) if target.finer else None

    def of(self, scores: Tensor, samples: Tensor | None = None) -> Tensor:
        """[n], float32 or wider: the score explained, of scores [n, classes, …] of these samples; differentiable.

        Args:
            samples: which sample each row varies, [n] int64; None for all, in their order.
        """
        values = _by_class(probabilities(scores, self._kind) if self._target.probability else scores)
        rows = slice(None) if samples is None else samples
        picked = values.gather(1, self.classes[rows, None]).squeeze(1)
        if self.against is not None:
            picked = picked - values.gather(1, self.against[rows, None]).squeeze(1)
        if self._alike is not None and self._alike.shape[1]:
            picked = picked - _STRENGTH * values.gather(1, self._alike[rows]).mean(1)
        return picked if picked.dtype is torch.float64 else picked.float()

    def as_probability(self) -> "Question":
        """The same classes' probability."""
        other = object.__new__(Question)
        other.__dict__ |= self.__dict__ | {"_target": replace(self._target, probability=True, finer=False), "_alike": None}
        return other


def _by_class(scores: Tensor) -> Tensor:
    return scores if scores.ndim == 2 else scores.flatten(2).mean(2)


def _ranked(scores: Tensor, rank: int) -> Tensor:
    return scores.argsort(dim=1, descending=True, stable=True)[:, rank]


def _chosen(classes: tuple[int, ...], scores: Tensor) -> Tensor:
    return torch.tensor(classes, device=scores.device).expand(len(scores))


def _most_alike(scores: Tensor, classes: Tensor) -> Tensor:
    """[N, 3] int64, or fewer where there are fewer classes: those whose score is nearest to each sample's class's."""
    distance = (scores - scores.gather(1, classes[:, None])).abs()
    distance = distance.scatter(1, classes[:, None], torch.inf)
    return distance.topk(min(_ALIKE, scores.shape[1] - 1), largest=False).indices
