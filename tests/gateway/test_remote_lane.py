"""The sending side of a remote gateway: what travels together, what is asked again, and who hears what when it fails.

The wire is a script here, as no hub can be made to answer so; `test_remote_faults.py` has the real one.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from payre_mcp.errors import HoldNotOpen, PayreError, PayreUnavailable
from payre_mcp.gateway import remote_lane
from payre_mcp.gateway.breaker import Breaker
from payre_mcp.gateway.hub_address import HubAddress
from payre_mcp.gateway.hub_http import Failed, HubHttp
from payre_mcp.gateway.remote_act import Answered, PendingAct, Unattended
from payre_mcp.gateway.remote_lane import Lane
from payre_mcp.gateway.schemas import Act, BatchedAnswer, HeldAnswer, HoldAct, HoldState, KeyCheckAnswer, Message, SettledAnswer
from payre_mcp.keys import Mode, Role, new_key
from payre_mcp.ledger.writer import Ticket
from tests.fakes import PATIENCE_S, Gate

ADDRESS = HubAddress.parse("https://hub.example", new_key(Role.DEVELOPER, Mode.TEST).text)
HELD = HeldAnswer(hold="hold_1", consumer="con_1", held_micros=1, held_usd="0.000001", expires_at=1, token="t")
SETTLED = SettledAnswer(charge_id="chg_1", amount_micros=1, amount_usd="0.000001", fee_micros=0, fee_usd="0.00", receipt="r")
ANSWERS: dict[str, Message] = {
    "hold": HELD, "capture": SETTLED, "void": HoldState(hold="hold_1", expires_at=0), "check": KeyCheckAnswer(sufficient=True),
}  # fmt: skip

Script = Callable[[list[dict[str, Any]]], list[BatchedAnswer]]


class Death(BaseException):
    """What ends a thread."""


def answered(requests: Sequence[dict[str, Any]]) -> list[BatchedAnswer]:
    """A hub in good health."""
    return [BatchedAnswer(id=each["id"], status=200, body=ANSWERS[each["act"]].model_dump()) for each in requests]


class ScriptedLine(HubHttp):
    """A line whose hub answers as the script says. Keeps what was sent."""

    def __init__(self, script: "ScriptedHub") -> None:
        super().__init__(ADDRESS, timeout_s=1, within_s=1)
        self._script = script

    def post_batch(self, requests: Sequence[bytes]) -> list[BatchedAnswer]:
        sent = [json.loads(each) for each in requests]
        self._script.sent.append(sent)
        return self._script.answer(sent)


class ScriptedHub:
    def __init__(self) -> None:
        self.sent: list[list[dict[str, Any]]] = []
        self.answer: Script = answered
        self.lane = Lane(lambda: ScriptedLine(self), lambda: None)
        self._news = threading.Condition()
        self._number = 0

    def submit(self, act: Act, size: int = 0) -> "Caller":
        """Somebody asks for something."""
        self._number += 1
        return Caller(self, act, f"{act}-{self._number}", "t" * size)


class Caller:
    """Somebody who waits in a thread; takes what arrives after they have left as well."""

    def __init__(self, hub: ScriptedHub, act: Act, name: str, token: str) -> None:
        self.name = name
        self._done = threading.Event()
        self._answer: Answered | None = None
        self.left: list[Answered] = []
        self.ticket = Ticket(self)
        self.act = PendingAct(
            act, HoldAct(token=token), request_id=name, ticket=self.ticket, give_up_s=time.monotonic() + 60, on_left=self._late
        )
        hub.lane.submit(self.act)

    def deliver(self, answered: Sequence[tuple[Ticket, Any]]) -> None:
        ((_, self._answer),) = answered
        self._done.set()

    def _late(self, answer: Answered) -> None:
        self.left.append(answer)
        self._done.set()

    def wait(self) -> Answered | None:
        """The answer; None if it came after this caller had left."""
        assert self._done.wait(PATIENCE_S), "nobody answered"
        return self._answer


@pytest.fixture
def hub() -> Iterator[ScriptedHub]:
    hub = ScriptedHub()
    yield hub
    hub.lane.close(0)


@pytest.fixture
def gate(hub: ScriptedHub) -> Iterator[Gate]:
    """Two checks stand before it, so that whatever comes next waits and travels together."""
    gate, standing = Gate(), threading.Semaphore(0)

    def stand(sent: list[dict[str, Any]]) -> list[BatchedAnswer]:
        standing.release()
        gate()
        return answered(sent)

    hub.answer = stand
    for _ in range(2):
        hub.submit("check")
        assert standing.acquire(timeout=PATIENCE_S)
    yield gate
    gate.open()


# --- what travels together


def test_what_waits_travels_together(hub: ScriptedHub, gate: Gate) -> None:
    callers = [hub.submit("hold") for _ in range(300)]
    gate.open()
    assert all(caller.wait() == HELD for caller in callers)
    assert sorted(len(batch) for batch in hub.sent) == [1, 1, 44, 256]


def test_what_is_large_travels_in_more_than_one_request(hub: ScriptedHub, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lane, "MOST_BYTES", 20_000)
    callers = [hub.submit("capture", size=9_000) for _ in range(5)]
    gate.open()
    assert all(caller.wait() == SETTLED for caller in callers)
    assert sorted(len(batch) for batch in hub.sent) == [1, 1, 1, 2, 2]


def test_an_act_that_the_hub_will_not_take_fails_alone(hub: ScriptedHub, gate: Gate) -> None:
    refusal = HoldNotOpen("no")

    def picky(sent: list[dict[str, Any]]) -> list[BatchedAnswer]:
        gate()
        if any(each["id"] == poison.name for each in sent):
            raise Failed("HTTP 400", may_have_arrived=False, is_refused=True, error=refusal)
        return answered(sent)

    callers = [hub.submit("hold") for _ in range(40)]
    poison = callers[17]
    hub.answer = picky
    gate.open()
    assert [caller.wait() for caller in callers] == [refusal if caller is poison else HELD for caller in callers]


def test_an_act_that_breaks_the_hub_delays_others_and_fails_alone(hub: ScriptedHub, gate: Gate) -> None:
    def fragile(sent: list[dict[str, Any]]) -> list[BatchedAnswer]:
        gate()
        if any(each["id"] == poison.name for each in sent):
            raise Failed("HTTP 500")
        return answered(sent)

    callers = [hub.submit("capture") for _ in range(8)]
    poison = callers.pop(3)
    hub.answer = fragile
    gate.open()
    assert [caller.wait() for caller in callers] == [SETTLED] * 7
    hub.answer = answered
    assert poison.wait() == SETTLED


# --- what is asked again


ODD: dict[str, Script] = {
    "none": lambda sent: [],
    "another's": lambda sent: [BatchedAnswer(id="another", status=200, body=HELD.model_dump())],
    "another shape": lambda sent: [BatchedAnswer(id=sent[0]["id"], status=200, body={"hold": 7})],
    "another type": lambda sent: [BatchedAnswer(id=sent[0]["id"], status=200, body=SETTLED.model_dump() | {"fee_micros": "0"})],
    "broken": lambda sent: [BatchedAnswer(id=sent[0]["id"], status=500, body={"error": "internal_error", "message": "broke"})],
    "no document": lambda sent: [BatchedAnswer(id=sent[0]["id"], status=502, body={"detail": "bad gateway"})],
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_answer_that_says_nothing_is_asked_for_again_in_the_same_words(hub: ScriptedHub, odd: Script) -> None:
    def once(sent: list[dict[str, Any]]) -> list[BatchedAnswer]:
        hub.answer = answered
        return odd(sent)

    hub.answer = once
    assert hub.submit("hold").wait() == HELD
    assert len(hub.sent) == 2
    assert hub.sent[0] == hub.sent[1]


def test_an_answer_of_a_newer_hub_may_say_more(hub: ScriptedHub) -> None:
    hub.answer = lambda sent: [BatchedAnswer(id=sent[0]["id"], status=200, body=HELD.model_dump() | {"colour": "red"})]
    assert hub.submit("hold").wait() == HELD


def test_more_answers_than_were_asked_for_are_nobodys(hub: ScriptedHub) -> None:
    hub.answer = lambda sent: [*answered(sent), *answered(sent)]
    assert hub.submit("hold").wait() == HELD


def test_the_end_of_a_hold_is_tried_until_the_ledger_has_time_for_it(hub: ScriptedHub) -> None:
    busy = {"error": "payre_unavailable", "message": "busy", "retry_after_s": 0.01}

    def once(sent: list[dict[str, Any]]) -> list[BatchedAnswer]:
        hub.answer = answered
        return [BatchedAnswer(id=sent[0]["id"], status=503, body=busy)]

    hub.answer = once
    assert hub.submit("capture").wait() == SETTLED


def test_a_hold_that_the_ledger_has_no_time_for_is_refused(hub: ScriptedHub) -> None:
    busy = {"error": "payre_unavailable", "message": "busy", "retry_after_s": 0.01}
    hub.answer = lambda sent: [BatchedAnswer(id=sent[0]["id"], status=503, body=busy)]
    answer = hub.submit("hold").wait()
    assert isinstance(answer, PayreUnavailable)
    assert answer.message == "busy"
    assert len(hub.sent) == 1


def test_a_hold_that_surely_never_arrived_is_refused_at_once(hub: ScriptedHub) -> None:
    def down(sent: list[dict[str, Any]]) -> list[BatchedAnswer]:
        raise Failed("ConnectError", may_have_arrived=False)

    hub.answer = down
    assert isinstance(hub.submit("hold").wait(), PayreUnavailable)
    assert len(hub.sent) == 1


def test_an_end_that_was_tried_until_its_hold_ended_is_given_up(hub: ScriptedHub) -> None:
    gate = Gate()

    def down(sent: list[dict[str, Any]]) -> list[BatchedAnswer]:
        gate()
        raise Failed("ConnectError", may_have_arrived=False)

    hub.answer = down
    caller = hub.submit("capture")
    caller.act.give_up_s = 0.0
    gate.open()
    answer = caller.wait()
    assert isinstance(answer, PayreUnavailable)
    assert "not known" in answer.message


# --- callers who leave


def test_a_hold_is_found_for_a_caller_who_left_and_handed_to_whoever_gives_it_back(hub: ScriptedHub) -> None:
    gate = Gate()

    def lost(sent: list[dict[str, Any]]) -> list[BatchedAnswer]:
        gate()
        raise Failed("ReadTimeout")

    hub.answer = lost
    caller = hub.submit("hold")
    gate.wait_reached()
    caller.ticket.abandoned, hub.answer = True, answered
    gate.open()
    assert caller.wait() is None
    assert caller.left == [HELD]


def test_a_question_whose_asker_left_is_not_asked_again(hub: ScriptedHub) -> None:
    gate = Gate()

    def lost(sent: list[dict[str, Any]]) -> list[BatchedAnswer]:
        gate()
        raise Failed("ReadTimeout")

    hub.answer = lost
    caller = hub.submit("check")
    gate.wait_reached()
    caller.ticket.abandoned, hub.answer = True, answered
    gate.open()
    assert hub.submit("hold").wait() == HELD
    hub.lane.close(1)
    assert [each["act"] for batch in hub.sent for each in batch] == ["check", "hold"]


def test_a_loop_that_has_closed_stops_nobody_and_its_hold_is_given_back(hub: ScriptedHub) -> None:
    class Closed:
        def deliver(self, answered: Sequence[tuple[Ticket, Any]]) -> None:
            raise RuntimeError("Event loop is closed")

    left, came = list[Answered](), threading.Event()

    def give_back(answer: Answered) -> None:
        left.append(answer)
        came.set()

    ticket = Ticket(Closed())
    act = PendingAct("hold", HoldAct(token="t"), request_id="h", ticket=ticket, give_up_s=time.monotonic() + 9, on_left=give_back)
    hub.lane.submit(act)
    assert came.wait(PATIENCE_S)
    assert left == [HELD]
    assert hub.submit("hold").wait() == HELD


def test_an_act_for_nobody_has_its_answer_where_it_arrives(hub: ScriptedHub) -> None:
    came = threading.Event()
    act = PendingAct(
        "void", HoldAct(token="t"), request_id="v", ticket=Unattended(), give_up_s=time.monotonic() + 9,
        on_left=lambda answer: came.set(),
    )  # fmt: skip
    hub.lane.submit(act)
    assert came.wait(PATIENCE_S)


# --- limits, and ends


def test_a_full_queue_turns_new_work_away_and_never_the_end_of_a_hold(
    hub: ScriptedHub, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lane, "QUEUE_LIMIT", 10)
    callers = [hub.submit("hold") for _ in range(10)]
    with pytest.raises(PayreUnavailable, match="busy"):
        hub.submit("hold")
    callers.append(hub.submit("capture"))
    gate.open()
    assert all(not isinstance(caller.wait(), PayreError) for caller in callers)


def test_a_lane_that_dies_answers_everybody(hub: ScriptedHub, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    def die(sent: list[dict[str, Any]]) -> list[BatchedAnswer]:
        raise Death

    callers = [hub.submit("hold") for _ in range(300)]
    hub.answer = die
    gate.open()
    answers = [caller.wait() for caller in callers]
    assert all(isinstance(answer, PayreUnavailable) for answer in answers)
    with pytest.raises(PayreUnavailable):
        hub.submit("capture")
    assert "until a restart" in caplog.text


def test_closing_tries_what_waits_once_more_and_then_answers_it(hub: ScriptedHub) -> None:
    def down(sent: list[dict[str, Any]]) -> list[BatchedAnswer]:
        raise Failed("ReadTimeout")

    hub.answer = down
    caller = hub.submit("capture")
    hub.lane.close(0.2)
    assert isinstance(caller.wait(), PayreUnavailable)
    with pytest.raises(PayreUnavailable):
        hub.submit("void")


@pytest.mark.parametrize("busy", [False, True])
def test_chores_are_done_every_few_seconds_whatever_comes_of_them(monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
    monkeypatch.setattr(remote_lane, "CHORES_EVERY_S", 0.01)
    done = threading.Semaphore(0)

    def chores() -> None:
        done.release()
        if busy:
            raise PayreUnavailable

    lane = Lane(lambda: HubHttp(ADDRESS, timeout_s=1, within_s=1), chores)
    for _ in range(3):
        assert done.acquire(timeout=PATIENCE_S)
    lane.close(0)


# --- the breaker


def test_five_failures_in_ten_seconds_refuse_new_calls_at_once_and_a_probe_a_second_goes_through() -> None:
    """Our own choice of figures, after Payre's fail policy."""
    breaker = Breaker()
    for second in range(4):
        breaker.failed(second, "down")
        assert not breaker.refuses(second)
    breaker.failed(4, "down")
    assert breaker.refuses(4.9)
    assert not breaker.lets_through(4.9)
    assert not breaker.refuses(5.0)
    assert breaker.lets_through(5.0)
    assert breaker.refuses(5.9)
    assert breaker.waits_s(5.5) == 0.5
    breaker.succeeded()
    assert not breaker.refuses(5.9)


def test_failures_far_apart_or_with_successes_between_open_nothing() -> None:
    breaker = Breaker()
    for second in range(0, 60, 3):
        breaker.failed(second, "down")
        assert not breaker.refuses(second)
    for _ in range(4):
        breaker.failed(60, "down")
    breaker.succeeded()
    breaker.failed(60, "down")
    assert not breaker.refuses(60)


def test_a_hub_that_asks_for_patience_is_left_alone_as_long() -> None:
    breaker = Breaker()
    breaker.hold_off(7.0)
    assert breaker.refuses(6.9)
    assert breaker.lets_through(7.0)
    assert not breaker.is_open


def test_while_the_hub_is_down_calls_are_refused_at_once_and_ends_are_kept(hub: ScriptedHub) -> None:
    def down(sent: list[dict[str, Any]]) -> list[BatchedAnswer]:
        raise Failed("ConnectError", may_have_arrived=False)

    hub.answer = down
    for _ in range(5):
        hub.submit("hold").wait()
    with pytest.raises(PayreUnavailable):
        hub.submit("hold")
    charge = hub.submit("capture")
    hub.answer = answered
    assert charge.wait() == SETTLED
    assert hub.submit("hold").wait() == HELD
