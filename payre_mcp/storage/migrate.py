"""Moving a database to the schema of this version. Alembic is loaded only when there is something to do."""

import logging
from collections.abc import Generator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, ProgrammingError

from payre_mcp.storage.tables import METADATA

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
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
    return _state_of([version for (version,) in connection.execute(f"select version_num from {VERSION_TABLE}")])


def server_state(connection: sa.Connection) -> SchemaState:
    """What a PostgreSQL database holds; another program's tables may stand beside ours, unless one has a name of ours."""
    tables = set(sa.inspect(connection).get_table_names())
    if VERSION_TABLE not in tables:
        return SchemaState.FOREIGN if tables & METADATA.tables.keys() else SchemaState.EMPTY
    return _state_of([version for (version,) in connection.execute(sa.text(f"select version_num from {VERSION_TABLE}"))])


def _state_of(versions: list[str]) -> SchemaState:
    if versions == [HEAD]:
        return SchemaState.CURRENT
    if not versions:
        return SchemaState.EMPTY
    return SchemaState.OLDER if set(versions) <= set(REVISIONS) else SchemaState.NEWER


def upgrade(engine: sa.Engine) -> None:
    """Bring the database to `HEAD` in one transaction; two processes that start together do it once."""
    with engine.begin() as connection, _quiet(logging.getLogger("alembic")):
        if connection.dialect.name == "postgresql":
            # A lock ends with its transaction, however that ends. SQLite's transaction holds the one lock already.
            connection.execute(sa.text(f"lock table {VERSION_TABLE} in access exclusive mode"))
        # Alembic costs as much to import as all of SQLAlchemy, and almost every start finds nothing to do.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415

        config = Config()
        config.set_main_option("script_location", "payre_mcp.storage:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("analyze"))  # or the planner takes every table for tiny, at half the rate


def make_version_table(engine: sa.Engine) -> None:
    """Make the table that an upgrade locks. Several processes may try at once."""
    with suppress(IntegrityError, ProgrammingError), engine.begin() as connection:
        connection.execute(sa.text(f"create table if not exists {VERSION_TABLE} (version_num varchar(32) not null primary key)"))


@contextmanager
def _quiet(logger: logging.Logger) -> Generator[None]:
    """A server that starts for the first time need not tell its user how a table is made."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
