"""The model in MLServer, which imports this."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from networks import runner
from server import Job


class Runtime(MLModel):
    async def load(self) -> bool:
        job = Job.from_environment()
        self._run = runner(job.network, job.engine, job.networks)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        scores = self._run(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", scores)])
