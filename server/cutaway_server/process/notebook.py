"""`cutaway_server.serve`: a network that one has at hand, served from a notebook or a script."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cutaway_server.models.model import InputSpec
from cutaway_server.models.prepare import prepare
from cutaway_server.models.scores import ScoresKind
from cutaway_server.process.life import Server
from cutaway_server.process.logs import configure_logging
from cutaway_server.process.settings import load_settings


@contextmanager
def serve(
    network: nn.Module,
    example_input: Tensor | Sequence[Tensor],
    *,
    name: str,
    labels: Sequence[str] = (),
    scores_kind: str = "logits",
    head: str = "",
    listen: str = "127.0.0.1:0",
    metrics: str = "127.0.0.1:0",
    **settings: Any,
) -> Iterator[Server]:
    """Serves a network in background threads for as long as the block lasts.

        with cutaway_server.serve(net, torch.randn(1, 3, 224, 224), name="mine") as server:
            with cutaway.Client(server.address) as client:
                client.introspect("mine", x, layers=["conv1"])

    The network itself is served, in eval mode and with frozen parameters; both are put back at the end. Do not train it meanwhile.
    The log goes to standard error; `log_level="error"` keeps it quiet.

    Args:
        example_input: what the network is called with, the batch first; one tensor, or one for each positional argument.
        labels: one for each class.
        scores_kind: "logits", "log_probabilities", "probabilities" or "sigmoid".
        head: path of the scores where the network gives several tensors: "out", "0".
        listen, metrics: HOST:PORT; port 0 takes a free one.
        settings: as the flags of `cutaway serve`, such as `max_batch=1`.
    Yields:
        The server; its `address` is HOST:PORT.
    Raises:
        ValueError: no name, an unknown kind of scores, or an engine other than eager.
        NotServable: the network does not run on the example, or gives no scores with the batch first.
        pydantic.ValidationError: a setting does not go.
        OSError: an address is taken.
    """
    if not name:
        raise ValueError("name is empty; calls need one to say which model they mean")
    if scores_kind not in (kinds := [kind.value for kind in ScoresKind]):
        raise ValueError(f"scores_kind is {scores_kind!r}; it must be one of {', '.join(kinds)}")
    examples = (example_input,) if isinstance(example_input, Tensor) else tuple(example_input)
    if not all(isinstance(example, Tensor) for example in examples):
        raise TypeError("example_input must be a tensor of PyTorch, or several: torch.from_numpy makes one of an array")
    chosen = load_settings({"listen": listen, "metrics": metrics, "engine": "eager", **settings})
    if chosen.engine != "eager":
        raise ValueError(
            f"engine is {chosen.engine!r}; here it can be eager only: exporting a network disturbs others in its own process. "
            "`cutaway serve --models` exports in a process apart"
        )
    configure_logging(chosen)
    training = {module: module.training for module in network.modules()}
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(chosen.lane_threads)  # the layers are timed as they will run in a lane
        model = prepare(
            network,
            name=name,
            inputs=tuple(map(_spec, _names(network, len(examples)), examples)),
            head=head,
            scores_kind=ScoresKind(scores_kind),
            labels=labels,
        )
        torch.set_num_threads(threads)
        with Server([model], chosen) as server:
            yield server
    finally:
        torch.set_num_threads(threads)
        for module, mode in training.items():
            module.training = mode
        for parameter in trainable:
            if parameter.is_inference():  # the network wrote it while it predicted
                parameter.data = parameter.detach().clone()
            parameter.requires_grad_()


def _names(network: nn.Module, count: int) -> list[str]:
    """The inputs' names: those of the parameters of the network's forward method, as far as it has such."""
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(network.forward).parameters.values()
    named = [parameter.name for parameter in parameters if parameter.kind in by_position][:count]
    return named + [f"x{position}" for position in range(len(named), count)]


def _spec(name: str, example: Tensor) -> InputSpec:
    return InputSpec(name, example.dtype, (-1, *example.shape[1:]))
