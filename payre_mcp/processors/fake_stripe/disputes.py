"""Disputes: the bank takes a payment back, and Stripe its fee, until it is decided who was right."""

from collections.abc import Sequence

from payre_mcp.processors.fake_stripe.balance import Balance
from payre_mcp.processors.fake_stripe.door import ApiRoute
from payre_mcp.processors.fake_stripe.events import Events
from payre_mcp.processors.fake_stripe.listing import page
from payre_mcp.processors.fake_stripe.refusals import Refusal
from payre_mcp.processors.fake_stripe.store import Store, merged
from payre_mcp.processors.fake_stripe.wire import Json

DISPUTE_FEE = 1_500
"""Cents; it stays taken, whoever wins."""

_ANSWER_WITHIN_S = 7 * 24 * 3600
_CARD = {"brand": "visa", "case_type": "chargeback", "network_reason_code": "10.4"}
_CLOSED = ("won", "lost", "warning_closed")


class Disputes:
    """The disputes of one fake Stripe."""

    def __init__(self, store: Store, events: Events, balance: Balance) -> None:
        self._store, self._events, self._balance = store, events, balance

    def routes(self) -> Sequence[ApiRoute]:
        """What is answered here."""
        path, module = "/v1/disputes", "_dispute"
        return (
            ApiRoute("GET", path, f"{module}_list_params:DisputeListParams", self.list),
            ApiRoute("GET", f"{path}/{{id}}", f"{module}_retrieve_params:DisputeRetrieveParams", self.retrieve),
            ApiRoute("POST", f"{path}/{{id}}", f"{module}_update_params:DisputeUpdateParams", self.update),
            ApiRoute("POST", f"{path}/{{id}}/close", f"{module}_close_params:DisputeCloseParams", self.give_in),
        )

    def open(self, intent_id: str, *, amount: int | None = None, inquiry: bool = False) -> Json:
        """The card's owner asks their bank for the money; an inquiry takes none yet."""
        intent = self._store.get("payment_intent", intent_id)
        if intent["status"] != "succeeded":
            raise Refusal(f"Nothing was paid by {intent_id}, so it cannot be disputed")
        charge = self._store.get("charge", intent["latest_charge"])
        open_already = [each for each in self.of(charge) if not each["is_charge_refundable"]]
        taken: int = charge["amount"] if amount is None else amount
        if open_already or not 0 < taken <= charge["amount"]:
            raise Refusal(f"{taken} cents of charge {charge['id']} cannot be disputed")
        now = self._store.now()
        dispute: Json = {
            "id": self._store.new_id("dp_"), "object": "dispute", "amount": taken, "balance_transactions": [],
            "charge": charge["id"], "created": now, "currency": "usd", "enhanced_eligibility_types": [], "evidence": {},
            "evidence_details": {
                "due_by": now + _ANSWER_WITHIN_S, "enhanced_eligibility": {}, "has_evidence": False, "past_due": False,
                "submission_count": 0,
            },
            "is_charge_refundable": inquiry, "livemode": False, "metadata": {}, "network_reason_code": "10.4",
            "payment_intent": intent_id, "reason": "fraudulent",
            "payment_method_details": {"card": dict(_CARD), "type": "card"},
            "status": "warning_needs_response" if inquiry else "needs_response",
        }  # fmt: skip
        charge["disputed"] = True
        self._store.add(dispute)
        self._events.emit("charge.dispute.created", dispute)
        if not inquiry:
            self._move(dispute, -taken, fee=DISPUTE_FEE, category="dispute")
            self._events.emit("charge.dispute.funds_withdrawn", dispute)
        return dispute

    def close(self, dispute_id: str, *, won: bool) -> None:
        """The bank has decided. Money of a dispute that is won comes back; the fee does not."""
        dispute = self._open(dispute_id)
        if dispute["status"].startswith("warning"):
            dispute["status"] = "warning_closed"
        else:
            dispute.update(status="won" if won else "lost", is_charge_refundable=won)
        if dispute["status"] == "won":
            self._move(dispute, dispute["amount"], fee=0, category="dispute_reversal")
            self._events.emit("charge.dispute.funds_reinstated", dispute)
        self._events.emit("charge.dispute.closed", dispute)

    def of(self, charge: Json) -> Sequence[Json]:
        """The disputes of a charge, newest first."""
        return [each for each in self._store.newest("dispute") if each["charge"] == charge["id"]]

    def list(self, params: Json) -> Json:
        """Disputes, newest first."""
        return page(self._store.newest("dispute"), params, "/v1/disputes", by=("charge", "payment_intent"))

    def retrieve(self, _: Json, wanted: str) -> Json:
        """A dispute."""
        return self._store.get("dispute", wanted)

    def update(self, params: Json, wanted: str) -> Json:
        """A dispute with evidence; once that is submitted the bank looks at it."""
        self._store.get("dispute", wanted)
        dispute = self._open(wanted)
        dispute["metadata"] = merged(dispute["metadata"], params.get("metadata"))
        dispute["evidence"] = {**dispute["evidence"], **params.get("evidence", {})}
        dispute["evidence_details"]["has_evidence"] = bool(dispute["evidence"])
        if params.get("submit", True) and "evidence" in params:
            dispute["evidence_details"]["submission_count"] += 1
            dispute["status"] = dispute["status"].replace("needs_response", "under_review")
        self._events.emit("charge.dispute.updated", dispute)
        return dispute

    def give_in(self, _: Json, wanted: str) -> Json:
        """A dispute that the platform lets go."""
        self.close(wanted, won=False)
        return self._store.get("dispute", wanted)

    def _open(self, wanted: str) -> Json:
        dispute = self._store.get("dispute", wanted)
        if dispute["status"] in _CLOSED:
            raise Refusal(f"This dispute is already closed: {dispute['status']}", code="dispute_already_closed")
        return dispute

    def _move(self, dispute: Json, amount: int, *, fee: int, category: str) -> None:
        line = self._balance.book("adjustment", amount, dispute["id"], fee=fee, category=category)
        dispute["balance_transactions"].append(line)
