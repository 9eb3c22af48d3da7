"""Reading a quantity exactly, and counting it in base units."""

from decimal import Decimal  # noqa: TID251 - a quantity may come as one
from enum import IntEnum
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.errors import UsageInvalid
from payre_mcp.pricing.units import LARGEST, UNITS, dimension_key, exact, in_units, to_base

quick = settings(max_examples=150, deadline=None)
HUGE = 10**5_000
"""An integer that Python refuses to print."""


class Count(IntEnum):
    """An int of a program."""

    THREE = 3


class IntOfALibrary:
    """As NumPy's: no int, and an index."""

    def __index__(self) -> int:
        return 7


class SinglePrecision:
    """As NumPy's: no float, and a ratio."""

    def as_integer_ratio(self) -> tuple[int, int]:
        return 1, 8


class FloatOfALibrary(float):
    """As NumPy 2 does: a float with a `repr` of its own."""

    def __repr__(self) -> str:
        return f"np.float64({float(self)!r})"


class Broken:
    """Objects that are no numbers and say so in their own ways."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def as_integer_ratio(self) -> tuple[int, int]:
        raise self.error


class Nothing:
    """A ratio that is none."""

    def as_integer_ratio(self) -> tuple[int, int]:
        return 1, 0


@pytest.mark.parametrize(
    ("n", "value"),
    [
        (0, 0),
        (7, 7),
        (2**53, 2**53),
        (Count.THREE, 3),
        (0.1, Fraction(1, 10)),
        (1e-7, Fraction(1, 10**7)),
        (1e22, 10**22),
        (0.0, 0),
        (-0.0, 0),
        ("0.1", Fraction(1, 10)),
        ("12", 12),
        ("007", 7),
        ("1e3", 1_000),
        ("1.5E-3", Fraction(3, 2_000)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        (Decimal("0.1"), Fraction(1, 10)),
        (Decimal("1E+3"), 1_000),
        (Fraction(1, 3), Fraction(1, 3)),
        (IntOfALibrary(), 7),
        (SinglePrecision(), Fraction(1, 8)),
        (FloatOfALibrary(0.1), Fraction(1, 10)),
    ],
)
def test_a_number_is_read_exactly_and_a_float_as_the_decimal_it_prints_as(n: object, value: Any) -> None:
    assert exact(n) == value


@pytest.mark.parametrize(
    "n",
    [
        -1,
        -0.5,
        "-1",
        Decimal("-0.1"),
        Fraction(-1, 3),
        pytest.param(-HUGE, id="-huge"),
        True,
        False,
        None,
        float("nan"),
        float("inf"),
        float("-inf"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        "",
        "abc",
        "nan",
        "inf",
        "1_000",
        "1,000",
        " 1",
        "1\n",
        "0x10",
        "+1",
        "1/3",
        "٣",
        "1e9999",
        "1" * 65,
        b"1",
        [1],
        {},
        1j,
        object(),
        float,
        Broken(TypeError("no")),
        Broken(ValueError("no")),
        Broken(OverflowError("no")),
        Nothing(),
    ],
)
def test_what_is_no_quantity_is_refused(n: object) -> None:
    with pytest.raises(UsageInvalid):
        exact(n)
    with pytest.raises(UsageInvalid):
        to_base("tokens", n)


@pytest.mark.parametrize(
    ("unit", "n", "base"),
    [
        ("requests", 1, 1),
        ("tokens", "0.5", 1),
        ("pages", 2.000001, 3),
        ("seconds", "12.3401", 12_341),
        ("seconds", 0.001, 1),
        ("seconds", 1e-9, 1),
        ("seconds", 0, 0),
        ("minutes", 1, 60_000),
        ("hours", Fraction(1, 3_600_000), 1),
        ("hours", 1.5, 5_400_000),
        ("GiB", 1, 2**30),
        ("GiB", Fraction(1_500_000, 2**30), 1_500_000),
        ("TiB", 1, 2**40),
        ("vCPU", "0.0001", 1),
        ("vCPU", 2, 2_000),
        ("bytes", LARGEST, LARGEST),
        ("characters", 0.1 + 0.2, 1),
    ],
)
def test_what_is_finer_than_the_base_unit_is_rounded_up(unit: str, n: object, base: int) -> None:
    assert to_base(unit, n) == base


@pytest.mark.parametrize("n", [2**53, "9007199254740992", 1e16, Decimal("1E+20"), "1e999", pytest.param(HUGE, id="huge")])
@pytest.mark.parametrize("unit", ["bytes", "GiB", "seconds"])
def test_more_than_one_call_can_use_is_refused(unit: str, n: object) -> None:
    with pytest.raises(UsageInvalid):
        to_base(unit, n)


@pytest.mark.parametrize("unit", list(UNITS))
def test_the_largest_quantity_is_counted_in_base_units(unit: str) -> None:
    most = in_units(unit, LARGEST)
    assert to_base(unit, most) == LARGEST
    with pytest.raises(UsageInvalid, match=unit):
        to_base(unit, most + in_units(unit, 1))


@quick
@given(st.sampled_from(list(UNITS)), st.integers(0, LARGEST))
def test_base_units_and_units_are_one_number(unit: str, base: int) -> None:
    assert to_base(unit, in_units(unit, base)) == base


@quick
@given(st.fractions(0, 10**6))
def test_rounding_up_adds_less_than_one_base_unit(n: Fraction) -> None:
    assert to_base("seconds", n) == ceil(n * 1_000)
    assert 0 <= in_units("seconds", to_base("seconds", n)) - n < Fraction(1, 1_000)


@quick
@given(st.floats(0, 1e9))
def test_a_float_counts_as_its_text(n: float) -> None:
    assert exact(n) == exact(repr(n)) == Fraction(repr(n))


def test_a_dimension_is_named_by_its_unit_and_by_its_direction_where_it_has_one() -> None:
    assert [dimension_key(direction, "tokens") for direction in ("usage", "input", "output")] == [
        "tokens",
        "input.tokens",
        "output.tokens",
    ]


def test_the_units_are_those_of_the_manual() -> None:
    words = (
        "requests invocations tokens characters bytes GiB TiB seconds minutes hours pages documents instances quota_units vCPU"
    )
    assert list(UNITS) == words.split()
    assert [UNITS[name].plural for name in ("requests", "pages", "quota_units")] == ["calls", "pages", "quota units"]
    assert all(unit.name == name and unit.singular and unit.base_name for name, unit in UNITS.items())
