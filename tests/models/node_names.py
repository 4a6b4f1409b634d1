"""Layer names, and what they stand for, as torchvision's `feature_extraction` finds them by tracing."""

import inspect
import itertools
import math
import operator
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from torchvision_shim import feature_extraction, ops

OPS = tuple(found for _, found in inspect.getmembers(ops, inspect.isclass) if issubclass(found, nn.Module))


def node_names(network: nn.Module) -> list[str]:
    """As everybody asks for them."""
    return feature_extraction.get_graph_node_names(network, suppress_diff_warning=True)[1]


def folded(network: nn.Module, names: list[str]) -> list[str]:
    """The names with each module of `torchvision.ops` in place of all that runs inside it: torchvision takes those as leaves."""
    outer = [path for path, module in network.named_modules() if isinstance(module, OPS)]
    found = (next((path for path in outer if f"{name}.".startswith(f"{path}.")), name) for name in names)
    return [name for name, _ in itertools.groupby(found)]


def copied(value: Any) -> Any:
    """A nested value with its tensors cloned."""
    return fx.node.map_aggregate(value, lambda part: part.clone() if isinstance(part, Tensor) else part)


def has_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, Sequence) and any(map(has_tensors, value)))


class _Tracer(feature_extraction.NodePathTracer):
    """Goes through torchvision's own modules, as Cutaway does, but for those in which nothing runs."""

    def __init__(self, empty: Collection[str]) -> None:
        super().__init__(leaf_modules=[], autowrap_modules=(math,))
        self._empty = empty

    def is_leaf_module(self, m: nn.Module, module_qualname: str) -> bool:
        return super().is_leaf_module(m, module_qualname) or module_qualname in self._empty


class Trace(fx.Interpreter):
    """The nodes that torchvision's tracer finds, run one by one, with a copy of what each gives: later nodes cannot write over it.

    Args:
        empty: paths of modules in which nothing runs, which give back what they are given.
    """

    def __init__(self, network: nn.Module, *arguments: Tensor, empty: Collection[str]) -> None:
        tracer = _Tracer(empty)
        super().__init__(fx.GraphModule(network, tracer.trace(network)))
        self.names: dict[fx.Node, str] = dict(tracer.node_to_qualname)
        self.values: dict[fx.Node, Any] = {}
        with torch.no_grad():
            self.run(*arguments)

    @property
    def layers(self) -> dict[str, Any]:
        """What is a layer to Cutaway, too: name and value, in order."""
        return {self.names[node]: value for node, value in self.values.items() if node.op != "output" and self.is_layer(node)}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.values[n] = copied(value)
        return value

    def is_part(self, node: fx.Node) -> bool:
        """Whether it takes a tensor out of a tuple, such as a chunk: Cutaway has it by its path in the tuple's layer."""
        is_index = node.target is operator.getitem and isinstance(node.args[0], fx.Node)
        return is_index and isinstance(self.values[node.args[0]], tuple) and isinstance(self.values[node], Tensor)

    def is_layer(self, node: fx.Node) -> bool:
        """Whether it runs, takes tensors and gives some: no input, no parameter, no size, nor what is made of sizes."""
        runs = node.op in ("call_module", "call_function", "call_method") and not self.is_part(node)
        return runs and has_tensors([self.values[given] for given in node.all_input_nodes]) and has_tensors(self.values[node])
