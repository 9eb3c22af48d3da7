"""The words of the ledger: accounts, journal rows, commands, answers.

Everything is a tuple of integers and text: a journal row goes to the database as it is. Amounts are micros
(1 USD = 1,000,000), times are microseconds since 1970 UTC, ids are those of `payre_mcp.ids`. Nothing is NULL: 0 and ""
mean "none", which spares the reader two meanings of nothing and the driver its slow path for None (measured: 2.5
microseconds per NULL parameter against 0.1).
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, cast

from payre_mcp.money import MAX_MICROS
from payre_mcp.pricing import Plan, Usage

MAX_BALANCE_MICROS = 10**12
"""A million dollars: the most one account may hold, so that no sum of accounts overflows 64 bits."""


made_of = cast("Any", tuple.__new__)  # pyright: ignore[reportUnknownMemberType]
"""`made_of(Account, row)`: a NamedTuple from a whole row, at half the cost of calling it with each field."""


class Kind(IntEnum):
    """What a journal row does. Numbers are stored: never reuse one."""

    CHARGE = 1
    """Balance to developer and platform, at once."""
    HOLD = 2
    """Balance set aside for one call."""
    CAPTURE = 3
    """A hold's charge; what is above the charge is free again."""
    VOID = 4
    """A hold given back because its call did not succeed."""
    EXPIRE = 5
    """A hold given back because nobody ended it in time."""
    REFUND = 6
    """All or part of a charge given back, fee and net in proportion."""
    TOP_UP = 7
    """Outside money into a balance."""
    GRANT = 8
    """Free credit of one server, with the first call there; its id is that of the call, below zero."""
    RETURN = 9
    """Unspent money of a balance, back to the card that paid it."""
    CHARGEBACK = 10
    """Money that was taken back unasked, by a dispute or at the processor; the balance may fall below zero."""
    PAYOUT = 11
    """Earnings to a developer's bank."""
    COST = 12
    """What the processor keeps for its work, at the platform's expense."""
    COME_BACK = 13
    """All or part of a return, a chargeback or a payout, come back to whose it was."""


HOLD_ENDS = frozenset({Kind.CAPTURE, Kind.VOID, Kind.EXPIRE})
CHARGES = frozenset({Kind.CHARGE, Kind.CAPTURE})
SENT = frozenset({Kind.RETURN, Kind.CHARGEBACK, Kind.PAYOUT, Kind.COST})
"""What leaves the ledger for the outside."""


class Transfer(NamedTuple):
    """One immutable row of the journal; the fields are the columns, in order."""

    part: int
    id: int
    kind: int
    consumer_id: int
    developer_id: int
    """0 where no developer takes part (a top-up)."""
    ref_id: int
    """The hold that a capture, void or expiry ends, or that came too late; the charge that a refund returns; what came back."""
    amount_micros: int
    fee_micros: int
    """The platform's share of `amount_micros`; of a top-up, what was paid on top of what is credited."""
    fee_bps: int
    """The rate by which the fee was split, so that an audit needs no settings."""
    held_micros: int
    """What an end row takes out of hold; 0 elsewhere."""
    key: str
    """The caller's idempotency key as a digest in hex; empty when the caller sent none."""
    slot: int
    """0 for what a key pays, n for its n-th hold, -n for that hold's void or expiry, or for the n-th time that some of what was
    sent came back: a key pays once, by constraint."""
    fingerprint: str
    """What the key was used for, as a digest in hex."""
    api_key_id: int
    tool: str
    created_at: int
    expires_at: int
    """When a hold ends by itself, unless it is extended; 0 on all other rows."""
    detail: str
    """JSON of the receipt's claims that no column holds, on charges; the nonce of its request, on a remote seller's holds."""
    prev_id: int = 0
    """On a charge, the consumer's charge before it: their statement is a chain, and needs no index that grows at random."""
    terms: str = ""
    """JSON of how a metered hold or charge was priced, see `payre_mcp.ledger.metering`; empty for a fixed price."""
    server_id: int = 0
    """Whose free credit it may take or move; 0 for nobody's."""
    credit_micros: int = 0
    """How much of the amount is free credit; on the end of a hold, how much of what was held."""

    @property
    def credit_spent_micros(self) -> int:
        """The credit that a charge took: what was held of it goes first."""
        return min(self.amount_micros, self.credit_micros)


class Account(NamedTuple):
    """A consumer's money: `held_micros` of `balance_micros` are set aside for calls that run.

    A balance is below what is held, or below zero, only by what was disputed after it was spent. Until that is made good,
    every call is refused, one that costs nothing or that free credit would pay too; those that run already end as ever.
    """

    id: int
    balance_micros: int
    held_micros: int
    last_charge_id: int = 0
    """Where the consumer's statement begins."""

    @property
    def available_micros(self) -> int:
        """What may still be held or charged."""
        return self.balance_micros - self.held_micros


class Takings(NamedTuple):
    """What was charged and refunded for one target of a server, without free credit, which nobody earns.

    What was refunded is not taken out of `gross_micros`.
    """

    kind: str
    """The first letter of the target's kind."""
    tool: str
    charges: int
    gross_micros: int
    fee_micros: int
    refunded_micros: int
    fee_refunded_micros: int


class Credit(NamedTuple):
    """A consumer's free credit at one server: `held_micros` of `balance_micros` are set aside for calls that run."""

    consumer_id: int
    server_id: int
    granted_micros: int
    balance_micros: int
    held_micros: int

    @property
    def available_micros(self) -> int:
        """What may still be held or charged."""
        return self.balance_micros - self.held_micros


class OpenHold(NamedTuple):
    """A hold that has not ended. The journal's hold row is its birth; this row dies with it."""

    part: int
    id: int
    consumer_id: int
    developer_id: int
    amount_micros: int
    key: str
    slot: int
    fingerprint: str
    api_key_id: int
    tool: str
    expires_at: int
    terms: str = ""
    server_id: int = 0
    credit_micros: int = 0


def born(row: Transfer) -> OpenHold:
    """The open hold that a hold's journal row makes."""
    return OpenHold(
        row.part, row.id, row.consumer_id, row.developer_id, row.amount_micros, row.key, row.slot,
        row.fingerprint, row.api_key_id, row.tool, row.expires_at, row.terms, row.server_id, row.credit_micros,
    )  # fmt: skip


class KeyState(NamedTuple):
    """What a command needs to know of the consumer's key, read in its own transaction."""

    id: int
    revoked_at: int
    expires_at: int
    limits: str = ""
    """`payre_mcp.directory.SpendingLimits` as text; empty for none."""
    root_id: int = 0
    """The first key of its line, for which its spending is counted."""


class Metered(NamedTuple):
    """How to price a hold whose amount depends on the call or on what was used before it."""

    plan: Plan
    known: Usage
    """What is known of the call before it runs."""
    counters: tuple[tuple[str, int], ...]
    """(name, start of the window) of each of the plan's counters, in order."""


class Spent(NamedTuple):
    """What a metered call used, to be priced under the terms of its hold."""

    plan: Plan
    usage: Usage


class TopUp(NamedTuple):
    """Add outside money to a balance, once per `key`; `fee_micros` were paid on top of it, and are the platform's."""

    id: int
    part: int
    consumer_id: int
    amount_micros: int
    key: str
    fee_micros: int = 0


class Send(NamedTuple):
    """Money to the outside, once per `key`: a row of one of the kinds in `SENT`.

    A return takes what is available and no more. A chargeback has happened already, and is never refused for want of
    money. A payout is of the developer, without a consumer; a cost names the consumer whose payment it was for.
    """

    id: int
    part: int
    kind: int
    consumer_id: int
    developer_id: int
    amount_micros: int
    key: str


class ComeBack(NamedTuple):
    """Of what was sent by this key, `total_micros` in all have come back by now; books what was not booked before."""

    id: int
    part: int
    consumer_id: int
    developer_id: int
    total_micros: int
    key: str


class Hold(NamedTuple):
    """Set aside the most that a call may cost. With a `key`, a second use finds the first: replay or conflict.

    With `metered` the ledger computes the amount, under the same lock that it reads the counters with.
    """

    id: int
    part: int
    consumer_id: int
    developer_id: int
    api_key_id: int
    amount_micros: int
    tool: str
    expires_at: int
    key: str = ""
    fingerprint: str = ""
    metered: Metered | None = None
    max_micros: int = MAX_MICROS
    """The caller's own limit: a hold above it is refused, never lowered."""
    nonce: str = ""
    """Names this very request of a remote seller: asked again, it finds the hold that it made instead of a call in progress."""
    server_id: int = 0
    """Whose free credit it may take; 0 for none."""
    grant_micros: int = 0
    """The free credit that the consumer's first call at this server brings."""


class Capture(NamedTuple):
    """End a hold with a charge of `amount_micros`, at most the held amount.

    A hold that expired meanwhile becomes a late charge if the money is there. `result` is kept for replays of the key.
    The capture of a metered hold says what was `spent`, and the ledger computes the amount.
    """

    id: int
    part: int
    hold_id: int
    consumer_id: int
    developer_id: int
    amount_micros: int
    fee_bps: int
    detail: str
    result: str = ""
    result_expires_at: int = 0
    spent: Spent | None = None


class Void(NamedTuple):
    """End a hold without a charge. Voiding what has ended without a charge changes nothing."""

    id: int
    part: int
    hold_id: int
    consumer_id: int


class Expire(NamedTuple):
    """End a hold whose time is over; the sweeper's command. A hold that was extended or ended meanwhile stays as it is."""

    id: int
    part: int
    hold_id: int
    consumer_id: int


class Extend(NamedTuple):
    """Move the end of an open hold whose call goes on; never to an earlier time.

    With `since`, only if the hold ends then, and to a later time in any case: of several who name the same one, one wins.
    """

    part: int
    hold_id: int
    consumer_id: int
    expires_at: int
    since: int = 0


class Charge(NamedTuple):
    """Hold and capture in one: charge at once, or not at all. With a `key`, at most once."""

    id: int
    part: int
    consumer_id: int
    developer_id: int
    api_key_id: int
    amount_micros: int
    fee_bps: int
    tool: str
    detail: str
    key: str = ""
    fingerprint: str = ""
    server_id: int = 0
    """Whose free credit it may take; 0 for none."""
    grant_micros: int = 0
    """The free credit that the consumer's first call at this server brings."""


class Refund(NamedTuple):
    """Return all or part of a charge from its developer and the platform, once per `key`."""

    id: int
    part: int
    charge_id: int
    consumer_id: int
    developer_id: int
    amount_micros: int
    key: str


Command = TopUp | Hold | Capture | Void | Expire | Extend | Charge | Refund | Send | ComeBack


@dataclass(slots=True)
class Done:
    """A command took effect, now or, if `replayed`, before: `transfer` is the row that says so.

    `account` is the consumer's account right after the command. `result` is the stored answer of a replayed call.
    """

    transfer: Transfer
    account: Account
    replayed: bool = False
    result: str = ""


class Extended(NamedTuple):
    """A hold lives on, as it stands now."""

    hold: OpenHold
