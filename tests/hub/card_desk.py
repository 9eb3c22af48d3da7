"""A hub with billing over a fake Stripe, and a person's browser before its top-up pages; without sockets."""

import socket
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from starlette.applications import Starlette

from payre_mcp.billing.desk import Billing
from payre_mcp.billing.office import Terms
from payre_mcp.gateway.base import TopUpView
from payre_mcp.hub.app import hub_application
from payre_mcp.hub.top_up_page import top_up_routes
from payre_mcp.money import Money
from payre_mcp.payments import Payment, PaymentKind
from payre_mcp.processors.base import Endpoint
from payre_mcp.wallet.server import build_wallet
from tests.billing.till import TEN, Till, open_till

HUB = "http://127.0.0.1:8080"
STRIPE = "http://stripe.test"
"""Where the pages of the fake are."""

PAY = {"act": "pay", "shown": "10.00"}
AGAIN = {"recharge": "1", "threshold": "2", "again": "20", "month_cap": "100"}
"""A ticked box, and what stands below it."""


@dataclass
class CardDesk:
    """A person with a browser, their account, and Stripe."""

    till: Till
    browser: httpx2.AsyncClient

    async def link(self, amount: Money = TEN) -> str:
        """The address of a new top-up's page."""
        top_up = await self.till.connection.top_ups.create(self.till.payer.id, amount)
        assert top_up.url is not None
        return urlsplit(top_up.url).path

    async def view(self, link: str) -> TopUpView:
        """The top-up as the wallet tells it."""
        return await self.till.connection.top_ups.find_top_up(link.rpartition("/")[2])

    async def begun(self, link: str, form: Mapping[str, str] = PAY) -> str:
        """Go to pay; answers the Checkout Session."""
        answer = await self.browser.post(link, data=dict(form))
        assert answer.status_code == 303, answer.text
        return session_in(answer)

    async def paid(self, link: str, form: Mapping[str, str] = PAY) -> httpx2.Response:
        """Go to pay, pay, and come back."""
        session = await self.begun(link, form)
        self.till.stripe.pay(session)
        return await self.browser.get(link, params={"session_id": session})

    def payment(self) -> Payment:
        """The account's one top-up that somebody began to pay."""
        (payment,) = self.till.payments(PaymentKind.TOP_UP)
        return payment


def session_in(answer: httpx2.Response) -> str:
    """The Checkout Session that a page leads to."""
    place = answer.headers["location"]
    assert place.startswith(f"{STRIPE}/pay/"), place
    return place.rpartition("/")[2]


def heading(answer: httpx2.Response) -> str:
    """What a page says first."""
    return answer.text.partition("<h1>")[2].partition("</h1>")[0]


def alert(answer: httpx2.Response) -> str:
    """What a page complains about."""
    return answer.text.partition('<p role="alert">')[2].partition("</p>")[0]


@contextmanager
def no_way_out() -> Generator[str]:
    """A proxy that lets nobody through, so that Stripe is as good as down and no request leaves this machine."""
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@asynccontextmanager
async def open_card_desk(path: Path, *, terms: Terms | None = None) -> AsyncGenerator[CardDesk]:
    """The pages of a ledger with billing; those of the fake Stripe are where they may lead."""
    async with open_till(f"sqlite:///{path}", terms=terms) as till:
        app = Starlette(routes=[*top_up_routes(till.connection.top_ups, till.billing, pay_pages=(STRIPE,))])
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=HUB) as browser:
            yield CardDesk(till, browser)


@asynccontextmanager
async def hub_of(till: Till, billing: Billing | None = None, *endpoints: Endpoint) -> AsyncGenerator[httpx2.AsyncClient]:
    """The whole hub, which takes webhooks at these endpoints, by default at all."""
    billing = billing or Billing(till.ledger, till.processor, till.clock, till.terms, endpoints=endpoints or till.secrets)
    app = hub_application(till.connection, build_wallet(till.connection.wallet), clock=till.clock, billing=billing)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=HUB) as client:
        yield client
