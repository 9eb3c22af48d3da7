"""Which top-up a card payment is of, even where its own news has not arrived yet."""

from payre_mcp.billing.checkouts import Checkouts
from payre_mcp.billing.office import Office, Unknown, run
from payre_mcp.billing.recharges import Recharges
from payre_mcp.errors import NotFound
from payre_mcp.ids import parse_id
from payre_mcp.payments import Payment, PaymentKind

PAID = (PaymentKind.TOP_UP, PaymentKind.RECHARGE)


class Sources:
    """Finds what was paid by a card payment; refunds and disputes come from there, and may be heard of before it."""

    def __init__(self, office: Office, checkouts: Checkouts, recharges: Recharges) -> None:
        self._office, self._checkouts, self._recharges = office, checkouts, recharges

    async def find(self, card_payment: str) -> Payment:
        """The top-up or recharge of a card payment, credited if it is paid. Raises as `Checkouts.apply`."""
        payments = self._office.ledger.payments
        if known := await run(payments.find_by_card_payment, card_payment, PAID):
            return known
        return await self.apply(card_payment)

    async def apply(self, card_payment: str) -> Payment:
        """Ask the processor how a card payment stands, and credit what it is of, once. Raises as `Checkouts.apply`."""
        if not card_payment:
            raise Unknown("it is of no card payment")
        card = await self._office.processor.find_card_payment(card_payment)
        try:
            payment = await run(self._office.ledger.payments.find, parse_id("top", card.reference))
        except NotFound:
            payment = None
        if payment is not None and payment.kind == PaymentKind.RECHARGE:
            return await self._recharges.book(card)
        if payment is None or not payment.processor_id:
            raise Unknown(f"the card payment {card_payment} is of no top-up of this ledger")
        return await self._checkouts.apply(payment.processor_id)
