"""Calls a server by KServe's Python SDK, in that package's own environment, and prints what came as JSON.

Usage: with_kserve.py ADDRESS FILE, where FILE is a .npz with x [N, 1, 28, 28] and files: pictures as bytes.
"""

import asyncio
import json
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput

ADDRESS = sys.argv[1]
GIVEN = np.load(sys.argv[2], allow_pickle=True)
X, FILES = GIVEN["x"], GIVEN["files"]


def request(array, datatype="FP32", outputs=None, *, raw=True):
    given = InferInput(name="x", shape=list(array.shape), datatype=datatype)
    given.set_data_from_numpy(array, binary_data=raw)
    names = [RequestedOutput(name) for name in outputs] if outputs else None
    return InferRequest(model_name="mnist", infer_inputs=[given], request_outputs=names, request_id="mine")


def arrays(response):
    return {output.name: output.as_numpy().tolist() for output in response.outputs}


async def main():
    async with InferenceGRPCClient(ADDRESS) as client:
        answer = await client.infer(request(X))
        told = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready("mnist"),
            "id": answer.id,
            "raw": arrays(answer),
            "typed": arrays(await client.infer(request(X, raw=False))),
            "files": arrays(await client.infer(request(FILES, "BYTES"))),
            "inside": arrays(await client.infer(request(X, outputs=["layer:conv1", "cam:grad-cam@conv2?class=3"]))),
        }
        try:
            await client.infer(request(X, outputs=["layer:conv9"]))
        except grpc.RpcError as error:
            told["refused"] = [error.code().name, error.details()]
        return told


json.dump(asyncio.run(main()), sys.stdout)
