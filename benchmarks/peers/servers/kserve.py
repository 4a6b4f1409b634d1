"""KServe's Python runtime: the model in its own process, every request by itself."""

from messages import OPEN_INFERENCE
from networks import runner
from server import Job, Server

SERVER = Server(
    name="kserve",
    title="KServe 0.21",
    settings="the model in the server's process, no batching",
    protocol=OPEN_INFERENCE,
    engines=("eager", "onnxruntime"),
    requirements=("kserve==0.21.0", "onnxruntime==1.32.0"),
)


def listen_here() -> None:
    """On 127.0.0.1 alone: KServe takes all addresses, and has no setting for it."""
    import uvicorn
    from grpc.aio._server import Server as GrpcServer

    add, configure = GrpcServer.add_insecure_port, uvicorn.Config.__init__
    GrpcServer.add_insecure_port = lambda self, address: add(self, address.replace("[::]", "127.0.0.1"))
    uvicorn.Config.__init__ = lambda self, *given, **named: configure(self, *given, **named | {"host": "127.0.0.1"})


def serve(job: Job) -> None:
    import kserve

    class Network(kserve.Model):
        def load(self) -> bool:
            self._run = runner(job.network, job.engine, job.networks)
            self.ready = True
            return True

        def predict(self, payload: kserve.InferRequest, *_: object, **__: object) -> kserve.InferResponse:
            found = self._run(payload.inputs[0].as_numpy())
            scores = kserve.InferOutput(name="scores", shape=list(found.shape), datatype="FP32")
            scores.set_data_from_numpy(found, binary_data=True)
            return kserve.InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=[scores])

    listen_here()
    network = Network(job.network)
    network.load()
    kserve.ModelServer(http_port=job.port + 1, grpc_port=job.port, enable_latency_logging=False).start([network])


if __name__ == "__main__":
    serve(Job.from_environment())
