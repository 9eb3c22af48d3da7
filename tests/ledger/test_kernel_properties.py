"""The kernel against a model that shares no code with it, over histories that Hypothesis invents."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

from hypothesis import given, settings

from payre_mcp.errors import PayreError
from payre_mcp.ledger.audit import audit
from payre_mcp.ledger.model import CHARGES, HOLD_ENDS, SENT, Account, Done, KeyState, Kind, Transfer
from payre_mcp.ledger.state import Answer
from tests.ledger.commands import ALICE, BOB, NOON, PART, SECOND, Books, limited, top_up
from tests.ledger.reference_model import DEAD_KEY, LAST, LIMIT, LIMITED_KEY, START, History, Model, histories, said

FROM_OUTSIDE = {Kind.TOP_UP: 1, Kind.COME_BACK: 1, Kind.RETURN: -1, Kind.CHARGEBACK: -1, Kind.PAYOUT: -1, Kind.COST: -1}
"""What a row brings in, or takes out."""


def opened() -> Books:
    """Two consumers with 700 micros each; one live key, one revoked, and one that is limited."""
    books = Books(balances={who: Account(who, 0, 0) for who in (ALICE, BOB)})
    books.api_keys[DEAD_KEY] = KeyState(DEAD_KEY, NOON, 0)
    limited(books, key=LIMITED_KEY, root=LIMITED_KEY, day=LIMIT)
    books.run(top_up(1, START), top_up(2, START, consumer=BOB))
    return books


def played(history: History) -> Books:
    books = opened()
    for seconds, batch in history:
        books.now += seconds * SECOND
        books.run(*batch)
    return books


@settings(max_examples=80, deadline=None)
@given(histories())
def test_the_kernel_does_what_the_model_says(history: History) -> None:
    books, model = opened(), Model()
    for seconds, batch in history:
        books.now = model.now = books.now + seconds * SECOND
        answers = books.run(*batch)
        assert [said(each) for each in answers] == [model.answer(each) for each in batch]
        assert {who: (each.balance_micros, each.held_micros) for who, each in books.balances.items()} == {
            who: (amount, model.held(who)) for who, amount in model.money.items()
        }
        assert books.earned == model.income
        assert all(account.available_micros >= -model.disputed(who) for who, account in books.balances.items())
        assert {place: counts for place, counts in books.counted.items() if any(counts)} == model.counters()
        assert {place: credit[2:] for place, credit in books.free.items()} == model.credits()


@settings(max_examples=60, deadline=None)
@given(histories())
def test_no_history_makes_money_overdraws_anyone_or_ends_a_hold_twice(history: History) -> None:
    books = opened()
    for seconds, batch in history:
        books.now += seconds * SECOND
        answers = books.run(*batch)
        rows = books.rows.values()
        balances = sum(each.balance_micros for each in books.balances.values())
        came_in = sum(FROM_OUTSIDE.get(Kind(row.kind), 0) * row.amount_micros for row in rows)
        assert balances + sum(map(sum, books.earned.values())) == came_in
        for who, account in books.balances.items():
            held = sum(each.amount_micros - each.credit_micros for each in books.holds.values() if each.consumer_id == who)
            assert 0 <= account.held_micros == held
            assert account.available_micros >= 0 or any(row.kind == Kind.CHARGEBACK for row in rows if row.consumer_id == who)
        for (who, server), credit in books.free.items():
            held = sum(each.credit_micros for each in books.holds.values() if (each.consumer_id, each.server_id) == (who, server))
            assert 0 <= credit.held_micros == held <= credit.balance_micros <= credit.granted_micros
        ends = [row.ref_id for row in rows if row.kind in HOLD_ENDS]
        assert sorted([*ends, *books.holds]) == sorted(of_kind(books, Kind.HOLD))
        for answer in answers:
            if isinstance(answer, Done):
                assert answer.transfer == books.rows[answer.transfer.id]
                assert answer.result in ("", books.results.get(answer.transfer.id, ("", 0))[0])


def of_kind(books: Books, kind: Kind) -> dict[int, int]:
    """Amounts of all rows of a kind, by id."""
    return {row.id: row.amount_micros for row in books.rows.values() if row.kind == kind}


# (b) Batches


def comparable(answer: Answer) -> object:
    """Errors compare by what they say; each answer but an error compares by itself."""
    return (answer.code, answer.data()) if isinstance(answer, PayreError) else answer


@settings(max_examples=50, deadline=None)
@given(histories())
def test_a_batch_ends_where_its_commands_one_by_one_would_have_ended(history: History) -> None:
    together, alone = opened(), opened()
    for seconds, batch in history:
        together.now = alone.now = together.now + seconds * SECOND
        answers = [comparable(each) for each in together.run(*batch)]
        assert answers == [comparable(alone.one(each)) for each in batch]
        assert together == alone


@settings(max_examples=50, deadline=None)
@given(histories())
def test_a_batch_that_was_committed_unseen_writes_no_row_again(history: History) -> None:
    books = opened()
    for seconds, batch in history:
        books.now += seconds * SECOND
        first = books.run(*batch)
        before = deepcopy(books.rows)
        again = books.run(*batch, repeated=True)
        assert books.rows.items() >= before.items()
        for one, two in zip(first, again, strict=True):
            if isinstance(one, Done):
                assert isinstance(two, Done)
                assert two.transfer == one.transfer


# (c) The audit


def forgeries(row: Transfer, hold_is_open: bool) -> Iterator[Transfer]:
    """This row with one field changed, each in a way that makes the ledger wrong."""
    charges, ends = row.kind in CHARGES, row.kind in HOLD_ENDS
    if charges:
        yield row._replace(detail="")
    if charges or row.kind == Kind.REFUND:
        yield row._replace(fee_micros=row.fee_micros + 1)
    if ends:
        yield row._replace(held_micros=row.held_micros + 1)
        yield row._replace(held_micros=row.held_micros - 1)
        yield row._replace(ref_id=0)
        yield row._replace(developer_id=99)
        yield row._replace(consumer_id=99)
        yield row._replace(part=PART + 1)
    if row.kind in {Kind.REFUND, Kind.COME_BACK}:
        yield row._replace(ref_id=0)
    if row.kind == Kind.TOP_UP:
        yield row._replace(fee_micros=row.fee_micros + 1)
        yield row._replace(fee_micros=row.fee_micros - 1)
    if row.kind in SENT:
        yield row._replace(key="")
    if row.kind == Kind.COME_BACK:
        yield row._replace(key="other")
    if row.kind == Kind.HOLD:
        yield row._replace(id=LAST)
        yield row._replace(part=PART + 1)
    if row.credit_micros:
        yield row._replace(credit_micros=row.credit_micros + 1)
        yield row._replace(credit_micros=row.credit_micros - 1)
        yield row._replace(credit_micros=-row.credit_micros)
        yield row._replace(server_id=99)
        yield row._replace(server_id=0)
    yield row._replace(amount_micros=row.amount_micros + 1)
    yield row._replace(kind=99)
    if row.amount_micros:
        yield from costly_forgeries(row, hold_is_open)


def costly_forgeries(row: Transfer, hold_is_open: bool) -> Iterator[Transfer]:
    """Changes that are wrong because money is in the row."""
    releases, unearned = {Kind.VOID, Kind.EXPIRE}, {Kind.TOP_UP, Kind.GRANT}
    # Why money went out of a balance or came into it is known outside alone.
    alike = ({Kind.VOID, Kind.EXPIRE}, {Kind.RETURN, Kind.CHARGEBACK}, {Kind.COME_BACK, Kind.TOP_UP})
    is_free = row.kind in {Kind.CHARGE, Kind.REFUND} and row.amount_micros == row.credit_micros
    if row.kind not in releases:
        yield row._replace(amount_micros=row.amount_micros - 1)
        yield row._replace(amount_micros=-row.amount_micros)
    if row.kind != Kind.COST:
        yield row._replace(consumer_id=BOB if row.consumer_id == ALICE else ALICE)
        yield row._replace(consumer_id=99)
    yield row._replace(part=PART + 1)
    if row.kind not in unearned and not (row.kind == Kind.HOLD and hold_is_open) and not is_free:
        yield row._replace(developer_id=99)
    if row.kind in CHARGES and row.amount_micros > row.credit_micros:
        yield row._replace(fee_bps=10_000)
    for kind in Kind:
        if kind != row.kind and {kind, row.kind} not in alike:
            yield row._replace(kind=int(kind))


def forged_terms(row: Transfer) -> Iterator[Transfer]:
    """The row with terms that do not explain its amount, or count what was not used."""
    terms = json.loads(row.terms)
    if row.kind == Kind.HOLD:
        yield row._replace(terms="")
        yield row._replace(terms=json.dumps({**terms, "variant": "other"}))
        yield row._replace(terms=json.dumps({**terms, "spent": [["elsewhere", 0]]}))
    elif row.kind in CHARGES:
        for forgery in ("nonsense", "[]", "{}", "1"):
            yield row._replace(terms=forgery)
        if row.amount_micros:
            yield row._replace(terms=json.dumps({**terms, "spent": [["elsewhere", 0]]}))
        if "version" not in terms:
            return
        yield row._replace(terms=json.dumps({**terms, "counters": 1}))
        if not terms["missing"]:
            yield row._replace(terms=json.dumps({**terms, "shortfall_micros": terms["shortfall_micros"] + 1}))
            yield row._replace(terms=json.dumps({**terms, "lines": [*terms["lines"], ["requests", 1, "99999"]]}))
        for place, (name, start, quantity) in enumerate(terms["counters"]):
            counters = list(terms["counters"])
            counters[place] = [name, start, quantity + 1]
            yield row._replace(terms=json.dumps({**terms, "counters": counters}))


@settings(max_examples=20, deadline=None)
@given(histories())
def test_the_audit_accepts_what_the_kernel_wrote_and_no_forged_lost_or_doubled_row(history: History) -> None:
    books = played(history)
    assert audit(books, NOON).violations == []
    for row in books.history():
        for forgery in forgeries(row, row.id in books.holds):
            assert not sound(books, {**books.rows, row.id: forgery}), (row, forgery)
        if row.terms and (row.kind in CHARGES or row.id in books.holds):
            for forgery in forged_terms(row):
                assert not sound(books, {**books.rows, row.id: forgery}), (row, forgery)
        if row.amount_micros:
            assert not sound(books, {number: each for number, each in books.rows.items() if each != row}), row
            assert not sound(books, {**books.rows, LAST: row._replace(id=LAST)}), row


@settings(max_examples=20, deadline=None)
@given(histories())
def test_the_audit_notices_every_counter_that_its_calls_do_not_explain(history: History) -> None:
    books = played(history)
    counted = books.counted
    for place, (captured, reserved) in counted.items():
        for forgery in ((captured + 1, reserved), (captured - 1, reserved), (captured, reserved + 1), (captured, reserved - 1)):
            assert not audit(replace(books, counted={**counted, place: forgery}), NOON).ok
        if captured or reserved:
            elsewhere = (*place[:2], place[2] + 1)
            assert not audit(replace(books, counted={each: counted[each] for each in counted if each != place}), NOON).ok
            assert not audit(replace(books, counted={**counted, elsewhere: (captured, reserved)}), NOON).ok


def sound(books: Books, rows: dict[int, Transfer]) -> bool:
    return audit(replace(books, rows=rows), NOON).ok
