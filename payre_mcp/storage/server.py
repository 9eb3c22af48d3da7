"""Opening a ledger on a PostgreSQL server, made where the database is empty. Several processes may have it open."""

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa
import sqlalchemy.exc

from payre_mcp.clock import Clock, SystemClock
from payre_mcp.errors import LedgerInvalid, PayreUnavailable
from payre_mcp.ids import SLOTS, IdFactory
from payre_mcp.keys import Mode
from payre_mcp.ledger.lanes import Lanes
from payre_mcp.ledger.writer import Writer
from payre_mcp.receipts import KeyRing
from payre_mcp.storage import migrate
from payre_mcp.storage.directory import SqlDirectory
from payre_mcp.storage.engine import server_engine
from payre_mcp.storage.inbox import SqlInbox
from payre_mcp.storage.journal import Journal
from payre_mcp.storage.leases import take_lease
from payre_mcp.storage.ledger import OpenLedger
from payre_mcp.storage.payments import SqlPayments
from payre_mcp.storage.postgres import PostgresStore
from payre_mcp.storage.readers import PostgresReader, Reader
from payre_mcp.storage.sessions import Sessions
from payre_mcp.storage.snapshot import Snapshot

PARTS = 64
"""Into how many parts a new database deals its consumers."""

_UNREACHED = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.ProgrammingError, psycopg.OperationalError)

_GUARDED = """
select exists (
        select from pg_trigger where tgname = 'transfer_append_only' and tgrelid = 'transfer'::regclass and tgenabled <> 'D')
    or not (has_table_privilege('transfer', 'update') or has_table_privilege('transfer', 'delete'))
"""


@dataclass(frozen=True)
class ServerLedger(OpenLedger):
    """A ledger on a server."""

    url: str
    holder: str

    @property
    def address(self) -> str:
        """The database's address."""
        return self.url

    @property
    def parts(self) -> int:
        """Into how many parts its consumers are dealt."""
        return self.reader.parts

    def lease(self, name: str, seconds: float) -> bool:
        """Whether this process is the one; by the database's time, until it closes or stops asking."""
        with self.engine.begin() as connection:
            driver: Any = connection.connection.driver_connection
            return take_lease(psycopg.RawCursor(driver), name, self.holder, seconds)

    @contextmanager
    def snapshot(self, part: int) -> Generator[Snapshot]:
        """One part as it stands now."""
        assert isinstance(self.reader, PostgresReader)
        with self.reader.at_once() as moment:
            yield Snapshot(moment, part, guarded=_is_guarded(moment))


def open_server(
    url: str, clock: Clock, *, ring: KeyRing, mode: Mode = Mode.TEST, lanes: int = 1, parts: int = PARTS
) -> ServerLedger:
    """Open the ledger in the database at `url`, and make it where the database is empty.

    A schema of an older version is refused: `payre db upgrade` moves it, while no older process runs. `mode` and `parts`
    are those of a new ledger; one that is there keeps its own.

    Raises:
        LedgerInvalid: The schema is of another version, or another program's.
        PayreUnavailable: The server cannot be reached, or does not let us in.
    """
    engine = server_engine(url)
    try:
        return _open(engine, url, clock, ring, mode, lanes, parts)
    except BaseException as error:
        engine.dispose()
        if not isinstance(error, _UNREACHED):
            raise
        said = str(getattr(error, "orig", None) or error).splitlines()
        raise PayreUnavailable(f"the ledger's database cannot be opened: {said[0] if said else type(error).__name__}") from error


def _open(engine: sa.Engine, url: str, clock: Clock, ring: KeyRing, mode: Mode, lanes: int, parts: int) -> ServerLedger:
    ensure_schema(engine)
    stored_mode, issuer, parts, slot = _register_opening(engine, mode, parts)
    ids, reader = IdFactory(clock, slot), PostgresReader(engine, parts)
    sessions = Sessions(engine, engine)
    one_part, holder = _is_distributed(engine), f"{issuer}/{secrets.token_hex(8)}"
    # With a clock that was passed in, as tests do, the database's is not asked.
    own_time = isinstance(clock, SystemClock)
    writers = [
        Writer(
            PostgresStore(url, holder=holder, own_time=own_time, one_part=one_part, lane=(lane, lanes)),
            clock, ids, one_part=one_part,
        )
        for lane in range(lanes)
    ]  # fmt: skip
    return ServerLedger(
        url=url,
        holder=holder,
        engine=engine,
        reader=reader,
        clock=clock,
        issuer=issuer,
        journal=Journal(reader),
        directory=SqlDirectory(sessions, reader, clock, ids, stored_mode, parts=parts),
        payments=SqlPayments(sessions, reader, clock),
        inbox=SqlInbox(sessions, reader),
        ring=ring,
        ids=ids,
        writer=writers[0] if lanes == 1 else Lanes(writers),
    )


def ensure_schema(engine: sa.Engine) -> None:
    """Make the tables of an empty database; raise `LedgerInvalid` unless they are of this version then."""
    with engine.connect() as connection:
        state = migrate.server_state(connection)
    if state == migrate.SchemaState.EMPTY:
        migrate.make_version_table(engine)
        migrate.upgrade(engine)
    elif state != migrate.SchemaState.CURRENT:
        raise LedgerInvalid(
            {
                migrate.SchemaState.FOREIGN: "the database belongs to another program; name another one",
                migrate.SchemaState.NEWER: "the ledger was written by a newer payre_mcp; update this one",
            }.get(state, "the ledger is of an older version; stop what uses it and run: payre db upgrade")
            + ". It is left as it is"
        )


def _register_opening(engine: sa.Engine, mode: Mode, parts: int) -> tuple[Mode, str, int, int]:
    """This ledger's mode, name and parts, and a writer slot that no process holds which opened it among the last 255."""
    made = "insert into ledger (id, mode, issuer, openings, parts) values (1, :mode, :issuer, 0, :parts) on conflict do nothing"
    with engine.begin() as connection:
        values = {"mode": str(mode), "issuer": f"urn:payre:{secrets.token_hex(8)}", "parts": parts}
        connection.execute(sa.text(made), values)
        opened = "update ledger set openings = openings + 1 returning mode, issuer, parts, openings"
        stored, issuer, dealt, openings = connection.execute(sa.text(opened)).one()
    return Mode(stored), issuer, dealt, openings % SLOTS


def _is_distributed(engine: sa.Engine) -> bool:
    """Whether the tables are spread over a Citus cluster."""
    with engine.connect() as connection:
        if connection.execute(sa.text("select to_regclass('pg_dist_partition')")).scalar() is None:
            return False
        spread = sa.text("select exists (select from pg_dist_partition where logicalrelid = 'transfer'::regclass)")
        return bool(connection.execute(spread).scalar())


def _is_guarded(reader: Reader) -> bool:
    return bool(reader.rows(_GUARDED)[0][0])
