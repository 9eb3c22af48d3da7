"""Everything in one part of a ledger as it stood at one moment: the source of an audit.

A distributed database has no moment that all its parts share, and needs none: no money moves between parts.
"""

from collections.abc import Iterator
from typing import Any

from payre_mcp.ledger.model import Account, Credit, OpenHold, Transfer
from payre_mcp.storage.readers import Reader

_CHUNK = 10_000
_TRANSFER = ", ".join(Transfer._fields)
_ACCOUNT = ", ".join(Account._fields)


class Snapshot:
    """`payre_mcp.ledger.audit.AuditSource` over a reader that stands still. `guarded`: the journal cannot be changed."""

    def __init__(self, reader: Reader, part: int, *, guarded: bool) -> None:
        self._reader, self._part, self._guarded = reader, part, guarded

    def transfers(self) -> Iterator[Transfer]:
        """Every row of the journal, in order of id."""
        sql = f"select {_TRANSFER} from transfer where part = ? and id > ? order by id limit {_CHUNK}"
        last = -(2**63)  # a grant of credit has the id of its call, below zero
        while rows := self._reader.rows(sql, self._part, last):
            for row in rows:
                yield Transfer(*row)
            last = rows[-1][1]

    def accounts(self) -> Iterator[tuple[int, Account]]:
        """(part, account) of every consumer."""
        for row in self._all(f"select {_ACCOUNT} from account where part = ?"):
            yield self._part, Account(*row)

    def earnings(self) -> list[tuple[int, int, int, int]]:
        """(part, developer, earned, fees)."""
        return self._all("select part, developer_id, earned_micros, fees_micros from earning where part = ?")

    def open_holds(self) -> list[OpenHold]:
        """Every hold that has not ended."""
        return [OpenHold(*row) for row in self._all(f"select {', '.join(OpenHold._fields)} from hold where part = ?")]

    def counters(self) -> list[tuple[int, int, str, int, int, int]]:
        """(part, consumer, name, start of the window, captured, reserved) of every counter."""
        return self._all("select part, consumer_id, name, window_start, captured, reserved from usage_counter where part = ?")

    def credits(self) -> Iterator[tuple[int, Credit]]:
        """(part, free credit) of every consumer at every server that granted some."""
        for row in self._all(f"select {', '.join(Credit._fields)} from credit where part = ?"):
            yield self._part, Credit(*row)

    def unbalanced_postings(self) -> list[tuple[int, int]]:
        """(part, transfer) of every transfer whose double-entry lines do not sum to zero, or are fewer than two."""
        return self._all(
            "select part, transfer_id from posting where part = ? group by part, transfer_id "
            "having sum(amount_micros) <> 0 or count(*) < 2"
        )

    def append_only(self) -> bool:
        """Whether the guards against changing the journal are in place."""
        return self._guarded

    def _all(self, sql: str) -> list[Any]:
        return self._reader.rows(sql, self._part)
