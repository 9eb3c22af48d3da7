"""What the ledger benchmarks share: the people of a ledger, their rows, and callers who keep a ledger busy."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from queue import SimpleQueue
from typing import Any, NamedTuple

from common import Wrong, progress

from payre_mcp.clock import SystemClock
from payre_mcp.errors import PayreError
from payre_mcp.ids import IdFactory
from payre_mcp.ledger.audit import AuditReport
from payre_mcp.ledger.lanes import LedgerWriter
from payre_mcp.ledger.model import Capture, Charge, Command, Done, Hold, Kind, Transfer
from payre_mcp.ledger.state import Answer
from payre_mcp.ledger.writer import HOLD_LIFE_US, Ticket
from payre_mcp.money import split_fee
from payre_mcp.storage.ledger import OpenLedger

CONSUMERS, DEVELOPERS = 10_000, 100
FUNDS_MICROS, PRICE_MICROS, FEE_BPS = 10**11, 5_000, 250
FIRST_ID = 1_767_225_600_000 << 20
"""Ids of people and keys are as wide as real ones."""

DIGEST = "5f" * 32
DETAIL = (
    '{"server":"search","kind":"tool","quantities":{"requests":1},'
    f'"args_sha256":"{DIGEST}","result_sha256":"{DIGEST}","idempotency_key_sha256":"{DIGEST}"}}'
)
CLOCK = SystemClock()
IDS = IdFactory(CLOCK, 200)


class Callers:
    """The commands of ten thousand consumers, each with a key of its own, dealt into so many parts; of one, where all is hot."""

    def __init__(self, parts: int = 1, *, ids: IdFactory = IDS, consumers: int = CONSUMERS, developers: int = DEVELOPERS) -> None:
        self._parts, self._ids, self._consumers, self._developers = parts, ids, consumers, developers
        self._random = random.Random()

    def charge(self, amount_micros: int = PRICE_MICROS) -> Charge:
        consumer = FIRST_ID + int(self._random.random() * self._consumers)
        developer = FIRST_ID + int(self._random.random() * self._developers)
        return Charge(
            self._ids.new(),
            consumer % self._parts,
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
        return Capture(
            self._ids.new(), hold.part, hold.id, hold.consumer_id, hold.developer_id, hold.amount_micros, FEE_BPS, DETAIL
        )

    def _key(self) -> str:
        return f"{self._random.getrandbits(128):032x}"


class Seed(NamedTuple):
    """Rows to write into a table."""

    table: str
    columns: Sequence[str]
    rows: Iterable[Sequence[Any]]


def seeds(parts: int, charges: int) -> Iterator[Seed]:
    """A whole ledger: funded consumers, each with a key, and charges in the order in which real ones would come.

    Write each table before taking the next: what accounts and developers have follows from the journal.
    """
    people, now, callers = range(FIRST_ID, FIRST_ID + CONSUMERS), CLOCK.now_us(), Callers(parts)
    fee, net = split_fee(PRICE_MICROS, FEE_BPS)
    last, paid, sold = dict[int, int](), Counter[int](), Counter[tuple[int, int]]()

    def journal() -> Iterator[Transfer]:
        for each in people:
            yield Transfer(
                each % parts, IDS.new(), int(Kind.TOP_UP), each, 0, 0, FUNDS_MICROS, 0, 0, 0,
                f"{each:032x}", 0, "", 0, "", now, 0, "",
            )  # fmt: skip
        for _ in range(charges):
            order = callers.charge()
            row = charged(order, now, last.get(order.consumer_id, 0))
            last[row.consumer_id] = row.id
            paid[row.consumer_id] += 1
            sold[row.part, row.developer_id] += 1
            yield row

    yield Seed("transfer", Transfer._fields, journal())
    yield Seed(
        "account",
        ("part", "id", "balance_micros", "held_micros", "last_charge_id"),
        [(each % parts, each, FUNDS_MICROS - paid[each] * PRICE_MICROS, 0, last.get(each, 0)) for each in people],
    )
    yield Seed(
        "earning",
        ("part", "developer_id", "earned_micros", "fees_micros"),
        [(*owner, many * net, many * fee) for owner, many in sold.items()],
    )
    yield Seed("consumer", ("id", "part", "name"), [(each, each % parts, "a consumer") for each in people])
    yield Seed(
        "api_key",
        (
            "id", "digest", "role", "mode", "owner_id", "part", "server_id", "label", "last4",
            "created_at", "revoked_at", "expires_at", "limits", "root_id",
        ),
        [
            (each, each.to_bytes(32), "consumer", "test", each, each % parts, 0, "", "0000", now, 0, 0, "", each)
            for each in people
        ],
    )  # fmt: skip


def charged(order: Charge, now: int, prev_id: int) -> Transfer:
    """The journal row that a charge must leave."""
    return Transfer(
        order.part,
        order.id,
        int(Kind.CHARGE),
        order.consumer_id,
        order.developer_id,
        0,
        order.amount_micros,
        split_fee(order.amount_micros, order.fee_bps)[0],
        order.fee_bps,
        0,
        order.key,
        0,
        order.fingerprint,
        order.api_key_id,
        order.tool,
        now,
        0,
        order.detail,
        prev_id,
    )


class Inbox:
    """A mailbox as an event loop's: one wake-up per batch."""

    def __init__(self) -> None:
        self.answered: SimpleQueue[Sequence[tuple[Ticket, Answer]]] = SimpleQueue()

    def deliver(self, answered: Sequence[tuple[Ticket, Answer]]) -> None:
        self.answered.put(answered)


def drive(
    writer: LedgerWriter, many: int, seconds: float, begin: Callable[[], Command], follow: Callable[[Done], Command | None]
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


def drive_charges(writer: LedgerWriter, many: int, seconds: float, callers: Callers) -> float:
    """Charges per second through a writer."""
    return drive(writer, many, seconds, callers.charge, lambda _: None)


def drive_pairs(writer: LedgerWriter, many: int, seconds: float, callers: Callers) -> float:
    """Holds, each with its capture, per second through a writer."""
    return drive(
        writer, many, seconds, callers.hold,
        lambda done: callers.capture(done.transfer) if done.transfer.kind == Kind.HOLD else None,
    )  # fmt: skip


def race(charge: Callable[[Charge], object], threads: int, seconds: float, callers: Callers) -> float:
    """Charges per second through an opponent, each thread one charge after another."""
    done, errors = count(), list[Exception]()

    def work() -> None:
        try:
            while time.perf_counter() - started < seconds:
                charge(callers.charge())
                next(done)
        except Exception as error:  # noqa: BLE001 - reported below
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - started
    if errors:
        raise Wrong(f"the opponent failed: {errors[0]!r}")
    return next(done) / took


class SameWork:
    """The same charges for every side: each must leave the same rows, and answer a retry and what is refused alike."""

    def __init__(self, parts: int) -> None:
        callers = Callers(parts)
        self.orders = [callers.charge() for _ in range(200)]
        self._again = self.orders[0]._replace(id=1)
        self._refused = [
            self._again._replace(fingerprint="other"),
            callers.charge(FUNDS_MICROS + 1),
            callers.charge()._replace(api_key_id=1),
        ]

    def of_writer(self, ledger: OpenLedger) -> list[object]:
        """What our writer does, with batches."""
        inbox, waiting = Inbox(), len(self.orders)
        for order in self.orders:
            ledger.writer.submit(order, Ticket(inbox))
        while waiting:
            waiting -= len(inbox.answered.get())
        return self._answers(lambda order: ledger.writer.ask(order).transfer.id) + contents(ledger)

    def of_opponent(self, charge: Callable[[Charge], int], ledger: OpenLedger) -> list[object]:
        """What an opponent does, who charges one by one and returns the charge's id."""
        for order in self.orders:
            if charge(order) != order.id:
                raise Wrong("an opponent answers with another charge")
        return self._answers(charge) + contents(ledger)

    def _answers(self, charge: Callable[[Charge], int]) -> list[object]:
        found: list[object] = [charge(self._again)]
        for order in self._refused:
            try:
                found.append(charge(order))
            except PayreError as error:
                found.append(type(error).__name__)
        return found


def contents(ledger: OpenLedger) -> list[object]:
    """All that charges write, without the moment."""
    found = list[object]()
    for part in range(ledger.parts):
        with ledger.snapshot(part) as snapshot:
            found += [row._replace(created_at=0) for row in snapshot.transfers()]
            found += sorted(snapshot.accounts()) + sorted(snapshot.earnings())
    return found


def compare(told: dict[str, list[object]]) -> None:
    """Raise `Wrong` unless all sides did the same, and refused all that must be refused."""
    first, *others = told.values()
    progress(f"  a retry and three refusals: {first[:4]}")
    if first[1:4] != ["IdempotencyConflict", "InsufficientBalance", "InvalidApiKey"] or any(other != first for other in others):
        raise Wrong(f"these do different work: {', '.join(told)}")


def clean(report: AuditReport, where: object) -> AuditReport:
    """The report of an audit that found nothing; raises `Wrong` otherwise."""
    if not report.ok or not report.charges or report.open_holds:
        raise Wrong(f"the audit of {where} found {report}")
    return report
