"""The parts of a price, in the words of pay.sh's pricing document: dimensions, tiers, conditions, variants, quota.

Immutable values; what they mean for money stands in `plan.py`, who may write them in `load.py`.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, cast

from payre_mcp.money import Money
from payre_mcp.pricing.units import Direction, dimension_key

Tiering = Literal["volume", "graduated"]
Window = Literal["month", "day", "all_time"]
MissingUsage = Literal["refund", "min", "ceiling", "error"]
UsagePreset = Literal["openai-compatible", "openai-responses", "google-generativelanguage"]


class Target(NamedTuple):
    """What can carry a price: `kind` is tool, resource or prompt; `name` is the tool's name or the resource's URI."""

    kind: str
    name: str

    @property
    def label(self) -> str:
        """The name that a mapping of prices has for it: a tool's own, `resource:<uri>`, `prompt:<name>`."""
        return self.name if self.kind == "tool" else f"{self.kind}:{self.name}"

    @classmethod
    def named(cls, label: str) -> "Target":
        """The target of such a name."""
        kind, colon, name = label.partition(":")
        return cls(kind, name) if colon and kind in {"resource", "prompt"} else cls("tool", label)


@dataclass(frozen=True, slots=True)
class Condition:
    """When a tier applies: `field` `op` `value`, such as context_length <= 200000."""

    field: str
    op: Literal["<=", "<", ">=", ">", "=="]
    value: int


@dataclass(frozen=True, slots=True)
class Tier:
    """A price for units up to a bound, or under a condition. The last tier of a dimension has no `up_to`."""

    price: Money
    up_to: int | None = None
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class Meter:
    """Where a quantity stands in the answer: an RFC 6901 `path` into structuredContent, or a `key` of the result's `_meta`."""

    source: Literal["result", "meta"]
    path: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One quantity that a call is charged for: the price of a tier is for `scale` units."""

    unit: str
    tiers: tuple[Tier, ...]
    direction: Direction = "usage"
    scale: int = 1
    tiering: Tiering = "volume"
    max_units: int | None = None
    """The largest quantity of one call, for the hold."""
    measure: Literal["auto", "reported"] = "auto"
    meter: Meter | None = None

    @property
    def key(self) -> str:
        """Its name in usage and counters: `requests`, `input.tokens`."""
        return dimension_key(self.direction, self.unit)


@dataclass(frozen=True, slots=True)
class Variant:
    """The dimensions that hold when argument `param` (a dotted path) has this value."""

    param: str
    value: str
    dimensions: tuple[Dimension, ...]
    description: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        """Its name in counters and receipts."""
        return f"{self.param}={self.value}"


@dataclass(frozen=True, slots=True)
class FreeQuota:
    """The first `amount` units of a window cost nothing. `notes` are for people."""

    amount: int
    unit: str = "requests"
    window: Window = "month"
    notes: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Split:
    """A share of every charge for another developer: hundredths of a percent of the gross, or a fixed amount."""

    account: str
    percent_bps: int = 0
    amount: Money | None = None
    memo: str = ""


Part = Condition | Tier | Meter | Dimension | Variant | FreeQuota | Split

_RENAMED = {"price": "price_usd", "amount": "amount_usd"}
_WORDS_ONLY = frozenset({"description", "notes"})
"""Text for people: it changes no price, so it names no version."""


def canonical(part: Part) -> dict[str, Any]:
    """A part as plain JSON data in the shape of a price file; what is at its default is left out."""
    out: dict[str, Any] = {}
    for each in fields(part):
        value: object = getattr(part, each.name)
        if each.name in _WORDS_ONLY or (value == each.default and each.name not in _ALWAYS):
            continue
        name, plain = _plain(each.name, value)
        out[name] = plain
    return out


_ALWAYS = frozenset({"unit", "direction", "scale", "window"})


def _plain(name: str, value: object) -> tuple[str, Any]:
    if isinstance(value, Money):
        return _RENAMED[name], value.usd
    if name == "percent_bps":
        return "percent", f"{cast('int', value) // 100}.{cast('int', value) % 100:02d}"
    if isinstance(value, tuple):
        return name, [canonical(each) for each in cast("tuple[Part, ...]", value)]
    return name, canonical(cast("Part", value)) if hasattr(value, "__dataclass_fields__") else value
