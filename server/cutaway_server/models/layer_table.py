"""The layer table: every layer of a network in order of execution, as a probe run saw it, and what never fires."""

import difflib
import fnmatch
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from cutaway_server.errors import NothingMatches, NotHookable, UnknownLayer
from cutaway_server.models.walk import Site, Walk, is_leaf, is_method, is_operator, named_modules, parametrizations, tensors


class LayerKind(Enum):
    """What sort of thing runs."""

    MODULE = "module"
    FUNCTION = "function"
    METHOD = "method"


@dataclass(frozen=True, slots=True)
class LayerTensor:
    """One tensor that a layer takes or puts out.

    Attributes:
        path: where it stands in a nested value: "" for the value itself.
        dtype: its element type.
        shape: -1 for the batch where `batch_first`, elsewhere for a size that goes with the batch.
        batch_first: whether the first axis is the batch.
    """

    path: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    batch_first: bool

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of one sample's part; of all of it where the first axis is not the batch, and 0 where that goes with the batch."""
        shape = self.shape_for(1)
        return self.dtype.itemsize * math.prod(shape) if shape is not None else 0

    @property
    def shape_text(self) -> str:
        """The shape as people write it: [N, 10, 24, 24]."""
        return f"[{', '.join('N' if size < 0 else str(size) for size in self.shape)}]"

    def shape_for(self, batch: int) -> tuple[int, ...] | None:
        """Its shape for so many samples; None where that is not known."""
        shape = (batch, *self.shape[1:]) if self.batch_first else self.shape
        return shape if all(size >= 0 for size in shape) else None


@dataclass(frozen=True, slots=True)
class Layer:
    """One thing that runs in a forward pass and has a name.

    Attributes:
        name: unique in its table.
        kind: module, function or method.
        type: the module's class or the operation.
        index: place in the order in which layers complete, from 0; -1 where it never fires.
        container: whether other layers run inside it.
        site: where it runs; None where it never fires.
        inputs: tensors among its positional arguments.
        outputs: tensors that it puts out.
        never_fires: why no capture can be had; empty where it fires.
        forward_share: of the forward pass's time, 0 to 1; a container's holds those of the layers inside.
        stride: how many of the input's rows and columns lie between cells of its [N, C, H, W]; None where it is not known.
        fixed_size: whether its last two axes are known not to grow with the picture, as channels that come last do not.
        no_gradient: why none can be taken of its output; empty where one can.
        aside: whether nothing that PyTorch can differentiate leads from it to the scores.
    """

    name: str
    kind: LayerKind
    type: str
    index: int
    container: bool
    site: Site | None
    inputs: tuple[LayerTensor, ...] = ()
    outputs: tuple[LayerTensor, ...] = ()
    never_fires: str = ""
    forward_share: float = 0.0
    stride: tuple[float, float] | None = None
    fixed_size: bool = False
    no_gradient: str = ""
    aside: bool = False


class LayerTable(Sequence[Layer]):
    """All layers, those that fire first, in order of execution."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = tuple(layers)
        self._by_name = {layer.name: layer for layer in layers}
        self.by_site = {layer.site: layer for layer in layers if layer.site is not None}

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, index: Any) -> Any:
        return self._layers[index]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers)

    @property
    def firing(self) -> list[Layer]:
        """The layers that fire, in order of execution."""
        return [layer for layer in self._layers if not layer.never_fires]

    @property
    def operations_share(self) -> float:
        """The share of the forward pass's time that functions and methods take."""
        return sum(layer.forward_share for layer in self.firing if layer.kind is not LayerKind.MODULE)

    def share(self, upto: Layer) -> float:
        """The share of the forward pass's time that has gone when this layer is done."""
        return sum(layer.forward_share for layer in self.firing if not layer.container and layer.index <= upto.index)

    def named(self, name: str) -> Layer:
        """The layer of a name that is known to be there."""
        return self._by_name[name]

    def exact(self, name: str, field: str) -> Layer:
        """The layer of this name.

        Raises:
            UnknownLayer: there is none; carries the closest names.
            NotHookable: there is, but it never fires.
        """
        layer = self._by_name.get(name)
        if layer is None:
            raise UnknownLayer(field, name[:100], self._close_matches(name))
        if layer.never_fires:
            raise NotHookable(field, name, layer.never_fires)
        return layer

    def match(self, pattern: str, field: str) -> list[Layer]:
        """The layer of this exact name, or the leaves and operations that a glob matches, in order of execution.

        Raises:
            UnknownLayer, NotHookable: as `exact`, for what is no glob.
            NothingMatches: a glob that matches none.
        """
        if pattern in self._by_name or not any(sign in pattern for sign in "*?["):
            return [self.exact(pattern, field)]
        found = [layer for layer in self.firing if not layer.container and fnmatch.fnmatchcase(layer.name, pattern)]
        if not found:
            raise NothingMatches(field, pattern[:100], self._close_matches(pattern.strip("*?")))
        return found

    def with_facts_of(self, other: "LayerTable") -> "LayerTable":
        """This table, with what another size of the input has shown of the same layers: shares of the time, strides, gradients."""
        facts = {layer.site: layer for layer in other.firing}
        return LayerTable(
            [
                replace(
                    layer,
                    forward_share=fact.forward_share,
                    stride=fact.stride,
                    fixed_size=fact.fixed_size,
                    no_gradient=fact.no_gradient,
                    aside=fact.aside,
                )
                if layer.site is not None and (fact := facts.get(layer.site))
                else layer
                for layer in self
            ]
        )

    def _close_matches(self, name: str) -> list[str]:
        names = [layer.name for layer in self.firing]
        lowered = {known.lower(): known for known in reversed(names)}
        close = difflib.get_close_matches(name[:100].lower(), lowered, n=3, cutoff=0.5)
        return [lowered[known] for known in close] or names[:3]


def build_layer_table(network: nn.Module, probe: Callable[[int], tuple[Tensor, ...]]) -> LayerTable:
    """Runs the network on probes of two batch sizes and lists what ran.

    Args:
        network: in eval mode and private to the caller: it is hooked while this runs.
        probe: gives the network's arguments for a batch size.
    """
    two, three = (_observe(network, probe(batch)) for batch in (2, 3))
    inputs_of_three = {event.site: event for event in three}
    names = _Names(set(named_modules(network)))
    layers = []
    for index, event in enumerate(two):
        other = inputs_of_three.get(event.site, event)
        layers.append(
            Layer(
                name="",
                kind=event.kind,
                type=event.type,
                index=index,
                container=event.container,
                site=event.site,
                inputs=_joined(event.inputs, other.inputs),
                outputs=_joined(event.outputs, other.outputs),
            )
        )
    begun = sorted(range(len(two)), key=lambda index: two[index].begun)  # names go by beginnings, as readers of the code expect
    named = {index: names.name(layers[index].site) for index in begun}
    return LayerTable([replace(layer, name=named[layer.index]) for layer in layers] + _silent(network, {e.site.path for e in two}))


@dataclass(slots=True)
class _Event:
    site: Site
    begun: int
    inputs: list[LayerTensor]
    kind: LayerKind = LayerKind.MODULE
    type: str = ""
    container: bool = False
    outputs: list[LayerTensor] | None = None


class _Observer:
    """Visitor that notes what runs, with what shapes."""

    def __init__(self, batch: int) -> None:
        self.ended: list[_Event] = []
        self._batch = batch
        self._begun = 0
        self._open: list[_Event] = []

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        self._begun += 1
        event = _Event(site, self._begun, self._describe(argument(inputs)))
        if site.op:
            self._pending = event
        else:
            self._open.append(event)

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> None:
        if isinstance(what, nn.Module):
            event = self._open.pop()
            while event.site != site:
                event = self._open.pop()
            event.type = type(what).__name__
        else:
            event = self._pending
            event.kind = LayerKind.METHOD if is_method(what) and not is_operator(what) else LayerKind.FUNCTION
            event.type = site.op
        event.outputs = self._describe(output)
        for outer in self._open:
            outer.container = True
        self.ended.append(event)

    def _describe(self, value: Any) -> list[LayerTensor]:
        return [
            LayerTensor(path, tensor.dtype, tuple(tensor.shape), tensor.ndim > 0 and len(tensor) == self._batch)
            for path, tensor in tensors(value)
        ]


def argument(inputs: tuple[Any, ...]) -> Any:
    """What the paths of an INPUT go by: the one positional argument that there is, or the tuple of several."""
    return inputs[0] if len(inputs) == 1 else inputs


def _observe(network: nn.Module, arguments: tuple[Tensor, ...]) -> list[_Event]:
    observer = _Observer(len(arguments[0]))
    with torch.no_grad(), Walk(network, observer, operations=True):
        network(*arguments)
    return observer.ended


def _joined(two: list[LayerTensor] | None, three: list[LayerTensor] | None) -> tuple[LayerTensor, ...]:
    """What two probes agree on: the first axis is the batch where it followed the batch's size and nothing else did."""
    others = {tensor.path: tensor for tensor in three or ()}
    joined = []
    for tensor in two or ():
        other = others.get(tensor.path, tensor)
        batch_first = tensor.batch_first and other.batch_first and tensor.shape[1:] == other.shape[1:]
        # A size that differs between the two goes with the batch, wherever it stands.
        shape = tuple(size if size == beside else -1 for size, beside in zip_longest(tensor.shape, other.shape, fillvalue=-1))
        joined.append(replace(tensor, shape=shape, batch_first=batch_first))
    return tuple(joined)


class _Names:
    """Gives names in the order in which layers begin: a module's path to its own first call, the next free suffix to all else."""

    def __init__(self, paths: set[str]) -> None:
        self._taken = paths

    def name(self, site: Site | None) -> str:
        assert site is not None
        if not site.op and not site.nth:
            return site.path
        base = ".".join(part for part in (site.path, site.op) if part)
        name, suffix = base, 0
        while name in self._taken:
            suffix += 1
            name = f"{base}_{suffix}"
        self._taken.add(name)
        return name


def _silent(network: nn.Module, fired: set[str]) -> list[Layer]:
    """The modules that no call of which was seen, and the second paths of shared ones, with the reason."""
    first_paths = {id(module): path for path, module in named_modules(network).items()}
    computing = parametrizations(network)
    silent = []
    for path, module in network.named_modules(remove_duplicate=False):
        first = first_paths.get(id(module), "")
        if not path or (path == first and path in fired):
            continue
        if path != first:
            reason = f"it is the same module as {first!r}, under whose name its calls are listed"
        elif module in computing:
            reason = "it computes a parameter, whenever that is read"
        elif isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict):
            reason = "it only holds others and is never called itself"
        else:
            reason = "the probes did not call it as a module"
        silent.append(Layer(path, LayerKind.MODULE, type(module).__name__, -1, not is_leaf(module), None, never_fires=reason))
    return silent
