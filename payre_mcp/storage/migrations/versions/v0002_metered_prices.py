"""Metered prices: what a hold and a charge were priced by, and the counters that prices depend on.

Revision: 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

STRICT = {"sqlite_strict": True, "sqlite_with_rowid": False}


def upgrade() -> None:
    """Add `terms` to holds and to the journal, empty for what was priced before, and the table of counters."""
    for table in ("transfer", "hold"):
        op.add_column(table, sa.Column("terms", sa.Text(), nullable=False, server_default=""))
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    numbers = {name: sa.Column(name, big, autoincrement=False, nullable=False) for name in NUMBERS}
    op.create_table(
        "usage_counter",
        numbers["part"],
        numbers["consumer_id"],
        sa.Column("name", sa.Text(), nullable=False),
        numbers["window_start"],
        numbers["captured"],
        numbers["reserved"],
        sa.PrimaryKeyConstraint("part", "consumer_id", "name", "window_start", name=op.f("pk_usage_counter")),
        **STRICT,
    )


NUMBERS = ("part", "consumer_id", "window_start", "captured", "reserved")
