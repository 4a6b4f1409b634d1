"""Every metric with its help text, labels and unit.

The values of the label `model` are names of models that the server has, or "" where a call named none of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, RestrictedRegistry

from cutaway_server.metrics.tally import Tally

_CALLS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds
_HOOKS = (0.00001, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1)  # seconds
_LOADS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)  # seconds
_SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)


class Metrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[Histogram, Counter | None], Tally] = {}
        registry = self.registry = _Registry(self.settle)
        model = ("model",)
        self.requests = Counter(
            "cutaway_requests", "Calls that ended, by gRPC code.", ("method", "model", "code"), registry=registry
        )
        self.request_seconds = Histogram(
            "cutaway_request_seconds",
            "From a call's arrival at its handler to its end.",
            ("method", "model"),
            buckets=_CALLS,
            registry=registry,
        )
        self.fast_path = Gauge(
            "cutaway_fast_path",
            "1 where predictions are answered on the thread on which gRPC polls, 0 where not.",
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "cutaway_queue_seconds", "How long a prediction waited for its batch.", model, buckets=_CALLS, registry=registry
        )
        self.batch_samples = Histogram(
            "cutaway_batch_samples", "Samples that ran in one batch.", model, buckets=_SAMPLES, registry=registry
        )
        self.engine_seconds = Histogram(
            "cutaway_engine_seconds", "How long the engine ran a batch.", model, buckets=_CALLS, registry=registry
        )
        self.lane_wait_seconds = Histogram(
            "cutaway_lane_wait_seconds", "How long an introspection waited for a lane.", model, buckets=_CALLS, registry=registry
        )
        self.plan_seconds = Histogram(
            "cutaway_plan_seconds",
            "How long one introspection took to decode its inputs and resolve its names.",
            model,
            buckets=_HOOKS,
            registry=registry,
        )
        self.load_seconds = Histogram(
            "cutaway_load_seconds",
            "How long loading a model took, from its folder to its first answer, once it had passed its trial.",
            model,
            buckets=_LOADS,
            registry=registry,
        )
        self.mirror_seconds = Histogram(
            "cutaway_mirror_seconds", "How long building a mirror took.", model, buckets=_CALLS, registry=registry
        )
        self.hook_register_seconds = Histogram(
            "cutaway_hook_register_seconds",
            "How long one introspection took to put its hooks on.",
            model,
            buckets=_HOOKS,
            registry=registry,
        )
        self.hook_capture_seconds = Histogram(
            "cutaway_hook_capture_seconds",
            "How long copying one tensor took, without waiting for the reader.",
            model,
            buckets=_HOOKS,
            registry=registry,
        )
        self.device_to_host_seconds = Histogram(
            "cutaway_device_to_host_seconds",
            "How long one tensor took from its device to the host; nothing where the device is the CPU.",
            model,
            buckets=_HOOKS,
            registry=registry,
        )
        self.reduce_seconds = Histogram(
            "cutaway_reduce_seconds", "How long reducing one tensor took.", model, buckets=_HOOKS, registry=registry
        )
        self.encode_seconds = Histogram(
            "cutaway_encode_seconds",
            "How long one introspection took to put its events into messages.",
            model,
            buckets=_HOOKS,
            registry=registry,
        )
        self.hook_remove_seconds = Histogram(
            "cutaway_hook_remove_seconds",
            "How long one introspection took to take its hooks off.",
            model,
            buckets=_HOOKS,
            registry=registry,
        )
        self.cam_seconds = Histogram(
            "cutaway_cam_seconds",
            "How long making one map took, without what it shared with others.",
            ("model", "method"),
            buckets=_CALLS,
            registry=registry,
        )
        self.reruns = Counter(
            "cutaway_reruns", "Runs of the network on one sample beyond each introspection's first.", model, registry=registry
        )
        self.captured_bytes = Counter(
            "cutaway_captured_bytes", "Bytes of the tensors taken at layers, before any reduction.", model, registry=registry
        )
        self.sent_bytes = Counter(
            "cutaway_sent_bytes", "Bytes of captures, scores and maps handed to the stream.", model, registry=registry
        )
        self.early_stops = Counter(
            "cutaway_early_stops", "Forward passes ended after the last layer wanted.", model, registry=registry
        )
        self.mirrors_in_use = Gauge("cutaway_mirrors_in_use", "Mirrors that an introspection holds now.", model, registry=registry)
        self.mirrors_dropped = Counter(
            "cutaway_mirrors_dropped", "Mirrors thrown away and built anew.", ("model", "reason"), registry=registry
        )

    def tally(self, observed: Histogram, counted: Counter | None = None) -> Tally:
        """For what happens with each prediction: values that these observe and count together."""
        key = observed, counted
        return self._tallies.get(key) or self._tallies.setdefault(key, Tally(observed.observe, counted.inc if counted else None))

    def settle(self) -> None:
        """Has all that was tallied stand in the metrics. The registry does it whenever it is read."""
        for tally in list(self._tallies.values()):
            tally.give()

    def gauge_at_scrape(
        self, name: str, help_text: str, labels: Sequence[str], read: Callable[[], Iterable[tuple[Sequence[str], float]]]
    ) -> None:
        """Adds a gauge whose values, by their labels' values, are read when they are asked for."""

        class AtScrape(Collector):
            def collect(self) -> Iterable[Metric]:
                family = GaugeMetricFamily(name, help_text, labels=labels)
                for values, value in read():
                    family.add_metric(values, value)
                yield family

        self.registry.register(AtScrape())


class _Registry(CollectorRegistry):
    """Has something done before it is read."""

    def __init__(self, before: Callable[[], None]) -> None:
        super().__init__()
        self._before = before

    def collect(self) -> Iterator[Metric]:
        self._before()
        yield from super().collect()

    def restricted_registry(self, names: Iterable[str]) -> RestrictedRegistry:
        self._before()
        return super().restricted_registry(names)
