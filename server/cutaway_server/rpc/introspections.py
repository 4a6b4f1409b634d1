"""The way of an introspection, whichever protocol asks: plan, wait for a lane, take what comes."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from cutaway_server.errors import Cancelled
from cutaway_server.introspection.call import Call
from cutaway_server.introspection.plan import CaptureRequest, Plan, make_plan
from cutaway_server.introspection.plan_cams import CamRequest
from cutaway_server.metrics import Metrics
from cutaway_server.models.model import Model
from cutaway_server.rpc.calls import OpenCall
from cutaway_server.rpc.decode import Decoded
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.pictures import drawer
from cutaway_server.rpc.served import Models, Served
from cutaway_server.rpc.stall_watch import StallWatch, Stream


class Planned(NamedTuple):
    """An introspection that can run."""

    plan: Plan
    decoded: Decoded
    seconds: float  # that decoding and planning took


class Introspections:
    """Plans introspections and has them run.

    Args:
        limits: of one call.
        watch: ends those whose reader stands still.
    """

    def __init__(self, models: Models, *, limits: Limits, watch: StallWatch, metrics: Metrics) -> None:
        self._models = models
        self._limits = limits
        self._watch = watch
        self._metrics = metrics

    def plan(
        self,
        model: Model,
        decoded: Decoded,
        *,
        began: float,
        captures: Sequence[CaptureRequest],
        cams: Sequence[CamRequest],
        top_k: int | None,
        seed: int,
    ) -> Planned:
        """Resolves the names.

        Args:
            began: when its inputs began to be decoded, on the monotonic clock.
        Raises:
            Refusal: as `make_plan`.
        """
        plan = make_plan(
            model.at(decoded.arguments),
            batch=decoded.batch,
            captures=captures,
            cams=cams,
            top_k=top_k,
            placements=decoded.placements,
            seed=seed,
            max_passes=self._limits.passes,
        )
        seconds = time.monotonic() - began
        self._metrics.plan_seconds.labels(model.name).observe(seconds)
        return Planned(plan, decoded, seconds)

    @contextmanager
    def run(
        self, served: Served, planned: Planned, open_call: OpenCall, cancel: Callable[[], object]
    ) -> Iterator[tuple[Call, Stream]]:
        """An introspection that waits for a lane, and the watch over what is sent of it. Stopped at the end of the block.

        Args:
            cancel: ends the RPC of a reader that stands still.
        Raises:
            Refusal: as `Lanes.submit`.
        """
        call = Call(
            planned.plan,
            planned.decoded.arguments,
            request_id=open_call.request_id,
            buffer_bytes=self._buffer_bytes(),
            deadline=open_call.deadline,
            stall_s=self._limits.stall_seconds,
            plan_seconds=planned.seconds,
            draw=drawer(planned.decoded.photographs),
        )
        open_call.on_cancel(lambda: call.stop(Cancelled()))
        assert served.lanes is not None
        served.lanes.submit(call)
        try:
            with self._watch.watching(call, cancel) as stream:
                yield call, stream
        finally:
            open_call.stopped = open_call.stopped or call.stopped
            call.stop(Cancelled())

    def _buffer_bytes(self) -> int:
        """Each lane's share of what all calls may hold for their readers, at most what one may."""
        lanes = sum(listed.served.lanes.count for listed in self._models.all() if listed.served and listed.served.lanes)
        return min(self._limits.buffer_bytes, self._limits.all_buffers_bytes // max(1, lanes))


def new_seed() -> int:
    """For what is drawn, where the request has none."""
    return secrets.randbits(63)
