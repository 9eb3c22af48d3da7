"""What an account spent, read along the chain of its own charges: a long journal of others costs nothing."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

from payre_mcp.clock import Clock, window_start
from payre_mcp.directory import KeyRecord
from payre_mcp.gateway.views import Period, Spending, Spent, SpentOn
from payre_mcp.ledger.model import Transfer
from payre_mcp.ledger.store import Journal
from payre_mcp.pricing import Target

MOST_READ = 5_000
"""Charges of one report; the newest count."""

_PAGE = 500


class SpendingReports:
    """Reports over one ledger. Methods block."""

    def __init__(self, journal: Journal, clock: Clock, *, most: int = MOST_READ) -> None:
        self._journal, self._clock, self._most = journal, clock, most

    def report(self, record: KeyRecord, period: Period) -> Spending:
        """What the account of this key spent in the current UTC day or month, or ever: of its newest charges, 5,000 at most."""
        since = 0 if period == "all" else window_start("day" if period == "today" else "month", self._clock.now_us())
        rows = self._charges(record, since)
        read = rows[: self._most]
        total, by_target = Spent(), defaultdict[tuple[str, Target], Spent](Spent)
        for start in range(0, len(read), _PAGE):
            page = read[start : start + _PAGE]
            refunded = self._journal.refunded(record.part, [row.id for row in page])
            for row in page:
                spent = _spent(row, refunded)
                total.add(spent)
                by_target[_target(row)].add(spent)
        targets = [SpentOn(*target, spent) for target, spent in by_target.items()]
        return Spending(period, since, total, targets, cut=len(rows) > self._most)

    def _charges(self, record: KeyRecord, since: int) -> Sequence[Transfer]:
        """The charges since then, newest first: some more than are counted, where there are more."""
        rows: list[Transfer] = []
        while len(rows) <= self._most:
            before = rows[-1].id if rows else 0
            page = self._journal.charges(record.part, record.owner_id, before=before, limit=_PAGE)
            recent = [row for row in page if row.created_at >= since]
            rows += recent
            if len(recent) < _PAGE:
                break
        return rows


def _spent(row: Transfer, refunded: Mapping[int, int]) -> Spent:
    return Spent(1, row.amount_micros, row.credit_spent_micros, refunded.get(row.id, 0), row.created_at)


def _target(row: Transfer) -> tuple[str, Target]:
    detail: Mapping[str, str] = json.loads(row.detail)
    return detail["server"], Target(detail["kind"], row.tool)
