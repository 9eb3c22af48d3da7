"""Money that crosses the border on a real database: its rows, their double-entry lines, and that it is booked once."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import sqlalchemy.exc

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection, open_ledger
from payre_mcp.errors import InsufficientBalance
from payre_mcp.ledger.kernel import decide
from payre_mcp.ledger.lanes import LedgerWriter
from payre_mcp.ledger.model import ComeBack, Command, Done, Kind, Refund, Send, TopUp, Transfer
from payre_mcp.ledger.state import Answer, needs
from payre_mcp.ledger.writer import Writer
from payre_mcp.storage.ledger import OpenLedger
from payre_mcp.storage.postgres import PostgresStore
from payre_mcp.storage.server import ServerLedger, open_server
from tests.both_databases import ledger_url
from tests.fakes import (
    PARTS,
    PATIENCE_S,
    RING,
    Funded,
    Gate,
    Inbox,
    ScriptedStore,
    audited,
    code_of,
    done,
    fund,
    journal_of,
    snapshots,
)

__all__ = ["ledger_url"]

THREADS = 4


@pytest.fixture
def ledger(connection: Connection) -> OpenLedger:
    return connection.ledger


@pytest.fixture
def payer(ledger: OpenLedger) -> Funded:
    """A consumer with 1,000 micros."""
    return fund(ledger, 1_000)


@pytest.fixture
def server(database: str, clock: ManualClock) -> Iterator[ServerLedger]:
    """A ledger on PostgreSQL with three lanes."""
    ledger = open_server(database, clock, ring=RING, lanes=3)
    yield ledger
    ledger.close()


def send(payer: Funded, kind: Kind, micros: int, *, key: str = "out") -> Send:
    """Of a payer; a payout is of their developer, from what they earned in the payer's part."""
    consumer, developer = (0, payer.developer_id) if kind == Kind.PAYOUT else (payer.id, 0)
    return Send(payer.ledger.ids.new(), payer.record.part, kind, consumer, developer, micros, key)


def payout(ledger: OpenLedger, part: int, micros: int, *, key: str = "out") -> Send:
    return Send(ledger.ids.new(), part, Kind.PAYOUT, 0, ledger.directory.sole_developer().id, micros, key)


def come_back(ledger: OpenLedger, total: int, *, of: Send) -> ComeBack:
    return ComeBack(ledger.ids.new(), of.part, of.consumer_id, of.developer_id, total, of.key)


def refund(payer: Funded, charge: Transfer, micros: int) -> Refund:
    return Refund(payer.ledger.ids.new(), charge.part, charge.id, payer.id, payer.developer_id, micros, "back")


def lines(ledger: OpenLedger, row: Transfer) -> dict[tuple[str, int], int]:
    """The double-entry lines of a row, by account and owner."""
    sql = "select account, owner_id, amount_micros from posting where part = ? and transfer_id = ?"
    return {(account, owner): micros for account, owner, micros in ledger.reader.rows(sql, row.part, row.id)}


def earnings(ledger: OpenLedger) -> dict[tuple[int, int], tuple[int, int]]:
    """(earned, fees) by part and developer, 0 is the platform."""
    return {(part, owner): (net, fees) for each in snapshots(ledger) for part, owner, net, fees in each.earnings()}


def is_sound(ledger: OpenLedger) -> bool:
    report = audited(ledger, ledger.clock.now_us())
    assert report.violations == []
    return report.ok


# --- what is written


def test_a_top_up_with_a_fee_is_written_in_lines_that_balance(ledger: OpenLedger, payer: Funded) -> None:
    row = ledger.writer.ask(TopUp(ledger.ids.new(), payer.record.part, payer.id, 1_000, "card", 59)).transfer
    assert lines(ledger, row) == {("available", payer.id): 1_000, ("platform", 0): 59, ("world", 0): -1_059}
    assert payer.account().balance_micros == 2_000
    assert earnings(ledger) == {(payer.record.part, 0): (0, 59)}
    assert is_sound(ledger)


@pytest.mark.parametrize("kind", [Kind.RETURN, Kind.CHARGEBACK])
def test_what_leaves_a_balance_and_comes_back_is_written_in_lines_that_balance(
    ledger: OpenLedger, payer: Funded, kind: Kind
) -> None:
    sent = send(payer, kind, 300)
    done = ledger.writer.ask(sent)
    assert lines(ledger, done.transfer) == {("available", payer.id): -300, ("world", 0): 300}
    assert done.account == payer.account()
    assert payer.account().balance_micros == 700
    back = ledger.writer.ask(come_back(ledger, 120, of=sent)).transfer
    assert lines(ledger, back) == {("available", payer.id): 120, ("world", 0): -120}
    assert payer.account().balance_micros == 820
    assert earnings(ledger) == {}
    assert is_sound(ledger)


def test_a_payout_and_what_comes_back_of_it_is_written_in_lines_that_balance(ledger: OpenLedger, payer: Funded) -> None:
    """More than was earned: a part may owe, as long as all of them together do not."""
    ledger.writer.ask(payer.charge(100))
    place, sent = (payer.record.part, payer.developer_id), send(payer, Kind.PAYOUT, 150)
    row = ledger.writer.ask(sent).transfer
    assert lines(ledger, row) == {("developer", payer.developer_id): -150, ("world", 0): 150}
    assert earnings(ledger) == {place: (97 - 150, 3)}
    back = ledger.writer.ask(come_back(ledger, 150, of=sent)).transfer
    assert lines(ledger, back) == {("developer", payer.developer_id): 150, ("world", 0): -150}
    assert earnings(ledger) == {place: (97, 3)}
    assert payer.account().balance_micros == 900
    assert is_sound(ledger)


def test_a_cost_is_written_in_lines_that_balance(ledger: OpenLedger, payer: Funded) -> None:
    row = ledger.writer.ask(send(payer, Kind.COST, 45)).transfer
    assert lines(ledger, row) == {("platform", 0): -45, ("world", 0): 45}
    assert earnings(ledger) == {(payer.record.part, 0): (0, -45)}
    assert payer.account().balance_micros == 1_000
    assert is_sound(ledger)


def test_what_was_booked_is_found_again_by_its_key(
    ledger: OpenLedger, payer: Funded, ledger_url: str, clock: ManualClock
) -> None:
    """By another opening of the same ledger, too."""
    sent = {kind: send(payer, kind, 100, key=f"{kind}") for kind in (Kind.RETURN, Kind.CHARGEBACK, Kind.PAYOUT, Kind.COST)}
    first = {kind: ledger.writer.ask(each).transfer for kind, each in sent.items()}
    parts = [ledger.writer.ask(come_back(ledger, total, of=sent[Kind.PAYOUT])).transfer for total in (30, 80)]
    other = open_ledger(ledger_url, clock=clock, ring=RING)
    for kind, each in sent.items():
        again = other.ledger.writer.ask(each._replace(id=other.ledger.ids.new()))
        assert (again.replayed, again.transfer) == (True, first[kind])
        assert ledger.journal.paid(each.part, each.consumer_id, each.developer_id, each.key) == first[kind]
    late = [other.ledger.writer.ask(come_back(other.ledger, total, of=sent[Kind.PAYOUT])) for total in (80, 30)]
    assert [each.transfer for each in late] == parts[::-1]
    assert [row.slot for row in parts] == [-1, -2]
    other.close()
    assert len(journal_of(ledger)) == 7
    assert is_sound(ledger)


# --- below zero


def test_a_balance_below_zero_is_stored_refuses_calls_and_is_lifted_again(
    ledger: OpenLedger, payer: Funded, ledger_url: str, clock: ManualClock
) -> None:
    charge = ledger.writer.ask(payer.charge(1_000)).transfer
    sent = send(payer, Kind.CHARGEBACK, 900)
    assert ledger.writer.ask(sent).account == payer.account()
    other = open_ledger(ledger_url, clock=clock, ring=RING)
    for writer in (ledger.writer, other.ledger.writer):
        for call in (payer.hold(0), payer.charge(0), payer.charge(1)):
            with pytest.raises(InsufficientBalance) as refused:
                writer.ask(call)
            assert refused.value.balance_micros == -900
    other.close()
    assert is_sound(ledger)
    ledger.writer.ask(payer.top_up(300, key="more"))
    ledger.writer.ask(refund(payer, charge, 350))
    assert payer.account().balance_micros == -250
    ledger.writer.ask(come_back(ledger, 250, of=sent))
    assert payer.account().balance_micros == 0
    assert not ledger.writer.ask(payer.charge(0)).replayed
    assert is_sound(ledger)


def test_calls_that_run_end_as_ever_when_their_money_was_charged_back(
    ledger: OpenLedger, payer: Funded, clock: ManualClock
) -> None:
    captured, voided, expired = (ledger.writer.ask(payer.hold(300)).transfer for _ in range(3))
    ledger.writer.ask(send(payer, Kind.CHARGEBACK, 1_000))
    assert (payer.account().balance_micros, payer.account().held_micros) == (0, 900)
    assert is_sound(ledger)
    row = ledger.writer.ask(payer.capture(captured.id, 200)).transfer
    assert lines(ledger, row)["available", payer.id] == 100
    ledger.writer.ask(payer.void(voided.id))
    clock.advance(901)
    assert ledger.writer.sweep() == 1
    assert (payer.account().balance_micros, payer.account().held_micros) == (-200, 0)
    assert expired.id not in {row.ref_id for row in journal_of(ledger) if row.kind != Kind.EXPIRE}
    assert is_sound(ledger)


# --- the database's own guards


@pytest.mark.parametrize("statement", ["update transfer set amount_micros = 1", "delete from transfer"])
def test_the_journal_of_what_crossed_the_border_is_append_only(ledger: OpenLedger, payer: Funded, statement: str) -> None:
    ledger.writer.ask(send(payer, Kind.RETURN, 300))
    before = journal_of(ledger)
    assert all(part.append_only() for part in snapshots(ledger))
    with pytest.raises(sqlalchemy.exc.DBAPIError, match="append-only"), ledger.engine.begin() as connection:
        connection.execute(sa.text(statement))
    assert journal_of(ledger) == before


@pytest.mark.parametrize("kind", [Kind.RETURN, Kind.CHARGEBACK, Kind.PAYOUT])
def test_a_key_sends_once_and_what_came_back_came_back_once_whoever_writes(ledger: OpenLedger, payer: Funded, kind: Kind) -> None:
    sent = send(payer, kind, 300)
    rows = [ledger.writer.ask(each).transfer for each in (sent, come_back(ledger, 100, of=sent))]
    columns = ", ".join(f":{name}" for name in Transfer._fields)
    for row in rows:
        again = row._replace(id=ledger.ids.new())
        with pytest.raises(sqlalchemy.exc.IntegrityError), ledger.engine.begin() as connection:
            connection.execute(sa.text(f"insert into transfer values ({columns})"), again._asdict())


# --- several who write at once


@pytest.mark.parametrize("kind", [Kind.RETURN, Kind.CHARGEBACK, Kind.PAYOUT, Kind.COST])
def test_a_crowd_that_books_the_same_news_books_it_once(
    ledger: OpenLedger, payer: Funded, ledger_url: str, clock: ManualClock, kind: Kind
) -> None:
    """Two openings of one ledger, several threads each: whoever loses asks again, as a job does, and is told what was booked."""
    other = open_ledger(ledger_url, clock=clock, ring=RING)
    sent, together, told = send(payer, kind, 300), threading.Barrier(2 * THREADS), list[Transfer]()

    def book(ledger: OpenLedger) -> None:
        together.wait(PATIENCE_S)
        told.append(asked(ledger.writer, lambda: sent._replace(id=ledger.ids.new())).transfer)
        if kind != Kind.COST:
            for total in (100, 50, 300):
                asked(ledger.writer, lambda total=total: come_back(ledger, total, of=sent))

    threads = [threading.Thread(target=book, args=(each,)) for each in (ledger, other.ledger) * THREADS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    other.close()
    assert (len(told), len({row.id for row in told})) == (2 * THREADS, 1)
    back = [row.amount_micros for row in journal_of(ledger) if row.kind == Kind.COME_BACK]
    assert sum(back) == (0 if kind == Kind.COST else 300)
    assert is_sound(ledger)


def asked(writer: LedgerWriter, make: Callable[[], Command], *, tries: int = 2 * THREADS) -> Done:
    """What a command that is asked for again and again is told in the end."""
    inbox = Inbox()
    for _ in range(tries):
        ticket = inbox.ticket()
        writer.submit(make(), ticket)
        answer = inbox.answer(ticket)
        if code_of(answer) != "internal_error":
            return done(answer)
    raise AssertionError("it was never booked")


@pytest.mark.parametrize("news", ["payout", "come back"])
def test_two_writers_that_book_one_payout_at_once_book_it_once(server: ServerLedger, clock: ManualClock, news: str) -> None:
    """A payout has no account whose row is locked: the second writer has looked before the first one wrote. The key stops it."""
    sent = payout(server, 1, 300)
    if news == "come back":
        server.writer.ask(sent)

    def command() -> Command:
        return sent._replace(id=server.ids.new()) if news == "payout" else come_back(server, 200, of=sent)

    store, gate, inbox = ScriptedStore(PostgresStore(server.url, holder="another", own_time=False)), Gate(), Inbox()
    store.before_commit = gate
    slow = Writer(store, clock, server.ids)
    ticket = inbox.ticket()
    slow.submit(command(), ticket)
    gate.wait_reached()
    booked = server.writer.ask(command())
    gate.open()
    # The loser is not told what was booked, alone in its batch as it is; asked again, it finds that.
    assert (booked.replayed, code_of(inbox.answer(ticket))) == (False, "internal_error")
    again = slow.ask(command())
    assert (again.replayed, again.transfer) == (True, booked.transfer)
    slow.close()
    assert earnings(server) == {(1, sent.developer_id): (-300 if news == "payout" else -100, 0)}
    assert is_sound(server)


# --- parts and lanes


@pytest.mark.parametrize("one_part", [False, True], ids=["lanes", "one part in a transaction, as on Citus"])
def test_a_payout_is_taken_from_the_earnings_of_each_part_in_its_own_lane(
    server: ServerLedger, clock: ManualClock, one_part: bool
) -> None:
    writer: LedgerWriter = server.writer
    if one_part:
        server.writer.close()
        store = PostgresStore(server.url, holder="one part", own_time=False, one_part=True)
        writer = Writer(store, clock, server.ids, one_part=True)
    sent = [payout(server, part, 100 + part) for part in range(PARTS)]
    commands: list[Command] = [*sent, *(come_back(server, 50, of=each) for each in sent)]
    commands += [each._replace(id=server.ids.new()) for each in sent]
    inbox = Inbox()
    tickets = [inbox.ticket() for _ in commands]
    for command, ticket in zip(commands, tickets, strict=True):
        writer.submit(command, ticket)
    answers = [done(answer) for answer in inbox.answers(tickets)]
    writer.close()
    assert [answer.transfer.part for answer in answers] == [*range(PARTS)] * 3
    assert [answer.transfer for answer in answers[-PARTS:]] == [answer.transfer for answer in answers[:PARTS]]
    assert earnings(server) == {(part, sent[0].developer_id): (-50 - part, 0) for part in range(PARTS)}
    assert is_sound(server)


def test_one_transaction_over_several_parts_keeps_their_keys_apart(server: ServerLedger) -> None:
    """Equal amounts under equal keys: what one part has booked is not what another has."""
    first, second = payout(server, 1, 300), payout(server, 2, 300)
    store = PostgresStore(server.url, holder="by hand", own_time=False)
    transact(store, first)
    batch = (payout(server, 1, 300), second, come_back(server, 100, of=second), come_back(server, 100, of=first))
    answers = [done(answer) for answer in transact(store, *batch)]
    store.close()
    assert [(answer.transfer.part, answer.replayed) for answer in answers] == [(1, True), (2, False), (2, False), (1, False)]
    assert earnings(server) == {(part, first.developer_id): (-200, 0) for part in (1, 2)}
    assert is_sound(server)


def transact(store: PostgresStore, *batch: Command) -> list[Answer]:
    store.begin(durable=True)
    decision = decide(batch, store.load(needs(batch)), 1)
    store.apply(decision)
    store.commit()
    return decision.answers


def test_people_and_their_payouts_share_a_batch_in_every_lane(server: ServerLedger) -> None:
    payers: list[Funded] = []
    while {each.record.part for each in payers} != set(range(PARTS)):
        payers.append(fund(server, 1_000))
    inbox, tickets = Inbox(), list[Any]()
    for payer in payers:
        sent = send(payer, Kind.RETURN, 100)
        for command in (sent, payer.charge(10), come_back(server, 40, of=sent), send(payer, Kind.COST, 5, key="fee")):
            tickets.append(inbox.ticket())
            server.writer.submit(command, tickets[-1])
    assert {code_of(answer) for answer in inbox.answers(tickets)} == {"done"}
    assert {payer.account().balance_micros for payer in payers} == {930}
    assert is_sound(server)
