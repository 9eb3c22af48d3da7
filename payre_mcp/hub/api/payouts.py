"""A developer's payouts."""

from typing import Self

import anyio.to_thread

from payre_mcp.gateway.schemas import Message
from payre_mcp.hub.api.call import Call
from payre_mcp.hub.api.facts import Page
from payre_mcp.hub.api.paging import cursor_id
from payre_mcp.ids import format_id
from payre_mcp.payments import Payment, PaymentKind, PaymentState


class PayoutAnswer(Message):
    """Earnings on their way to a developer's bank, or back; `problem` says why they wait or did not go."""

    payout_id: str
    amount_micros: int
    amount_usd: str
    status: PaymentState
    problem: str
    created_at: int

    @classmethod
    def of(cls, payment: Payment) -> Self:
        """The facts of a payout."""
        return cls(
            payout_id=format_id("pay", payment.id), amount_micros=payment.amount.micros, amount_usd=payment.amount.usd,
            status=payment.state, problem=payment.problem, created_at=payment.created_at,
        )  # fmt: skip


class PayoutsAnswer(Message):
    """A page of payouts."""

    payouts: list[PayoutAnswer]
    next_cursor: str | None


async def list_payouts(call: Call[Page]) -> PayoutsAnswer:
    """A developer's own payouts, newest first."""
    payments, limit = call.desk.connection.ledger.payments, call.asked.limit
    before = cursor_id("pay", call.asked.cursor)
    found = await anyio.to_thread.run_sync(
        lambda: payments.of_owner(call.caller.owner_id, [PaymentKind.PAYOUT], before=before, limit=limit + 1)
    )
    payouts = [PayoutAnswer.of(payment) for payment in found[:limit]]
    return PayoutsAnswer(payouts=payouts, next_cursor=payouts[-1].payout_id if len(found) > limit else None)
