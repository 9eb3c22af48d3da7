"""A person pays an agent's link in a real browser, under `payre dev`, and the agent sees the money."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.applications import Starlette

from payre_mcp.dev.web import listen, origin, serving
from payre_mcp.hub.pages import TOP_UP_PATH
from payre_mcp.hub.top_up_page import top_up_routes
from tests.billing.till import TEN, Till, open_till
from tests.browser.looks import faults_of
from tests.fakes import PATIENCE_S

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

Addresses = dict[str, str]
BY_CARD = re.compile("by card$")


@asynccontextmanager
async def page_of(browser: "Browser", **options: Any) -> AsyncGenerator["Page"]:
    """A window; whatever its content security policy forbids is a failure."""
    context = await browser.new_context(**options)
    context.set_default_timeout(PATIENCE_S * 1000)
    page, forbidden = await context.new_page(), list[str]()
    page.on("console", lambda said: forbidden.append(said.text) if "Content Security Policy" in said.text else None)
    yield page
    await context.close()
    assert forbidden == []


@asynccontextmanager
async def agent_of(dev: Addresses) -> AsyncGenerator[Client]:
    """An agent with the consumer's wallet."""
    async with (
        httpx2.AsyncClient(headers={"X-Payre-Key": dev["consumer_key"]}, timeout=PATIENCE_S) as http,
        Client(streamable_http_client(dev["wallet"], http_client=http)) as client,
    ):
        yield client


async def ask(agent: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await agent.call_tool(tool, arguments)
    assert result.structured_content is not None
    return result.structured_content


async def test_a_person_pays_an_agents_link_after_one_card_declined(dev: Addresses, browser: "Browser") -> None:
    async with agent_of(dev) as agent, page_of(browser) as page:
        before = await ask(agent, "get_balance")
        link = await ask(agent, "create_top_up_link", amount_usd="10")
        await page.goto(link["url"])
        assert link["consumer"] in await page.inner_text("main")
        await page.get_by_role("button", name="Pay $10.00 by card").click()
        await page.get_by_label("Card number").fill("4000 0000 0000 0002")
        await page.get_by_role("button", name="Pay", exact=True).click()
        assert "Nothing was paid" in await page.inner_text("[role=alert]")
        assert (await ask(agent, "get_top_up", top_up_id=link["top_up_id"]))["status"] == "pending"
        await page.get_by_label("Card number").fill("4242 4242 4242 4242")
        await page.get_by_role("button", name="Pay", exact=True).click()
        assert await page.inner_text("h1") == "$10.00 added"
        paid = await ask(agent, "get_top_up", top_up_id=link["top_up_id"])
        after = await ask(agent, "get_balance")
    assert (paid["status"], paid["amount"]) == ("completed", "$10.00")
    assert after["balance_micros"] - before["balance_micros"] == 10_000_000


async def test_enter_in_the_field_of_the_amount_changes_the_amount_and_pays_nothing(dev: Addresses, browser: "Browser") -> None:
    async with agent_of(dev) as agent, page_of(browser) as page:
        link = await ask(agent, "create_top_up_link", amount_usd="10")
        await page.goto(link["url"])
        await page.get_by_label("Dollars, from").fill("12.50")
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Add $12.50").wait_for()
        changed = await ask(agent, "get_top_up", top_up_id=link["top_up_id"])
    assert (changed["amount"], changed["status"]) == ("$12.50", "pending")


async def test_a_card_that_is_charged_again_is_told_and_turned_off(dev: Addresses, browser: "Browser") -> None:
    async with page_of(browser) as page:
        await page.goto(dev["console"])
        await page.get_by_role("button", name="Top up").click()
        assert not await page.get_by_label("At most a month").is_visible(), "only who ticks the box is asked for more"
        await page.get_by_label("Charge this card again by itself").check()
        await page.get_by_label("At most a month").fill("40")
        await page.get_by_role("button", name=BY_CARD).click()
        await page.get_by_role("link", name="Go back").click()
        assert "at most $40.00 in a calendar month" in await page.inner_text("main")
        await page.get_by_role("button", name=BY_CARD).click()
        await page.get_by_role("button", name="Pay", exact=True).click()
        await page.get_by_role("heading", name="$10.00 added").wait_for()
        assert "visa 4242 is charged $10.00" in await page.inner_text("main")
        await page.get_by_role("button", name="Turn off").click()
        await page.get_by_role("heading", name="$10.00 added").wait_for()
        assert "visa" not in await page.inner_text("main")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1100])
async def test_the_pages_fit_and_read_well(dev: Addresses, browser: "Browser", tmp_path: Path, scheme: Any, width: int) -> None:
    async with page_of(browser, color_scheme=scheme, viewport={"width": width, "height": 844}) as page:

        async def look(name: str) -> None:
            await page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
            assert await faults_of(page) == {}, name

        await page.goto(dev["console"])
        await look("start")
        await page.get_by_role("button", name="Top up").click()
        await look("pending")
        await page.get_by_label("Charge this card again by itself").check()
        await page.get_by_label("When less than").fill("nothing")
        await page.get_by_role("button", name=BY_CARD).click()
        await look("refused")
        await page.get_by_label("When less than").fill("2")
        await page.get_by_role("button", name=BY_CARD).click()
        await page.get_by_role("link", name="Go back").click()
        await look("begun")
        await page.get_by_role("button", name=BY_CARD).click()
        await page.get_by_role("button", name="Pay", exact=True).click()
        await page.get_by_role("heading", name="added").wait_for()
        await look("completed")
        await page.get_by_role("button", name="Turn off").click()
        await page.goto(f"{dev['hub']}{TOP_UP_PATH}/nonsense")
        await look("missing")


async def test_a_page_that_reads_badly_would_be_noticed(browser: "Browser") -> None:
    bad = """<body style="background: #fff"><p style="color: #999">pale</p><input style="outline: none">
        <p style="width: 200vw; color: #000">wide</p>"""
    async with page_of(browser) as page:
        await page.set_content(bad)
        assert set(await faults_of(page)) == {"pale", "nameless", "unseen", "too wide"}


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_form_ends_at_a_page_to_pay_on_of_another_origin(browser: "Browser", ledger_path: Path, is_known: bool) -> None:
    """By redirect to an origin that our page names, and by a link to any other, which a policy would forbid a form."""
    with listen() as ours, listen() as theirs:
        async with open_till(f"sqlite:///{ledger_path}") as till:
            till.connection.top_ups.page, till.stripe.store.url = origin(ours) + TOP_UP_PATH, origin(theirs)
            places = (origin(theirs),) if is_known else ("https://checkout.stripe.com",)
            pages = Starlette(routes=[*top_up_routes(till.connection.top_ups, till.billing, pay_pages=places)])
            async with serving(pages, ours), serving(till.stripe.app, theirs), page_of(browser) as page:
                await page.goto(await _link(till))
                await page.get_by_role("button", name=BY_CARD).click()
                await page.get_by_role("button", name="Pay", exact=True).click()
                await page.get_by_role("heading", name="$10.00 added").wait_for()
            assert till.balance() == TEN


async def _link(till: Till) -> str:
    top_up = await till.connection.top_ups.create(till.payer.id, TEN)
    assert top_up.url is not None
    return top_up.url
