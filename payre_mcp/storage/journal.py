"""Reading the ledger beside its writer: balances, charges, and everything that an audit wants, from one snapshot."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from payre_mcp.errors import PayreUnavailable
from payre_mcp.ledger.model import Account, OpenHold, Transfer
from payre_mcp.storage.library import connect, sqlite

_TRANSFER = ", ".join(Transfer._fields)
_ACCOUNT = ", ".join(Account._fields)
_STATEMENT = f"""
with recursive chain (place, id) as (
    select 1, ?
    union all
    select place + 1, t.prev_id from chain join transfer t on t.part = ? and t.id = chain.id where place < ? and t.prev_id <> 0
)
select {", ".join(f"t.{name}" for name in Transfer._fields)}
  from chain join transfer t on t.part = ? and t.id = chain.id order by place
"""
"""Charges from one back to those before it, each by its primary key."""

_CHUNK = 10_000


class Journal:
    """Read-only access for any thread; one reader at a time."""

    def __init__(self, path: Path) -> None:
        self._connection = connect(path, read_only=True)
        self._lock = threading.Lock()

    def account(self, part: int, consumer_id: int) -> Account | None:
        """A consumer's account."""
        row = self._one(f"select {_ACCOUNT} from account where part = ? and id = ?", part, consumer_id)
        return Account(*row) if row else None

    def transfer(self, part: int, transfer_id: int) -> Transfer | None:
        """One row of the journal."""
        row = self._one(f"select {_TRANSFER} from transfer where part = ? and id = ?", part, transfer_id)
        return Transfer(*row) if row else None

    def paid(self, part: int, consumer_id: int, developer_id: int, key: str) -> Transfer | None:
        """What an idempotency key moved for good, if it did."""
        sql = f"""select {_TRANSFER} from transfer where part = ? and consumer_id = ? and developer_id = ? and key = ?
                  and slot = 0 and key <> ''"""
        row = self._one(sql, part, consumer_id, developer_id, key)
        return Transfer(*row) if row else None

    def counters(self, part: int, consumer_id: int, counters: Sequence[tuple[str, int]]) -> list[int]:
        """Units captured and reserved of each of these (name, start of the window), in order."""
        sql = "select captured + reserved from usage_counter where part = ? and consumer_id = ? and name = ? and window_start = ?"
        rows = [self._one(sql, part, consumer_id, name, start) for name, start in counters]
        return [row[0] if row else 0 for row in rows]

    def charges(self, part: int, consumer_id: int, *, before: int, limit: int) -> list[Transfer]:
        """A consumer's charges, newest first, from before this one; 0 is the newest."""
        if before:
            row = self._one(
                "select prev_id from transfer where part = ? and id = ? and consumer_id = ?", part, before, consumer_id
            )
        else:
            row = self._one("select last_charge_id from account where part = ? and id = ?", part, consumer_id)
        if not row or not row[0]:
            return []
        return [Transfer(*each) for each in self._all(_STATEMENT, row[0], part, limit, part)]

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def _one(self, sql: str, *parameters: object) -> Any:
        rows = self._all(sql, *parameters)
        return rows[0] if rows else None

    def _all(self, sql: str, *parameters: object) -> list[Any]:
        try:
            with self._lock:
                return self._connection.execute(sql, parameters).fetchall()
        except sqlite.Error as error:
            raise PayreUnavailable("the payment ledger cannot be read; nothing was changed") from error


class Snapshot:
    """Everything in the ledger as it stood at one moment: the source of an audit. Close it after use."""

    def __init__(self, path: Path) -> None:
        self._connection = connect(path, read_only=True)
        self._connection.execute("begin")

    def transfers(self) -> Iterator[Transfer]:
        """Every row of the journal, in order of part and id."""
        cursor = self._connection.execute(f"select {_TRANSFER} from transfer order by part, id")
        while rows := cursor.fetchmany(_CHUNK):
            for row in rows:
                yield Transfer(*row)

    def accounts(self) -> Iterator[tuple[int, Account]]:
        """(part, account) of every consumer."""
        for part, *account in self._connection.execute(f"select part, {_ACCOUNT} from account"):
            yield part, Account(*account)

    def earnings(self) -> Iterator[tuple[int, int, int, int]]:
        """(part, developer, earned, fees)."""
        yield from self._connection.execute("select part, developer_id, earned_micros, fees_micros from earning")

    def open_holds(self) -> Iterator[OpenHold]:
        """Every hold that has not ended."""
        for row in self._connection.execute(f"select {', '.join(OpenHold._fields)} from hold"):
            yield OpenHold(*row)

    def counters(self) -> Iterator[tuple[int, int, str, int, int, int]]:
        """(part, consumer, name, start of the window, captured, reserved) of every counter."""
        yield from self._connection.execute("select part, consumer_id, name, window_start, captured, reserved from usage_counter")

    def unbalanced_postings(self) -> list[tuple[int, int]]:
        """(part, transfer) of every transfer whose double-entry lines do not sum to zero, or are fewer than two."""
        sql = """select part, transfer_id from posting group by part, transfer_id
                 having sum(amount_micros) <> 0 or count(*) < 2"""
        return [(part, transfer_id) for part, transfer_id in self._connection.execute(sql)]

    def append_only(self) -> bool:
        """Whether the guards against changing the journal are in place."""
        sql = "select count(*) from sqlite_master where type = 'trigger' and name in ('transfer_no_update', 'transfer_no_delete')"
        return self._connection.execute(sql).fetchone() == (2,)

    def close(self) -> None:
        """End the snapshot."""
        self._connection.close()
