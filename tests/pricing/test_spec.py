"""What a price says of a call: quote, ceiling, version, words. Shapes are pay.sh's, the version is our own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.money import ZERO, Money
from payre_mcp.pricing import Dimension, Price, PriceSpec, QuoteLine, Target, Tier
from payre_mcp.pricing.describe import price_card, price_sentence

AMOUNTS = st.integers(0, 10**12).map(Money)
HALF_CENT = Price.per_call("0.005")
FREE = Price.per_call(0)
quick = settings(max_examples=100, deadline=None)


@quick
@given(AMOUNTS)
def test_a_fixed_price_quotes_one_request_and_holds_exactly_that(amount: Money) -> None:
    spec = Price.per_call(amount)
    quote = spec.quote()
    assert quote.total == spec.ceiling() == amount
    assert quote.lines == (QuoteLine("usage", "requests", 1, amount),)


def test_a_fixed_price_does_not_look_at_the_call() -> None:
    assert HALF_CENT.quote({"city": "Bern"}, {"tokens": 9_000}, {"tokens": 1}) == HALF_CENT.quote()
    assert HALF_CENT.ceiling({"city": "Bern"}) == HALF_CENT.ceiling()


def test_the_lines_of_a_quote_sum_to_its_total() -> None:
    spec = PriceSpec((Dimension("requests", (Tier(Money(5)),)), Dimension("requests", (Tier(Money(7)),), direction="output")))
    quote = spec.quote()
    assert quote.total == sum((line.cost for line in quote.lines), ZERO) == Money(12)


@quick
@given(AMOUNTS, AMOUNTS)
def test_two_prices_have_one_version_exactly_if_they_cost_the_same(one: Money, two: Money) -> None:
    assert (Price.per_call(one).version == Price.per_call(two).version) == (one == two)


def test_the_version_of_a_price_is_pinned_because_charges_name_it() -> None:
    assert HALF_CENT.version == "c383de6aeac5c17f6616405aa27a969f3e1694a687182835dc8f5ef0a57dcb4c"


def test_a_price_is_free_only_if_nothing_in_it_costs() -> None:
    assert FREE.is_free
    assert not HALF_CENT.is_free
    assert not PriceSpec((Dimension("requests", (Tier(ZERO, up_to=10), Tier(Money(1)))),)).is_free


def test_a_price_never_changes() -> None:
    with pytest.raises(AttributeError):
        HALF_CENT.dimensions = ()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_target_is_its_kind_and_name() -> None:
    assert Target("tool", "forecast") == ("tool", "forecast")


def test_a_price_reads_as_a_sentence() -> None:
    assert price_sentence(HALF_CENT) == "Costs $0.005 per call."
    assert price_sentence(FREE) == "Free; recorded when you send a Payre key."


def test_a_price_card_states_the_price_for_programs() -> None:
    assert price_card(HALF_CENT) == {
        "version": HALF_CENT.version,
        "currency": "USD",
        "description": "Costs $0.005 per call.",
        "dimensions": [{"unit": "requests", "direction": "usage", "scale": 1, "tiers": [{"price_usd": "0.005"}]}],
        "max_usd": "0.005",
        "max_micros": 5_000,
    }
