"""The pages of the fake Stripe, as a browser sees them: plain forms, and where they lead."""

import re
from typing import Any

import httpx2
import pytest

from payre_mcp.processors.fake_stripe.account_links import LIFE_S
from tests.processors.fake_stripe_client import Desk

FORBIDDING = ("content-security-policy", "referrer-policy", "x-content-type-options", "cache-control")
NO_MONEY = "Fake Stripe: no money moves"


def policy(page: httpx2.Response) -> str:
    return page.headers["content-security-policy"]


async def onboarding(desk: Desk, **more: Any) -> tuple[str, str]:
    """An account and its link."""
    account = await desk.account()
    details = {"refresh_url": "http://hub.test/again", "return_url": "https://other.test:8443/done", **more}
    order: Any = {"account": account, "use_case": {"type": "account_onboarding", "account_onboarding": details}}
    return account, (await desk.client.v2.core.account_links.create_async(order)).url


async def test_the_page_names_the_price_and_says_that_no_money_moves() -> None:
    desk = Desk()
    desk.fake.store.tax_bps = 1_000
    session = await desk.session(1_234, automatic_tax={"enabled": True})
    async with desk.browser() as http:
        page = await http.get(str(session.url))
        style = await http.get("/static/fake_stripe.css")
    for fact in ("Pay $13.57", "$12.34", "$1.23", "Credit", NO_MONEY, "4242 4242 4242 4242", 'value="decline"', "Pay later"):
        assert fact in page.text
    assert "<script" not in page.text
    assert all(name in page.headers for name in FORBIDDING)
    assert "form-action 'self' http://hub.test;" in policy(page)
    assert style.headers["content-type"].startswith("text/css")


async def test_pay_leads_to_the_success_page_with_the_session_filled_in() -> None:
    desk = Desk()
    session = await desk.session()
    async with desk.browser() as http:
        paid = await http.post(str(session.url), data={"act": "pay", "card": "4242 4242 4242 4242"})
        again = await http.post(str(session.url), data={"act": "pay", "card": "4242 4242 4242 4242"})
        after = await http.get(str(session.url) if session.url else "")
    assert (paid.status_code, paid.headers["location"]) == (303, f"http://hub.test/top-ups/1?session={session.id}")
    assert (again.status_code, after.status_code) == (409, 200)
    assert "Thank you" in after.text
    assert "<form" not in after.text
    assert desk.kinds().count("charge.succeeded") == 1


@pytest.mark.parametrize(
    ("form", "status", "says"),
    [
        ({"act": "decline", "card": "4242424242424242"}, 402, "Your card was declined."),
        ({"act": "pay", "card": "4000 0000 0000 9995"}, 402, "Your card has insufficient funds."),
        ({"act": "pay", "card": "4111 1111 1111 1111"}, 422, "is not a test card"),
        ({"act": "pay", "card": "<b>"}, 422, "&lt;b&gt;"),
        ({}, 422, "is not a test card"),
        ({"act": "later"}, 422, "does not take that"),
    ],
)
async def test_what_does_not_pay_says_why_and_leaves_the_page_open(form: dict[str, str], status: int, says: str) -> None:
    desk = Desk()
    session = await desk.session(excluded_payment_method_types=["us_bank_account"])
    async with desk.browser() as http:
        page = await http.post(str(session.url), data=form)
    assert (page.status_code, (await desk.now(session)).status) == (status, "open")
    assert says in page.text
    assert "Nothing was paid." in page.text
    assert "Pay later" not in page.text


async def test_pay_later_leads_on_and_the_page_says_that_the_bank_has_yet_to_pay() -> None:
    desk = Desk()
    session = await desk.session()
    async with desk.browser() as http:
        later = await http.post(str(session.url), data={"act": "later"})
        page = await http.get(f"/pay/{session.id}")
    assert (later.status_code, (await desk.now(session)).payment_status) == (303, "unpaid")
    assert "has yet to pay" in page.text


async def test_a_card_is_saved_by_the_tick_and_by_the_setup_page() -> None:
    desk = Desk()
    customer = await desk.customer()
    session = await desk.session(customer=customer)
    setup = await desk.session(
        mode="setup", customer=customer, currency="usd", line_items=None, payment_intent_data=None, cancel_url=None
    )
    async with desk.browser() as http:
        ticks = await http.get(str(session.url))
        await http.post(str(session.url), data={"act": "pay", "card": "4242424242424242", "save": "1"})
        asks = await http.get(str(setup.url))
        await http.post(str(setup.url), data={"act": "pay", "card": "5555555555554444"})
        done = await http.get(f"/pay/{setup.id}")
    assert "Save this card" in ticks.text
    assert "Save a card" in asks.text
    assert "Pay later" not in asks.text
    assert "without paying" not in asks.text
    assert "The card is saved" in done.text
    saved = (await desk.client.v1.payment_methods.list_async({"customer": customer})).data
    assert [method.card and method.card.last4 for method in saved] == ["4444", "4242"]


async def test_a_page_that_expired_says_so() -> None:
    desk = Desk()
    session = await desk.session()
    desk.clock.advance(24 * 3600)
    async with desk.browser() as http:
        page = await http.get(str(session.url))
        pressed = await http.post(str(session.url), data={"act": "pay", "card": "4242424242424242"})
    assert "has expired" in page.text
    assert pressed.status_code == 409


@pytest.mark.parametrize("path", ["/pay/cs_test_none", "/onboard/link_none", "/express/acct_none"])
async def test_a_page_of_nothing_is_missing_and_can_do_nothing(path: str) -> None:
    desk = Desk()
    customer = await desk.customer()
    async with desk.browser() as http:
        pages = [await http.get(path), await http.get(f"/pay/{customer}"), await http.get(f"/express/{customer}")]
        if "express" not in path:
            pages.append(await http.post(path, data={"act": "pay", "card": "4242424242424242"}))
    assert {page.status_code for page in pages} == {404}
    assert all(NO_MONEY in page.text and all(name in page.headers for name in FORBIDDING) for page in pages)


@pytest.mark.parametrize(("button", "status"), [("active", "active"), ("restricted", "restricted")])
async def test_onboarding_finishes_or_stays_restricted_and_leads_back(button: str, status: str) -> None:
    desk = Desk()
    account, url = await onboarding(desk)
    async with desk.browser() as http:
        page = await http.get(url)
        done = await http.post(url, data={"status": button})
    for fact in (account, "dev@example.com", "Finish", "Leave restricted", NO_MONEY):
        assert fact in page.text
    assert "form-action 'self' https://other.test:8443 http://hub.test;" in policy(page)
    assert (done.status_code, done.headers["location"]) == (303, "https://other.test:8443/done")
    found: Any = await desk.client.v2.core.accounts.retrieve_async(account, {"include": ["configuration.recipient"]})
    assert found.configuration.recipient.capabilities.stripe_balance.stripe_transfers.status == status
    assert desk.kinds()[-1] == "v2.core.account_link.returned"


async def test_a_link_is_good_once_and_for_minutes() -> None:
    desk = Desk()
    _, url = await onboarding(desk)
    _, late = await onboarding(desk, return_url="http://hub.test/done")
    async with desk.browser() as http:
        wrong = await http.post(url, data={"status": "king"})
        await http.post(url, data={"status": "active"})
        used = [await http.get(url), await http.post(url, data={"status": "active"})]
        desk.clock.advance(LIFE_S)
        expired = await http.get(late)
    assert wrong.status_code == 422
    assert [reply.headers["location"] for reply in (*used, expired)] == ["http://hub.test/again"] * 3
    assert len(re.findall("account_link.returned", " ".join(desk.kinds()))) == 1


async def test_an_address_that_would_end_a_header_does_not() -> None:
    desk = Desk()
    session = await desk.session(success_url="http://me:pw@hub.test;x 'unsafe-inline'/ok", cancel_url=None)
    async with desk.browser() as http:
        page = await http.get(str(session.url))
    assert "form-action 'self' http://hub.testxunsafe-inline; base-uri" in policy(page)
