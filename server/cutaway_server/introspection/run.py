"""Runs one introspection on a mirror: hooks on, forward pass, captures on their way at once, hooks off; then gradients and maps."""

import time

import torch
from torch import Tensor

from cutaway_server.errors import NetworkFailed, NotHookable, Refusal
from cutaway_server.introspection.call import Call
from cutaway_server.introspection.events import (
    PIECE_BYTES,
    CamCost,
    CaptureSubject,
    Failed,
    Finished,
    Predicted,
    ScoresSubject,
    Started,
)
from cutaway_server.introspection.explain import Explanations
from cutaway_server.introspection.look import INPUT, Look
from cutaway_server.introspection.sender import Sender
from cutaway_server.introspection.taps import Taps
from cutaway_server.metrics import Metrics
from cutaway_server.models.device import to_device
from cutaway_server.models.mirror import Mirror
from cutaway_server.models.scores import top_classes
from cutaway_server.models.walk import Walk


def run(call: Call, mirror: Mirror, metrics: Metrics, batch: int) -> None:
    """Runs a call on a mirror that it holds alone. The mirror carries no hook of the call when this returns or raises.

    Args:
        batch: samples of one run, for maps that take many.
    Raises:
        Refusal: what stopped the call, or NetworkFailed with the cause.
    """
    waited = time.monotonic() - call.arrived - call.mirror_seconds
    stages = {"plan": call.plan_seconds, "wait": waited, "mirror": call.mirror_seconds}
    call.put(Started(call.plan))
    call.arguments = tuple(to_device(argument, call.plan.model.device) for argument in call.arguments)
    sender = Sender(call, metrics)
    taps = Taps(call, sender)
    scores = _forward(call, mirror, taps, stages, metrics)
    for capture in taps.missing():
        why = NotHookable(f"captures[{capture.index}]", capture.layer.name, "it did not run for this input")
        call.put(Failed(CaptureSubject.of(capture), why))
    if call.plan.top_k is not None:
        assert scores is not None
        _predict(call, sender, scores)
    cams: list[CamCost] = []
    if scores is not None:
        look = Look(call.arguments[0], taps.held, scores, call.plan.model.scores_kind)
        explanations = Explanations(call, sender, look, mirror=mirror, batch=batch, stages=stages, metrics=metrics)
        explanations.send()
        cams = explanations.costs
    costs = sorted(sender.costs.values(), key=lambda cost: call.plan.model.layers.named(cost.layer).index)
    stages |= {
        "capture": sum(cost.capture for cost in costs),
        "device_to_host": sender.to_host,
        "reduce": sum(cost.reduce for cost in costs),
        "blocked": sender.blocked,
    }
    call.put(Finished(stages, costs, cams, sender.bytes_sent, call.last_layer))


def _forward(call: Call, mirror: Mirror, taps: Taps, stages: dict[str, float], metrics: Metrics) -> Tensor | None:
    """The network's scores; None where it was ended early."""
    name = call.plan.model.name
    walk = Walk(mirror.tree, taps, operations=call.plan.follows_operations, begins=call.plan.follows_begins)
    began = time.monotonic()
    scores = None
    with torch.no_grad():
        arguments = _arguments(call, taps)
        with call.plan.model.precision(), walk:
            stages["register"] = time.monotonic() - began
            taps.began = time.monotonic()
            try:
                scores = call.plan.model.scores(mirror.network, arguments)
                call.whole_pass = True
            except Refusal:
                raise
            except Exception as error:
                call.check()  # the network may have wrapped what stopped the call, or an early stop
                if not taps.ended_early:
                    raise NetworkFailed(name) from error
                metrics.early_stops.labels(name).inc()
            blocked_from = time.monotonic()
            call.wait_until_read(PIECE_BYTES)  # with the hooks on, so that a stream that stands still shows in their gauge
            ended = time.monotonic()
            taps.sender.blocked += ended - blocked_from
        removed = time.monotonic()
    call.check()
    costs = taps.sender.costs.values()
    spent = sum(cost.capture + cost.reduce for cost in costs) + taps.sender.blocked
    stages |= {"forward": ended - taps.began - spent, "remove": removed - ended}
    metrics.hook_register_seconds.labels(name).observe(stages["register"])
    metrics.hook_remove_seconds.labels(name).observe(stages["remove"])
    return scores


def _arguments(call: Call, taps: Taps) -> tuple[Tensor, ...]:
    """What the network runs on: copies where maps need the inputs afterwards, for it may write to them.

    Where the gradient with respect to the first is wanted, PyTorch records from there on, until the caller's `no_grad()` ends.
    """
    if not call.plan.cams:
        return call.arguments
    first, *others = call.arguments
    if call.plan.differentiates_input:
        first = first.clone().requires_grad_()
        taps.held[INPUT] = {"": first}
        torch.set_grad_enabled(True)
    return first.clone(), *(other.clone() for other in others)


def _predict(call: Call, sender: Sender, scores: Tensor) -> None:
    plan = call.plan
    top = top_classes(scores.detach(), plan.model.scores_kind, plan.top_k or 0)
    call.put(Predicted(sender.next_item(), top))
    sender.send(ScoresSubject(), scores)
