"""Counters in the kernel: what is reserved and captured, over which window, whose they are, and what is free."""

from datetime import UTC, datetime
from itertools import permutations
from typing import Any, Literal

import pytest

from payre_mcp.ledger.metering import counters_of
from payre_mcp.pricing import Plan, Price, Target, load_price
from tests.ledger.commands import (
    BOB,
    DEV,
    LIFE,
    NOON,
    SERVER,
    TOOL,
    charged,
    counts,
    done,
    expire,
    is_sound,
    metered,
    refused,
    rich,
    spend,
    top_up,
    void,
)

STEPS = [(2, "0.01"), (4, "0.005"), (None, "0.001")]
REQUESTS = Price.tiered("requests", STEPS).plan("")
PAGES = Price.per("pages", usage="0.01", max_units=50, free_quota={"amount": 100, "unit": "pages"}).plan("")
"""Example 12 of the pricing document."""

WHOLE = Price.per("pages", usage="0.01", max_units=50, free_quota={"amount": 2}).plan("")
"""Two calls a month are free, however many pages they have."""


def moment(*when: int) -> int:
    """A UTC date and time in microseconds since 1970."""
    year, month, day, *time = when
    return int(datetime(year, month, day, *time, tzinfo=UTC).timestamp()) * 1_000_000


# Reserved, released, captured


@pytest.mark.parametrize("end", ["void", "expire"])
def test_a_call_that_is_not_charged_gives_its_place_back(end: str) -> None:
    books = rich()
    books.run(metered(2, REQUESTS), metered(3, REQUESTS))
    assert counts(books, REQUESTS) == [(0, 2)]
    if end == "void":
        done(books.one(void(4, of=2)))
        done(books.one(void(5, of=2)))
    else:
        books.now += LIFE
        done(books.one(expire(4, of=2)))
        done(books.one(expire(5, of=2)))
    assert counts(books, REQUESTS) == [(0, 1)]
    assert done(books.one(metered(6, REQUESTS))).transfer.amount_micros == 10_000
    assert done(books.one(metered(7, REQUESTS))).transfer.amount_micros == 5_000
    if end == "void":
        assert is_sound(books)


def test_a_hold_that_is_refused_reserves_nothing() -> None:
    books = rich(15_000)
    books.run(metered(2, REQUESTS))
    assert refused(books, metered(3, REQUESTS)) == "insufficient_balance"
    assert refused(books, metered(3, REQUESTS, most=9_999)) == "price_above_limit"
    assert counts(books, REQUESTS) == [(0, 1)]


def test_a_hold_refused_in_the_middle_of_a_batch_takes_no_place_from_the_next() -> None:
    books = rich()
    answers = books.run(metered(2, REQUESTS), metered(3, REQUESTS, most=0), metered(4, REQUESTS))
    assert [getattr(each, "code", "done") for each in answers] == ["done", "price_above_limit", "done"]
    assert counts(books, REQUESTS) == [(0, 2)]
    assert books.holds[4].amount_micros == 10_000


def test_a_capture_counts_what_was_used_and_releases_what_was_reserved() -> None:
    plan = Price.tiered("characters", [(1_000, "0.02"), (None, "0.01")], scale=1_000, tiering="graduated").plan("")
    books = rich()
    done(books.one(metered(2, plan, {"characters": 600})))
    done(books.one(metered(3, plan, {"characters": 600})))
    assert counts(books, plan) == [(0, 1_200)]
    assert [books.holds[number].amount_micros for number in (2, 3)] == [12_000, 8_000 + 2_000]
    done(books.one(spend(4, plan, {"characters": 500}, of=3)))
    assert counts(books, plan) == [(500, 600)]
    assert books.rows[4].amount_micros == 8_000 + 1_000
    done(books.one(spend(5, plan, {"characters": 600}, of=2)))
    assert counts(books, plan) == [(1_100, 0)]
    assert is_sound(books)


def test_a_hold_and_its_void_in_one_batch_leave_the_counter_where_it_was() -> None:
    books = rich()
    books.run(metered(2, REQUESTS), void(3, of=2), metered(4, REQUESTS))
    assert counts(books, REQUESTS) == [(0, 1)]


def test_a_dimension_that_was_not_reported_counts_nothing_and_the_others_their_own() -> None:
    dimensions = [
        {"unit": "requests", "tiers": [{"up_to": 1, "price_usd": "0.01"}, {"price_usd": "0.005"}]},
        {"unit": "pages", "max_units": 10, "tiers": [{"up_to": 5, "price_usd": "0.001"}, {"price_usd": "0.0005"}]},
    ]
    plan = load_price({"dimensions": dimensions}).plan("")
    books = rich()
    assert charged(books, 2, plan, requests=1) == 0
    assert counts(books, plan) == [(1, 0), (0, 0)]
    assert charged(books, 4, plan, requests=1, pages=5) == 5_000 + 5_000
    assert charged(books, 6, plan, requests=1, pages=2) == 5_000 + 1_000
    assert counts(books, plan) == [(3, 0), (7, 0)]
    assert is_sound(books)


def test_bounds_are_in_the_units_of_the_price_and_counters_in_the_base_unit() -> None:
    plan = Price.tiered("seconds", [(2, "0.01"), (None, "0.005")], max_units=10, tiering="graduated").plan("")
    books = rich()
    assert charged(books, 2, plan, seconds=1_500) == 15_000
    assert charged(books, 4, plan, seconds=1_000) == 5_000 + 2_500
    assert counts(books, plan) == [(2_500, 0)]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_in_whatever_order_parallel_calls_end_the_sum_is_the_schedule(order: tuple[int, ...]) -> None:
    books = rich()
    books.run(*(metered(2 + n, REQUESTS) for n in range(3)))
    books.run(*(spend(10 + n, REQUESTS, of=2 + n) for n in order))
    assert sum(row.amount_micros for row in books.rows.values() if row.kind == 3) == 10_000 + 10_000 + 5_000
    assert counts(books, REQUESTS) == [(3, 0)]
    assert is_sound(books)


# Free quota


def test_one_call_may_be_part_free_and_its_free_units_count() -> None:
    books = rich()
    costs = [charged(books, 2 + 2 * n, PAGES, pages=45) for n in range(2)]
    assert (costs, counts(books, PAGES)) == ([0, 0], [(90, 0)])
    done(books.one(metered(10, PAGES)))
    assert books.holds[10].amount_micros == 40 * 10_000
    assert done(books.one(spend(11, PAGES, {"pages": 25}, of=10))).transfer.amount_micros == 15 * 10_000
    assert counts(books, PAGES) == [(115, 0)]
    assert charged(books, 12, PAGES, pages=1) == 10_000
    assert is_sound(books)


def test_parallel_calls_of_reported_units_may_see_the_same_free_rest() -> None:
    books = rich()
    books.run(metered(2, PAGES), metered(3, PAGES))
    answers = books.run(spend(4, PAGES, {"pages": 60}, of=2), spend(5, PAGES, {"pages": 60}, of=3))
    assert [done(each).transfer.amount_micros for each in answers] == [0, 0]
    assert counts(books, PAGES) == [(120, 0)]


def test_known_units_of_parallel_calls_share_the_free_quota() -> None:
    plan = Price.per("characters", usage="0.01", free_quota={"amount": 10, "unit": "characters"}).plan("")
    books = rich()
    answers = books.run(*(metered(2 + n, plan, {"characters": 6}) for n in range(3)))
    assert [done(each).transfer.amount_micros for each in answers] == [0, 20_000, 60_000]
    assert counts(books, plan) == [(0, 18)]


def test_whole_calls_are_free_up_to_the_quota_and_parallel_ones_share_it() -> None:
    books = rich()
    answers = books.run(*(metered(2 + n, WHOLE) for n in range(3)))
    assert [done(each).transfer.amount_micros for each in answers] == [0, 0, 500_000]
    assert counts(books, WHOLE) == [(0, 3)]
    answers = books.run(*(spend(10 + n, WHOLE, {"pages": 7}, of=2 + n) for n in (2, 1, 0)))
    assert [done(each).transfer.amount_micros for each in answers] == [70_000, 0, 0]
    assert counts(books, WHOLE) == [(3, 0)]
    assert is_sound(books)


def test_a_free_call_that_reported_nothing_stays_free_and_counts() -> None:
    plan = Price.per("pages", usage="1", max_units=5, free_quota={"amount": 1}, missing_usage="ceiling").plan("")
    books = rich()
    assert [charged(books, 2, plan), charged(books, 4, plan)] == [0, 5_000_000]  # a request, and no number of pages
    assert counts(books, plan) == [(2, 0)]
    assert is_sound(books)


def test_a_free_call_keeps_its_place_when_others_end_first() -> None:
    books = rich()
    books.run(metered(2, WHOLE))
    assert [charged(books, number, WHOLE, pages=1) for number in (4, 6, 8)] == [0, 10_000, 10_000]
    assert done(books.one(spend(10, WHOLE, {"pages": 50}, of=2))).transfer.amount_micros == 0
    assert is_sound(books)


def test_a_voided_free_call_gives_the_next_its_quota() -> None:
    books = rich()
    books.run(metered(2, WHOLE), metered(3, WHOLE), void(4, of=2))
    assert charged(books, 5, WHOLE, pages=1) == 0
    assert counts(books, WHOLE) == [(1, 1)]


def test_free_requests_of_a_price_by_requests_move_both_counters() -> None:
    """Example 13: the tier is that of all units before, the free ones too."""
    plan = Price.tiered("requests", [(3, "0.01"), (None, "0.005")], free_quota={"amount": 2, "window": "day"}).plan("")
    books = rich()
    assert [charged(books, 2 * n, plan, requests=1) for n in range(1, 6)] == [0, 0, 10_000, 5_000, 5_000]
    assert counts(books, plan) == [(5, 0), (5, 0)]
    assert is_sound(books)


def test_a_quota_is_taken_from_its_dimensions_in_their_order() -> None:
    plan = Price.per(
        "tokens", 1, input="0.00001", output="0.00005", max_units=100, free_quota={"amount": 30, "unit": "tokens"}
    ).plan("")
    books = rich()
    assert charged(books, 2, plan, input__tokens=20, output__tokens=20) == 10 * 50
    assert counts(books, plan) == [(40, 0)]
    assert charged(books, 4, plan, input__tokens=1, output__tokens=1) == 60
    assert is_sound(books)


def test_units_that_cost_nothing_may_use_up_the_quota_and_the_hold_covers_what_is_left_to_pay() -> None:
    """Input is free of charge and unbounded: it may take all 50 free tokens, and then 100 tokens of output cost 1,000."""
    dimensions = [
        {"direction": "input", "unit": "tokens", "price_usd": "0"},
        {"direction": "output", "unit": "tokens", "price_usd": "0.00001", "max_units": 100},
    ]
    plan = load_price({"dimensions": dimensions, "free_quota": {"amount": 50, "unit": "tokens"}}).plan("")
    assert charged(rich(), 2, plan, input__tokens=50, output__tokens=100) == 1_000


# Windows

WHEN = [
    ("month", (2026, 1, 31, 23, 59, 59), (2026, 2, 1), (2026, 1, 1)),
    ("month", (2026, 12, 31, 23, 59, 59), (2027, 1, 1), (2026, 12, 1)),
    ("month", (2028, 2, 29, 23, 59, 59), (2028, 3, 1), (2028, 2, 1)),
    ("day", (2028, 2, 28, 23, 59, 59), (2028, 2, 29), (2028, 2, 28)),
    ("day", (2028, 2, 29, 23, 59, 59), (2028, 3, 1), (2028, 2, 29)),
    ("day", (2027, 2, 28, 23, 59, 59), (2027, 3, 1), (2027, 2, 28)),
    ("day", (2026, 12, 31, 23, 59, 59), (2027, 1, 1), (2026, 12, 31)),
]


@pytest.mark.parametrize(("window", "last", "next_one", "start"), WHEN)
def test_a_window_is_a_month_or_a_day_of_utc(
    window: Literal["month", "day"], last: tuple[int, ...], next_one: tuple[int, ...], start: tuple[int, ...]
) -> None:
    plan = Price.tiered("requests", STEPS, counter={"window": window}).plan("")
    books = rich()
    before, after = moment(*last) + 999_999, moment(*next_one)
    assert after - before == 1
    assert [at for _, at in counters_of(plan, SERVER, TOOL, before)] == [moment(*start)]
    assert [at for _, at in counters_of(plan, SERVER, TOOL, after)] == [after]
    books.run(*(metered(2 + n, plan, at=before) for n in range(3)))
    assert done(books.one(metered(9, plan, at=after))).transfer.amount_micros == 10_000
    assert (counts(books, plan, at=before), counts(books, plan, at=after)) == ([(0, 3)], [(0, 1)])


def test_a_window_of_all_time_never_begins_again() -> None:
    plan = Price.tiered("requests", STEPS, counter={"window": "all_time"}).plan("")
    books = rich()
    answers = [books.one(metered(2 + n, plan, at=moment(2026 + n, 1, 1))) for n in range(3)]
    assert [done(each).transfer.amount_micros for each in answers] == [10_000, 10_000, 5_000]
    assert [at for _, at in counters_of(plan, SERVER, TOOL, NOON)] == [0]


def test_a_call_that_runs_over_midnight_counts_in_the_window_of_its_hold() -> None:
    plan = Price.tiered("requests", STEPS, counter={"window": "day"}).plan("")
    books = rich()
    before, after = moment(2026, 1, 31, 23, 59, 59), moment(2026, 2, 1)
    books.now = before
    books.run(metered(2, plan, at=before), metered(3, plan, at=before), metered(4, plan, at=before))
    books.now = after
    books.run(metered(5, plan, at=after), spend(6, plan, of=4), spend(7, plan, of=2), void(8, of=3), spend(9, plan, of=5))
    assert [books.rows[number].amount_micros for number in (6, 7, 9)] == [5_000, 10_000, 10_000]
    assert (counts(books, plan, at=before), counts(books, plan, at=after)) == ([(2, 0)], [(1, 0)])
    assert is_sound(books)


def test_a_quota_has_a_window_of_its_own() -> None:
    plan = Price.tiered("requests", STEPS, free_quota={"amount": 1, "window": "day"}).plan("")
    books = rich()
    first, second = moment(2026, 1, 30), moment(2026, 1, 31)
    costs: list[int] = []
    for number, at in ((2, first), (4, first), (6, second), (8, second)):
        books.run(metered(number, plan, at=at))
        costs.append(done(books.one(spend(number + 1, plan, of=number))).transfer.amount_micros)
    assert costs == [0, 10_000, 0, 5_000]
    assert counts(books, plan, at=second) == [(4, 0), (2, 0)]
    assert is_sound(books)


# Whose counters


@pytest.mark.parametrize(
    "change",
    [
        {"consumer": BOB},
        {"server": SERVER + 1},
        {"target": Target("tool", "other")},
        {"target": Target("prompt", "tool")},
        {"target": Target("tool", 'tool","')},
    ],
)
def test_consumers_servers_and_targets_have_counters_of_their_own(change: dict[str, Any]) -> None:
    books = rich()
    books.run(top_up(1_000, 10_000, consumer=BOB, key="his"))
    books.run(*(metered(2 + n, REQUESTS) for n in range(3)))
    other = books.one(metered(9, REQUESTS, **change))
    assert done(other).transfer.amount_micros == 10_000
    assert counts(books, REQUESTS) == [(0, 3)]
    assert sorted(books.counted.values()) == [(0, 1), (0, 3)]


def test_no_two_targets_have_counters_of_one_name() -> None:
    names = ["a", "b", 'a","b', "a,b", "", "[", "\ud800", "ä"]
    made = {
        name
        for kind in ("tool", "prompt", "resource")
        for target in names
        for server in (1, 11)
        for name, _ in counters_of(REQUESTS, server, Target(kind, target), NOON)
    }
    assert len(made) == 3 * len(names) * 2
    assert all(name.isascii() for name in made)


def variant_plans() -> tuple[Plan, Plan]:
    tiers = [{"up_to": 1, "price_usd": "0.01"}, {"price_usd": "0.005"}]
    variants = [
        {"param": "size", "value": value, "dimensions": [{"unit": "requests", "tiers": tiers}]} for value in ("small", "large")
    ]
    price = load_price({"variants": variants, "free_quota": {"amount": 1}})
    return price.plan("size=small"), price.plan("size=large")


def test_variants_have_counters_of_their_own_and_one_free_quota() -> None:
    small, large = variant_plans()
    books = rich()
    assert [charged(books, 2, small, requests=1), charged(books, 4, large, requests=1)] == [0, 10_000]
    assert [charged(books, 6, small, requests=1), charged(books, 8, large, requests=1)] == [5_000, 5_000]
    assert (counts(books, small), counts(books, large)) == ([(2, 0), (4, 0)], [(2, 0), (4, 0)])
    assert len(books.counted) == 3
    assert is_sound(books)


def test_two_developers_of_one_consumer_count_by_their_servers() -> None:
    books = rich()
    books.run(*(metered(2 + n, REQUESTS)._replace(developer_id=DEV) for n in range(3)))
    rival = metered(9, REQUESTS, server=SERVER + 1)._replace(developer_id=DEV + 1)
    assert done(books.one(rival)).transfer.amount_micros == 10_000


def test_a_new_version_of_a_price_goes_on_with_the_counters_of_the_same_dimension() -> None:
    graduated = Price.tiered("requests", [(3, "0.02"), (None, "0.002")], tiering="graduated", min_price_usd="0.001").plan("")
    other_unit = Price.tiered("invocations", STEPS, max_units=1).plan("")
    books = rich()
    assert [charged(books, 2 * n, REQUESTS, requests=1) for n in range(1, 4)] == [10_000, 10_000, 5_000]
    assert REQUESTS.version != graduated.version
    assert charged(books, 20, graduated, requests=1) == 2_000
    assert charged(books, 22, other_unit, invocations=1) == 10_000
    assert counts(books, REQUESTS) == [(4, 0)]
    assert is_sound(books)


def test_a_price_without_counters_leaves_none() -> None:
    plan = Price.per("pages", usage="0.01", max_units=3).plan("")
    books = rich()
    assert charged(books, 2, plan, pages=2) == 20_000
    assert books.counted == {}
