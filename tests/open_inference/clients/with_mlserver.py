"""Calls a server by MLServer's stubs, converters and codecs, in that package's own environment, and prints what came as JSON.

Usage: with_mlserver.py ADDRESS FILE, where FILE is a .npz with x [N, 1, 28, 28] and files: pictures as bytes.
"""

import json
import sys

import grpc
import numpy as np
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.grpc import converters
from mlserver.grpc import dataplane_pb2 as messages
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest, RequestOutput

ADDRESS = sys.argv[1]
GIVEN = np.load(sys.argv[2], allow_pickle=True)
X = GIVEN["x"]


def arrays(answer):
    response = converters.ModelInferResponseConverter.to_types(answer)
    return {output.name: NumpyCodec.decode_output(output).tolist() for output in response.outputs}


def asked(outputs=None, *, raw=False):
    request = InferenceRequest(id="mine", inputs=[NumpyCodec.encode_input("x", X)], outputs=outputs)
    return converters.ModelInferRequestConverter.from_types(request, model_name="mnist", model_version="1", use_raw=raw)


with grpc.insecure_channel(ADDRESS) as channel:
    stub = GRPCInferenceServiceStub(channel)
    typed = stub.ModelInfer(asked())
    raw = stub.ModelInfer(asked(raw=True))
    inside = stub.ModelInfer(asked([RequestOutput(name="layer:conv1"), RequestOutput(name="cam:grad-cam@conv2?class=3")]))
    best = asked([RequestOutput(name="scores")])
    best.outputs[0].parameters["classification"].int64_param = 2
    named = converters.ModelInferResponseConverter.to_types(stub.ModelInfer(best)).outputs[0]
    told = {
        "live": stub.ServerLive(messages.ServerLiveRequest()).live,
        "ready": stub.ServerReady(messages.ServerReadyRequest()).ready,
        "model ready": stub.ModelReady(messages.ModelReadyRequest(name="mnist")).ready,
        "server": stub.ServerMetadata(messages.ServerMetadataRequest()).name,
        "metadata": [
            (one.name, one.datatype, list(one.shape))
            for one in stub.ModelMetadata(messages.ModelMetadataRequest(name="mnist")).outputs
        ],
        "id": typed.id,
        "forms": [len(typed.raw_output_contents), len(raw.raw_output_contents)],
        "typed": arrays(typed),
        "raw": arrays(raw),
        "inside": arrays(inside),
        "classification": StringCodec.decode_output(named),
    }
json.dump(told, sys.stdout)
