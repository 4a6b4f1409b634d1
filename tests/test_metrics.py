"""Values that are tallied stand in the metrics whenever these are read, each once."""

from concurrent.futures import ThreadPoolExecutor

from cutaway_server.metrics import Metrics

THREADS, EACH = 4, 1000  # more than a tally holds


def test_each_value_counts_once_however_many_add_and_read():
    metrics = Metrics()
    tally = metrics.tally(metrics.request_seconds.labels("Predict", "m"), metrics.requests.labels("Predict", "m", "OK"))

    def add(_: int) -> None:
        for _ in range(EACH):
            tally.add(0.25)

    with ThreadPoolExecutor(THREADS + 1) as threads:
        adding = threads.map(add, range(THREADS))
        for _ in range(20):
            list(metrics.registry.collect())
        list(adding)
    of = {"method": "Predict", "model": "m"}
    assert metrics.registry.get_sample_value("cutaway_request_seconds_count", of) == THREADS * EACH
    assert metrics.registry.get_sample_value("cutaway_request_seconds_sum", of) == THREADS * EACH * 0.25
    assert metrics.registry.get_sample_value("cutaway_requests_total", {**of, "code": "OK"}) == THREADS * EACH


def test_one_that_asks_for_some_metrics_sees_the_latest():
    metrics = Metrics()
    metrics.tally(metrics.queue_seconds.labels("m")).add(0.5)
    (family,) = metrics.registry.restricted_registry(["cutaway_queue_seconds_count"]).collect()
    assert [sample.value for sample in family.samples] == [1]
