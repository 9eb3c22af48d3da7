"""What operators see of metered calls: attributes on the SDK's own spans, and metrics, by the OpenTelemetry API.

Nothing here holds a key, an argument or an answer. Without an OpenTelemetry SDK in the process it costs next to nothing.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from opentelemetry import metrics, trace

from payre_mcp.clock import Clock
from payre_mcp.errors import PayreError
from payre_mcp.gateway.base import Authorization, Settlement
from payre_mcp.pricing import Target

Outcome = Literal["charged", "replayed", "released", "suspended", "asked", "pending", "uncollected", "refused"]
"""How a call of something priced ended. `released` is held and given back; `asked` waits for a top-up."""


_NOTHING: Mapping[str, str] = MappingProxyType({})


class Telemetry:
    """Notes of one metered server."""

    def __init__(self, server_name: str, clock: Clock) -> None:
        self.server_name, self._clock = server_name, clock
        self._marks: dict[Target, dict[str, str]] = {}
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
        self._charged.add(settlement.amount.micros, self._of(target))
        if (span := trace.get_current_span()).is_recording():
            span.set_attribute("payre.charge_id", settlement.charge_id)
            span.set_attribute("payre.charged_micros", settlement.amount.micros)
        self.ended(target, "charged")

    def refused(self, target: Target, error: PayreError) -> None:
        """A call was refused, before it ran or instead of its answer."""
        trace.get_current_span().set_attribute("payre.error", error.code)
        self.ended(target, "refused", {"payre.error": error.code})

    def ended(self, target: Target, outcome: Outcome, more: Mapping[str, str] = _NOTHING) -> None:
        """A call ended."""
        self._calls.add(1, {**self._of(target), "payre.outcome": outcome, **more})
        if (span := trace.get_current_span()).is_recording():
            span.set_attribute("payre.outcome", outcome)
            span.set_attribute("payre.target", target.label)

    def _waited(self, operation: str, started_us: int) -> None:
        seconds = (self._clock.elapsed_us() - started_us) / 1_000_000
        self._took.record(seconds, {"payre.operation": operation, "payre.server": self.server_name})

    def _of(self, target: Target) -> dict[str, str]:
        marks = self._marks.get(target)
        if marks is None:
            marks = {"payre.server": self.server_name, "payre.kind": target.kind, "payre.name": target.name}
            self._marks[target] = marks
        return marks
