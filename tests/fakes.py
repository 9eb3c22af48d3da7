"""Stand-ins that several tests share: a store that a test may hold back, break and count; mailboxes; funded consumers.

Nothing here replaces our own code: `ScriptedStore` runs the real store between its hooks.
"""

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from payre_mcp.directory import KeyRecord
from payre_mcp.keys import ApiKey, Role
from payre_mcp.ledger.audit import AuditReport, audit
from payre_mcp.ledger.metering import counters_of
from payre_mcp.ledger.model import Account, Capture, Charge, Done, Hold, Metered, OpenHold, Spent, TopUp, Transfer, Void
from payre_mcp.ledger.state import Answer, Decision, Needs, State
from payre_mcp.ledger.store import Store
from payre_mcp.ledger.writer import HOLD_LIFE_US, Ticket, Writer
from payre_mcp.pricing import Plan, Target, Usage
from payre_mcp.storage.embedded import EmbeddedLedger
from payre_mcp.storage.journal import Snapshot

PATIENCE_S = 20.0
"""How long a test waits for what must happen; only a failing test ever waits so long."""

ROOT = Path(__file__).parents[1]
FEE_BPS = 300
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
        self.committed: list[Decision] = []
        self.closed = False
        self._decision = Decision()

    def begin(self, *, durable: bool) -> None:
        self.on_begin()
        self.begun.append(durable)
        self.inner.begin(durable=durable)

    def load(self, needs: Needs) -> State:
        return self.inner.load(needs)

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
        self.load, self.apply, self.commit = inner.load, inner.apply, inner.commit
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

    ledger: EmbeddedLedger
    key: ApiKey
    record: KeyRecord
    developer_id: int

    @property
    def id(self) -> int:
        return self.record.owner_id

    def hold(self, micros: int, *, key: str = "", fingerprint: str = "same", tool: str = "forecast") -> Hold:
        expires_at = self.record.created_at + HOLD_LIFE_US
        return Hold(
            self.ledger.ids.new(), 0, self.id, self.developer_id, self.record.id, micros, tool, expires_at, key, fingerprint
        )

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
        return Capture(self.ledger.ids.new(), 0, hold_id, self.id, self.developer_id, micros, FEE_BPS, "{}", result, HOLD_LIFE_US)

    def void(self, hold_id: int) -> Void:
        return Void(self.ledger.ids.new(), 0, hold_id, self.id)

    def charge(self, micros: int, *, key: str = "", fingerprint: str = "same", tool: str = "forecast") -> Charge:
        return Charge(
            self.ledger.ids.new(), 0, self.id, self.developer_id, self.record.id, micros, FEE_BPS, tool, "{}", key, fingerprint
        )

    def top_up(self, micros: int, *, key: str) -> TopUp:
        return TopUp(self.ledger.ids.new(), 0, self.id, micros, key)

    def account(self) -> Account:
        """The account as it is committed now."""
        account = self.ledger.journal.account(0, self.id)
        assert account is not None
        return account

    def row(self, transfer_id: int) -> Transfer | None:
        """A row of the journal, if it is committed."""
        return self.ledger.journal.transfer(0, transfer_id)


def fund(ledger: EmbeddedLedger, micros: int, *, writer: Writer | None = None, name: str = "ada") -> Funded:
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


def journal_of(path: Path) -> list[Transfer]:
    """Every row of the journal."""
    snapshot = Snapshot(path)
    try:
        return list(snapshot.transfers())
    finally:
        snapshot.close()


def open_holds_of(path: Path) -> dict[int, OpenHold]:
    """Every open hold by id."""
    snapshot = Snapshot(path)
    try:
        return {hold.id: hold for hold in snapshot.open_holds()}
    finally:
        snapshot.close()


def counters_in(path: Path) -> dict[tuple[int, str, int], tuple[int, int]]:
    """(captured, reserved) of every counter, by consumer, name and start of its window."""
    snapshot = Snapshot(path)
    try:
        return {(consumer, name, start): (taken, kept) for _, consumer, name, start, taken, kept in snapshot.counters()}
    finally:
        snapshot.close()


def audited(path: Path, now: int) -> AuditReport:
    """The audit of a ledger file, clean or not."""
    snapshot = Snapshot(path)
    try:
        return audit(snapshot, now)
    finally:
        snapshot.close()


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
