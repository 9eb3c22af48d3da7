"""What pricing costs: a quote of a fixed and of a three-dimension tiered price, beside `decimal` written the obvious way.

python tests/benchmarks/pricing.py [--calls N]. Prints one JSON object. Both sides price the same calls, and must agree
on every total before anything is timed.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

from common import REPEATS, Row, print_report, progress

from payre_mcp.pricing import Price, load_price
from payre_mcp.pricing.price_list import parse_prices

TOOLS = 1_000
MICRO = Decimal("0.000001")

FIXED = Price.per_call("0.005")
TIERS = {
    "requests": (1, [(1_000, "0.01"), (None, "0.001")]),
    "input.tokens": (1_000_000, [(1_000_000, "3"), (None, "2")]),
    "output.tokens": (1_000_000, [(1_000_000, "9"), (5_000_000, "7"), (None, "5")]),
}
TIERED = load_price(
    {
        "max_price_usd": 1,
        "min_price_usd": "0.0001",
        "dimensions": [
            {
                "direction": key.rpartition(".")[0] or "usage",
                "unit": key.rpartition(".")[2],
                "scale": scale,
                "tiers": [{"price_usd": price} | ({} if up_to is None else {"up_to": up_to}) for up_to, price in tiers],
            }
            for key, (scale, tiers) in TIERS.items()
        ],
    }
)
USAGES: list[Mapping[str, int]] = [{"input.tokens": 37 * n, "output.tokens": 11 * n} for n in range(1, 65)]
BEFORE: Mapping[str, int] = {"requests": 1_000, "input.tokens": 999_500, "output.tokens": 4_000_000}

FILE = "version: 1\ndefaults: {max_price_usd: 0.25}\ntools:\n" + "".join(
    f"""\
  tool_{number}:
    description: The tool of number {number}
    metering:
      min_price_usd: 0.001
      free_quota: {{amount: 20, window: day}}
      dimensions:
        - {{direction: input, unit: tokens, scale: 1_000_000, max_units: 60_000, price_usd: 0.40}}
        - direction: output
          unit: tokens
          scale: 1_000_000
          max_units: 4_000
          tiers: [{{up_to: 1_000_000, price_usd: 2}}, {{price_usd: 1}}]
"""
    for number in range(TOOLS)
)


def fixed_by_decimal() -> int:
    """One request at half a cent, in micros."""
    return int((Decimal("0.005") * Decimal(1)).quantize(MICRO, ROUND_CEILING) / MICRO)


def tiered_by_decimal(usage: Mapping[str, int]) -> int:
    """The tiered price in micros: the whole call at the step of what was used before, summed, rounded up once."""
    total = Decimal(0)
    for key, (scale, tiers) in TIERS.items():
        used, quantity = Decimal(BEFORE[key]), Decimal(usage.get(key, 1))
        for up_to, price in tiers:
            if up_to is None or used < Decimal(up_to):
                total += quantity / Decimal(scale) * Decimal(price)
                break
    total = min(max(total.quantize(MICRO, ROUND_CEILING), Decimal("0.0001")), Decimal(1))
    return int(total / MICRO)


def tiered_by_quote(usage: Mapping[str, int]) -> int:
    """The same by the price itself, with its lines and its ceiling."""
    return TIERED.quote(None, usage, BEFORE).total.micros


def microseconds(call: Callable[[], object], calls: int) -> float:
    """The median time of one call over the repeats."""
    times = list[float]()
    for _ in range(REPEATS):
        started = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - started) / calls * 1e6)
    return statistics.median(times)


def over_usages(price: Callable[[Mapping[str, int]], int]) -> Callable[[], object]:
    """One call prices every usage."""
    return lambda: [price(usage) for usage in USAGES]


def row(name: str, what: str, figure: float, unit: str, below: float, cells: dict[str, float]) -> Row:
    """A figure that must stay below a bound."""
    return Row(name, what, round(figure, 3), unit, f"below {below} {unit}", figure < below, cells)


def report(calls: int) -> list[Row]:
    """Check that both sides agree, then time them."""
    assert FIXED.quote().total.micros == fixed_by_decimal()
    assert [tiered_by_quote(usage) for usage in USAGES] == [tiered_by_decimal(usage) for usage in USAGES]
    progress("quotes")
    fixed, fixed_decimal = microseconds(FIXED.quote, calls), microseconds(fixed_by_decimal, calls)
    rounds = max(1, calls // len(USAGES))
    tiered = microseconds(over_usages(tiered_by_quote), rounds) / len(USAGES)
    tiered_decimal = microseconds(over_usages(tiered_by_decimal), rounds) / len(USAGES)
    progress(f"a file of {TOOLS} tools")
    assert len(parse_prices(FILE).prices) == TOOLS
    load_s = microseconds(lambda: parse_prices(FILE), 1) / 1e6
    cells: dict[str, Any] = {"characters": len(FILE), "tools": TOOLS}
    return [
        row("quote_fixed", "a quote of a fixed price", fixed, "us", 5, {"decimal_us": round(fixed_decimal, 3)}),
        row("quote_tiered", "a quote of three tiered dimensions", tiered, "us", 40, {"decimal_us": round(tiered_decimal, 3)}),
        row("load_file", "reading and checking a file of 1,000 tools", load_s, "s", 1, cells),
    ]


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    started = time.perf_counter()
    rows = report(parser.parse_args().calls)
    print_report(round(time.perf_counter() - started, 1), rows)


if __name__ == "__main__":
    main()
