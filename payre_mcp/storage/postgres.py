"""The money path on PostgreSQL 15 and later, and on Citus: raw statements, two round trips for a batch of any size.

One pipeline begins, locks the accounts and loads; another writes and commits. Only consumers' rows are locked, in order of
part and id, so that no two writers wait for each other in a circle; what is only credited is added to, last of all. The
statements keep to what a distributed PostgreSQL can do: multi-row VALUES, no changing CTE, no advisory lock, and with
`one_part` each names the one part of its transaction.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import chain
from typing import Any, LiteralString, cast

import psycopg
from psycopg import errors
from psycopg.types.numeric import Int8BinaryDumper

from payre_mcp.ledger.metering import MOST_COUNTED
from payre_mcp.ledger.model import Account, Credit, KeyState, OpenHold, Transfer, made_of
from payre_mcp.ledger.state import CounterKey, CreditKey, Decision, Needs, State
from payre_mcp.ledger.store import StoreBusy, StoreContended, StoreLost, StoreUnavailable
from payre_mcp.storage.leases import release_leases, take_lease
from payre_mcp.storage.values import numbered, pieces

SWEEP_LEASE_S = 15.0
"""How long one process alone expires holds, from its last sweep on."""

RECONNECT_WITHIN_S = 10.0
"""While a database is gone for longer, every batch is answered at once, with an error."""

_SESSION = {
    "connect_timeout": 2,
    "application_name": "payre",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "options": "-c lock_timeout=5000",
}
_MOST_ROWS = 1024
"""Rows of one statement: PostgreSQL takes 65,535 parameters."""

_LOST = (
    errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow, errors.TooManyConnections,
    errors.ReadOnlySqlTransaction, errors.InternalError_, errors.DatabaseDropped, errors.IdleInTransactionSessionTimeout,
)  # fmt: skip
"""The session is of no more use, and whether its commit went through is not known."""

_CONTENDED = (errors.SerializationFailure, errors.DeadlockDetected)

Rows = Sequence[Sequence[Any]]
Answered = Callable[[], list[Any]]


class PostgresStore:
    """`payre_mcp.ledger.store.Store` over one connection. Used by one thread; connects when needed, and anew when it is lost.

    `lane` is (number, of how many): the parts whose expired holds this store looks after. With `own_time` false the
    database's clock is not asked.
    """

    def __init__(
        self, url: str, *, holder: str, own_time: bool = True, one_part: bool = False, lane: tuple[int, int] = (0, 1)
    ) -> None:
        self._url, self._holder, self._own_time, self._one_part, self._lane = url, holder, own_time, one_part, lane
        self._connection: psycopg.Connection[Any] | None = None
        self._gone_since: float | None = None
        self._begun = self._sweeps = False
        self._decision = Decision()
        self._parts: Mapping[int, int] = {}
        self._only = ""
        self._pruned = 0

    def begin(self, *, durable: bool) -> None:
        """Make sure of a connection; the transaction begins with its lock. Every commit is durable, that of a hold too."""
        del durable
        self._connected()

    def load(self, needs: Needs) -> State:
        """Begin, lock the accounts in order, and read what the lock protects, in one round trip."""
        state, parts = State(), needs.parts
        self._parts = parts
        self._only = str(next(iter(parts.values()))) if self._one_part else ""
        with self._talking() as connection, connection.pipeline():
            self._begun = True
            connection.execute("begin")
            accounts = self._ask(_lock, sorted({(parts[each], each) for each in needs.accounts}))
            now = self._ask(_now, [()] if self._own_time else [])
            api_keys = self._ask(_keys, [(each,) for each in set(needs.api_keys)])
            holds = self._ask(_holds, [(parts[each], each) for each in needs.holds])
            history = self._ask(_history, needs.keys)
            counters = self._ask(_counters, [(parts[each[0]], *each) for each in needs.counters])
            charges = self._ask(_by_id, [(parts[each], each) for each in needs.charges])
            refunds = self._ask(_refunds, [(parts[each], each) for each in needs.charges])
            written = self._ask(_by_id, [(parts[each], each) for each in needs.written])
            state.accounts = {row[0]: made_of(Account, row) for row in accounts()}
            state.now = now()[0][0] if self._own_time else 0
            state.api_keys = {row[0]: made_of(KeyState, row) for row in api_keys()}
            state.holds = {row[1]: made_of(OpenHold, row) for row in holds()}
            _take_history(state, history())
            state.counters = {(row[0], row[1], row[2]): (row[3], row[4]) for row in counters()}
            state.charges = {row[1]: Transfer(*row) for row in charges() if row[2] in {1, 3}}
            _take_refunds(state, refunds())
            state.written = {row[1]: Transfer(*row) for row in written()}
        if missing := [(parts[each], each) for each in needs.holds if each not in state.holds]:
            self._load_ends(state, missing)
        return state

    def load_counters(self, counters: Sequence[CounterKey]) -> dict[CounterKey, tuple[int, int]]:
        """Counters of the accounts that are locked."""
        with self._talking() as connection, connection.pipeline():
            found = self._ask(_counters, [(self._parts[each[0]], *each) for each in counters])()
        return {(row[0], row[1], row[2]): (row[3], row[4]) for row in found}

    def load_credits(self, wanted: Sequence[CreditKey]) -> dict[CreditKey, Credit]:
        """Free credit of the accounts that are locked."""
        with self._talking() as connection, connection.pipeline():
            found = self._ask(_credits, [(self._parts[each[0]], *each) for each in set(wanted)])()
        return {(row[0], row[1]): Credit(*row) for row in found}

    def apply(self, decision: Decision) -> None:
        """Keep the decision; it travels with the commit."""
        self._decision = decision

    def commit(self) -> None:
        """Write and commit in one round trip; on disk, and on a synchronous standby, when this returns."""
        decision, self._decision = self._decision, Decision()
        with self._talking() as connection, connection.pipeline():
            if decision.is_empty:
                connection.execute("select pg_current_xact_id()")  # a commit without one waits for nobody
            self._insert("transfer", decision.transfers)
            self._insert("hold", decision.opened)
            self._ask(_close, decision.closed)
            self._ask(_extend, [(*hold, until) for hold, until in decision.extended.items()])
            self._ask(_move, [(*owner, *change) for owner, change in decision.balances.items()])
            self._insert("stored_result", decision.results)
            self._insert("credit", [(*each, each[-1], 0) for each in decision.granted])
            self._ask(_move_credit, [(*owner, *delta) for owner, delta in decision.credits.items()])
            self._insert("usage_counter", sorted((*each, *delta) for each, delta in decision.counters.items()), _COUNT)
            self._insert("earning", sorted((*owner, *delta) for owner, delta in decision.earnings.items()), _EARN)
            connection.execute("commit")
        self._begun = False

    def rollback(self) -> None:
        """Undo the open transaction, if there is one; a connection that cannot is given up."""
        self._decision = Decision()
        if self._begun and self._connection is not None:
            try:
                self._connection.execute("rollback")
            except psycopg.Error:
                self._drop()
        self._begun = False

    def expired(self, now: int, limit: int) -> list[OpenHold]:
        """Open holds of this lane whose time is over, where this process looks after them."""
        self._connected()
        number, of = self._lane
        with self._talking() as connection:
            self._sweeps = take_lease(connection, f"sweep {number}", self._holder, SWEEP_LEASE_S)
            if not self._sweeps:
                return []
            return [OpenHold(*row) for row in connection.execute(_EXPIRED, [now, of, number, limit]).fetchall()]

    def prune(self, now: int) -> None:
        """Forget stored results whose time is over, one part at each call, where this process looked for expired holds last."""
        if not self._sweeps:
            return
        self._connected()
        with self._talking() as connection:
            (parts,) = connection.execute("select parts from ledger").fetchone() or (1,)
            self._pruned = (self._pruned + 1) % parts
            connection.execute("delete from stored_result where part = $1 and expires_at <= $2", [self._pruned, now])

    def close(self) -> None:
        """Let go of the connection, and of what this process looked after."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                release_leases(self._connection, self._holder)
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._begun = None, False

    def _load_ends(self, state: State, missing: Rows) -> None:
        """How these holds ended, what came after, and what their keys have moved since."""
        with self._talking() as connection, connection.pipeline():
            ends, later = self._ask(_ends, missing), self._ask(_late_charges, missing)
            state.ends = {end.ref_id: end for end in map(Transfer._make, ends())}
            state.late_charges = {late.ref_id: late for late in map(Transfer._make, later())}
            keys = {(end.part, end.consumer_id, end.developer_id, end.key) for end in state.ends.values() if end.key}
            _take_history(state, self._ask(_history, sorted(keys))())

    def _ask(self, statement: Callable[[str, str], str], rows: Rows) -> Answered:
        """Send a statement about these rows; its answer is read by calling what this returns."""
        assert self._connection is not None
        sent = [
            self._connection.execute(_sql(statement, len(some[0]), len(some), self._only), list(chain.from_iterable(some)))
            for some in pieces(rows, _MOST_ROWS)
        ]
        return lambda: [row for cursor in sent for row in cursor.fetchall()]

    def _insert(self, table: str, rows: Rows, conflict: str = "") -> None:
        self._ask(_inserted(table, conflict), rows)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            try:
                self._connection = connect(self._url)
            except psycopg.OperationalError as error:
                self._gone_since = self._gone_since or time.monotonic()
                if time.monotonic() - self._gone_since > RECONNECT_WITHIN_S:
                    raise StoreUnavailable("the database cannot be reached") from error
                raise StoreLost("the database cannot be reached") from error
            self._gone_since = None
        return self._connection

    @contextmanager
    def _talking(self) -> Generator[psycopg.Connection[Any]]:
        """The connection, and its errors in the writer's words. After most of them it is in an aborted transaction."""
        try:
            assert self._connection is not None
            yield self._connection
        except _CONTENDED as error:
            raise StoreContended(_said(error)) from error
        except errors.LockNotAvailable as error:
            raise StoreBusy(_said(error)) from error
        except (errors.DiskFull, errors.OutOfMemory, errors.InsufficientPrivilege) as error:
            raise StoreUnavailable(_said(error)) from error
        except psycopg.Error as error:
            if isinstance(error, _LOST) or self._connection is None or self._connection.closed or error.sqlstate is None:
                self._drop()
                raise StoreLost(_said(error)) from error
            raise


def connect(url: str) -> psycopg.Connection[Any]:
    """A connection for whole statements of our own: numbered parameters, every integer 64 bits, everything prepared once."""
    connection = psycopg.connect(
        url, autocommit=True, prepare_threshold=0, cursor_factory=psycopg.RawCursor, **cast("Any", _SESSION)
    )
    connection.prepared_max = 1_000
    # By default an integer is sent as wide as its value, and each mixture of widths would be prepared anew.
    connection.adapters.register_dumper(int, Int8BinaryDumper)
    return connection


def _said(error: psycopg.Error) -> str:
    """The first line of what the database said; the others may hold values of rows."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _take_history(state: State, rows: Rows) -> None:
    for _, (*columns, body, expires_at) in sorted({row[1]: row for row in rows}.items()):
        row = Transfer(*columns)
        history = state.by_key.setdefault((row.consumer_id, row.developer_id, row.key), [])
        if row not in history:
            history.append(row)
        if body:
            state.results[row.id] = (body, expires_at)


def _take_refunds(state: State, rows: Rows) -> None:
    for refund in map(Transfer._make, rows):
        amount, fee = state.refunded.get(refund.ref_id, (0, 0))
        state.refunded[refund.ref_id] = (amount + refund.amount_micros, fee + refund.fee_micros)


# --- statements: `rows` is a VALUES list, `only` a condition that names the one part where there is but one

_TRANSFER = ", ".join(f"t.{name}" for name in Transfer._fields)
_ACCOUNT = ", ".join(f"a.{name}" for name in Account._fields)
_HOLD = ", ".join(f"h.{name}" for name in OpenHold._fields)
_CREDIT = ", ".join(f"c.{name}" for name in Credit._fields)
_EXPIRED = cast(
    "LiteralString",
    f"select {_HOLD} from hold h where h.expires_at <= $1 and h.part % $2 = $3 order by h.expires_at limit $4",
)
_EARN = (
    "on conflict (part, developer_id) do update set earned_micros = earning.earned_micros + excluded.earned_micros, "
    "fees_micros = earning.fees_micros + excluded.fees_micros"
)
_COUNT = (
    "on conflict (part, consumer_id, name, window_start) do update "
    f"set captured = least(usage_counter.captured + excluded.captured, {MOST_COUNTED}), "
    "reserved = usage_counter.reserved + excluded.reserved"
)


@lru_cache(maxsize=2048)
def _sql(statement: Callable[[str, str], str], width: int, size: int, only: str) -> LiteralString:
    return cast("LiteralString", statement(numbered(width, size), only))


@lru_cache(maxsize=16)
def _inserted(table: str, conflict: str) -> Callable[[str, str], str]:
    return lambda rows, _: f"insert into {table} {rows} {conflict}"


def _only(alias: str, only: str) -> str:
    return f" and {alias}.part = {only}" if only else ""


def _now(_: str, __: str) -> str:
    return "select (extract(epoch from clock_timestamp()) * 1000000)::bigint"


def _lock(rows: str, only: str) -> str:
    return (
        f"select {_ACCOUNT} from ({rows}) v (part, id) join account a on a.part = v.part and a.id = v.id{_only('a', only)} "
        "order by a.part, a.id for update of a"
    )


def _keys(rows: str, _: str) -> str:
    return f"select {', '.join(f'k.{name}' for name in KeyState._fields)} from ({rows}) v (id) join api_key k on k.id = v.id"


def _holds(rows: str, only: str) -> str:
    return f"select {_HOLD} from ({rows}) v (part, id) join hold h on h.part = v.part and h.id = v.id{_only('h', only)}"


def _by_id(rows: str, only: str) -> str:
    return f"select {_TRANSFER} from ({rows}) v (part, id) join transfer t on t.part = v.part and t.id = v.id{_only('t', only)}"


def _history(rows: str, only: str) -> str:
    return (
        f"select {_TRANSFER}, coalesce(r.body, ''), coalesce(r.expires_at, 0) "
        f"from ({rows}) v (part, consumer_id, developer_id, key) "
        "join transfer t on t.part = v.part and t.consumer_id = v.consumer_id and t.developer_id = v.developer_id "
        f"and t.key = v.key and t.key <> ''{_only('t', only)} "
        "left join stored_result r on r.part = t.part and r.charge_id = t.id"
    )


def _counters(rows: str, only: str) -> str:
    return (
        "select c.consumer_id, c.name, c.window_start, c.captured, c.reserved "
        f"from ({rows}) v (part, consumer_id, name, window_start) join usage_counter c on c.part = v.part "
        f"and c.consumer_id = v.consumer_id and c.name = v.name and c.window_start = v.window_start{_only('c', only)}"
    )


def _credits(rows: str, only: str) -> str:
    return (
        f"select {_CREDIT} from ({rows}) v (part, consumer_id, server_id) join credit c on c.part = v.part "
        f"and c.consumer_id = v.consumer_id and c.server_id = v.server_id{_only('c', only)}"
    )


def _ends(rows: str, only: str) -> str:
    return _returns(rows, only, "t.kind in (3, 4, 5)")


def _late_charges(rows: str, only: str) -> str:
    return _returns(rows, only, "t.kind in (1, 6) and t.ref_id <> 0 and t.kind = 1")


def _refunds(rows: str, only: str) -> str:
    return _returns(rows, only, "t.kind in (1, 6) and t.ref_id <> 0 and t.kind = 6")


def _returns(rows: str, only: str, kinds: str) -> str:
    return (
        f"select {_TRANSFER} from ({rows}) v (part, ref_id) join transfer t "
        f"on t.part = v.part and t.ref_id = v.ref_id and {kinds}{_only('t', only)}"
    )


def _close(rows: str, only: str) -> str:
    return f"delete from hold h using ({rows}) v (part, id) where h.part = v.part and h.id = v.id{_only('h', only)}"


def _extend(rows: str, only: str) -> str:
    return (
        f"update hold h set expires_at = v.until from ({rows}) v (part, id, until) "
        f"where h.part = v.part and h.id = v.id{_only('h', only)}"
    )


def _move_credit(rows: str, only: str) -> str:
    return (
        "update credit c set balance_micros = c.balance_micros + v.balance, held_micros = c.held_micros + v.held "
        f"from ({rows}) v (part, consumer_id, server_id, balance, held) where c.part = v.part "
        f"and c.consumer_id = v.consumer_id and c.server_id = v.server_id{_only('c', only)}"
    )


def _move(rows: str, only: str) -> str:
    return (
        "update account a set balance_micros = a.balance_micros + v.balance, held_micros = a.held_micros + v.held, "
        f"last_charge_id = v.last from ({rows}) v (part, id, balance, held, last) "
        f"where a.part = v.part and a.id = v.id{_only('a', only)}"
    )
