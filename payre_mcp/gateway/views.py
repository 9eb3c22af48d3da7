"""What a consumer's reports hold: free credit, the limits of a key, what an account spent, which servers sell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from payre_mcp.directory import LimitWindow
from payre_mcp.money import Money
from payre_mcp.pricing import PriceSpec, Target

Period = Literal["today", "month", "all"]


class CreditView(NamedTuple):
    """Free credit that may be spent at one server now."""

    server: str
    available: Money


class LimitView(NamedTuple):
    """One limit of a key and how much of it is used."""

    window: LimitWindow
    tool: str
    """Empty but for a limit of one tool."""
    limit: Money
    used: Money
    """Charged, and held for running calls, since the window began or the limit was set; zero for a limit per call."""
    resets_at: int
    """In microseconds since 1970; 0 for a limit per call."""


class LimitsView(NamedTuple):
    """What a key may still spend, until when and where."""

    key: str
    """As much of the key as is shown."""
    limits: Sequence[LimitView]
    expires_at: int
    """In microseconds since 1970; 0 for never."""
    server: str
    """The one server that takes this key; empty for all."""


@dataclass(slots=True)
class Spent:
    """What charges add up to. What was refunded of them is not taken out."""

    charges: int = 0
    amount: int = 0
    credit: int = 0
    """How much of the amount was free credit."""
    refunded: int = 0
    newest_at: int = 0

    def add(self, other: "Spent") -> None:
        """Count these charges too."""
        self.charges += other.charges
        self.amount += other.amount
        self.credit += other.credit
        self.refunded += other.refunded
        self.newest_at = max(self.newest_at, other.newest_at)


class SpentOn(NamedTuple):
    """What was spent on one target of one server."""

    server: str
    target: Target
    spent: Spent


class Spending(NamedTuple):
    """What an account spent in a period, in all and by target, the newest activity first."""

    period: Period
    since: int
    """In microseconds since 1970; 0 for all time."""
    total: Spent
    targets: Sequence[SpentOn]
    cut: bool
    """Whether there are older charges in the period, which were not read."""


class ServerView(NamedTuple):
    """A server's current price list."""

    server: str
    """Its name, or its id where that is more than a plain name."""
    prices: Sequence[tuple[Target, PriceSpec]]
