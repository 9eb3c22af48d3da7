"""The paid call that is running, for the tool inside it: what it is, and what it used."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, NamedTuple

from payre_mcp.ids import format_id
from payre_mcp.money import Money
from payre_mcp.pricing import Target
from payre_mcp.pricing.usage import UsageReport


@dataclass(frozen=True, slots=True)
class PaidCall:
    """What a tool may know of the call that pays for it."""

    target: Target
    consumer_number: int
    held: Money

    @property
    def consumer(self) -> str:
        """The id of who pays, as receipts have it."""
        return format_id("con", self.consumer_number)


class Running(NamedTuple):
    """A paid call, and the meter that charges it: a call of another server inside it is a call of its own."""

    meter: object
    call: PaidCall
    report: UsageReport


running: ContextVar[Running | None] = ContextVar("payre_running_call", default=None)


def current_call() -> PaidCall | None:
    """The paid call that this code runs in, in sync and async tools and their child tasks; None in free calls.

    >>> current_call() is None
    True
    """
    now = running.get()
    return None if now is None else now.call


def report_usage(unit: str, n: object, direction: Literal["usage", "input", "output"] | None = None) -> None:
    """Add `n` units to what the running call used; they are what it is charged for, whatever could be measured.

    Several reports add up, from sync and async tools, their threads and child tasks. `n` is a number or numeric text,
    zero or more; what is finer than the unit's base (one token, a millisecond) is rounded up, once. Without `direction`
    it is the only dimension of that unit; where the price has none, it is recorded in the receipt and charged nothing.
    Outside a priced call it does nothing.

    Raises:
        UsageInvalid: No such unit or direction, or no quantity. The call then fails and is not charged.
        UsageAmbiguous: The unit is priced in two directions and none was given.

    Examples:
        >>> report_usage("tokens", 812, direction="output")
    """
    if (now := running.get()) is not None:
        now.report.add(unit, n, direction)


def observe(field: str, n: object) -> None:
    """Set a fact about the running call that a tier's `condition` asks for, such as `image_pixels`; the last one counts.

    Outside a priced call it does nothing.

    Raises:
        UsageInvalid: No such field, or no quantity. The call then fails and is not charged.
    """
    if (now := running.get()) is not None:
        now.report.observe(field, n)
