"""A bare asyncio grpcio server: it parses nothing, and answers with as many bytes as Cutaway does."""

import asyncio

import grpc
from messages import CUTAWAY
from networks import CLASSES
from server import Job, Server

SERVER = Server(
    name="echo",
    title="bare grpcio echo",
    settings="asyncio, bytes there and back, nothing parsed or computed",
    protocol=CUTAWAY,
    engines=("none",),
    start=1,
)
_BESIDE = 23  # bytes of Cutaway's answer that are no scores


class Handlers(grpc.GenericRpcHandler):
    def __init__(self, answer: bytes) -> None:
        async def predict(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            return answer

        self._predict = grpc.unary_unary_rpc_method_handler(predict)

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self._predict


async def serve(job: Job) -> None:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers([Handlers(bytes(4 * CLASSES[job.network] + _BESIDE))])
    server.add_insecure_port(f"127.0.0.1:{job.port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(Job.from_environment()))
