"""One life of a payment in any order: people act, news arrives late, twice or never, and the process dies between two steps."""

import inspect
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from payre_mcp.billing.desk import Billing
from payre_mcp.errors import PayreError
from payre_mcp.ledger.model import Kind
from payre_mcp.money import Money
from payre_mcp.payments import UNDER_WAY, PaymentKind, PaymentState
from tests.billing.till import TEN, Till
from tests.fakes import fund, journal_of

CENT = 10_000


class Crash(BaseException):
    """The process is gone."""


@dataclass
class Fuse:
    """Blows at a step. Without a number it never does."""

    left: int = 0

    def step(self) -> None:
        """One more step begins or has ended."""
        if self.left:
            self.left -= 1
            if not self.left:
                raise Crash


class Breaking:
    """Something of ours or of Stripe's that works as it does, with a fuse before and behind each of its steps."""

    def __init__(self, inner: Any, fuse: Fuse) -> None:
        self._inner, self._fuse = inner, fuse

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value) or inspect.isasyncgenfunction(value):
            return value
        if inspect.iscoroutinefunction(value):

            async def awaited(*arguments: Any, **named: Any) -> Any:
                self._fuse.step()
                answer = await value(*arguments, **named)
                self._fuse.step()
                return answer

            return awaited

        def called(*arguments: Any, **named: Any) -> Any:
            self._fuse.step()
            answer = value(*arguments, **named)
            self._fuse.step()
            return answer

        return called


def billing_with(till: Till, fuse: Fuse) -> Billing:
    """Billing with a fuse at every step: to the database, to the ledger and to Stripe."""
    ledger = till.ledger
    broken: Any = replace(
        ledger,
        payments=Breaking(ledger.payments, fuse),
        inbox=Breaking(ledger.inbox, fuse),
        writer=Breaking(ledger.writer, fuse),
    )
    processor: Any = Breaking(till.processor, fuse)
    return Billing(broken, processor, till.clock, till.terms)


class Chances:
    """Acts that chance chooses, each with a process that may die at any step of it."""

    def __init__(self, till: Till, dice: random.Random) -> None:
        self.till, self.dice, self.fuse = till, dice, Fuse()
        self.history: list[str] = []
        till.stripe.chaos.drop = True

    def restart(self) -> None:
        """A new process over the same database, whose fuse is out."""
        self.fuse.left = 0
        self.till.billing = billing_with(self.till, self.fuse)

    async def play(self, acts: int, whatever: Sequence[Callable[[], Awaitable[None]]]) -> None:
        """So many of these acts."""
        for _ in range(acts):
            self.restart()
            act: Any = self.dice.choice(whatever)
            self.fuse.left = self.dice.choice((0, 0, self.dice.randint(1, 30)))
            self.history.append(f"{act.__name__} {self.fuse.left}")
            try:
                await act()
            except Crash:
                self.history.append("crash")
            except PayreError as error:
                self.history.append(error.code)
        self.restart()

    async def reconcile(self) -> None:
        """Until nothing moves."""
        for _ in range(2):
            self.till.clock.advance(700)
            await self.till.billing.reconciler.run()


class Life(Chances):
    """A consumer, what happens to their money, and what it must come to."""

    def __init__(self, till: Till, dice: random.Random) -> None:
        super().__init__(till, dice)
        self.payer = fund(till.ledger, 0)
        self.seen = len(till.stripe.events())
        self.session = self.intent = self.dispute = ""
        self.restart()

    async def live(self, acts: int) -> None:
        """So many acts, and then all is told and reconciled."""
        rare = (self.refund, self.steal, self.quarrel, self.settle, self.look, self.wait)
        await self.play(acts, (self.buy, self.buy, self.tell, self.tell, *rare))
        await self.tell(everything=True)
        await self.reconcile()

    async def bought(self) -> None:
        """They have paid, and nobody knows."""
        while not self.intent:
            await self.buy()

    async def buy(self) -> None:
        """Open the page, or pay on it."""
        if self.intent:
            return
        if not self.session:
            self.session = await self.till.page_of(TEN, payer=self.payer)
        elif self.till.stripe.store.get("checkout.session", self.session)["status"] == "open":
            self.till.stripe.pay(self.session)
            self.intent = str(self.till.stripe.store.get("checkout.session", self.session)["payment_intent"])

    async def refund(self) -> None:
        """Unspent money back, through us."""
        most = await self.till.billing.refunds.refundable(self.payer.id)
        if most.micros:
            await self.till.billing.refunds.request(self.payer.id, Money(self.dice.randint(1, most.micros // CENT) * CENT))

    async def steal(self) -> None:
        """Money back behind our back."""
        if self.intent and not self.dispute and (rest := self._left_at_stripe()) > 0:
            self.till.stripe.refund_in_dashboard(self.intent, self.dice.randint(1, rest))

    async def quarrel(self) -> None:
        """The bank is asked for the money."""
        if self.intent and not self.dispute and (rest := self._left_at_stripe()) > 0:
            self.dispute = self.till.stripe.open_dispute(self.intent, amount=self.dice.randint(1, rest))

    async def settle(self) -> None:
        """The bank decides; or a refund comes back."""
        if self.dispute and self.till.stripe.store.get("dispute", self.dispute)["status"] == "needs_response":
            self.till.stripe.close_dispute(self.dispute, won=self.dice.random() < 0.5)
            return
        pending = [each["id"] for each in self._refunds() if each["status"] in {"pending", "succeeded"}]
        if pending and self.dice.random() < 0.3:
            self.till.stripe.settle_refund(self.dice.choice(pending), succeeded=False)

    def news(self) -> list[dict[str, Any]]:
        """Everything that Stripe has to tell of this life."""
        return self.till.stripe.events(after=self.seen)

    async def told(self, event: dict[str, Any]) -> None:
        """One event arrives."""
        body = json.dumps(event)
        await self.till.billing.receive("platform", body.encode(), self.till.sign(body))

    async def tell(self, *, everything: bool = False) -> None:
        """Some of the news arrives, in any order, some of it twice."""
        news = self.news()
        told = news * 2 if everything else self.dice.choices(news, k=4) if news else []
        self.dice.shuffle(told)
        for event in told:
            await self.told(event)
            if everything or self.dice.random() < 0.5:
                await self.till.billing.inbox.work()
        while everything and await self.till.billing.inbox.work():
            pass

    async def look(self) -> None:
        """The person returns from the page; or the reconciler comes by."""
        if self.session and self.dice.random() < 0.7:
            await self.till.billing.checkouts.apply(self.session)
        else:
            await self.till.billing.reconciler.run()

    async def wait(self) -> None:
        """Time passes; money is spent meanwhile."""
        self.till.clock.advance(self.dice.choice((1, 130, 4000)))
        available = self.payer.account().available_micros
        if available > CENT and self.dice.random() < 0.3:
            self.till.ledger.writer.ask(self.payer.charge(self.dice.randint(1, available)))

    def due(self) -> int:
        """What the balance must be, by what Stripe moved and what calls cost."""
        paid = TEN.micros if self.intent else 0
        gone = sum(each["amount"] for each in self._refunds() if each["status"] in {"pending", "succeeded"}) * CENT
        asked = self.till.payments(PaymentKind.REFUND, owner_id=self.payer.id)
        assert not [each for each in asked if each.state in {PaymentState.CREATED, PaymentState.OPEN}], "all has been settled"
        if self.dispute and (found := self.till.stripe.store.get("dispute", self.dispute))["status"] != "won":
            gone += found["amount"] * CENT
        journal, part = self.till.ledger.journal, self.payer.record.part
        spent = sum(row.amount_micros for row in journal.charges(part, self.payer.id, before=0, limit=100))
        return paid - gone - spent

    def _refunds(self) -> list[dict[str, Any]]:
        return (
            [each for each in self.till.stripe.store.newest("refund") if each["payment_intent"] == self.intent]
            if self.intent
            else []
        )

    def _left_at_stripe(self) -> int:
        refunded = sum(each["amount"] for each in self._refunds() if each["status"] in {"pending", "succeeded"})
        disputed = self.till.stripe.store.get("dispute", self.dispute)["amount"] if self.dispute else 0
        return TEN.micros // CENT - refunded - disputed


class Payday(Chances):
    """A developer's earnings on their way to the bank, and back."""

    def __init__(self, till: Till, dice: random.Random) -> None:
        super().__init__(till, dice)
        self.developer_id, self.account = 0, ""

    async def begin(self) -> None:
        """A developer who can be paid and has sold something lately."""
        ledger = self.till.ledger
        self.developer_id = ledger.directory.create_developer("dev").id
        await self.till.billing.payouts.onboard(
            self.developer_id, email="dev@example.com", country="US", return_url="http://hub.test", refresh_url="http://hub.test"
        )
        payee = ledger.payments.payee(self.developer_id)
        assert payee is not None
        self.account = payee.account_id
        self.till.stripe.finish_onboarding(self.account)
        await self.till.billing.payouts.refresh(self.account)

    async def live(self, acts: int) -> None:
        """So many acts, and then all is reconciled."""
        await self.play(acts, (self.sell, self.pay, self.pay, self.reverse, self.tell, self.look))
        await self.tell()
        await self.reconcile()

    async def sell(self) -> None:
        """Somebody buys, and it matures."""
        command = self.till.payer.charge(self.dice.randint(1, 30 * TEN.micros // 10))
        self.till.ledger.writer.ask(command._replace(developer_id=self.developer_id))
        self.till.clock.advance(self.dice.choice((60, 8 * 24 * 3600)))

    async def pay(self) -> None:
        """The run comes by."""
        await self.till.billing.payouts.pay(self.developer_id)

    async def reverse(self) -> None:
        """Somebody takes some of it back at Stripe."""
        sent = [each for each in self._transfers() if each["amount"] > each["amount_reversed"]]
        if sent:
            transfer = self.dice.choice(sent)
            self.till.stripe.reverse_transfer(
                transfer["id"], self.dice.randint(1, transfer["amount"] - transfer["amount_reversed"])
            )

    async def tell(self) -> None:
        """The news of every transfer arrives, in any order, some of it twice."""
        for transfer in self.dice.choices(transfers, k=len(transfers) + 1) if (transfers := self._transfers()) else ():
            await self.till.billing.payouts.apply(transfer["id"])

    async def look(self) -> None:
        """The reconciler comes by."""
        self.till.clock.advance(self.dice.choice((60, 300, 90_000)))
        await self.till.billing.reconciler.run()

    def books(self) -> tuple[int, int]:
        """(what the ledger has paid out, what it must have) in micros."""
        rows = [row for row in journal_of(self.till.ledger) if row.developer_id == self.developer_id]
        out = sum(row.amount_micros for row in rows if row.kind == Kind.PAYOUT)
        back = sum(row.amount_micros for row in rows if row.kind == Kind.COME_BACK)
        waiting = sum(
            payment.amount.micros
            for payment in self.till.payments(PaymentKind.PAYOUT, owner_id=self.developer_id)
            if payment.state in UNDER_WAY
        )
        return out - back, self.till.stripe.paid_out(self.account) * CENT + waiting

    def _transfers(self) -> list[dict[str, Any]]:
        return [each for each in self.till.stripe.store.newest("transfer") if each["destination"] == self.account]
