"""The paid call that is running, for the tool inside it."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

from payre_mcp.money import Money
from payre_mcp.pricing import Target


@dataclass(frozen=True, slots=True)
class PaidCall:
    """What a tool may know of the call that pays for it."""

    target: Target
    consumer: str
    held: Money


class Running(NamedTuple):
    """A paid call, and the meter that charges it: a call of another server inside it is a call of its own."""

    meter: object
    call: PaidCall


running: ContextVar[Running | None] = ContextVar("payre_running_call", default=None)


def current_call() -> PaidCall | None:
    """The paid call that this code runs in, in sync and async tools and their child tasks; None in free calls.

    >>> current_call() is None
    True
    """
    now = running.get()
    return None if now is None else now.call
