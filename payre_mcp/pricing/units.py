"""What can be counted, and reading a number of it exactly.

Counting is in integer base units, so that nothing is lost between the parts of a call or the calls of a month:
milliseconds for time, bytes for GiB, thousandths of a vCPU, and one for everything else.
"""

import operator
import re
from fractions import Fraction
from math import ceil
from typing import Any, Literal, NamedTuple, get_args

from payre_mcp.errors import UsageInvalid
from payre_mcp.text import shown

LARGEST = 2**53 - 1
"""The largest quantity of one call in base units: the last integer that every JSON reader keeps exact."""


class Unit(NamedTuple):
    """One kind of thing that a call can use."""

    name: str
    singular: str
    base: int
    """How many base units one of it is."""
    base_name: str

    @property
    def plural(self) -> str:
        """Many of them."""
        return "calls" if self.name == "requests" else self.name.replace("_", " ")


def _unit(name: str, singular: str, base: int = 1, base_name: str = "") -> Unit:
    return Unit(name, singular, base, base_name or name)


UNITS = {
    unit.name: unit
    for unit in (
        _unit("requests", "call"),
        _unit("invocations", "invocation"),
        _unit("tokens", "token"),
        _unit("characters", "character"),
        _unit("bytes", "byte"),
        _unit("GiB", "GiB", 2**30, "bytes"),
        _unit("TiB", "TiB", 2**40, "bytes"),
        _unit("seconds", "second", 1_000, "milliseconds"),
        _unit("minutes", "minute", 60_000, "milliseconds"),
        _unit("hours", "hour", 3_600_000, "milliseconds"),
        _unit("pages", "page"),
        _unit("documents", "document"),
        _unit("instances", "instance"),
        _unit("quota_units", "quota unit"),
        _unit("vCPU", "vCPU", 1_000, "vCPU/1000"),
    )
}
"""The closed set, in the words of pay.sh."""

SIZES = frozenset({"bytes", "GiB", "TiB"})
TIMES = frozenset({"seconds", "minutes", "hours"})
WHOLE_CALL = frozenset({"requests", "invocations"})
"""Units of a call as a whole: nothing of them goes in or comes out."""

Direction = Literal["usage", "input", "output"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
FIELDS = (
    "input_tokens",
    "input_characters",
    "context_length",
    "body_size",
    "duration_seconds",
    "batch_size",
    "image_pixels",
)
"""What a tier's condition may ask for."""

_NUMBER = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
_LONGEST_TEXT = 64


def dimension_key(direction: str, unit: str) -> str:
    """How a dimension is called in usage and counters: `tokens` for usage, else `input.tokens`."""
    return unit if direction == "usage" else f"{direction}.{unit}"


def exact(n: object) -> Fraction:
    """A reported number, exactly; a float counts as the decimal it prints as.

    Raises:
        UsageInvalid: Not a number, negative, not finite, or a bool.
    """
    value = _exact(n)
    if value is None or value < 0:
        raise UsageInvalid(f"{shown(n)} is not a quantity; report a number that is zero or more")
    return value


def to_base(unit: str, n: object) -> int:
    """A quantity of this unit in base units; what is finer than the base is rounded up.

    Raises:
        UsageInvalid: Not a quantity, or more than 2^53 - 1 base units.
    """
    base = n * UNITS[unit].base if type(n) is int and n >= 0 else ceil(exact(n) * UNITS[unit].base)
    if base > LARGEST:
        raise UsageInvalid(f"{shown(n)} {unit} are more than one call can use")
    return base


def in_units(unit: str, base: int) -> Fraction:
    """A number of base units in the unit itself."""
    return Fraction(base, UNITS[unit].base)


def _exact(n: Any) -> Fraction | None:
    if isinstance(n, bool):
        return None
    if isinstance(n, str | float):
        text = n if isinstance(n, str) else float.__repr__(n or 0.0)  # there is a -0.0
        return Fraction(text) if len(text) <= _LONGEST_TEXT and _NUMBER.fullmatch(text) else None
    try:
        return Fraction(*n.as_integer_ratio()) if hasattr(n, "as_integer_ratio") else Fraction(operator.index(n))
    except (TypeError, ValueError, ArithmeticError):
        return None
