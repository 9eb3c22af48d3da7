"""Pricing inside the ledger: a hold's ceiling and a capture's amount, where they depend on counters.

A hold fixes what was used before it; its capture is priced from there with the actual quantities. So two calls that race
over a step are each priced at their own place, and a call costs the same however long it ran. What a row was priced by
stands in its `terms`: on a hold the counters as it found them, on a charge the lines that its amount adds up from. The
counters of a key's limits stand there too, as `spent`: they count the row's own amount, also where the price is fixed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import ceil
from typing import Any, NamedTuple

from payre_mcp.clock import window_start
from payre_mcp.errors import InvalidRequest
from payre_mcp.ledger.model import Metered, Spent
from payre_mcp.ledger.state import CounterKey
from payre_mcp.pricing import Plan, Target, Usage
from payre_mcp.pricing.plan import Bill
from payre_mcp.pricing.units import LARGEST

_FIXED = '{"spent":'
"""How terms of a fixed price begin."""

MOST_COUNTED = 2**62
"""Counters stop here: far above any use, and below what 64 bits hold."""


class Move(NamedTuple):
    """A change of one counter."""

    name: str
    window_start: int
    captured: int
    reserved: int


def counters_of(plan: Plan, server_id: int, target: Target, now_us: int) -> tuple[tuple[str, int], ...]:
    """(name, start of the window) of each of the plan's counters, in its order; a free quota is one for all variants."""
    return tuple(
        (
            _dump([server_id, *target, "" if counter.is_quota else plan.variant, counter.key, counter.window]),
            window_start(counter.window, now_us),
        )
        for counter in plan.counters
    )


def fixed_terms(spent: Sequence[tuple[str, int]]) -> str:
    """The terms of a hold or charge of a fixed price: the counters of the key's limits, or nothing at all."""
    return _dump({"spent": spent}) if spent else ""


def is_fixed(terms: str) -> bool:
    """Whether terms are those of a fixed price; then a charge has the same as its hold."""
    return not terms or terms.startswith(_FIXED)


def price_hold(
    metered: Metered, consumer_id: int, counters: Mapping[CounterKey, tuple[int, int]], spent: Sequence[tuple[str, int]] = ()
) -> tuple[int, str]:
    """The amount to hold, and the terms of the hold.

    Raises:
        AmountOverflow: The call could cost 2^53 micros or more.
        InvalidRequest: What bounds the cost of this call was not said, or is no quantity.
    """
    plan = metered.plan
    _check(metered.known)
    used = [sum(counters.get((consumer_id, *counter), (0, 0))) for counter in metered.counters]
    amount = plan.ceiling(metered.known, used)
    if amount is None:
        raise InvalidRequest("the quantities that are known before the run were not sent; nothing ran and nothing was charged")
    known = plan.counts(metered.known)
    found = [[*counter, before, reserved] for counter, before, reserved in zip(metered.counters, used, known, strict=True)]
    limited = {"spent": spent} if spent else {}
    return amount, _dump({"version": plan.version, "variant": plan.variant, "counters": found, **limited})


def price_capture(spent: Spent | None, held_micros: int, hold_terms: str) -> tuple[int, str]:
    """The amount to charge, and the terms of the charge.

    Raises:
        UsageMissing: A dimension has no number and the price makes that an error; the hold stands.
        InvalidRequest: The hold was made with another price, or a quantity is none.
    """
    terms: dict[str, Any] = json.loads(hold_terms or "{}")
    if spent is None or (spent.plan.version, spent.plan.variant) != (terms.get("version"), terms.get("variant")):
        raise InvalidRequest("this hold was made with another price; a call is charged by the price that it was held with")
    plan, usage = spent
    _check(usage)
    bill = plan.settle(usage, [before for _, _, before, _ in terms["counters"]], held_micros)
    moved = zip(terms["counters"], plan.counts(usage), strict=True)
    limited = {"spent": terms["spent"]} if "spent" in terms else {}
    return bill.micros, _dump({
        "version": plan.version,
        "variant": plan.variant,
        "lines": _lines(bill),
        "min_micros": plan.min_micros,
        "shortfall_micros": bill.shortfall_micros,
        "missing": list(bill.missing),
        "counters": [[name, start, quantity] for (name, start, _, _), quantity in moved],
        **limited,
    })  # fmt: skip


def charged_for(charge_terms: str) -> list[tuple[str, int, Fraction]]:
    """(dimension, base units, exact micros) of each line of a metered charge; none for a fixed price."""
    lines = () if is_fixed(charge_terms) else json.loads(charge_terms)["lines"]
    return [(key, quantity, Fraction(cost)) for key, quantity, cost in lines]


def reserved_by(hold_terms: str, amount_micros: int) -> Iterator[Move]:
    """What an open hold of this amount keeps in its counters."""
    known = _read(hold_terms)
    for name, start, _, reserved in known["counters"]:
        yield Move(name, start, 0, reserved)
    for name, start in known["spent"]:
        yield Move(name, start, 0, amount_micros)


def released_by(hold_terms: str, amount_micros: int) -> Iterator[Move]:
    """What the end of a hold gives back."""
    return (move._replace(reserved=-move.reserved) for move in reserved_by(hold_terms, amount_micros))


def captured_by(charge_terms: str, amount_micros: int) -> Iterator[Move]:
    """What a charge of this amount has counted."""
    known = _read(charge_terms)
    for name, start, quantity in known["counters"]:
        yield Move(name, start, quantity, 0)
    for name, start in known["spent"]:
        yield Move(name, start, amount_micros, 0)


def adds_up(amount_micros: int, charge_terms: str) -> bool:
    """Whether a charge is what its lines sum to: rounded up once, at least the least charge, less the shortfall.

    A call without usage was priced by policy, and has no lines to sum; nor has a fixed price.
    """
    if is_fixed(charge_terms):
        return True
    terms = json.loads(charge_terms)
    if terms["missing"]:
        return True
    exact = sum((cost for _, _, cost in charged_for(charge_terms)), Fraction(0))
    total = max(ceil(exact), terms["min_micros"]) if exact else 0
    return amount_micros + terms["shortfall_micros"] == total


def origin(terms: str) -> str:
    """What a hold and its end must agree on: the price, its variant, and the counters."""
    known = _read(terms)
    price = [] if is_fixed(terms) else [known["version"], known["variant"]]
    return _dump([*price, [counter[:2] for counter in known["counters"]], known["spent"]])


def _check(usage: Usage) -> None:
    """A quantity is a whole number of base units that one call can use; anything else would spoil a counter for good."""
    for key, quantity in usage.quantities.items():
        if not 0 <= quantity <= LARGEST:
            raise InvalidRequest(f"{key}: {quantity} is no quantity of one call; nothing was charged")


def _read(terms: str) -> dict[str, Any]:
    """Terms with both their lists of counters; terms that lack what they must have do not pass unseen."""
    if not terms:
        return {"counters": (), "spent": ()}
    known = json.loads(terms)
    return {"counters": (), "spent": known["spent"]} if is_fixed(terms) else {"spent": (), **known}


def _lines(bill: Bill) -> list[list[object]]:
    """(dimension, base units, exact micros as "n/d") of each line, so that anyone can add up the charge again."""
    return [[line.dimension.key, line.base_quantity, str(line.cost_micros)] for line in bill.lines]


def _dump(data: Mapping[str, object] | list[object]) -> str:
    return json.dumps(data, separators=(",", ":"))
