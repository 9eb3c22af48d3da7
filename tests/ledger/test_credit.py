"""Free credit in the kernel: granted once, spent first, earned by nobody, and given back in the parts that it was taken in."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.errors import InsufficientBalance
from payre_mcp.ledger.audit import audit
from payre_mcp.ledger.credit import credit_needs, returned
from payre_mcp.ledger.model import Charge, Command, Credit, Hold, Kind, Transfer
from payre_mcp.ledger.state import State
from payre_mcp.pricing import Price
from tests.fakes import counters_in
from tests.ledger.commands import (
    ALICE,
    BOB,
    DEV,
    KEY,
    LIFE,
    NOON,
    PART,
    SERVER,
    Books,
    capture,
    charge,
    done,
    expire,
    hold,
    is_sound,
    limited,
    metered,
    money,
    refund,
    refused,
    replayed,
    rich,
    spend,
    void,
)
from tests.ledger.desk import Desk

GRANT = 1_000
BAKERY = 42
TOKENS = Price.per("tokens", 1_000_000, usage="1", max_units=900).plan("")
"""At most 900 micros."""


def free(command: Hold | Charge, *, server: int = SERVER, grant: int = GRANT) -> Hold | Charge:
    """The command at a server whose ledger grants credit."""
    return command._replace(server_id=server, grant_micros=grant)


def credit(books: Books, server: int = SERVER, consumer: int = ALICE) -> tuple[int, int, int]:
    """(granted, left, held)."""
    return books.free[consumer, server][2:]


# The grant


@pytest.mark.parametrize("make", [hold, charge])
def test_the_first_call_at_a_server_brings_its_credit_and_may_spend_it_at_once(make: type) -> None:
    books = rich(0)
    row = done(books.one(free(make(2, 400)))).transfer
    grant = books.rows[-2]
    assert (grant.kind, grant.amount_micros, grant.credit_micros, grant.ref_id) == (Kind.GRANT, GRANT, GRANT, 2)
    assert (grant.consumer_id, grant.server_id, grant.developer_id) == (ALICE, SERVER, 0)
    assert (row.server_id, row.credit_micros) == (SERVER, 400)
    assert money(books) == (0, 0)
    assert is_sound(books)


def test_credit_is_granted_once_for_each_consumer_and_server() -> None:
    books = rich(0)
    books.run(free(charge(2, 1)), free(charge(3, 1)), free(hold(4, 1), grant=9_999))
    books.run(free(charge(5, 1, consumer=BOB)), free(charge(6, 1), server=BAKERY, grant=50))
    assert sorted(row.id for row in books.rows.values() if row.kind == Kind.GRANT) == [-6, -5, -2]
    assert credit(books) == (GRANT, GRANT - 2, 1)
    assert (credit(books, BAKERY), credit(books, consumer=BOB)) == ((50, 49, 0), (GRANT, GRANT - 1, 0))
    assert is_sound(books)


def test_credit_of_one_server_pays_at_no_other() -> None:
    books = rich(0)
    books.run(free(charge(2, 1)))
    assert refused(books, free(charge(3, 51), server=BAKERY, grant=50)) == "insufficient_balance"
    assert refused(books, charge(3, 1)) == "insufficient_balance"


def test_a_call_that_is_refused_brings_nothing() -> None:
    books = rich(100)
    assert refused(books, free(hold(2, GRANT + 101))) == "insufficient_balance"
    answer = books.one(free(charge(2, GRANT + 101)))
    assert isinstance(answer, InsufficientBalance)
    assert (answer.balance_micros, answer.shortfall_micros) == (GRANT + 100, 1)
    assert books.free == {}


def test_a_free_call_brings_the_credit_too_and_what_was_granted_stays_when_nothing_more_is() -> None:
    books = rich(0)
    done(books.one(free(charge(2, 0))))
    done(books.one(free(charge(3, GRANT), grant=0)))
    assert refused(books, free(charge(4, 1), grant=0)) == "insufficient_balance"
    assert is_sound(books)


def test_without_a_server_or_a_grant_there_is_no_credit() -> None:
    books = rich(0)
    assert refused(books, free(charge(2, 1), server=0)) == "insufficient_balance"
    assert refused(books, free(charge(2, 1), grant=0)) == "insufficient_balance"
    done(books.one(free(charge(2, 0), server=0)))
    done(books.one(free(hold(3, 0), grant=0)))
    assert books.free == {}


# Spending it


def test_a_call_may_be_paid_in_part_and_what_is_free_earns_nobody_anything() -> None:
    books = rich(500)
    row = done(books.one(free(charge(2, 1_300)))).transfer
    assert (row.amount_micros, row.credit_micros, row.credit_spent_micros, row.fee_micros) == (1_300, 1_000, 1_000, 9)
    assert money(books) == (200, 0)
    assert books.earned == {DEV: (291, 9)}
    assert credit(books) == (GRANT, 0, 0)
    assert is_sound(books)


@pytest.mark.parametrize(
    ("amount", "left", "balance", "earned"),
    [(1_300, 0, 200, (291, 9)), (1_000, 0, 500, (0, 0)), (700, 300, 500, (0, 0)), (0, GRANT, 500, (0, 0))],
)
def test_a_capture_of_less_than_was_held_takes_credit_first(
    amount: int, left: int, balance: int, earned: tuple[int, int]
) -> None:
    books = rich(500)
    done(books.one(free(hold(2, 1_300))))
    assert (money(books), credit(books)) == ((500, 300), (GRANT, GRANT, GRANT))
    assert (books.holds[2].server_id, books.holds[2].credit_micros) == (SERVER, GRANT)
    row = done(books.one(capture(3, amount, of=2))).transfer
    assert row.credit_spent_micros == GRANT - left
    assert (money(books), credit(books)) == ((balance, 0), (GRANT, left, 0))
    assert books.earned == {DEV: earned}
    assert is_sound(books)


@pytest.mark.parametrize("end", ["void", "expire"])
def test_a_call_that_is_not_charged_gives_both_parts_back(end: str) -> None:
    books = rich(500)
    books.run(free(hold(2, 1_300)))
    books.now += LIFE
    row = done(books.one(void(3, of=2) if end == "void" else expire(3, of=2))).transfer
    assert (row.held_micros, row.credit_micros, row.server_id) == (1_300, GRANT, SERVER)
    assert (money(books), credit(books)) == ((500, 0), (GRANT, GRANT, 0))
    assert is_sound(books)


def test_calls_at_once_share_the_credit_and_never_overdraw_it() -> None:
    books = rich(1_000)
    answers = books.run(*(free(hold(2 + n, 600)) for n in range(4)))
    assert [getattr(each, "code", "done") for each in answers] == ["done", "done", "done", "insufficient_balance"]
    assert [books.holds[number].credit_micros for number in (2, 3, 4)] == [600, 400, 0]
    books.run(capture(10, 600, of=4), capture(11, 600, of=3), void(12, of=2))
    assert (money(books), credit(books)) == ((200, 0), (GRANT, 600, 0))
    assert is_sound(books)


def test_a_metered_call_holds_and_spends_credit_like_any_other() -> None:
    books = rich(0)
    done(books.one(free(metered(2, TOKENS))))
    row = done(books.one(spend(3, TOKENS, {"tokens": 200}, of=2))).transfer
    assert (row.amount_micros, row.credit_spent_micros, row.fee_micros) == (200, 200, 0)
    assert credit(books) == (GRANT, GRANT - 200, 0)
    assert is_sound(books)


def test_a_key_that_paid_with_credit_is_answered_again_and_takes_none() -> None:
    books = rich(0)
    done(books.one(free(charge(2, 300, key="k"))))
    assert replayed(books, free(charge(3, 300, key="k"))).transfer.id == 2


def test_a_limit_of_the_key_counts_what_is_free_too() -> None:
    books = limited(rich(), day=500)
    books.run(free(charge(2, 500)))
    assert refused(books, free(charge(3, 1))) == "spend_limit"
    assert is_sound(books)


# Late charges


def test_a_late_charge_takes_from_the_balance_what_the_credit_of_now_does_not_cover() -> None:
    books = rich(500)
    books.run(free(hold(2, 900)))
    books.now += LIFE
    books.run(expire(3, of=2), free(charge(4, 700)))
    late = done(books.one(capture(5, 800, of=2))).transfer
    assert (late.kind, late.ref_id, late.credit_micros, late.fee_micros) == (Kind.CHARGE, 2, 300, 15)
    assert (money(books), credit(books)) == ((0, 0), (GRANT, 0, 0))
    assert is_sound(books)


def test_a_late_charge_that_credit_and_balance_do_not_cover_is_refused() -> None:
    books = rich(500)
    books.run(free(hold(2, 900)))
    books.now += LIFE
    books.run(expire(3, of=2), free(charge(4, 1_000)))
    assert refused(books, capture(5, 501, of=2)) == "hold_not_open"


def test_a_hold_that_expires_and_is_captured_in_one_batch_finds_its_credit() -> None:
    books = rich(0)
    books.run(free(hold(2, 900)))
    books.now += LIFE
    _, late = books.run(expire(3, of=2), capture(4, 900, of=2))
    assert done(late).transfer.credit_micros == 900
    assert is_sound(books)


# Refunds


def test_a_refund_gives_back_credit_and_money_in_the_parts_they_were_taken_in() -> None:
    books = rich(500)
    books.run(free(charge(2, 1_300)))
    row = done(books.one(refund(3, 650, of=2))).transfer
    assert (row.amount_micros, row.credit_micros, row.fee_micros, row.server_id) == (650, 500, 4, SERVER)
    assert (money(books), credit(books)) == ((350, 0), (GRANT, 500, 0))
    done(books.one(refund(4, 650, of=2, key="rest")))
    assert (money(books), credit(books)) == ((500, 0), (GRANT, GRANT, 0))
    assert books.earned == {DEV: (0, 0)}
    assert is_sound(books)


def test_credit_that_came_back_may_be_spent_again_in_the_same_batch() -> None:
    books = rich(0)
    books.run(free(charge(2, GRANT)))
    done(books.run(refund(3, 400, of=2), free(charge(4, 400)))[1])
    assert credit(books) == (GRANT, 0, 0)
    assert is_sound(books)


@given(
    paid=st.integers(0, 2_000), spent=st.integers(0, GRANT), bps=st.integers(0, 10_000), data=st.data(),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_however_a_charge_is_refunded_the_whole_of_it_returns_everything(
    paid: int, spent: int, bps: int, data: st.DataObject
) -> None:
    amount = paid + spent
    fee = paid * bps // 10_000
    row = Transfer(PART, 2, Kind.CHARGE, ALICE, DEV, 0, amount, fee, bps, 0, "", 0, "", KEY, "tool", NOON, 0, "{}")
    row = row._replace(server_id=SERVER, credit_micros=spent)
    steps = sorted({*data.draw(st.lists(st.integers(1, max(1, amount)), max_size=5)), amount} - {0})
    before, credit_before, fee_before = 0, 0, 0
    for step in steps if amount else ():
        credit_now, fee_now = returned(row, min(step, amount))
        assert 0 <= credit_now - credit_before <= step - before
        assert 0 <= fee_now - fee_before <= (step - before) - (credit_now - credit_before)
        before, credit_before, fee_before = step, credit_now, fee_now
    if amount:
        assert (credit_before, fee_before) == (spent, fee)


# What a batch looks up


def test_credit_is_looked_up_only_where_a_call_may_take_some(desk: Desk) -> None:
    payer = desk.payer
    desk.behind(payer.hold(1), payer.charge(1))
    assert desk.store.credits_looked_up == 0
    made = [payer.charge(30)._replace(server_id=SERVER, grant_micros=50) for _ in range(3)]
    rows = [done(each).transfer for each in desk.behind(*made)]
    assert [row.credit_micros for row in rows] == [30, 20, 0]
    assert desk.store.credits_looked_up == 1
    assert counters_in(desk.payer.ledger) == {}
    assert desk.is_clean()


def test_a_batch_needs_the_credits_of_its_calls_and_of_those_that_expired() -> None:
    books = rich()
    books.run(free(hold(2, 5)), hold(3, 5), free(hold(4, 5), server=BAKERY), free(hold(5, 5), server=7))
    books.run(void(6, of=5))
    state = State(holds=dict(books.holds), ends={5: books.rows[6]})
    batch: list[Command] = [free(charge(9, 1), server=8), charge(10, 1), expire(11, of=2), expire(12, of=3), capture(13, 1, of=4)]
    assert credit_needs(batch, state) == [(ALICE, 8), (ALICE, SERVER)]
    state.ends[5] = books.rows[6]._replace(kind=Kind.EXPIRE)
    assert credit_needs([capture(14, 1, of=5)], state) == [(ALICE, 7)]


# The audit


def audited_books() -> Books:
    """Alice has 500 and credit: one charge of both, a part of it refunded, and a hold that runs."""
    books = rich(500)
    books.run(free(charge(2, 1_200)), refund(3, 600, of=2), free(hold(4, 550)))
    assert is_sound(books)
    return books


def test_the_audit_reports_credit_in_figures() -> None:
    report = audit(audited_books(), NOON)
    assert (report.granted_micros, report.credit_micros, report.credit_spent_micros) == (GRANT, 500, 500)
    assert (report.topped_up_micros, report.balances_micros, report.held_micros) == (500, 400, 50)


@pytest.mark.parametrize("stored", [(999, 500, 500), (GRANT, 501, 500), (GRANT, 499, 499), (GRANT, 500, 499), (400, 500, 500)])
def test_the_audit_finds_credit_that_its_rows_do_not_explain(stored: tuple[int, int, int]) -> None:
    books = audited_books()
    books.free[ALICE, SERVER] = Credit(ALICE, SERVER, *stored)
    assert f"consumer {ALICE}: the credit of server {SERVER} differs from its rows" in audit(books, NOON).violations


def test_the_audit_finds_credit_that_is_lost_overdrawn_or_not_conserved() -> None:
    books = audited_books()
    books.free[ALICE, SERVER] = Credit(ALICE, SERVER, GRANT, 500, 501)
    assert f"consumer {ALICE}: the credit of server {SERVER} is overdrawn" in audit(books, NOON).violations
    books.free = {}
    violations = audit(books, NOON).violations
    assert "the journal moves free credit that does not exist" in violations
    assert "free credit is not conserved: grants differ from what is left and what was spent" in violations


@pytest.mark.parametrize(
    ("number", "changes", "sentence"),
    [
        (-2, {"id": -3, "credit_micros": 7}, "grant -3 is not all credit, or its consumer had credit of this server before"),
        (-2, {"id": -1}, "grant -1 is not all credit, or its consumer had credit of this server before"),
        (2, {"server_id": 0}, "transfer 2 has credit below zero, above what it moves, or of no server"),
        (2, {"credit_micros": -1}, "transfer 2 has credit below zero, above what it moves, or of no server"),
        (4, {"credit_micros": 551}, "transfer 4 has credit below zero, above what it moves, or of no server"),
        (1, {"credit_micros": 1, "server_id": SERVER}, "transfer 1 has credit below zero, above what it moves, or of no server"),
        (3, {"amount_micros": 1_200, "credit_micros": 1_100}, "charge 2 was refunded by more than its amount or its fee"),
        (3, {"credit_micros": 100}, "charge 2 was refunded by more than its amount or its fee"),
    ],
)
def test_the_audit_finds_a_row_whose_credit_is_wrong(number: int, changes: dict[str, int], sentence: str) -> None:
    books = audited_books()
    forged = books.rows[number]._replace(**changes)
    books.rows[forged.id] = forged
    assert sentence in audit(books, NOON).violations


def test_the_audit_finds_a_hold_and_its_end_that_disagree_about_credit() -> None:
    books = audited_books()
    books.run(void(5, of=4))
    books.rows[5] = books.rows[5]._replace(credit_micros=499)
    assert "transfer 5 does not fit its hold 4" in audit(books, NOON).violations
