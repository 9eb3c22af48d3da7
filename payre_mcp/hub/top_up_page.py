"""The page behind a top-up link: whose account, how much, and a way to pay it.

That is a card where there is billing, and else a button that credits test money. Whoever has the link may use the page.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payre_mcp.billing.checkouts import SHORTEST_PAGE_US, RechargeWish
from payre_mcp.billing.desk import Billing
from payre_mcp.billing.office import Mismatch, Unknown, run
from payre_mcp.directory import TopUpRequest
from payre_mcp.errors import InvalidRequest, NotFound, PayreError, ProcessorError
from payre_mcp.gateway.base import TopUpStatus, TopUpView
from payre_mcp.gateway.top_ups import TopUps
from payre_mcp.hub.pages import TOP_UP_PATH, render, see_other, style_route
from payre_mcp.hub.recharge_form import amount_in, as_entered, wish_in
from payre_mcp.money import Money
from payre_mcp.payments import UNDER_WAY, Payer, Payment

logger = logging.getLogger(__name__)

PAY_PAGES = ("https://checkout.stripe.com",)
"""Where Stripe's pages to pay on are, unless the operator gave them a name of their own."""

_AMOUNTS = tuple(map(Money.parse, (5, 10, 25, 50)))
_WITHIN_S = 5.0
_MOST_FIELDS = 20

State = Literal[TopUpStatus, "confirming", "unclear", "leaving"]
Page = Callable[[Request], Awaitable[Response]]


def top_up_routes(desk: TopUps, billing: Billing | None = None, *, pay_pages: Sequence[str] = PAY_PAGES) -> Sequence[Route]:
    """The page of every top-up link, and its style. `pay_pages` are the origins at which cards are paid with."""
    page = TestMoneyPage(desk) if billing is None else CardPage(desk, billing, pay_pages)
    path = f"{TOP_UP_PATH}/{{token}}"
    return (
        Route(path, _in_any_case(desk, page.show), methods=["GET"]),
        Route(path, _in_any_case(desk, page.press), methods=["POST"]),
        style_route(),
    )


class TestMoneyPage:
    """Has a button that credits test money, once however often it is pressed."""

    __test__ = False

    def __init__(self, desk: TopUps) -> None:
        self._desk = desk

    async def show(self, request: Request) -> Response:
        """The top-up as it stands."""
        return self._page(await self._desk.find_top_up(request.path_params["token"]))

    async def press(self, request: Request) -> Response:
        """Credit it."""
        token = request.path_params["token"]
        try:
            await self._desk.pay_test_top_up(token)
        except InvalidRequest as error:
            return self._page(await self._desk.find_top_up(token), problem=error.message, status=409)
        # Back to the page by GET, so that reloading it pays nothing again.
        return see_other(request.url.path)

    def _page(self, top_up: TopUpView, *, problem: str = "", status: int = 200) -> Response:
        values = {"mode": self._desk.mode, "top_up": top_up, "state": top_up.status, "problem": problem}
        return render("top_up.html", values, status=status)


@dataclass(frozen=True, slots=True)
class Sight:
    """A top-up by card as the page finds it."""

    request: TopUpRequest
    payment: Payment | None
    """Since somebody began to pay it."""
    payer: Payer | None
    top_up: TopUpView


class CardPage:
    """Leads to the card processor's page and takes the person back from there."""

    def __init__(self, desk: TopUps, billing: Billing, pay_pages: Sequence[str]) -> None:
        self._desk, self._billing, self._pay_pages = desk, billing, pay_pages

    async def show(self, request: Request) -> Response:
        """The top-up as it stands; who comes back from paying has it confirmed first."""
        sight = await self._look(request)
        state = await self._confirm(sight.payment, request.query_params.get("session_id", ""))
        sight = await self._look(request)
        return self._page(sight, state=None if sight.top_up.status == "completed" else state)

    async def press(self, request: Request) -> Response:
        """Change the amount, go to pay, or have no recharges."""
        sight, form = await self._look(request), await _form(request)
        acts = {"amount": self._change_amount, "pay": self._pay, "once": self._drop_wish, "turn_off": self._turn_off}
        act = acts.get(form.get("act", ""))
        try:
            if act is None:
                raise InvalidRequest("nothing was asked for that this page does; nothing was charged")
            return await act(request, sight, form)
        except InvalidRequest as error:
            return self._page(await self._look(request), problem=error.message, status=error.http_status, form=form)

    async def _change_amount(self, request: Request, _: Sight, form: Mapping[str, str]) -> Response:
        if not await self._desk.change_amount(request.path_params["token"], amount_in(form, "amount")):
            raise InvalidRequest("the amount cannot be changed any more; nothing was charged by this")
        return see_other(request.url.path)

    async def _drop_wish(self, request: Request, sight: Sight, _: Mapping[str, str]) -> Response:
        if sight.payment is not None and sight.top_up.status == "pending":
            await self._billing.office.advance(sight.payment, sight.payment.state, detail="")
        return see_other(request.url.path)

    async def _turn_off(self, request: Request, sight: Sight, _: Mapping[str, str]) -> Response:
        try:
            await self._billing.recharges.turn_off(sight.request.consumer_id)
        except ProcessorError as error:  # it is off here all the same
            logger.warning("a saved card could not be forgotten at the processor: %s", error.message)
        return see_other(request.url.path)

    async def _pay(self, request: Request, sight: Sight, form: Mapping[str, str]) -> Response:
        if sight.top_up.status != "pending":
            return see_other(request.url.path)
        asked = sight.payment.amount if sight.payment else sight.request.amount
        if form.get("shown") != asked.usd:
            raise InvalidRequest(f"the amount was changed to {asked} meanwhile; nothing was charged. Pay that, or change it")
        wish = wish_in(form, self._desk)
        assert sight.top_up.url is not None
        try:
            url = await self._billing.checkouts.open(sight.request, page_url=sight.top_up.url, wish=wish)
        except ProcessorError as error:
            logger.warning("no page to pay %s on: %s", sight.top_up.id, error.message)
            text = "Cards cannot be charged at the moment. Nothing was charged; try again in a minute."
            return self._page(await self._look(request), problem=text, status=error.http_status, form=form)
        except (Mismatch, Unknown) as mismatch:
            return self._page(sight, state=_unclear(sight.top_up.id, mismatch))
        if _is_at(url, (*self._pay_pages, _origin(sight.top_up.url))):
            return see_other(url)
        # A browser lets no form end at an origin that its page did not name: from here on it is a link.
        return self._page(sight, state="leaving", pay_page=url)

    async def _confirm(self, payment: Payment | None, session_id: str) -> State | None:
        """Book what was paid on the page that a person comes back from; the state to show where that did not work out."""
        if payment is None or session_id != payment.processor_id or not session_id or payment.state not in UNDER_WAY:
            return None
        try:
            with anyio.fail_after(_WITHIN_S):
                await self._billing.checkouts.apply(session_id)
        except (ProcessorError, TimeoutError) as error:
            logger.warning("a payment waits to be confirmed: %s", error)
            return "confirming"
        except (Mismatch, Unknown) as mismatch:
            return _unclear(session_id, mismatch)
        return None

    async def _look(self, request: Request) -> Sight:
        """Raises `NotFound`."""
        token, payments = request.path_params["token"], self._billing.ledger.payments
        asked = await run(self._billing.ledger.directory.find_top_up, token=token)
        if asked is None:
            raise NotFound("no such top-up link")
        payment, payer = await run(payments.find, asked.id), await run(payments.payer, asked.consumer_id)
        return Sight(asked, payment, payer, await self._desk.find_top_up(token))

    def _page(
        self, sight: Sight, *, state: State | None = None, problem: str = "", status: int = 200,
        form: Mapping[str, str] | None = None, pay_page: str = "",
    ) -> Response:  # fmt: skip
        top_up, payment, payer = sight.top_up, sight.payment, sight.payer
        smallest, largest = self._desk.amounts
        fee = payment.fee if payment else self._billing.office.terms.fee_on(top_up.amount)
        values: dict[str, Any] = {
            "mode": self._desk.mode, "by_card": True, "top_up": top_up, "state": state or self._state(sight), "problem": problem,
            "fee": fee, "total": top_up.amount + fee, "begun": payment is not None, "pay_page": pay_page,
            "reason": payment.problem if payment else "", "wish": RechargeWish.load(payment.detail) if payment else None,
            "recharges": payer if payer is not None and payer.method_id and payer.amount else None,
            "amounts": [each for each in _AMOUNTS if smallest <= each <= largest], "smallest": smallest, "largest": largest,
            "entered": as_entered(form or {}, top_up.amount),
        }  # fmt: skip
        return render("top_up.html", values, status=status, leads_to=self._pay_pages)

    def _state(self, sight: Sight) -> State:
        """The top-up's own, save that no page to pay on is opened shortly before the link expires."""
        left = sight.request.expires_at - self._billing.clock.now_us()
        is_open = sight.payment is not None and bool(sight.payment.processor_id)
        too_late = sight.top_up.status == "pending" and not is_open and left < SHORTEST_PAGE_US
        return "expired" if too_late else sight.top_up.status


async def _form(request: Request) -> Mapping[str, str]:
    """The fields that were sent; none where they cannot be ours, as they are too many."""
    try:
        return dict(
            parse_qsl((await request.body()).decode(errors="replace"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
        )
    except ValueError:
        return {}


def _in_any_case(desk: TopUps, page: Page) -> Page:
    """A page that says so where there is no such link, or the ledger is in trouble."""

    async def answer(request: Request) -> Response:
        try:
            return await page(request)
        except NotFound:
            return render("missing.html", {"mode": desk.mode}, status=404)
        except PayreError as error:
            logger.warning("a top-up page could not be shown: %s", error.message)
            return render("trouble.html", {"mode": desk.mode}, status=error.http_status)

    return answer


def _unclear(name: str, mismatch: Exception) -> State:
    logger.critical("%s: nothing was credited, and a person has to look: %s", name, mismatch)
    return "unclear"


def _is_at(url: str, origins: Sequence[str]) -> bool:
    return _origin(url) in origins


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
