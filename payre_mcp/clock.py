"""Time is passed in. Wall time is integer microseconds since 1970 UTC, so it is exact and fits a database column."""

import time
from typing import Protocol

US_PER_S = 1_000_000


class Clock(Protocol):
    """Where the time comes from."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC, from the operating system."""
        return time.time_ns() // 1000


class ManualClock:
    """A clock that moves only when told to, for tests and simulations."""

    def __init__(self, start_us: int = 1_767_225_600 * US_PER_S) -> None:
        self._now_us = start_us

    def now_us(self) -> int:
        """The time it was last set to."""
        return self._now_us

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`; a negative number steps the clock back."""
        self._now_us += round(seconds * US_PER_S)
