"""A PostgreSQL that dies under load, and one whose standby takes over: nothing answered is lost, nothing is done twice.

Eight callers with fixed idempotency keys charge, hold, capture and void. Whoever hears that it is not known what happened
asks again with the same key until it is known. `reference/reliability.md` section 6, faults 7 and 9.
"""

import random
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress

import psycopg
import pytest

from payre_mcp.clock import SystemClock
from payre_mcp.errors import HoldNotOpen, HoldUnknown, PayreUnavailable
from payre_mcp.storage.server import ServerLedger, open_server
from tests.fakes import PARTS, PATIENCE_S, RING, Funded, audited, fund, journal_of
from tests.postgres_server import PostgresServer, binaries

SEED = 77
CALLERS = 8

pytestmark = pytest.mark.skipif(binaries() is None, reason="no PostgreSQL of our own to kill")


class Crowd:
    """Callers who never give up, and what they were told."""

    def __init__(self, payers: list[Funded]) -> None:
        self._payers = payers
        self._stop = threading.Event()
        self.answered: set[int] = set()
        self.keys: list[tuple[Funded, str]] = []
        self.unknown = 0
        self.failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(CALLERS)]

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S * 3)
        assert not any(thread.is_alive() for thread in self._threads), "a caller was never answered"

    def wait_for_work(self, more: int) -> None:
        """Block until so many more acts were answered."""
        aim, deadline = len(self.answered) + more, time.monotonic() + PATIENCE_S
        while len(self.answered) < aim:
            assert time.monotonic() < deadline, (self.failures, len(self.answered), aim)
            self._stop.wait(0.005)

    def _work(self, number: int) -> None:
        payer, n = self._payers[number % len(self._payers)], 0
        try:
            while not self._stop.is_set():
                n += 1
                key = f"{number}-{n}"
                self.keys.append((payer, key))
                writer = payer.ledger.writer
                self.answered.add(self._paid(payer, key))
                with suppress(PayreUnavailable, HoldUnknown, HoldNotOpen):
                    hold = writer.ask(payer.hold(5)).transfer
                    if n % 3:
                        self.answered.add(writer.ask(payer.capture(hold.id, 4)).transfer.id)
                    else:
                        writer.ask(payer.void(hold.id))
                    self.answered.add(hold.id)
        except BaseException as failure:  # noqa: BLE001 - shown by the test
            self.failures.append(failure)

    def _paid(self, payer: Funded, key: str) -> int:
        """The charge of this key, asked for until it is known."""
        while True:
            try:
                return payer.ledger.writer.ask(payer.charge(3, key=key)).transfer.id
            except PayreUnavailable:
                self.unknown += 1


def check(ledger: ServerLedger, crowd: Crowd) -> None:
    """What must hold after every fault."""
    assert crowd.failures == []
    rows = journal_of(ledger)
    lost = crowd.answered - {row.id for row in rows}
    assert not lost
    paid = {(row.consumer_id, row.key): 0 for row in rows if row.key}
    for row in rows:
        if row.key:
            paid[row.consumer_id, row.key] += row.slot == 0
    assert {paid[payer.id, key] for payer, key in crowd.keys} == {1}
    report = audited(ledger, SystemClock().now_us())
    assert report.ok, report.violations


@contextmanager
def opened(url: str) -> Generator[tuple[ServerLedger, list[Funded]]]:
    ledger = open_server(url, SystemClock(), ring=RING, parts=PARTS)
    try:
        yield ledger, [fund(ledger, 10**9) for _ in range(3)]
    finally:
        ledger.close()


def test_killing_the_server_and_its_connections_under_load_loses_and_doubles_nothing(faults: bool) -> None:
    chance, server = random.Random(SEED), PostgresServer(safe=True).start()

    def kill() -> None:
        server.kill()
        server.start()

    def crash() -> None:
        server.stop("immediate")
        server.start()

    def cut() -> None:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'payre'")

    try:
        with opened(server.url()) as (ledger, payers):
            with Crowd(payers) as crowd:
                for n in range(40 if faults else 3):
                    crowd.wait_for_work(chance.randrange(20, 400))
                    (kill, crash, cut)[n % 3]()
                crowd.wait_for_work(50)
            ledger.writer.sweep()
            check(ledger, crowd)
            assert sum(each.account().held_micros for each in payers) == 0
    finally:
        server.remove()


def test_a_standby_that_takes_over_has_everything_that_was_answered(faults: bool) -> None:
    """Two clusters; the primary is killed, its standby promoted, and a new standby is made of what was killed."""
    replicated = {"synchronous_standby_names": "*", "synchronous_commit": "on", "wal_level": "replica"}
    chance, servers = random.Random(SEED), [PostgresServer(safe=True, settings=replicated).start()]
    try:
        servers.append(PostgresServer(safe=True, settings=replicated, of=servers[0]).start())
        for _ in range(10 if faults else 1):
            primary, standby = servers
            hosts = ",".join(f"127.0.0.1:{each.port}" for each in servers)
            url = f"postgresql://payre@{hosts}/postgres?target_session_attrs=read-write"
            with opened(url) as (ledger, payers):
                with Crowd(payers) as crowd:
                    crowd.wait_for_work(chance.randrange(50, 300))
                    primary.kill()
                    standby.promote()
                    servers = [standby, PostgresServer(safe=True, settings=replicated, of=standby).start()]
                    primary.remove()
                    crowd.wait_for_work(50)
                ledger.writer.sweep()
                check(ledger, crowd)
    finally:
        for each in servers:
            each.remove()
