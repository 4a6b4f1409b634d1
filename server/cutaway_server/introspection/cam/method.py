"""What a method of explanation is: what it asks for, what it makes of that, and what its paper says."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Needs(Enum):
    """What a method takes besides the activation of its layer (or the network's input), in the order of its arguments."""

    HEAD = "the linear head's weights"
    GRADIENT = "the gradient"
    CURVATURE = "the gradient and its derivative"
    ACTIVATION = "nothing else"
    RUNS = "more runs of the network"
    CHANCE = "a random generator"


class Join(Enum):
    """How the parts that channels add to a map become one."""

    SUM = "sum"
    PRINCIPAL = "principal"
    LARGEST = "largest"
    NONE = "none"


@dataclass(frozen=True)
class Options:
    """Numbers that some methods take. Empty and 0 stand for the method's own.

    Attributes:
        steps: of a path, or noisy inputs.
        window, stride: of an occlusion, in pixels: one for all axes in space, or one for each.
    """

    steps: int = 0
    window: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()


OWN = Options()


class Extent(NamedTuple):
    """What a method's passes depend on: channels of its layer, sizes of the network's input in space, options in force."""

    channels: int
    space: tuple[int, ...]
    options: Options


class Passes(NamedTuple):
    """Runs of the network, and of the chain rule back from a score, for each sample."""

    forward: int = 0
    backward: int = 0


Variations = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From numbers [m] int64 of variations to the samples that they vary, [m] int64, and to what the network is to run on, [m, …]."""


class Runs(Protocol):
    """The network, to be run many times: in batches, with progress, until the call is stopped.

    Attributes:
        x: [N, c, …] float32: the network's input.
        scores: [N] float32: the score that is explained, of the inputs as they are.
        options: all set.
        draw: seeded by the request.
    """

    x: Tensor
    scores: Tensor
    options: Options
    draw: torch.Generator

    def of_inputs(self, count: int, vary: Variations) -> Tensor:
        """[count] float32: the score for each variation of the network's input."""

    def of_layer(self, count: int, vary: Variations) -> Tensor:
        """[count] float32: the score where the target layer's output is replaced by each variation of it."""

    def gradients(self, count: int, vary: Variations, *, guided: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """For each batch of variations of the input: their samples [m] and d score / d input, [m, …] float32.

        Args:
            guided: whether rectifiers let nothing negative back.
        """


def no_passes(extent: Extent) -> Passes:
    """All is had from the pass that all methods share."""
    return Passes()


@dataclass(frozen=True)
class Method:
    """A method and what its paper says.

    Attributes:
        parts: from the layer's activation [N, C, …], float32, and what `needs` names, to what each channel adds to the map,
            [N, C', …], float32, in the score's unit unless its docstring says otherwise.
        formula: for the docs, with A the activation, g the gradient of the score y, x the input, k a channel.
        at_input: whether it explains at the network's input instead of at a layer.
        join: how the parts become a map.
        relu: whether the published map has its negative values set to 0.
        chance: whether it draws random numbers.
        finer: whether the score is what sets its class apart from those most like it.
        default: options where the request has none; from the sizes of the network's input in space.
        passes: beyond those that all methods share.
        use, avoid: when to, and when not, for the docs.
    """

    name: str
    paper: str
    formula: str
    parts: Callable[..., Tensor]
    needs: Needs
    use: str
    avoid: str
    at_input: bool = False
    join: Join = Join.SUM
    relu: bool = True
    chance: bool = False
    finer: bool = False
    default: Callable[[tuple[int, ...]], Options] = lambda space: OWN
    passes: Callable[[Extent], Passes] = no_passes

    @property
    def differentiates(self) -> bool:
        """Whether it needs a gradient."""
        return self.needs in (Needs.GRADIENT, Needs.CURVATURE) or self.passes(Extent(1, (1,), self.default((1,)))).backward > 0


def space(tensor: Tensor) -> tuple[int, ...]:
    """The axes after [N, C]."""
    return tuple(range(2, tensor.ndim))


def spread(weights: Tensor, over: Tensor) -> Tensor:
    """Weights [n, C] as [n, C, 1, …], to be multiplied with a tensor [n, C, …]."""
    return weights.reshape(*weights.shape, *[1] * (over.ndim - weights.ndim))
