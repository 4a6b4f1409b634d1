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

    network = Network(job.network)
    network.load()
    kserve.ModelServer(http_port=job.port + 1, grpc_port=job.port, enable_latency_logging=False).start([network])


if __name__ == "__main__":
    serve(Job.from_environment())
