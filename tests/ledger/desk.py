"""A writer over a scripted store, hooks that break it, and the consumer whose commands it takes."""

from collections.abc import Callable
from typing import NamedTuple

from payre_mcp.clock import ManualClock
from payre_mcp.ledger.model import Command
from payre_mcp.ledger.state import Answer, Decision
from payre_mcp.ledger.store import Store
from payre_mcp.ledger.writer import Ticket, Writer
from payre_mcp.storage.embedded import EmbeddedLedger
from payre_mcp.storage.ledger import OpenLedger
from payre_mcp.storage.postgres import PostgresStore
from payre_mcp.storage.server import ServerLedger
from payre_mcp.storage.sqlite import SqliteStore
from tests.fakes import Funded, Gate, Inbox, ScriptedStore, audited, done


class Desk(NamedTuple):
    """A writer over a scripted store, and a consumer with $1.00 whose commands it takes."""

    ledger: OpenLedger
    store: ScriptedStore
    writer: Writer
    clock: ManualClock
    payer: Funded

    def new_store(self) -> Store:
        """The store of another writer on the same ledger."""
        return store_on(self.ledger)

    def submit(self, *commands: Command, inbox: Inbox | None = None) -> tuple[Inbox, list[Ticket]]:
        inbox = inbox or Inbox()
        tickets = [inbox.ticket() for _ in commands]
        for command, ticket in zip(commands, tickets, strict=True):
            self.writer.submit(command, ticket)
        return inbox, tickets

    def answers(self, *commands: Command) -> list[Answer]:
        inbox, tickets = self.submit(*commands)
        return inbox.answers(tickets)

    def behind(self, *commands: Command, and_then: Callable[[], None] | None = None) -> list[Answer]:
        """The answers of commands that all queued up while one commit ran, so that they make one batch.

        `and_then` runs before that batch is committed.
        """
        gate = Gate()
        self.store.before_commit = gate
        first, first_ticket = self.submit(self.payer.charge(1))
        gate.wait_reached()
        inbox, tickets = self.submit(*commands)
        self.store.before_commit = and_then or (lambda: None)
        gate.open()
        done(first.answer(*first_ticket))
        return inbox.answers(tickets)

    def is_clean(self) -> bool:
        return audited(self.ledger, self.clock.now_us()).ok


def store_on(ledger: OpenLedger) -> Store:
    """A store of its own on an open ledger."""
    if isinstance(ledger, EmbeddedLedger):
        return SqliteStore(ledger.path)
    assert isinstance(ledger, ServerLedger)
    return PostgresStore(ledger.url, holder="another writer", own_time=False)


class Broken(Exception):
    """What a store raises when one command breaks it."""


class Death(BaseException):
    """What nothing in the writer's loop may survive."""


def raiser(error: BaseException, *, times: int = 10**9) -> Callable[[], None]:
    """A hook that raises so many times and then lets pass."""
    left = [times]

    def hook() -> None:
        if left[0] > 0:
            left[0] -= 1
            raise error

    return hook


def poison(tool: str) -> Callable[[Decision], None]:
    """A hook that breaks every batch with a row of this tool."""

    def hook(decision: Decision) -> None:
        if any(row.tool == tool for row in decision.transfers):
            raise Broken

    return hook
