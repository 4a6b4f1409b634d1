"""PyTriton, NVIDIA's Triton with a Python function behind it: batches what waits, no delay."""

import signal

import numpy as np
from messages import OPEN_INFERENCE
from networks import CLASSES, MAX_BATCH, SHAPES, runner
from server import Job, Server

SERVER = Server(
    name="pytriton",
    title="PyTriton 0.7",
    settings="DynamicBatcher of 32, Lite0: 4, no delay; one instance",
    protocol=OPEN_INFERENCE,
    engines=("eager", "onnxruntime"),
    requirements=("nvidia-pytriton==0.7.0", "onnxruntime==1.32.0"),
    python="/usr/bin/python3.11",  # Triton's own interpreter does not bear the standard library of some later 3.11
    start=8,
    stop=signal.SIGINT,
)


def serve(job: Job) -> None:
    from pytriton.decorators import batch
    from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    run = runner(job.network, job.engine, job.networks)

    @batch
    def infer(x: np.ndarray) -> list[np.ndarray]:
        return [run(x)]

    addresses = {"http_address": "127.0.0.1", "grpc_address": "127.0.0.1", "metrics_address": "127.0.0.1"}
    ports = {"grpc_port": job.port, "http_port": job.port + 1, "metrics_port": job.port + 2}
    with Triton(config=TritonConfig(log_verbose=0, **addresses, **ports)) as triton:
        triton.bind(
            model_name=job.network,
            infer_func=infer,
            inputs=[Tensor(name="x", dtype=np.float32, shape=SHAPES[job.network])],
            outputs=[Tensor(name="scores", dtype=np.float32, shape=(CLASSES[job.network],))],
            config=ModelConfig(max_batch_size=MAX_BATCH[job.network], batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()


if __name__ == "__main__":
    serve(Job.from_environment())
