"""Checkout sessions: a page where a person pays, or saves a card."""

from collections.abc import Sequence

from payre_mcp.processors.fake_stripe.cards import BANK, Card, decline_codes, decline_message
from payre_mcp.processors.fake_stripe.customers import Customers
from payre_mcp.processors.fake_stripe.door import ApiRoute
from payre_mcp.processors.fake_stripe.events import Events
from payre_mcp.processors.fake_stripe.intents import Intents
from payre_mcp.processors.fake_stripe.listing import page
from payre_mcp.processors.fake_stripe.payment_methods import PaymentMethods
from payre_mcp.processors.fake_stripe.refusals import Refusal
from payre_mcp.processors.fake_stripe.session_params import LONGEST_S, Basket, basket, check_session
from payre_mcp.processors.fake_stripe.setup_intents import SetupIntents
from payre_mcp.processors.fake_stripe.store import Store, merged
from payre_mcp.processors.fake_stripe.wire import Json

_ECHOED = ("cancel_url", "client_reference_id", "customer_email", "locale", "submit_type", "success_url")


class Checkout:
    """The sessions of one fake Stripe."""

    def __init__(
        self, store: Store, events: Events, customers: Customers, methods: PaymentMethods, intents: Intents, setups: SetupIntents
    ) -> None:
        self._store, self._events, self._customers = store, events, customers
        self._methods, self._intents, self._setups = methods, intents, setups
        self._payment_data: dict[str, Json] = {}
        """What each session's payment will carry."""

    def routes(self) -> Sequence[ApiRoute]:
        """What is answered here."""
        path, module = "/v1/checkout/sessions", "checkout._session"
        return (
            ApiRoute("POST", path, f"{module}_create_params:SessionCreateParams", self.create),
            ApiRoute("GET", path, f"{module}_list_params:SessionListParams", self.list),
            ApiRoute("GET", f"{path}/{{id}}", f"{module}_retrieve_params:SessionRetrieveParams", self.retrieve),
            ApiRoute("POST", f"{path}/{{id}}/expire", f"{module}_expire_params:SessionExpireParams", self.expire),
        )

    def create(self, params: Json) -> Json:
        """A page that waits for its person."""
        check_session(self._store, params)
        pays = params["mode"] == "payment"
        session = self._new(params, basket(self._store, params) if pays else None)
        self._payment_data[session["id"]] = params.get("payment_intent_data", {})
        if not pays:
            session["setup_intent"] = self._setups.open(session["customer"], params.get("setup_intent_data", {}))["id"]
        self._store.plan(session["expires_at"], lambda: self._time_out(session))
        return session

    def list(self, params: Json) -> Json:
        """Sessions, newest first."""
        sessions = self._store.newest("checkout.session")
        return page(sessions, params, "/v1/checkout/sessions", by=("customer", "payment_intent", "status"))

    def retrieve(self, _: Json, wanted: str) -> Json:
        """A session."""
        return self._store.get("checkout.session", wanted)

    def expire(self, _: Json, wanted: str) -> Json:
        """A page that closes, because nobody shall pay there any more."""
        session = self._open(wanted, "expired")
        self._close(session)
        return session

    def offers(self, session: Json, card: Card) -> bool:
        """Whether the page takes this kind of payment method."""
        return card.type in session["payment_method_types"]

    def pay(self, session_id: str, card: Card, *, save: bool = False) -> str | None:
        """A person presses the button; answers why their card declined, if it did."""
        session = self._open(session_id, "paid")
        if not self.offers(session, card):
            raise Refusal(f"The page of {session_id} does not offer {card.type}: it is excluded, or not allowed")
        self._make_customer(session)
        method = self._methods.of(card)
        if session["mode"] == "setup":
            return self._save(session, method, card)
        intent = self._intent(session)
        if save:
            intent["setup_future_usage"] = intent["setup_future_usage"] or "on_session"
        refusal = self._intents.attempt(intent, method, present=True)
        if refusal is not None:
            return refusal.message
        self._complete(session, "unpaid" if card.is_bank else "paid")
        return None

    def settle(self, session_id: str, *, paid: bool) -> None:
        """The bank account that was to pay later has paid, or has not."""
        session = self._store.get("checkout.session", session_id)
        if session["payment_intent"] is None:
            raise Refusal(f"Nobody has paid {session_id} yet")
        self._intents.settle(self._store.get("payment_intent", session["payment_intent"]), paid=paid)
        session["payment_status"] = "paid" if paid else "unpaid"
        self._events.emit(f"checkout.session.async_payment_{'succeeded' if paid else 'failed'}", session)

    def _new(self, params: Json, costs: Basket | None) -> Json:
        session_id, now = self._store.new_id("cs_test_"), self._store.now()
        tax = params.get("automatic_tax", {"enabled": False})
        session: Json = {
            "id": session_id, "object": "checkout.session", "created": now,
            "adaptive_pricing": params.get("adaptive_pricing", {"enabled": False}), "amount_subtotal": costs and costs.subtotal,
            "amount_total": costs and costs.subtotal + costs.tax,
            "automatic_tax": {"enabled": tax["enabled"], "liability": None, "status": "complete" if tax["enabled"] else None},
            "billing_address_collection": params.get("billing_address_collection"), "client_secret": None,
            "currency": "usd", "customer": params.get("customer"), "customer_creation": params.get("customer_creation"),
            "customer_details": None, "expires_at": params.get("expires_at", now + LONGEST_S), "invoice": None,
            "invoice_creation": {"enabled": params.get("invoice_creation", {}).get("enabled", False)},
            "livemode": False, "metadata": merged({}, params.get("metadata")), "mode": params["mode"], "payment_intent": None,
            "payment_method_types": _offered(params), "payment_status": "unpaid" if costs else "no_payment_required",
            "saved_payment_method_options": params.get("saved_payment_method_options"), "setup_intent": None, "status": "open",
            "subscription": None, "ui_mode": "hosted_page", "url": f"{self._store.url}/pay/{session_id}",
            "total_details": costs and {"amount_discount": 0, "amount_shipping": 0, "amount_tax": costs.tax},
            **{name: params.get(name) for name in _ECHOED},
        }  # fmt: skip
        for name in ("allowed_payment_method_types", "excluded_payment_method_types"):
            session[name] = params.get(name)
        items: Json = {"object": "list", "data": costs.items if costs else [], "has_more": False}
        self._store.more[session_id] = {"line_items": {**items, "url": f"/v1/checkout/sessions/{session_id}/line_items"}}
        return self._store.add(session)

    def _make_customer(self, session: Json) -> None:
        if session["customer"] is None and session["customer_creation"] == "always":
            params = {"email": session["customer_email"]} if session["customer_email"] else {}
            session["customer"] = self._customers.create(params)["id"]

    def _intent(self, session: Json) -> Json:
        """The payment of a session, made at the first attempt."""
        if session["payment_intent"] is None:
            data = self._payment_data[session["id"]]
            session["payment_intent"] = self._intents.open(session["amount_total"], session["customer"], data)["id"]
        return self._store.get("payment_intent", session["payment_intent"])

    def _save(self, session: Json, method: Json, card: Card) -> str | None:
        setup = self._store.get("setup_intent", session["setup_intent"])
        if reason := card.decline(present=True):
            message = decline_message(reason)
            self._setups.fail(setup, {"message": message, "type": "card_error", **decline_codes(reason)})
            return message
        self._setups.succeed(setup, method)
        self._complete(session, "no_payment_required")
        return None

    def _complete(self, session: Json, payment_status: str) -> None:
        customer = self._store.find(session["customer"] or "")
        email = customer["email"] if customer else session["customer_email"]
        details: Json = {"address": None, "email": email, "name": None, "phone": None, "tax_exempt": "none", "tax_ids": []}
        session.update(status="complete", payment_status=payment_status, url=None, customer_details=details)
        self._events.emit("checkout.session.completed", session)

    def _open(self, wanted: str, act: str) -> Json:
        session = self._store.get("checkout.session", wanted)
        if session["status"] != "open":
            message = f'Only Checkout Sessions with a status in ["open"] can be {act}. This Session is {session["status"]}.'
            raise Refusal(message)
        return session

    def _time_out(self, session: Json) -> None:
        if session["status"] == "open":
            self._close(session)

    def _close(self, session: Json) -> None:
        session.update(status="expired", url=None)
        self._events.emit("checkout.session.expired", session)


def _offered(params: Json) -> Sequence[str]:
    """The payment methods of the page, out of those that the fake has."""
    kinds = ["card", BANK.type]
    allowed, excluded = params.get("allowed_payment_method_types", kinds), params.get("excluded_payment_method_types", ())
    return [kind for kind in kinds if kind in allowed and kind not in excluded]
