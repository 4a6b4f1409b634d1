"""The blocking client."""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from cutaway import _answers
from cutaway._channel import Options, channel_options, stub
from cutaway._errors import rpc_errors
from cutaway._events import Event, Prediction, Started
from cutaway._inputs import Inputs, Layout
from cutaway._introspection import Introspection, gather, started_of
from cutaway._models import Model
from cutaway._requests import Look, introspect_request, predict_request
from cutaway._stream import Assembler
from cutaway.v1 import inference_pb2


class Client:
    """A connection to a server. Use it in a `with` block, or call close(). Threads may share it.

    Args:
        target: "HOST:PORT" of the server, or any other name that gRPC resolves.
        timeout: seconds that a call may take, unless it brings its own; None leaves it to the server.
        credentials: for TLS; None means plaintext.
        options: of the gRPC channel, as pairs; they overrule this package's (a receive limit of 64 MiB).
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float | None = 30.0,
        credentials: grpc.ChannelCredentials | None = None,
        options: Options = (),
    ) -> None:
        self._timeout = timeout
        self._channel = (
            grpc.insecure_channel(target, channel_options(options))
            if credentials is None
            else grpc.secure_channel(target, credentials, channel_options(options))
        )
        self._stub = stub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        self._channel.close()

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """The models that the server has, without their labels and layer tables."""
        return _answers.models(self._call(self._stub.ListModels, inference_pb2.ListModelsRequest(), timeout))

    def model(self, name: str, *, version: str = "", timeout: float | None = None) -> Model:
        """One model with its layer table.

        Raises:
            NotFound: there is no such model or version.
        """
        request = inference_pb2.GetModelRequest(model=name, version=version)
        return _answers.model(self._call(self._stub.GetModel, request, timeout))

    def predict(
        self,
        model: str,
        x: Inputs,
        *,
        top_k: int = 0,
        version: str = "",
        layout: Layout | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Runs a network.

        Args:
            model: its name.
            x: a model-ready array, the batch first, such as float32 (N, C, H, W); or uint8 pixels; or pictures: the
                bytes of a PNG or JPEG file, its path, or a PIL image; or the path of a .npy file; or a list of those,
                which is one batch. For a model with several inputs a mapping from their names to these.
            top_k: how many of the best classes to name for each sample; 0 for none.
            version: of the model; empty for the default one.
            layout: what the axes of uint8 pixels are, "NHWC", "NCHW" or "NHW"; inferred where there is no doubt.
            timeout: seconds; None for the client's own.
        Raises:
            TypeError, ValueError, OSError: x cannot be sent; nothing was.
            Error: the call failed; its subclass and code say how.
        """
        request = predict_request(model, x, top_k=top_k, version=version, layout=layout)
        return _answers.prediction(self._call(self._stub.Predict, request, timeout))

    def introspect(self, model: str, x: Inputs, *, timeout: float | None = None, **look: Unpack[Look]) -> Introspection:
        """Runs a network once and answers what was seen inside.

        Args:
            model, x, timeout: as for predict.
            layers, inputs, gradients: names or globs of the layers whose output, input or gradient to take, or a `Capture`
                each, which says what becomes of the tensor before it travels.
            cams: class activation maps to make, a `Cam` each.
            top_k, version, layout: as for predict.
            without_prediction: waives the scores; the forward pass may then stop early.
            seed: for methods in which chance plays.
        Raises:
            TypeError, ValueError, OSError: an argument cannot be sent; nothing was.
            BrokenAnswer: the stream broke the contract.
            Error: the call failed. One item that failed is no error of the call: see `Introspection.failures`.
        """
        with self.introspect_stream(model, x, timeout=timeout, **look) as events:
            return gather(events)

    def plan(self, model: str, x: Inputs, *, timeout: float | None = None, **look: Unpack[Look]) -> Started:
        """What the same call of introspect would bring, bytes and an estimate of its time. Nothing runs.

        Raises:
            TypeError, ValueError, OSError, Error: as introspect, for all that is refused beforehand.
        """
        request = introspect_request(model, x, plan_only=True, **look)
        with closing(_events(self._stub.Introspect(request, timeout=self._deadline(timeout)))) as events:
            return started_of(list(events))

    @contextmanager
    def introspect_stream(
        self, model: str, x: Inputs, *, timeout: float | None = None, **look: Unpack[Look]
    ) -> Iterator[Iterator[Event]]:
        """As introspect, event by event as they arrive, in a `with` block; leaving the block cancels the call.

        The order is Started, Activation or Statistics (of outputs and inputs, while the network still runs), Prediction,
        the same (of gradients), each map as CamMap with its CamPicture and Faithfulness behind it, Finished; Progress and
        Failure may come between. A slow reader slows the network down.
        """
        call = self._stub.Introspect(introspect_request(model, x, **look), timeout=self._deadline(timeout))
        try:
            with closing(_events(call)) as events:
                yield events
        finally:
            call.cancel()

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        with rpc_errors():
            return method(request, timeout=self._deadline(timeout))

    def _deadline(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout


def _events(call: Any) -> Generator[Event, None, None]:
    assembler = Assembler()
    with rpc_errors():
        for response in call:
            if (event := assembler.feed(response)) is not None:
                yield event
    assembler.end()
