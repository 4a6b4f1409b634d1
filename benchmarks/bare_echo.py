"""A bare grpcio server: it parses nothing, computes nothing, and answers with messages that are ready."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection

import grpc

Answers = Sequence[Sequence[bytes]]
"""The messages of each answer."""

STOP_LIMIT = 10  # seconds


@contextmanager
def running_echo(answers: Answers, threads: int) -> Iterator[str]:
    """The address of an echo in a process of its own, which ends with the block."""
    spawn = multiprocessing.get_context("spawn")  # gRPC does not bear a fork
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(answers, threads, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join(STOP_LIMIT)
        process.kill()


def _serve(answers: Answers, threads: int, pipe: Connection) -> None:
    """Serves /Predict/I and the stream /Introspect/I, which give answer I, until the other end of the pipe closes."""
    server = grpc.server(ThreadPoolExecutor(threads), handlers=[_Handlers(answers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pipe.send(f"127.0.0.1:{port}")
    pipe.poll(None)
    server.stop(0).wait()


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, answers: Answers) -> None:
        self._by_path = {}
        for index, messages in enumerate(answers):
            self._by_path[f"/Predict/{index}"] = _unary(messages[0])
            self._by_path[f"/Introspect/{index}"] = _stream(messages)

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._by_path.get(call.method)


def _unary(message: bytes) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(lambda request, context: message)


def _stream(messages: Sequence[bytes]) -> grpc.RpcMethodHandler:
    return grpc.unary_stream_rpc_method_handler(lambda request, context: iter(messages))
