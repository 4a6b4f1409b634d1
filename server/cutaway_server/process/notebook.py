"""`cutaway_server.serve`: a network that one has at hand, served from a notebook or a script."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from cutaway_server.models.model import InputSpec, prepare
from cutaway_server.models.scores import ScoresKind
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings


@contextmanager
def serve(
    network: nn.Module,
    example_input: Tensor | Sequence[Tensor],
    *,
    name: str,
    labels: Sequence[str] = (),
    scores_kind: str = "logits",
    listen: str = "127.0.0.1:0",
    metrics: str = "127.0.0.1:0",
    **settings: Any,
) -> Iterator[Server]:
    """Serves a network in background threads for as long as the block lasts.

        with cutaway_server.serve(net, torch.randn(1, 3, 224, 224), name="mine") as server:
            with cutaway.Client(server.address) as client:
                client.introspect("mine", x, layers=["conv1"])

    The network itself is served, in eval mode; its training flags are put back at the end. Do not train it meanwhile.

    Args:
        example_input: what the network is called with, the batch first; one tensor, or one for each positional argument.
        labels: one for each class.
        scores_kind: "logits", "log_probabilities", "probabilities" or "sigmoid".
        listen, metrics: HOST:PORT; port 0 takes a free one.
        settings: as the flags of `cutaway serve`, such as `max_batch=1`.
    Yields:
        The server; its `address` is HOST:PORT.
    Raises:
        NotServable: the network does not run on the example, or gives no single tensor with the batch first.
        pydantic.ValidationError: a setting does not go.
        OSError: an address is taken.
    """
    examples = (example_input,) if isinstance(example_input, Tensor) else tuple(example_input)
    training = {module: module.training for module in network.modules()}
    try:
        model = prepare(
            network,
            name=name,
            inputs=tuple(_spec(example, position) for position, example in enumerate(examples)),
            scores_kind=ScoresKind(scores_kind),
            labels=labels,
        )
        with Server([model], load_settings({"listen": listen, "metrics": metrics, **settings})) as server:
            yield server
    finally:
        for module, mode in training.items():
            module.training = mode


def _spec(example: Tensor, position: int) -> InputSpec:
    return InputSpec(f"x{position}" if position else "x", example.dtype, (-1, *example.shape[1:]))
