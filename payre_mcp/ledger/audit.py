"""The proof: read the whole journal and rebuild every balance from its rows, apart from the code that wrote them.

Run it at any time on a live ledger; it reads one snapshot and changes nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from payre_mcp.clock import US_PER_S
from payre_mcp.ledger.model import CHARGES, HOLD_ENDS, Account, Kind, OpenHold, Transfer, born

OVERDUE_US = 60 * US_PER_S
"""A hold may outlive its time by one sweep; after this it counts as stuck."""

_SHOWN = 20


class AuditSource(Protocol):
    """A ledger as it stood at one moment."""

    def transfers(self) -> Iterator[Transfer]:
        """Every row of the journal, in order of part and id."""
        ...

    def accounts(self) -> Iterable[tuple[int, Account]]:
        """(part, account) of every consumer."""
        ...

    def earnings(self) -> Iterable[tuple[int, int, int, int]]:
        """(part, developer, earned, fees)."""
        ...

    def open_holds(self) -> Iterable[OpenHold]:
        """Every hold that has not ended."""
        ...

    def unbalanced_postings(self) -> list[tuple[int, int]]:
        """Transfers whose double-entry lines do not sum to zero."""
        ...

    def append_only(self) -> bool:
        """Whether the database refuses changes to the journal."""
        ...


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
    violations: list[str] = field(default_factory=list[str])

    @property
    def ok(self) -> bool:
        """Whether every invariant holds."""
        return not self.violations


def audit(source: AuditSource, now: int) -> AuditReport:
    """Check every money invariant of a ledger. Reads each row once; remembers a few numbers of each charge and hold."""
    auditor = _Auditor(now)
    for row in source.transfers():
        auditor.read(row)
    auditor.compare(source)
    return auditor.report


class _Auditor:
    def __init__(self, now: int) -> None:
        self.now, self.report = now, AuditReport()
        self.balances: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.earned: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.fees: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.holds: dict[tuple[int, int], Transfer] = {}
        self.ended: dict[tuple[int, int], Transfer] = {}
        self.refundable: dict[tuple[int, int], tuple[int, int]] = {}
        self.late: set[int] = set()
        self.paid_keys: set[tuple[int, int, int, str]] = set()

    def read(self, row: Transfer) -> None:
        report, owner = self.report, (row.part, row.consumer_id)
        report.transfers += 1
        if not 0 <= row.fee_micros <= row.amount_micros:
            self.broken(f"transfer {row.id} has an amount or a fee below zero, or a fee above its amount")
        if row.kind in CHARGES:
            report.charges += 1
            self.charge(row)
        elif row.kind == Kind.REFUND:
            self.refund(row)
        elif row.kind == Kind.TOP_UP:
            report.topped_up_micros += row.amount_micros
            self.balances[owner] += row.amount_micros
            if row.amount_micros <= 0:
                self.broken(f"top-up {row.id} is not above zero")
        elif row.kind == Kind.HOLD:
            self.holds[row.part, row.id] = row
        elif row.kind not in HOLD_ENDS:
            self.broken(f"transfer {row.id} has the unknown kind {row.kind}")
        if row.kind in HOLD_ENDS:
            self.end(row)
        if row.key and row.slot == 0:
            self.pay_key(row)

    def charge(self, row: Transfer) -> None:
        self.balances[row.part, row.consumer_id] -= row.amount_micros
        self.earned[row.part, row.developer_id] += row.amount_micros - row.fee_micros
        self.fees[row.part, row.developer_id] += row.fee_micros
        self.refundable[row.part, row.id] = (row.amount_micros, row.fee_micros)
        if row.fee_micros != row.amount_micros * row.fee_bps // 10_000:
            self.broken(f"charge {row.id} has fee {row.fee_micros} of {row.amount_micros} at {row.fee_bps} bps")
        if row.kind == Kind.CHARGE and row.ref_id:
            self.late_charge(row)
        if not row.detail:
            self.broken(f"charge {row.id} has no receipt")

    def late_charge(self, row: Transfer) -> None:
        end = self.ended.get((row.part, row.ref_id))
        if end is None or end.kind != Kind.EXPIRE or row.amount_micros > end.held_micros or end.id in self.late:
            self.broken(f"late charge {row.id} does not fit its hold {row.ref_id}")
        if end is not None:
            self.late.add(end.id)

    def refund(self, row: Transfer) -> None:
        self.balances[row.part, row.consumer_id] += row.amount_micros
        self.earned[row.part, row.developer_id] -= row.amount_micros - row.fee_micros
        self.fees[row.part, row.developer_id] -= row.fee_micros
        amount, fee = self.refundable.get((row.part, row.ref_id), (0, 0))
        self.refundable[row.part, row.ref_id] = (amount - row.amount_micros, fee - row.fee_micros)
        if amount < row.amount_micros or fee < row.fee_micros:
            self.broken(f"refund {row.id} returns more than is left of charge {row.ref_id}")

    def end(self, row: Transfer) -> None:
        hold = self.holds.pop((row.part, row.ref_id), None)
        if hold is None:
            again = (row.part, row.ref_id) in self.ended
            self.broken(f"transfer {row.id} ends hold {row.ref_id}, which {'ended before' if again else 'was never made'}")
            return
        self.ended[row.part, row.ref_id] = row
        same = (hold.consumer_id, hold.developer_id, hold.amount_micros) == (row.consumer_id, row.developer_id, row.held_micros)
        if not same or row.amount_micros > row.held_micros:
            self.broken(f"transfer {row.id} does not fit its hold {row.ref_id}")

    def pay_key(self, row: Transfer) -> None:
        key = (row.part, row.consumer_id, row.developer_id, row.key)
        if key in self.paid_keys:
            self.broken(f"transfer {row.id} pays an idempotency key that paid before")
        self.paid_keys.add(key)

    def compare(self, source: AuditSource) -> None:
        """Hold what the rows add up to against what the ledger believes."""
        self.compare_holds(list(source.open_holds()))
        self.compare_accounts(source)
        self.compare_earnings(source)
        for part, transfer_id in source.unbalanced_postings():
            self.broken(f"the postings of transfer {transfer_id} in part {part} do not sum to zero")
        if not source.append_only():
            self.broken("the journal is not protected against updates and deletes")
        report = self.report
        if report.topped_up_micros != report.balances_micros + report.earned_micros + report.fees_micros:
            self.broken("money is not conserved: top-ups differ from balances, earnings and fees")

    def compare_holds(self, holds: list[OpenHold]) -> None:
        self.report.open_holds = len(holds)
        if {hold._replace(expires_at=0) for hold in holds} != {born(row)._replace(expires_at=0) for row in self.holds.values()}:
            self.broken("the open holds differ from the holds of the journal that have not ended")
        for hold in holds:
            if hold.expires_at + OVERDUE_US < self.now:
                self.broken(f"hold {hold.id} is open long after its time")

    def compare_accounts(self, source: AuditSource) -> None:
        held: defaultdict[tuple[int, int], int] = defaultdict(int)
        for row in self.holds.values():
            held[row.part, row.consumer_id] += row.amount_micros
        for part, account in source.accounts():
            self.report.balances_micros += account.balance_micros
            self.report.held_micros += account.held_micros
            place = (part, account.id)
            if account.balance_micros != self.balances.pop(place, 0):
                self.broken(f"account {account.id}: the stored balance differs from the sum of its rows")
            if account.held_micros != held.pop(place, 0):
                self.broken(f"account {account.id}: what is held differs from its open holds")
            if not 0 <= account.held_micros <= account.balance_micros:
                self.broken(f"account {account.id} is overdrawn")
        if any(self.balances.values()) or any(held.values()):
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

    def broken(self, sentence: str) -> None:
        if len(self.report.violations) < _SHOWN:
            self.report.violations.append(sentence)
