"""Moving a database to the schema of this version. Alembic is loaded only when there is something to do."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

HEAD = "0001"
"""The newest revision; a test holds it equal to Alembic's."""

VERSION_TABLE = "payre_alembic_version"


def is_current(connection: Any) -> bool:
    """Whether a DB-API connection sees a database at `HEAD`."""
    found = connection.execute("select 1 from sqlite_master where name = ?", (VERSION_TABLE,)).fetchone()
    return bool(found) and connection.execute(f"select version_num from {VERSION_TABLE}").fetchall() == [(HEAD,)]


def upgrade(engine: sa.Engine) -> None:
    """Bring the database to `HEAD` in one transaction; two processes that start together do it once.

    A database that a newer version of payre_mcp wrote is left alone.
    """
    with engine.begin() as connection, _quiet(logging.getLogger("alembic")):
        # Alembic costs as much to import as all of SQLAlchemy, and almost every start finds nothing to do.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415

        config = Config()
        config.set_main_option("script_location", "payre_mcp.storage:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _quiet(logger: logging.Logger) -> Generator[None]:
    """A server that starts for the first time need not tell its user how a table is made."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
