"""Reading a price in every form that `price=` takes, into one `PriceSpec`.

A price text or number, a `PriceSpec`, or a mapping in the shape of a price file's entry. An unknown key is an error,
because a typing mistake must never make a tool free.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from payre_mcp.errors import PriceSpecInvalid, Problem
from payre_mcp.money import AmountSource, InvalidAmount, Money
from payre_mcp.pricing.spec import Dimension, PriceSpec, Tier

PriceSource = AmountSource | PriceSpec | Mapping[str, Any]
"""What `price=` takes: dollars as text or number, a spec from `Price`, or a mapping."""

_ENTRY_KEYS = ("price", "metering", "dimensions", "description", "notes")
_METERING_KEYS = ("dimensions",)
_DIMENSION_KEYS = ("direction", "unit", "scale", "tiers", "price_usd", "notes")
_TIER_KEYS = ("price_usd", "notes")


class Price:
    """Builders of price specs."""

    @staticmethod
    def per_call(amount: AmountSource) -> PriceSpec:
        """A fixed price for every successful call.

        Raises:
            PriceSpecInvalid: `amount` is not an exact amount of dollars, zero or more.
        """
        return load_price(amount)


def load_price(source: PriceSource) -> PriceSpec:
    """Read one price. Exact: nothing is rounded, and a float counts as the decimal it prints as.

    >>> load_price("$0.005").ceiling()
    Money(micros=5000)

    Raises:
        PriceSpecInvalid: It is not a price; `problems` lists everything that is wrong with it, each with a code.
    """
    if isinstance(source, PriceSpec):
        return source
    reader = _Reader()
    spec = reader.entry(source)
    if reader.problems:
        raise PriceSpecInvalid(reader.problems)
    return spec


class _Reader:
    """Walks a source and collects every problem before anyone is told."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def entry(self, source: object) -> PriceSpec:
        if not isinstance(source, Mapping):
            return _per_call(self.amount(source, "price"))
        entry = self.mapping(cast("object", source), "price", _ENTRY_KEYS)
        forms = [name for name in ("price", "metering", "dimensions") if name in entry]
        if len(forms) != 1:
            self.problem("entry_invalid", "price", "give exactly one of price, metering, dimensions")
            return _per_call(Money(0))
        if forms == ["price"]:
            return _per_call(self.amount(entry["price"], "price.price"))
        if forms == ["metering"]:
            return self.metering(entry["metering"], "price.metering")
        return self.dimensions(entry["dimensions"], "price.dimensions")

    def metering(self, source: object, path: str) -> PriceSpec:
        metering = self.mapping(source, path, _METERING_KEYS)
        return self.dimensions(metering.get("dimensions"), f"{path}.dimensions")

    def dimensions(self, source: object, path: str) -> PriceSpec:
        items = self.items(source)
        if len(items) != 1:
            self.problem("dimensions_missing", path, "a fixed price has one dimension: {unit: requests, price_usd: 0.01}")
            return _per_call(Money(0))
        return self.dimension(items[0], f"{path}[0]")

    def dimension(self, source: object, path: str) -> PriceSpec:
        dimension = self.mapping(source, path, _DIMENSION_KEYS)
        for key, only in (("direction", "usage"), ("unit", "requests"), ("scale", 1)):
            value = dimension.get(key, None if key == "unit" else only)
            if type(value) is not type(only) or value != only:
                self.problem("unsupported_field", f"{path}.{key}", f"a fixed price has {key} {only!r}, not {value!r}")
        if "tiers" in dimension:
            tiers = self.items(dimension["tiers"])
            if len(tiers) != 1 or "price_usd" in dimension:
                self.problem("tiers_empty", f"{path}.tiers", "a fixed price has one tier: [{price_usd: 0.01}]")
                return _per_call(Money(0))
            path = f"{path}.tiers[0]"
            dimension = self.mapping(tiers[0], path, _TIER_KEYS)
        return _per_call(self.amount(dimension.get("price_usd"), f"{path}.price_usd"))

    def amount(self, source: object, path: str) -> Money:
        try:
            return Money.parse(cast("str", source))
        except InvalidAmount as error:
            self.problem(error.code, path, str(error))
            return Money(0)

    def mapping(self, source: object, path: str, known: Sequence[str]) -> Mapping[str, Any]:
        if not isinstance(source, Mapping):
            self.problem("entry_invalid", path, f"a mapping with {', '.join(known)} belongs here, not {source!r:.80}")
            return {}
        mapping = cast("Mapping[object, Any]", source)
        for key in mapping:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
                self.problem("unknown_key", path, f"unknown key {str(key)[:80]!r}{hint}")
        return cast("Mapping[str, Any]", mapping)

    @staticmethod
    def items(source: object) -> list[object]:
        return list(cast("Sequence[object]", source)) if isinstance(source, list | tuple) else []

    def problem(self, code: str, path: str, message: str) -> None:
        self.problems.append(Problem(code, path, message))


def _per_call(amount: Money) -> PriceSpec:
    return PriceSpec((Dimension(unit="requests", tiers=(Tier(amount),)),))
