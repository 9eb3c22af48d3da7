"""The JSON Schema of a price file, for editors: completion, help and red lines while typing.

`payre pricing check` remains the judge; a schema cannot say that tiers rise or that a price is a whole micro-dollar.
"""

from collections.abc import Collection, Mapping
from typing import Any

from payre_mcp.pricing import dimension_entry, entry, price_list
from payre_mcp.pricing.units import DIRECTIONS, FIELDS, UNITS

Schema = dict[str, Any]

_PRICE: Schema = {
    "description": "US dollars, a whole number of micro-dollars: 0.005",
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": 1_000_000},
        {"type": "string", "pattern": r"^\$?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"},
    ],
}
_COUNT: Schema = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[1-9][0-9_]*$"}]}
_TEXT: Schema = {"type": "string"}
_NOTES: Schema = {"type": ["string", "array"]}
_WINDOW: Schema = {"enum": list(entry.WINDOWS)}


def price_file_schema() -> Schema:
    """A schema (draft 2020-12) that every valid price file satisfies, in our form and in pay.sh's."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Prices of an MCP server",
        "if": {"required": ["endpoints"]},
        "then": {"$ref": "#/$defs/endpoints_file"},
        "else": {"$ref": "#/$defs/file"},
        "$defs": {
            "file": _file(),
            "endpoints_file": _endpoints_file(),
            "entry": {"anyOf": [_PRICE, {"const": "free"}, _entry(), {"$ref": "#/$defs/metering"}]},
            "metering": _metering(),
            "dimension": _dimension(),
            "variant": _variant(),
            "quota": _quota(),
        },
    }


def _mapping(known: Collection[str], fields: Mapping[str, Schema], required: Collection[str] = ()) -> Schema:
    """A mapping with exactly the keys that the grammar knows; `fields` says more of those where there is more to say."""
    unknown = fields.keys() - set(known)
    assert not unknown, f"the grammar has no {unknown}"
    properties = {name: fields.get(name, {}) for name in known}
    out: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**out, "required": list(required)} if required else out


def _list_of(name: str) -> Schema:
    return {"type": "array", "items": {"$ref": f"#/$defs/{name}"}}


def _defaults() -> Schema:
    fields = {
        "max_price_usd": _PRICE,
        "missing_usage": {"enum": list(entry.POLICIES)},
        "counter": _mapping(("window",), {"window": _WINDOW}),
        "free_quota": {"$ref": "#/$defs/quota"},
    }
    return _mapping(price_list.DEFAULTS, fields)


def _common() -> dict[str, Schema]:
    return {"currency": {"enum": ["usd", "USD"]}, "default": {"enum": ["free", "deny"]}, "defaults": _defaults()}


def _file() -> Schema:
    entries: Schema = {"type": "object", "additionalProperties": {"$ref": "#/$defs/entry"}}
    kinds = dict.fromkeys(price_list.KINDS, entries)
    return _mapping(price_list.OURS, {**_common(), "version": {"enum": [1, "1"]}, **kinds})


def _endpoints_file() -> Schema:
    endpoint = {
        "method": {"enum": list(price_list.METHODS)},
        "path": _TEXT,
        "description": _TEXT,
        "tool": {**_TEXT, "description": "The MCP tool; derived from the path without it"},
        "metering": {"$ref": "#/$defs/metering"},
    }
    fields = {
        **_common(),
        "endpoints": {"type": "array", "items": _mapping(price_list.ENDPOINT, endpoint)},
        "free_tier": {"$ref": "#/$defs/quota"},
        "accounting": {"const": "per_agent"},
    }
    return _mapping(price_list.ENDPOINTS, fields)


def _entry() -> Schema:
    fields = {"price": _PRICE, "metering": {"$ref": "#/$defs/metering"}, "description": _TEXT, "notes": _NOTES}
    return {**_mapping(entry.ENTRY, fields), "oneOf": [{"required": ["price"]}, {"required": ["metering"]}]}


def _metering() -> Schema:
    policies, presets = {"enum": list(entry.POLICIES)}, {"enum": list(entry.PRESETS)}
    upto = {"max_usd": _PRICE, "min_usd": _PRICE, "missing_usage": policies, "usage_preset": presets}
    split = {"account": {"type": "string", "pattern": "^dev_"}, "amount_usd": _PRICE, "memo": _TEXT}
    fields = {
        "dimensions": _list_of("dimension"),
        "variants": _list_of("variant"),
        "max_price_usd": {**_PRICE, "description": "The most that one call costs"},
        "min_price_usd": {**_PRICE, "description": "The least that a call costs which costs anything"},
        "min_usd": _PRICE,
        "missing_usage": {**policies, "description": "What a successful call costs of which the usage is not known"},
        "usage_preset": presets,
        "counter": _mapping(("window",), {"window": _WINDOW}),
        "free_quota": {"$ref": "#/$defs/quota"},
        "free_tier": {"$ref": "#/$defs/quota"},
        "upto": _mapping(entry.UPTO, upto),
        "splits": {"type": "array", "items": _mapping(entry.SPLIT, split, required=["account"])},
        "description": _TEXT,
        "notes": _NOTES,
    }
    known = (*entry.METERING, *entry.METERING_ALIASES, "description", "notes")
    return {**_mapping(known, fields), "anyOf": [{"required": ["dimensions"]}, {"required": ["variants"]}]}


def _dimension() -> Schema:
    condition = {"field": {"enum": list(FIELDS)}, "op": {"enum": list(dimension_entry.OPERATORS)}}
    tier = {
        "price_usd": _PRICE,
        "up_to": {**_COUNT, "description": "Up to so many units of a window, in the dimension's own unit; the last has none"},
        "condition": _mapping(dimension_entry.CONDITION, condition, required=dimension_entry.CONDITION),
        "notes": _NOTES,
    }
    tiers = {"type": "array", "minItems": 1, "items": _mapping(dimension_entry.TIER, tier, required=["price_usd"])}
    fields = {
        "direction": {"enum": list(DIRECTIONS)},
        "unit": {"enum": list(UNITS)},
        "scale": {**_COUNT, "description": "The price is for so many units"},
        "tiers": tiers,
        "price_usd": _PRICE,
        "tiering": {"enum": list(dimension_entry.TIERINGS)},
        "max_units": {**_COUNT, "description": "The largest quantity of one call, for its hold"},
        "measure": {"enum": list(dimension_entry.MEASURES)},
        "meter": _mapping(
            dimension_entry.METER, {"source": {"enum": list(dimension_entry.SOURCES)}, "path": _TEXT, "key": _TEXT}
        ),
        "notes": _NOTES,
    }
    prices = [{"required": ["tiers"]}, {"required": ["price_usd"]}]
    return {**_mapping(dimension_entry.DIMENSION, fields, required=["unit"]), "oneOf": prices}


def _variant() -> Schema:
    fields = {
        "param": {**_TEXT, "description": "An argument, by dotted path"},
        "value": {"type": ["string", "integer", "boolean"]},
        "dimensions": _list_of("dimension"),
        "description": _TEXT,
        "notes": _NOTES,
    }
    return _mapping(dimension_entry.VARIANT, fields, required=["param", "value", "dimensions"])


def _quota() -> Schema:
    fields = {
        "amount": _COUNT,
        "unit": {"enum": list(UNITS)},
        "window": _WINDOW,
        "period": {"enum": list(entry.PERIODS)},
        "notes": _NOTES,
    }
    return _mapping(entry.QUOTA, fields, required=["amount"])
