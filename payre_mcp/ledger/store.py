"""The ports to a database: `Store` writes, one transaction per batch; `Journal` reads beside it, `AuditSource` all of it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Protocol

from payre_mcp.ledger.model import Account, Credit, OpenHold, Takings, Transfer
from payre_mcp.ledger.state import CounterKey, CreditKey, Decision, Needs, State


class StoreBusy(Exception):
    """Another process has the database; the same batch may be tried again. Nothing was written."""

    tries: ClassVar[int] = 2
    """How often a batch is tried in all."""
    pause_s: ClassVar[float] = 0.0
    """How long to wait before the second try; each later pause is twice as long, up to a second."""


class StoreContended(StoreBusy):
    """Two transactions wanted the same rows and this one gave way. Nothing was written."""

    tries = 10
    pause_s = 0.002


class StoreLost(StoreBusy):
    """The connection broke. Whether the batch was committed is not known; tried again, it finds its own rows."""

    tries = 14
    pause_s = 0.02


class StoreUnavailable(Exception):
    """The database cannot be written: full disk, lost file, lost connection. Nothing of this batch was acknowledged."""


class Store(Protocol):
    """A ledger database, used by one thread. `begin`, `load`, `apply` and `commit` make one transaction."""

    def begin(self, *, durable: bool) -> None:
        """Open a transaction and lock what it may write.

        With `durable` false the commit may be lost in a power cut, but never without everything after it.
        """
        ...

    def load(self, needs: Needs) -> State:
        """Read all that a batch needs, in a number of statements that does not grow with the batch."""
        ...

    def load_counters(self, counters: Sequence[CounterKey]) -> dict[CounterKey, tuple[int, int]]:
        """(captured, reserved) of these counters, where they have a row: those that only loaded keys could name."""
        ...

    def load_credits(self, wanted: Sequence[CreditKey]) -> dict[CreditKey, Credit]:
        """Free credit of these consumers at these servers, where it was granted."""
        ...

    def apply(self, decision: Decision) -> None:
        """Write a decision."""
        ...

    def commit(self) -> None:
        """Make it so. When it returns, a durable transaction survives a power cut."""
        ...

    def rollback(self) -> None:
        """Undo the open transaction, if there is one. Never raises."""
        ...

    def expired(self, now: int, limit: int) -> list[OpenHold]:
        """Open holds whose time is over, oldest first; read outside any transaction."""
        ...

    def prune(self, now: int) -> None:
        """Forget stored results whose time is over; a transaction of its own."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...


class Journal(Protocol):
    """Reading beside the writer, from any thread; every answer is what was committed when it was asked."""

    def account(self, part: int, consumer_id: int) -> Account | None:
        """A consumer's account."""
        ...

    def transfer(self, part: int, transfer_id: int) -> Transfer | None:
        """One row."""
        ...

    def find(self, transfer_id: int) -> Transfer | None:
        """One row, wherever it is at home."""
        ...

    def paid(self, part: int, consumer_id: int, developer_id: int, key: str) -> Transfer | None:
        """What an idempotency key moved for good, if it did."""
        ...

    def counters(self, part: int, consumer_id: int, counters: Sequence[tuple[str, int]]) -> list[int]:
        """Units captured and reserved of each of these (name, start of the window), in order."""
        ...

    def charges(self, part: int, consumer_id: int, *, before: int, limit: int) -> list[Transfer]:
        """A consumer's charges, newest first, from before this one; 0 is the newest."""
        ...

    def refunded(self, part: int, charge_ids: Sequence[int]) -> dict[int, int]:
        """How much of these charges was refunded, in micros, where something was."""
        ...

    def sales(self, developer_id: int, *, origin: str, tool: str, since: int, before: int, limit: int) -> list[Transfer]:
        """A developer's charges with `since <= id < before`, newest first.

        `origin` is how the details of a server's charges begin, and `tool` the name of what was charged; empty for any.
        """
        ...

    def takings(self, developer_id: int, *, origin: str, since: int) -> list[Takings]:
        """What a developer took with the server whose charges' details begin with `origin`, from the id `since` on."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...


class AuditSource(Protocol):
    """A ledger as it stood at one moment."""

    def transfers(self) -> Iterator[Transfer]:
        """Every row of the journal, in order of part and id."""
        ...

    def accounts(self) -> Iterable[tuple[int, Account]]:
        """(part, account) of every consumer."""
        ...

    def earnings(self) -> Iterable[tuple[int, int, int, int]]:
        """(part, developer, earned, fees)."""
        ...

    def open_holds(self) -> Iterable[OpenHold]:
        """Every hold that has not ended."""
        ...

    def counters(self) -> Iterable[tuple[int, int, str, int, int, int]]:
        """(part, consumer, name, start of the window, captured, reserved) of every counter."""
        ...

    def credits(self) -> Iterable[tuple[int, Credit]]:
        """(part, free credit) of every consumer at every server that granted some."""
        ...

    def unbalanced_postings(self) -> list[tuple[int, int]]:
        """Transfers whose double-entry lines do not sum to zero."""
        ...

    def append_only(self) -> bool:
        """Whether the database refuses changes to the journal."""
        ...
