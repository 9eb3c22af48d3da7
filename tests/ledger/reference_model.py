"""A model of the ledger that shares no code with it, and the commands that are played against both."""

from collections import Counter
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
    ComeBack,
    Command,
    Done,
    Expire,
    Extend,
    Hold,
    Kind,
    Refund,
    Send,
    TopUp,
    Void,
)
from payre_mcp.ledger.state import Answer
from payre_mcp.money import MAX_MICROS
from tests.ledger.commands import (
    ALICE,
    BOB,
    DEV,
    KEY,
    LIFE,
    NOON,
    RIVAL,
    SECOND,
    SERVER,
    capture,
    charge,
    chargeback,
    come_back,
    cost,
    expire,
    extend,
    give_back,
    hold,
    metered,
    payout,
    refund,
    spend,
    top_up,
    void,
)
from tests.ledger.tariffs import BY_VERSION, TARIFFS, Tariff

Value = TypeVar("Value")

DEAD_KEY = 32
BAKERY = 42
"""A server beside `SERVER`."""

LIMITED_KEY, LIMIT = 34, 300
"""A key that may spend this much a day."""
START = 700
LAST = 1_000_000
DAY = 24 * 3600 * SECOND
TODAY = NOON - NOON % DAY
Made = Hold | Charge | Capture | Send
"""What later commands may speak of."""
Place = tuple[int, str, int]
"""A counter: consumer, name, start of its window."""

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
            if isinstance(command, Made):
                made.append(command)
        out.append((draw(st.sampled_from([0, 0, 1, 500, 900])), batch))
    return out


@st.composite
def commands(draw: st.DrawFn, number: int, made: Sequence[Made]) -> Command:
    amount = draw(st.sampled_from([0, 1, 34, 99, 250, 600]))
    acts = ["open", "open", "open", "capture", "capture", "expire", "expire", "refund", "void", "extend", "cross"]
    act = draw(st.sampled_from(acts))
    if act == "cross":
        return draw(crossings(number, amount, [each for each in made if isinstance(each, Send)][-3:]))
    calls = [each for each in made if not isinstance(each, Send)]
    targets = [each for each in calls if isinstance(each, Hold) != (act == "refund")][-3:]
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
            since = draw(st.sampled_from([0, 0, NOON, NOON + LIFE, NOON + 2 * LIFE + 1]))
            return extend(of=of, until=NOON + draw(st.integers(0, 3)) * LIFE, consumer=consumer, since=since)
        case _:
            most = 20 if isinstance(target, Capture) and target.spent else target.amount_micros
            amount = draw(rarely(amount, min(amount, most)))
            developer = draw(rarely(RIVAL, target.developer_id))
    if act == "refund":
        return refund(
            number, amount, of=of, key=draw(st.sampled_from(["r1", "r2", "r3"])), consumer=consumer, developer=developer
        )
    result = draw(st.sampled_from(["", "sunny"]))
    terms = target.metered if isinstance(target, Hold) else None
    if draw(rarely(terms is None, terms is not None)):
        tariff = draw(rarely(TARIFFS[0], TARIFFS[0] if terms is None else BY_VERSION[terms.plan.version]))
        used = draw(st.sampled_from(tariff.usual))
        command = spend(number, tariff.plan, {} if used is None else {tariff.unit: used}, of=of, consumer=consumer, result=result)
        return command._replace(developer_id=developer)
    return capture(number, amount, of=of, consumer=consumer, developer=developer, result=result)


@st.composite
def openings(draw: st.DrawFn, number: int, amount: int) -> Command:
    """What needs nothing before it: top-ups, holds, charges."""
    make = draw(st.sampled_from([hold, hold, metered, metered, charge, top_up]))
    consumer = draw(st.sampled_from([ALICE, ALICE, BOB]))
    if make is top_up:
        return top_up(number, amount, key=draw(st.sampled_from(["t1", "t2"])), consumer=consumer, fee=draw(rarely(7, 0)))
    key, fingerprint = draw(st.sampled_from(["", "a", "b"])), draw(rarely("g", "f"))
    if make is metered:
        tariff, most = draw(st.sampled_from(TARIFFS)), draw(rarely(25, MAX_MICROS))
        known = {tariff.unit: draw(st.integers(1, 9)) if tariff.unit == "characters" else 1} if tariff.is_known else {}
        at = NOON + draw(rarely(40 * DAY, 0))
        command = metered(number, tariff.plan, known, key=key, fingerprint=fingerprint, consumer=consumer, at=at, most=most)
    else:
        spends = hold if make is hold else charge
        command = spends(number, amount, key=key, fingerprint=fingerprint, consumer=consumer)
    if draw(st.booleans()):
        command = command._replace(server_id=draw(rarely(BAKERY, SERVER)), grant_micros=draw(st.sampled_from([0, 60, 160])))
    command = command._replace(
        api_key_id=draw(st.sampled_from([KEY] * 14 + [LIMITED_KEY] * 5 + [DEAD_KEY])), developer_id=draw(rarely(RIVAL, DEV))
    )
    return command._replace(expires_at=draw(st.sampled_from([NOON, NOON, NOON + LIFE]))) if isinstance(command, Hold) else command


@st.composite
def crossings(draw: st.DrawFn, number: int, amount: int, before: Sequence[Send]) -> Command:
    """What crosses the border: of few keys, so that it is repeated and contradicted, and comes back."""
    if before and draw(st.booleans()):
        sent = draw(st.sampled_from(before))
        return come_back(number, draw(rarely(amount, min(amount, sent.amount_micros))), of=sent)
    key = draw(st.sampled_from(["x1", "x1", "x2", "t1"]))
    make = draw(st.sampled_from([give_back, chargeback, cost, None]))
    if make is None:
        sent = payout(number, amount, key=key, developer=draw(rarely(RIVAL, DEV)))
    else:
        micros = draw(st.sampled_from([amount, START + 50])) if make is chargeback else amount
        sent = make(number, micros, key=key, consumer=draw(st.sampled_from([ALICE, ALICE, BOB])))
    return draw(rarely(come_back(number, amount, of=sent), sent))


def rarely(odd: Value, usual: Value) -> st.SearchStrategy[Value]:
    return st.sampled_from([usual] * 19 + [odd])


@dataclass
class Call:
    """One hold, seen from the counter: `state` is open, captured, voided or expired; `bill` its charge's id."""

    hold: Hold
    until: int
    amount: int
    credit: int = 0
    used: tuple[int, ...] = ()
    """What each counter of a metered price said when it was held."""
    state: str = "open"
    end: int = 0
    bill: int = 0

    def keeps(self) -> dict[Place, int]:
        """What it keeps in its counters while it runs."""
        return dict.fromkeys(places(self.hold), known_of(self.hold)) | dict.fromkeys(limits_of(self.hold), self.amount)


@dataclass
class Bill:
    """One charge and how much of it and of its fee came back."""

    consumer: int
    developer: int
    amount: int
    fee: int
    credit: int
    server: int
    back: int = 0
    credit_back: int = 0
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
        default_factory=lambda: {(who, 0, "payment"): (number, ("in", START, 0)) for who, number in ((ALICE, 1), (BOB, 2))}
    )
    sent: dict[tuple[int, int, str], Send] = field(default_factory=dict[tuple[int, int, str], Send])
    back: dict[tuple[int, int, str], list[tuple[int, int]]] = field(
        default_factory=dict[tuple[int, int, str], list[tuple[int, int]]]
    )
    """What of it came back: the sums so far, each with the row that reached it."""
    claims: dict[tuple[int, int, str], str] = field(default_factory=dict[tuple[int, int, str], str])
    counted: Counter[Place] = field(default_factory=Counter[Place])
    granted: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    spent: Counter[tuple[int, int]] = field(default_factory=Counter[tuple[int, int]])
    """Free credit that was taken, by consumer and server."""

    def held(self, consumer: int) -> int:
        calls = [call for call in self.calls.values() if call.state == "open" and owner(call) == consumer]
        return sum(call.amount - call.credit for call in calls)

    def credits(self) -> dict[tuple[int, int], tuple[int, int, int]]:
        """(granted, left, held) of every free credit."""
        return {place: (most, most - self.spent[place], self.credit_held(place)) for place, most in self.granted.items()}

    def credit_held(self, place: tuple[int, int]) -> int:
        calls = [call for call in self.calls.values() if call.state == "open"]
        return sum(call.credit for call in calls if (owner(call), call.hold.server_id) == place)

    def credit(self, command: Hold | Charge, grant: int = 0) -> int:
        """The free credit that a call may take."""
        place = (command.consumer_id, command.server_id)
        if command.server_id == 0:
            return 0
        return self.granted[place] - self.spent[place] - self.credit_held(place) if place in self.granted else grant

    def reserved(self, place: Place) -> int:
        """What running calls keep in a counter."""
        return sum(call.keeps().get(place, 0) for call in self.calls.values() if call.state == "open")

    def counters(self) -> dict[Place, tuple[int, int]]:
        """(captured, reserved) of every counter that is not zero."""
        known = {*self.counted, *(place for call in self.calls.values() for place in call.keeps())}
        return {place: counts for place in known if any(counts := (self.counted[place], self.reserved(place)))}

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
            case Send():
                return self.send(command)
            case ComeBack():
                return self.come_back(command)

    def top_up(self, command: TopUp) -> str | int:
        place, what = (command.consumer_id, 0, command.key), ("in", command.amount_micros, command.fee_micros)
        if place in self.paid:
            number, before = self.paid[place]
            return -number if before == what else "idempotency_conflict"
        if command.amount_micros == 0:
            return "invalid_request"
        self.money[command.consumer_id] += command.amount_micros
        if command.fee_micros:
            self.earn(0, 0, command.fee_micros)
        self.paid[place] = (command.id, what)
        return command.id

    def send(self, command: Send) -> str | int:
        place, what = (command.consumer_id, command.developer_id, command.key), ("out", command.kind, command.amount_micros)
        if place in self.paid:
            number, before = self.paid[place]
            return -number if before == what else "idempotency_conflict"
        if command.amount_micros == 0:
            return "invalid_request"
        if command.kind == Kind.RETURN and command.amount_micros > self.free(command.consumer_id):
            return "insufficient_balance"
        self.paid[place] = (command.id, what)
        if command.kind == Kind.COST:
            self.earn(0, 0, -command.amount_micros)
        else:
            self.sent[place] = command
            self.cross(command, -command.amount_micros)
        return command.id

    def come_back(self, command: ComeBack) -> str | int:
        place, total = (command.consumer_id, command.developer_id, command.key), command.total_micros
        if place not in self.sent:
            return "not_found"
        if not 0 < total <= self.sent[place].amount_micros:
            return "invalid_request"
        sums = self.back.setdefault(place, [])
        for reached, number in sums:
            if reached >= total:
                return -number
        self.cross(self.sent[place], total - (sums[-1][0] if sums else 0))
        sums.append((total, command.id))
        return command.id

    def cross(self, sent: Send, micros: int) -> None:
        """Move what this was taken from."""
        if sent.kind == Kind.PAYOUT:
            self.earn(sent.developer_id, micros, 0)
        else:
            self.money[sent.consumer_id] += micros

    def disputed(self, consumer: int) -> int:
        """What was charged back and has not come back: nobody may owe more."""
        places = [place for place, sent in self.sent.items() if sent.kind == Kind.CHARGEBACK and place[0] == consumer]
        return sum(
            self.sent[place].amount_micros - max((sums for sums, _ in self.back.get(place, [])), default=0) for place in places
        )

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
        amount, used = command.amount_micros, ()
        if isinstance(command, Hold) and command.metered:
            used = tuple(self.counted[each] + self.reserved(each) for each in places(command))
            amount = tariff_of(command).ceiling(known_of(command), used)
        if isinstance(command, Hold) and amount > command.max_micros:
            return "price_above_limit"
        if any(amount > max(0, LIMIT - self.counted[each] - self.reserved(each)) for each in limits_of(command)):
            return "spend_limit"
        credit = self.credit(command, command.grant_micros)
        free = self.free(command.consumer_id)
        if free < 0 or amount > free + credit:
            return "insufficient_balance"
        if command.server_id and command.grant_micros:
            self.granted.setdefault((command.consumer_id, command.server_id), command.grant_micros)
        if command.key:
            self.claims[place] = command.fingerprint
        if isinstance(command, Hold):
            self.calls[command.id] = Call(command, command.expires_at, amount, min(amount, credit), used)
        else:
            self.bill(command, place, amount, min(amount, credit), command)
        return command.id

    def capture(self, command: Capture) -> str | int:
        call = self.calls.get(command.hold_id)
        if call is None or call.hold[2:4] != (command.consumer_id, command.developer_id):
            return "hold_unknown"
        if call.state == "captured":
            return -call.end
        if call.state == "voided":
            return "hold_not_open"
        if call.state != "open" and call.bill:
            return -call.bill
        amount = price(command, call)
        if isinstance(amount, str):
            return amount
        place = (command.consumer_id, command.developer_id, call.hold.key)
        credit = call.credit if call.state == "open" else self.credit(call.hold)
        if call.state == "open":
            call.state, call.end = "captured", command.id
        elif place in self.paid or self.busy(place) or amount > max(0, self.free(command.consumer_id)) + credit:
            return "hold_not_open"
        call.bill = self.bill(command, place, amount, min(amount, credit), call.hold)
        for counter in places(call.hold):
            self.counted[counter] += used_by(command) or 0
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
        if command.since not in (0, call.until):
            return "hold_not_open"
        call.until = max(call.until + (command.since > 0), command.expires_at)
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
        credit = floor(Fraction(bill.credit * bill.back, bill.amount)) - bill.credit_back
        bill.credit_back += credit
        self.spent[bill.consumer, bill.server] -= credit
        paid_back, paid = bill.back - bill.credit_back, bill.amount - bill.credit
        fee = floor(Fraction(bill.fee * paid_back, paid)) - bill.fee_back if paid else 0
        bill.fee_back += fee
        self.earn(bill.developer, fee - (command.amount_micros - credit), -fee)
        self.money[bill.consumer] += command.amount_micros - credit
        self.paid[place] = (command.id, what)
        return command.id

    def bill(
        self, command: Charge | Capture, place: tuple[int, int, str], amount: int, credit: int, ordered: Hold | Charge
    ) -> int:
        for counter in limits_of(ordered):
            self.counted[counter] += amount
        paid = amount - credit
        fee = floor(paid * Fraction(command.fee_bps, 10_000))
        self.bills[command.id] = Bill(command.consumer_id, command.developer_id, amount, fee, credit, ordered.server_id)
        self.spent[command.consumer_id, ordered.server_id] += credit
        self.money[command.consumer_id] -= paid
        self.earn(command.developer_id, paid - fee, fee)
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


def tariff_of(hold: Hold) -> Tariff:
    assert hold.metered is not None
    return BY_VERSION[hold.metered.plan.version]


def places(hold: Hold) -> list[Place]:
    """The counters of a metered hold."""
    return [(hold.consumer_id, *each) for each in hold.metered.counters] if hold.metered else []


def limits_of(command: Hold | Charge) -> list[Place]:
    """The counter of its key's limit."""
    return [(command.consumer_id, f'["spent",{LIMITED_KEY},"day"]', TODAY)] if command.api_key_id == LIMITED_KEY else []


def known_of(hold: Hold) -> int:
    """The quantity that was known when it was held; what is not known is not reserved."""
    return sum(hold.metered.known.quantities.values()) if hold.metered else 0


def used_by(command: Capture) -> int | None:
    """What a call used; None where it did not say."""
    return next(iter(command.spent.usage.quantities.values()), None) if command.spent else None


def price(command: Capture, call: Call) -> int | str:
    """What a capture charges, or the code of its refusal."""
    terms = call.hold.metered
    if terms is None:
        if command.spent:
            return "invalid_request"
        return "capture_exceeds_hold" if command.amount_micros > call.amount else command.amount_micros
    if command.spent is None or command.spent.plan.version != terms.plan.version:
        return "invalid_request"
    used = used_by(command)
    return tariff_of(call.hold).missing(call.amount) if used is None else tariff_of(call.hold).cost(used, call.used, call.amount)


def said(answer: Answer) -> str | int:
    """An answer of the kernel in the model's words."""
    if isinstance(answer, Done):
        return -answer.transfer.id if answer.replayed else answer.transfer.id
    return answer.code if isinstance(answer, PayreError) else answer.hold.expires_at
