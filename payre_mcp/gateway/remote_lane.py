"""The sending side of a remote gateway: acts queue up, and whichever of two threads is free sends all that wait.

There is no timer: alone, an act goes at once. At most two requests are under way, so under load each carries many acts.
What a failed request did is not known, so its acts are asked again under the same ids until they are answered, in
batches half as large each time, so that one act which the hub cannot take fails alone.
"""

import heapq
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count

from payre_mcp.errors import PayreError, PayreUnavailable
from payre_mcp.gateway.breaker import Breaker
from payre_mcp.gateway.hub_http import Failed, HubHttp
from payre_mcp.gateway.remote_act import Answered, PendingAct
from payre_mcp.gateway.schemas import MOST_IN_A_BATCH, BatchedAnswer
from payre_mcp.ledger.writer import Mailbox

logger = logging.getLogger(__name__)

AT_ONCE = 2
"""Requests under way at most."""
QUEUE_LIMIT = 8192
MOST_BYTES = 900_000
CHORES_EVERY_S = 5.0

_LEAVE_WITHIN_S = 3.0
"""A thread that still connects ends by itself a little later."""

_BUSY = "the payment ledger is busy; nothing ran and nothing was charged. Try again shortly"
_UNKNOWN = "the payment hub did not say what became of this; whether anything was booked is not known"


class Lane:
    """Sends acts to a hub. Safe to call from any thread and from several event loops at once.

    A process that forked must open a gateway of its own.
    """

    def __init__(self, connect: Callable[[], HubHttp], chores: Callable[[], None]) -> None:
        self._chores, self._next_chores_s = chores, time.monotonic() + CHORES_EVERY_S
        self._queue: deque[PendingAct] = deque()
        self._later: list[tuple[float, int, PendingAct]] = []
        self._order = count()
        self._under_way: dict[int, Sequence[PendingAct]] = {}
        self._breaker = Breaker()
        self._wake = threading.Condition()
        self._is_closing = self._is_over = self._is_key_refused = False
        self._alive = AT_ONCE
        self._pid = os.getpid()
        self._lines = [connect() for _ in range(AT_ONCE)]
        self._threads = [
            threading.Thread(target=self._run, args=(place,), name=f"payre-hub-{place}", daemon=True) for place in range(AT_ONCE)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, act: PendingAct) -> None:
        """Queue an act; its answer goes to its ticket's mailbox. The end of a hold is never turned away for want of room.

        Raises:
            PayreUnavailable: The hub is known to be down or asked for patience, the queue is full, the gateway is
                closed, or this process forked from its owner. Nothing was queued.
        """
        if os.getpid() != self._pid:
            raise PayreUnavailable(
                "this gateway was opened before the process forked; open one in the child. Nothing was charged"
            )
        with self._wake:
            if self._is_over or (self._is_closing and not act.is_end):
                raise PayreUnavailable("the payment gateway is closed; nothing ran and nothing was charged")
            if not act.is_end:
                if self._breaker.refuses(time.monotonic()):
                    raise PayreUnavailable
                if len(self._queue) >= QUEUE_LIMIT:
                    raise PayreUnavailable(_BUSY)
            self._queue.append(act)
            self._wake.notify()
        self.cut_slow()

    def cut_slow(self) -> None:
        """Break off requests that take too long: each byte in time, and all of them too late."""
        for line in self._lines:
            line.cut()

    def close(self, within_s: float) -> None:
        """Take nothing new, try for `within_s` to finish what was begun, the ends of holds above all, then stop. Blocks."""
        if os.getpid() != self._pid:
            return
        with self._wake:
            self._is_closing = True
            self._queue.extend(act for _, _, act in self._later)  # the last chance is now
            self._later = []
            self._wake.notify_all()
            self._wake.wait_for(lambda: self._is_over or not self._unfinished(), within_s)
            self._is_over = True
            self._wake.notify_all()
        for line, thread in zip(self._lines, self._threads, strict=True):
            line.cut(at_once=True)
            thread.join(_LEAVE_WITHIN_S)

    def _unfinished(self) -> bool:
        """Whether somebody waits, or something is or may be at the hub that has to be ended."""
        waiting = [*self._queue, *(act for _, _, act in self._later)]
        under_way = [act for batch in self._under_way.values() for act in batch]
        return any(act.act != "extend" for act in waiting if not act.is_pointless) or any(
            act.act != "extend" for act in under_way if act.leaves_traces or not act.ticket.abandoned
        )

    def _run(self, place: int) -> None:
        line = self._lines[place]
        try:
            while (batch := self._take(place)) is not None:
                if batch:
                    self._exchange(batch, line)
                    self._put_down(place)
                else:
                    self._do_chores()
        except BaseException as failure:
            logger.critical("the line to the payment hub stopped; priced calls are refused until a restart", exc_info=failure)
        finally:
            line.close()
            self._leave(place)

    def _put_down(self, place: int) -> None:
        with self._wake:
            del self._under_way[place]
            self._wake.notify_all()

    def _do_chores(self) -> None:
        try:
            self._chores()
        except PayreError as error:
            logger.warning("the holds of running calls wait to be extended: %s", error)

    def _take(self, place: int) -> list[PendingAct] | None:
        """The next batch; empty when it is time for chores, None when it is time to stop."""
        with self._wake:
            while not self._is_over:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    self._queue.append(heapq.heappop(self._later)[2])
                if now >= self._next_chores_s:
                    self._next_chores_s = now + CHORES_EVERY_S
                    return []
                if self._queue and self._breaker.lets_through(now) and (batch := self._batch(now)):
                    self._under_way[place] = batch
                    return batch
                self._wake.wait(self._pause_s(now))
        return None

    def _pause_s(self, now: float) -> float:
        """How long there is nothing to do unless somebody says so."""
        next_s = self._next_chores_s
        if self._later:
            next_s = min(next_s, self._later[0][0])
        if self._queue:
            next_s = min(next_s, now + self._breaker.waits_s(now))
        return max(0.0, next_s - now)

    def _batch(self, now: float) -> list[PendingAct]:
        """As many of the waiting acts as travel together."""
        batch, most, size = list[PendingAct](), MOST_IN_A_BATCH, 0
        while self._queue:
            act = self._queue[0]
            most, size = min(most, act.share), size + len(act.sent)
            if batch and (len(batch) >= most or size > MOST_BYTES):
                break
            self._queue.popleft()
            if act.is_pointless or (act.tries and act.give_up_s <= now):
                self._give_up(act)
            else:
                batch.append(act)
        return batch

    def _exchange(self, batch: Sequence[PendingAct], line: HubHttp) -> None:
        """Send a batch, and answer or ask again."""
        try:
            answers = line.post_batch([act.sent for act in batch])
        except Failed as failure:
            self._failed(batch, failure)
            return
        finished, unknown = list[tuple[PendingAct, Answered]](), list[PendingAct]()
        for act, answer in _paired(batch, answers):
            read = act.read(answer)
            wait_s = None if read is None else act.waits_s(read)
            if read is None:
                act.is_unknown, act.tries = True, act.tries + 1
                unknown.append(act)
            elif wait_s is not None:
                act.tries += 1
                self._ask_again([act], wait_s)
            else:
                finished.append((act, read))
        with self._wake:
            if unknown:
                self._breaker.failed(time.monotonic(), "answers are missing")
            else:
                self._breaker.succeeded()
            self._is_key_refused = False
        self._ask_again(unknown)
        self._answer(finished)

    def _failed(self, batch: Sequence[PendingAct], failure: Failed) -> None:
        """A request brought no answers: nobody knows what became of its acts, or that nothing did."""
        now, alone = time.monotonic(), len(batch) == 1
        with self._wake:
            if failure.wait_s is not None:
                self._breaker.hold_off(now + failure.wait_s)
            if not failure.is_refused:
                self._breaker.failed(now, str(failure))
            self._note_key(failure)
        for act in batch:
            act.is_unknown |= failure.may_have_arrived
            act.share = max(1, len(batch) // 2)
            act.tries += alone  # else it was perhaps its neighbours' fault
        if failure.is_refused and alone:
            self._answer([(batch[0], failure.error or PayreUnavailable())])
        elif failure.is_refused:
            self._ask_again(batch)
        else:
            # A hold that surely is none is not worth the wait: whoever wants it may come again.
            lost = {act for act in batch if not act.is_end and not act.is_unknown}
            self._answer([(act, _unavailable(failure)) for act in lost])
            self._ask_again([act for act in batch if act not in lost], failure.wait_s or 0.0)

    def _note_key(self, failure: Failed) -> None:
        if failure.is_key_refused and not self._is_key_refused:
            why = failure.error or failure
            logger.critical("the payment hub refuses this server's secret key, so priced calls are refused: %s", why)
        self._is_key_refused = failure.is_key_refused

    def _ask_again(self, acts: Sequence[PendingAct], wait_s: float = 0.0) -> None:
        now = time.monotonic()
        with self._wake:
            for act in acts:
                heapq.heappush(self._later, (now + max(wait_s, act.pause_s()), next(self._order), act))
            self._wake.notify()

    def _answer(self, answered: Sequence[tuple[PendingAct, Answered]]) -> None:
        """Wake those who wait, once per event loop; for those who have left, do what they leave to be done."""
        by_mailbox: dict[Mailbox, list[tuple[PendingAct, Answered]]] = {}
        for act, answer in answered:
            if act.ticket.abandoned:
                act.on_left(answer)
            else:
                by_mailbox.setdefault(act.ticket.mailbox, []).append((act, answer))
        for mailbox, parts in by_mailbox.items():
            try:
                mailbox.deliver([(act.ticket, answer) for act, answer in parts])  # pyright: ignore[reportArgumentType]
            except Exception:  # noqa: BLE001 - a loop that has closed must not stop the lane
                for act, answer in parts:
                    act.on_left(answer)

    def _give_up(self, act: PendingAct) -> None:
        """Nobody waits for it, or it was tried until its hold has ended."""
        if not act.is_pointless:
            self._answer([(act, PayreUnavailable(_UNKNOWN))])

    def _leave(self, place: int) -> None:
        """A thread ends, and with it the lane: its own acts are answered, and by the last thread all others."""
        with self._wake:
            self._is_over = True
            self._alive -= 1
            rest = list(self._under_way.pop(place, ()))
            if not self._alive:
                rest += [*self._queue, *(act for _, _, act in self._later)]
                self._queue, self._later = deque(), []
            self._wake.notify_all()
        self._answer([(act, PayreUnavailable(_UNKNOWN)) for act in rest])


def _paired(batch: Sequence[PendingAct], answers: Sequence[BatchedAnswer]) -> list[tuple[PendingAct, BatchedAnswer | None]]:
    """Each act with its answer; the last answers may be missing, and more than were asked for are none of ours."""
    return [(act, answers[place] if place < len(answers) else None) for place, act in enumerate(batch)]


def _unavailable(failure: Failed) -> PayreUnavailable:
    """What a caller reads of it: each an error of their own, as whoever raises it leaves traces in it."""
    return PayreUnavailable() if failure.wait_s is None else PayreUnavailable(_BUSY, retry_after_s=failure.wait_s)
