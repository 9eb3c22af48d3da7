"""Payment intents: a payment from the wish to the money, through as many attempts as it takes."""

from collections.abc import Sequence

from payre_mcp.processors.fake_stripe.cards import Card, decline_codes, decline_message, declined
from payre_mcp.processors.fake_stripe.charges import Charges
from payre_mcp.processors.fake_stripe.disputes import Disputes
from payre_mcp.processors.fake_stripe.door import ApiRoute
from payre_mcp.processors.fake_stripe.events import Events
from payre_mcp.processors.fake_stripe.listing import page
from payre_mcp.processors.fake_stripe.payment_methods import PaymentMethods
from payre_mcp.processors.fake_stripe.refusals import Refusal, invalid
from payre_mcp.processors.fake_stripe.store import Store, merged
from payre_mcp.processors.fake_stripe.wire import Json

LEAST, MOST = 50, 99_999_999
DISPUTED_AFTER_S = 60
"""How long the card that disputes later waits."""

_NEXT = {
    "requires_payment_method": ("requires_confirmation", "requires_action", "processing", "succeeded", "canceled"),
    "requires_confirmation": ("requires_payment_method", "requires_action", "processing", "succeeded", "canceled"),
    "requires_action": ("requires_payment_method", "processing", "succeeded", "canceled"),
    "processing": ("requires_payment_method", "succeeded"),
    "succeeded": (),
    "canceled": (),
}
"""Where a payment may go from where it is."""


class Intents:
    """The payment intents of one fake Stripe."""

    def __init__(self, store: Store, events: Events, methods: PaymentMethods, charges: Charges, disputes: Disputes) -> None:
        self._store, self._events, self._methods, self._charges, self._disputes = store, events, methods, charges, disputes

    def routes(self) -> Sequence[ApiRoute]:
        """What is answered here."""
        path, module = "/v1/payment_intents", "_payment_intent"
        return (
            ApiRoute("POST", path, f"{module}_create_params:PaymentIntentCreateParams", self.create),
            ApiRoute("GET", path, f"{module}_list_params:PaymentIntentListParams", self.list),
            ApiRoute("GET", f"{path}/{{id}}", f"{module}_retrieve_params:PaymentIntentRetrieveParams", self.retrieve),
            ApiRoute("POST", f"{path}/{{id}}/confirm", f"{module}_confirm_params:PaymentIntentConfirmParams", self.confirm),
            ApiRoute("POST", f"{path}/{{id}}/cancel", f"{module}_cancel_params:PaymentIntentCancelParams", self.cancel),
        )

    def open(self, amount: int, customer: str | None, params: Json) -> Json:
        """A payment that nobody has tried to make yet."""
        payment_id = self._store.new_id("pi_")
        intent: Json = {
            "id": payment_id, "object": "payment_intent", "amount": amount, "amount_capturable": 0, "amount_received": 0,
            "application": None, "automatic_payment_methods": {"allow_redirects": "always", "enabled": True}, "canceled_at": None,
            "cancellation_reason": None, "capture_method": "automatic_async", "client_secret": f"{payment_id}_secret_test",
            "confirmation_method": "automatic", "created": self._store.now(), "currency": "usd", "customer": customer,
            "description": params.get("description"), "last_payment_error": None, "latest_charge": None, "livemode": False,
            "metadata": merged({}, params.get("metadata")), "next_action": None, "payment_method": None,
            "payment_method_types": ["card"], "processing": None, "receipt_email": params.get("receipt_email"),
            "setup_future_usage": params.get("setup_future_usage"), "status": "requires_payment_method",
            "transfer_group": params.get("transfer_group"),
        }  # fmt: skip
        self._store.add(intent)
        self._events.emit("payment_intent.created", intent)
        return intent

    def attempt(self, intent: Json, method: Json, *, present: bool) -> Refusal | None:
        """Try to pay; answers the decline, if there is one. `present`: the card's owner is there and says yes to their bank."""
        card = self._methods.card(method)
        _may_go(intent, "processing" if card.is_bank else "succeeded")
        intent.update(payment_method=method["id"], last_payment_error=None, next_action=None, payment_method_types=[card.type])
        charge = self._charges.start(intent, method, card)
        if card.is_bank:
            intent["status"] = "processing"
            self._events.emit("charge.pending", charge)
            self._events.emit("payment_intent.processing", intent)
            return None
        if reason := card.decline(present=present):
            return self._fail(intent, charge, method, reason)
        self._succeed(intent, charge, method, card)
        return None

    def settle(self, intent: Json, *, paid: bool) -> None:
        """The bank account of a payment under way has paid, or has not."""
        if intent["status"] != "processing":
            raise _unexpected(intent, "settled")
        charge = self._store.get("charge", intent["latest_charge"])
        method = self._store.get("payment_method", intent["payment_method"])
        if paid:
            self._succeed(intent, charge, method, self._methods.card(method))
        else:
            self._fail(intent, charge, method, "insufficient_funds")

    def create(self, params: Json) -> Json:
        """A payment; with `confirm` it is tried at once."""
        _check(params)
        customer = params.get("customer")
        if customer:
            self._store.get("customer", customer, param="customer")
        # Everything that may be refused is looked at before anything is made.
        method = self._methods.named(params["payment_method"], customer=customer) if "payment_method" in params else None
        if params.get("confirm") and method is None:
            raise invalid("A payment method is needed to confirm this PaymentIntent", "payment_method", code="parameter_missing")
        intent = self.open(params["amount"], customer, params)
        if method is None:
            return intent
        intent.update(payment_method=method["id"], status="requires_confirmation")
        return self._confirmed(intent, method, params) if params.get("confirm") else intent

    def confirm(self, params: Json, wanted: str) -> Json:
        """A payment, tried."""
        intent = self._store.get("payment_intent", wanted)
        _may_go(intent, "succeeded")
        if "payment_method" in params:
            method = self._methods.named(params["payment_method"], customer=intent["customer"])
        elif intent["payment_method"] is None:
            raise invalid("A payment method is needed to confirm this PaymentIntent", "payment_method", code="parameter_missing")
        else:
            method = self._store.get("payment_method", intent["payment_method"])
        return self._confirmed(intent, method, params)

    def cancel(self, params: Json, wanted: str) -> Json:
        """A payment that will not be made."""
        intent = self._store.get("payment_intent", wanted)
        _may_go(intent, "canceled")
        reason = params.get("cancellation_reason")
        intent.update(status="canceled", canceled_at=self._store.now(), cancellation_reason=reason)
        self._events.emit("payment_intent.canceled", intent)
        return intent

    def list(self, params: Json) -> Json:
        """Payments, newest first."""
        return page(self._store.newest("payment_intent"), params, "/v1/payment_intents", by=("customer",))

    def retrieve(self, _: Json, wanted: str) -> Json:
        """A payment."""
        return self._store.get("payment_intent", wanted)

    def _confirmed(self, intent: Json, method: Json, params: Json) -> Json:
        """A payment that was asked for by the API: nobody sits before a page."""
        away = bool(params.get("off_session"))
        asks = self._methods.card(method).decline(present=False) == "authentication_required"
        if asks and not away and not params.get("error_on_requires_action"):
            url = {"redirect_to_url": {"return_url": params.get("return_url"), "url": f"{self._store.url}/authenticate"}}
            action = {"type": "redirect_to_url", **url}
            intent.update(payment_method=method["id"], status="requires_action", next_action=action)
            self._events.emit("payment_intent.requires_action", intent)
            return intent
        refusal = self.attempt(intent, method, present=False)
        if refusal is not None:
            raise refusal
        return intent

    def _succeed(self, intent: Json, charge: Json, method: Json, card: Card) -> None:
        self._charges.succeed(charge, instant=card.instant)
        intent.update(status="succeeded", amount_received=intent["amount"])
        if intent["customer"] and intent["setup_future_usage"]:
            self._methods.attach(method, intent["customer"])
        self._events.emit("payment_intent.succeeded", intent)
        if card.trouble == "dispute":
            self._store.plan(self._store.now() + DISPUTED_AFTER_S, lambda: self._dispute(intent, charge))

    def _fail(self, intent: Json, charge: Json, method: Json, reason: str) -> Refusal:
        self._charges.fail(charge, reason)
        error = {"charge": charge["id"], "message": decline_message(reason), "payment_method": method, "type": "card_error"}
        intent.update(status="requires_payment_method", payment_method=None)
        intent["last_payment_error"] = {**error, **decline_codes(reason)}
        self._events.emit("payment_intent.payment_failed", intent)
        return declined(reason, intent, method)

    def _dispute(self, intent: Json, charge: Json) -> None:
        """The card that disputes later does so now, unless somebody was quicker."""
        if not self._disputes.of(charge):
            self._disputes.open(intent["id"])


def check_amount(amount: int, currency: str, param: str) -> None:
    """Refuse what Stripe does not take: another currency, too little, too much."""
    if currency != currency.lower() or currency != "usd":
        raise invalid(f"Invalid currency: {currency}. The fake Stripe knows usd.", "currency", code="parameter_invalid_enum")
    if amount <= 0:
        raise invalid("This value must be greater than or equal to 1.", param, code="parameter_invalid_integer")
    if amount < LEAST:
        raise invalid("Amount must be at least $0.50 usd", param, code="amount_too_small")
    if amount > MOST:
        raise invalid("Amount must be no more than $999,999.99", param, code="amount_too_large")


def _check(params: Json) -> None:
    check_amount(params["amount"], params["currency"], "amount")
    if params.get("off_session") and not params.get("confirm"):
        raise invalid("The parameter off_session can only be used when confirm is true", "off_session")


def _unexpected(intent: Json, act: str) -> Refusal:
    message = f"This PaymentIntent could not be {act} because it has a status of {intent['status']}."
    return Refusal(message, code="payment_intent_unexpected_state", payment_intent=intent)


def _may_go(intent: Json, status: str) -> None:
    if status not in _NEXT[intent["status"]]:
        raise _unexpected(intent, "canceled" if status == "canceled" else "confirmed")
