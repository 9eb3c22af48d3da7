"""The schema, single source of every table. Migrations are checked against it; the money path's statements follow it.

Amounts are micros, times microseconds since 1970 UTC, and nothing is NULL: 0 and "" mean none. `part` leads the key of
every money table. `transfer` is append-only; `account`, `credit`, `earning` and `hold` are what its rows add up to.
"""

from typing import Any, ClassVar

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, LargeBinary, MetaData, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}
METADATA = MetaData(naming_convention=NAMING)

BIG = BigInteger().with_variant(Integer(), "sqlite")
_STRICT: dict[str, Any] = {"sqlite_strict": True, "sqlite_with_rowid": False}


def _number(*, key: bool = False) -> Any:
    return Field(sa_type=BIG, primary_key=key, nullable=False, sa_column_kwargs={"autoincrement": False} if key else {})  # pyright: ignore[reportArgumentType]


def _text(*, key: bool = False) -> Any:
    return Field(sa_type=Text, primary_key=key, nullable=False)


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


class Base(SQLModel):
    """Our tables live in a metadata of their own, apart from those of the program that embeds us."""

    metadata = METADATA


class LedgerTable(Base, table=True):
    """One row: what this database is."""

    __tablename__: ClassVar[str] = "ledger"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (CheckConstraint("id = 1", "one_row"), _STRICT)
    id: int = _number(key=True)
    mode: str = _text()
    issuer: str = _text()
    openings: int = _number()
    """Counted up by every process that opens it; names that process's slot in ids."""
    parts: int = _number()
    """Into how many parts its consumers are dealt; fixed when the database is made."""


class LeaseTable(Base, table=True):
    """Work that one process at a time does for all. Not money: who holds what may be forgotten."""

    __tablename__: ClassVar[str] = "lease"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (_STRICT,)
    name: str = _text(key=True)
    holder: str = _text()
    until_us: int = _number()


class AccountTable(Base, table=True):
    """A consumer's money. A balance is below what is held, or below zero, only by what was disputed; the audit checks it."""

    __tablename__: ClassVar[str] = "account"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (
        CheckConstraint("held_micros >= 0", "held"),
        CheckConstraint("balance_micros <= 1000000000000", "cap"),
        _STRICT,
    )
    part: int = _number(key=True)
    id: int = _number(key=True)
    balance_micros: int = _number()
    held_micros: int = _number()
    last_charge_id: int = _number()


class EarningTable(Base, table=True):
    """What a developer earned and the platform took of it, per part: rows that a charge adds to and never reads."""

    __tablename__: ClassVar[str] = "earning"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (_STRICT,)
    part: int = _number(key=True)
    developer_id: int = _number(key=True)
    earned_micros: int = _number()
    fees_micros: int = _number()


class TransferTable(Base, table=True):
    """The journal; columns as in `payre_mcp.ledger.model.Transfer`. Rows are never updated or deleted."""

    __tablename__: ClassVar[str] = "transfer"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (
        CheckConstraint("amount_micros >= 0", "amount"),
        CheckConstraint("fee_micros between 0 and amount_micros", "fee"),
        _partial("uq_transfer_key", "part", "consumer_id", "developer_id", "key", "slot", where="key <> ''", unique=True),
        _partial("uq_transfer_grant", "part", "consumer_id", "server_id", where="kind = 8", unique=True),
        _partial("uq_transfer_end", "part", "ref_id", where="kind in (3, 4, 5)", unique=True),
        _partial("ix_transfer_return", "part", "ref_id", where="kind in (1, 6) and ref_id <> 0"),
        _STRICT,
    )
    part: int = _number(key=True)
    id: int = _number(key=True)
    kind: int = _number()
    consumer_id: int = _number()
    developer_id: int = _number()
    ref_id: int = _number()
    amount_micros: int = _number()
    fee_micros: int = _number()
    fee_bps: int = _number()
    held_micros: int = _number()
    key: str = _text()
    slot: int = _number()
    fingerprint: str = _text()
    api_key_id: int = _number()
    tool: str = _text()
    created_at: int = _number()
    expires_at: int = _number()
    detail: str = _text()
    prev_id: int = _number()
    terms: str = _text()
    server_id: int = _number()
    credit_micros: int = _number()


class CreditTable(Base, table=True):
    """A consumer's free credit at one server; what its rows of the journal add up to."""

    __tablename__: ClassVar[str] = "credit"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (
        CheckConstraint("held_micros >= 0", "held"),
        CheckConstraint("balance_micros >= held_micros", "balance"),
        CheckConstraint("balance_micros <= granted_micros", "granted"),
        _STRICT,
    )
    part: int = _number(key=True)
    consumer_id: int = _number(key=True)
    server_id: int = _number(key=True)
    granted_micros: int = _number()
    balance_micros: int = _number()
    held_micros: int = _number()


class HoldTable(Base, table=True):
    """Open holds; columns as in `payre_mcp.ledger.model.OpenHold`. A row goes when its hold ends."""

    __tablename__: ClassVar[str] = "hold"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (_STRICT,)
    part: int = _number(key=True)
    id: int = _number(key=True)
    consumer_id: int = _number()
    developer_id: int = _number()
    amount_micros: int = _number()
    key: str = _text()
    slot: int = _number()
    fingerprint: str = _text()
    api_key_id: int = _number()
    tool: str = _text()
    expires_at: int = _number()
    terms: str = _text()
    server_id: int = _number()
    credit_micros: int = _number()


class UsageCounterTable(Base, table=True):
    """What a consumer used of something whose price depends on it, in one window; base units of the dimension.

    `captured` are the units of charged calls, `reserved` those of open holds that are known already.
    """

    __tablename__: ClassVar[str] = "usage_counter"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (_STRICT,)
    part: int = _number(key=True)
    consumer_id: int = _number(key=True)
    name: str = _text(key=True)
    window_start: int = _number(key=True)
    captured: int = _number()
    reserved: int = _number()


class StoredResultTable(Base, table=True):
    """The answer of a captured call whose caller sent an idempotency key, kept for replays."""

    __tablename__: ClassVar[str] = "stored_result"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (Index("ix_stored_result_expires_at", "part", "expires_at"), _STRICT)
    part: int = _number(key=True)
    charge_id: int = _number(key=True)
    body: str = _text()
    expires_at: int = _number()


class TakingTable(Base, table=True):
    """What a developer took for one target, summed up from journal rows that are not new any more; see `rolled_up`.

    A help for reading, made from the journal and never the other way round. `origin` is how the charges' details begin.
    """

    __tablename__: ClassVar[str] = "taking"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (_STRICT,)
    part: int = _number(key=True)
    developer_id: int = _number(key=True)
    origin: str = _text(key=True)
    kind: str = _text(key=True)
    tool: str = _text(key=True)
    charges: int = _number()
    gross_micros: int = _number()
    fee_micros: int = _number()
    refunded_micros: int = _number()
    fee_refunded_micros: int = _number()


class RolledUpTable(Base, table=True):
    """How far the journal of a part is summed up in `taking`."""

    __tablename__: ClassVar[str] = "rolled_up"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (_STRICT,)
    part: int = _number(key=True)
    last_id: int = _number()


class DeveloperTable(Base, table=True):
    """Who earns."""

    __tablename__: ClassVar[str] = "developer"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (_STRICT,)
    id: int = _number(key=True)
    name: str = _text()


class ConsumerTable(Base, table=True):
    """Who pays."""

    __tablename__: ClassVar[str] = "consumer"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (_STRICT,)
    id: int = _number(key=True)
    part: int = _number()
    name: str = _text()


class ServerTable(Base, table=True):
    """A developer's paid server."""

    __tablename__: ClassVar[str] = "server"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (UniqueConstraint("developer_id", "name"), _STRICT)
    id: int = _number(key=True)
    developer_id: int = _number()
    name: str = _text()


class ApiKeyTable(Base, table=True):
    """A key's digest and state; fields as in `payre_mcp.directory.KeyRecord`."""

    __tablename__: ClassVar[str] = "api_key"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (UniqueConstraint("digest"), _STRICT)
    id: int = _number(key=True)
    digest: bytes = Field(sa_type=LargeBinary, nullable=False)
    role: str = _text()
    mode: str = _text()
    owner_id: int = _number()
    part: int = _number()
    server_id: int = _number()
    label: str = _text()
    last4: str = _text()
    created_at: int = _number()
    revoked_at: int = _number()
    expires_at: int = _number()
    limits: str = _text()
    root_id: int = _number()
    """The first key of its line: a rotated key goes on with what it spent."""


class PriceListingTable(Base, table=True):
    """A price that a server published, by content; never changed. The newest `published_at` of a server is its current list."""

    __tablename__: ClassVar[str] = "price_listing"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (_STRICT,)
    server_id: int = _number(key=True)
    kind: str = _text(key=True)
    name: str = _text(key=True)
    version: str = _text(key=True)
    spec: str = _text()
    published_at: int = _number()


class TopUpTable(Base, table=True):
    """A request for a top-up; whether it was paid stands in the journal."""

    __tablename__: ClassVar[str] = "top_up"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (UniqueConstraint("token"), _STRICT)
    id: int = _number(key=True)
    part: int = _number()
    consumer_id: int = _number()
    amount_micros: int = _number()
    token: str = _text()
    created_at: int = _number()
    expires_at: int = _number()


class PaymentTable(Base, table=True):
    """Money that crosses the ledger's border; columns as in `payre_mcp.payments.Payment`. Whether it moved says the journal."""

    __tablename__: ClassVar[str] = "payment"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (
        _partial("uq_payment_processor_id", "processor_id", where="processor_id <> ''", unique=True),
        _partial(
            "uq_payment_under_way", "kind", "owner_id", unique=True,
            where="kind in ('recharge', 'payout') and state in ('created', 'open', 'processing')",
        ),
        _partial("ix_payment_card_payment", "card_payment", where="card_payment <> ''"),
        _partial("ix_payment_open", "id", where="state in ('created', 'open', 'processing')"),
        Index("ix_payment_owner", "owner_id", "id"),
        _STRICT,
    )  # fmt: skip
    id: int = _number(key=True)
    kind: str = _text()
    state: str = _text()
    owner_id: int = _number()
    part: int = _number()
    parent_id: int = _number()
    amount_micros: int = _number()
    fee_micros: int = _number()
    processor_id: str = _text()
    card_payment: str = _text()
    problem: str = _text()
    detail: str = _text()
    created_at: int = _number()
    updated_at: int = _number()


class PayerTable(Base, table=True):
    """A consumer at the payment processor; columns as in `payre_mcp.payments.Payer`."""

    __tablename__: ClassVar[str] = "payer"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (_STRICT,)
    consumer_id: int = _number(key=True)
    part: int = _number()
    customer_id: str = _text()
    method_id: str = _text()
    card: str = _text()
    threshold_micros: int = _number()
    amount_micros: int = _number()
    month_cap_micros: int = _number()
    not_before: int = _number()
    failures: int = _number()


class PayeeTable(Base, table=True):
    """A developer at the payment processor; columns as in `payre_mcp.payments.Payee`."""

    __tablename__: ClassVar[str] = "payee"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (_partial("uq_payee_account_id", "account_id", where="account_id <> ''", unique=True), _STRICT)
    developer_id: int = _number(key=True)
    account_id: str = _text()
    state: str = _text()
    country: str = _text()
    email: str = _text()


class InboxEventTable(Base, table=True):
    """News of the payment processor, each handled once; columns as in `payre_mcp.payments.InboxEvent`."""

    __tablename__: ClassVar[str] = "inbox_event"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (_partial("ix_inbox_event_waiting", "next_try_at", where="state = 'waiting'"), _STRICT)
    id: str = _text(key=True)
    endpoint: str = _text()
    kind: str = _text()
    livemode: int = _number()
    account: str = _text()
    object_id: str = _text()
    body: str = _text()
    state: str = _text()
    tries: int = _number()
    problem: str = _text()
    received_at: int = _number()
    next_try_at: int = _number()


class ReconciledTable(Base, table=True):
    """How far the processor's own lists were read, so that no news is missed."""

    __tablename__: ClassVar[str] = "reconciled"  # pyright: ignore[reportIncompatibleVariableOverride]
    __table_args__ = (_STRICT,)
    name: str = _text(key=True)
    until_us: int = _number()
