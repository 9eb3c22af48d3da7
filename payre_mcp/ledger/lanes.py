"""Several writers side by side: each part of a ledger has one of them, so no two ever want the same account."""

from collections.abc import Sequence
from typing import Protocol

from payre_mcp.ledger.model import Command, Done, OpenHold
from payre_mcp.ledger.state import Answer
from payre_mcp.ledger.writer import Ticket, Writer


class LedgerWriter(Protocol):
    """What writes a ledger: one `Writer`, or several as `Lanes`."""

    def submit(self, command: Command, ticket: Ticket) -> None:
        """Queue a command; see `Writer.submit`."""
        ...

    def ask(self, command: Command) -> Done:
        """Submit a command and block until it is done; see `Writer.ask`."""
        ...

    def keep_alive(self, hold: OpenHold) -> None:
        """Extend this hold until `let_go`; see `Writer.keep_alive`."""
        ...

    def let_go(self, hold_id: int) -> None:
        """Stop extending a hold."""
        ...

    def give_back(self, answer: Answer) -> None:
        """Void the hold of a caller who left; see `Writer.give_back`."""
        ...

    def sweep(self) -> int:
        """Do now what happens every few seconds; see `Writer.sweep`."""
        ...

    def close(self) -> None:
        """Finish what is queued, then stop."""
        ...


class Lanes:
    """`LedgerWriter` of several writers. One is the fastest for many callers; a few help where few wait for each other's disk."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = writers

    def submit(self, command: Command, ticket: Ticket) -> None:
        """Queue a command in the lane of its part."""
        self._of(command.part).submit(command, ticket)

    def ask(self, command: Command) -> Done:
        """Submit a command and block until it is done."""
        return self._of(command.part).ask(command)

    def keep_alive(self, hold: OpenHold) -> None:
        """Extend this hold until `let_go`."""
        self._of(hold.part).keep_alive(hold)

    def let_go(self, hold_id: int) -> None:
        """Stop extending a hold; a lane that does not know it does nothing."""
        for writer in self._writers:
            writer.let_go(hold_id)

    def give_back(self, answer: Answer) -> None:
        """Void the hold of a caller who left. A void finds its hold from any lane."""
        self._writers[0].give_back(answer)

    def sweep(self) -> int:
        """Sweep every lane; answers how many holds expired in all."""
        return sum(writer.sweep() for writer in self._writers)

    def close(self) -> None:
        """Finish what is queued in every lane, then stop."""
        for writer in self._writers:
            writer.close()

    def _of(self, part: int) -> Writer:
        return self._writers[part % len(self._writers)]
