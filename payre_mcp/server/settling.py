"""How a held call ends: captured, voided, or kept for its next round. Whatever happens, once.

Each end is shielded: a caller who leaves now has had their result made, and a charge is not torn by the leaving.
"""

import json
import logging

import anyio

from payre_mcp.clock import Clock
from payre_mcp.errors import PayreError, PayreUnavailable, UsageMissing
from payre_mcp.gateway.base import Authorization, CallOutcome, CallRequest, Gateway, Suspended
from payre_mcp.pricing import Usage
from payre_mcp.server import wire
from payre_mcp.server.telemetry import Telemetry

logger = logging.getLogger(__name__)

SETTLE_WITHIN_S = 10.0
"""How long a result waits for its charge. After that it goes out marked `pending`; the charge stays queued."""


class Settling:
    """Ends the held calls of one server."""

    def __init__(self, telemetry: Telemetry, clock: Clock) -> None:
        self._telemetry, self._clock = telemetry, clock

    async def capture(self, gateway: Gateway, authorization: Authorization, out: wire.Result, usage: Usage) -> wire.Result:
        """Charge a call for a result that it made; answers the result with its receipt, or marked as not settled.

        Raises:
            UsageMissing: What the price is by is not known, and the price makes that an error. The hold stands.
        """
        request, started = authorization.request, self._clock.elapsed_us()
        stored = json.dumps(out) if request.idempotency_key is not None else ""
        outcome = CallOutcome(usage=usage, result_sha256=wire.result_digest(out), stored_result=stored)
        try:
            with anyio.move_on_after(SETTLE_WITHIN_S, shield=True):
                settlement = await gateway.capture(authorization, outcome)
                self._telemetry.charged(request.target, settlement, started)
                return wire.with_receipt(out, settlement)
        except UsageMissing:
            raise
        except PayreUnavailable as error:
            logger.warning(
                "the charge of a call of %s is not settled yet: %s", request.target.name, error, extra=_facts(request, error)
            )
        except PayreError as error:
            logger.warning(
                "a call of %s was delivered and could not be charged: %s",
                request.target.name,
                error,
                extra=_facts(request, error),
            )
            self._telemetry.ended(request.target, "uncollected", {"payre.error": error.code})
            return wire.with_settlement(out, "uncollected")
        self._telemetry.ended(request.target, "pending")
        return wire.with_settlement(out, "pending")

    async def suspend(self, gateway: Gateway, authorization: Authorization) -> Suspended | None:
        """Keep the hold for the next round; None where that is not possible, and the next round is a call of its own."""
        try:
            with anyio.move_on_after(SETTLE_WITHIN_S, shield=True):
                kept = await gateway.suspend(authorization)
                self._telemetry.ended(authorization.request.target, "suspended")
                return kept
        except PayreError as error:
            facts = _facts(authorization.request, error)
            logger.warning("a hold could not be kept for the next round of its call: %s", error, extra=facts)
        return None

    async def void(self, gateway: Gateway, authorization: Authorization) -> None:
        """Give a hold back."""
        self._telemetry.ended(authorization.request.target, "released")
        try:
            with anyio.move_on_after(SETTLE_WITHIN_S, shield=True):
                await gateway.void(authorization)
        except PayreError as error:
            facts = _facts(authorization.request, error)
            logger.warning("a hold could not be given back now and expires by itself: %s", error, extra=facts)


def _facts(request: CallRequest, error: PayreError) -> dict[str, str]:
    """What a log that is read by programs says of a call."""
    return {"server": request.server, "target": request.target.label, "code": error.code}
