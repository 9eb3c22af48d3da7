"""Developers' earnings to their banks: onboarding, what has matured, the run, and what comes back."""

import json
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from payre_mcp.billing.office import (
    DAY_US,
    KEY_LIFE_US,
    MICROS_PER_CENT,
    Mismatch,
    Office,
    Unknown,
    cents,
    name_of,
    run,
    whole_cents,
)
from payre_mcp.errors import NotFound, PayoutNotReady, ProcessorError
from payre_mcp.ids import first_id_at, format_id, parse_id
from payre_mcp.ledger.model import Kind
from payre_mcp.money import ZERO, Money
from payre_mcp.payments import UNDER_WAY, Payee, Payment, PaymentKind, PaymentState
from payre_mcp.processors.base import AccountTransfer, PayeeAccount, TransferOrder

logger = logging.getLogger(__name__)

WAITS_FOR_FUNDS = "it waits until the platform's balance at the processor is available"


class Line(NamedTuple):
    """What of a payout comes from one part of the ledger."""

    part: int
    micros: int


class Payouts:
    """Takes a payout out of the earnings first, part by part, and sends it then. Of one developer, one is under way."""

    def __init__(self, office: Office) -> None:
        self._office, self._payments = office, office.ledger.payments

    async def onboard(self, developer_id: int, *, email: str, country: str, return_url: str, refresh_url: str) -> str:
        """A page on which a developer connects their bank account; good once, for minutes. Asked again, for the same account.

        Raises:
            NotFound: No such developer.
            ProcessorError: The processor refused or did not answer.
        """
        developer = await run(self._office.ledger.directory.find_developer, developer_id)
        if developer is None:
            raise NotFound("no such developer")
        payee = await run(self._payments.payee, developer_id)
        if payee is None or not payee.account_id:
            made = await self._office.processor.make_payee(
                reference=format_id("dev", developer_id), email=email, name=developer.name, country=country
            )
            payee = Payee(developer_id, made.id, made.state, country, email)
            await run(self._payments.save_payee, payee)
        return await self._office.processor.onboarding_url(payee.account_id, return_url=return_url, refresh_url=refresh_url)

    async def refresh(self, account_id: str) -> Payee:
        """Ask the processor how a developer's account stands. Raises `Unknown` for an account that is nobody's."""
        payee = await run(self._payments.payee_of_account, account_id)
        if payee is None:
            raise Unknown("no developer has this account")
        account: PayeeAccount = await self._office.processor.find_payee(account_id)
        await run(self._payments.save_payee, payee._replace(state=account.state))
        return payee._replace(state=account.state)

    async def due(self, developer_id: int) -> Money:
        """What could be paid out now: matured earnings in whole cents. What they owe in one part is taken off the others."""
        return whole_cents(sum(line.micros for line in await self._matured(developer_id)))

    async def run_all(self) -> Sequence[Payment]:
        """Pay every developer who has enough and an account that can be paid; answers the payouts that were made or went on."""
        made = list[Payment]()
        for payee in await run(self._payments.payees):
            try:
                made.append(await self.pay(payee.developer_id))
            except PayoutNotReady:
                continue
            except ProcessorError as error:
                logger.warning("the payout of %s waits: %s", format_id("dev", payee.developer_id), error.message)
            except (Mismatch, Unknown) as error:
                logger.critical("the payout of %s is set aside: %s", format_id("dev", payee.developer_id), error)
        return made

    async def pay(self, developer_id: int) -> Payment:
        """Pay one developer what has matured, or go on with the payout that is under way.

        Raises:
            PayoutNotReady: No account that can be paid, or less has matured than the smallest payout. Nothing moved.
        """
        payee = await run(self._payments.payee, developer_id)
        if payee is None or not payee.account_id:
            raise PayoutNotReady("the developer's bank is not connected; the earnings stay")
        payee = await self.refresh(payee.account_id)
        if payee.state != "active":
            raise PayoutNotReady(f"the developer's account cannot be paid, it is {payee.state}; the earnings stay")
        last = await run(self._payments.of_owner, developer_id, [PaymentKind.PAYOUT], before=0, limit=1)
        return await self._go_on(last[0] if last and last[0].state in UNDER_WAY else await self._begin(payee))

    async def retry(self, payment: Payment) -> None:
        """Go on with a payout whose row stands, from wherever it stopped."""
        await self._go_on(payment)

    async def apply(self, transfer_id: str) -> Payment:
        """Ask the processor how a transfer stands, and book what came back of it, once. Raises as `Checkouts.apply`."""
        return await self.book(await self._office.processor.find_transfer(transfer_id))

    async def book(self, transfer: AccountTransfer) -> Payment:
        """As `apply`, for a transfer as the processor showed it just now."""
        payment = await self._of(transfer)
        await self._take(payment)
        after = await self._office.advance(payment, PaymentState.SUCCEEDED, processor_id=transfer.id, problem="")
        if not transfer.reversed_cents:
            return after
        await self._put_back(payment, transfer.reversed_cents * MICROS_PER_CENT)
        if transfer.reversed_cents == transfer.amount_cents:
            return await self._office.advance(payment, PaymentState.REVERSED, problem="the transfer was reversed")
        back = Money(transfer.reversed_cents * MICROS_PER_CENT)
        return await self._office.advance(payment, PaymentState.SUCCEEDED, problem=f"{back} of it were reversed")

    async def _begin(self, payee: Payee) -> Payment:
        """The row of a payout, empty: what it is of is read when it stands, so that of two runs one pays."""
        self._check(await self.due(payee.developer_id))
        now = self._office.clock.now_us()
        payment = Payment(
            self._office.ledger.ids.new(), PaymentKind.PAYOUT, PaymentState.CREATED, payee.developer_id, 0, 0, ZERO, ZERO,
            "", "", "", "", now, now,
        )  # fmt: skip
        if not await run(self._payments.add, payment):
            raise PayoutNotReady("another payout of this developer is under way; it goes on by itself")
        return payment

    async def _fill(self, payment: Payment) -> Payment:
        """Write down what the payout is of, once."""
        matured = await self._matured(payment.owner_id)
        amount = whole_cents(sum(line.micros for line in matured))
        try:
            self._check(amount)
        except PayoutNotReady as error:
            await self._office.advance(payment, PaymentState.EXPIRED, problem=error.message)
            raise
        return await run(self._payments.fill, payment.id, amount, json.dumps(list(_share(amount.micros, matured))))

    def _check(self, amount: Money) -> None:
        smallest = max(self._office.terms.smallest_payout, Money(MICROS_PER_CENT))
        if amount < smallest:
            raise PayoutNotReady(f"{amount} can be paid out, and a payout is {smallest} at least; the earnings stay")

    async def _go_on(self, payment: Payment) -> Payment:
        """Take it out of the earnings, then send it."""
        payment = payment if payment.detail else await self._fill(payment)
        await self._take(payment)
        payment = await self._office.advance(payment, PaymentState.OPEN)
        try:
            transfer = await self._transfer(payment)
        except ProcessorError as error:
            if not error.is_refusal:
                logger.warning("payout %s: the processor did not answer; it is asked again", name_of(payment))
                return payment
            if error.reason == "balance_insufficient":
                return await self._office.advance(payment, PaymentState.OPEN, problem=WAITS_FOR_FUNDS)
            return await self._failed(payment, error.message)
        if transfer is None:
            return await self._office.advance(payment, PaymentState.OPEN, problem=WAITS_FOR_FUNDS)
        return await self.book(transfer)

    async def _transfer(self, payment: Payment) -> AccountTransfer | None:
        """Send it, once; None where the platform's money has to come first."""
        processor, reference = self._office.processor, name_of(payment)
        if payment.processor_id:
            return await processor.find_transfer(payment.processor_id)
        if self._office.clock.now_us() - payment.created_at >= KEY_LIFE_US:
            found = await processor.find_transfer_of(reference)
            if found is not None:
                return found
        if await processor.available_cents() < cents(payment.amount):
            return None
        payee = await run(self._payments.payee, payment.owner_id)
        assert payee is not None
        order = TransferOrder(reference=reference, account_id=payee.account_id, amount_cents=cents(payment.amount))
        return await processor.transfer(order)

    async def _take(self, payment: Payment) -> None:
        """Out of the earnings, each line once."""
        for line in _lines(payment):
            await self._office.send(
                Kind.PAYOUT, _key(payment, line), line.micros, part=line.part, developer_id=payment.owner_id
            )  # fmt: skip

    async def _put_back(self, payment: Payment, total: int) -> None:
        """Back into the earnings, so much of it in all."""
        for line in _lines(payment):
            back = min(total, line.micros)
            await self._office.come_back(_key(payment, line), back, part=line.part, developer_id=payment.owner_id)
            total -= back

    async def _failed(self, payment: Payment, problem: str) -> Payment:
        await self._put_back(payment, payment.amount.micros)
        logger.error("payout %s failed and is in the earnings again: %s", name_of(payment), problem)
        return await self._office.advance(payment, PaymentState.FAILED, problem=problem)

    async def _matured(self, developer_id: int) -> list[Line]:
        """What every part has for a developer, where it is not zero."""
        now, terms = self._office.clock.now_us(), self._office.terms
        mature = first_id_at(now - terms.maturity_days * DAY_US)
        first_mature = first_id_at(now - max(terms.maturity_days, terms.first_maturity_days) * DAY_US)

        def read() -> list[Line]:
            payable = self._payments.payable
            parts = range(self._office.ledger.parts)
            lines = (Line(part, payable(developer_id, part, mature_id=mature, first_mature_id=first_mature)) for part in parts)
            return [line for line in lines if line.micros]

        return await run(read)

    async def _of(self, transfer: AccountTransfer) -> Payment:
        try:
            payment = await run(self._payments.find, parse_id("pay", transfer.reference))
        except NotFound:
            payment = None
        if payment is None or payment.kind != PaymentKind.PAYOUT:
            raise Unknown(f"the transfer {transfer.id} is of no payout of this ledger")
        self._office.check(livemode=transfer.livemode, currency=transfer.currency)
        payee = await run(self._payments.payee, payment.owner_id)
        same_account = payee is not None and payee.account_id == transfer.account_id
        if transfer.amount_cents != cents(payment.amount) or payment.processor_id not in {"", transfer.id} or not same_account:
            raise Mismatch(f"the transfer {transfer.id} is not what was asked for")
        return payment


def _share(micros: int, matured: Sequence[Line]) -> Iterator[Line]:
    """Take an amount from the lines that have something."""
    for line in sorted(matured, key=lambda line: -line.micros):
        taken = min(micros, max(0, line.micros))
        if taken:
            yield Line(line.part, taken)
        micros -= taken


def _lines(payment: Payment) -> list[Line]:
    return [Line(*line) for line in json.loads(payment.detail)]


def _key(payment: Payment, line: Line) -> str:
    return f"{format_id('pay', payment.id)}/{line.part}"
