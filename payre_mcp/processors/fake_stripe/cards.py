"""Test cards: by the names that Stripe gives them and by number, and how each behaves."""

from typing import Literal, NamedTuple

from payre_mcp.processors.fake_stripe.refusals import Refusal
from payre_mcp.processors.fake_stripe.wire import Json

Trouble = Literal["generic_decline", "insufficient_funds", "expired_card", "authentication_required", "later", "dispute"]
"""A reason to decline; or what comes later: `later` declines once it is saved, `dispute` pays and is disputed."""

_MESSAGES = {
    "generic_decline": "Your card was declined.",
    "insufficient_funds": "Your card has insufficient funds.",
    "expired_card": "Your card has expired.",
    "authentication_required": "Your card was declined. This transaction requires authentication.",
}


class Card(NamedTuple):
    """A test card, or the bank account whose money takes days to come."""

    name: str
    number: str
    brand: str = "visa"
    trouble: Trouble | None = None
    instant: bool = False
    """Its money is available at once."""

    @property
    def is_bank(self) -> bool:
        """A bank account, which pays later."""
        return not self.number

    @property
    def type(self) -> str:
        """The type of payment method."""
        return "us_bank_account" if self.is_bank else "card"

    def decline(self, *, present: bool) -> str | None:
        """Why it declines, if it does; `present` where its owner can be asked."""
        if self.trouble == "dispute" or (self.trouble in ("authentication_required", "later") and present):
            return None
        return "generic_decline" if self.trouble == "later" else self.trouble


_CARDS = (
    Card("pm_card_visa", "4242424242424242"),
    Card("pm_card_mastercard", "5555555555554444", brand="mastercard"),
    Card("pm_card_chargeDeclined", "4000000000000002", trouble="generic_decline"),
    Card("pm_card_chargeDeclinedInsufficientFunds", "4000000000009995", trouble="insufficient_funds"),
    Card("pm_card_chargeDeclinedExpiredCard", "4000000000000069", trouble="expired_card"),
    Card("pm_card_authenticationRequired", "4000002500003155", trouble="authentication_required"),
    Card("pm_card_chargeCustomerFail", "4000000000000341", trouble="later"),
    Card("pm_card_createDispute", "4000000000000259", trouble="dispute"),
    Card("pm_card_bypassPending", "4000000000000077", instant=True),
    Card("pm_usBankAccount", ""),
)
CARDS = {card.name: card for card in _CARDS} | {
    card.name.replace("pm_card_", "pm_card_visa_"): card for card in _CARDS if card.trouble
}
"""Every test payment method by name; the declining ones by their longer names, too."""

BANK = CARDS["pm_usBankAccount"]


def by_number(number: str) -> Card | None:
    """The card with this number, with or without spaces.

    >>> by_number("4242 4242 4242 4242").name
    'pm_card_visa'
    """
    digits = "".join(number.split())
    return next((card for card in _CARDS if digits and card.number == digits), None)


def declined(reason: str, intent: Json, method: Json) -> Refusal:
    """The error of a payment that a card declined."""
    return Refusal(
        _MESSAGES[reason], status=402, kind="card_error", payment_intent=intent, payment_method=method,
        charge=intent.get("latest_charge"), **decline_codes(reason),
    )  # fmt: skip


def decline_codes(reason: str) -> Json:
    """What the error, the charge and the payment say of a decline."""
    own = reason in ("authentication_required", "expired_card")
    return {"code": reason if own else "card_declined", "decline_code": reason}


def decline_message(reason: str) -> str:
    """What the card's owner reads."""
    return _MESSAGES[reason]
