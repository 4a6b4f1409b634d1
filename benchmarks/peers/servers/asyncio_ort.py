"""The smallest server of grpcio and ONNX Runtime: asyncio, and a thread that runs whatever waits as one batch. No limits."""

import asyncio
import queue
import threading
from collections.abc import Callable

import grpc
import numpy as np
from messages import CUTAWAY
from networks import MAX_BATCH, Run, runner
from server import Job, Server

from cutaway.v1 import predict_pb2, tensor_pb2

SERVER = Server(
    name="asyncio_ort",
    title="grpcio + ONNX Runtime",
    settings="asyncio, one thread that batches what waits; no limits, metrics or logs",
    protocol=CUTAWAY,
    engines=("onnxruntime",),
    start=1,
)

Answer = Callable[[np.ndarray], None]


def run_batches(waiting: "queue.SimpleQueue[tuple[np.ndarray, Answer]]", run: Run, most: int) -> None:
    while True:
        batch = [waiting.get()]
        while len(batch) < most and not waiting.empty():
            batch.append(waiting.get())
        scores = run(np.concatenate([x for x, _ in batch]) if len(batch) > 1 else batch[0][0])
        for (_, answer), row in zip(batch, scores, strict=True):
            answer(row)


async def serve(job: Job) -> None:
    loop = asyncio.get_running_loop()
    waiting: queue.SimpleQueue[tuple[np.ndarray, Answer]] = queue.SimpleQueue()
    of_batches = (waiting, runner(job.network, job.engine, job.networks), MAX_BATCH[job.network])
    threading.Thread(target=run_batches, args=of_batches, daemon=True).start()

    async def predict(request: predict_pb2.PredictRequest, context: grpc.aio.ServicerContext) -> predict_pb2.PredictResponse:
        tensor = request.inputs[0].tensor
        scores = loop.create_future()
        x = np.frombuffer(tensor.data, np.float32).reshape(tuple(tensor.shape))
        waiting.put((x, lambda row: loop.call_soon_threadsafe(scores.set_result, row)))
        row = await scores
        found = tensor_pb2.Tensor(dtype=tensor.dtype, shape=(1, *row.shape), data=row.tobytes())
        return predict_pb2.PredictResponse(model=request.model, scores=found)

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    read, write = predict_pb2.PredictRequest.FromString, predict_pb2.PredictResponse.SerializeToString
    handlers = {"Predict": grpc.unary_unary_rpc_method_handler(predict, read, write)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("cutaway.v1.InferenceService", handlers)])
    server.add_insecure_port(f"127.0.0.1:{job.port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(Job.from_environment()))
