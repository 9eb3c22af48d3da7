"""A price in words for people and models, and as a card for programs; a quote as lines that can be checked by hand."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from payre_mcp.money import ZERO, format_usd
from payre_mcp.pricing.dimensions import Condition, Dimension, FreeQuota
from payre_mcp.pricing.plan import QuoteLine
from payre_mcp.pricing.quote import Quote
from payre_mcp.pricing.spec import PriceSpec
from payre_mcp.pricing.units import UNITS

_PER_WINDOW = {"month": "a month", "day": "a day", "all_time": "in all"}
_FINEST = 10**9
"""A line may cost less than a micro; nine decimals of a dollar show it."""


class Advert(NamedTuple):
    """A price as lists of tools tell it: to models in a sentence, to programs as a card."""

    sentence: str
    card: Mapping[str, Any]


def advertised(spec: PriceSpec, *, by_hand: bool = False) -> Advert:
    """What a list says of this price, or of one below which a tool says itself what it charges."""
    if by_hand:
        sentence = "Charges as it runs." if spec.most is None else f"Charges up to {spec.most} as it runs."
        return Advert(sentence, {**price_card(spec), "description": sentence, "by_hand": True})
    return Advert(price_sentence(spec), price_card(spec))


def price_sentence(spec: PriceSpec) -> str:
    """A sentence or three for the end of a description: `Costs $0.005 per call.`"""
    if spec.is_free:
        return "Free; recorded when you send a Payre key."
    sentences = [f"Costs {_prices(spec)}{_bounds(spec)}."]
    if spec.free_quota is not None:
        sentences.append(_quota_sentence(spec.free_quota))
    return " ".join(sentences)


def price_card(spec: PriceSpec) -> dict[str, Any]:
    """The machine-readable price in list results: version, sentence, the price itself, the most a call can cost.

    `max_usd` and `max_micros` are None where what bounds the cost is the size of the arguments.
    """
    most = spec.most
    return {
        "version": spec.version,
        "currency": "USD",
        "description": price_sentence(spec),
        **({"title": spec.description} if spec.description else {}),
        **({"notes": spec.notes} if spec.notes else {}),
        **spec.canonical(),
        "max_usd": None if most is None else most.usd,
        "max_micros": None if most is None else most.micros,
    }


def quote_lines(quote: Quote) -> list[str]:
    """A quote line by line, as `800 input tokens at $0.50 per 1,000,000: $0.0004`."""
    return [_quote_line(line) for line in quote.lines]


def charge_line(key: str, base_quantity: int, cost_micros: Fraction) -> str:
    """A line of a charge in base units, as `12,341 milliseconds: $0.012341`."""
    direction, _, unit = key.rpartition(".")
    what = UNITS[unit].plural if UNITS[unit].base == 1 else UNITS[unit].base_name
    return f"{base_quantity:,} {direction} {what}: {exact_usd(cost_micros)}".replace("  ", " ")


def exact_usd(micros: Fraction) -> str:
    """Exact dollars of a part of a call; `about` where the decimals do not end."""
    if micros.denominator == 1:
        return format_usd(micros.numerator)
    billionths = micros * _FINEST / 1_000_000
    whole, rest = divmod(round(billionths), _FINEST)
    about = "" if billionths.denominator == 1 else "about "
    return f"{about}${whole}.{rest:09d}".rstrip("0")


def _prices(spec: PriceSpec) -> str:
    if not spec.variants:
        return _set(spec.dimensions, spec)
    named = [f"{variant.value} {_set(variant.dimensions, spec)}" for variant in spec.variants]
    otherwise = [f"otherwise {_set(spec.dimensions, spec)}"] if spec.dimensions else []
    params = " and ".join(dict.fromkeys(variant.param for variant in spec.variants))
    return f"by {params}: {'; '.join(named + otherwise)}"


def _set(dimensions: tuple[Dimension, ...], spec: PriceSpec) -> str:
    return " plus ".join(_dimension(each, spec.window) for each in dimensions)


def _dimension(dimension: Dimension, window: str) -> str:
    first, *others = dimension.tiers
    text = f"{first.price} per {_measure(dimension)}"
    if not others:
        return f"{text}{_if(first.condition)}"
    if first.up_to is None:
        return f"{text}{_if(first.condition)}" + "".join(f", else {tier.price}{_if(tier.condition)}" for tier in others)
    steps = [f"then {tier.price}" + (f" up to {tier.up_to:,}" if tier.up_to else "") for tier in others]
    return f"{text} up to {first.up_to:,} {_PER_WINDOW[window]}, {', '.join(steps)}"


def _measure(dimension: Dimension) -> str:
    """What a price is for: `call`, `input token`, `1,000,000 input tokens`."""
    unit = UNITS[dimension.unit]
    direction = "" if dimension.direction == "usage" else f"{dimension.direction} "
    return f"{direction}{unit.singular}" if dimension.scale == 1 else f"{dimension.scale:,} {direction}{unit.plural}"


def _if(condition: Condition | None) -> str:
    return "" if condition is None else f" if {condition.field} {condition.op} {condition.value:,}"


def _bounds(spec: PriceSpec) -> str:
    least = f", at least {spec.min_price}" if spec.min_price else ""
    if spec.fixed is not None or (most := spec.most) is None:
        return least
    return f"{least}; at most {most} per call"


def _quota_sentence(quota: FreeQuota) -> str:
    unit = UNITS[quota.unit]
    window = {"month": " of a month", "day": " of a day", "all_time": ""}[quota.window]
    if quota.amount == 1:
        return f"The first {unit.singular}{window} is free."
    return f"The first {quota.amount:,} {unit.plural}{window} are free."


def _quote_line(line: QuoteLine) -> str:
    unit = UNITS[line.unit]
    direction = "" if line.direction == "usage" else f"{line.direction} "
    what = f"{_number(line.quantity)} {direction}{unit.singular if line.quantity == 1 else unit.plural}"
    if line.is_free:
        return f"{what} of the free quota: {ZERO}"
    per = "" if line.scale == 1 else f" per {line.scale:,}"
    return f"{what} at {line.price}{per}: {exact_usd(line.cost_micros)}"


def _number(quantity: Fraction) -> str:
    """A quantity to six decimals, without the zeros at its end."""
    whole, rest = divmod(round(quantity * 1_000_000), 1_000_000)
    return f"{whole:,}.{rest:06d}".rstrip("0").rstrip(".")
