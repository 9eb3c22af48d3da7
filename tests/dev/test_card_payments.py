"""`payre dev` with cards: everything from the button to the balance, over real HTTP, at a fake Stripe on the same origin."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from payre_mcp.dev.app import Running, development
from payre_mcp.dev.card_payments import FAKE_PATH, CardPayments
from payre_mcp.dev.earnings import EARNINGS_PATH
from payre_mcp.errors import SettingsInvalid
from payre_mcp.hub.webhooks import PATHS
from payre_mcp.money import Money
from payre_mcp.payments import Payee, PaymentState
from payre_mcp.settings import load_settings
from tests.fakes import PATIENCE_S
from tests.hub.card_desk import AGAIN, PAY, alert, heading, no_way_out

FIVE, TEN = Money.parse(5), Money.parse(10)


@pytest.fixture
def anyio_backend() -> str:
    """As uvicorn is."""
    return "asyncio"


class Setup:
    """A development setup with a person's browser before it."""

    def __init__(self, running: Running, browser: httpx2.AsyncClient) -> None:
        self.running, self.browser, self.key = running, browser, running.addresses.consumer_key
        self.wallet, self.ledger = running.connection.wallet, running.connection.ledger

    @property
    def cards(self) -> CardPayments:
        assert self.running.cards is not None
        return self.running.cards

    async def begun(self) -> httpx2.Response:
        """Press `Top up` on the start page; answers the page of the link."""
        answer = await self.browser.post(self.running.addresses.console)
        assert heading(answer) == "Add $10.00", answer.text
        return answer

    async def pay_page(self, **form: str) -> httpx2.Response:
        """The page of the fake, on which a card pays."""
        answer = await self.browser.post((await self.begun()).url, data={**PAY, **form})
        assert answer.url.path.startswith(f"{FAKE_PATH}/pay/"), answer.url
        return answer

    async def balance(self) -> Money:
        return (await self.wallet.get_balance(self.key)).balance

    async def balance_comes_to(self, amount: Money) -> None:
        with anyio.fail_after(PATIENCE_S):
            while await self.balance() != amount:
                await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def setup(data: Path, **environ: str) -> AsyncGenerator[Setup]:
    settings = load_settings(environ)
    async with (
        development(data, balance=FIVE, settings=settings) as running,
        httpx2.AsyncClient(follow_redirects=True, timeout=PATIENCE_S) as browser,
    ):
        yield Setup(running, browser)


async def test_a_newcomer_pays_by_test_card_and_comes_back_to_the_money(tmp_path: Path) -> None:
    async with setup(tmp_path) as dev:
        start = await dev.browser.get(dev.running.addresses.console)
        assert "4242 4242 4242 4242" in start.text
        page = await dev.pay_page()
        declined = await dev.browser.post(page.url, data={"act": "pay", "card": "4000 0000 0000 0002"})
        assert "Nothing was paid" in alert(declined)
        assert await dev.balance() == FIVE
        done = await dev.browser.post(page.url, data={"act": "pay", "card": "4242 4242 4242 4242"})
        assert heading(done) == "$10.00 added"
        assert await dev.balance() == FIVE + TEN


async def test_a_developer_connects_a_bank_and_is_paid_at_once(tmp_path: Path) -> None:
    async with setup(tmp_path) as dev:
        start = dev.running.addresses.console
        page = await dev.pay_page()
        await dev.browser.post(page.url, data={"act": "pay", "card": "4242 4242 4242 4242"})
        async with (
            httpx2.AsyncClient(headers={"X-Payre-Key": dev.key}, timeout=PATIENCE_S) as http,
            Client(streamable_http_client(dev.running.addresses.server, http_client=http)) as agent,
        ):
            await agent.call_tool("archive", {"city": "Oslo"})
        assert "not connected" in (await dev.browser.get(start)).text
        onboarding = await dev.browser.post(f"{start}{EARNINGS_PATH}", data={"act": "connect"})
        assert onboarding.url.path.startswith(f"{FAKE_PATH}/onboard/")
        back = await dev.browser.post(onboarding.url, data={"status": "active"})
        assert ("Pay out now" in back.text, "$4.83" in back.text) == (True, True)
        paid = await dev.browser.post(f"{start}{EARNINGS_PATH}", data={"act": "pay"})
        assert "succeeded" in paid.text
        shown = await dev.cards.earnings.show()
        assert (shown.reached, shown.due, shown.bank) == (Money.parse("4.83"), Money(0), "active")
        again = await dev.browser.post(f"{start}{EARNINGS_PATH}", data={"act": "pay"})
        assert "a payout is $0.01 at least" in alert(again)


async def test_whoever_closes_the_browser_after_paying_is_credited_by_a_signed_webhook(tmp_path: Path) -> None:
    async with setup(tmp_path) as dev:
        page = await dev.pay_page()
        assert dev.cards.fake is not None
        dev.cards.fake.pay(page.url.path.rpartition("/")[2])
        await dev.balance_comes_to(FIVE + TEN)
        assert {event.endpoint for event in dev.ledger.inbox.list([], limit=9)} == {"platform"}
        forged = await dev.browser.post(dev.running.addresses.hub + PATHS["platform"], content=b"{}")
        assert forged.status_code == 400


async def test_the_terms_are_those_of_the_settings(tmp_path: Path) -> None:
    terms = {"PAYRE_TOP_UP_MIN_USD": "20", "PAYRE_TOP_UP_FEE_USD": "0.50"}
    async with setup(tmp_path, **terms) as dev:
        page = await dev.browser.post(dev.running.addresses.console)
    assert heading(page) == "Add $20.00"
    assert "Pay $20.50 by card" in page.text


async def test_what_an_earlier_fake_knew_is_forgotten_and_the_money_stays(tmp_path: Path) -> None:
    async with setup(tmp_path) as dev:
        page = await dev.pay_page(**AGAIN)
        await dev.browser.post(page.url, data={"act": "pay", "card": "4242 4242 4242 4242"})
        await dev.balance_comes_to(FIVE + TEN)
        left = await dev.begun()
        link = left.url.path
        await dev.browser.post(left.url, data=PAY)
        developer = dev.ledger.directory.sole_developer().id
        dev.ledger.payments.save_payee(Payee(developer, "acct_gone", "active", "us", "dev@example.com"))
    async with setup(tmp_path) as dev:
        assert await dev.balance() == FIVE + TEN
        assert heading(await dev.browser.get(dev.running.addresses.hub + link)) == "This link has expired"
        assert dev.ledger.payments.payees() == [Payee(developer, country="us", email="dev@example.com")]
        page = await dev.pay_page()
        done = await dev.browser.post(page.url, data={"act": "pay", "card": "4242 4242 4242 4242"})
        assert heading(done) == "$10.00 added"
        assert "again by itself" not in done.text
        assert await dev.balance() == FIVE + TEN + TEN
        over = dev.ledger.payments.list((), before=0, limit=9)
        assert {payment.state for payment in over} == {PaymentState.SUCCEEDED, PaymentState.EXPIRED}


async def test_with_a_key_of_stripes_test_mode_the_real_stripe_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with no_way_out() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        async with setup(tmp_path, PAYRE_STRIPE_API_KEY="sk_test_x") as dev:
            assert dev.cards.fake is None
            page = await dev.browser.post((await dev.begun()).url, data=PAY)
            nothing = await dev.browser.get(f"{dev.running.addresses.hub}{FAKE_PATH}/v1/events")
    assert page.status_code == 502
    assert "Nothing was charged" in alert(page)
    assert nothing.status_code == 404


async def test_a_key_for_live_money_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="test money"):
        async with setup(tmp_path, PAYRE_STRIPE_API_KEY="sk_live_x"):
            pass
