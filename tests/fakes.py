"""Stand-ins that several tests share: a store that a test may hold back, break and count; mailboxes; funded consumers.

Nothing here replaces our own code: `ScriptedStore` runs the real store between its hooks.
"""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from payre_mcp.directory import KeyRecord
from payre_mcp.keys import ApiKey, Role
from payre_mcp.ledger.audit import AuditReport, audit
from payre_mcp.ledger.lanes import LedgerWriter
from payre_mcp.ledger.metering import counters_of
from payre_mcp.ledger.model import Account, Capture, Charge, Credit, Done, Hold, Metered, OpenHold, Spent, TopUp, Transfer, Void
from payre_mcp.ledger.state import Answer, CounterKey, CreditKey, Decision, Needs, State
from payre_mcp.ledger.store import Store
from payre_mcp.ledger.writer import HOLD_LIFE_US, Ticket
from payre_mcp.pricing import Plan, Target, Usage
from payre_mcp.receipts import KeyRing
from payre_mcp.storage.embedded import EmbeddedLedger, snapshot_of
from payre_mcp.storage.ledger import OpenLedger
from payre_mcp.storage.snapshot import Snapshot

PATIENCE_S = 20.0
"""How long a test waits for what must happen; only a failing test ever waits so long."""

ROOT = Path(__file__).parents[1]
FEE_BPS = 300
RING = KeyRing.generate()
"""Receipt keys of ledgers that keep none beside them."""

PARTS = 4
"""Of the tests' ledgers on PostgreSQL: enough to tell apart, few to audit."""

ONE_REQUEST: Mapping[str, int] = MappingProxyType({"requests": 1})


class Gate:
    """A point where a thread waits until the test lets it pass. Once open it stays open."""

    def __init__(self) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._opened.wait(PATIENCE_S), "nobody opened the gate"

    def wait_reached(self) -> None:
        """Block until a thread stands before the gate."""
        assert self._reached.wait(PATIENCE_S), "nobody came to the gate"

    def open(self) -> None:
        """Let everyone pass from now on."""
        self._opened.set()


def _pass() -> None:
    pass


class ScriptedStore:
    """A real store with a hook at every step; a hook may wait or raise in the writer's thread."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.on_begin: Callable[[], None] = _pass
        self.on_apply: Callable[[Decision], None] = lambda decision: None
        self.before_commit: Callable[[], None] = _pass
        self.after_commit: Callable[[], None] = _pass
        self.on_expired: Callable[[], None] = _pass
        self.begun: list[bool] = []
        """For every transaction, whether it was durable."""
        self.looked_up: list[list[CounterKey]] = []
        """The counters of limits that were asked for."""
        self.credits_looked_up = 0
        self.committed: list[Decision] = []
        self.closed = False
        self._decision = Decision()

    def begin(self, *, durable: bool) -> None:
        self.on_begin()
        self.begun.append(durable)
        self.inner.begin(durable=durable)

    def load(self, needs: Needs) -> State:
        return self.inner.load(needs)

    def load_counters(self, counters: Sequence[CounterKey]) -> dict[CounterKey, tuple[int, int]]:
        self.looked_up.append(list(counters))
        return self.inner.load_counters(counters)

    def load_credits(self, wanted: Sequence[CreditKey]) -> dict[CreditKey, Credit]:
        self.credits_looked_up += 1
        return self.inner.load_credits(wanted)

    def apply(self, decision: Decision) -> None:
        self.on_apply(decision)
        self._decision = decision
        self.inner.apply(decision)

    def commit(self) -> None:
        self.before_commit()
        self.inner.commit()
        self.committed.append(self._decision)
        self.after_commit()

    def rollback(self) -> None:
        self.inner.rollback()

    def expired(self, now: int, limit: int) -> list[OpenHold]:
        self.on_expired()
        return self.inner.expired(now, limit)

    def prune(self, now: int) -> None:
        self.inner.prune(now)

    def close(self) -> None:
        self.closed = True
        self.inner.close()


class NeverDurable:
    """The mistake that the power-cut test must notice: no commit waits for the disk, a capture's neither."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.load, self.load_counters, self.load_credits = inner.load, inner.load_counters, inner.load_credits
        self.apply, self.commit = inner.apply, inner.commit
        self.rollback, self.expired, self.prune, self.close = inner.rollback, inner.expired, inner.prune, inner.close

    def begin(self, *, durable: bool) -> None:
        self._inner.begin(durable=False)


class Inbox:
    """A mailbox that keeps what it is given, by the order of arrival."""

    def __init__(self, on_delivery: Callable[[Sequence[Answer]], None] = lambda answers: None) -> None:
        self._on_delivery = on_delivery
        self._arrived = threading.Condition()
        self.deliveries: list[list[Answer]] = []
        self._answers: dict[Ticket, Answer] = {}

    def deliver(self, answered: Sequence[tuple[Ticket, Answer]]) -> None:
        self._on_delivery([answer for _, answer in answered])
        with self._arrived:
            self.deliveries.append([answer for _, answer in answered])
            self._answers.update(answered)
            self._arrived.notify_all()

    def ticket(self) -> Ticket:
        """A claim to an answer that comes here."""
        return Ticket(self)

    def answer(self, ticket: Ticket) -> Answer:
        """Block until this ticket is answered."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: ticket in self._answers, PATIENCE_S), "a caller was never answered"
            return self._answers[ticket]

    def answers(self, tickets: Sequence[Ticket]) -> list[Answer]:
        """Block until all of these are answered."""
        return [self.answer(ticket) for ticket in tickets]


class Funded(NamedTuple):
    """A consumer with money, their key, and the developer whom they pay; makes the commands of their calls."""

    ledger: OpenLedger
    key: ApiKey
    record: KeyRecord
    developer_id: int

    @property
    def path(self) -> Path:
        """The file of the ledger."""
        return file_of(self.ledger)

    @property
    def id(self) -> int:
        return self.record.owner_id

    def start(self) -> tuple[int, int, int, int, int]:
        """What a hold and a charge begin with: a new id, the part, consumer, developer and key."""
        return self.ledger.ids.new(), self.record.part, self.id, self.developer_id, self.record.id

    def hold(self, micros: int, *, key: str = "", fingerprint: str = "same", tool: str = "forecast") -> Hold:
        expires_at = self.record.created_at + HOLD_LIFE_US
        return Hold(*self.start(), micros, tool, expires_at, key, fingerprint)

    def metered(
        self, plan: Plan, known: Mapping[str, int] = ONE_REQUEST, *, name: str = "forecast", key: str = "", at: int = 0
    ) -> Hold:
        """A hold that the ledger prices, in the counters' windows of the moment `at`."""
        terms = Metered(plan, Usage(known), counters_of(plan, 1, Target("tool", name), at))
        return self.hold(0, key=key, tool=name)._replace(metered=terms)

    def spend(self, hold_id: int, plan: Plan, used: Mapping[str, int] = ONE_REQUEST) -> Capture:
        """The capture of a metered hold."""
        return self.capture(hold_id, 0)._replace(spent=Spent(plan, Usage(used)))

    def capture(self, hold_id: int, micros: int, *, result: str = "") -> Capture:
        number, part, *_ = self.start()
        return Capture(number, part, hold_id, self.id, self.developer_id, micros, FEE_BPS, "{}", result, HOLD_LIFE_US)

    def void(self, hold_id: int) -> Void:
        return Void(self.ledger.ids.new(), self.record.part, hold_id, self.id)

    def charge(self, micros: int, *, key: str = "", fingerprint: str = "same", tool: str = "forecast") -> Charge:
        return Charge(*self.start(), micros, FEE_BPS, tool, "{}", key, fingerprint)

    def top_up(self, micros: int, *, key: str) -> TopUp:
        return TopUp(self.ledger.ids.new(), self.record.part, self.id, micros, key)

    def account(self) -> Account:
        """The account as it is committed now."""
        account = self.ledger.journal.account(self.record.part, self.id)
        assert account is not None
        return account

    def row(self, transfer_id: int) -> Transfer | None:
        """A row of the journal, if it is committed."""
        return self.ledger.journal.transfer(self.record.part, transfer_id)


def fund(ledger: OpenLedger, micros: int, *, writer: LedgerWriter | None = None, name: str = "ada") -> Funded:
    """A new consumer with a balance of `micros`."""
    directory = ledger.directory
    consumer = directory.create_consumer(name)
    key = directory.create_key(Role.CONSUMER, consumer.id)
    record = directory.find_key(key.digest)
    assert record is not None
    funded = Funded(ledger, key, record, directory.sole_developer().id)
    if micros:
        (writer or ledger.writer).ask(funded.top_up(micros, key=f"seed {consumer.id}"))
    return funded


def file_of(ledger: OpenLedger) -> Path:
    """The file of a ledger that is one."""
    assert isinstance(ledger, EmbeddedLedger)
    return ledger.path


Where = Path | OpenLedger
"""A ledger that may be open elsewhere, by its file, or one that is open here."""


def snapshots(where: Where) -> Iterator[Snapshot]:
    """Every part of a ledger as it stands now, one after the other."""
    if isinstance(where, Path):
        with snapshot_of(where) as snapshot:
            yield snapshot
    else:
        for part in range(where.parts):
            with where.snapshot(part) as snapshot:
                yield snapshot


def journal_of(where: Where) -> list[Transfer]:
    """Every row of the journal, in order of id."""
    return sorted((row for part in snapshots(where) for row in part.transfers()), key=lambda row: row.id)


def open_holds_of(where: Where) -> dict[int, OpenHold]:
    """Every open hold by id."""
    return {hold.id: hold for part in snapshots(where) for hold in part.open_holds()}


def counters_in(where: Where) -> dict[tuple[int, str, int], tuple[int, int]]:
    """(captured, reserved) of every counter, by consumer, name and start of its window."""
    rows = [row for part in snapshots(where) for row in part.counters()]
    return {(consumer, name, start): (taken, kept) for _, consumer, name, start, taken, kept in rows}


def audited(where: Where, now: int) -> AuditReport:
    """The audit of a ledger, clean or not."""
    report = AuditReport()
    for part in snapshots(where):
        report.add(audit(part, now))
    return report


def done(answer: Answer) -> Done:
    """The answer of a command that must have taken effect."""
    assert isinstance(answer, Done), answer
    return answer


def code_of(answer: Answer) -> str:
    """The error code of an answer; `done` where there is none."""
    return getattr(answer, "code", "done")


def start_python(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Run a script in a process of its own, with the package under test importable."""
    return subprocess.Popen(
        [sys.executable, "-B", "-c", script, *map(str, arguments)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], *, tell: str | None = None) -> str:
    """Wait for a process that must succeed; its output."""
    out, err = process.communicate(tell, timeout=PATIENCE_S * 2)
    assert process.returncode == 0, err
    return out
