"""Finds what no webhook brought: reads the processor's own lists, and looks again at all that has been under way for long."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from payre_mcp.billing.checkouts import Checkouts
from payre_mcp.billing.inbox import Inbox
from payre_mcp.billing.office import Mismatch, Office, Unknown, name_of, run
from payre_mcp.billing.payouts import Payouts
from payre_mcp.billing.recharges import Recharges
from payre_mcp.billing.refunds import Refunds
from payre_mcp.clock import US_PER_S
from payre_mcp.errors import PayreError
from payre_mcp.ids import first_id_at
from payre_mcp.money import MICROS_PER_CENT
from payre_mcp.payments import Payment, PaymentKind

logger = logging.getLogger(__name__)

_OVERLAP_US = 600 * US_PER_S
"""Lists are read again from so long before the last time: what happened last may have been listed late."""

_SETTLES_IN_US = 120 * US_PER_S
"""What is younger is left to its own: a page is open, an answer on its way."""

_EVENTS, _LINES = "events", "bank lines"
_MOST = 1000


@dataclass
class Reconciled:
    """What a run found and repaired."""

    events: int = 0
    """Events that no webhook had brought."""
    looked_at: int = 0
    moved: int = 0
    """Payments that had been under way, and went on now."""
    costs: int = 0
    problems: list[str] = field(default_factory=list[str])


class Reconciler:
    """Makes the ledger agree with the processor, by the same functions that webhooks end in. Running it again changes nothing."""

    def __init__(
        self, office: Office, inbox: Inbox, *, checkouts: Checkouts, recharges: Recharges, refunds: Refunds, payouts: Payouts
    ) -> None:
        self._office, self._inbox, self._payments = office, inbox, office.ledger.payments
        self._retry: dict[PaymentKind, Callable[[Payment], Awaitable[None]]] = {
            PaymentKind.TOP_UP: checkouts.retry, PaymentKind.RECHARGE: recharges.retry,
            PaymentKind.REFUND: refunds.retry, PaymentKind.PAYOUT: payouts.retry,
        }  # fmt: skip

    async def run(self) -> Reconciled:
        """One run. Raises `ProcessorError` where the processor's lists cannot be read; what was found before stays done."""
        found = Reconciled()
        await self._read_events(found)
        while await self._inbox.work():
            pass
        await self._look_again(found)
        await self._book_costs(found)
        return found

    async def _read_events(self, found: Reconciled) -> None:
        started = self._office.clock.now_us()
        since = await run(self._payments.reconciled_until, _EVENTS)
        async for event in self._office.processor.events(since=max(0, since - _OVERLAP_US)):
            found.events += await self._inbox.take_in("reconcile", event)
        await run(self._payments.set_reconciled, _EVENTS, started)

    async def _look_again(self, found: Reconciled) -> None:
        settled = first_id_at(self._office.clock.now_us() - _SETTLES_IN_US)
        for payment in await run(self._payments.under_way, before_id=settled, limit=_MOST):
            if (retry := self._retry.get(payment.kind)) is None:
                continue
            found.looked_at += 1
            try:
                await retry(payment)
            except (PayreError, Mismatch, Unknown) as error:
                found.problems.append(f"{payment.kind} {name_of(payment)}: {error}")
            after = await run(self._payments.find, payment.id)
            found.moved += after is not None and after.state != payment.state

    async def _book_costs(self, found: Reconciled) -> None:
        """The processor's fee on each payment is known only after a while."""
        started = self._office.clock.now_us()
        since = await run(self._payments.reconciled_until, _LINES)
        paid = (PaymentKind.TOP_UP, PaymentKind.RECHARGE)
        async for line in self._office.processor.bank_lines(since=max(0, since - _OVERLAP_US)):
            if line.kind not in {"charge", "payment"} or not line.card_payment:
                continue
            payment = await run(self._payments.find_by_card_payment, line.card_payment, paid)
            if payment is not None:
                await self._office.cost(payment, line.fee_cents * MICROS_PER_CENT, f"{name_of(payment)}:fee")
                found.costs += 1
        await run(self._payments.set_reconciled, _LINES, started)
