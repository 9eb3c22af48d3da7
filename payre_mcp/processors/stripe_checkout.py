"""What a Checkout page shows and accepts: one amount in USD, perhaps a fee, by ways to pay that are settled at once."""

from stripe.params.checkout import SessionCreateParams, SessionCreateParamsPaymentIntentData

from payre_mcp.clock import US_PER_S
from payre_mcp.processors.base import CheckoutOrder
from payre_mcp.processors.stripe_reading import REFERENCE

CURRENCY = "usd"

_DELAYED = [
    "acss_debit", "au_becs_debit", "bacs_debit", "boleto", "customer_balance", "konbini", "multibanco", "nz_bank_account",
    "oxxo", "payto", "sepa_debit", "us_bank_account",
]  # fmt: skip
"""Ways to pay of which it is known only after days whether they did."""


def session_params(order: CheckoutOrder) -> SessionCreateParams:
    """What the page of an order is made with."""
    joint = "&" if "?" in order.page_url else "?"
    lines = [("Prepaid balance", order.amount_cents), ("Processing fee", order.fee_cents)]
    payment: SessionCreateParamsPaymentIntentData = {"metadata": {REFERENCE: order.reference}, "transfer_group": order.reference}
    if order.save_card:
        payment["setup_future_usage"] = "off_session"
    return {
        "mode": "payment",
        "customer": order.customer_id,
        "client_reference_id": order.reference,
        "metadata": {REFERENCE: order.reference},
        "line_items": [
            {
                "quantity": 1,
                "price_data": {
                    "currency": CURRENCY,
                    "unit_amount": cents,
                    "tax_behavior": "exclusive",
                    "product_data": {"name": name},
                },
            }
            for name, cents in lines
            if cents
        ],
        "payment_intent_data": payment,
        "saved_payment_method_options": {"payment_method_save": "enabled"},
        "excluded_payment_method_types": [] if order.delayed else list(_DELAYED),
        "automatic_tax": {"enabled": False},
        "invoice_creation": {"enabled": True},
        "adaptive_pricing": {"enabled": False},
        "expires_at": order.expires_at // US_PER_S,
        "success_url": f"{order.page_url}{joint}session_id={{CHECKOUT_SESSION_ID}}",
        "cancel_url": order.page_url,
    }
