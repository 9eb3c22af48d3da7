"""All orders and repetitions of what happens to a payment, with crashes between any two steps, end in one balance."""

import random
from itertools import permutations
from pathlib import Path

import pytest

from payre_mcp.billing.office import Terms
from payre_mcp.money import Money
from tests.billing.any_order import Life, Payday
from tests.billing.till import open_till

pytestmark = pytest.mark.anyio

AT_ONE_TILL = 25
SEEDS, QUICK_LIVES, LIVES = 4, 8, 2_000
PAYDAYS, QUICK_PAYDAYS = 500, 4


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_whatever_happens_in_whatever_order_ends_in_one_balance(tmp_path: Path, faults: bool, seed: int) -> None:
    dice = random.Random(seed)
    left = LIVES if faults else QUICK_LIVES
    while left:
        async with open_till(f"sqlite:///{tmp_path / str(left)}.db") as till:
            lives = min(AT_ONE_TILL, left)
            left -= lives
            for _ in range(lives):
                life = Life(till, dice)
                await life.live(dice.randint(4, 14))
                assert life.payer.account().balance_micros == life.due(), life.history
            till.restart()
            await till.sound()


@pytest.mark.parametrize("won", [True, False])
async def test_every_order_of_the_news_of_one_payment_ends_in_one_balance(tmp_path: Path, won: bool) -> None:
    kinds = ("checkout.session.completed", "refund.created", "charge.dispute.created", "charge.dispute.closed")
    async with open_till(f"sqlite:///{tmp_path / 'payre.db'}") as till:
        for order in permutations(kinds):
            life = Life(till, random.Random(0))
            await life.bought()
            till.stripe.refund_in_dashboard(life.intent, 300)
            life.dispute = till.stripe.open_dispute(life.intent, amount=700)
            till.stripe.close_dispute(life.dispute, won=won)
            news = {each["type"]: each for each in life.news()}
            for kind in order:
                for _ in range(2):
                    await life.told(news[kind])
                    await till.billing.inbox.work()
            assert life.payer.account().balance_micros == (7_000_000 if won else 0) == life.due(), order
        await till.sound()


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_whatever_happens_to_a_payout_the_bank_and_the_earnings_agree(tmp_path: Path, faults: bool, seed: int) -> None:
    dice = random.Random(seed)
    left = PAYDAYS if faults else QUICK_PAYDAYS
    while left:
        terms = Terms(smallest_payout=Money.parse(1), payout_days=0)
        async with open_till(f"sqlite:///{tmp_path / str(left)}.db", terms=terms) as till:
            for _ in range(8):
                await till.top_up(Money.parse(500))
            till.clock.advance(30 * 24 * 3600)
            days = min(8, left)
            left -= days
            for _ in range(days):
                payday = Payday(till, dice)
                await payday.begin()
                await payday.live(dice.randint(3, 10))
                booked, moved = payday.books()
                assert booked == moved, payday.history
            till.restart()
            await till.sound()
