"""The ledger on a real PostgreSQL: what the database itself guards, several processes at once, openings and versions."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg import errors

from payre_mcp.clock import ManualClock, SystemClock
from payre_mcp.errors import InsufficientBalance, LedgerInvalid, PayreUnavailable
from payre_mcp.ledger.model import Kind, Transfer
from payre_mcp.ledger.writer import HOLD_LIFE_US, Writer
from payre_mcp.storage import migrate
from payre_mcp.storage.directory import SqlDirectory
from payre_mcp.storage.engine import server_engine
from payre_mcp.storage.postgres import PostgresStore
from payre_mcp.storage.server import ServerLedger, open_server
from payre_mcp.storage.tables import METADATA
from tests.fakes import PARTS, PATIENCE_S, RING, Funded, audited, done, finish, fund, journal_of, start_python
from tests.postgres_server import Databases

PROCESSES = 4


@pytest.fixture
def ledger(database: str, clock: ManualClock) -> Iterator[ServerLedger]:
    ledger = open_server(database, clock, ring=RING)
    yield ledger
    ledger.close()


@pytest.fixture
def payer(ledger: ServerLedger) -> Funded:
    return fund(ledger, 1_000)


@pytest.fixture
def raw(database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the tables' owner, past all of our code."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def insert(raw: psycopg.Connection[Any], row: Transfer) -> None:
    raw.execute(f"insert into transfer values ({', '.join(['%s'] * len(row))})".encode(), row)


# --- what the database itself guards


@pytest.mark.parametrize("statement", ["update transfer set detail = detail", "delete from transfer", "truncate transfer"])
def test_the_journal_refuses_every_change_of_a_row_even_to_its_owner(payer: Funded, raw: Any, statement: str) -> None:
    before = journal_of(payer.ledger)
    with pytest.raises(errors.RaiseException, match="append-only"):
        raw.execute(statement)
    assert journal_of(payer.ledger) == before


def test_an_idempotency_key_pays_once_whoever_writes(payer: Funded, raw: Any) -> None:
    row = payer.ledger.writer.ask(payer.charge(10, key="once")).transfer
    with pytest.raises(errors.UniqueViolation):
        insert(raw, row._replace(id=row.id + 1))


def test_a_hold_ends_once_whoever_writes(payer: Funded, raw: Any) -> None:
    hold = payer.ledger.writer.ask(payer.hold(10)).transfer
    end = payer.ledger.writer.ask(payer.capture(hold.id, 10)).transfer
    for kind in (Kind.CAPTURE, Kind.VOID, Kind.EXPIRE):
        with pytest.raises(errors.UniqueViolation):
            insert(raw, end._replace(id=end.id + 1, kind=int(kind)))


@pytest.mark.parametrize("change", ["held_micros = -1", "balance_micros = 1000000000001"])
def test_no_account_can_be_nonsense(payer: Funded, raw: Any, change: str) -> None:
    """It may be below zero, by what was disputed: the audit knows by how much."""
    with pytest.raises(errors.CheckViolation):
        raw.execute(f"update account set {change}")
    assert payer.account().balance_micros == 1_000


def test_an_audit_notices_that_the_journal_lost_its_guard(payer: Funded, raw: Any, clock: ManualClock) -> None:
    assert audited(payer.ledger, clock.now_us()).ok
    raw.execute("alter table transfer disable trigger transfer_append_only")
    assert not audited(payer.ledger, clock.now_us()).ok


# --- parts and lanes


def test_consumers_are_dealt_over_the_parts_and_each_part_is_sound_by_itself(ledger: ServerLedger, clock: ManualClock) -> None:
    payers: list[Funded] = []
    while {each.record.part for each in payers} != set(range(PARTS)):
        payers.append(fund(ledger, 100))
        ledger.writer.ask(payers[-1].charge(30))
    report = audited(ledger, clock.now_us())
    assert (report.ok, report.charges, report.balances_micros) == (True, len(payers), len(payers) * 70)


def test_a_ledger_keeps_the_number_of_its_parts_whatever_a_later_opening_says(ledger: ServerLedger, database: str) -> None:
    again = open_server(database, ManualClock(), ring=RING, parts=7)
    again.close()
    assert (again.parts, again.issuer) == (PARTS, ledger.issuer)


@pytest.mark.parametrize("one_part", [False, True], ids=["plain", "one part in a transaction, as on Citus"])
def test_lanes_and_single_parts_decide_a_mixed_crowd_as_one_writer_does(
    database: str, clock: ManualClock, one_part: bool
) -> None:
    ledger = open_server(database, clock, ring=RING, lanes=3)
    writer = ledger.writer
    if one_part:
        ledger.writer.close()
        store = PostgresStore(database, holder="one part", own_time=False, one_part=True)
        writer = Writer(store, clock, ledger.ids, one_part=True)
    payers = [fund(ledger, 100, writer=writer) for _ in range(12)]
    crowd = [threading.Thread(target=spend_all, args=(writer, each)) for each in payers for _ in range(2)]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join(PATIENCE_S)
    assert [each.account().balance_micros for each in payers] == [2] * 12
    assert writer.sweep() == 0
    report = audited(ledger, clock.now_us())
    assert (report.ok, report.charges) == (True, 12 * 14)
    writer.close()
    ledger.close()


def spend_all(writer: Any, payer: Funded) -> None:
    """Charge and hold and capture until there is too little."""
    with suppress(InsufficientBalance):
        while True:
            writer.ask(payer.charge(7))
            hold = writer.ask(payer.hold(7)).transfer
            writer.ask(payer.capture(hold.id, 7))


# --- several processes

RACER = """
import sys, threading
from payre_mcp.clock import SystemClock
from payre_mcp.errors import InsufficientBalance
from payre_mcp.ledger.model import Charge, Hold, Capture
from payre_mcp.receipts import KeyRing
from payre_mcp.storage.server import open_server

url, part, consumer, key, developer, each = sys.argv[1], *map(int, sys.argv[2:])
clock = SystemClock()
ledger = open_server(url, clock, ring=KeyRing.generate())
new, ask, charged = ledger.ids.new, ledger.writer.ask, [0] * 8
print("ready", flush=True)
sys.stdin.readline()

def work(lane):
    for n in range(each // 8):
        try:
            if n % 2:
                charge = Charge(new(), part, consumer, developer, key, 1 + n % 7, 300, "t", "{}")
                charged[lane] += ask(charge).transfer.amount_micros
            else:
                hold = ask(Hold(new(), part, consumer, developer, key, 1 + n % 7, "t", clock.now_us() + 900_000_000)).transfer
                amount = hold.amount_micros
                capture = Capture(new(), part, hold.id, consumer, developer, amount, 300, "{}")
                charged[lane] += ask(capture).transfer.amount_micros
        except InsufficientBalance:
            pass

threads = [threading.Thread(target=work, args=(lane,)) for lane in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ledger.close()
print(sum(charged))
"""


def test_ten_thousand_charges_of_four_processes_on_a_near_empty_balance_take_exactly_what_is_there(
    database: str, faults: bool
) -> None:
    ledger = open_server(database, SystemClock(), ring=RING)
    payer = fund(ledger, 1_000)
    each = 2_500 if faults else 800
    arguments = (database, payer.record.part, payer.id, payer.record.id, payer.developer_id, each)
    racers = [start_python(RACER, *arguments) for _ in range(PROCESSES)]
    for racer in racers:
        assert racer.stdout is not None
        racer.stdout.readline()
    charged = sum(int(finish(racer, tell="go\n")) for racer in racers)
    account = payer.account()
    assert (charged + account.balance_micros, account.held_micros) == (1_000, 0)
    assert account.balance_micros < 7
    report = audited(ledger, SystemClock().now_us())
    assert report.ok, report.violations
    ledger.close()


def test_one_process_expires_holds_and_another_takes_over_when_it_leaves(database: str, clock: ManualClock) -> None:
    first, second = (open_server(database, clock, ring=RING) for _ in range(2))
    payer = fund(first, 100)
    assert first.writer.sweep() == 0
    for hold_of in (first, second):
        hold_of.writer.ask(payer.hold(10))
    clock.advance(HOLD_LIFE_US * 2 / 1_000_000)
    assert second.writer.sweep() == 0, "the first process looks after expired holds"
    first.close()
    assert second.writer.sweep() == 2
    account = second.journal.account(payer.record.part, payer.id)
    assert account is not None
    assert account.held_micros == 0
    second.close()


# --- openings and versions


def test_processes_that_make_a_ledger_at_once_make_it_once(databases: Databases) -> None:
    url, ledgers, failures = databases.new(), list[ServerLedger](), list[BaseException]()

    def make() -> None:
        try:
            ledgers.append(open_server(url, SystemClock(), ring=RING, parts=PARTS))
        except BaseException as failure:  # noqa: BLE001 - shown by the test
            failures.append(failure)

    makers = [threading.Thread(target=make) for _ in range(6)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(PATIENCE_S)
    assert failures == []
    assert len({each.directory.sole_developer().id for each in ledgers}) == 1
    assert len({each.issuer for each in ledgers}) == 1
    for each in ledgers:
        each.close()
    databases.drop(url)


def test_a_migrated_database_is_what_the_tables_say(database: str) -> None:
    engine = server_engine(database)

    def ours(_object: Any, name: str | None, *_: object) -> bool:
        return name not in {"payre_alembic_version", "ix_transfer_developer"}

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": ours})
        assert compare_metadata(context, METADATA) == []
    engine.dispose()


def test_a_database_of_an_older_version_is_refused_until_it_is_upgraded(databases: Databases) -> None:
    url = databases.new()
    engine = server_engine(url)
    migrate.make_version_table(engine)
    with engine.begin() as connection:
        connection.execute(sa.text(f"insert into {migrate.VERSION_TABLE} values ('{migrate.REVISIONS[0]}')"))
    with pytest.raises(LedgerInvalid, match="payre db upgrade"):
        open_server(url, ManualClock(), ring=RING)
    engine.dispose()
    databases.drop(url)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("update payre_alembic_version set version_num = '9999'", "newer"),
        ("drop table payre_alembic_version", "another program"),
    ],
)
def test_a_database_that_is_not_ours_is_refused_and_left_alone(database: str, raw: Any, statement: str, said: str) -> None:
    raw.execute(statement)
    with pytest.raises(LedgerInvalid, match=said):
        open_server(database, ManualClock(), ring=RING)


def test_a_server_that_is_not_there_is_unavailable_and_says_no_password() -> None:
    with pytest.raises(PayreUnavailable) as refused:
        open_server("postgresql://payre:canary@127.0.0.1:9/payre", ManualClock(), ring=RING)
    assert "canary" not in refused.value.message


def test_two_who_publish_the_same_server_at_once_have_one_server(database: str) -> None:
    ledgers = [open_server(database, SystemClock(), ring=RING) for _ in range(2)]
    developer = ledgers[0].directory.sole_developer()
    found = list[int]()

    def publish(directory: SqlDirectory) -> None:
        for n in range(10):
            found.append(directory.ensure_server(developer.id, f"server {n}").id)

    both = [threading.Thread(target=publish, args=(each.directory,)) for each in ledgers]
    for each in both:
        each.start()
    for each in both:
        each.join(PATIENCE_S)
    assert (len(found), len(set(found))) == (20, 10)
    for each in ledgers:
        each.close()


def test_the_databases_own_time_decides_where_clocks_may_differ(database: str) -> None:
    """A process whose clock is an hour ahead expires nothing early."""
    ledger = open_server(database, SystemClock(), ring=RING)
    payer = fund(ledger, 100)
    now = SystemClock().now_us()
    hold = ledger.writer.ask(payer.hold(10)._replace(expires_at=now + 3_600_000_000)).transfer
    assert abs(hold.created_at - now) < 60_000_000
    ledger.close()


def test_a_connection_that_is_cut_between_two_commits_costs_nobody_anything(database: str, databases: Databases) -> None:
    ledger = open_server(database, SystemClock(), ring=RING)
    payer = fund(ledger, 100)
    for _ in range(3):
        with psycopg.connect(databases.url, autocommit=True) as admin:
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (database.rpartition("/")[2],)
            )
        assert done(ledger.writer.ask(payer.charge(1))).transfer.amount_micros == 1
    assert payer.account().balance_micros == 97
    ledger.close()
