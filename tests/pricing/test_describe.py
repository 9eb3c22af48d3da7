"""Prices in words: what models read at the end of a description, what programs read, and the lines of a quote."""

import json
from fractions import Fraction
from typing import Any

import pytest

from payre_mcp.pricing import Price, PriceSource, load_price
from payre_mcp.pricing.describe import exact_usd, price_card, price_sentence, quote_lines

BY_CONTEXT = {
    "unit": "tokens",
    "direction": "input",
    "scale": 1_000_000,
    "tiers": [
        {"price_usd": 1, "condition": {"field": "context_length", "op": "<=", "value": 200_000}},
        {"price_usd": 2, "condition": {"field": "context_length", "op": "<=", "value": 400_000}},
        {"price_usd": 4},
    ],
}
HUGE = {"unit": "pages", "price_usd": 1_000_000, "max_units": 2**40}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("0.005", "Costs $0.005 per call."),
        ("0", "Free; recorded when you send a Payre key."),
        (Price.per("characters", 1_000, "0.01"), "Costs $0.01 per 1,000 characters."),
        (Price.per("minutes", 1, "0.06"), "Costs $0.06 per minute; at most $1.00 per call."),
        (
            Price.per("tokens", 1_000_000, input="0.50", output="1.50", max_units=1_000),
            "Costs $0.50 per 1,000,000 input tokens plus $1.50 per 1,000,000 output tokens; at most $0.002 per call.",
        ),
        (
            Price.tiered("requests", [(1_000, "0.01"), (10_000, "0.005"), (None, "0.002")]),
            "Costs $0.01 per call up to 1,000 a month, then $0.005 up to 10,000, then $0.002; at most $0.01 per call.",
        ),
        (
            Price.tiered("pages", [(10, "0.01"), (None, "0.02")], max_units=5, counter={"window": "all_time"}),
            "Costs $0.01 per page up to 10 in all, then $0.02; at most $0.10 per call.",
        ),
        (
            {"dimensions": [BY_CONTEXT], "min_price_usd": "0.001", "max_price_usd": 5},
            (
                "Costs $1.00 per 1,000,000 input tokens if context_length <= 200,000, else $2.00 if context_length <= 400,000, "
                "else $4.00, at least $0.001; at most $5.00 per call."
            ),
        ),
        (
            Price.variants("model", {"fast": "0.01", "pro": "0.10"}),
            "Costs by model: fast $0.01 per call; pro $0.10 per call; at most $0.10 per call.",
        ),
        (
            {
                "dimensions": [{"unit": "requests", "price_usd": "0.02"}],
                "variants": [
                    {"param": "a.b", "value": "x", "dimensions": [{"unit": "requests", "price_usd": "0.01"}]},
                    {"param": "c", "value": "y", "dimensions": [{"unit": "requests", "price_usd": "0.03"}]},
                ],
            },
            "Costs by a.b and c: x $0.01 per call; y $0.03 per call; otherwise $0.02 per call; at most $0.03 per call.",
        ),
        (
            Price.per_call(1, free_quota={"amount": 1}),
            "Costs $1.00 per call; at most $1.00 per call. The first call of a month is free.",
        ),
        (
            Price.per_call(1, free_quota={"amount": 2_000, "window": "day"}),
            "Costs $1.00 per call; at most $1.00 per call. The first 2,000 calls of a day are free.",
        ),
        (
            Price.per("quota_units", 1, 1, max_units=1, free_quota={"amount": 3, "unit": "quota_units", "window": "all_time"}),
            "Costs $1.00 per quota unit; at most $1.00 per call. The first 3 quota units are free.",
        ),
        ({"dimensions": [HUGE], "max_price_usd": 7}, "Costs $1000000.00 per page; at most $7.00 per call."),
        ({"dimensions": [HUGE]}, "Costs $1000000.00 per page."),
    ],
)
def test_every_form_of_a_price_reads_as_a_sentence(source: PriceSource, sentence: str) -> None:
    assert price_sentence(load_price(source)) == sentence


def test_a_price_card_states_the_price_for_programs() -> None:
    spec = load_price("0.005")
    assert price_card(spec) == {
        "version": spec.version,
        "currency": "USD",
        "description": "Costs $0.005 per call.",
        "dimensions": [{"unit": "requests", "direction": "usage", "scale": 1, "tiers": [{"price_usd": "0.005"}]}],
        "max_usd": "0.005",
        "max_micros": 5_000,
    }


@pytest.mark.parametrize(
    "source",
    [
        "0",
        {"dimensions": [BY_CONTEXT], "max_price_usd": 0},
        {"dimensions": [BY_CONTEXT], "free_quota": {"amount": 5, "unit": "tokens"}, "counter": {"window": "day"}},
        Price.variants("model", {"fast": "0.01", "default": Price.per("characters", 1_000, "0.01")}),
        {"metering": {"dimensions": [BY_CONTEXT]}, "description": "By context", "notes": ["one", "two"]},
    ],
)
def test_every_card_is_json_and_loads_back_into_the_same_price(source: PriceSource) -> None:
    spec = load_price(source)
    card: dict[str, Any] = json.loads(json.dumps(price_card(spec)))
    shape = {name: card[name] for name in spec.canonical()}
    assert load_price(shape).version == card["version"] == spec.version
    assert card.get("title", "") == spec.description
    assert card.get("notes", "") == spec.notes


def test_the_most_is_unknown_where_the_arguments_bound_it() -> None:
    card = price_card(Price.per("characters", 1_000, "0.01"))
    assert (card["max_usd"], card["max_micros"]) == (None, None)


def test_a_quote_reads_line_by_line() -> None:
    tokens = {"unit": "tokens", "direction": "input", "scale": 1_000_000, "price_usd": "0.50"}
    quota = {"amount": 10, "unit": "pages"}
    dimensions = [tokens, {"unit": "pages", "price_usd": "0.01"}, {"unit": "minutes", "price_usd": "0.06"}]
    quote = load_price({"dimensions": dimensions, "free_quota": quota}).quote(
        usage={"tokens": 1, "pages": 25, "minutes": Fraction(1, 3)}
    )
    assert quote_lines(quote) == [
        "1 input token at $0.50 per 1,000,000: $0.0000005",
        "10 pages of the free quota: $0.00",
        "15 pages at $0.01: $0.15",
        "0.333333 minutes at $0.06: $0.02",
    ]


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (Fraction(700), "$0.0007"),
        (Fraction(5, 2), "$0.0000025"),
        (Fraction(1, 3), "about $0.000000333"),
        (Fraction(10**12), "$1000000.00"),
    ],
)
def test_a_part_of_a_call_is_shown_exactly_or_said_to_be_about(micros: Fraction, text: str) -> None:
    assert exact_usd(micros) == text
