"""Metered prices in the kernel: what a hold takes, what its capture charges, and what both write down."""

import json
from typing import Any

import pytest

from payre_mcp.errors import InsufficientBalance, PriceAboveLimit
from payre_mcp.ledger.model import Kind, Transfer
from payre_mcp.pricing import Plan, Price, Usage, load_price
from tests.ledger.commands import (
    BOB,
    DEV,
    LIFE,
    RICHES,
    RIVAL,
    capture,
    charge,
    charged,
    code,
    counts,
    done,
    expire,
    hold,
    is_sound,
    metered,
    money,
    refused,
    replayed,
    rich,
    spend,
    used_before,
    void,
)

TOKENS = Price.per("tokens", 1_000_000, input="0.50", output="1.50", max_units={"input": 4_000, "output": 1_000}).plan("")
"""Example 14 of the pricing document: 3,500 micros are held."""

USED = {"input.tokens": 800, "output.tokens": 200}
STEPS = Price.tiered("requests", [(2, "0.01"), (4, "0.005"), (None, "0.001")]).plan("")
BATCHES = [(100, "0.02"), (None, "0.01")]
VOLUME = Price.tiered("invocations", BATCHES, max_units=50).plan("")
GRADUATED = Price.tiered("invocations", BATCHES, max_units=50, tiering="graduated").plan("")


def terms(row: Transfer) -> dict[str, Any]:
    return json.loads(row.terms)


# The hold


def test_a_hold_is_the_most_that_the_call_can_cost() -> None:
    books = rich()
    row = done(books.one(metered(2, TOKENS))).transfer
    assert (row.kind, row.amount_micros) == (Kind.HOLD, 3_500)
    assert money(books) == (RICHES, 3_500)
    assert books.holds[2].amount_micros == 3_500
    assert books.holds[2].terms == row.terms
    assert terms(row) == {"version": TOKENS.version, "variant": "", "counters": []}


def test_what_is_known_before_the_run_is_held_exactly() -> None:
    plan = Price.per("characters", 1_000, usage="0.01").plan("")
    assert done(rich().one(metered(2, plan, {"characters": 2_500}))).transfer.amount_micros == 25_000


def test_a_hold_whose_quantity_should_be_known_and_was_not_said_is_refused() -> None:
    plan = Price.per("characters", 1_000, usage="0.01").plan("")
    assert refused(rich(), metered(2, plan)) == "invalid_request"


def test_a_price_without_bounds_holds_its_ceiling() -> None:
    plan = Price.per("pages", usage="0.01", max_price_usd="0.25").plan("")
    assert done(rich().one(metered(2, plan))).transfer.amount_micros == 250_000


def test_a_hold_of_nothing_is_opened_and_still_reserves_its_counters() -> None:
    plan = Price.tiered("requests", [(2, "0"), (None, "0.01")]).plan("")
    books = rich(0)
    assert [done(books.one(metered(number, plan))).transfer.amount_micros for number in (2, 3)] == [0, 0]
    assert counts(books, plan) == [(0, 2)]
    assert refused(books, metered(4, plan)) == "insufficient_balance"


@pytest.mark.parametrize(("most", "answer"), [(3_500, "done"), (3_499, "price_above_limit"), (0, "price_above_limit")])
def test_a_hold_above_the_callers_limit_is_refused_and_never_lowered(most: int, answer: str) -> None:
    books = rich()
    if answer == "done":
        assert done(books.one(metered(2, TOKENS, most=most))).transfer.amount_micros == 3_500
    else:
        assert refused(books, metered(2, TOKENS, most=most)) == answer
        refusal = books.one(metered(2, TOKENS, most=most))
        assert isinstance(refusal, PriceAboveLimit)
        assert (refusal.price_micros, refusal.limit_micros) == (3_500, most)


def test_a_call_above_both_limit_and_balance_is_above_its_limit_first() -> None:
    assert refused(rich(5), metered(2, TOKENS, most=6)) == "price_above_limit"


def test_a_call_that_could_cost_more_than_a_ledger_holds_is_refused() -> None:
    plan = load_price({"dimensions": [{"unit": "pages", "price_usd": "1000000", "max_units": 10**7}]}).plan("")
    assert refused(rich(), metered(2, plan)) == "amount_overflow"


def test_a_balance_below_the_ceiling_is_not_enough_though_the_call_might_cost_less() -> None:
    books = rich(3_499)
    assert refused(books, metered(2, TOKENS)) == "insufficient_balance"
    answer = books.one(metered(2, TOKENS))
    assert isinstance(answer, InsufficientBalance)
    assert (answer.price_micros, answer.balance_micros, answer.shortfall_micros) == (3_500, 3_499, 1)


def test_an_idempotency_key_is_looked_at_before_the_price() -> None:
    books = rich()
    books.run(metered(2, STEPS, key="k", fingerprint="f"))
    assert refused(books, metered(3, STEPS, key="k", fingerprint="f", most=0)) == "in_progress"
    books.run(spend(4, STEPS, of=2))
    assert replayed(books, metered(5, STEPS, key="k", fingerprint="f", most=0)).transfer.id == 4


# The capture


def test_a_capture_charges_what_the_call_cost_and_frees_the_rest() -> None:
    books = rich()
    books.run(metered(2, TOKENS))
    row = done(books.one(spend(3, TOKENS, USED, of=2))).transfer
    assert (row.kind, row.amount_micros, row.fee_micros, row.held_micros) == (Kind.CAPTURE, 700, 21, 3_500)
    assert money(books) == (RICHES - 700, 0)
    assert books.earned == {DEV: (679, 21)}
    assert terms(row)["lines"] == [["input.tokens", 800, "400"], ["output.tokens", 200, "300"]]
    assert is_sound(books)


def test_exact_costs_of_lines_are_written_as_fractions_and_rounded_once() -> None:
    plan = Price.per("tokens", 1_000_000, input="0.15", output="0.60", max_units=1_000).plan("")
    books = rich()
    books.run(metered(2, plan))
    row = done(books.one(spend(3, plan, {"input.tokens": 1, "output.tokens": 1}, of=2))).transfer
    assert row.amount_micros == 1
    assert terms(row)["lines"] == [["input.tokens", 1, "3/20"], ["output.tokens", 1, "3/5"]]
    assert is_sound(books)


@pytest.mark.parametrize(
    ("tokens", "amount", "shortfall"),
    [(6_666, 99_990, 0), (8_227, 100_000, 23_405), (2**53 - 1, 100_000, 135_107_988_821_014_865)],
)
def test_a_capture_is_never_above_its_hold_and_what_is_cut_off_is_written_down(tokens: int, amount: int, shortfall: int) -> None:
    plan = Price.per("tokens", 1_000_000, output="15.00", max_price_usd="0.10").plan("")
    books = rich()
    books.run(metered(2, plan))
    row = done(books.one(spend(3, plan, {"output.tokens": tokens}, of=2))).transfer
    assert row.amount_micros == amount
    assert terms(row)["shortfall_micros"] == shortfall
    assert is_sound(books)


def test_a_capture_ignores_the_amount_that_the_command_names() -> None:
    books = rich()
    books.run(metered(2, TOKENS))
    row = done(books.one(spend(3, TOKENS, USED, of=2)._replace(amount_micros=3_499))).transfer
    assert row.amount_micros == 700


def test_the_least_charge_is_asked_for_what_costs_anything() -> None:
    plan = Price.per("tokens", 1_000_000, usage="1", max_units=10_000, min_price_usd="0.002").plan("")
    books = rich()
    assert [charged(books, 2, plan, tokens=1), charged(books, 4, plan, tokens=0), charged(books, 6, plan, tokens=2_001)] == [
        2_000,
        0,
        2_001,
    ]
    assert is_sound(books)


@pytest.mark.parametrize(("policy", "amount"), [("refund", 0), ("min", 2_000), ("ceiling", 100_000)])
def test_a_call_that_reported_nothing_is_charged_by_the_policy_of_its_price(policy: str, amount: int) -> None:
    plan = Price.per("tokens", 10, usage="1", max_price_usd="0.10", min_price_usd="0.002", missing_usage=policy).plan("")
    books = rich()
    books.run(metered(2, plan))
    row = done(books.one(spend(3, plan, {}, of=2))).transfer
    assert row.amount_micros == amount
    assert (terms(row)["missing"], terms(row)["lines"]) == (["tokens"], [])
    assert is_sound(books)


def test_missing_usage_that_is_an_error_leaves_the_hold_open_to_be_voided_or_captured() -> None:
    plan = Price.per("tokens", 10, usage="1", max_price_usd="0.10", missing_usage="error").plan("")
    books = rich()
    books.run(metered(2, plan), metered(3, plan))
    assert refused(books, spend(4, plan, {}, of=2)) == "usage_missing"
    assert money(books) == (RICHES, 200_000)
    done(books.one(void(5, of=2)))
    assert done(books.one(spend(6, plan, {"tokens": 1}, of=3))).transfer.amount_micros == 100_000
    assert is_sound(books)


OTHER = Price.variants("model", {"fast": "0.01", "pro": {"dimensions": [{"unit": "pages", "price_usd": "0.10", "max_units": 3}]}})


@pytest.mark.parametrize(
    "plan",
    [
        Price.per("tokens", 1_000_000, input="0.50", output="1.50", max_units={"input": 4_000, "output": 1_001}).plan(""),
        OTHER.plan("model=pro"),
    ],
    ids=["another version", "another price"],
)
def test_a_capture_by_another_price_is_refused_and_its_hold_stands(plan: Plan) -> None:
    books = rich()
    books.run(metered(2, TOKENS))
    assert refused(books, spend(3, plan, USED, of=2)) == "invalid_request"
    assert done(books.one(spend(4, TOKENS, USED, of=2))).transfer.amount_micros == 700


def test_a_capture_by_another_variant_of_the_price_is_refused_and_its_hold_stands() -> None:
    price = Price.variants("size", {each: Price.per("pages", usage=each, max_units=3) for each in ("0.01", "0.02")})
    small, large = price.plan("size=0.01"), price.plan("size=0.02")
    books = rich()
    books.run(metered(2, large))
    assert small.version == large.version
    assert refused(books, spend(3, small, {"pages": 1}, of=2)) == "invalid_request"
    assert done(books.one(spend(4, large, {"pages": 1}, of=2))).transfer.amount_micros == 20_000


@pytest.mark.parametrize("amount", [0, 700, 3_500])
def test_the_capture_of_a_metered_hold_that_says_an_amount_alone_is_refused(amount: int) -> None:
    books = rich()
    books.run(metered(2, TOKENS))
    assert refused(books, capture(3, amount, of=2)) == "invalid_request"
    assert 2 in books.holds


def test_the_capture_of_a_fixed_hold_that_says_what_was_spent_is_refused() -> None:
    books = rich()
    books.run(hold(2, 4_000))
    assert refused(books, spend(3, TOKENS, USED, of=2)) == "invalid_request"
    assert done(books.one(capture(4, 4_000, of=2))).transfer.terms == ""


def test_fixed_holds_and_charges_have_no_terms_and_no_counters() -> None:
    books = rich()
    books.run(hold(2, 4_000), capture(3, 3_000, of=2), charge(4, 5))
    assert {row.terms for row in books.rows.values()} == {""}
    assert books.counted == {}


def test_a_refused_capture_in_a_batch_leaves_its_neighbours_alone() -> None:
    books = rich()
    books.run(metered(2, STEPS), metered(3, STEPS))
    answers = books.run(spend(4, TOKENS, of=2), spend(5, STEPS, of=3), spend(6, STEPS, of=2))
    assert code(answers[0]) == "invalid_request"
    assert [done(each).transfer.amount_micros for each in answers[1:]] == [10_000, 10_000]
    assert counts(books, STEPS) == [(2, 0)]
    assert is_sound(books)


@pytest.mark.parametrize("change", [{"consumer_id": BOB}, {"developer_id": RIVAL}])
def test_only_the_owners_of_a_metered_hold_may_capture_it_open_or_expired(change: dict[str, int]) -> None:
    books = rich()
    books.run(metered(2, STEPS))
    assert refused(books, spend(3, STEPS, of=2)._replace(**change)) == "hold_unknown"
    books.now += LIFE
    books.run(expire(4, of=2))
    assert refused(books, spend(5, STEPS, of=2)._replace(**change)) == "hold_unknown"
    assert counts(books, STEPS) == [(0, 0)]


@pytest.mark.parametrize("quantity", [-1, -(2**53), 2**53, 2**70])
def test_quantities_below_zero_or_above_the_largest_are_refused_and_move_no_counter(quantity: int) -> None:
    """They would lower a counter, hold nothing for a dear call, or not fit the table."""
    books = rich()
    books.run(metered(2, STEPS))
    assert refused(books, metered(3, STEPS, {"requests": quantity})) == "invalid_request"
    assert refused(books, spend(4, STEPS, {"requests": quantity}, of=2)) == "invalid_request"


# Places: two calls that race over a step are each priced at their own


@pytest.mark.parametrize("tiering", ["volume", "graduated"])
@pytest.mark.parametrize("apart", [False, True], ids=["one batch", "a batch each"])
@pytest.mark.parametrize("captured_first", [0, 1], ids=["first captured first", "last captured first"])
def test_calls_that_race_over_a_step_are_each_priced_at_their_own_place(tiering: str, apart: bool, captured_first: int) -> None:
    plan = Price.tiered("requests", [(2, "0.01"), (None, "0.005")], tiering=tiering).plan("")
    books = used_before(rich(), plan, 1)
    racers = [metered(2, plan), metered(3, plan)]
    answers = [books.one(each) for each in racers] if apart else books.run(*racers)
    assert [done(each).transfer.amount_micros for each in answers] == [10_000, 5_000]
    ends = [spend(4, plan, of=2), spend(5, plan, of=3)]
    order = [ends[captured_first], ends[1 - captured_first]]
    answers = [books.one(each) for each in order] if apart else books.run(*order)
    cost = {done(each).transfer.ref_id: done(each).transfer.amount_micros for each in answers}
    assert cost == {2: 10_000, 3: 5_000}
    assert counts(books, plan) == [(3, 0)]


def test_calls_and_their_captures_in_one_batch_see_each_other() -> None:
    books = rich()
    answers = books.run(*(each for n in range(5) for each in (metered(2 + 2 * n, STEPS), spend(3 + 2 * n, STEPS, of=2 + 2 * n))))
    assert [done(each).transfer.amount_micros for each in answers[1::2]] == [10_000, 10_000, 5_000, 5_000, 1_000]
    assert counts(books, STEPS) == [(5, 0)]
    assert is_sound(books)


def test_ten_thousand_and_one_calls_of_the_documents_schedule_cost_what_it_says() -> None:
    """Example 7 of the pricing document, from just before each step."""
    plan = Price.tiered("requests", [(1_000, "0.01"), (10_000, "0.005"), (None, "0.002")]).plan("")
    costs = [charged(used_before(rich(), plan, used), 2, plan, requests=1) for used in (0, 999, 1_000, 9_999, 10_000)]
    assert costs == [10_000, 10_000, 5_000, 5_000, 2_000]


@pytest.mark.parametrize(
    ("plan", "used", "amount"),
    [(VOLUME, 90, 500_000), (VOLUME, 100, 250_000), (VOLUME, 99, 500_000), (GRADUATED, 90, 350_000), (GRADUATED, 100, 250_000)],
)
def test_a_call_across_a_step_is_priced_whole_or_cut(plan: Plan, used: int, amount: int) -> None:
    """Examples 8 and 9."""
    books = used_before(rich(), plan, used)
    assert charged(books, 2, plan, invocations=25) == amount
    assert counts(books, plan) == [(used + 25, 0)]


def test_a_call_across_a_step_writes_a_line_for_each_part() -> None:
    books = used_before(rich(), GRADUATED, 90)
    charged(books, 2, GRADUATED, invocations=25)
    assert terms(books.rows[3])["lines"] == [["invocations", 10, "200000"], ["invocations", 15, "150000"]]


def test_quantities_that_are_not_known_before_the_run_are_not_reserved() -> None:
    books = used_before(rich(), VOLUME, 90)
    books.run(metered(2, VOLUME), metered(3, VOLUME))
    assert counts(books, VOLUME) == [(90, 0)]
    answers = books.run(spend(4, VOLUME, {"invocations": 25}, of=2), spend(5, VOLUME, {"invocations": 25}, of=3))
    assert [done(each).transfer.amount_micros for each in answers] == [500_000, 500_000]
    assert counts(books, VOLUME) == [(140, 0)]


def test_conditions_are_judged_by_what_is_known_at_each_moment() -> None:
    """Example 20: dearest at the hold, by its facts at the capture."""
    tiers = [
        {"condition": {"field": "context_length", "op": "<=", "value": 200_000}, "price_usd": "1.00"},
        {"price_usd": "2.00"},
    ]
    dimension = {"direction": "input", "unit": "tokens", "scale": 1_000_000, "max_units": 300_000, "tiers": tiers}
    plan = load_price({"dimensions": [dimension]}).plan("")
    books = rich()
    assert done(books.one(metered(2, plan))).transfer.amount_micros == 600_000
    long_call = spend(3, plan, of=2)
    assert long_call.spent is not None
    usage = Usage({"input.tokens": 200_001}, {"context_length": 200_001})
    assert done(books.one(long_call._replace(spent=long_call.spent._replace(usage=usage)))).transfer.amount_micros == 400_002
    assert is_sound(books)
