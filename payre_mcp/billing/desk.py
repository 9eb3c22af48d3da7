"""Billing as one object, and its work beside the hub: news, recharges, reconciling, payouts."""

import logging
from collections.abc import Collection

import anyio

from payre_mcp.billing.checkouts import Checkouts
from payre_mcp.billing.comparison import Comparison
from payre_mcp.billing.disputes import Disputes
from payre_mcp.billing.inbox import Inbox
from payre_mcp.billing.office import DAY_US, Office, Terms, run
from payre_mcp.billing.payouts import Payouts
from payre_mcp.billing.recharges import Recharges
from payre_mcp.billing.reconciler import Reconciler
from payre_mcp.billing.refunds import Refunds
from payre_mcp.billing.sources import Sources
from payre_mcp.clock import Clock
from payre_mcp.errors import PayreError, SettingsInvalid
from payre_mcp.gateway.waiting import AsyncWriter
from payre_mcp.processors.base import Endpoint, Processor
from payre_mcp.storage.ledger import OpenLedger

logger = logging.getLogger(__name__)

EVERY_S = 5.0
RECONCILE_EVERY_S = 300.0
LEASE_S = 60.0
KEPT_DAYS = 90
"""How long news that was handled is kept."""
_PAYOUTS = "payouts"


class Billing:
    """Everything between a ledger and a payment processor. The ledger is its caller's to close; so is the processor.

    `endpoints` are those whose webhooks can be checked, as their signing secrets are known.

    Raises:
        SettingsInvalid: The processor's key is for test money and the ledger holds live money, or the other way round.
    """

    def __init__(
        self, ledger: OpenLedger, processor: Processor, clock: Clock, terms: Terms | None = None, *,
        endpoints: Collection[Endpoint] = (),
    ) -> None:  # fmt: skip
        mode = ledger.directory.mode
        if processor.livemode != (mode == "live"):
            raise SettingsInvalid(f"this ledger holds {mode} money, and the payment processor's key is for the other kind")
        self.ledger, self.processor, self.clock, self.endpoints = ledger, processor, clock, endpoints
        office = self.office = Office(ledger, processor, clock, terms or Terms(), AsyncWriter(ledger.writer))
        self.checkouts, self.recharges, self.payouts = Checkouts(office), Recharges(office), Payouts(office)
        sources = Sources(office, self.checkouts, self.recharges)
        self.disputes = Disputes(office, sources)
        self.refunds = Refunds(office, self.disputes)
        self.inbox = Inbox(
            office, checkouts=self.checkouts, recharges=self.recharges, sources=sources, refunds=self.refunds,
            disputes=self.disputes, payouts=self.payouts,
        )  # fmt: skip
        self.reconciler = Reconciler(
            office, self.inbox, checkouts=self.checkouts, recharges=self.recharges, refunds=self.refunds, payouts=self.payouts
        )
        self.comparison = Comparison(office)
        self._reconcile_at = 0
        self._news = anyio.Event()

    async def receive(self, endpoint: Endpoint, body: bytes, signature: str | None) -> bool:
        """Take a webhook in; see `Inbox.receive`. It is handled at once where `run` works, and not here."""
        is_new = await self.inbox.receive(endpoint, body, signature)
        if is_new:
            self._news.set()
        return is_new

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._news = anyio.Event()
            await self.work()
            with anyio.move_on_after(EVERY_S):
                await self._news.wait()

    async def work(self) -> None:
        """Do what is due now, if it is this process that does it. Trouble is told to the log and tried again."""
        try:
            if not await run(self.ledger.lease, "billing", LEASE_S):
                return
            while await self.inbox.work():
                pass
            await self.recharges.run_due()
            await self._reconcile()
            await self._pay_out()
        except PayreError as error:
            logger.warning("billing waits: %s", error.message)
        except Exception:
            logger.exception("billing failed; it is tried again in a moment")

    async def _reconcile(self) -> None:
        if self.clock.elapsed_us() >= self._reconcile_at:
            self._reconcile_at = self.clock.elapsed_us() + int(RECONCILE_EVERY_S * 1_000_000)
            await self.reconciler.run()
            await run(self.ledger.inbox.prune, self.clock.now_us() - KEPT_DAYS * DAY_US)

    async def _pay_out(self) -> None:
        """The scheduled run; its last time stands in the database, so that a restart changes nothing."""
        days = self.office.terms.payout_days
        now = self.clock.now_us()
        if days and now - await run(self.ledger.payments.reconciled_until, _PAYOUTS) >= days * DAY_US:
            await self.payouts.run_all()
            await run(self.ledger.payments.set_reconciled, _PAYOUTS, now)
