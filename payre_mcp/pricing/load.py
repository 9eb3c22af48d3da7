"""Every form of `price=`, into one `PriceSpec`: dollars, a mapping in the shape of a price file, YAML text, or `Price`."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from payre_mcp.errors import PriceSpecInvalid, Problem
from payre_mcp.money import AmountSource
from payre_mcp.pricing.document import read_yaml
from payre_mcp.pricing.entry import DEFAULT_CEILING, Defaults, read_entry
from payre_mcp.pricing.reader import Reader
from payre_mcp.pricing.spec import PriceSpec

logger = logging.getLogger(__name__)

PriceSource = AmountSource | PriceSpec | Mapping[str, Any]
"""What `price=` takes: dollars as text or number, a spec from `Price`, or a mapping in the shape of a price file's entry."""


class Metering(TypedDict, total=False):
    """What every builder of `Price` takes besides, by the names of the price file."""

    max_price_usd: AmountSource
    min_price_usd: AmountSource
    missing_usage: str
    usage_preset: str
    counter: Mapping[str, str]
    free_quota: Mapping[str, Any]
    splits: Sequence[Mapping[str, Any]]


class Price:
    """Builders of price specs. All raise `PriceSpecInvalid` for what is no price, with every problem in it."""

    @staticmethod
    def per_call(amount: AmountSource, **metering: Unpack[Metering]) -> PriceSpec:
        """A fixed price for every successful call.

        >>> Price.per_call("0.005").ceiling()
        Money(micros=5000)
        """
        return load_price({"dimensions": [{"unit": "requests", "price_usd": amount}], **metering})

    @staticmethod
    def per(
        unit: str,
        scale: int = 1,
        usage: AmountSource | None = None,
        *,
        input: AmountSource | None = None,  # noqa: A002 - the word of the trade
        output: AmountSource | None = None,
        max_units: int | Mapping[str, int] | None = None,
        **metering: Unpack[Metering],
    ) -> PriceSpec:
        """A price for every `scale` units, of the call as a whole or by direction; pro rata, never whole blocks.

        `max_units` bounds one call for its hold: one number, or one for each of `usage`, `input`, `output`.

        >>> price = Price.per("tokens", 1_000_000, input="0.50", output="1.50")
        >>> price.quote(usage={"input.tokens": 800, "output.tokens": 200}).total
        Money(micros=700)
        """
        dimensions: list[dict[str, Any]] = []
        for direction, amount in (("usage", usage), ("input", input), ("output", output)):
            if amount is not None:
                most = max_units.get(direction) if isinstance(max_units, Mapping) else max_units
                bound = {} if most is None else {"max_units": most}
                dimensions.append({"direction": direction, "unit": unit, "scale": scale, "price_usd": amount, **bound})
        return load_price({"dimensions": dimensions, **metering})

    @staticmethod
    def tiered(
        unit: str,
        tiers: Sequence[tuple[int | None, AmountSource]],
        *,
        scale: int = 1,
        direction: str = "usage",
        tiering: str = "volume",
        max_units: int | None = None,
        **metering: Unpack[Metering],
    ) -> PriceSpec:
        """A price by what the consumer used before: (`up_to`, price) in order, the last with None.

        >>> Price.tiered("requests", [(1_000, "0.01"), (None, "0.002")]).quote(used_before={"requests": 1_000}).total
        Money(micros=2000)
        """
        steps = [{"price_usd": price} if up_to is None else {"up_to": up_to, "price_usd": price} for up_to, price in tiers]
        dimension = {"direction": direction, "unit": unit, "scale": scale, "tiering": tiering, "tiers": steps}
        bound = {} if max_units is None else {"max_units": max_units}
        return load_price({"dimensions": [{**dimension, **bound}], **metering})

    @staticmethod
    def variants(param: str, prices: Mapping[str, PriceSource], **metering: Unpack[Metering]) -> PriceSpec:
        """A price by the value of an argument, named by a dotted path; the value `default` stands for all others.

        >>> Price.variants("model", {"fast": "0.01", "pro": "0.10"}).quote({"model": "pro"}).total
        Money(micros=100000)
        """
        variants = [{"param": param, "value": value, "dimensions": _dimensions(value, price)} for value, price in prices.items()]
        return load_price({"variants": variants, **metering})


def load_price(source: PriceSource) -> PriceSpec:
    """Read one price. Exact: nothing is rounded, and a float counts as the decimal it prints as.

    A text with a colon or a line break is YAML of one entry (`metering: ...`); any other is dollars. What works and may
    surprise (`ceiling_defaulted`, `ignored_field`) goes to the log.

    >>> load_price("$0.005").ceiling()
    Money(micros=5000)

    Raises:
        PriceSpecInvalid: It is not a price; `problems` lists everything that is wrong with it, each with a code.
    """
    if isinstance(source, PriceSpec):
        return source
    if isinstance(source, str) and (":" in source or "\n" in source):
        document = read_yaml(source)
        reader, data, path = Reader(document), document.data, ""
        if data is None:
            reader.check()
    else:
        reader, data, path = Reader(), source, "price"
    spec = read_entry(reader, data, path, Defaults())
    reader.check()
    for warning in reader.warnings:
        logger.warning("%s: %s: %s", warning.place, warning.code, warning.message)
    return spec


def _dimensions(value: str, price: PriceSource) -> Sequence[Mapping[str, Any]]:
    """The dimensions of a variant's price; what else a price says holds for all variants and stands beside them."""
    shape = load_price(price).canonical()
    if shape.get("max_price_usd") == DEFAULT_CEILING.usd:
        del shape["max_price_usd"]
    if shape.keys() != {"dimensions"}:
        more = ", ".join(sorted(shape.keys() - {"dimensions"}))
        message = f"a variant has dimensions alone; say {more} beside the variants"
        raise PriceSpecInvalid([Problem("variant_invalid", f"price.variants.{value[:80]}", message)])
    return shape["dimensions"]
