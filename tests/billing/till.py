"""A ledger, a fake Stripe and the real client between them: what billing is tested with."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
import httpx2
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payre_mcp.billing.desk import Billing
from payre_mcp.billing.office import Terms
from payre_mcp.clock import US_PER_S, ManualClock
from payre_mcp.connection import Connection, open_ledger
from payre_mcp.errors import WebhookInvalid
from payre_mcp.ids import format_id, parse_id
from payre_mcp.money import Money
from payre_mcp.payments import Payment, PaymentKind
from payre_mcp.processors.base import Endpoint, Processor
from payre_mcp.processors.fake_stripe import FakeStripe
from payre_mcp.processors.stripe import StripeProcessor
from tests.fakes import RING, Funded, fund

START_US = 1_800_000_000 * US_PER_S
PAGE = "http://hub.test/top-ups"
TEN = Money.parse(10)
CARD_FEE = Money.parse("0.59")
"""Of ten dollars: 2.9 % and thirty cents."""


class Till:
    """One consumer at a ledger with billing. `restart` is what a crash leads to: new objects over the same database."""

    def __init__(self, url: str, *, terms: Terms | None = None) -> None:
        self.clock = ManualClock(START_US)
        self.connection: Connection = open_ledger(url, clock=self.clock, ring=RING, top_up_page=PAGE)
        self.ledger = self.connection.ledger
        self.terms = terms or Terms()
        hub = Starlette(routes=[Route("/{endpoint}", self._receive, methods=["POST"])])
        self._mail = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=hub))
        self.stripe = FakeStripe(clock=self.clock, http=self._mail, available_after_s=0)
        self.secrets: dict[Endpoint, list[str]] = {}
        self.payer = fund(self.ledger, 0)
        self.processor: Processor = self._processor()
        self.billing = self.restart()
        self.received = 0

    def restart(self) -> Billing:
        """Billing anew, as a process has it that has just started."""
        self.billing = Billing(self.ledger, self.processor, self.clock, self.terms)
        return self.billing

    async def set_up(self) -> None:
        """Have the fake send its webhooks here."""
        urls: dict[Endpoint, str] = {name: f"http://hub.test/{name}" for name in ("platform", "connect", "thin")}
        for made in await self.processor.set_up(urls):
            self.secrets[made.endpoint] = [made.secret]

    async def page_of(self, amount: Money = TEN, *, payer: Funded | None = None) -> str:
        """A consumer asks for a top-up and opens its page; answers the Checkout Session."""
        top_up = await self.connection.top_ups.create((payer or self.payer).id, amount)
        request = self.ledger.directory.find_top_up(top_up_id=parse_id("top", top_up.id))
        assert request is not None
        await self.billing.checkouts.open(request, page_url=f"{PAGE}/{request.token}")
        payment = self.ledger.payments.find(request.id)
        assert payment is not None
        return payment.processor_id

    async def top_up(self, amount: Money = TEN, *, payer: Funded | None = None) -> Payment:
        """A consumer tops up by card, and the news arrives."""
        session = await self.page_of(amount, payer=payer)
        self.stripe.pay(session)
        await self.news()
        payment = self.ledger.payments.find_by_processor_id(session)
        assert payment is not None
        return payment

    async def news(self) -> None:
        """Deliver what is due, and handle it."""
        await self.stripe.deliver()
        while await self.billing.inbox.work():
            pass

    def sign(self, body: str, *, secret: str = "", age_s: int = 0) -> str:
        """Stripe's signature of a webhook's body, as its own package makes it."""
        signer: Any = stripe.WebhookSignature
        return signer.generate_signature_header(
            body, secret or self.secrets["platform"][0], self.clock.now_us() // US_PER_S - age_s
        )

    def lose(self, path: str, *, done: bool) -> None:
        """The next act at this address gets no answer, however often the client asks; it was done, or not."""
        if done:
            self.stripe.chaos.api("lost", path=path, method="POST")
        self.stripe.chaos.api("timeout", times=2 if done else 3, path=path, method="POST")

    def balance(self, payer: Funded | None = None) -> Money:
        return Money((payer or self.payer).account().balance_micros)

    def payments(self, kind: PaymentKind, *, owner_id: int = 0) -> list[Payment]:
        """Newest first."""
        return list(self.ledger.payments.of_owner(owner_id or self.payer.id, [kind], before=0, limit=50))

    async def sound(self) -> None:
        """Nothing is wrong: neither in the ledger, nor between it and Stripe."""
        await self.billing.reconciler.run()
        self.clock.advance(3600)
        assert (await anyio.to_thread.run_sync(self.ledger.audit)).violations == []
        assert (await self.billing.comparison.run()).differences == []

    def _processor(self) -> StripeProcessor:
        return StripeProcessor(
            self.stripe.api_key, webhook_secrets=self.secrets, clock=self.clock,
            transport=self.stripe.transport(), base_url="http://stripe.test",
        )  # fmt: skip

    async def _receive(self, request: Request) -> Response:
        endpoint: Endpoint = request.path_params["endpoint"]
        try:
            await self.billing.receive(endpoint, await request.body(), request.headers.get("stripe-signature"))
        except WebhookInvalid:
            return Response(status_code=400)
        self.received += 1
        return Response()

    async def aclose(self) -> None:
        await self.processor.aclose()
        await self._mail.aclose()
        self.connection.close()


@asynccontextmanager
async def open_till(url: str, *, terms: Terms | None = None) -> AsyncGenerator[Till]:
    """A till until the block ends."""
    till = Till(url, terms=terms)
    try:
        await till.set_up()
        yield till
    finally:
        await till.aclose()


def developer_of(till: Till) -> int:
    """The developer whom its consumers pay."""
    return till.payer.developer_id


def named(payment: Payment) -> str:
    """The payment's id as the processor knows it."""
    prefix = {PaymentKind.REFUND: "ref", PaymentKind.DISPUTE: "dis", PaymentKind.PAYOUT: "pay"}.get(payment.kind, "top")
    return format_id(prefix, payment.id)
