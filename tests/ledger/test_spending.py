"""Spending limits in the kernel: what a key may spend, over which window, and that nothing passes a limit together."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.directory import SpendingLimits
from payre_mcp.errors import PayreError, SpendLimit
from payre_mcp.ledger.audit import audit
from payre_mcp.ledger.model import Command, Done, KeyState, Transfer
from payre_mcp.ledger.spending import spending_needs
from payre_mcp.ledger.state import Answer, State
from payre_mcp.money import Money
from payre_mcp.pricing import Price
from tests.fakes import counters_in
from tests.ledger.commands import (
    ALICE,
    BOB,
    KEY,
    LIFE,
    NOON,
    RICHES,
    SECOND,
    Books,
    capture,
    charge,
    code,
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
    top_up,
    void,
)
from tests.ledger.desk import Desk

OTHER_KEY = 33
STEPS = Price.tiered("requests", [(2, "0.01"), (4, "0.005"), (None, "0.001")]).plan("")
TOKENS = Price.per("tokens", 1_000_000, usage="1", max_units=1_000).plan("")
"""At most 1,000 micros."""


def moment(*when: int) -> int:
    """A UTC date and time in microseconds since 1970."""
    year, month, day, *time = when
    return int(datetime(year, month, day, *time, tzinfo=UTC).timestamp()) * SECOND


def told(answer: Answer) -> SpendLimit:
    assert isinstance(answer, SpendLimit), answer
    return answer


def spent(books: Books) -> dict[str, tuple[int, int]]:
    """(captured, reserved) by the window of each counter, where it is not at zero."""
    return {"/".join(json.loads(name)[2:]): counts for (_, name, _), counts in books.counted.items() if any(counts)}


# What is refused


@pytest.mark.parametrize("make", [hold, charge])
@pytest.mark.parametrize("window", ["call", "day", "month", "tool"])
def test_what_is_above_a_limit_is_refused_and_leaves_nothing_behind(make: type, window: str) -> None:
    books = limited(rich(), **{window: 100})
    assert refused(books, make(2, 101)) == "spend_limit"
    refusal = told(books.one(make(2, 101)))
    assert (refusal.price_micros, refusal.limit_micros, refusal.left_micros, refusal.window) == (101, 100, 100, window)
    done(books.one(make(3, 100)))


@pytest.mark.parametrize("window", ["day", "month", "tool"])
def test_a_limit_of_a_window_is_for_all_calls_in_it_running_and_charged(window: str) -> None:
    books = limited(rich(), **{window: 100})
    books.run(charge(2, 30), hold(3, 40), hold(4, 20), capture(5, 15, of=4))
    assert told(books.one(hold(6, 16))).left_micros == 15
    done(books.one(charge(7, 15)))
    assert told(books.one(charge(8, 1))).left_micros == 0
    assert is_sound(books)


def test_a_limit_of_a_call_is_for_each_call_alone() -> None:
    books = limited(rich(), call=100)
    assert all(isinstance(each, Done) for each in books.run(charge(2, 100), hold(3, 100), charge(4, 100)))
    assert told(books.one(hold(5, 101))).resets_at is None
    assert (books.counted, {row.terms for row in books.rows.values()}) == ({}, {""})


def test_a_limit_of_a_tool_leaves_other_tools_alone() -> None:
    books = limited(rich(), tool=100)
    done(books.one(charge(2, 101)._replace(tool="other")))
    assert spent(books) == {}
    assert refused(books, charge(3, 101)) == "spend_limit"


@pytest.mark.parametrize("make", [hold, charge])
def test_a_limit_of_zero_lets_free_calls_through_and_no_others(make: type) -> None:
    books = limited(rich(), call=0, day=0, month=0, tool=0)
    done(books.one(make(2, 0)))
    assert told(books.one(make(3, 1))).window == "call"
    assert is_sound(books)


def test_a_limit_that_was_lowered_below_what_is_spent_leaves_nothing_and_never_less() -> None:
    books = limited(rich(), day=100)
    done(books.one(charge(2, 100)))
    limited(books, day=50)
    assert told(books.one(charge(3, 1))).left_micros == 0
    done(books.one(charge(4, 0)))


def test_of_several_limits_the_one_that_lasts_longest_is_told() -> None:
    books = limited(rich(), month=10, day=10, tool=10)
    assert told(books.one(charge(2, 11))).window == "month"
    assert told(limited(books, day=10, tool=10).one(charge(2, 11))).window == "day"


def test_limits_are_looked_at_before_the_balance_and_after_the_callers_own() -> None:
    books = limited(rich(5), day=100)
    assert refused(books, hold(2, 101)) == "spend_limit"
    assert refused(books, hold(2, 101)._replace(max_micros=100)) == "price_above_limit"
    assert refused(books, hold(2, 100)) == "insufficient_balance"
    assert refused(books, charge(2, -1)) == "invalid_request"


def test_a_key_that_paid_before_is_answered_again_whatever_is_left() -> None:
    books = limited(rich(), day=100)
    done(books.one(charge(2, 100, key="k")))
    assert replayed(books, charge(3, 100, key="k")).transfer.id == 2


def test_a_key_of_no_record_has_no_limits_to_look_up() -> None:
    state = State(api_keys={KEY: KeyState(KEY, 0, 0, '{"day":1}', KEY)})
    assert spending_needs([charge(2, 1)._replace(api_key_id=99), top_up(3, 1)], state, NOON) == []
    assert len(spending_needs([charge(2, 1), hold(3, 1), void(4, of=3)], state, NOON)) == 2
    assert spending_needs([charge(2, 1)], State(api_keys={KEY: KeyState(KEY, 0, 0)}), NOON) == []


def test_unlimited_keys_cost_no_statement_and_limited_ones_one_for_a_whole_batch(desk: Desk) -> None:
    payer = desk.payer
    desk.behind(*(payer.hold(1) for _ in range(20)), *(payer.charge(1) for _ in range(20)))
    assert desk.store.looked_up == []
    assert counters_in(desk.ledger) == {}
    desk.ledger.directory.set_limits(payer.record.id, SpendingLimits(day=Money(25), month=Money(100)))
    answers = desk.behind(*(payer.hold(1) for _ in range(20)), *(payer.charge(1) for _ in range(20)))
    assert [getattr(each, "code", "done") for each in answers] == ["done"] * 24 + ["spend_limit"] * 16
    assert [len(set(each)) for each in desk.store.looked_up] == [2, 2]
    assert sorted(counters_in(desk.ledger).values()) == [(5, 20), (5, 20)]
    assert desk.is_clean()


# What is counted


def test_keys_without_limits_count_nothing() -> None:
    books = rich()
    books.run(hold(2, 40), capture(3, 30, of=2), charge(4, 5))
    assert (books.counted, {row.terms for row in books.rows.values()}) == ({}, {""})


@pytest.mark.parametrize("end", ["capture", "void", "expire"])
def test_a_hold_reserves_its_amount_and_its_end_gives_back_what_was_not_charged(end: str) -> None:
    books = limited(rich(), day=100, month=1_000, tool=100)
    books.run(hold(2, 80))
    assert spent(books) == dict.fromkeys(["day", "month", "tool/tool"], (0, 80))
    books.now += LIFE
    ends: dict[str, Command] = {"capture": capture(3, 50, of=2), "void": void(3, of=2), "expire": expire(3, of=2)}
    done(books.one(ends[end]))
    assert spent(books) == (dict.fromkeys(["day", "month", "tool/tool"], (50, 0)) if end == "capture" else {})
    assert is_sound(books)


def test_a_row_names_the_counters_that_it_moved_and_nothing_else() -> None:
    books = limited(rich(), day=100)
    books.run(hold(2, 80), capture(3, 50, of=2), charge(4, 5))
    day = NOON - NOON % (24 * 3600 * SECOND)
    terms = {"spent": [[f'["spent",{KEY},"day"]', day]]}
    assert [json.loads(books.rows[number].terms) for number in (2, 3, 4)] == [terms] * 3


def test_a_metered_call_counts_its_units_and_its_money() -> None:
    books = limited(rich(), day=21_000)
    books.run(metered(2, STEPS), metered(3, STEPS), spend(4, STEPS, of=3))
    assert told(books.one(metered(5, STEPS))).left_micros == 1_000
    assert sorted(books.counted.values()) == [(1, 1), (10_000, 10_000)]
    assert list(json.loads(books.rows[4].terms)) == [
        "version", "variant", "lines", "min_micros", "shortfall_micros", "missing", "counters", "spent",
    ]  # fmt: skip
    books.run(void(6, of=2))
    assert sorted(books.counted.values()) == [(1, 0), (10_000, 0)]
    assert is_sound(books)


def test_a_metered_call_is_held_against_its_ceiling_and_counts_what_it_cost() -> None:
    books = limited(rich(), day=1_500)
    books.run(metered(2, TOKENS))
    assert told(books.one(metered(3, TOKENS))).left_micros == 500
    books.run(spend(4, TOKENS, {"tokens": 200}, of=2))
    done(books.one(metered(5, TOKENS)))
    assert spent(books) == {"day": (200, 1_000)}
    assert is_sound(books)


def test_a_fixed_hold_of_a_limited_key_is_not_captured_by_usage_nor_above_itself() -> None:
    books = limited(rich(), day=100)
    books.run(hold(2, 80))
    assert refused(books, spend(3, TOKENS, {"tokens": 1}, of=2)) == "invalid_request"
    assert refused(books, capture(3, 81, of=2)) == "capture_exceeds_hold"


def test_a_refund_gives_no_limit_back() -> None:
    books = limited(rich(), day=100)
    books.run(charge(2, 100), refund(3, 100, of=2))
    assert money(books) == (RICHES, 0)
    assert refused(books, charge(4, 1)) == "spend_limit"
    assert is_sound(books)


# Windows


@pytest.mark.parametrize(
    ("window", "last", "anew"),
    [
        ("day", (2026, 1, 31, 23, 59, 59), (2026, 2, 1)),
        ("tool", (2028, 2, 28, 23, 59, 59), (2028, 2, 29)),
        ("month", (2028, 2, 29, 23, 59, 59), (2028, 3, 1)),
        ("month", (2026, 12, 1), (2027, 1, 1)),
        ("month", (2026, 1, 31), (2026, 2, 1)),
        ("day", (2026, 12, 31), (2027, 1, 1)),
    ],
)
def test_a_window_of_utc_starts_anew_when_the_refusal_says(window: str, last: tuple[int, ...], anew: tuple[int, ...]) -> None:
    books = limited(rich(), **{window: 100})
    books.now = moment(*last)
    done(books.one(charge(2, 100)))
    assert told(books.one(charge(3, 1))).resets_at == moment(*anew) // SECOND
    books.now = moment(*anew) - 1
    assert refused(books, charge(3, 1)) == "spend_limit"
    books.now = moment(*anew)
    done(books.one(charge(3, 100)))


def test_a_call_over_midnight_counts_in_the_window_of_its_hold() -> None:
    books = limited(rich(), day=100)
    books.now = moment(2026, 1, 1, 23, 59)
    books.run(hold(2, 60))
    books.now = moment(2026, 1, 2)
    done(books.one(charge(3, 100)))
    done(books.one(capture(4, 50, of=2)))
    assert sorted(books.counted.values()) == [(50, 0), (100, 0)]
    assert is_sound(books)


# Whose limits


def test_keys_of_one_account_have_limits_and_counters_of_their_own() -> None:
    books = limited(limited(rich(), day=100), key=OTHER_KEY, root=OTHER_KEY, day=50)
    books.run(charge(2, 100), charge(3, 50)._replace(api_key_id=OTHER_KEY))
    assert refused(books, charge(4, 1)) == "spend_limit"
    assert refused(books, charge(4, 1)._replace(api_key_id=OTHER_KEY)) == "spend_limit"


def test_a_rotated_key_goes_on_with_what_its_line_has_spent() -> None:
    books = limited(limited(rich(), day=100), key=OTHER_KEY, root=KEY, day=100)
    books.run(charge(2, 60))
    assert told(books.one(charge(3, 50)._replace(api_key_id=OTHER_KEY))).left_micros == 40


# Late charges: the one thing that may pass a limit


def test_the_late_charge_of_a_call_that_ran_counts_in_the_window_of_its_hold_though_the_limit_is_used_up() -> None:
    books = limited(rich(), day=100)
    books.run(hold(2, 60))
    books.now += LIFE
    books.run(expire(3, of=2), charge(4, 100))
    late = done(books.one(capture(5, 60, of=2))).transfer
    assert (late.ref_id, late.amount_micros) == (2, 60)
    assert spent(books) == {"day": (160, 0)}
    assert told(books.one(charge(6, 1))).left_micros == 0
    assert is_sound(books)


def test_a_late_charge_without_money_is_refused_as_ever() -> None:
    books = limited(rich(100), day=100)
    books.run(hold(2, 60))
    books.now += LIFE
    books.run(expire(3, of=2), charge(4, 50))
    assert refused(books, capture(5, 60, of=2)) == "hold_not_open"


# The audit


def retold(row: Transfer, **changes: object) -> Transfer:
    return row._replace(terms=json.dumps({**json.loads(row.terms), **changes}, separators=(",", ":")))


@pytest.mark.parametrize("stored", [(51, 30), (50, 31), (49, 30), (50, 29), (0, 0)])
def test_the_audit_finds_a_counter_of_a_limit_that_its_calls_do_not_explain(stored: tuple[int, int]) -> None:
    books = limited(rich(), day=100)
    books.run(charge(2, 50), hold(3, 30))
    (place,) = books.counted
    books.counted[place] = stored
    assert audit(books, NOON).violations == [f"consumer {ALICE}: the counter {place[1]} differs from the sum of its calls"]


@pytest.mark.parametrize("changes", [{"spent": []}, {"spent": [["elsewhere", 0]]}, {"spent": 1}, {"spent": [[1]]}])
@pytest.mark.parametrize("number", [3, 4])
def test_the_audit_finds_a_charge_that_counts_elsewhere_than_its_hold(number: int, changes: dict[str, object]) -> None:
    books = limited(rich(), day=100)
    books.run(hold(2, 50), capture(3, 30, of=2), charge(4, 10))
    books.rows[number] = retold(books.rows[number], **changes)
    assert not audit(books, NOON).ok


@pytest.mark.parametrize("terms", ['{"spent":', "{}", '{"spent":7}', "nonsense"])
def test_the_audit_reads_no_terms_that_are_damaged(terms: str) -> None:
    books = limited(rich(), day=100)
    books.run(hold(2, 50), charge(4, 10))
    books.holds[2] = books.holds[2]._replace(terms=terms)
    books.rows[4] = books.rows[4]._replace(terms=terms)
    assert "charge 4 has terms that cannot be read" in audit(books, NOON).violations


# Whatever happens


@st.composite
def spenders(draw: st.DrawFn) -> list[tuple[int, list[Command]]]:
    """Batches of holds, charges, captures and voids of two keys of one line, with hours between."""
    out: list[tuple[int, list[Command]]] = []
    holds: list[int] = []
    number = 10
    for _ in range(draw(st.integers(1, 6))):
        batch: list[Command] = []
        for _ in range(draw(st.integers(1, 5))):
            number += 1
            amount, who = draw(st.sampled_from([0, 1, 20, 45])), draw(st.sampled_from([KEY, OTHER_KEY]))
            act = draw(st.sampled_from(["hold", "hold", "charge", "capture", "void"]))
            if act == "charge":
                batch.append(charge(number, amount)._replace(api_key_id=who))
            elif act == "hold" or not holds:
                batch.append(hold(number, amount)._replace(api_key_id=who))
                holds.append(number)
            else:
                of = draw(st.sampled_from(holds))
                batch.append(capture(number, amount, of=of) if act == "capture" else void(number, of=of))
        out.append((draw(st.sampled_from([0, 0, 13, 24 * 20])), batch))
    return out


@settings(max_examples=80, deadline=None)
@given(spenders())
def test_holds_and_charges_together_never_pass_a_limit_and_a_batch_is_its_commands_one_by_one(
    history: list[tuple[int, list[Command]]],
) -> None:
    together, alone = (
        limited(limited(rich(1_000), day=100, month=250, tool=80), key=OTHER_KEY, root=KEY, day=100, month=250, tool=80)
        for _ in range(2)
    )
    limits = {"day": 100, "month": 250, "tool/tool": 80}
    for hours, batch in history:
        together.now = alone.now = together.now + hours * 3600 * SECOND
        assert [plain(each) for each in together.run(*batch)] == [plain(alone.one(each)) for each in batch]
        assert together == alone
        assert all(sum(counts) <= limits[window] for window, counts in spent(together).items())
    assert audit(together, NOON).violations == []


def plain(answer: Answer) -> object:
    """Errors compare by what they say."""
    return (answer.code, answer.data()) if isinstance(answer, PayreError) else answer


def test_bobs_money_is_not_limited_by_alices_counters() -> None:
    books = limited(rich(), day=100)
    books.run(top_up(2, 1_000, consumer=BOB, key="his"), charge(3, 100))
    assert code(books.one(charge(4, 1))) == "spend_limit"
    done(books.one(charge(5, 100, consumer=BOB)))
