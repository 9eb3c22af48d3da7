"""The shape of a price, in the words of pay.sh's pricing document: dimensions, units, scale, tiers, variants.

Today a spec is a fixed price per call: one `usage` dimension of `requests` with one open tier. The types hold the rest.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

from payre_mcp.money import ZERO, Money


class Target(NamedTuple):
    """What can carry a price: `kind` is tool, resource or prompt; `name` is the tool's name or the resource's URI."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Tier:
    """A price for units up to a bound. The last tier of a dimension is open (`up_to` is None)."""

    price: Money
    up_to: int | None = None


@dataclass(frozen=True, slots=True)
class Dimension:
    """One quantity that a call is charged for: the price of a tier is for `scale` units."""

    unit: str
    tiers: tuple[Tier, ...]
    direction: str = "usage"
    scale: int = 1


@dataclass(frozen=True, slots=True)
class Variant:
    """The dimensions that hold when argument `param` (a dotted path) has this value."""

    param: str
    value: str
    dimensions: tuple[Dimension, ...]


class QuoteLine(NamedTuple):
    """One line of a quote: so many units of one dimension, and what they cost."""

    direction: str
    unit: str
    quantity: int
    cost: Money


class Quote(NamedTuple):
    """What one call costs."""

    total: Money
    lines: tuple[QuoteLine, ...]


@dataclass(frozen=True)
class PriceSpec:
    """A complete price of one target. Immutable, and named by its content: see `version`."""

    dimensions: tuple[Dimension, ...]
    variants: tuple[Variant, ...] = ()

    @cached_property
    def version(self) -> str:
        """SHA-256 of the spec's canonical JSON in hex: two specs with one version cost the same."""
        return hashlib.sha256(json.dumps(self.canonical(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def canonical(self) -> dict[str, Any]:
        """The spec as plain JSON data, in the shape of a `metering` mapping."""
        return {"dimensions": [_canonical_dimension(each) for each in self.dimensions]}

    def quote(
        self,
        arguments: Mapping[str, Any] | None = None,
        usage: Mapping[str, int] | None = None,
        used_before: Mapping[str, int] | None = None,
    ) -> Quote:
        """Price one call. Total and lines are exact; a fixed price does not look at its arguments."""
        return self._fixed

    def ceiling(self, arguments: Mapping[str, Any] | None = None) -> Money:
        """The most that one call with these arguments can cost: what is held before it runs."""
        return self._fixed.total

    @property
    def is_free(self) -> bool:
        """Whether every price in it is zero. Such a target needs no key, and is recorded when one came."""
        return not any(tier.price for dimension in self.dimensions for tier in dimension.tiers)

    @cached_property
    def _fixed(self) -> Quote:
        lines = tuple(QuoteLine(each.direction, each.unit, 1, each.tiers[-1].price) for each in self.dimensions)
        return Quote(sum((line.cost for line in lines), ZERO), lines)


def _canonical_dimension(dimension: Dimension) -> dict[str, Any]:
    tiers = [{"price_usd": tier.price.usd} for tier in dimension.tiers]
    return {**asdict(dimension), "tiers": tiers}
