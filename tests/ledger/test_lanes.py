"""Several writers side by side do what one does: for those who submit, whose calls run on, who leave."""

from collections.abc import Iterator

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.ledger.lanes import Lanes
from payre_mcp.ledger.model import Extend, born
from payre_mcp.ledger.writer import HOLD_LIFE_US, Writer
from payre_mcp.storage.server import ServerLedger, open_server
from tests.fakes import RING, Funded, Inbox, ScriptedStore, done, fund, journal_of, open_holds_of
from tests.ledger.desk import Desk

LANES = 3


@pytest.fixture
def ledger(database: str, clock: ManualClock) -> Iterator[ServerLedger]:
    ledger = open_server(database, clock, ring=RING, lanes=LANES)
    yield ledger
    ledger.close()


@pytest.fixture
def payers(ledger: ServerLedger) -> list[Funded]:
    """Consumers of whom every lane has one."""
    assert isinstance(ledger.writer, Lanes)
    found: list[Funded] = []
    while {each.record.part % LANES for each in found} != set(range(LANES)):
        found.append(fund(ledger, 1_000))
    return found


def test_each_lane_answers_the_tickets_of_its_parts(ledger: ServerLedger, payers: list[Funded]) -> None:
    inbox = Inbox()
    tickets = [inbox.ticket() for _ in payers]
    for payer, ticket in zip(payers, tickets, strict=True):
        ledger.writer.submit(payer.charge(7), ticket)
    assert [done(answer).transfer.consumer_id for answer in inbox.answers(tickets)] == [payer.id for payer in payers]


def test_a_hold_whose_call_runs_is_extended_in_its_lane_until_it_is_let_go(
    ledger: ServerLedger, payers: list[Funded], clock: ManualClock
) -> None:
    holds = [ledger.writer.ask(payer.hold(10)).transfer for payer in payers]
    for hold in holds:
        ledger.writer.keep_alive(born(hold))
    for _ in range(3):
        clock.advance(600)
        assert ledger.writer.sweep() == 0
    assert {hold.expires_at > clock.now_us() for hold in open_holds_of(ledger).values()} == {True}
    for hold in holds:
        ledger.writer.let_go(hold.id)
    clock.advance(HOLD_LIFE_US / 1_000_000 + 1)
    assert ledger.writer.sweep() == len(holds)


def test_a_hold_is_given_back_whichever_lane_it_came_from(ledger: ServerLedger, payers: list[Funded]) -> None:
    for payer in payers:
        ledger.writer.give_back(ledger.writer.ask(payer.hold(10)))
        ledger.writer.sweep()
    assert open_holds_of(ledger) == {}
    assert len(journal_of(ledger)) == 3 * len(payers)


def test_a_hold_that_was_taken_up_again_by_a_caller_who_left_is_given_back(desk: Desk) -> None:
    hold = born(desk.writer.ask(desk.payer.hold(10)).transfer)
    (taken,) = desk.answers(Extend(hold.part, hold.id, hold.consumer_id, 0, since=hold.expires_at))
    desk.writer.give_back(taken)
    desk.writer.sweep()
    assert open_holds_of(desk.ledger) == {}


def test_a_writer_of_one_part_at_a_time_makes_a_transaction_of_each_part_of_a_batch(desk: Desk) -> None:
    store = ScriptedStore(desk.new_store())
    writer = Writer(store, desk.clock, desk.ledger.ids, one_part=True, sweep_every_s=3600)
    payers = [fund(desk.ledger, 1_000, writer=writer) for _ in range(6)]
    parts = {each.record.part for each in payers}
    store.committed.clear()
    answers = desk._replace(store=store, writer=writer).behind(*(each.charge(7) for each in payers for _ in range(2)))
    assert [done(answer).transfer.consumer_id for answer in answers] == [each.id for each in payers for _ in range(2)]
    batch = store.committed[1:]
    assert [len({row.part for row in decision.transfers}) for decision in batch] == [1] * len(parts)
    assert writer.sweep() == 0
    writer.close()
    assert desk.is_clean()
