"""Top-ups of a ledger in this process: asking for one, its link, and paying it with test money."""

from collections.abc import Callable, Sequence
from functools import partial

import anyio.to_thread

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.directory import Directory, TopUpRequest
from payre_mcp.errors import InsufficientBalance, InvalidRequest, NotFound
from payre_mcp.gateway.base import TopUpStatus, TopUpView
from payre_mcp.gateway.waiting import AsyncWriter
from payre_mcp.ids import IdFactory, format_id, parse_id
from payre_mcp.keys import Mode
from payre_mcp.ledger.model import TopUp
from payre_mcp.ledger.store import Journal
from payre_mcp.money import MICROS_PER_CENT, Money
from payre_mcp.payments import Payment, PaymentState

TOP_UP_LIFE_US = 24 * 3600 * US_PER_S
TIME_TO_PAY_US = 3600 * US_PER_S
"""A link with less time left is not shown again."""

SMALLEST, LARGEST = Money.parse(5), Money.parse(500)
COMMAND_LINE_HINT = "Top up with `payre top-up` on the machine that keeps the ledger"


class TopUps:
    """What wallet, gateway, and the page behind a top-up link need.

    `page` is the address where a pay page is mounted, `amounts` the smallest and the largest top-up, and `find_payment`
    tells how far a payment by card is; it blocks.
    """

    def __init__(
        self, *, writer: AsyncWriter, journal: Journal, directory: Directory, ids: IdFactory, clock: Clock, page: str | None,
        find_payment: Callable[[int], Payment | None], amounts: tuple[Money, Money] = (SMALLEST, LARGEST),
    ) -> None:  # fmt: skip
        self._writer, self._journal, self._directory = writer, journal, directory
        self._ids, self._clock, self._find_payment = ids, clock, find_payment
        self.page, self.amounts = page, amounts
        self._suggested: dict[int, TopUpRequest] = {}

    async def create(self, consumer_id: int, amount: Money) -> TopUpView:
        """A pending top-up. Raises `InvalidRequest` outside of the operator's range, or in parts of cents."""
        self.check(amount)
        return await self._view(await self._request(consumer_id, amount))

    def check(self, amount: Money) -> None:
        """Raise `InvalidRequest` for an amount that nobody can top up."""
        smallest, largest = self.amounts
        if not smallest <= amount <= largest:
            raise InvalidRequest(f"a top-up is {smallest} to {largest}, not {amount}; nothing was charged")
        if amount.micros % MICROS_PER_CENT:
            raise InvalidRequest(f"a top-up is in whole cents, not {amount}; nothing was charged")

    @property
    def mode(self) -> Mode:
        """Which money the ledger holds."""
        return self._directory.mode

    async def change_amount(self, token: str, amount: Money) -> bool:
        """Ask for another amount by this link; False, and nothing changes, where it is over or somebody began to pay it.

        Raises:
            NotFound: No such link.
            InvalidRequest: As `create`.
        """
        self.check(amount)
        request = await self._by_token(token)
        if (await self._view(request)).status != "pending":
            return False
        return await anyio.to_thread.run_sync(self._directory.set_top_up_amount, request.id, amount)

    async def get(self, consumer_id: int, top_up_id: str) -> TopUpView:
        """A consumer's own top-up. Raises `NotFound`."""
        number = parse_id("top", top_up_id)
        request = await anyio.to_thread.run_sync(lambda: self._directory.find_top_up(top_up_id=number))
        if request is None or request.consumer_id != consumer_id:
            raise NotFound("no such top-up of this account")
        return await self._view(request)

    async def list(self, consumer_id: int, *, before: int, limit: int) -> Sequence[TopUpView]:
        """A consumer's own top-ups, newest first, from before this one; 0 is the newest."""
        wanted = partial(self._directory.top_ups, consumer_id, before=before, limit=limit)
        return [await self._view(each) for each in await anyio.to_thread.run_sync(wanted)]

    async def find_top_up(self, token: str) -> TopUpView:
        """The top-up of a link, by the secret token in it. Raises `NotFound`."""
        request = await self._by_token(token)
        return await self._view(request)

    async def pay_test_top_up(self, token: str) -> TopUpView:
        """Credit a pending top-up with test money, once however often it is called.

        Raises:
            NotFound: No such top-up.
            InvalidRequest: It has expired, or this ledger holds live money.
        """
        request = await self._by_token(token)
        if self._directory.mode != Mode.TEST:
            raise InvalidRequest("this ledger holds live money; it is topped up by card only")
        view = await self._view(request)
        if view.status == "expired":
            raise InvalidRequest("this top-up link has expired; ask for a new one. Nothing was credited")
        await self._credit(request)
        return await self._view(request)

    async def credit_test_money(self, consumer_id: int, amount: Money) -> TopUpView:
        """Ask and pay in one, for the command line and sandboxes; any amount above zero, test money only."""
        if self._directory.mode != Mode.TEST:
            raise InvalidRequest("this ledger holds live money; it is topped up by card only")
        request = await self._request(consumer_id, amount)
        await self._credit(request)
        return await self._view(request)

    async def advise(self, error: InsufficientBalance, consumer_id: int) -> None:
        """Tell a refusal where to top up. A consumer who is refused again gets the same link, not a new one."""
        if self.page is None:
            error.hint = COMMAND_LINE_HINT
            return
        request = self._suggested.get(consumer_id)
        if request is None or not await self._is_good(request):
            short = -(-(error.shortfall_micros or 0) // MICROS_PER_CENT) * MICROS_PER_CENT
            request = await self._request(consumer_id, self.nearest(Money(short)))
            self._suggested[consumer_id] = request
        error.top_up_url = self._url(request)

    def nearest(self, amount: Money) -> Money:
        """This amount, or the one next to it that can be topped up."""
        smallest, largest = self.amounts
        return min(max(smallest, amount), largest)

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

    async def _is_good(self, request: TopUpRequest) -> bool:
        """Whether a link may be shown again: a payment is on its way, or there is time to make one."""
        status = (await self._view(request)).status
        has_time = request.expires_at - self._clock.now_us() > TIME_TO_PAY_US
        return status == "processing" or (status == "pending" and has_time)

    async def _is_paid(self, request: TopUpRequest) -> bool:
        row = await anyio.to_thread.run_sync(self._journal.paid, request.part, request.consumer_id, 0, _credit_key(request))
        return row is not None

    async def _view(self, request: TopUpRequest) -> TopUpView:
        payment = await anyio.to_thread.run_sync(self._find_payment, request.id)
        return TopUpView(
            id=format_id("top", request.id),
            consumer=format_id("con", request.consumer_id),
            amount=payment.amount if payment else request.amount,
            status="completed" if await self._is_paid(request) else self._unpaid(request, payment),
            url=self._url(request),
            expires_at=request.expires_at,
        )

    def _unpaid(self, request: TopUpRequest, payment: Payment | None) -> TopUpStatus:
        """How far a top-up is that was not credited yet."""
        known = _STATES.get(payment.state) if payment else None
        return known or ("expired" if request.expires_at <= self._clock.now_us() else "pending")

    def _url(self, request: TopUpRequest) -> str | None:
        return f"{self.page}/{request.token}" if self.page else None


_STATES: dict[PaymentState, TopUpStatus] = {
    PaymentState.PROCESSING: "processing", PaymentState.SUCCEEDED: "processing", PaymentState.FAILED: "failed",
    PaymentState.EXPIRED: "expired",
}  # fmt: skip
"""What the state of a payment by card says of a top-up that is not credited."""


def _credit_key(request: TopUpRequest) -> str:
    """One request credits once, whatever happens to its page."""
    return format_id("top", request.id)
