"""Payments and their parties in a database: what was asked of the payment processor, of whom, and how far that is.

Nothing here moves money; the one sum that it tells of, what may be paid out now, is read from the journal in one statement.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from payre_mcp.clock import Clock
from payre_mcp.errors import NotFound
from payre_mcp.money import Money
from payre_mcp.payments import MOST_FAILURES, RANK, UNDER_WAY, Payee, Payer, Payment, PaymentKind, PaymentState
from payre_mcp.storage.readers import Reader, SqliteReader
from payre_mcp.storage.sessions import Sessions, fields_of, insertion, stored
from payre_mcp.storage.tables import METADATA, PayerTable, PaymentTable

_COLUMNS = {name: ", ".join(METADATA.tables[name].columns.keys()) for name in ("payment", "payer", "payee")}
_PAYMENTS, _PAYERS, _PAYEES = (f"select {columns} from {name}" for name, columns in _COLUMNS.items())

_ADD_PAYMENT = insertion("payment")
_SAVE_PAYER = insertion("payer", replacing=True)
_SAVE_PAYEE = insertion("payee", replacing=True)
_MAKE_PAYER = sa.text(
    f"insert into payer ({_COLUMNS['payer']}) "
    "select id, part, '', '', '', 0, 0, 0, 0, 0 from consumer where id = :consumer_id on conflict do nothing"
)
_FILL = sa.text("update payment set amount_micros = :amount, detail = :detail where id = :id and detail = ''")
_STEP = sa.text(
    "insert into reconciled (name, until_us) values (:name, :until_us) "
    "on conflict (name) do update set until_us = excluded.until_us where reconciled.until_us < excluded.until_us"
)

_STATES = ", ".join(f"'{state}'" for state in UNDER_WAY)
_UNDER_WAY = f"state in ({_STATES})"
"""In the words of the partial indexes, here and with `<> ''` below, or SQLite would not take them."""

_DUE = f"""
select p.* from (
    {_PAYERS} where method_id <> '' and amount_micros > 0 and failures < {MOST_FAILURES} and not_before <= ?
       and not exists (
        select 1 from payment where kind = '{PaymentKind.RECHARGE}' and owner_id = payer.consumer_id and {_UNDER_WAY})
  ) p join account a on a.part = p.part and a.id = p.consumer_id
 where a.balance_micros - a.held_micros < p.threshold_micros order by p.not_before, p.consumer_id limit ?
"""

_PAYABLE = """
with moved as (
    select consumer_id, case kind when 6 then ref_id else id end as charge_id,
           case when kind = 6 then fee_micros + credit_micros - amount_micros
                when credit_micros < amount_micros then amount_micros - credit_micros - fee_micros
                else 0 end as net
      from transfer where part = ? and developer_id = ? and kind in (1, 3, 6) and id >= ?
), recent as (
    select consumer_id, sum(net) as net, sum(case when charge_id >= ? then net else 0 end) as young
      from moved where charge_id >= ? group by consumer_id
)
select cast(
    coalesce((select earned_micros from earning where part = ? and developer_id = ?), 0)
    - coalesce((
        select sum(case
            when net <> young and (
                select min(t.id) from transfer t {by_key}
                 where t.part = ? and t.consumer_id = recent.consumer_id and t.developer_id = 0 and t.key <> '' and t.kind = 7
            ) >= ? then net
            else young end) from recent), 0)
    as bigint)
"""
"""What was earned, without what charges brought that are too young: by themselves, or by their consumer's first top-up.

A refund goes with its charge, and has its consumer. Whoever paid nothing of late that is old enough by itself is not asked
when they first topped up. `by_key` is for SQLite, which without statistics takes the part for the choice.
"""


class SqlPayments:
    """Payments, payers and payees of a ledger's database. Methods block; every write is one transaction; thread-safe.

    Where kinds of payments are asked for, none means all. `before` is the id from before which a list goes on; 0 for its start.

    Raises, all of them:
        PayreUnavailable: The database is in trouble; nothing was written.
    """

    def __init__(self, sessions: Sessions, lookups: Reader, clock: Clock) -> None:
        self._sessions, self._lookups, self._clock = sessions, lookups, clock
        self._payable = _PAYABLE.format(by_key="indexed by uq_transfer_key" if isinstance(lookups, SqliteReader) else "")

    def add(self, payment: Payment) -> bool:
        """Write a new payment down; False, and nothing is written, where it must not be made.

        So it is where its id or its id at the processor is known, or where another recharge or payout of its owner is under
        way; of several that are added at once, one is.
        """
        return self._sessions.write(_ADD_PAYMENT, stored(payment)) == 1

    def find(self, payment_id: int) -> Payment | None:
        """The payment with this id."""
        return self._one("id = ?", payment_id)

    def find_by_processor_id(self, processor_id: str) -> Payment | None:
        """The payment that has this id at the processor."""
        return self._one("processor_id = ? and processor_id <> ''", processor_id)

    def find_by_card_payment(self, card_payment: str, kinds: Sequence[PaymentKind]) -> Payment | None:
        """The payment by this PaymentIntent: the top-up or recharge that a refund or dispute is of, by `kinds`."""
        return self._one(f"card_payment = ? and card_payment <> '' and {_of(kinds)} order by id limit 1", card_payment, *kinds)

    def children(self, parent_id: int) -> Sequence[Payment]:
        """The refunds and disputes of a top-up or recharge, oldest first."""
        # They have its owner, whose payments an index finds.
        owner = "owner_id = (select owner_id from payment where id = ?)"
        return self._payments(f"{owner} and parent_id = ? order by id", parent_id, parent_id)

    def advance(
        self, payment_id: int, state: PaymentState, *,
        processor_id: str = "", card_payment: str = "",
        problem: str | None = None, detail: str | None = None, amount: Money | None = None,
    ) -> Payment:  # fmt: skip
        """Move a payment on, and answer it as it is then; what is older news moves nothing.

        A state below the one that it has, see `RANK`, leaves problem, detail and amount alone too. The processor's ids are
        filled in whenever they come, and never change after. Of several who advance one payment, the highest state stays.

        Raises:
            NotFound: No such payment.
        """
        news: dict[str, Any] = {"problem": problem, "detail": detail, "amount": amount}
        with self._sessions.transaction() as session:
            row = session.get(PaymentTable, payment_id, with_for_update=True)
            if row is None:
                raise NotFound("no such payment; nothing was changed")
            before = _payment(fields_of(row))
            after = before._replace(
                processor_id=before.processor_id or processor_id, card_payment=before.card_payment or card_payment
            )
            if RANK[state] >= RANK[before.state]:
                after = after._replace(state=state, **{name: value for name, value in news.items() if value is not None})
            if after != before:
                after = after._replace(updated_at=self._clock.now_us())
                session.add(row.sqlmodel_update(stored(after)))
            return after

    def fill(self, payment_id: int, amount: Money, detail: str) -> Payment:
        """Write down what a payment is made of, once: of several who do, the first stays. Answers it as it is then."""
        self._sessions.write(_FILL, {"id": payment_id, "amount": amount.micros, "detail": detail})
        filled = self.find(payment_id)
        if filled is None:
            raise NotFound("no such payment; nothing was changed")
        return filled

    def under_way(self, *, before_id: int, limit: int, kinds: Sequence[PaymentKind] = ()) -> Sequence[Payment]:
        """Payments that are not over, oldest first, of those made before this id; 0 for all."""
        return self._page(f"{_UNDER_WAY} and {_of(kinds)}", kinds, before=before_id, limit=limit, order="id")

    def of_owner(self, owner_id: int, kinds: Sequence[PaymentKind], *, before: int, limit: int) -> Sequence[Payment]:
        """The payments of a consumer or developer, newest first."""
        return self._page(f"owner_id = ? and {_of(kinds)}", [owner_id, *kinds], before=before, limit=limit)

    def list(self, kinds: Sequence[PaymentKind], *, before: int, limit: int) -> Sequence[Payment]:
        """The payments of everybody, newest first."""
        return self._page(_of(kinds), kinds, before=before, limit=limit)

    def moved_since(self, owner_id: int, kind: PaymentKind, since_us: int) -> Money:
        """What was asked for from a moment on, and was or may still be moved: neither failed nor expired."""
        over = f"'{PaymentState.FAILED}', '{PaymentState.EXPIRED}'"
        rows = self._lookups.rows(
            "select cast(coalesce(sum(amount_micros), 0) as bigint) from payment "
            f"where owner_id = ? and kind = ? and created_at >= ? and state not in ({over})",
            owner_id, str(kind), since_us,
        )  # fmt: skip
        return Money(rows[0][0])

    def payer(self, consumer_id: int) -> Payer | None:
        """A consumer at the processor."""
        return next(iter(self._payers("consumer_id = ?", consumer_id)), None)

    def payer_of_customer(self, customer_id: str) -> Payer | None:
        """Who is this customer of the processor."""
        return next(iter(self._payers("customer_id = ? and customer_id <> ''", customer_id)), None)

    def payer_of_method(self, method_id: str) -> Payer | None:
        """Whose saved card this is."""
        return next(iter(self._payers("method_id = ? and method_id <> ''", method_id)), None)

    def save_payer(self, payer: Payer) -> None:
        """Write a payer down, in place of what was known of them."""
        self._sessions.write(_SAVE_PAYER, stored(payer))

    def change_payer(self, consumer_id: int, change: Callable[[Payer], Payer]) -> Payer:
        """Change what is known of a payer, of whom nothing may be known yet; of several at once, one after the other.

        `change` is given the payer as they are and answers them as they shall be. It should be quick: others wait for it.

        Raises:
            NotFound: No such consumer.
        """
        with self._sessions.transaction() as session:
            session.connection().execute(_MAKE_PAYER, {"consumer_id": consumer_id})
            row = session.get(PayerTable, consumer_id, with_for_update=True)
            if row is None:
                raise NotFound("no such consumer; nothing was changed")
            after = change(_payer(fields_of(row)))
            assert (after.consumer_id, after.part) == (row.consumer_id, row.part)
            session.add(row.sqlmodel_update(stored(after)))
        return after

    def due_for_recharge(self, now_us: int, limit: int) -> Sequence[Payer]:
        """Whose card is to be charged by itself now, longest waiting first: too little is available and none is under way.

        Whom the month's cap leaves out stays due until a later `not_before` is written down for them.
        """
        return [_payer(row) for row in self._lookups.rows(_DUE, now_us, limit)]

    def payee(self, developer_id: int) -> Payee | None:
        """A developer at the processor."""
        return next(iter(self._payees("developer_id = ?", developer_id)), None)

    def payee_of_account(self, account_id: str) -> Payee | None:
        """Whose account this is."""
        return next(iter(self._payees("account_id = ? and account_id <> ''", account_id)), None)

    def payees(self) -> Sequence[Payee]:
        """Every developer who is known to the processor, oldest first."""
        return self._payees("developer_id >= 0 order by developer_id")

    def save_payee(self, payee: Payee) -> None:
        """Write a payee down, in place of what was known of them."""
        self._sessions.write(_SAVE_PAYEE, stored(payee))

    def payable(self, developer_id: int, part: int, *, mature_id: int, first_mature_id: int) -> int:
        """The micros of a part's earnings that may be paid out now; below zero where more was paid than is left.

        That is what was earned without what charges from `mature_id` on brought, and without what those from `first_mature_id`
        on did whose consumer's first top-up is that new. What was refunded of such a charge is not taken off twice.
        """
        since = min(mature_id, first_mature_id)
        moved = (part, developer_id, since, mature_id, since)
        return int(self._lookups.rows(self._payable, *moved, part, developer_id, part, first_mature_id)[0][0])

    def reconciled_until(self, name: str) -> int:
        """How far a list of the processor was read, in microseconds; 0 for not at all."""
        rows = self._lookups.rows("select until_us from reconciled where name = ?", name)
        return int(rows[0][0]) if rows else 0

    def set_reconciled(self, name: str, until_us: int) -> None:
        """A list was read as far as this; never back."""
        self._sessions.write(_STEP, {"name": name, "until_us": until_us})

    def close(self) -> None:
        """Let go of the database."""
        self._lookups.close()
        self._sessions.close()

    def _one(self, where: str, *parameters: object) -> Payment | None:
        return next(iter(self._payments(where, *parameters)), None)

    def _page(
        self, where: str, parameters: Sequence[object], *, before: int, limit: int, order: str = "id desc"
    ) -> Sequence[Payment]:
        if before:
            where, parameters = f"{where} and id < ?", [*parameters, before]
        return self._payments(f"{where} order by {order} limit ?", *parameters, limit)

    def _payments(self, where: str, *parameters: object) -> Sequence[Payment]:
        return [_payment(row) for row in self._lookups.rows(f"{_PAYMENTS} where {where}", *parameters)]

    def _payers(self, where: str, key: object) -> Sequence[Payer]:
        return [_payer(row) for row in self._lookups.rows(f"{_PAYERS} where {where}", key)]

    def _payees(self, where: str, *parameters: object) -> Sequence[Payee]:
        return [Payee(*row) for row in self._lookups.rows(f"{_PAYEES} where {where}", *parameters)]


def _of(kinds: Sequence[PaymentKind]) -> str:
    return f"kind in ({', '.join('?' * len(kinds))})" if kinds else "kind <> ''"


def _payment(columns: Iterable[Any]) -> Payment:
    row = Payment(*columns)
    return row._replace(kind=PaymentKind(row.kind), state=PaymentState(row.state), amount=_money(row.amount), fee=_money(row.fee))


def _payer(columns: Iterable[Any]) -> Payer:
    row = Payer(*columns)
    return row._replace(threshold=_money(row.threshold), amount=_money(row.amount), month_cap=_money(row.month_cap))


def _money(micros: Any) -> Money:
    return Money(micros)
