"""The holds of calls that run here, at a hub: kept until their calls end, and extended when half of their life is over."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.errors import PayreError
from payre_mcp.gateway.schemas import HoldState
from payre_mcp.ledger.writer import HOLD_LIFE_US, Ticket

logger = logging.getLogger(__name__)

_SHORTEST_LIFE_US = 60 * US_PER_S


@dataclass
class RunningHold:
    """One of them. Its moments are of this process's own clock: the hub's may differ."""

    hold: str
    token: str
    extend_at_us: int
    ends_at_us: int
    ticket: "KeptTicket | None" = None
    """While it is being extended."""


class RunningHolds:
    """Thread-safe; also the mailbox in which the answers of `extend` arrive."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[str, RunningHold] = {}

    def __bool__(self) -> bool:
        return bool(self._running)

    def keep(self, hold: str, token: str, expires_at: int) -> None:
        """Extend this hold until it is let go."""
        with self._lock:
            self._running[hold] = RunningHold(hold, token, *self._times(expires_at))

    def let_go(self, hold: str) -> float:
        """Stop extending it; answers how many seconds it lives on, which an end of it has time for."""
        with self._lock:
            running = self._running.pop(hold, None)
        return HOLD_LIFE_US / 2 / US_PER_S if running is None else self.lives_s(running)

    def lives_s(self, running: RunningHold) -> float:
        """How many seconds a hold lives on if nobody extends it."""
        return max(0.0, (running.ends_at_us - self._clock.elapsed_us()) / US_PER_S)

    def due(self) -> list[RunningHold]:
        """Those whose time is half over, each once until its answer comes; they carry a ticket for it."""
        now = self._clock.elapsed_us()
        with self._lock:
            due = [each for each in self._running.values() if each.ticket is None and each.extend_at_us <= now]
            for each in due:
                each.ticket = KeptTicket(self, each.hold)
        return due

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._running.clear()

    def deliver(self, answered: Sequence[tuple[Ticket, Any]]) -> None:
        """Take the answers of `extend`. What fails for the moment is due again at once."""
        for ticket, answer in answered:
            assert isinstance(ticket, KeptTicket)
            self._extended(ticket.hold, answer)

    def _extended(self, hold: str, answer: HoldState | PayreError) -> None:
        with self._lock:
            running = self._running.get(hold)
            if running is None:
                return
            running.ticket = None
            if isinstance(answer, HoldState):
                running.extend_at_us, running.ends_at_us = self._times(answer.expires_at)
            elif not answer.retryable:
                del self._running[hold]
                logger.warning("the hold %s of a call that still runs cannot be extended: %s", hold, answer)

    def _times(self, expires_at: int) -> tuple[int, int]:
        """When to extend a hold and when it ends. A clock that differs from the hub's costs extensions, never the hold."""
        life = min(max(expires_at - self._clock.now_us(), _SHORTEST_LIFE_US), HOLD_LIFE_US)
        now = self._clock.elapsed_us()
        return now + life // 2, now + life


class KeptTicket(Ticket):
    """The claim of a running hold to its extension."""

    __slots__ = ("hold",)

    def __init__(self, holds: RunningHolds, hold: str) -> None:
        super().__init__(holds)
        self.hold = hold
