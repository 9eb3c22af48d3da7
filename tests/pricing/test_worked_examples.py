"""The worked examples of the pricing document, each as it stands, and every form of pay.sh's pricing page."""

from fractions import Fraction
from math import ceil
from typing import Any

import pytest
import yaml

from payre_mcp.errors import InvalidVariant, UsageMissing
from payre_mcp.money import ZERO, Money, split_fee
from payre_mcp.pricing import PriceSpec, Target, load_price
from payre_mcp.pricing.plan import Usage
from payre_mcp.pricing.price_list import parse_prices
from tests.pricing.forms import TOKENS, priced, problems, steps, unit

FEE_BPS = 300
BATCH = steps("invocations", (100, "0.02"), (None, "0.01"), max_units=1_000)
BY_TOKEN = priced(*TOKENS)
LONG_CONTEXT = priced(
    {
        "direction": "input",
        "unit": "tokens",
        "scale": 1_000_000,
        "tiers": [
            {"price_usd": "1.00", "condition": {"field": "context_length", "op": "<=", "value": 200_000}},
            {"price_usd": "2.00"},
        ],
    },
    max_price_usd=5,
)


def tokens(read: int, wrote: int) -> dict[str, int]:
    return {"input.tokens": read, "output.tokens": wrote}


def cost(spec: PriceSpec, usage: dict[str, Any], used: dict[str, Any] | None = None, **arguments: str) -> tuple[Fraction, int]:
    """(S, charge) of one call in micros."""
    quote = spec.quote(arguments or None, usage, used)
    return sum((line.cost_micros for line in quote.lines), Fraction()), quote.total.micros


def test_1_a_fixed_price_and_what_becomes_of_it() -> None:
    assert cost(load_price("0.005"), {}) == (5_000, 5_000)
    assert split_fee(5_000, FEE_BPS) == (150, 4_850)


def test_2_characters_pro_rata() -> None:
    spec = priced(unit("characters", scale=1_000))
    assert cost(spec, {"characters": 2_500}) == (25_000, 25_000)
    assert cost(spec, {"characters": 1}) == (10, 10)
    assert spec.quote({"text": "x" * 2_500}).total == spec.ceiling({"text": "x" * 2_500}) == Money(25_000)


def test_3_tokens_in_both_directions() -> None:
    assert cost(BY_TOKEN, tokens(800, 200)) == (700, 700)
    assert [line.cost_micros for line in BY_TOKEN.quote(usage=tokens(800, 200)).lines] == [400, 300]
    assert split_fee(700, FEE_BPS)[0] == 21


def test_4_half_a_micro_is_a_micro() -> None:
    assert cost(BY_TOKEN, tokens(1, 0)) == (Fraction(1, 2), 1)
    assert split_fee(1, FEE_BPS)[0] == 0


def test_5_dimensions_are_not_rounded_alone() -> None:
    spec = priced(unit("tokens", "0.15", direction="input", scale=10**6), unit("tokens", "0.60", direction="output", scale=10**6))
    assert cost(spec, tokens(1, 1)) == (Fraction(3, 4), 1)
    assert [line.cost_micros for line in spec.quote(usage=tokens(1, 1)).lines] == [Fraction(3, 20), Fraction(3, 5)]


def test_6_a_price_per_request_beside_tokens() -> None:
    spec = priced(unit("requests", "0.001"), *TOKENS)
    assert cost(spec, tokens(1_234, 567)) == (Fraction(4_935, 2), 2_468)


def test_7_requests_by_volume() -> None:
    spec = priced(steps("requests", (1_000, "0.01"), (10_000, "0.005"), (None, "0.002")))
    of = {used: spec.quote(used_before={"requests": used}).total.micros for used in range(10_001)}
    assert [of[used] for used in (0, 999, 1_000, 9_999, 10_000)] == [10_000, 10_000, 5_000, 5_000, 2_000]
    assert sum(of.values()) == 55_002_000


def test_8_invocations_by_volume() -> None:
    spec = priced(BATCH)
    assert cost(spec, {"invocations": 25}, {"invocations": 90}) == (500_000, 500_000)
    assert cost(spec, {"invocations": 25}, {"invocations": 100}) == (250_000, 250_000)


def test_9_invocations_graduated() -> None:
    spec = priced({**BATCH, "tiering": "graduated"})
    assert cost(spec, {"invocations": 25}, {"invocations": 90}) == (350_000, 350_000)
    lines = spec.quote(usage={"invocations": 25}, used_before={"invocations": 90}).lines
    assert [(line.quantity, line.price.micros) for line in lines] == [(10, 20_000), (15, 10_000)]


def test_10_characters_graduated() -> None:
    text = steps("characters", (1_000_000, "0.02"), (5_000_000, "0.015"), (None, "0.01"), scale=1_000)
    used = {"characters": 999_400}
    graduated = priced({**text, "tiering": "graduated"})
    assert cost(graduated, {"characters": 2_500}, used) == (40_500, 40_500)
    assert [line.cost_micros for line in graduated.quote(usage={"characters": 2_500}, used_before=used).lines] == [12_000, 28_500]
    assert cost(priced(text), {"characters": 2_500}, used) == (50_000, 50_000)


def test_11_variants_without_a_default() -> None:
    models = (("fast", "0.01"), ("pro", "0.10"))
    spec = load_price(
        {"variants": [{"param": "model", "value": name, "dimensions": [unit("requests", price)]} for name, price in models]}
    )
    assert cost(spec, {}, model="pro") == (100_000, 100_000)
    for arguments in ({"model": "pro-max"}, {}, None):
        with pytest.raises(InvalidVariant):
            spec.quote(arguments)
    assert spec.plan_of({}, {"model": "fast"}.get).variant == "model=fast"


def test_12_a_free_quota_is_used_up_within_a_call() -> None:
    spec = priced(unit("pages", max_units=100), free_quota={"amount": 100, "unit": "pages"})
    assert cost(spec, {"pages": 25}, {"pages": 90}) == (150_000, 150_000)
    assert 90 + spec.plan("").counts(Usage({"pages": 25}))[0] == 115


def test_13_a_free_quota_leaves_the_tier_as_it_is() -> None:
    spec = priced(BATCH, free_quota={"amount": 100, "unit": "invocations"})
    assert cost(spec, {"invocations": 25}, {"invocations": 90}) == (300_000, 300_000)


def test_14_what_was_held_and_not_used_goes_back() -> None:
    spec = priced({**TOKENS[0], "max_units": 4_000}, {**TOKENS[1], "max_units": 1_000})
    assert spec.ceiling() == spec.quote().total == Money(3_500)
    quote = spec.quote(usage=tokens(800, 200))
    assert (quote.total, quote.ceiling, quote.shortfall) == (Money(700), Money(3_500), ZERO)


def test_15_a_call_costs_no_more_than_its_ceiling() -> None:
    spec = priced(unit("tokens", 15, direction="output", scale=10**6), max_price_usd="0.10")
    quote = spec.quote(usage={"output.tokens": 8_227})
    assert (quote.total, quote.shortfall) == (Money(100_000), Money(23_405))
    assert cost(spec, {"output.tokens": 8_227})[0] == 123_405


def test_16_a_call_that_costs_anything_costs_the_least_charge() -> None:
    spec = priced(*TOKENS, min_price_usd="0.002")
    assert cost(spec, tokens(800, 200)) == (700, 2_000)
    assert cost(spec, tokens(0, 0)) == (0, 0)


@pytest.mark.parametrize(("policy", "micros"), [("refund", 0), ("min", 2_000), ("ceiling", 100_000)])
def test_17_missing_usage_costs_what_the_price_says(policy: str, micros: int) -> None:
    spec = priced(*TOKENS, min_price_usd="0.002", max_price_usd="0.10", missing_usage=policy)
    quote = spec.quote(usage={})
    assert (quote.total, quote.missing, quote.lines) == (Money(micros), ("input.tokens", "output.tokens"), ())


def test_17_missing_usage_may_be_an_error() -> None:
    spec = priced(*TOKENS, min_price_usd="0.002", max_price_usd="0.10", missing_usage="error")
    with pytest.raises(UsageMissing, match=r"input\.tokens, output\.tokens"):
        spec.quote(usage={})


def test_18_time_counts_in_milliseconds_rounded_up() -> None:
    spec = priced(unit("minutes", "0.06"))
    assert cost(spec, {"minutes": Fraction("12.3401") / 60}) == (12_341, 12_341)
    assert cost(priced(unit("seconds", "0.001")), {"seconds": "12.3401"}) == (12_341, 12_341)


def test_19_a_part_of_a_gib() -> None:
    spec = priced(unit("GiB", "0.09"))
    assert cost(spec, {"GiB": Fraction(1_500_000, 2**30)}) == (Fraction(263_671_875, 2_097_152), 126)


@pytest.mark.parametrize(("read", "micros"), [(200_000, 200_000), (200_001, 400_002), (300_000, 600_000)])
def test_20_a_long_context_costs_more(read: int, micros: int) -> None:
    assert cost(LONG_CONTEXT, {"input.tokens": read}) == (micros, micros)


def test_21_a_whole_call_falls_into_the_tier_it_begins_in() -> None:
    spec = priced(steps("tokens", (1_000_000, "3.00"), (None, "2.00"), direction="input", scale=10**6))
    assert cost(spec, {"input.tokens": 5_000}, {"input.tokens": 999_999}) == (15_000, 15_000)


def test_22_splits_are_shares_of_the_gross() -> None:
    [split] = priced(unit("requests", "0.005"), splits=[{"account": "dev_1", "percent": 10}]).splits
    share, (fee, net) = 5_000 * split.percent_bps // 10_000, split_fee(5_000, FEE_BPS)
    assert (fee, share, net - share) == (150, 500, 4_350)


def test_23_prices_below_precision() -> None:
    assert problems({"dimensions": [unit("bytes", scale=1_000_000)]}) == [("price_below_precision", "price.dimensions[0]")]
    assert priced(unit("tokens", "0.50", scale=1_000_000)).dimensions
    assert problems("0.0000015") == [("price_inexact", "price")]


FORMS: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "per request": (
        "metering: {dimensions: [{direction: usage, unit: requests, scale: 1, tiers: [{price_usd: 0.01}]}]}",
        {},
        {},
        10_000,
    ),
    "by usage": (
        "metering: {dimensions: [{direction: usage, unit: characters, scale: 1000, tiers: [{price_usd: 0.01}]}]}",
        {"text": "x" * 2_500},
        {},
        25_000,
    ),
    "tokens": (
        """\
metering: {dimensions: [{direction: input, unit: tokens, scale: 1000000, tiers: [{price_usd: 0.50}]},
                        {direction: output, unit: tokens, scale: 1000000, tiers: [{price_usd: 1.50}]}]}""",
        {},
        {"input.tokens": 800, "output.tokens": 200},
        700,
    ),
    "volume": (
        """\
metering: {dimensions: [{direction: usage, unit: requests, scale: 1,
                         tiers: [{up_to: 1000, price_usd: 0.01}, {up_to: 10000, price_usd: 0.005}, {price_usd: 0.002}]}]}""",
        {},
        {},
        10_000,
    ),
    "variants": (
        """\
metering: {variants: [
          {param: model, value: fast, dimensions: [{direction: usage, unit: requests, scale: 1, tiers: [{price_usd: 0.01}]}]},
          {param: model, value: pro, dimensions: [{direction: usage, unit: requests, scale: 1, tiers: [{price_usd: 0.10}]}]}]}""",
        {"model": "pro"},
        {},
        100_000,
    ),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_of_the_pricing_page_loads_as_it_stands(form: str) -> None:
    text, arguments, usage, micros = FORMS[form]
    spec = load_price(text)
    assert spec.quote(arguments, usage).total == Money(micros)
    assert load_price(yaml.safe_load(text)) == spec
    inner = text.replace("\n", "\n ")
    endpoint = f"endpoints: [{{method: POST, path: v1/search, description: Search records by keyword., {inner}}}]"
    assert parse_prices(endpoint).prices == {Target("tool", "search"): spec}
    assert parse_prices(f"tools: {{search: {{{inner}}}}}").prices == {Target("tool", "search"): spec}


def test_the_endpoint_of_the_pricing_page_is_free_without_metering() -> None:
    text = "endpoints: [{method: POST, path: v1/search, description: Search records by keyword.}]"
    assert all(spec.is_free for spec in parse_prices(text).prices.values())


@pytest.mark.parametrize("spec", [priced(*TOKENS, max_price_usd=1), LONG_CONTEXT])
def test_a_call_is_rounded_once(spec: PriceSpec) -> None:
    for read in range(1, 2_000, 37):
        exact, charge = cost(spec, dict.fromkeys(("input.tokens", "output.tokens"), read))
        assert charge == ceil(exact)
