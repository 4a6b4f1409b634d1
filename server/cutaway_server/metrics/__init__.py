"""Every Prometheus metric of the server, in one place."""

from cutaway_server.metrics.catalogue import Metrics
from cutaway_server.metrics.tally import Tally

__all__ = ["Metrics", "Tally"]
