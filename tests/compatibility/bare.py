"""A bare network, and what plain PyTorch, torchvision and captum say of it: nothing here knows the server."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradCam
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from compatibility.networks import Entry
from models.node_names import Trace, copied


class Bare:
    """The network itself, run once with plain hooks.

    Attributes:
        calls: path, class and a copy of the output of each module's call, in the order in which they end.
        scores: at the head's path.
        trace: None where torchvision cannot trace it; `no_trace` says why.
    """

    def __init__(self, entry: Entry) -> None:
        self.network = entry.build()
        self.arguments = entry.inputs()
        self.calls: list[tuple[str, str, Any]] = []
        self._head = entry.head
        self._empty: set[str] = set()  # paths of modules that give back what they are given
        handles = [module.register_forward_hook(self._hook(path)) for path, module in self.network.named_modules() if path]
        with torch.no_grad():
            self.scores = self._pick(self.network(*self.arguments))
        for handle in handles:
            handle.remove()
        self.trace, self.no_trace = self._traced()

    def _hook(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self.calls.append((path, type(module).__name__, copied(output)))
            if any(output is given for _, given in paths(inputs)):
                self._empty.add(path)

        return hook

    def _traced(self) -> tuple[Trace | None, str]:
        try:
            return Trace(self.network, *self.arguments, empty=self._empty), ""
        except Exception as error:  # whatever a stranger's code raises when it is given no tensors
            return None, str(error).partition("\n")[0]

    def computes(self, values: Iterable[Any]) -> bool:
        """Whether PyTorch's functions give these values of an answer, bit for bit and in this order, among others."""
        with torch.no_grad(), _Computed() as computed:
            self.network(*self.arguments)
        given = iter(computed.values)
        return all(any(same(value, other) for other in given) for value in values)

    def _pick(self, output: Any) -> Tensor:
        for step in filter(None, self._head.split(".")):
            output = output[int(step) if step.isdecimal() else step]
        return output

    def grad_cam(self, path: str, classes: Tensor) -> Tensor:
        """Captum's, [N, …], before its ReLU: at the output of a module's last call."""

        def by_class(*arguments: Tensor) -> Tensor:
            return _averaged(self._pick(self.network(*arguments)))

        return LayerGradCam(by_class, self.network.get_submodule(path)).attribute(self.arguments, target=classes).detach()[:, 0]

    def grad_cam_by_hand(self, layer: str, classes: Tensor) -> Tensor:
        """The same at what a layer of the trace gives, by autograd."""
        assert self.trace is not None, "captum has no module there, and nothing else finds it"
        from_there_on = _FromThereOn(self.trace, layer)
        scores = _averaged(self._pick(from_there_on.run(*self.arguments)))
        leaf = from_there_on.leaf
        (gradient,) = torch.autograd.grad(scores.gather(1, classes[:, None]).sum(), leaf)
        weights = gradient.mean(dim=list(range(2, leaf.ndim)), keepdim=True)
        return (weights * leaf).sum(1).detach()


class _Computed(TorchFunctionMode):
    """Copies of whatever PyTorch's functions give while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        output = func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            self.values.append(copied(output))
        return output


class _FromThereOn(fx.Interpreter):
    """Runs a trace, and has PyTorch record from a layer on."""

    def __init__(self, trace: Trace, layer: str) -> None:
        super().__init__(trace.module)
        self._node = next(node for node, name in trace.names.items() if name == layer)
        self.leaf = torch.empty(0)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n is not self._node:
            return value
        self.leaf = value.detach().clone().requires_grad_()
        return self.leaf.clone()  # what follows may write into it


def _averaged(scores: Tensor) -> Tensor:
    """[N, classes]: those of a map of scores are its mean."""
    return scores.flatten(2).mean(2) if scores.ndim > 2 else scores


def same(found: Any, expected: Any) -> bool:
    """Whether a value of an answer, which may be nested, is this one of the network's, bit for bit."""
    if not isinstance(expected, Tensor):
        parts = dict(paths(expected))
        return isinstance(found, dict) and list(found) == list(parts) and all(same(found[path], parts[path]) for path in parts)
    array = expected.numpy()
    return isinstance(found, np.ndarray) and found.dtype == array.dtype and np.array_equal(found, array, equal_nan=True)


def close(found: Any, expected: Any) -> bool:
    """The same, to a few last bits of the largest value."""
    if not isinstance(expected, Tensor):
        return isinstance(found, dict) and all(close(found[path], part) for path, part in paths(expected))
    array = expected.numpy()
    return found.shape == array.shape and bool(np.abs(found - array).max() <= 1e-5 * np.abs(array).max())


def paths(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a nested value, by path."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(part, f"{path}.{key}" if path else str(key))
