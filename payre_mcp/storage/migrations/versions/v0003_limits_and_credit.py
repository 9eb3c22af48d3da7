"""Spending limits of keys, the lines of keys that rotation makes, and free credit.

Revision: 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

STRICT = {"sqlite_strict": True, "sqlite_with_rowid": False}
POSTING = """
create view posting (part, transfer_id, account, owner_id, amount_micros) as
with line as not materialized (
    select part, id, kind, consumer_id, developer_id, server_id, amount_micros, fee_micros, held_micros, credit_micros,
        case when credit_micros < amount_micros then credit_micros else amount_micros end as spent
      from transfer)
select part, id, 'available', consumer_id, delta from (
    select part, id, consumer_id, case kind
        when 1 then spent - amount_micros
        when 2 then credit_micros - amount_micros
        when 3 then held_micros - credit_micros - amount_micros + spent
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
    select part, id, server_id, case kind
        when 1 then -spent
        when 2 then -credit_micros
        when 3 then credit_micros - spent
        else credit_micros end as delta from line) credit
  where delta <> 0
union all
select part, id, 'credit_held', server_id, case kind when 2 then credit_micros else -credit_micros end
  from line where kind in (2, 3, 4, 5) and credit_micros <> 0
union all
select part, id, 'developer', developer_id, delta from (
    select part, id, developer_id, case kind
        when 6 then fee_micros + credit_micros - amount_micros
        else amount_micros - spent - fee_micros end as delta
      from line where kind in (1, 3, 6)) developer
  where delta <> 0
union all
select part, id, 'platform', 0, case kind when 6 then -fee_micros else fee_micros end
  from line where kind in (1, 3, 6) and fee_micros <> 0
union all
select part, id, 'world', 0, delta from (
    select part, id, case when kind in (1, 3) then spent when kind = 6 then -credit_micros else -amount_micros end as delta
      from line where kind in (1, 3, 6, 7, 8)) world
  where delta <> 0
"""
"""The journal as double-entry lines; those of one transfer sum to 0. Credit comes from the world and is spent into it."""

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what this version knows more of; rows that are there keep their meaning."""
    _limits()
    _credit()


def _limits() -> None:
    """No limits for the keys that are there; each is the first of its line."""
    op.add_column("api_key", sa.Column("limits", sa.Text(), nullable=False, server_default=""))
    op.add_column("api_key", sa.Column("root_id", BIG, autoincrement=False, nullable=False, server_default="0"))
    op.execute("update api_key set root_id = id")


def _credit() -> None:
    """No free credit for anybody who is there; what was held and charged took none."""
    for table in ("transfer", "hold"):
        for name in ("server_id", "credit_micros"):
            op.add_column(table, sa.Column(name, BIG, autoincrement=False, nullable=False, server_default="0"))
    numbers = ("part", "consumer_id", "server_id", "granted_micros", "balance_micros", "held_micros")
    op.create_table(
        "credit",
        *(sa.Column(name, BIG, autoincrement=False, nullable=False) for name in numbers),
        sa.CheckConstraint("held_micros >= 0", name=op.f("ck_credit_held")),
        sa.CheckConstraint("balance_micros >= held_micros", name=op.f("ck_credit_balance")),
        sa.CheckConstraint("balance_micros <= granted_micros", name=op.f("ck_credit_granted")),
        sa.PrimaryKeyConstraint("part", "consumer_id", "server_id", name=op.f("pk_credit")),
        **STRICT,
    )
    op.create_index(
        "uq_transfer_grant",
        "transfer",
        ["part", "consumer_id", "server_id"],
        unique=True,
        sqlite_where=sa.text("kind = 8"),
        postgresql_where=sa.text("kind = 8"),
    )
    op.execute("drop view posting")
    op.execute(POSTING)
