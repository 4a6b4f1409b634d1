"""Unary calls answered on the thread on which grpcio polls: no thread is woken for them, and what came meanwhile comes together.

All private names of grpcio that Cutaway uses stand here. `check` tries them with a real call, so whoever serves can do without.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import structlog

log = structlog.get_logger()
Metadata = Sequence[tuple[str, str | bytes]]
_TRY_SECONDS = 5.0  # that the call of `check` may take
_LOOK_SECONDS = 0.05  # between two looks at what else there is to do, while calls are open


class RawCall:
    """One call: its request's bytes, and the way to answer it once, from any thread.

    Attributes:
        path: /SERVICE/METHOD.
        data: the request.
        metadata: that the client sent.
        deadline: in seconds of `time.time`; infinite where the client has none.
    """

    __slots__ = ("_batches", "_call", "_closing", "_serving", "data", "deadline", "metadata", "path")

    def __init__(self, serving: "ServingThread", path: str, event: Any) -> None:
        self.path = path
        self.data = b""
        self.metadata: Metadata = event.invocation_metadata
        self.deadline: float = event.call_details.deadline
        self._serving = serving
        self._call = event.call
        self._closing: Callable[[], None] | None = None
        self._batches = 1  # of operations that gRPC still has to tell the end of

    def watch(self, on_cancel: Callable[[], None]) -> None:
        """Has gRPC tell when the client gives the call up, or its deadline passes. Not free, so it is for calls that last."""
        self._closing = on_cancel
        self._batches = 2
        self._start((self._serving.names.ReceiveCloseOnServerOperation(0),), self._closed)

    def reply(self, data: bytes, trailing: Metadata) -> None:
        """Answers with OK."""
        self._end(self._serving.names.SendMessageOperation(data, 0), 0, b"", trailing)

    def refuse(self, code: grpc.StatusCode, details: str, trailing: Metadata) -> None:
        """Answers with another status."""
        self._end(None, code.value[0], details.encode(), trailing)

    def _end(self, message: Any, code: int, details: bytes, trailing: Metadata) -> None:
        names = self._serving.names
        operations = [names.SendInitialMetadataOperation((), 0)]
        if message is not None:
            operations.append(message)
        operations.append(names.SendStatusFromServerOperation(trailing, code, details, 0))
        if self._closing is None:
            operations.append(names.ReceiveCloseOnServerOperation(0))
        self._start(operations, self._done)

    def _start(self, operations: Sequence[Any], told: Callable[[Any], Any]) -> None:
        if self._call.start_server_batch(operations, told):  # an error: it will not be told
            self._serving.forget(self)

    def _closed(self, event: Any) -> Any:
        if event.batch_operations[0].cancelled() and self._closing:
            self._serving.guarded(self._closing)
        return self._done(event)

    def _done(self, event: Any) -> Any:
        self._batches -= 1  # gRPC tells all on the one serving thread
        return (None, ()) if self._batches else (self, ())


class ServingThread:
    """Hangs itself into a server that has not started yet.

    Args:
        paths: of the methods that it takes over.
        received: is given each of their calls, on the serving thread.
        between: called on the serving thread whenever no more calls are there to be received, and a few times a second while calls
            are open.
        most: calls that are received at most before `between` is called.
    Attributes:
        given_up: whether the thread is to end, whatever is still open.
    """

    def __init__(
        self,
        server: grpc.Server,
        paths: Sequence[str],
        *,
        received: Callable[[RawCall], None],
        between: Callable[[], None],
        most: int,
    ) -> None:
        self._module, self.names = _names()
        self._state = server._state  # type: ignore[attr-defined]
        self._received = received
        self._between = between
        self._most = most
        self.given_up = False
        self._fresh = 0
        self._asking = {path: _Asking(self, path) for path in paths}
        for path in paths:
            self._state.server.register_method(path)
        _take_over(self._module)
        self._state.cutaway_serving = self

    @property
    def open_calls(self) -> int:
        """How many calls of ours are open."""
        return sum(isinstance(state, RawCall) for state in list(self._state.rpc_states))

    def forget(self, call: RawCall) -> None:
        """Of this call gRPC tells no more."""
        with self._state.lock:
            self._state.rpc_states.discard(call)

    def serve(self) -> None:
        """What the serving thread does until the server has stopped."""
        state, poll = self._state, self._state.completion_queue.poll
        nothing = self.names.CompletionType.queue_timeout
        for asking in self._asking.values():
            asking.ask()
        while not self.given_up:
            # Open calls have deadlines that someone must look at; with none there is nothing to do before the next event.
            event = poll(time.time() + (_LOOK_SECONDS if state.rpc_states else 1.0))
            if state.server_deallocated:
                self._module._begin_shutdown_once(state)
            if event.completion_type != nothing and not self._step(event):
                return
            for _ in range(4 * self._most):  # at most: who floods us must not keep us from answering
                if self._fresh >= self._most:
                    break
                event = poll(0)
                if event.completion_type == nothing:
                    break
                if not self._step(event):
                    return
            event = None  # it may hold the last reference to a call
            self._fresh = 0
            self.guarded(self._between)

    def _step(self, event: Any) -> bool:
        """Whether to go on."""
        try:
            go_on: bool = self._module._process_event_and_continue(self._state, event)
            return go_on
        except Exception:  # it would end the thread, and no call would ever be answered again
            log.exception("an event of gRPC could not be handled")
            self.guarded(self._ask_again)
            return True

    def _ask_again(self) -> None:
        """What a step that failed may not have asked for any more: the next call."""
        state, module = self._state, self._module
        with state.lock:
            if state.stage is module._ServerStage.STARTED and module._REQUEST_CALL_TAG not in state.due:
                module._request_call(state)
        for asking in self._asking.values():
            if asking not in state.due:
                asking.ask()

    def guarded(self, act: Callable[..., None], *arguments: Any) -> None:
        """Does it. What it raises is logged and goes no further."""
        try:
            act(*arguments)
        except Exception:
            log.exception("the serving thread's work failed")

    def arrived(self, call: RawCall, event: Any) -> None:
        """A call of ours has come: have gRPC read its message."""

        def read(event: Any) -> Any:
            data = event.batch_operations[0].message()
            if data is None:  # the client is gone, or sent none: the code is that of ordinary handlers
                self.guarded(call.refuse, grpc.StatusCode.UNIMPLEMENTED, "the method takes one message, and none came", ())
            else:
                call.data = data
                self._fresh += 1
                self.guarded(self._received, call)
            return None, ()

        if event.call.start_server_batch((self.names.ReceiveMessageOperation(0),), read):  # an error: it will not be told
            self.forget(call)


class _Asking:
    """The standing request for the next call of one method."""

    def __init__(self, serving: ServingThread, path: str) -> None:
        self._serving = serving
        self._path = path

    def ask(self) -> None:
        """Does nothing where the server shuts down."""
        state = self._serving._state
        with state.lock:
            if state.stage is self._serving._module._ServerStage.STARTED:
                state.server.request_registered_call(state.completion_queue, state.completion_queue, self._path, self)
                state.due.add(self)

    def __call__(self, event: Any) -> Any:
        """It was granted, or the server shuts down."""
        state = self._serving._state
        with state.lock:
            state.due.discard(self)
            if not event.success or event.call is None:
                ended = object()
                state.rpc_states.add(ended)  # it is taken out at once, and gRPC looks whether the server is done
                return ended, ()
            self.ask()  # first: whatever is wrong with this call, the next one is asked for
            call = RawCall(self._serving, self._path, event)
            state.rpc_states.add(call)
        self._serving.arrived(call, event)
        return None, ()


def _names() -> tuple[Any, Any]:
    """The modules of grpcio with the private names. Imported here: one without them still serves in the ordinary form."""
    from grpc import _server
    from grpc._cython import cygrpc  # type: ignore[attr-defined]

    return _server, cygrpc


def _take_over(module: Any) -> None:
    """Lets servers that have one be served by their own `ServingThread`, and the others as ever. Once for the process."""
    ordinary = module._serve
    if getattr(ordinary, "knows_cutaway", False):
        return

    def serve(state: Any) -> None:
        ours = getattr(state, "cutaway_serving", None)
        if ours is None:
            ordinary(state)
        else:
            ours.serve()

    serve.knows_cutaway = True  # type: ignore[attr-defined]
    module._serve = serve


def check() -> str:
    """Tries it with a server, a call that is answered and one that is refused; why it does not work here, or nothing."""
    try:
        return _try()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _try() -> str:
    waiting: list[RawCall] = []

    def answer() -> None:
        while waiting:
            call = waiting.pop()
            if call.data == b"refuse":
                call.refuse(grpc.StatusCode.OUT_OF_RANGE, "refused", ())
            else:
                call.reply(call.data * 2, (("x-request-id", "1"),))

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        serving = ServingThread(server, ["/check/Echo"], received=waiting.append, between=answer, most=8)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            problem = _ask(f"127.0.0.1:{port}")
        finally:
            stopped = server.stop(_TRY_SECONDS).wait(2 * _TRY_SECONDS)
            serving.given_up = True
    return problem or ("" if stopped else "the server did not stop")


def _ask(address: str) -> str:
    with grpc.insecure_channel(address) as channel:
        echo = channel.unary_unary("/check/Echo", None, None)
        answered, call = echo.with_call(b"echo", timeout=_TRY_SECONDS)
        if answered != b"echoecho" or ("x-request-id", "1") not in [tuple(pair) for pair in call.trailing_metadata()]:
            return "a call was answered wrongly"
        try:
            echo(b"refuse", timeout=_TRY_SECONDS)
        except grpc.RpcError as error:
            return "" if error.code() is grpc.StatusCode.OUT_OF_RANGE else f"a refusal came as {error.code().name}"
        return "a refused call was answered"
