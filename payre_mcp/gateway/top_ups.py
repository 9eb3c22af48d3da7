"""Top-ups of a ledger in this process: asking for one, its link, and paying it with test money."""

from collections.abc import Sequence
from functools import partial

import anyio.to_thread

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.directory import Directory, TopUpRequest
from payre_mcp.errors import InsufficientBalance, InvalidRequest, NotFound
from payre_mcp.gateway.base import TopUpView
from payre_mcp.gateway.waiting import AsyncWriter
from payre_mcp.ids import IdFactory, format_id, parse_id
from payre_mcp.keys import Mode
from payre_mcp.ledger.model import TopUp
from payre_mcp.ledger.store import Journal
from payre_mcp.money import Money

TOP_UP_LIFE_US = 24 * 3600 * US_PER_S
SMALLEST, LARGEST = Money.parse(5), Money.parse(500)
COMMAND_LINE_HINT = "Top up with `payre top-up` on the machine that keeps the ledger"


class TopUps:
    """`TopUpDesk`, and what wallet and gateway need beside it. `page` is the address where a pay page is mounted."""

    def __init__(
        self, *, writer: AsyncWriter, journal: Journal, directory: Directory, ids: IdFactory, clock: Clock, page: str | None
    ) -> None:
        self._writer, self._journal, self._directory = writer, journal, directory
        self._ids, self._clock = ids, clock
        self.page = page
        self._suggested: dict[int, TopUpRequest] = {}

    async def create(self, consumer_id: int, amount: Money) -> TopUpView:
        """A pending top-up. Raises `InvalidRequest` outside $5 to $500."""
        if not SMALLEST <= amount <= LARGEST:
            raise InvalidRequest(f"a top-up is {SMALLEST} to {LARGEST}, not {amount}; nothing was charged")
        return self._view(await self._request(consumer_id, amount), paid=False)

    async def get(self, consumer_id: int, top_up_id: str) -> TopUpView:
        """A consumer's own top-up. Raises `NotFound`."""
        number = parse_id("top", top_up_id)
        request = await anyio.to_thread.run_sync(lambda: self._directory.find_top_up(top_up_id=number))
        if request is None or request.consumer_id != consumer_id:
            raise NotFound("no such top-up of this account")
        return self._view(request, paid=await self._is_paid(request))

    async def list(self, consumer_id: int, *, before: int, limit: int) -> Sequence[TopUpView]:
        """A consumer's own top-ups, newest first, from before this one; 0 is the newest."""
        wanted = partial(self._directory.top_ups, consumer_id, before=before, limit=limit)
        return [self._view(each, paid=await self._is_paid(each)) for each in await anyio.to_thread.run_sync(wanted)]

    async def find_top_up(self, token: str) -> TopUpView:
        """The top-up of a link; see `TopUpDesk`."""
        request = await self._by_token(token)
        return self._view(request, paid=await self._is_paid(request))

    async def pay_test_top_up(self, token: str) -> TopUpView:
        """Credit it once; see `TopUpDesk`."""
        request = await self._by_token(token)
        if self._directory.mode != Mode.TEST:
            raise InvalidRequest("this ledger holds live money; it is topped up by card only")
        view = self._view(request, paid=await self._is_paid(request))
        if view.status == "expired":
            raise InvalidRequest("this top-up link has expired; ask for a new one. Nothing was credited")
        await self._credit(request)
        return self._view(request, paid=True)

    async def credit_test_money(self, consumer_id: int, amount: Money) -> TopUpView:
        """Ask and pay in one, for the command line and sandboxes; any amount above zero, test money only."""
        if self._directory.mode != Mode.TEST:
            raise InvalidRequest("this ledger holds live money; it is topped up by card only")
        request = await self._request(consumer_id, amount)
        await self._credit(request)
        return self._view(request, paid=True)

    async def advise(self, error: InsufficientBalance, consumer_id: int) -> None:
        """Tell a refusal where to top up. A consumer who is refused again gets the same link, not a new one."""
        if self.page is None:
            error.hint = COMMAND_LINE_HINT
            return
        request = self._suggested.get(consumer_id)
        if request is None or await self._is_paid(request) or request.expires_at <= self._clock.now_us():
            short = Money(error.shortfall_micros or 0)
            request = await self._request(consumer_id, min(max(SMALLEST, short), LARGEST))
            self._suggested[consumer_id] = request
        error.top_up_url = self._view(request, paid=False).url

    async def _request(self, consumer_id: int, amount: Money) -> TopUpRequest:
        expires_at = self._clock.now_us() + TOP_UP_LIFE_US
        return await anyio.to_thread.run_sync(lambda: self._directory.create_top_up(consumer_id, amount, expires_at=expires_at))

    async def _by_token(self, token: str) -> TopUpRequest:
        request = await anyio.to_thread.run_sync(lambda: self._directory.find_top_up(token=token)) if token else None
        if request is None:
            raise NotFound("no such top-up link")
        return request

    async def _credit(self, request: TopUpRequest) -> None:
        command = TopUp(self._ids.new(), request.part, request.consumer_id, request.amount.micros, _credit_key(request))
        await self._writer.ask(command)

    async def _is_paid(self, request: TopUpRequest) -> bool:
        row = await anyio.to_thread.run_sync(self._journal.paid, request.part, request.consumer_id, 0, _credit_key(request))
        return row is not None

    def _view(self, request: TopUpRequest, *, paid: bool) -> TopUpView:
        expired = request.expires_at <= self._clock.now_us()
        return TopUpView(
            id=format_id("top", request.id),
            consumer=format_id("con", request.consumer_id),
            amount=request.amount,
            status="completed" if paid else "expired" if expired else "pending",
            url=f"{self.page}/{request.token}" if self.page else None,
            expires_at=request.expires_at,
        )


def _credit_key(request: TopUpRequest) -> str:
    """One request credits once, whatever happens to its page."""
    return format_id("top", request.id)
