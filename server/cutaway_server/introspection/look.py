"""One pass of the network, and the gradients that it allows."""

import time

import torch
from torch import Tensor

from cutaway_server.introspection.target import Question, Target
from cutaway_server.models.scores import ScoresKind

INPUT = ""  # the network's first input, among the names of layers
NO_WAY = "nothing that PyTorch can differentiate leads from it to the score"
_OVERWRITTEN = "the way from it to the score cannot be differentiated: the network overwrites what that would need"

Where = tuple[str, str]
"""A layer's name, or INPUT, and the path in what it puts out."""


class NoGradient(Exception):
    """There is none; the message says why."""


class Look:
    """What one pass of the network left: what layers put out, and the scores.

    All gradients of one score come from one run of the chain rule.

    Args:
        x: the network's first input.
        held: by layer and path; what PyTorch recorded from, where gradients are wanted.
        scores: the network's.
        questions: targets that an earlier look decided; others are decided by these scores.
    Attributes:
        seconds: spent on gradients so far.
    """

    def __init__(
        self,
        x: Tensor,
        held: dict[str, dict[str, Tensor]],
        scores: Tensor,
        kind: ScoresKind,
        questions: dict[Target, Question] | None = None,
    ) -> None:
        self.x = x.detach().float()
        self.held = held
        self.scores = scores
        self.questions = {} if questions is None else questions
        self.seconds = 0.0
        self._kind = kind
        self._gradients: dict[Target, dict[Where, Tensor | str]] = {}

    def question(self, target: Target) -> Question:
        """The target with its classes decided."""
        if target not in self.questions:
            self.questions[target] = Question(target, self.scores, self._kind)
        return self.questions[target]

    def activation(self, layer: str) -> Tensor | None:
        """What the layer put out, in float32; None where it did not run."""
        found = self.held.get(layer, {}).get("")
        return None if found is None else found.detach().float()

    def gradient(self, target: Target, layer: str, path: str = "") -> Tensor:
        """D score / d what is held there, in the network's own dtype.

        Raises:
            NoGradient: says why.
        """
        if target not in self._gradients:
            began = time.monotonic()
            self._gradients[target] = self._backward(target)
            self.seconds += time.monotonic() - began
        gradient = self._gradients[target][layer, path]
        if isinstance(gradient, str):
            raise NoGradient(gradient)
        return gradient

    def curvature(self, target: Target, layer: str) -> tuple[Tensor, Tensor]:
        """The gradient at a layer, and the Hessian times the activation, both in float32.

        Raises:
            NoGradient: says why.
        """
        leaf = self.held[layer][""]
        gradient = self.gradient(target, layer)
        try:
            (recorded,) = torch.autograd.grad(self._score(target), [leaf], create_graph=True)
            if not recorded.requires_grad:  # the score is linear in it
                return gradient.float(), torch.zeros_like(gradient).float()
            (product,) = torch.autograd.grad(recorded, [leaf], grad_outputs=leaf.detach(), retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            raise NoGradient("the way from it to the score cannot be differentiated twice") from error
        return gradient.float(), torch.zeros_like(gradient).float() if product is None else product.detach().float()

    def _score(self, target: Target) -> Tensor:
        with torch.enable_grad():
            return self.question(target).of(self.scores).sum()  # samples are independent: each one's gradient is its own score's

    def _backward(self, target: Target) -> dict[Where, Tensor | str]:
        leaves = {(layer, path): tensor for layer, paths in self.held.items() for path, tensor in paths.items()}
        wanted = {where: leaf for where, leaf in leaves.items() if leaf.requires_grad}
        found: dict[Where, Tensor | str] = dict.fromkeys(leaves, NO_WAY)
        if not self.scores.requires_grad or not wanted:
            return found
        score = self._score(target)
        try:
            gradients = _gradients(score, list(wanted.values()))
        except RuntimeError:  # one that cannot be had must not cost the others theirs
            return found | {where: _apart(score, leaf) for where, leaf in wanted.items()}
        came = zip(wanted, gradients, strict=True)
        return found | {where: gradient for where, gradient in came if gradient is not None}


def _gradients(score: Tensor, leaves: list[Tensor]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(score, leaves, retain_graph=True, allow_unused=True)


def _apart(score: Tensor, leaf: Tensor) -> Tensor | str:
    try:
        (gradient,) = _gradients(score, [leaf])
    except RuntimeError:
        return _OVERWRITTEN
    return NO_WAY if gradient is None else gradient
