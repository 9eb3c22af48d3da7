"""Refunds: money of a charge goes back to its card, at once, or pending until somebody or the balance allows it."""

from collections.abc import Sequence

from payre_mcp.processors.fake_stripe.balance import Balance
from payre_mcp.processors.fake_stripe.chaos import Chaos
from payre_mcp.processors.fake_stripe.disputes import Disputes
from payre_mcp.processors.fake_stripe.door import ApiRoute
from payre_mcp.processors.fake_stripe.events import Events
from payre_mcp.processors.fake_stripe.listing import page
from payre_mcp.processors.fake_stripe.refusals import Refusal, invalid
from payre_mcp.processors.fake_stripe.store import Store, merged
from payre_mcp.processors.fake_stripe.wire import Json


class Refunds:
    """The refunds of one fake Stripe."""

    def __init__(self, store: Store, events: Events, balance: Balance, disputes: Disputes, chaos: Chaos) -> None:
        self._store, self._events, self._balance = store, events, balance
        self._disputes, self._chaos = disputes, chaos
        balance.on_more = self._pay_waiting

    def routes(self) -> Sequence[ApiRoute]:
        """What is answered here."""
        path, module = "/v1/refunds", "_refund"
        return (
            ApiRoute("POST", path, f"{module}_create_params:RefundCreateParams", self.create),
            ApiRoute("GET", path, f"{module}_list_params:RefundListParams", self.list),
            ApiRoute("GET", f"{path}/{{id}}", f"{module}_retrieve_params:RefundRetrieveParams", self.retrieve),
            ApiRoute("POST", f"{path}/{{id}}", f"{module}_update_params:RefundUpdateParams", self.update),
        )

    def create(self, params: Json) -> Json:
        """A refund."""
        charge = self._charge(params)
        rest = charge["amount"] - charge["amount_refunded"]
        amount = params.get("amount", rest)
        if amount <= 0 and "amount" in params:
            raise invalid("Invalid positive integer", "amount", code="parameter_invalid_integer")
        self._check(charge, amount, rest)
        return self.start(charge, amount, params)

    def start(self, charge: Json, amount: int, params: Json) -> Json:
        """Give `amount` of a charge back, or wait until the balance has it."""
        short = self._chaos.refunds_need_balance and self._balance.total() < amount
        waits = "insufficient_funds" if short else "processing" if self._chaos.refunds_pending else None
        refund: Json = {
            "id": self._store.new_id("re_"), "object": "refund", "amount": amount, "balance_transaction": None,
            "charge": charge["id"], "created": self._store.now(), "currency": "usd", "description": params.get("description"),
            "metadata": merged({}, params.get("metadata")), "payment_intent": charge["payment_intent"],
            "reason": params.get("reason"), "receipt_number": None, "source_transfer_reversal": None, "status": "pending",
            "transfer_reversal": None,
        }  # fmt: skip
        self._store.add(refund)
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        if waits:
            refund["pending_reason"] = waits
        if not short:
            self._take(refund, charge)
        if not waits:
            refund["status"] = "succeeded"
        self._events.emit("refund.created", refund)
        self._events.emit("charge.refunded", charge)
        if not waits:
            self._tell(refund)
        return refund

    def settle(self, refund_id: str, *, succeeded: bool) -> None:
        """The card's bank took the money, or sent it back: that may still come after it seemed to succeed."""
        refund = self._store.get("refund", refund_id)
        if refund["status"] == "failed" or (succeeded and refund["status"] == "succeeded"):
            raise Refusal(f"Refund {refund_id} has {refund['status']} already")
        if refund.get("pending_reason") == "insufficient_funds" and succeeded:
            raise Refusal(f"Refund {refund_id} waits for the balance")
        refund.pop("pending_reason", None)
        if succeeded:
            refund["status"] = "succeeded"
        else:
            self._fail(refund)
        self._tell(refund)
        if not succeeded:
            self._events.emit("refund.failed", refund)

    def list(self, params: Json) -> Json:
        """Refunds, newest first."""
        return page(self._store.newest("refund"), params, "/v1/refunds", by=("charge", "payment_intent"))

    def retrieve(self, _: Json, wanted: str) -> Json:
        """A refund."""
        return self._store.get("refund", wanted)

    def update(self, params: Json, wanted: str) -> Json:
        """A refund with other metadata."""
        refund = self._store.get("refund", wanted)
        refund["metadata"] = merged(refund["metadata"], params.get("metadata"))
        self._events.emit("refund.updated", refund)
        return refund

    def _pay_waiting(self) -> None:
        """Pay the refunds that waited for the balance, oldest first."""
        for refund in reversed(self._store.newest("refund")):
            if refund.get("pending_reason") == "insufficient_funds" and self._balance.total() >= refund["amount"]:
                del refund["pending_reason"]
                self._take(refund, self._store.get("charge", refund["charge"]))
                refund["status"] = "succeeded"
                self._tell(refund)

    def _charge(self, params: Json) -> Json:
        if ("payment_intent" in params) == ("charge" in params):
            message = "One of the following params should be provided for this request: payment_intent or charge."
            raise invalid(message, "payment_intent", code="parameter_missing")
        if "charge" in params:
            return self._store.get("charge", params["charge"], param="charge")
        intent = self._store.get("payment_intent", params["payment_intent"], param="payment_intent")
        if intent["status"] != "succeeded":
            raise Refusal("This PaymentIntent does not have a successful charge to refund.", param="payment_intent")
        return self._store.get("charge", intent["latest_charge"])

    def _take(self, refund: Json, charge: Json) -> None:
        """Out of the balance: out of what is pending, while the charge itself is."""
        paid = self._store.get("balance_transaction", charge["balance_transaction"])
        type_ = "refund" if paid["type"] == "charge" else "payment_refund"
        line = self._balance.book(type_, -refund["amount"], refund["id"], until=paid["available_on"])
        refund["balance_transaction"] = line["id"]

    def _fail(self, refund: Json) -> None:
        refund.update(status="failed", failure_reason="lost_or_stolen_card")
        if refund["balance_transaction"]:
            line = self._balance.book("refund_failure", refund["amount"], refund["id"])
            refund["failure_balance_transaction"] = line["id"]
        charge = self._store.get("charge", refund["charge"])
        charge["amount_refunded"] -= refund["amount"]
        charge["refunded"] = False

    def _tell(self, refund: Json) -> None:
        self._events.emit("refund.updated", refund)
        self._events.emit("charge.refund.updated", refund)

    def _check(self, charge: Json, amount: int, rest: int) -> None:
        if charge["status"] != "succeeded":
            raise Refusal(f"Charge {charge['id']} has not succeeded, so it cannot be refunded.")
        if any(not dispute["is_charge_refundable"] for dispute in self._disputes.of(charge)):
            raise Refusal(f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed")
        if rest <= 0:
            raise Refusal(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
        if amount > rest:
            raise Refusal(
                f"Refund amount (${amount / 100:.2f}) is greater than unrefunded amount on charge (${rest / 100:.2f})",
                param="amount",
            )
