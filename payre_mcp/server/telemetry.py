"""What operators see of metered calls: attributes on the SDK's own spans, and metrics, by the OpenTelemetry API.

Nothing here holds a key, an argument or an answer. Without an OpenTelemetry SDK in the process it costs next to nothing.
"""

from typing import Literal

from opentelemetry import metrics, trace

from payre_mcp.clock import Clock
from payre_mcp.errors import PayreError
from payre_mcp.gateway.base import Authorization, Settlement
from payre_mcp.pricing import Target

Outcome = Literal["charged", "replayed", "released", "suspended", "asked", "pending", "uncollected", "refused"]
"""How a call of something priced ended. `released` is held and given back; `asked` waits for a top-up."""


class Telemetry:
    """Notes of one metered server."""

    def __init__(self, server_name: str, clock: Clock) -> None:
        self.server_name, self._clock = server_name, clock
        meter = metrics.get_meter("payre_mcp")
        self._calls = meter.create_counter("payre.calls", unit="{call}", description="Calls of priced targets by outcome")
        self._charged = meter.create_counter("payre.charged", unit="{micro-USD}", description="Charged to consumers")
        self._took = meter.create_histogram("payre.ledger.duration", unit="s", description="Waiting for the ledger")

    def held(self, authorization: Authorization, started_us: int) -> None:
        """A call is authorized. `started_us` is when the ledger was asked."""
        self._waited("authorize", started_us)
        trace.get_current_span().set_attribute("payre.held_micros", authorization.held.micros)

    def charged(self, target: Target, settlement: Settlement, started_us: int) -> None:
        """A call was charged and has its receipt."""
        self._waited("capture", started_us)
        span = trace.get_current_span()
        span.set_attribute("payre.charge_id", settlement.charge_id)
        span.set_attribute("payre.charged_micros", settlement.amount.micros)
        self._charged.add(settlement.amount.micros, self._of(target))
        self.ended(target, "charged")

    def refused(self, target: Target, error: PayreError) -> None:
        """A call was refused, before it ran or instead of its answer."""
        trace.get_current_span().set_attribute("payre.error", error.code)
        self.ended(target, "refused", error.code)

    def ended(self, target: Target, outcome: Outcome, error: str = "") -> None:
        """A call ended."""
        span = trace.get_current_span()
        span.set_attribute("payre.outcome", outcome)
        span.set_attribute("payre.target", f"{target.kind}:{target.name}")
        self._calls.add(1, {**self._of(target), "payre.outcome": outcome, **({"payre.error": error} if error else {})})

    def _waited(self, operation: str, started_us: int) -> None:
        seconds = (self._clock.elapsed_us() - started_us) / 1_000_000
        self._took.record(seconds, {"payre.operation": operation, "payre.server": self.server_name})

    def _of(self, target: Target) -> dict[str, str]:
        return {"payre.server": self.server_name, "payre.kind": target.kind, "payre.name": target.name}
