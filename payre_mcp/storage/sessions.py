"""Transactions through SQLModel beside the money path: for rows that say who and what, never for an amount that moves."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, SQLModel, select

from payre_mcp.errors import PayreUnavailable
from payre_mcp.money import Money
from payre_mcp.payments import InboxEvent, Payee, Payer, Payment
from payre_mcp.storage.tables import METADATA, LedgerTable


class Sessions:
    """Opens them on a ledger's database, from any thread."""

    def __init__(self, writer: Engine, reader: Engine) -> None:
        self._writer, self._reader = writer, reader

    @contextmanager
    def transaction(self, *, alone: bool = False) -> Generator[Session]:
        """One transaction that may write; `alone`: of those that look whether something is there, one after the other."""
        with _translated(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            if alone:
                session.exec(select(LedgerTable).with_for_update()).all()  # SQLite has one writer at a time anyhow
            yield session

    @contextmanager
    def reading(self) -> Generator[Session]:
        """One transaction that only reads."""
        with _translated(), Session(self._reader) as session:
            yield session

    def write(self, statement: sa.TextClause, values: Mapping[str, object]) -> int:
        """One statement as a transaction of its own; answers how many rows it wrote."""
        with self.transaction() as session:
            return session.connection().execute(statement, values).rowcount

    def close(self) -> None:
        """Let go of the database."""
        self._writer.dispose()
        self._reader.dispose()


@contextmanager
def _translated() -> Generator[None]:
    """A database in trouble is an unavailable ledger; its own words may hold parameters and stay in the cause."""
    try:
        yield
    except DBAPIError as error:
        raise PayreUnavailable("the payment ledger cannot be read or written; nothing ran and nothing was charged") from error


def insertion(table: str, *, replacing: bool = False) -> sa.TextClause:
    """An insert that leaves alone what is there already or, with `replacing`, takes its place; keys are a first column."""
    key, *others = columns = METADATA.tables[table].columns.keys()
    replaced = ", ".join(f"{name} = excluded.{name}" for name in others)
    names, values = ", ".join(columns), ", ".join(f":{name}" for name in columns)
    then = f"({key}) do update set {replaced}" if replacing else "do nothing"
    return sa.text(f"insert into {table} ({names}) values ({values}) on conflict {then}")


def stored(record: Payment | Payer | Payee | InboxEvent) -> dict[str, int | str]:
    """A record as its row has it: amounts in micros, flags as numbers, words as text."""
    fields: dict[str, object] = record._asdict()
    return dict(_column(name, value) for name, value in fields.items())


def fields_of(row: SQLModel) -> list[Any]:
    """A row's values in the order of its columns, which is the order of its record's fields."""
    return [getattr(row, name) for name in type(row).model_fields]


def _column(name: str, value: object) -> tuple[str, int | str]:
    if isinstance(value, Money):
        return f"{name}_micros", value.micros
    return name, int(value) if isinstance(value, int) else str(value)
