"""The inbox on both databases: every event once, tried until it is done, and forgotten when it is old."""

import threading
from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from payre_mcp.connection import Connection
from payre_mcp.errors import NotFound, PayreUnavailable
from payre_mcp.payments import EventState, InboxEvent
from payre_mcp.storage.inbox import SqlInbox
from tests.both_databases import ledger_url
from tests.fakes import PATIENCE_S

__all__ = ["ledger_url"]

WAITING, DONE, IGNORED, PARKED = EventState


@pytest.fixture
def inbox(connection: Connection) -> SqlInbox:
    return connection.ledger.inbox


def news(name: str, *, at: int = 100, due: int = 0, state: EventState = WAITING) -> InboxEvent:
    body = '{"data": ":it\'s"}'
    return InboxEvent(
        name, "platform", "refund.updated", livemode=True, account="acct_1", object_id="re_1", body=body,
        state=state, tries=0, problem="", received_at=at, next_try_at=due,
    )  # fmt: skip


def names(events: Sequence[InboxEvent]) -> list[str]:
    return [event.id for event in events]


def test_an_event_is_found_as_it_was_received(inbox: SqlInbox) -> None:
    assert inbox.receive(news("evt_1"))
    assert inbox.receive(other := news("evt_2", state=PARKED)._replace(livemode=False, account="", problem="test mode"))
    assert inbox.find("evt_1") == news("evt_1")
    assert inbox.find("evt_2") == other
    assert inbox.find("evt_3") is None
    found = inbox.find("evt_1")
    assert found is not None
    assert found.livemode is True
    assert type(found.state) is EventState


def test_an_event_that_comes_again_changes_nothing(inbox: SqlInbox) -> None:
    inbox.receive(news("evt_1"))
    inbox.finish("evt_1", DONE)
    done = inbox.find("evt_1")
    assert not inbox.receive(news("evt_1", at=200)._replace(body="other"))
    assert inbox.find("evt_1") == done


def test_of_many_deliveries_at_once_one_is_received(inbox: SqlInbox) -> None:
    start, received = threading.Barrier(6), list[bool]()

    def deliver() -> None:
        start.wait(PATIENCE_S)
        received.append(inbox.receive(news("evt_1")))

    threads = [threading.Thread(target=deliver) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(received) == [False] * 5 + [True]


def test_the_oldest_events_that_are_due_wait_first(inbox: SqlInbox) -> None:
    for event in (
        news("c", at=3), news("b", at=1), news("a", at=1), news("again", at=0, due=50), news("later", at=0, due=51),
        *(news(state, at=0, state=state) for state in (DONE, IGNORED, PARKED)),
    ):  # fmt: skip
        inbox.receive(event)
    assert names(inbox.waiting(50, 9)) == ["a", "b", "c", "again"]
    assert names(inbox.waiting(49, 2)) == ["a", "b"]


def test_an_event_is_tried_until_it_is_done_and_its_tries_are_counted(inbox: SqlInbox) -> None:
    inbox.receive(news("evt_1"))
    inbox.finish("evt_1", WAITING, problem="no answer", next_try_at=70)
    assert inbox.waiting(69, 9) == []
    (again,) = inbox.waiting(70, 9)
    assert again == news("evt_1", due=70)._replace(tries=1, problem="no answer")
    inbox.finish("evt_1", DONE)
    assert inbox.waiting(10**15, 9) == []
    assert inbox.find("evt_1") == news("evt_1", state=DONE)._replace(tries=2)


def test_an_event_that_was_set_aside_can_be_put_back(inbox: SqlInbox) -> None:
    inbox.receive(news("evt_1", state=PARKED))
    inbox.finish("evt_1", WAITING)
    assert names(inbox.waiting(0, 9)) == ["evt_1"]


def test_an_event_that_is_not_there_cannot_be_finished(inbox: SqlInbox) -> None:
    with pytest.raises(NotFound):
        inbox.finish("evt_1", DONE)


def test_events_are_listed_newest_first(inbox: SqlInbox) -> None:
    for event in (news("a", at=1), news("b", at=3, state=PARKED), news("c", at=2, state=DONE), news("d", at=3)):
        inbox.receive(event)
    assert names(inbox.list([], limit=9)) == ["d", "b", "c", "a"]
    assert names(inbox.list([PARKED, DONE], limit=9)) == ["b", "c"]
    assert names(inbox.list([WAITING], limit=1)) == ["d"]


def test_old_events_that_are_over_are_forgotten_and_what_a_person_should_see_stays(inbox: SqlInbox) -> None:
    for state in EventState:
        inbox.receive(news(f"old {state}", at=99, state=state))
        inbox.receive(news(f"new {state}", at=100, state=state))
    assert inbox.prune(100) == 2
    assert {event.id for event in inbox.list([], limit=9) if event.received_at < 100} == {"old waiting", "old parked"}
    assert len(inbox.list([], limit=9)) == 6
    assert inbox.prune(100) == 0


def test_a_database_in_trouble_is_an_unavailable_ledger(connection: Connection, inbox: SqlInbox) -> None:
    with connection.ledger.engine.begin() as raw:
        raw.execute(sa.text("drop table inbox_event"))
    with pytest.raises(PayreUnavailable) as refused:
        inbox.receive(news("evt_secret"))
    assert "secret" not in refused.value.message
    with pytest.raises(PayreUnavailable):
        inbox.waiting(0, 1)
