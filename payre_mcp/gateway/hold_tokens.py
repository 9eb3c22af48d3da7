"""What a hold at a remote ledger is for, signed: the seller keeps it and shows it again, so any process can end the hold."""

from typing import NamedTuple

from payre_mcp.errors import HoldUnknown, ReceiptInvalid
from payre_mcp.gateway.base import Authorization, CallRequest
from payre_mcp.money import Money
from payre_mcp.pricing import Target
from payre_mcp.receipts import KeyRing


class HeldCall(NamedTuple):
    """The facts of a hold that its end depends on; `developer_id` is whose it is."""

    hold_id: int
    part: int
    consumer_id: int
    developer_id: int
    held_micros: int
    server: str
    kind: str
    name: str
    price_version: str
    variant: str
    args_sha256: str
    idempotency_key: str
    request_id: str
    amount_micros: int | None = None
    """What is charged by hand, where the price does not say it."""

    @classmethod
    def of(cls, authorization: Authorization, developer_id: int) -> "HeldCall":
        """The facts of a hold that was just made."""
        request = authorization.request
        return cls(
            authorization.hold_id, authorization.part, authorization.consumer_id, developer_id, authorization.held.micros,
            request.server, request.target.kind, request.target.name, request.price_version, request.variant,
            request.args_sha256, request.idempotency_key or "", request.request_id,
            None if request.amount is None else request.amount.micros,
        )  # fmt: skip

    def as_call(self, api_key: str | None = None) -> CallRequest:
        """The call that the hold is for."""
        return CallRequest(
            api_key=api_key, server=self.server, target=Target(self.kind, self.name), price_version=self.price_version,
            variant=self.variant, args_sha256=self.args_sha256, idempotency_key=self.idempotency_key or None,
            amount=None if self.amount_micros is None else Money(self.amount_micros), request_id=self.request_id,
        )  # fmt: skip

    @property
    def held(self) -> Money:
        """What is held."""
        return Money(self.held_micros)


def sealed(call: HeldCall, ring: KeyRing) -> str:
    """The token of a hold."""
    return ring.seal({"hold": list(call)})


def unsealed(token: str, ring: KeyRing, *, hold_id: int | None, developer_id: int) -> HeldCall:
    """What a token says, if this ledger gave it to this developer, for this hold where one is named. Raises `HoldUnknown`."""
    try:
        call = HeldCall(*ring.unseal(token)["hold"])
    except (ReceiptInvalid, KeyError, TypeError):
        raise HoldUnknown("this token is not of a hold of this ledger; nothing was changed") from None
    if call.developer_id != developer_id or hold_id not in (None, call.hold_id):
        raise HoldUnknown("no such hold of this developer; nothing was changed")
    return call
