"""Cutaway's client, the server's messages and tritonclient in one process, all at work.

Usage: beside_tritonclient.py ADDRESS MODULE…, which are imported in that order.
"""

import importlib
import json
import sys

import google.protobuf
import numpy as np

address, *modules = sys.argv[1:]
for module in modules:
    importlib.import_module(module)

import tritonclient.grpc as triton  # noqa: E402
import tritonclient.grpc.service_pb2 as theirs  # noqa: E402

import cutaway  # noqa: E402
from cutaway_server.rpc.open_inference import messages as ours  # noqa: E402

x = np.zeros((1, 1, 28, 28), np.float32)
given = triton.InferInput("x", x.shape, "FP32")
given.set_data_from_numpy(x)
with triton.InferenceServerClient(address) as by_triton, cutaway.Client(address) as by_cutaway:
    answer = by_triton.infer("mnist", [given])
    scores = [answer.as_numpy("scores").tolist(), by_cutaway.predict("mnist", x).scores.tolist()]
read = ours.ModelInferResponse.FromString(answer.get_response().SerializeToString())
back = theirs.ModelInferResponse.FromString(read.SerializeToString())
json.dump(
    {
        "scores": scores,
        "read by ours": read.outputs[0].name,
        "read by theirs again": back == answer.get_response(),
        "protobuf": google.protobuf.__version__,
        "torch": "torch" in sys.modules,
    },
    sys.stdout,
)
