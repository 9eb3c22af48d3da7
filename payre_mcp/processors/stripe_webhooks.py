"""Webhooks of Stripe: which news we have sent, and whether what came in was signed by Stripe just now."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import stripe
from pydantic import AliasPath, Field, ValidationError

from payre_mcp.clock import US_PER_S
from payre_mcp.errors import WebhookInvalid
from payre_mcp.processors.base import Endpoint, Event
from payre_mcp.processors.stripe_reading import Answer, Id, read

TOLERANCE_S = 300

EVENTS: Mapping[Endpoint, Sequence[str]] = {
    "platform": (
        "checkout.session.completed",
        "checkout.session.async_payment_succeeded",
        "checkout.session.async_payment_failed",
        "checkout.session.expired",
        "payment_intent.succeeded",
        "payment_intent.payment_failed",
        "payment_intent.requires_action",
        "payment_intent.canceled",
        "setup_intent.succeeded",
        "payment_method.detached",
        "payment_method.automatically_updated",
        "refund.created",
        "refund.updated",
        "refund.failed",
        "charge.refunded",
        "charge.dispute.created",
        "charge.dispute.updated",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.funds_reinstated",
        "charge.dispute.closed",
        "transfer.created",
        "transfer.reversed",
        "transfer.updated",
    ),
    "connect": ("account.updated", "account.application.deauthorized", "payout.paid", "payout.failed"),
    "thin": (
        "v2.core.account[requirements].updated",
        "v2.core.account[configuration.recipient].capability_status_updated",
        "v2.core.account.closed",
        "v2.core.account_link.returned",
    ),
}
"""What each endpoint is sent."""

_EPOCH = datetime.fromtimestamp(0, UTC)


class _Snapshot(Answer):
    object: Literal["event"]
    id: str
    type: str
    livemode: bool
    account: str | None = None
    created: int
    object_id: Id = Field("", validation_alias=AliasPath("data", "object", "id"))


class _Thin(Answer):
    object: Literal["v2.core.event"]
    id: str
    type: str
    livemode: bool
    context: str | None = None
    created: datetime
    object_id: Id = Field("", validation_alias=AliasPath("related_object", "id"))


def read_event(endpoint: Endpoint, body: bytes, signature: str | None, secrets: Sequence[str], now_us: int) -> Event:
    """The event in a body that one of the secrets signed within five minutes; see `Processor.read_event`."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise WebhookInvalid("the webhook's body is not UTF-8; nothing of it was used") from None
    _check_signature(text, signature, secrets, now_us)
    try:
        return _thin(text) if endpoint == "thin" else _snapshot(_Snapshot.model_validate_json(text), text)
    except ValidationError:
        raise WebhookInvalid(
            f"the webhook's body is signed and is no event for the {endpoint} endpoint; nothing of it was used. "
            "Does another endpoint at Stripe have this address?"
        ) from None


def listed_event(answer: Mapping[str, Any]) -> Event:
    """An event that Stripe was asked for."""
    return _snapshot(read(_Snapshot, answer), json.dumps(answer))


def _check_signature(text: str, signature: str | None, secrets: Sequence[str], now_us: int) -> None:
    if not signature:
        raise WebhookInvalid("the webhook has no Stripe-Signature header; nothing of it was used")
    if not any(_is_signed(text, signature, secret) for secret in secrets):
        raise WebhookInvalid(
            "no signature of the webhook is of this endpoint's secret; nothing of it was used. Compare the secret with Stripe's"
        )
    # The package looks at its own clock, and at the past alone.
    if abs(now_us - _signed_at_s(signature) * US_PER_S) > TOLERANCE_S * US_PER_S:
        raise WebhookInvalid(
            "the webhook was signed more than five minutes ago or ahead; nothing of it was used. Is this machine's clock right?"
        )


def _is_signed(text: str, signature: str, secret: str) -> bool:
    try:
        return stripe.WebhookSignature.verify_header(text, signature, secret)  # pyright: ignore[reportUnknownMemberType]
    except (stripe.SignatureVerificationError, TypeError):
        # TypeError: the package cannot compare a signature that is not ASCII.
        return False


def _signed_at_s(signature: str) -> int:
    """The moment that the package's check took into the signed text: of several, the first."""
    items = [item.split("=", 2) for item in signature.split(",")]
    return next(int(item[1]) for item in items if item[0] == "t")


def _snapshot(event: _Snapshot, body: str) -> Event:
    account = event.account or ""
    return Event(
        id=event.id,
        kind=event.type,
        # Of an account that let go of the platform, the object in the event is the platform.
        object_id=account if event.type.startswith("account.application.") else event.object_id,
        livemode=event.livemode,
        account=account,
        created_at=event.created * US_PER_S,
        body=body,
    )


def _thin(text: str) -> Event:
    event = _Thin.model_validate_json(text)
    account = event.context or ""
    return Event(
        id=event.id,
        kind=event.type,
        object_id=event.object_id or account,
        livemode=event.livemode,
        account=account,
        created_at=(event.created - _EPOCH) // timedelta(microseconds=1),
        body=text,
    )
