"""What the hub answers beside the contract of remote sellers, and what it takes there. Same rules: `gateway/schemas.py`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, cast

from pydantic import ConfigDict, Field

from payre_mcp.directory import KeyRecord
from payre_mcp.gateway.base import Balance, TopUpStatus, TopUpView
from payre_mcp.gateway.schemas import Kind, Message, Micros, ServerName, Text
from payre_mcp.gateway.statement import Statements
from payre_mcp.ids import format_id
from payre_mcp.keys import Role
from payre_mcp.ledger.model import Transfer
from payre_mcp.money import MAX_MICROS, Money
from payre_mcp.receipts import Receipt

LONGEST_PAGE = 100
Moment = Annotated[int, Field(ge=0, le=MAX_MICROS, description="Microseconds since 1970 UTC")]


class Query(Message):
    """The parameters of a GET, whose values are all text."""

    model_config = ConfigDict(strict=False)


class Page(Query):
    """Which page of a list. One that is not the last may hold less than `limit`: go on while there is a `next_cursor`."""

    limit: int = Field(20, ge=1, le=LONGEST_PAGE)
    cursor: Text | None = Field(None, description="`next_cursor` of the page before")


class ChargesPage(Page):
    """Which charges, newest first."""

    since: Moment | None = None
    until: Moment | None = Field(None, description="Microseconds since 1970 UTC; not itself")
    server: Text | None = None
    tool: Text | None = Field(None, description="The name of what was called")


class ToolsPage(Page):
    """Which prices."""

    server: Text | None = None


class BalanceAnswer(Message):
    """A consumer's money: `available` is what a new call may use."""

    consumer: str
    mode: str
    balance_micros: int
    balance_usd: str
    held_micros: int
    held_usd: str
    available_micros: int
    available_usd: str

    @classmethod
    def of(cls, balance: Balance) -> Self:
        """The facts of a balance."""
        return cls(
            consumer=balance.consumer, mode=str(balance.mode),
            balance_micros=balance.balance.micros, balance_usd=balance.balance.usd,
            held_micros=balance.held.micros, held_usd=balance.held.usd,
            available_micros=balance.available.micros, available_usd=balance.available.usd,
        )  # fmt: skip


class ConsumerCharge(Message):
    """A charge as who paid it sees it."""

    charge_id: str
    developer: str
    server: str
    kind: Kind
    tool: str
    variant: str
    amount_micros: int
    amount_usd: str
    credit_micros: int
    """How much of it was free credit, which the platform gave."""
    credit_usd: str
    lines: list[str]
    created_at: int
    receipt: str

    @classmethod
    def of(cls, row: Transfer, statements: Statements) -> Self:
        """The facts of a charge."""
        return cls(developer=format_id("dev", row.developer_id), **_charge(row, statements))


class UsageAnswer(Message):
    """A page of a consumer's own charges."""

    charges: list[ConsumerCharge]
    next_cursor: str | None


class DeveloperCharge(Message):
    """A charge as who earned it sees it."""

    charge_id: str
    consumer: str
    server: str
    kind: Kind
    tool: str
    variant: str
    amount_micros: int
    amount_usd: str
    credit_micros: int
    """How much of it was free credit, which nobody earns."""
    credit_usd: str
    fee_micros: int
    fee_usd: str
    net_micros: int
    net_usd: str
    lines: list[str]
    created_at: int
    receipt: str

    @classmethod
    def of(cls, row: Transfer, statements: Statements) -> Self:
        """The facts of a charge."""
        fee, net = Money(row.fee_micros), Money(row.amount_micros - row.credit_spent_micros - row.fee_micros)
        return cls(
            consumer=format_id("con", row.consumer_id), fee_micros=fee.micros, fee_usd=fee.usd,
            net_micros=net.micros, net_usd=net.usd, **_charge(row, statements),
        )  # fmt: skip


class ChargesAnswer(Message):
    """A page of a developer's own charges."""

    charges: list[DeveloperCharge]
    next_cursor: str | None


class TakingsFacts(Message):
    """Money that was earned, so without free credit: `gross - refunded = fee + net`."""

    charges: int
    gross_micros: int
    gross_usd: str
    refunded_micros: int
    refunded_usd: str
    fee_micros: int
    fee_usd: str
    net_micros: int
    net_usd: str


class ToolTakings(TakingsFacts):
    """What one target earned."""

    server: str
    kind: Kind
    tool: str


class EarningsAnswer(Message):
    """What a developer earned, and by what. The day is that of UTC."""

    developer: str
    total: TakingsFacts
    today: TakingsFacts
    by_tool: list[ToolTakings]


class ToolRequest(Message):
    """`POST /v1/tools`: publish one price, beside the others of its server."""

    name: Text = Field(min_length=1)
    price: Mapping[str, Any] | str | int | float = Field(description="Dollars a call, or a metered price")
    server: ServerName = "default"
    kind: Kind = "tool"
    description: Text = Field("", description="Taken for the sake of Payre's clients, and not kept: a tool describes itself")


class ToolAnswer(Message):
    """A price that is current now."""

    server: str
    kind: Kind
    name: str
    version: str
    price: str
    """The price in a sentence."""


class ToolListed(ToolAnswer):
    """A current price, and what it earned so far."""

    total_charges: int
    gross_micros: int
    gross_usd: str
    refunded_micros: int
    refunded_usd: str
    fee_micros: int
    fee_usd: str
    net_micros: int
    net_usd: str


class ToolsAnswer(Message):
    """A page of current prices."""

    tools: list[ToolListed]
    next_cursor: str | None


class AmountRequest(Message):
    """An amount of money: `amount` in dollars, or `amount_micros`."""

    amount: str | int | float | None = Field(None, description="US dollars", examples=["10", 25])
    amount_micros: Micros | None = None


class CheckoutAnswer(Message):
    """Where a person pays a top-up."""

    session_url: str
    top_up_id: str


class TopUpAnswer(Message):
    """A top-up that was asked for."""

    top_up_id: str
    consumer: str
    amount_micros: int
    amount_usd: str
    status: TopUpStatus
    url: str | None
    expires_at: int

    @classmethod
    def of(cls, top_up: TopUpView) -> Self:
        """The facts of a top-up."""
        return cls(
            top_up_id=top_up.id, consumer=top_up.consumer, amount_micros=top_up.amount.micros, amount_usd=top_up.amount.usd,
            status=top_up.status, url=top_up.url, expires_at=top_up.expires_at,
        )  # fmt: skip


class TopUpsAnswer(Message):
    """A page of a consumer's own top-ups, newest first."""

    top_ups: list[TopUpAnswer]
    next_cursor: str | None


class CreditAnswer(Message):
    """Test money that was credited."""

    top_up_id: str
    status: TopUpStatus
    amount_micros: int
    amount_usd: str
    balance_micros: int
    balance_usd: str


class ReceiptRequest(Message):
    """A receipt to be checked."""

    receipt: str


class ReceiptFacts(Message):
    """What a genuine receipt says. `issued_at` is in seconds since 1970 UTC."""

    charge_id: str
    consumer: str
    developer: str
    server: str
    kind: str
    name: str
    variant: str | None
    amount_micros: int
    amount_usd: str
    quantities: Mapping[str, int]
    issued_at: int
    mode: str

    @classmethod
    def of(cls, receipt: Receipt) -> Self:
        """The facts of a receipt."""
        return cls(
            charge_id=receipt.charge_id, consumer=receipt.consumer, developer=receipt.developer, server=receipt.server,
            kind=receipt.kind, name=receipt.name, variant=receipt.variant, amount_micros=receipt.amount_micros,
            amount_usd=receipt.amount.usd, quantities=dict(receipt.quantities), issued_at=receipt.issued_at, mode=receipt.mode,
        )  # fmt: skip


class ReceiptAnswer(Message):
    """Whether a receipt is genuine. `unknown`: forged, altered, or of other people."""

    valid: bool
    reason: Literal["malformed", "unknown"] | None
    facts: ReceiptFacts | None


class KeyRequest(Message):
    """`POST /v1/keys`: another secret key of the same developer."""

    label: str = Field("", max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
    expires_at: Moment = Field(0, description="When it stops working; 0 for never, and never after the key that asks")


class RotateRequest(Message):
    """`POST /v1/keys/{key}/rotate`: a new key in place of one that goes on for a while."""

    overlap_s: int = Field(24 * 3600, ge=0, le=90 * 24 * 3600, description="How long the old key still works")


class KeyAnswer(Message):
    """A key, without its secret."""

    key_id: str
    key: str
    """Its ends: `pyr_sk_test_...a1b2`."""
    label: str
    state: Literal["active", "revoked", "expired"]
    created_at: int
    expires_at: int
    """0 for never."""
    limits: Mapping[str, Any]
    """What a consumer's key may spend, in micros: `call`, `day`, `month`, `tools`; nothing for no limit."""

    @classmethod
    def of(cls, record: KeyRecord, now: int) -> Self:
        """The facts of a key."""
        return cls(**key_facts(record, now))


class NewKeyAnswer(Message):
    """A new key. Its secret is shown this once."""

    secret_key: str = Field(repr=False)
    key_id: str
    label: str
    expires_at: int


class KeysAnswer(Message):
    """All keys of whoever asks, oldest first."""

    keys: list[KeyAnswer]


def key_facts(record: KeyRecord, now: int) -> Mapping[str, Any]:
    """The facts of a key by name."""
    limits = record.limits
    amounts = {"call": limits.call, "day": limits.day, "month": limits.month}
    known: dict[str, Any] = {name: amount.micros for name, amount in amounts.items() if amount is not None}
    if limits.tools:
        known["tools"] = {name: amount.micros for name, amount in limits.tools.items()}
    return {
        "key_id": format_id("key", record.id), "key": record.shown, "label": record.label, "state": key_state(record, now),
        "created_at": record.created_at, "expires_at": record.expires_at, "limits": known if record.role == Role.CONSUMER else {},
    }  # fmt: skip


def key_state(record: KeyRecord, now: int) -> Literal["active", "revoked", "expired"]:
    """Whether a key works."""
    if record.revoked_at:
        return "revoked"
    return "expired" if 0 < record.expires_at <= now else "active"


def _charge(row: Transfer, statements: Statements) -> dict[str, Any]:
    view, credit = statements.charge(row), Money(row.credit_spent_micros)
    return {
        "charge_id": view.id, "server": view.server, "kind": cast("Kind", view.kind), "tool": view.name, "variant": view.variant,
        "amount_micros": view.amount.micros, "amount_usd": view.amount.usd,
        "credit_micros": credit.micros, "credit_usd": credit.usd, "lines": list(view.lines),
        "created_at": view.created_at, "receipt": view.receipt,
    }  # fmt: skip
