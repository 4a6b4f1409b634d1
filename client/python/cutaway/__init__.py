"""Cutaway's client: predictions from a server of convolutional networks, and what their layers saw on the way.

    with cutaway.Client("localhost:50051") as client:
        seen = client.introspect("mnist", "digit.png", layers=["conv1"], cams=[cutaway.Cam("grad-cam")])
    seen.activations["conv1"]  # ndarray (1, 10, 24, 24)

Nobody needs to see protobuf; who wants to finds the messages and stubs in `cutaway.v1`.
`cutaway.pictures` draws what was seen.
"""

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
    Estimate,
    Event,
    Failure,
    Finished,
    LayerTiming,
    PlannedCam,
    PlannedCapture,
    Prediction,
    Progress,
    ScoredClass,
    Started,
    Statistics,
    Timings,
)
from cutaway._introspection import Introspection
from cutaway._models import (
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
    "Cancelled",
    "Capture",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "Error",
    "Estimate",
    "Event",
    "FailedPrecondition",
    "Failure",
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
    "Model",
    "NotCaptured",
    "NotFound",
    "NotInAnswer",
    "OutOfRange",
    "PermissionDenied",
    "PlannedCam",
    "PlannedCapture",
    "Prediction",
    "Progress",
    "Provenance",
    "ResourceExhausted",
    "ScoredClass",
    "Started",
    "Statistics",
    "Timings",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
]
