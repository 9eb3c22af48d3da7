"""A second evaluation of prices, from the text of the pricing document alone: plain mappings in, exact fractions out.

It shares no code with the package, so that one mistake is not made twice.
"""

from collections.abc import Mapping
from fractions import Fraction
from math import ceil
from typing import Any, NamedTuple

BASE = {"GiB": 2**30, "TiB": 2**40, "seconds": 1_000, "minutes": 60_000, "hours": 3_600_000, "vCPU": 1_000}
NO_LIMIT = 2**53 - 1
Dimension = Mapping[str, Any]


class Answer(NamedTuple):
    """What a call costs in micros; `charge` is None where the call fails because its usage is missing."""

    charge: int | None
    shortfall: int
    hold: int | None


class Call(NamedTuple):
    """One call of a price: quantities in units by dimension, and what was used before it."""

    usage: Mapping[str, str]
    used: Mapping[str, str]
    facts: Mapping[str, int] = {}
    """Condition fields that the tool observes."""
    sent: Mapping[str, int] = {}
    """Quantities and condition fields that the arguments tell before the run."""


def micros(price: object) -> Fraction:
    return Fraction(str(price)) * 1_000_000


def name_of(dimension: Dimension) -> str:
    direction = dimension.get("direction", "usage")
    return dimension["unit"] if direction == "usage" else f"{direction}.{dimension['unit']}"


def in_base(unit: str, n: str | int) -> int:
    return ceil(Fraction(n) * BASE.get(unit, 1))


def tiers_of(dimension: Dimension) -> list[Mapping[str, Any]]:
    return dimension.get("tiers") or [{"price_usd": dimension["price_usd"]}]


def known_before_the_run(dimension: Dimension) -> bool:
    if dimension["unit"] == "requests":
        return True
    sent = dimension["unit"] in {"characters", "bytes", "GiB", "TiB"} and dimension.get("direction", "usage") != "output"
    return sent and dimension.get("measure", "auto") != "reported" and "meter" not in dimension


def holds(condition: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> bool | None:
    if condition is None:
        return True
    if condition["field"] not in facts:
        return None
    left, right = facts[condition["field"]], condition["value"]
    return {"<=": left <= right, "<": left < right, ">=": left >= right, ">": left > right, "==": left == right}[condition["op"]]


def cost(dimension: Dimension, quantity: int, used: int, facts: Mapping[str, Any]) -> Fraction:
    """Step 4: the sum over the tiers used of part / scale x price."""
    base = BASE.get(dimension["unit"], 1)
    tiers = tiers_of(dimension)

    def of(part: int, tier: Mapping[str, Any]) -> Fraction:
        return Fraction(part, base) / dimension.get("scale", 1) * micros(tier["price_usd"])

    if any("condition" in tier for tier in tiers):
        fitting = [tier for tier in tiers if holds(tier.get("condition"), facts) is not False]
        return of(quantity, fitting[0] if fitting else tiers[-1])
    if dimension.get("tiering") != "graduated":
        return of(quantity, next(tier for tier in tiers if "up_to" not in tier or used < tier["up_to"] * base))
    total, start, end, low = Fraction(0), used, used + quantity, 0
    for tier in tiers:
        high = tier["up_to"] * base if "up_to" in tier else end
        total += of(max(0, min(end, high) - max(start, low)), tier)
        low = max(low, high)
    return total


def dearest(dimension: Dimension, quantity: int, used: int, facts: Mapping[str, Any]) -> Fraction:
    tiers = tiers_of(dimension)
    if not any("condition" in tier for tier in tiers):
        return cost(dimension, quantity, used, facts)
    possible: list[Mapping[str, Any]] = []
    for tier in tiers:
        held = holds(tier.get("condition"), facts)
        if held is not False:
            possible.append(tier)
        if held:
            break
    return max(
        cost({**dimension, "tiers": [{"price_usd": tier["price_usd"]}]}, quantity, 0, {}) for tier in possible or tiers[-1:]
    )


class Evaluation:
    """One price and one call."""

    def __init__(self, metering: Mapping[str, Any], call: Call, variant: str | None = None) -> None:
        chosen = next((each["dimensions"] for each in metering.get("variants", []) if each["value"] == variant), None)
        self.metering, self.call, self.dimensions = metering, call, chosen or metering["dimensions"]
        self.least = micros(metering.get("min_price_usd", 0))
        self.quota: Mapping[str, Any] = metering.get("free_quota") or {}
        self.used = {name_of(each): in_base(each["unit"], call.used.get(name_of(each), "0")) for each in self.dimensions}

    @property
    def counts_whole_calls(self) -> bool:
        units = [each["unit"] for each in self.dimensions]
        return bool(self.quota) and self.quota.get("unit", "requests") == "requests" and "requests" not in units

    @property
    def is_free_call(self) -> bool:
        return self.counts_whole_calls and int(self.call.used.get("free.requests", "0")) < self.quota["amount"]

    def billed(self, quantities: dict[str, int]) -> dict[str, int]:
        """Step 3: the quantities less what the free quota takes, in file order."""
        if not self.quota or self.counts_whole_calls:
            return quantities
        unit = self.quota.get("unit", "requests")
        used = sum(self.used[name_of(each)] for each in self.dimensions if each["unit"] == unit)
        left = max(0, in_base(unit, self.quota["amount"]) - used)
        out = dict(quantities)
        for each in self.dimensions:
            if each["unit"] == unit and name_of(each) in quantities:
                free = min(quantities[name_of(each)], left)
                out[name_of(each)] -= free
                left -= free
        return out

    def rounded(self, exact: Fraction) -> int:
        return max(ceil(exact), int(self.least)) if exact else 0

    def hold(self, known: Mapping[str, int]) -> int | None:
        """Section 7; None where nothing bounds it."""
        if self.is_free_call:
            return 0
        upper: dict[str, int] = {}
        for each in self.dimensions:
            if known_before_the_run(each):
                if name_of(each) in known:
                    upper[name_of(each)] = known[name_of(each)]
            elif "max_units" in each:
                upper[name_of(each)] = in_base(each["unit"], each["max_units"])
        most = int(micros(self.metering["max_price_usd"])) if "max_price_usd" in self.metering else None
        if any(not known_before_the_run(each) and "max_units" not in each for each in self.every_dimension()):
            most = 1_000_000 if most is None else most
        if len(upper) < len(self.dimensions):
            return most
        left = self.billed(upper)
        bound = self.rounded(
            sum(
                (dearest(each, left[name_of(each)], self.used[name_of(each)], self.call.sent) for each in self.dimensions),
                Fraction(),
            )
        )
        return bound if most is None else min(bound, most)

    def every_dimension(self) -> list[Dimension]:
        variants = [each for variant in self.metering.get("variants", []) for each in variant["dimensions"]]
        return [*self.metering.get("dimensions", []), *variants]

    def known(self) -> dict[str, int]:
        out = {name_of(each): 1 for each in self.dimensions if each["unit"] == "requests"}
        for each in self.dimensions:
            field = {"characters": "input_characters"}.get(each["unit"], "body_size")
            if each["unit"] != "requests" and known_before_the_run(each) and field in self.call.sent:
                out[name_of(each)] = self.call.sent[field]
        return out

    def answer(self) -> Answer:
        quantities = self.known()
        quantities |= {
            name_of(each): 1 for each in self.dimensions if each["unit"] == "invocations" and each.get("measure") != "reported"
        }
        for each in self.dimensions:
            if name_of(each) in self.call.usage:
                quantities[name_of(each)] = in_base(each["unit"], self.call.usage[name_of(each)])
        hold = self.hold(quantities)
        limit = NO_LIMIT if hold is None else hold
        if self.is_free_call:
            return Answer(0, 0, hold)
        if len(quantities) < len(self.dimensions):
            policy = self.metering.get("missing_usage", "refund")
            charges = {"refund": 0, "min": min(int(self.least), limit), "ceiling": limit, "error": None}
            return Answer(charges[policy], 0, hold)
        facts: dict[str, Any] = dict(self.call.sent)
        if "input.tokens" in quantities:
            facts |= dict.fromkeys(("input_tokens", "context_length"), quantities["input.tokens"])
        facts |= self.call.facts
        left = self.billed(quantities)
        exact = sum((cost(each, left[name_of(each)], self.used[name_of(each)], facts) for each in self.dimensions), Fraction())
        charge = self.rounded(exact)
        return Answer(min(charge, limit), max(0, charge - limit), hold)
