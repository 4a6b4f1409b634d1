"""What a reader that is slower than the network costs the server: a buffer, and no memory beyond it; and where its call stops."""

import json
from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest

import cutaway
from cutaway.v1.inference_pb2_grpc import InferenceServiceStub
from many_layers import MIB, RAISES, SLOW, all_layers, picture, read_slowly, resident, resident_samples, serving
from server_process import ServerProcess, wait_until

LAYERS = 96
EACH = 2  # MiB that a layer puts out
BUFFER = 4  # MiB
SLACK = 8  # MiB: messages on their way, what Python and gRPC make for a call


@pytest.fixture(scope="module")
def bounded() -> Iterator[ServerProcess]:
    with serving(LAYERS, exact_memory=True, stream_buffer_mib=BUFFER) as running:
        yield running


@pytest.fixture(scope="module")
def unbounded() -> Iterator[ServerProcess]:
    """A server whose buffer takes all that there is; its calls may take 2 s."""
    with serving(LAYERS, exact_memory=True, stream_buffer_mib=1024, call_timeout=2) as running:
        yield running


def growth_limit(server: ServerProcess) -> int:
    """What a call may add to the server's memory: what its forward pass takes by itself, as measured, buffer and slack."""
    pid = server.process.pid
    with cutaway.Client(server.address) as client:
        client.predict("many", picture(EACH))
        before = resident(pid)
        with resident_samples(pid) as samples:
            for _ in range(5):
                client.predict("many", picture(EACH))
    return max(samples) - before + (BUFFER + SLACK) * MIB


def lines(server: ServerProcess, event: str) -> list[dict[str, str]]:
    logged = (json.loads(line) for line in server.log().splitlines())
    return [line for line in logged if line["event"] == event]


def number(layer: str) -> int:
    return int(layer.removeprefix("layers."))


def test_a_call_to_a_slow_reader_takes_a_buffer_and_not_what_it_captures(bounded: ServerProcess):
    limit, pid = growth_limit(bounded), bounded.process.pid
    with grpc.insecure_channel(bounded.address) as channel:
        stub = InferenceServiceStub(channel)
        read_slowly(stub.Introspect(all_layers(EACH), timeout=30), 1000)  # what a first call makes once is not looked at
        before = resident(pid)
        with resident_samples(pid) as samples:
            came = read_slowly(stub.Introspect(all_layers(EACH), timeout=30), 60)
    assert came >= LAYERS * EACH * MIB > 4 * limit
    assert len(samples) > 100
    assert max(samples) - before <= limit
    wait_until(lambda: resident(pid) - before <= SLACK * MIB)


def test_without_a_bound_the_same_call_would_take_more(bounded: ServerProcess, unbounded: ServerProcess):
    limit, pid = growth_limit(bounded), unbounded.process.pid
    growth_limit(unbounded)
    before = resident(pid)
    with grpc.insecure_channel(unbounded.address) as channel:
        stream = InferenceServiceStub(channel).Introspect(all_layers(EACH), timeout=30)
        next(stream)
        wait_until(lambda: resident(pid) - before > 2 * limit)
        stream.cancel()


def test_a_cancelled_call_stops_the_network_near_where_its_reader_was(bounded: ServerProcess):
    stopped = len(lines(bounded, "the introspection was stopped"))
    with cutaway.Client(bounded.address) as client:
        with client.introspect_stream("many", picture(EACH), layers=["layers.*"]) as events:
            read = [event.layer for event, _ in zip(events, range(9), strict=False) if isinstance(event, cutaway.Activation)]
        assert read == [f"layers.{index}" for index in range(8)]
    wait_until(lambda: len(lines(bounded, "the introspection was stopped")) > stopped)
    line = lines(bounded, "the introspection was stopped")[-1]
    assert line["reason"] == "the call was cancelled"
    assert 7 <= number(line["last_layer"]) < LAYERS / 2


def test_an_expired_call_says_after_which_layer_the_network_stopped(unbounded: ServerProcess):
    with cutaway.Client(unbounded.address) as client, pytest.raises(cutaway.DeadlineExceeded) as failed:
        client.introspect("many", picture(1, SLOW), layers=["head"])
    said, quote, layer = failed.value.message.removesuffix("'").partition("'")
    assert (said, quote) == ("the deadline passed while the network ran, after layer ", "'")
    assert 0 < number(layer) < LAYERS / 2
    (line,) = [line for line in lines(unbounded, "the introspection was stopped") if line["reason"] == failed.value.message]
    assert line["last_layer"] == layer


def test_a_call_that_expires_while_its_reader_stands_still_stops_the_network_there(bounded: ServerProcess):
    stopped = len(lines(bounded, "the introspection was stopped"))
    with (
        cutaway.Client(bounded.address) as client,
        client.introspect_stream("many", picture(EACH), layers=["layers.*"], timeout=1) as events,
    ):
        next(events)
        wait_until(lambda: len(lines(bounded, "the introspection was stopped")) > stopped)
        with pytest.raises(cutaway.DeadlineExceeded):
            list(events)
    assert number(lines(bounded, "the introspection was stopped")[-1]["last_layer"]) < LAYERS / 2


def test_a_reader_that_pauses_is_told_why_its_call_was_ended(bounded: ServerProcess):
    def ended() -> float:
        return bounded.metric("cutaway_requests_total", method="Introspect")

    failed, before = len(lines(bounded, "the introspection failed")), ended()
    with (
        cutaway.Client(bounded.address) as client,
        client.introspect_stream("many", picture(BUFFER, RAISES), layers=["widen"]) as events,
    ):
        next(events)
        wait_until(lambda: len(lines(bounded, "the introspection failed")) > failed)
        with suppress(AssertionError):
            wait_until(lambda: ended() > before, 1)  # it is not to end before this reader was told, who is not late yet
        with pytest.raises(cutaway.Internal, match=r"^model 'many' failed on this input"):
            list(events)
