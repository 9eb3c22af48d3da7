"""Money in and out through Stripe. With the `stripe_*` modules beside it, all that talks through the stripe package.

That is slow to import, so whoever needs this imports it where it is needed. Every object that we make has our reference
under the metadata key `payre`. Stripe knows an idempotency key for about a day and answers as it did the first time, refusals
too. So a refusal stands for a day under its reference, and after a day what was done is to be looked up before it is asked for
again.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TypedDict

import httpx2
import stripe

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.errors import SettingsInvalid
from payre_mcp.processors import stripe_reading as reading
from payre_mcp.processors.base import (
    AccountTransfer,
    BankLine,
    CardDispute,
    CardPayment,
    CardRefund,
    Checkout,
    CheckoutOrder,
    Endpoint,
    Event,
    PayeeAccount,
    TransferOrder,
    WebhookEndpoint,
)
from payre_mcp.processors.stripe_answers import answer, whole_list
from payre_mcp.processors.stripe_checkout import CURRENCY, session_params
from payre_mcp.processors.stripe_endpoints import find, set_up
from payre_mcp.processors.stripe_errors import in_our_words, refusal
from payre_mcp.processors.stripe_http import TIMEOUT_S, Httpx2Client
from payre_mcp.processors.stripe_reading import REFERENCE
from payre_mcp.processors.stripe_webhooks import EVENTS, listed_event, read_event

_RETRIES = 2
_KEY = re.compile(r"[sr]k_(?P<mode>test|live)_[0-9A-Za-z_]+", re.ASCII)
_WITH_FEE = ["latest_charge.balance_transaction"]
_MOST_PER_PAGE = 100
_DAY_S, _MOST_WINDOWS = 24 * 3600, 31


class _Created(TypedDict, total=False):
    """A span of time, in seconds."""

    gt: int
    gte: int
    lt: int
    lte: int


class StripeProcessor:
    """Stripe as a `payre_mcp.processors.base.Processor`.

    A request is tried three times with one idempotency key, for `timeout_s` each. `base_url` sends all of them to a fake.

    Raises:
        SettingsInvalid: The key is no secret key of Stripe.
    """

    def __init__(
        self, api_key: str, *, webhook_secrets: Mapping[Endpoint, Sequence[str]] = {}, clock: Clock,
        transport: httpx2.AsyncBaseTransport | None = None, base_url: str = "", timeout_s: float = TIMEOUT_S,
    ) -> None:  # fmt: skip
        key = _KEY.fullmatch(api_key)
        if key is None:
            raise SettingsInvalid("the Stripe API key is no secret key: it starts with sk_test_, sk_live_, rk_test_ or rk_live_")
        self._livemode = key["mode"] == "live"
        self._secrets, self._clock = webhook_secrets, clock
        self._http = Httpx2Client(transport=transport, timeout_s=timeout_s)
        fake = base_url.rstrip("/")
        self._client = stripe.StripeClient(
            api_key,
            http_client=self._http,
            max_network_retries=_RETRIES,
            # One that is left out would stay the real one.
            base_addresses={"api": fake, "connect": fake, "files": fake, "meter_events": fake} if fake else None,
        )
        self._v1, self._v2 = self._client.v1, self._client.v2

    @property
    def livemode(self) -> bool:
        """Whether its money is real, which the key says."""
        return self._livemode

    async def make_customer(self, *, reference: str) -> str:
        """A customer for a consumer; within a day the same again for the same reference. Stripe is told no name."""
        made = await answer(
            self._v1.customers.create_async({"metadata": {REFERENCE: reference}}, {"idempotency_key": f"cus:{reference}"})
        )
        return reading.customer_id(made)

    async def open_checkout(self, order: CheckoutOrder) -> Checkout:
        """A page to pay on, by ways that are settled at once."""
        return reading.as_checkout(
            await answer(
                self._v1.checkout.sessions.create_async(session_params(order), {"idempotency_key": f"top_up:{order.reference}"})
            )
        )

    async def find_checkout(self, checkout_id: str) -> Checkout:
        """A page as it stands now."""
        return reading.as_checkout(await answer(self._v1.checkout.sessions.retrieve_async(checkout_id)))

    async def expire_checkout(self, checkout_id: str) -> Checkout:
        """Close a page on which nobody has paid; one that is closed or paid stays as it is."""
        sessions = self._v1.checkout.sessions
        with in_our_words():
            try:
                session = await sessions.expire_async(checkout_id)
            except stripe.InvalidRequestError:  # it is not open
                session = await sessions.retrieve_async(checkout_id)
        return reading.as_checkout(session.to_dict())

    async def charge_card(self, *, reference: str, customer_id: str, method_id: str, amount_cents: int) -> CardPayment:
        """Charge a saved card while its owner is away. A decline is an answer (`failed`), not an error."""
        with in_our_words():
            try:
                intent = await self._v1.payment_intents.create_async(
                    {
                        "amount": amount_cents,
                        "currency": CURRENCY,
                        "customer": customer_id,
                        "payment_method": method_id,
                        "off_session": True,
                        "confirm": True,
                        "metadata": {REFERENCE: reference},
                        "expand": _WITH_FEE,
                    },
                    {"idempotency_key": f"recharge:{reference}"},
                )
            except stripe.CardError as declined:
                failed = refusal(declined).get("payment_intent")
                if not failed:
                    raise
                return reading.as_card_payment(failed)
        return reading.as_card_payment(intent.to_dict())

    async def find_card_payment(self, payment_id: str) -> CardPayment:
        """A payment as it stands now, with Stripe's fee once it is known."""
        return reading.as_card_payment(await answer(self._v1.payment_intents.retrieve_async(payment_id, {"expand": _WITH_FEE})))

    async def find_card_payment_of(self, reference: str, customer_id: str) -> CardPayment | None:
        """The newest payment with this reference, looked for among all of the customer's."""
        expand = [f"data.{each}" for each in _WITH_FEE]
        call = self._v1.payment_intents.list_async({"customer": customer_id, "expand": expand, "limit": _MOST_PER_PAGE})
        payments = map(reading.as_card_payment, await whole_list(call))
        return next((payment for payment in payments if payment.reference == reference), None)

    async def forget_card(self, method_id: str) -> None:
        """Take a saved card off its customer; one that is gone already is fine."""
        methods = self._v1.payment_methods
        with in_our_words():
            try:
                await methods.detach_async(method_id)
            except stripe.InvalidRequestError as refused:
                if refused.code != "resource_missing" and (await methods.retrieve_async(method_id)).customer:
                    raise

    async def refund(self, *, reference: str, card_payment: str, amount_cents: int) -> CardRefund:
        """Give money back to the card that paid."""
        made = await answer(
            self._v1.refunds.create_async(
                {
                    "payment_intent": card_payment,
                    "amount": amount_cents,
                    "reason": "requested_by_customer",
                    "metadata": {REFERENCE: reference},
                },
                {"idempotency_key": f"refund:{reference}"},
            )
        )
        return reading.as_card_refund(made, livemode=self._livemode)

    async def find_refund(self, refund_id: str) -> CardRefund:
        """A refund as it stands now."""
        return reading.as_card_refund(await answer(self._v1.refunds.retrieve_async(refund_id)), livemode=self._livemode)

    async def find_refund_of(self, reference: str, card_payment: str) -> CardRefund | None:
        """The newest refund with this reference, looked for among all of the payment's."""
        call = self._v1.refunds.list_async({"payment_intent": card_payment, "limit": _MOST_PER_PAGE})
        refunds = [reading.as_card_refund(each, livemode=self._livemode) for each in await whole_list(call)]
        return next((refund for refund in refunds if refund.reference == reference), None)

    async def find_dispute(self, dispute_id: str) -> CardDispute:
        """A dispute as it stands now."""
        return reading.as_card_dispute(await answer(self._v1.disputes.retrieve_async(dispute_id)))

    async def make_payee(self, *, reference: str, email: str, name: str, country: str) -> PayeeAccount:
        """A recipient's account, of which the platform bears fees and losses, with Stripe's Express dashboard."""
        made = await answer(
            self._v2.core.accounts.create_async(
                {
                    "contact_email": email,
                    "display_name": name,
                    "dashboard": "express",
                    "identity": {"country": country},
                    "defaults": {
                        "currency": CURRENCY,
                        "responsibilities": {"fees_collector": "application", "losses_collector": "application"},
                    },
                    "configuration": {
                        "recipient": {"capabilities": {"stripe_balance": {"stripe_transfers": {"requested": True}}}}
                    },
                    "metadata": {REFERENCE: reference},
                    "include": ["configuration.recipient", "requirements"],
                },
                {"idempotency_key": f"acct:{reference}"},
            )
        )
        return reading.as_payee(made)

    async def find_payee(self, account_id: str) -> PayeeAccount:
        """An account as it stands now."""
        return reading.as_payee(
            await answer(
                self._v2.core.accounts.retrieve_async(account_id, {"include": ["configuration.recipient", "requirements"]})
            )
        )

    async def onboarding_url(self, account_id: str, *, return_url: str, refresh_url: str) -> str:
        """A new page each time: each is good once."""
        link = await answer(
            self._v2.core.account_links.create_async(
                {
                    "account": account_id,
                    "use_case": {
                        "type": "account_onboarding",
                        "account_onboarding": {
                            "refresh_url": refresh_url,
                            "return_url": return_url,
                            "collection_options": {"fields": "currently_due"},
                        },
                    },
                }
            )
        )
        return reading.link_url(link)

    async def available_cents(self) -> int:
        """What can be transferred now; below zero where refunds and disputes took more than there was."""
        return reading.available_cents(await answer(self._v1.balance.retrieve_async()), CURRENCY)

    async def transfer(self, order: TransferOrder) -> AccountTransfer:
        """Send earnings to a developer's account. Its `ProcessorError` has reason `balance_insufficient` where they must wait."""
        made = await answer(
            self._v1.transfers.create_async(
                {
                    "amount": order.amount_cents,
                    "currency": CURRENCY,
                    "destination": order.account_id,
                    "transfer_group": order.reference,
                    "metadata": {REFERENCE: order.reference},
                },
                {"idempotency_key": f"payout:{order.reference}"},
            )
        )
        return reading.as_transfer(made)

    async def find_transfer(self, transfer_id: str) -> AccountTransfer:
        """A transfer as it stands now."""
        return reading.as_transfer(await answer(self._v1.transfers.retrieve_async(transfer_id)))

    async def find_transfer_of(self, reference: str) -> AccountTransfer | None:
        """The newest transfer with this reference, which is its group, too."""
        call = self._v1.transfers.list_async({"transfer_group": reference, "limit": _MOST_PER_PAGE})
        transfers = map(reading.as_transfer, await whole_list(call))
        return next((transfer for transfer in transfers if transfer.reference == reference), None)

    def read_event(self, endpoint: Endpoint, body: bytes, signature: str | None) -> Event:
        """The event in a webhook's body; see `Processor.read_event`."""
        return read_event(endpoint, body, signature, self._secrets.get(endpoint, ()), self._clock.now_us())

    async def events(self, *, since: int) -> AsyncIterator[Event]:
        """What the platform's endpoint is sent, oldest first; Stripe keeps it for 30 days."""
        for span in self._spans(since):
            call = self._v1.events.list_async({"created": span, "limit": _MOST_PER_PAGE})
            for each in reversed(await whole_list(call)):
                if each.get("type") in EVENTS["platform"]:
                    yield listed_event(each)

    async def bank_lines(self, *, since: int) -> AsyncIterator[BankLine]:
        """Every movement of our balance in USD from a moment on, oldest first."""
        for span in self._spans(since):
            call = self._v1.balance_transactions.list_async(
                {"created": span, "currency": CURRENCY, "expand": ["data.source"], "limit": _MOST_PER_PAGE}
            )
            for each in reversed(await whole_list(call)):
                yield reading.as_bank_line(each)

    async def set_up(self, urls: Mapping[Endpoint, str]) -> Sequence[WebhookEndpoint]:
        """Have webhooks sent to these addresses; one that is there already is woken, and sent what it was not sent yet."""
        return await set_up(self._client, urls)

    async def find_endpoints(self) -> Sequence[WebhookEndpoint]:
        """The webhooks that `set_up` made, with what is wrong with each."""
        return await find(self._client)

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._http.close_async()

    def _spans(self, since: int) -> Iterator[_Created]:
        """The time since then in pieces, since Stripe lists the newest first and a piece is held in memory."""
        start, now = since // US_PER_S, self._clock.now_us() // US_PER_S
        width = max(_DAY_S, -(-(now - start) // _MOST_WINDOWS))
        while start + width < now:
            yield {"gte": start, "lt": start + width}
            start += width
        yield {"gte": start}
