"""Random text and random data as prices: one is taken or refused with known codes, and there is no third way."""

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.pricing.document import read_yaml
from payre_mcp.pricing.price_list import parse_prices
from tests.pricing.forms import load_any, problems, verdict

quick = settings(max_examples=200, deadline=None)

CODES = {
    "yaml_syntax",
    "duplicate_key",
    "duplicate_field",
    "unknown_key",
    "unsupported_field",
    "version_unsupported",
    "currency_unsupported",
    "form_mixed",
    "entry_invalid",
    "duplicate_target",
    "price_syntax",
    "price_negative",
    "price_too_large",
    "price_inexact",
    "price_below_precision",
    "dimensions_missing",
    "dimension_duplicate",
    "direction_unknown",
    "unit_unknown",
    "direction_unit",
    "scale_invalid",
    "max_units_invalid",
    "tiers_empty",
    "tiers_open_end",
    "tiers_order",
    "tier_unreachable",
    "tiers_mixed",
    "tiering_invalid",
    "condition_invalid",
    "variant_invalid",
    "variant_duplicate",
    "counter_invalid",
    "free_quota_invalid",
    "ceiling_invalid",
    "missing_usage_invalid",
    "meter_invalid",
    "splits_invalid",
}
WORDS = [
    "tools",
    "t",
    "metering",
    "dimensions",
    "unit",
    "tokens",
    "price_usd",
    "0.01",
    "tiers",
    "up_to",
    "scale",
    "variants",
    "free",
    "endpoints",
    "path",
    "v1/x",
    "defaults",
    "counter",
    "window",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "- ",
    "\n",
    "  ",
    "&a",
    "*a",
    "!!str",
    "<<",
    "|",
    ">",
    "'",
    '"',
    "#",
    "%",
    "---",
    "...",
    "?",
    "\t",
    "~",
    "\x00",
    "\ud800",
    "1e999",
    "-1",
    "٣",
    "🎈",
]


YAML_TEXT = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join),
    st.lists(st.sampled_from(WORDS)).map("".join),
)
KEYS = [
    "price",
    "metering",
    "dimensions",
    "variants",
    "unit",
    "price_usd",
    "tiers",
    "up_to",
    "scale",
    "param",
    "value",
    "meter",
    "source",
    "path",
    "key",
    "counter",
    "window",
    "free_quota",
    "amount",
    "splits",
    "account",
    "percent",
    "amount_usd",
    "max_usd",
    "upto",
    "free_tier",
    "period",
    "min_usd",
    "max_price_usd",
    "missing_usage",
    "notes",
    "condition",
    "field",
    "op",
    "max_units",
]


TYPICAL = ["tokens", "pages", "requests", "input", "1", 1, 5, "0.01", "/a", "day", "dev_1", "graduated", "<=", "body_size", "min"]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=3)
) | st.sampled_from(TYPICAL)
DATA: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | SCALARS.filter(lambda key: key.__hash__ is not None), inner, max_size=5)
    ),
    max_leaves=25,
)


@quick
@given(YAML_TEXT)
def test_any_text_is_a_price_or_refused(text: str) -> None:
    found = [*verdict(lambda: load_any(text)), *verdict(lambda: load_any(f"metering: {text}\n"))]
    found += [*verdict(lambda: parse_prices(text)), *verdict(lambda: parse_prices(f"tools: {text}\n"))]
    assert all(each.code in CODES and each.message for each in found)


@quick
@given(DATA)
def test_any_data_is_a_price_or_refused(data: Any) -> None:
    page = {"unit": "pages", "price_usd": 1}
    for source in (
        data,
        {"metering": data},
        {"dimensions": [data]},
        {"variants": [data]},
        {"dimensions": [page], "splits": [data]},
    ):
        assert all(each.code in CODES and each.message for each in verdict(lambda source=source: load_any(source).version))


@quick
@given(
    st.recursive(
        st.text(max_size=5) | st.sampled_from(WORDS[:16]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
        max_leaves=15,
    )
)
def test_plain_data_is_read_from_yaml_as_text_and_nothing_is_lost(data: Any) -> None:
    quoted = yaml.safe_dump({"x": data}, default_style='"', allow_unicode=True, width=1_000, line_break="\n")
    plain = quoted.replace("!!null ", "").replace("!!str ", "")
    document = read_yaml(plain)
    assert document.problems == []
    assert document.data == {"x": data}


@pytest.mark.parametrize("place", ["price", "metering", "description", "dimensions", "variants", "splits", "free_quota"])
def test_data_that_is_nested_without_end_is_refused(place: str) -> None:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    assert problems({place: deep})
    assert all(each.code in CODES for each in verdict(lambda: load_any({"price": 1, "notes": deep})))


@pytest.mark.parametrize("field", ["unit", "direction", "scale", "max_units", "tiering", "measure", "meter", "tiers", "notes"])
def test_a_number_too_long_to_print_is_no_crash(field: str) -> None:
    found = verdict(lambda: load_any({"dimensions": [{"unit": "tokens", "price_usd": 1, field: 10**5_000}]}))
    assert bool(found) == (field != "notes")


@pytest.mark.parametrize("field", ["description", "notes", 10**5_000], ids=["description", "notes", "a key"])
def test_a_number_too_long_to_print_is_no_crash_anywhere(field: object) -> None:
    assert all(each.code in CODES for each in verdict(lambda: load_any({"price": 1, field: 10**5_000})))
