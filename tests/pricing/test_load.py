"""Reading prices: the forms of `price=` are our own, the keys are those of pay.sh's pricing document."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.errors import PriceSpecInvalid
from payre_mcp.money import Money
from payre_mcp.pricing import Price, PriceSource, load_price

HALF_CENT = Money(5_000)
quick = settings(max_examples=100, deadline=None)


def metering(*dimensions: object, **more: object) -> dict[str, Any]:
    return {"metering": {"dimensions": list(dimensions), **more}}


def requests(**more: object) -> dict[str, Any]:
    return {"unit": "requests", "price_usd": "0.005", **more}


def problems(source: object) -> list[tuple[str, str]]:
    """(code, path) of everything that is wrong."""
    with pytest.raises(PriceSpecInvalid) as caught:
        load_price(source)  # pyright: ignore[reportArgumentType]
    return [(problem.code, problem.path) for problem in caught.value.problems]


def message(source: object) -> str:
    with pytest.raises(PriceSpecInvalid) as caught:
        load_price(source)  # pyright: ignore[reportArgumentType]
    return caught.value.problems[0].message


@pytest.mark.parametrize(
    "source",
    [
        "0.005",
        "$0.005",
        0.005,
        HALF_CENT,
        Price.per_call("0.005"),
        {"price": "0.005"},
        {"price": 0.005, "description": "A forecast", "notes": ["from the weather office"]},
        {"dimensions": [requests()]},
        {"dimensions": (requests(),)},
        metering(requests()),
        metering(requests(direction="usage", scale=1, notes="each call")),
        metering({"unit": "requests", "tiers": [{"price_usd": 0.005}]}),
        metering({"unit": "requests", "tiers": [{"price_usd": "0.005", "notes": "for all"}]}),
    ],
)
def test_every_form_of_a_price_means_the_same(source: PriceSource) -> None:
    assert load_price(source) == load_price("0.005")
    assert load_price(source).ceiling() == HALF_CENT


def test_a_spec_is_taken_as_it_is() -> None:
    spec = load_price(1)
    assert load_price(spec) is spec


@pytest.mark.parametrize("source", ["0", 0, 0.0, {"price": "$0"}, metering(requests(price_usd=0))])
def test_a_price_of_zero_is_free_and_said_aloud(source: PriceSource) -> None:
    assert load_price(source).is_free


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("free", "price_syntax"),
        ("", "price_syntax"),
        (None, "price_syntax"),
        (True, "price_syntax"),
        (["0.005"], "price_syntax"),
        ("-1", "price_negative"),
        (1_000_001, "price_too_large"),
        ("0.0000001", "price_inexact"),
        (0.1 + 0.2, "price_inexact"),
    ],
)
def test_a_bad_amount_is_named_by_its_code_in_every_form(source: object, code: str) -> None:
    assert problems(source) == [(code, "price")]
    assert problems({"price": source}) == [(code, "price.price")]
    assert problems(metering(requests(price_usd=source))) == [(code, "price.metering.dimensions[0].price_usd")]
    tiers = metering({"unit": "requests", "tiers": [{"price_usd": source}]})
    assert problems(tiers) == [(code, "price.metering.dimensions[0].tiers[0].price_usd")]


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ({"price": "1", "prize": "2"}, "price"),
        (metering(requests(), currency="USD"), "price.metering"),
        (metering(requests(per=1)), "price.metering.dimensions[0]"),
        (metering({"unit": "requests", "tiers": [{"price_usd": 1, "up_to": 5}]}), "price.metering.dimensions[0].tiers[0]"),
        ({"price": "1", 7: "2"}, "price"),
    ],
)
def test_a_misspelt_key_is_an_error_and_never_a_free_tool(source: object, path: str) -> None:
    assert problems(source) == [("unknown_key", path)]


def test_a_misspelt_key_is_told_the_nearest_and_a_strange_one_all() -> None:
    assert "did you mean price?" in message({"price": 1, "prices": 2})
    assert "known are price, metering, dimensions" in message({"price": 1, "zzz": 2})


@pytest.mark.parametrize(
    "source", [{}, {"description": "free?"}, {"price": 1, **metering(requests())}, {"price": 1, "dimensions": []}]
)
def test_an_entry_has_exactly_one_form(source: object) -> None:
    assert problems(source) == [("entry_invalid", "price")]


@pytest.mark.parametrize("inner", [None, [], [requests(), requests()], "requests", {"unit": "requests"}])
def test_a_fixed_price_has_exactly_one_dimension(inner: object) -> None:
    assert problems({"dimensions": inner}) == [("dimensions_missing", "price.dimensions")]
    assert problems({"metering": {"dimensions": inner}}) == [("dimensions_missing", "price.metering.dimensions")]


@pytest.mark.parametrize("tiers", [None, [], [{"price_usd": 1}, {"price_usd": 2}], "1"])
def test_a_fixed_price_has_exactly_one_tier(tiers: object) -> None:
    path = "price.metering.dimensions[0].tiers"
    assert problems(metering({"unit": "requests", "tiers": tiers})) == [("tiers_empty", path)]


def test_a_price_beside_tiers_is_ambiguous() -> None:
    path = "price.metering.dimensions[0].tiers"
    assert problems(metering(requests(tiers=[{"price_usd": 1}]))) == [("tiers_empty", path)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("unit", "tokens"),
        ("unit", None),
        ("direction", "input"),
        ("direction", None),
        ("scale", 1_000),
        ("scale", "1"),
        ("scale", 1.0),
        ("scale", True),
    ],
)
def test_what_only_metered_prices_have_is_refused_until_they_come(field: str, value: object) -> None:
    assert problems(metering(requests(**{field: value}))) == [("unsupported_field", f"price.metering.dimensions[0].{field}")]


def test_a_dimension_without_a_unit_is_refused() -> None:
    assert problems(metering({"price_usd": 1})) == [("unsupported_field", "price.metering.dimensions[0].unit")]


def test_a_mapping_is_asked_for_where_something_else_stands() -> None:
    assert problems({"metering": "0.005"})[0] == ("entry_invalid", "price.metering")
    assert problems(metering("0.005"))[0] == ("entry_invalid", "price.metering.dimensions[0]")
    assert problems(metering({"unit": "requests", "tiers": [5]}))[0] == ("entry_invalid", "price.metering.dimensions[0].tiers[0]")


def test_a_huge_value_in_the_wrong_place_is_cut_short_in_the_message() -> None:
    assert len(message({"metering": "x" * 10_000})) < 250


def test_everything_that_is_wrong_is_told_at_once() -> None:
    path = "price.metering.dimensions[0]"
    assert problems(metering(requests(unit="tokens", scale=0, per=1, price_usd="-1"), currency="EUR")) == [
        ("unknown_key", "price.metering"),
        ("unknown_key", path),
        ("unsupported_field", f"{path}.unit"),
        ("unsupported_field", f"{path}.scale"),
        ("price_negative", f"{path}.price_usd"),
    ]


@quick
@given(st.integers(0, 10**12).map(Money))
def test_a_spec_survives_its_canonical_form(amount: Money) -> None:
    spec = Price.per_call(amount)
    assert load_price(spec.canonical()) == load_price({"metering": spec.canonical()}) == spec
