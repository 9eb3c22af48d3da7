"""The ports: `Gateway` for a seller, `Wallet` for a consumer.

Gateway verbs are those of card payments: authorize holds the most a call may cost, capture charges what it did cost and
releases the rest, void releases all, refund returns a charge. All raise `PayreError` and nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from payre_mcp.directory import LimitWindow
from payre_mcp.gateway.views import CreditView, LimitsView, Period, ServerView, Spending
from payre_mcp.money import Money
from payre_mcp.pricing import Plan, PriceSpec, Quote, Target, Usage
from payre_mcp.receipts import Receipt

NOTHING = Usage({})
"""The usage of a call at a fixed price: nothing else has to be known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """One call of a priced target, before it runs. Arguments never leave the seller: only their digest does."""

    api_key: str | None = field(repr=False)
    """The caller's key; a quote can do without, a hold cannot."""
    server: str
    target: Target
    price_version: str
    args_sha256: str
    variant: str = ""
    """The key of the price's variant that these arguments choose."""
    known: Usage = NOTHING
    """What is known of the call before it runs: it bounds what is held."""
    max_price: Money | None = None
    """The caller's own limit: a call that may cost more is refused, not held for less."""
    idempotency_key: str | None = None
    amount: Money | None = None
    """Charged by hand instead of what the price says; at most its ceiling."""
    request_id: str = ""
    """What a remote seller calls this request: asked again with the same one, the ledger finds the hold that it made."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """Money is held for this call; end it with capture or void. It lives on while its call runs."""

    hold_id: int
    part: int
    consumer_id: int
    request: CallRequest
    plan: Plan
    held: Money
    expires_at: int = 0
    token: str = ""
    """What a remote ledger wants to see again; a local one knows its holds."""


class Suspended(NamedTuple):
    """A hold whose call waits for its caller's input. Whoever shows it first goes on with the hold: keep it sealed."""

    hold_id: int
    part: int
    consumer_id: int
    price_version: str
    variant: str
    expires_at: int
    token: str = ""
    """As in its authorization."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """A call was charged. `receipt` is the signed proof; the same charge always has the same one."""

    charge_id: str
    amount: Money
    fee: Money
    receipt: str
    balance: Money | None = None
    """What the consumer has available after it; a remote ledger keeps that from a seller."""


@dataclass(frozen=True, slots=True)
class Replay:
    """This idempotency key was paid before: the first settlement, and the first answer while it is kept."""

    settlement: Settlement
    result: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOutcome:
    """What a successful call used and answered, for its charge and receipt. Never an amount: the ledger's side prices."""

    usage: Usage = NOTHING
    result_sha256: str | None = None
    stored_result: str = ""
    """The answer as JSON, kept for replays of the call's idempotency key."""


class Gateway(Protocol):
    """The seller's side of the ledger."""

    async def publish(self, server: str, prices: Mapping[Target, PriceSpec]) -> None:
        """Record the server's price list. Only published prices can be charged, and a published one never changes.

        Raises:
            PriceSpecInvalid: A price is shared with developers whom this ledger does not know.
        """
        ...

    async def authorize(self, request: CallRequest) -> Authorization | Replay:
        """Hold the most that the call may cost. If the caller is cancelled meanwhile, the hold is given back.

        Raises:
            PaymentRequired: No key.
            InvalidApiKey: The key is unknown, malformed, revoked or expired.
            Forbidden: The key is of another role or mode, or bound to another server.
            NotPriced: The target has no such published price.
            PriceMismatch: `request.amount` is above what the price can come to.
            InvalidVariant: The price has no such variant.
            AmountOverflow: The call could cost 2^53 micros or more.
            PriceAboveLimit: The ceiling is above `request.max_price`.
            SpendLimit: The ceiling is above what the key may still spend.
            InsufficientBalance: Less is available than the ceiling.
            IdempotencyConflict: The key was used for another target or other arguments.
            InProgress: The first call with this key still runs, and has not answered within two seconds.
            PayreUnavailable: The ledger cannot be reached in time; the call must not run.
        """
        ...

    async def suspend(self, authorization: Authorization) -> Suspended:
        """Keep the hold while its call waits for input from its caller: ten minutes at least, then it expires.

        Raises:
            HoldUnknown: The hold was lost.
            HoldNotOpen: The hold has ended.
            PayreUnavailable: The ledger cannot be reached.
        """
        ...

    async def resume(self, suspended: Suspended, request: CallRequest) -> Authorization:
        """Go on with a suspended call at the price that it was held with. Of several who try at once, one succeeds.

        Raises:
            HoldUnknown: No such hold of this caller.
            HoldNotOpen: Somebody else went on with it, it has ended, or its price is not known any more. Authorize anew.
            PayreError: As `authorize`.
        """
        ...

    async def quote(self, request: CallRequest) -> Quote:
        """The most that this call would cost now, with lines. Moves nothing; the request needs no key.

        Raises as `authorize` for a price or a key that is not there.
        """
        ...

    async def capture(self, authorization: Authorization, outcome: CallOutcome) -> Settlement:
        """Charge what the call cost, at most what is held, and release the rest, in one transaction. Idempotent.

        When it returns, the charge survives a power cut.

        Raises:
            HoldUnknown: The hold was lost before it reached the disk; nothing is charged.
            HoldNotOpen: The hold ended otherwise, or expired and its money is gone.
            UsageMissing: What the price is by was not reported, and the price makes that an error. The hold stands: void it.
            PayreUnavailable: Not known to be charged.
        """
        ...

    async def charge(self, request: CallRequest) -> Settlement | Replay:
        """Hold and capture `request.amount` in one transaction. When it returns, the charge survives a power cut.

        Raises as `authorize`.
        """
        ...

    async def can_pay(self, api_key: str, server: str) -> bool:
        """Whether this key may be used at a published server and its account has money now. Never says how much.

        Raises:
            InvalidApiKey: The key is unknown, malformed, revoked or expired.
            Forbidden: The key is of another role or mode, or bound to another server.
        """
        ...

    async def void(self, authorization: Authorization) -> None:
        """Release what is held; nothing is charged. Idempotent, and never raises for a hold that has ended."""
        ...

    async def refund(self, charge_id: str, amount: Money | None = None, *, idempotency_key: str) -> Money:
        """Return a charge, or `amount` of it, to the consumer; fee and net in proportion. Answers what was returned.

        Raises:
            NotFound: No such charge of this developer.
            RefundExceedsCharge: More than the charge would be refunded in all.
            IdempotencyConflict: The key was used before for something else.
        """
        ...

    async def aclose(self) -> None:
        """Finish what is queued and let go of the ledger."""
        ...


@dataclass(frozen=True, slots=True)
class Balance:
    """A consumer's money: `available` is what a new call may use."""

    consumer: str
    balance: Money
    held: Money
    available: Money
    mode: str
    credit: Sequence[CreditView] = ()
    """Free credit beside it, where there is some."""


TopUpStatus = Literal["pending", "processing", "completed", "failed", "expired"]


@dataclass(frozen=True, slots=True)
class TopUpView:
    """A top-up that was asked for. `url` is where to pay it, where a page is mounted."""

    id: str
    consumer: str
    amount: Money
    status: TopUpStatus
    url: str | None
    expires_at: int


@dataclass(frozen=True, slots=True)
class ChargeView:
    """A charge as its consumer sees it. `created_at` is in microseconds since 1970 UTC."""

    id: str
    server: str
    kind: str
    name: str
    amount: Money
    created_at: int
    receipt: str
    variant: str = ""
    """Which variant of the price the arguments chose; empty where there is none."""
    lines: tuple[str, ...] = ()
    """What a metered charge adds up from; its sum is rounded up once."""


class QuoteView(NamedTuple):
    """What a call of a server would cost a consumer now."""

    server: str
    target: Target
    price: str
    """The price in a sentence."""
    quote: Quote


class ChargePage(NamedTuple):
    """Charges, newest first; `next_cursor` leads to the older ones, None at the end."""

    charges: Sequence[ChargeView]
    next_cursor: str | None


class Wallet(Protocol):
    """The consumer's side. Every method takes the consumer's own key and raises `InvalidApiKey` or `Forbidden` for it."""

    async def get_balance(self, api_key: str) -> Balance:
        """Balance, held and available, exact."""
        ...

    async def create_top_up(self, api_key: str, amount: Money) -> TopUpView:
        """Ask for a top-up of $5 to $500. Moves no money: a person pays it at its `url`.

        Raises:
            InvalidRequest: The amount is outside the range.
        """
        ...

    async def get_top_up(self, api_key: str, top_up_id: str) -> TopUpView:
        """Whether a top-up was paid. Raises `NotFound` for one that is not the caller's."""
        ...

    async def list_charges(self, api_key: str, *, cursor: str | None = None, limit: int = 20) -> ChargePage:
        """The consumer's charges, newest first."""
        ...

    async def get_charge(self, api_key: str, charge_id: str) -> ChargeView:
        """One charge with its receipt. Raises `NotFound` for one that is not the caller's."""
        ...

    async def quote_price(
        self,
        api_key: str,
        target: Target,
        *,
        server: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        usage: Mapping[str, object] | None = None,
    ) -> QuoteView:
        """What a call would cost this consumer now, from the server's current price list. Moves nothing.

        Raises:
            NotFound: No server, or not this one, has a price for it.
            InvalidRequest: Several servers have one, and none was named.
            InvalidVariant: The price has no variant for these arguments.
            UsageInvalid: A key or a quantity of `usage` is none.
        """
        ...

    async def get_limits(self, api_key: str) -> LimitsView:
        """The limits of this key as they stand now, and what is used of each."""
        ...

    async def lower_limit(self, api_key: str, window: LimitWindow, amount: Money, *, tool: str | None = None) -> LimitsView:
        """Lower one limit of this key and its line, or set it where there is none; it applies from the next hold on.

        Raises:
            Forbidden: It would rise; nothing was changed.
            InvalidRequest: A limit of a tool names none, another one does, or too many tools have one.
        """
        ...

    async def get_spending(self, api_key: str, period: Period = "month") -> Spending:
        """What the account spent in this UTC period: of its newest charges, some thousand at most."""
        ...

    async def list_servers(self, api_key: str, query: str = "") -> tuple[Sequence[ServerView], bool]:
        """Servers with a current price list, the first by name, and whether there are more."""
        ...

    async def verify_receipt(self, api_key: str, receipt: str) -> Receipt:
        """What a receipt says, if this ledger signed it for this consumer.

        Raises:
            ReceiptInvalid: Malformed, forged, altered, or somebody else's: all of these but the first read alike.
        """
        ...
