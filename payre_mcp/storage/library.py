"""The one SQLite library of this process, and how a connection to a ledger is set up.

Two copies of SQLite on one file drop each other's locks (POSIX locks belong to the process), so everything here goes
through `sqlite`: writer, readers, SQLModel, backup, doctor. Versions 3.7.0 to 3.51.2 can corrupt a WAL that two
connections write or checkpoint at once; they get a rollback journal instead, at nearly four times the disk syncs.
"""

import time
from importlib import import_module
from pathlib import Path
from typing import Any


def _choose() -> Any:
    try:
        return import_module("pysqlite3.dbapi2")  # bundles a current SQLite
    except ImportError:  # no wheel for this platform
        return import_module("sqlite3")


sqlite = _choose()
"""The DB-API module; its exceptions are its own, so catch `sqlite.Error` and never the stdlib's."""

_WAL_FIXED_IN = (3, 51, 3)
_WAL_BACKPORTS = ((3, 44, 6), (3, 50, 7))
BUSY_TIMEOUT_MS = 5_000


def wal_is_safe(version: tuple[int, ...] = tuple(sqlite.sqlite_version_info)) -> bool:
    """Whether this SQLite is free of the WAL-reset bug."""
    return version >= _WAL_FIXED_IN or any(fixed <= version < (*fixed[:2], 99) for fixed in _WAL_BACKPORTS)


def connect(path: Path, *, read_only: bool = False) -> Any:
    """Open a ledger file for one thread at a time, in autocommit: transactions are spelled out.

    Writers wait up to 5 seconds for each other, and a commit is on disk when it returns.
    """
    mode = "ro" if read_only else "rwc"
    connection = sqlite.connect(
        f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    prepare(connection, read_only=read_only)
    return connection


def prepare(connection: Any, *, read_only: bool = False) -> None:
    """Set a fresh connection up, one that SQLAlchemy opened too."""
    connection.execute(f"pragma busy_timeout = {BUSY_TIMEOUT_MS}")
    if read_only:
        connection.execute("pragma query_only = on")
        return
    connection.execute("pragma recursive_triggers = on")  # or REPLACE would delete a row past its guard
    _set_journal_mode(connection, "wal" if wal_is_safe() else "truncate")
    connection.execute("pragma synchronous = full")
    connection.execute("pragma fullfsync = on")  # macOS: a plain fsync there stops at the drive's cache
    connection.execute("pragma checkpoint_fullfsync = on")
    connection.execute("pragma journal_size_limit = 67108864")
    connection.execute("pragma cache_size = -65536")  # KiB: a batch touches a page of the key index per charge
    connection.execute("pragma wal_autocheckpoint = 16000")  # pages: 64 MiB, as the limit above


def _set_journal_mode(connection: Any, mode: str) -> None:
    """Choose the journal of a file; SQLite itself does not wait for the lock that this needs on a new one."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute(f"pragma journal_mode = {mode}")
        except sqlite.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
