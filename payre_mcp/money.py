"""Money: a whole number of micro-dollars, and the only file that knows `Decimal`.

The lowest floor of the house: it imports nothing of ours, so that even an error can state an amount.
Grammar of a price text: digits, an optional fraction, an optional exponent, an optional leading `$`.
"""

import re
from dataclasses import dataclass
from decimal import Decimal, localcontext

from payre_mcp.text import shown

MICROS_PER_USD = 1_000_000
MICROS_PER_CENT = 10_000
"""1 USD = 1,000,000 micros, so 1 micro is $0.000001."""

MAX_MICROS = 2**53 - 1
"""The largest amount of one act: the last integer that every JSON reader keeps exact."""

MAX_PRICE_USD = 1_000_000

_PRICE_TEXT = re.compile(r"\$?(?P<number>[0-9]+(\.[0-9]*)?|\.[0-9]+)(?P<exponent>[eE][+-]?[0-9]{1,3})?", re.ASCII)
_LONGEST_TEXT = 64


class InvalidAmount(ValueError):
    """Text or a number that is not an amount of money. `code` is one of the price codes of the contract."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, order=True)
class Money:
    """An exact amount of US dollars, held as integer micros. May be negative (a difference); never rounded.

    >>> Money.parse("$0.005")
    Money(micros=5000)
    >>> str(Money.parse("0.005") + Money.parse(1))
    '$1.005'
    """

    micros: int

    def __post_init__(self) -> None:
        if type(self.micros) is not int:
            raise TypeError(f"micros must be an int, not {self.micros!r}; use Money.parse() for text")

    @classmethod
    def parse(cls, value: "str | int | float | Decimal | Money") -> "Money":
        """Read an amount of dollars. Nothing is rounded: what is not a whole micro is refused.

        A float is read through its `repr`, so `0.005` is exact and `0.1 + 0.2` is refused.

        Raises:
            InvalidAmount: `price_syntax`, `price_negative`, `price_too_large` (above 1,000,000 USD) or
                `price_inexact` (not a whole number of micros).
        """
        if isinstance(value, Money):
            return value
        dollars = _decimal(value)
        if dollars < 0:
            raise InvalidAmount("price_negative", "an amount is zero or more")
        if dollars > MAX_PRICE_USD:
            raise InvalidAmount("price_too_large", f"an amount is at most ${MAX_PRICE_USD:,}")
        with localcontext() as context:
            context.prec = 3000  # 64 digits and an exponent of three digits stay exact
            micros = dollars * MICROS_PER_USD
            whole = micros.to_integral_value()
            if micros != whole:
                below = int(micros)
                raise InvalidAmount(
                    "price_inexact",
                    f"{shown(value)} is not a whole number of micro-dollars ($0.000001); "
                    f"the nearest are {format_usd(below)} and {format_usd(below + 1)}",
                )
            return cls(int(whole))

    @property
    def usd(self) -> str:
        """Decimal text without a currency sign: `0.005`."""
        return format_usd(self.micros).replace("$", "", 1)

    def __str__(self) -> str:
        return format_usd(self.micros)

    def __bool__(self) -> bool:
        return self.micros != 0

    def __add__(self, other: "Money") -> "Money":
        return Money(self.micros + other.micros)

    def __sub__(self, other: "Money") -> "Money":
        return Money(self.micros - other.micros)


ZERO = Money(0)

AmountSource = str | int | float | Decimal | Money
"""What `Money.parse` reads: dollars as text or number, never as micros."""


def format_usd(micros: int) -> str:
    """Exact dollars for people: at least two decimals, more only where they say something (`$0.005`, `$5.00`)."""
    sign, rest = ("-" if micros < 0 else ""), abs(micros)
    fraction = f"{rest % MICROS_PER_USD:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}${rest // MICROS_PER_USD}.{fraction}"


def split_fee(amount_micros: int, fee_bps: int) -> tuple[int, int]:
    """Split a charge into (fee, net). The fee rounds down and the developer gets the rest, so they sum exactly."""
    assert amount_micros >= 0
    assert 0 <= fee_bps <= 10_000
    fee = amount_micros * fee_bps // 10_000
    return fee, amount_micros - fee


def _decimal(value: "str | int | float | Decimal") -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidAmount("price_syntax", f"{shown(value)} is not an amount; write dollars such as '0.005'")
    if isinstance(value, int):
        # str() of a huge int is refused by Python itself; the bound is all that matters here.
        return Decimal(max(-1, min(value, MAX_PRICE_USD + 1)))
    text = float.__repr__(value) if isinstance(value, float) else str(value)
    unsigned = text.removeprefix("-")
    if len(text) > _LONGEST_TEXT or _PRICE_TEXT.fullmatch(unsigned) is None:
        raise InvalidAmount("price_syntax", f"{shown(text)} is not an amount; write dollars such as '0.005'")
    dollars = Decimal(unsigned.removeprefix("$"))
    return dollars.copy_negate() if unsigned != text else dollars
