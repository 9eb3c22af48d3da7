"""The grammar of dimensions, tiers, conditions, meters and variants: what stands in `metering.dimensions` and `variants`."""

import re
from itertools import pairwise
from typing import get_args

from payre_mcp.money import ZERO
from payre_mcp.pricing.dimensions import Condition, Dimension, Meter, Tier, Tiering, Variant
from payre_mcp.pricing.plan import known_before
from payre_mcp.pricing.reader import Fields, Reader
from payre_mcp.pricing.spec import as_text
from payre_mcp.pricing.units import DIRECTIONS, FIELDS, UNITS, WHOLE_CALL, Direction
from payre_mcp.text import shown

TIERINGS: tuple[Tiering, ...] = get_args(Tiering)
OPERATORS = ("<=", "<", ">=", ">", "==")
MEASURES = ("auto", "reported")
SOURCES = ("result", "meta", "response_json")

DIMENSION = ("direction", "unit", "scale", "tiers", "price_usd", "tiering", "max_units", "measure", "meter", "notes")
TIER = ("price_usd", "up_to", "condition", "notes")
CONDITION = ("field", "op", "value")
METER = ("source", "path", "key")
VARIANT = ("param", "value", "dimensions", "description", "notes")

_REFUSED_IN_DIMENSION = {"period": "give the metering a counter: {window: day}"}
_REFUSED_IN_TIER = {"splits": "give the metering splits; they hold for every tier"}
_POINTER = re.compile(r"(/([^~/]|~0|~1)*)+")


def read_dimensions(reader: Reader, source: object, path: str) -> tuple[Dimension, ...]:
    """A set of dimensions that are summed; each direction and unit stands once."""
    read: list[Dimension] = []
    keys: set[str] = set()
    for at, item in enumerate(reader.items(source, path)):
        before = len(reader.problems)
        dimension = _dimension(reader, item, f"{path}[{at}]")
        if len(reader.problems) == before and dimension.key in keys:
            message = f"{dimension.direction} {dimension.unit} is priced twice; put both prices into one dimension"
            reader.problem("dimension_duplicate", f"{path}[{at}]", message)
        read.append(dimension)
        keys.add(dimension.key)
    return tuple(read)


def read_variants(reader: Reader, source: object, path: str) -> tuple[Variant, ...]:
    """Variants in the order of the source, each with a value of its own."""
    read: list[Variant] = []
    keys: set[str] = set()
    for at, item in enumerate(reader.items(source, path)):
        variant = _variant(reader, item, f"{path}[{at}]")
        if variant.key in keys:
            reader.problem("variant_duplicate", f"{path}[{at}]", f"{shown(variant.key)} has a price already; keep one")
        read.append(variant)
        keys.add(variant.key)
    return tuple(read)


def _variant(reader: Reader, source: object, path: str) -> Variant:
    fields = reader.mapping(source, path, VARIANT)
    param, value = fields.text("param", "variant_invalid"), as_text(fields["value"])
    dimensions = read_dimensions(reader, fields["dimensions"], fields.at("dimensions"))
    for name, given in (("param", param and all(param.split("."))), ("value", value), ("dimensions", dimensions)):
        if not given:
            reader.problem("variant_invalid", fields.at(name), f"a variant needs its {name}: param, value and dimensions")
    return Variant(param, value or "", dimensions, fields.text("description"))


def _dimension(reader: Reader, source: object, path: str) -> Dimension:
    fields = reader.mapping(source, path, DIMENSION, _REFUSED_IN_DIMENSION)
    before = len(reader.problems)
    direction = _direction(fields)
    unit = fields.word("unit", "unit_unknown", tuple(UNITS), "unit")
    unit_is_known = len(reader.problems) == before
    if unit_is_known and unit in WHOLE_CALL and direction != "usage":
        reader.problem("direction_unit", fields.at("direction"), f"{unit} count whole calls: their direction is usage")
    scale = fields.integer("scale", "scale_invalid") if "scale" in fields else 1
    tiering = fields.word("tiering", "tiering_invalid", TIERINGS, "tiering") if "tiering" in fields else "volume"
    measure = fields.word("measure", "meter_invalid", MEASURES, "measure") if "measure" in fields else "auto"
    meter = _meter(reader, fields) if "meter" in fields else None
    if meter is not None and unit_is_known and unit == "requests":
        reader.problem("meter_invalid", fields.at("meter"), "a call is one request; there is nothing to read")
    tiers = _tiers(reader, fields)
    if tiering == "graduated" and any(tier.condition for tier in tiers):
        reader.problem("tiering_invalid", fields.at("tiering"), "graduated tiers are cut at up_to; conditions cannot be")
    dimension = Dimension(unit, tiers, direction, scale, tiering, None, measure, meter)  # pyright: ignore[reportArgumentType]
    if "max_units" in fields:
        most = fields.integer("max_units", "max_units_invalid")
        if unit_is_known and known_before(dimension):
            message = "this quantity is known before the run and needs no bound; remove max_units"
            reader.problem("max_units_invalid", fields.at("max_units"), message)
        dimension = Dimension(unit, tiers, direction, scale, tiering, most, dimension.measure, meter)
    if len(reader.problems) == before:
        _check_precision(reader, dimension, path)
    return dimension


def _direction(fields: Fields) -> Direction:
    if "direction" not in fields:
        return "usage"
    if fields["direction"] == "storage":
        message = "direction storage is not supported: price what a call reads or writes as usage"
        fields.reader.problem("unsupported_field", fields.at("direction"), message)
        return "usage"
    return fields.word("direction", "direction_unknown", DIRECTIONS, "direction")


def _check_precision(reader: Reader, dimension: Dimension, path: str) -> None:
    """Refuse a price of less than a micro for one unit, save where small prices are the trade's custom."""
    if dimension.unit == "tokens" or dimension.meter is not None:
        return
    for tier in dimension.tiers:
        if 0 < tier.price.micros < dimension.scale:
            larger = " or a larger unit (GiB for bytes)" if dimension.unit == "bytes" else ""
            reader.problem(
                "price_below_precision",
                path,
                f"{tier.price} for {dimension.scale:,} {dimension.unit} is less than $0.000001 for one; "
                f"raise the price, or take a smaller scale{larger}",
            )
            return


def _meter(reader: Reader, dimension: Fields) -> Meter | None:
    path = dimension.at("meter")
    fields = reader.mapping(dimension["meter"], path, METER)
    if fields["source"] == "response_header":
        message = "source response_header is not supported: an MCP result has no headers; use source meta with a key"
        reader.problem("unsupported_field", fields.at("source"), message)
        return None
    source = fields.word("source", "meter_invalid", SOURCES, "meter source")
    wanted, other = ("key", "path") if source == "meta" else ("path", "key")
    if other in fields or not isinstance(fields[wanted], str) or not fields[wanted]:
        reader.problem("meter_invalid", path, f"a meter of source {source} has a {wanted} and no {other}")
        return None
    if wanted == "path" and not _POINTER.fullmatch(fields["path"]):
        reader.problem("meter_invalid", fields.at("path"), "not an RFC 6901 pointer; write it as /usage/total_tokens")
    return Meter("meta", key=fields["key"]) if source == "meta" else Meter("result", path=fields["path"])


def _tiers(reader: Reader, fields: Fields) -> tuple[Tier, ...]:
    given = fields.one_of("tiers", "price_usd")
    if given == "price_usd":
        return (Tier(fields.amount("price_usd")),)
    before = len(reader.problems)
    tiers = tuple(_tier(reader, item, path) for item, path in fields.items("tiers"))
    if len(reader.problems) == before and tiers:
        _check_tiers(reader, tiers, fields.at("tiers"))
    if len(reader.problems) == before and not tiers:
        reader.problem("tiers_empty", fields.at("tiers"), "give tiers, or price_usd for one price")
    return tiers or (Tier(ZERO),)


def _tier(reader: Reader, source: object, path: str) -> Tier:
    fields = reader.mapping(source, path, TIER, _REFUSED_IN_TIER)
    price = fields.amount("price_usd")
    up_to = fields.integer("up_to", "tiers_order") if "up_to" in fields else None
    condition = _condition(reader, fields) if "condition" in fields else None
    return Tier(price, up_to, condition)


def _condition(reader: Reader, tier: Fields) -> Condition:
    fields = reader.mapping(tier["condition"], tier.at("condition"), CONDITION)
    return Condition(
        fields.word("field", "condition_invalid", FIELDS, "field"),
        fields.word("op", "condition_invalid", OPERATORS, "operator"),  # pyright: ignore[reportArgumentType]
        fields.integer("value", "condition_invalid", least=0),
    )


def _check_tiers(reader: Reader, tiers: tuple[Tier, ...], path: str) -> None:
    bounds = [tier.up_to for tier in tiers if tier.up_to is not None]
    if bounds and any(tier.condition for tier in tiers):
        reader.problem("tiers_mixed", path, "a dimension's tiers differ by up_to or by condition, not by both")
        return
    if tiers[-1].up_to is not None:
        reader.problem("tiers_open_end", f"{path}[{len(tiers) - 1}]", "the last tier has no up_to: add one for all that is above")
    for at, tier in enumerate(tiers[:-1]):
        if tier.up_to is None and tier.condition is None:
            reader.problem("tier_unreachable", f"{path}[{at}]", "this tier takes everything; what stands after it is never used")
    if any(after <= before for before, after in pairwise(bounds)):
        reader.problem("tiers_order", path, f"up_to must rise from tier to tier, not {', '.join(map(str, bounds))}")
