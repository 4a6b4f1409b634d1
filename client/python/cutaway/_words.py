"""Protobuf's enums and durations as Python values."""

import re
from collections.abc import Mapping

from google.protobuf.duration_pb2 import Duration
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

_SAID_OTHERWISE = {
    "CAM_FORM_HEAT_MAP": "heat-map",
    "CAM_PICTURE_HEAT_MAP": "heat-map",
    "CHANNEL_JOIN_NONE": "each",  # beside "sum" and "largest" a "none" would read as no channels
    "NORMALISATION_MIN_MAX": "min-max",
}


def word(enum: EnumTypeWrapper, value: int) -> str:
    """SCORES_KIND_LOG_PROBABILITIES of ScoresKind as "log_probabilities"; a newer server's value as "unknown (9)"."""
    known = enum.DESCRIPTOR.values_by_number.get(value)
    return f"unknown ({value})" if known is None else _said(enum, known.name)


def names(enum: EnumTypeWrapper) -> Mapping[str | None, str]:
    """The enum's name for each word that a caller may say, and for None that of the unspecified value."""
    unspecified, *choices = enum.keys()
    return {None: unspecified, **{_said(enum, name): name for name in choices}}


def _said(enum: EnumTypeWrapper, name: str) -> str:
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper() + "_"
    return _SAID_OTHERWISE.get(name) or name.removeprefix(prefix).lower()


def seconds(duration: Duration) -> float:
    """A duration in seconds."""
    return float(duration.seconds + duration.nanos * 1e-9)
