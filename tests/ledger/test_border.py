"""Money that crosses the border: what comes in, what goes out and comes back, and what a balance below zero means."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payre_mcp.errors import InsufficientBalance
from payre_mcp.ledger.booking import NOBODY
from payre_mcp.ledger.model import MAX_BALANCE_MICROS, Account, Charge, Command, Done, Extended, Hold, Kind, Refund, Send, TopUp
from payre_mcp.money import MAX_MICROS
from tests.ledger.commands import (
    ALICE,
    BOB,
    DEV,
    LIFE,
    NOON,
    PART,
    RIVAL,
    SERVER,
    Books,
    capture,
    charge,
    chargeback,
    code,
    come_back,
    cost,
    done,
    expire,
    extend,
    give_back,
    hold,
    is_sound,
    money,
    payout,
    refund,
    refused,
    replayed,
    rich,
    top_up,
    void,
)

Sends = Callable[..., Send]
Moves = Callable[..., Send | TopUp]
Calls = Callable[[int, int], Hold | Charge]

START = 1_000
OF_A_CONSUMER = [give_back, chargeback, cost]
SENDS = [*OF_A_CONSUMER, payout]
RETURNING = [give_back, chargeback, payout]
"""All that may come back."""


def opened(*batch: Command) -> Books:
    """Alice with $0.001 and Bob without, after commands that took effect one after the other."""
    books = rich(START)
    for command in batch:
        answer = books.one(command)
        assert isinstance(answer, Done | Extended), answer
    return books


def in_debt(*before: Command, owed: int = 400) -> Books:
    """Alice has spent what was charged back then, and owes this much; `before` are the commands between."""
    books = opened(charge(2, START), *before, chargeback(3, owed, key="dispute"))
    assert books.balances[ALICE].available_micros < 0
    return books


def outcome(books: Books) -> tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]]:
    """Balances, earnings and fees: all that crossing the border can move."""
    return {who: money(books, who) for who in books.balances}, {who: sums for who, sums in books.earned.items() if any(sums)}


# What comes in


def test_a_top_up_credits_its_amount_and_what_was_paid_on_top_is_the_platforms() -> None:
    books = rich(0)
    answer = done(books.one(top_up(2, 1_000, fee=59)))
    assert answer.account == Account(ALICE, 1_000, 0)
    assert books.earned == {0: (0, 59)}
    row = answer.transfer
    assert (row.kind, row.consumer_id, row.developer_id) == (Kind.TOP_UP, ALICE, 0)
    assert (row.amount_micros, row.fee_micros, row.key, row.slot) == (1_059, 59, "payment", 0)
    assert is_sound(books)


def test_a_top_up_without_a_fee_is_nobodys_earnings() -> None:
    assert opened().earned == {}


def test_the_same_payment_is_credited_once() -> None:
    books = rich(0)
    first, second = books.run(top_up(2, 1_000, fee=59), top_up(3, 1_000, fee=59))
    assert done(second).transfer == done(first).transfer
    assert replayed(books, top_up(4, 1_000, fee=59)).transfer == done(first).transfer
    assert outcome(books) == ({ALICE: (1_000, 0), BOB: (0, 0)}, {0: (0, 59)})


@pytest.mark.parametrize(("amount", "fee"), [(1_001, 59), (999, 59), (1_000, 58), (1_000, 0), (1_059, 0), (999, 60), (0, 0)])
def test_a_payment_of_another_amount_or_fee_under_the_same_key_is_a_conflict(amount: int, fee: int) -> None:
    """Also where both together are the same."""
    books = rich(0)
    books.run(top_up(2, 1_000, fee=59))
    assert refused(books, top_up(3, amount, fee=fee)) == "idempotency_conflict"


@pytest.mark.parametrize(("amount", "fee"), [(0, 0), (0, 5), (-1, 0), (-1, 5), (5, -1), (5, -5), (5, MAX_BALANCE_MICROS + 1)])
def test_a_top_up_of_nothing_or_with_a_fee_that_cannot_be_is_refused(amount: int, fee: int) -> None:
    assert refused(rich(0), top_up(2, amount, fee=fee)) == "invalid_request"


def test_a_top_up_may_fill_a_balance_up_to_a_million_dollars_whatever_its_fee() -> None:
    books = rich(0)
    books.run(top_up(2, MAX_BALANCE_MICROS, fee=MAX_BALANCE_MICROS))
    assert money(books) == (MAX_BALANCE_MICROS, 0)
    assert refused(books, top_up(3, 1, key="more")) == "invalid_request"
    assert is_sound(books)


def test_one_micro_can_be_topped_up() -> None:
    assert done(rich(0).one(top_up(2, 1))).account.balance_micros == 1


def test_a_top_up_of_a_stranger_is_refused() -> None:
    assert refused(rich(0), top_up(2, 5, consumer=99)) == "not_found"


# What goes out


@pytest.mark.parametrize(
    ("make", "kind", "balance", "earned"),
    [
        (give_back, Kind.RETURN, 700, {}),
        (chargeback, Kind.CHARGEBACK, 700, {}),
        (cost, Kind.COST, 1_000, {0: (0, -300)}),
        (payout, Kind.PAYOUT, 1_000, {DEV: (-300, 0)}),
    ],
)
def test_what_is_sent_is_taken_from_whose_it_is(
    make: Sends, kind: Kind, balance: int, earned: dict[int, tuple[int, int]]
) -> None:
    """A return and a chargeback from the balance, a payout from the earnings, a cost from the platform's fees."""
    books = opened()
    command = make(2, 300)
    answer = done(books.one(command))
    assert outcome(books) == ({ALICE: (balance, 0), BOB: (0, 0)}, earned)
    assert answer.account == (NOBODY if kind == Kind.PAYOUT else Account(ALICE, balance, 0))
    row = answer.transfer
    assert (row.part, row.id, row.kind, row.created_at) == (PART, 2, kind, NOON)
    assert (row.consumer_id, row.developer_id) == (command.consumer_id, command.developer_id)
    assert (row.amount_micros, row.fee_micros, row.held_micros, row.ref_id) == (300, 0, 0, 0)
    assert (row.key, row.slot, row.fingerprint, row.tool) == ("out", 0, "", "")
    assert is_sound(books)


@pytest.mark.parametrize("make", SENDS)
def test_what_is_sent_twice_under_one_key_is_sent_once(make: Sends) -> None:
    books = opened()
    first, second = books.run(make(2, 300), make(3, 300))
    assert done(second).replayed
    assert done(second).transfer == done(first).transfer
    assert replayed(books, make(4, 300)).transfer == done(first).transfer
    assert refused(books, make(5, 299)) == "idempotency_conflict"


@pytest.mark.parametrize("make", SENDS)
@pytest.mark.parametrize("amount", [0, -1, MAX_MICROS + 1, 2**70])
def test_an_amount_that_cannot_be_sent_is_refused(make: Sends, amount: int) -> None:
    assert refused(opened(), make(2, amount)) == "invalid_request"


@pytest.mark.parametrize("make", [chargeback, cost, payout])
@pytest.mark.parametrize("amount", [1, MAX_MICROS])
def test_the_smallest_and_the_largest_amount_can_be_sent(make: Sends, amount: int) -> None:
    done(opened().one(make(2, amount)))


@pytest.mark.parametrize("make", SENDS)
def test_what_has_no_name_is_not_sent(make: Sends) -> None:
    """It could not be told from what was sent before."""
    assert refused(opened(), make(2, 300, key="")) == "invalid_request"


@pytest.mark.parametrize("kind", [0, 99, *(kind for kind in Kind if kind not in range(9, 13))])
def test_what_is_of_another_kind_is_not_sent(kind: int) -> None:
    assert refused(opened(), give_back(2, 300)._replace(kind=kind)) == "invalid_request"


@pytest.mark.parametrize("make", OF_A_CONSUMER)
def test_what_a_consumer_sends_is_of_no_developer_and_not_of_nobody(make: Sends) -> None:
    assert refused(opened(), make(2, 300)._replace(developer_id=DEV)) == "invalid_request"
    assert refused(opened(), make(2, 300, consumer=0)) == "invalid_request"
    assert refused(opened(), make(2, 300, consumer=99)) == "not_found"


def test_a_payout_is_of_a_developer_and_of_no_consumer() -> None:
    assert refused(opened(), payout(2, 300, developer=0)) == "invalid_request"
    assert refused(opened(), payout(2, 300)._replace(consumer_id=ALICE)) == "invalid_request"
    assert refused(opened(), payout(2, 300)._replace(consumer_id=99)) == "not_found"


def test_a_return_takes_what_is_available_and_no_more() -> None:
    books = opened(hold(2, 300))
    answer = books.one(give_back(3, 701))
    assert isinstance(answer, InsufficientBalance)
    assert (answer.price_micros, answer.balance_micros, answer.shortfall_micros) == (701, 700, 1)
    assert refused(books, give_back(3, 701)) == "insufficient_balance"
    done(books.one(give_back(4, 700)))
    assert money(books) == (300, 300)
    assert refused(books, give_back(5, 1, key="more")) == "insufficient_balance"
    assert is_sound(books)


def test_free_credit_is_not_returned_to_a_card() -> None:
    books = opened(charge(2, 10)._replace(server_id=SERVER, grant_micros=5_000))
    assert refused(books, give_back(3, START + 1)) == "insufficient_balance"
    done(books.one(give_back(4, START)))
    assert is_sound(books)


def test_a_refused_return_leaves_its_key_free() -> None:
    books = opened(charge(2, 900))
    assert code(books.one(give_back(3, 300))) == "insufficient_balance"
    books.run(top_up(4, 500, key="more"))
    assert not done(books.one(give_back(5, 200))).replayed


def test_a_payout_is_never_refused_for_want_of_earnings() -> None:
    """How much may be paid out is decided before; one part of a ledger may have less than its share."""
    books = opened(charge(2, 100), payout(3, 300))
    assert books.earned == {DEV: (-203, 3)}
    assert is_sound(books)


def test_costs_may_be_more_than_the_platforms_fees() -> None:
    books = opened(top_up(2, 500, key="more", fee=20), cost(3, 70))
    assert books.earned == {0: (0, -50)}
    assert is_sound(books)


def test_a_cost_names_whose_payment_it_was_for_and_costs_them_nothing() -> None:
    books = in_debt()
    done(books.one(cost(4, 15)))
    assert money(books) == (-400, 0)
    assert is_sound(books)


@pytest.mark.parametrize("first", [top_up, *OF_A_CONSUMER])
@pytest.mark.parametrize("second", [top_up, *OF_A_CONSUMER])
def test_a_key_of_one_kind_is_no_key_of_another(first: Moves, second: Moves) -> None:
    books = opened(first(2, 300, key="one"))
    if second is first:
        replayed(books, second(3, 300, key="one"))
    else:
        assert refused(books, second(3, 300, key="one")) == "idempotency_conflict"


def test_keys_are_their_owners_own() -> None:
    """Of a consumer, of a developer, of a consumer's calls with a developer: the same text names four things."""
    books = opened(
        give_back(2, 100), payout(3, 100), payout(4, 100, developer=RIVAL), charge(5, 100, key="out"),
        refund(6, 100, of=5, key="back"), chargeback(7, 100, consumer=BOB),
    )  # fmt: skip
    assert len(books.rows) == 7
    assert is_sound(books)


def test_one_payout_may_be_taken_from_the_earnings_of_several_parts_under_one_key() -> None:
    """Keys are of a part, and so they are for commands of several parts that happen to make one batch."""
    elsewhere = payout(3, 300)._replace(part=PART + 1)
    books = opened()
    answers = books.run(payout(2, 300), elsewhere, come_back(4, 300, of=payout(2, 300)), come_back(5, 200, of=elsewhere))
    assert [done(answer).replayed for answer in answers] == [False] * 4
    assert [(row.part, row.slot) for row in books.history()[1:]] == [(PART, 0), (PART + 1, 0), (PART, -1), (PART + 1, -1)]
    assert books.earned == {DEV: (-100, 0)}
    assert replayed(books, payout(6, 300)).transfer.id == 2
    assert replayed(books, come_back(7, 200, of=elsewhere)).transfer.id == 5


# What comes back


@pytest.mark.parametrize("make", RETURNING)
def test_what_comes_back_goes_to_whose_it_was(make: Sends) -> None:
    books, sent = opened(), make(2, 300)
    before = outcome(books)
    books.run(sent)
    after = outcome(books)
    row = done(books.one(come_back(3, 300, of=sent))).transfer
    assert outcome(books) == before != after
    assert (row.kind, row.part, row.ref_id, row.amount_micros) == (Kind.COME_BACK, PART, 2, 300)
    assert (row.consumer_id, row.developer_id) == (sent.consumer_id, sent.developer_id)
    assert (row.key, row.slot) == ("out", -1)
    assert is_sound(books)


@pytest.mark.parametrize("make", RETURNING)
def test_what_comes_back_in_parts_is_told_as_the_sum_so_far(make: Sends) -> None:
    books, sent = opened(), make(2, 300)
    books.run(sent)
    rows = [done(books.one(come_back(3 + number, total, of=sent))).transfer for number, total in enumerate((100, 180, 300))]
    assert [(row.amount_micros, row.slot) for row in rows] == [(100, -1), (80, -2), (120, -3)]
    assert is_sound(books)


def test_news_of_less_than_came_back_before_is_old_and_is_answered_by_the_row_that_reached_it() -> None:
    books, sent = opened(), give_back(2, 300)
    books.run(sent, come_back(3, 100, of=sent), come_back(4, 250, of=sent))
    reached = {total: replayed(books, come_back(5, total, of=sent)).transfer.id for total in (1, 99, 100, 101, 250)}
    assert reached == {1: 3, 99: 3, 100: 3, 101: 4, 250: 4}


@given(st.data(), st.sampled_from(RETURNING))
def test_news_of_what_came_back_ends_in_the_same_sum_in_any_order_and_however_often(data: st.DataObject, make: Sends) -> None:
    """Each time in batches of any size."""
    totals = data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=6))
    heard = data.draw(st.permutations([*totals, *data.draw(st.lists(st.sampled_from(totals), max_size=4))]))
    sent = make(2, 300)
    at_once, in_turn = opened(sent), opened(sent)
    at_once.run(come_back(3, max(totals), of=sent))
    news = [come_back(3 + number, total, of=sent) for number, total in enumerate(heard)]
    cut = data.draw(st.integers(0, len(news)))
    for answer in (*in_turn.run(*news[:cut]), *in_turn.run(*news[cut:])):
        done(answer)
    assert outcome(in_turn) == outcome(at_once)
    back = [row.amount_micros for row in in_turn.rows.values() if row.kind == Kind.COME_BACK]
    assert (sum(back), min(back) > 0) == (max(totals), True)
    assert is_sound(in_turn)


@pytest.mark.parametrize("make", RETURNING)
@pytest.mark.parametrize("total", [301, 0, -1])
def test_nothing_comes_back_that_was_not_sent(make: Sends, total: int) -> None:
    sent = make(2, 300)
    assert refused(opened(sent), come_back(3, total, of=sent)) == "invalid_request"
    assert refused(opened(sent, come_back(3, 200, of=sent)), come_back(4, total, of=sent)) == "invalid_request"


def test_a_key_that_sent_nothing_has_nothing_that_comes_back() -> None:
    sent = give_back(2, 300)
    books = opened(sent, top_up(3, 50, key="in"), cost(4, 60, key="fee"), charge(5, 10, key="call"), payout(6, 70, key="pay"))
    for stranger in (
        sent._replace(key="other"), sent._replace(consumer_id=BOB), sent._replace(consumer_id=99), sent._replace(part=PART + 1),
        sent._replace(developer_id=DEV), top_up(3, 50, key="in"), cost(4, 60, key="fee"), charge(5, 10, key="call"),
        payout(6, 70, key="pay", developer=RIVAL),
    ):  # fmt: skip
        developer = 0 if isinstance(stranger, TopUp) else stranger.developer_id
        of = Send(2, stranger.part, Kind.RETURN, stranger.consumer_id, developer, 10, stranger.key)
        assert refused(books, come_back(7, 10, of=of)) == "not_found", stranger


def test_what_comes_back_keeps_a_balance_within_a_million_dollars_and_earnings_within_nothing() -> None:
    sent, paid = give_back(2, 600), payout(3, 2 * MAX_BALANCE_MICROS)
    books = opened(sent, paid, top_up(4, MAX_BALANCE_MICROS - 700, key="more"))
    assert refused(books, come_back(5, 301, of=sent)) == "invalid_request"
    done(books.one(come_back(6, 300, of=sent)))
    assert money(books) == (MAX_BALANCE_MICROS, 0)
    done(books.one(come_back(7, 2 * MAX_BALANCE_MICROS, of=paid)))
    assert outcome(books) == ({ALICE: (MAX_BALANCE_MICROS, 0), BOB: (0, 0)}, {})


@pytest.mark.parametrize("make", RETURNING)
def test_what_is_sent_and_comes_back_in_one_batch_is_booked_as_in_two(make: Sends) -> None:
    sent = make(2, 300)
    together, alone = opened(), opened()
    batch = [come_back(3, 50, of=sent), sent, come_back(4, 50, of=sent), make(5, 300), come_back(6, 300, of=sent)]
    batch.append(come_back(7, 301, of=sent))
    answers = together.run(*batch)
    assert [code(answer) for answer in (answers[0], answers[-1])] == ["not_found", "invalid_request"]
    assert [done(answer).replayed for answer in answers[1:-1]] == [False, False, True, False]
    for command in batch:
        alone.one(command)
    assert together == alone
    assert is_sound(together)


@pytest.mark.parametrize("make", SENDS)
def test_a_batch_that_was_committed_unseen_is_answered_as_before(make: Sends) -> None:
    sent = make(3, 300)
    books, batch = opened(), [top_up(2, 500, key="more", fee=9), sent, make(4, 300)]
    if make is not cost:
        batch += [come_back(5, 100, of=sent), come_back(6, 60, of=sent), come_back(7, 300, of=sent)]
    first = [done(answer) for answer in books.run(*batch)]
    before = outcome(books), dict(books.rows)
    again = [done(answer) for answer in books.run(*batch, repeated=True)]
    assert [answer.transfer for answer in again] == [answer.transfer for answer in first]
    assert [answer.replayed for answer in again] == [answer.replayed for answer in first]
    assert (outcome(books), books.rows) == before


# Below zero


def test_a_chargeback_of_what_is_spent_leaves_a_balance_below_zero() -> None:
    books = in_debt()
    assert money(books) == (-400, 0)
    assert is_sound(books)


def test_a_chargeback_of_what_is_held_leaves_less_than_is_held() -> None:
    books = opened(hold(2, 600), chargeback(3, 700))
    assert money(books) == (300, 600)
    assert is_sound(books)


@pytest.mark.parametrize("make", [hold, charge])
@pytest.mark.parametrize("amount", [0, 1, 100])
def test_below_zero_every_call_is_refused_that_costs_nothing_too(make: Calls, amount: int) -> None:
    answer = in_debt().one(make(4, amount))
    assert isinstance(answer, InsufficientBalance)
    assert (answer.price_micros, answer.balance_micros, answer.shortfall_micros) == (amount, -400, amount + 400)
    assert refused(in_debt(), make(4, amount)) == "insufficient_balance"


@pytest.mark.parametrize("make", [hold, charge])
def test_while_less_is_there_than_is_held_calls_are_refused_too(make: Calls) -> None:
    books = opened(hold(2, 600), chargeback(3, 700))
    assert refused(books, make(4, 0)) == "insufficient_balance"
    books.run(void(5, of=2))
    done(books.one(make(6, 300)))
    assert is_sound(books)


@pytest.mark.parametrize("make", [hold, charge])
@pytest.mark.parametrize(("amount", "shortfall"), [(0, 400), (5_000, 400), (5_100, 500)])
def test_free_credit_does_not_pay_for_calls_below_zero(make: Calls, amount: int, shortfall: int) -> None:
    """Neither what was granted before nor what a first call would bring."""
    granted = charge(9, 0)._replace(server_id=SERVER, grant_micros=5_000)
    for books in (in_debt(granted), in_debt()):
        answer = books.one(make(4, amount)._replace(server_id=SERVER, grant_micros=5_000))
        assert isinstance(answer, InsufficientBalance)
        assert (answer.balance_micros, answer.shortfall_micros) == (-400, shortfall)
        done(books.one(top_up(5, shortfall, key="more")))
        done(books.one(make(6, amount)._replace(server_id=SERVER, grant_micros=5_000)))
        assert is_sound(books)


def test_at_zero_free_credit_pays_as_ever() -> None:
    books = in_debt()
    books.run(top_up(4, 400, key="more"))
    free = charge(5, 5_001)._replace(server_id=SERVER, grant_micros=5_000)
    answer = books.one(free)
    assert isinstance(answer, InsufficientBalance)
    assert (answer.balance_micros, answer.shortfall_micros) == (5_000, 1)
    done(books.one(free._replace(amount_micros=5_000)))


def test_below_zero_nothing_is_returned_and_more_may_be_charged_back() -> None:
    books = in_debt()
    assert refused(books, give_back(4, 1)) == "insufficient_balance"
    done(books.one(chargeback(5, 600, key="another")))
    assert money(books) == (-1_000, 0)
    assert is_sound(books)


def test_below_zero_a_call_that_was_paid_is_answered_again() -> None:
    books = in_debt(top_up(9, 5, key="more"), charge(8, 5, key="call"))
    assert replayed(books, charge(10, 5, key="call")).transfer.id == 8


@pytest.mark.parametrize("amount", [0, 500, 600])
def test_a_running_hold_is_captured_below_zero(amount: int) -> None:
    """The call was let in while the money was there, and its developer has done the work."""
    books = opened(hold(2, 600), chargeback(3, START), capture(4, amount, of=2))
    assert money(books) == (-amount, 0)
    assert sum(books.earned[DEV]) == amount
    assert is_sound(books)


@pytest.mark.parametrize("end", [void, expire])
def test_a_running_hold_is_given_back_below_zero(end: Callable[..., Command]) -> None:
    books = opened(hold(2, 600), chargeback(3, START + 100))
    books.now += LIFE
    done(books.one(end(4, of=2)))
    assert money(books) == (-100, 0)
    assert is_sound(books)


def test_a_running_hold_is_extended_below_zero() -> None:
    books = opened(hold(2, 600), chargeback(3, START), extend(of=2, until=NOON + 2 * LIFE))
    assert books.holds[2].expires_at == NOON + 2 * LIFE


def test_a_call_whose_hold_expired_is_not_charged_late_below_zero_but_is_if_it_costs_nothing() -> None:
    books = opened(hold(2, 600), chargeback(3, START + 1))
    books.now += LIFE
    books.run(expire(4, of=2))
    assert refused(books, capture(5, 1, of=2)) == "hold_not_open"
    assert done(books.one(capture(6, 0, of=2))).transfer.kind == Kind.CHARGE
    assert is_sound(books)


def test_a_late_charge_below_zero_takes_free_credit_and_no_money() -> None:
    free = hold(2, 600)._replace(server_id=SERVER, grant_micros=500)
    books = opened(free, chargeback(3, START + 1))
    books.now += LIFE
    books.run(expire(4, of=2))
    assert refused(books, capture(5, 501, of=2)) == "hold_not_open"
    done(books.one(capture(6, 500, of=2)))
    assert money(books) == (-1, 0)
    assert is_sound(books)


@pytest.mark.parametrize(
    "lift",
    [
        top_up(4, 400, key="more"),
        top_up(4, 400, key="more", fee=30),
        refund(4, 400, of=2),
        come_back(4, 400, of=chargeback(3, 400, key="dispute")),
    ],
    ids=["top-up", "top-up with a fee", "refund", "dispute won"],
)
def test_a_balance_below_zero_is_lifted_again_and_calls_go_on(lift: Command) -> None:
    books = in_debt()
    done(books.one(lift))
    assert money(books) == (0, 0)
    done(books.one(charge(5, 0)))
    assert refused(books, charge(6, 1)) == "insufficient_balance"
    assert is_sound(books)


@pytest.mark.parametrize("make", [top_up, refund])
def test_a_balance_below_zero_is_lifted_in_parts(make: Callable[..., TopUp | Refund]) -> None:
    books = in_debt()
    for number in (4, 5, 6, 7):
        assert refused(books, charge(9, 0)) == "insufficient_balance"
        of = {"of": 2} if make is refund else {}
        done(books.one(make(number, 100, key=f"part {number}", **of)))
    done(books.one(charge(9, 0)))


def test_a_debt_is_paid_off_within_a_million_dollars_of_balance() -> None:
    books = in_debt()
    assert refused(books, top_up(4, MAX_BALANCE_MICROS + 401, key="more")) == "invalid_request"
    done(books.one(top_up(4, MAX_BALANCE_MICROS + 400, key="more")))
    assert money(books) == (MAX_BALANCE_MICROS, 0)


def test_a_dispute_that_was_won_after_the_debt_was_paid_is_a_balance_again() -> None:
    books = in_debt(top_up(9, 100, key="before"))
    books.run(top_up(4, 300, key="more"), come_back(5, 400, of=chargeback(3, 400, key="dispute")))
    assert money(books) == (400, 0)
    assert is_sound(books)
