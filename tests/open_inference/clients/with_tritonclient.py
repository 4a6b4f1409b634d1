"""Calls a server by tritonclient, in that package's own environment, and prints what came as JSON.

Usage: with_tritonclient.py ADDRESS FILE, where FILE is a .npz with x [N, 1, 28, 28] and files: pictures as bytes.
"""

import asyncio
import json
import sys
import threading

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

ADDRESS = sys.argv[1]
GIVEN = np.load(sys.argv[2], allow_pickle=True)
X, FILES = GIVEN["x"], GIVEN["files"]


def tensor(array, datatype="FP32"):
    given = triton.InferInput("x", array.shape, datatype)
    given.set_data_from_numpy(array)
    return given


def wanted(*names):
    return [triton.InferRequestedOutput(name) for name in names]


def arrays(result):
    """All outputs of an answer, by name."""
    return {output.name: result.as_numpy(output.name).tolist() for output in result.get_response().outputs}


def texts(array):
    return [[text.decode() for text in row] for row in array]


def unary(client):
    answer = client.infer("mnist", [tensor(X)], request_id="mine", model_version="1", timeout=20_000_000, priority=1)
    best = client.infer("mnist", [tensor(X)], outputs=[triton.InferRequestedOutput("scores", class_count=2)])
    files = client.infer("mnist", [tensor(FILES, "BYTES")])
    inside = client.infer(
        "mnist", [tensor(X)], outputs=wanted("scores", "layer:conv1", "layer:relu*", "cam:grad-cam@conv2?class=3")
    )
    packed = client.infer("mnist", [tensor(X)], compression_algorithm="gzip", parameters={"mine": "anything", "half": 0.5})
    return {
        "infer": arrays(answer),
        "id": answer.get_response().id,
        "version": answer.get_response().model_version,
        "classification": texts(best.as_numpy("scores")),
        "files": arrays(files),
        "inside": arrays(inside),
        "compressed": arrays(packed),
    }


def refused(client):
    try:
        client.infer("mnist", [tensor(X)], outputs=wanted("layer:conv9"))
    except InferenceServerException as error:
        return [error.status(), error.message()]


def asynchronous(client):
    done, came = threading.Event(), []

    def take(result, error):
        came.append(arrays(result) if error is None else str(error))
        if len(came) == 3:
            done.set()

    for place in range(3):
        client.async_infer("mnist", [tensor(X[place : place + 1])], take)
    assert done.wait(30)
    return came


def streamed(client):
    done, came = threading.Event(), []

    def take(result, error):
        if error:
            came.append({"error": error.message()})
        else:
            answer = result.get_response()
            final = answer.parameters["triton_final_response"].bool_param
            came.append({"id": answer.id, "final": final, "outputs": arrays(result)})
        if came[-1].get("id") == "last" and came[-1]["final"]:
            done.set()

    client.start_stream(take)
    client.async_stream_infer("mnist", [tensor(X)], request_id="scores")
    client.async_stream_infer("mnist", [tensor(X)], outputs=wanted("layer:conv9"), request_id="refused")
    client.async_stream_infer(
        "mnist",
        [tensor(X)],
        outputs=wanted("layer:conv1", "cam:grad-cam@conv2?class=3"),
        request_id="last",
        enable_empty_final_response=True,
    )
    assert done.wait(30)
    client.stop_stream()
    return came


def told(client):
    metadata, config = client.get_model_metadata("mnist", as_json=True), client.get_model_config("mnist", as_json=True)
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": [client.is_model_ready("mnist"), client.is_model_ready("mnist", "1"), client.is_model_ready("resnet")],
        "server": client.get_server_metadata(as_json=True),
        "metadata": metadata,
        "config": config,
        "statistics": client.get_inference_statistics("mnist", as_json=True),
        "index": client.get_model_repository_index(as_json=True),
    }


async def aio():
    async with triton_aio.InferenceServerClient(ADDRESS) as client:
        answers = await asyncio.gather(*(client.infer("mnist", [tensor(X[place : place + 1])]) for place in range(3)))

        async def requests():
            for place in range(3):
                yield {"model_name": "mnist", "inputs": [tensor(X[place : place + 1])], "request_id": str(place)}

        stream = client.stream_infer(requests())
        parts = [(result.get_response().id, arrays(result)) async for result, error in stream if error is None]
        return {"ready": await client.is_model_ready("mnist"), "infer": list(map(arrays, answers)), "stream": parts}


with triton.InferenceServerClient(ADDRESS) as connected:
    json.dump(
        {
            **unary(connected),
            "refused": refused(connected),
            "async": asynchronous(connected),
            "stream": streamed(connected),
            "told": told(connected),
            "aio": asyncio.run(aio()),
        },
        sys.stdout,
    )
