"""What both clients ask of a channel."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from cutaway.v1 import inference_pb2_grpc

Options: TypeAlias = Sequence[tuple[str, Any]]

# Predict answers its scores in one message, and those of a segmentation network pass gRPC's default limit of 4 MiB; the
# server takes requests up to the same limit. What Introspect streams comes in chunks of 1 MiB at most.
RECEIVE_LIMIT = 64 * 1024 * 1024

stub: Callable[[Any], Any] = inference_pb2_grpc.InferenceServiceStub
"""The generated stub over a channel; the generator writes no types for it."""


def channel_options(options: Options) -> list[tuple[str, Any]]:
    """The options of this package, overruled by the caller's."""
    return list({"grpc.max_receive_message_length": RECEIVE_LIMIT, **dict(options)}.items())
