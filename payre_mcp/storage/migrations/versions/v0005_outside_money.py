"""Money that crosses the border: refunds, disputes, payouts and the processor's fees; who pays and who is paid there.

Revision: 0005.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

POSTING = """
create view posting (part, transfer_id, account, owner_id, amount_micros) as
with line as not materialized (
    select part, id, kind, consumer_id, developer_id, server_id, amount_micros, fee_micros, held_micros, credit_micros,
        case when credit_micros < amount_micros then credit_micros else amount_micros end as spent
      from transfer)
select part, id, 'available', consumer_id, delta from (
    select part, id, consumer_id, case
        when kind = 1 then spent - amount_micros
        when kind = 2 then credit_micros - amount_micros
        when kind = 3 then held_micros - credit_micros - amount_micros + spent
        when kind = 7 then amount_micros - fee_micros
        when kind in (9, 10) then -amount_micros
        when kind in (11, 12) or kind = 13 and consumer_id = 0 then 0
        else amount_micros - credit_micros end as delta from line) available
  where delta <> 0
union all
select part, id, 'held', consumer_id, delta from (
    select part, id, consumer_id,
        case kind when 2 then amount_micros - credit_micros else credit_micros - held_micros end as delta
      from line where kind in (2, 3, 4, 5)) held
  where delta <> 0
union all
select part, id, 'credit', server_id, delta from (
    select part, id, server_id, case
        when kind = 1 then -spent
        when kind = 2 then -credit_micros
        when kind = 3 then credit_micros - spent
        else credit_micros end as delta from line) credit
  where delta <> 0
union all
select part, id, 'credit_held', server_id, case kind when 2 then credit_micros else -credit_micros end
  from line where kind in (2, 3, 4, 5) and credit_micros <> 0
union all
select part, id, 'developer', developer_id, delta from (
    select part, id, developer_id, case
        when kind = 6 then fee_micros + credit_micros - amount_micros
        when kind = 11 then -amount_micros
        when kind = 13 then amount_micros
        else amount_micros - spent - fee_micros end as delta
      from line where kind in (1, 3, 6, 11) or kind = 13 and consumer_id = 0) developer
  where delta <> 0
union all
select part, id, 'platform', 0, delta from (
    select part, id, case kind when 6 then -fee_micros when 12 then -amount_micros else fee_micros end as delta
      from line where kind in (1, 3, 6, 7, 12)) platform
  where delta <> 0
union all
select part, id, 'world', 0, delta from (
    select part, id, case
        when kind in (1, 3) then spent
        when kind = 6 then -credit_micros
        when kind in (9, 10, 11, 12) then amount_micros
        else -amount_micros end as delta
      from line where kind in (1, 3, 6, 7, 8, 9, 10, 11, 12, 13)) world
  where delta <> 0
"""
"""The journal as double-entry lines; those of one transfer sum to 0. Outside money comes from the world and goes there."""

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STRICT = {"sqlite_strict": True, "sqlite_with_rowid": False}
UNDER_WAY = "state in ('created', 'open', 'processing')"


def number(name: str) -> sa.Column[int]:
    """A 64-bit integer."""
    return sa.Column(name, BIG, autoincrement=False, nullable=False)


def text(name: str) -> sa.Column[str]:
    """Text of any length."""
    return sa.Column(name, sa.Text(), nullable=False)


def upgrade() -> None:
    """Add what this version knows more of; balances may fall below zero from now on, by what was disputed."""
    op.execute("drop view posting")
    op.execute(POSTING)
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_accounts()
    else:
        op.drop_constraint(op.f("ck_account_balance"), "account")
    _payments()
    _parties()
    _news()


def _rebuild_accounts() -> None:
    """SQLite drops no constraint of a table that is there."""
    op.rename_table("account", "account_before")
    op.create_table(
        "account",
        *(number(name) for name in ("part", "id", "balance_micros", "held_micros", "last_charge_id")),
        sa.CheckConstraint("balance_micros <= 1000000000000", name=op.f("ck_account_cap")),
        sa.CheckConstraint("held_micros >= 0", name=op.f("ck_account_held")),
        sa.PrimaryKeyConstraint("part", "id", name=op.f("pk_account")),
        **STRICT,
    )
    op.execute("insert into account select part, id, balance_micros, held_micros, last_charge_id from account_before")
    op.drop_table("account_before")


def _payments() -> None:
    op.create_table(
        "payment",
        number("id"),
        text("kind"),
        text("state"),
        *(number(name) for name in ("owner_id", "part", "parent_id", "amount_micros", "fee_micros")),
        *(text(name) for name in ("processor_id", "card_payment", "problem", "detail")),
        number("created_at"),
        number("updated_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payment")),
        **STRICT,
    )
    op.create_index("ix_payment_owner", "payment", ["owner_id", "id"])
    _partial("uq_payment_processor_id", "payment", "processor_id", where="processor_id <> ''", unique=True)
    under_way = f"kind in ('recharge', 'payout') and {UNDER_WAY}"
    _partial("uq_payment_under_way", "payment", "kind", "owner_id", where=under_way, unique=True)
    _partial("ix_payment_card_payment", "payment", "card_payment", where="card_payment <> ''")
    _partial("ix_payment_open", "payment", "id", where=UNDER_WAY)


def _parties() -> None:
    op.create_table(
        "payer",
        number("consumer_id"),
        number("part"),
        *(text(name) for name in ("customer_id", "method_id", "card")),
        *(number(name) for name in ("threshold_micros", "amount_micros", "month_cap_micros", "not_before", "failures")),
        sa.PrimaryKeyConstraint("consumer_id", name=op.f("pk_payer")),
        **STRICT,
    )
    op.create_table(
        "payee",
        number("developer_id"),
        *(text(name) for name in ("account_id", "state", "country", "email")),
        sa.PrimaryKeyConstraint("developer_id", name=op.f("pk_payee")),
        **STRICT,
    )
    _partial("uq_payee_account_id", "payee", "account_id", where="account_id <> ''", unique=True)


def _news() -> None:
    op.create_table(
        "inbox_event",
        *(text(name) for name in ("id", "endpoint", "kind")),
        number("livemode"),
        *(text(name) for name in ("account", "object_id", "body", "state")),
        number("tries"),
        text("problem"),
        number("received_at"),
        number("next_try_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inbox_event")),
        **STRICT,
    )
    _partial("ix_inbox_event_waiting", "inbox_event", "next_try_at", where="state = 'waiting'")
    op.create_table(
        "reconciled",
        text("name"),
        number("until_us"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_reconciled")),
        **STRICT,
    )


def _partial(name: str, table: str, *columns: str, where: str, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, list(columns), unique=unique, sqlite_where=condition, postgresql_where=condition)
