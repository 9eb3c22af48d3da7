"""How fast the embedded ledger charges: against a correct SQLModel session per charge, and against the disk itself.

`python tests/benchmarks/ledger.py [--seconds 2] [--quick] [--only NAME]` prints one JSON object. Both sides must first
do the same work, and every ledger is audited after its timed block; a missed target is a result, not an error. Only the
ratios of one run mean something.
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import QueuePool
from sqlmodel import Session, select

sys.path.append(str(Path(__file__).parents[2]))  # last: an installed payre_mcp, or one on PYTHONPATH, is measured instead

from common import REPEATS, Row, fsync_probe, held, print_report, progress

from payre_mcp.clock import SystemClock
from payre_mcp.errors import IdempotencyConflict, InsufficientBalance, InvalidApiKey, PayreError
from payre_mcp.ids import IdFactory
from payre_mcp.ledger.audit import audit
from payre_mcp.ledger.model import Capture, Charge, Command, Done, Hold, Kind, Transfer
from payre_mcp.ledger.state import Answer
from payre_mcp.ledger.writer import HOLD_LIFE_US, Ticket, Writer
from payre_mcp.money import split_fee
from payre_mcp.storage.embedded import open_embedded
from payre_mcp.storage.journal import Snapshot
from payre_mcp.storage.library import connect, prepare, sqlite
from payre_mcp.storage.tables import AccountTable, ApiKeyTable, EarningTable, TransferTable

CONSUMERS, DEVELOPERS = 10_000, 100
FUNDS_MICROS, PRICE_MICROS, FEE_BPS = 10**11, 5_000, 250
PART = 0
FIRST_ID = 1_767_225_600_000 << 20
"""Ids of people and keys are as wide as real ones."""

DIGEST = "5f" * 32
DETAIL = (
    '{"server":"search","kind":"tool","quantities":{"requests":1},'
    f'"args_sha256":"{DIGEST}","result_sha256":"{DIGEST}","idempotency_key_sha256":"{DIGEST}"}}'
)
CLOCK = SystemClock()
IDS = IdFactory(CLOCK, 200)


class Wrong(Exception):
    """The figures would mean nothing: somebody did other work, or the ledger is broken."""


class Callers:
    """The commands of ten thousand consumers, each with a key of its own."""

    def __init__(self) -> None:
        self._random = random.Random()

    def charge(self, amount_micros: int = PRICE_MICROS) -> Charge:
        consumer = FIRST_ID + int(self._random.random() * CONSUMERS)
        developer = FIRST_ID + int(self._random.random() * DEVELOPERS)
        return Charge(
            IDS.new(),
            PART,
            consumer,
            developer,
            consumer,
            amount_micros,
            FEE_BPS,
            "search",
            DETAIL,
            self._key(),
            DIGEST[:32],
        )

    def hold(self) -> Hold:
        charge, expires_at = self.charge(), CLOCK.now_us() + HOLD_LIFE_US
        return Hold(*charge[:6], charge.tool, expires_at, charge.key, charge.fingerprint)

    def capture(self, hold: Transfer) -> Capture:
        return Capture(IDS.new(), PART, hold.id, hold.consumer_id, hold.developer_id, hold.amount_micros, FEE_BPS, DETAIL)

    def _key(self) -> str:
        return f"{self._random.getrandbits(128):032x}"


class SessionPerCharge:
    """The honest opponent: SQLModel as its documentation teaches it, made correct, and spared what is not its fault.

    The write lock is taken first, so nothing read can be stale. The connection stays open, statements stay compiled, and a
    lock stands before the database, because SQLite's own waiting sleeps.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self.engine = sa.create_engine(f"sqlite:///{path}", module=sqlite, poolclass=QueuePool, pool_size=1, max_overflow=0)

        @event.listens_for(self.engine, "connect")
        def _connect(connection: Any, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
            connection.isolation_level = None
            prepare(connection)

        @event.listens_for(self.engine, "begin")
        def _begin(connection: sa.Connection) -> None:  # pyright: ignore[reportUnusedFunction]
            connection.exec_driver_sql("begin immediate")

    def charge(self, command: Charge) -> TransferTable:
        """One charge in one transaction, on disk when this returns; the same checks as the kernel's."""
        with self._lock, Session(self.engine, expire_on_commit=False) as session, session.begin():
            paid = select(TransferTable).where(
                TransferTable.part == command.part,
                TransferTable.consumer_id == command.consumer_id,
                TransferTable.developer_id == command.developer_id,
                TransferTable.key == command.key,
                TransferTable.slot == 0,
                sa.text("key <> ''"),  # spelled out, or SQLite may not use the partial index
            )
            first = session.exec(paid).first()
            if first is not None and first.fingerprint != command.fingerprint:
                raise IdempotencyConflict("this key was used for something else")
            if first is not None:
                return first
            key = session.get(ApiKeyTable, command.api_key_id)
            account = session.get(AccountTable, (command.part, command.consumer_id))
            now = CLOCK.now_us()
            if account is None or key is None or key.revoked_at or 0 < key.expires_at <= now:
                raise InvalidApiKey("revoked")
            available = account.balance_micros - account.held_micros
            if available < command.amount_micros:
                raise InsufficientBalance(
                    price_micros=command.amount_micros,
                    balance_micros=available,
                    shortfall_micros=command.amount_micros - available,
                )
            fee, net = split_fee(command.amount_micros, command.fee_bps)
            account.balance_micros -= command.amount_micros
            earning = session.get(EarningTable, (command.part, command.developer_id))
            if earning is None:
                earning = EarningTable(part=command.part, developer_id=command.developer_id, earned_micros=0, fees_micros=0)
                session.add(earning)
            earning.earned_micros += net
            earning.fees_micros += fee
            row = TransferTable(
                part=command.part,
                id=command.id,
                kind=int(Kind.CHARGE),
                consumer_id=command.consumer_id,
                developer_id=command.developer_id,
                ref_id=0,
                amount_micros=command.amount_micros,
                fee_micros=fee,
                fee_bps=command.fee_bps,
                held_micros=0,
                key=command.key,
                slot=0,
                fingerprint=command.fingerprint,
                api_key_id=command.api_key_id,
                tool=command.tool,
                created_at=now,
                expires_at=0,
                detail=command.detail,
                prev_id=account.last_charge_id,
            )
            account.last_charge_id = command.id
            session.add(row)
            return row


class Inbox:
    """A mailbox as an event loop's: one wake-up per batch."""

    def __init__(self) -> None:
        self.answered: SimpleQueue[Sequence[tuple[Ticket, Answer]]] = SimpleQueue()

    def deliver(self, answered: Sequence[tuple[Ticket, Answer]]) -> None:
        self.answered.put(answered)


def drive(
    writer: Writer, many: int, seconds: float, begin: Callable[[], Command], follow: Callable[[Done], Command | None]
) -> float:
    """Keep `many` callers in flight; `follow` is a caller's next command, or None where it is done. Returns done per second."""
    inbox, finished, waiting = Inbox(), 0, many
    started = time.perf_counter()
    for _ in range(many):
        writer.submit(begin(), Ticket(inbox))
    while waiting:
        answered = inbox.answered.get()
        more = time.perf_counter() - started < seconds
        for _, answer in answered:
            if not isinstance(answer, Done) or answer.replayed:
                raise Wrong(f"a caller was refused: {answer!r}")
            command = follow(answer)
            if command is None:
                finished += 1
                command = begin() if more else None
            if command is None:
                waiting -= 1
            else:
                writer.submit(command, Ticket(inbox))
    return finished / (time.perf_counter() - started)


def charges(path: Path, many: int, seconds: float) -> float:
    """Charges per second through our writer."""
    callers = Callers()
    with _opened(path) as writer:
        return drive(writer, many, seconds, callers.charge, lambda _: None)


def pairs(path: Path, many: int, seconds: float) -> float:
    """Holds, each with its capture, per second through our writer."""
    callers = Callers()
    with _opened(path) as writer:
        return drive(
            writer, many, seconds, callers.hold,
            lambda done: callers.capture(done.transfer) if done.transfer.kind == Kind.HOLD else None,
        )  # fmt: skip


def sessions(path: Path, many: int, seconds: float) -> float:
    """Charges per second through the opponent, in as many threads."""
    callers, opponent = Callers(), SessionPerCharge(path)
    opponent.charge(callers.charge())
    done, errors = count(), list[Exception]()

    def work() -> None:
        try:
            while time.perf_counter() - started < seconds:
                opponent.charge(callers.charge())
                next(done)
        except Exception as error:  # noqa: BLE001 - reported below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(many)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    opponent.engine.dispose()
    if errors:
        raise Wrong(f"the opponent failed: {errors[0]!r}")
    return next(done) / took


@contextmanager
def _opened(path: Path) -> Generator[Writer]:
    ledger = open_embedded(path, CLOCK)
    try:
        ledger.writer.ask(Callers().charge())
        yield ledger.writer
    finally:
        ledger.close()


class Bench:
    """The rows. Every cell runs on a ledger file of its own, the two sides in turns."""

    def __init__(self, folder: Path, seconds: float, big: int) -> None:
        self._folder, self._seconds, self._big = folder, seconds, big
        self._template = folder / "template.db"
        make_ledger(self._template)

    def check_same_work(self) -> None:
        """The same charges on both sides leave the same rows, and both refuse the same."""
        progress("checking that both sides do the same work")
        callers = Callers()
        orders = [callers.charge() for _ in range(200)]
        again, too_much = orders[0]._replace(id=1), callers.charge(FUNDS_MICROS + 1)
        conflict = again._replace(fingerprint="other")
        with self._ledger() as path:
            ledger, inbox = open_embedded(path, CLOCK), Inbox()
            for order in orders:
                ledger.writer.submit(order, Ticket(inbox))
            waiting = len(orders)
            while waiting:
                waiting -= len(inbox.answered.get())
            ours = _refusals(ledger.writer.ask, conflict, too_much)
            ours.append(str(ledger.writer.ask(again).transfer.id))
            ledger.close()
            ours_written = contents(path)
        with self._ledger() as path:
            opponent = SessionPerCharge(path)
            for order in orders:
                opponent.charge(order)
            theirs = _refusals(opponent.charge, conflict, too_much)
            theirs.append(str(opponent.charge(again).id))
            with opponent.engine.connect() as connection:
                durable = [connection.exec_driver_sql(f"pragma {each}").scalar() for each in ("journal_mode", "synchronous")]
            opponent.engine.dispose()
            theirs_written = contents(path)
        if ours != theirs or ours[:2] != ["IdempotencyConflict", "InsufficientBalance"]:
            raise Wrong(f"the two sides refuse or replay differently: {ours} and {theirs}")
        if ours_written != theirs_written or len(ours_written["transfer"]) != CONSUMERS + len(orders):
            raise Wrong("the two sides wrote different rows")
        if durable not in (["wal", 2], ["truncate", 2]):
            raise Wrong(f"the opponent commits with {durable}")

    def fsync(self) -> Row:
        disks = [fsync_probe(self._folder, self._seconds) for _ in range(REPEATS)]
        disk = statistics.median_low(disks)
        return Row("fsync", "4 KiB appended and synced", round(disk.per_s, 1), "1/s", cells=disk._asdict())

    def charge_1(self) -> Row:
        return self._against_sessions("charge_1", 1, 8)

    def charge_64(self) -> Row:
        return self._against_sessions("charge_64", 64, 60)

    def charge_256(self) -> Row:
        return self._against_sessions("charge_256", 256, 100)

    def charge_256_fsync(self) -> Row:
        ours, disk = self._in_turns(lambda: self._cell(charges, 256), lambda: fsync_probe(self._folder, self._seconds).per_s)
        cells = {"charges_per_s": ours, "fsync_per_s": disk}
        return held("charge_256_fsync", "charges/s at 256 against syncs/s of the disk", ours / disk, "at least", 4, cells)

    def pair_1(self) -> Row:
        return self._pair("pair_1", 1, 1.6)

    def pair_256(self) -> Row:
        return self._pair("pair_256", 256, 2.0)

    def cpu_thread_64(self) -> Row:
        alone, beside = self._in_turns(lambda: self._cell(charges, 64), self._beside_cpu_thread)
        cells = {"alone_per_s": alone, "beside_per_s": beside}
        return Row(
            "cpu_thread_64", "64 at once beside a CPU-bound thread, against alone", round(beside / alone, 4), "x", cells=cells
        )

    def million(self) -> Row:
        big = self._big_ledger()
        full, empty = self._in_turns(lambda: charges(big, 256, self._seconds), lambda: self._cell(charges, 256))
        check(big)
        cells = {"charges_in_ledger": self._big, "full_per_s": full, "empty_per_s": empty}
        return held("million", "charges/s at 256 on a full ledger against an empty one", full / empty, "at least", 0.7, cells)

    def audit(self) -> Row:
        big, started = self._big_ledger(), time.perf_counter()
        rows = check(big)
        return Row("audit", "audit of the full ledger", round(time.perf_counter() - started, 2), "s", cells={"rows": rows})

    def _against_sessions(self, name: str, many: int, target: float) -> Row:
        ours, theirs = self._in_turns(lambda: self._cell(charges, many), lambda: self._cell(sessions, many))
        cells = {"ours_per_s": ours, "sqlmodel_per_s": theirs}
        return held(
            name, f"charges/s with {many} at once against a SQLModel session per charge", ours / theirs, "at least", target, cells
        )

    def _pair(self, name: str, many: int, target: float) -> Row:
        charge, pair = self._in_turns(lambda: self._cell(charges, many), lambda: self._cell(pairs, many))
        cells = {"charges_per_s": charge, "pairs_per_s": pair}
        return held(name, f"cost of hold and capture against one charge, {many} at once", charge / pair, "at most", target, cells)

    def _in_turns(self, one: Callable[[], float], other: Callable[[], float]) -> tuple[float, float]:
        """The median of each, run in turns, so that a slow spell of the machine hits both."""
        taken = [(one(), other()) for _ in range(REPEATS)]
        ones, others = zip(*taken, strict=True)
        return round(statistics.median(ones), 1), round(statistics.median(others), 1)

    def _cell(self, side: Callable[[Path, int, float], float], many: int) -> float:
        with self._ledger() as path:
            rate = side(path, many, self._seconds)
            check(path)
        return rate

    def _beside_cpu_thread(self) -> float:
        stop = threading.Event()

        def burn() -> None:
            while not stop.is_set():
                sum(number * number for number in range(1000))

        thread = threading.Thread(target=burn)
        thread.start()
        try:
            return self._cell(charges, 64)
        finally:
            stop.set()
            thread.join()

    @contextmanager
    def _ledger(self) -> Generator[Path]:
        """A funded ledger without charges, for one cell."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        path = folder / "payre.db"
        shutil.copy(self._template, path)
        _sync(path)
        try:
            yield path
        finally:
            shutil.rmtree(folder)

    def _big_ledger(self) -> Path:
        path = self._folder / "big" / "payre.db"
        if not path.exists():
            path.parent.mkdir()
            shutil.copy(self._template, path)
            progress(f"writing a ledger of {self._big:,} charges")
            fill(path, self._big)
        return path


def make_ledger(path: Path) -> None:
    """A ledger with funded consumers, every one with a key, and nothing charged yet."""
    open_embedded(path, CLOCK).close()
    now = CLOCK.now_us()
    people = range(FIRST_ID, FIRST_ID + CONSUMERS)
    top_ups = [
        Transfer(
            PART, IDS.new(), int(Kind.TOP_UP), consumer, 0, 0, FUNDS_MICROS, 0, 0, 0, f"{consumer:032x}", 0, "", 0, "", now, 0, ""
        )
        for consumer in people
    ]
    keys = [(each, each.to_bytes(32), "consumer", "test", each, PART, 0, "", "0000", now, 0, 0) for each in people]
    with _bulk(path) as connection:
        connection.executemany("insert into consumer values (?, ?, ?)", [(each, PART, "a consumer") for each in people])
        connection.executemany("insert into account values (?, ?, ?, 0, 0)", [(PART, each, FUNDS_MICROS) for each in people])
        connection.executemany(f"insert into api_key values ({_marks(12)})", keys)
        connection.executemany(f"insert into transfer values ({_marks(len(Transfer._fields))})", top_ups)


def fill(path: Path, many: int) -> None:
    """Write charges straight into the tables, in the order and with the page splits that real ones would cause."""
    callers, now, last = Callers(), CLOCK.now_us(), dict[int, int]()
    fee, net = split_fee(PRICE_MICROS, FEE_BPS)

    def row() -> Transfer:
        order = callers.charge()
        before, last[order.consumer_id] = last.get(order.consumer_id, 0), order.id
        return Transfer(
            PART, order.id, int(Kind.CHARGE), order.consumer_id, order.developer_id, 0, order.amount_micros, fee, FEE_BPS, 0,
            order.key, 0, order.fingerprint, order.api_key_id, order.tool, now, 0, order.detail, before,
        )  # fmt: skip

    with _bulk(path) as connection:
        connection.executemany(f"insert into transfer values ({_marks(len(Transfer._fields))})", (row() for _ in range(many)))
        spent = "select consumer_id, sum(amount_micros) as spent from transfer where kind = 1 group by consumer_id"
        connection.execute(
            f"update account set balance_micros = balance_micros - s.spent from ({spent}) s where s.consumer_id = account.id"
        )
        connection.executemany(
            "update account set last_charge_id = ? where part = ? and id = ?", [(each, PART, who) for who, each in last.items()]
        )
        connection.execute(
            f"insert into earning select {PART}, developer_id, count(*) * {net}, count(*) * {fee} from transfer "
            "where kind = 1 group by developer_id"
        )


def contents(path: Path) -> dict[str, list[object]]:
    """All that charges write, without the moment."""
    connection = connect(path, read_only=True)
    columns = ", ".join(name for name in Transfer._fields if name != "created_at")
    found = {
        "transfer": connection.execute(f"select {columns} from transfer order by id").fetchall(),
        "account": connection.execute("select * from account order by id").fetchall(),
        "earning": connection.execute("select * from earning order by developer_id").fetchall(),
    }
    connection.close()
    return found


def check(path: Path) -> int:
    """Audit a ledger; returns how many rows it has."""
    snapshot = Snapshot(path)
    report = audit(snapshot, CLOCK.now_us())
    snapshot.close()
    if not report.ok or not report.charges or report.open_holds:
        raise Wrong(f"the audit of {path} found {report}")
    return report.transfers


def _refusals(charge: Callable[[Charge], object], *orders: Charge) -> list[str]:
    found = list[str]()
    for order in orders:
        try:
            charge(order)
        except PayreError as error:
            found.append(type(error).__name__)
    return found


@contextmanager
def _bulk(path: Path) -> Generator[Any]:
    """A connection that writes everything at once, and leaves no write behind for the timed part to wait for."""
    connection = connect(path)
    connection.execute("pragma cache_size = -1000000")
    connection.execute("begin immediate")
    yield connection
    connection.execute("commit")
    connection.close()
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _marks(width: int) -> str:
    return ", ".join("?" * width)


ROWS = (
    Bench.fsync, Bench.charge_1, Bench.charge_64, Bench.charge_256, Bench.charge_256_fsync,
    Bench.pair_1, Bench.pair_256, Bench.cpu_thread_64, Bench.million, Bench.audit,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each timed cell runs")
    parser.add_argument("--quick", action="store_true", help="100,000 charges in the full ledger instead of 1,000,000")
    parser.add_argument("--only", choices=[row.__name__ for row in ROWS], help="measure one row")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="payre-benchmark-") as folder:
        bench, rows = Bench(Path(folder), options.seconds, 100_000 if options.quick else 1_000_000), list[Row]()
        try:
            bench.check_same_work()
            for measure in ROWS:
                if options.only in (None, measure.__name__):
                    progress(f"measuring {measure.__name__}")
                    rows.append(measure(bench))
                    progress(f"  {rows[-1].figure} {rows[-1].unit} ({rows[-1].target})")
        except Wrong as error:
            sys.exit(f"no figures: {error}")
    print_report(options.seconds, rows)


if __name__ == "__main__":
    main()
