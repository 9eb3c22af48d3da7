"""Disputes: the money leaves the balance, even below zero, and comes back when they are won."""

import pytest

from payre_mcp.billing.office import Terms
from payre_mcp.errors import InsufficientBalance
from payre_mcp.money import ZERO, Money
from payre_mcp.payments import PaymentKind, PaymentState
from tests.billing.till import TEN, Till, open_till

pytestmark = pytest.mark.anyio


def spend(till: Till, dollars: str) -> None:
    till.ledger.writer.ask(till.payer.charge(Money.parse(dollars).micros))


def earned(till: Till) -> int:
    return till.ledger.audit().earned_micros


@pytest.mark.parametrize("won", [True, False])
async def test_what_is_disputed_leaves_and_comes_back_when_it_is_won(till: Till, won: bool) -> None:
    payment = await till.top_up()
    dispute = till.stripe.open_dispute(payment.card_payment)
    await till.news()
    assert till.balance() == ZERO
    assert till.payments(PaymentKind.DISPUTE)[0].state == PaymentState.OPEN
    till.stripe.close_dispute(dispute, won=won)
    till.stripe.chaos.duplicate = True
    await till.news()
    assert till.balance() == (TEN if won else ZERO)
    assert till.payments(PaymentKind.DISPUTE)[0].state == (PaymentState.REVERSED if won else PaymentState.SUCCEEDED)
    await till.sound()


async def test_spent_money_that_is_disputed_leaves_a_debt_and_calls_are_refused_until_it_is_paid(till: Till) -> None:
    payment = await till.top_up()
    spend(till, "6")
    till.stripe.open_dispute(payment.card_payment)
    await till.news()
    assert till.balance() == Money(-6_000_000)
    with pytest.raises(InsufficientBalance):
        spend(till, "0.01")
    await till.top_up()
    assert till.balance() == Money.parse(4)
    spend(till, "0.01")
    await till.sound()


async def test_an_inquiry_takes_nothing(till: Till) -> None:
    payment = await till.top_up()
    till.stripe.open_dispute(payment.card_payment, inquiry=True)
    await till.news()
    assert till.balance() == TEN
    await till.sound()


async def test_a_dispute_of_a_part_takes_that_part(till: Till) -> None:
    payment = await till.top_up()
    till.stripe.open_dispute(payment.card_payment, amount=250)
    await till.news()
    assert till.balance() == Money.parse("7.50")
    await till.sound()


@pytest.mark.parametrize("clawback", ["platform", "developers"])
async def test_who_bears_a_loss_is_what_the_operator_set(ledger_url: str, clawback: str) -> None:
    async with open_till(ledger_url, terms=Terms(clawback=clawback)) as till:  # pyright: ignore[reportArgumentType]
        payment = await till.top_up()
        spend(till, "2")
        till.clock.advance(8 * 24 * 3600)
        spend(till, "3")
        till.clock.advance(60)
        spend(till, "1")
        dispute = till.stripe.open_dispute(payment.card_payment)
        await till.news()
        till.stripe.close_dispute(dispute, won=False)
        await till.news()
        await till.billing.disputes.apply(dispute)
        by_developers = clawback == "developers"
        assert till.balance() == Money(-2_000_000 if by_developers else -6_000_000)
        assert earned(till) == (1_940_000 if by_developers else 5_820_000), "only what is not mature is taken back"
        await till.sound()


@pytest.mark.parametrize("won", [True, False])
async def test_the_balance_gives_back_no_more_than_it_had_got(ledger_url: str, won: bool) -> None:
    async with open_till(ledger_url, terms=Terms(top_up_fee=Money.parse("0.59"))) as till:
        payment = await till.top_up()
        await till.billing.refunds.request(till.payer.id, Money.parse(4))
        dispute = till.stripe.open_dispute(payment.card_payment, amount=659)
        await till.news()
        assert till.balance() == ZERO
        till.clock.advance(3600)
        assert (await till.billing.comparison.run()).differences == []
        till.stripe.close_dispute(dispute, won=won)
        await till.news()
        assert till.balance() == Money.parse(6 if won else 0)
        await till.sound()


async def test_refunds_at_the_dashboard_take_no_more_than_the_balance_had_got(ledger_url: str) -> None:
    async with open_till(ledger_url, terms=Terms(top_up_fee=Money.parse("0.59"))) as till:
        payment = await till.top_up()
        for cents in (600, 459):
            till.stripe.refund_in_dashboard(payment.card_payment, cents)
            await till.news()
        assert till.balance() == ZERO
        await till.sound()
