"""The JSON Schema for editors: every file that the loader takes satisfies it, and it draws red lines where it can."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from payre_mcp.pricing import dimension_entry, entry, load_prices, price_list
from payre_mcp.pricing.schema import price_file_schema

SCHEMA = price_file_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
EXAMPLE = Path(__file__).parents[2] / "examples" / "pricing.yaml"
REQUEST = {"unit": "requests", "price_usd": 0.01}


def is_valid(document: Any) -> bool:
    return VALIDATOR.is_valid(document)  # pyright: ignore[reportUnknownMemberType]


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_example_satisfies_it() -> None:
    assert load_prices(EXAMPLE).prices
    assert is_valid(yaml.safe_load(EXAMPLE.read_text()))


@pytest.mark.parametrize(
    "document",
    [
        {
            "tools": {
                "a": 0.5,
                "b": "0.5",
                "c": "free",
                "d": {"price": 1, "notes": ["x"]},
                "e": {"metering": {"dimensions": [REQUEST]}},
            }
        },
        {"version": 1, "currency": "usd", "default": "deny", "defaults": {"counter": {"window": "day"}}, "prompts": {"a": 1}},
        {
            "endpoints": [{"method": "POST", "path": "v1/a", "metering": {"upto": {"max_usd": 1}, "dimensions": [REQUEST]}}],
            "name": "x",
        },
        {"tools": {"a": {"variants": [{"param": "m", "value": True, "dimensions": [REQUEST]}]}}},
    ],
)
def test_what_the_grammar_takes_satisfies_it(document: object) -> None:
    assert is_valid(document)


@pytest.mark.parametrize(
    "entry_",
    [
        -1,
        "five",
        {"price": 1, "metering": {"dimensions": [REQUEST]}},
        {"metring": {"dimensions": [REQUEST]}},
        {"metering": {"dimensions": [{"unit": "page", "price_usd": 1}]}},
        {"metering": {"dimensions": [{"unit": "pages"}]}},
        {"metering": {"dimensions": [{"unit": "pages", "price_usd": 1, "scale": 0}]}},
        {"metering": {"variants": [{"param": "m", "dimensions": [REQUEST]}]}},
        {"metering": {}},
    ],
)
def test_what_the_grammar_refuses_is_marked(entry_: object) -> None:
    assert not is_valid({"tools": {"a": entry_}})


def test_no_key_of_the_grammar_is_left_out() -> None:
    definitions: dict[str, Any] = SCHEMA["$defs"]
    dimension = definitions["dimension"]["properties"]
    for known, properties in (
        (price_list.OURS, definitions["file"]["properties"]),
        (price_list.ENDPOINTS, definitions["endpoints_file"]["properties"]),
        ((*entry.METERING, *entry.METERING_ALIASES), definitions["metering"]["properties"]),
        (entry.QUOTA, definitions["quota"]["properties"]),
        (dimension_entry.DIMENSION, dimension),
        (dimension_entry.TIER, dimension["tiers"]["items"]["properties"]),
        (dimension_entry.VARIANT, definitions["variant"]["properties"]),
    ):
        assert set(known) <= set(properties)
