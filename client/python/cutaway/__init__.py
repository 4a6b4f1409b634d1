"""Cutaway's client: predictions from a server of convolutional networks, and what their layers saw on the way.

    with cutaway.Client("localhost:50051") as client:
        seen = client.introspect("mnist", "digit.png", layers=["conv1"], cams=[cutaway.Cam("grad-cam")])
    seen.activations["conv1"]  # ndarray (1, 10, 24, 24)

Nobody needs to see protobuf; who wants to finds the messages and stubs in `cutaway.v1`.
`cutaway.pictures` draws what was seen.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutaway._aio import AsyncClient
    from cutaway._client import Client
    from cutaway._errors import (
        Aborted,
        AlreadyExists,
        BrokenAnswer,
        Cancelled,
        DataLoss,
        DeadlineExceeded,
        Error,
        FailedPrecondition,
        Internal,
        InvalidArgument,
        NotCaptured,
        NotFound,
        NotInAnswer,
        OutOfRange,
        PermissionDenied,
        ResourceExhausted,
        Unauthenticated,
        Unavailable,
        Unimplemented,
        Unknown,
    )
    from cutaway._events import (
        Activation,
        Affine,
        CamMap,
        CamPicture,
        CamTiming,
        Estimate,
        Event,
        Failure,
        Faithfulness,
        Finished,
        LayerTiming,
        Measures,
        Note,
        PlannedCam,
        PlannedCapture,
        Prediction,
        Progress,
        Scaling,
        ScoredClass,
        Started,
        Statistics,
        Timings,
    )
    from cutaway._introspection import Introspection
    from cutaway._models import (
        Engine,
        EngineTiming,
        ImageSpec,
        InputSpec,
        IntrospectionSupport,
        Layer,
        LayerOutput,
        Model,
        Provenance,
    )
    from cutaway._requests import Cam, Capture

__all__ = [
    "Aborted",
    "Activation",
    "Affine",
    "AlreadyExists",
    "AsyncClient",
    "BrokenAnswer",
    "Cam",
    "CamMap",
    "CamPicture",
    "CamTiming",
    "Cancelled",
    "Capture",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "Engine",
    "EngineTiming",
    "Error",
    "Estimate",
    "Event",
    "FailedPrecondition",
    "Failure",
    "Faithfulness",
    "Finished",
    "ImageSpec",
    "InputSpec",
    "Internal",
    "Introspection",
    "IntrospectionSupport",
    "InvalidArgument",
    "Layer",
    "LayerOutput",
    "LayerTiming",
    "Measures",
    "Model",
    "NotCaptured",
    "NotFound",
    "NotInAnswer",
    "Note",
    "OutOfRange",
    "PermissionDenied",
    "PlannedCam",
    "PlannedCapture",
    "Prediction",
    "Progress",
    "Provenance",
    "ResourceExhausted",
    "Scaling",
    "ScoredClass",
    "Started",
    "Statistics",
    "Timings",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
]

_MODULES = (
    "_errors",
    "_events",
    "_models",
    "_requests",
    "_introspection",
    "_client",
    "_aio",
)  # the light ones first


if not TYPE_CHECKING:  # or nobody would be told of a name that there is not

    def __getattr__(name: str) -> Any:
        # Found when asked for: who needs an exception, or a module as `cutaway.v1`, does not wait for all the rest.
        if name in ("pictures", "v1"):
            return import_module(f"cutaway.{name}")
        if name in __all__:
            for module in (import_module(f"cutaway.{place}") for place in _MODULES):
                if hasattr(module, name):
                    globals()[name] = getattr(module, name)
                    return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
