"""Which of the tensors that a network puts out are its scores."""

from typing import Any

from torch import Tensor


def pick(output: Any, head: str) -> Tensor:
    """The tensor at a path of a nested value, as `walk.tensors` writes paths; "" is the value itself.

    Raises:
        LookupError, ValueError, TypeError: nothing is there.
    """
    for key in head.split(".") if head else ():
        output = output[int(key)] if isinstance(output, tuple | list) else output[key]
    if not isinstance(output, Tensor):
        raise TypeError(f"a {type(output).__name__} is no tensor")
    return output
