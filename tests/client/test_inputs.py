"""What a caller may give as x, and what is refused before any call."""

import io

import numpy as np
import pytest
from PIL import Image

from cutaway._inputs import input_messages
from cutaway._requests import Cam, Capture, introspect_request, predict_request
from cutaway.v1 import input_pb2, introspect_pb2

PIXELS = np.arange(2 * 5 * 4, dtype=np.uint8).reshape(2, 5, 4)


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_float_array_goes_as_it_is():
    (message,) = input_messages(np.ones((2, 1, 4, 4)))
    assert list(message.tensor.shape) == [2, 1, 4, 4]
    assert len(message.tensor.data) == 2 * 4 * 4 * 8  # float64: the server says what it expects
    assert message.layout == input_pb2.PIXEL_LAYOUT_UNSPECIFIED
    assert message.name == ""


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((2, 5, 4), "NHW"), ((3, 28, 28), "NHW"), ((2, 1, 5, 4), "NCHW"), ((2, 3, 5, 4), "NCHW"), ((2, 5, 4, 3), "NHWC")],
)
def test_a_layout_without_doubt_is_inferred(shape, layout):
    (message,) = input_messages(np.zeros(shape, np.uint8))
    assert message.layout == input_pb2.PixelLayout.Value(f"PIXEL_LAYOUT_{layout}")


@pytest.mark.parametrize("shape", [(2, 3, 5, 3), (2, 1, 5, 1), (2, 5, 5, 5), (28, 28, 3), (28, 28, 1), (28, 28), (), (1,) * 5])
def test_a_layout_in_doubt_must_be_given(shape):
    with pytest.raises(ValueError, match="give layout="):
        input_messages(np.zeros(shape, np.uint8))


def test_a_layout_given_settles_it():
    (message,) = input_messages(np.zeros((2, 3, 5, 3), np.uint8), "NHWC")
    assert message.layout == input_pb2.PIXEL_LAYOUT_NHWC


@pytest.mark.parametrize(
    ("x", "layout", "sentence"),
    [
        (PIXELS, "NCHW", "has 4 axes"),
        (PIXELS, "HWC", "is none of"),
        (np.zeros((1, 3, 4, 4)), "NCHW", "none was given"),
        (b"png", "NHW", "none was given"),
        ([], None, "empty list"),
        ([np.zeros((1, 2)), np.zeros((1, 3))], None, "must agree"),
        ([np.zeros((1, 2)), np.zeros((1, 2), np.float32)], None, "must agree"),
    ],
)
def test_values_that_are_refused(x, layout, sentence):
    with pytest.raises(ValueError, match=sentence):
        input_messages(x, layout)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (7, "a int is no input"),
        ([[1.0, 2.0]], "a list is no input"),
        ([b"png", PIXELS], "not both"),
        (np.zeros(2, complex), "cannot be sent"),
        (Image.new("CMYK", (2, 2)), "CMYK"),
    ],
)
def test_types_that_are_refused(x, sentence):
    with pytest.raises(TypeError, match=sentence):
        input_messages(x)


def test_pictures(tmp_path):
    picture = Image.fromarray(PIXELS[0])
    file = tmp_path / "digit.png"
    file.write_bytes(png(picture))

    (message,) = input_messages([file, str(file), png(picture), bytearray(png(picture)), picture])

    assert [np.array(Image.open(io.BytesIO(sent))).tolist() for sent in message.images.files] == [PIXELS[0].tolist()] * 5
    assert message.images.files[0] == file.read_bytes()


def test_npy_files_are_arrays(tmp_path):
    np.save(tmp_path / "two.npy", PIXELS)
    (message,) = input_messages([tmp_path / "two.npy", PIXELS[:1]])
    assert list(message.tensor.shape) == [3, 5, 4]
    assert message.tensor.data == PIXELS.tobytes() + PIXELS[:1].tobytes()


def test_pickles_are_never_loaded(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        input_messages(tmp_path / "objects.npy")


def test_what_makes_itself_an_array():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return PIXELS

    assert input_messages(Tensor()) == input_messages(PIXELS)


def test_named_inputs():
    messages = input_messages({"image": b"png", "box": np.zeros((1, 4), np.float32)})
    assert [(message.name, message.WhichOneof("value")) for message in messages] == [
        ("image", "images"),
        ("box", "tensor"),
    ]


def test_a_predict_request():
    request = predict_request("mnist", b"png", top_k=3, version="2")
    assert (request.model, request.version, request.top_k, len(request.inputs)) == ("mnist", "2", 3, 1)
    with pytest.raises(ValueError, match="top_k"):
        predict_request("mnist", b"png", top_k=-1)


def test_an_introspect_request():
    request = introspect_request(
        "mnist",
        b"png",
        layers=["conv1", "fc*"],
        inputs=["fc1"],
        gradients=["conv2"],
        cams=[Cam("grad-cam"), Cam("cam", "conv2", class_index=0, relu=False), Cam("cam", class_index=[3, 5])],
        without_prediction=True,
        seed=0,
    )
    taken = [(capture.layer, introspect_pb2.CaptureKind.Name(capture.kind)[13:]) for capture in request.captures]
    assert taken == [("conv1", "OUTPUT"), ("fc*", "OUTPUT"), ("fc1", "INPUT"), ("conv2", "GRADIENT")]
    assert request.without_prediction
    assert request.HasField("seed")
    predicted, class_0, each = request.cams
    assert not predicted.HasField("target")
    assert predicted.settings == introspect_pb2.CamSettings()
    assert not any(map(predicted.HasField, ("scaling", "faithfulness")))
    assert list(class_0.target.classes.indices) == [0]
    assert class_0.settings.HasField("relu")
    assert not class_0.settings.relu
    assert list(each.target.classes.indices) == [3, 5]


def asked(cam: Cam) -> introspect_pb2.Cam:
    return introspect_request("mnist", b"png", cams=[cam]).cams[0]


def test_targets_of_a_cam():
    assert asked(Cam("cam", top_k=3)).target == introspect_pb2.Target(top_k=introspect_pb2.TopK(k=3))
    contrast = introspect_pb2.Contrast(indices=[1], against=[2, 3])
    assert asked(Cam("cam", class_index=1, against=[2, 3])).target == introspect_pb2.Target(contrast=contrast)
    gradient = Capture("conv1", class_index=0, against=2)
    (capture,) = introspect_request("mnist", b"png", gradients=[gradient]).captures
    assert (list(capture.target.contrast.indices), list(capture.target.contrast.against)) == ([0], [2])


def test_settings_of_a_cam():
    cam = Cam("occlusion", score="probability", channels="each", augment=True, steps=9, window=(4, 8), stride=2)
    assert asked(cam).settings == introspect_pb2.CamSettings(
        score=introspect_pb2.SCORE_PROBABILITY,
        join=introspect_pb2.CHANNEL_JOIN_NONE,
        augment=True,
        steps=9,
        window=[4, 8],
        stride=[2],
    )


def test_what_becomes_of_a_cam():
    fused = asked(Cam("grad-cam", ["conv1", "conv2"], fusion="product", pictures=["heat-map", "overlay"], faithfulness=8))
    assert (list(fused.layers), fused.fusion) == (["conv1", "conv2"], introspect_pb2.FUSION_PRODUCT)
    assert list(fused.pictures) == [introspect_pb2.CAM_PICTURE_HEAT_MAP, introspect_pb2.CAM_PICTURE_OVERLAY]
    assert fused.faithfulness.steps == 8
    default = asked(Cam("grad-cam", faithfulness=True))
    assert (default.HasField("faithfulness"), default.faithfulness.steps) == (True, 0)


def test_either_part_of_a_scaling_asks_for_it():
    scaled = asked(Cam("cam", normalisation="min-max")).scaling
    assert (scaled.normalisation, scaled.upsampling) == (introspect_pb2.NORMALISATION_MIN_MAX, 0)
    scaled = asked(Cam("cam", upsampling="nearest")).scaling
    assert (scaled.normalisation, scaled.upsampling) == (0, introspect_pb2.UPSAMPLING_NEAREST)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"against": 1}, "against goes with class_index"),
        ({"top_k": 2, "class_index": 1}, "top_k asks for the best classes"),
        ({"top_k": 2, "class_index": 1, "against": 0}, "top_k asks for the best classes"),
        ({"score": "logit"}, "score must be one of 'model', 'probability', not 'logit'"),
        ({"channels": "none"}, "channels must be one of 'sum', 'principal', 'largest', 'each', not 'none'"),
        ({"pictures": "overlay"}, "pictures must be one of 'heat-map', 'overlay', not 'o'"),
        ({"normalisation": "unspecified"}, "not 'unspecified'"),
        ({"steps": -1}, "steps must be 0 or more"),
        ({"window": (3, -3)}, "window must be 0 or more"),
        ({"faithfulness": -1}, "faithfulness must be 0 or more"),
    ],
)
def test_cams_that_contradict_themselves(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        asked(Cam("grad-cam", **settings))
    if "class_index" not in settings and "against" in settings:
        with pytest.raises(ValueError, match=sentence):
            introspect_request("mnist", b"png", gradients=[Capture("conv1", **settings)])


def test_absent_is_absent():
    request = introspect_request("mnist", b"png", layers=["*"])
    assert not request.HasField("seed")
    assert not request.without_prediction


def test_one_name_is_not_a_list_of_letters():
    with pytest.raises(TypeError, match=r"layers=\['conv1'\]"):
        introspect_request("mnist", b"png", layers="conv1")
