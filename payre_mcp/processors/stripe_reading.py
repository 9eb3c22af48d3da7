"""Stripe's answers, as plain dicts, into the dataclasses of the port. What is unknown is never taken for money.

Each answer is checked field by field: one that lacks what we rely on is an outcome that is not known.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, cast

from pydantic import AliasPath, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from payre_mcp.clock import US_PER_S
from payre_mcp.errors import ProcessorError
from payre_mcp.processors.base import (
    AccountTransfer,
    BankLine,
    CardDispute,
    CardPayment,
    CardPaymentState,
    CardRefund,
    Checkout,
    CheckoutState,
    DisputeState,
    PayeeAccount,
    RefundState,
)

REFERENCE = "payre"
"""The metadata key that holds our reference on every object."""


def _id_of(value: object) -> object:
    """The id of a field that holds an id, the whole object, or nothing."""
    if isinstance(value, Mapping):
        return cast("Mapping[str, object]", value).get("id")
    return "" if value is None else value


Id = Annotated[str, BeforeValidator(_id_of)]
_At = AliasPath


class Answer(BaseModel):
    """The fields of an answer that we rely on; the rest is left out."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _Made(Answer):
    """An object that we may have asked for."""

    id: str
    metadata: dict[str, str] | None = None

    @property
    def reference(self) -> str:
        return (self.metadata or {}).get(REFERENCE, "")


class _Customer(Answer):
    id: str


class _Link(Answer):
    url: str


class _Session(Answer):
    id: str
    client_reference_id: str | None = None
    status: str | None = None
    payment_status: str
    url: str | None = None
    amount_subtotal: int
    amount_total: int
    currency: str
    livemode: bool
    payment_intent: Id = ""
    customer: Id = ""


class _Intent(_Made):
    status: str
    amount: int
    currency: str
    livemode: bool
    payment_method: Id = ""
    error_code: str | None = Field(None, validation_alias=_At("last_payment_error", "code"))
    decline_code: str | None = Field(None, validation_alias=_At("last_payment_error", "decline_code"))
    brand: str | None = Field(None, validation_alias=_At("latest_charge", "payment_method_details", "card", "brand"))
    last4: str | None = Field(None, validation_alias=_At("latest_charge", "payment_method_details", "card", "last4"))
    declined_method: str | None = Field(None, validation_alias=_At("last_payment_error", "payment_method", "id"))
    declined_brand: str | None = Field(None, validation_alias=_At("last_payment_error", "payment_method", "card", "brand"))
    declined_last4: str | None = Field(None, validation_alias=_At("last_payment_error", "payment_method", "card", "last4"))
    fee: int | None = Field(None, validation_alias=_At("latest_charge", "balance_transaction", "fee"))
    fee_currency: str | None = Field(None, validation_alias=_At("latest_charge", "balance_transaction", "currency"))


class _Refund(_Made):
    status: str | None = None
    amount: int
    currency: str
    payment_intent: Id = ""


class _Movement(Answer):
    amount: int
    fee: int


class _Dispute(Answer):
    id: str
    status: str
    amount: int
    currency: str
    livemode: bool
    payment_intent: Id = ""
    balance_transactions: list[_Movement]


class _Account(Answer):
    id: str
    closed: bool | None = None
    state: str | None = Field(
        None,
        validation_alias=_At("configuration", "recipient", "capabilities", "stripe_balance", "stripe_transfers", "status"),
    )


class _Transfer(_Made):
    destination: Id = ""
    amount: int
    amount_reversed: int
    currency: str
    livemode: bool


def _moved(value: object) -> object:
    """What moved: the transfer itself where it is one of its reversals."""
    if isinstance(value, Mapping):
        source = cast("Mapping[str, object]", value)
        return _id_of(source["transfer" if source.get("object") == "transfer_reversal" else "id"])
    return _id_of(value)


class _Line(Answer):
    id: str
    type: str
    amount: int
    fee: int
    created: int
    source: Annotated[str, BeforeValidator(_moved)] = ""
    payment_intent: Id = Field("", validation_alias=_At("source", "payment_intent"))


class _Funds(Answer):
    amount: int
    currency: str


class _Balance(Answer):
    available: list[_Funds]


_Model = TypeVar("_Model", bound=Answer)


def read(model: type[_Model], answer: Mapping[str, Any]) -> _Model:
    """An answer with its fields checked.

    Raises:
        ProcessorError: A field that we rely on is missing or of another type.
    """
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        raise unreadable(", ".join(".".join(map(str, each["loc"])) for each in error.errors(include_input=False))) from None


def unreadable(what: str) -> ProcessorError:
    """What to raise for an answer of which something is not as it must be."""
    return ProcessorError(
        f"Stripe's answer cannot be read ({what}): what it did is not known. Ask again with the same reference; "
        "if it stays so, Stripe answers in a version that this release does not know",
        reason="unreadable_answer",
        outcome_unknown=True,
    )


def customer_id(answer: Mapping[str, Any]) -> str:
    """The id of a Customer."""
    return read(_Customer, answer).id


def link_url(answer: Mapping[str, Any]) -> str:
    """Where an account link leads."""
    return read(_Link, answer).url


def as_checkout(answer: Mapping[str, Any]) -> Checkout:
    """A Checkout Session."""
    session = read(_Session, answer)
    state = _checkout_state(session)
    return Checkout(
        id=session.id,
        reference=session.client_reference_id or "",
        state=state,
        url=session.url or "" if state == "open" else "",
        subtotal_cents=session.amount_subtotal,
        total_cents=session.amount_total,
        currency=session.currency,
        livemode=session.livemode,
        card_payment=session.payment_intent if state in {"paid", "processing"} else "",
        customer_id=session.customer,
    )


def _checkout_state(session: _Session) -> CheckoutState:
    """Paid only where Stripe says so. A status that is not known is on its way, so that nobody pays twice or gives up on it."""
    match session.payment_status, session.status:
        case ("paid", _) | ("no_payment_required", "complete"):
            return "paid"
        case (_, "open" | "expired" as status):
            return status
        case _:
            return "processing"


def as_card_payment(answer: Mapping[str, Any]) -> CardPayment:
    """A PaymentIntent; its latest charge and that one's balance transaction should be in it and need not be."""
    intent = read(_Intent, answer)
    state = _card_payment_state(intent)
    brand, last4 = (intent.declined_brand, intent.declined_last4) if state == "failed" else (intent.brand, intent.last4)
    decline = intent.decline_code or intent.error_code or ("authentication_required" if state == "failed" else "")
    return CardPayment(
        id=intent.id,
        reference=intent.reference,
        state=state,
        amount_cents=intent.amount,
        currency=intent.currency,
        livemode=intent.livemode,
        decline=decline if state == "failed" else "",
        method_id=intent.payment_method or intent.declined_method or "",
        card=f"{brand} {last4}" if brand and last4 else "",
        fee_cents=intent.fee if intent.fee_currency == intent.currency else None,
    )


def _card_payment_state(intent: _Intent) -> CardPaymentState:
    """What is not known, or was not tried yet, is on its way: neither money nor a failure."""
    match intent.status:
        case "succeeded" | "canceled":
            return intent.status
        case "requires_action":
            return "failed"
        case "requires_payment_method" if intent.error_code or intent.decline_code:
            return "failed"
        case _:
            return "processing"


def as_card_refund(answer: Mapping[str, Any], *, livemode: bool) -> CardRefund:
    """A Refund, which does not say its mode. A status that is not known is pending."""
    refund = read(_Refund, answer)
    states: Mapping[str | None, RefundState] = {"succeeded": "succeeded", "failed": "failed", "canceled": "failed"}
    return CardRefund(
        id=refund.id,
        reference=refund.reference,
        card_payment=refund.payment_intent,
        state=states.get(refund.status, "pending"),
        amount_cents=refund.amount,
        currency=refund.currency,
        livemode=livemode,
    )


def as_card_dispute(answer: Mapping[str, Any]) -> CardDispute:
    """A Dispute; its fee is what all its movements cost together, so one that was given back is none."""
    dispute = read(_Dispute, answer)
    return CardDispute(
        id=dispute.id,
        card_payment=dispute.payment_intent,
        state=_dispute_state(dispute),
        amount_cents=dispute.amount,
        fee_cents=sum(movement.fee for movement in dispute.balance_transactions),
        currency=dispute.currency,
        livemode=dispute.livemode,
    )


def _dispute_state(dispute: _Dispute) -> DisputeState:
    """An appeal is open again. A status that is not known is told by whether the money is away."""
    match dispute.status:
        case "won" | "lost":
            return dispute.status
        case "needs_response" | "under_review" | "appeal_needs_response" | "appeal_under_review":
            return "open"
        case "warning_needs_response" | "warning_under_review" | "warning_closed":
            return "inquiry"
        case _:
            return "open" if sum(movement.amount for movement in dispute.balance_transactions) < 0 else "inquiry"


def as_payee(answer: Mapping[str, Any]) -> PayeeAccount:
    """An Account with its recipient configuration. A state that is not known is restricted: nothing is paid there."""
    account = read(_Account, answer)
    if account.closed:
        return PayeeAccount(id=account.id, state="closed")
    match account.state:
        case "active" | "pending" | "rejected":
            return PayeeAccount(id=account.id, state=account.state)
        case _:
            return PayeeAccount(id=account.id, state="restricted")


def as_transfer(answer: Mapping[str, Any]) -> AccountTransfer:
    """A Transfer."""
    transfer = read(_Transfer, answer)
    return AccountTransfer(
        id=transfer.id,
        reference=transfer.reference,
        account_id=transfer.destination,
        amount_cents=transfer.amount,
        reversed_cents=transfer.amount_reversed,
        currency=transfer.currency,
        livemode=transfer.livemode,
    )


def as_bank_line(answer: Mapping[str, Any]) -> BankLine:
    """A balance transaction with its source in it."""
    line = read(_Line, answer)
    return BankLine(
        id=line.id,
        kind=line.type,
        source=line.source,
        card_payment=line.payment_intent,
        amount_cents=line.amount,
        fee_cents=line.fee,
        created_at=line.created * US_PER_S,
    )


def available_cents(answer: Mapping[str, Any], currency: str) -> int:
    """What of a Balance can be transferred now."""
    return sum(funds.amount for funds in read(_Balance, answer).available if funds.currency == currency)
