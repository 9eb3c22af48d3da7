"""Running a reading statement beside the writer, on either database. Statements are written once, with `?` for parameters."""

import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from payre_mcp.errors import PayreUnavailable
from payre_mcp.storage.library import connect, sqlite

if TYPE_CHECKING:
    import sqlalchemy as sa

_UNREADABLE = "the payment ledger cannot be read; nothing was changed"


class Reader(Protocol):
    """Reads what is committed, from any thread."""

    @property
    def parts(self) -> int:
        """How many parts the ledger has; they are numbered from 0."""
        ...

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        """The rows that a statement finds now. Raises `PayreUnavailable`."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...


class SqliteReader:
    """`Reader` on a file; one thread at a time. With `at_once` everything is read as it stood at the first statement."""

    parts = 1

    def __init__(self, path: Path, *, at_once: bool = False) -> None:
        self._connection = connect(path, read_only=True)
        self._lock = threading.Lock()
        if at_once:
            self._connection.execute("begin")

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        """See `Reader`."""
        try:
            with self._lock:
                return self._connection.execute(sql, parameters).fetchall()
        except sqlite.Error as error:
            raise PayreUnavailable(_UNREADABLE) from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()


class PostgresReader:
    """`Reader` on a server, over the connections of a pool."""

    def __init__(self, engine: "sa.Engine", parts: int) -> None:
        self._engine, self.parts = engine, parts

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        """See `Reader`."""
        with _readable(), self._engine.connect() as connection:
            return _run(connection, sql, parameters)

    @contextmanager
    def at_once(self) -> Generator["PostgresMoment"]:
        """A reader to which everything stands as it does now."""
        with _readable(), self._engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            yield PostgresMoment(connection, self.parts)

    def close(self) -> None:
        """Let go of the pool."""
        self._engine.dispose()


class PostgresMoment:
    """`Reader` of one transaction, which sees one moment."""

    def __init__(self, connection: "sa.Connection", parts: int) -> None:
        self._connection, self.parts = connection, parts

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        """See `Reader`."""
        return _run(self._connection, sql, parameters)

    def close(self) -> None:
        """Nothing: the transaction ends with its block."""


def _run(connection: "sa.Connection", sql: str, parameters: tuple[object, ...]) -> list[Any]:
    from psycopg import RawCursor  # noqa: PLC0415 - an extra: only who has a PostgreSQL has the driver

    driver: Any = connection.connection.driver_connection
    with RawCursor(driver) as cursor:
        cursor.execute(_with_dollars(sql), parameters)
        return cursor.fetchall()


@lru_cache(maxsize=256)
def _with_dollars(sql: str) -> Any:
    numbers = count(1)
    return re.sub(r"\?", lambda _: f"${next(numbers)}", sql)


@contextmanager
def _readable() -> Generator[None]:
    import psycopg  # noqa: PLC0415 - as above
    import sqlalchemy.exc  # noqa: PLC0415

    try:
        yield
    except (psycopg.Error, sqlalchemy.exc.DBAPIError) as error:
        raise PayreUnavailable(_UNREADABLE) from error
