"""Holds, counters, quotas and missing usage of a plan, as a ledger asks for them."""

from typing import Any

import pytest

from payre_mcp.errors import UsageMissing
from payre_mcp.money import ZERO, Money
from payre_mcp.pricing import Plan, Usage
from tests.pricing.forms import TOKENS, priced, steps, unit

STEPS = steps("pages", (10, "0.03"), (20, "0.02"), (None, "0.01"), max_units=5)
LONG = {"field": "context_length", "op": "<=", "value": 100}


def plan(*dimensions: dict[str, Any], **more: Any) -> Plan:
    return priced(*dimensions, **more).plan("")


def keys(of: Plan) -> list[tuple[str, str]]:
    return [(counter.key, counter.window) for counter in of.counters]


def test_what_prices_depend_on_is_counted_and_nothing_else() -> None:
    assert keys(plan(unit("requests"), *TOKENS)) == []
    assert keys(plan(STEPS, unit("requests"))) == [("pages", "month")]
    assert keys(plan(STEPS, counter={"window": "day"}, free_quota={"amount": 5})) == [
        ("pages", "day"),
        ("free.requests", "month"),
    ]
    both = plan(
        STEPS,
        steps("tokens", (5, "1"), (None, "2"), direction="input"),
        free_quota={"amount": 5, "unit": "pages", "window": "day"},
    )
    assert keys(both) == [("pages", "month"), ("input.tokens", "month"), ("free.pages", "day")]


def test_a_call_moves_its_counters_by_what_it_used_free_units_too() -> None:
    of = plan(STEPS, *TOKENS, free_quota={"amount": 5, "unit": "tokens"})
    assert of.counts(Usage({"pages": 3, "input.tokens": 4, "output.tokens": 5})) == (3, 9)
    assert of.counts(Usage({"output.tokens": 5})) == (0, 5)
    assert of.counts(Usage({})) == (0, 0)
    assert plan(STEPS).counts(Usage({"pages": 3})) == (3,)


def test_a_quota_of_calls_counts_one_a_call() -> None:
    assert plan(unit("pages", max_units=5), free_quota={"amount": 5}).counts(Usage({"pages": 3})) == (1,)
    assert plan(unit("pages", max_units=5), free_quota={"amount": 5}).counts(Usage({})) == (1,)
    assert plan(unit("requests"), free_quota={"amount": 5}).counts(Usage({"requests": 1})) == (1,)


@pytest.mark.parametrize(
    ("used", "micros"), [(0, 150_000), (9, 150_000), (10, 100_000), (19, 100_000), (20, 50_000), (10**6, 50_000)]
)
def test_the_hold_of_a_call_is_at_the_step_it_begins_in(used: int, micros: int) -> None:
    assert plan(STEPS).ceiling(Usage({}), (used,)) == micros
    assert plan(STEPS).ceiling(Usage({})) == 150_000


@pytest.mark.parametrize(
    ("used", "micros"), [(0, 150_000), (7, 3 * 30_000 + 2 * 20_000), (18, 2 * 20_000 + 3 * 10_000), (30, 50_000)]
)
def test_the_hold_of_a_graduated_price_is_cut_at_its_steps(used: int, micros: int) -> None:
    assert plan({**STEPS, "tiering": "graduated"}).ceiling(Usage({}), (used,)) == micros


def test_where_steps_rise_the_hold_without_counters_is_the_dearest() -> None:
    assert plan(steps("pages", (10, "0.01"), (None, "0.05"), max_units=2)).ceiling(Usage({})) == 100_000


@pytest.mark.parametrize(
    ("facts", "micros"),
    [({}, 200_000), ({"context_length": 100}, 100_000), ({"context_length": 101}, 200_000), ({"body_size": 5}, 200_000)],
)
def test_the_hold_of_a_condition_is_the_dearest_that_is_not_known_to_be_false(facts: dict[str, int], micros: int) -> None:
    of = plan({"unit": "pages", "max_units": 10, "tiers": [{"price_usd": "0.01", "condition": LONG}, {"price_usd": "0.02"}]})
    assert of.ceiling(Usage({}, facts)) == of.ceiling(Usage({}, facts), ()) == micros


def test_the_hold_stops_at_the_first_condition_that_is_known_to_be_true() -> None:
    sure = {"field": "body_size", "op": ">=", "value": 0}
    tiers = [{"price_usd": "0.02", "condition": LONG}, {"price_usd": "0.01", "condition": sure}, {"price_usd": "0.09"}]
    of = plan({"unit": "pages", "max_units": 10, "tiers": tiers})
    assert of.ceiling(Usage({}, {"body_size": 3})) == 200_000
    assert of.ceiling(Usage({}, {"body_size": 3, "context_length": 500})) == 100_000
    assert of.ceiling(Usage({})) == 900_000


def test_where_no_condition_holds_the_last_tier_does() -> None:
    tiers = [{"price_usd": "0.02", "condition": LONG}, {"price_usd": "0.01", "condition": {**LONG, "value": 50}}]
    of = plan({"unit": "pages", "max_units": 10, "tiers": tiers})
    assert of.ceiling(Usage({}, {"context_length": 500})) == 100_000
    assert of.settle(Usage({"pages": 1}, {"context_length": 500}), (), 10**6).micros == 10_000


@pytest.mark.parametrize(
    ("op", "below", "equal", "above"),
    [("<=", 1, 1, 2), ("<", 1, 2, 2), (">=", 2, 1, 1), (">", 2, 2, 1), ("==", 2, 1, 2)],
)
def test_a_condition_compares_exactly(op: str, below: int, equal: int, above: int) -> None:
    tiers = [{"price_usd": 1, "condition": {"field": "batch_size", "op": op, "value": 7}}, {"price_usd": 2}]
    spec = priced({"unit": "requests", "tiers": tiers})
    prices = [spec.quote(usage={"batch_size": n}).total for n in ("6.999", 7, "7.001")]
    assert prices == [Money(n * 10**6) for n in (below, equal, above)]
    assert spec.quote(usage={}).total == Money(10**6), "an unknown field counts as holding"
    assert spec.ceiling() == spec.quote().total == Money(2 * 10**6)


def test_fields_of_the_arguments_are_known_before_the_run() -> None:
    tiers = [{"price_usd": 1, "condition": {"field": "input_characters", "op": "<", "value": 3}}, {"price_usd": 2}]
    spec = priced({"unit": "requests", "tiers": tiers})
    assert [spec.ceiling({"text": text}).micros for text in ("ab", "abc")] == [10**6, 2 * 10**6]
    assert spec.quote({"text": "ab"}, {"input_characters": 3}).total == Money(10**6), "the hold bounds what is observed later"


def test_a_quota_lowers_the_hold_and_is_shared_in_file_order() -> None:
    of = plan(
        {**TOKENS[0], "max_units": 4_000}, {**TOKENS[1], "max_units": 1_000}, free_quota={"amount": 4_500, "unit": "tokens"}
    )
    assert of.ceiling(Usage({})) == 3_500
    assert of.ceiling(Usage({}), (0,)) == 750
    assert of.ceiling(Usage({}), (1_000,)) == 250 + 1_500
    assert of.ceiling(Usage({}), (4_500,)) == of.ceiling(Usage({}), (9_999,)) == 3_500


def test_a_call_that_is_free_holds_nothing_even_where_it_is_unbounded() -> None:
    of = plan(*TOKENS, free_quota={"amount": 5})
    assert [of.ceiling(Usage({}), (used,)) for used in (0, 4, 5)] == [0, 0, 10**6]
    bill = of.settle(Usage({"input.tokens": 10**6, "output.tokens": 10**6}), (4,), 0)
    assert (bill.micros, bill.shortfall_micros) == (0, 0)


def test_a_quota_of_requests_frees_the_requests_alone_where_they_are_priced() -> None:
    spec = priced(unit("requests", "0.01"), unit("pages", "0.02", max_units=5), free_quota={"amount": 1})
    assert spec.quote(usage={"pages": 1}).total == Money(20_000)
    assert spec.quote(usage={"pages": 1}, used_before={"requests": 1}).total == Money(30_000)


def test_free_units_stand_on_a_line_of_their_own() -> None:
    spec = priced(unit("pages", max_units=100), free_quota={"amount": 100, "unit": "pages"})
    lines = spec.quote(usage={"pages": 25}, used_before={"pages": 90}).lines
    assert [(line.quantity, line.cost_micros, line.is_free) for line in lines] == [(10, 0, True), (15, 150_000, False)]
    assert [line.is_free for line in spec.quote(usage={"pages": 10}, used_before={"pages": 90}).lines] == [True]
    assert [line.is_free for line in spec.quote(usage={"pages": 1}, used_before={"free.pages": 100}).lines] == [False]


def test_the_counter_of_a_quota_may_be_given_by_itself() -> None:
    spec = priced(STEPS, free_quota={"amount": 100, "unit": "pages", "window": "day"})
    used = {"pages": 15, "free.pages": 99}
    assert spec.quote(usage={"pages": 3}, used_before=used).total == Money(2 * 20_000)
    assert spec.quote(usage={"pages": 3}, used_before={"pages": 15}).total == ZERO


@pytest.mark.parametrize(("policy", "micros"), [("refund", 0), ("min", 5_000), ("ceiling", 70_000)])
def test_a_dimension_without_a_number_makes_the_policy_hold_for_the_whole_call(policy: str, micros: int) -> None:
    of = plan(unit("requests"), unit("pages", max_units=5), min_price_usd="0.005", missing_usage=policy)
    bill = of.settle(Usage({"requests": 1}), (), 70_000)
    assert (bill.micros, bill.shortfall_micros, list(bill.missing)) == (micros, 0, ["pages"])
    assert of.settle(Usage({"requests": 1}), (), 100).micros == min(micros, 100)


def test_a_reported_zero_is_a_number() -> None:
    of = plan(unit("requests"), unit("pages", max_units=5), missing_usage="error")
    assert of.settle(Usage({"requests": 1, "pages": 0}), (), 70_000).micros == 10_000
    with pytest.raises(UsageMissing, match=r"pages.*\$0\.07"):
        of.settle(Usage({"requests": 1}), (), 70_000)


def test_what_is_above_the_hold_is_a_shortfall() -> None:
    bill = plan(unit("pages", max_units=5)).settle(Usage({"pages": 9}), (), 50_000)
    assert (bill.micros, bill.shortfall_micros) == (50_000, 40_000)


def test_a_call_of_nothing_costs_nothing_and_has_its_lines() -> None:
    spec = priced(*TOKENS, min_price_usd="0.002")
    quote = spec.quote(usage={"input.tokens": 0, "output.tokens": 0})
    assert (quote.total, len(quote.lines)) == (ZERO, 2)


@pytest.mark.parametrize("name", ["pages", "vCPU", "hours", "GiB"])
def test_steps_and_quotas_are_in_the_unit_of_their_dimension(name: str) -> None:
    spec = priced(
        steps(name, (10, "0.02"), (None, "0.01"), measure="reported", tiering="graduated"), free_quota={"amount": 2, "unit": name}
    )
    assert spec.quote(usage={name: 4}, used_before={f"usage.{name}": 8}).total == Money(2 * 20_000 + 2 * 10_000)
    assert spec.quote(usage={name: 4}, used_before={f"usage.{name}": 8, f"free.{name}": 1}).total == Money(2 * 20_000 + 10_000)


def test_before_the_run_what_has_no_bound_is_named() -> None:
    quote = priced(unit("requests"), *TOKENS, max_price_usd="0.2").quote()
    assert (quote.total, quote.ceiling, quote.missing) == (Money(200_000), Money(200_000), ("input.tokens", "output.tokens"))


def test_what_depends_on_arguments_has_no_ceiling_without_them() -> None:
    quote = priced(unit("characters"), min_price_usd="0.001").quote()
    assert (quote.total, quote.ceiling, quote.missing) == (Money(1_000), None, ("characters",))
    assert priced(unit("characters")).quote(usage={"characters": 2}).total == Money(20_000)


def test_invocations_are_one_unless_a_batch_says_more() -> None:
    spec = priced(unit("invocations", max_units=10))
    assert spec.quote(usage={}).total == Money(10_000)
    assert spec.quote(usage={"invocations": 4}).total == Money(40_000)
    assert spec.quote().total == Money(100_000)
    assert priced(unit("invocations", measure="reported")).quote(usage={}).missing == ("invocations",)


def test_the_observed_context_is_better_than_the_tokens() -> None:
    tiers = [{"price_usd": 1, "condition": {**LONG, "value": 200}}, {"price_usd": 2}]
    spec = priced({"unit": "tokens", "direction": "input", "scale": 10**6, "tiers": tiers})
    assert spec.quote(usage={"input.tokens": 201}).total == Money(402)
    assert spec.quote(usage={"input.tokens": 201, "context_length": 100}).total == Money(201)
    assert spec.quote(usage={"input.tokens": 10, "context_length": 300}).total == Money(20)
