"""What the table says of one network, found by asking a server and comparing with the bare network."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

import cutaway
from compatibility.bare import Bare, close, same
from compatibility.networks import Entry

EQUAL = "equal"
CLOSE = "equal but for last bits"
ALIKE = 1e-6  # maps, as a share of the largest value


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    network: str
    input: str
    layers: str = ""
    names: str = ""
    captures: str = ""
    predict: str = ""
    cam_layer: str = ""
    cam: str = ""


def check(entry: Entry, client: cutaway.Client) -> Row:
    """Asks for the network, and compares."""
    row = Row(f"`{entry.title}`", ", ".join(" x ".join(map(str, shape)) for shape in entry.shapes))
    try:
        return _Comparison(entry, client).fill(row)
    except cutaway.Error as error:
        return replace(row, predict=f"refused: {error}")


class _Comparison:
    """What a server says of a network, beside the network itself."""

    def __init__(self, entry: Entry, client: cutaway.Client) -> None:
        self._bare = bare = Bare(entry)
        x: Any = [tensor.numpy() for tensor in bare.arguments]
        if len(x) == 1:
            (x,) = x
        else:
            x = {spec.name: tensor for spec, tensor in zip(client.model(entry.model).inputs, x, strict=True)}
        self._predicted = client.predict(entry.model, x).scores
        self._model = client.model(entry.model)  # now that it was asked for, it is loaded
        self._ran = [layer for layer in self._model.layers if not layer.never_fires]
        self._containers = [layer.name for layer in self._ran if layer.container]
        if self._model.introspection.available:
            cams = [cutaway.Cam("grad-cam", relu=False), cutaway.Cam("grad-cam")]
            self._seen = client.introspect(entry.model, x, layers=["*", *self._containers], cams=cams)

    def fill(self, row: Row) -> Row:
        row = replace(row, predict=EQUAL if same(self._predicted, self._bare.scores) else "differs")
        if not self._model.introspection.available:
            return replace(row, captures=f"refused: {self._model.introspection.reason}")
        return replace(
            row,
            layers=f"{len(self._ran) - len(self._containers)} + {len(self._containers)}",
            names=self._names(),
            captures=self._captures(),
            cam_layer=f"`{self._seen.started.cams[0].layers[0]}`",
            cam=self._cam(),
        )

    def _names(self) -> str:
        """Of what is no container, in order, against torchvision's."""
        if self._bare.trace is None:
            return f"torchvision cannot trace it: {self._bare.no_trace}"
        ours, theirs = [layer.name for layer in self._ran if not layer.container], list(self._bare.trace.layers)
        if ours == theirs:
            return EQUAL
        mine, other = ([f"`{name}`" for name in some if name not in more] for some, more in ((ours, theirs), (theirs, ours)))
        return f"{len(mine)} differ: {(mine or ['none'])[0]}, there {(other or ['none'])[0]}"

    def _captures(self) -> str:
        """Modules against hooks, call by call; operations against the trace, or else against all that PyTorch computed."""
        if failures := self._seen.failures:
            return f"{len(failures)} fail: {failures[0].message}"
        modules = [layer for layer in self._ran if layer.kind == "module"]
        calls = self._bare.calls
        if [layer.type for layer in modules] != [kind for _, kind, _ in calls] or not self._named_by_paths():
            return "other modules run"
        expected = {layer.name: value for layer, (_, _, value) in zip(modules, calls, strict=True)}
        operations = [layer.name for layer in self._ran if layer.kind != "module"]
        seen = self._seen.activations
        if self._bare.trace and self._names() == EQUAL:
            expected |= {name: self._bare.trace.layers[name] for name in operations}
        elif not self._bare.computes([seen[name] for name in operations]):
            return "differ"
        pairs = [(self._seen.scores, self._bare.scores), *((seen[name], value) for name, value in expected.items())]
        if all(same(*pair) for pair in pairs):
            return EQUAL
        return CLOSE if all(close(*pair) for pair in pairs) else "differ"

    def _named_by_paths(self) -> bool:
        """Whether each module's first call has its path for a name, and each other a suffix."""
        known: set[str] = set()
        for name, path in self._module_paths().items():
            if name != path and not (path in known and name.startswith(f"{path}_")):
                return False
            known.add(path)
        return True

    def _module_paths(self) -> dict[str, str]:
        names = [layer.name for layer in self._ran if layer.kind == "module"]
        return dict(zip(names, (path for path, *_ in self._bare.calls), strict=True))

    def _cam(self) -> str:
        """Grad-CAM at the layer that the server chose, with negative values and without."""
        if failures := self._seen.cams.failures:
            return f"fails: {next(iter(failures.values())).message}"
        (layer,) = self._seen.cams[0].layers
        classes = torch.from_numpy(self._seen.scores.reshape(*self._seen.scores.shape[:2], -1).mean(2).argmax(1))
        path = self._module_that_gives(layer)
        how = "captum's" if path else "autograd's"
        expected = self._bare.grad_cam(path, classes) if path else self._bare.grad_cam_by_hand(layer, classes)
        largest = float(expected.abs().max())
        assert largest > 0, "maps of zeros agree on anything"
        pairs = zip(self._seen.cams, (expected, expected.clamp(min=0)), strict=True)
        apart = max(float(np.abs(found.map - map_.numpy()).max()) for found, map_ in pairs)
        return f"{EQUAL} to {how}" if apart <= ALIKE * largest else f"{apart / largest:.0e} from {how}"

    def _module_that_gives(self, layer: str) -> str:
        """Path of the module whose last call gives what the layer does: its own, or one that ends with it. Empty for none."""
        module_paths = self._module_paths()
        last = {path: name for name, path in module_paths.items()}
        index = next(one.index for one in self._ran if one.name == layer)
        for name in (layer, *(one.name for one in self._ran[index + 1 : index + 2] if one.container)):
            path = module_paths.get(name, "")
            if path and last[path] == name and np.array_equal(self._seen.activations[name], self._seen.activations[layer]):
                return path
        return ""
