"""Top-ups that a person pays on the processor's page."""

import json
from dataclasses import dataclass

from payre_mcp.billing.office import Mismatch, Office, Unknown, cents, name_of, run
from payre_mcp.clock import US_PER_S
from payre_mcp.directory import TopUpRequest
from payre_mcp.errors import InvalidRequest, NotFound
from payre_mcp.ids import format_id, parse_id
from payre_mcp.money import Money
from payre_mcp.payments import UNDER_WAY, Payer, Payment, PaymentKind, PaymentState
from payre_mcp.processors.base import Checkout, CheckoutOrder

_CLOCKS_DIFFER_US = 300 * US_PER_S
"""A page closes so long before its link: the processor, whose clock may be behind, keeps none open for more than a day."""

SHORTEST_PAGE_US = 30 * 60 * US_PER_S + 2 * _CLOCKS_DIFFER_US
"""What a link must have left for a page to be opened: the processor keeps none open for less than half an hour."""


@dataclass(frozen=True, slots=True)
class RechargeWish:
    """What a person asked for while they topped up: charge this card again by itself."""

    threshold: Money
    amount: Money
    month_cap: Money

    def dump(self) -> str:
        """As the payment keeps it."""
        return json.dumps({"recharge": [self.threshold.micros, self.amount.micros, self.month_cap.micros]})

    @classmethod
    def load(cls, detail: str) -> "RechargeWish | None":
        """The inverse of `dump`; None where there was no wish."""
        wish = json.loads(detail or "{}").get("recharge")
        return cls(*map(Money, wish)) if wish else None


class Checkouts:
    """Opens pages to pay on, and credits what was paid there.

    The return to our page, the webhook and the reconciler all end in `apply`.
    """

    def __init__(self, office: Office) -> None:
        self._office, self._payments = office, office.ledger.payments

    async def open(self, request: TopUpRequest, *, page_url: str, wish: RechargeWish | None = None) -> str:
        """The address at which this top-up is paid; the same page again while it is open. No money moves here.

        Raises:
            InvalidRequest: It was paid, or has ended. Ask for a new link.
            ProcessorError: The processor refused or did not answer.
        """
        payment = await self._payment(request, wish)
        if payment.processor_id:
            checkout = await self._office.processor.find_checkout(payment.processor_id)
            if checkout.state == "open":
                return checkout.url
            await self.book(checkout)
            raise InvalidRequest(
                "this top-up has ended, or is being paid; nothing was charged now. Ask for a new link for another"
            )
        if payment.state not in UNDER_WAY or request.expires_at - self._office.clock.now_us() < SHORTEST_PAGE_US:
            raise InvalidRequest("this top-up link has expired; ask for a new one. Nothing was charged")
        checkout = await self._office.processor.open_checkout(
            CheckoutOrder(
                reference=name_of(payment), amount_cents=cents(payment.amount), fee_cents=cents(payment.fee),
                customer_id=await self._customer(payment.owner_id), page_url=page_url,
                expires_at=request.expires_at - _CLOCKS_DIFFER_US, delayed=self._office.terms.delayed,
                save_card=bool(RechargeWish.load(payment.detail)),
            )
        )  # fmt: skip
        await self._office.advance(payment, PaymentState.OPEN, processor_id=checkout.id)
        return checkout.url

    async def apply(self, checkout_id: str) -> Payment:
        """Ask the processor how a page stands, and credit it if it is paid, once.

        Raises:
            Unknown: The page is of no top-up of ours.
            Mismatch: It is not what we asked for; nothing was credited.
            ProcessorError: The processor refused or did not answer.
        """
        return await self.book(await self._office.processor.find_checkout(checkout_id))

    async def book(self, checkout: Checkout) -> Payment:
        """As `apply`, for a page as the processor showed it just now."""
        payment = await self._of(checkout)
        if checkout.state == "paid":
            return await self._paid(payment, checkout)
        if checkout.state == "expired":
            return await self._office.advance(payment, PaymentState.EXPIRED, processor_id=checkout.id)
        if checkout.state == "processing":
            news = await self._office.processor.find_card_payment(checkout.card_payment) if checkout.card_payment else None
            failed = news is not None and news.state in {"failed", "canceled"}
            state = PaymentState.FAILED if failed else PaymentState.PROCESSING
            problem = f"the payment failed: {news.decline or news.state}" if news is not None and failed else ""
            return await self._office.advance(
                payment, state, processor_id=checkout.id, card_payment=checkout.card_payment, problem=problem
            )
        return payment

    async def retry(self, payment: Payment) -> None:
        """Look again at a top-up that has been under way for long."""
        if payment.processor_id:
            await self.apply(payment.processor_id)
            return
        request = await run(self._office.ledger.directory.find_top_up, top_up_id=payment.id)
        if request is None or request.expires_at <= self._office.clock.now_us():
            await self._office.advance(payment, PaymentState.EXPIRED)  # nobody was shown a page to pay on

    async def _paid(self, payment: Payment, checkout: Checkout) -> Payment:
        card = await self._office.processor.find_card_payment(checkout.card_payment)
        await self._office.credit(payment, card.fee_cents)
        wish = RechargeWish.load(payment.detail)
        if wish and payment.state != PaymentState.SUCCEEDED and card.method_id:
            await run(
                self._payments.change_payer,
                payment.owner_id,
                lambda payer: payer._replace(
                    method_id=card.method_id, card=card.card, failures=0, not_before=0,
                    threshold=wish.threshold, amount=wish.amount, month_cap=wish.month_cap,
                ),
            )  # fmt: skip
        return await self._office.advance(
            payment, PaymentState.SUCCEEDED, processor_id=checkout.id, card_payment=checkout.card_payment, problem=""
        )

    async def _of(self, checkout: Checkout) -> Payment:
        """The payment that a page is of, once the page is what we asked for."""
        try:
            payment = await run(self._payments.find, parse_id("top", checkout.reference))
        except NotFound:
            payment = None
        if payment is None or payment.kind != PaymentKind.TOP_UP:
            raise Unknown(f"the page {checkout.id} is of no top-up of this ledger")
        self._office.check(livemode=checkout.livemode, currency=checkout.currency)
        if payment.processor_id not in {"", checkout.id}:
            raise Mismatch(f"the page {checkout.id} names the top-up of another page")
        asked = cents(payment.amount) + cents(payment.fee)
        if (checkout.subtotal_cents, checkout.total_cents) != (asked, asked):
            raise Mismatch(f"the page {checkout.id} is of {checkout.total_cents} cents, and {asked} were asked for")
        return payment

    async def _payment(self, request: TopUpRequest, wish: RechargeWish | None) -> Payment:
        now, amount = self._office.clock.now_us(), request.amount
        payment = Payment(
            request.id, PaymentKind.TOP_UP, PaymentState.CREATED, request.consumer_id, request.part, 0, amount,
            self._office.terms.fee_on(amount), "", "", "", wish.dump() if wish else "", now, now,
        )  # fmt: skip
        await run(self._payments.add, payment)
        found = await run(self._payments.find, request.id)
        assert found is not None
        return found

    async def _customer(self, consumer_id: int) -> str:
        """The consumer's customer at the processor, made with their first top-up."""
        payer = await run(self._payments.payer, consumer_id)
        if payer is not None and payer.customer_id:
            return payer.customer_id
        made = await self._office.processor.make_customer(reference=format_id("con", consumer_id))

        def keep(payer: Payer) -> Payer:
            return payer if payer.customer_id else payer._replace(customer_id=made)

        return (await run(self._payments.change_payer, consumer_id, keep)).customer_id
