"""The pages that people see: the one behind a top-up link, and the start page of `payre dev`."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette

from payre_mcp import PaidMCPServer
from payre_mcp.clock import US_PER_S, ManualClock
from payre_mcp.connection import Connection, open_ledger
from payre_mcp.gateway.base import TopUpView
from payre_mcp.gateway.top_ups import TOP_UP_LIFE_US
from payre_mcp.hub.pages import TOP_UP_PATH
from payre_mcp.hub.top_up_page import top_up_routes
from payre_mcp.keys import Mode
from payre_mcp.money import Money
from payre_mcp.testing import sandbox
from tests.fakes import Funded, fund

ORIGIN = "http://127.0.0.1:8402"
FORBIDDING = ("content-security-policy", "referrer-policy", "x-content-type-options", "cache-control")


@pytest.fixture
def anyio_backend() -> str:
    """As uvicorn is."""
    return "asyncio"


@asynccontextmanager
async def browser(connection: Connection) -> AsyncGenerator[httpx2.AsyncClient]:
    """A browser before the top-up pages of a ledger."""
    connection.top_ups.page = ORIGIN + TOP_UP_PATH
    app = Starlette(routes=[*top_up_routes(connection.top_ups)])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=ORIGIN) as client:
        yield client


async def link(connection: Connection, consumer: Funded) -> tuple[TopUpView, str]:
    top_up = await connection.top_ups.create(consumer.id, Money.parse(10))
    assert top_up.url
    return top_up, top_up.url


async def test_a_link_pays_once_however_often_its_button_is_pressed(connection: Connection, consumer: Funded) -> None:
    async with browser(connection) as client:
        top_up, url = await link(connection, consumer)
        page = await client.get(url)
        pressed = [await client.post(url) for _ in range(3)]
        after = await client.get(url)
    for fact in (top_up.consumer, top_up.id, "$10.00", "pending", '<form method="post">'):
        assert fact in page.text
    assert [answer.status_code for answer in pressed] == [303] * 3
    assert "completed" in after.text
    assert "<form" not in after.text
    assert consumer.account().balance_micros == 11_000_000


async def test_a_link_that_has_expired_credits_nothing(connection: Connection, consumer: Funded, clock: ManualClock) -> None:
    async with browser(connection) as client:
        _, url = await link(connection, consumer)
        clock.advance(TOP_UP_LIFE_US / US_PER_S - 1)
        fresh = await client.get(url)
        clock.advance(1)
        page, pressed = await client.get(url), await client.post(url)
    assert "<form" in fresh.text
    assert (page.status_code, pressed.status_code) == (200, 409)
    for answer in (page, pressed):
        assert "expired" in answer.text
        assert "<form" not in answer.text
    assert consumer.account().balance_micros == 1_000_000


async def test_a_link_that_was_paid_stays_paid_after_its_time(
    connection: Connection, consumer: Funded, clock: ManualClock
) -> None:
    async with browser(connection) as client:
        _, url = await link(connection, consumer)
        await client.post(url)
        clock.advance(TOP_UP_LIFE_US / US_PER_S)
        page = await client.get(url)
    assert "completed" in page.text
    assert consumer.account().balance_micros == 11_000_000


async def test_live_money_is_not_offered_for_nothing_nor_called_test_money(tmp_path: Path, clock: ManualClock) -> None:
    connection = open_ledger(f"sqlite:///{tmp_path / 'payre.db'}", clock=clock, mode=Mode.LIVE)
    consumer = fund(connection.ledger, 0)
    async with browser(connection) as client:
        _, url = await link(connection, consumer)
        page, pressed = await client.get(url), await client.post(url)
    assert pressed.status_code == 409
    assert "by card only" in pressed.text
    assert "est money" not in page.text
    assert "<form" not in page.text
    assert consumer.account().balance_micros == 0
    connection.close()


@pytest.mark.parametrize("token", ["nonsense", "%27%20or%201=1", "../x", "0"])
async def test_a_link_that_nobody_made_is_not_found(connection: Connection, consumer: Funded, token: str) -> None:
    async with browser(connection) as client:
        top_up, _ = await link(connection, consumer)
        for name in (token, top_up.id):
            for answer in (await client.get(f"{TOP_UP_PATH}/{name}"), await client.post(f"{TOP_UP_PATH}/{name}")):
                assert answer.status_code == 404
    assert consumer.account().balance_micros == 1_000_000


async def test_every_page_forbids_framing_foreign_content_referrers_and_caching(
    connection: Connection, consumer: Funded, clock: ManualClock
) -> None:
    async with browser(connection) as client:
        _, url = await link(connection, consumer)
        answers = [await client.get(url), await client.post(url), await client.get(f"{TOP_UP_PATH}/nonsense")]
        _, other = await link(connection, consumer)
        clock.advance(TOP_UP_LIFE_US / US_PER_S)
        answers.append(await client.post(other))
        style = await client.get("/static/payre.css")
    assert [answer.status_code for answer in answers] == [200, 303, 404, 409]
    policies = [{name: answer.headers.get(name) for name in FORBIDDING} for answer in answers]
    assert policies == [policies[0]] * 4
    assert None not in policies[0].values()
    policy = policies[0]["content-security-policy"]
    assert policy
    assert {"default-src 'none'", "frame-ancestors 'none'", "form-action 'self'"} <= set(policy.split("; "))
    assert "script" not in answers[0].text
    assert (policies[0]["referrer-policy"], policies[0]["cache-control"]) == ("no-referrer", "no-store")
    assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")


async def test_the_start_page_lists_prices_charges_and_the_way_in() -> None:
    async with sandbox() as box, httpx2.AsyncClient() as client:
        hub = box.running.addresses.hub
        before = await client.get(hub)
        async with box.client() as payer:
            await payer.call_tool("radar", {"city": "Oslo"})
        after = await client.get(hub)
        (charge,) = (await box.ledger.wallet.list_charges(box.consumer_key)).charges
        foreign = [await client.get(hub + path, headers={"Host": "evil.example"}) for path in ("/", "/mcp", "/wallet/mcp")]
        nowhere = await client.get(f"{hub}/nowhere")
    for fact in (box.server_url, box.wallet_url, box.consumer_key, "$5.00", "Costs $0.005 per call.", "Costs $4.985 per call."):
        assert fact in before.text
    assert "None yet." in before.text
    assert charge.id in after.text
    assert "$4.99" in after.text
    assert all(after.headers.get(name) for name in FORBIDDING)
    assert [answer.status_code for answer in foreign] == [400] * 3, "DNS rebinding"
    assert nowhere.status_code == 404


async def test_the_button_of_the_start_page_leads_to_a_link_of_its_consumer() -> None:
    async with sandbox() as box, httpx2.AsyncClient() as client:
        pressed = await client.post(box.running.addresses.hub)
        page = await client.get(pressed.headers["location"])
        paid = await client.post(pressed.headers["location"])
        balance = (await box.balance()).balance
    assert [answer.status_code for answer in (pressed, page, paid)] == [303, 200, 303]
    assert "Pay $10.00 with test money" in page.text
    assert balance == Money.parse(15)


async def test_names_of_a_server_are_text_on_the_start_page_and_never_markup() -> None:
    server = PaidMCPServer("<script>alert(1)</script>")
    async with sandbox(server) as box, httpx2.AsyncClient() as client:
        page = await client.get(box.running.addresses.hub)
    assert "<script>" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "No tool has a price." in page.text


async def test_a_server_that_nobody_meters_is_not_served() -> None:
    with pytest.raises(ValueError, match="has no Payre"):
        async with sandbox(MCPServer("free")):
            pass
