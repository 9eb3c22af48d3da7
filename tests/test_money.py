"""Money: our own choice (exact micros, nothing rounded); the fee's rounding is Payre's, in the developer's favour."""

from decimal import localcontext
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.money import MAX_PRICE_USD, MICROS_PER_USD, ZERO, InvalidAmount, Money, format_usd, split_fee

PRICES = st.integers(0, MAX_PRICE_USD * MICROS_PER_USD)
AMOUNTS = st.integers(-(10**15), 10**15)
CODES = ("price_syntax", "price_negative", "price_too_large", "price_inexact")
quick = settings(max_examples=200, deadline=None)


def read(value: object) -> Money | str:
    """The amount, or the code of its refusal."""
    try:
        return Money.parse(value)  # pyright: ignore[reportArgumentType]
    except InvalidAmount as error:
        return error.code


def expected(micros: Fraction) -> Money | str:
    return Money(int(micros)) if micros.denominator == 1 else "price_inexact"


def exact(text: str) -> Fraction:
    """The dollars of our own text, read by nothing of ours."""
    return Fraction(text.replace("$", "", 1))


@pytest.mark.parametrize(
    ("value", "micros"),
    [
        ("0.005", 5_000),
        ("$0.005", 5_000),
        (0.005, 5_000),
        ("5e-3", 5_000),
        ("1E+2", 100_000_000),
        (1e-06, 1),
        (".5", 500_000),
        ("5.", 5_000_000),
        ("007", 7_000_000),
        (3, 3_000_000),
        ("0", 0),
        ("-0", 0),
        (-0.0, 0),
        ("0.0050000000000000000000000000000000000000", 5_000),
        ("1000000", 10**12),
        (Money(7), 7),
    ],
)
def test_an_amount_reads_as_whole_micros(value: str | float | Money, micros: int) -> None:
    assert Money.parse(value) == Money(micros)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("", "price_syntax"),
        ("$", "price_syntax"),
        (".", "price_syntax"),
        ("$-5", "price_syntax"),
        ("--5", "price_syntax"),
        ("+5", "price_syntax"),
        ("5 USD", "price_syntax"),
        ("1,000", "price_syntax"),
        ("1_000", "price_syntax"),
        ("5\n", "price_syntax"),
        ("\N{ARABIC-INDIC DIGIT FIVE}", "price_syntax"),
        ("1e1000", "price_syntax"),
        ("0." + "0" * 70, "price_syntax"),
        (float("nan"), "price_syntax"),
        (float("inf"), "price_syntax"),
        (True, "price_syntax"),
        (None, "price_syntax"),
        (["5"], "price_syntax"),
        ("-0.005", "price_negative"),
        ("-$5", "price_negative"),
        (-5, "price_negative"),
        (-1e-9, "price_negative"),
        ("1000000.000001", "price_too_large"),
        (1_000_001, "price_too_large"),
        ("1e999", "price_too_large"),
        ("0.0000005", "price_inexact"),
        ("1e-999", "price_inexact"),
        (0.1 + 0.2, "price_inexact"),
    ],
)
def test_what_is_not_an_exact_amount_is_refused(value: object, code: str) -> None:
    assert read(value) == code


def test_an_integer_too_long_to_print_is_refused_like_any_other() -> None:
    assert read(10**5_000) == "price_too_large"
    assert read(-(10**5_000)) == "price_negative"


def test_an_amount_beyond_the_precision_of_decimal_arithmetic_is_not_rounded() -> None:
    assert read("0.0050000000000000000000000000000000000001") == "price_inexact"
    assert read("1." + "0" * 61 + "1") == "price_inexact"
    assert read("1000000.0000000000000000000000000001") == "price_too_large"


def test_the_host_programs_decimal_context_never_changes_an_amount() -> None:
    with localcontext() as context:
        context.prec = 6
        assert Money.parse("123456.789012") == Money(123_456_789_012)


def test_an_inexact_amount_is_told_the_nearest_exact_ones() -> None:
    with pytest.raises(InvalidAmount, match=r"\$0\.005 and \$0\.005001"):
        Money.parse("0.0050004")


@quick
@given(PRICES)
def test_every_price_survives_its_own_text(micros: int) -> None:
    money = Money(micros)
    assert Money.parse(str(money)) == Money.parse(money.usd) == money
    assert exact(money.usd) == Fraction(micros, MICROS_PER_USD)


@quick
@given(st.decimals(0, MAX_PRICE_USD, places=8))
def test_a_decimal_is_read_exactly_or_refused(dollars: object) -> None:
    assert read(dollars) == read(str(dollars)) == expected(Fraction(str(dollars)) * MICROS_PER_USD)


@quick
@given(st.floats(0, MAX_PRICE_USD))
def test_a_float_counts_as_the_decimal_it_prints_as(dollars: float) -> None:
    assert read(dollars) == expected(Fraction(repr(dollars)) * MICROS_PER_USD)


@quick
@given(st.text("0123456789.$-+eE_, ", max_size=70))
def test_any_text_is_an_amount_or_refused_with_a_code(text: str) -> None:
    money = read(text)
    assert money in CODES or (isinstance(money, Money) and money.micros >= 0)


@quick
@given(AMOUNTS)
def test_dollars_for_people_are_exact_and_show_at_least_two_decimals(micros: int) -> None:
    text = format_usd(micros)
    assert exact(text) == Fraction(micros, MICROS_PER_USD)
    assert 2 <= len(text.partition(".")[2]) <= 6
    assert text.startswith("-") == (micros < 0)


@pytest.mark.parametrize(
    ("micros", "text"), [(0, "$0.00"), (5_000, "$0.005"), (5_000_000, "$5.00"), (1, "$0.000001"), (-1_500_000, "-$1.50")]
)
def test_dollars_show_more_decimals_only_where_they_say_something(micros: int, text: str) -> None:
    assert str(Money(micros)) == text
    assert Money(micros).usd == text.replace("$", "")


@quick
@given(AMOUNTS, AMOUNTS)
def test_money_adds_subtracts_and_compares_as_its_micros_do(left: int, right: int) -> None:
    assert Money(left) + Money(right) == Money(left + right)
    assert Money(left) - Money(right) == Money(left - right)
    assert (Money(left) < Money(right)) == (left < right)
    assert bool(Money(left)) == (Money(left) != ZERO)


@pytest.mark.parametrize("micros", [1.0, "1", True, None])
def test_micros_are_integers_and_nothing_else(micros: object) -> None:
    with pytest.raises(TypeError):
        Money(micros)  # pyright: ignore[reportArgumentType]


@quick
@given(st.integers(0, 10**12), st.integers(0, 10_000))
def test_a_fee_rounds_down_and_the_developer_gets_the_rest(amount: int, bps: int) -> None:
    fee, net = split_fee(amount, bps)
    assert fee == Fraction(amount * bps, 10_000).__floor__()
    assert fee + net == amount
    assert 0 <= fee <= amount


def test_the_fee_of_a_tiny_charge_is_nothing() -> None:
    assert split_fee(33, 300) == (0, 33)
    assert split_fee(34, 300) == (1, 33)


@pytest.mark.parametrize(("amount", "bps"), [(-1, 300), (1, -1), (1, 10_001)])
def test_a_fee_of_impossible_figures_is_a_programming_mistake(amount: int, bps: int) -> None:
    with pytest.raises(AssertionError):
        split_fee(amount, bps)
