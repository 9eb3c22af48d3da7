"""The platform's balance: every movement is a balance transaction, pending until the clock is there."""

from collections.abc import Callable, Sequence

from payre_mcp.processors.fake_stripe.door import ApiRoute
from payre_mcp.processors.fake_stripe.listing import page
from payre_mcp.processors.fake_stripe.store import Store
from payre_mcp.processors.fake_stripe.wire import Json

_CATEGORIES = {"payment": "charge", "payment_refund": "refund", "refund_failure": "refund_failure"}


def charge_fee(amount: int) -> int:
    """What a card payment costs: 2.9 % and 30 cents.

    >>> charge_fee(1_000)
    59
    """
    return (amount * 29 + 500) // 1000 + 30


class Balance:
    """What the platform has at the fake Stripe, in cents of USD."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.on_more: Callable[[], None] = lambda: None
        """Called soon after money came in."""

    def routes(self) -> Sequence[ApiRoute]:
        """What is answered here."""
        path, module = "/v1/balance_transactions", "_balance_transaction"
        return (
            ApiRoute("GET", "/v1/balance", "_balance_retrieve_params:BalanceRetrieveParams", self.retrieve),
            ApiRoute("GET", path, f"{module}_list_params:BalanceTransactionListParams", self.list),
            ApiRoute("GET", f"{path}/{{id}}", f"{module}_retrieve_params:BalanceTransactionRetrieveParams", self.find),
        )

    def book(
        self, type_: str, amount: int, source: str, *, fee: int = 0, wait_s: int = 0, category: str = "", until: int = 0
    ) -> Json:
        """Move money; it is there `wait_s` seconds from now, and not before `until`."""
        now = self._store.now()
        line: Json = {
            "id": self._store.new_id("txn_"), "object": "balance_transaction", "amount": amount, "currency": "usd",
            "available_on": max(now + wait_s, until), "balance_type": "payments", "created": now, "description": None,
            "exchange_rate": None, "fee": fee, "fee_details": _fee_details(fee), "net": amount - fee,
            "reporting_category": category or _CATEGORIES.get(type_, type_), "source": source, "type": type_,
        }  # fmt: skip
        if amount > 0:
            self._store.plan(now, self.on_more)
        return self._shown(self._store.add(line))

    def available(self) -> int:
        """What can be transferred now."""
        return sum(line["net"] for line in self._lines() if line["status"] == "available")

    def total(self) -> int:
        """With what is pending."""
        return sum(line["net"] for line in self._lines())

    def retrieve(self, _: Json) -> Json:
        """The balance."""
        available, total = self.available(), self.total()
        return {
            "object": "balance", "livemode": False, "available": [_money(available)], "pending": [_money(total - available)],
            "connect_reserved": [{"amount": 0, "currency": "usd"}],
        }  # fmt: skip

    def list(self, params: Json) -> Json:
        """Balance transactions, newest first."""
        return page(self._lines(), params, "/v1/balance_transactions", by=("currency", "source", "type"))

    def find(self, _: Json, wanted: str) -> Json:
        """A balance transaction."""
        return self._shown(self._store.get("balance_transaction", wanted))

    def _lines(self) -> Sequence[Json]:
        return [self._shown(line) for line in self._store.newest("balance_transaction")]

    def _shown(self, line: Json) -> Json:
        line["status"] = "available" if line["available_on"] <= self._store.now() else "pending"
        return line


def _money(cents: int) -> Json:
    return {"amount": cents, "currency": "usd", "source_types": {"card": cents}}


def _fee_details(fee: int) -> Sequence[Json]:
    if not fee:
        return []
    return [{"amount": fee, "application": None, "currency": "usd", "description": "Stripe fees", "type": "stripe_fee"}]
