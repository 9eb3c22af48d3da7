"""Charges: one attempt of a payment with one payment method."""

from collections.abc import Sequence

from payre_mcp.processors.fake_stripe.balance import Balance, charge_fee
from payre_mcp.processors.fake_stripe.cards import Card, decline_codes, decline_message
from payre_mcp.processors.fake_stripe.door import ApiRoute
from payre_mcp.processors.fake_stripe.events import Events
from payre_mcp.processors.fake_stripe.listing import page
from payre_mcp.processors.fake_stripe.payment_methods import card_details
from payre_mcp.processors.fake_stripe.store import Store
from payre_mcp.processors.fake_stripe.wire import Json

_PAID = {"network_status": "approved_by_network", "reason": None, "risk_level": "normal", "type": "authorized"}


class Charges:
    """The charges of one fake Stripe."""

    def __init__(self, store: Store, events: Events, balance: Balance) -> None:
        self._store, self._events, self._balance = store, events, balance

    def routes(self) -> Sequence[ApiRoute]:
        """What is answered here."""
        return (
            ApiRoute("GET", "/v1/charges", "_charge_list_params:ChargeListParams", self.list),
            ApiRoute("GET", "/v1/charges/{id}", "_charge_retrieve_params:ChargeRetrieveParams", self.retrieve),
        )

    def start(self, intent: Json, method: Json, card: Card) -> Json:
        """A charge that has not succeeded yet; the payment's latest."""
        details = {
            "type": card.type,
            card.type: {name: fact for name, fact in card_details(card).items() if name != "display_brand"},
        }
        charge: Json = {
            "id": self._store.new_id("py_" if card.is_bank else "ch_"), "object": "charge", "amount": intent["amount"],
            "amount_captured": 0, "amount_refunded": 0, "balance_transaction": None, "billing_details": method["billing_details"],
            "calculated_statement_descriptor": "PAYRE", "captured": False, "created": self._store.now(), "currency": "usd",
            "customer": intent["customer"], "description": intent["description"], "disputed": False, "failure_code": None,
            "failure_message": None, "fraud_details": {}, "livemode": False, "metadata": dict(intent["metadata"]),
            "outcome": None, "paid": False, "payment_intent": intent["id"], "payment_method": method["id"],
            "payment_method_details": details, "receipt_email": None, "receipt_url": None, "refunded": False, "status": "pending",
            "transfer_group": intent["transfer_group"],
        }  # fmt: skip
        intent["latest_charge"] = charge["id"]
        return self._store.add(charge)

    def succeed(self, charge: Json, *, instant: bool) -> None:
        """The money is there, less the fee."""
        charge.update(status="succeeded", paid=True, captured=True, amount_captured=charge["amount"], outcome=dict(_PAID))
        type_, fee = ("charge" if charge["id"].startswith("ch_") else "payment"), charge_fee(charge["amount"])
        wait_s = 0 if instant else self._store.available_after_s
        charge["balance_transaction"] = self._balance.book(type_, charge["amount"], charge["id"], fee=fee, wait_s=wait_s)["id"]
        self._events.emit("charge.succeeded", charge)

    def fail(self, charge: Json, reason: str) -> None:
        """No money comes."""
        outcome = {"network_status": "declined_by_network", "reason": reason, "risk_level": "normal", "type": "issuer_declined"}
        codes = decline_codes(reason)
        charge.update(status="failed", failure_code=codes["code"], failure_message=decline_message(reason), outcome=outcome)
        self._events.emit("charge.failed", charge)

    def list(self, params: Json) -> Json:
        """Charges, newest first."""
        return page(self._store.newest("charge"), params, "/v1/charges", by=("customer", "payment_intent", "transfer_group"))

    def retrieve(self, _: Json, wanted: str) -> Json:
        """A charge."""
        return self._store.get("charge", wanted)
