"""The ledger against the processor, one to one: every movement of theirs has its rows here, and the other way round."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from payre_mcp.billing.office import Office, name_of, run
from payre_mcp.clock import US_PER_S
from payre_mcp.ledger.model import Kind
from payre_mcp.money import MICROS_PER_CENT, Money
from payre_mcp.payments import UNDER_WAY, Payment, PaymentKind

_PAGE = 500
_FRESH_US = 300 * US_PER_S
"""What is younger may be on its way between the two."""

_IN = frozenset({Kind.TOP_UP, Kind.COME_BACK})


@dataclass
class Compared:
    """What was compared, and each difference as a sentence."""

    payments: int = 0
    lines: int = 0
    elsewhere: int = 0
    """Objects at the processor that are of no payment of ours, such as its payouts to the operator's own bank."""
    test_money: int = 0
    """Top-ups that were credited without the processor, which only a test ledger has."""
    differences: list[str] = field(default_factory=list[str])


@dataclass
class _Moved:
    """What one side says of one payment: what moved, without what the processor kept, and that."""

    micros: int = 0
    fee_micros: int = 0
    card_payment: str = ""
    newest_at: int = 0


class Comparison:
    """Compares what moved. Nothing is changed by it: `payre stripe reconcile` repairs what can be repaired."""

    def __init__(self, office: Office) -> None:
        self._office, self._payments = office, office.ledger.payments

    async def run(self) -> Compared:
        """Compare everything, save what is younger than five minutes. Raises `ProcessorError`."""
        found = Compared()
        until = self._office.clock.now_us() - _FRESH_US
        theirs = await self._theirs(found)
        ours = _ours(await run(self._office.ledger.journal.crossings))
        paid = dict[str, Payment]()
        for payment in await self._all():
            found.payments += 1
            paid[payment.card_payment] = payment
            here, there = ours.pop(name_of(payment), _Moved()), _Moved()
            if payment.kind == PaymentKind.DISPUTE and payment.state in UNDER_WAY:
                here.micros -= payment.fee.micros  # lost to the platform, and booked once nothing can come back
            for name in {payment.processor_id, payment.card_payment} - {""}:
                moved = theirs.pop(name, _Moved())
                there = _Moved(there.micros + moved.micros, there.fee_micros + moved.fee_micros)
            if payment.updated_at < until:
                found.differences += _differences(payment, here, there)
        for name, moved in theirs.items():
            source = paid.get(moved.card_payment) if moved.card_payment else None
            if source is not None and moved.newest_at < until:
                found.differences.append(
                    f"{name}: the processor moved {Money(moved.micros)} of {name_of(source)}, and nothing of it is booked here"
                )
        found.elsewhere, found.test_money = len(theirs), len(ours)
        if self._office.processor.livemode:
            found.differences += [f"{name}: booked here, and of no payment" for name in ours]
        return found

    async def _theirs(self, found: Compared) -> dict[str, _Moved]:
        theirs = defaultdict[str, _Moved](_Moved)
        async for line in self._office.processor.bank_lines(since=0):
            found.lines += 1
            moved = theirs[line.card_payment if line.kind in {"charge", "payment"} else line.source]
            moved.micros += line.amount_cents * MICROS_PER_CENT
            moved.fee_micros += line.fee_cents * MICROS_PER_CENT
            moved.card_payment, moved.newest_at = line.card_payment, max(moved.newest_at, line.created_at)
        return theirs

    async def _all(self) -> Sequence[Payment]:
        everything, before = list[Payment](), 0
        while page := await run(self._payments.list, tuple(PaymentKind), before=before, limit=_PAGE):
            everything += page
            before = page[-1].id
        return everything


def _ours(crossings: Sequence[tuple[str, int, int, int]]) -> dict[str, _Moved]:
    """What the journal says by payment; a key is a payment's name and what of it, such as `pay_.../3` or `top_...:fee`."""
    ours = defaultdict[str, _Moved](_Moved)
    for key, kind, amount, _ in crossings:
        name, _, what = key.partition(":")
        moved = ours[name.partition("/")[0]]
        if what == "fee":
            moved.fee_micros += amount
        else:
            moved.micros += amount if kind in _IN else -amount
    return ours


def _differences(payment: Payment, here: _Moved, there: _Moved) -> list[str]:
    name = f"{payment.kind} {name_of(payment)} ({payment.processor_id or 'not known to the processor'}, {payment.state})"
    said = list[str]()
    if here.micros != there.micros:
        said.append(f"{name}: the ledger moved {Money(here.micros)}, and the processor {Money(there.micros)}")
    if here.fee_micros != there.fee_micros:
        said.append(
            f"{name}: the ledger has a cost of {Money(here.fee_micros)}, and the processor kept {Money(there.fee_micros)}"
        )
    return said
