"""SQLAlchemy engines, for the directory, for reading and for migrations: over the process's one SQLite library, or psycopg."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import NullPool

from payre_mcp.storage.library import prepare, sqlite


def make_engine(path: Path, *, read_only: bool = False) -> sa.Engine:
    """An engine whose every transaction is `BEGIN IMMEDIATE`: it reads what it will write under the write lock.

    With `read_only` it takes no write lock, and so never waits for the ledger's writer.
    """
    engine = sa.create_engine(f"sqlite:///{path}", module=sqlite, poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.isolation_level = None
        prepare(connection, read_only=read_only)

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql("begin" if read_only else "begin immediate")

    return engine


READING: dict[str, Any] = {"connect_timeout": 2, "application_name": "payre", "options": "-c statement_timeout=5000"}
"""What is asked beside the money path is refused after five seconds, as it is by a locked SQLite file."""


def server_engine(url: str) -> sa.Engine:
    """An engine with a pool of connections to a PostgreSQL server; one that has died is noticed before it is used.

    The address goes to libpq as it is, which may name several hosts.
    """
    import psycopg  # noqa: PLC0415 - an extra: only who has a PostgreSQL has the driver

    return sa.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(url, **READING), pool_size=5, max_overflow=5, pool_pre_ping=True
    )
