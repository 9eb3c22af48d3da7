"""What the hub counts about itself, for Prometheus: by address and status, never by who asks."""

from starlette.requests import Request
from starlette.responses import Response

from payre_mcp.errors import NotFound
from payre_mcp.hub.api.answers import refusal

try:
    import prometheus_client as prometheus
except ImportError:  # the extra `prometheus`
    prometheus = None


class Meters:
    """The counters of one hub; they stay empty where `prometheus-client` is not installed."""

    def __init__(self) -> None:
        if prometheus is None:
            return
        self._registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            "payre_hub_requests", "Answered requests of the API", ("method", "path", "status"), registry=self._registry
        )
        self._seconds = prometheus.Histogram(
            "payre_hub_request_seconds", "From the whole request to its answer", ("method", "path"), registry=self._registry
        )
        self._broken = prometheus.Gauge(
            "payre_ledger_violations", "Broken invariants that the last audit found; must be 0", registry=self._registry
        )
        self._acts = prometheus.Counter("payre_hub_acts", "Acts of sellers", ("act", "outcome"), registry=self._registry)

    def request(self, method: str, path: str, status: int, seconds: float) -> None:
        """A request to this address of the table was answered."""
        if prometheus is not None:
            self._requests.labels(method, path, str(status)).inc()
            self._seconds.labels(method, path).observe(seconds)

    def act(self, act: str, outcome: str) -> None:
        """A seller's act was done, or refused with this code."""
        if prometheus is not None:
            self._acts.labels(act, outcome).inc()

    def audited(self, violations: int) -> None:
        """The ledger was audited."""
        if prometheus is not None:
            self._broken.set(violations)

    async def page(self, _: Request) -> Response:
        """All of it as text."""
        if prometheus is None:
            return refusal(NotFound("this hub counts nothing: install payre-mcp[prometheus]"))
        return Response(prometheus.generate_latest(self._registry), media_type="text/plain; version=0.0.4")
