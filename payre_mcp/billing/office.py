"""What every kind of payment needs: the ledger, the processor, the clock, the operator's terms; and the checks they share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, ParamSpec, TypeVar

import anyio.to_thread

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.gateway.waiting import AsyncWriter
from payre_mcp.ids import format_id
from payre_mcp.ledger.model import ComeBack, Done, Kind, Send, TopUp
from payre_mcp.money import MICROS_PER_CENT, ZERO, Money
from payre_mcp.payments import Payment, PaymentKind, PaymentState
from payre_mcp.processors.base import Processor
from payre_mcp.storage.ledger import OpenLedger

P = ParamSpec("P")
T = TypeVar("T")

TEN_DOLLARS = Money(10_000_000)
DAY_US = 24 * 3600 * US_PER_S

KEY_LIFE_US = 23 * 3600 * US_PER_S
"""How long a processor remembers an idempotency key, with an hour to spare. After that an act is looked up, never repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the operator set."""

    top_up_fee_bps: int = 0
    """A processing fee on top of a top-up: hundredths of a percent of it, rounded up to cents, and so much beside that."""
    top_up_fee: Money = ZERO
    maturity_days: int = 7
    """Earnings can be paid out when their charge is so old."""
    first_maturity_days: int = 14
    """And those from a payer whose first top-up is younger than this, not before it is older."""
    smallest_payout: Money = TEN_DOLLARS
    payout_days: int = 7
    """How often payouts are made by themselves; 0 for never."""
    clawback: Literal["platform", "developers"] = "platform"
    """Who bears what was spent and then lost in a dispute. With `developers`, charges that are not mature are refunded."""
    recharge_cooldown_s: int = 3600
    delayed: bool = False
    """Whether ways to pay are offered whose money takes days to come, such as bank debits."""

    def fee_on(self, amount: Money) -> Money:
        """The processing fee on a top-up, in whole cents."""
        micros = -(-amount.micros * self.top_up_fee_bps // 10_000) + self.top_up_fee.micros
        return Money(-(-micros // MICROS_PER_CENT) * MICROS_PER_CENT)


class Mismatch(Exception):
    """What the processor says is not what we asked for. Nothing is booked, and a person has to look."""


class Unknown(Exception):
    """It is of no payment of ours."""


@dataclass(frozen=True, slots=True)
class Office:
    """The desk at which all kinds of payments are handled."""

    ledger: OpenLedger
    processor: Processor
    clock: Clock
    terms: Terms
    writer: AsyncWriter

    def check(self, *, livemode: bool, currency: str) -> None:
        """Raise `Mismatch` for money of another kind than the ledger's."""
        if livemode != (self.ledger.directory.mode == "live"):
            raise Mismatch("it is of the processor's other mode, test or live, than this ledger")
        if currency != "usd":
            raise Mismatch(f"it is in {currency!r}, and this ledger keeps US dollars")

    async def credit(self, payment: Payment, fee_cents: int | None) -> None:
        """Book a paid top-up, once, and what the processor keeps of it, where that is known already."""
        amount, fee = payment.amount.micros, payment.fee.micros
        await self.writer.ask(TopUp(self.ledger.ids.new(), payment.part, payment.owner_id, amount, name_of(payment), fee))
        await self.cost(payment, (fee_cents or 0) * MICROS_PER_CENT, f"{name_of(payment)}:fee")

    async def send(self, kind: Kind, key: str, amount: int, *, part: int, consumer_id: int = 0, developer_id: int = 0) -> Done:
        """Book money that left, once."""
        return await self.writer.ask(Send(self.ledger.ids.new(), part, kind, consumer_id, developer_id, amount, key))

    async def come_back(self, key: str, total: int, *, part: int, consumer_id: int = 0, developer_id: int = 0) -> None:
        """Book what came back of it, in all."""
        if total:
            await self.writer.ask(ComeBack(self.ledger.ids.new(), part, consumer_id, developer_id, total, key))

    async def cost(self, payment: Payment, micros: int, name: str) -> None:
        """Book what the processor keeps, once."""
        if micros > 0:
            await self.send(Kind.COST, name, micros, part=payment.part, consumer_id=payment.owner_id)

    async def advance(self, payment: Payment, state: PaymentState, **facts: Any) -> Payment:
        """Move a payment on."""
        return await run(self.ledger.payments.advance, payment.id, state, **facts)


_PREFIXES = {PaymentKind.REFUND: "ref", PaymentKind.DISPUTE: "dis", PaymentKind.PAYOUT: "pay"}


def name_of(payment: Payment) -> str:
    """A payment's id for people, for the processor and for the journal: `top_...`."""
    return format_id(_PREFIXES.get(payment.kind, "top"), payment.id)


def is_away(payment: Payment) -> bool:
    """Whether a refund or dispute keeps what it took."""
    return payment.state not in {PaymentState.FAILED, PaymentState.EXPIRED, PaymentState.REVERSED}


def cents(amount: Money) -> int:
    """An amount that is known to be in whole cents."""
    whole, rest = divmod(amount.micros, MICROS_PER_CENT)
    assert rest == 0
    return whole


def whole_cents(micros: int) -> Money:
    """What whole cents there are, never more."""
    return Money(max(0, micros) // MICROS_PER_CENT * MICROS_PER_CENT)


async def run(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call what blocks in a thread."""
    return await anyio.to_thread.run_sync(partial(function, *arguments, **named))
