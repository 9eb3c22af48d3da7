"""Setup intents: a card that is saved without a payment."""

from collections.abc import Sequence

from payre_mcp.processors.fake_stripe.door import ApiRoute
from payre_mcp.processors.fake_stripe.events import Events
from payre_mcp.processors.fake_stripe.listing import page
from payre_mcp.processors.fake_stripe.payment_methods import PaymentMethods
from payre_mcp.processors.fake_stripe.store import Store, merged
from payre_mcp.processors.fake_stripe.wire import Json


class SetupIntents:
    """The setup intents of one fake Stripe."""

    def __init__(self, store: Store, events: Events, methods: PaymentMethods) -> None:
        self._store, self._events, self._methods = store, events, methods

    def routes(self) -> Sequence[ApiRoute]:
        """What is answered here."""
        path, module = "/v1/setup_intents", "_setup_intent"
        return (
            ApiRoute("GET", path, f"{module}_list_params:SetupIntentListParams", self.list),
            ApiRoute("GET", f"{path}/{{id}}", f"{module}_retrieve_params:SetupIntentRetrieveParams", self.retrieve),
        )

    def open(self, customer: str | None, params: Json) -> Json:
        """A card to be saved."""
        setup_id = self._store.new_id("seti_")
        setup: Json = {
            "id": setup_id, "object": "setup_intent", "application": None, "cancellation_reason": None,
            "created": self._store.now(), "client_secret": f"{setup_id}_secret_test", "customer": customer,
            "description": params.get("description"),
            "last_setup_error": None, "latest_attempt": None, "livemode": False, "metadata": merged({}, params.get("metadata")),
            "next_action": None, "payment_method": None, "payment_method_types": ["card"], "status": "requires_payment_method",
            "usage": "off_session",
        }  # fmt: skip
        self._store.add(setup)
        self._events.emit("setup_intent.created", setup)
        return setup

    def succeed(self, setup: Json, method: Json) -> None:
        """The card is saved."""
        setup.update(status="succeeded", payment_method=method["id"])
        if setup["customer"]:
            self._methods.attach(method, setup["customer"])
        self._events.emit("setup_intent.succeeded", setup)

    def fail(self, setup: Json, error: Json) -> None:
        """The card was declined; another may be tried."""
        setup["last_setup_error"] = error
        self._events.emit("setup_intent.setup_failed", setup)

    def list(self, params: Json) -> Json:
        """Setup intents, newest first."""
        return page(self._store.newest("setup_intent"), params, "/v1/setup_intents", by=("customer", "payment_method"))

    def retrieve(self, _: Json, wanted: str) -> Json:
        """A setup intent."""
        return self._store.get("setup_intent", wanted)
