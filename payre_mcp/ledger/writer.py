"""Group commit: one thread, one connection, one transaction for all that waits.

While a commit runs, requests pile up; the next transaction takes them all. There is no timer: alone, a command goes at
once. Callers are answered only after COMMIT, in one wake-up per event loop.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Protocol

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.errors import PayreError, PayreUnavailable
from payre_mcp.ids import IdFactory
from payre_mcp.ledger.credit import credit_needs
from payre_mcp.ledger.kernel import decide
from payre_mcp.ledger.model import Capture, Command, Done, Expire, Extend, Extended, Hold, Kind, OpenHold, Void
from payre_mcp.ledger.spending import spending_needs
from payre_mcp.ledger.state import Answer, needs
from payre_mcp.ledger.store import Store, StoreBusy, StoreLost, StoreUnavailable

logger = logging.getLogger(__name__)

BATCH_LIMIT = 512
QUEUE_LIMIT = 8192
HOLD_LIFE_US = 900 * US_PER_S
"""How long a hold lives when nobody ends or extends it."""
SWEEP_EVERY_S = 5.0
_LONGEST_PAUSE_S = 1.0
_UNKNOWN = (
    "the payment ledger stopped at work; whether this was booked is not known. A retry with the same idempotency key is safe"
)

_ENDS = (Capture, Void)
_CHEAP = (Hold, Void, Expire, Extend)
"""Commands that may be lost in a power cut: a lost hold only frees money, and a lost release happens again."""


class Mailbox(Protocol):
    """Where answers go: one per event loop, so that a batch wakes each loop once."""

    def deliver(self, answered: Sequence[tuple["Ticket", Answer]]) -> None:
        """Hand the answers over; called from the writer's thread and must not block. May raise if nobody is there."""
        ...


class Ticket:
    """One caller's claim to an answer. Setting `abandoned` says that the caller has left."""

    __slots__ = ("abandoned", "mailbox")

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.abandoned = False


class Writer:
    """The only thread that writes this ledger in this process.

    Safe to call from any thread. A process that forked must open a ledger of its own.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: IdFactory,
        *,
        queue_limit: int = QUEUE_LIMIT,
        sweep_every_s: float = SWEEP_EVERY_S,
        one_part: bool = False,
    ) -> None:
        self._store, self._clock, self._ids = store, clock, ids
        self._queue: deque[tuple[Command, Ticket]] = deque()
        self._queue_limit, self._sweep_every_s, self._one_part = queue_limit, sweep_every_s, one_part
        self._wake = threading.Condition()
        self._closing = False
        self._failure: BaseException | None = None
        self._running: dict[int, OpenHold] = {}
        self._sweeps: list[_Sweep] = []
        self._unsettled: list[Capture | Void] = []
        self._nobody = Ticket(_Nobody())
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="payre-ledger-writer", daemon=True)
        self._thread.start()

    def submit(self, command: Command, ticket: Ticket) -> None:
        """Queue a command; its answer goes to the ticket's mailbox once it is durable.

        A full queue turns new work away, never the end of work that was let in. A capture that finds the database in
        trouble is answered so, and tried again at every sweep: capturing a hold twice charges once.

        Raises:
            PayreUnavailable: The queue is full, the writer has stopped, or this process forked from its owner.
                Nothing was queued.
        """
        self._check_owner()
        with self._wake:
            self._check_open()
            if len(self._queue) >= self._queue_limit and not isinstance(command, _ENDS):
                raise PayreUnavailable("the payment ledger is busy; nothing ran and nothing was charged. Try again shortly")
            self._queue.append((command, ticket))
            self._wake.notify()

    def ask(self, command: Command) -> Done:
        """Submit a command and block until it is done; for threads without an event loop.

        Raises:
            PayreError: What the ledger answered instead.
        """
        mailbox = _Blocking()
        self.submit(command, Ticket(mailbox))
        answer = mailbox.wait()
        if isinstance(answer, PayreError):
            raise answer
        assert isinstance(answer, Done)
        return answer

    def keep_alive(self, hold: OpenHold) -> None:
        """Extend this hold for as long as it takes, until `let_go`: its call runs in this process."""
        self._running[hold.id] = hold

    def let_go(self, hold_id: int) -> None:
        """Stop extending a hold."""
        with self._wake:
            self._running.pop(hold_id, None)

    def give_back(self, answer: Answer) -> None:
        """Void the hold of a caller who left before hearing of it: a new one, or one that they had taken up again."""
        if isinstance(answer, Done) and answer.transfer.kind == Kind.HOLD and not answer.replayed:
            row = answer.transfer
        elif isinstance(answer, Extended):
            row = answer.hold
        else:
            return
        with self._wake:
            self._queue.append((Void(self._ids.new(), row.part, row.id, row.consumer_id), self._nobody))
            self._wake.notify()

    def sweep(self) -> int:
        """Do now what happens every few seconds: extend the holds whose calls run here, expire those whose time is over.

        Blocks; returns how many holds expired.
        """
        request = _Sweep()
        self._check_owner()
        with self._wake:
            self._check_open()
            self._sweeps.append(request)
            self._wake.notify()
        request.done.wait()
        return request.expired

    def close(self) -> None:
        """Finish what is queued, then stop and close the store. Calling it again does nothing."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if os.getpid() == self._pid:
            self._thread.join()

    def _check_owner(self) -> None:
        if os.getpid() != self._pid:
            raise PayreUnavailable("this ledger was opened before the process forked; open it in the child. Nothing was charged")

    def _check_open(self) -> None:
        if self._closing or self._failure is not None:
            raise PayreUnavailable("the payment ledger is closed; nothing ran and nothing was charged")

    def _run(self) -> None:
        try:
            next_sweep = 0.0
            while True:
                if self._sweeps or time.monotonic() >= next_sweep:
                    self._sweep_quietly()
                    next_sweep = time.monotonic() + self._sweep_every_s
                batch = self._drain(next_sweep)
                if batch is None:
                    break
                for some in self._transactions(batch):
                    self._settle([command for command, _ in some], [ticket for _, ticket in some])
        except BaseException as failure:
            self._failure = failure
            logger.critical("the ledger writer stopped; every call is refused until the process restarts", exc_info=failure)
        finally:
            self._abandon_all()
            self._store.close()

    def _sweep(self) -> int:
        now = self._clock.now_us()
        self._extend_running(now)
        unsettled, self._unsettled = self._unsettled, []
        self._settle_own(unsettled)
        over = [hold for hold in self._store.expired(now, BATCH_LIMIT) if hold.id not in self._running]
        ended = self._settle_own([Expire(self._ids.new(), hold.part, hold.id, hold.consumer_id) for hold in over])
        self._store.prune(now)
        return sum(isinstance(answer, Done) for answer in ended)

    def _extend_running(self, now: int) -> None:
        """Move the end of every hold whose call runs here and whose time is half over. What fails is tried again."""
        due = [hold for hold in list(self._running.values()) if hold.expires_at - now < HOLD_LIFE_US // 2]
        until = now + HOLD_LIFE_US
        answers = self._settle_own([Extend(hold.part, hold.id, hold.consumer_id, until) for hold in due])
        for hold, answer in zip(due, answers, strict=True):
            with self._wake:
                if isinstance(answer, Extended) and hold.id in self._running:
                    self._running[hold.id] = answer.hold

    def _drain(self, until: float) -> list[tuple[Command, Ticket]] | None:
        """All that waits, up to the batch limit; empty when it is time to sweep, None when it is time to stop."""
        with self._wake:
            while not self._queue:
                if self._closing:
                    return None
                rest = until - time.monotonic()
                if rest <= 0 or self._sweeps:
                    return []
                self._wake.wait(rest)
            taken = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_LIMIT))]
        # A hold whose caller has left before we began needs no undoing: it never was.
        return [(command, ticket) for command, ticket in taken if not (ticket.abandoned and isinstance(command, Hold))]

    def _settle(self, batch: Sequence[Command], tickets: Sequence[Ticket]) -> None:
        """Commit a batch and answer it. A command that breaks the transaction is split out and fails alone."""
        waiting = deque([(batch, tickets)])
        try:
            while waiting:
                commands, callers = waiting[0]
                answers = self._outcome(commands)
                waiting.popleft()
                if answers is not None:
                    self._answer(callers, answers)
                else:
                    half = len(commands) // 2
                    waiting.extendleft([(commands[half:], callers[half:]), (commands[:half], callers[:half])])
        except BaseException:
            for _, callers in waiting:
                self._answer(callers, [PayreUnavailable(_UNKNOWN)] * len(callers))
            raise

    def _settle_own(self, batch: Sequence[Command]) -> Sequence[Answer]:
        """Settle commands of the writer's own; answers them in order."""
        kept = _Kept()
        tickets = [Ticket(kept) for _ in batch]
        for some in self._transactions(list(zip(batch, tickets, strict=True))):
            self._settle([command for command, _ in some], [ticket for _, ticket in some])
        return [kept.answers[ticket] for ticket in tickets]

    def _transactions(self, batch: list[tuple[Command, Ticket]]) -> Iterable[list[tuple[Command, Ticket]]]:
        """A batch as what one transaction may take: all of it, or what is at home in one part."""
        if not self._one_part or not batch:
            return [batch] if batch else []
        by_part: dict[int, list[tuple[Command, Ticket]]] = {}
        for command, ticket in batch:
            by_part.setdefault(command.part, []).append((command, ticket))
        return by_part.values()

    def _outcome(self, batch: Sequence[Command]) -> Sequence[Answer] | None:
        """The answers of a batch, or None where one of its several commands breaks the transaction."""
        try:
            return self._commit(batch)
        except (StoreUnavailable, StoreBusy) as error:
            logger.error("the ledger cannot be written: %s", error)  # noqa: TRY400 - the sentence says it all
            self._unsettled += [command for command in batch if isinstance(command, _ENDS)]
            if isinstance(error, StoreLost):
                self._unsettled += [self._undone(command) for command in batch if isinstance(command, Hold)]
            return [PayreUnavailable("the payment ledger is busy or cannot be written; nothing was charged yet")] * len(batch)
        except Exception as error:
            if len(batch) > 1:
                return None
            logger.exception("the ledger could not decide a %s", type(batch[0]).__name__)
            return [_internal_error(error)]

    def _undone(self, hold: Hold) -> Void:
        """The end of a hold that may exist, though its caller was told that it does not."""
        return Void(self._ids.new(), hold.part, hold.id, hold.consumer_id)

    def _commit(self, batch: Sequence[Command]) -> list[Answer]:
        durable = not all(isinstance(command, _CHEAP) for command in batch)
        for attempt in count():
            try:
                return self._transact(batch, durable=durable, repeated=attempt > 0)
            except StoreBusy as busy:
                if attempt + 1 >= busy.tries:
                    raise
                time.sleep(min(busy.pause_s * 2**attempt, _LONGEST_PAUSE_S))
        raise AssertionError("unreachable")

    def _transact(self, batch: Sequence[Command], *, durable: bool, repeated: bool) -> list[Answer]:
        try:
            self._store.begin(durable=durable)
            state = self._store.load(needs(batch, repeated=repeated))
            now = state.now or self._clock.now_us()
            if spent := spending_needs(batch, state, now):
                state.counters |= self._store.load_counters(spent)
            if free := credit_needs(batch, state):
                state.credits = self._store.load_credits(free)
            decision = decide(batch, state, now)
            # An empty commit after an unseen one waits until that is as durable as any other.
            if decision.is_empty and not repeated:
                self._store.rollback()
            else:
                self._store.apply(decision)
                self._store.commit()
        except BaseException:
            self._store.rollback()
            raise
        return decision.answers

    def _answer(self, tickets: Sequence[Ticket], answers: Sequence[Answer]) -> None:
        by_mailbox: dict[Mailbox, list[tuple[Ticket, Answer]]] = {}
        for ticket, answer in zip(tickets, answers, strict=True):
            by_mailbox.setdefault(ticket.mailbox, []).append((ticket, answer))
        for mailbox, answered in by_mailbox.items():
            try:
                mailbox.deliver(answered)
            except Exception:  # noqa: BLE001 - a loop that has closed must not stop the writer
                logger.warning("%d callers left before their answer; their holds are given back", len(answered))
                for _, answer in answered:
                    self.give_back(answer)

    def _sweep_quietly(self) -> None:
        with self._wake:
            requests, self._sweeps = self._sweeps, []
        try:
            expired = self._sweep()
            for request in requests:
                request.expired = expired
        except (StoreBusy, StoreUnavailable) as error:
            logger.warning("expired holds wait for the next sweep: %s", error)
        finally:
            for request in requests:
                request.done.set()

    def _abandon_all(self) -> None:
        with self._wake:
            self._closing = True
            rest, self._queue = list(self._queue), deque()
            sweeps, self._sweeps = self._sweeps, []
        for request in sweeps:
            request.done.set()
        if rest:
            self._answer([ticket for _, ticket in rest], [PayreUnavailable()] * len(rest))


class _Nobody:
    def deliver(self, answered: Sequence[tuple[Ticket, Answer]]) -> None:
        for _, answer in answered:
            if isinstance(answer, PayreUnavailable):
                logger.warning("a hold could not be given back now; it expires by itself")


class _Kept:
    def __init__(self) -> None:
        self.answers: dict[Ticket, Answer] = {}

    def deliver(self, answered: Iterable[tuple[Ticket, Answer]]) -> None:
        self.answers.update(answered)


class _Sweep:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.expired = 0


class _Blocking:
    def __init__(self) -> None:
        self._event = threading.Event()
        self._answer: Answer | None = None

    def deliver(self, answered: Iterable[tuple[Ticket, Answer]]) -> None:
        ((_, self._answer),) = answered
        self._event.set()

    def wait(self) -> Answer:
        self._event.wait()
        assert self._answer is not None
        return self._answer


def _internal_error(error: Exception) -> PayreError:
    failed = PayreError("the payment ledger could not decide this; nothing was charged")
    failed.__cause__ = error
    return failed
