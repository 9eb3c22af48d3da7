"""The money path on SQLite: raw statements, one transaction per batch, the same few statements for any size of batch.

Every step of a statement lets go of the interpreter lock, and a busy thread beside us may take milliseconds to give it
back. So a batch is loaded by one statement that returns one row of JSON, and each table is written by one statement
over a multi-row VALUES list, padded to a few sizes so that prepared statements are used again.
"""

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from payre_mcp.ledger.metering import MOST_COUNTED
from payre_mcp.ledger.model import Account, Credit, KeyState, OpenHold, Transfer, made_of
from payre_mcp.ledger.state import CounterKey, CreditKey, Decision, Needs, State
from payre_mcp.ledger.store import StoreBusy, StoreUnavailable
from payre_mcp.storage.library import connect, sqlite, wal_is_safe
from payre_mcp.storage.values import padded_size, question_marks

PART = 0
"""SQLite has one part: one writer has the whole file."""

MOST_ROWS = 4096
"""Rows of one statement: SQLite as it comes takes 32,766 parameters. Only counters are ever that many."""

_TRANSFER = ", ".join(Transfer._fields)
_ACCOUNT = ", ".join(Account._fields)
_HOLD = ", ".join(OpenHold._fields)
_KEY = ", ".join(KeyState._fields)
_T = ", ".join(f"t.{name}" for name in Transfer._fields)


def _rows(columns: str, source: str) -> str:
    return f"(select json_group_array(json_array({columns})) from {source})"


_EACH = "(select value from json_each(?))"


@lru_cache(maxsize=256)
def _load(accounts: int, api_keys: int, holds: int, keys: int, counters: int) -> str:
    """The statement that loads a batch as one row of five JSON lists, for lists of these padded lengths.

    `indexed by`, because without statistics SQLite takes the part for the choice and would search a whole journal.
    """
    history = f"""{question_marks(3, keys)} k cross join transfer t indexed by uq_transfer_key
        on t.part = {PART} and t.consumer_id = k.column1 and t.developer_id = k.column2 and t.key = k.column3 and t.key <> ''
        left join stored_result r on r.part = t.part and r.charge_id = t.id"""
    counted = f"""{question_marks(3, counters)} k cross join usage_counter c
        on c.part = {PART} and c.consumer_id = k.column1 and c.name = k.column2 and c.window_start = k.column3"""
    lists = (
        accounts and _rows(_ACCOUNT, f"account where part = {PART} and id in {question_marks(1, accounts)}"),
        api_keys and _rows(_KEY, f"api_key where id in {question_marks(1, api_keys)}"),
        holds and _rows(_HOLD, f"hold where part = {PART} and id in {question_marks(1, holds)}"),
        keys and _rows(f"{_T}, coalesce(r.body, ''), coalesce(r.expires_at, 0)", history),
        counters and _rows("c.consumer_id, c.name, c.window_start, c.captured, c.reserved", counted),
    )
    return "select " + ", ".join(each or "'[]'" for each in lists)


_LOAD_ENDS = "select " + ", ".join(
    (
        _rows(_TRANSFER, f"transfer indexed by uq_transfer_end where part = {PART} and kind in (3, 4, 5) and ref_id in {_EACH}"),
        _rows(
            _TRANSFER,
            f"transfer indexed by ix_transfer_return where part = {PART} and kind in (1, 6) and ref_id <> 0 "
            f"and ref_id in {_EACH}",
        ),
    )
)
_LOAD_CREDITS = "select " + _rows(
    ", ".join(f"c.{name}" for name in Credit._fields),
    f"json_each(?) k cross join credit c on c.part = {PART} and c.consumer_id = json_extract(k.value, '$[0]') "
    "and c.server_id = json_extract(k.value, '$[1]')",
)
_LOAD_BY_ID = "select " + _rows(_TRANSFER, f"transfer where part = {PART} and id in {_EACH}")


class SqliteStore:
    """`payre_mcp.ledger.store.Store` on one file. Used by one thread; closes its connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = connect(path)
        self._fast_commits = wal_is_safe()
        self._durable = True

    def begin(self, *, durable: bool) -> None:
        """Take the write lock. Without `durable` the commit skips the disk, which only a WAL survives in order."""
        if durable != self._durable and self._fast_commits:
            self._run(f"pragma synchronous = {'full' if durable else 'normal'}")
            self._durable = durable
        self._run("begin immediate")

    def load(self, needs: Needs) -> State:
        """One statement for accounts, keys and holds, and one more each for what few batches need."""
        state = State()
        accounts, api_keys, holds, history, counters = self._load(needs._replace(counters=needs.counters[:MOST_ROWS]))
        rest = needs.counters[MOST_ROWS:]
        state.accounts = {row[0]: made_of(Account, row) for row in accounts}
        state.api_keys = {row[0]: made_of(KeyState, row) for row in api_keys}
        state.holds = {row[1]: made_of(OpenHold, row) for row in holds}
        if history:
            self._take_history(state, history)
        state.counters = _counted(counters) | (self.load_counters(rest) if rest else {})
        missing = [hold_id for hold_id in needs.holds if hold_id not in state.holds]
        if missing and (keys := self._load_ends(state, missing)):
            self._take_history(state, self._load(Needs([], [], [], keys, [], [], []))[3])
        if needs.charges:
            self._load_charges(state, needs.charges)
        if needs.written:
            (written,) = self._json(_LOAD_BY_ID, needs.written)
            state.written = {row[1]: Transfer(*row) for row in written}
        return state

    def load_counters(self, counters: Sequence[CounterKey]) -> dict[CounterKey, tuple[int, int]]:
        """(captured, reserved) of these counters, where they have a row."""
        found = dict[CounterKey, tuple[int, int]]()
        for start in range(0, len(counters), MOST_ROWS):
            found |= _counted(self._load(Needs([], [], [], [], [], [], list(counters[start : start + MOST_ROWS])))[4])
        return found

    def load_credits(self, wanted: Sequence[CreditKey]) -> dict[CreditKey, Credit]:
        """Free credit of these consumers at these servers, where it was granted."""
        (found,) = self._json(_LOAD_CREDITS, wanted)
        return {(row[0], row[1]): Credit(*row) for row in found}

    def apply(self, decision: Decision) -> None:
        """One statement per table that changes."""
        self._insert("transfer", len(Transfer._fields), decision.transfers)
        self._insert("hold", len(OpenHold._fields), decision.opened)
        self._with_values(_close, 2, decision.closed)
        self._with_values(_extend, 3, [(*hold, until) for hold, until in decision.extended.items()])
        self._with_values(_move, 5, [(*owner, *change) for owner, change in decision.balances.items()])
        self._with_values(_earn, 4, [(*owner, *delta) for owner, delta in decision.earnings.items()])
        self._insert("stored_result", 4, decision.results)
        self._with_values(_grant, 4, decision.granted)
        self._with_values(_move_credit, 5, [(*owner, *delta) for owner, delta in decision.credits.items()])
        self._with_values(_count, 6, [(*counter, *delta) for counter, delta in decision.counters.items()])

    def commit(self) -> None:
        """Commit; on disk when it returns, if the transaction is durable."""
        self._run("commit")

    def rollback(self) -> None:
        """Undo the open transaction, if there is one."""
        with suppress(sqlite.Error):
            if self._connection.in_transaction:
                self._connection.execute("rollback")

    def expired(self, now: int, limit: int) -> list[OpenHold]:
        """Open holds whose time is over."""
        sql = f"select {_HOLD} from hold where expires_at <= ? order by expires_at limit ?"
        return [OpenHold(*row) for row in self._run(sql, (now, limit)).fetchall()]

    def prune(self, now: int) -> None:
        """Forget stored results whose time is over, where there are any."""
        due = (PART, now)
        if self._run("select 1 from stored_result where part = ? and expires_at <= ? limit 1", due).fetchone():
            try:
                self.begin(durable=False)
                self._run("delete from stored_result where part = ? and expires_at <= ?", due)
                self.commit()
            finally:
                self.rollback()

    def close(self) -> None:
        """Checkpoint and close."""
        self._connection.close()

    def _load(self, needs: Needs) -> list[list[Any]]:
        """Accounts, API keys, open holds, the histories of idempotency keys and counters, by one statement."""
        sizes, parameters = list[int](), list[object]()
        keys = list(chain.from_iterable(key for _, *key in needs.keys))
        counters = list(chain.from_iterable(needs.counters))
        for width, flat in ((1, needs.accounts), (1, needs.api_keys), (1, needs.holds), (3, keys), (3, counters)):
            sizes.append(padded_size(len(flat) // width))
            parameters += flat
            parameters += [-1] * (width * sizes[-1] - len(flat))
        return [json.loads(column) for column in self._run(_load(*sizes), parameters).fetchone()]

    def _load_ends(self, state: State, missing: Sequence[int]) -> list[tuple[int, int, int, str]]:
        """How these holds ended, and what came after; answers the keys whose history matters now."""
        ends, later = self._json(_LOAD_ENDS, missing, missing)
        state.ends = {end.ref_id: end for end in (Transfer(*row) for row in ends)}
        state.late_charges = {late.ref_id: late for late in (Transfer(*row) for row in later)}
        return [(end.part, end.consumer_id, end.developer_id, end.key) for end in state.ends.values() if end.key]

    def _take_history(self, state: State, history: list[list[Any]]) -> None:
        unique = {row[1]: row for row in history}
        for _, (*columns, body, expires_at) in sorted(unique.items()):
            row = Transfer(*columns)
            state.by_key.setdefault((row.consumer_id, row.developer_id, row.key), []).append(row)
            if body:
                state.results[row.id] = (body, expires_at)

    def _load_charges(self, state: State, charges: Sequence[int]) -> None:
        (found,) = self._json(_LOAD_BY_ID, charges)
        _, refunds = self._json(_LOAD_ENDS, [], charges)
        state.charges = {row.id: row for row in (Transfer(*each) for each in found) if row.kind in (1, 3)}
        for refund in (Transfer(*each) for each in refunds):
            amount, fee = state.refunded.get(refund.ref_id, (0, 0))
            state.refunded[refund.ref_id] = (amount + refund.amount_micros, fee + refund.fee_micros)

    def _json(self, sql: str, *lists: Iterable[object]) -> list[list[Any]]:
        row = self._run(sql, [json.dumps(each) for each in lists]).fetchone()
        return [json.loads(column) for column in row]

    def _insert(self, table: str, width: int, rows: Sequence[Sequence[object]]) -> None:
        self._with_values(lambda values: f"insert into {table} select * from {values} where column1 >= 0", width, rows)

    def _with_values(self, statement: Callable[[str], str], width: int, rows: Collection[Sequence[object]]) -> None:
        """Run a statement over `rows` as a VALUES list; its `where` must leave rows alone whose column1 is -1."""
        if len(rows) > MOST_ROWS:
            listed = list(rows)
            for start in range(0, len(listed), MOST_ROWS):
                self._with_values(statement, width, listed[start : start + MOST_ROWS])
            return
        if not rows:
            return
        size = padded_size(len(rows))
        padding = [-1] * (width * (size - len(rows)))
        self._run(statement(question_marks(width, size)), [*chain.from_iterable(rows), *padding])

    def _run(self, sql: str, parameters: Sequence[object] = ()) -> Any:
        try:
            return self._connection.execute(sql, parameters)
        except sqlite.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise StoreBusy(str(error)) from error
            raise StoreUnavailable(f"{error} ({self._path.name})") from error
        except sqlite.IntegrityError:
            raise  # the fault of one command: the writer finds out which
        except sqlite.DatabaseError as error:
            raise StoreUnavailable(f"{error} ({self._path.name})") from error


def _counted(rows: Iterable[Sequence[Any]]) -> dict[CounterKey, tuple[int, int]]:
    return {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}


def _close(values: str) -> str:
    return f"delete from hold where (part, id) in (select column1, column2 from {values} where column1 >= 0)"


def _extend(values: str) -> str:
    return (
        f"update hold set expires_at = v.column3 from {values} v "
        "where hold.part = v.column1 and hold.id = v.column2 and v.column1 >= 0"
    )


def _move(values: str) -> str:
    return (
        "update account set balance_micros = balance_micros + v.column3, held_micros = held_micros + v.column4, "
        f"last_charge_id = v.column5 from {values} v where account.part = v.column1 and account.id = v.column2 and v.column1 >= 0"
    )


def _earn(values: str) -> str:
    return (
        f"insert into earning (part, developer_id, earned_micros, fees_micros) select * from {values} where column1 >= 0 "
        "on conflict (part, developer_id) do update set earned_micros = earned_micros + excluded.earned_micros, "
        "fees_micros = fees_micros + excluded.fees_micros"
    )


def _grant(values: str) -> str:
    return (
        "insert into credit (part, consumer_id, server_id, granted_micros, balance_micros, held_micros) "
        f"select column1, column2, column3, column4, column4, 0 from {values} where column1 >= 0"
    )


def _move_credit(values: str) -> str:
    return (
        "update credit set balance_micros = balance_micros + v.column4, held_micros = held_micros + v.column5 "
        f"from {values} v where credit.part = v.column1 and credit.consumer_id = v.column2 and credit.server_id = v.column3 "
        "and v.column1 >= 0"
    )


def _count(values: str) -> str:
    return (
        "insert into usage_counter (part, consumer_id, name, window_start, captured, reserved) "
        f"select column1, column2, column3, column4, min(column5, {MOST_COUNTED}), column6 from {values} where column1 >= 0 "
        "on conflict (part, consumer_id, name, window_start) do update "
        f"set captured = min(captured + excluded.captured, {MOST_COUNTED}), reserved = reserved + excluded.reserved"
    )
