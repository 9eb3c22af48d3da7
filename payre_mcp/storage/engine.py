"""The SQLAlchemy engine over the process's one SQLite library, for the directory and for migrations."""

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
