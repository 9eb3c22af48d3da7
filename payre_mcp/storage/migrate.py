"""Moving a database to the schema of this version. Alembic is loaded only when there is something to do."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

REVISIONS = ("0001", "0002")
"""Every revision, oldest first; a test holds them equal to Alembic's."""

HEAD = REVISIONS[-1]
VERSION_TABLE = "payre_alembic_version"


class SchemaState(StrEnum):
    """What a database file holds, as far as its tables tell."""

    EMPTY = "empty"
    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"
    """Written by a version of payre_mcp that this one does not know."""
    FOREIGN = "foreign"
    """Another program's."""


def schema_state(connection: Any) -> SchemaState:
    """What a DB-API connection sees. Raises the library's `DatabaseError` for a file that is no database."""
    tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    if VERSION_TABLE not in tables:
        return SchemaState.FOREIGN if tables else SchemaState.EMPTY
    found = [version for (version,) in connection.execute(f"select version_num from {VERSION_TABLE}")]
    if found == [HEAD]:
        return SchemaState.CURRENT
    return SchemaState.OLDER if set(found) <= set(REVISIONS) else SchemaState.NEWER


def upgrade(engine: sa.Engine) -> None:
    """Bring the database to `HEAD` in one transaction; two processes that start together do it once."""
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
