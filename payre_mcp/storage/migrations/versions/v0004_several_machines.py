"""Several processes and machines: the number of parts, leases, and what PostgreSQL wants told about our tables.

Revision: 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STRICT = {"sqlite_strict": True, "sqlite_with_rowid": False}


def upgrade() -> None:
    """Add what this version knows more of; a ledger that is there has one part."""
    op.add_column("ledger", sa.Column("parts", BIG, autoincrement=False, nullable=False, server_default="1"))
    op.create_table(
        "lease",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("until_us", BIG, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
        **STRICT,
    )
    _takings()
    if op.get_bind().dialect.name == "postgresql":
        _postgres()


def _takings() -> None:
    sums = ("charges", "gross_micros", "fee_micros", "refunded_micros", "fee_refunded_micros")
    numbers = {name: sa.Column(name, BIG, autoincrement=False, nullable=False) for name in ("part", "developer_id", *sums)}
    words = {name: sa.Column(name, sa.Text(), nullable=False) for name in ("origin", "kind", "tool")}
    op.create_table(
        "taking",
        numbers["part"],
        numbers["developer_id"],
        *words.values(),
        *(numbers[name] for name in sums),
        sa.PrimaryKeyConstraint("part", "developer_id", "origin", "kind", "tool", name=op.f("pk_taking")),
        **STRICT,
    )
    op.create_table(
        "rolled_up",
        sa.Column("part", BIG, autoincrement=False, nullable=False),
        sa.Column("last_id", BIG, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("part", name=op.f("pk_rolled_up")),
        **STRICT,
    )


def _postgres() -> None:
    """Room on the page for rows that change in place, sums that are kept up to date, and a journal that only grows."""
    op.execute("alter table account set (fillfactor = 70)")
    op.execute("alter table earning set (fillfactor = 50)")
    op.execute("alter table usage_counter set (fillfactor = 70)")
    op.execute("create index ix_transfer_developer on transfer (developer_id, id) where kind in (1, 3, 6)")
    op.execute(
        "create function payre_append_only() returns trigger language plpgsql as "
        "$$ begin raise exception 'the journal is append-only: no %', lower(tg_op); end $$"
    )
    op.execute(
        "create trigger transfer_append_only before update or delete or truncate on transfer "
        "for each statement execute function payre_append_only()"
    )
