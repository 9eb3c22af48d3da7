"""The ports to a database: `Store` writes, one transaction per batch; `Journal` reads beside it."""

from collections.abc import Sequence
from typing import Protocol

from payre_mcp.ledger.model import Account, OpenHold, Transfer
from payre_mcp.ledger.state import Decision, Needs, State


class StoreBusy(Exception):
    """Another process has the database; the same batch may be tried again. Nothing was written."""


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

    def paid(self, part: int, consumer_id: int, developer_id: int, key: str) -> Transfer | None:
        """What an idempotency key moved for good, if it did."""
        ...

    def counters(self, part: int, consumer_id: int, counters: Sequence[tuple[str, int]]) -> list[int]:
        """Units captured and reserved of each of these (name, start of the window), in order."""
        ...

    def charges(self, part: int, consumer_id: int, *, before: int, limit: int) -> list[Transfer]:
        """A consumer's charges, newest first, from before this one; 0 is the newest."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...
