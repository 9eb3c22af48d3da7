"""Whom the ledger is measured against: a correct SQLModel session per charge, and one statement per charge.

Both are spared what is not their fault: connections stay open and statements prepared. Both make the checks that the
kernel makes, and leave the rows that it leaves.
"""

import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from queue import SimpleQueue
from typing import Any, LiteralString, Protocol, cast

import psycopg
import sqlalchemy as sa
from callers import CLOCK, charged
from psycopg import errors
from sqlalchemy import event
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.pool import QueuePool
from sqlmodel import Session, select

from payre_mcp.errors import IdempotencyConflict, InsufficientBalance, InvalidApiKey
from payre_mcp.ledger.model import Charge, Transfer
from payre_mcp.money import split_fee
from payre_mcp.storage.library import prepare, sqlite
from payre_mcp.storage.postgres import connect
from payre_mcp.storage.tables import METADATA, AccountTable, ApiKeyTable, EarningTable, TransferTable


class Opponent(Protocol):
    """Somebody else who charges, from any thread."""

    def charge(self, command: Charge) -> int: ...

    def close(self) -> None: ...


class SessionPerCharge:
    """The honest opponent: SQLModel as its documentation teaches it, made correct. The account is locked before it is read."""

    def __init__(self, engine: sa.Engine, turn: AbstractContextManager[Any]) -> None:
        self._engine, self._turn = engine, turn

    def charge(self, command: Charge) -> int:
        """One charge in one transaction, on disk when this returns; answers its id."""
        with self._turn, Session(self._engine, expire_on_commit=False) as session, session.begin():
            account = session.get(AccountTable, (command.part, command.consumer_id), with_for_update=True)
            paid = select(TransferTable).where(
                TransferTable.part == command.part,
                TransferTable.consumer_id == command.consumer_id,
                TransferTable.developer_id == command.developer_id,
                TransferTable.key == command.key,
                TransferTable.slot == 0,
                sa.text("key <> ''"),  # spelled out, or the partial index may not be used
            )
            first = session.exec(paid).first()
            if first is not None:
                return _replayed(command, first.id, first.fingerprint)
            key = session.get(ApiKeyTable, command.api_key_id)
            now = CLOCK.now_us()
            if account is None or key is None or key.revoked_at or 0 < key.expires_at <= now:
                raise InvalidApiKey("revoked")
            available = account.balance_micros - account.held_micros
            if available < command.amount_micros:
                raise _declined(command, available)
            session.add(TransferTable(**charged(command, now, account.last_charge_id)._asdict()))
            account.balance_micros -= command.amount_micros
            account.last_charge_id = command.id
            self._credit(session, command)
            return command.id

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _credit(self, session: Session, command: Charge) -> None:
        fee, net = split_fee(command.amount_micros, command.fee_bps)
        earning = session.get(EarningTable, (command.part, command.developer_id))
        if earning is None:
            earning = EarningTable(part=command.part, developer_id=command.developer_id, earned_micros=0, fees_micros=0)
            session.add(earning)
        earning.earned_micros += net
        earning.fees_micros += fee


class SqliteSessions(SessionPerCharge):
    """On SQLite the write lock is taken first, so nothing read can be stale.

    A lock of our own stands before the database, because SQLite's own waiting sleeps.
    """

    def __init__(self, path: Path) -> None:
        engine = sa.create_engine(f"sqlite:///{path}", module=sqlite, poolclass=QueuePool, pool_size=1, max_overflow=0)
        super().__init__(engine, threading.Lock())

        @event.listens_for(engine, "connect")
        def _connect(connection: Any, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
            connection.isolation_level = None
            prepare(connection)

        @event.listens_for(engine, "begin")
        def _begin(connection: sa.Connection) -> None:  # pyright: ignore[reportUnusedFunction]
            connection.exec_driver_sql("begin immediate")

    def durability(self) -> tuple[str, int]:
        """How its journal is kept, and when it waits for the disk."""
        with self._engine.connect() as connection:
            mode, sync = (connection.exec_driver_sql(f"pragma {name}").scalar_one() for name in ("journal_mode", "synchronous"))
        return mode, sync


class PostgresSessions(SessionPerCharge):
    """On PostgreSQL the account's row is locked, and what is earned is added without being read: two may earn at once."""

    def __init__(self, url: str, connections: int) -> None:
        super().__init__(
            sa.create_engine(
                "postgresql+psycopg://",
                creator=lambda: psycopg.connect(url, prepare_threshold=0),
                poolclass=QueuePool,
                pool_size=connections,
                max_overflow=0,
            ),
            nullcontext(),
        )
        table = METADATA.tables["earning"]
        row = insert(table)
        self._earn = row.on_conflict_do_update(
            index_elements=["part", "developer_id"],
            set_={name: table.c[name] + row.excluded[name] for name in ("earned_micros", "fees_micros")},
        )

    def _credit(self, session: Session, command: Charge) -> None:
        fee, net = split_fee(command.amount_micros, command.fee_bps)
        session.flush()  # the row that many want is taken last
        values = {"part": command.part, "developer_id": command.developer_id, "earned_micros": net, "fees_micros": fee}
        session.connection().execute(self._earn, values)


_AT = {name: f"${place}" for place, name in enumerate(Transfer._fields, 1)}
"""The parameters of a statement are a whole journal row."""

_CHARGE = cast(
    "LiteralString",
    f"""
with locked as (
    select balance_micros - held_micros as available, last_charge_id from account
     where part = {_AT["part"]} and id = {_AT["consumer_id"]} for update
), paid as (
    update account a set balance_micros = a.balance_micros - {_AT["amount_micros"]}, last_charge_id = {_AT["id"]} from locked
     where a.part = {_AT["part"]} and a.id = {_AT["consumer_id"]} and locked.available >= {_AT["amount_micros"]}
       and exists (select from api_key k where k.id = {_AT["api_key_id"]} and k.revoked_at = 0
                   and (k.expires_at = 0 or k.expires_at > {_AT["created_at"]}))
    returning locked.last_charge_id
), written as (
    insert into transfer ({", ".join(_AT)})
    select {", ".join({**_AT, "prev_id": f"last_charge_id + {_AT['prev_id']}"}.values())} from paid returning id
), earned as (
    insert into earning (part, developer_id, earned_micros, fees_micros)
    select {_AT["part"]}, {_AT["developer_id"]}, {_AT["amount_micros"]} - {_AT["fee_micros"]}, {_AT["fee_micros"]} from written
    on conflict (part, developer_id) do update set earned_micros = earning.earned_micros + excluded.earned_micros,
       fees_micros = earning.fees_micros + excluded.fees_micros
)
select id from written
""",
)
_PAID = (
    "select id, fingerprint from transfer "
    "where part = $1 and consumer_id = $2 and developer_id = $3 and key = $4 and slot = 0 and key <> ''"
)
_STATE = (
    "select a.balance_micros - a.held_micros from account a join api_key k on k.id = $3 "
    "where a.part = $1 and a.id = $2 and k.revoked_at = 0 and (k.expires_at = 0 or k.expires_at > $4)"
)


class StatementPerCharge:
    """The fastest that a transaction per charge can be: one statement, one round trip, over a few connections."""

    def __init__(self, url: str, connections: int) -> None:
        self._free: SimpleQueue[psycopg.Connection[Any]] = SimpleQueue()
        for _ in range(connections):
            self._free.put(connect(url))

    def charge(self, command: Charge) -> int:
        """One charge in one statement, on disk when this returns; answers its id. What it refuses is looked up after."""
        connection, now = self._free.get(), CLOCK.now_us()
        try:
            row = self._written(connection, charged(command, now, 0))
            return command.id if row else self._refused(connection, command, now)
        finally:
            self._free.put(connection)

    def close(self) -> None:
        """Let go of the database."""
        while not self._free.empty():
            self._free.get().close()

    def _written(self, connection: psycopg.Connection[Any], row: Transfer) -> object:
        try:
            return connection.execute(_CHARGE, row).fetchone()
        except errors.UniqueViolation:
            return None

    def _refused(self, connection: psycopg.Connection[Any], command: Charge, now: int) -> int:
        who = [command.part, command.consumer_id]
        first = connection.execute(_PAID, [*who, command.developer_id, command.key]).fetchone()
        if first is not None:
            return _replayed(command, *first)
        state = connection.execute(_STATE, [*who, command.api_key_id, now]).fetchone()
        if state is None:
            raise InvalidApiKey("revoked")
        raise _declined(command, *state)


def _replayed(command: Charge, first_id: int, fingerprint: str) -> int:
    if fingerprint != command.fingerprint:
        raise IdempotencyConflict("this key was used for something else")
    return first_id


def _declined(command: Charge, available: int) -> InsufficientBalance:
    return InsufficientBalance(
        price_micros=command.amount_micros,
        balance_micros=available,
        shortfall_micros=command.amount_micros - available,
    )
