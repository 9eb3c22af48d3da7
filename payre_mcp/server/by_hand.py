"""Charging by hand: what Payre's and AgentPay's own kits call, for servers that compute an amount themselves.

Inside a call that passes the seam a charge is held at once and captured or voided with that call; elsewhere it is made
at once. It names something that has a published price, and is at most that price or its ceiling.
"""

from dataclasses import dataclass

import anyio

from payre_mcp.errors import InvalidRequest, KeyRejected, PayreError, PayreUnavailable, PriceMismatch
from payre_mcp.gateway.base import Authorization, CallRequest, Replay
from payre_mcp.money import InvalidAmount, Money
from payre_mcp.pricing import Target
from payre_mcp.receipts import canonical_json, sha256_hex
from payre_mcp.server.calls import running
from payre_mcp.server.held import held_with_call
from payre_mcp.server.middleware import Ledger, Metering


@dataclass(frozen=True, slots=True)
class Charged:
    """A charge by hand. Inside a call that still runs, it is held: its id and receipt come with the end of the call."""

    amount: Money
    charge_id: str | None = None
    receipt: str | None = None
    replayed: bool = False
    """Whether this idempotency key was charged before, and nothing is charged now."""


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """Whether a consumer's key can pay here; false where it cannot."""

    is_valid: bool
    invalid_reason: str | None = None
    """`invalid_api_key`, `forbidden` or `insufficient_balance`."""

    def __bool__(self) -> bool:
        return self.is_valid


@dataclass(frozen=True, slots=True)
class Consumed:
    """Whether an amount was charged; false where it was not."""

    success: bool
    error_code: str | None = None
    error_message: str | None = None
    remaining_balance_cents: None = None
    """Always None: a balance is told to its owner alone."""
    charged: Charged | None = None

    def __bool__(self) -> bool:
        return self.success


class ByHand:
    """The charges by hand of one server."""

    def __init__(self, ledger: Ledger, metering: Metering) -> None:
        self._ledger, self._metering = ledger, metering

    async def charge(self, key: str | None, name: str, amount: object, idempotency_key: str | None) -> Charged:
        """Charge, or hold until the running call ends; see `Payre.charge`."""
        call = held_with_call.get()
        try:
            request, gateway = self._request(key, name, _money(amount), idempotency_key), await self._ledger.ready()
            done = await (gateway.charge(request) if call is None or call.is_over else gateway.authorize(request))
            if isinstance(done, Authorization) and call is not None and call.is_over:  # meanwhile
                with anyio.CancelScope(shield=True):
                    await gateway.void(done)
                done = await gateway.charge(request)
        except PayreError as error:
            if call is not None:
                call.refusal = error
            raise
        if isinstance(done, Authorization):
            assert call is not None
            call.open.append((gateway, done))
            return Charged(done.held)
        settled = done.settlement if isinstance(done, Replay) else done
        return Charged(settled.amount, settled.charge_id, settled.receipt, isinstance(done, Replay))

    async def validate_key(self, key: str) -> KeyCheck:
        """Whether a key can pay here; see `Payre.validate_key`."""
        if not key:
            raise ValueError("validate_key takes a consumer's key, not an empty text")
        gateway = await self._ledger.ready()
        try:
            can_pay = await gateway.can_pay(key, self._metering.server_name)
        except KeyRejected as error:
            return KeyCheck(is_valid=False, invalid_reason=error.code)
        return KeyCheck(can_pay, None if can_pay else "insufficient_balance")

    async def consume(self, key: str, amount: object, usage_event_id: str, name: str | None) -> Consumed:
        """Charge, and answer what went wrong instead of raising it; see `Payre.consume`."""
        if not key or not usage_event_id:
            raise ValueError("consume takes a consumer's key and a usage_event_id, neither of them empty")
        try:
            charged = await self.charge(key, name or self._only_name(), amount, usage_event_id)
        except PayreUnavailable:
            raise
        except PayreError as error:
            if (call := held_with_call.get()) is not None:
                call.refusal = None  # it is an answer here, and the tool's own to tell
            return Consumed(success=False, error_code=error.code, error_message=error.message)
        return Consumed(success=True, charged=charged)

    def _only_name(self) -> str:
        """What a charge is for that names nothing: the call that runs, or the only thing that has a price."""
        if (now := running.get()) is not None and now.meter is self._metering:
            return now.call.target.label
        names = [target.label for target in self._metering.prices.published]
        if len(names) != 1:
            raise ValueError(f"say with tool= what is charged for: this server has {len(names)} prices")
        return names[0]

    def _request(self, key: str | None, name: str, amount: Money, idempotency_key: str | None) -> CallRequest:
        target = Target.named(name)
        spec = self._metering.prices.published.get(target)
        if spec is None:
            raise PriceMismatch(f"{name!r} has no price here, so nothing can be charged for it; give it one with pricing()")
        return CallRequest(
            api_key=key or None,
            server=self._metering.server_name,
            target=target,
            price_version=spec.version,
            args_sha256=sha256_hex(canonical_json({"amount_micros": amount.micros})),
            amount=amount,
            idempotency_key=idempotency_key,
        )


def _money(amount: object) -> Money:
    try:
        return Money.parse(amount)  # pyright: ignore[reportArgumentType] - whatever a caller computed
    except InvalidAmount as error:
        raise InvalidRequest(f"{error}; nothing was charged") from None
