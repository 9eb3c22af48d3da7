"""News of the payment processor in a database: each event is written down before anything is done about it, and once."""

from collections.abc import Sequence

import sqlalchemy as sa

from payre_mcp.errors import NotFound
from payre_mcp.payments import EventState, InboxEvent
from payre_mcp.storage.readers import Reader
from payre_mcp.storage.sessions import Sessions, insertion, stored

_EVENTS = f"select {', '.join(InboxEvent._fields)} from inbox_event"
_RECEIVE = insertion("inbox_event")
_FINISH = sa.text(
    "update inbox_event set state = :state, tries = tries + 1, problem = :problem, next_try_at = :next_try_at where id = :id"
)
_OVER = f"state in ('{EventState.DONE}', '{EventState.IGNORED}')"
_PRUNE = sa.text(f"delete from inbox_event where {_OVER} and received_at < :before_us")


class SqlInbox:
    """The inbox of a ledger's database. Methods block; every write is one transaction; thread-safe.

    Raises, all of them:
        PayreUnavailable: The database is in trouble; nothing was written.
    """

    def __init__(self, sessions: Sessions, lookups: Reader) -> None:
        self._sessions, self._lookups = sessions, lookups

    def receive(self, event: InboxEvent) -> bool:
        """Write an event down; False, and nothing changes, where it was there before."""
        return self._sessions.write(_RECEIVE, stored(event)) == 1

    def find(self, event_id: str) -> InboxEvent | None:
        """The event with this id."""
        return next(iter(self._events("id = ?", event_id)), None)

    def waiting(self, now_us: int, limit: int) -> Sequence[InboxEvent]:
        """Events whose turn it is, those first whose turn came first, and of these the oldest."""
        # The state in the words of the partial index, or SQLite would not take it.
        due = "state = 'waiting' and next_try_at <= ?"
        return self._events(f"{due} order by next_try_at, received_at, id limit ?", now_us, limit)

    def finish(self, event_id: str, state: EventState, *, problem: str = "", next_try_at: int = 0) -> None:
        """One more try was made, and this became of the event; `WAITING` puts it back, to be tried again at a time.

        Raises:
            NotFound: No such event.
        """
        values = {"id": event_id, "state": str(state), "problem": problem, "next_try_at": next_try_at}
        if not self._sessions.write(_FINISH, values):
            raise NotFound("no such event; nothing was changed")

    def list(self, states: Sequence[EventState], *, limit: int) -> Sequence[InboxEvent]:
        """Events in these states, newest first; with none, in all."""
        wanted = f"state in ({', '.join('?' * len(states))})" if states else "state <> ''"
        return self._events(f"{wanted} order by received_at desc, id desc limit ?", *states, limit)

    def prune(self, before_us: int) -> int:
        """Forget events that are over and were received before a moment; answers how many. What a person should see stays."""
        return self._sessions.write(_PRUNE, {"before_us": before_us})

    def close(self) -> None:
        """Let go of the database."""
        self._lookups.close()
        self._sessions.close()

    def _events(self, where: str, *parameters: object) -> Sequence[InboxEvent]:
        found = [InboxEvent(*row) for row in self._lookups.rows(f"{_EVENTS} where {where}", *parameters)]
        return [event._replace(livemode=bool(event.livemode), state=EventState(event.state)) for event in found]
