"""The arithmetic of prices against a second evaluation, and what holds for every price and every call."""

from collections.abc import Mapping
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from payre_mcp.errors import PayreError, UsageMissing
from payre_mcp.money import ZERO
from payre_mcp.pricing import PriceSpec, Quote, load_price
from tests.pricing.forms import priced, steps, unit
from tests.pricing.oracle import Call, Evaluation, name_of
from tests.pricing.strategies import DIRECTIONS, UNITS, a_call, a_metering, a_scale, maybe, randoms, some_tiers

often = settings(max_examples=250, deadline=None)
quick = settings(max_examples=100, deadline=None)


def arguments_of(call: Call) -> dict[str, str] | None:
    return {"text": "x" * call.sent["input_characters"]} if call.sent else None


def full(quantities: Mapping[str, str]) -> dict[str, str]:
    """With the direction in every key, as a unit may be counted in several."""
    return {key if "." in key else f"usage.{key}": n for key, n in quantities.items()}


def quoted(spec: PriceSpec, call: Call) -> Quote | None:
    """The quote of a call, None where its usage is missing and the price makes that an error."""
    try:
        return spec.quote(arguments_of(call), {**full(call.usage), **call.facts}, full(call.used))
    except UsageMissing:
        return None


@often
@given(randoms)
def test_a_quote_is_what_a_second_evaluation_finds(random: Random) -> None:
    metering = a_metering(random)
    call = a_call(random, metering)
    quote, answer = quoted(load_price(metering), call), Evaluation(metering, call).answer()
    if quote is None:
        assert answer.charge is None
        return
    assert (quote.total.micros, quote.shortfall.micros) == (answer.charge, answer.shortfall)
    assert (None if quote.ceiling is None else quote.ceiling.micros) == answer.hold


@often
@given(randoms)
def test_a_quote_of_a_call_that_reports_everything_is_what_a_second_evaluation_finds(random: Random) -> None:
    metering = a_metering(random)
    call = a_call(random, metering, complete=True, within_bounds=maybe(random))
    quote, answer = quoted(load_price(metering), call), Evaluation(metering, call).answer()
    assert quote is not None
    assert (quote.total.micros, quote.shortfall.micros, quote.missing) == (answer.charge, answer.shortfall, ())
    exact = sum((line.cost_micros for line in quote.lines), Fraction())
    assert all(line.cost_micros == 0 for line in quote.lines if line.is_free)
    assert quote.shortfall or quote.total.micros >= exact or quote.total == quote.ceiling


@often
@given(randoms)
def test_before_the_run_the_total_is_the_ceiling_and_no_call_within_its_bounds_costs_more(random: Random) -> None:
    metering = a_metering(random)
    call = a_call(random, metering, within_bounds=True)
    spec = load_price(metering)
    before = spec.quote(arguments_of(call), None, full(call.used))
    evaluation = Evaluation(metering, call)
    assert (None if before.ceiling is None else before.ceiling.micros) == evaluation.hold(evaluation.known())
    if before.ceiling is None:
        return
    assert before.total == before.ceiling
    after = quoted(spec, call)
    bounded = all("max_units" in each or name_of(each) in evaluation.known() for each in metering["dimensions"])
    # A tool may observe of its arguments what they are not; then its price is not bounded by them.
    bounded = bounded and not call.facts.keys() & call.sent.keys()
    if after is not None and (bounded or call.sent or "max_price_usd" in metering):
        assert ZERO <= after.total <= before.total
        assert not bounded or "max_price_usd" in metering or after.shortfall == ZERO


@often
@given(randoms)
def test_no_call_costs_less_than_nothing_or_more_than_its_ceiling(random: Random) -> None:
    metering = a_metering(random)
    quote = quoted(load_price(metering), a_call(random, metering))
    if quote is not None:
        assert quote.total >= ZERO
        assert quote.shortfall >= ZERO
        assert quote.ceiling is None or quote.total <= quote.ceiling


@often
@given(randoms)
def test_the_ceiling_without_counters_holds_at_every_counter(random: Random) -> None:
    metering = a_metering(random)
    call = a_call(random, metering, within_bounds=True)
    spec = load_price(metering)
    before = spec.quote(arguments_of(call) or {}, None, full(call.used))
    assert before.total <= spec.ceiling(arguments_of(call) or {})


def single(random: Random, **more: Any) -> tuple[PriceSpec, str, str]:
    """A price of one dimension with tiers by `up_to`, its unit and its key."""
    name, scale = random.choice(UNITS[1:]), a_scale(random)
    direction = "usage" if name == "invocations" else random.choice(DIRECTIONS)
    dimension = {
        "unit": name,
        "scale": scale,
        "direction": direction,
        "measure": "reported",
        "tiers": some_tiers(random, scale, name, conditions=False),
        **more,
    }
    return priced(dimension, max_price_usd=1_000_000), name, name_of(dimension)


AMOUNTS = st.integers(0, 4_000)


@quick
@given(randoms, AMOUNTS, AMOUNTS, AMOUNTS)
def test_more_usage_never_costs_less_at_the_same_counter(random: Random, used: int, one: int, two: int) -> None:
    for tiering in ("volume", "graduated"):
        spec, _, key = single(random, tiering=tiering)
        less, more = sorted((one, two))
        assert spec.quote(None, {key: less}, {key: used}).total <= spec.quote(None, {key: more}, {key: used}).total


@quick
@given(randoms, AMOUNTS, AMOUNTS, AMOUNTS)
def test_a_graduated_price_is_the_same_in_one_call_or_two_save_for_rounding(
    random: Random, used: int, one: int, two: int
) -> None:
    spec, _, key = single(random, tiering="graduated")
    whole = spec.quote(None, {key: one + two}, {key: used})
    first, then = spec.quote(None, {key: one}, {key: used}), spec.quote(None, {key: two}, {key: used + one})
    exact = [sum((line.cost_micros for line in quote.lines), Fraction()) for quote in (whole, first, then)]
    assert exact[0] == exact[1] + exact[2]
    assume(not (whole.shortfall or first.shortfall or then.shortfall))
    assert 0 <= first.total.micros + then.total.micros - whole.total.micros <= 1


@quick
@given(randoms, AMOUNTS.filter(bool))
def test_usage_at_a_price_costs_at_least_a_micro(random: Random, amount: int) -> None:
    spec, _, key = single(random, tiering="volume")
    assert spec.quote(None, {key: amount}).total.micros >= 1
    assert spec.quote(None, {key: 0}).total == ZERO


@often
@given(randoms)
def test_a_spec_survives_its_canonical_form(random: Random) -> None:
    spec = load_price(a_metering(random))
    again = load_price(spec.canonical())
    assert again == load_price({"metering": spec.canonical()}) == spec
    assert again.version == spec.version
    assert len(spec.version) == 64


@quick
@given(randoms)
def test_two_specs_that_cost_differently_have_two_versions(random: Random) -> None:
    metering = a_metering(random, ("refund", "ceiling"))
    spec, other = load_price(metering), load_price({**metering, "min_price_usd": "0.999999", "max_price_usd": 1_000_000})
    call = a_call(random, metering)
    assert spec.version == other.version or spec != other
    if quoted(spec, call) != quoted(other, call):
        assert spec.version != other.version


@quick
@given(randoms)
def test_one_micro_more_in_any_tier_is_another_version(random: Random) -> None:
    metering = a_metering(random)
    metering.pop("max_price_usd", None)
    each = random.choice(metering["dimensions"])
    tier = random.choice(each["tiers"])
    try:
        before = load_price(metering).version
        tier["price_usd"] = f"{Fraction(tier['price_usd']) * 10**6 + each['scale']}e-6"
        assert load_price(metering).version != before
    except PayreError:
        assume(False)  # a dollar is no ceiling for such a price


@pytest.mark.parametrize("policy", ["refund", "min", "ceiling", "error"])
@example(quantity=0, used=0)
@given(quantity=AMOUNTS, used=AMOUNTS)
@quick
def test_a_call_that_is_free_by_its_quota_stays_free_without_usage(policy: str, quantity: int, used: int) -> None:
    spec = priced(unit("tokens", 1), free_quota={"amount": 10}, missing_usage=policy, min_price_usd="0.5")
    assert spec.quote(usage={}, used_before={"requests": used % 10}).total == ZERO
    assert spec.quote(usage={"tokens": quantity}, used_before={"free.requests": used % 10}).total == ZERO


@quick
@given(AMOUNTS, st.integers(0, 200))
def test_a_quota_that_is_split_over_two_dimensions_goes_in_file_order(read: int, wrote: int) -> None:
    directions = [
        unit("tokens", price, direction=direction) for direction, price in (("input", "0.000003"), ("output", "0.000007"))
    ]
    spec = priced(*directions, free_quota={"amount": 100, "unit": "tokens"}, max_price_usd=1)
    free_in = min(read, 100)
    free_out = min(wrote, 100 - free_in)
    expected = 3 * (read - free_in) + 7 * (wrote - free_out)
    assert spec.quote(usage={"input.tokens": read, "output.tokens": wrote}).total.micros == expected


def test_a_free_dimension_that_is_unbounded_takes_its_part_of_the_quota_in_the_hold_too() -> None:
    free, dear = unit("tokens", 0, direction="input"), unit("tokens", "0.01", direction="output", max_units=100)
    spec = priced(free, dear, free_quota={"amount": 100, "unit": "tokens"})
    quote = spec.quote(usage={"input.tokens": 100, "output.tokens": 100})
    assert (quote.total.micros, quote.shortfall) == (1_000_000, ZERO)


def test_the_same_steps_cost_the_same_in_every_unit_of_time() -> None:
    for name, factor in (("seconds", 3_600), ("minutes", 60), ("hours", 1)):
        spec = priced(steps(name, (2 * factor, "3.6"), (None, "1.8"), scale=factor, tiering="graduated"), max_price_usd=100)
        assert spec.quote(usage={name: 3 * factor}).total.micros == 3_600_000 * 2 + 1_800_000
