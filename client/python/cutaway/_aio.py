"""The asyncio client: Client's methods with `await`, `async with` and `async for`."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
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


class AsyncClient:
    """As Client, for asyncio. Make it inside the event loop that uses it; use `async with`, or await close()."""

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
            grpc.aio.insecure_channel(target, channel_options(options))
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, channel_options(options))
        )
        self._stub = stub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        await self._channel.close(None)

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """As Client.models."""
        return _answers.models(await self._call(self._stub.ListModels, inference_pb2.ListModelsRequest(), timeout))

    async def model(self, name: str, *, version: str = "", timeout: float | None = None) -> Model:
        """As Client.model."""
        request = inference_pb2.GetModelRequest(model=name, version=version)
        return _answers.model(await self._call(self._stub.GetModel, request, timeout))

    async def predict(
        self,
        model: str,
        x: Inputs,
        *,
        top_k: int = 0,
        version: str = "",
        layout: Layout | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """As Client.predict."""
        request = predict_request(model, x, top_k=top_k, version=version, layout=layout)
        return _answers.prediction(await self._call(self._stub.Predict, request, timeout))

    async def introspect(self, model: str, x: Inputs, *, timeout: float | None = None, **look: Unpack[Look]) -> Introspection:
        """As Client.introspect."""
        async with self.introspect_stream(model, x, timeout=timeout, **look) as events:
            return gather([event async for event in events])

    async def plan(self, model: str, x: Inputs, *, timeout: float | None = None, **look: Unpack[Look]) -> Started:
        """As Client.plan."""
        request = introspect_request(model, x, plan_only=True, **look)
        async with aclosing(_events(self._stub.Introspect(request, timeout=self._deadline(timeout)))) as events:
            return started_of([event async for event in events])

    @asynccontextmanager
    async def introspect_stream(
        self, model: str, x: Inputs, *, timeout: float | None = None, **look: Unpack[Look]
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """As Client.introspect_stream."""
        call = self._stub.Introspect(introspect_request(model, x, **look), timeout=self._deadline(timeout))
        try:
            async with aclosing(_events(call)) as events:
                yield events
        finally:
            call.cancel()

    async def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        with rpc_errors():
            return await method(request, timeout=self._deadline(timeout))

    def _deadline(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout


async def _events(call: Any) -> AsyncGenerator[Event, None]:
    assembler = Assembler()
    with rpc_errors():
        async for response in call:
            if (event := assembler.feed(response)) is not None:
                yield event
    assembler.end()
