"""Client and AsyncClient against a server that answers by hand."""

from contextlib import suppress

import grpc
import numpy as np
import pytest

import cutaway
from cutaway.v1 import inference_pb2, introspect_pb2, model_pb2, predict_pb2

from . import fake

X = np.zeros((1, 1, 28, 28), np.float32)
SCORES = np.array([[0.5, 4.0, -1.0]], np.float32)
# PredictResponse {model: "m", version: "1", scores {dtype: FLOAT32, shape: [1, 1], data: 1.0}, scores_kind: LOGITS}
BY_HAND = b"\x0a\x01m\x12\x011\x1a\x0c\x08\x01\x12\x02\x01\x01\x1a\x04\x00\x00\x80\x3f\x20\x01"


def test_models(server, client):
    server.answers["ListModels"] = fake.models()
    (model,) = client.models()
    assert (model.name, model.version, model.state, model.scores_kind) == ("mnist", "1", "ready", "logits")
    assert (model.class_count, model.labels) == (3, ())
    assert model.introspection.cam_methods == ("cam", "grad-cam")
    (spec,) = model.inputs
    assert (spec.name, spec.dtype, spec.shape, spec.image.color) == ("x", "float32", (-1, 1, 28, 28), "gray")


def test_model(server, client):
    server.answers["GetModel"] = inference_pb2.GetModelResponse(model=fake.model(layers=True))
    model = client.model("mnist", version="1")
    assert model.labels == ("cat", "dog", "newt")
    conv, spare = model.layers
    assert (conv.name, conv.kind, conv.type, conv.index, conv.container) == ("conv1", "module", "Conv2d", 0, False)
    assert (conv.shape, conv.dtype, conv.bytes) == ((-1, 2, 3, 3), "float32", 72)
    assert (spare.shape, spare.dtype, spare.bytes, spare.never_fires) == (None, None, None, "it is never called")
    asked = inference_pb2.GetModelRequest.FromString(server.requests["GetModel"])
    assert (asked.model, asked.version) == ("mnist", "1")


def test_predict_by_hand(server, client):
    server.answers["Predict"] = BY_HAND
    answer = client.predict("m", X)
    np.testing.assert_array_equal(answer.logits, np.ones((1, 1), np.float32))
    assert (answer.model, answer.version, answer.scores_kind, answer.top) == ("m", "1", "logits", ())


def test_predict(server, client):
    server.answers["Predict"] = fake.prediction(SCORES, top=[1])
    answer = client.predict("mnist", X, top_k=1)
    np.testing.assert_array_equal(answer.scores, SCORES)
    ((best,),) = answer.top
    assert (best.index, best.label, best.score, best.probability) == (1, "class 1", 4.0, 0.75)
    asked = predict_pb2.PredictRequest.FromString(server.requests["Predict"])
    assert (asked.model, asked.top_k, asked.inputs[0].tensor.data) == ("mnist", 1, X.tobytes())


def test_logits_of_what_is_not_logits(server, client):
    server.answers["Predict"] = fake.prediction(SCORES, model_pb2.SCORES_KIND_LOG_PROBABILITIES)
    answer = client.predict("mnist", X)
    with pytest.raises(cutaway.NotInAnswer, match="log_probabilities, not logits"):
        _ = answer.logits


def test_an_answer_above_the_default_limit_of_grpc(server, client):
    large = np.zeros((1, 3, 1024, 512), np.float32)  # 6 MiB
    server.answers["Predict"] = fake.prediction(large)
    assert client.predict("mnist", X).scores.shape == large.shape


def test_introspect(server, client):
    server.answers["Introspect"] = fake.complete_stream()
    seen = client.introspect("mnist", X, layers=["conv1"], cams=[cutaway.Cam("grad-cam")], top_k=1)
    assert seen.activations["conv1"].shape == (1, 2, 3, 3)
    assert seen.inputs["fc1"].tolist() == [[1, 1, 1, 1]]
    assert seen.gradients["conv1"].min() == -17
    assert seen.cams[0].map.tolist() == [[[0, 1], [0, 0]]]
    assert len(seen.cams) == 1
    assert seen.cams[-1] is seen.cams[0]
    np.testing.assert_array_equal(seen.logits, SCORES)
    assert seen.scores_kind == "logits"
    assert seen.top[0][0].index == 1
    assert list(seen.timings.stages) == ["forward", "capture"]
    assert (seen.started.request_id, seen.failures) == ("r1", ())
    assert repr(seen.activations) == "{'conv1': float32[1, 2, 3, 3]}"


def test_what_was_not_captured_names_what_was(server, client):
    server.answers["Introspect"] = fake.complete_stream()
    seen = client.introspect("mnist", X, layers=["conv1"])
    assert "conv2" not in seen.activations
    assert seen.activations.get("conv2") is None
    with pytest.raises(cutaway.NotCaptured, match="no activation 'conv2' was captured; there is 'conv1'") as caught:
        _ = seen.activations["conv2"]
    assert isinstance(caught.value, KeyError)
    with pytest.raises(IndexError):
        _ = seen.cams[1]


def test_what_failed_says_why(server, client):
    lost = introspect_pb2.CaptureHeader(layer="fft", kind=introspect_pb2.CAPTURE_KIND_OUTPUT)
    server.answers["Introspect"] = [
        fake.started(cams=2),
        fake.failed(12, "complex tensors do not travel", capture=lost),
        fake.failed(9, "no gradient reaches it", cam=0),
        fake.whole(1, np.zeros((1, 2, 2)), **fake.cam(1)),
        fake.finished(),
    ]
    seen = client.introspect("mnist", X, layers=["fft"], cams=[cutaway.Cam("cam"), cutaway.Cam("grad-cam")])
    with pytest.raises(cutaway.NotCaptured, match="complex tensors do not travel") as caught:
        _ = seen.activations["fft"]
    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(cutaway.NotInAnswer, match="no gradient reaches it"):
        _ = seen.cams[0]
    assert seen.cams[1].map.shape == (1, 2, 2)
    assert repr(seen.cams) == "<1 of 2, 1 failed>"
    assert [failure.message for failure in seen.failures] == ["complex tensors do not travel", "no gradient reaches it"]


def test_maps_are_looked_up_in_the_order_in_which_they_were_planned(server, client):
    begin = fake.started(cams=1)
    for index, rank in ((1, 0), (1, 1), (1, 2)):
        begin.started.cams.add(cam=index, rank=rank, method="cam")
    ones = np.ones((1, 2, 2))
    server.answers["Introspect"] = [
        begin,
        fake.whole(1, 1 * ones, **fake.cam(1)),
        fake.whole(2, 3 * ones, **fake.cam(1, rank=2)),
        fake.failed(9, "no gradient reaches it", cam=1, rank=1),
        fake.whole(3, 0 * ones, **fake.cam(0)),
        fake.finished(),
    ]
    seen = client.introspect("mnist", X, cams=[cutaway.Cam("grad-cam"), cutaway.Cam("cam", top_k=3)])
    assert len(seen.cams) == 4
    assert [seen.cams[place].map.max() for place in (0, 1, 3, -1)] == [0, 1, 3, 3]
    with pytest.raises(cutaway.NotInAnswer, match="map 2 could not be made: no gradient reaches it"):
        _ = seen.cams[-2]


def test_scaled_maps_pictures_and_faithfulness(server, client):
    scaling = introspect_pb2.Scaling(upsampling=introspect_pb2.UPSAMPLING_NEAREST)
    server.answers["Introspect"] = [
        fake.started(cams=2),
        fake.whole(1, np.ones((1, 2, 2)), **fake.cam(0)),
        fake.whole(2, np.ones((1, 4, 4)), **fake.cam(0, form=introspect_pb2.CAM_FORM_SCALED, scaling=scaling)),
        fake.picture(3, b"png"),
        fake.faithfulness(),
        fake.whole(4, np.ones((1, 2, 2)), **fake.cam(1)),
        fake.finished(),
    ]
    cams = [cutaway.Cam("grad-cam", upsampling="nearest", pictures=["overlay"], faithfulness=True), cutaway.Cam("grad-cam")]
    seen = client.introspect("mnist", X, cams=cams)
    assert (seen.cams[0].map.shape, seen.scaled[0].map.shape) == ((1, 2, 2), (1, 4, 4))
    assert [(picture.kind, picture.png) for picture in seen.pictures] == [("overlay", b"png")]
    believed = seen.faithfulness[0]
    assert (believed.map.insertion.tolist(), believed.random.insertion.tolist()) == ([0.75], [0.5])
    with pytest.raises(cutaway.NotInAnswer, match="map 1 did not come scaled: ask for it with normalisation or upsampling"):
        _ = seen.scaled[1]
    with pytest.raises(cutaway.NotInAnswer, match="faithfulness of map 1 was not measured: ask for it with faithfulness=True"):
        _ = seen.faithfulness[1]


def test_nested_values(server, client):
    lost = introspect_pb2.CaptureHeader(layer="lstm", kind=introspect_pb2.CAPTURE_KIND_OUTPUT, path="1.1")
    server.answers["Introspect"] = [
        fake.started(),
        fake.whole(1, np.ones((1, 2)), **fake.capture("lstm", path="0")),
        fake.whole(2, np.zeros((1, 3)), **fake.capture("lstm", path="1.0")),
        fake.failed(12, "quantized", capture=lost),
        fake.finished(),
    ]
    lstm = client.introspect("mnist", X, layers=["lstm"]).activations["lstm"]
    assert {path: array.shape for path, array in lstm.items()} == {"0": (1, 2), "1.0": (1, 3)}
    with pytest.raises(cutaway.NotCaptured, match="quantized"):
        _ = lstm["1.1"]


def test_without_a_prediction(server, client):
    server.answers["Introspect"] = [fake.started(), fake.finished()]
    seen = client.introspect("mnist", X, layers=["conv1"], without_prediction=True)
    assert seen.prediction is None
    for name in ("scores", "logits", "scores_kind", "top"):
        with pytest.raises(cutaway.NotInAnswer, match="without a prediction"):
            getattr(seen, name)


def test_a_stream_that_stops_early(server, client):
    server.answers["Introspect"] = fake.complete_stream()[:-1]
    with pytest.raises(cutaway.BrokenAnswer, match="before it was complete"):
        client.introspect("mnist", X, layers=["conv1"])


def test_events_arrive_while_the_call_runs_and_leaving_the_block_cancels_it(server, client):
    endless = server.answers["Introspect"] = fake.Endless()
    with client.introspect_stream("mnist", X, layers=["*"]) as events:
        assert isinstance(next(events), cutaway.Started)
        assert not endless.ended.is_set()
    assert endless.ended.wait(10)
    assert list(events) == []


def test_an_exception_in_the_block_cancels_the_call(server, client):
    endless = server.answers["Introspect"] = fake.Endless()
    with suppress(ZeroDivisionError), client.introspect_stream("mnist", X, layers=["*"]) as events:
        next(events)
        raise ZeroDivisionError
    assert endless.ended.wait(10)


@pytest.mark.asyncio
async def test_async_equals_sync(server, client):
    server.answers["ListModels"] = fake.models()
    server.answers["GetModel"] = inference_pb2.GetModelResponse(model=fake.model(layers=True))
    server.answers["Predict"] = fake.prediction(SCORES, top=[1])
    server.answers["Introspect"] = fake.complete_stream()
    async with cutaway.AsyncClient(server.address, timeout=10) as other:
        assert await other.models() == client.models()
        assert await other.model("mnist") == client.model("mnist")

        assert facts(await other.predict("mnist", X)) == facts(client.predict("mnist", X))
        sent = server.requests["Predict"]
        await other.predict("mnist", X)
        assert server.requests["Predict"] == sent

        look = {"layers": ["conv1"], "inputs": ["fc1"], "cams": [cutaway.Cam("grad-cam", class_index=0)], "top_k": 1}
        with client.introspect_stream("mnist", X, **look) as events:
            expected = [facts(event) for event in events]
        sent = server.requests["Introspect"]
        async with other.introspect_stream("mnist", X, **look) as events:
            assert [facts(event) async for event in events] == expected
        assert server.requests["Introspect"] == sent
        seen = await other.introspect("mnist", X, **look)
        np.testing.assert_array_equal(seen.logits, SCORES)


def facts(event) -> dict:
    """An event's fields, arrays as what can be compared."""
    return {
        name: (value.dtype.name, value.tolist()) if isinstance(value, np.ndarray) else value for name, value in vars(event).items()
    }


@pytest.mark.asyncio
async def test_leaving_an_async_block_cancels_the_call(server):
    endless = server.answers["Introspect"] = fake.Endless()
    async with cutaway.AsyncClient(server.address, timeout=10) as client:
        async with client.introspect_stream("mnist", X, layers=["*"]) as events:
            assert isinstance(await anext(events), cutaway.Started)
        assert endless.ended.wait(10)
        assert [event async for event in events] == []


@pytest.mark.asyncio
async def test_an_async_stream_that_stops_early(server):
    server.answers["Introspect"] = fake.complete_stream()[:-1]
    async with cutaway.AsyncClient(server.address, timeout=10) as client:
        with pytest.raises(cutaway.BrokenAnswer):
            await client.introspect("mnist", X, layers=["conv1"])
