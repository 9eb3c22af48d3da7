"""A ledger in dictionaries: it loads, applies and constrains as a database does, and decides nothing by itself.

Beside it the short forms of commands. Ids are small numbers that the tests choose; money is micros.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from payre_mcp.directory import SpendingLimits
from payre_mcp.errors import PayreError
from payre_mcp.ledger.audit import audit
from payre_mcp.ledger.credit import credit_needs
from payre_mcp.ledger.kernel import decide
from payre_mcp.ledger.metering import counters_of
from payre_mcp.ledger.model import (
    CHARGES,
    HOLD_ENDS,
    Account,
    Capture,
    Charge,
    ComeBack,
    Command,
    Credit,
    Done,
    Expire,
    Extend,
    Hold,
    KeyState,
    Kind,
    Metered,
    OpenHold,
    Refund,
    Send,
    Spent,
    TopUp,
    Transfer,
    Void,
)
from payre_mcp.ledger.spending import spending_needs
from payre_mcp.ledger.state import Answer, CounterKey, CreditKey, Decision, Needs, State, needs
from payre_mcp.money import MAX_MICROS, Money
from payre_mcp.pricing import Plan, Target, Usage

Row = TypeVar("Row")
Id = TypeVar("Id")

PART = 3
ALICE, BOB = 11, 12
DEV, RIVAL = 21, 22
KEY = 31
NOON = 1_000_000_000_000_000
SECOND = 1_000_000
LIFE = 900 * SECOND
KEPT_UNTIL = NOON + 24 * 3600 * SECOND
FEE_BPS = 300
SERVER, TOOL = 41, Target("tool", "tool")
RICHES = 10_000_000
ONE_REQUEST: Mapping[str, int] = MappingProxyType({"requests": 1})


def top_up(number: int, amount: int, *, key: str = "payment", consumer: int = ALICE, fee: int = 0) -> TopUp:
    return TopUp(number, PART, consumer, amount, key, fee)


def give_back(number: int, amount: int, *, key: str = "out", consumer: int = ALICE) -> Send:
    """Unspent money, to the card that paid it."""
    return Send(number, PART, Kind.RETURN, consumer, 0, amount, key)


def chargeback(number: int, amount: int, *, key: str = "out", consumer: int = ALICE) -> Send:
    return Send(number, PART, Kind.CHARGEBACK, consumer, 0, amount, key)


def cost(number: int, amount: int, *, key: str = "out", consumer: int = ALICE) -> Send:
    return Send(number, PART, Kind.COST, consumer, 0, amount, key)


def payout(number: int, amount: int, *, key: str = "out", developer: int = DEV) -> Send:
    return Send(number, PART, Kind.PAYOUT, 0, developer, amount, key)


def come_back(number: int, total: int, *, of: Send) -> ComeBack:
    """Of what was sent, so much in all has come back."""
    return ComeBack(number, of.part, of.consumer_id, of.developer_id, total, of.key)


def hold(number: int, amount: int, *, key: str = "", fingerprint: str = "", consumer: int = ALICE, developer: int = DEV) -> Hold:
    return Hold(number, PART, consumer, developer, KEY, amount, "tool", NOON + LIFE, key, fingerprint)


def capture(number: int, amount: int, *, of: int, consumer: int = ALICE, developer: int = DEV, result: str = "") -> Capture:
    return Capture(number, PART, of, consumer, developer, amount, FEE_BPS, "{}", result, KEPT_UNTIL)


def metered(
    number: int, plan: Plan, known: Mapping[str, int] = ONE_REQUEST, *, key: str = "", fingerprint: str = "",
    consumer: int = ALICE, server: int = SERVER, target: Target = TOOL, at: int = NOON, most: int = MAX_MICROS,
) -> Hold:  # fmt: skip
    """A hold that the ledger prices itself, for a call at the moment `at`."""
    terms = Metered(plan, Usage(known), counters_of(plan, server, target, at))
    return hold(number, 0, key=key, fingerprint=fingerprint, consumer=consumer)._replace(metered=terms, max_micros=most)


def spend(
    number: int, plan: Plan, used: Mapping[str, int] = ONE_REQUEST, *, of: int, consumer: int = ALICE, result: str = ""
) -> Capture:
    """The capture of a metered hold: what the call used."""
    return capture(number, 0, of=of, consumer=consumer, result=result)._replace(spent=Spent(plan, Usage(used)))


def void(number: int, *, of: int, consumer: int = ALICE) -> Void:
    return Void(number, PART, of, consumer)


def expire(number: int, *, of: int, consumer: int = ALICE) -> Expire:
    return Expire(number, PART, of, consumer)


def extend(*, of: int, until: int, consumer: int = ALICE, since: int = 0) -> Extend:
    return Extend(PART, of, consumer, until, since)


def charge(
    number: int, amount: int, *, key: str = "", fingerprint: str = "", consumer: int = ALICE, developer: int = DEV
) -> Charge:
    return Charge(number, PART, consumer, developer, KEY, amount, FEE_BPS, "tool", "{}", key, fingerprint)


def refund(number: int, amount: int, *, of: int, key: str = "return", consumer: int = ALICE, developer: int = DEV) -> Refund:
    return Refund(number, PART, of, consumer, developer, amount, key)


def owner_of(row: Transfer) -> tuple[int, int, str]:
    """Whose idempotency key it is."""
    return row.consumer_id, row.developer_id, row.key


def key_of(row: Transfer) -> tuple[int, int, int, str]:
    """An idempotency key as a database knows it."""
    return row.part, *owner_of(row)


def done(answer: Answer) -> Done:
    """The answer of a command that took effect."""
    assert isinstance(answer, Done), answer
    return answer


def code(answer: Answer) -> str:
    """The code of a refusal."""
    assert isinstance(answer, PayreError), answer
    return answer.code


def money(books: "Books", consumer: int = ALICE) -> tuple[int, int]:
    """(balance, held)."""
    account = books.balances[consumer]
    return account.balance_micros, account.held_micros


def refused(books: "Books", command: Command) -> str:
    """The code of a refusal that leaves nothing behind."""
    before = deepcopy(books)
    answer = books.one(command)
    assert books == before
    return code(answer)


def replayed(books: "Books", command: Command) -> Done:
    """The answer of a command that took effect before and changes nothing now."""
    before = deepcopy(books)
    answer = done(books.one(command))
    assert books == before
    assert answer.replayed
    return answer


@dataclass
class Books:
    """The tables of a ledger. As a source of an audit it is as honest as what was written into it."""

    now: int = NOON
    rows: dict[int, Transfer] = field(default_factory=dict[int, Transfer])
    balances: dict[int, Account] = field(default_factory=dict[int, Account])
    api_keys: dict[int, KeyState] = field(default_factory=lambda: {KEY: KeyState(KEY, 0, 0)})
    holds: dict[int, OpenHold] = field(default_factory=dict[int, OpenHold])
    earned: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    results: dict[int, tuple[str, int]] = field(default_factory=dict[int, tuple[str, int]])
    counted: dict[CounterKey, tuple[int, int]] = field(default_factory=dict[CounterKey, tuple[int, int]])
    free: dict[CreditKey, Credit] = field(default_factory=dict[CreditKey, Credit])
    unbalanced: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    guarded: bool = True

    def run(self, *batch: Command, repeated: bool = False) -> list[Answer]:
        """One transaction."""
        state = self.load(needs(batch, repeated=repeated))
        state.counters |= chosen(self.counted, spending_needs(batch, state, self.now))
        state.credits = chosen(self.free, credit_needs(batch, state))
        decision = decide(batch, state, self.now)
        self.apply(decision)
        return decision.answers

    def one(self, command: Command) -> Answer:
        """One transaction of one command."""
        (answer,) = self.run(command)
        return answer

    def load(self, wanted: Needs) -> State:
        """What a database would load: rows that exist among those that were asked for, and the keys of ended holds."""
        rows = self.history()
        ends = {row.ref_id: row for row in rows if row.kind in HOLD_ENDS and row.ref_id in wanted.holds}
        keys = {*wanted.keys} | {key_of(end) for end in ends.values() if end.key}
        state = State(
            accounts=chosen(self.balances, wanted.accounts),
            api_keys=chosen(self.api_keys, wanted.api_keys),
            holds=chosen(self.holds, wanted.holds),
            charges={row.id: row for row in rows if row.kind in CHARGES and row.id in wanted.charges},
            late_charges={row.ref_id: row for row in rows if row.kind == Kind.CHARGE and row.ref_id in ends},
            written=chosen(self.rows, wanted.written),
            ends=ends,
            results=dict(self.results),
            counters=chosen(self.counted, wanted.counters),
        )
        for row in rows:
            if row.kind == Kind.REFUND:
                amount, fee = state.refunded.get(row.ref_id, (0, 0))
                state.refunded[row.ref_id] = (amount + row.amount_micros, fee + row.fee_micros)
            if row.key and key_of(row) in keys:
                state.by_key.setdefault(owner_of(row), []).append(row)
        return state

    def apply(self, decision: Decision) -> None:
        """Write a decision under the constraints that the database has."""
        self.rows |= {row.id: row for row in decision.transfers}
        keys = [(*key_of(row), row.slot) for row in self.rows.values() if row.key]
        ends = [row.ref_id for row in self.rows.values() if row.kind in HOLD_ENDS]
        assert len(keys) == len(set(keys)), "a key pays once"
        assert len(ends) == len(set(ends)), "a hold ends once"
        self.holds |= {opened.id: opened for opened in decision.opened}
        for (_, hold_id), until in decision.extended.items():
            self.holds[hold_id] = self.holds[hold_id]._replace(expires_at=until)
        for _, hold_id in decision.closed:
            del self.holds[hold_id]
        for (_, consumer), (balance, held, last) in decision.balances.items():
            account = self.balances[consumer]
            self.balances[consumer] = Account(consumer, account.balance_micros + balance, account.held_micros + held, last)
        for (_, developer), (earned, fees) in decision.earnings.items():
            before = self.earned.get(developer, (0, 0))
            self.earned[developer] = (before[0] + earned, before[1] + fees)
        for (_, consumer, name, start), (captured, reserved) in decision.counters.items():
            before = self.counted.get((consumer, name, start), (0, 0))
            self.counted[consumer, name, start] = (before[0] + captured, before[1] + reserved)
        for _, consumer, server, granted in decision.granted:
            assert (consumer, server) not in self.free, "credit is granted once"
            self.free[consumer, server] = Credit(consumer, server, granted, granted, 0)
        for (_, consumer, server), (balance, held) in decision.credits.items():
            known = self.free[consumer, server]
            moved = known._replace(balance_micros=known.balance_micros + balance, held_micros=known.held_micros + held)
            assert 0 <= moved.held_micros <= moved.balance_micros <= moved.granted_micros
            self.free[consumer, server] = moved
        self.results |= {charge_id: (body, until) for _, charge_id, body, until in decision.results}

    def history(self) -> list[Transfer]:
        return sorted(self.rows.values(), key=lambda row: row.id)

    def transfers(self) -> Iterator[Transfer]:
        return iter(self.history())

    def accounts(self) -> Iterable[tuple[int, Account]]:
        return [(PART, account) for account in self.balances.values()]

    def earnings(self) -> Iterable[tuple[int, int, int, int]]:
        return [(PART, developer, *sums) for developer, sums in self.earned.items()]

    def open_holds(self) -> Iterable[OpenHold]:
        return self.holds.values()

    def counters(self) -> Iterable[tuple[int, int, str, int, int, int]]:
        return [(PART, *counter, *counts) for counter, counts in self.counted.items()]

    def credits(self) -> Iterable[tuple[int, Credit]]:
        return [(PART, credit) for credit in self.free.values()]

    def unbalanced_postings(self) -> list[tuple[int, int]]:
        return self.unbalanced

    def append_only(self) -> bool:
        return self.guarded


def rich(balance: int = RICHES) -> Books:
    """Alice with much money and Bob without."""
    books = Books(balances={ALICE: Account(ALICE, 0, 0), BOB: Account(BOB, 0, 0)})
    if balance:
        books.run(top_up(1, balance))
    return books


def limited(books: Books, *, key: int = KEY, root: int = KEY, **limits: int) -> Books:
    """The books, where this key is limited: `call`, `day`, `month`, and any other name is a tool."""
    named = {name: Money(micros) for name, micros in limits.items()}
    amounts = {name: named.pop(name, None) for name in ("call", "day", "month")}
    books.api_keys[key] = KeyState(key, 0, 0, SpendingLimits(**amounts, tools=named).dump(), root)
    return books


def used_before(books: Books, plan: Plan, *captured: int) -> Books:
    """The books, where Alice has used this much of the plan's counters; no charges explain it."""
    for (name, start), quantity in zip(counters_of(plan, SERVER, TOOL, NOON), captured, strict=True):
        books.counted[ALICE, name, start] = (quantity, 0)
    return books


def counts(books: Books, plan: Plan, *, consumer: int = ALICE, at: int = NOON) -> list[tuple[int, int]]:
    """(captured, reserved) of each of the plan's counters."""
    return [books.counted.get((consumer, *counter), (0, 0)) for counter in counters_of(plan, SERVER, TOOL, at)]


def charged(books: Books, number: int, plan: Plan, **quantities: int) -> int:
    """What one call of the plan costs, from hold to capture; the dot in the name of a dimension is written `__`."""
    used = {name.replace("__", "."): quantity for name, quantity in quantities.items()}
    done(books.one(metered(number, plan)))
    return done(books.one(spend(number + 1, plan, used, of=number))).transfer.amount_micros


def is_sound(books: Books) -> bool:
    report = audit(books, books.now)
    assert report.violations == []
    return report.ok


def chosen(table: dict[Id, Row], ids: Sequence[Id]) -> dict[Id, Row]:
    return {each: table[each] for each in ids if each in table}
