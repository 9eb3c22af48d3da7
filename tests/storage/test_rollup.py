"""Takings summed up: the same answer before, after and in between, on both databases."""

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection
from payre_mcp.gateway.statement import origin_of
from payre_mcp.ledger.model import Refund, Takings
from payre_mcp.storage.rollup import AGE_US
from tests.both_databases import ledger_url
from tests.fakes import Funded, fund

__all__ = ["ledger_url"]

DETAIL = '{"server":"shop","kind":"tool","quantities":{"requests":1},"args_sha256":""}'
OLD = AGE_US / 1_000_000 + 1


@pytest.fixture
def payers(connection: Connection) -> list[Funded]:
    return [fund(connection.ledger, 100_000) for _ in range(6)]


def sell(payer: Funded, micros: int, tool: str = "forecast") -> int:
    """A charge with a receipt of the server `shop`; its id."""
    charge = payer.charge(micros, tool=tool)._replace(detail=DETAIL)
    return payer.ledger.writer.ask(charge).transfer.id


def give_back(payer: Funded, charge_id: int, micros: int) -> None:
    ledger = payer.ledger
    command = Refund(ledger.ids.new(), payer.record.part, charge_id, payer.id, payer.developer_id, micros, f"back {charge_id}")
    ledger.writer.ask(command)


def takings(connection: Connection, payer: Funded) -> list[Takings]:
    return connection.ledger.journal.takings(payer.developer_id, origin=origin_of("shop"), since=0)


def test_what_was_summed_up_and_what_is_new_add_up_to_the_same(
    connection: Connection, payers: list[Funded], clock: ManualClock
) -> None:
    ledger = connection.ledger
    first = [sell(payer, 1_000) for payer in payers]
    sell(payers[0], 500, "alerts")
    give_back(payers[0], first[0], 400)
    before = takings(connection, payers[0])
    assert [(each.kind, each.tool, each.charges, each.gross_micros, each.refunded_micros) for each in before] == [
        ("t", "alerts", 1, 500, 0),
        ("t", "forecast", 6, 6_000, 400),
    ]
    assert ledger.roll_up() == 0, "nothing is old enough"
    clock.advance(OLD)
    assert ledger.roll_up() == 8
    assert takings(connection, payers[0]) == before
    assert ledger.roll_up() == 0, "each row once"
    sell(payers[1], 70)
    give_back(payers[1], first[1], 1_000)
    new = takings(connection, payers[0])[1]
    assert (new.charges, new.gross_micros, new.refunded_micros) == (7, 6_070, 1_400)
    clock.advance(OLD)
    ledger.roll_up()
    assert takings(connection, payers[0])[1] == new


def test_takings_since_a_day_are_read_from_the_journal_alone(
    connection: Connection, payers: list[Funded], clock: ManualClock
) -> None:
    sell(payers[0], 1_000)
    clock.advance(OLD)
    connection.ledger.roll_up()
    late = sell(payers[0], 30)
    (today,) = connection.ledger.journal.takings(payers[0].developer_id, origin=origin_of("shop"), since=late)
    assert (today.charges, today.gross_micros) == (1, 30)
