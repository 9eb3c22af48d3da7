"""What one call costs, with lines that a person can check: before it runs, or for a usage that is given."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from payre_mcp.errors import UsageInvalid
from payre_mcp.money import MAX_MICROS, ZERO, Money
from payre_mcp.pricing.plan import Bill, Facts, Plan, QuoteLine, Usage
from payre_mcp.pricing.units import FIELDS, exact, to_base
from payre_mcp.pricing.usage import Sent, find_dimension, known_usage, with_token_facts
from payre_mcp.text import shown


class Quote(NamedTuple):
    """What one call costs."""

    total: Money
    lines: tuple[QuoteLine, ...]
    ceiling: Money | None = None
    """What is held before it runs; None where that depends on arguments that were not given."""
    shortfall: Money = ZERO
    """What it would have cost beyond its ceiling."""
    missing: tuple[str, ...] = ()
    """Dimensions of which no number is known; for a call that has run, the price's `missing_usage` says what that costs."""
    variant: str = ""


def quote_plan(
    plan: Plan,
    arguments: Mapping[str, Any] | None,
    usage: Mapping[str, object] | None,
    used_before: Mapping[str, object] | None,
) -> Quote:
    """Price one call by its plan; see `PriceSpec.quote`."""
    return quote_call(plan, known_of(plan, arguments), usage, _counted(plan, used_before or {}))


def quote_call(plan: Plan, known: Usage, usage: Mapping[str, object] | None, used: Sequence[int]) -> Quote:
    """Price one call of which `known` is known before it runs, when the plan's counters stand at `used`."""
    if usage is None:
        return _before_the_run(plan, known, used)
    given, observed = _given(plan, usage)
    quantities = {**_automatic(plan), **known.quantities, **given}
    spent = Usage(quantities, with_token_facts(quantities, {**known.facts, **observed}))
    # What the call will find out while it runs bounds nothing before it.
    ceiling = plan.ceiling(Usage(quantities, known.facts), used)
    return _quoted(plan, plan.settle(spent, used, MAX_MICROS if ceiling is None else ceiling), ceiling)


def known_of(plan: Plan, arguments: Mapping[str, Any] | None) -> Usage:
    """What is known of a call before it runs; without its arguments, that it is one request."""
    if arguments is not None:
        return known_usage(plan, Sent.arguments(arguments))
    return Usage({rate.key: 1 for rate in plan.rates if rate.dimension.unit == "requests"})


def _automatic(plan: Plan) -> dict[str, int]:
    return {rate.key: 1 for rate in plan.rates if rate.dimension.unit == "invocations" and rate.dimension.measure == "auto"}


def _before_the_run(plan: Plan, known: Usage, used: Sequence[int]) -> Quote:
    """The most that the call can cost: every dimension at its upper quantity."""
    upper = {rate.key: rate.most for rate in plan.rates if not rate.is_exact and rate.most is not None}
    expected = Usage({**known.quantities, **upper}, known.facts)
    missing = tuple(rate.key for rate in plan.rates if rate.key not in expected.quantities)
    ceiling = plan.ceiling(known, used)
    lines = tuple(plan.lines(expected, used)[0])
    if ceiling is None:
        return Quote(Money(plan.min_micros), lines, None, missing=missing, variant=plan.variant)
    return Quote(Money(ceiling), lines, Money(ceiling), missing=missing, variant=plan.variant)


def _quoted(plan: Plan, bill: Bill, ceiling: int | None) -> Quote:
    return Quote(
        Money(bill.micros),
        tuple(bill.lines),
        None if ceiling is None else Money(ceiling),
        Money(bill.shortfall_micros),
        tuple(bill.missing),
        plan.variant,
    )


def _given(plan: Plan, usage: Mapping[str, object]) -> tuple[dict[str, int], Facts]:
    """Quantities by dimension and observed fields, from what a caller wrote."""
    quantities: dict[str, int] = {}
    observed: dict[str, Fraction] = {}
    for name, n in usage.items():
        if name in FIELDS:
            observed[name] = exact(n)
        else:
            key, unit = plan.names.get(name) or _key(plan, name)
            if key in quantities:
                raise UsageInvalid(f"{name} is given twice")
            quantities[key] = to_base(unit, n)
    return quantities, observed


def _key(plan: Plan, name: str) -> tuple[str, str]:
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - a caller's own mistake
        raise UsageInvalid(f"{shown(name)} is not the name of a unit")
    direction, dot, unit = name.rpartition(".")
    return find_dimension(plan.dimensions, unit, direction if dot else None), unit


def _counted(plan: Plan, used_before: Mapping[str, object]) -> tuple[int, ...]:
    """The counters of a plan, in order, from what a caller wrote."""
    if not used_before:
        return (0,) * len(plan.counters)
    free: dict[str, int] = {}
    used: dict[str, int] = {}
    for name, n in used_before.items():
        if name in plan.names:
            key, unit = plan.names[name]
        elif isinstance(name, str) and name.startswith("free."):  # pyright: ignore[reportUnnecessaryIsInstance] - as in _key
            unit = find_dimension((), name.removeprefix("free."))
            free[unit] = to_base(unit, n)
            continue
        else:
            key, unit = _key(plan, name)
        if key in used:
            raise UsageInvalid(f"{name} is given twice")
        used[key] = to_base(unit, n)
    counted = [used.get(counter.key, 0) for counter in plan.counters]
    if plan.quota is not None:
        same_unit = sum(quantity for key, quantity in used.items() if key.rpartition(".")[2] == plan.quota.unit)
        counted[-1] = free.get(plan.quota.unit, same_unit)
    return tuple(counted)
