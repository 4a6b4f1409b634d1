"""How often the models were asked, and what that took: read from the metrics, which all protocols share."""

from prometheus_client.metrics import MetricWrapperBase

from cutaway_server.metrics import Metrics
from cutaway_server.rpc.open_inference import messages
from cutaway_server.rpc.served import Listed

_NANOSECONDS = 1e9
_METHODS = ("Predict", "ModelInfer", "ModelStreamInfer")


def statistics(metrics: Metrics, model: Listed) -> messages.ModelStatistics:
    """Of one model, all its versions together, since the server started."""
    metrics.settle()
    name = model.name
    answered = _sum(metrics.requests, "_total", model=name, code="OK")
    return messages.ModelStatistics(
        name=name,
        version=model.version,
        inference_count=int(_sum(metrics.batch_samples, "_sum", model=name)),
        execution_count=int(_sum(metrics.batch_samples, "_count", model=name)),
        inference_stats=messages.InferStatistics(
            success=messages.StatisticDuration(
                count=int(answered), ns=int(_sum(metrics.request_seconds, "_sum", model=name) * _NANOSECONDS)
            ),
            fail=messages.StatisticDuration(count=int(_sum(metrics.requests, "_total", model=name) - answered)),
            queue=_durations(metrics.queue_seconds, name),
            compute_infer=_durations(metrics.engine_seconds, name),
        ),
    )


def _durations(metric: MetricWrapperBase, name: str) -> messages.StatisticDuration:
    return messages.StatisticDuration(
        count=int(_sum(metric, "_count", model=name)), ns=int(_sum(metric, "_sum", model=name) * _NANOSECONDS)
    )


def _sum(metric: MetricWrapperBase, ending: str, **labels: str) -> float:
    """Of all samples with this ending and these labels; of those by method, of inferences."""
    return sum(
        sample.value
        for family in metric.collect()
        for sample in family.samples
        if sample.name.endswith(ending)
        and labels.items() <= sample.labels.items()
        and sample.labels.get("method", _METHODS[0]) in _METHODS
    )
