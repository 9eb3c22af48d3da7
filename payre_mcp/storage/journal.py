"""Reading the ledger beside its writer: balances, charges, statements."""

from collections.abc import Sequence
from typing import Any

from payre_mcp.ledger.model import Account, Takings, Transfer
from payre_mcp.storage.migrate import VERSION_TABLE
from payre_mcp.storage.readers import Reader

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

_TAKINGS = """
select kind, tool, cast(sum(charges) as bigint), cast(sum(gross) as bigint), cast(sum(fee) as bigint),
       cast(sum(refunded) as bigint), cast(sum(fee_refunded) as bigint)
  from (
    select substr(t.detail, ?, 1) as kind, t.tool, 1 as charges,
           case when t.credit_micros < t.amount_micros then t.amount_micros - t.credit_micros else 0 end as gross,
           t.fee_micros as fee, 0 as refunded, 0 as fee_refunded
      from transfer t
     where t.part in ({homes}) and t.developer_id = ? and t.kind in (1, 3) and t.id >= ? {new} and substr(t.detail, 1, ?) = ?
    union all
    select substr(c.detail, ?, 1), c.tool, 0, 0, 0, t.amount_micros - t.credit_micros, t.fee_micros
      from transfer t join transfer c on c.part = t.part and c.id = t.ref_id
     where t.part in ({homes}) and t.developer_id = ? and t.kind = 6 and t.id >= ? {new} and substr(c.detail, 1, ?) = ?
    {old}
  ) as taken
 group by kind, tool order by kind, tool
"""
"""The kind of a target is known by its first letter, which follows the origin in a charge's detail."""

_NEW = "and t.id > coalesce((select u.last_id from rolled_up u where u.part = t.part), -1)"
_OLD = """
    union all
    select kind, tool, charges, gross_micros, fee_micros, refunded_micros, fee_refunded_micros
      from taking where part in ({homes}) and developer_id = ? and origin = ?
"""
"""What was summed up before; see `payre_mcp.storage.rollup`."""


class Journal:
    """Read-only access for any thread."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def account(self, part: int, consumer_id: int) -> Account | None:
        """A consumer's account."""
        row = self._one(f"select {_ACCOUNT} from account where part = ? and id = ?", part, consumer_id)
        return Account(*row) if row else None

    def transfer(self, part: int, transfer_id: int) -> Transfer | None:
        """One row of the journal."""
        row = self._one(f"select {_TRANSFER} from transfer where part = ? and id = ?", part, transfer_id)
        return Transfer(*row) if row else None

    def find(self, transfer_id: int) -> Transfer | None:
        """One row, wherever it is at home."""
        row = self._one(f"select {_TRANSFER} from transfer where part in ({self._homes}) and id = ?", transfer_id)
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

    def refunded(self, part: int, charge_ids: Sequence[int]) -> dict[int, int]:
        """How much of these charges was refunded, in micros, where something was."""
        if not charge_ids:
            return {}
        # In the words of the index of returns, or SQLite would not take it.
        sql = f"""select ref_id, cast(sum(amount_micros) as bigint) from transfer
                  where part = ? and kind in (1, 6) and ref_id <> 0 and ref_id in ({", ".join("?" for _ in charge_ids)})
                  and kind = 6 group by ref_id"""
        return dict(self._all(sql, part, *charge_ids))

    def sales(self, developer_id: int, *, origin: str, tool: str, since: int, before: int, limit: int) -> list[Transfer]:
        """A developer's charges, newest first; see `payre_mcp.ledger.store.Journal.sales`."""
        sql = f"""select {_TRANSFER} from transfer
                  where part in ({self._homes}) and developer_id = ? and kind in (1, 3) and id >= ? and id < ?
                  and substr(detail, 1, ?) = ? and (? = 0 or tool = ?) order by id desc limit ?"""
        found = self._all(sql, developer_id, since, before, len(origin), origin, len(tool), tool, limit)
        return [Transfer(*row) for row in found]

    def takings(self, developer_id: int, *, origin: str, since: int) -> list[Takings]:
        """What a developer took; see `payre_mcp.ledger.store.Journal.takings`."""
        kind, length = len(origin) + 1, len(origin)
        parameters: tuple[object, ...] = (kind, developer_id, since, length, origin) * 2
        new = old = ""
        if not since:
            new, old, parameters = _NEW, _OLD.format(homes=self._homes), (*parameters, developer_id, origin)
        found = self._all(_TAKINGS.format(homes=self._homes, new=new, old=old), *parameters)
        return [Takings(*row) for row in found]

    def crossings(self) -> list[tuple[str, int, int, int]]:
        """(key, kind, amount, fee) of everything that crossed the ledger's border, in no order. Reads the whole journal."""
        sql = f"""select key, kind, amount_micros, fee_micros from transfer
                  where part in ({self._homes}) and kind in (7, 9, 10, 11, 12, 13)"""
        return self._all(sql)

    def schema(self) -> list[str]:
        """The revisions that the database's tables are of."""
        return [revision for (revision,) in self._all(f"select version_num from {VERSION_TABLE}")]

    def close(self) -> None:
        """Let go of the database."""
        self._reader.close()

    @property
    def _homes(self) -> str:
        return ", ".join(map(str, range(self._reader.parts)))

    def _one(self, sql: str, *parameters: object) -> Any:
        rows = self._all(sql, *parameters)
        return rows[0] if rows else None

    def _all(self, sql: str, *parameters: object) -> list[Any]:
        return self._reader.rows(sql, *parameters)
