"""Counters on a real SQLite file: what is loaded and written, several processes at once, and ledgers of the first schema."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config

from payre_mcp.clock import ManualClock, SystemClock
from payre_mcp.directory import NO_LIMITS, SpendingLimits
from payre_mcp.errors import SpendLimit
from payre_mcp.ledger.kernel import decide
from payre_mcp.ledger.metering import MOST_COUNTED, counters_of
from payre_mcp.ledger.model import Command, Hold, Kind, Transfer
from payre_mcp.ledger.state import Answer, CounterKey, Decision, Needs, needs
from payre_mcp.money import Money
from payre_mcp.pricing import Price, Target
from payre_mcp.storage import migrate
from payre_mcp.storage.embedded import EmbeddedLedger, open_embedded
from payre_mcp.storage.engine import make_engine
from payre_mcp.storage.library import connect
from payre_mcp.storage.migrate import SchemaState
from payre_mcp.storage.sqlite import MOST_ROWS, SqliteStore
from tests.fakes import PATIENCE_S, Funded, audited, counters_in, done, finish, fund, journal_of, open_holds_of, start_python

RICHES = 10**9
STEPS = Price.tiered("requests", [(2, "0.01"), (4, "0.005"), (None, "0.001")]).plan("")
TEXT = Price.tiered("tokens", [(5, "1"), (None, "2")], scale=1_000_000, max_price_usd="0.01").plan("")


@pytest.fixture
def ledger(ledger_path: Path, clock: ManualClock) -> Iterator[EmbeddedLedger]:
    ledger = open_embedded(ledger_path, clock)
    yield ledger
    ledger.close()


@pytest.fixture
def payer(ledger: EmbeddedLedger) -> Funded:
    return fund(ledger, RICHES)


@pytest.fixture
def store(payer: Funded) -> Iterator[SqliteStore]:
    """A store of the test's own, beside the writer's."""
    store = SqliteStore(payer.path)
    yield store
    store.rollback()
    store.close()


def transact(store: SqliteStore, batch: Sequence[Command]) -> list[Answer]:
    """One transaction, of any size."""
    store.begin(durable=False)
    decision = decide(batch, store.load(needs(batch)), 1)
    store.apply(decision)
    store.commit()
    return decision.answers


def only(**lists: Any) -> Needs:
    return Needs([], [], [], [], [], [], [])._replace(**lists)


# --- loading and writing


def test_a_row_of_counters_is_the_columns_of_its_table_in_order(ledger_path: Path) -> None:
    raw = connect(ledger_path)
    columns = [row[1] for row in raw.execute("pragma table_info(usage_counter)").fetchall()]
    raw.close()
    assert columns == ["part", "consumer_id", "name", "window_start", "captured", "reserved"]


@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 5, 8, 9])
def test_counters_are_loaded_whatever_the_length_of_the_list_and_unknown_ones_are_absent(
    payer: Funded, store: SqliteStore, wanted: int
) -> None:
    raw = connect(payer.path)
    for number in range(8):
        raw.execute("insert into usage_counter values (0, ?, ?, ?, ?, ?)", (payer.id, f"n{number}", 7, number, 2**62))
    raw.execute("insert into usage_counter values (1, ?, 'n0', 7, 5, 5)", (payer.id,))
    raw.close()
    asked: list[CounterKey] = [(payer.id, f"n{number}", 7) for number in range(wanted)]
    strangers: list[CounterKey] = [(payer.id, "n0", 8), (payer.id + 1, "n0", 7), (payer.id, "", 0), (-1, "-1", -1)]
    store.begin(durable=False)
    assert store.load(only(counters=asked)).counters == {each: (int(each[1][1:]), 2**62) for each in asked[:8]}
    assert store.load(only(counters=strangers)).counters == {}
    assert store.load(only(counters=[*strangers, asked[0], asked[0]])).counters == {asked[0]: (0, 2**62)}


@pytest.mark.parametrize("name", ["\ud800 \0 \" ' ; ä 漢", "x" * 5_000, "-1"])
def test_a_target_of_any_name_has_its_counter(payer: Funded, name: str) -> None:
    holds = [payer.metered(STEPS, name=name)._replace(tool="plain") for _ in range(3)]
    assert [payer.ledger.writer.ask(each).transfer.amount_micros for each in holds] == [10_000, 10_000, 5_000]
    ((place, counts),) = counters_in(payer.ledger).items()
    assert (place[1], counts) == (counters_of(STEPS, 1, Target("tool", name), 0)[0][0], (0, 3))


def test_thousands_of_metered_calls_go_in_one_transaction(payer: Funded, store: SqliteStore, clock: ManualClock) -> None:
    """On one counter and on a thousand of them."""
    targets = ["busy", *(f"rare {number}" for number in range(1_000))]
    holds: list[Hold] = [payer.metered(STEPS, name=targets[number % 2 * (number // 2 % 1_000 + 1)]) for number in range(3_000)]
    held = [done(each).transfer for each in transact(store, holds)]
    assert sorted(counters_in(payer.ledger).values())[-1] == (0, 1_500)
    assert len(counters_in(payer.ledger)) == 1_001
    charged = [done(each).transfer for each in transact(store, [payer.spend(each.id, STEPS) for each in held])]
    assert [each.amount_micros for each in charged] == [each.amount_micros for each in held]
    assert sum(each.amount_micros for each in charged[::2]) == 2 * 10_000 + 2 * 5_000 + 1_496 * 1_000
    assert sum(sum(each) for each in counters_in(payer.ledger).values()) == 3_000
    assert audited(payer.ledger, 1).ok


def test_more_counters_than_one_statement_takes_are_written_and_read_in_several(payer: Funded, store: SqliteStore) -> None:
    many = 2 * MOST_ROWS + 1
    asked: list[CounterKey] = [(payer.id, f"n{number}", 0) for number in range(many)]
    decision = Decision(counters={(0, *key): (number, 1) for number, key in enumerate(asked)})
    store.begin(durable=False)
    store.apply(decision)
    assert store.load(only(counters=asked)).counters == {key: (number, 1) for number, key in enumerate(asked)}
    store.rollback()


def test_a_counter_stops_at_the_most_and_the_ledger_stays_sound(payer: Funded, store: SqliteStore) -> None:
    """Calls of the largest quantity there is: 512 of them reach it, and the next ones leave it there."""
    most = 2**53 - 1
    holds = [payer.metered(TEXT, {}) for _ in range(600)]
    transact(store, holds)
    for chunk in (holds[:300], holds[300:512], holds[512:514], holds[514:]):
        transact(store, [payer.spend(each.id, TEXT, {"tokens": most}) for each in chunk])
    assert list(counters_in(payer.ledger).values()) == [(MOST_COUNTED, 0)]
    assert payer.account().balance_micros == RICHES - 600 * 10_000
    assert transact(store, [payer.metered(TEXT, {})])
    assert audited(payer.ledger, 1).violations == []


def test_counters_of_one_consumer_do_not_touch_anothers(payer: Funded) -> None:
    other = fund(payer.ledger, RICHES, name="bob")
    ask = payer.ledger.writer.ask
    costs = [ask(who.spend(ask(who.metered(STEPS)).transfer.id, STEPS)).transfer.amount_micros for who in (payer, other) * 3]
    assert costs == [10_000, 10_000, 10_000, 10_000, 5_000, 5_000]
    assert list(counters_in(payer.ledger).values()) == [(3, 0), (3, 0)]


# --- several processes

RACER = """
import os, sys, threading
from pathlib import Path
from payre_mcp.clock import SystemClock
from payre_mcp.errors import PayreUnavailable
from payre_mcp.ledger.metering import counters_of
from payre_mcp.ledger.model import Capture, Hold, Metered, Spent, Void
from payre_mcp.pricing import Price, Target, Usage
from payre_mcp.storage.embedded import open_embedded

path, consumer, key, developer, calls = Path(sys.argv[1]), *map(int, sys.argv[2:])
ledger, clock = open_embedded(path, SystemClock()), SystemClock()
steps = [(100, "0.01"), (250, "0.005"), (None, "0.002")]
plan = Price.tiered("requests", steps, tiering="graduated", free_quota={"amount": 10}).plan("")
used = Usage({"requests": 1})
metered = Metered(plan, used, counters_of(plan, 1, Target("tool", "forecast"), 0))
new, charged = ledger.ids.new, []

def ask(command):
    while True:
        try:
            return ledger.writer.ask(command).transfer
        except PayreUnavailable:
            continue

def call():
    hold = ask(Hold(new(), 0, consumer, developer, key, 0, "forecast", clock.now_us() + 900_000_000, "", "", metered))
    return ask(Capture(new(), 0, hold.id, consumer, developer, 0, 300, "{}", "", 0, Spent(plan, used)))

def work(many):
    for _ in range(many):
        row = call()
        charged.append(row.amount_micros)
        os.write(1, f"done {row.id}\\n".encode())

print("ready", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=work, args=(calls // 10,)) for _ in range(10)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("sum", sum(charged))
ledger.close()
"""


def go(process: Any) -> None:
    """Let a racer start once it is ready."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_metered_calls_of_four_processes_over_two_steps_and_a_quota_cost_the_exact_schedule(payer: Funded) -> None:
    racers = [start_python(RACER, payer.path, payer.id, payer.record.id, payer.developer_id, 100) for _ in range(4)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        go(racer)
    sums = [int(finish(racer).split()[-1]) for racer in racers]
    assert sum(sums) == 90 * 10_000 + 150 * 5_000 + 150 * 2_000
    assert payer.account().balance_micros == RICHES - sum(sums)
    assert list(counters_in(payer.ledger).values()) == [(400, 0), (400, 0)]
    report = audited(payer.ledger, SystemClock().now_us())
    assert report.violations == []
    assert report.charges == 400


def test_kill_9_in_the_middle_of_metered_calls_keeps_counters_and_charges_in_step(payer: Funded, faults: bool) -> None:
    """What was answered is there, and every counter is the sum of its charges and of its open holds."""
    chance = random.Random(53)
    for _ in range(100 if faults else 3):
        process = start_python(RACER, payer.path, payer.id, payer.record.id, payer.developer_id, 10_000)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        go(process)
        told = [process.stdout.readline() for _ in range(chance.randrange(1, 60))]
        process.kill()
        told += process.communicate(timeout=PATIENCE_S)[0].splitlines()
        answered = {int(line.split()[1]) for line in told if line.startswith("done ")}
        charges = {row.id for row in journal_of(payer.ledger) if row.kind == Kind.CAPTURE}
        assert answered
        assert answered <= charges
        running = len(open_holds_of(payer.ledger))
        assert list(counters_in(payer.ledger).values()) == [(len(charges), running)] * 2
        assert audited(payer.ledger, SystemClock().now_us()).violations == []


# --- ledgers of the first schema

TABLES = ("ledger", "consumer", "developer", "server", "api_key", "account", "earning", "transfer", "hold", "stored_result")


def first_schema(path: Path) -> None:
    """An empty database of revision 0001."""
    engine = make_engine(path)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "payre_mcp.storage:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()


def as_the_first_version_wrote_it(ledger: Path, path: Path) -> None:
    """A ledger of revision 0001 with the rows of this one, which has fixed prices alone."""
    first_schema(path)
    old = connect(path)
    old.execute("attach ? as new", (str(ledger),))
    for table in TABLES:
        columns = ", ".join(row[1] for row in old.execute(f"pragma main.table_info({table})").fetchall())
        assert "terms" not in columns
        old.execute(f"insert into main.{table} ({columns}) select {columns} from new.{table}")
    old.execute("detach new")
    assert migrate.schema_state(old) == SchemaState.OLDER
    old.close()
    (path.parent / "payre.keys").write_bytes((ledger.parent / "payre.keys").read_bytes())


@pytest.fixture
def upgraded(payer: Funded, clock: ManualClock, tmp_path: Path) -> Iterator[tuple[Funded, list[Transfer]]]:
    """A ledger that the first version wrote and this one opened: its consumer, and their holds a, b, c, expired, voided."""
    ask = payer.ledger.writer.ask
    payer.ledger.writer.ask(payer.charge(1_000, key="paid"))
    captured = ask(payer.hold(300)).transfer
    ask(payer.capture(captured.id, 200, result='"kept"'))
    slow = ask(payer.hold(400, key="slow")).transfer
    clock.advance(901)
    payer.ledger.writer.sweep()
    soon = payer.hold(0).expires_at + 10**12
    left = [ask(payer.hold(micros)._replace(expires_at=soon)).transfer for micros in (500, 600, 700)]
    voided = ask(payer.hold(800)).transfer
    ask(payer.void(voided.id))
    (tmp_path / "old").mkdir()
    as_the_first_version_wrote_it(payer.path, tmp_path / "old" / "payre.db")
    ledger = open_embedded(tmp_path / "old" / "payre.db", clock)
    yield payer._replace(ledger=ledger), [*left, slow, voided]
    ledger.close()


Upgraded = tuple[Funded, list[Transfer]]


def test_an_upgraded_ledger_keeps_every_row_and_is_sound(upgraded: Upgraded, payer: Funded, clock: ManualClock) -> None:
    old, (a, b, c, *_) = upgraded
    assert journal_of(old.ledger) == journal_of(payer.ledger)
    assert open_holds_of(old.ledger) == open_holds_of(payer.ledger)
    assert set(open_holds_of(old.ledger)) == {a.id, b.id, c.id}
    assert {row.terms for row in journal_of(old.ledger)} == {""}
    assert old.account() == payer.account()
    assert audited(old.ledger, clock.now_us()).violations == []


def test_keys_of_an_older_ledger_have_no_limits_and_are_each_the_first_of_their_line(upgraded: Upgraded) -> None:
    ledger = upgraded[0].ledger
    (key,) = ledger.directory.list_keys()
    assert (key.limits, key.root_id) == (NO_LIMITS, key.id)
    ledger.directory.set_limits(key.id, SpendingLimits(day=Money(0)))
    with pytest.raises(SpendLimit):
        ledger.writer.ask(upgraded[0].charge(1))


def test_calls_that_were_held_before_an_upgrade_end_after_it(upgraded: Upgraded, clock: ManualClock) -> None:
    old, (a, b, c, slow, voided) = upgraded
    ask = old.ledger.writer.ask
    assert ask(old.capture(a.id, 450)).transfer.amount_micros == 450
    ask(old.void(b.id))
    late = ask(old.capture(slow.id, 400)).transfer
    assert (late.kind, late.ref_id, late.terms) == (Kind.CHARGE, slow.id, "")
    assert ask(old.void(voided.id)).replayed
    assert ask(old.charge(1_000, key="paid")).replayed
    assert set(open_holds_of(old.ledger)) == {c.id}
    assert audited(old.ledger, clock.now_us()).violations == []


def test_an_upgraded_ledger_charges_metered_calls_and_still_refuses_changes(upgraded: Upgraded, clock: ManualClock) -> None:
    old, (a, *_) = upgraded
    ask = old.ledger.writer.ask
    costs = [ask(old.spend(ask(old.metered(STEPS)).transfer.id, STEPS)).transfer.amount_micros for _ in range(3)]
    ask(old.capture(a.id, 1))
    assert costs == [10_000, 10_000, 5_000]
    assert list(counters_in(old.ledger).values()) == [(3, 0)]
    assert audited(old.ledger, clock.now_us()).violations == []


def test_an_upgraded_file_has_the_columns_of_a_new_one_in_their_order(upgraded: Upgraded, ledger_path: Path) -> None:
    shapes: list[dict[str, list[Any]]] = []
    for path in (upgraded[0].path, ledger_path):
        raw = connect(path)
        tables = [name for (name,) in raw.execute("select name from sqlite_master where type = 'table' order by name")]
        shapes.append({name: raw.execute(f"pragma table_info({name})").fetchall() for name in tables})
        raw.close()
    assert shapes[0] == shapes[1]
