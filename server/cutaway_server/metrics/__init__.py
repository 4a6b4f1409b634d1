"""Every Prometheus metric of the server, in one place."""

from cutaway_server.metrics.catalogue import Metrics

__all__ = ["Metrics"]
