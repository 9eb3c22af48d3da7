"""Recharges: a saved card is charged when the balance has fallen below what its owner chose. A tool call never waits for one."""

import logging

from payre_mcp.billing.office import KEY_LIFE_US, Mismatch, Office, Unknown, cents, name_of, run
from payre_mcp.clock import US_PER_S, window_end, window_start
from payre_mcp.errors import NotFound, ProcessorError
from payre_mcp.ids import parse_id
from payre_mcp.money import ZERO
from payre_mcp.payments import Payer, Payment, PaymentKind, PaymentState
from payre_mcp.processors.base import CardPayment

logger = logging.getLogger(__name__)

_AT_ONCE = 50


class Recharges:
    """Charges saved cards. Of one consumer, one recharge at a time is under way."""

    def __init__(self, office: Office) -> None:
        self._office, self._payments = office, office.ledger.payments

    async def run_due(self) -> int:
        """Recharge every balance that is due; answers how many cards were charged."""
        due = await run(self._payments.due_for_recharge, self._office.clock.now_us(), _AT_ONCE)
        made = 0
        for payer in due:
            if payment := await self._begin(payer):
                await self.retry(payment)
                made += 1
        return made

    async def retry(self, payment: Payment) -> None:
        """Charge the card of a recharge whose row stands; after a lost answer, by the same key or not at all."""
        reference = name_of(payment)
        payer = await run(self._payments.payer, payment.owner_id) or Payer(payment.owner_id, payment.part)
        try:
            if payment.processor_id:
                card = await self._office.processor.find_card_payment(payment.processor_id)
            elif self._office.clock.now_us() - payment.created_at < KEY_LIFE_US:
                card = await self._office.processor.charge_card(
                    reference=reference,
                    customer_id=payer.customer_id,
                    method_id=payment.detail,
                    amount_cents=cents(payment.amount),
                )
            else:
                found = await self._office.processor.find_card_payment_of(reference, payer.customer_id)
                if found is None:
                    await self._failed(payment, "the card was not charged: the processor has no such payment")
                    return
                card = found
        except ProcessorError as error:
            if not error.is_refusal:
                logger.warning("recharge %s: the processor did not answer; it is asked again", reference)
                return
            await self._failed(payment, error.message)
            return
        await self.book(card)

    async def apply(self, payment_id: str) -> Payment:
        """Ask the processor how a card payment stands, and credit it if it succeeded, once. Raises as `Checkouts.apply`."""
        return await self.book(await self._office.processor.find_card_payment(payment_id))

    async def book(self, card: CardPayment) -> Payment:
        """As `apply`, for a payment as the processor showed it just now."""
        payment = await self._of(card)
        if card.state == "succeeded":
            await self._office.credit(payment, card.fee_cents)
            await run(self._payments.change_payer, payment.owner_id, lambda payer: payer._replace(failures=0))
            return await self._office.advance(
                payment, PaymentState.SUCCEEDED, processor_id=card.id, card_payment=card.id, problem=""
            )
        if card.state == "processing":
            return await self._office.advance(payment, PaymentState.PROCESSING, processor_id=card.id, card_payment=card.id)
        return await self._failed(payment, f"the card was declined: {card.decline or card.state}", card.id)

    async def turn_off(self, consumer_id: int) -> None:
        """No more recharges; the card is forgotten here and at the processor."""
        payer = await run(self._payments.payer, consumer_id)
        if payer is None:
            return
        await run(
            self._payments.change_payer,
            consumer_id,
            lambda payer: payer._replace(method_id="", card="", threshold=ZERO, amount=ZERO, month_cap=ZERO),
        )
        if payer.method_id:
            await self._office.processor.forget_card(payer.method_id)

    async def card_is_gone(self, method_id: str) -> None:
        """The card was taken off its customer at the processor."""
        payer = await run(self._payments.payer_of_method, method_id)
        if payer is None:
            raise Unknown("no consumer has this card")
        await run(self._payments.change_payer, payer.consumer_id, lambda payer: payer._replace(method_id="", card=""))

    async def _begin(self, payer: Payer) -> Payment | None:
        """The row of a recharge, written before anybody is asked; None where one is under way or the month is used up."""
        now = self._office.clock.now_us()
        spent = await run(self._payments.moved_since, payer.consumer_id, PaymentKind.RECHARGE, window_start("month", now))
        if spent + payer.amount > payer.month_cap:
            await self._pause(payer, window_end("month", now))
            return None
        payment = Payment(
            self._office.ledger.ids.new(), PaymentKind.RECHARGE, PaymentState.CREATED, payer.consumer_id, payer.part, 0,
            payer.amount, ZERO, "", "", "", payer.method_id, now, now,
        )  # fmt: skip
        if not await run(self._payments.add, payment):
            return None
        await self._pause(payer, now + self._office.terms.recharge_cooldown_s * US_PER_S)
        return payment

    async def _pause(self, payer: Payer, until: int) -> None:
        await run(self._payments.change_payer, payer.consumer_id, lambda payer: payer._replace(not_before=until))

    async def _failed(self, payment: Payment, problem: str, processor_id: str = "") -> Payment:
        after = await self._office.advance(payment, PaymentState.FAILED, processor_id=processor_id, problem=problem)
        if after.state == PaymentState.FAILED != payment.state:
            payer = await run(
                self._payments.change_payer, payment.owner_id, lambda payer: payer._replace(failures=payer.failures + 1)
            )
            logger.warning(
                "recharge %s failed: %s%s",
                name_of(payment),
                problem,
                "" if payer.recharges else "; recharges are off now",
            )
        return after

    async def _of(self, card: CardPayment) -> Payment:
        try:
            payment = await run(self._payments.find, parse_id("top", card.reference))
        except NotFound:
            payment = None
        if payment is None or payment.kind != PaymentKind.RECHARGE:
            raise Unknown(f"the card payment {card.id} is of no recharge of this ledger")
        self._office.check(livemode=card.livemode, currency=card.currency)
        if payment.processor_id not in {"", card.id} or card.amount_cents != cents(payment.amount):
            raise Mismatch(f"the card payment {card.id} is not what was asked for")
        return payment
