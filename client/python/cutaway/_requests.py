"""What a caller asks as the messages that ask it: pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypedDict

from cutaway._inputs import Inputs, Layout, input_messages
from cutaway.v1 import introspect_pb2, predict_pb2


@dataclass(frozen=True)
class Cam:
    """A class activation map to ask for.

    Args:
        method: one of the model's `introspection.cam_methods`, such as "cam" or "grad-cam".
        layer: exact name of the target layer; None for the last one with a plane (N, C, H, W).
        class_index: which class to explain, one for all samples or one for each; None for the predicted class of each.
        relu: whether negative values become 0; None for what the method's paper does.
    """

    method: str
    layer: str | None = None
    class_index: int | Sequence[int] | None = None
    relu: bool | None = None


class Look(TypedDict, total=False):
    """The keywords of introspect. A layer is an exact name or a glob; "*" crosses dots and matches no container."""

    layers: Sequence[str]
    """Layers whose output to take."""
    inputs: Sequence[str]
    """Layers whose input to take."""
    gradients: Sequence[str]
    """Layers where to take the gradient of the predicted class's score with respect to the output."""
    cams: Sequence[Cam]
    """Class activation maps to make."""
    top_k: int
    """How many best classes to name for each sample; 0 for none."""
    without_prediction: bool
    """Waives the prediction; the forward pass may then stop after the last layer wanted."""
    seed: int | None
    """For methods in which chance plays."""
    version: str
    """Of the model; empty for the default one."""
    layout: Layout | None
    """What the axes of uint8 pixels are: "NHWC", "NCHW" or "NHW"; inferred where there is no doubt."""


def predict_request(
    model: str, x: Inputs, *, top_k: int = 0, version: str = "", layout: Layout | None = None
) -> predict_pb2.PredictRequest:
    """Asks for a prediction. Raises as input_messages does."""
    return predict_pb2.PredictRequest(model=model, version=version, inputs=input_messages(x, layout), top_k=_not_negative(top_k))


def introspect_request(
    model: str,
    x: Inputs,
    *,
    layers: Sequence[str] = (),
    inputs: Sequence[str] = (),
    gradients: Sequence[str] = (),
    cams: Sequence[Cam] = (),
    top_k: int = 0,
    without_prediction: bool = False,
    seed: int | None = None,
    version: str = "",
    layout: Layout | None = None,
) -> introspect_pb2.IntrospectRequest:
    """Asks to look inside. Raises as input_messages does."""
    return introspect_pb2.IntrospectRequest(
        model=model,
        version=version,
        inputs=input_messages(x, layout),
        top_k=_not_negative(top_k),
        captures=chain(
            _captures("layers", layers, introspect_pb2.CAPTURE_KIND_OUTPUT),
            _captures("inputs", inputs, introspect_pb2.CAPTURE_KIND_INPUT),
            _captures("gradients", gradients, introspect_pb2.CAPTURE_KIND_GRADIENT),
        ),
        cams=map(_cam, cams),
        without_prediction=without_prediction,
        seed=seed,
    )


def _captures(keyword: str, layers: Sequence[str], kind: introspect_pb2.CaptureKind) -> list[introspect_pb2.Capture]:
    if isinstance(layers, str):  # a string is a sequence of its letters, which nobody means
        raise TypeError(f"{keyword} is a list of names: write {keyword}=[{layers!r}]")
    return [introspect_pb2.Capture(layer=layer, kind=kind) for layer in layers]


def _cam(cam: Cam) -> introspect_pb2.Cam:
    message = introspect_pb2.Cam(method=cam.method, layer=cam.layer or "")
    if cam.class_index is not None:
        indices = [cam.class_index] if isinstance(cam.class_index, int) else cam.class_index
        message.target.classes.indices.extend(indices)
    if cam.relu is not None:
        message.settings.relu = cam.relu
    return message


def _not_negative(top_k: int) -> int:
    if top_k < 0:
        raise ValueError(f"top_k must be 0 or more, not {top_k}")
    return top_k
