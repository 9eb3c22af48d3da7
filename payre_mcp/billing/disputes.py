"""Money that was taken back: disputes, and refunds made at the processor. It leaves the balance even where that is spent."""

import logging

from payre_mcp.billing.office import DAY_US, Office, is_away, name_of, run
from payre_mcp.billing.sources import Sources
from payre_mcp.ids import first_id_at, format_id
from payre_mcp.ledger.model import Kind, Refund, Transfer
from payre_mcp.money import MICROS_PER_CENT, ZERO, Money
from payre_mcp.payments import Payment, PaymentKind, PaymentState
from payre_mcp.processors.base import CardDispute, CardRefund

logger = logging.getLogger(__name__)

_PAGE = 100


class Disputes:
    """Books what was taken and what came back. The balance gives what it had got; the platform bears fees."""

    def __init__(self, office: Office, sources: Sources) -> None:
        self._office, self._payments, self._sources = office, office.ledger.payments, sources

    async def apply(self, dispute_id: str) -> Payment:
        """Ask the processor how a dispute stands, and book what that means, once. Raises as `Checkouts.apply`."""
        return await self.book(await self._office.processor.find_dispute(dispute_id))

    async def book(self, dispute: CardDispute) -> Payment:
        """As `apply`, for a dispute as the processor showed it just now."""
        payment = await self._payment(dispute.id, dispute.card_payment, dispute.amount_cents)
        self._office.check(livemode=dispute.livemode, currency=dispute.currency)
        if dispute.state == "inquiry":
            return payment
        await self._take(payment, dispute.fee_cents)
        if dispute.state == "won":
            await self._give_back(payment)
            return await self._office.advance(payment, PaymentState.REVERSED, problem="")
        if dispute.state == "lost":
            await self._lose(payment)
            if self._office.terms.clawback == "developers" and payment.state != PaymentState.SUCCEEDED:
                await self._claw_back(payment)
            return await self._office.advance(payment, PaymentState.SUCCEEDED)
        logger.warning("the payment %s is disputed: %s left the balance", format_id("top", payment.parent_id), payment.amount)
        return await self._office.advance(payment, PaymentState.OPEN)

    async def refunded_elsewhere(self, refund: CardRefund) -> Payment:
        """A refund that was made at the processor, by the operator: the money is gone, unless the refund fails."""
        payment = await self._payment(refund.id, refund.card_payment, refund.amount_cents)
        self._office.check(livemode=refund.livemode, currency=refund.currency)
        await self._take(payment, 0)
        if refund.state == "failed":
            await self._give_back(payment)
            return await self._office.advance(payment, PaymentState.REVERSED)
        if refund.state == "pending":
            return await self._office.advance(payment, PaymentState.PROCESSING)
        await self._lose(payment)
        return await self._office.advance(payment, PaymentState.SUCCEEDED)

    async def _payment(self, processor_id: str, card_payment: str, amount_cents: int) -> Payment:
        """The row of what was taken, made where it is new."""
        paid = await self._sources.find(card_payment)
        if payment := await run(self._payments.find_by_processor_id, processor_id):
            return payment
        now, taken = self._office.clock.now_us(), Money(amount_cents * MICROS_PER_CENT)
        siblings = await run(self._payments.children, paid.id)
        away = sum((each.amount for each in siblings if each.processor_id and is_away(each)), ZERO)
        # A processing fee was paid on top of what the balance got: so much of what is taken at last was the platform's.
        on_top = min(paid.fee, taken, max(ZERO, taken + away - paid.amount))
        payment = Payment(
            self._office.ledger.ids.new(), PaymentKind.DISPUTE, PaymentState.CREATED, paid.owner_id, paid.part, paid.id,
            taken - on_top, on_top, processor_id, "", "", "", now, now,
        )  # fmt: skip
        await run(self._payments.add, payment)
        found = await run(self._payments.find_by_processor_id, processor_id)
        assert found is not None
        return found

    async def _take(self, payment: Payment, fee_cents: int) -> None:
        """Out of the balance, even where it is spent."""
        key = name_of(payment)
        if payment.amount:
            await self._office.send(
                Kind.CHARGEBACK, key, payment.amount.micros, part=payment.part, consumer_id=payment.owner_id
            )  # fmt: skip
        await self._office.cost(payment, fee_cents * MICROS_PER_CENT, f"{key}:fee")

    async def _give_back(self, payment: Payment) -> None:
        await self._office.come_back(
            name_of(payment), payment.amount.micros, part=payment.part, consumer_id=payment.owner_id
        )  # fmt: skip

    async def _lose(self, payment: Payment) -> None:
        """What the balance had not got is lost to the platform, and known to be once nothing can come back."""
        await self._office.cost(payment, payment.fee.micros, f"{name_of(payment)}:rest")

    async def _claw_back(self, lost: Payment) -> None:
        """Refund the payer's newest charges, as far as the loss goes and no developer can have been paid for them."""
        journal = self._office.ledger.journal
        account = await run(journal.account, lost.part, lost.owner_id)
        debt = max(0, -account.available_micros) if account else 0
        oldest = first_id_at(self._office.clock.now_us() - self._office.terms.maturity_days * DAY_US)
        before = 0
        while debt and (charges := await run(journal.charges, lost.part, lost.owner_id, before=before, limit=_PAGE)):
            refunded = await run(journal.refunded, lost.part, [charge.id for charge in charges])
            for charge in charges:
                if charge.id < oldest:
                    return
                debt -= await self._refund(lost, charge, min(debt, charge.amount_micros - refunded.get(charge.id, 0)))
            before = charges[-1].id

    async def _refund(self, lost: Payment, charge: Transfer, amount: int) -> int:
        """Refund a charge for this dispute, once; answers what of it was no free credit."""
        key = f"{name_of(lost)}:{format_id('chg', charge.id)}"
        before = await run(self._office.ledger.journal.paid, charge.part, charge.consumer_id, charge.developer_id, key)
        if amount <= 0 or before:
            return 0
        ids = self._office.ledger.ids
        command = Refund(ids.new(), charge.part, charge.id, charge.consumer_id, charge.developer_id, amount, key)
        row = (await self._office.writer.ask(command)).transfer
        return row.amount_micros - row.credit_micros
