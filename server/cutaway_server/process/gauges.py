"""Metrics that are read from the models when they are asked for."""

from collections import Counter
from collections.abc import Callable, Iterator

import torch

from cutaway_server.metrics import Metrics
from cutaway_server.process.host import Host
from cutaway_server.rpc.served import Served, State

Samples = Iterator[tuple[tuple[str, ...], float]]


def gauge_models(metrics: Metrics, host: Host) -> None:
    """Adds them to the catalogue's."""

    def by_model(read: Callable[[Served], float | None]) -> Callable[[], Samples]:
        return lambda: _by_model(host.served(), read)

    metrics.gauge_at_scrape(
        "cutaway_live_hooks",
        "Hooks on mirrors beyond their baseline, counted in the hook dicts at the time of the scrape: 0 when idle.",
        ("model",),
        by_model(lambda served: served.lanes.live_hooks() if served.lanes else None),
    )
    metrics.gauge_at_scrape(
        "cutaway_predictions_waiting",
        "Predictions that wait for a batch now.",
        ("model",),
        by_model(lambda served: served.batcher.waiting),
    )
    metrics.gauge_at_scrape(
        "cutaway_introspections_waiting",
        "Introspections that wait for a lane now.",
        ("model",),
        by_model(lambda served: served.lanes.waiting if served.lanes else None),
    )
    metrics.gauge_at_scrape(
        "cutaway_model_bytes",
        "What the parameters and buffers of a model take in memory, or the size of its files for ONNX, all its versions together.",
        ("model",),
        by_model(lambda served: served.model.weight_bytes),
    )
    metrics.gauge_at_scrape(
        "cutaway_engine_info",
        "1 for the engine that runs Predict.",
        ("model", "version", "engine"),
        lambda: (((one.model.name, one.model.version, one.model.engine.name), 1) for one in host.served()),
    )
    metrics.gauge_at_scrape(
        "cutaway_engine_deviation",
        "Greatest difference of the engine's scores from the network's own over all probes, as a share of the largest score.",
        ("model", "version"),
        lambda: (((one.model.name, one.model.version), one.model.engine.deviation) for one in host.served()),
    )
    metrics.gauge_at_scrape(
        "cutaway_engine_speed_up",
        "How many times as fast as the network itself the engine was when it was tried.",
        ("model", "version"),
        lambda: (((one.model.name, one.model.version), one.model.engine.speed_up) for one in host.served()),
    )
    metrics.gauge_at_scrape("cutaway_models", "Models, each version counted, by state.", ("state",), lambda: _by_state(host))
    if torch.cuda.is_available():
        metrics.gauge_at_scrape(
            "cutaway_device_memory_bytes",
            "Memory of each GPU that PyTorch holds: allocated to tensors, and reserved in all.",
            ("device", "kind"),
            _device_memory,
        )


def _by_model(served: list[Served], read: Callable[[Served], float | None]) -> Samples:
    totals: Counter[str] = Counter()
    for one in served:
        value = read(one)
        if value is not None:
            totals[one.model.name] += value  # type: ignore[assignment]  # a Counter adds floats as well
    for name, total in totals.items():
        yield (name,), total


def _by_state(host: Host) -> Samples:
    counts = Counter(one.state for one in host.all())
    for state in State:
        yield (state.value,), counts[state]


def _device_memory() -> Samples:
    for index in range(torch.cuda.device_count()):
        yield (f"cuda:{index}", "allocated"), torch.cuda.memory_allocated(index)
        yield (f"cuda:{index}", "reserved"), torch.cuda.memory_reserved(index)
