"""The arithmetic of a price: what a call may cost before it runs, and what it did cost.

A plan is a set of dimensions made ready for integers: every price over one common denominator, so that a sum is exact
and is rounded once, up to the micro. The rule is section 5 of the pricing document: quantities, less what is free,
priced by tier, summed; then rounded up, lifted to the least charge, and cut at what was held.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm
from types import MappingProxyType
from typing import NamedTuple

from payre_mcp.errors import AmountOverflow, UsageMissing
from payre_mcp.money import MAX_MICROS, Money, format_usd
from payre_mcp.pricing.dimensions import Condition, Dimension, FreeQuota, MissingUsage, Window
from payre_mcp.pricing.units import SIZES, UNITS, in_units

Facts = Mapping[str, int | Fraction]
"""Condition fields that are known, by name."""


class Usage(NamedTuple):
    """What a call used: base units by dimension (`tokens`, `input.tokens`), and what tiers may ask about."""

    quantities: Mapping[str, int]
    facts: Facts = MappingProxyType({})


class Rate:
    """One dimension, compiled: bounds and quantities in base units, prices in micros for `denominator` of them."""

    __slots__ = ("bounds", "conditions", "denominator", "dimension", "graduated", "is_exact", "key", "most", "prices")

    def __init__(self, dimension: Dimension) -> None:
        base = UNITS[dimension.unit].base
        self.dimension, self.key = dimension, dimension.key
        self.denominator = base * dimension.scale
        self.prices = tuple(tier.price.micros for tier in dimension.tiers)
        self.bounds = tuple(tier.up_to * base for tier in dimension.tiers if tier.up_to is not None)
        conditions = tuple(tier.condition for tier in dimension.tiers)
        self.conditions = conditions if any(conditions) else ()
        self.graduated = dimension.tiering == "graduated"
        self.is_exact = known_before(dimension)
        self.most = None if dimension.max_units is None else dimension.max_units * base

    def cut(self, quantity: int, used: int, facts: Facts) -> list[tuple[int, int]]:
        """(quantity, price) of each tier that this quantity falls into when `used` came before it."""
        if not self.graduated:
            return [(quantity, self.prices[self._tier(used, facts)])]
        parts: list[tuple[int, int]] = []
        for bound, price in zip(self.bounds, self.prices, strict=False):
            if used < bound and quantity:
                part = min(quantity, bound - used)
                parts.append((part, price))
                used, quantity = used + part, quantity - part
        return parts if parts and not quantity else [*parts, (quantity, self.prices[-1])]

    def dearest(self, quantity: int, used: int | None, facts: Facts) -> int:
        """The most that this quantity can cost, times `denominator`: `used` or facts that are not known count for the worst."""
        if self.conditions:
            states = [_holds(condition, facts) for condition in self.conditions]
            stop = states.index(True) if True in states else len(states)
            possible = [price for price, state in zip(self.prices[: stop + 1], states, strict=False) if state is not False]
            return quantity * max(possible or self.prices[-1:])
        if used is None:
            return quantity * max(self.prices)
        return sum(part * price for part, price in self.cut(quantity, used, facts))

    def _tier(self, used: int, facts: Facts) -> int:
        if self.conditions:
            possible = (at for at, each in enumerate(self.conditions) if _holds(each, facts) is not False)
            return next(possible, len(self.prices) - 1)
        return bisect_right(self.bounds, used)


class QuoteLine(NamedTuple):
    """So many units at one price, and what they cost exactly: a call is rounded once, in its total."""

    dimension: Dimension
    base_quantity: int
    """In base units of the dimension: tokens, milliseconds, bytes."""
    price_micros: int
    """For `scale` units; 0 where the free quota pays."""
    is_free: bool = False

    @property
    def direction(self) -> str:
        """usage, input or output."""
        return self.dimension.direction

    @property
    def unit(self) -> str:
        """What is counted."""
        return self.dimension.unit

    @property
    def scale(self) -> int:
        """How many units the price is for."""
        return self.dimension.scale

    @property
    def quantity(self) -> Fraction:
        """How many units."""
        return in_units(self.dimension.unit, self.base_quantity)

    @property
    def price(self) -> Money:
        """The price of `scale` units."""
        return Money(self.price_micros)

    @property
    def cost_micros(self) -> Fraction:
        """Exact, and not rounded."""
        return self.quantity * self.price_micros / self.dimension.scale


class Bill(NamedTuple):
    """What one call costs, and why."""

    micros: int
    shortfall_micros: int
    """What it would have cost beyond the amount held."""
    lines: Sequence[QuoteLine]
    missing: Sequence[str] = ()
    """Dimensions of which no number came."""


class _Term(NamedTuple):
    """One dimension as a part of the sum."""

    rate: Rate
    weight: int
    """What its prices are multiplied by for the common denominator."""
    counter: int | None
    """Which counter its steps go by."""
    is_in_quota: bool
    """Whether the free quota is of its unit."""

    def before(self, used: Sequence[int] | None) -> int | None:
        """What came before the call; None where that is not known."""
        return None if used is None else 0 if self.counter is None else used[self.counter]


class Counter(NamedTuple):
    """A quantity that is counted over a window because prices depend on it."""

    key: str
    window: Window
    is_quota: bool = False


@dataclass(frozen=True)
class Plan:
    """How a call of one variant is priced."""

    version: str
    """The version of the whole price."""
    variant: str
    dimensions: tuple[Dimension, ...]
    min_micros: int
    max_micros: int | None
    """The ceiling of one call that the price names; always there where a dimension has no bound of its own."""
    missing_usage: MissingUsage
    quota: FreeQuota | None
    window: Window

    @cached_property
    def rates(self) -> tuple[Rate, ...]:
        """The dimensions, compiled."""
        return tuple(Rate(each) for each in self.dimensions)

    @cached_property
    def denominator(self) -> int:
        """The common denominator of all prices."""
        return lcm(*(rate.denominator for rate in self.rates))

    @cached_property
    def _terms(self) -> tuple[_Term, ...]:
        counted = iter(range(len(self.rates)))
        quota_unit = self.quota and self.quota.unit
        return tuple(
            _Term(
                rate,
                self.denominator // rate.denominator,
                next(counted) if rate.bounds else None,
                rate.dimension.unit == quota_unit,
            )
            for rate in self.rates
        )

    @cached_property
    def names(self) -> Mapping[str, tuple[str, str]]:
        """(key, unit) of each dimension by its names: `usage.tokens`, its key, and the unit where no other dimension has it."""
        units = [each.unit for each in self.dimensions]
        names = {each.unit: (each.key, each.unit) for each in self.dimensions if units.count(each.unit) == 1}
        names |= {each.key: (each.key, each.unit) for each in self.dimensions}
        return names | {f"{each.direction}.{each.unit}": (each.key, each.unit) for each in self.dimensions}

    @cached_property
    def counters(self) -> tuple[Counter, ...]:
        """What must be counted for this plan: dimensions with steps, then the free quota."""
        counted = [Counter(rate.key, self.window) for rate in self.rates if rate.bounds]
        return (*counted, Counter(f"free.{self.quota.unit}", self.quota.window, is_quota=True)) if self.quota else tuple(counted)

    @cached_property
    def fixed_micros(self) -> int | None:
        """The price of every call, where it depends on nothing; None where it depends on the call or on those before."""
        if self.counters or any(rate.dimension.unit != "requests" or rate.conditions for rate in self.rates):
            return None
        return self.settle(Usage({rate.key: 1 for rate in self.rates}), (), MAX_MICROS).micros

    def counts(self, usage: Usage) -> tuple[int, ...]:
        """By how much a call that used this moves each counter."""
        quantities = usage.quantities
        counted = [quantities.get(rate.key, 0) for rate in self.rates if rate.bounds]
        if self.quota:
            same_unit = [quantities.get(term.rate.key, 0) for term in self._terms if term.is_in_quota]
            counted.append(1 if self._whole_calls_are_free else sum(same_unit))
        return tuple(counted)

    def ceiling(self, known: Usage, used: Sequence[int] | None = None) -> int | None:
        """What to hold: the most that a call can cost of which only `known` is known.

        `used` are the counters, in order; without them the dearest step counts. None where nothing bounds the cost,
        because what bounds it is not in `known`.

        Raises:
            AmountOverflow: 2^53 micros or more.
        """
        if used is not None and self._is_free_call(used):
            return 0
        free, total, unbounded = self._free(used), 0, False
        for term in self._terms:
            rate = term.rate
            upper = known.quantities.get(rate.key) if rate.is_exact else rate.most
            if upper is None:
                unbounded = unbounded or any(rate.prices)
                free = 0 if term.is_in_quota else free  # it may use up all that is free
                continue
            taken = min(free, upper) if term.is_in_quota else 0
            free -= taken
            total += rate.dearest(upper - taken, term.before(used), known.facts) * term.weight
        if unbounded:
            return self.max_micros
        bound = self._rounded(total)
        bound = bound if self.max_micros is None else min(bound, self.max_micros)
        if bound > MAX_MICROS:
            raise AmountOverflow("this call could cost more than any ledger can hold; nothing ran and nothing was charged")
        return bound

    def settle(self, usage: Usage, used: Sequence[int], held_micros: int) -> Bill:
        """What a call cost that used this, when the counters stood at `used` before it; never above `held_micros`.

        Raises:
            UsageMissing: A dimension has no number and the price makes that an error.
        """
        missing = [rate.key for rate in self.rates if rate.key not in usage.quantities]
        if missing and not self._is_free_call(used):
            return Bill(self._without_usage(missing, held_micros), 0, (), missing)
        lines, exact = self.lines(usage, used)
        total = self._rounded(exact)
        return Bill(min(total, held_micros), max(0, total - held_micros), lines, missing)

    def lines(self, usage: Usage, used: Sequence[int]) -> tuple[list[QuoteLine], int]:
        """The quantities of a call, cut at what is free and at the steps, and their sum times `denominator`.

        A dimension without a number has no line.
        """
        lines: list[QuoteLine] = []
        exact, free, all_free = 0, self._free(used), self._is_free_call(used)
        for term in self._terms:
            rate = term.rate
            quantity = usage.quantities.get(rate.key)
            if quantity is None:
                continue
            taken = quantity if all_free else 0
            if free and term.is_in_quota:
                taken = min(free, quantity)
                free -= taken
            if taken:
                lines.append(QuoteLine(rate.dimension, taken, 0, is_free=True))
            if quantity > taken or not taken:
                for part, price in rate.cut(quantity - taken, term.before(used) or 0, usage.facts):
                    lines.append(QuoteLine(rate.dimension, part, price))
                    exact += part * price * term.weight
        return lines, exact

    def _free(self, used: Sequence[int] | None) -> int:
        """How many base units of the quota's unit are free now."""
        if self.quota is None or used is None or self._whole_calls_are_free:
            return 0
        return max(0, self.quota.amount * UNITS[self.quota.unit].base - used[-1])

    @cached_property
    def _whole_calls_are_free(self) -> bool:
        """Whether the quota counts calls that are not priced as such: then all of a call is free."""
        quota = self.quota
        return quota is not None and quota.unit == "requests" and all(each.unit != "requests" for each in self.dimensions)

    def _is_free_call(self, used: Sequence[int]) -> bool:
        return self.quota is not None and self._whole_calls_are_free and used[-1] < self.quota.amount

    def _rounded(self, exact: int) -> int:
        """Numerator over the common denominator to micros: up, and not below the least charge."""
        return max(-(-exact // self.denominator), self.min_micros) if exact else 0

    def _without_usage(self, missing: Sequence[str], held_micros: int) -> int:
        match self.missing_usage:
            case "refund":
                return 0
            case "min":
                return min(self.min_micros, held_micros)
            case "ceiling":
                return held_micros
            case _:
                raise UsageMissing(
                    f"the tool did not report {', '.join(missing)}, by which this call of up to {format_usd(held_micros)} is "
                    "priced; its answer is withheld and nothing was charged"
                )


def known_before(dimension: Dimension) -> bool:
    """Whether the quantity is known before the run: a call is one request, and what was sent has been sent."""
    if dimension.unit == "requests":
        return True
    sent = dimension.direction != "output" and (dimension.unit == "characters" or dimension.unit in SIZES)
    return sent and dimension.measure == "auto" and dimension.meter is None


def _holds(condition: Condition | None, facts: Facts) -> bool | None:
    """Whether a condition holds; None where its field is not known."""
    if condition is None:
        return True
    value = facts.get(condition.field)
    if value is None:
        return None
    match condition.op:
        case "<=":
            return value <= condition.value
        case "<":
            return value < condition.value
        case ">=":
            return value >= condition.value
        case ">":
            return value > condition.value
        case _:
            return value == condition.value
