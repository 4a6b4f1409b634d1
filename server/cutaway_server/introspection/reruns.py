"""The network run again, and again: on other inputs, with a layer's output replaced, with gradients."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cutaway_server.introspection.call import Call
from cutaway_server.introspection.cam.method import Options, Variations
from cutaway_server.introspection.events import Progress
from cutaway_server.introspection.look import INPUT, Look, NoGradient
from cutaway_server.introspection.target import Question
from cutaway_server.models.layer_table import Layer
from cutaway_server.models.leaves import hold
from cutaway_server.models.mirror import Mirror
from cutaway_server.models.walk import Site, Walk

_TELL_EVERY = 0.2  # seconds between two messages of progress
_NOTHING: AbstractContextManager[None] = nullcontext()


class Bench:
    """A mirror on which a call's network is run again, until the call is stopped. It carries no hook of ours between two runs.

    Args:
        batch: samples of one run.
    Attributes:
        runs: of the network on one sample so far.
    """

    def __init__(self, call: Call, mirror: Mirror, batch: int) -> None:
        self.batch = batch
        self.runs = 0
        self._call = call
        self._mirror = mirror
        self._what, self._done, self._total, self._told = "", 0, 0, 0.0

    def begin(self, what: str, total: int) -> None:
        """From here on progress is told of this."""
        self._what, self._done, self._total, self._told = what, 0, total, time.monotonic()

    def scores(self, x: Tensor, samples: Tensor, inside: AbstractContextManager[object] = _NOTHING) -> Tensor:
        """What the network puts out for variations x of the first input of these samples; the caller says what is recorded.

        Args:
            inside: open while the network runs, and only then: operations that make its arguments are none of its own.
        """
        self._call.check()
        first, *others = self._call.arguments
        arguments = x.to(first.dtype, copy=True), *(other[samples] for other in others)  # it may write to them
        self._call.whole_pass = False
        model = self._call.plan.model
        with model.precision(), inside:
            scores = model.scores(self._mirror.network, arguments)
        self._call.whole_pass = True
        self.runs += len(x)
        self._tell(len(x))
        return scores

    def scores_with(self, layer: Layer, output: Tensor, samples: Tensor) -> Tensor:
        """What the network puts out where a layer's output is replaced."""
        x = self._call.arguments[0][samples]
        return self.scores(x, samples, self._walk(_Replace(layer.site, output), layer))

    def look(self, like: Look, x: Tensor, layers: tuple[Layer, ...], *, record: bool) -> Look:
        """Another pass, on another first input of all samples, that explains the same classes.

        Args:
            layers: to be held; none for the input.
        """
        samples = torch.arange(len(x), device=x.device)
        holder = _Hold({layer.site: layer.name for layer in layers}, record)
        ran = x
        with torch.no_grad():
            if record and not layers:
                ran = x.detach().clone().requires_grad_()
                holder.held[INPUT] = {"": ran}
                torch.set_grad_enabled(True)  # until the no_grad ends
            scores = self.scores(ran, samples, self._walk(holder, *layers))
        return Look(x, holder.held, scores, self._call.plan.model.scores_kind, like.questions)

    def _walk(self, visitor: "_Replace | _Hold", *layers: Layer) -> Walk:
        operations = any(layer.site is not None and layer.site.op for layer in layers)
        return Walk(self._mirror.tree, visitor, operations=operations, begins=False)

    def _tell(self, runs: int) -> None:
        self._done = min(self._done + runs, self._total)
        now = time.monotonic()
        if self._done < self._total and now - self._told > _TELL_EVERY:
            self._told = now
            self._call.put(Progress(self._what, self._done, self._total))


class MapRuns:
    """What a method of many runs is given: `cam.method.Runs`."""

    def __init__(
        self, bench: Bench, look: Look, question: Question, layer: Layer | None, options: Options, draw: torch.Generator
    ) -> None:
        self.x = look.x
        self.scores = question.of(look.scores.detach()).float()
        self.options = options
        self.draw = draw
        self._bench = bench
        self._question = question
        self._layer = layer

    def of_inputs(self, count: int, vary: Variations) -> Tensor:
        """[count] float32: the score for each variation of the network's input."""
        return self._scores(count, vary, self._bench.scores)

    def of_layer(self, count: int, vary: Variations) -> Tensor:
        """[count] float32: the score where the target layer's output is replaced by each variation of it."""
        layer = self._layer
        assert layer is not None
        return self._scores(count, vary, lambda output, samples: self._bench.scores_with(layer, output, samples))

    def gradients(self, count: int, vary: Variations, *, guided: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """For each batch of variations of the input: their samples [m] and d score / d input, [m, …] float32.

        Raises:
            NoGradient: says why.
        """
        for samples, x in self._batches(count, vary):
            leaf = x.requires_grad_()
            rectifiers = _Guided() if guided else None
            with torch.enable_grad():
                scores = self._bench.scores(leaf, samples, rectifiers or _NOTHING)
                score = self._question.of(scores, samples).sum()
            if rectifiers and not rectifiers.met:
                raise NoGradient("the network has no ReLU, which the method is about")
            (gradient,) = torch.autograd.grad(score, [leaf])
            yield samples, gradient.float()

    def _scores(self, count: int, vary: Variations, run: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        found = [self._question.of(run(x, samples), samples).float() for samples, x in self._batches(count, vary)]
        return torch.cat(found) if found else self.scores.new_zeros(0)

    def _batches(self, count: int, vary: Variations) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, count, self._bench.batch):
            yield vary(torch.arange(first, min(first + self._bench.batch, count), device=self.x.device))


class _Replace:
    """Visitor that puts another tensor in the place of a layer's output."""

    def __init__(self, site: Site | None, output: Tensor) -> None:
        self._site = site
        self._output = output

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        """Nothing."""

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> Any:
        """The other tensor, in the dtype of the layer's own."""
        return self._output.to(output.dtype) if site == self._site else None


class _Hold:
    """Visitor that holds what some layers put out."""

    def __init__(self, sites: dict[Site | None, str], record: bool) -> None:
        self.held: dict[str, dict[str, Tensor]] = {}
        self._sites = sites
        self._record = record

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        """Nothing."""

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> Any:
        """The leaf, where PyTorch is to record from it on."""
        name = self._sites.get(site)
        if name is None:
            return None
        if self._record:
            output, self.held[name] = hold(output)
            return output
        self.held[name] = {"": output.detach().clone()}
        return None


class _Guided(TorchFunctionMode):
    """While it is active, rectifiers let only what is positive back: their outputs' gradients are cut at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.met = False

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if _rectifies(func.__name__.rstrip("_"), args, kwargs or {}) and isinstance(output, Tensor) and output.requires_grad:
            self.met = True
            output.register_hook(lambda gradient: gradient.clamp(min=0))  # type: ignore[no-untyped-call]
        return output


def _rectifies(operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """ReLU, and ReLU6, which PyTorch's own modules run as a hardtanh from 0."""
    lowest = kwargs.get("min_val", args[1] if len(args) > 1 else None)
    return operation in ("relu", "relu6") or (operation == "hardtanh" and lowest == 0)
