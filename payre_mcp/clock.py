"""Time is passed in. Wall time is integer microseconds since 1970 UTC, so it is exact and fits a database column."""

import time
from datetime import UTC, datetime
from typing import Literal, Protocol

US_PER_S = 1_000_000
_DAY_US = 24 * 3600 * US_PER_S
_LONGER_THAN_A_MONTH_US = 32 * _DAY_US


class Clock(Protocol):
    """Where the time comes from."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        ...

    def elapsed_us(self) -> int:
        """Microseconds since some moment, never going back: for how long something took."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC, from the operating system."""
        return time.time_ns() // 1000

    def elapsed_us(self) -> int:
        """Microseconds of the operating system's monotonic clock."""
        return time.monotonic_ns() // 1000


class ManualClock:
    """A clock that moves only when told to, for tests and simulations."""

    def __init__(self, start_us: int = 1_767_225_600 * US_PER_S) -> None:
        self._now_us, self._elapsed_us = start_us, 0

    def now_us(self) -> int:
        """The time it was last set to."""
        return self._now_us

    def elapsed_us(self) -> int:
        """How far it was moved on in all; steps back do not count."""
        return self._elapsed_us

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`; a negative number steps the clock back."""
        step = round(seconds * US_PER_S)
        self._now_us += step
        self._elapsed_us += max(step, 0)


def window_start(window: Literal["month", "day", "all_time"], now_us: int) -> int:
    """When the UTC calendar month or day around a moment began, in microseconds since 1970; 0 for all time.

    >>> window_start("day", 1_767_225_600_000_001)
    1767225600000000
    """
    if window == "all_time":
        return 0
    now = datetime.fromtimestamp(now_us // US_PER_S, UTC)
    start = datetime(now.year, now.month, now.day if window == "day" else 1, tzinfo=UTC)
    return int(start.timestamp()) * US_PER_S


def window_end(window: Literal["month", "day"], now_us: int) -> int:
    """When the next UTC calendar month or day begins, in microseconds since 1970.

    >>> window_end("day", 1_767_225_600_000_000)
    1767312000000000
    """
    start = window_start(window, now_us)
    return window_start(window, start + (_LONGER_THAN_A_MONTH_US if window == "month" else _DAY_US))
