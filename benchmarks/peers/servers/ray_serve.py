"""Ray Serve: one replica that batches, behind its gRPC proxy. It has no protocol of its own: bytes there and back."""

import os
import time

import numpy as np
from messages import BYTES
from networks import MAX_BATCH, SHAPES, runner
from server import Job, Server

SERVER = Server(
    name="ray_serve",
    title="Ray Serve 2.60",
    settings="one replica, serve.batch of 32, Lite0: 4, 1 ms",
    protocol=BYTES,
    start=20,
    requirements=("ray[serve-grpc]==2.60.0",),
)


def add_bytes(servicer: object, server: object) -> None:
    """Ray's proxy asks for the RPC by this."""
    import grpc
    from google.protobuf.wrappers_pb2 import BytesValue

    handler = grpc.unary_unary_rpc_method_handler(servicer.Predict, BytesValue.FromString, BytesValue.SerializeToString)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("peers.Bytes", {"Predict": handler})])


def serve(job: Job) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read at import: it tells nobody that it is used
    import ray
    from google.protobuf.wrappers_pb2 import BytesValue
    from ray import serve
    from ray.serve.config import gRPCOptions

    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1")
    grpc_options = gRPCOptions(port=job.port, grpc_servicer_functions=["servers.ray_serve.add_bytes"])
    serve.start(http_options={"host": "127.0.0.1", "port": job.port + 1}, grpc_options=grpc_options)
    quiet = {"enable_access_log": False, "log_level": "ERROR"}

    @serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 1}, logging_config=quiet)
    class Network:
        def __init__(self) -> None:
            self._run = runner(job.network, job.engine, job.networks)

        @serve.batch(max_batch_size=MAX_BATCH[job.network], batch_wait_timeout_s=0.001)
        async def _scores(self, inputs: list[bytes]) -> list[bytes]:
            rows = [np.frombuffer(data, np.float32).reshape(SHAPES[job.network]) for data in inputs]
            return [row.tobytes() for row in self._run(np.stack(rows))]

        async def Predict(self, request: BytesValue) -> BytesValue:  # noqa: N802  # the RPC's name
            return BytesValue(value=await self._scores(request.value))

    serve.run(Network.bind(), name="app", route_prefix="/")
    while True:
        time.sleep(1)


if __name__ == "__main__":
    serve(Job.from_environment())
