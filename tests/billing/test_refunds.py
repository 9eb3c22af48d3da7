"""Unspent money back to the card that paid it."""

import pytest

from payre_mcp.errors import InvalidRequest
from payre_mcp.money import ZERO, Money
from payre_mcp.payments import PaymentKind, PaymentState
from tests.billing.till import TEN, Till

pytestmark = pytest.mark.anyio

FOUR = Money.parse(4)


def spend(till: Till, dollars: str) -> None:
    till.ledger.writer.ask(till.payer.charge(Money.parse(dollars).micros))


async def test_what_is_unspent_goes_back_and_no_more(till: Till) -> None:
    await till.top_up()
    spend(till, "5.999999")
    assert await till.billing.refunds.refundable(till.payer.id) == FOUR
    (payment,) = await till.billing.refunds.request(till.payer.id)
    assert (payment.amount, payment.state) == (FOUR, PaymentState.SUCCEEDED)
    assert till.balance() == Money(1)
    assert await till.billing.refunds.refundable(till.payer.id) == ZERO
    await till.news()
    await till.sound()


async def test_the_newest_top_up_gives_first_and_each_no_more_than_it_brought(till: Till) -> None:
    first = await till.top_up()
    till.clock.advance(60)
    second = await till.top_up()
    made = await till.billing.refunds.request(till.payer.id, Money.parse(14))
    assert [(each.parent_id, each.amount) for each in made] == [(second.id, TEN), (first.id, FOUR)]
    assert till.balance() == Money.parse(6)
    await till.sound()


@pytest.mark.parametrize("amount", ["10.01", "0.005", "0"])
async def test_a_refund_of_more_than_there_is_or_of_parts_of_cents_moves_nothing(till: Till, amount: str) -> None:
    await till.top_up()
    with pytest.raises(InvalidRequest, match=r"\$10\.00"):
        await till.billing.refunds.request(till.payer.id, Money.parse(amount))
    assert till.balance() == TEN


async def test_test_money_cannot_go_to_a_card(till: Till) -> None:
    await till.connection.top_ups.credit_test_money(till.payer.id, TEN)
    with pytest.raises(InvalidRequest):
        await till.billing.refunds.request(till.payer.id)


async def test_a_refund_that_the_card_refuses_is_in_the_balance_again(till: Till) -> None:
    await till.top_up()
    till.stripe.chaos.refunds_pending = True
    (payment,) = await till.billing.refunds.request(till.payer.id, FOUR)
    assert (payment.state, till.balance()) == (PaymentState.PROCESSING, Money.parse(6))
    till.stripe.settle_refund(payment.processor_id, succeeded=False)
    await till.news()
    (payment,) = till.payments(PaymentKind.REFUND)
    assert (payment.state, till.balance()) == (PaymentState.FAILED, TEN)
    assert await till.billing.refunds.refundable(till.payer.id) == TEN
    await till.sound()


async def test_a_refund_that_came_back_after_it_had_succeeded_is_in_the_balance_again(till: Till) -> None:
    await till.top_up()
    (payment,) = await till.billing.refunds.request(till.payer.id, FOUR)
    till.stripe.settle_refund(payment.processor_id, succeeded=False)
    await till.news()
    (payment,) = till.payments(PaymentKind.REFUND)
    assert (payment.state, till.balance()) == (PaymentState.REVERSED, TEN)
    await till.sound()


@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_answer_refunds_once(till: Till, done: bool) -> None:
    await till.top_up()
    till.lose("/v1/refunds", done=done)
    (payment,) = await till.billing.refunds.request(till.payer.id, FOUR)
    assert (payment.state, till.balance()) == (PaymentState.OPEN, Money.parse(6))
    till.restart()
    till.clock.advance(300)
    await till.billing.reconciler.run()
    (payment,) = till.payments(PaymentKind.REFUND)
    assert (payment.state, till.balance()) == (PaymentState.SUCCEEDED, Money.parse(6))
    await till.sound()


@pytest.mark.parametrize("done", [True, False])
async def test_after_a_day_a_lost_refund_is_looked_up_and_never_made_again(till: Till, done: bool) -> None:
    await till.top_up()
    till.stripe.chaos.drop = True
    till.lose("/v1/refunds", done=done)
    (payment,) = await till.billing.refunds.request(till.payer.id, FOUR)
    till.clock.advance(24 * 3600)
    await till.billing.refunds.retry(payment)
    assert till.balance() == Money.parse(6 if done else 10)
    await till.sound()


async def test_a_refund_at_the_dashboard_leaves_the_balance(till: Till) -> None:
    payment = await till.top_up()
    till.stripe.refund_in_dashboard(payment.card_payment, 400)
    await till.news()
    assert till.balance() == Money.parse(6)
    assert await till.billing.refunds.refundable(till.payer.id) == Money.parse(6)
    await till.sound()
