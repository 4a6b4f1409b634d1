"""Protobuf's enums and durations as Python values."""

import re

from google.protobuf.duration_pb2 import Duration
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper


def word(enum: EnumTypeWrapper, value: int) -> str:
    """SCORES_KIND_LOG_PROBABILITIES of ScoresKind as "log_probabilities"; a newer server's value as "unknown (9)"."""
    known = enum.DESCRIPTOR.values_by_number.get(value)
    if known is None:
        return f"unknown ({value})"
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper() + "_"
    return str(known.name).removeprefix(prefix).lower()


def seconds(duration: Duration) -> float:
    """A duration in seconds."""
    return float(duration.seconds + duration.nanos * 1e-9)
