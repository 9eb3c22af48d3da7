"""The audit: every sentence it can say is provoked by the smallest ledger that deserves it (reliability.md section 5)."""

import json

import pytest

from payre_mcp.ledger.audit import OVERDUE_US, AuditReport, audit
from payre_mcp.ledger.metering import MOST_COUNTED
from payre_mcp.ledger.model import CHARGES, HOLD_ENDS, Account, Command, Kind, Transfer, born
from payre_mcp.pricing import Price
from tests.ledger.commands import (
    ALICE,
    BOB,
    DEV,
    LIFE,
    NOON,
    PART,
    RIVAL,
    Books,
    capture,
    charge,
    chargeback,
    come_back,
    cost,
    done,
    expire,
    give_back,
    hold,
    metered,
    payout,
    refund,
    spend,
    top_up,
    void,
)

SIGN = {
    Kind.CHARGE: -1, Kind.CAPTURE: -1, Kind.REFUND: 1, Kind.TOP_UP: 1, Kind.RETURN: -1, Kind.CHARGEBACK: -1, Kind.COME_BACK: 1,
}  # fmt: skip
"""What a row's amount does to the consumer's balance."""

OF_A_BALANCE = {"developer_id": 0, "key": "out"}
OWNED: dict[int, dict[str, int | str]] = {
    Kind.TOP_UP: {"developer_id": 0},
    Kind.RETURN: OF_A_BALANCE,
    Kind.CHARGEBACK: OF_A_BALANCE,
    Kind.COST: OF_A_BALANCE,
    Kind.PAYOUT: {"consumer_id": 0, "key": "out"},
    Kind.COME_BACK: {**OF_A_BALANCE, "slot": -1},
}
"""Whose a row is, where it is not of a consumer and a developer."""


def written(*batch: Command) -> Books:
    """A ledger that the kernel wrote: Alice has a thousand micros, then the batch, when holds may expire."""
    books = Books(now=NOON + LIFE, balances={ALICE: Account(ALICE, 0, 0)})
    for answer in books.run(top_up(1, 1_000), *batch):
        done(answer)
    return books


def row(number: int, kind: int, amount: int = 0, **columns: int | str) -> Transfer:
    blank = Transfer(PART, number, int(kind), ALICE, 0, 0, amount, 0, 0, 0, "", 0, "", 0, "", NOON, NOON, "")
    return blank._replace(**{"developer_id": DEV, "detail": "{}" if kind in CHARGES else "", **OWNED.get(kind, {}), **columns})


def earned_by(row: Transfer) -> tuple[int, int]:
    """What a row does to earnings and fees."""
    amount, fee = row.amount_micros, row.fee_micros
    match row.kind:
        case Kind.CHARGE | Kind.CAPTURE:
            return amount - fee, fee
        case Kind.REFUND:
            return fee - amount, -fee
        case Kind.TOP_UP:
            return 0, fee
        case Kind.COST:
            return 0, -amount
        case Kind.PAYOUT:
            return -amount, 0
        case Kind.COME_BACK:
            return 0 if row.consumer_id else amount, 0
        case _:
            return 0, 0


def forged(*rows: Transfer) -> Books:
    """A ledger of rows by hand, whose sums agree with them: only the rows themselves can be wrong."""
    books = Books()
    for each in rows:
        books.rows[each.id] = each
        sign = SIGN.get(Kind(each.kind), 0) if each.kind in set(Kind) else 0
        _, balance, held, last = books.balances.get(each.consumer_id, Account(0, 0, 0))
        last ^= (each.id ^ each.prev_id) if each.kind in CHARGES else 0
        held += each.amount_micros if each.kind == Kind.HOLD else -each.held_micros
        balance += sign * each.amount_micros - (each.fee_micros if each.kind == Kind.TOP_UP else 0)
        if each.consumer_id:
            books.balances[each.consumer_id] = Account(each.consumer_id, balance, held, last)
        earned, fees = (a + b for a, b in zip(books.earned.get(each.developer_id, (0, 0)), earned_by(each), strict=True))
        books.earned[each.developer_id] = (earned, fees)
        if each.kind == Kind.HOLD:
            books.holds[each.id] = born(each)
        elif each.kind in HOLD_ENDS:
            books.holds.pop(each.ref_id, None)
    return books


NOT_CONSERVED = "money is not conserved: top-ups differ from balances, earnings, fees and what left"


def violations(books: Books) -> list[str]:
    report = audit(books, books.now)
    assert report.ok == (not report.violations)
    return report.violations


PAYMENT = row(1, Kind.TOP_UP, 100)
CHARGE = row(2, Kind.CHARGE, 100, fee_micros=3, fee_bps=300)
RETURN = row(3, Kind.RETURN, 20)
CHARGEBACK = row(4, Kind.CHARGEBACK, 60, key="dispute")
COST = row(5, Kind.COST, 15, key="fee")
PAYOUT = row(6, Kind.PAYOUT, 70)
BACK = row(7, Kind.COME_BACK, 20, ref_id=3)
WON = row(8, Kind.COME_BACK, 25, ref_id=4, key="dispute")
REVERSED = row(9, Kind.COME_BACK, 70, ref_id=6, consumer_id=0, developer_id=DEV)
BORDER = (RETURN, CHARGEBACK, COST, PAYOUT, BACK, WON, REVERSED)


def test_an_empty_ledger_is_sound() -> None:
    assert audit(Books(), NOON) == AuditReport()


def test_a_sound_ledger_is_reported_in_figures() -> None:
    books = written(
        hold(2, 300),
        capture(3, 200, of=2),
        hold(4, 100),
        void(5, of=4),
        charge(6, 100, developer=RIVAL),
        refund(7, 50, of=6, developer=RIVAL),
        hold(8, 400, key="k"),
    )
    assert audit(books, NOON) == AuditReport(
        transfers=8,
        charges=2,
        topped_up_micros=1_000,
        balances_micros=750,
        held_micros=400,
        earned_micros=242,
        fees_micros=8,
        open_holds=1,
    )


def test_what_crossed_the_border_is_reported_in_figures_without_what_came_back() -> None:
    books = written(
        top_up(2, 500, key="more", fee=40),
        charge(3, 1_000, developer=RIVAL),
        give_back(4, 300, key="unspent"),
        chargeback(5, 600, key="dispute"),
        cost(6, 45, key="fee"),
        payout(7, 700, developer=RIVAL),
        come_back(8, 10, of=give_back(4, 300, key="unspent")),
        come_back(9, 200, of=chargeback(5, 600, key="dispute")),
        come_back(10, 30, of=payout(7, 700, developer=RIVAL)),
        come_back(11, 50, of=payout(7, 700, developer=RIVAL)),
    )
    report = audit(books, NOON)
    assert report == AuditReport(
        transfers=11,
        charges=1,
        topped_up_micros=1_540,
        balances_micros=-190,
        earned_micros=970 - 650,
        fees_micros=30 + 40 - 45,
        returned_micros=290,
        charged_back_micros=400,
        paid_out_micros=650,
        costs_micros=45,
    )
    report.add(report)
    assert (report.topped_up_micros, report.paid_out_micros, report.costs_micros) == (3_080, 1_300, 90)


def test_a_late_charge_of_an_expired_hold_is_sound() -> None:
    assert violations(written(hold(2, 300), expire(3, of=2), capture(4, 200, of=2))) == []


def test_rows_by_hand_can_be_sound() -> None:
    assert violations(forged(PAYMENT, CHARGE, row(3, Kind.REFUND, 100, ref_id=2, fee_micros=3))) == []
    assert violations(forged(PAYMENT._replace(fee_micros=40), *BORDER)) == []


# One row


def test_a_kind_that_nobody_knows_is_a_violation() -> None:
    assert violations(forged(row(1, 99))) == ["transfer 1 has the unknown kind 99"]


@pytest.mark.parametrize("amount", [0, -5])
def test_a_top_up_of_nothing_is_a_violation(amount: int) -> None:
    assert "top-up 1 is not above zero" in violations(forged(row(1, Kind.TOP_UP, amount)))


def test_a_top_up_that_is_all_fee_is_a_violation() -> None:
    assert violations(forged(PAYMENT._replace(fee_micros=100))) == ["top-up 1 is not above zero"]


@pytest.mark.parametrize("fee", [-1, 101])
def test_a_fee_below_zero_or_above_what_was_paid_is_a_violation(fee: int) -> None:
    sentence = "transfer 1 has an amount or a fee below zero, or a fee above its amount"
    assert sentence in violations(forged(PAYMENT._replace(fee_micros=fee)))


def test_a_fee_that_is_not_the_rule_is_a_violation() -> None:
    assert violations(forged(PAYMENT, CHARGE._replace(fee_micros=4))) == ["charge 2 has fee 4 of 100 at 300 bps"]


def test_a_charge_without_a_receipt_is_a_violation() -> None:
    assert violations(forged(PAYMENT, CHARGE._replace(detail=""))) == ["charge 2 has no receipt"]


@pytest.mark.parametrize("kind", [Kind.HOLD, Kind.CHARGE, Kind.CAPTURE, Kind.REFUND])
def test_a_negative_amount_is_a_violation_and_never_stops_the_audit(kind: Kind) -> None:
    back = {Kind.CAPTURE: 3, Kind.REFUND: 2}.get(kind, 0)
    assert violations(forged(PAYMENT, CHARGE, row(3, Kind.HOLD), row(4, kind, -5, ref_id=back))) != []


# Metered prices

STEPS = Price.tiered("requests", [(1, "0.0001"), (None, "0.00005")]).plan("")
PAGES = Price.per("pages", 3, usage="0.0001", max_units=5).plan("")


def retold(books: Books, number: int, **changes: object) -> Books:
    """The ledger, with the terms of one row changed."""
    changed = books.rows[number]
    books.rows[number] = changed._replace(terms=json.dumps({**json.loads(changed.terms), **changes}))
    return books


def metered_books() -> Books:
    """Two metered calls that are charged, 5 and 6, and one that still runs; a counter of what was used."""
    return written(
        metered(2, STEPS), metered(3, PAGES), metered(4, STEPS), spend(5, STEPS, of=2), spend(6, PAGES, {"pages": 2}, of=3)
    )


def test_metered_calls_are_sound_open_charged_given_back_and_late() -> None:
    books = metered_books()
    assert violations(books) == []
    assert sorted(books.counted.values()) == [(1, 1)]
    books.run(expire(7, of=4), spend(8, STEPS, of=4), refund(9, 40, of=5))
    assert violations(books) == []
    assert sorted(books.counted.values()) == [(2, 0)]


@pytest.mark.parametrize(
    "changes",
    [
        {"lines": [["pages", 2, "65"]]},
        {"lines": [["pages", 2, "67000001/1000000"]]},
        {"lines": []},
        {"min_micros": 68},
        {"shortfall_micros": 1},
        {"shortfall_micros": -1},
    ],
)
def test_a_metered_charge_that_its_lines_do_not_add_up_to_is_a_violation(changes: dict[str, object]) -> None:
    assert violations(retold(metered_books(), 6, **changes)) == ["charge 6 is not what its lines add up to"]


def test_a_charge_is_its_lines_rounded_up_once_and_lifted_to_the_least_charge() -> None:
    books = metered_books()
    assert books.rows[6].amount_micros == 67
    for changes in (
        {"lines": [["pages", 1, "133/2"], ["pages", 1, "1/4"]]},
        {"lines": [["pages", 1, "1/9"]], "min_micros": 67},
        {"lines": [["pages", 2, "80"]], "shortfall_micros": 13},
    ):
        assert violations(retold(metered_books(), 6, **changes)) == []


def test_a_call_without_usage_was_priced_by_policy_and_has_no_lines_to_add_up() -> None:
    plan = Price.per("pages", usage="0.0001", max_units=5, missing_usage="ceiling").plan("")
    books = written(metered(2, plan), spend(3, plan, {}, of=2))
    assert books.rows[3].amount_micros == 500
    assert violations(books) == []


COUNTER, DIFFERS = (
    '[41,"tool","tool","","requests","month"]',
    f"consumer {ALICE}: the counter {{}} differs from the sum of its calls",
)


@pytest.mark.parametrize("stored", [(0, 1), (2, 1), (1, 0), (1, 2), (1, -1), (-1, 1), (0, 0)])
def test_a_counter_that_its_calls_do_not_explain_is_a_violation(stored: tuple[int, int]) -> None:
    books = metered_books()
    (place,) = books.counted
    books.counted[place] = stored
    assert violations(books) == [DIFFERS.format(COUNTER)]


def test_a_counter_that_no_call_moved_is_a_violation_unless_it_is_at_zero() -> None:
    books = metered_books()
    books.counted[BOB, COUNTER, 0] = (0, 0)
    assert violations(books) == []
    books.counted[BOB, COUNTER, 0] = (0, 1)
    assert violations(books) == [f"consumer {BOB}: the counter {COUNTER} differs from the sum of its calls"]


@pytest.mark.parametrize("end", [[], [void(7, of=4)]], ids=["a call still runs", "none runs"])
def test_usage_that_no_counter_holds_is_a_violation(end: list[Command]) -> None:
    books = metered_books()
    books.run(*end)
    books.counted = {}
    assert violations(books) == ["the journal counts usage that no counter holds"]


def test_a_reservation_that_no_counter_holds_is_a_violation() -> None:
    books = written(metered(2, STEPS))
    assert violations(books) == []
    books.counted = {}
    assert violations(books) == ["the journal counts usage that no counter holds"]


def test_a_counter_of_another_window_does_not_explain_a_call() -> None:
    books = metered_books()
    ((consumer, name, start),) = books.counted
    books.counted = {(consumer, name, start + 1): (1, 1)}
    assert set(violations(books)) == {DIFFERS.format(COUNTER), "the journal counts usage that no counter holds"}


def test_a_counter_that_stopped_at_the_most_is_sound() -> None:
    books = metered_books()
    (place,) = books.counted
    books.counted[place] = (MOST_COUNTED, 1)
    books = retold(books, 5, counters=[[*place[1:], MOST_COUNTED + 7]])
    assert violations(books) == []
    books.counted[place] = (MOST_COUNTED - 1, 1)
    assert violations(books) == [DIFFERS.format(COUNTER)]


def test_an_open_hold_with_other_terms_than_its_row_is_a_violation() -> None:
    books = metered_books()
    books.holds[4] = books.holds[4]._replace(terms=books.holds[4].terms.replace(STEPS.version, PAGES.version))
    assert violations(books) == ["the open hold 4 differs from its row in the journal"]


@pytest.mark.parametrize(
    "terms", ["nonsense", "{}", "[]", "7", '{"counters":[[1]]}', '{"counters":[],"missing":[],"lines":[["pages",1,"1/0"]]}']
)
def test_terms_that_cannot_be_read_are_a_violation_and_never_stop_the_audit(terms: str) -> None:
    books = metered_books()
    books.rows[6] = books.rows[6]._replace(terms=terms)
    assert violations(books) != []


@pytest.mark.parametrize("terms", ["nonsense", "{}", "[]", '{"counters":[[1]]}'])
def test_an_open_hold_whose_terms_cannot_be_read_is_a_violation_and_never_stops_the_audit(terms: str) -> None:
    books = metered_books()
    books.holds[4] = books.holds[4]._replace(terms=terms)
    assert violations(books) != []


# Refunds and ends


@pytest.mark.parametrize(("amount", "fee"), [(101, 3), (100, 4)])
def test_a_refund_above_its_charge_or_its_fee_is_a_violation(amount: int, fee: int) -> None:
    books = forged(PAYMENT, CHARGE, row(3, Kind.REFUND, amount, ref_id=2, fee_micros=fee))
    assert violations(books) == ["charge 2 was refunded by more than its amount or its fee"]


def test_refunds_that_sum_to_more_than_their_charge_are_a_violation() -> None:
    books = forged(PAYMENT, CHARGE, row(3, Kind.REFUND, 60, ref_id=2), row(4, Kind.REFUND, 60, ref_id=2))
    assert violations(books) == ["charge 2 was refunded by more than its amount or its fee"]


def test_a_refund_of_what_was_never_charged_is_a_violation() -> None:
    books = forged(PAYMENT, row(3, Kind.REFUND, 60, ref_id=2))
    assert "charge 2 was refunded and does not exist" in violations(books)


def test_an_end_without_its_hold_is_a_violation() -> None:
    assert violations(forged(row(2, Kind.VOID, ref_id=1))) == ["hold 1 was ended, and was never made or ended before"]


def test_a_second_end_of_one_hold_is_a_violation() -> None:
    books = forged(row(1, Kind.HOLD), row(2, Kind.VOID, ref_id=1), row(3, Kind.EXPIRE, ref_id=1))
    assert violations(books) == ["hold 1 was ended, and was never made or ended before"]


def test_the_order_of_rows_does_not_matter_as_processes_have_different_clocks() -> None:
    made, ended = row(9, Kind.HOLD, 5), row(3, Kind.EXPIRE, 5, ref_id=9, held_micros=5)
    assert violations(forged(PAYMENT, made, ended)) == []
    assert violations(forged(PAYMENT, made, ended, row(2, Kind.CHARGE, 5, ref_id=9))) == []
    assert violations(forged(PAYMENT, made._replace(developer_id=RIVAL), ended)) == ["the end of hold 9 does not fit it"]
    twice = forged(PAYMENT, made, ended, ended._replace(id=4))
    assert "transfer 4 ends hold 9, which ended before" in violations(twice)


@pytest.mark.parametrize("columns", [{"developer_id": RIVAL}, {"amount_micros": 6}, {"consumer_id": BOB}, {"held_micros": 6}])
def test_an_end_that_differs_from_its_hold_is_a_violation(columns: dict[str, int]) -> None:
    end = row(3, Kind.VOID, 5, ref_id=2, held_micros=5)._replace(**columns)
    assert any(
        each.startswith("transfer 3 does not fit its hold 2") for each in violations(forged(PAYMENT, row(2, Kind.HOLD, 5), end))
    )


@pytest.mark.parametrize(
    ("batch", "amount"),
    [
        ([hold(2, 300)], 300),
        ([hold(2, 300), capture(3, 200, of=2)], 100),
        ([hold(2, 300), void(3, of=2)], 300),
        ([hold(2, 300), expire(3, of=2), capture(4, 200, of=2)], 100),
        ([hold(2, 300), expire(3, of=2)], 301),
        ([], 1),
    ],
    ids=["still open", "captured", "voided", "charged late before", "above what was held", "never made"],
)
def test_a_late_charge_of_a_hold_that_may_not_be_charged_is_a_violation(batch: list[Command], amount: int) -> None:
    """Reliability I9: no capture without its hold, at most what was held, and once."""
    late = row(9, Kind.CHARGE, amount, ref_id=2)
    assert violations(forged(*written(*batch).history(), late)) != []


# What crossed the border


@pytest.mark.parametrize("sent", [RETURN, CHARGEBACK, COST, PAYOUT])
def test_one_micro_may_come_in_and_one_may_go_out(sent: Transfer) -> None:
    assert violations(forged(PAYMENT._replace(amount_micros=1), sent._replace(amount_micros=1))) == []


@pytest.mark.parametrize("sent", [RETURN, CHARGEBACK, COST, PAYOUT])
@pytest.mark.parametrize("columns", [{"amount_micros": 0}, {"amount_micros": -5}, {"key": ""}])
def test_sending_nothing_or_without_a_name_is_a_violation(sent: Transfer, columns: dict[str, int | str]) -> None:
    sentence = f"transfer {sent.id} sends nothing, or sends it without a name"
    assert sentence in violations(forged(PAYMENT, sent._replace(**columns)))


@pytest.mark.parametrize(
    ("sent", "columns"),
    [
        (RETURN, {"developer_id": DEV}),
        (CHARGEBACK, {"developer_id": DEV}),
        (COST, {"developer_id": DEV}),
        (COST, {"consumer_id": 0}),
        (PAYOUT, {"developer_id": 0}),
        (PAYOUT, {"consumer_id": ALICE}),
        (PAYOUT, {"consumer_id": ALICE, "developer_id": 0}),
    ],
)
def test_sending_what_is_not_of_one_consumer_or_one_developer_is_a_violation(sent: Transfer, columns: dict[str, int]) -> None:
    """The double-entry lines tell a payout that comes back from a return by there being no consumer."""
    books = forged(PAYMENT, sent._replace(**columns))
    assert violations(books) == [f"transfer {sent.id} is not of one whose money it may send"]


@pytest.mark.parametrize(("sent", "back"), [(RETURN, BACK), (CHARGEBACK, WON), (PAYOUT, REVERSED)])
def test_more_that_came_back_than_was_sent_is_a_violation(sent: Transfer, back: Transfer) -> None:
    broken = [f"more of transfer {sent.id} came back than was sent"]
    assert violations(forged(PAYMENT, sent, back._replace(amount_micros=sent.amount_micros))) == []
    assert violations(forged(PAYMENT, sent, back._replace(amount_micros=sent.amount_micros + 1))) == broken
    rest = sent.amount_micros - back.amount_micros + 1
    assert violations(forged(PAYMENT, sent, back, back._replace(id=10, slot=-2, amount_micros=rest))) == broken


@pytest.mark.parametrize(
    "place", [{"ref_id": 0}, {"ref_id": 99}, {"ref_id": 1}, {"ref_id": 2}, {"ref_id": 5}, {"part": PART + 1}],
    ids=["nothing", "what is not there", "a top-up", "a charge", "a cost", "what is elsewhere"],
)  # fmt: skip
def test_money_that_came_back_of_what_was_not_sent_is_a_violation(place: dict[str, int]) -> None:
    back = BACK._replace(**place)
    books = forged(PAYMENT._replace(amount_micros=200), CHARGE, RETURN, COST, back)
    assert f"money came back of transfer {back.ref_id}, which sent none" in violations(books)


@pytest.mark.parametrize(
    ("sent", "back"),
    [
        (RETURN, BACK._replace(consumer_id=BOB)),
        (RETURN, BACK._replace(developer_id=DEV)),
        (RETURN, BACK._replace(consumer_id=0, developer_id=DEV)),
        (RETURN, BACK._replace(key="other")),
        (PAYOUT, REVERSED._replace(developer_id=RIVAL)),
        (PAYOUT, REVERSED._replace(consumer_id=ALICE)),
        (PAYOUT, REVERSED._replace(key="other")),
    ],
)
def test_what_came_back_to_another_than_had_sent_it_is_a_violation(sent: Transfer, back: Transfer) -> None:
    sentence = f"what came back of transfer {sent.id} is not of the one who had sent it"
    assert sentence in violations(forged(PAYMENT, sent, back))


def test_money_may_come_back_before_it_was_sent_as_processes_have_different_clocks() -> None:
    assert violations(forged(PAYMENT, *(each._replace(id=12 - each.id, ref_id=12 - each.ref_id) for each in BORDER))) == []


@pytest.mark.parametrize("sent", [RETURN, CHARGEBACK, COST, PAYOUT])
def test_what_left_and_is_missing_from_no_sum_is_a_violation(sent: Transfer) -> None:
    books = forged(PAYMENT)
    books.rows[sent.id] = sent
    assert NOT_CONSERVED in violations(books)


@pytest.mark.parametrize("rows", [[PAYMENT._replace(fee_micros=40)], [PAYMENT, COST], [PAYMENT, PAYOUT]])
def test_fees_and_payouts_that_no_earnings_hold_are_a_violation(rows: list[Transfer]) -> None:
    books = forged(*rows)
    books.earned = {}
    assert violations(books) == ["the journal pays a developer who has no earnings", NOT_CONSERVED]


# Idempotency keys


def test_a_key_that_pays_twice_is_a_violation() -> None:
    books = forged(row(1, Kind.CHARGE, key="k"), row(2, Kind.CHARGE, key="k"))
    assert violations(books) == ["transfer 2 pays an idempotency key that paid before"]


def test_a_key_may_pay_once_for_each_consumer_and_developer() -> None:
    first = row(1, Kind.CHARGE, key="k")
    assert violations(forged(first, first._replace(id=2, developer_id=RIVAL), first._replace(id=3, consumer_id=BOB))) == []


def test_a_key_that_was_tried_again_after_a_void_is_sound() -> None:
    assert violations(written(hold(2, 5, key="k"), void(3, of=2), hold(4, 5, key="k"), capture(5, 5, of=4))) == []


# Accounts and earnings


def test_a_stored_balance_that_no_rows_explain_is_a_violation() -> None:
    books = written()
    books.balances[ALICE] = Account(ALICE, 1_001, 0)
    assert violations(books) == [
        f"account {ALICE}: the stored balance differs from the sum of its rows",
        NOT_CONSERVED,
    ]


def test_money_held_that_no_hold_explains_is_a_violation() -> None:
    books = written()
    books.balances[ALICE] = Account(ALICE, 1_000, 1)
    assert violations(books) == [f"account {ALICE}: what is held differs from its open holds"]


@pytest.mark.parametrize(
    "rows",
    [
        [row(1, Kind.TOP_UP, 10), row(2, Kind.CHARGE, 11)],
        [row(1, Kind.TOP_UP, 10), row(2, Kind.HOLD, 11)],
        [row(1, Kind.TOP_UP, 10), row(2, Kind.HOLD, -1)],
    ],
    ids=["spent", "held", "held below zero"],
)
def test_an_overdrawn_account_is_a_violation(rows: list[Transfer]) -> None:
    assert f"account {ALICE} is overdrawn" in violations(forged(*rows))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(7, Kind.TOP_UP, 30, key="more"), row(8, Kind.CHARGE, 30)],
        [row(7, Kind.CHARGEBACK, 40, key="another")],
        [WON],
        [WON._replace(amount_micros=60)],
    ],
    ids=["one", "one and what was topped up since is spent", "two", "one that was won in part", "one that was won"],
)
def test_what_was_charged_back_explains_so_much_of_a_debt_and_no_more(rows: list[Transfer]) -> None:
    """Whoever had spent all before it owes as much as was charged back and did not come back; nobody owes more."""
    ledger = [PAYMENT, row(2, Kind.CHARGE, 100), CHARGEBACK, *rows]
    assert violations(forged(*ledger)) == []
    for more in (row(9, Kind.CHARGE, 1, prev_id=2), row(9, Kind.HOLD, 1), row(9, Kind.RETURN, 1)):
        assert f"account {ALICE} is overdrawn" in violations(forged(*ledger, more))


def test_another_consumers_dispute_explains_no_debt() -> None:
    books = forged(PAYMENT, CHARGEBACK._replace(consumer_id=BOB), row(9, Kind.RETURN, 101))
    assert violations(books) == [f"account {ALICE} is overdrawn"]


@pytest.mark.parametrize("rows", [[PAYMENT], [row(1, Kind.HOLD, 5)]])
def test_money_of_an_account_that_does_not_exist_is_a_violation(rows: list[Transfer]) -> None:
    books = forged(*rows)
    books.balances = {}
    assert "the journal moves money of an account that does not exist" in violations(books)


@pytest.mark.parametrize("earned", [(96, 3), (98, 3), (97, 2), (96, 4)])
def test_earnings_that_no_rows_explain_are_a_violation(earned: tuple[int, int]) -> None:
    books = forged(PAYMENT, CHARGE)
    books.earned = {DEV: earned}
    assert f"developer {DEV}: earnings or fees differ from the sum of their rows" in violations(books)


@pytest.mark.parametrize("columns", [{}, {"fee_bps": 10_000, "fee_micros": 100}])
def test_a_charge_for_a_developer_without_earnings_is_a_violation(columns: dict[str, int]) -> None:
    books = forged(PAYMENT, CHARGE._replace(**columns))
    books.earned = {}
    assert violations(books) == [
        "the journal pays a developer who has no earnings",
        NOT_CONSERVED,
    ]


def test_a_statement_that_lost_a_charge_is_a_violation() -> None:
    books = written(charge(2, 5), charge(3, 5))
    books.balances[ALICE] = books.balances[ALICE]._replace(last_charge_id=2)
    assert violations(books) == [f"account {ALICE}: its statement does not hold each of its charges once"]


# Open holds


def test_an_open_hold_that_the_journal_does_not_know_is_a_violation() -> None:
    books = written(hold(2, 300))
    books.holds[3] = books.holds[2]._replace(id=3)
    assert violations(books) == ["the open holds differ from the holds of the journal that have not ended"]


def test_a_lost_open_hold_is_a_violation() -> None:
    books = written(hold(2, 300))
    books.holds = {}
    assert violations(books) == ["the open holds differ from the holds of the journal that have not ended"]


def test_an_open_hold_that_differs_from_its_row_is_a_violation() -> None:
    books = written(hold(2, 300))
    books.holds[2] = books.holds[2]._replace(amount_micros=299)
    assert violations(books) == ["the open hold 2 differs from its row in the journal"]


def test_a_hold_may_outlive_its_time_by_one_sweep_and_no_more() -> None:
    books = written(hold(2, 300))
    books.now = NOON + LIFE + OVERDUE_US
    assert violations(books) == []
    books.now += 1
    assert violations(books) == ["hold 2 is open long after its time"]


# The database


def test_postings_that_do_not_balance_are_a_violation() -> None:
    books = written()
    books.unbalanced = [(PART, 1)]
    assert violations(books) == [f"the postings of transfer 1 in part {PART} do not sum to zero"]


def test_a_journal_that_can_be_changed_is_a_violation() -> None:
    books = written()
    books.guarded = False
    assert violations(books) == ["the journal is not protected against updates and deletes"]


def test_a_broken_ledger_is_told_in_a_few_sentences_and_not_in_thousands() -> None:
    assert len(violations(forged(*(row(number, 99) for number in range(1_000))))) == 20
