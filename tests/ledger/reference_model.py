"""A model of the ledger that shares no code with it, and the commands that are played against both."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from typing import TypeVar

from hypothesis import strategies as st

from payre_mcp.errors import PayreError
from payre_mcp.ledger.model import (
    Capture,
    Charge,
    Command,
    Done,
    Expire,
    Extend,
    Hold,
    Refund,
    TopUp,
    Void,
)
from payre_mcp.ledger.state import Answer
from tests.ledger.commands import (
    ALICE,
    BOB,
    DEV,
    KEY,
    LIFE,
    NOON,
    RIVAL,
    capture,
    charge,
    expire,
    extend,
    hold,
    refund,
    top_up,
    void,
)

Value = TypeVar("Value")

DEAD_KEY = 32
START = 700
LAST = 1_000_000
Made = Hold | Charge | Capture
History = list[tuple[int, list[Command]]]
"""Seconds that pass, then a batch."""


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Batches whose commands mostly speak of what came before, sometimes of what does not exist or belongs to others."""
    made: list[Made] = []
    out: History = []
    number = 10
    for _ in range(draw(st.integers(1, 6))):
        batch: list[Command] = []
        for _ in range(draw(st.integers(1, 6))):
            number += 1
            command = draw(commands(number, made))
            batch.append(command)
            if isinstance(command, Hold | Charge | Capture):
                made.append(command)
        out.append((draw(st.sampled_from([0, 0, 1, 500, 900])), batch))
    return out


@st.composite
def commands(draw: st.DrawFn, number: int, made: Sequence[Made]) -> Command:
    amount = draw(st.sampled_from([0, 1, 34, 99, 250, 600]))
    act = draw(st.sampled_from(["open", "open", "open", "capture", "capture", "expire", "expire", "refund", "void", "extend"]))
    targets = [each for each in made if isinstance(each, Hold) != (act == "refund")][-3:]
    if act == "open" or not targets:
        return draw(openings(number, amount))
    target = draw(st.sampled_from(targets))
    of, consumer = draw(rarely(1, target.id)), target.consumer_id
    match act:
        case "void":
            return void(number, of=of, consumer=consumer)
        case "expire":
            return expire(number, of=of, consumer=consumer)
        case "extend":
            return extend(of=of, until=NOON + draw(st.integers(0, 3)) * LIFE, consumer=consumer)
        case _:
            amount = draw(rarely(amount, min(amount, target.amount_micros)))
            developer = draw(rarely(RIVAL, target.developer_id))
    if act == "refund":
        return refund(
            number, amount, of=of, key=draw(st.sampled_from(["r1", "r2", "r3"])), consumer=consumer, developer=developer
        )
    result = draw(st.sampled_from(["", "sunny"]))
    return capture(number, amount, of=of, consumer=consumer, developer=developer, result=result)


@st.composite
def openings(draw: st.DrawFn, number: int, amount: int) -> Command:
    """What needs nothing before it: top-ups, holds, charges."""
    make = draw(st.sampled_from([hold, hold, hold, hold, charge, charge, top_up]))
    consumer = draw(st.sampled_from([ALICE, ALICE, BOB]))
    if make is top_up:
        return top_up(number, amount, key=draw(st.sampled_from(["t1", "t2"])), consumer=consumer)
    spend = hold if make is hold else charge
    key, fingerprint = draw(st.sampled_from(["", "a", "b"])), draw(rarely("g", "f"))
    command = spend(number, amount, key=key, fingerprint=fingerprint, consumer=consumer, developer=draw(rarely(RIVAL, DEV)))
    command = command._replace(api_key_id=draw(rarely(DEAD_KEY, KEY)))
    return command._replace(expires_at=draw(st.sampled_from([NOON, NOON, NOON + LIFE]))) if isinstance(command, Hold) else command


def rarely(odd: Value, usual: Value) -> st.SearchStrategy[Value]:
    return st.sampled_from([usual] * 19 + [odd])


@dataclass
class Call:
    """One hold, seen from the counter: `state` is open, captured, voided or expired; `bill` its charge's id."""

    hold: Hold
    until: int
    state: str = "open"
    end: int = 0
    bill: int = 0


@dataclass
class Bill:
    """One charge and how much of it and of its fee came back."""

    consumer: int
    developer: int
    amount: int
    fee: int
    back: int = 0
    fee_back: int = 0


@dataclass
class Model:
    """Says what each command must answer: an error's code, the number of the row that it wrote, or minus an old row's."""

    now: int = NOON
    money: dict[int, int] = field(default_factory=lambda: {ALICE: START, BOB: START})
    income: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    calls: dict[int, Call] = field(default_factory=dict[int, Call])
    bills: dict[int, Bill] = field(default_factory=dict[int, Bill])
    paid: dict[tuple[int, int, str], tuple[int, object]] = field(
        default_factory=lambda: {(who, 0, "payment"): (number, START) for who, number in ((ALICE, 1), (BOB, 2))}
    )
    claims: dict[tuple[int, int, str], str] = field(default_factory=dict[tuple[int, int, str], str])

    def held(self, consumer: int) -> int:
        return sum(call.hold.amount_micros for call in self.calls.values() if call.state == "open" and owner(call) == consumer)

    def free(self, consumer: int) -> int:
        return self.money[consumer] - self.held(consumer)

    def answer(self, command: Command) -> str | int:
        match command:
            case TopUp():
                return self.top_up(command)
            case Hold() | Charge():
                return self.spend(command)
            case Capture():
                return self.capture(command)
            case Void() | Expire():
                return self.release(command)
            case Extend():
                return self.extend(command)
            case Refund():
                return self.refund(command)

    def top_up(self, command: TopUp) -> str | int:
        place = (command.consumer_id, 0, command.key)
        if place in self.paid:
            number, amount = self.paid[place]
            return -number if amount == command.amount_micros else "idempotency_conflict"
        if command.amount_micros == 0:
            return "invalid_request"
        self.money[command.consumer_id] += command.amount_micros
        self.paid[place] = (command.id, command.amount_micros)
        return command.id

    def spend(self, command: Hold | Charge) -> str | int:
        place = (command.consumer_id, command.developer_id, command.key)
        if command.api_key_id == DEAD_KEY:
            return "invalid_api_key"
        if command.key:
            if self.claims.get(place, command.fingerprint) != command.fingerprint:
                return "idempotency_conflict"
            if place in self.paid:
                return -self.paid[place][0]
            if self.busy(place):
                return "in_progress"
        if command.amount_micros > self.free(command.consumer_id):
            return "insufficient_balance"
        if command.key:
            self.claims[place] = command.fingerprint
        if isinstance(command, Hold):
            self.calls[command.id] = Call(command, command.expires_at)
        else:
            self.bill(command, place)
        return command.id

    def capture(self, command: Capture) -> str | int:
        call = self.calls.get(command.hold_id)
        if call is None or call.hold[2:4] != (command.consumer_id, command.developer_id):
            return "hold_unknown"
        if call.state == "captured":
            return -call.end
        if call.state == "voided":
            return "hold_not_open"
        if command.amount_micros > call.hold.amount_micros:
            return "capture_exceeds_hold"
        place = (command.consumer_id, command.developer_id, call.hold.key)
        if call.state == "open":
            call.state, call.end = "captured", command.id
        elif call.bill:
            return -call.bill
        elif place in self.paid or self.busy(place) or command.amount_micros > self.free(command.consumer_id):
            return "hold_not_open"
        call.bill = self.bill(command, place)
        return command.id

    def release(self, command: Void | Expire) -> str | int:
        call = self.calls.get(command.hold_id)
        if call is None:
            return "hold_unknown"
        if call.state == "captured":
            return "hold_not_open"
        if call.state != "open":
            return -call.end
        if isinstance(command, Expire) and self.now < call.until:
            return "hold_not_open"
        call.state, call.end = "voided" if isinstance(command, Void) else "expired", command.id
        return command.id

    def extend(self, command: Extend) -> str | int:
        call = self.calls.get(command.hold_id)
        if call is None or call.state != "open":
            return "hold_not_open"
        call.until = max(call.until, command.expires_at)
        return call.until

    def refund(self, command: Refund) -> str | int:
        bill = self.bills.get(command.charge_id)
        if bill is None or bill.developer != command.developer_id:
            return "not_found"
        place, what = (bill.consumer, bill.developer, command.key), (command.charge_id, command.amount_micros)
        if place in self.paid:
            number, before = self.paid[place]
            return -number if before == what else "idempotency_conflict"
        if not 0 < command.amount_micros <= bill.amount - bill.back:
            return "refund_exceeds_charge"
        bill.back += command.amount_micros
        fee = floor(Fraction(bill.fee * bill.back, bill.amount)) - bill.fee_back
        bill.fee_back += fee
        self.earn(bill.developer, fee - command.amount_micros, -fee)
        self.money[bill.consumer] += command.amount_micros
        self.paid[place] = (command.id, what)
        return command.id

    def bill(self, command: Charge | Capture, place: tuple[int, int, str]) -> int:
        fee = floor(command.amount_micros * Fraction(command.fee_bps, 10_000))
        self.bills[command.id] = Bill(command.consumer_id, command.developer_id, command.amount_micros, fee)
        self.money[command.consumer_id] -= command.amount_micros
        self.earn(command.developer_id, command.amount_micros - fee, fee)
        if place[2]:
            self.paid[place] = (command.id, None)
        return command.id

    def busy(self, place: tuple[int, int, str]) -> bool:
        """Whether a call with this idempotency key still runs."""
        calls = (call for call in self.calls.values() if call.state == "open" and call.hold.key)
        return any((call.hold.consumer_id, call.hold.developer_id, call.hold.key) == place for call in calls)

    def earn(self, developer: int, net: int, fee: int) -> None:
        before = self.income.get(developer, (0, 0))
        self.income[developer] = (before[0] + net, before[1] + fee)


def owner(call: Call) -> int:
    return call.hold.consumer_id


def said(answer: Answer) -> str | int:
    """An answer of the kernel in the model's words."""
    if isinstance(answer, Done):
        return -answer.transfer.id if answer.replayed else answer.transfer.id
    return answer.code if isinstance(answer, PayreError) else answer.expires_at
