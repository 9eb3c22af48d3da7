"""The proof: read the whole journal and rebuild every balance from its rows, apart from the code that wrote them.

Run it at any time on a live ledger; it reads one snapshot and changes nothing.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from payre_mcp.clock import US_PER_S
from payre_mcp.ledger.metering import MOST_COUNTED, adds_up, captured_by, origin, reserved_by
from payre_mcp.ledger.model import CHARGES, HOLD_ENDS, Kind, OpenHold, Transfer, born
from payre_mcp.ledger.store import AuditSource

OVERDUE_US = 60 * US_PER_S
"""A hold may outlive its time by one sweep; after this it counts as stuck."""

_SHOWN = 20

UNREADABLE = (ValueError, TypeError, LookupError, ArithmeticError)
"""What reading the terms of a damaged or forged row may raise."""


@dataclass
class AuditReport:
    """What an audit found. `violations` is empty when every invariant holds."""

    transfers: int = 0
    charges: int = 0
    topped_up_micros: int = 0
    balances_micros: int = 0
    held_micros: int = 0
    earned_micros: int = 0
    fees_micros: int = 0
    open_holds: int = 0
    granted_micros: int = 0
    credit_micros: int = 0
    """Free credit that is not spent."""
    credit_spent_micros: int = 0
    returned_micros: int = 0
    """Unspent money that went back to cards; this and the next two without what came back."""
    charged_back_micros: int = 0
    paid_out_micros: int = 0
    costs_micros: int = 0
    """What the payment processor kept."""
    violations: list[str] = field(default_factory=list[str])

    def add(self, other: "AuditReport") -> None:
        """Take in what was found in another part of the ledger."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def ok(self) -> bool:
        """Whether every invariant holds."""
        return not self.violations


def audit(source: AuditSource, now: int) -> AuditReport:
    """Check every money invariant of a ledger; remembers only what is not yet matched, not every charge.

    Rows may stand in any order: processes with different clocks write one journal.
    """
    auditor = _Auditor(now, source.open_holds())
    for row in source.transfers():
        auditor.read(row)
    auditor.match_refunds(source)
    auditor.match_come_backs()
    auditor.compare(source)
    return auditor.report


class _Facts(NamedTuple):
    """What a hold and its end must agree on."""

    consumer_id: int
    developer_id: int
    held_micros: int
    origin: str
    """What a metered hold was priced by."""
    server_id: int
    credit_micros: int


Place = tuple[int, int]
"""(part, id)."""

CreditPlace = tuple[int, int, int]
"""(part, consumer, server)."""


def _named(row: Transfer) -> tuple[int, int, int, str]:
    """Whose idempotency key a row has."""
    return row.part, row.consumer_id, row.developer_id, row.key


class _Auditor:
    def __init__(self, now: int, open_holds: Iterable[OpenHold]) -> None:
        self.now, self.report = now, AuditReport()
        self.open = {(hold.part, hold.id): hold for hold in open_holds}
        self.balances: defaultdict[Place, int] = defaultdict(int)
        self.held: defaultdict[Place, int] = defaultdict(int)
        self.earned: defaultdict[Place, int] = defaultdict(int)
        self.fees: defaultdict[Place, int] = defaultdict(int)
        self.holds: dict[Place, _Facts] = {}
        self.ends: dict[Place, _Facts] = {}
        self.expired: dict[Place, int] = {}
        self.late: dict[Place, int] = {}
        self.refunds: dict[Place, list[Transfer]] = {}
        self.statements: defaultdict[Place, int] = defaultdict(int)
        self.paid_keys: set[tuple[int, int, int, str]] = set()
        self.granted: dict[CreditPlace, int] = {}
        self.credits: defaultdict[CreditPlace, int] = defaultdict(int)
        self.credit_held: defaultdict[CreditPlace, int] = defaultdict(int)
        self.captured: defaultdict[tuple[int, int, str, int], int] = defaultdict(int)
        self.sent: dict[Place, Transfer] = {}
        self.come_back: dict[Place, list[Transfer]] = {}
        self.disputed: defaultdict[Place, int] = defaultdict(int)

    def read(self, row: Transfer) -> None:
        self.report.transfers += 1
        if not 0 <= row.fee_micros <= row.amount_micros:
            self.broken(f"transfer {row.id} has an amount or a fee below zero, or a fee above its amount")
        if row.credit_micros:
            self.with_credit(row)
        match row.kind:
            case Kind.CHARGE | Kind.CAPTURE:
                self.charge(row)
            case Kind.REFUND:
                self.refund(row)
            case Kind.TOP_UP:
                self.top_up(row)
            case Kind.GRANT:
                self.grant(row)
            case Kind.HOLD:
                self.hold(row)
            case Kind.RETURN | Kind.CHARGEBACK | Kind.PAYOUT | Kind.COST:
                self.send(row)
            case Kind.COME_BACK:
                self.come_back.setdefault((row.part, row.ref_id), []).append(row)
            case Kind.VOID | Kind.EXPIRE:
                pass
            case _:
                self.broken(f"transfer {row.id} has the unknown kind {row.kind}")
        if row.kind in HOLD_ENDS:
            self.end(row)
        if row.key and row.slot == 0:
            self.pay_key(row)

    def charge(self, row: Transfer) -> None:
        self.report.charges += 1
        # In a whole chain every charge but the last is named once as the one before: all of them cancel out but that.
        self.statements[row.part, row.consumer_id] ^= row.id ^ row.prev_id
        paid = row.amount_micros - self.spend(row, row.credit_spent_micros)
        self.balances[row.part, row.consumer_id] -= paid
        self.earned[row.part, row.developer_id] += paid - row.fee_micros
        self.fees[row.part, row.developer_id] += row.fee_micros
        if row.fee_micros != paid * row.fee_bps // 10_000:
            self.broken(f"charge {row.id} has fee {row.fee_micros} of {paid} at {row.fee_bps} bps")
        if not row.detail:
            self.broken(f"charge {row.id} has no receipt")
        if row.terms:
            self.metered(row)
        if row.kind == Kind.CHARGE and row.ref_id:
            if (row.part, row.ref_id) in self.late:
                self.broken(f"late charge {row.id} charges hold {row.ref_id} again")
            self.late[row.part, row.ref_id] = row.amount_micros

    def metered(self, row: Transfer) -> None:
        try:
            for move in captured_by(row.terms, row.amount_micros):
                self.captured[row.part, row.consumer_id, move.name, move.window_start] += move.captured
            if not adds_up(row.amount_micros, row.terms):
                self.broken(f"charge {row.id} is not what its lines add up to")
        except UNREADABLE:
            self.broken(f"charge {row.id} has terms that cannot be read")

    def refund(self, row: Transfer) -> None:
        paid = row.amount_micros + self.spend(row, -row.credit_micros)
        self.balances[row.part, row.consumer_id] += paid
        self.earned[row.part, row.developer_id] -= paid - row.fee_micros
        self.fees[row.part, row.developer_id] -= row.fee_micros
        self.refunds.setdefault((row.part, row.ref_id), []).append(row)

    def top_up(self, row: Transfer) -> None:
        credited = row.amount_micros - row.fee_micros
        self.report.topped_up_micros += row.amount_micros
        self.balances[row.part, row.consumer_id] += credited
        self.fees[row.part, 0] += row.fee_micros
        if credited <= 0:
            self.broken(f"top-up {row.id} is not above zero")

    def send(self, row: Transfer) -> None:
        if row.amount_micros <= 0 or not row.key:
            self.broken(f"transfer {row.id} sends nothing, or sends it without a name")
        if not (row.consumer_id == 0) == (row.developer_id != 0) == (row.kind == Kind.PAYOUT):
            self.broken(f"transfer {row.id} is not of one whose money it may send")
        if row.kind == Kind.COST:
            self.move_outside(row, row.kind, -row.amount_micros)
        else:
            self.sent[row.part, row.id] = row

    def move_outside(self, owner: Transfer, kind: int, micros: int) -> None:
        """Money to the outside (below zero), or back from it, by the row that sent it."""
        report = self.report
        match kind:
            case Kind.PAYOUT:
                self.earned[owner.part, owner.developer_id] += micros
                report.paid_out_micros -= micros
            case Kind.COST:
                self.fees[owner.part, owner.developer_id] += micros
                report.costs_micros -= micros
            case Kind.RETURN:
                self.balances[owner.part, owner.consumer_id] += micros
                report.returned_micros -= micros
            case _:
                self.balances[owner.part, owner.consumer_id] += micros
                self.disputed[owner.part, owner.consumer_id] -= micros
                report.charged_back_micros -= micros

    def match_come_backs(self) -> None:
        """What came back belongs to something that was sent, by the same one and key, and is no more than that."""
        for place, row in self.sent.items():
            rows = self.come_back.pop(place, [])
            back = sum(each.amount_micros for each in rows)
            self.move_outside(row, row.kind, back - row.amount_micros)
            if back > row.amount_micros:
                self.broken(f"more of transfer {row.id} came back than was sent")
            if any(_named(each) != _named(row) for each in rows):
                self.broken(f"what came back of transfer {row.id} is not of the one who had sent it")
        for _, transfer_id in self.come_back:
            self.broken(f"money came back of transfer {transfer_id}, which sent none")

    def with_credit(self, row: Transfer) -> None:
        """Credit is of a server, and no more than the row moves: of a capture, than was held."""
        most = {Kind.CAPTURE.value: row.held_micros, Kind.TOP_UP.value: 0}.get(row.kind, row.amount_micros)
        if not 0 < row.credit_micros <= most or not row.server_id:
            self.broken(f"transfer {row.id} has credit below zero, above what it moves, or of no server")

    def grant(self, row: Transfer) -> None:
        place = (row.part, row.consumer_id, row.server_id)
        if place in self.granted or row.credit_micros != row.amount_micros:
            self.broken(f"grant {row.id} is not all credit, or its consumer had credit of this server before")
        self.granted[place] = row.amount_micros
        self.credits[place] += row.amount_micros

    def spend(self, row: Transfer, micros: int) -> int:
        """Take this much credit, or give it back where it is below zero."""
        if micros:
            self.credits[row.part, row.consumer_id, row.server_id] -= micros
            self.report.credit_spent_micros += micros
        return micros

    def hold(self, row: Transfer) -> None:
        place = (row.part, row.id)
        self.set_aside(row, row.amount_micros, row.credit_micros)
        if place in self.open and self.open[place]._replace(expires_at=0) != born(row)._replace(expires_at=0):
            self.broken(f"the open hold {row.id} differs from its row in the journal")
        facts = self.facts(row, row.amount_micros)
        if (end := self.ends.pop(place, None)) is None:
            self.holds[place] = facts
        elif end != facts:
            self.broken(f"the end of hold {row.id} does not fit it")

    def end(self, row: Transfer) -> None:
        place = (row.part, row.ref_id)
        self.set_aside(row, -row.held_micros, -row.credit_micros)
        facts = self.facts(row, row.held_micros)
        if row.amount_micros > row.held_micros:
            self.broken(f"transfer {row.id} does not fit its hold {row.ref_id}: it takes more than was held")
        if row.kind == Kind.EXPIRE:
            self.expired[place] = row.held_micros
        hold = self.holds.pop(place, None)
        if hold is not None and hold != facts:
            self.broken(f"transfer {row.id} does not fit its hold {row.ref_id}")
        elif hold is None and place in self.ends:
            self.broken(f"transfer {row.id} ends hold {row.ref_id}, which ended before")
        elif hold is None:
            self.ends[place] = facts

    def set_aside(self, row: Transfer, micros: int, credit: int) -> None:
        self.held[row.part, row.consumer_id] += micros - credit
        if credit:
            self.credit_held[row.part, row.consumer_id, row.server_id] += credit

    def facts(self, row: Transfer, held_micros: int) -> _Facts:
        try:
            known = origin(row.terms)
        except UNREADABLE:
            known = "cannot be read"
        return _Facts(row.consumer_id, row.developer_id, held_micros, known, row.server_id, row.credit_micros)

    def pay_key(self, row: Transfer) -> None:
        if _named(row) in self.paid_keys:
            self.broken(f"transfer {row.id} pays an idempotency key that paid before")
        self.paid_keys.add(_named(row))

    def match_refunds(self, source: AuditSource) -> None:
        """Refunds are few: read the journal again for the charges that they return."""
        if not self.refunds:
            return
        for row in source.transfers():
            refunds = self.refunds.pop((row.part, row.id), []) if row.kind in CHARGES else []
            amount, fee = sum(each.amount_micros for each in refunds), sum(each.fee_micros for each in refunds)
            credit, spent = sum(each.credit_micros for each in refunds), row.credit_spent_micros
            if credit > spent or amount - credit > row.amount_micros - spent or fee > row.fee_micros:
                self.broken(f"charge {row.id} was refunded by more than its amount or its fee")
        for _, charge_id in self.refunds:
            self.broken(f"charge {charge_id} was refunded and does not exist")

    def compare(self, source: AuditSource) -> None:
        """Hold what the rows add up to against what the ledger believes."""
        self.compare_holds()
        self.compare_accounts(source)
        self.compare_earnings(source)
        self.compare_counters(source)
        self.compare_credits(source)
        for part, transfer_id in source.unbalanced_postings():
            self.broken(f"the postings of transfer {transfer_id} in part {part} do not sum to zero")
        if not source.append_only():
            self.broken("the journal is not protected against updates and deletes")
        report = self.report
        outside = report.returned_micros + report.charged_back_micros + report.paid_out_micros + report.costs_micros
        if report.topped_up_micros - outside != report.balances_micros + report.earned_micros + report.fees_micros:
            self.broken("money is not conserved: top-ups differ from balances, earnings, fees and what left")
        if report.granted_micros != report.credit_micros + report.credit_spent_micros:
            self.broken("free credit is not conserved: grants differ from what is left and what was spent")

    def compare_holds(self) -> None:
        self.report.open_holds = len(self.open)
        if self.open.keys() != self.holds.keys():
            self.broken("the open holds differ from the holds of the journal that have not ended")
        for _, hold_id in self.ends:
            self.broken(f"hold {hold_id} was ended, and was never made or ended before")
        for place, amount in self.late.items():
            if amount > self.expired.get(place, -1):
                self.broken(f"a late charge does not fit its hold {place[1]}")
        for hold in self.open.values():
            if hold.expires_at + OVERDUE_US < self.now:
                self.broken(f"hold {hold.id} is open long after its time")

    def compare_accounts(self, source: AuditSource) -> None:
        for part, account in source.accounts():
            self.report.balances_micros += account.balance_micros
            self.report.held_micros += account.held_micros
            place = (part, account.id)
            if account.balance_micros != self.balances.pop(place, 0):
                self.broken(f"account {account.id}: the stored balance differs from the sum of its rows")
            if account.held_micros != self.held.pop(place, 0):
                self.broken(f"account {account.id}: what is held differs from its open holds")
            if account.last_charge_id != self.statements.pop(place, 0):
                self.broken(f"account {account.id}: its statement does not hold each of its charges once")
            if account.held_micros < 0 or account.available_micros < -self.disputed.get(place, 0):
                self.broken(f"account {account.id} is overdrawn")
        if any(self.balances.values()) or any(self.held.values()):
            self.broken("the journal moves money of an account that does not exist")

    def compare_earnings(self, source: AuditSource) -> None:
        for part, developer_id, earned, fees in source.earnings():
            self.report.earned_micros += earned
            self.report.fees_micros += fees
            place = (part, developer_id)
            if (earned, fees) != (self.earned.pop(place, 0), self.fees.pop(place, 0)):
                self.broken(f"developer {developer_id}: earnings or fees differ from the sum of their rows")
        if any(self.earned.values()) or any(self.fees.values()):
            self.broken("the journal pays a developer who has no earnings")

    def compare_counters(self, source: AuditSource) -> None:
        reserved: defaultdict[tuple[int, int, str, int], int] = defaultdict(int)
        for hold in self.open.values():
            try:
                for move in reserved_by(hold.terms, hold.amount_micros):
                    reserved[hold.part, hold.consumer_id, move.name, move.window_start] += move.reserved
            except UNREADABLE:
                self.broken(f"hold {hold.id} has terms that cannot be read")
        for part, consumer_id, name, start, captured, held in source.counters():
            counter = (part, consumer_id, name, start)
            if (captured, held) != (min(self.captured.pop(counter, 0), MOST_COUNTED), reserved.pop(counter, 0)):
                self.broken(f"consumer {consumer_id}: the counter {name} differs from the sum of its calls")
        if any(self.captured.values()) or any(reserved.values()):
            self.broken("the journal counts usage that no counter holds")

    def compare_credits(self, source: AuditSource) -> None:
        for part, credit in source.credits():
            place = (part, credit.consumer_id, credit.server_id)
            self.report.granted_micros += credit.granted_micros
            self.report.credit_micros += credit.balance_micros
            known = (self.granted.pop(place, 0), self.credits.pop(place, 0), self.credit_held.pop(place, 0))
            if credit[2:] != known:
                self.broken(f"consumer {credit.consumer_id}: the credit of server {credit.server_id} differs from its rows")
            if not 0 <= credit.held_micros <= credit.balance_micros <= credit.granted_micros:
                self.broken(f"consumer {credit.consumer_id}: the credit of server {credit.server_id} is overdrawn")
        if self.granted or any(self.credits.values()) or any(self.credit_held.values()):
            self.broken("the journal moves free credit that does not exist")

    def broken(self, sentence: str) -> None:
        if len(self.report.violations) < _SHOWN:
            self.report.violations.append(sentence)
