"""What takes more than one message may hold is refused in words, on every form and in a stream, and costs nobody else."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from torch import nn

from cutaway_server.models.model import InputSpec
from cutaway_server.models.prepare import prepare
from cutaway_server.prediction.engines.eager import Eager
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings
from cutaway_server.rpc.open_inference import messages
from open_inference_calls import Wanted, stream
from raw_calls import REQUESTS, infer, scores
from server_process import metric_at

LIMIT = 2 << 20
FITS, TOO_MANY = 100, 128  # samples, of which each has 16 KiB of scores


@pytest.fixture(scope="module", params=("serving thread", "own thread", "ordinary"))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Of one network, a head for each pixel."""
    wide = prepare(nn.Sequential(nn.Conv2d(1, 64, 1)), name="wide", inputs=(InputSpec("x", torch.float32, (-1, 1, 8, 8)),))
    given = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "log_level": "error", "threads": 1, "lanes": 1}
    fast_path = "off" if request.param == "ordinary" else "auto"
    with pytest.MonkeyPatch.context() as patch:
        # On the serving thread the network stands in for an engine that runs no Python.
        patch.setattr(Eager, "runs_python", request.param != "serving thread")
        with Server([wide], load_settings({**given, "max_message_mib": LIMIT >> 20, "fast_path": fast_path})) as running:
            for one in running.all():
                assert one.served is not None
                one.served.batcher.settle(2 * TOO_MANY, 0.0)
                assert one.served.batcher.runs_at_once == (request.param == "serving thread")
            yield running


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


def pictures(count: int) -> np.ndarray:
    return np.zeros((count, 1, 8, 8), np.float32)


@pytest.mark.parametrize("path", REQUESTS)
def test_scores_past_the_limit_are_refused_in_words(channel: grpc.Channel, server: Server, path: str) -> None:
    def ended(code: str) -> float:
        return metric_at(server.metrics_address, "cutaway_requests_total", method=path.rpartition("/")[2], code=code)

    ask, refused_before, answered_before = channel.unary_unary(path), ended("RESOURCE_EXHAUSTED"), ended("OK")
    with pytest.raises(grpc.RpcError) as caught:
        ask(REQUESTS[path](pictures(TOO_MANY), "wide"), timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    size = int(caught.value.details().removeprefix("the answer takes ").partition(" bytes")[0].replace(",", ""))
    assert LIMIT < size < LIMIT + 1000
    assert "the limit for one message is 2,097,152; send fewer samples in one call" in caught.value.details()
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(caught.value).details[0].Unpack(info)
    assert dict(info.metadata) == {"asked": str(size), "limit": str(LIMIT)}
    assert scores(path, ask(REQUESTS[path](pictures(FITS), "wide"), timeout=20)).shape == (FITS, 64, 8, 8)
    assert (ended("RESOURCE_EXHAUSTED"), ended("OK")) == (refused_before + 1, answered_before + 1)


@pytest.mark.parametrize("output", ["", "layer:0"])
def test_a_stream_goes_on_after_them(channel: grpc.Channel, output: str) -> None:
    """After a layer, too, whose tensor fits and whose message does not."""

    def asked(count: int) -> messages.ModelInferRequest:
        request = messages.ModelInferRequest.FromString(infer(pictures(count), "wide", str(count)))
        request.outputs.extend([Wanted(name=output)] if output else [])
        return request

    refused, answered = stream(channel, map(asked, (TOO_MANY, FITS)))
    assert "the limit for one message is 2,097,152; " in refused.error_message
    assert refused.infer_response.id == str(TOO_MANY)
    assert answered.infer_response.outputs[0].shape == [FITS, 64, 8, 8]
