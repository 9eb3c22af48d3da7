"""The consumer's side of a ledger in this process. Reads the journal, and may lower a limit; moves no money."""

from collections.abc import Mapping, Sequence
from typing import Any

import anyio.to_thread

from payre_mcp.clock import Clock
from payre_mcp.directory import Directory, LimitWindow, Listing
from payre_mcp.errors import InvalidRequest, NotFound, ReceiptInvalid
from payre_mcp.gateway.access import Access
from payre_mcp.gateway.base import Balance, ChargePage, ChargeView, QuoteView, TopUpView
from payre_mcp.gateway.catalogue import sellers
from payre_mcp.gateway.key_limits import KeyLimits
from payre_mcp.gateway.quotes import Quotes
from payre_mcp.gateway.spending import SpendingReports
from payre_mcp.gateway.statement import Statements
from payre_mcp.gateway.top_ups import TopUps
from payre_mcp.gateway.views import CreditView, LimitsView, Period, ServerView, Spending
from payre_mcp.ids import format_id, parse_id
from payre_mcp.keys import Mode
from payre_mcp.ledger.model import CHARGES
from payre_mcp.ledger.store import Journal
from payre_mcp.money import Money
from payre_mcp.pricing import Target
from payre_mcp.pricing.describe import price_sentence
from payre_mcp.pricing.quote import known_of
from payre_mcp.receipts import Receipt

_PAGE = 100


class LocalWallet:
    """`Wallet` over a ledger of this process."""

    def __init__(
        self,
        *,
        access: Access,
        journal: Journal,
        directory: Directory,
        statements: Statements,
        top_ups: TopUps,
        quotes: Quotes,
        clock: Clock,
        mode: Mode,
    ) -> None:
        self._access, self._journal, self._directory = access, journal, directory
        self._statements, self._top_ups, self._quotes, self._mode = statements, top_ups, quotes, mode
        self._limits, self._spending = KeyLimits(directory, journal, clock), SpendingReports(journal, clock)

    async def get_balance(self, api_key: str) -> Balance:
        """Balance, held and available, and free credit."""
        record = await self._access.live_consumer(api_key)
        account = await anyio.to_thread.run_sync(self._journal.account, record.part, record.owner_id)
        assert account is not None
        credit = await anyio.to_thread.run_sync(self._directory.credits_of, record.owner_id)
        return Balance(
            consumer=format_id("con", account.id),
            balance=Money(account.balance_micros),
            held=Money(account.held_micros),
            available=Money(account.available_micros),
            mode=self._mode,
            credit=[CreditView(server.name, available) for server, available in credit],
        )

    async def create_top_up(self, api_key: str, amount: Money) -> TopUpView:
        """Ask for a top-up of $5 to $500."""
        record = await self._access.live_consumer(api_key)
        return await self._top_ups.create(record.owner_id, amount)

    async def get_top_up(self, api_key: str, top_up_id: str) -> TopUpView:
        """Whether a top-up was paid."""
        record = await self._access.live_consumer(api_key)
        return await self._top_ups.get(record.owner_id, top_up_id)

    async def list_charges(self, api_key: str, *, cursor: str | None = None, limit: int = 20) -> ChargePage:
        """The consumer's charges, newest first; at most 100 a page."""
        record = await self._access.live_consumer(api_key)
        size = max(1, min(limit, _PAGE))
        before = 0 if cursor is None else parse_id("chg", cursor)
        rows = await anyio.to_thread.run_sync(
            lambda: self._journal.charges(record.part, record.owner_id, before=before, limit=size + 1)
        )
        charges = [self._statements.charge(row) for row in rows[:size]]
        return ChargePage(charges, charges[-1].id if len(rows) > size else None)

    async def get_charge(self, api_key: str, charge_id: str) -> ChargeView:
        """One charge with its receipt."""
        record = await self._access.live_consumer(api_key)
        row = await anyio.to_thread.run_sync(self._journal.transfer, record.part, parse_id("chg", charge_id))
        if row is None or row.kind not in CHARGES or row.consumer_id != record.owner_id:
            raise NotFound("no such charge of this account")
        return self._statements.charge(row)

    async def quote_price(
        self,
        api_key: str,
        target: Target,
        *,
        server: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        usage: Mapping[str, object] | None = None,
    ) -> QuoteView:
        """What a call would cost this consumer now."""
        record = await self._access.live_consumer(api_key)
        listing = await self._listing(target, server)
        plan = listing.spec.plan_of(arguments)
        known = known_of(plan, arguments)
        quote = await self._quotes.quote(plan, known, usage, server_id=listing.server.id, target=target, record=record)
        return QuoteView(listing.server.name, target, price_sentence(listing.spec), quote)

    async def get_limits(self, api_key: str) -> LimitsView:
        """The limits of this key as they stand now."""
        record = await self._access.live_consumer(api_key)
        return await anyio.to_thread.run_sync(self._limits.show, record)

    async def lower_limit(self, api_key: str, window: LimitWindow, amount: Money, *, tool: str | None = None) -> LimitsView:
        """Lower one limit of this key, or set it where there is none."""
        record = await self._access.live_consumer(api_key)
        return await anyio.to_thread.run_sync(self._limits.lower, record, window, amount, tool)

    async def get_spending(self, api_key: str, period: Period = "month") -> Spending:
        """What the account spent in this UTC period."""
        record = await self._access.live_consumer(api_key)
        return await anyio.to_thread.run_sync(self._spending.report, record, period)

    async def list_servers(self, api_key: str, query: str = "") -> tuple[Sequence[ServerView], bool]:
        """Servers with a current price list."""
        await self._access.live_consumer(api_key)
        return await anyio.to_thread.run_sync(sellers, self._directory, query)

    async def _listing(self, target: Target, server: str | None) -> Listing:
        """The one current price that is meant."""
        found = await anyio.to_thread.run_sync(self._directory.listings, target)
        meant = [listing for listing in found if server in (None, listing.server.name)]
        if not meant:
            known = f"; {', '.join(listing.server.name for listing in found)} has" if found else ""
            raise NotFound(
                f"no server {server or ''} has a price for the {target.kind} {target.name!r}{known}".replace("  ", " ")
            )
        if len(meant) > 1:
            names = ", ".join(listing.server.name for listing in meant)
            raise InvalidRequest(f"several servers have a price for the {target.kind} {target.name!r}: {names}. Name one of them")
        return meant[0]

    async def verify_receipt(self, api_key: str, receipt: str) -> Receipt:
        """What a receipt of this consumer says."""
        record = await self._access.live_consumer(api_key)
        checked = self._statements.verify(receipt)
        if checked.consumer != format_id("con", record.owner_id):
            raise ReceiptInvalid("This ledger did not sign this receipt, or it was altered since.", reason="unknown")
        return checked
