"""Short ways to write prices in tests, and to ask what is wrong with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from payre_mcp.errors import PriceSpecInvalid, Problem
from payre_mcp.pricing import PriceList, PriceSpec, Target, load_price
from payre_mcp.pricing.price_list import parse_prices

TOKENS = (
    {"direction": "input", "unit": "tokens", "scale": 1_000_000, "price_usd": "0.50"},
    {"direction": "output", "unit": "tokens", "scale": 1_000_000, "price_usd": "1.50"},
)
"""Half a dollar in and one and a half out, per million."""


def priced(*dimensions: Any, **more: Any) -> PriceSpec:
    """A price of these dimensions."""
    return load_price({"dimensions": list(dimensions), **more})


def unit(name: str, price: object = "0.01", **more: Any) -> dict[str, Any]:
    """A dimension with one price."""
    return {"unit": name, "price_usd": price, **more}


def steps(name: str, *tiers: tuple[int | None, str], **more: Any) -> dict[str, Any]:
    """A dimension with tiers (`up_to`, price)."""
    plain = [{"price_usd": price} if up_to is None else {"up_to": up_to, "price_usd": price} for up_to, price in tiers]
    return {"unit": name, "tiers": plain, **more}


def refused(read: Callable[[], object]) -> tuple[Problem, ...]:
    """Everything that a source is refused for."""
    with pytest.raises(PriceSpecInvalid) as caught:
        read()
    assert caught.value.problems
    return caught.value.problems


def load_any(source: object) -> PriceSpec:
    """`load_price` of what its types forbid too."""
    return load_price(source)  # pyright: ignore[reportArgumentType]


def verdict(read: Callable[[], object]) -> tuple[Problem, ...]:
    """Everything that a source is refused for; nothing where it is taken."""
    try:
        read()
    except PriceSpecInvalid as error:
        return error.problems or (Problem("none", "", "refused without a problem"),)
    return ()


def problems(source: object) -> list[tuple[str, str]]:
    """(code, path) of everything that is wrong with one price."""
    return [(each.code, each.path) for each in refused(lambda: load_any(source))]


def message(source: object) -> str:
    """The first thing that is wrong with one price, in words."""
    return refused(lambda: load_any(source))[0].message


def file_problems(text: str) -> list[tuple[str, str, int]]:
    """(code, path, line) of everything that is wrong with a price file."""
    return [(each.code, each.path, each.line) for each in refused(lambda: parse_prices(text))]


def file_message(text: str) -> str:
    """The first thing that is wrong with a price file, in words."""
    return refused(lambda: parse_prices(text))[0].message


def warned(prices: PriceList) -> list[tuple[str, str, int]]:
    """(code, path, line) of every warning of a file."""
    return [(each.code, each.path, each.line) for each in prices.warnings]


def tool(text: str, name: str = "t") -> PriceSpec:
    """The price of a tool in a file."""
    return parse_prices(text).prices[Target("tool", name)]


def written(folder: Path, content: str | bytes) -> Path:
    """A price file on disk."""
    path = folder / "pricing.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
