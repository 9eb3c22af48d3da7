"""Prices for the reference model, each with an evaluation of its own: unit by unit, in fractions, straight from the text.

Nothing here asks the plans what anything costs; they are only handed to the ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from payre_mcp.pricing import Plan, load_price


@dataclass(frozen=True)
class Tariff:
    """A price of one dimension. `steps` are (up_to, micros for `scale` units); quantities are in base units."""

    unit: str
    steps: tuple[tuple[int | None, int], ...]
    plan: Plan
    usual: tuple[int | None, ...]
    """Quantities that its calls use; None for a call that says none."""
    scale: int = 1
    graduated: bool = False
    most: int | None = None
    """`max_units`, for what is not known before the run."""
    free: int = 0
    least: int = 0
    max_micros: int | None = None
    policy: str = "refund"

    @property
    def is_known(self) -> bool:
        """Whether a call's quantity is known before it runs."""
        return self.most is None

    def ceiling(self, known: int, used: Sequence[int]) -> int:
        """What is held when the counters stand at `used`."""
        total = self.exact(known if self.most is None else self.most, used)
        return total if self.max_micros is None else min(total, self.max_micros)

    def cost(self, quantity: int, used: Sequence[int], held: int) -> int:
        """What is charged."""
        return min(self.exact(quantity, used), held)

    def missing(self, held: int) -> int | str:
        """What is charged where the call did not say what it used."""
        return {"refund": 0, "min": min(self.least, held), "ceiling": held, "error": "usage_missing"}[self.policy]

    def exact(self, quantity: int, used: Sequence[int]) -> int:
        """Every billed unit at its own price, summed; rounded up once, and at least the least charge."""
        before = used[0] if self.stepped else 0
        left = max(0, self.free - used[-1]) if self.free else 0
        billed = max(0, quantity - left)
        places = range(before, before + billed) if self.graduated else [before] * billed
        total = sum((Fraction(self.at(place), self.scale) for place in places), Fraction(0))
        return max(ceil(total), self.least) if total else 0

    def at(self, place: int) -> int:
        """The price of a unit that so many came before."""
        return next(micros for up_to, micros in self.steps if up_to is None or place < up_to)

    @property
    def stepped(self) -> bool:
        """Whether its units are counted for its steps."""
        return len(self.steps) > 1


def _tariff(
    unit: str, steps: Sequence[tuple[int | None, int]], usual: Sequence[int | None], *, scale: int = 1, graduated: bool = False,
    most: int | None = None, free: int = 0, least: int = 0, max_micros: int | None = None, policy: str = "refund",
    window: str = "month",
) -> Tariff:  # fmt: skip
    tiers = [
        {"price_usd": usd(micros)} if up_to is None else {"up_to": up_to, "price_usd": usd(micros)} for up_to, micros in steps
    ]
    dimension = {"unit": unit, "scale": scale, "tiers": tiers, "tiering": "graduated" if graduated else "volume"}
    entry: dict[str, object] = {
        "dimensions": [dimension if most is None else {**dimension, "max_units": most}],
        "min_price_usd": usd(least),
        "missing_usage": policy,
        "counter": {"window": window},
    }
    if max_micros is not None:
        entry["max_price_usd"] = usd(max_micros)
    if free:
        entry["free_quota"] = {"amount": free, "unit": unit, "window": "day"}
    plan = load_price(entry).plan("")
    return Tariff(unit, tuple(steps), plan, tuple(usual), scale, graduated, most, free, least, max_micros, policy)


def usd(micros: int) -> str:
    """Micros as the dollars of a price file."""
    return f"0.{micros:06d}"


TARIFFS = (
    _tariff("requests", [(2, 30), (4, 20), (None, 9)], [1, 1, 1, None]),
    _tariff("requests", [(1, 0), (3, 50), (None, 40)], [1], graduated=True, free=1, window="all_time"),
    _tariff("tokens", [(20, 30), (40, 17), (None, 5)], [0, 1, 9, 25, 60, None], scale=7, graduated=True, most=30, free=12),
    _tariff(
        "tokens", [(None, 100)], [0, 3, 11, 40, None], scale=9, most=25, free=10, least=15, max_micros=150, policy="error",
    ),
    _tariff("characters", [(8, 12), (16, 7), (None, 3)], [0, 1, 5, 12, None], least=4, policy="min", window="day"),
    _tariff("pages", [(6, 25), (None, 10)], [0, 1, 4, 8, None], most=4, policy="ceiling"),
)  # fmt: skip
"""Known and not known before the run, by volume and graduated, with a free quota and without, each policy."""

BY_VERSION = {tariff.plan.version: tariff for tariff in TARIFFS}
