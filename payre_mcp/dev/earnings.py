"""The developer's side of `payre dev`: what they earned, connecting a bank, being paid."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payre_mcp.billing.desk import Billing
from payre_mcp.billing.office import run
from payre_mcp.errors import PayreError
from payre_mcp.hub.pages import see_other
from payre_mcp.money import MICROS_PER_CENT, Money
from payre_mcp.payments import Payment, PaymentKind
from payre_mcp.processors.fake_stripe import FakeStripe

EARNINGS_PATH = "/earnings"
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Shown:
    """What the start page tells a developer."""

    bank: str
    """The state of their account at Stripe; empty before it is connected."""
    due: Money
    payouts: Sequence[Payment]
    reached: Money | None
    """What is at the bank of the fake Stripe; None at the real one."""
    problem: str


class Earnings:
    """Pays the one developer of a development ledger, when they ask."""

    def __init__(self, billing: Billing, fake: FakeStripe | None, developer_id: int, base: str) -> None:
        self._billing, self._fake, self._developer_id, self._base = billing, fake, developer_id, base
        self._problem = ""

    def routes(self) -> Sequence[Route]:
        """Where the buttons lead."""
        return [Route(EARNINGS_PATH, self._press, methods=["POST"])]

    async def show(self) -> Shown:
        """How things stand; an account that was connected just now is looked at again."""
        payments, payouts = self._billing.ledger.payments, self._billing.payouts
        payee = await run(payments.payee, self._developer_id)
        problem, self._problem = self._problem, ""
        try:
            if payee is not None and payee.account_id and payee.state != "active":
                payee = await payouts.refresh(payee.account_id)
        except PayreError as error:
            problem = error.message
        account = payee.account_id if payee else ""
        reached = Money(self._fake.paid_out(account) * MICROS_PER_CENT) if self._fake else None
        made = await run(payments.of_owner, self._developer_id, [PaymentKind.PAYOUT], before=0, limit=_SHOWN)
        due = await payouts.due(self._developer_id)
        return Shown(payee.state if payee and account else "", due, made, reached, problem)

    async def _press(self, request: Request) -> Response:
        payouts = self._billing.payouts
        try:
            if (await request.body()) == b"act=connect":
                link = await payouts.onboard(
                    self._developer_id, email="developer@example.com", country="US", return_url=self._base, refresh_url=self._base
                )
                return see_other(link)
            await payouts.pay(self._developer_id)
        except PayreError as error:
            self._problem = error.message
        return see_other("/")
