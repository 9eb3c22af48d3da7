"""Ids: 64-bit, ordered by time, unique without asking the database. Outside they are strings with a prefix.

Layout, high to low: 43 bits of milliseconds since 1970, 8 bits of writer slot, 12 bits of counter.
"""

import threading

from payre_mcp.clock import Clock
from payre_mcp.errors import NotFound

PREFIXES = ("dev", "con", "key", "srv", "hold", "chg", "ref", "top", "pay", "dis", "evt")

SLOTS = 256
_COUNTER_BITS, _SLOT_BITS = 12, 8
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32: sorts as the number does, no i l o u
_DIGITS = 13
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_VALUES = {digit: value for value, digit in enumerate(_ALPHABET)}


class IdFactory:
    """Makes ids for one writer slot. Never repeats one and never goes back, whatever the clock does."""

    def __init__(self, clock: Clock, slot: int) -> None:
        if not 0 <= slot < SLOTS:
            raise ValueError(f"slot must be 0 to {SLOTS - 1}, not {slot!r}")
        self._clock, self._slot = clock, slot << _COUNTER_BITS
        self._lock = threading.Lock()
        self._ms = self._count = 0

    def new(self) -> int:
        """The next id. A full counter borrows the next millisecond and never spills into the slot."""
        with self._lock:
            ms = self._clock.now_us() // 1000
            if ms > self._ms:
                self._ms, self._count = ms, 0
            elif self._count + 1 >> _COUNTER_BITS:
                self._ms, self._count = self._ms + 1, 0
            else:
                self._count += 1
            return self._ms << (_SLOT_BITS + _COUNTER_BITS) | self._slot | self._count


def format_id(prefix: str, number: int) -> str:
    """`chg_` and thirteen digits that sort as the number does."""
    assert prefix in PREFIXES
    pairs = [_PAIRS[number >> shift & 1023] for shift in range(50, -1, -10)]
    return f"{prefix}_{_ALPHABET[number >> 60]}{''.join(pairs)}"


def first_id_at(moment_us: int) -> int:
    """Ids that were made from this moment on are this one or above; those from before are below."""
    return moment_us // 1000 << (_SLOT_BITS + _COUNTER_BITS)


def parse_id(prefix: str, text: str) -> int:
    """The number behind an id of this prefix.

    Raises:
        NotFound: It is no such id, so there is no such object.
    """
    head, _, digits = text.partition("_")
    if head != prefix or len(digits) != _DIGITS or not set(digits) <= _VALUES.keys():
        raise NotFound(f"{text[:80]!r} is not an id that starts with {prefix}_")
    number = 0
    for digit in digits:
        number = number << 5 | _VALUES[digit]
    if number >> 63:
        raise NotFound(f"{text!r} is not an id that starts with {prefix}_")
    return number
