"""The kernel's tables, row by row: Payre's charge, AgentPay's hold and capture, DESIGN.md sections 4 and 10."""

from collections.abc import Callable
from copy import deepcopy

import pytest

from payre_mcp.errors import InsufficientBalance
from payre_mcp.ledger.kernel import decide
from payre_mcp.ledger.model import MAX_BALANCE_MICROS, Account, Charge, Command, Done, Extended, Hold, KeyState, Kind
from payre_mcp.ledger.state import Decision, State, needs
from tests.ledger.commands import (
    ALICE,
    BOB,
    DEV,
    FEE_BPS,
    KEPT_UNTIL,
    KEY,
    LIFE,
    NOON,
    PART,
    RIVAL,
    SECOND,
    Books,
    capture,
    charge,
    code,
    done,
    expire,
    extend,
    hold,
    money,
    refund,
    refused,
    replayed,
    top_up,
    void,
)

START = 10_000

Spend = Callable[[int, int], Hold | Charge]


def funded(*batch: Command, balance: int = START) -> Books:
    """Alice with money and Bob without, after a batch that took effect."""
    books = Books(balances={ALICE: Account(ALICE, 0, 0), BOB: Account(BOB, 0, 0)})
    if balance:
        books.run(top_up(1, balance))
    for answer in books.run(*batch):
        assert isinstance(answer, Done | Extended), answer
    return books


def extended(books: Books, command: Command) -> int:
    """When a hold ends after a command that went on with it."""
    answer = books.one(command)
    assert isinstance(answer, Extended), answer
    return answer.hold.expires_at


# Charge


def test_a_charge_moves_money_to_the_developer_and_the_platform() -> None:
    books = funded()
    answer = done(books.one(charge(2, 1_000)))
    assert money(books) == (9_000, 0)
    assert books.earned == {DEV: (970, 30)}
    assert answer.account == Account(ALICE, 9_000, 0, last_charge_id=2)
    assert not answer.replayed
    row = answer.transfer
    assert (row.part, row.id, row.kind, row.consumer_id, row.developer_id) == (PART, 2, Kind.CHARGE, ALICE, DEV)
    assert (row.amount_micros, row.fee_micros, row.fee_bps, row.held_micros, row.slot) == (1_000, 30, FEE_BPS, 0, 0)
    assert (row.api_key_id, row.tool, row.created_at, row.expires_at, row.detail) == (KEY, "tool", NOON, 0, "{}")


def test_a_charge_of_nothing_is_recorded_and_moves_nothing() -> None:
    books = funded(charge(2, 0), balance=0)
    assert money(books) == (0, 0)
    assert books.rows[2].amount_micros == 0


def test_the_last_micro_can_be_charged_and_not_one_more() -> None:
    assert money(funded(charge(2, START))) == (0, 0)
    assert refused(funded(), charge(2, START + 1)) == "insufficient_balance"


def test_a_refusal_for_money_states_the_shortfall() -> None:
    answer = funded(hold(2, 4_000)).one(charge(3, 7_000))
    assert isinstance(answer, InsufficientBalance)
    assert (answer.price_micros, answer.balance_micros, answer.shortfall_micros) == (7_000, 6_000, 1_000)


def test_charges_without_a_key_are_new_every_time() -> None:
    assert money(funded(charge(2, 1_000), charge(3, 1_000))) == (8_000, 0)


# Hold


def test_a_hold_sets_money_aside_and_charges_nothing() -> None:
    books = funded()
    answer = done(books.one(hold(2, 3_000)))
    assert money(books) == (10_000, 3_000)
    assert answer.account.available_micros == 7_000
    assert answer.transfer.kind == Kind.HOLD
    assert books.holds[2].expires_at == answer.transfer.expires_at == NOON + LIFE
    assert books.earned == {}


def test_what_is_held_cannot_be_spent_a_second_time() -> None:
    books = funded(hold(2, 6_000))
    assert refused(books, hold(3, 4_001)) == "insufficient_balance"
    assert refused(books, charge(3, 4_001)) == "insufficient_balance"
    assert money(funded(hold(2, 6_000), hold(3, 4_000))) == (10_000, 10_000)


@pytest.mark.parametrize("make", [hold, charge])
@pytest.mark.parametrize(
    "key",
    [KeyState(KEY, revoked_at=NOON - 1, expires_at=0), KeyState(KEY, 0, expires_at=NOON), KeyState(KEY, 0, expires_at=1), None],
)
def test_a_revoked_expired_or_unknown_key_spends_nothing(make: Spend, key: KeyState | None) -> None:
    books = funded()
    books.api_keys = {KEY: key} if key else {}
    assert refused(books, make(2, 1_000)) == "invalid_api_key"


@pytest.mark.parametrize("make", [hold, charge])
def test_a_key_spends_until_the_microsecond_it_expires(make: Spend) -> None:
    books = funded()
    books.api_keys[KEY] = KeyState(KEY, 0, NOON + 1)
    assert not done(books.one(make(2, 1_000))).replayed


@pytest.mark.parametrize("make", [hold, charge])
def test_a_consumer_without_an_account_spends_nothing(make: Spend) -> None:
    assert refused(funded(), make(2, 0)._replace(consumer_id=99)) == "invalid_api_key"


@pytest.mark.parametrize("make", [hold, charge])
def test_a_negative_amount_is_refused(make: Spend) -> None:
    assert refused(funded(), make(2, -1)) == "invalid_request"


# Capture


@pytest.mark.parametrize("amount", [0, 1_000, 2_999, 3_000])
def test_a_capture_up_to_the_hold_charges_that_much_and_frees_the_rest(amount: int) -> None:
    books = funded(hold(2, 3_000))
    answer = done(books.one(capture(3, amount, of=2)))
    assert money(books) == (START - amount, 0)
    assert sum(books.earned[DEV]) == amount
    assert books.holds == {}
    row = answer.transfer
    assert (row.kind, row.ref_id, row.amount_micros, row.held_micros) == (Kind.CAPTURE, 2, amount, 3_000)
    assert (row.api_key_id, row.tool) == (KEY, "tool")


@pytest.mark.parametrize("amount", [3_001, -1])
def test_a_capture_outside_the_hold_is_refused_and_the_hold_stands(amount: int) -> None:
    books = funded(hold(2, 3_000))
    assert refused(books, capture(3, amount, of=2)) == "capture_exceeds_hold"
    assert money(books) == (10_000, 3_000)


@pytest.mark.parametrize("amount", [1_000, 2_000, 9_999])
def test_a_second_capture_answers_the_first_charge(amount: int) -> None:
    books = funded(hold(2, 3_000), capture(3, 1_000, of=2))
    assert replayed(books, capture(4, amount, of=2)).transfer == books.rows[3]


def test_a_capture_after_a_void_is_refused() -> None:
    assert refused(funded(hold(2, 3_000), void(3, of=2)), capture(4, 1_000, of=2)) == "hold_not_open"


@pytest.mark.parametrize("books", [funded(hold(2, 3_000)), funded(hold(2, 3_000), capture(3, 1_000, of=2))])
def test_a_hold_of_someone_else_is_unknown(books: Books) -> None:
    assert refused(books, capture(4, 1_000, of=2, consumer=BOB)) == "hold_unknown"
    assert refused(books, capture(4, 1_000, of=2, developer=RIVAL)) == "hold_unknown"
    assert refused(books, void(4, of=2, consumer=BOB)) == "hold_unknown"
    assert refused(books, expire(4, of=2, consumer=BOB)) in ("hold_unknown", "hold_not_open")


def test_a_hold_that_was_never_made_is_unknown() -> None:
    books = funded()
    assert refused(books, capture(3, 1_000, of=2)) == "hold_unknown"
    assert refused(books, void(3, of=2)) == "hold_unknown"
    assert refused(books, expire(3, of=2)) == "hold_unknown"


# Void, expire, extend


def test_a_void_gives_the_whole_hold_back() -> None:
    books = funded(hold(2, 3_000))
    answer = done(books.one(void(3, of=2)))
    assert money(books) == (10_000, 0)
    assert (answer.transfer.kind, answer.transfer.ref_id, answer.transfer.held_micros) == (Kind.VOID, 2, 3_000)
    assert books.holds == {}
    assert books.earned == {}


def test_voiding_what_ended_without_a_charge_changes_nothing() -> None:
    books = funded(hold(2, 3_000), void(3, of=2))
    assert replayed(books, void(4, of=2)).transfer == books.rows[3]


def test_what_was_captured_cannot_be_voided_or_expired() -> None:
    books = funded(hold(2, 3_000), capture(3, 1_000, of=2))
    assert refused(books, void(4, of=2)) == "hold_not_open"
    assert refused(books, expire(4, of=2)) == "hold_not_open"


def test_a_hold_expires_when_its_time_has_come_and_not_before() -> None:
    books = funded(hold(2, 3_000))
    books.now = NOON + LIFE - 1
    assert refused(books, expire(3, of=2)) == "hold_not_open"
    books.now = NOON + LIFE
    assert done(books.one(expire(3, of=2))).transfer.kind == Kind.EXPIRE
    assert money(books) == (10_000, 0)
    assert replayed(books, expire(4, of=2)).transfer == replayed(books, void(5, of=2)).transfer == books.rows[3]


def test_an_extended_hold_outlives_its_first_end() -> None:
    books = funded(hold(2, 3_000))
    later = NOON + 2 * LIFE
    assert extended(books, extend(of=2, until=later)) == later
    books.now = NOON + LIFE
    assert refused(books, expire(3, of=2)) == "hold_not_open"
    books.now = later
    assert done(books.one(expire(3, of=2))).transfer.kind == Kind.EXPIRE


@pytest.mark.parametrize("until", [NOON + LIFE, NOON])
def test_a_hold_is_never_shortened(until: int) -> None:
    books = funded(hold(2, 3_000))
    before = deepcopy(books)
    assert extended(books, extend(of=2, until=until)) == NOON + LIFE
    assert books == before


def test_of_several_who_go_on_with_one_hold_one_wins_and_an_old_claim_never_fits_again() -> None:
    books = funded(hold(2, 3_000))
    claim = extend(of=2, until=NOON, since=NOON + LIFE)
    assert extended(books, claim) == NOON + LIFE + 1
    assert refused(books, claim) == "hold_not_open"
    assert extended(books, extend(of=2, until=NOON + 2 * LIFE, since=NOON + LIFE + 1)) == NOON + 2 * LIFE
    assert refused(books, claim) == "hold_not_open"
    assert done(books.one(capture(3, 1_000, of=2))).transfer.amount_micros == 1_000


def test_a_batch_of_claims_on_one_hold_has_one_winner() -> None:
    books = funded(hold(2, 3_000))
    answers = books.run(*[extend(of=2, until=NOON, since=NOON + LIFE)] * 8)
    assert [isinstance(answer, Extended) for answer in answers] == [True] + [False] * 7


def test_only_an_open_hold_of_ones_own_can_be_extended() -> None:
    assert refused(funded(hold(2, 1)), extend(of=2, until=NOON + 2 * LIFE, consumer=BOB)) == "hold_not_open"
    assert refused(funded(hold(2, 1), void(3, of=2)), extend(of=2, until=NOON + 2 * LIFE)) == "hold_not_open"
    assert refused(funded(), extend(of=2, until=NOON + 2 * LIFE)) == "hold_not_open"


# A capture that comes after its hold has expired


def expired(*batch: Command, amount: int = 3_000, key: str = "") -> Books:
    """A hold 2 of Alice that expired as 3, and what happened since."""
    books = funded(hold(2, amount, key=key, fingerprint=key))
    books.now = NOON + LIFE
    for command in (expire(3, of=2), *batch):
        done(books.one(command))
    return books


def test_a_late_capture_becomes_a_charge_if_the_money_is_there() -> None:
    books = expired()
    row = done(books.one(capture(4, 2_000, of=2))).transfer
    assert (row.kind, row.ref_id, row.amount_micros, row.held_micros, row.tool) == (Kind.CHARGE, 2, 2_000, 0, "tool")
    assert money(books) == (8_000, 0)
    assert books.earned == {DEV: (1_940, 60)}


def test_a_late_capture_is_refused_if_the_money_is_gone() -> None:
    assert refused(expired(charge(4, 7_001)), capture(5, 3_000, of=2)) == "hold_not_open"
    assert refused(expired(hold(4, 7_001)), capture(5, 3_000, of=2)) == "hold_not_open"
    assert money(expired(charge(4, 7_000), capture(5, 3_000, of=2))) == (0, 0)


@pytest.mark.parametrize("amount", [3_001, -1])
def test_a_late_capture_too_is_at_most_what_was_held(amount: int) -> None:
    assert refused(expired(), capture(4, amount, of=2)) == "capture_exceeds_hold"


def test_a_late_capture_happens_once() -> None:
    books = expired(capture(4, 2_000, of=2))
    assert replayed(books, capture(5, 2_000, of=2)).transfer == books.rows[4]


@pytest.mark.parametrize("then", [None, capture(5, 1_000, of=4)])
def test_a_late_capture_is_refused_if_its_idempotency_key_was_used_again(then: Command | None) -> None:
    books = expired(hold(4, 1_000, key="k", fingerprint="k"), *([then] if then else []), key="k")
    assert refused(books, capture(6, 2_000, of=2)) == "hold_not_open"


def test_a_late_capture_pays_its_idempotency_key() -> None:
    books = expired(hold(4, 1_000, key="k", fingerprint="k"), void(5, of=4), capture(6, 2_000, of=2, result="sunny"), key="k")
    again = replayed(books, hold(7, 1_000, key="k", fingerprint="k"))
    assert again.transfer == books.rows[6]
    assert again.result == "sunny"


# Idempotency keys


@pytest.mark.parametrize("again", [hold(4, 3_000, key="k", fingerprint="f"), charge(4, 9, key="k", fingerprint="f")])
def test_a_key_that_paid_answers_its_charge_and_its_result_again(again: Command) -> None:
    books = funded(hold(2, 3_000, key="k", fingerprint="f"), capture(3, 1_000, of=2, result="sunny"))
    answer = replayed(books, again)
    assert answer.transfer == books.rows[3]
    assert answer.result == "sunny"
    assert answer.account == books.balances[ALICE]


def test_a_charge_under_one_key_happens_once() -> None:
    books = funded(charge(2, 1_000, key="k", fingerprint="f"))
    assert replayed(books, charge(3, 1_000, key="k", fingerprint="f")).transfer == books.rows[2]


def test_a_result_is_kept_only_for_a_caller_who_sent_a_key() -> None:
    keyed = capture(3, 1_000, of=2, result="sunny")
    assert funded(hold(2, 3_000, key="k"), keyed).results == {3: ("sunny", KEPT_UNTIL)}
    assert funded(hold(2, 3_000), keyed).results == {}
    assert funded(hold(2, 3_000, key="k"), capture(3, 1_000, of=2)).results == {}


@pytest.mark.parametrize(
    "first",
    [
        [hold(2, 1, key="k", fingerprint="one")],
        [hold(2, 1, key="k", fingerprint="one"), capture(3, 1, of=2)],
        [hold(2, 1, key="k", fingerprint="one"), void(3, of=2)],
        [charge(2, 1, key="k", fingerprint="one")],
    ],
    ids=["runs", "captured", "voided", "charged"],
)
def test_one_key_for_two_requests_is_a_conflict_whatever_became_of_the_first(first: list[Command]) -> None:
    books = funded(*first)
    assert refused(books, hold(4, 1, key="k", fingerprint="two")) == "idempotency_conflict"
    assert refused(books, charge(4, 1, key="k", fingerprint="two")) == "idempotency_conflict"


def test_a_second_call_while_the_first_still_runs_is_in_progress() -> None:
    books = funded(hold(2, 1_000, key="k", fingerprint="f"))
    assert refused(books, hold(3, 1_000, key="k", fingerprint="f")) == "in_progress"
    assert refused(books, charge(3, 1_000, key="k", fingerprint="f")) == "in_progress"


def test_a_key_is_free_again_after_its_call_was_voided() -> None:
    books = funded(hold(2, 1_000, key="k", fingerprint="f"), void(3, of=2))
    again = done(books.one(hold(4, 1_000, key="k", fingerprint="f")))
    assert not again.replayed
    assert (books.rows[2].slot, books.rows[3].slot, again.transfer.slot) == (1, -1, 2)
    assert done(books.one(void(5, of=4))).transfer.slot == -2


def test_a_key_is_free_again_after_a_refusal_for_money() -> None:
    books = funded()
    assert refused(books, hold(2, START + 1, key="k", fingerprint="f")) == "insufficient_balance"
    assert not done(books.one(hold(3, START, key="k", fingerprint="f"))).replayed


def test_a_key_belongs_to_one_consumer_and_one_developer() -> None:
    books = funded(charge(2, 1_000, key="k", fingerprint="f"), top_up(3, 1_000, consumer=BOB))
    assert not done(books.one(charge(4, 1_000, key="k", fingerprint="other", developer=RIVAL))).replayed
    assert not done(books.one(charge(5, 1_000, key="k", fingerprint="other", consumer=BOB))).replayed


@pytest.mark.parametrize(
    "again", [hold(3, 1_000, key="k", fingerprint="f"), charge(3, 1_000, key="k", fingerprint="f")], ids=["hold", "charge"]
)
def test_a_revoked_key_gets_no_answer_that_it_paid_before(again: Command) -> None:
    """Reliability 3.2: the key is authenticated first; whoever stole it must not read what its owner bought."""
    books = funded(charge(2, 1_000, key="k", fingerprint="f"))
    books.api_keys[KEY] = KeyState(KEY, NOON, 0)
    assert code(books.one(again)) == "invalid_api_key"
    assert money(books) == (9_000, 0)


# Refund


def test_a_whole_refund_returns_the_charge_with_its_whole_fee() -> None:
    books = funded(charge(2, 1_001))
    row = done(books.one(refund(3, 1_001, of=2))).transfer
    assert money(books) == (10_000, 0)
    assert books.earned == {DEV: (0, 0)}
    assert (row.kind, row.ref_id, row.amount_micros, row.fee_micros, row.fee_bps) == (Kind.REFUND, 2, 1_001, 30, FEE_BPS)
    assert (row.api_key_id, row.tool, row.key) == (KEY, "tool", "return")


def test_a_capture_can_be_refunded_like_any_charge() -> None:
    books = funded(hold(2, 3_000), capture(3, 1_000, of=2), refund(4, 1_000, of=3))
    assert money(books) == (10_000, 0)


def test_refunds_in_parts_return_the_fee_in_proportion_and_the_whole_of_it_at_the_end() -> None:
    books = funded(charge(2, 100))
    assert books.rows[2].fee_micros == 3
    fees = [done(books.one(refund(3 + n, 10, of=2, key=f"part {n}"))).transfer.fee_micros for n in range(10)]
    assert fees == [0, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert books.earned == {DEV: (0, 0)}
    assert refused(books, refund(20, 1, of=2)) == "refund_exceeds_charge"


@pytest.mark.parametrize("amount", [1_001, 0, -1])
def test_a_refund_is_above_zero_and_at_most_the_charge(amount: int) -> None:
    assert refused(funded(charge(2, 1_000)), refund(3, amount, of=2)) == "refund_exceeds_charge"


def test_refunds_sum_to_at_most_the_charge() -> None:
    books = funded(charge(2, 1_000), refund(3, 600, of=2))
    assert refused(books, refund(4, 401, of=2, key="another")) == "refund_exceeds_charge"
    assert not done(books.one(refund(4, 400, of=2, key="another"))).replayed


def test_a_charge_of_nothing_has_nothing_to_refund() -> None:
    assert refused(funded(charge(2, 0)), refund(3, 1, of=2)) == "refund_exceeds_charge"


def test_a_refund_under_one_key_happens_once() -> None:
    books = funded(charge(2, 1_000), refund(3, 600, of=2))
    assert replayed(books, refund(4, 600, of=2)).transfer == books.rows[3]


def test_a_refund_under_a_key_that_did_something_else_is_a_conflict() -> None:
    books = funded(charge(2, 1_000), charge(3, 1_000, key="call"), refund(4, 600, of=2))
    assert refused(books, refund(5, 500, of=2)) == "idempotency_conflict"
    assert refused(books, refund(5, 600, of=3)) == "idempotency_conflict"
    assert refused(books, refund(5, 1_000, of=3, key="call")) == "idempotency_conflict"


def test_a_refund_never_takes_the_idempotency_key_of_a_call_that_runs() -> None:
    books = funded(charge(2, 1_000), hold(3, 1_000, key="call", fingerprint="f"))
    assert refused(books, refund(4, 1_000, of=2, key="call")) in ("idempotency_conflict", "in_progress")


def test_a_charge_of_someone_else_is_not_found() -> None:
    books = funded(charge(2, 1_000), hold(3, 1_000))
    assert refused(books, refund(4, 1_000, of=2, consumer=BOB)) == "not_found"
    assert refused(books, refund(4, 1_000, of=2, developer=RIVAL)) == "not_found"
    assert refused(books, refund(4, 1_000, of=3)) == "not_found"
    assert refused(books, refund(4, 1_000, of=9)) == "not_found"


def test_a_refund_never_lifts_a_balance_above_its_bound() -> None:
    books = funded(charge(2, 1_000), balance=MAX_BALANCE_MICROS)
    done(books.one(top_up(3, 1_000, key="second")))
    assert refused(books, refund(4, 1, of=2)) == "invalid_request"


# Top-up


def test_a_top_up_is_credited_once_per_payment() -> None:
    books = funded(balance=0)
    first = done(books.one(top_up(2, 5_000)))
    assert (first.transfer.kind, first.transfer.developer_id) == (Kind.TOP_UP, 0)
    assert first.account == Account(ALICE, 5_000, 0)
    assert replayed(books, top_up(3, 5_000)).transfer == books.rows[2]
    assert money(books) == (5_000, 0)


def test_a_payment_of_another_amount_under_the_same_key_is_a_conflict() -> None:
    assert refused(funded(), top_up(2, START + 1)) == "idempotency_conflict"


def test_each_payment_is_credited() -> None:
    assert money(funded(top_up(2, 1, key="second"), top_up(3, 1, key="third"))) == (START + 2, 0)


@pytest.mark.parametrize("amount", [0, -1, MAX_BALANCE_MICROS - START + 1])
def test_a_top_up_is_above_zero_and_keeps_the_balance_within_its_bound(amount: int) -> None:
    assert refused(funded(), top_up(2, amount, key="second")) == "invalid_request"


def test_a_top_up_can_fill_a_balance_to_its_bound() -> None:
    assert money(funded(balance=MAX_BALANCE_MICROS)) == (MAX_BALANCE_MICROS, 0)


def test_a_top_up_of_nobody_is_not_found() -> None:
    assert refused(funded(), top_up(2, 1, consumer=99)) == "not_found"


# Batches


def test_a_second_command_of_a_batch_sees_what_the_first_did() -> None:
    books = funded()
    answers = books.run(hold(2, 6_000), hold(3, 6_000), void(4, of=2), hold(5, 6_000))
    assert [isinstance(each, Done) for each in answers] == [True, False, True, True]
    assert code(answers[1]) == "insufficient_balance"
    assert money(books) == (10_000, 6_000)
    assert list(books.holds) == [5]


def test_two_uses_of_one_key_in_a_batch_charge_once() -> None:
    books = funded()
    first, second = books.run(charge(2, 1_000, key="k", fingerprint="f"), charge(3, 1_000, key="k", fingerprint="f"))
    assert done(second).transfer == done(first).transfer
    assert (done(first).replayed, done(second).replayed) == (False, True)
    assert money(books) == (9_000, 0)


def test_a_hold_can_live_and_die_within_one_batch() -> None:
    books = funded(hold(2, 3_000), extend(of=2, until=NOON + 2 * LIFE), capture(3, 1_000, of=2), refund(4, 400, of=3))
    assert money(books) == (9_400, 0)
    assert books.holds == {}


def test_the_charges_of_a_consumer_form_a_chain() -> None:
    books = funded(charge(2, 1_000), hold(4, 500), capture(5, 500, of=4), charge(6, 1_000))
    assert [books.rows[number].prev_id for number in (2, 4, 5, 6)] == [0, 0, 2, 5]
    assert books.balances[ALICE].last_charge_id == 6


def test_each_answer_shows_the_account_right_after_its_command() -> None:
    answers = funded().run(charge(2, 1_000), charge(3, 2_000), hold(4, 500))
    assert [done(each).account for each in answers] == [
        Account(ALICE, 9_000, 0, last_charge_id=2),
        Account(ALICE, 7_000, 0, last_charge_id=3),
        Account(ALICE, 7_000, 500, last_charge_id=3),
    ]


def test_a_replay_within_one_batch_brings_the_result_too() -> None:
    first = hold(2, 1_000, key="k", fingerprint="f")
    *_, again = funded().run(first, capture(3, 1_000, of=2, result="sunny"), first._replace(id=4))
    assert done(again).replayed
    assert done(again).result == "sunny"


def test_two_refunds_of_one_batch_sum_to_at_most_the_charge() -> None:
    *_, second = funded(charge(2, 1_000)).run(refund(3, 600, of=2), refund(4, 600, of=2, key="another"))
    assert code(second) == "refund_exceeds_charge"


def test_two_late_captures_of_one_batch_charge_once() -> None:
    first, second = expired().run(capture(4, 2_000, of=2), capture(5, 2_000, of=2))
    assert done(second).transfer == done(first).transfer
    assert done(second).replayed


def test_consumers_of_one_batch_do_not_touch_each_other() -> None:
    books = funded(top_up(2, 1_000, consumer=BOB), charge(3, 1_000, consumer=BOB), charge(4, 1_000, developer=RIVAL))
    assert (money(books), money(books, BOB)) == ((9_000, 0), (0, 0))
    assert books.earned == {DEV: (970, 30), RIVAL: (970, 30)}


def test_a_batch_that_was_committed_unseen_answers_the_same_and_moves_nothing_twice() -> None:
    batch: list[Command] = [
        hold(2, 3_000, key="k", fingerprint="f"),
        extend(of=2, until=NOON + LIFE + SECOND),
        capture(3, 1_000, of=2),
        charge(4, START),
        charge(5, 500),
        top_up(6, 100, key="second"),
    ]
    books = funded()
    first = books.run(*batch)
    after = deepcopy(books)
    again = books.run(*batch, repeated=True)
    assert books == after
    assert [each.transfer for each in again if isinstance(each, Done)] == [
        each.transfer for each in first if isinstance(each, Done)
    ]
    assert code(again[1]) == "hold_not_open"
    assert code(again[3]) == code(first[3]) == "insufficient_balance"


def test_a_batch_whose_commit_was_lost_is_judged_anew() -> None:
    books = funded()
    first = done(books.run(charge(2, 1_000), repeated=True)[0])
    assert first.transfer.id == 2
    assert money(books) == (9_000, 0)


def test_only_a_repeated_batch_asks_what_it_wrote_before() -> None:
    batch: list[Command] = [charge(2, 1_000), extend(of=9, until=NOON)]
    assert needs(batch).written == []
    assert needs(batch, repeated=True).written == [2]


def test_a_batch_without_effect_needs_no_writing() -> None:
    assert decide([], State(), NOON).is_empty
    assert decide([void(2, of=1)], State(), NOON).is_empty
    assert not Decision(extended={(PART, 1): NOON}).is_empty
