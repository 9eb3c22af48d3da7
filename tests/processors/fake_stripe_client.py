"""A fake Stripe with a real client of the stripe package before it, and an application that takes its webhooks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import httpx2
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payre_mcp.clock import ManualClock
from payre_mcp.processors.fake_stripe import FakeStripe

Json = dict[str, Any]

URL = "http://stripe.test"
HOOK = "http://hub.test/webhook"
TWO_DAYS = 2 * 24 * 3600
"""How long money of a charge is pending, in seconds."""

_ABOUT = {"metadata": {"payre": "top_1"}}
_OURS = {"fees_collector": "application", "losses_collector": "application"}
BASES = cast("Any", dict.fromkeys(("api", "connect", "files", "meter_events"), URL))


class Httpx2Client(stripe.HTTPClient):
    """The stripe package over httpx2; it never waits between its tries."""

    name = "httpx2"

    def __init__(self, transport: httpx2.AsyncBaseTransport) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._http = httpx2.AsyncClient(transport=transport)
        self.replies: list[httpx2.Response] = []

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        try:
            reply = await self._http.request(method, url, headers=headers, content=post_data)
        except httpx2.TransportError as error:
            raise stripe.APIConnectionError(f"{type(error).__name__}: {error}", should_retry=True) from error
        self.replies.append(reply)
        return reply.content, reply.status_code, reply.headers

    async def sleep_async(self, secs: float) -> None:
        await anyio.lowlevel.checkpoint()

    async def close_async(self) -> None:
        await self._http.aclose()


@dataclass
class Inbox:
    """Takes webhooks and keeps them; answers with the next of `statuses`, or 200."""

    statuses: list[int] = field(default_factory=list[int])
    taken: list[tuple[bytes, str]] = field(default_factory=list[tuple[bytes, str]])

    async def take(self, request: Request) -> Response:
        self.taken.append((await request.body(), request.headers["stripe-signature"]))
        return Response(status_code=self.statuses.pop(0) if self.statuses else 200)

    def http(self) -> httpx2.AsyncClient:
        app = Starlette(routes=[Route("/webhook", self.take, methods=["POST"])])
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app))


def untyped(params: Json) -> Any:
    """Parameters that were put together: the package's types can tell no more of them."""
    return params


def refused_param(error: stripe.StripeError) -> str | None:
    """The parameter that was no good; the package leaves it without a type."""
    return getattr(error, "param", None)


def session_params(cents: int = 1_000, **more: Any) -> Any:
    """A top-up of one line, as its page is ordered."""
    price = {"currency": "usd", "unit_amount": cents, "product_data": {"name": "Credit"}}
    return {
        "mode": "payment", "line_items": [{"quantity": 1, "price_data": price}], "client_reference_id": "top_1", **_ABOUT,
        "success_url": "http://hub.test/top-ups/1?session={CHECKOUT_SESSION_ID}", "cancel_url": "http://hub.test/top-ups/1",
        "payment_intent_data": {**_ABOUT, "transfer_group": "top_1"}, **more,
    }  # fmt: skip


class Desk:
    """Everything that a test of the fake needs."""

    def __init__(self, *, seed: int = 0, retries: int = 0) -> None:
        self.clock, self.inbox = ManualClock(), Inbox()
        self.serve(FakeStripe(clock=self.clock, url=URL, seed=seed, http=self.inbox.http()), retries=retries)

    def serve(self, fake: FakeStripe, *, retries: int = 0) -> None:
        """Have this fake behind the client."""
        self.fake, self.http = fake, Httpx2Client(fake.transport())
        self.client = self.client_with(fake.api_key, retries=retries)

    def client_with(self, api_key: str, *, retries: int = 0, version: str | None = None) -> stripe.StripeClient:
        """Another client of the same fake."""
        return stripe.StripeClient(
            api_key, http_client=self.http, base_addresses=BASES, max_network_retries=retries, stripe_version=version
        )

    def browser(self) -> httpx2.AsyncClient:
        """Somebody before the fake's pages."""
        return httpx2.AsyncClient(transport=self.fake.transport(), base_url=URL)

    def seconds(self) -> int:
        return self.clock.now_us() // 1_000_000

    def kinds(self) -> list[str]:
        """The types of all events so far."""
        return [event["type"] for event in self.fake.events()]

    async def customer(self) -> str:
        return (await self.client.v1.customers.create_async({"email": "ada@example.com"})).id

    async def session(self, cents: int = 1_000, **more: Any) -> stripe.checkout.Session:
        """An open page."""
        return await self.client.v1.checkout.sessions.create_async(session_params(cents, **more))

    async def now(self, session: stripe.checkout.Session) -> stripe.checkout.Session:
        """A page as it stands now."""
        return await self.client.v1.checkout.sessions.retrieve_async(session.id)

    async def saved_card(self, card: str = "pm_card_visa") -> tuple[str, str]:
        """A customer and their saved card."""
        customer = await self.customer()
        session = await self.session(customer=customer, mode="setup", currency="usd", line_items=None, payment_intent_data=None)
        self.fake.pay(session.id, card)
        return customer, (await self.client.v1.payment_methods.list_async({"customer": customer})).data[0].id

    async def charge(self, customer: str, method: str, cents: int = 2_000) -> stripe.PaymentIntent:
        """A recharge: the card's owner is away."""
        order: Any = {"amount": cents, "currency": "usd", "customer": customer, "payment_method": method}
        return await self.client.v1.payment_intents.create_async(untyped({**order, "off_session": True, "confirm": True}))

    async def paid_intent(self, cents: int, card: str = "pm_card_visa") -> str:
        """A payment that succeeded."""
        return (await self.charge(await self.customer(), card, cents)).id

    async def account(self) -> str:
        """A developer's account that still has to be onboarded."""
        order: Any = {
            "contact_email": "dev@example.com", "display_name": "Dev", "dashboard": "express", "identity": {"country": "us"},
            "defaults": {"currency": "usd", "responsibilities": _OURS},
            "configuration": {"recipient": {"capabilities": {"stripe_balance": {"stripe_transfers": {"requested": True}}}}},
        }  # fmt: skip
        return (await self.client.v2.core.accounts.create_async(order)).id

    async def onboarded(self) -> str:
        """A developer's account that can be paid."""
        account = await self.account()
        self.fake.finish_onboarding(account)
        return account

    async def transfer(self, account: str, cents: int) -> stripe.Transfer:
        """A payout to a developer's account."""
        order: Any = {"amount": cents, "currency": "usd", "destination": account, "metadata": {"payre": "pay_1"}}
        return await self.client.v1.transfers.create_async(order)

    async def balance(self) -> tuple[int, int]:
        """What is available and what is pending, in cents."""
        balance = await self.client.v1.balance.retrieve_async()
        return balance.available[0].amount, balance.pending[0].amount
