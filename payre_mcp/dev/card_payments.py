"""Top-ups by card under `payre dev`: at a fake Stripe on the same origin, or at the real one in its test mode."""

import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import anyio
import anyio.to_thread
import httpx2
from starlette.routing import BaseRoute, Mount

from payre_mcp.billing.desk import Billing
from payre_mcp.billing.opening import open_billing, terms_of
from payre_mcp.dev.earnings import Earnings
from payre_mcp.hub.webhooks import PATHS, webhook_routes
from payre_mcp.money import MICROS_PER_CENT, Money
from payre_mcp.payments import EventState, Payee, Payer, PaymentKind, PaymentState
from payre_mcp.processors.base import Endpoint
from payre_mcp.processors.fake_stripe import FakeStripe
from payre_mcp.processors.stripe import StripeProcessor
from payre_mcp.settings import Settings
from payre_mcp.storage.ledger import OpenLedger

FAKE_PATH = "/fake-stripe"
_NOWHERE = "http://fake-stripe.test"
"""What the fake is called by the client that reaches it in this process."""

_MOST = 10_000


@dataclass(frozen=True)
class CardPayments:
    """Billing that works, and what of it is reached over HTTP."""

    billing: Billing
    routes: Sequence[BaseRoute]
    fake: FakeStripe | None
    """None at the real Stripe."""
    earnings: Earnings


@asynccontextmanager
async def card_payments(ledger: OpenLedger, settings: Settings, base: str) -> AsyncGenerator[CardPayments]:
    """Take cards at the real Stripe where the settings have its key, and else at a fake one, until the block ends.

    Raises:
        SettingsInvalid: The key is for live money, or no key.
    """
    developer_id = (await anyio.to_thread.run_sync(ledger.directory.sole_developer)).id
    billing = open_billing(ledger, settings, ledger.clock)
    if billing is not None:
        async with _working(billing):
            earnings = Earnings(billing, None, developer_id, base)
            yield CardPayments(billing, [*webhook_routes(billing), *earnings.routes()], None, earnings)
        return
    async with httpx2.AsyncClient(trust_env=False) as http:
        fake = FakeStripe(clock=ledger.clock, url=base + FAKE_PATH, seed=secrets.randbits(64), available_after_s=0, http=http)
        billing = await _billing_at(fake, ledger, settings, base)
        async with _working(billing, fake):
            earnings = Earnings(billing, fake, developer_id, base)
            routes = [*webhook_routes(billing), *earnings.routes(), Mount(FAKE_PATH, fake.app)]
            yield CardPayments(billing, routes, fake, earnings)


@asynccontextmanager
async def _working(billing: Billing, fake: FakeStripe | None = None) -> AsyncGenerator[None]:
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(billing.run)
            if fake is not None:
                tasks.start_soon(fake.run)
            yield
            tasks.cancel_scope.cancel()
    finally:
        await billing.processor.aclose()


async def _billing_at(fake: FakeStripe, ledger: OpenLedger, settings: Settings, base: str) -> Billing:
    """Billing with a fake Stripe that sends its webhooks to this origin."""
    await anyio.to_thread.run_sync(_forget_earlier_fakes, ledger)
    client = partial(StripeProcessor, fake.api_key, clock=ledger.clock, transport=fake.transport(), base_url=_NOWHERE)
    signed_with: dict[Endpoint, Sequence[str]] = {}
    urls: dict[Endpoint, str] = {endpoint: base + path for endpoint, path in PATHS.items()}
    async with contextlib.aclosing(client()) as first:
        for made in await first.set_up(urls):
            signed_with[made.endpoint] = (made.secret,)
    # Nobody waits a week to see a payout.
    terms = replace(
        terms_of(settings), maturity_days=0, first_maturity_days=0, smallest_payout=Money(MICROS_PER_CENT), payout_days=0
    )
    return Billing(ledger, client(webhook_secrets=signed_with), ledger.clock, terms, endpoints=signed_with)


def _forget_earlier_fakes(ledger: OpenLedger) -> None:
    """A fake Stripe goes with its process: customers, cards, accounts and pages of an earlier one lead nowhere."""
    payments, problem = ledger.payments, "the fake Stripe that knew of it is gone"
    for consumer in ledger.directory.consumers():
        if payments.payer(consumer.id) is not None:
            payments.save_payer(Payer(consumer.id, consumer.part))
    for payee in payments.payees():
        payments.save_payee(Payee(payee.developer_id, country=payee.country, email=payee.email))
    for payment in payments.under_way(before_id=0, limit=_MOST, kinds=(PaymentKind.TOP_UP,)):
        payments.advance(payment.id, PaymentState.EXPIRED, problem=problem)
    for payment in payments.under_way(before_id=0, limit=_MOST, kinds=(PaymentKind.RECHARGE,)):
        payments.advance(payment.id, PaymentState.FAILED, problem=problem)
    for event in ledger.inbox.list([EventState.WAITING], limit=_MOST):
        ledger.inbox.finish(event.id, EventState.IGNORED, problem=problem)
