"""The fake Stripe as one object: the application, the switches, and what people and banks do."""

from copy import deepcopy
from typing import Any

import httpx2
from starlette.applications import Starlette

from payre_mcp.clock import Clock
from payre_mcp.processors.fake_stripe.account_links import AccountLinks
from payre_mcp.processors.fake_stripe.accounts import Accounts, Status
from payre_mcp.processors.fake_stripe.balance import Balance
from payre_mcp.processors.fake_stripe.cards import BANK, CARDS
from payre_mcp.processors.fake_stripe.chaos import Chaos
from payre_mcp.processors.fake_stripe.charges import Charges
from payre_mcp.processors.fake_stripe.checkout import Checkout
from payre_mcp.processors.fake_stripe.customers import Customers
from payre_mcp.processors.fake_stripe.deliveries import Deliveries
from payre_mcp.processors.fake_stripe.disputes import Disputes
from payre_mcp.processors.fake_stripe.door import Door
from payre_mcp.processors.fake_stripe.endpoints import Endpoints
from payre_mcp.processors.fake_stripe.events import Events
from payre_mcp.processors.fake_stripe.intents import Intents
from payre_mcp.processors.fake_stripe.pages import Pages
from payre_mcp.processors.fake_stripe.payment_methods import PaymentMethods
from payre_mcp.processors.fake_stripe.refunds import Refunds
from payre_mcp.processors.fake_stripe.setup_intents import SetupIntents
from payre_mcp.processors.fake_stripe.store import Store
from payre_mcp.processors.fake_stripe.transfers import Transfers


class FakeStripe:
    """Stripe at the level of its wire, in memory: a real client of the stripe package cannot tell it from test mode.

    Requests are checked against the types of the installed stripe package, never against Stripe. No money moves.

    Args:
        clock: Its time: when sessions expire, and pending money becomes available.
        url: The origin at which its pages are reached.
        seed: Ids and chance come from it: the same seed and history give the same again.
        available_after_s: How long money of a charge is pending.
        http: How webhooks are sent; without one, over the network.
    """

    def __init__(
        self, *, clock: Clock, url: str = "http://stripe.test", seed: int = 0, available_after_s: int = 172_800,
        http: httpx2.AsyncClient | None = None,
    ) -> None:  # fmt: skip
        self.store = store = Store(clock, url=url, seed=seed, available_after_s=available_after_s)
        self.api_key = store.new_id("sk_test_")
        self.chaos = Chaos(seed)
        endpoints = Endpoints(store)
        self.deliveries = Deliveries(store, endpoints, self.chaos, http)
        self._events = events = Events(store, self.deliveries)
        balance, customers, self._methods = Balance(store), Customers(store, events), PaymentMethods(store, events)
        charges, self._disputes = Charges(store, events, balance), Disputes(store, events, balance)
        intents = Intents(store, events, self._methods, charges, self._disputes)
        setups = SetupIntents(store, events, self._methods)
        self._checkout = Checkout(store, events, customers, self._methods, intents, setups)
        self._refunds = Refunds(store, events, balance, self._disputes, self.chaos)
        self._accounts = Accounts(store, events)
        links = AccountLinks(store, self._accounts)
        self._transfers = Transfers(store, events, balance, self._accounts)
        nouns = (
            customers, self._checkout, intents, setups, self._methods, charges, self._refunds, self._disputes, balance,
            self._transfers, events, endpoints, self._accounts, links,
        )  # fmt: skip
        self.calls = [call for noun in nouns for call in noun.routes()]
        door = Door(store, self.chaos, self.api_key)
        pages = Pages(store, self._checkout, self._accounts, links)
        self.app = Starlette(routes=[*door.routes(self.calls), *pages.routes()])

    def transport(self) -> httpx2.ASGITransport:
        """The fake in process, for a client of the stripe package: no sockets."""
        return httpx2.ASGITransport(app=self.app)

    def events(self, *, after: int = 0) -> list[dict[str, Any]]:
        """Every event so far, oldest first, as it is delivered; without so many that came first."""
        return deepcopy(self._events.bodies[after:])

    async def deliver(self) -> int:
        """Send the webhooks that are due, and what comes due by that; answers how many were sent."""
        return await self.deliveries.deliver()

    async def run(self) -> None:
        """Send webhooks as they come, until cancelled."""
        await self.deliveries.run()

    def pay(self, session_id: str, card: str = "pm_card_visa", *, save: bool = False) -> None:
        """A person pays a session, or saves their card; a card that declines leaves it open."""
        self.store.tick()
        self._checkout.pay(session_id, CARDS[card], save=save)

    def decline(self, session_id: str) -> None:
        """A person tries a card that declines."""
        self.pay(session_id, "pm_card_chargeDeclined")

    def pay_later(self, session_id: str) -> None:
        """A person pays by a bank account, whose money takes days to come."""
        self.pay(session_id, BANK.name)

    def settle_later(self, session_id: str, *, paid: bool) -> None:
        """That bank has paid, or has not."""
        self.store.tick()
        self._checkout.settle(session_id, paid=paid)

    def replace_card(self, payment_method: str) -> None:
        """The bank sends a new card for a saved one."""
        self._methods.replace(payment_method)

    def open_dispute(self, payment_intent: str, *, amount: int | None = None, inquiry: bool = False) -> str:
        """A card's owner asks their bank for the money, all of it unless told; an inquiry takes none yet."""
        self.store.tick()
        return str(self._disputes.open(payment_intent, amount=amount, inquiry=inquiry)["id"])

    def close_dispute(self, dispute_id: str, *, won: bool) -> None:
        """The bank decides, for the platform or against it."""
        self._disputes.close(dispute_id, won=won)

    def refund_in_dashboard(self, payment_intent: str, amount: int) -> str:
        """Somebody refunds at Stripe, and nobody asked for it by the API."""
        self.store.tick()
        return str(self._refunds.create({"payment_intent": payment_intent, "amount": amount})["id"])

    def settle_refund(self, refund_id: str, *, succeeded: bool) -> None:
        """A card's bank takes a refund or sends it back, which may also happen to one that seemed to succeed."""
        self._refunds.settle(refund_id, succeeded=succeeded)

    def finish_onboarding(self, account_id: str, *, status: Status = "active") -> None:
        """A developer has told who they are, and Stripe has decided."""
        self._accounts.set_status(account_id, status)
        self._accounts.link_returned(account_id, "account_onboarding")

    def deauthorize(self, account_id: str) -> None:
        """A developer cuts their account off from the platform."""
        self._accounts.deauthorize(account_id)

    def reverse_transfer(self, transfer_id: str, amount: int | None = None) -> None:
        """Somebody takes a transfer back at Stripe, all that is left of it unless told."""
        self._transfers.reverse({} if amount is None else {"amount": amount}, transfer_id)

    def pay_out(self, account_id: str, *, paid: bool = True) -> None:
        """What a developer has at Stripe goes to their bank, which takes it or not."""
        self._accounts.pay_out(account_id, paid=paid)

    def paid_out(self, account_id: str) -> int:
        """What reached a developer's account, in cents, less what was taken back."""
        transfers = [each for each in self.store.newest("transfer") if each["destination"] == account_id]
        return sum(each["amount"] - each["amount_reversed"] for each in transfers)
