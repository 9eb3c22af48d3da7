"""Payouts: what has matured goes to the developer's bank, once, and what fails is in the earnings again."""

import anyio
import pytest

from payre_mcp.billing.office import Terms
from payre_mcp.errors import PayoutNotReady, ProcessorError
from payre_mcp.ledger.model import Refund
from payre_mcp.money import Money
from payre_mcp.payments import PaymentKind, PaymentState
from tests.billing.till import Till, developer_of, open_till
from tests.both_databases import ledger_url

__all__ = ["ledger_url"]

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600
HUNDRED = Money.parse(100)


async def connected(till: Till) -> str:
    """The developer connects a bank; answers the account."""
    developer_id = developer_of(till)
    await till.billing.payouts.onboard(
        developer_id,
        email="dev@example.com",
        country="US",
        return_url="http://hub.test/done",
        refresh_url="http://hub.test/again",
    )
    payee = till.ledger.payments.payee(developer_id)
    assert payee is not None
    till.stripe.finish_onboarding(payee.account_id)
    await till.news()
    return payee.account_id


async def sold(till: Till, dollars: str = "30.005") -> None:
    """A consumer who topped up a month ago buys something."""
    await till.top_up(HUNDRED)
    till.clock.advance(30 * DAY_S)
    till.ledger.writer.ask(till.payer.charge(Money.parse(dollars).micros))


async def ready(till: Till) -> str:
    account = await connected(till)
    await sold(till)
    till.clock.advance(8 * DAY_S)
    return account


def earned(till: Till) -> Money:
    return Money(till.ledger.audit().earned_micros)


async def test_matured_earnings_reach_the_bank_in_whole_cents_and_the_rest_stays(till: Till) -> None:
    account = await ready(till)
    payment = await till.billing.payouts.pay(developer_of(till))
    assert (payment.state, payment.amount) == (PaymentState.SUCCEEDED, Money.parse("29.10"))
    assert till.stripe.paid_out(account) == 2910
    assert earned(till) == Money(4_850)
    with pytest.raises(PayoutNotReady, match="at least"):
        await till.billing.payouts.pay(developer_of(till))
    await till.news()
    await till.sound()


async def test_earnings_wait_until_they_are_mature(till: Till) -> None:
    await connected(till)
    await sold(till)
    till.clock.advance(6 * DAY_S)
    assert await till.billing.payouts.due(developer_of(till)) == Money(0)
    till.clock.advance(DAY_S + 60)
    assert await till.billing.payouts.due(developer_of(till)) == Money.parse("29.10")


async def test_earnings_from_a_first_time_payer_wait_longer(till: Till) -> None:
    await connected(till)
    await till.top_up(HUNDRED)
    till.ledger.writer.ask(till.payer.charge(Money.parse(30).micros))
    till.clock.advance(8 * DAY_S)
    assert await till.billing.payouts.due(developer_of(till)) == Money(0)
    till.clock.advance(7 * DAY_S)
    assert await till.billing.payouts.due(developer_of(till)) == Money.parse("29.10")


async def test_a_bank_that_is_not_connected_and_too_little_are_said(till: Till) -> None:
    with pytest.raises(PayoutNotReady, match="not connected"):
        await till.billing.payouts.pay(developer_of(till))
    await connected(till)
    with pytest.raises(PayoutNotReady, match=r"\$10\.00 at least"):
        await till.billing.payouts.pay(developer_of(till))


async def test_a_restricted_account_is_not_paid(till: Till) -> None:
    account = await ready(till)
    till.stripe.finish_onboarding(account, status="restricted")
    await till.news()
    assert await till.billing.payouts.run_all() == []
    assert till.stripe.paid_out(account) == 0


@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_answer_pays_once(till: Till, done: bool) -> None:
    account = await ready(till)
    till.lose("/v1/transfers", done=done)
    payment = await till.billing.payouts.pay(developer_of(till))
    assert payment.state == PaymentState.OPEN
    assert earned(till) == Money(4_850)
    till.restart()
    till.clock.advance(300)
    await till.billing.reconciler.run()
    assert till.stripe.paid_out(account) == 2910
    assert till.payments(PaymentKind.PAYOUT, owner_id=developer_of(till))[0].state == PaymentState.SUCCEEDED
    await till.sound()


async def test_several_runs_at_once_pay_once(till: Till) -> None:
    account = await ready(till)
    async with anyio.create_task_group() as runs:
        for _ in range(4):
            runs.start_soon(till.restart().payouts.run_all)
    till.clock.advance(300)
    await till.billing.reconciler.run()
    assert till.stripe.paid_out(account) == 2910
    assert earned(till) == Money(4_850)
    await till.sound()


async def test_a_payout_waits_for_the_platforms_money(ledger_url: str) -> None:
    async with open_till(ledger_url) as till:
        account = await connected(till)
        await till.connection.top_ups.credit_test_money(till.payer.id, HUNDRED)
        till.clock.advance(30 * DAY_S)
        till.ledger.writer.ask(till.payer.charge(Money.parse("30.005").micros))
        till.clock.advance(8 * DAY_S)
        payment = await till.billing.payouts.pay(developer_of(till))
        assert (payment.state, till.stripe.paid_out(account)) == (PaymentState.OPEN, 0)
        assert "waits" in payment.problem
        await till.top_up(HUNDRED)
        payment = await till.billing.payouts.pay(developer_of(till))
        assert (payment.state, till.stripe.paid_out(account)) == (PaymentState.SUCCEEDED, 2910)


async def test_a_transfer_that_is_reversed_is_in_the_earnings_again(till: Till) -> None:
    account = await ready(till)
    payment = await till.billing.payouts.pay(developer_of(till))
    till.stripe.reverse_transfer(payment.processor_id, 1000)
    await till.news()
    assert earned(till) == Money.parse("10.004850")
    till.stripe.reverse_transfer(payment.processor_id)
    till.stripe.chaos.duplicate = True
    await till.news()
    assert earned(till) == Money.parse("29.104850")
    assert till.stripe.paid_out(account) == 0
    assert till.payments(PaymentKind.PAYOUT, owner_id=developer_of(till))[0].state == PaymentState.REVERSED
    await till.sound()


async def test_a_transfer_that_stripe_refuses_is_in_the_earnings_again(till: Till) -> None:
    await ready(till)
    till.stripe.chaos.api(400, path="/v1/transfers", method="POST")
    payment = await till.billing.payouts.pay(developer_of(till))
    assert payment.state == PaymentState.FAILED
    assert earned(till) == Money.parse("29.104850")
    await till.sound()


async def test_the_scheduled_run_pays_everybody_once_a_week(till: Till) -> None:
    account = await ready(till)
    await till.billing.work()
    assert till.stripe.paid_out(account) == 2910
    till.ledger.writer.ask(till.payer.charge(Money.parse(20).micros))
    till.clock.advance(7 * DAY_S - 3600)
    await till.billing.work()
    assert till.stripe.paid_out(account) == 2910
    till.clock.advance(2 * DAY_S)
    await till.billing.work()
    assert till.stripe.paid_out(account) == 2910 + 1940
    await till.sound()


async def test_refunds_after_a_payout_are_owed_and_taken_off_the_next(ledger_url: str) -> None:
    async with open_till(ledger_url, terms=Terms(smallest_payout=Money(0))) as till:
        await ready(till)
        await till.billing.payouts.pay(developer_of(till))
        charge = till.ledger.journal.charges(till.payer.record.part, till.payer.id, before=0, limit=1)[0]
        till.ledger.writer.ask(
            Refund(till.ledger.ids.new(), charge.part, charge.id, till.payer.id, charge.developer_id, Money.parse(10).micros, "r")
        )
        assert earned(till) < Money(0)
        assert await till.billing.payouts.due(developer_of(till)) == Money(0)
        with pytest.raises(PayoutNotReady):
            await till.billing.payouts.pay(developer_of(till))


async def test_onboarding_again_leads_to_the_same_account(till: Till) -> None:
    account = await connected(till)
    assert await connected(till) == account
    till.stripe.chaos.api("before", times=3, path="/v2/core/account_links")
    with pytest.raises(ProcessorError):
        await connected(till)
