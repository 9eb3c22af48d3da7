"""Recharges: a saved card is charged when too little is left."""

import pytest

from payre_mcp.billing.checkouts import RechargeWish
from payre_mcp.billing.office import Terms
from payre_mcp.ids import parse_id
from payre_mcp.money import Money
from payre_mcp.payments import MOST_FAILURES, Payer, PaymentKind, PaymentState
from tests.billing.till import PAGE, TEN, Till

pytestmark = pytest.mark.anyio

FIVE, TWENTY = Money.parse(5), Money.parse(20)
WISH = RechargeWish(FIVE, TWENTY, Money.parse(50))
COOLED_DOWN_S = Terms().recharge_cooldown_s + 1


async def with_card(till: Till, card: str = "pm_card_visa", wish: RechargeWish = WISH) -> None:
    """A top-up of ten dollars whose card is kept."""
    top_up = await till.connection.top_ups.create(till.payer.id, TEN)
    request = till.ledger.directory.find_top_up(top_up_id=parse_id("top", top_up.id))
    assert request is not None
    await till.billing.checkouts.open(request, page_url=PAGE, wish=wish)
    till.stripe.pay(till.payments(PaymentKind.TOP_UP)[0].processor_id, card)
    await till.news()


def spend(till: Till, dollars: str) -> None:
    """A call costs this much."""
    till.ledger.writer.ask(till.payer.charge(Money.parse(dollars).micros))


def payer_of(till: Till) -> Payer:
    payer = till.ledger.payments.payer(till.payer.id)
    assert payer is not None
    return payer


async def test_a_balance_below_its_threshold_is_recharged_once(till: Till) -> None:
    await with_card(till)
    assert await till.billing.recharges.run_due() == 0
    spend(till, "6")
    assert await till.billing.recharges.run_due() == 1
    assert till.balance() == Money.parse(24)
    await till.news()
    await till.billing.recharges.run_due()
    assert till.balance() == Money.parse(24)
    await till.sound()


async def test_another_recharge_waits_for_the_cooldown_and_the_months_cap(till: Till) -> None:
    await with_card(till)
    for dollars in ("6", "20", "20"):
        spend(till, dollars)
        await till.billing.recharges.run_due()
        assert await till.billing.recharges.run_due() == 0
        till.clock.advance(COOLED_DOWN_S)
    assert len(till.payments(PaymentKind.RECHARGE)) == 2
    assert till.balance() == Money.parse(4)
    till.clock.advance(31 * 24 * 3600)
    assert await till.billing.recharges.run_due() == 1
    await till.sound()


@pytest.mark.parametrize("card", ["pm_card_authenticationRequired", "pm_card_chargeCustomerFail"])
async def test_three_declines_turn_recharges_off(till: Till, card: str) -> None:
    await with_card(till, card)
    spend(till, "6")
    for tries in range(1, MOST_FAILURES + 1):
        await till.billing.recharges.run_due()
        await till.news()
        assert payer_of(till).failures == tries
        till.clock.advance(COOLED_DOWN_S)
    assert not payer_of(till).recharges
    assert await till.billing.recharges.run_due() == 0
    assert {each.state for each in till.payments(PaymentKind.RECHARGE)} == {PaymentState.FAILED}
    assert till.balance() == Money.parse(4)
    await till.sound()


@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_answer_charges_the_card_once(till: Till, done: bool) -> None:
    await with_card(till)
    spend(till, "6")
    till.lose("/v1/payment_intents", done=done)
    await till.billing.recharges.run_due()
    assert till.payments(PaymentKind.RECHARGE)[0].state == PaymentState.CREATED
    assert await till.billing.recharges.run_due() == 0, "one is under way"
    till.restart()
    till.clock.advance(300)
    await till.billing.reconciler.run()
    assert till.payments(PaymentKind.RECHARGE)[0].state == PaymentState.SUCCEEDED
    assert till.balance() == Money.parse(24)
    await till.sound()


@pytest.mark.parametrize("done", [True, False])
async def test_after_a_day_a_lost_recharge_is_looked_up_and_never_made_again(till: Till, done: bool) -> None:
    await with_card(till)
    spend(till, "6")
    till.stripe.chaos.drop = True
    till.lose("/v1/payment_intents", done=done)
    await till.billing.recharges.run_due()
    till.clock.advance(24 * 3600)
    (payment,) = till.payments(PaymentKind.RECHARGE)
    await till.billing.recharges.retry(payment)
    (payment,) = till.payments(PaymentKind.RECHARGE)
    assert payment.state == (PaymentState.SUCCEEDED if done else PaymentState.FAILED)
    assert till.balance() == Money.parse(24 if done else 4)
    await till.sound()


async def test_whoever_turns_it_off_has_their_card_forgotten(till: Till) -> None:
    await with_card(till)
    await till.billing.recharges.turn_off(till.payer.id)
    assert (payer_of(till).method_id, payer_of(till).recharges) == ("", False)
    await till.news()
    spend(till, "6")
    assert await till.billing.recharges.run_due() == 0


async def test_a_card_that_was_taken_away_at_stripe_is_not_charged(till: Till) -> None:
    await with_card(till)
    await till.processor.forget_card(payer_of(till).method_id)
    await till.news()
    assert payer_of(till).method_id == ""
