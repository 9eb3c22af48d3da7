"""`PriceSpec`: a complete price of one target, and what it says of a call."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from payre_mcp.errors import AmountOverflow, InvalidVariant
from payre_mcp.money import ZERO, Money
from payre_mcp.pricing.dimensions import (
    Dimension,
    FreeQuota,
    MissingUsage,
    Split,
    UsagePreset,
    Variant,
    Window,
    canonical,
)
from payre_mcp.pricing.plan import Plan, Usage
from payre_mcp.pricing.quote import Quote, quote_plan
from payre_mcp.pricing.usage import Sent, known_usage
from payre_mcp.text import shown

DefaultOf = Callable[[str], object]
"""The default of an argument in the tool's input schema, by dotted path; None where it has none."""

_LONGEST_INTEGER = 64
"""Bits of an argument that a variant may name; the text of a longer one is not even made."""


@dataclass(frozen=True)
class PriceSpec:
    """A complete price of one target. Immutable, and named by its content: see `version`."""

    dimensions: tuple[Dimension, ...] = ()
    variants: tuple[Variant, ...] = ()
    min_price: Money = ZERO
    """The least charge of a call that costs anything."""
    max_price: Money | None = None
    """The ceiling of one call; always there where a dimension has no bound of its own."""
    missing_usage: MissingUsage = "refund"
    usage_preset: UsagePreset | None = None
    window: Window = "month"
    """How long units count towards `up_to`, per consumer, in UTC."""
    free_quota: FreeQuota | None = None
    splits: tuple[Split, ...] = ()
    description: str = field(default="", compare=False)
    notes: str = field(default="", compare=False)

    @cached_property
    def version(self) -> str:
        """SHA-256 of the spec's canonical JSON in hex: two specs with one version cost the same."""
        return hashlib.sha256(json.dumps(self.canonical(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def canonical(self) -> dict[str, Any]:
        """The spec as plain JSON data, in the shape of a `metering` mapping; loading it gives an equal price."""
        out: dict[str, Any] = {
            "dimensions": [canonical(each) for each in self.dimensions],
            "variants": [canonical(each) for each in self.variants],
            "min_price_usd": self.min_price.usd if self.min_price else None,
            "max_price_usd": None if self.max_price is None else self.max_price.usd,
            "missing_usage": self.missing_usage if self.missing_usage != "refund" else None,
            "usage_preset": self.usage_preset,
            "counter": {"window": self.window} if self.window != "month" else None,
            "free_quota": self.free_quota and canonical(self.free_quota),
            "splits": [canonical(each) for each in self.splits],
        }
        return {name: value for name, value in out.items() if value not in (None, [])}

    def quote(
        self,
        arguments: Mapping[str, Any] | None = None,
        usage: Mapping[str, object] | None = None,
        used_before: Mapping[str, object] | None = None,
    ) -> Quote:
        """Price one call. Exact; the total is rounded up once, to the micro, and is never above the ceiling.

        Without `usage` the call has not run yet: total and lines are the most that it can cost. With `usage` it has, and
        used this: the keys are units or `direction.unit` (`tokens`, `input.tokens`), or fields of conditions; a dimension
        without a number falls under the price's `missing_usage`. `used_before` is what the consumer used in the current
        window, by the same keys, or `free.unit` for the free quota alone. Quantities are numbers or numeric text.

        Raises:
            InvalidVariant: The price has no variant for these arguments.
            UsageInvalid: A key or a quantity is none.
            UsageMissing: A number is missing, and the price makes that an error.
        """
        plan = self.plan_of(arguments)
        if plan.fixed_micros is None or usage or used_before:
            return quote_plan(plan, arguments, usage, used_before)
        return self._fixed_quote(plan)

    def ceiling(self, arguments: Mapping[str, Any] | None = None) -> Money:
        """The most that one call with these arguments can cost, at the dearest step that can apply. Rounded up to the micro.

        Raises:
            InvalidVariant: The price has no variant for these arguments.
            AmountOverflow: It is 2^53 micros or more.
        """
        plan = self.plan_of(arguments)
        if plan.fixed_micros is not None:
            return Money(plan.fixed_micros)
        ceiling = plan.ceiling(known_usage(plan, Sent.arguments(arguments or {})))
        assert ceiling is not None, "what was sent is known here, and all else has a ceiling by the rules of loading"
        return Money(ceiling)

    def plan_of(self, arguments: Mapping[str, Any] | None, default_of: DefaultOf = lambda path: None) -> Plan:
        """The plan of a call with these arguments; `default_of` tells what an absent argument stands for.

        The first variant whose value equals the argument's text wins, then the variant `default`, then the dimensions
        outside all variants.

        Raises:
            InvalidVariant: There is none of these.
        """
        if not self.variants:
            return self.plans[""]
        sent = {param: argument_text(arguments or {}, param, default_of) for param in self._params}
        for variant in self.variants:
            if sent[variant.param] == variant.value:
                return self.plans[variant.key]
        for variant in self.variants:
            if variant.value.lower() == "default":
                return self.plans[variant.key]
        if self.dimensions:
            return self.plans[""]
        known = "; ".join(f"{param}: {', '.join(self._values(param))}" for param in self._params)
        raise InvalidVariant(
            f"no price for {', '.join(f'{param}={shown(value, 40)}' for param, value in sent.items())}. Priced are {known}. "
            "Nothing ran and nothing was charged; call again with one of these"
        )

    def plan(self, variant: str) -> Plan:
        """The plan of a variant by its key, or of the dimensions outside all variants by "". Raises `InvalidVariant`."""
        plan = self.plans.get(variant)
        if plan is None:
            raise InvalidVariant(f"this price has no variant {shown(variant)}; nothing ran and nothing was charged")
        return plan

    @cached_property
    def most(self) -> Money | None:
        """The most that any call can cost, whatever it sends; None where what it sends bounds the cost alone."""
        ceilings = [_most(plan) for plan in self.plans.values()]
        known = [each for each in ceilings if each is not None]
        return Money(max(known)) if len(known) == len(ceilings) else None

    @cached_property
    def is_free(self) -> bool:
        """Whether every price in it is zero. Such a target needs no key, and is recorded when one came."""
        return not any(tier.price for plan in self.plans.values() for each in plan.dimensions for tier in each.tiers)

    @cached_property
    def fixed(self) -> Money | None:
        """What every call costs, where it is the same for all; None for a price that depends on anything."""
        prices = {plan.fixed_micros for plan in self.plans.values()}
        price = prices.pop() if len(prices) == 1 else None
        return None if price is None or self.variants else Money(price)

    @cached_property
    def plans(self) -> Mapping[str, Plan]:
        """Every plan by the key of its variant; "" names the dimensions outside all variants."""
        sets = {variant.key: variant.dimensions for variant in self.variants}
        if self.dimensions:
            sets[""] = self.dimensions
        return {key: self._make_plan(key, dimensions) for key, dimensions in sets.items()}

    def _make_plan(self, variant: str, dimensions: tuple[Dimension, ...]) -> Plan:
        ceiling = None if self.max_price is None else self.max_price.micros
        return Plan(
            self.version, variant, dimensions, self.min_price.micros, ceiling, self.missing_usage, self.free_quota, self.window
        )

    @cached_property
    def _params(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(variant.param for variant in self.variants))

    def _values(self, param: str) -> list[str]:
        return [variant.value for variant in self.variants if variant.param == param]

    @cached_property
    def _fixed_quotes(self) -> dict[str, Quote]:
        return {}

    def _fixed_quote(self, plan: Plan) -> Quote:
        quote = self._fixed_quotes.get(plan.variant)
        if quote is None:
            quote = self._fixed_quotes[plan.variant] = quote_plan(plan, None, None, None)
        return quote


def argument_text(arguments: Mapping[str, Any], path: str, default_of: DefaultOf) -> str | None:
    """The argument at a dotted path in the form that variants compare; None for what no variant can name."""
    value: Any = arguments
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            value = default_of(path)
            break
        value = cast("Mapping[str, Any]", value)[name]
    return as_text(value)


def as_text(value: object) -> str | None:
    """The form in which arguments and variants are compared: text as it is, integers in decimal, `true` or `false`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if value.bit_length() < _LONGEST_INTEGER else None
    return value if isinstance(value, str) else None


def _most(plan: Plan) -> int | None:
    try:
        return plan.ceiling(Usage({rate.key: 1 for rate in plan.rates if rate.dimension.unit == "requests"}))
    except AmountOverflow:
        return plan.max_micros
