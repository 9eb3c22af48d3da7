"""Top-ups by card."""

from dataclasses import replace

import pytest

from payre_mcp.billing.checkouts import RechargeWish
from payre_mcp.billing.office import Mismatch, Terms
from payre_mcp.errors import InvalidRequest, ProcessorError
from payre_mcp.ids import parse_id
from payre_mcp.money import ZERO, Money
from payre_mcp.payments import PaymentKind, PaymentState
from tests.billing.till import CARD_FEE, PAGE, TEN, Till, open_till
from tests.both_databases import ledger_url

__all__ = ["ledger_url"]

pytestmark = pytest.mark.anyio


async def test_a_paid_page_is_credited_once_by_return_news_and_reconciler(till: Till) -> None:
    session = await till.page_of()
    till.stripe.pay(session)
    assert till.balance() == ZERO
    assert (await till.billing.checkouts.apply(session)).state == PaymentState.SUCCEEDED
    assert till.balance() == TEN
    till.stripe.chaos.duplicate = True
    await till.news()
    await till.billing.checkouts.apply(session)
    await till.billing.reconciler.run()
    assert till.balance() == TEN
    assert till.received > 1
    await till.sound()


async def test_news_alone_credits_it(till: Till) -> None:
    payment = await till.top_up()
    assert (payment.state, till.balance()) == (PaymentState.SUCCEEDED, TEN)
    await till.sound()


async def test_the_reconciler_repairs_what_no_news_brought(till: Till) -> None:
    till.stripe.chaos.drop = True
    payment = await till.top_up()
    assert (payment.state, till.balance()) == (PaymentState.OPEN, ZERO)
    found = await till.billing.reconciler.run()
    assert found.events > 0
    assert till.balance() == TEN
    again = await till.billing.reconciler.run()
    assert (again.events, again.moved, till.balance()) == (0, 0, TEN)
    await till.sound()


async def test_what_stripe_keeps_is_booked(till: Till) -> None:
    await till.top_up()
    report = till.ledger.audit()
    assert Money(report.costs_micros) == CARD_FEE
    assert report.fees_micros == -CARD_FEE.micros


async def test_a_page_that_nobody_paid_credits_nothing(till: Till) -> None:
    session = await till.page_of()
    till.stripe.decline(session)
    await till.news()
    assert (await till.billing.checkouts.apply(session)).state == PaymentState.OPEN
    till.clock.advance(25 * 3600)
    assert (await till.billing.checkouts.apply(session)).state == PaymentState.EXPIRED
    assert till.balance() == ZERO
    await till.sound()


@pytest.mark.parametrize("paid", [True, False])
async def test_money_that_takes_days_is_credited_when_it_has_come(till: Till, paid: bool) -> None:
    till.terms = Terms(delayed=True)
    till.restart()
    session = await till.page_of()
    till.stripe.pay_later(session)
    await till.news()
    assert till.payments(PaymentKind.TOP_UP)[0].state == PaymentState.PROCESSING
    assert till.balance() == ZERO
    till.stripe.settle_later(session, paid=paid)
    await till.news()
    assert till.payments(PaymentKind.TOP_UP)[0].state == (PaymentState.SUCCEEDED if paid else PaymentState.FAILED)
    assert till.balance() == (TEN if paid else ZERO)
    await till.sound()


async def test_a_fee_is_a_line_of_its_own_and_the_platforms(ledger_url: str) -> None:
    async with open_till(ledger_url, terms=Terms(top_up_fee_bps=290, top_up_fee=Money.parse("0.30"))) as till:
        payment = await till.top_up()
        assert (payment.fee, till.balance()) == (CARD_FEE, TEN)
        report = till.ledger.audit()
        assert report.topped_up_micros == (TEN + CARD_FEE).micros
        assert Money(report.costs_micros) == Money.parse("0.61")
        await till.sound()


async def test_the_same_link_leads_to_the_same_page(till: Till) -> None:
    top_up = await till.connection.top_ups.create(till.payer.id, TEN)
    request = till.ledger.directory.find_top_up(top_up_id=parse_id("top", top_up.id))
    assert request is not None
    first = await till.billing.checkouts.open(request, page_url=PAGE)
    assert await till.billing.checkouts.open(request, page_url=PAGE) == first
    assert len(till.payments(PaymentKind.TOP_UP)) == 1


async def test_a_link_that_was_paid_opens_no_page_and_credits_what_it_finds(till: Till) -> None:
    till.stripe.chaos.drop = True
    session = await till.page_of()
    till.stripe.pay(session)
    request = till.ledger.directory.find_top_up(top_up_id=till.payments(PaymentKind.TOP_UP)[0].id)
    assert request is not None
    with pytest.raises(InvalidRequest, match="ended"):
        await till.billing.checkouts.open(request, page_url=PAGE)
    assert till.balance() == TEN


async def test_a_link_in_its_last_half_hour_opens_no_page(till: Till) -> None:
    top_up = await till.connection.top_ups.create(till.payer.id, TEN)
    request = till.ledger.directory.find_top_up(top_up_id=parse_id("top", top_up.id))
    assert request is not None
    till.clock.advance(23 * 3600 + 1201)
    with pytest.raises(InvalidRequest, match="expired"):
        await till.billing.checkouts.open(request, page_url=PAGE)


@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_answer_to_opening_a_page_leads_to_the_same_page(till: Till, done: bool) -> None:
    till.lose("/v1/checkout/sessions", done=done)
    with pytest.raises(ProcessorError) as told:
        await till.page_of()
    assert told.value.outcome_unknown
    request = till.ledger.directory.find_top_up(top_up_id=till.payments(PaymentKind.TOP_UP)[0].id)
    assert request is not None
    await till.billing.checkouts.open(request, page_url=f"{PAGE}/{request.token}")
    (payment,) = till.payments(PaymentKind.TOP_UP)
    till.stripe.pay(payment.processor_id)
    await till.news()
    assert till.balance() == TEN
    await till.sound()


async def test_a_page_that_is_not_what_was_asked_for_credits_nothing(till: Till) -> None:
    session = await till.page_of()
    till.stripe.pay(session)
    checkout = await till.processor.find_checkout(session)
    for wrong in (
        replace(checkout, subtotal_cents=999), replace(checkout, total_cents=2000), replace(checkout, currency="eur"),
        replace(checkout, livemode=True), replace(checkout, id="cs_test_other"),
    ):  # fmt: skip
        with pytest.raises(Mismatch):
            await till.billing.checkouts.book(wrong)
    assert till.balance() == ZERO


async def test_whoever_asked_for_it_has_their_card_kept(till: Till) -> None:
    top_up = await till.connection.top_ups.create(till.payer.id, TEN)
    request = till.ledger.directory.find_top_up(top_up_id=parse_id("top", top_up.id))
    assert request is not None
    wish = RechargeWish(Money.parse(5), Money.parse(20), Money.parse(100))
    await till.billing.checkouts.open(request, page_url=PAGE, wish=wish)
    till.stripe.pay(till.payments(PaymentKind.TOP_UP)[0].processor_id)
    await till.news()
    payer = till.ledger.payments.payer(till.payer.id)
    assert payer is not None
    assert payer.recharges
    assert (payer.card, payer.threshold, payer.amount, payer.month_cap) == (
        "visa 4242",
        Money.parse(5),
        Money.parse(20),
        Money.parse(100),
    )
