"""Numbers of a price: decimal text that is never a float, and whole numbers that are never guessed."""

from decimal import Decimal  # noqa: TID251 - one of the forms that a price may have
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.money import Money
from payre_mcp.pricing import PriceSpec, load_price
from tests.pricing.forms import file_problems, load_any, problems, tool

HUGE = 10**5_000
"""An integer that Python refuses to print."""
quick = settings(max_examples=150, deadline=None)

BAD_PRICES = [
    ("1e-7", "price_inexact"),
    ("0.0000015", "price_inexact"),
    (".inf", "price_syntax"),
    ("-.inf", "price_syntax"),
    (".nan", "price_syntax"),
    ("nan", "price_syntax"),
    ("Infinity", "price_syntax"),
    ("0x10", "price_syntax"),
    ("0o17", "price_syntax"),
    ("017", "price_syntax"),
    ("$017", "price_syntax"),
    ("00.5", "price_syntax"),
    ("1_000", "price_syntax"),
    ("'1,000'", "price_syntax"),
    ("1.000.000", "price_syntax"),
    ("٣", "price_syntax"),
    ("0.0\u0665", "price_syntax"),
    ("\U0001d7d3", "price_syntax"),
    ("½", "price_syntax"),
    ("yes", "price_syntax"),
    ("true", "price_syntax"),
    ("~", "price_syntax"),
    ("null", "price_syntax"),
    ("''", "price_syntax"),
    ("+1", "price_syntax"),
    ("' 1'", "price_syntax"),
    ("'1 '", "price_syntax"),
    ('"1\\n"', "price_syntax"),
    ("1 USD", "price_syntax"),
    ("€1", "price_syntax"),
    ("1$", "price_syntax"),
    ("$", "price_syntax"),
    ("1e", "price_syntax"),
    ("1e1000", "price_syntax"),
    ("12:30", "price_syntax"),
    ("2026-01-01", "price_syntax"),
    ("1" * 65, "price_syntax"),
    ("-0.01", "price_negative"),
    ("-017", "price_negative"),
    ("-1e3", "price_negative"),
    ("1e7", "price_too_large"),
    ("1e999", "price_too_large"),
    ("1000000.000001", "price_too_large"),
]


@pytest.mark.parametrize(("text", "code"), BAD_PRICES)
def test_what_is_no_price_in_a_file_is_an_error_with_a_stable_code(text: str, code: str) -> None:
    assert file_problems(f"tools:\n  t: {text}\n") == [(code, "tools.t", 2)]
    inner = "tools: {t: {metering: {dimensions: [{unit: pages,\nprice_usd: %s}]}}}"
    assert file_problems(inner % text) == [(code, "tools.t.metering.dimensions[0].price_usd", 2)]


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("0.005", 5_000),
        ("$0.005", 5_000),
        ("'0.005'", 5_000),
        ('"$0.005"', 5_000),
        ("5e-3", 5_000),
        ("5E-3", 5_000),
        ("1e3", 1_000_000_000),
        ("0.10", 100_000),
        ("0.1000000", 100_000),
        ("0.000001", 1),
        ("1e-6", 1),
        ("0", 0),
        ("0.0", 0),
        ("free", 0),
        ("0.30000000000000000", 300_000),
        ("1000000", 10**12),
        ("123456.654321", 123_456_654_321),
    ],
)
def test_a_price_in_a_file_is_the_text_that_stands_there(text: str, micros: int) -> None:
    assert tool(f"tools: {{t: {text}}}").ceiling() == Money(micros)


@pytest.mark.parametrize(
    ("price", "micros"),
    [
        (1, 10**6),
        (0.005, 5_000),
        (1e-06, 1),
        (0.1, 100_000),
        (Decimal("0.005"), 5_000),
        (Decimal("5E-3"), 5_000),
        (Money(5_000), 5_000),
        ("0.005", 5_000),
    ],
)
def test_a_price_in_code_is_exactly_what_it_prints_as(price: Any, micros: int) -> None:
    assert load_price(price).ceiling() == Money(micros)


@pytest.mark.parametrize(
    ("price", "code"),
    [
        (True, "price_syntax"),
        (False, "price_syntax"),
        (None, "price_syntax"),
        (b"1", "price_syntax"),
        (["0.005"], "price_syntax"),
        ((1,), "price_syntax"),
        (Fraction(1, 2), "price_syntax"),
        (1j, "price_syntax"),
        (object, "price_syntax"),
        (float("nan"), "price_syntax"),
        (float("inf"), "price_syntax"),
        (Decimal("NaN"), "price_syntax"),
        (Decimal("sNaN"), "price_syntax"),
        (Decimal("Infinity"), "price_syntax"),
        (Decimal("1E-7"), "price_inexact"),
        (Decimal("1E+999999"), "price_syntax"),
        (0.1 + 0.2, "price_inexact"),
        (1e-7, "price_inexact"),
        (-0.005, "price_negative"),
        (-1, "price_negative"),
        pytest.param(-HUGE, "price_negative", id="-huge"),
        (1_000_001, "price_too_large"),
        pytest.param(HUGE, "price_too_large", id="huge"),
        (1e300, "price_too_large"),
        ("free", "price_syntax"),
        ("0.005\0", "price_syntax"),
        ("\ud800", "price_syntax"),
    ],
)
def test_what_is_no_price_in_code_is_an_error_with_a_stable_code(price: object, code: str) -> None:
    assert problems(price) == [(code, "price")]
    assert problems({"price": price}) == [(code, "price.price")]
    assert problems({"dimensions": [{"unit": "requests", "price_usd": price}]}) == [(code, "price.dimensions[0].price_usd")]
    tiers = {"metering": {"dimensions": [{"unit": "requests", "tiers": [{"price_usd": price}]}]}}
    assert problems(tiers) == [(code, "price.metering.dimensions[0].tiers[0].price_usd")]


class FloatOfALibrary(float):
    """As NumPy 2 does: a float with a `repr` of its own."""

    def __repr__(self) -> str:
        return f"np.float64({float(self)!r})"


def test_a_float_of_a_library_is_the_number_it_is() -> None:
    assert load_price(FloatOfALibrary(0.005)).ceiling() == Money(5_000)


def whole(field: str, value: object) -> dict[str, Any]:
    """An entry with this value in a field that takes whole numbers."""
    if field == "up_to":
        return {"metering": {"dimensions": [{"unit": "pages", "tiers": [{"up_to": value, "price_usd": 1}, {"price_usd": 1}]}]}}
    if field == "amount":
        return {"metering": {"dimensions": [{"unit": "pages", "price_usd": 1}], "free_quota": {"amount": value}}}
    return {"metering": {"dimensions": [{"unit": "tokens", "price_usd": 1, field: value}]}}


WHOLE = {
    "scale": ("scale_invalid", "dimensions[0].scale"),
    "max_units": ("max_units_invalid", "dimensions[0].max_units"),
    "up_to": ("tiers_order", "dimensions[0].tiers[0].up_to"),
    "amount": ("free_quota_invalid", "free_quota.amount"),
}
FILE = {
    "scale": "{unit: tokens, price_usd: 1, scale: %s}",
    "max_units": "{unit: tokens, price_usd: 1, max_units: %s}",
    "up_to": "{unit: pages, tiers: [{up_to: %s, price_usd: 1}, {price_usd: 1}]}",
    "amount": "{unit: pages, price_usd: 1}], free_quota: {amount: %s}, variants: [",
}
BAD_INTEGERS = [
    "1.0",
    "1e3",
    "0x10",
    "0o17",
    "0b1",
    "010",
    "00",
    "0",
    "-1",
    "+1",
    "9007199254740992",
    "111111111111111111111111111111",
    "1111111111111111111111111111111",
    "true",
    "yes",
    "~",
    "''",
    "' 1'",
    "1__0",
    "_1",
    "1_",
    "0_1",
    "'1,000'",
    "٣",
    "²",
    ".inf",
    "[1]",
    "{a: 1}",
    "1 000",
    "many",
]


@pytest.mark.parametrize("text", BAD_INTEGERS)
@pytest.mark.parametrize("field", list(WHOLE))
def test_what_is_no_whole_number_in_a_file_is_an_error_with_a_stable_code(field: str, text: str) -> None:
    code, path = WHOLE[field]
    file = f"tools: {{t: {{metering: {{dimensions: [{FILE[field] % text}]}}}}}}"
    assert file_problems(file) == [(code, f"tools.t.metering.{path}", 1)]


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        1.5,
        True,
        False,
        None,
        0,
        -1,
        2**53,
        10**30,
        pytest.param(HUGE, id="huge"),
        "",
        "1.0",
        "1e3",
        [],
        {},
        b"1",
        Fraction(1),
        Decimal(1),
    ],
)
@pytest.mark.parametrize("field", list(WHOLE))
def test_what_is_no_whole_number_in_code_is_an_error_with_a_stable_code(field: str, value: object) -> None:
    code, path = WHOLE[field]
    assert problems(whole(field, value)) == [(code, f"price.metering.{path}")]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        ("1000", 1_000),
        ("1_000", 1_000),
        ("1_000_000", 10**6),
        ("1_0_0", 100),
        ("'7'", 7),
        ("9_007_199_254_740_991", 2**53 - 1),
    ],
)
def test_digits_of_a_whole_number_may_be_parted(text: str, number: int) -> None:
    for field, dimension in FILE.items():
        spec = tool(f"tools: {{t: {{metering: {{dimensions: [{dimension % text}]}}}}}}")
        assert spec == load_price(whole(field, number)) == load_price(whole(field, str(number)))


def spec_with(field: str, value: object) -> PriceSpec:
    return load_any(whole(field, value))


@quick
@given(st.integers(1, 2**53 - 1))
def test_every_whole_number_in_range_is_kept_exactly(number: int) -> None:
    dimension = spec_with("scale", number).dimensions[0]
    assert dimension.scale == number
    assert spec_with("max_units", f"{number:_}").dimensions[0].max_units == number
    assert spec_with("up_to", number).dimensions[0].tiers[0].up_to == number


@quick
@given(st.integers(0, 10**12))
def test_every_price_in_range_is_kept_exactly(micros: int) -> None:
    text = f"{micros // 10**6}.{micros % 10**6:06d}"
    assert (
        tool(f"tools: {{t: {text}}}").ceiling() == load_price(text).ceiling() == load_price(f"${text}").ceiling() == Money(micros)
    )
    assert load_price(f"{micros}e-6").ceiling() == Money(micros)


@quick
@given(st.decimals(0, 100, allow_nan=False, places=9))
def test_a_price_is_exact_or_refused_and_never_rounded(price: Any) -> None:
    micros = Fraction(str(price)) * 10**6
    if micros.denominator == 1:
        assert load_price(str(price)).ceiling() == Money(int(micros))
    else:
        assert problems(str(price)) == [("price_inexact", "price")]


def test_a_value_is_read_as_it_was_written_and_not_as_what_yaml_makes_of_it() -> None:
    variant = "{param: on, value: no, dimensions: [{unit: pages, price_usd: 1}]}"
    text = f"tools: {{t: {{description: yes, notes: 0x10, metering: {{variants: [{variant}]}}}}}}"
    spec = tool(text)
    assert (spec.description, spec.notes, spec.variants[0].param, spec.variants[0].value) == ("yes", "0x10", "on", "no")
