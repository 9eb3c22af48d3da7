"""What Stripe refuses in a new Checkout session beyond what its types say, and what the session costs."""

from typing import NamedTuple

from payre_mcp.processors.fake_stripe.intents import check_amount
from payre_mcp.processors.fake_stripe.refusals import Refusal, invalid, missing
from payre_mcp.processors.fake_stripe.store import Store
from payre_mcp.processors.fake_stripe.wire import Json

SHORTEST_S, LONGEST_S = 30 * 60, 24 * 3600
_MOST_ITEMS = 100


class Basket(NamedTuple):
    """What a session costs, in cents."""

    items: list[Json]
    subtotal: int
    tax: int


def check_session(store: Store, params: Json) -> None:
    """Refuse a session that Stripe would not make."""
    if params.get("mode") not in ("payment", "setup"):
        raise invalid("The fake Stripe has the modes payment and setup", "mode", code="parameter_missing")
    if params.get("ui_mode", "hosted_page") != "hosted_page":
        raise invalid("The fake Stripe has hosted pages only", "ui_mode")
    if "success_url" not in params:
        raise invalid("You must provide success_url with a hosted page.", "success_url", code="parameter_missing")
    for param in ("success_url", "cancel_url"):
        if param in params and not params[param].startswith(("http://", "https://")):
            raise invalid("Not a valid URL", param, code="url_invalid")
    _check_time(store, params)
    _check_customer(store, params)
    if {"excluded_payment_method_types", "allowed_payment_method_types"} <= params.keys():
        raise invalid("You may pass allowed or excluded payment method types, not both", "excluded_payment_method_types")
    if params["mode"] == "setup":
        _check_setup(params)


def basket(store: Store, params: Json) -> Basket:
    """The line items of a session that takes a payment."""
    lines = params.get("line_items", [])
    if not 0 < len(lines) <= _MOST_ITEMS:
        raise invalid("The line_items parameter is required in payment mode.", "line_items", code="parameter_missing")
    items = [_item(store, line, f"line_items[{place}]") for place, line in enumerate(lines)]
    subtotal = sum(item["amount_subtotal"] for item in items)
    tax = subtotal * store.tax_bps // 10_000 if params.get("automatic_tax", {}).get("enabled") else 0
    check_amount(subtotal + tax, "usd", "line_items")
    return Basket(items, subtotal, tax)


def _check_time(store: Store, params: Json) -> None:
    now = store.now()
    if "expires_at" in params and not now + SHORTEST_S <= params["expires_at"] <= now + LONGEST_S:
        message = "The expires_at timestamp must be between 30 minutes and 24 hours from Checkout Session creation."
        raise invalid(message, "expires_at")


def _check_customer(store: Store, params: Json) -> None:
    if "customer" in params:
        store.get("customer", params["customer"], param="customer")
        for param in ("customer_email", "customer_creation"):
            if param in params:
                raise invalid(f"You may only specify one of these parameters: customer, {param}.", param)
    elif "customer_update" in params:
        raise invalid("customer_update can only be used with customer.", "customer_update")


def _check_setup(params: Json) -> None:
    for param in ("line_items", "payment_intent_data", "invoice_creation", "automatic_tax"):
        if param in params:
            raise invalid(f"You can not pass {param} in setup mode.", param)
    if "currency" not in params and "allowed_payment_method_types" not in params:
        raise invalid("You must provide currency in setup mode.", "currency", code="parameter_missing")


def _item(store: Store, line: Json, name: str) -> Json:
    """A line item as the session shows it."""
    if "price" in line:
        raise missing("price", line["price"], param=f"{name}[price]")
    price = line.get("price_data")
    if price is None:
        raise invalid("Missing required param: price_data.", f"{name}[price_data]", code="parameter_missing")
    if "unit_amount" not in price or price["unit_amount"] < 0:
        raise invalid("The fake Stripe needs a unit_amount of 0 or more.", f"{name}[price_data][unit_amount]")
    if "product_data" not in price or "recurring" in price:
        raise Refusal("The fake Stripe needs product_data and knows no recurring prices", param=name, executed=False)
    if price["currency"] != "usd":
        raise invalid(f"Invalid currency: {price['currency']}", f"{name}[price_data][currency]", code="parameter_invalid_enum")
    quantity = line.get("quantity", 0)
    if quantity <= 0:
        raise invalid("Quantity is required, and must be 1 or more.", f"{name}[quantity]", code="parameter_missing")
    amount = quantity * price["unit_amount"]
    return {
        "id": store.new_id("li_"), "object": "item", "amount_discount": 0, "amount_subtotal": amount, "amount_tax": 0,
        "amount_total": amount, "currency": "usd", "description": price["product_data"]["name"], "quantity": quantity,
        "metadata": line.get("metadata", {}), "price": None,
    }  # fmt: skip
