"""The ledger on a real SQLite file: what the database itself guards, several processes at once, and files that survive."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from payre_mcp.clock import ManualClock, SystemClock
from payre_mcp.errors import InsufficientBalance, LedgerInvalid, PayreUnavailable
from payre_mcp.ledger.model import Kind, OpenHold, Transfer
from payre_mcp.ledger.state import needs
from payre_mcp.ledger.store import StoreBusy, StoreUnavailable
from payre_mcp.ledger.writer import HOLD_LIFE_US, Writer
from payre_mcp.receipts import KeyRing
from payre_mcp.storage import migrate
from payre_mcp.storage.embedded import EmbeddedLedger, open_embedded
from payre_mcp.storage.engine import make_engine
from payre_mcp.storage.library import connect, sqlite
from payre_mcp.storage.migrate import SchemaState
from payre_mcp.storage.sqlite import SqliteStore
from payre_mcp.storage.tables import METADATA
from tests.fakes import PATIENCE_S, Funded, audited, finish, fund, journal_of, start_python

RACERS = 4


@pytest.fixture
def ledger(ledger_path: Path, clock: ManualClock) -> Iterator[EmbeddedLedger]:
    ledger = open_embedded(ledger_path, clock)
    yield ledger
    ledger.close()


@pytest.fixture
def payer(ledger: EmbeddedLedger) -> Funded:
    return fund(ledger, 1_000)


@pytest.fixture
def raw(ledger_path: Path) -> Iterator[Any]:
    """A connection that goes past all of our code."""
    connection = connect(ledger_path)
    yield connection
    connection.close()


def columns_of(raw: Any, table: str) -> list[str]:
    return [row[1] for row in raw.execute(f"pragma table_info({table})").fetchall()]


def insert(raw: Any, row: Transfer) -> None:
    raw.execute(f"insert into transfer values ({', '.join('?' * len(row))})", row)


# --- what the database itself guards


def test_a_journal_row_is_the_columns_of_its_table_in_order(raw: Any) -> None:
    assert columns_of(raw, "transfer") == list(Transfer._fields)


def test_an_open_hold_is_the_columns_of_its_table_in_order(raw: Any) -> None:
    assert columns_of(raw, "hold") == list(OpenHold._fields)


@pytest.mark.parametrize(
    "statement",
    [
        "update transfer set amount_micros = 1",
        "update transfer set detail = detail",
        "delete from transfer",
        "insert or replace into transfer select * from transfer where kind = 7",
    ],
)
def test_the_journal_refuses_every_change_of_a_row(payer: Funded, raw: Any, statement: str) -> None:
    payer.ledger.writer.ask(payer.charge(10))
    before = journal_of(payer.ledger)
    with pytest.raises(sqlite.IntegrityError):
        raw.execute(statement)
    assert journal_of(payer.ledger) == before


def test_a_row_of_the_journal_cannot_be_replaced_by_another(payer: Funded, raw: Any) -> None:
    """`INSERT OR REPLACE` deletes without a delete trigger; the journal must not lose a row that way."""
    row = payer.ledger.writer.ask(payer.charge(10)).transfer
    with pytest.raises(sqlite.IntegrityError):
        raw.execute(f"replace into transfer values ({', '.join('?' * len(row))})", row._replace(amount_micros=1))
    assert payer.row(row.id) == row


def test_an_idempotency_key_pays_once_whoever_writes(payer: Funded, raw: Any) -> None:
    row = payer.ledger.writer.ask(payer.charge(10, key="once")).transfer
    with pytest.raises(sqlite.IntegrityError):
        insert(raw, row._replace(id=row.id + 1))
    insert(raw, row._replace(id=row.id + 2, key="another"))


def test_a_hold_ends_once_whoever_writes(payer: Funded, raw: Any) -> None:
    hold = payer.ledger.writer.ask(payer.hold(10)).transfer
    end = payer.ledger.writer.ask(payer.capture(hold.id, 10)).transfer
    for kind in (Kind.CAPTURE, Kind.VOID, Kind.EXPIRE):
        with pytest.raises(sqlite.IntegrityError):
            insert(raw, end._replace(id=end.id + 1, kind=int(kind)))


@pytest.mark.parametrize(
    "change",
    [
        "held_micros = -1",
        "balance_micros = 1000000000001",
        "balance_micros = null",
        "balance_micros = 1.5",
        "balance_micros = 'much'",
    ],
)
def test_no_account_can_be_nonsense(payer: Funded, raw: Any, change: str) -> None:
    """It may be below zero, by what was disputed: the audit knows by how much."""
    with pytest.raises(sqlite.IntegrityError):
        raw.execute(f"update account set {change}")
    assert payer.account().balance_micros == 1_000


@pytest.mark.parametrize("nonsense", [{"amount_micros": -1}, {"fee_micros": -1}, {"fee_micros": 11}])
def test_no_row_moves_less_than_nothing_or_takes_more_fee_than_money(payer: Funded, raw: Any, nonsense: dict[str, int]) -> None:
    row = payer.ledger.writer.ask(payer.charge(10)).transfer
    with pytest.raises(sqlite.IntegrityError):
        insert(raw, row._replace(id=row.id + 1, **nonsense))


def test_reading_connections_cannot_write(ledger_path: Path) -> None:
    reader = connect(ledger_path, read_only=True)
    with pytest.raises(sqlite.OperationalError):
        reader.execute("update account set balance_micros = 5")
    reader.close()


# --- the store's own promises


def test_a_rolled_back_transaction_leaves_nothing(payer: Funded) -> None:
    store = SqliteStore(payer.path)
    store.begin(durable=True)
    store.rollback()
    store.rollback()
    store.begin(durable=False)
    store.commit()
    store.close()
    assert len(journal_of(payer.ledger)) == 1


def test_a_store_loads_what_a_batch_needs_and_nothing_for_ids_that_do_not_exist(payer: Funded) -> None:
    charge = payer.ledger.writer.ask(payer.charge(10, key="k")).transfer
    store = SqliteStore(payer.path)
    store.begin(durable=True)
    state = store.load(needs([payer.charge(1, key="k"), payer.void(1), payer.hold(1)._replace(consumer_id=1, api_key_id=1)]))
    store.rollback()
    store.close()
    assert list(state.accounts) == [payer.id]
    assert list(state.api_keys) == [payer.record.id]
    assert state.by_key == {(payer.id, payer.developer_id, "k"): [charge]}
    assert (state.holds, state.ends) == ({}, {})


def test_expired_holds_come_oldest_first_and_no_more_than_asked_for(payer: Funded, clock: ManualClock) -> None:
    now = clock.now_us()
    holds = [payer.hold(1)._replace(expires_at=now + seconds) for seconds in (30, 10, 20, 90)]
    for hold in holds:
        payer.ledger.writer.ask(hold)
    store = SqliteStore(payer.path)
    assert [hold.expires_at - now for hold in store.expired(now + 30, 2)] == [10, 20]
    assert [hold.expires_at - now for hold in store.expired(now + 30, 9)] == [10, 20, 30]
    store.close()


class Impatient(SqliteStore):
    """A store that does not wait for others."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._connection.execute("pragma busy_timeout = 0")

    def limit_pages(self) -> None:
        """As a disk without another free page."""
        (used,) = self._connection.execute("pragma page_count").fetchone()
        self._connection.execute(f"pragma max_page_count = {used}")


def test_a_store_says_busy_while_another_process_writes(payer: Funded, raw: Any) -> None:
    store = Impatient(payer.path)
    raw.execute("begin immediate")
    with pytest.raises(StoreBusy):
        store.begin(durable=True)
    raw.execute("rollback")
    store.begin(durable=True)
    store.rollback()
    store.close()


def test_a_ledger_whose_disk_is_full_refuses_and_keeps_what_it_has(payer: Funded, clock: ManualClock) -> None:
    store = Impatient(payer.path)
    store.limit_pages()
    writer = Writer(store, clock, payer.ledger.ids, sweep_every_s=3600)
    charged, refused = 0, False
    while not refused:
        try:
            writer.ask(payer.charge(1, tool="x" * 500))
            charged += 1
        except PayreUnavailable:
            refused = True
    writer.close()
    assert charged > 0
    assert payer.account().balance_micros == 1_000 - charged
    assert audited(payer.ledger, clock.now_us()).ok


def test_a_lost_database_is_unavailable_and_not_an_internal_error(payer: Funded, raw: Any) -> None:
    store = SqliteStore(payer.path)
    raw.execute("alter table account rename to gone")
    store.begin(durable=True)
    with pytest.raises(StoreUnavailable):
        store.load(needs([payer.charge(1)]))
    store.rollback()
    store.close()


# --- several at once

RACER = """
import sys, threading
from pathlib import Path
from payre_mcp.clock import SystemClock
from payre_mcp.errors import InsufficientBalance, PayreUnavailable
from payre_mcp.ledger.model import Charge
from payre_mcp.storage.embedded import open_embedded

path, consumer, key, developer, attempts = Path(sys.argv[1]), *map(int, sys.argv[2:])
ledger = open_embedded(path, SystemClock())
charged, refused = [], []

def attempt():
    while True:
        try:
            ledger.writer.ask(Charge(ledger.ids.new(), 0, consumer, developer, key, 10, 300, "forecast", "{}"))
            return charged.append(1)
        except InsufficientBalance:
            return refused.append(1)
        except PayreUnavailable:
            continue

def work():
    for _ in range(attempts // 10):
        attempt()

print("ready", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=work) for _ in range(10)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(charged), len(refused))
ledger.close()
"""


def test_ten_thousand_charges_of_four_processes_on_a_balance_worth_a_hundred_give_a_hundred(
    payer: Funded, clock: ManualClock
) -> None:
    facts = (payer.path, payer.id, payer.record.id, payer.developer_id, 10_000 // RACERS)
    racers = [start_python(RACER, *facts) for _ in range(RACERS)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    results = [[int(number) for number in finish(racer).split()] for racer in racers]
    assert [sum(each) for each in zip(*results, strict=True)] == [100, 9_900]
    assert payer.account().balance_micros == 0
    report = audited(payer.ledger, clock.now_us())
    assert report.ok
    assert report.charges == 100


def race(runner: Callable[[Callable[[], object]], int]) -> int:
    """Four threads charge 10 micros 25 times each, all at once every time; the sum of what `runner` says each charged."""
    together, charged, failed = threading.Barrier(RACERS, timeout=PATIENCE_S), list[int](), list[Exception]()

    def compete() -> None:
        try:
            charged.append(runner(together.wait))
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
            failed.append(error)
            together.abort()

    threads = [threading.Thread(target=compete) for _ in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return sum(charged)


def test_four_open_ledgers_in_one_process_charge_a_balance_exactly(payer: Funded, clock: ManualClock) -> None:
    def runner(meet: Callable[[], object]) -> int:
        ledger, charged = open_embedded(payer.path, clock), 0
        for _ in range(25):
            meet()
            command = payer.charge(10)._replace(id=ledger.ids.new())
            ledger.writer.ask(command)
            charged += 10
        meet()
        with pytest.raises(InsufficientBalance):
            ledger.writer.ask(payer.charge(10)._replace(id=ledger.ids.new()))
        ledger.close()
        return charged

    assert race(runner) == 1_000
    assert payer.account().balance_micros == 0
    assert audited(payer.ledger, clock.now_us()).ok


def test_reading_a_balance_and_writing_it_back_loses_money_in_the_same_race(payer: Funded) -> None:
    """The control: what the ledger must not do, in the same kind of run, charges 1,000 micros and takes fewer."""

    def runner(meet: Callable[[], object]) -> int:
        connection, charged = connect(payer.path), 0
        for _ in range(25):
            (balance,) = connection.execute("select balance_micros from account where id = ?", (payer.id,)).fetchone()
            meet()
            if balance >= 10:
                connection.execute("update account set balance_micros = ? where id = ?", (balance - 10, payer.id))
                charged += 10
            meet()
        connection.close()
        return charged

    assert race(runner) == 1_000
    assert payer.account().balance_micros == 750
    assert not audited(payer.ledger, 0).ok


# --- killed

KILLED = """
import os, sys, threading
from pathlib import Path
from payre_mcp.clock import SystemClock
from payre_mcp.ledger.model import Capture, Charge, Hold
from payre_mcp.storage.embedded import open_embedded

path, consumer, key, developer = Path(sys.argv[1]), *map(int, sys.argv[2:])
clock = SystemClock()
ledger = open_embedded(path, clock)
new, ask = ledger.ids.new, ledger.writer.ask

def work():
    while True:
        name = f"{new():032x}"
        os.write(1, f"try {name}\\n".encode())
        charge = ask(Charge(new(), 0, consumer, developer, key, 7, 300, "forecast", "{}", name, "f")).transfer
        os.write(1, f"done {charge.id}\\n".encode())
        hold = ask(Hold(new(), 0, consumer, developer, key, 9, "forecast", clock.now_us() + 900_000_000)).transfer
        capture = ask(Capture(new(), 0, hold.id, consumer, developer, 5, 300, "{}")).transfer
        os.write(1, f"done {hold.id}\\ndone {capture.id}\\n".encode())

for _ in range(4):
    threading.Thread(target=work).start()
"""


def test_kill_9_under_load_loses_nothing_that_was_answered_and_doubles_nothing(payer: Funded, faults: bool) -> None:
    """A killed process, not a power cut: what the kernel was given stays, so holds stay too."""
    payer.ledger.writer.ask(payer.top_up(10**9, key="plenty"))
    chance = random.Random(9)
    for _ in range(200 if faults else 8):
        process = start_python(KILLED, payer.path, payer.id, payer.record.id, payer.developer_id)
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(chance.randrange(1, 200))]
        process.kill()
        told += process.communicate(timeout=PATIENCE_S)[0].splitlines()
        answered = {int(line.split()[1]) for line in told if line.startswith("done") and line.split()[1:]}
        tried = [line.split()[1] for line in told if line.startswith("try") and line.split()[1:]]
        assert tried, "the process did not get to work"
        # Whoever heard nothing asks again with the same key, and is charged once in all.
        for name in tried:
            payer.ledger.writer.ask(payer.charge(7, key=name, fingerprint="f")._replace(fee_bps=300))
        rows = journal_of(payer.ledger)
        assert answered <= {row.id for row in rows}
        assert {name: sum(row.key == name for row in rows) for name in tried} == dict.fromkeys(tried, 1)
        report = audited(payer.ledger, SystemClock().now_us())
        assert report.ok, report.violations


def test_holds_of_a_killed_process_are_swept_when_their_time_is_over(payer: Funded, clock: ManualClock) -> None:
    payer.ledger.writer.ask(payer.top_up(10**9, key="plenty"))
    process = start_python(KILLED, payer.path, payer.id, payer.record.id, payer.developer_id)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    payer.ledger.writer.ask(payer.hold(1))
    clock.advance((SystemClock().now_us() - clock.now_us() + 2 * HOLD_LIFE_US) / 1_000_000)
    payer.ledger.writer.sweep()
    assert payer.account().held_micros == 0
    assert audited(payer.ledger, clock.now_us()).ok


# --- files and openings


def test_ids_never_repeat_across_openings_even_where_time_stands_still(ledger_path: Path, clock: ManualClock) -> None:
    seen: set[int] = set()
    for _ in range(20):
        ledger = open_embedded(ledger_path, clock)
        seen |= {ledger.ids.new() for _ in range(50)}
        ledger.close()
    assert len(seen) == 20 * 50


@pytest.mark.parametrize("name", ["payre.db", "payre.db-wal", "payre.db-shm", "payre.keys"])
def test_only_the_owner_may_read_the_files_of_a_ledger(tmp_path: Path, name: str) -> None:
    """They hold balances, top-up links and the secrets of receipts."""
    ledger = open_embedded(tmp_path / "payre.db", ManualClock())
    fund(ledger, 10)
    mode = (tmp_path / name).stat().st_mode & 0o777
    ledger.close()
    assert oct(mode) == oct(0o600)


def test_a_ledger_may_be_made_in_a_folder_that_does_not_exist_yet(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "new" / "deep" / "payre.db"
    open_embedded(path, clock).close()
    assert {each.name for each in path.parent.iterdir()} == {"payre.db", "payre.keys"}


def test_a_ledger_keeps_its_name_and_keys_from_opening_to_opening(ledger_path: Path, clock: ManualClock) -> None:
    first = open_embedded(ledger_path, clock)
    first.close()
    second = open_embedded(ledger_path, clock)
    second.close()
    assert second.issuer == first.issuer
    assert second.ring.dump() == first.ring.dump()


def test_a_keys_file_that_a_crash_left_empty_is_filled(tmp_path: Path) -> None:
    """Made and not yet written when the process was killed: no receipt was ever signed, and the ledger must open."""
    (tmp_path / "payre.keys").touch(mode=0o600)
    ring = KeyRing.open_file(tmp_path / "payre.keys")
    assert KeyRing.open_file(tmp_path / "payre.keys").dump() == ring.dump()


OPENER = """
import sys
from pathlib import Path
import alembic.command
from payre_mcp.clock import SystemClock
from payre_mcp.storage.embedded import open_embedded

print("ready", flush=True)
sys.stdin.readline()
ledger = open_embedded(Path(sys.argv[1]), SystemClock())
print(ledger.issuer, ledger.directory.sole_developer().id, ledger.ids.new() >> 12 & 255, " ".join(ledger.ring.dump().split()))
ledger.close()
"""


def test_processes_that_make_a_ledger_at_once_make_it_once(tmp_path: Path) -> None:
    """They migrate once, and agree on the ledger's name, its developer and its receipt keys."""
    openers = [start_python(OPENER, tmp_path / "payre.db") for _ in range(2)]
    for opener in openers:
        assert opener.stdout is not None
        opener.stdout.readline()
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("go\n")
        opener.stdin.flush()
    first, second = (finish(opener).split() for opener in openers)
    assert first[:2] == second[:2]
    assert first[2] != second[2]
    assert first[3:] == second[3:] == KeyRing.open_file(tmp_path / "payre.keys").dump().split()


def test_the_second_of_two_who_make_a_ledger_waits_for_the_first(tmp_path: Path, clock: ManualClock) -> None:
    """A new file becomes a WAL under its first lock, and SQLite does not wait for that by itself: it says locked at once."""
    path = tmp_path / "payre.db"
    first = sqlite.connect(path, isolation_level=None)
    first.execute("begin immediate")
    opened, refused = list[EmbeddedLedger](), list[PayreUnavailable]()

    def open_second() -> None:
        try:
            opened.append(open_embedded(path, clock))
        except PayreUnavailable as error:
            refused.append(error)

    second = threading.Thread(target=open_second)
    second.start()
    second.join(0.5)  # one that does not wait is done long before
    first.execute("rollback")
    first.close()
    second.join(PATIENCE_S)
    for ledger in opened:
        ledger.close()
    assert refused == []
    assert len(opened) == 1


def test_threads_that_make_the_receipt_keys_at_once_agree_on_them(tmp_path: Path) -> None:
    """One who signs with keys that another overwrote gives receipts that nobody can check."""
    for attempt in range(100):
        path, rings = tmp_path / f"{attempt}.keys", list[str]()

        def runner(meet: Callable[[], object], path: Path = path, rings: list[str] = rings) -> int:
            meet()
            rings.append(KeyRing.open_file(path).dump())
            return 0

        race(runner)
        assert len(rings) == RACERS
        assert set(rings) == {path.read_text()}


# --- the schema


def test_the_revisions_are_alembics(ledger_path: Path, raw: Any) -> None:
    config = Config()
    config.set_main_option("script_location", "payre_mcp.storage:migrations")
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [migrate.HEAD]
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == migrate.REVISIONS
    assert migrate.schema_state(raw) == SchemaState.CURRENT


def test_a_migrated_database_is_what_the_tables_say(ledger_path: Path) -> None:
    engine = make_engine(ledger_path)
    with engine.connect() as connection:
        options = {"version_table": migrate.VERSION_TABLE, "compare_type": True}
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), METADATA)
    engine.dispose()
    assert differences == []


def test_the_migrations_make_the_checks_and_partial_indexes_of_the_tables(ledger_path: Path, tmp_path: Path) -> None:
    """What `compare_metadata` does not look at."""
    assert guards_of(ledger_path) != {}
    engine = make_engine(tmp_path / "fresh.db")
    METADATA.create_all(engine)
    engine.dispose()
    assert guards_of(ledger_path) == guards_of(tmp_path / "fresh.db")


def guards_of(path: Path) -> dict[str, tuple[list[tuple[str, str]], list[str]]]:
    """The check constraints and the index statements of every table."""
    engine = make_engine(path)
    found: dict[str, tuple[list[tuple[str, str]], list[str]]] = {}
    with engine.connect() as connection:
        look = sa.inspect(connection)
        for table in METADATA.tables:
            checks = sorted((str(each["name"]), each["sqltext"]) for each in look.get_check_constraints(table))
            sql = sa.text("select sql from sqlite_master where type = 'index' and tbl_name = :table and sql <> '' order by name")
            indexes = [" ".join(statement.split()) for (statement,) in connection.execute(sql, {"table": table})]
            found[table] = (checks, indexes)
    engine.dispose()
    return found


def test_an_empty_file_is_upgraded_once_and_a_second_time_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "payre.db"
    connection = connect(path)
    assert migrate.schema_state(connection) == SchemaState.EMPTY
    engine = make_engine(path)
    migrate.upgrade(engine)
    before = connection.execute("select sql from sqlite_master order by name").fetchall()
    assert migrate.schema_state(connection) == SchemaState.CURRENT
    migrate.upgrade(engine)
    assert connection.execute("select sql from sqlite_master order by name").fetchall() == before
    engine.dispose()
    connection.close()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(ledger_path: Path, raw: Any) -> None:
    raw.execute(f"update {migrate.VERSION_TABLE} set version_num = '9999'")
    raw.execute("create table of_the_future (id integer)")
    before = raw.execute("select sql from sqlite_master order by name").fetchall()
    (opened,) = raw.execute("select openings from ledger").fetchone()
    with pytest.raises(LedgerInvalid):
        open_embedded(ledger_path, ManualClock())
    assert raw.execute("select sql from sqlite_master order by name").fetchall() == before
    assert raw.execute(f"select version_num from {migrate.VERSION_TABLE}").fetchall() == [("9999",)]
    assert raw.execute("select openings from ledger").fetchone() == (opened,)


def test_another_programs_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    theirs = sqlite.connect(path)
    theirs.execute("create table notes (text)")
    theirs.close()
    before = path.read_bytes()
    with pytest.raises(LedgerInvalid):
        open_embedded(path, ManualClock())
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"Dear diary", b"SQLite format 3\0" + bytes(4096)])
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "payre.db"
    path.write_bytes(content)
    with pytest.raises(LedgerInvalid):
        open_embedded(path, ManualClock())
    assert path.read_bytes() == content
