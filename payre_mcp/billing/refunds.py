"""Unspent money back to the card that paid it, and refunds that somebody made at the processor without asking us."""

import logging

from payre_mcp.billing.disputes import Disputes
from payre_mcp.billing.office import KEY_LIFE_US, Mismatch, Office, cents, is_away, name_of, run, whole_cents
from payre_mcp.billing.sources import PAID
from payre_mcp.errors import InsufficientBalance, InvalidRequest, NotFound, ProcessorError
from payre_mcp.ids import parse_id
from payre_mcp.ledger.model import Kind
from payre_mcp.money import MICROS_PER_CENT, Money
from payre_mcp.payments import Payment, PaymentKind, PaymentState
from payre_mcp.processors.base import CardRefund

logger = logging.getLogger(__name__)

_LOOKED_THROUGH = 100


class Refunds:
    """Takes money out of the balance first, and asks the processor then: what is on its way back cannot be spent."""

    def __init__(self, office: Office, disputes: Disputes) -> None:
        self._office, self._payments, self._disputes = office, office.ledger.payments, disputes

    async def refundable(self, consumer_id: int) -> Money:
        """What could go back to cards now: unspent, in whole cents, and at most what cards paid."""
        return Money(sum(micros for _, micros in await self._sources(consumer_id)))

    async def request(self, consumer_id: int, amount: Money | None = None) -> list[Payment]:
        """Send unspent money back to the cards that paid it, by default all of it; the newest top-up first.

        The money leaves the balance at once; what a card refuses comes back. Processing fees stay paid.

        Raises:
            InvalidRequest: The amount is not in whole cents, or more than is unspent and was paid by card. Nothing moved.
        """
        sources = await self._sources(consumer_id)
        most = sum(micros for _, micros in sources)
        left = most if amount is None else amount.micros
        if not 0 < left <= most or left % MICROS_PER_CENT:
            raise InvalidRequest(f"{Money(most)} of this balance can go back to cards, in whole cents; nothing was refunded")
        made = list[Payment]()
        for top_up, micros in sources:
            piece = min(left, micros)
            if piece:
                made.append(await self._begin(top_up, Money(piece)))
                left -= piece
        return made

    async def retry(self, payment: Payment) -> None:
        """Go on with a refund whose row stands, from wherever it stopped."""
        await self._go_on(payment)

    async def apply(self, refund_id: str) -> Payment:
        """Ask the processor how a refund stands, and book what that means, once. Raises as `Checkouts.apply`."""
        return await self.book(await self._office.processor.find_refund(refund_id))

    async def book(self, refund: CardRefund) -> Payment:
        """As `apply`, for a refund as the processor showed it just now."""
        payment = await self._own(refund)
        if payment is None:
            return await self._disputes.refunded_elsewhere(refund)
        self._office.check(livemode=refund.livemode, currency=refund.currency)
        if refund.amount_cents != cents(payment.amount) or payment.processor_id not in {"", refund.id}:
            raise Mismatch(f"the refund {refund.id} is not what was asked for")
        if refund.state == "failed":
            return await self._put_back(payment, "the card refused the refund; the money is in the balance again", refund.id)
        state = PaymentState.SUCCEEDED if refund.state == "succeeded" else PaymentState.PROCESSING
        return await self._office.advance(payment, state, processor_id=refund.id, problem="")

    async def _begin(self, top_up: Payment, amount: Money) -> Payment:
        now = self._office.clock.now_us()
        payment = Payment(
            self._office.ledger.ids.new(), PaymentKind.REFUND, PaymentState.CREATED, top_up.owner_id, top_up.part, top_up.id,
            amount, Money(0), "", "", "", "", now, now,
        )  # fmt: skip
        await run(self._payments.add, payment)
        return await self._go_on(payment)

    async def _go_on(self, payment: Payment) -> Payment:
        """Take the money out of the balance, then ask the processor."""
        reference, owner = name_of(payment), payment.owner_id
        if payment.state == PaymentState.CREATED:
            try:
                await self._office.send(Kind.RETURN, reference, payment.amount.micros, part=payment.part, consumer_id=owner)
            except InsufficientBalance as error:
                return await self._office.advance(payment, PaymentState.FAILED, problem=error.message)
            payment = await self._office.advance(payment, PaymentState.OPEN)
        try:
            refund = await self._ask(payment, reference)
        except ProcessorError as error:
            if not error.is_refusal:
                logger.warning("refund %s: the processor did not answer; it is asked again", reference)
                return payment
            return await self._put_back(payment, error.message)
        if refund is None:
            return await self._put_back(payment, "the processor has no such refund; the money is in the balance again")
        return await self.book(refund)

    async def _ask(self, payment: Payment, reference: str) -> CardRefund | None:
        processor = self._office.processor
        if payment.processor_id:
            return await processor.find_refund(payment.processor_id)
        paid = await run(self._payments.find, payment.parent_id)
        assert paid is not None
        if self._office.clock.now_us() - payment.created_at >= KEY_LIFE_US:
            return await processor.find_refund_of(reference, paid.card_payment)
        return await processor.refund(reference=reference, card_payment=paid.card_payment, amount_cents=cents(payment.amount))

    async def _put_back(self, payment: Payment, problem: str, processor_id: str = "") -> Payment:
        """The card does not take it: back into the balance, once."""
        reference = name_of(payment)
        await self._office.come_back(reference, payment.amount.micros, part=payment.part, consumer_id=payment.owner_id)
        after = await self._office.advance(payment, PaymentState.FAILED, processor_id=processor_id, problem=problem)
        if after.state == PaymentState.SUCCEEDED:  # a bank may send back days later what it had taken
            after = await self._office.advance(payment, PaymentState.REVERSED, problem=problem)
        return after

    async def _own(self, refund: CardRefund) -> Payment | None:
        """The row of a refund that we asked for."""
        try:
            payment = await run(self._payments.find, parse_id("ref", refund.reference))
        except NotFound:
            return None
        return payment if payment is not None and payment.kind == PaymentKind.REFUND else None

    async def _sources(self, consumer_id: int) -> list[tuple[Payment, int]]:
        """Top-ups by card, newest first, with the micros of each that are unspent and did not go back yet."""
        top_ups = await run(self._payments.of_owner, consumer_id, PAID, before=0, limit=_LOOKED_THROUGH)
        sources = list[tuple[Payment, int]]()
        if not (paid := [each for each in top_ups if each.state == PaymentState.SUCCEEDED and each.card_payment]):
            return sources
        account = await run(self._office.ledger.journal.account, paid[0].part, consumer_id)
        left = whole_cents(account.available_micros if account else 0).micros
        for top_up in paid:
            gone = sum(each.amount.micros for each in await run(self._payments.children, top_up.id) if is_away(each))
            piece = min(left, max(0, top_up.amount.micros - gone))
            left -= piece
            if piece:
                sources.append((top_up, piece))
        return sources
