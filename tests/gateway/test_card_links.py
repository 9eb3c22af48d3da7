"""Links of top-ups that are paid by card: which is shown again to who is refused, and until when its amount may change."""

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection
from payre_mcp.errors import InsufficientBalance, InvalidRequest, NotFound
from payre_mcp.gateway.base import TopUpView
from payre_mcp.gateway.top_ups import TIME_TO_PAY_US, TOP_UP_LIFE_US
from payre_mcp.ids import parse_id
from payre_mcp.money import ZERO, Money
from payre_mcp.payments import Payment, PaymentKind, PaymentState
from tests.fakes import Funded

pytestmark = pytest.mark.anyio

PAGE = "https://pay.example/top-ups"
TEN, TWENTY = Money.parse(10), Money.parse(20)


@pytest.fixture
def paid_by_card(connection: Connection) -> Connection:
    """A ledger whose links have pages."""
    connection.top_ups.page = PAGE
    return connection


def token_of(view: TopUpView) -> str:
    assert view.url is not None
    return view.url.rpartition("/")[2]


async def advised(connection: Connection, consumer: Funded) -> str:
    """The link in a refusal."""
    error = InsufficientBalance(price_micros=1, balance_micros=0, shortfall_micros=1, top_up_url=None)
    await connection.top_ups.advise(error, consumer.id)
    assert error.top_up_url is not None
    return error.top_up_url


def begin(connection: Connection, consumer: Funded, top_up_id: int, state: PaymentState) -> None:
    """Somebody has gone to pay it, and this became of it."""
    connection.ledger.payments.add(
        Payment(
            top_up_id, PaymentKind.TOP_UP, state, consumer.id, consumer.record.part, 0, Money.parse(5), ZERO,
            f"cs_{top_up_id}", "", "", "", 0, 0,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "again"),
    [
        (PaymentState.OPEN, True),
        (PaymentState.PROCESSING, True),
        (PaymentState.FAILED, False),
        (PaymentState.EXPIRED, False),
    ],
)
async def test_a_link_is_shown_again_while_it_can_lead_to_money(
    paid_by_card: Connection, consumer: Funded, state: PaymentState, again: bool
) -> None:
    link = await advised(paid_by_card, consumer)
    request = paid_by_card.ledger.directory.find_top_up(token=link.rpartition("/")[2])
    assert request is not None
    begin(paid_by_card, consumer, request.id, state)
    assert (await advised(paid_by_card, consumer) == link) is again


async def test_a_link_without_time_to_pay_is_not_shown_again(
    paid_by_card: Connection, consumer: Funded, clock: ManualClock
) -> None:
    link = await advised(paid_by_card, consumer)
    clock.advance((TOP_UP_LIFE_US - TIME_TO_PAY_US) / 1_000_000 - 1)
    assert await advised(paid_by_card, consumer) == link
    clock.advance(1)
    assert await advised(paid_by_card, consumer) != link


async def test_the_amount_of_a_link_changes_until_somebody_goes_to_pay_it(paid_by_card: Connection, consumer: Funded) -> None:
    top_ups = paid_by_card.top_ups
    view = await top_ups.create(consumer.id, TEN)
    assert await top_ups.change_amount(token_of(view), TWENTY)
    assert (await top_ups.get(consumer.id, view.id)).amount == TWENTY
    begin(paid_by_card, consumer, parse_id("top", view.id), PaymentState.CREATED)
    assert not paid_by_card.ledger.directory.set_top_up_amount(parse_id("top", view.id), TEN)
    assert not await top_ups.change_amount(token_of(view), TEN)
    assert (await top_ups.get(consumer.id, view.id)).amount == Money.parse(5), "what is being paid"


async def test_a_link_that_is_paid_expired_or_nobodys_keeps_its_amount(
    paid_by_card: Connection, consumer: Funded, clock: ManualClock
) -> None:
    top_ups = paid_by_card.top_ups
    paid, old = await top_ups.create(consumer.id, TEN), await top_ups.create(consumer.id, TEN)
    await top_ups.pay_test_top_up(token_of(paid))
    assert not await top_ups.change_amount(token_of(paid), TWENTY)
    clock.advance(TOP_UP_LIFE_US / 1_000_000)
    assert not await top_ups.change_amount(token_of(old), TWENTY)
    assert {each.amount for each in await top_ups.list(consumer.id, before=0, limit=9)} == {TEN}
    with pytest.raises(NotFound):
        await top_ups.change_amount("nonsense", TWENTY)
    with pytest.raises(InvalidRequest):
        await top_ups.change_amount(token_of(paid), Money.parse(1))
    assert not paid_by_card.ledger.directory.set_top_up_amount(1, TEN)
