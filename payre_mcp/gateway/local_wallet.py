"""The consumer's side of a ledger in this process. Reads the journal; moves no money."""

import anyio.to_thread

from payre_mcp.errors import NotFound, ReceiptInvalid
from payre_mcp.gateway.access import Access
from payre_mcp.gateway.base import Balance, ChargePage, ChargeView, TopUpView
from payre_mcp.gateway.statement import Statements
from payre_mcp.gateway.top_ups import TopUps
from payre_mcp.ids import format_id, parse_id
from payre_mcp.keys import Mode
from payre_mcp.ledger.model import CHARGES
from payre_mcp.ledger.store import Journal
from payre_mcp.money import Money
from payre_mcp.receipts import Receipt

_PAGE = 100


class LocalWallet:
    """`Wallet` over a ledger of this process."""

    def __init__(self, *, access: Access, journal: Journal, statements: Statements, top_ups: TopUps, mode: Mode) -> None:
        self._access, self._journal, self._statements, self._top_ups = access, journal, statements, top_ups
        self._mode = mode

    async def get_balance(self, api_key: str) -> Balance:
        """Balance, held and available."""
        record = await self._access.live_consumer(api_key)
        account = await anyio.to_thread.run_sync(self._journal.account, record.part, record.owner_id)
        assert account is not None
        return Balance(
            consumer=format_id("con", account.id),
            balance=Money(account.balance_micros),
            held=Money(account.held_micros),
            available=Money(account.available_micros),
            mode=self._mode,
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

    async def verify_receipt(self, api_key: str, receipt: str) -> Receipt:
        """What a receipt of this consumer says."""
        record = await self._access.live_consumer(api_key)
        checked = self._statements.verify(receipt)
        if checked.consumer != format_id("con", record.owner_id):
            raise ReceiptInvalid("This ledger did not sign this receipt, or it was altered since.", reason="unknown")
        return checked
