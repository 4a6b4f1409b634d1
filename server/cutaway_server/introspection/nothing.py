"""Why a map says nothing: it is 0 everywhere, or holds numbers that are not finite."""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from cutaway_server.introspection.look import INPUT, Look, NoGradient
from cutaway_server.introspection.plan_cams import PlannedCam


class Nothing(Enum):
    """Why, as a sentence."""

    DEAD_LAYER = "the layer put out zeros only, as a dead ReLU does"
    SATURATED = "the probability is 0 or 1 to float32's precision, so its gradient is 0: explain the model's own score"
    GRADIENT_VANISHED = "the score's gradient is 0 at the whole layer, as behind a dead ReLU: try another layer"
    NOTHING_POSITIVE = (
        "all its values were negative and became 0: nothing at this layer speaks for the class; relu=false shows them"
    )
    CANCELLED = "what the method weighs by is 0 everywhere, or cancels"
    NOT_FINITE = "the layer, the gradient or a quotient of the method is NaN or infinite"


@dataclass(frozen=True)
class Note:
    """One sample whose map says nothing, and why."""

    sample: int
    why: Nothing


def notes(planned: PlannedCam, look: Look, plane: Tensor) -> tuple[Note, ...]:
    """The samples whose map, [N, …], says nothing."""
    rows = plane.flatten(1)
    broken, empty = ~rows.isfinite().all(1), (rows == 0).all(1)
    found = [Note(sample, Nothing.NOT_FINITE) for sample in broken.nonzero().flatten().tolist()]
    found += [Note(sample, _why_zero(planned, look, sample)) for sample in empty.nonzero().flatten().tolist()]
    return tuple(sorted(found, key=lambda note: note.sample))


def _why_zero(planned: PlannedCam, look: Look, sample: int) -> Nothing:
    names = [layer.name for layer in planned.layers]
    sources = [look.activation(name) for name in names] if names else [look.x]
    if all(source is None or not source[sample].any() for source in sources):
        return Nothing.DEAD_LAYER
    if planned.method.differentiates and _no_gradient(planned, look, sample, names or [INPUT]):
        return Nothing.SATURATED if _is_saturated(planned, look, sample) else Nothing.GRADIENT_VANISHED
    return Nothing.NOTHING_POSITIVE if planned.relu else Nothing.CANCELLED


def _no_gradient(planned: PlannedCam, look: Look, sample: int, names: list[str]) -> bool:
    try:
        return not any(look.gradient(planned.target, name)[sample].any() for name in names)
    except (NoGradient, KeyError):  # a method of many runs has gradients of its own
        return True


def _is_saturated(planned: PlannedCam, look: Look, sample: int) -> bool:
    if not planned.target.probability:
        return False
    chance = look.question(planned.target).of(look.scores.detach())[sample]
    return bool(torch.minimum(chance, 1 - chance) < torch.finfo(torch.float32).eps)
