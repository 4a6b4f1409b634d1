"""Class activation maps: one file a method, each a pure function from tensors to a map."""

from dataclasses import dataclass
from enum import Enum


class Needs(Enum):
    """What a method weighs the target layer's channels by."""

    HEAD = "the weights of one linear layer on the global average of the target layer"
    GRADIENT = "the gradient of the score with respect to the target layer"


@dataclass(frozen=True)
class Method:
    """A method and what its paper says.

    Attributes:
        relu: whether the published map has its negative values set to 0.
    """

    name: str
    needs: Needs
    relu: bool


METHODS = {method.name: method for method in (Method("cam", Needs.HEAD, relu=False), Method("grad-cam", Needs.GRADIENT, relu=True))}
