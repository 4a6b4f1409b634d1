"""What grpcio and ONNX Runtime can do: one method, answered on the thread that polls gRPC's queue, whatever waits as one batch.

It rests on private names of grpcio and has no limits, no metrics, no logs: a mark to be held against, not a server to use.
"""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from grpc import _server
from grpc._cython import cygrpc
from messages import CUTAWAY
from networks import MAX_BATCH, Run, runner
from server import Job, Server

from cutaway.v1 import predict_pb2, tensor_pb2

SERVER = Server(
    name="serving_thread_ort",
    title="grpcio's serving thread + ONNX Runtime",
    settings="batches what waits, on the thread that polls; no limits, metrics or logs",
    protocol=CUTAWAY,
    engines=("onnxruntime",),
    start=1,
    networks=("mnist",),
)


class ServingThread:
    """Answers a method of a server that has not started, on its serving thread."""

    def __init__(self, server: grpc.Server, run: Run, most: int) -> None:
        self._state = server._state
        self._run = run
        self._most = most
        self._waiting: list[tuple[Any, float, Any, np.ndarray]] = []  # call, deadline, what ends it, input
        self._state.server.register_method(CUTAWAY.method)
        _server._serve = self._serve

    def _ask(self) -> None:
        """For the next call."""
        with self._state.lock:
            self._state.due.add(self._arrived)
        queue = self._state.completion_queue
        self._state.server.request_registered_call(queue, queue, CUTAWAY.method, self._arrived)

    def _token(self) -> object:
        """Keeps the server from ending, until a callback hands it back."""
        token = object()
        with self._state.lock:
            self._state.rpc_states.add(token)
        return token

    def _arrived(self, event: Any) -> tuple[Any, tuple[()]]:
        with self._state.lock:
            self._state.due.discard(self._arrived)
            started = self._state.stage is _server._ServerStage.STARTED
        token = self._token()
        if not event.success or event.call is None:
            return token, ()
        if started:
            self._ask()
        call, deadline = event.call, event.call_details.deadline

        def done(event: Any) -> tuple[Any, tuple[()]]:
            return token, ()

        def received(event: Any) -> tuple[Any, tuple[()]]:
            message = event.batch_operations[0].message()
            try:
                self._waiting.append((call, deadline, done, decode(message)))
            except Exception:
                end(call, done, cygrpc.StatusCode.invalid_argument)
            return None, ()

        call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), received)
        return None, ()

    def _serve(self, state: Any) -> None:
        self._ask()
        poll, nothing = state.completion_queue.poll, cygrpc.CompletionType.queue_timeout
        while True:
            event = poll(time.time() + 1)
            if state.server_deallocated:
                _server._begin_shutdown_once(state)
            while event.completion_type != nothing:
                if not _server._process_event_and_continue(state, event):
                    return
                if len(self._waiting) >= self._most:
                    break
                event = poll(0)
            event = None  # it would keep a call alive
            self._answer()

    def _answer(self) -> None:
        batch, self._waiting = self._waiting, []
        now = time.time()
        for call, _, done, _ in (one for one in batch if one[1] < now):
            end(call, done, cygrpc.StatusCode.deadline_exceeded)
        batch = [one for one in batch if one[1] >= now]
        if not batch:
            return
        scores = self._run(np.concatenate([x for *_, x in batch]) if len(batch) > 1 else batch[0][3])
        for (call, _, done, _), row in zip(batch, scores, strict=True):
            end(call, done, 0, cygrpc.SendMessageOperation(encode(row), 0))


def decode(message: bytes) -> np.ndarray:
    tensor = predict_pb2.PredictRequest.FromString(message).inputs[0].tensor
    return np.frombuffer(tensor.data, np.float32).reshape(tuple(tensor.shape))


def encode(row: np.ndarray) -> bytes:
    found = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=(1, *row.shape), data=row.tobytes())
    return predict_pb2.PredictResponse(model="mnist", scores=found).SerializeToString()


def end(call: Any, done: Any, code: int, *message: Any) -> None:
    status = cygrpc.SendStatusFromServerOperation((), code, b"", 0)
    close = cygrpc.ReceiveCloseOnServerOperation(0)
    call.start_server_batch((cygrpc.SendInitialMetadataOperation((), 0), *message, status, close), done)


def serve(job: Job) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    ServingThread(server, runner(job.network, job.engine, job.networks), MAX_BATCH[job.network])
    server.add_insecure_port(f"127.0.0.1:{job.port}")
    server.start()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    stopped.wait()
    server.stop(2).wait()


if __name__ == "__main__":
    serve(Job.from_environment())
