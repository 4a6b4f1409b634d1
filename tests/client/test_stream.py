"""The stream's state machine: any way of cutting an item gives the same array; what breaks the contract gives none."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cutaway
from cutaway._stream import Assembler
from cutaway.v1 import introspect_pb2, tensor_pb2

from .fake import (
    cam,
    capture,
    chunk,
    complete_stream,
    failed,
    faithfulness,
    finished,
    header,
    measures,
    picture,
    response,
    scored,
    started,
    whole,
)

ARRAY = np.arange(6, dtype=np.float32).reshape(1, 6)
DATA = ARRAY.astype("<f4").tobytes()
PLANE = np.ones((1, 2, 2), np.float32)
PNG = b"\x89PNG of eight"


def feed(*responses):
    """The events of a stream that has begun."""
    assembler = Assembler()
    fed = [assembler.feed(one) for one in (started(), *responses)]
    return [event for event in fed[1:] if event is not None]


def pieces(number: int, array: np.ndarray, cuts: list[int], **subject) -> list[introspect_pb2.IntrospectResponse]:
    """An item cut where cuts say; some pieces may be empty."""
    data = array.astype("<f4").tobytes()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    chunks = [chunk(number, data[a:b], a) for a, b in pairwise(edges) if b > a]
    chunks = chunks or [chunk(number)]
    chunks[0].chunk.header.CopyFrom(header(array, **subject))
    return chunks


@given(st.integers(0, 40), st.lists(st.integers(0, 200), max_size=8))
def test_any_split_gives_the_same_array(size, cuts):
    array = np.arange(size, dtype=np.float32) - 7
    (event,) = feed(*pieces(1, array, cuts))
    np.testing.assert_array_equal(event.array, array)


@given(st.lists(st.integers(0, 60), max_size=5), st.lists(st.integers(0, 60), max_size=5), st.randoms())
def test_items_may_be_interleaved(cuts, other_cuts, chance):
    one, other = np.arange(15, dtype=np.float32), -np.arange(12, dtype=np.float32)
    queues = [pieces(1, one, cuts, **capture("a")), pieces(2, other, other_cuts, **capture("b"))]
    mixed = []
    while any(queues):
        mixed.append(chance.choice([queue for queue in queues if queue]).pop(0))

    arrays = {event.layer: event.array for event in feed(*mixed)}

    np.testing.assert_array_equal(arrays["a"], one)
    np.testing.assert_array_equal(arrays["b"], other)


def test_header_without_data_first():
    events = feed(chunk(1, header=header(ARRAY)), chunk(1, DATA))
    np.testing.assert_array_equal(events[0].array, ARRAY)


BROKEN = {
    "a gap": [chunk(1, DATA[:8], header=header(ARRAY)), chunk(1, DATA[12:], 12)],
    "an overlap": [chunk(1, DATA[:8], header=header(ARRAY)), chunk(1, DATA[4:], 4)],
    "the second chunk first": [chunk(1, DATA[8:], 8, header(ARRAY))],
    "too much": [chunk(1, DATA + b"\0", header=header(ARRAY))],
    "more after the end": [whole(1, ARRAY), chunk(1, b"\0", len(DATA))],
    "two headers": [chunk(1, DATA[:8], header=header(ARRAY)), chunk(1, DATA[8:], 8, header(ARRAY))],
    "no header": [chunk(1, DATA)],
    "incomplete": [chunk(1, DATA[:8], header=header(ARRAY)), finished()],
    "twice started": [started()],
    "more after Finished": [finished(), whole(1, ARRAY)],
    "scores unannounced": [scored(1, ARRAY)[1]],
    "scores of another item": [scored(1, ARRAY)[0], scored(2, ARRAY)[1]],
    "no scores": [scored(1, ARRAY)[0], finished()],
    "a tensor that says to be a picture": [whole(1, PLANE, **cam(form=introspect_pb2.CAM_FORM_OVERLAY))],
    "a picture that says to be a map": [picture(1, PNG, introspect_pb2.CAM_FORM_RAW)],
    "half a picture": [picture(1, PNG[:4]), chunk(1, PNG[4:], 4)],
    "measures of two samples and one": [faithfulness(map=measures(2))],
    "measures where one is missing": [faithfulness(random=measures(road=[]))],
}


@pytest.mark.parametrize("responses", BROKEN.values(), ids=BROKEN.keys())
def test_broken_streams_are_refused(responses):
    with pytest.raises(cutaway.BrokenAnswer):
        feed(*responses)


def picture_header(**fields) -> introspect_pb2.ChunkHeader:
    return spoilt(picture(1, PNG).chunk.header, **fields)


def spoilt(wrong: introspect_pb2.ChunkHeader | None = None, **fields) -> introspect_pb2.ChunkHeader:
    """A header with some field that lies."""
    wrong = wrong or header(ARRAY)
    for name, value in fields.items():
        if name == "shape":
            del wrong.shape[:]
            wrong.shape.extend(value)
        else:
            setattr(wrong, name, value)
    return wrong


@pytest.mark.parametrize(
    "lying",
    [
        spoilt(total_bytes=2**40),
        spoilt(total_bytes=-1),
        spoilt(shape=[1, 7]),
        spoilt(shape=[-1, -6]),
        spoilt(dtype=tensor_pb2.DATA_TYPE_FLOAT64),
        spoilt(dtype=77),
        spoilt(dtype=tensor_pb2.DATA_TYPE_UNSPECIFIED),
        spoilt(encoding=9),
        spoilt(encoding=introspect_pb2.ENCODING_PNG, dtype=0, shape=[]),  # of a layer
        picture_header(dtype=tensor_pb2.DATA_TYPE_UINT8),
        picture_header(shape=[9]),
        picture_header(total_bytes=0),
        picture_header(total_bytes=-1),
    ],
)
def test_headers_that_lie_are_refused_at_once(lying):
    with pytest.raises(cutaway.BrokenAnswer):
        feed(chunk(1, header=lying))


def test_a_claim_costs_nothing_before_its_bytes_come():
    claim = spoilt(shape=[2**40], total_bytes=2**42)  # 4 TiB: to reserve it would fail
    assert feed(chunk(1, DATA, header=claim)) == []


def test_nothing_comes_before_started():
    with pytest.raises(cutaway.BrokenAnswer, match="begin"):
        Assembler().feed(whole(1, ARRAY))


def test_the_end_needs_finished():
    assembler = Assembler()
    assembler.feed(started())
    with pytest.raises(cutaway.BrokenAnswer, match="before it was complete"):
        assembler.end()


def test_what_a_newer_server_adds_is_skipped():
    picture = header(ARRAY)
    picture.ClearField("capture")
    new_event = introspect_pb2.IntrospectResponse.FromString(b"\xfa\x01\x02\x08\x01")  # event 31, which nobody knows yet
    events = feed(new_event, chunk(1, DATA[:4], header=picture), chunk(1, DATA[4:], 4), whole(2, ARRAY), finished())
    assert [type(event) for event in events] == [cutaway.Activation, cutaway.Finished]
    assert Assembler().feed(new_event) is None


def test_one_of_everything():
    events = feed(*complete_stream()[1:])
    names = ["Activation", "Activation", "Prediction", "Activation", "Progress", "CamMap", "Finished"]
    assert [type(event).__name__ for event in events] == names
    output, taken, predicted, gradient, _, seen, done = events
    assert [event.kind for event in (output, taken, gradient)] == ["output", "input", "gradient"]
    assert (predicted.model, predicted.version, predicted.scores_kind) == ("mnist", "1", "logits")
    assert predicted.top == (((1, "class 1", 4.0, 0.75),),)
    assert (seen.method, seen.layer, seen.classes, seen.relu, seen.score) == ("grad-cam", "conv1", (1,), True, "model")
    assert (seen.layers, seen.form, seen.channels, seen.fusion, seen.scaling) == (("conv1",), "raw", "sum", None, None)
    assert (seen.rank, seen.against, seen.augment, seen.steps, seen.window, seen.notes) == (0, (), False, 0, (), ())
    assert seen.placement == (cutaway.Affine(14, 14, 0, 0),)
    assert done.timings.stages == pytest.approx({"forward": 0.0015, "capture": 0.00025})
    assert done.timings.layers[0].completed_after == pytest.approx(0.001)
    assert (done.last_layer, done.bytes_sent) == ("fc2", 72)
    assert done.timings.cams == ((0, 0, pytest.approx(0.002), 0, 0),)


def test_a_failure_names_its_item():
    subject = introspect_pb2.CaptureHeader(layer="conv1", kind=introspect_pb2.CAPTURE_KIND_GRADIENT, path="0")
    no_gradient, no_map = feed(failed(9, "no gradient", capture=subject), failed(12, "not yet", cam=1, rank=2))
    assert (no_gradient.layer, no_gradient.kind, no_gradient.path, no_gradient.cam) == ("conv1", "gradient", "0", None)
    assert (no_map.layer, no_map.kind, no_map.cam, no_map.rank) == (None, None, 1, 2)
    assert [failure.code.name for failure in (no_gradient, no_map)] == ["FAILED_PRECONDITION", "UNIMPLEMENTED"]


@pytest.mark.parametrize("shape", [(2, 9), (2, 4, 5), (2, 3, 4, 5), (2, 8, 3, 4, 5)])
def test_maps_of_one_to_three_axes_and_channels(shape):
    (event,) = feed(whole(1, np.ones(shape, np.float32), **cam()))
    assert event.map.shape == shape


@pytest.mark.parametrize("shape", [(), (2,), (1, 1, 1, 1, 1, 1)])
def test_a_map_needs_one_to_three_axes_a_sample(shape):
    with pytest.raises(cutaway.BrokenAnswer, match="class activation map"):
        feed(whole(1, np.ones(shape, np.float32), **cam()))


def test_a_map_with_all_its_settings():
    settings = introspect_pb2.CamSettings(
        relu=False,
        score=introspect_pb2.SCORE_PROBABILITY,
        join=introspect_pb2.CHANNEL_JOIN_NONE,
        augment=True,
        steps=9,
        window=[4, 8],
        stride=[2],
    )
    told = introspect_pb2.CamNote(sample=1, reason=introspect_pb2.CAM_NOTHING_GRADIENT_VANISHED, message="The gradient is 0.")
    fields = {"against": [3], "rank": 1, "fusion": introspect_pb2.FUSION_MAX, "notes": [told], "layers": ["conv1", "conv2"]}
    (event,) = feed(whole(1, PLANE, **cam(4, settings=settings, **fields)))
    assert (event.cam, event.rank, event.layers, event.layer) == (4, 1, ("conv1", "conv2"), "conv1 + conv2")
    assert (event.relu, event.score, event.channels, event.augment) == (False, "probability", "each", True)
    assert (event.steps, event.window, event.stride, event.fusion, event.against) == (9, (4, 8), (2,), "max", (3,))
    assert event.notes == ((1, "gradient_vanished", "The gradient is 0."),)


def test_a_scaled_map():
    how = introspect_pb2.Scaling(normalisation=introspect_pb2.NORMALISATION_MIN_MAX)
    (event,) = feed(whole(1, PLANE, **cam(form=introspect_pb2.CAM_FORM_SCALED, scaling=how)))
    assert (event.form, event.scaling) == ("scaled", ("min-max", "none"))


@given(st.lists(st.integers(0, 40), max_size=5))
def test_a_picture_comes_in_any_pieces(cuts):
    edges = [0, *sorted(cut % (len(PNG) + 1) for cut in cuts), len(PNG)]
    chunks = [chunk(1, PNG[a:b], a) for a, b in pairwise(edges) if b > a]
    chunks[0].chunk.header.CopyFrom(picture(1, PNG, introspect_pb2.CAM_FORM_HEAT_MAP, sample=2, rank=1).chunk.header)
    (event,) = feed(*chunks)
    assert event == cutaway.CamPicture(cam=0, rank=1, kind="heat-map", sample=2, png=PNG)


def test_faithfulness():
    (event,) = feed(faithfulness(1, map=measures(2, road=[0.25, 0.5]), random=measures(2)))
    assert (event.cam, event.rank, event.steps) == (0, 1, 16)
    assert (event.map.road.dtype.name, event.map.road.tolist()) == ("float64", [0.25, 0.5])
    assert event.map.increase.tolist() == event.random.road.tolist() == [0.125, 0.125]


def test_what_a_map_will_take():
    first = started(cams=1)
    judged = {"faithfulness_forward_passes": 40, "faithfulness_backward_passes": 10}
    first.started.cams.add(cam=1, method="saliency", rank=1, forward_passes=7, shape=[2, 28, 28], **judged)
    first.started.seed = -1
    event = Assembler().feed(first)
    assert event.cams == ((0, "grad-cam", ("conv1",), 0, 0, 1, (1, 2, 2), 0, 0), (1, "saliency", (), 1, 7, 0, (2, 28, 28), 40, 10))
    assert (event.seed, Assembler().feed(started()).seed) == (-1, None)


def test_what_is_not_known_beforehand():
    planned = [
        introspect_pb2.PlannedCapture(layer="a", kind=1, dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[2, 3], bytes=24),
        introspect_pb2.PlannedCapture(layer="b", kind=2, dtype=tensor_pb2.DATA_TYPE_INT8, bytes=1),
        introspect_pb2.PlannedCapture(layer="c", kind=3),
    ]
    known, scalar, unknown = Assembler().feed(started(planned)).captures
    assert known == ("a", "output", "", "float32", (2, 3), 24, 0, 0)
    assert scalar == ("b", "input", "", "int8", (), 1, 0, 0)
    assert unknown == ("c", "gradient", "", None, None, 0, 0, 0)


def test_kinds_of_a_newer_server_have_a_word():
    later = response(prediction=introspect_pb2.Prediction(scores_item=1, scores_kind=42))
    (event,) = feed(later, scored(1, ARRAY)[1])
    assert event.scores_kind == "unknown (42)"
