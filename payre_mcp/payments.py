"""Money that crosses the ledger's border: top-ups, refunds, disputes and payouts, as far as a payment processor knows them.

Whether money moved stands in the journal alone. These rows say what was asked of the processor, and how far that is.
"""

from enum import StrEnum
from typing import NamedTuple

from payre_mcp.money import Money


class PaymentKind(StrEnum):
    """Which way the money goes, and why."""

    TOP_UP = "top_up"
    """A person pays on the processor's page; the payment has the id of its top-up."""
    RECHARGE = "recharge"
    """A saved card is charged because the balance fell below what its owner chose."""
    REFUND = "refund"
    """Unspent money goes back to the card that paid it."""
    DISPUTE = "dispute"
    """A card's owner took the money back by their bank, or somebody refunded it at the processor."""
    PAYOUT = "payout"
    """A developer's earnings go to their bank."""


class PaymentState(StrEnum):
    """How far a payment is. It only goes forward, see `RANK`, in whatever order its news arrives."""

    CREATED = "created"
    """Our row stands; whether the processor knows of it is not known yet."""
    OPEN = "open"
    """The processor knows of it: a page waits, a dispute runs, a payout is taken from the earnings."""
    PROCESSING = "processing"
    """On its way, for minutes or days."""
    EXPIRED = "expired"
    FAILED = "failed"
    """It will not happen; what was taken for it was put back."""
    SUCCEEDED = "succeeded"
    """It happened. A dispute that succeeded is lost: the money stays away."""
    REVERSED = "reversed"
    """It happened and came back: a dispute that was won, a payout that was sent back."""


RANK = {
    PaymentState.CREATED: 0, PaymentState.OPEN: 1, PaymentState.PROCESSING: 2,
    PaymentState.EXPIRED: 3, PaymentState.FAILED: 4, PaymentState.SUCCEEDED: 5, PaymentState.REVERSED: 6,
}  # fmt: skip
"""A payment moves to a higher rank alone: a late success undoes an expiry, and nothing undoes a success but its reversal."""

UNDER_WAY = (PaymentState.CREATED, PaymentState.OPEN, PaymentState.PROCESSING)


class Payment(NamedTuple):
    """One payment. Fields are the columns, in order; times in microseconds."""

    id: int
    kind: PaymentKind
    state: PaymentState
    owner_id: int
    """The consumer, or of a payout the developer."""
    part: int
    """The consumer's; 0 for a payout."""
    parent_id: int
    """The top-up or recharge that a refund or dispute is of; 0 else."""
    amount: Money
    """What reaches or leaves the balance or the earnings; whole cents."""
    fee: Money
    """Paid on top of it: the processing fee of a top-up; of a dispute, what was taken of that and the balance never had."""
    processor_id: str
    """The Checkout Session, PaymentIntent, Refund, Dispute or Transfer; empty while it is not known."""
    card_payment: str
    """The PaymentIntent of a top-up or recharge, by which refunds and disputes find it."""
    problem: str
    """Why it did not go on, for people; empty when all is well."""
    detail: str
    """What this kind alone needs: a payout's lines, the card of a recharge, the wish for recharges of a top-up."""
    created_at: int
    updated_at: int


class Payer(NamedTuple):
    """A consumer at the processor: their saved card and when to charge it by itself."""

    consumer_id: int
    part: int
    customer_id: str = ""
    method_id: str = ""
    """The saved card; empty for none."""
    card: str = ""
    """As people know it: `visa 4242`."""
    threshold: Money = Money(0)
    """A recharge is made when less than this is available."""
    amount: Money = Money(0)
    """What a recharge brings; 0 when there are none."""
    month_cap: Money = Money(0)
    """The most that recharges may bring in one UTC month."""
    not_before: int = 0
    """The cooldown after the last recharge."""
    failures: int = 0
    """Declines in a row; at three, recharges are off."""

    @property
    def recharges(self) -> bool:
        """Whether this card is charged by itself."""
        return bool(self.method_id and self.amount) and self.failures < MOST_FAILURES


MOST_FAILURES = 3


class Payee(NamedTuple):
    """A developer at the processor: the account that payouts go to."""

    developer_id: int
    account_id: str = ""
    state: str = ""
    """`active` is paid out to; else `pending`, `restricted`, `rejected` or `closed`; empty before onboarding."""
    country: str = ""
    email: str = ""


class EventState(StrEnum):
    """What became of an event of the processor."""

    WAITING = "waiting"
    DONE = "done"
    IGNORED = "ignored"
    """Of no kind that we act on, or of no object of ours."""
    PARKED = "parked"
    """It could not be handled and a person should look: the wrong mode or account, or too many tries."""


class InboxEvent(NamedTuple):
    """One event as it came in by a webhook or was found by the reconciler. Handled once, by id."""

    id: str
    endpoint: str
    """`platform`, `connect`, `thin`, or `reconcile`."""
    kind: str
    livemode: bool
    account: str
    """The connected account that it is of; empty for our own."""
    object_id: str
    body: str
    state: EventState
    tries: int
    problem: str
    received_at: int
    next_try_at: int
