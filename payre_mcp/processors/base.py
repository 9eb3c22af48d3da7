"""The port to a payment processor. Amounts here are integer cents of USD, the unit that processors know; times are microseconds.

Each act that moves money or makes an object takes a `reference`, the id of our own row, from which its idempotency key is
made: done again, after a crash or a lost answer, it is done once. Every answer says its mode and currency; whoever books
it compares them, and the reference, with the row.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutOrder:
    """A page on which a person pays a top-up."""

    reference: str
    """`top_...`."""
    amount_cents: int
    fee_cents: int
    """A line of its own; 0 for none."""
    customer_id: str
    page_url: str
    """Our page of this top-up, to which the person returns."""
    expires_at: int
    """30 minutes to 24 hours from now."""
    save_card: bool
    """The person asked that the card be kept for recharges."""
    delayed: bool = False
    """Whether ways to pay are offered whose money takes days to come."""


CheckoutState = Literal["open", "processing", "paid", "expired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """A page as it stands now."""

    id: str
    reference: str
    state: CheckoutState
    url: str
    """Where to pay; empty when it is not open any more."""
    subtotal_cents: int
    total_cents: int
    """With tax, where there is some."""
    currency: str
    livemode: bool
    card_payment: str
    """Empty until the person paid."""
    customer_id: str


CardPaymentState = Literal["processing", "succeeded", "failed", "canceled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPayment:
    """A payment by card as it stands now. One that needs the card's owner is `failed` with its reason: nobody waits for them."""

    id: str
    reference: str
    state: CardPaymentState
    amount_cents: int
    currency: str
    livemode: bool
    decline: str
    """Why it failed, such as `insufficient_funds` or `authentication_required`."""
    method_id: str
    card: str
    """`visa 4242`; empty where it is no card."""
    fee_cents: int | None
    """What the processor keeps of it; None until that is known."""


RefundState = Literal["pending", "succeeded", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRefund:
    """A refund of a card payment. `reference` is empty for one that was made at the processor and not by us."""

    id: str
    reference: str
    card_payment: str
    state: RefundState
    amount_cents: int
    currency: str
    livemode: bool


DisputeState = Literal["inquiry", "open", "won", "lost"]
"""An inquiry has taken no money yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardDispute:
    """A dispute of a card payment."""

    id: str
    card_payment: str
    state: DisputeState
    amount_cents: int
    fee_cents: int
    currency: str
    livemode: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeAccount:
    """A developer's account; only `active` can be paid."""

    id: str
    state: Literal["active", "pending", "restricted", "rejected", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOrder:
    """Earnings to a developer's account. `reference` is `pay_...`."""

    reference: str
    account_id: str
    amount_cents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountTransfer:
    """A transfer as it stands now."""

    id: str
    reference: str
    account_id: str
    amount_cents: int
    reversed_cents: int
    currency: str
    livemode: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """News of the processor: what changed, never how. The object is fetched again before anything is done."""

    id: str
    kind: str
    """`checkout.session.completed`."""
    object_id: str
    """What is to be fetched again."""
    livemode: bool
    account: str
    """The connected account that it is of; empty for our own."""
    created_at: int
    body: str
    """As it was received, for the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BankLine:
    """One movement of our balance at the processor, for the comparison with the ledger."""

    id: str
    kind: str
    """`charge`, `payment`, `refund`, `payment_refund`, `adjustment` (disputes), `transfer`, `transfer_refund`, `payout`, ..."""
    source: str
    """The charge, refund, dispute or transfer."""
    card_payment: str
    """The PaymentIntent of a charge or of the charge that a refund or dispute is of; empty where there is none."""
    amount_cents: int
    """Above zero for what came in."""
    fee_cents: int
    created_at: int


Endpoint = Literal["platform", "connect", "thin"]


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """A webhook that the processor sends to. `secret` is known only when it was made just now.

    `version` is empty where the processor's news have none, as thin ones.
    """

    endpoint: Endpoint
    id: str
    url: str
    secret: str
    version: str
    trouble: str = ""
    """Why it does not bring all news, for people; empty when all is well."""


class Processor(Protocol):
    """A payment processor.

    Raises, all of them:
        ProcessorError: It refused, or could not be reached in time. With `outcome_unknown`, the same call may be made again
            with the same reference, and nothing may be concluded until it has answered.
    """

    @property
    def livemode(self) -> bool:
        """Whether its money is real."""
        ...

    async def make_customer(self, *, reference: str) -> str:
        """A customer for a consumer (`con_...`), the same again for the same reference; answers their id."""
        ...

    async def open_checkout(self, order: CheckoutOrder) -> Checkout:
        """A page to pay on."""
        ...

    async def find_checkout(self, checkout_id: str) -> Checkout:
        """A page as it stands now."""
        ...

    async def expire_checkout(self, checkout_id: str) -> Checkout:
        """Close a page on which nobody has paid; one that is closed or paid stays as it is."""
        ...

    async def charge_card(self, *, reference: str, customer_id: str, method_id: str, amount_cents: int) -> CardPayment:
        """Charge a saved card while its owner is away. A decline is an answer (`failed`), not an error."""
        ...

    async def find_card_payment(self, payment_id: str) -> CardPayment:
        """A payment as it stands now, with the processor's fee once it is known."""
        ...

    async def find_card_payment_of(self, reference: str, customer_id: str) -> CardPayment | None:
        """The recharge with this reference, where the answer to `charge_card` was lost for good."""
        ...

    async def forget_card(self, method_id: str) -> None:
        """Take a saved card off its customer; one that is gone already is fine."""
        ...

    async def refund(self, *, reference: str, card_payment: str, amount_cents: int) -> CardRefund:
        """Give money back to the card that paid."""
        ...

    async def find_refund(self, refund_id: str) -> CardRefund:
        """A refund as it stands now."""
        ...

    async def find_refund_of(self, reference: str, card_payment: str) -> CardRefund | None:
        """Our refund with this reference, where the answer to `refund` was lost for good."""
        ...

    async def find_dispute(self, dispute_id: str) -> CardDispute:
        """A dispute as it stands now."""
        ...

    async def make_payee(self, *, reference: str, email: str, name: str, country: str) -> PayeeAccount:
        """An account for a developer (`dev_...`) to be paid at."""
        ...

    async def find_payee(self, account_id: str) -> PayeeAccount:
        """An account as it stands now."""
        ...

    async def onboarding_url(self, account_id: str, *, return_url: str, refresh_url: str) -> str:
        """A page on which the developer says who they are and where their bank is; good once, for minutes."""
        ...

    async def available_cents(self) -> int:
        """What can be transferred now."""
        ...

    async def transfer(self, order: TransferOrder) -> AccountTransfer:
        """Send earnings to a developer's account. Its `ProcessorError` has reason `balance_insufficient` where they must wait."""
        ...

    async def find_transfer(self, transfer_id: str) -> AccountTransfer:
        """A transfer as it stands now."""
        ...

    async def find_transfer_of(self, reference: str) -> AccountTransfer | None:
        """The transfer with this reference, where the answer to `transfer` was lost for good."""
        ...

    def read_event(self, endpoint: Endpoint, body: bytes, signature: str | None) -> Event:
        """The event in a webhook's body.

        Raises:
            WebhookInvalid: The signature is missing, of another secret, or older or newer than five minutes; or the body
                cannot be read. Nothing of it may be used.
        """
        ...

    def events(self, *, since: int) -> AsyncIterator[Event]:
        """All news that the platform's endpoint is sent, from a moment on, oldest first, whether or not it got them."""
        ...

    def bank_lines(self, *, since: int) -> AsyncIterator[BankLine]:
        """Every movement of our balance from a moment on, oldest first."""
        ...

    async def set_up(self, urls: Mapping[Endpoint, str]) -> Sequence[WebhookEndpoint]:
        """Have webhooks sent to these addresses, at our version; those that are there already stay, without their secret."""
        ...

    async def find_endpoints(self) -> Sequence[WebhookEndpoint]:
        """The webhooks that were set up for us, each with what is wrong with it; nothing is changed."""
        ...

    async def aclose(self) -> None:
        """Let go of the connections."""
        ...
