"""Opening an embedded ledger: a folder with `payre.db` and `payre.keys`, made where there is none."""

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy.exc

from payre_mcp.clock import Clock
from payre_mcp.errors import LedgerInvalid, PayreUnavailable
from payre_mcp.ids import SLOTS, IdFactory
from payre_mcp.keys import Mode
from payre_mcp.ledger.store import StoreUnavailable
from payre_mcp.ledger.writer import Writer
from payre_mcp.receipts import KeyRing
from payre_mcp.storage import migrate
from payre_mcp.storage.directory import SqlDirectory
from payre_mcp.storage.engine import make_engine
from payre_mcp.storage.inbox import SqlInbox
from payre_mcp.storage.journal import Journal
from payre_mcp.storage.ledger import OpenLedger
from payre_mcp.storage.library import connect, sqlite
from payre_mcp.storage.payments import SqlPayments
from payre_mcp.storage.readers import SqliteReader
from payre_mcp.storage.sessions import Sessions
from payre_mcp.storage.snapshot import Snapshot
from payre_mcp.storage.sqlite import PART, SqliteStore


@dataclass(frozen=True)
class EmbeddedLedger(OpenLedger):
    """A ledger in one file, which this process has open."""

    path: Path

    @property
    def address(self) -> str:
        """The file's address."""
        return f"sqlite:///{self.path}"

    @property
    def parts(self) -> int:
        """One: one writer has the whole file."""
        return 1

    def lease(self, name: str, seconds: float) -> bool:
        """Always: of the processes that may have a file open, none but a hub works for others."""
        return True

    @contextmanager
    def snapshot(self, part: int = PART) -> Generator[Snapshot]:
        """The whole file as it stands now."""
        with snapshot_of(self.path) as snapshot:
            yield snapshot


@contextmanager
def snapshot_of(path: Path) -> Generator[Snapshot]:
    """A ledger file as it stands now, whoever has it open."""
    reader = SqliteReader(path, at_once=True)
    guards = "select count(*) from sqlite_master where type = 'trigger' and name in ('transfer_no_update', 'transfer_no_delete')"
    try:
        yield Snapshot(reader, PART, guarded=reader.rows(guards) == [(2,)])
    finally:
        reader.close()


def open_embedded(path: Path, clock: Clock, *, ring: KeyRing | None = None, mode: Mode = Mode.TEST) -> EmbeddedLedger:
    """Open the ledger in `path`, create it where there is none, and bring its schema up to date.

    The receipt keys stand beside it in `payre.keys` (mode 0600) unless `ring` is given.

    Raises:
        LedgerInvalid: The file is damaged, another program's, or of a newer version. It is left as it is.
        PayreUnavailable: The file cannot be made or written: the disk is full or read-only, or it is locked.
    """
    path = path.resolve()
    try:
        return _open(path, clock, ring, mode)
    except OSError as error:
        raise PayreUnavailable(f"the ledger at {path} cannot be made: {error.strerror}") from error
    except (sqlite.OperationalError, sqlalchemy.exc.OperationalError, StoreUnavailable) as error:
        raise PayreUnavailable(f"the ledger at {path} cannot be opened for writing: {_cause(error)}") from error
    except (sqlite.DatabaseError, sqlalchemy.exc.DatabaseError) as error:
        raise LedgerInvalid(f"the file {path} is no ledger, or a damaged one ({_cause(error)}). It is left as it is") from error


def _open(path: Path, clock: Clock, ring: KeyRing | None, mode: Mode) -> EmbeddedLedger:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)  # its journal inherits the mode: nobody else reads top-up links and who paid for what
    engine = make_engine(path)
    _ensure_schema(path, engine)
    stored_mode, issuer, slot = _register_opening(path, mode)
    ids, reader, beside = IdFactory(clock, slot), SqliteReader(path), SqliteReader(path)
    sessions = Sessions(engine, make_engine(path, read_only=True))
    ring = ring or KeyRing.open_file(path.with_suffix(".keys"))
    return EmbeddedLedger(
        path=path,
        clock=clock,
        issuer=issuer,
        engine=engine,
        reader=reader,
        journal=Journal(reader),
        directory=SqlDirectory(sessions, SqliteReader(path), clock, ids, stored_mode),
        payments=SqlPayments(sessions, beside, clock),
        inbox=SqlInbox(sessions, beside),
        ring=ring,
        ids=ids,
        writer=Writer(SqliteStore(path), clock, ids),
    )


def _cause(error: Exception) -> object:
    """What the library said, without what SQLAlchemy adds."""
    return getattr(error, "orig", None) or error


def _ensure_schema(path: Path, engine: sqlalchemy.Engine) -> None:
    # Read-only: looking at another program's file must not turn its journal into ours.
    connection = connect(path, read_only=True)
    try:
        state = migrate.schema_state(connection)
    finally:
        connection.close()
    if state == migrate.SchemaState.FOREIGN:
        raise LedgerInvalid(f"the file {path} belongs to another program; name another place. It is left as it is")
    if state == migrate.SchemaState.NEWER:
        raise LedgerInvalid(f"the ledger {path} was written by a newer payre_mcp; update this one. It is left as it is")
    if state != migrate.SchemaState.CURRENT:
        migrate.upgrade(engine)


def _register_opening(path: Path, mode: Mode) -> tuple[Mode, str, int]:
    """This ledger's mode and name, and a writer slot that no process holds which opened it among the last 255."""
    connection = connect(path)
    try:
        connection.execute("begin immediate")
        connection.execute(
            "insert into ledger (id, mode, issuer, openings, parts) values (1, ?, ?, 0, 1) on conflict do nothing",
            (str(mode), f"urn:payre:{secrets.token_hex(8)}"),
        )
        connection.execute("update ledger set openings = openings + 1")
        stored, issuer, openings = connection.execute("select mode, issuer, openings from ledger").fetchone()
        connection.execute("commit")
    finally:
        connection.close()
    return Mode(stored), issuer, openings % SLOTS
