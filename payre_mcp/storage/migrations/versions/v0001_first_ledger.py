"""The first ledger.

Revision: 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

STRICT = {"sqlite_strict": True, "sqlite_with_rowid": False}

POSTING = """
create view posting (part, transfer_id, account, owner_id, amount_micros) as
select part, id, 'available', consumer_id, delta from (
    select part, id, consumer_id, case kind
        when 1 then -amount_micros
        when 2 then -amount_micros
        when 3 then held_micros - amount_micros
        else amount_micros end as delta from transfer) lines
  where delta <> 0
union all
select part, id, 'held', consumer_id, case kind when 2 then amount_micros else -held_micros end
  from transfer where kind = 2 and amount_micros <> 0 or kind in (3, 4, 5) and held_micros <> 0
union all
select part, id, 'developer', developer_id, case kind when 6 then fee_micros - amount_micros else amount_micros - fee_micros end
  from transfer where kind in (1, 3, 6) and amount_micros <> fee_micros
union all
select part, id, 'platform', 0, case kind when 6 then -fee_micros else fee_micros end
  from transfer where kind in (1, 3, 6) and fee_micros <> 0
union all
select part, id, 'world', 0, -amount_micros
  from transfer where kind = 7
"""
"""The journal as double-entry lines; those of one transfer sum to 0. Kinds: see `payre_mcp.ledger.model.Kind`."""


def number(name: str) -> sa.Column[int]:
    """A 64-bit integer."""
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False)


def text(name: str) -> sa.Column[str]:
    """Text of any length."""
    return sa.Column(name, sa.Text(), nullable=False)


def upgrade() -> None:
    """Make every table, the posting view, and the guards that keep the journal append-only."""
    _directory()
    _money()
    _guards()


def _guards() -> None:
    op.execute(POSTING)
    if op.get_bind().dialect.name == "sqlite":
        for act in ("update", "delete"):
            op.execute(
                f"create trigger transfer_no_{act} before {act} on transfer "
                f"begin select raise(abort, 'the journal is append-only: no {act}'); end"
            )


def _directory() -> None:
    op.create_table(
        "api_key",
        number("id"),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        text("role"),
        text("mode"),
        number("owner_id"),
        number("part"),
        number("server_id"),
        text("label"),
        text("last4"),
        number("created_at"),
        number("revoked_at"),
        number("expires_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_key_digest")),
        **STRICT,
    )
    op.create_table(
        "consumer",
        number("id"),
        number("part"),
        text("name"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_consumer")),
        **STRICT,
    )
    op.create_table(
        "developer",
        number("id"),
        text("name"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_developer")),
        **STRICT,
    )
    op.create_table(
        "ledger",
        number("id"),
        text("mode"),
        text("issuer"),
        number("openings"),
        sa.CheckConstraint("id = 1", name=op.f("ck_ledger_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
        **STRICT,
    )
    op.create_table(
        "price_listing",
        number("server_id"),
        text("kind"),
        text("name"),
        text("version"),
        text("spec"),
        number("published_at"),
        sa.PrimaryKeyConstraint("server_id", "kind", "name", "version", name=op.f("pk_price_listing")),
        **STRICT,
    )
    op.create_table(
        "server",
        number("id"),
        number("developer_id"),
        text("name"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_server")),
        sa.UniqueConstraint("developer_id", "name", name=op.f("uq_server_developer_id")),
        **STRICT,
    )
    op.create_table(
        "top_up",
        number("id"),
        number("part"),
        number("consumer_id"),
        number("amount_micros"),
        text("token"),
        number("created_at"),
        number("expires_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_top_up")),
        sa.UniqueConstraint("token", name=op.f("uq_top_up_token")),
        **STRICT,
    )


def _money() -> None:
    op.create_table(
        "account",
        number("part"),
        number("id"),
        number("balance_micros"),
        number("held_micros"),
        number("last_charge_id"),
        sa.CheckConstraint("balance_micros <= 1000000000000", name=op.f("ck_account_cap")),
        sa.CheckConstraint("balance_micros >= held_micros", name=op.f("ck_account_balance")),
        sa.CheckConstraint("held_micros >= 0", name=op.f("ck_account_held")),
        sa.PrimaryKeyConstraint("part", "id", name=op.f("pk_account")),
        **STRICT,
    )
    op.create_table(
        "earning",
        number("part"),
        number("developer_id"),
        number("earned_micros"),
        number("fees_micros"),
        sa.PrimaryKeyConstraint("part", "developer_id", name=op.f("pk_earning")),
        **STRICT,
    )
    op.create_table(
        "hold",
        number("part"),
        number("id"),
        number("consumer_id"),
        number("developer_id"),
        number("amount_micros"),
        text("key"),
        number("slot"),
        text("fingerprint"),
        number("api_key_id"),
        text("tool"),
        number("expires_at"),
        sa.PrimaryKeyConstraint("part", "id", name=op.f("pk_hold")),
        **STRICT,
    )
    op.create_table(
        "stored_result",
        number("part"),
        number("charge_id"),
        text("body"),
        number("expires_at"),
        sa.PrimaryKeyConstraint("part", "charge_id", name=op.f("pk_stored_result")),
        **STRICT,
    )
    op.create_index("ix_stored_result_expires_at", "stored_result", ["part", "expires_at"])
    op.create_table(
        "transfer",
        number("part"),
        number("id"),
        number("kind"),
        number("consumer_id"),
        number("developer_id"),
        number("ref_id"),
        number("amount_micros"),
        number("fee_micros"),
        number("fee_bps"),
        number("held_micros"),
        text("key"),
        number("slot"),
        text("fingerprint"),
        number("api_key_id"),
        text("tool"),
        number("created_at"),
        number("expires_at"),
        text("detail"),
        number("prev_id"),
        sa.CheckConstraint("amount_micros >= 0", name=op.f("ck_transfer_amount")),
        sa.CheckConstraint("fee_micros between 0 and amount_micros", name=op.f("ck_transfer_fee")),
        sa.PrimaryKeyConstraint("part", "id", name=op.f("pk_transfer")),
        **STRICT,
    )
    op.create_index(
        "ix_transfer_return",
        "transfer",
        ["part", "ref_id"],
        unique=False,
        sqlite_where=sa.text("kind in (1, 6) and ref_id <> 0"),
        postgresql_where=sa.text("kind in (1, 6) and ref_id <> 0"),
    )
    op.create_index(
        "uq_transfer_end",
        "transfer",
        ["part", "ref_id"],
        unique=True,
        sqlite_where=sa.text("kind in (3, 4, 5)"),
        postgresql_where=sa.text("kind in (3, 4, 5)"),
    )
    op.create_index(
        "uq_transfer_key",
        "transfer",
        ["part", "consumer_id", "developer_id", "key", "slot"],
        unique=True,
        sqlite_where=sa.text("key <> ''"),
        postgresql_where=sa.text("key <> ''"),
    )
