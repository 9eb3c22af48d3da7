"""Payment methods: a card or bank account that paid, and stays with a customer where it was saved."""

from collections.abc import Sequence

from payre_mcp.processors.fake_stripe.cards import CARDS, Card
from payre_mcp.processors.fake_stripe.door import ApiRoute
from payre_mcp.processors.fake_stripe.events import Events
from payre_mcp.processors.fake_stripe.listing import page
from payre_mcp.processors.fake_stripe.refusals import Refusal, missing
from payre_mcp.processors.fake_stripe.store import Store
from payre_mcp.processors.fake_stripe.wire import Json


class PaymentMethods:
    """The payment methods of one fake Stripe."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store, self._events = store, events
        self._cards: dict[str, Card] = {}

    def routes(self) -> Sequence[ApiRoute]:
        """What is answered here."""
        path, module = "/v1/payment_methods", "_payment_method"
        return (
            ApiRoute("GET", path, f"{module}_list_params:PaymentMethodListParams", self.list),
            ApiRoute("GET", f"{path}/{{id}}", f"{module}_retrieve_params:PaymentMethodRetrieveParams", self.retrieve),
            ApiRoute("POST", f"{path}/{{id}}/attach", f"{module}_attach_params:PaymentMethodAttachParams", self.attach_by_api),
            ApiRoute("POST", f"{path}/{{id}}/detach", f"{module}_detach_params:PaymentMethodDetachParams", self.detach),
        )

    def of(self, card: Card) -> Json:
        """A new payment method that behaves as this test card."""
        method: Json = {
            "id": self._store.new_id("pm_"), "object": "payment_method", "allow_redisplay": "limited",
            "created": self._store.now(),
            "billing_details": {"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
            "customer": None, "livemode": False, "metadata": {}, "type": card.type, card.type: card_details(card),
        }  # fmt: skip
        self._cards[method["id"]] = card
        return self._store.add(method)

    def named(self, wanted: str, *, customer: str | None = None) -> Json:
        """The payment method of a request: a test card's name makes a new one; one of another customer is refused."""
        if wanted in CARDS:
            return self.of(CARDS[wanted])
        method = self._store.find(wanted)
        if method is None or method["object"] != "payment_method":
            raise missing("PaymentMethod", wanted, param="payment_method")
        if method["customer"] != customer:
            message = (
                f"The customer does not have a payment method with the ID {wanted}. It may be detached or of another customer."
            )
            raise Refusal(message, code="resource_missing", param="payment_method")
        return method

    def card(self, method: Json) -> Card:
        """How it behaves."""
        return self._cards[method["id"]]

    def attach(self, method: Json, customer: str) -> None:
        """Keep it with a customer."""
        if method["customer"] is None:
            method["customer"] = customer
            self._events.emit("payment_method.attached", method)

    def replace(self, wanted: str) -> None:
        """The bank sent a new card in the place of an old one, and the network told Stripe."""
        method = self._store.get("payment_method", wanted)
        method["card"] = {**method["card"], "exp_year": method["card"]["exp_year"] + 4, "last4": "0341"}
        self._events.emit("payment_method.automatically_updated", method)

    def list(self, params: Json) -> Json:
        """The saved payment methods of a customer, newest first."""
        if "customer" in params:
            self._store.get("customer", params["customer"], param="customer")
        saved = [each for each in self._store.newest("payment_method") if each["customer"]]
        return page(saved, params, "/v1/payment_methods", by=("customer", "type"))

    def retrieve(self, _: Json, wanted: str) -> Json:
        """A payment method."""
        return self._store.get("payment_method", wanted)

    def attach_by_api(self, params: Json, wanted: str) -> Json:
        """A payment method, saved."""
        customer = self._store.get("customer", params["customer"], param="customer")
        method = self.named(wanted)
        self.attach(method, customer["id"])
        return method

    def detach(self, _: Json, wanted: str) -> Json:
        """A payment method that is nobody's any more, and can never pay again."""
        method = self._store.get("payment_method", wanted)
        if method["customer"] is None:
            raise Refusal("The payment method you provided is not attached to a customer so detachment is impossible.")
        method["customer"] = None
        self._events.emit("payment_method.detached", method)
        return method


def card_details(card: Card) -> Json:
    """What is shown of a card or an account; never its number."""
    if card.is_bank:
        return {"account_holder_type": "individual", "account_type": "checking", "bank_name": "STRIPE TEST BANK", "last4": "6789"}
    return {
        "brand": card.brand, "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
        "country": "US", "display_brand": card.brand, "exp_month": 12, "exp_year": 2034, "fingerprint": card.number[::-1],
        "funding": "credit", "last4": card.number[-4:],
    }  # fmt: skip
