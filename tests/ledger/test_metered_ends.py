"""How metered calls end when not at once: late, asked again, refunded, extended, or under a price that changed."""

import json
from typing import Any

import pytest

from payre_mcp.ledger.model import Done, Extended, Kind, Transfer
from payre_mcp.pricing import Plan, Price
from tests.ledger.commands import (
    LIFE,
    NOON,
    RICHES,
    SECOND,
    Books,
    capture,
    charge,
    charged,
    counts,
    done,
    expire,
    extend,
    is_sound,
    metered,
    money,
    refund,
    refused,
    replayed,
    rich,
    spend,
    void,
)

TOKENS = Price.per("tokens", 1_000_000, input="0.50", output="1.50", max_units={"input": 4_000, "output": 1_000}).plan("")
"""Example 14 of the pricing document: 3,500 micros are held."""

USED = {"input.tokens": 800, "output.tokens": 200}
STEPS = Price.tiered("requests", [(2, "0.01"), (4, "0.005"), (None, "0.001")]).plan("")
VOLUME = Price.tiered("invocations", [(100, "0.02"), (None, "0.01")], max_units=50).plan("")


def terms(row: Transfer) -> dict[str, Any]:
    return json.loads(row.terms)


def late(books: Books, number: int, plan: Plan) -> None:
    """A call whose hold expires while it runs."""
    done(books.one(metered(number, plan)))
    books.now += LIFE + SECOND
    done(books.one(expire(number + 1, of=number)))


def test_a_late_capture_is_priced_with_the_counters_of_its_hold() -> None:
    books = rich()
    late(books, 2, STEPS)
    assert [charged(books, n, STEPS, requests=1) for n in (10, 12, 14)] == [10_000, 10_000, 5_000]
    row = done(books.one(spend(20, STEPS, of=2))).transfer
    assert (row.kind, row.ref_id, row.amount_micros) == (Kind.CHARGE, 2, 10_000)
    assert counts(books, STEPS) == [(4, 0)]
    assert is_sound(books)


def test_a_late_capture_is_at_most_what_was_held() -> None:
    books = rich()
    late(books, 2, TOKENS)
    row = done(books.one(spend(4, TOKENS, {"input.tokens": 4_000, "output.tokens": 9_000}, of=2))).transfer
    assert (row.amount_micros, terms(row)["shortfall_micros"]) == (3_500, 12_000)


def test_a_late_capture_comes_once_and_is_told_again() -> None:
    books = rich()
    late(books, 2, STEPS)
    first = done(books.one(spend(4, STEPS, of=2)))
    assert replayed(books, spend(5, STEPS, of=2)).transfer == first.transfer
    assert counts(books, STEPS) == [(1, 0)]
    both = rich()
    late(both, 2, STEPS)
    one, two = map(done, both.run(spend(4, STEPS, of=2), spend(5, STEPS, of=2)))
    assert one.transfer == two.transfer
    assert counts(both, STEPS) == [(1, 0)]


def test_a_late_capture_whose_money_is_gone_moves_nothing() -> None:
    books = rich(10_000)
    late(books, 2, STEPS)
    books.run(charge(4, 1))
    assert refused(books, spend(5, STEPS, of=2)) == "hold_not_open"


@pytest.mark.parametrize("wrong", [capture(4, 5, of=2), spend(4, TOKENS, USED, of=2), spend(4, VOLUME, {}, of=2)])
def test_a_late_capture_by_another_price_is_refused_too(wrong: Any) -> None:
    books = rich()
    late(books, 2, STEPS)
    assert refused(books, wrong) == "invalid_request"
    assert done(books.one(spend(5, STEPS, of=2))).transfer.amount_micros == 10_000


def test_a_late_capture_without_usage_is_refused_where_that_is_an_error() -> None:
    plan = Price.per("tokens", 10, usage="1", max_price_usd="0.10", missing_usage="error").plan("")
    books = rich()
    late(books, 2, plan)
    assert refused(books, spend(4, plan, {}, of=2)) == "usage_missing"


@pytest.mark.parametrize("price", [STEPS, TOKENS])
def test_a_voided_metered_hold_cannot_be_captured(price: Plan) -> None:
    books = rich()
    books.run(metered(2, price), void(3, of=2))
    assert refused(books, spend(4, price, USED, of=2)) == "hold_not_open"


def test_a_capture_that_is_asked_again_moves_nothing_whatever_it_says_now() -> None:
    books = rich()
    books.run(metered(2, STEPS, key="k", fingerprint="f"), spend(3, STEPS, of=2))
    for again in (spend(4, STEPS, of=2), spend(4, STEPS, {"requests": 9}, of=2), spend(4, TOKENS, {}, of=2), capture(4, 1, of=2)):
        assert replayed(books, again).transfer.id == 3
    assert replayed(books, metered(5, STEPS, key="k", fingerprint="f")).transfer.id == 3
    assert counts(books, STEPS) == [(1, 0)]


def test_a_batch_that_was_committed_unseen_reserves_and_counts_nothing_again() -> None:
    books = rich()
    batch = [metered(2, STEPS), metered(3, STEPS), spend(4, STEPS, of=2), metered(5, STEPS), void(6, of=5)]
    first = books.run(*batch)
    before = dict(books.counted)
    again = books.run(*batch, repeated=True)
    assert [done(each).transfer for each in again] == [done(each).transfer for each in first]
    assert books.counted == before
    assert counts(books, STEPS) == [(1, 1)]
    assert is_sound(books)


def test_a_refund_gives_money_back_and_no_place() -> None:
    books = rich()
    assert [charged(books, n, STEPS, requests=1) for n in (2, 4)] == [10_000, 10_000]
    books.run(refund(10, 10_000, of=3))
    assert money(books) == (RICHES - 10_000, 0)
    assert counts(books, STEPS) == [(2, 0)]
    assert charged(books, 12, STEPS, requests=1) == 5_000
    assert is_sound(books)


def test_an_extended_hold_keeps_its_terms() -> None:
    books = rich()
    books.run(metered(2, STEPS))
    answer = books.one(extend(of=2, until=NOON + 2 * LIFE))
    assert isinstance(answer, Extended)
    books.now += LIFE
    assert charged(books, 3, STEPS, requests=1) == 10_000
    assert isinstance(books.one(spend(5, STEPS, of=2)), Done)
    assert counts(books, STEPS) == [(2, 0)]
    assert is_sound(books)


def test_a_running_hold_keeps_its_price_while_a_new_one_counts_on() -> None:
    """The names of counters hold no version: a new price goes on where the old one stood."""
    dearer = Price.tiered("requests", [(2, "0.02"), (None, "0.01")]).plan("")
    books = rich()
    books.run(metered(2, STEPS), metered(3, STEPS))
    assert charged(books, 4, dearer, requests=1) == 10_000
    assert done(books.one(spend(6, STEPS, of=3))).transfer.amount_micros == 10_000
    assert counts(books, STEPS) == counts(books, dearer) == [(2, 1)]
    assert refused(books, spend(7, dearer, of=2)) == "invalid_request"
    assert done(books.one(spend(8, STEPS, of=2))).transfer.amount_micros == 10_000
    assert is_sound(books)
