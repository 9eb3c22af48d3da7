"""How fast the embedded ledger charges: against a correct SQLModel session per charge, and against the disk itself.

`python tests/benchmarks/ledger.py [--seconds 2] [--quick] [--only NAME]` prints one JSON object. Both sides must first
do the same work, and every ledger is audited after its timed block; a missed target is a result, not an error. Only the
ratios of one run mean something.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # last: an installed payre_mcp, or one on PYTHONPATH, is measured instead

from callers import CLOCK, Callers, SameWork, clean, compare, drive_charges, drive_pairs, race, seeds
from common import REPEATS, Row, Wrong, fsync_probe, held, in_turns, print_report, progress
from opponents import SqliteSessions

from payre_mcp.ledger.audit import audit
from payre_mcp.storage.embedded import EmbeddedLedger, open_embedded, snapshot_of
from payre_mcp.storage.library import connect


def charges(path: Path, many: int, seconds: float) -> float:
    """Charges per second through our writer."""
    with _opened(path) as ledger:
        return drive_charges(ledger.writer, many, seconds, Callers())


def pairs(path: Path, many: int, seconds: float) -> float:
    """Holds, each with its capture, per second through our writer."""
    with _opened(path) as ledger:
        return drive_pairs(ledger.writer, many, seconds, Callers())


def sessions(path: Path, many: int, seconds: float) -> float:
    """Charges per second through the opponent, in as many threads."""
    callers, opponent = Callers(), SqliteSessions(path)
    opponent.charge(callers.charge())
    try:
        return race(opponent.charge, many, seconds, callers)
    finally:
        opponent.close()


@contextmanager
def _opened(path: Path) -> Generator[EmbeddedLedger]:
    ledger = open_embedded(path, CLOCK)
    try:
        ledger.writer.ask(Callers().charge())
        yield ledger
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
        work, told = SameWork(parts=1), dict[str, list[object]]()
        with self._ledger() as path:
            ledger = open_embedded(path, CLOCK)
            told["ours"] = work.of_writer(ledger)
            ledger.close()
        with self._ledger() as path:
            ledger, opponent = open_embedded(path, CLOCK), SqliteSessions(path)
            told["a session"] = work.of_opponent(opponent.charge, ledger)
            durability = opponent.durability()
            opponent.close()
            ledger.close()
        compare(told)
        if durability not in {("wal", 2), ("truncate", 2)}:
            raise Wrong(f"the opponent commits with {durability}")

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
        first, second = in_turns(REPEATS, one, other)
        return first, second

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
            progress(f"writing a ledger of {self._big:,} charges")
            make_ledger(path, self._big)
        return path


def make_ledger(path: Path, charges: int = 0) -> None:
    """A ledger with funded consumers, written in the order and with the page splits that real charges would cause."""
    open_embedded(path, CLOCK).close()
    connection = connect(path)
    connection.execute("pragma cache_size = -1000000")
    connection.execute("begin immediate")
    for seed in seeds(1, charges):
        marks = ", ".join("?" * len(seed.columns))
        connection.executemany(f"insert into {seed.table} ({', '.join(seed.columns)}) values ({marks})", seed.rows)
    connection.execute("commit")
    connection.close()
    _sync(path)  # leave no write behind for the timed part to wait for


def check(path: Path) -> int:
    """Audit a ledger; returns how many rows it has."""
    with snapshot_of(path) as snapshot:
        return clean(audit(snapshot, CLOCK.now_us()), path).transfers


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


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
