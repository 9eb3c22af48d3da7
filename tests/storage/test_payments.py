"""Payments and their parties on both databases: each written once, moved forward alone, and found again."""

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from payre_mcp.clock import US_PER_S, ManualClock
from payre_mcp.connection import Connection
from payre_mcp.errors import InsufficientBalance, NotFound, PayreError, PayreUnavailable
from payre_mcp.ids import first_id_at
from payre_mcp.ledger.model import CHARGES, Kind, Refund, Send, Transfer
from payre_mcp.money import Money
from payre_mcp.payments import MOST_FAILURES, RANK, UNDER_WAY, Payee, Payer, Payment, PaymentKind, PaymentState
from payre_mcp.storage.embedded import open_embedded
from payre_mcp.storage.payments import SqlPayments
from payre_mcp.storage.readers import SqliteReader
from payre_mcp.storage.sessions import Sessions
from tests.both_databases import ledger_url
from tests.fakes import PATIENCE_S, Funded, audited, fund, journal_of

__all__ = ["ledger_url"]

TOP_UP, RECHARGE, REFUND, DISPUTE, PAYOUT = PaymentKind
CREATED, OPEN, PROCESSING, EXPIRED, FAILED, SUCCEEDED, REVERSED = PaymentState
ADA, BOB = 11, 12


@pytest.fixture
def payments(connection: Connection) -> SqlPayments:
    return connection.ledger.payments


def paid(
    number: int, kind: PaymentKind = TOP_UP, state: PaymentState = OPEN, owner: int = ADA, *,
    cents: int = 500, parent: int = 0, processor_id: str = "", card_payment: str = "", at: int = 100,
) -> Payment:  # fmt: skip
    return Payment(
        number, kind, state, owner, 2, parent, Money(cents * 10_000), Money(0), processor_id, card_payment, "", "", at, at
    )


def ids(found: Sequence[Payment]) -> list[int]:
    return [payment.id for payment in found]


def together(acts: Sequence[Callable[[], Any]]) -> list[Any]:
    """What acts answer that begin at one moment, each in a thread of its own."""
    start, answers = threading.Barrier(len(acts)), list[Any]()

    def run(act: Callable[[], Any]) -> None:
        start.wait(PATIENCE_S)
        answers.append(act())

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(answers) == len(acts)
    return answers


# --- payments


def test_a_payment_is_found_as_it_was_written(payments: SqlPayments) -> None:
    payment = Payment(
        5, TOP_UP, PROCESSING, ADA, 3, 4, Money(5_000_000), Money(450_000),
        "cs_1", "pi_1", "it's : slow", '{"lines": [[0, 1]]}', 2**53, 2**62,
    )  # fmt: skip
    assert payments.add(payment)
    assert payments.find(5) == payment
    assert payments.find_by_processor_id("cs_1") == payment
    assert payments.find_by_card_payment("pi_1", [TOP_UP, RECHARGE]) == payment
    found = payments.find(5)
    assert found is not None
    assert (type(found.kind), type(found.state), type(found.fee)) == (PaymentKind, PaymentState, Money)


def test_what_is_not_there_is_not_found(payments: SqlPayments) -> None:
    assert payments.add(paid(1))
    assert payments.find(2) is None
    assert payments.find_by_processor_id("") is None
    assert payments.find_by_processor_id("cs_1") is None
    assert payments.find_by_card_payment("", [TOP_UP]) is None
    assert payments.children(7) == []


def test_a_card_payment_finds_the_top_up_and_not_what_came_of_it(payments: SqlPayments) -> None:
    for payment in (
        paid(1, TOP_UP, SUCCEEDED, card_payment="pi_1"),
        paid(2, REFUND, parent=1, card_payment="pi_1"),
        paid(3, DISPUTE, parent=1, card_payment="pi_1"),
        paid(4, REFUND, parent=9),
        paid(5, RECHARGE, owner=BOB, card_payment="pi_2"),
    ):
        assert payments.add(payment)
    assert ids([payments.find_by_card_payment("pi_1", kinds) or paid(0) for kinds in ([TOP_UP, RECHARGE], [DISPUTE], ())]) == [
        1, 3, 1,
    ]  # fmt: skip
    assert payments.find_by_card_payment("pi_1", [RECHARGE]) is None
    assert ids(payments.children(1)) == [2, 3]


def test_a_payment_is_written_once(payments: SqlPayments) -> None:
    first = paid(1, processor_id="cs_1")
    assert payments.add(first)
    assert not payments.add(paid(1, cents=900))
    assert not payments.add(paid(2, processor_id="cs_1"))
    assert ids(payments.list([], before=0, limit=9)) == [1]
    assert payments.find(1) == first


@pytest.mark.parametrize("kind", [RECHARGE, PAYOUT])
def test_of_one_owner_one_recharge_and_one_payout_is_under_way(payments: SqlPayments, kind: PaymentKind) -> None:
    assert payments.add(paid(1, kind))
    assert not payments.add(paid(2, kind, CREATED))
    assert payments.add(paid(3, kind, owner=BOB))
    assert payments.add(paid(4, TOP_UP))
    assert payments.add(paid(5, TOP_UP))
    payments.advance(1, FAILED)
    assert payments.add(paid(6, kind, CREATED))


def test_of_many_that_are_added_at_once_one_is(payments: SqlPayments) -> None:
    added = together([lambda number=number: payments.add(paid(number, RECHARGE, CREATED)) for number in range(1, 9)])
    assert sorted(added) == [False] * 7 + [True]
    same = together([lambda: payments.add(paid(50, processor_id="cs_1"))] * 4)
    assert sorted(same) == [False] * 3 + [True]


def test_a_payment_goes_forward_alone(payments: SqlPayments) -> None:
    for number, (before, news) in enumerate(product(PaymentState, repeat=2), start=1):
        payments.add(paid(number, state=before))
        after = payments.advance(number, news, problem="told", detail="{}", amount=Money(70_000))
        assert after == payments.find(number)
        assert after.state == max(before, news, key=RANK.__getitem__)
        taken = RANK[news] >= RANK[before]
        assert (after.problem, after.detail, after.amount.micros) == (("told", "{}", 70_000) if taken else ("", "", 5_000_000))


def test_in_whatever_order_the_news_arrives_the_end_is_the_same(payments: SqlPayments) -> None:
    news = (OPEN, PROCESSING, EXPIRED, SUCCEEDED)
    for number, order in enumerate(permutations(news), start=1):
        payments.add(paid(number, state=CREATED))
        for state in order:
            payments.advance(number, state, problem=f"it is {state}")
        after = payments.find(number)
        assert after is not None
        assert (after.state, after.problem) == (SUCCEEDED, "it is succeeded")


def test_of_many_who_advance_one_payment_the_highest_state_stays(payments: SqlPayments) -> None:
    for number in range(1, 6):
        payments.add(paid(number, RECHARGE, CREATED, owner=number))
        together([lambda state=state: payments.advance(number, state, problem=state) for state in PaymentState])  # noqa: B023
        after = payments.find(number)
        assert after is not None
        assert (after.state, after.problem) == (REVERSED, "reversed")


def test_the_ids_of_the_processor_are_filled_in_late_and_never_change(payments: SqlPayments) -> None:
    payments.add(paid(1, state=SUCCEEDED))
    late = payments.advance(1, OPEN, processor_id="cs_1", problem="old news")
    assert (late.state, late.processor_id, late.card_payment, late.problem) == (SUCCEEDED, "cs_1", "", "")
    late = payments.advance(1, PROCESSING, processor_id="cs_2", card_payment="pi_1")
    assert (late.state, late.processor_id, late.card_payment) == (SUCCEEDED, "cs_1", "pi_1")
    assert payments.find_by_card_payment("pi_1", [TOP_UP]) == late


def test_what_is_not_told_stays_and_what_is_told_empty_goes(payments: SqlPayments) -> None:
    payments.add(paid(1)._replace(problem="slow", detail="{}"))
    assert payments.advance(1, PROCESSING)[10:12] == ("slow", "{}")
    assert payments.advance(1, SUCCEEDED, problem="")[10:12] == ("", "{}")


def test_a_payment_is_as_new_as_its_last_change(payments: SqlPayments, clock: ManualClock) -> None:
    payments.add(paid(1))
    moved = payments.advance(1, PROCESSING)
    assert (moved.created_at, moved.updated_at) == (100, clock.now_us())
    clock.advance(60)
    assert payments.advance(1, PROCESSING) == moved
    assert payments.advance(1, CREATED, problem="none") == moved
    assert payments.advance(1, CREATED, processor_id="cs_1").updated_at == clock.now_us()


def test_a_payment_that_is_not_there_cannot_advance(payments: SqlPayments) -> None:
    with pytest.raises(NotFound):
        payments.advance(1, FAILED)


def test_what_is_under_way_is_listed_oldest_first(payments: SqlPayments) -> None:
    for number, state in enumerate(PaymentState, start=1):
        payments.add(paid(number, TOP_UP, state))
    payments.add(paid(8, PAYOUT))
    assert ids(payments.under_way(before_id=0, limit=9)) == [1, 2, 3, 8]
    assert ids(payments.under_way(before_id=0, limit=2)) == [1, 2]
    assert ids(payments.under_way(before_id=3, limit=9)) == [1, 2]
    assert ids(payments.under_way(before_id=9, limit=9, kinds=[PAYOUT, REFUND])) == [8]
    assert {payment.state for payment in payments.under_way(before_id=0, limit=9)} == set(UNDER_WAY)


def test_payments_are_listed_newest_first_page_by_page(payments: SqlPayments) -> None:
    for number, (kind, owner) in enumerate([(TOP_UP, ADA), (REFUND, ADA), (TOP_UP, BOB), (TOP_UP, ADA), (DISPUTE, ADA)], start=1):
        payments.add(paid(number, kind, owner=owner))
    assert ids(payments.of_owner(ADA, [TOP_UP, REFUND], before=0, limit=2)) == [4, 2]
    assert ids(payments.of_owner(ADA, [TOP_UP, REFUND], before=2, limit=2)) == [1]
    assert ids(payments.of_owner(ADA, [], before=0, limit=9)) == [5, 4, 2, 1]
    assert ids(payments.list([TOP_UP], before=0, limit=2)) == [4, 3]
    assert ids(payments.list([TOP_UP], before=3, limit=2)) == [1]
    assert ids(payments.list(tuple(PaymentKind), before=0, limit=9)) == [5, 4, 3, 2, 1]


def test_what_moved_since_a_moment_is_what_did_not_fail_or_expire(payments: SqlPayments) -> None:
    for number, state in enumerate(PaymentState, start=1):
        payments.add(paid(number, state=state, cents=1 << number))
    payments.add(paid(20, cents=10_000, at=99))
    payments.add(paid(21, DISPUTE, cents=10_000))
    payments.add(paid(22, owner=BOB, cents=10_000))
    lost = (1 << 4) + (1 << 5)
    assert payments.moved_since(ADA, TOP_UP, 100) == Money((sum(1 << n for n in range(1, 8)) - lost) * 10_000)
    assert payments.moved_since(ADA, TOP_UP, 101) == Money(0)


# --- parties


def saved(consumer_id: int, part: int = 0) -> Payer:
    return Payer(consumer_id, part, f"cus_{consumer_id}", f"pm_{consumer_id}", "visa 4242", Money(2), Money(3), Money(4), 5, 1)


def test_a_payer_is_found_as_written_and_written_again(payments: SqlPayments) -> None:
    payments.save_payer(saved(1))
    payments.save_payer(Payer(2, 3))
    assert payments.payer(1) == payments.payer_of_customer("cus_1") == payments.payer_of_method("pm_1") == saved(1)
    payments.save_payer(changed := saved(1)._replace(method_id="", card="", failures=3))
    assert payments.payer(1) == changed
    assert payments.payer(2) == Payer(2, 3)
    assert (payments.payer_of_method("pm_1"), payments.payer_of_method(""), payments.payer_of_customer("")) == (None, None, None)
    assert payments.payer(3) is None


def test_a_payer_of_whom_nothing_was_known_is_changed_too(connection: Connection, payments: SqlPayments) -> None:
    consumer = fund(connection.ledger, 0)
    payer = payments.change_payer(consumer.id, lambda payer: payer._replace(customer_id="cus_1"))
    assert payer == Payer(consumer.id, consumer.record.part, "cus_1") == payments.payer(consumer.id)
    with pytest.raises(NotFound):
        payments.change_payer(7, lambda payer: payer)


def test_many_who_change_one_payer_take_turns(connection: Connection, payments: SqlPayments) -> None:
    consumer = fund(connection.ledger, 0)

    def count() -> None:
        for _ in range(5):
            payments.change_payer(consumer.id, lambda payer: payer._replace(failures=payer.failures + 1))

    together([count] * 4)
    assert payments.payer(consumer.id) == Payer(consumer.id, consumer.record.part, failures=20)


def test_a_change_that_fails_leaves_no_payer(connection: Connection, payments: SqlPayments) -> None:
    consumer = fund(connection.ledger, 0)

    def refuse(payer: Payer) -> Payer:
        raise ValueError(payer.card)

    with pytest.raises(ValueError):  # noqa: PT011 - raised above
        payments.change_payer(consumer.id, refuse)
    assert payments.payer(consumer.id) is None


@pytest.fixture
def poor(connection: Connection, payments: SqlPayments, clock: ManualClock) -> Funded:
    """A consumer with $1.00, of which 40 cents are held; recharged below 61 cents."""
    consumer = fund(connection.ledger, 1_000_000)
    connection.ledger.writer.ask(consumer.hold(400_000))
    payments.save_payer(
        Payer(
            consumer.id, consumer.record.part, "cus_1", "pm_1", "visa 4242", Money(610_000), Money(5_000_000), Money(9),
            clock.now_us(), MOST_FAILURES - 1,
        )
    )  # fmt: skip
    return consumer


def test_a_card_is_charged_when_too_little_is_available(payments: SqlPayments, poor: Funded, clock: ManualClock) -> None:
    payer = payments.payer(poor.id)
    assert payer is not None
    assert payments.due_for_recharge(clock.now_us(), 9) == [payer]
    assert payments.due_for_recharge(clock.now_us(), 0) == []
    poor.ledger.writer.ask(poor.top_up(10_000, key="enough"))
    assert payments.due_for_recharge(clock.now_us(), 9) == []


@pytest.mark.parametrize(
    "change",
    [
        {"method_id": ""}, {"amount": Money(0)}, {"failures": MOST_FAILURES}, {"threshold": Money(600_000)},
        {"not_before": ManualClock().now_us() + 1},
    ],
)  # fmt: skip
def test_a_card_is_left_alone_when_recharges_are_off_or_rest(
    payments: SqlPayments, poor: Funded, clock: ManualClock, change: dict[str, object]
) -> None:
    payments.change_payer(poor.id, lambda payer: payer._replace(**change))  # pyright: ignore[reportArgumentType]
    assert payments.due_for_recharge(clock.now_us(), 9) == []


@pytest.mark.parametrize("state", PaymentState)
def test_a_card_is_left_alone_while_a_recharge_is_under_way(
    payments: SqlPayments, poor: Funded, clock: ManualClock, state: PaymentState
) -> None:
    payments.add(paid(1, TOP_UP, OPEN, poor.id))
    payments.add(paid(2, RECHARGE, OPEN, BOB))
    payments.add(paid(3, RECHARGE, state, poor.id))
    assert len(payments.due_for_recharge(clock.now_us(), 9)) == (state not in UNDER_WAY)


def test_who_has_waited_longest_is_recharged_first(
    connection: Connection, payments: SqlPayments, poor: Funded, clock: ManualClock
) -> None:
    first = payments.payer(poor.id)
    assert first is not None
    others = [fund(connection.ledger, 0, name=name) for name in ("bob", "eve")]
    for other, since in zip(others, (7, 3), strict=True):
        payments.save_payer(first._replace(consumer_id=other.id, part=other.record.part, not_before=since))
    due = [payer.consumer_id for payer in payments.due_for_recharge(clock.now_us(), 9)]
    assert due == [others[1].id, others[0].id, poor.id]


def test_a_payee_is_found_as_written_and_written_again(payments: SqlPayments) -> None:
    one, two = Payee(1, "acct_1", "active", "DE", "ada@example.org"), Payee(2)
    for payee in (two, one, one._replace(state="pending"), one, Payee(3)):
        payments.save_payee(payee)
    assert payments.payees() == [one, two, Payee(3)]
    assert payments.payee(1) == payments.payee_of_account("acct_1") == one
    assert (payments.payee(4), payments.payee_of_account("acct_2"), payments.payee_of_account("")) == (None, None, None)


def test_how_far_lists_were_read_never_goes_back(payments: SqlPayments) -> None:
    assert payments.reconciled_until("events") == 0
    for until in (5, 9, 7):
        payments.set_reconciled("events", until)
    payments.set_reconciled("lines", 3)
    assert (payments.reconciled_until("events"), payments.reconciled_until("lines")) == (9, 3)


# --- what may be paid out

DAY_S = 86_400
WEEK_US, FORTNIGHT_US = 7 * DAY_S * US_PER_S, 14 * DAY_S * US_PER_S
SERVER = 41


def payable(payer: Funded) -> int:
    """What the developer may be paid of what this payer's part earned: charges of a week ago, and of newcomers of a fortnight."""
    now = payer.ledger.clock.now_us()
    mature_id, first_mature_id = first_id_at(now - WEEK_US), first_id_at(now - FORTNIGHT_US)
    return payer.ledger.payments.payable(
        payer.developer_id, payer.record.part, mature_id=mature_id, first_mature_id=first_mature_id
    )


def give_back(payer: Funded, charge_id: int, micros: int) -> None:
    number, part, consumer_id, developer_id, _ = payer.start()
    payer.ledger.writer.ask(Refund(number, part, charge_id, consumer_id, developer_id, micros, f"back {number}"))


def pay_out(payer: Funded, micros: int) -> None:
    number, part, _, developer_id, _ = payer.start()
    payer.ledger.writer.ask(Send(number, part, Kind.PAYOUT, 0, developer_id, micros, f"out {number}"))


def buy(payer: Funded, micros: int) -> int:
    return payer.ledger.writer.ask(payer.charge(micros)).transfer.id


@pytest.fixture
def regular(connection: Connection, clock: ManualClock) -> Funded:
    """Somebody who first topped up long ago."""
    payer = fund(connection.ledger, 1_000_000)
    clock.advance(100 * DAY_S)
    return payer


def test_a_charge_is_payable_after_a_week(regular: Funded, clock: ManualClock) -> None:
    assert payable(regular) == 0, "nothing was earned yet"
    buy(regular, 100_000)
    hold = regular.ledger.writer.ask(regular.hold(100_000)).transfer
    regular.ledger.writer.ask(regular.capture(hold.id, 50_000))
    assert payable(regular) == 0
    clock.advance(7 * DAY_S)
    assert payable(regular) == 0, "a week, and not a moment less"
    clock.advance(1)
    assert payable(regular) == 97_000 + 48_500
    buy(regular, 10_000)
    assert payable(regular) == 97_000 + 48_500


def test_a_newcomers_charge_is_payable_when_their_first_top_up_is_a_fortnight_old(
    connection: Connection, clock: ManualClock
) -> None:
    newcomer = fund(connection.ledger, 1_000_000)
    clock.advance(DAY_S)
    buy(newcomer, 100_000)
    connection.ledger.writer.ask(newcomer.top_up(5, key="more"))
    clock.advance(12 * DAY_S)
    buy(newcomer, 1_000)
    assert payable(newcomer) == 0
    clock.advance(DAY_S)
    assert payable(newcomer) == 0
    clock.advance(1)
    assert payable(newcomer) == 97_000


def test_a_refund_of_a_young_charge_takes_nothing_of_what_is_payable(regular: Funded, clock: ManualClock) -> None:
    old = buy(regular, 200_000)
    clock.advance(8 * DAY_S)
    young = buy(regular, 100_000)
    give_back(regular, young, 30_000)
    assert payable(regular) == 194_000
    give_back(regular, young, 70_000)
    assert payable(regular) == 194_000
    give_back(regular, old, 100_000)
    assert payable(regular) == 97_000
    clock.advance(8 * DAY_S)
    assert payable(regular) == 97_000


def test_what_was_paid_out_is_not_payable_again_and_a_refund_after_it_leaves_a_debt(regular: Funded, clock: ManualClock) -> None:
    charge = buy(regular, 100_000)
    clock.advance(8 * DAY_S)
    buy(regular, 500_000)
    pay_out(regular, 97_000)
    assert payable(regular) == 0
    give_back(regular, charge, 100_000)
    assert payable(regular) == -97_000


def test_nobody_is_paid_for_another_developer_or_for_free_credit(
    connection: Connection, regular: Funded, clock: ManualClock
) -> None:
    other = regular._replace(developer_id=connection.ledger.directory.create_developer("bob").id)
    free = other.charge(70_000)._replace(server_id=SERVER, grant_micros=50_000)
    young = connection.ledger.writer.ask(free).transfer.id
    buy(regular, 100_000)
    clock.advance(8 * DAY_S)
    assert (payable(regular), payable(other)) == (97_000, 19_400)
    give_back(other, young, 70_000)
    assert payable(other) == 0
    assert connection.ledger.payments.payable(7, 0, mature_id=0, first_mature_id=0) == 0


def test_a_refund_counts_once_where_two_clocks_disagree_about_what_came_first(connection: Connection) -> None:
    payer = fund(connection.ledger, 0)
    number = payer.ledger.ids.new()
    payer.ledger.writer.ask(payer.top_up(1_000, key="first")._replace(id=number + 2))
    payer.ledger.writer.ask(payer.charge(1_000)._replace(id=number))
    give_back(payer, number, 1_000)
    between = {"mature_id": number + 1, "first_mature_id": number + 1}
    assert connection.ledger.payments.payable(payer.developer_id, payer.record.part, **between) == 0


def expected(journal: list[Transfer], developer_id: int, part: int, *, mature_id: int, first_mature_id: int) -> int:
    """By the journal row by row: what came of charges that are old enough, less what was paid out."""
    rows = [row for row in journal if row.part == part]
    first = {row.consumer_id: row.id for row in reversed(rows) if row.kind == Kind.TOP_UP}
    old = {
        row.id
        for row in rows
        if row.kind in CHARGES and row.id < mature_id and not first.get(row.consumer_id, 0) >= first_mature_id
    }
    total = 0
    for row in (row for row in rows if row.developer_id == developer_id):
        if row.id in old:
            total += row.amount_micros - row.credit_spent_micros - row.fee_micros
        elif row.kind == Kind.REFUND and row.ref_id in old:
            total -= row.amount_micros - row.credit_micros - row.fee_micros
        elif row.kind == Kind.PAYOUT:
            total -= row.amount_micros
    return total


def live(payer: Funded, chance: random.Random) -> None:
    """One thing that a consumer or their developer does."""
    ask, micros = payer.ledger.writer.ask, chance.randrange(1, 900)
    free: dict[str, Any] = {"server_id": SERVER, "grant_micros": 500} if chance.random() < 0.5 else {}
    charges = [row for row in journal_of(payer.ledger) if row.kind in CHARGES and row.consumer_id == payer.id]
    match chance.randrange(5):
        case 0 if charges:
            charge = chance.choice(charges)
            with suppress(PayreError):
                give_back(
                    payer._replace(developer_id=charge.developer_id), charge.id, chance.randrange(1, charge.amount_micros + 1)
                )
        case 1:
            ask(payer.top_up(2_000, key=f"top up {payer.ledger.ids.new()}"))
        case 2:
            pay_out(payer, micros)
        case 3:
            with suppress(InsufficientBalance):
                hold = ask(payer.hold(micros)._replace(**free)).transfer
                ask(payer.capture(hold.id, chance.randrange(1, micros + 1)))
        case _:
            with suppress(InsufficientBalance):
                ask(payer.charge(micros)._replace(**free))


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happened_what_is_payable_is_what_the_journal_says(
    connection: Connection, clock: ManualClock, seed: int
) -> None:
    chance = random.Random(seed)
    ledger, payers = connection.ledger, list[Funded]()
    developers = [ledger.directory.sole_developer().id, ledger.directory.create_developer("bob").id]
    for step in range(60):
        if step % 15 == 0:
            payers.append(fund(ledger, chance.choice([0, 3_000])))
        live(chance.choice(payers)._replace(developer_id=chance.choice(developers)), chance)
        clock.advance(chance.randrange(DAY_S))
    journal = journal_of(ledger)
    known = [row.id for row in journal]
    moments = [(chance.choice([*known, 0, 2**62]), chance.choice([*known, 0, 2**62])) for _ in range(40)]
    firsts = [(2**62, row.id) for row in journal if row.key.startswith("seed")]
    parts = {payer.record.part for payer in payers}
    for (mature_id, first_mature_id), part, developer_id in product([*moments, *firsts], parts, developers):
        found = ledger.payments.payable(developer_id, part, mature_id=mature_id, first_mature_id=first_mature_id)
        assert found == expected(journal, developer_id, part, mature_id=mature_id, first_mature_id=first_mature_id)
    assert audited(ledger, clock.now_us()).violations == []


def test_on_sqlite_too_the_first_top_up_is_found_by_an_index(ledger_path: Path, clock: ManualClock) -> None:
    """Without being told, SQLite would read a part's whole journal for each consumer."""
    ledger = open_embedded(ledger_path, clock)
    asked = list[str]()

    class Explained(SqliteReader):
        def rows(self, sql: str, *parameters: object) -> list[Any]:
            asked.extend(row[-1] for row in super().rows(f"explain query plan {sql}", *parameters))
            return super().rows(sql, *parameters)

    reader = Explained(ledger_path)
    payments = SqlPayments(Sessions(ledger.engine, ledger.engine), reader, clock)
    assert payments.payable(1, 0, mature_id=5, first_mature_id=5) == 0
    assert "SEARCH t USING INDEX uq_transfer_key (part=? AND consumer_id=? AND developer_id=?)" in asked
    asked.clear()
    payments.find_by_processor_id("cs_1")
    payments.find_by_card_payment("pi_1", [TOP_UP])
    payments.under_way(before_id=0, limit=1)
    payments.children(1)
    payments.of_owner(1, [TOP_UP], before=0, limit=1)
    found = {index for line in asked if (index := line.partition(" USING INDEX ")[2].partition(" ")[0])}
    assert found == {"uq_payment_processor_id", "ix_payment_card_payment", "ix_payment_open", "ix_payment_owner"}
    reader.close()
    ledger.close()


def test_a_database_in_trouble_is_an_unavailable_ledger(connection: Connection, payments: SqlPayments) -> None:
    with connection.ledger.engine.begin() as raw:
        for table in ("payment", "payer"):
            raw.execute(sa.text(f"drop table {table}"))
    for act in (
        lambda: payments.add(paid(1, processor_id="cs_secret")),
        lambda: payments.advance(1, OPEN),
        lambda: payments.find(1),
        lambda: payments.change_payer(1, lambda payer: payer),
        lambda: payments.due_for_recharge(0, 1),
    ):
        with pytest.raises(PayreUnavailable) as refused:
            act()
        assert "secret" not in refused.value.message
