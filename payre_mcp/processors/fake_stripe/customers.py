"""Customers: whom payments belong to."""

from collections.abc import Sequence

from payre_mcp.processors.fake_stripe.door import ApiRoute
from payre_mcp.processors.fake_stripe.events import Events
from payre_mcp.processors.fake_stripe.listing import page
from payre_mcp.processors.fake_stripe.refusals import invalid
from payre_mcp.processors.fake_stripe.store import Store, merged
from payre_mcp.processors.fake_stripe.wire import Json

_FIELDS = ("address", "description", "email", "name", "phone", "shipping")


class Customers:
    """The customers of one fake Stripe."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store, self._events = store, events

    def routes(self) -> Sequence[ApiRoute]:
        """What is answered here."""
        path = "/v1/customers"
        return (
            ApiRoute("POST", path, "_customer_create_params:CustomerCreateParams", self.create),
            ApiRoute("GET", path, "_customer_list_params:CustomerListParams", self.list),
            ApiRoute("GET", f"{path}/{{id}}", "_customer_retrieve_params:CustomerRetrieveParams", self.retrieve),
            ApiRoute("POST", f"{path}/{{id}}", "_customer_update_params:CustomerUpdateParams", self.update),
        )

    def create(self, params: Json) -> Json:
        """A new customer."""
        customer: Json = {
            "id": self._store.new_id("cus_"), "object": "customer", "balance": 0, "created": self._store.now(), "currency": None,
            "default_source": None, "delinquent": False, "discount": None, "livemode": False, "preferred_locales": [],
            "tax_exempt": "none", "test_clock": None, **dict.fromkeys(_FIELDS),
            "invoice_settings": {"custom_fields": None, "default_payment_method": None, "footer": None},
            "metadata": merged({}, params.get("metadata")),
        }  # fmt: skip
        _change(customer, params)
        self._store.add(customer)
        self._events.emit("customer.created", customer)
        return customer

    def list(self, params: Json) -> Json:
        """Customers, newest first."""
        return page(self._store.newest("customer"), params, "/v1/customers", by=("email",))

    def retrieve(self, _: Json, wanted: str) -> Json:
        """A customer."""
        return self._store.get("customer", wanted)

    def update(self, params: Json, wanted: str) -> Json:
        """A customer, changed."""
        customer = self._store.get("customer", wanted)
        _change(customer, params)
        customer["metadata"] = merged(customer["metadata"], params.get("metadata"))
        default = params.get("invoice_settings", {}).get("default_payment_method")
        if default:
            self._store.get("payment_method", default, param="invoice_settings[default_payment_method]")
            customer["invoice_settings"]["default_payment_method"] = default
        self._events.emit("customer.updated", customer)
        return customer


def _change(customer: Json, params: Json) -> None:
    email = params.get("email")
    if email and not 0 < email.find("@") < len(email) - 1:
        raise invalid(f"Invalid email address: {email[:80]}", "email", code="email_invalid")
    for name in _FIELDS:
        if name in params:
            customer[name] = params[name] or None
