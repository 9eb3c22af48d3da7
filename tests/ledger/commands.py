"""A ledger in dictionaries: it loads, applies and constrains as a database does, and decides nothing by itself.

Beside it the short forms of commands. Ids are small numbers that the tests choose; money is micros.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from payre_mcp.errors import PayreError
from payre_mcp.ledger.kernel import decide
from payre_mcp.ledger.model import (
    CHARGES,
    HOLD_ENDS,
    Account,
    Capture,
    Charge,
    Command,
    Done,
    Expire,
    Extend,
    Hold,
    KeyState,
    Kind,
    OpenHold,
    Refund,
    TopUp,
    Transfer,
    Void,
)
from payre_mcp.ledger.state import Answer, Decision, Needs, State, needs

Row = TypeVar("Row")

PART = 3
ALICE, BOB = 11, 12
DEV, RIVAL = 21, 22
KEY = 31
NOON = 1_000_000_000_000_000
SECOND = 1_000_000
LIFE = 900 * SECOND
KEPT_UNTIL = NOON + 24 * 3600 * SECOND
FEE_BPS = 300


def top_up(number: int, amount: int, *, key: str = "payment", consumer: int = ALICE) -> TopUp:
    return TopUp(number, PART, consumer, amount, key)


def hold(number: int, amount: int, *, key: str = "", fingerprint: str = "", consumer: int = ALICE, developer: int = DEV) -> Hold:
    return Hold(number, PART, consumer, developer, KEY, amount, "tool", NOON + LIFE, key, fingerprint)


def capture(number: int, amount: int, *, of: int, consumer: int = ALICE, developer: int = DEV, result: str = "") -> Capture:
    return Capture(number, PART, of, consumer, developer, amount, FEE_BPS, "{}", result, KEPT_UNTIL)


def void(number: int, *, of: int, consumer: int = ALICE) -> Void:
    return Void(number, PART, of, consumer)


def expire(number: int, *, of: int, consumer: int = ALICE) -> Expire:
    return Expire(number, PART, of, consumer)


def extend(*, of: int, until: int, consumer: int = ALICE) -> Extend:
    return Extend(PART, of, consumer, until)


def charge(
    number: int, amount: int, *, key: str = "", fingerprint: str = "", consumer: int = ALICE, developer: int = DEV
) -> Charge:
    return Charge(number, PART, consumer, developer, KEY, amount, FEE_BPS, "tool", "{}", key, fingerprint)


def refund(number: int, amount: int, *, of: int, key: str = "return", consumer: int = ALICE, developer: int = DEV) -> Refund:
    return Refund(number, PART, of, consumer, developer, amount, key)


def done(answer: Answer) -> Done:
    """The answer of a command that took effect."""
    assert isinstance(answer, Done), answer
    return answer


def code(answer: Answer) -> str:
    """The code of a refusal."""
    assert isinstance(answer, PayreError), answer
    return answer.code


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
    unbalanced: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    guarded: bool = True

    def run(self, *batch: Command, repeated: bool = False) -> list[Answer]:
        """One transaction."""
        decision = decide(batch, self.load(needs(batch, repeated=repeated)), self.now)
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
        keys = {*wanted.keys, *((end.consumer_id, end.developer_id, end.key) for end in ends.values() if end.key)}
        state = State(
            accounts=chosen(self.balances, wanted.accounts),
            api_keys=chosen(self.api_keys, wanted.api_keys),
            holds=chosen(self.holds, wanted.holds),
            charges={row.id: row for row in rows if row.kind in CHARGES and row.id in wanted.charges},
            late_charges={row.ref_id: row for row in rows if row.kind == Kind.CHARGE and row.ref_id in ends},
            written=chosen(self.rows, wanted.written),
            ends=ends,
            results=dict(self.results),
        )
        for row in rows:
            if row.kind == Kind.REFUND:
                amount, fee = state.refunded.get(row.ref_id, (0, 0))
                state.refunded[row.ref_id] = (amount + row.amount_micros, fee + row.fee_micros)
            if row.key and (owner := (row.consumer_id, row.developer_id, row.key)) in keys:
                state.by_key.setdefault(owner, []).append(row)
        return state

    def apply(self, decision: Decision) -> None:
        """Write a decision under the constraints that the database has."""
        self.rows |= {row.id: row for row in decision.transfers}
        keys = [(row.consumer_id, row.developer_id, row.key, row.slot) for row in self.rows.values() if row.key]
        ends = [row.ref_id for row in self.rows.values() if row.kind in HOLD_ENDS]
        assert len(keys) == len(set(keys)), "a key pays once"
        assert len(ends) == len(set(ends)), "a hold ends once"
        self.holds |= {opened.id: opened for opened in decision.opened}
        for _, hold_id, until in decision.extended:
            self.holds[hold_id] = self.holds[hold_id]._replace(expires_at=until)
        for _, hold_id in decision.closed:
            del self.holds[hold_id]
        for (_, consumer), (balance, held, last) in decision.balances.items():
            account = self.balances[consumer]
            self.balances[consumer] = Account(consumer, account.balance_micros + balance, account.held_micros + held, last)
        for (_, developer), (earned, fees) in decision.earnings.items():
            before = self.earned.get(developer, (0, 0))
            self.earned[developer] = (before[0] + earned, before[1] + fees)
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

    def unbalanced_postings(self) -> list[tuple[int, int]]:
        return self.unbalanced

    def append_only(self) -> bool:
        return self.guarded


def chosen(table: dict[int, Row], ids: Sequence[int]) -> dict[int, Row]:
    return {each: table[each] for each in ids if each in table}
