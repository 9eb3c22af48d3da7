"""A circuit breaker: while a hub is down, calls are refused at once instead of waiting for it one by one."""

import logging
import math
from collections import deque

logger = logging.getLogger(__name__)

FAILURES = 5
WITHIN_S = 10.0
PROBE_EVERY_S = 1.0


class Breaker:
    """Opens after five failures within ten seconds. While it is open one request a second goes through; a good one closes it.

    Not thread-safe: its owner holds a lock. Times are of one monotonic clock.
    """

    def __init__(self) -> None:
        self._failures: deque[float] = deque(maxlen=FAILURES)
        self._next_s = -math.inf
        self.is_open = False

    def refuses(self, now: float) -> bool:
        """Whether new work is refused: the hub is down or asked for patience, and it is not time to try."""
        return now < self._next_s

    def lets_through(self, now: float) -> bool:
        """Whether a request may go now; where it does, it is the probe."""
        if now < self._next_s:
            return False
        if self.is_open:
            self._next_s = now + PROBE_EVERY_S
        return True

    def waits_s(self, now: float) -> float:
        """How long until a request may go."""
        return max(0.0, self._next_s - now)

    def failed(self, now: float, why: str) -> None:
        """A request brought no answers."""
        self._failures.append(now)
        if not self.is_open and len(self._failures) == FAILURES and now - self._failures[0] <= WITHIN_S:
            self.is_open, self._next_s = True, now + PROBE_EVERY_S
            logger.error("the payment hub does not answer (%s): priced calls are refused until it does", why)

    def succeeded(self) -> None:
        """A request was answered."""
        self._failures.clear()
        if self.is_open:
            self.is_open, self._next_s = False, -math.inf
            logger.warning("the payment hub answers again")

    def hold_off(self, until: float) -> None:
        """The hub asked to be left alone until then."""
        self._next_s = max(self._next_s, until)
