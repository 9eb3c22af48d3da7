"""The page behind a top-up link where cards are taken: choosing, paying, coming back, and cards that are charged again."""

from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import httpx2
import pytest
from starlette.applications import Starlette

from payre_mcp.billing.checkouts import SHORTEST_PAGE_US, RechargeWish
from payre_mcp.billing.desk import Billing
from payre_mcp.billing.office import Terms
from payre_mcp.clock import US_PER_S, ManualClock
from payre_mcp.connection import open_ledger
from payre_mcp.gateway.top_ups import TOP_UP_LIFE_US
from payre_mcp.hub.top_up_page import PAY_PAGES, top_up_routes
from payre_mcp.keys import Mode
from payre_mcp.money import ZERO, Money
from payre_mcp.payments import Payer, PaymentKind, PaymentState
from payre_mcp.processors.stripe import StripeProcessor
from payre_mcp.storage.library import connect
from payre_mcp.wallet.facts import TopUpFacts
from tests.billing.till import TEN
from tests.fakes import file_of, fund
from tests.hub.card_desk import AGAIN, HUB, PAY, STRIPE, CardDesk, alert, heading, open_card_desk, session_in

FIFTY_CENTS = Money.parse("0.50")


@pytest.fixture
async def desk(ledger_path: Path) -> AsyncGenerator[CardDesk]:
    async with open_card_desk(ledger_path) as desk:
        yield desk


# --- what is asked for


async def test_the_page_says_whose_account_how_much_and_that_a_card_pays(desk: CardDesk) -> None:
    link = await desk.link()
    page = await desk.browser.get(link)
    assert heading(page) == "Add $10.00"
    for fact in ((await desk.view(link)).consumer, "Pay $10.00 by card", "4242 4242 4242 4242", "Test money"):
        assert fact in page.text
    assert "with test money" not in page.text
    assert "Processing fee" not in page.text
    assert "script" not in page.text


async def test_the_fee_is_a_line_of_its_own_and_of_what_is_paid(ledger_path: Path) -> None:
    async with open_card_desk(ledger_path, terms=Terms(top_up_fee_bps=200, top_up_fee=Money.parse("0.30"))) as desk:
        link = await desk.link()
        page = await desk.browser.get(link)
        assert "<dt>Processing fee</dt><dd>$0.50</dd>" in page.text
        assert "Pay $10.50 by card" in page.text
        done = await desk.paid(link)
        assert heading(done) == "$10.00 added"
        assert (desk.till.balance(), desk.payment().fee) == (TEN, FIFTY_CENTS)


async def test_amounts_to_choose_are_those_that_the_operator_takes(desk: CardDesk) -> None:
    desk.till.connection.top_ups.amounts = (TEN, Money.parse(30))
    page = await desk.browser.get(await desk.link())
    offered = [amount for amount in ("5.00", "10.00", "25.00", "50.00") if f'name="amount" value="{amount}"' in page.text]
    assert offered == ["10.00", "25.00"]
    assert "from $10.00 to $30.00" in page.text


@pytest.mark.parametrize("amount", ["25.00", " $25 ", "25"])
async def test_another_amount_is_chosen_before_paying(desk: CardDesk, amount: str) -> None:
    link = await desk.link()
    changed = await desk.browser.post(link, data={"act": "amount", "amount": amount})
    assert (changed.status_code, changed.headers["location"]) == (303, link)
    assert heading(await desk.browser.get(link)) == "Add $25.00"
    assert (await desk.view(link)).amount == Money.parse(25)
    assert heading(await desk.paid(link, {**PAY, "shown": "25.00"})) == "$25.00 added"
    assert desk.till.balance() == Money.parse(25)


@pytest.mark.parametrize(
    ("amount", "advice"),
    [
        ("4.99", "A top-up is $5.00 to $500.00"),
        ("500.01", "A top-up is $5.00 to $500.00"),
        ("10.005", "whole cents"),
        ("0", "above zero"),
        ("-5", "The amount is written in dollars"),
        ("ten", "such as 12 or 12.50"),
        ("", "such as 12 or 12.50"),
        ("1e9", "such as 12 or 12.50"),
    ],
)
async def test_an_amount_that_nobody_can_pay_is_refused_and_stays_in_its_field(desk: CardDesk, amount: str, advice: str) -> None:
    link = await desk.link()
    answer = await desk.browser.post(link, data={"act": "amount", "amount": amount})
    assert answer.status_code == 400
    assert advice in alert(answer)
    assert "nothing was charged" in alert(answer)
    assert f'id="amount" name="amount" value="{amount}"' in answer.text
    assert (await desk.view(link)).amount == TEN


async def test_the_amount_is_settled_once_the_page_to_pay_on_is_open(desk: CardDesk) -> None:
    link = await desk.link()
    await desk.begun(link)
    refused = await desk.browser.post(link, data={"act": "amount", "amount": "25"})
    page = await desk.browser.get(link)
    assert refused.status_code == 400
    assert "cannot be changed" in alert(refused)
    assert 'name="amount"' not in page.text
    assert "Pay $10.00 by card" in page.text
    assert heading(await desk.paid(link)) == "$10.00 added"


async def test_whoever_was_shown_another_amount_is_asked_again(desk: CardDesk) -> None:
    link = await desk.link()
    await desk.browser.post(link, data={"act": "amount", "amount": "50"})
    answer = await desk.browser.post(link, data=PAY)
    assert answer.status_code == 400
    assert "changed to $50.00" in alert(answer)
    assert desk.till.payments(PaymentKind.TOP_UP) == []


# --- paying


async def test_pressing_twice_leads_to_one_page(desk: CardDesk) -> None:
    link = await desk.link()
    assert await desk.begun(link) == await desk.begun(link)
    assert len(desk.till.payments(PaymentKind.TOP_UP)) == 1


async def test_two_tabs_at_once_lead_to_one_page_and_one_payment(desk: CardDesk) -> None:
    link, sessions = await desk.link(), list[str]()

    async def tab() -> None:
        sessions.append(await desk.begun(link))

    async with anyio.create_task_group() as tabs:
        for _ in range(4):
            tabs.start_soon(tab)
    assert len(set(sessions)) == 1
    desk.till.stripe.pay(sessions[0])
    for session in sessions:
        assert heading(await desk.browser.get(link, params={"session_id": session})) == "$10.00 added"
    await desk.till.news()
    assert desk.till.balance() == TEN
    await desk.till.sound()


async def test_who_comes_back_from_paying_has_the_money_whether_or_not_news_came(desk: CardDesk) -> None:
    link = await desk.link()
    page = await desk.paid(link)
    assert heading(page) == "$10.00 added"
    assert "by card" not in page.text
    assert "refresh" not in page.text
    assert (await desk.view(link)).status == "completed"
    assert heading(await desk.browser.get(link)) == "$10.00 added"
    await desk.till.news()
    assert desk.till.balance() == TEN
    await desk.till.sound()


async def test_who_goes_back_without_paying_can_still_pay(desk: CardDesk) -> None:
    link = await desk.link()
    session = await desk.begun(link)
    desk.till.stripe.decline(session)
    assert heading(await desk.browser.get(link)) == "Add $10.00"
    assert heading(await desk.browser.get(link, params={"session_id": session})) == "Add $10.00"
    assert await desk.begun(link) == session
    assert desk.till.balance() == ZERO


async def test_a_paid_link_leads_to_no_page_again(desk: CardDesk) -> None:
    link = await desk.link()
    await desk.paid(link)
    answer = await desk.browser.post(link, data=PAY)
    assert (answer.status_code, answer.headers["location"]) == (303, link)
    assert desk.till.balance() == TEN


async def test_who_presses_pay_on_an_old_tab_after_paying_is_told_and_credited(desk: CardDesk) -> None:
    link = await desk.link()
    desk.till.stripe.pay(await desk.begun(link))
    answer = await desk.browser.post(link, data=PAY)
    assert answer.status_code == 400
    assert heading(answer) == "$10.00 added"
    assert desk.till.balance() == TEN


async def test_a_page_asks_stripe_about_its_own_session_alone(desk: CardDesk) -> None:
    link, other = await desk.link(), await desk.link()
    await desk.begun(link)
    foreign = await desk.begun(other)
    desk.till.stripe.pay(foreign)
    desk.till.stripe.chaos.api(429, path="/v1/checkout/sessions/")
    for session in (foreign, "cs_test_nonsense", "", "{CHECKOUT_SESSION_ID}"):
        assert heading(await desk.browser.get(link, params={"session_id": session})) == "Add $10.00"
    assert desk.till.balance() == ZERO


async def test_while_stripe_does_not_answer_the_page_says_that_it_is_confirming(desk: CardDesk) -> None:
    link = await desk.link()
    session = await desk.begun(link)
    desk.till.stripe.pay(session)
    desk.till.stripe.chaos.api(429, path="/v1/checkout/sessions/")
    page = await desk.browser.get(link, params={"session_id": session})
    assert heading(page) == "Your payment is being confirmed"
    assert '<meta http-equiv="refresh" content="3">' in page.text
    assert heading(await desk.browser.get(link, params={"session_id": session})) == "$10.00 added"


async def test_a_page_does_not_wait_for_stripe_for_long(desk: CardDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("payre_mcp.hub.top_up_page._WITHIN_S", 0.05)
    link = await desk.link()
    session = await desk.begun(link)
    desk.till.stripe.pay(session)
    desk.till.stripe.chaos.api("hold", path="/v1/checkout/sessions/")
    assert heading(await desk.browser.get(link, params={"session_id": session})) == "Your payment is being confirmed"
    desk.till.stripe.chaos.release()
    assert heading(await desk.browser.get(link, params={"session_id": session})) == "$10.00 added"
    await desk.till.sound()


async def test_a_payment_that_is_not_what_was_asked_for_is_credited_to_nobody(
    desk: CardDesk, caplog: pytest.LogCaptureFixture
) -> None:
    link = await desk.link()
    session = await desk.begun(link)
    desk.till.stripe.pay(session)
    desk.till.ledger.payments.advance(desk.payment().id, PaymentState.OPEN, amount=Money.parse(500))
    page = await desk.browser.get(link, params={"session_id": session})
    pressed = await desk.browser.post(link, data={**PAY, "shown": "500.00"})
    assert [heading(each) for each in (page, pressed)] == ["This payment has to be looked at"] * 2
    assert [record.levelname for record in caplog.records] == ["CRITICAL"] * 2
    assert desk.till.balance() == ZERO


async def test_where_stripe_opens_no_page_nothing_was_charged_and_the_button_stays(desk: CardDesk) -> None:
    link = await desk.link()
    desk.till.stripe.chaos.api(429, path="/v1/checkout/sessions", method="POST")
    answer = await desk.browser.post(link, data=PAY)
    assert answer.status_code == 502
    assert "Nothing was charged" in alert(answer)
    assert "Pay $10.00 by card" in answer.text
    assert heading(await desk.paid(link)) == "$10.00 added"


async def test_ways_to_pay_that_take_days_are_on_their_way_until_they_came_or_failed(desk: CardDesk) -> None:
    link = await desk.link()
    await desk.begun(link)
    payments, number = desk.till.ledger.payments, desk.payment().id
    payments.advance(number, PaymentState.PROCESSING)
    page = await desk.browser.get(link)
    assert (heading(page), (await desk.view(link)).status) == ("$10.00 is on its way", "processing")
    assert "not in the balance yet" in TopUpFacts.of(await desk.view(link)).sentence()
    payments.advance(number, PaymentState.FAILED, problem="the payment failed: insufficient_funds")
    page = await desk.browser.get(link)
    assert (heading(page), (await desk.view(link)).status) == ("The payment failed", "failed")
    assert "insufficient_funds" in page.text
    assert "nothing was credited" in TopUpFacts.of(await desk.view(link)).sentence()
    assert "by card" not in page.text


async def test_a_link_that_has_expired_leads_nowhere(desk: CardDesk) -> None:
    link, late = await desk.link(), await desk.link()
    desk.till.clock.advance((TOP_UP_LIFE_US - SHORTEST_PAGE_US) / US_PER_S + 1)
    page, pressed = await desk.browser.get(late), await desk.browser.post(late, data=PAY)
    assert [heading(each) for each in (page, pressed)] == ["This link has expired"] * 2
    assert pressed.status_code == 400
    desk.till.clock.advance(SHORTEST_PAGE_US / US_PER_S)
    assert heading(await desk.browser.get(link)) == "This link has expired"
    assert desk.till.stripe.events() == []


async def test_a_page_to_pay_on_that_is_open_can_be_paid_until_it_closes(desk: CardDesk) -> None:
    link = await desk.link()
    session = await desk.begun(link)
    desk.till.clock.advance((TOP_UP_LIFE_US - SHORTEST_PAGE_US) / US_PER_S + 1)
    assert heading(await desk.browser.get(link)) == "Add $10.00"
    assert await desk.begun(link) == session
    desk.till.clock.advance(SHORTEST_PAGE_US / US_PER_S)
    assert heading(await desk.browser.get(link)) == "This link has expired"


# --- a card that is charged again by itself


async def test_a_ticked_box_has_the_card_charged_again_once_it_has_paid(desk: CardDesk) -> None:
    link = await desk.link()
    await desk.begun(link, {**PAY, **AGAIN})
    assert desk.till.ledger.payments.payer(desk.till.payer.id) is not None
    assert "charged $20.00 again by itself whenever less than $2.00 is available" in (await desk.browser.get(link)).text
    page = await desk.paid(link)
    assert "visa 4242 is charged $20.00 whenever less than $2.00 is available" in page.text
    assert "$100.00 in a calendar month" in page.text
    payer = desk.till.ledger.payments.payer(desk.till.payer.id)
    assert payer is not None
    assert (payer.threshold, payer.amount, payer.month_cap) == (Money.parse(2), Money.parse(20), Money.parse(100))


async def test_without_the_tick_no_card_is_kept(desk: CardDesk) -> None:
    untouched = {field: value for field, value in AGAIN.items() if field != "recharge"}
    page = await desk.paid(await desk.link(), {**PAY, **untouched})
    assert "Turn off" not in page.text
    payer = desk.till.ledger.payments.payer(desk.till.payer.id)
    assert payer is not None
    assert not payer.recharges


@pytest.mark.parametrize(
    ("field", "value", "advice"),
    [
        ("threshold", "", "below which"),
        ("threshold", "0", "above zero"),
        ("again", "4", "A top-up is $5.00 to $500.00"),
        ("again", "20.001", "whole cents"),
        ("again", "many", "charged by itself"),
        ("month_cap", "19.99", "less than the $20.00 of one charge"),
        ("month_cap", "1e9", "The most a month is written"),
    ],
)
async def test_amounts_of_recharges_that_cannot_be_are_refused_and_kept_in_the_form(
    desk: CardDesk, field: str, value: str, advice: str
) -> None:
    answer = await desk.browser.post(await desk.link(), data={**PAY, **AGAIN, field: value})
    assert answer.status_code == 400
    assert advice in alert(answer)
    assert f'name="{field}" value="{value}"' in answer.text
    assert 'name="recharge" value="1" checked' in answer.text
    assert desk.till.payments(PaymentKind.TOP_UP) == []


async def test_a_wish_can_be_taken_back_before_paying(desk: CardDesk) -> None:
    link = await desk.link()
    await desk.begun(link, {**PAY, **AGAIN})
    assert (await desk.browser.post(link, data={"act": "once"})).status_code == 303
    assert RechargeWish.load(desk.payment().detail) is None
    page = await desk.paid(link)
    assert heading(page) == "$10.00 added"
    assert "again by itself" not in page.text
    assert (await desk.browser.post(link, data={"act": "once"})).status_code == 303


async def test_recharges_are_told_on_every_link_of_the_account_and_turned_off_there(desk: CardDesk) -> None:
    await desk.paid(await desk.link(), {**PAY, **AGAIN})
    payer = desk.till.ledger.payments.payer(desk.till.payer.id)
    assert payer is not None
    other = await desk.link()
    page = await desk.browser.get(other)
    assert "Turn off and forget the card" in page.text
    assert 'name="recharge"' not in page.text, "there is no second card"
    off = await desk.browser.post(other, data={"act": "turn_off"})
    assert (off.status_code, off.headers["location"]) == (303, other)
    assert "Turn off" not in (await desk.browser.get(other)).text
    assert desk.till.stripe.events()[-1]["type"] == "payment_method.detached"
    assert (await desk.browser.post(other, data={"act": "turn_off"})).status_code == 303


async def test_recharges_are_off_even_where_stripe_does_not_answer(desk: CardDesk) -> None:
    link = await desk.link()
    await desk.paid(link, {**PAY, **AGAIN})
    desk.till.stripe.chaos.api(429, path="/v1/payment_methods")
    assert (await desk.browser.post(link, data={"act": "turn_off"})).status_code == 303
    assert "Turn off" not in (await desk.browser.get(link)).text


async def test_recharges_that_three_declines_have_ended_say_so(desk: CardDesk) -> None:
    link = await desk.link()
    known = desk.till.payer.record
    desk.till.ledger.payments.save_payer(
        Payer(known.owner_id, known.part, "cus_1", "pm_1", "visa 0341", Money.parse(2), TEN, Money.parse(50), failures=3)
    )
    page = await desk.browser.get(link)
    assert "declined\n  3 times in a row" in page.text
    assert "Turn off and forget the card" in page.text


# --- around it


async def test_a_browser_may_go_to_the_pages_of_stripe_and_to_no_others(desk: CardDesk) -> None:
    link = await desk.link()
    policy = (await desk.browser.get(link)).headers["content-security-policy"].split("; ")
    assert f"form-action 'self' {STRIPE}" in policy
    assert "default-src 'none'" in policy
    assert PAY_PAGES == ("https://checkout.stripe.com",)


async def test_a_page_to_pay_on_of_another_name_is_reached_by_a_link(desk: CardDesk) -> None:
    """An operator may give Stripe's pages a name of their own."""
    routes = top_up_routes(desk.till.connection.top_ups, desk.till.billing)
    app = Starlette(routes=[*routes])
    link = await desk.link()
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=HUB) as browser:
        page = await browser.post(link, data=PAY)
    address = f"{STRIPE}/pay/{session_in(await desk.browser.post(link, data=PAY))}"
    assert (page.status_code, heading(page)) == (200, "Go on to pay")
    assert f'<a href="{address}">' in page.text
    assert f'content="0; url={address}"' in page.text


@pytest.mark.parametrize("form", [{}, {"act": "nonsense"}, {"act": "pay"}, {str(number): "" for number in range(100)}])
async def test_a_form_that_is_none_of_ours_does_nothing(desk: CardDesk, form: dict[str, str]) -> None:
    link = await desk.link()
    answers = [await desk.browser.post(link, data=form), await desk.browser.post(link, content=b"\xff\x00=&act=\xc3(")]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert desk.till.payments(PaymentKind.TOP_UP) == []


async def test_a_link_that_nobody_made_is_not_found(desk: CardDesk) -> None:
    for answer in (await desk.browser.get("/top-ups/x"), await desk.browser.post("/top-ups/x", data=PAY)):
        assert (answer.status_code, heading(answer)) == (404, "No such top-up")


async def test_a_database_in_trouble_is_a_page_that_says_nothing_was_charged(desk: CardDesk) -> None:
    link = await desk.link()
    with connect(file_of(desk.till.ledger)) as file:
        file.execute("alter table top_up rename to away")
    file.close()
    for answer in (await desk.browser.get(link), await desk.browser.post(link, data=PAY)):
        assert answer.status_code == 503
        assert "Nothing was charged" in answer.text


async def test_live_money_is_not_called_test_money(tmp_path: Path) -> None:
    clock = ManualClock()
    connection = open_ledger(f"sqlite:///{tmp_path / 'payre.db'}", clock=clock, mode=Mode.LIVE, top_up_page=f"{HUB}/top-ups")
    processor = StripeProcessor("sk_live_x", clock=clock, transport=httpx2.MockTransport(_unreachable))
    app = Starlette(routes=[*top_up_routes(connection.top_ups, Billing(connection.ledger, processor, clock))])
    top_up = await connection.top_ups.create(fund(connection.ledger, 0).id, TEN)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=HUB) as browser:
        page, missing = await browser.get(str(top_up.url)), await browser.get("/top-ups/x")
    assert "Pay $10.00 by card" in page.text
    for answer in (page, missing):
        assert "est money" not in answer.text
        assert "4242" not in answer.text
    await processor.aclose()
    connection.close()


def _unreachable(request: httpx2.Request) -> httpx2.Response:
    raise AssertionError(f"a page that is only shown asks nobody: {request.url}")
