"""Spending limits and free credit as a seller's gateway meets them: who may call, what is charged, what a receipt says."""

from collections.abc import Callable, Iterator

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection, open_ledger
from payre_mcp.directory import SpendingLimits
from payre_mcp.errors import InsufficientBalance, SpendLimit
from payre_mcp.gateway.base import Authorization, CallOutcome, CallRequest, Settlement
from payre_mcp.ledger.model import Kind
from payre_mcp.money import ZERO, Money
from payre_mcp.pricing import Target, load_price
from payre_mcp.receipts import verify_receipt
from tests.fakes import RING, Funded, audited, fund, journal_of

pytestmark = pytest.mark.anyio

FORECAST = Target("tool", "forecast")
CENT = load_price("0.01")
Open = Callable[[Money], Connection]


@pytest.fixture
def opened(ledger_url: str, clock: ManualClock) -> Iterator[Open]:
    """Opens the same ledger with this much free credit, as an operator who changed their mind would."""
    connections: list[Connection] = []

    def opening(free_credit: Money) -> Connection:
        connections.append(open_ledger(ledger_url, clock=clock, ring=RING, free_credit=free_credit))
        return connections[-1]

    yield opening
    for connection in connections:
        connection.close()


def request(payer: Funded, server: str = "weather") -> CallRequest:
    return CallRequest(
        api_key=payer.key.text, server=server, target=FORECAST, price_version=CENT.version, args_sha256="", variant=""
    )


async def charged(connection: Connection, payer: Funded, server: str = "weather") -> Settlement:
    held = await connection.gateway.authorize(request(payer, server))
    assert isinstance(held, Authorization)
    return await connection.gateway.capture(held, CallOutcome(result_sha256=""))


async def test_a_limited_key_is_refused_at_its_limit_and_told_when_it_starts_anew(connection: Connection) -> None:
    payer = fund(connection.ledger, 1_000_000)
    connection.ledger.directory.set_limits(payer.record.id, SpendingLimits(day=Money(25_000)))
    await connection.gateway.publish("weather", {FORECAST: CENT})
    await charged(connection, payer)
    assert isinstance(await connection.gateway.charge(request(payer)), Settlement)
    with pytest.raises(SpendLimit) as refused:
        await connection.gateway.authorize(request(payer))
    assert (refused.value.left_micros, refused.value.window) == (5_000, "day")
    assert refused.value.resets_at is not None
    assert payer.account().balance_micros == 980_000


async def test_without_a_setting_nobody_has_free_credit(opened: Open) -> None:
    connection = opened(ZERO)
    payer = fund(connection.ledger, 0)
    await connection.gateway.publish("weather", {FORECAST: CENT})
    assert not await connection.gateway.can_pay(payer.key.text, "weather")
    with pytest.raises(InsufficientBalance):
        await connection.gateway.authorize(request(payer))
    funded = fund(connection.ledger, 10_000, name="bob")
    receipt = verify_receipt((await charged(connection, funded)).receipt, RING)
    assert "credit_micros" not in receipt.claims()
    assert {row.server_id for row in journal_of(connection.ledger)} == {0}


async def test_free_credit_pays_first_at_each_server_and_the_receipt_says_how_much(opened: Open, clock: ManualClock) -> None:
    connection = opened(Money(15_000))
    payer = fund(connection.ledger, 20_000)
    for server in ("weather", "bakery"):
        await connection.gateway.publish(server, {FORECAST: CENT})
    receipts = [verify_receipt((await charged(connection, payer)).receipt, RING) for _ in range(3)]
    assert [(each.credit_micros, each.fee_micros) for each in receipts] == [(10_000, 0), (5_000, 150), (None, 300)]
    by_hand = await connection.gateway.charge(request(payer, "bakery"))
    assert isinstance(by_hand, Settlement)
    assert verify_receipt(by_hand.receipt, RING).credit_micros == 10_000
    assert payer.account().balance_micros == 5_000
    assert [row.kind for row in journal_of(connection.ledger)].count(Kind.GRANT) == 2
    assert audited(connection.ledger, clock.now_us()).violations == []


async def test_a_key_can_pay_while_there_is_money_or_credit_of_this_server(opened: Open) -> None:
    connection = opened(Money(10_000))
    payer = fund(connection.ledger, 0)
    assert not await connection.gateway.can_pay(payer.key.text, "nowhere")
    await connection.gateway.publish("weather", {FORECAST: CENT})
    assert await connection.gateway.can_pay(payer.key.text, "weather")
    await charged(connection, payer)
    assert not await connection.gateway.can_pay(payer.key.text, "weather")
    assert await connection.gateway.can_pay(fund(connection.ledger, 1, name="bob").key.text, "weather")


async def test_credit_that_was_granted_is_good_after_the_operator_grants_no_more(opened: Open, clock: ManualClock) -> None:
    first = opened(Money(15_000))
    payer, other = fund(first.ledger, 0), fund(first.ledger, 0, name="bob")
    await first.gateway.publish("weather", {FORECAST: CENT})
    await charged(first, payer)
    later = opened(ZERO)
    await later.gateway.publish("weather", {FORECAST: CENT})
    assert await later.gateway.can_pay(payer.key.text, "weather")
    assert not await later.gateway.can_pay(other.key.text, "weather")
    with pytest.raises(InsufficientBalance) as refused:
        await later.gateway.authorize(request(payer))
    assert (refused.value.balance_micros, refused.value.shortfall_micros) == (5_000, 5_000)
    with pytest.raises(InsufficientBalance):
        await later.gateway.authorize(request(other))
    assert audited(later.ledger, clock.now_us()).violations == []
