"""The wallet's tools. They read, ask for a link that a person pays, or lower a limit; none moves money, raises a limit or makes
a key."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, Protocol

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, TextContent
from pydantic import Field

from payre_mcp.directory import LimitWindow
from payre_mcp.errors import Forbidden, InvalidApiKey, InvalidRequest, PayreError, ReceiptInvalid, Unauthorized
from payre_mcp.gateway.base import Wallet
from payre_mcp.gateway.error_document import document_of
from payre_mcp.gateway.views import Period
from payre_mcp.identity import caller_key, peer_address, request_headers, request_meta
from payre_mcp.money import InvalidAmount, Money
from payre_mcp.pricing import Target
from payre_mcp.throttle import Throttle
from payre_mcp.wallet.facts import BalanceFacts, ChargeFacts, ChargesFacts, QuoteFacts, ReceiptFacts, TopUpFacts
from payre_mcp.wallet.reports import LimitsFacts, ServersFacts, SpendingFacts


class _Facts(Protocol):
    def sentence(self) -> str: ...

    def model_dump(self) -> dict[str, Any]: ...


class WalletTools:
    """The tools over one wallet; each finds the caller's key in its own request."""

    def __init__(self, wallet: Wallet, throttle: Throttle) -> None:
        self._wallet, self._throttle = wallet, throttle

    async def get_balance(self, ctx: Context) -> Annotated[CallToolResult, BalanceFacts]:
        """How much money the Payre account has: balance, what is held for running calls, what is available."""
        return await self._answer(ctx, self._balance)

    async def create_top_up_link(
        self,
        ctx: Context,
        amount_usd: Annotated[float | str, Field(description="Dollars, 5 to 500 unless told else", examples=["10", "25.50"])],
    ) -> Annotated[CallToolResult, TopUpFacts]:
        """Make a link where a person can add money to the account. Nothing is paid until they do; show them the link."""
        return await self._answer(ctx, lambda key: self._create_top_up(key, amount_usd))

    async def get_top_up(self, ctx: Context, top_up_id: str) -> Annotated[CallToolResult, TopUpFacts]:
        """Whether a top-up has been paid: pending, processing, completed, failed or expired. Ask at least 5 seconds apart."""
        return await self._answer(ctx, lambda key: self._top_up(key, top_up_id))

    async def list_charges(
        self,
        ctx: Context,
        limit: Annotated[int, Field(ge=1, le=100)] = 20,
        cursor: Annotated[str | None, Field(description="next_cursor of the page before")] = None,
    ) -> Annotated[CallToolResult, ChargesFacts]:
        """What was paid for, newest first."""
        return await self._answer(ctx, lambda key: self._charges(key, limit, cursor))

    async def get_charge(self, ctx: Context, charge_id: str) -> Annotated[CallToolResult, ChargeFacts]:
        """One charge with its signed receipt."""
        return await self._answer(ctx, lambda key: self._charge(key, charge_id))

    async def quote_price(
        self,
        ctx: Context,
        name: Annotated[str, Field(description="The tool, prompt or resource, as its server lists it")],
        kind: Literal["tool", "resource", "prompt"] = "tool",
        server: Annotated[str | None, Field(description="The server's name, where several have such a tool")] = None,
        arguments: Annotated[
            dict[str, Any] | None, Field(description="What the call would send; a price may depend on it")
        ] = None,
        usage: Annotated[
            dict[str, float | str] | None, Field(description="What it would use", examples=[{"input.tokens": 800}])
        ] = None,
    ) -> Annotated[CallToolResult, QuoteFacts]:
        """What a call of a paid server would cost this account now, line by line, before it is made. Nothing is charged."""
        return await self._answer(ctx, lambda key: self._quote(key, Target(kind, name), server, arguments, usage))

    async def get_limits(self, ctx: Context) -> Annotated[CallToolResult, LimitsFacts]:
        """What this key may still spend: its limits per call, day, month and tool, what is used of each, and until when."""
        return await self._answer(ctx, self._limits)

    async def lower_limit(
        self,
        ctx: Context,
        window: Annotated[LimitWindow, Field(description="Per call, day or month; tool: per day of one tool")],
        amount_usd: Annotated[float | str | None, Field(description="Dollars, at most the limit there is", examples=["0.50"])],
        tool: Annotated[str | None, Field(description="The tool, for the window tool alone", max_length=256)] = None,
    ) -> Annotated[CallToolResult, LimitsFacts]:
        """Lower a spending limit of this key, or set one where there is none, from the next call on. Only a person can raise
        or remove it again."""
        return await self._answer(ctx, lambda key: self._lower(key, window, amount_usd, tool))

    async def get_spending(self, ctx: Context, period: Period = "month") -> Annotated[CallToolResult, SpendingFacts]:
        """What the account spent today, this month (UTC) or in all, by server and tool. Reads the newest 5,000 charges of the
        period at most, and says so when there are older ones."""
        return await self._answer(ctx, lambda key: self._spending(key, period))

    async def list_servers(
        self,
        ctx: Context,
        query: Annotated[str, Field(description="Part of the name of a server, or of something it sells", max_length=100)] = "",
    ) -> Annotated[CallToolResult, ServersFacts]:
        """Which paid servers there are, what they sell and at what price; 20 servers at most."""
        return await self._answer(ctx, lambda key: self._servers(key, query))

    async def verify_receipt(
        self, ctx: Context, receipt: Annotated[str, Field(description="The text under dev.payre/receipt in a paid result")]
    ) -> Annotated[CallToolResult, ReceiptFacts]:
        """Whether a receipt is genuine and this account's, and what it says."""
        return await self._answer(ctx, lambda key: self._receipt(key, receipt))

    async def _balance(self, key: str) -> _Facts:
        return BalanceFacts.of(await self._wallet.get_balance(key))

    async def _create_top_up(self, key: str, amount_usd: float | str) -> _Facts:
        return TopUpFacts.of(await self._wallet.create_top_up(key, _money(amount_usd)))

    async def _top_up(self, key: str, top_up_id: str) -> _Facts:
        return TopUpFacts.of(await self._wallet.get_top_up(key, top_up_id))

    async def _charges(self, key: str, limit: int, cursor: str | None) -> _Facts:
        return ChargesFacts.of(await self._wallet.list_charges(key, cursor=cursor, limit=limit))

    async def _charge(self, key: str, charge_id: str) -> _Facts:
        return ChargeFacts.of(await self._wallet.get_charge(key, charge_id))

    async def _quote(
        self,
        key: str,
        target: Target,
        server: str | None,
        arguments: dict[str, Any] | None,
        usage: dict[str, float | str] | None,
    ) -> _Facts:
        view = await self._wallet.quote_price(key, target, server=server, arguments=arguments, usage=usage or None)
        return QuoteFacts.of(view, before_the_run=not usage)

    async def _limits(self, key: str) -> _Facts:
        return LimitsFacts.of(await self._wallet.get_limits(key))

    async def _lower(
        self, key: str, window: LimitWindow, amount_usd: float | str | None, tool: str | None
    ) -> _Facts | PayreError:
        await self._wallet.get_limits(key)  # a key that is refused is refused here: below it is the limit
        if amount_usd is None:
            return Forbidden("only a person can remove a limit, with `payre keys limits`. Nothing was changed")
        try:
            return LimitsFacts.of(await self._wallet.lower_limit(key, window, _money(amount_usd), tool=tool))
        except Forbidden as error:
            return error

    async def _spending(self, key: str, period: Period) -> _Facts:
        return SpendingFacts.of(await self._wallet.get_spending(key, period))

    async def _servers(self, key: str, query: str) -> _Facts:
        return ServersFacts.of(await self._wallet.list_servers(key, query))

    async def _receipt(self, key: str, receipt: str) -> _Facts:
        try:
            return ReceiptFacts.of(await self._wallet.verify_receipt(key, receipt))
        except ReceiptInvalid as error:
            return ReceiptFacts(valid=False, reason=error.reason)

    async def _answer(self, ctx: Context, ask: Callable[[str], Awaitable[_Facts | PayreError]]) -> CallToolResult:
        """Every fact twice, as some hosts show the model only one half; an error in the same two halves.

        An error that is returned, not raised, was refused to a good key.
        """
        peer = peer_address(ctx.request_context.request)
        try:
            key = _key(ctx)
            self._throttle.check(peer, key)
            facts = await ask(key)
            self._throttle.accepted(key)
        except PayreError as error:
            if isinstance(error, InvalidApiKey | Forbidden):
                self._throttle.refused(peer)
            return _refusal(error)
        if isinstance(facts, PayreError):
            return _refusal(facts)
        return CallToolResult(content=[_text(facts.sentence())], structured_content=facts.model_dump())


def _key(ctx: Context) -> str:
    request = ctx.request_context
    key = caller_key(request_headers(request.request), request_meta(request.params))
    if key is None:
        raise Unauthorized(
            "No Payre key arrived. Send it in the X-Payre-Key header; for a wallet on stdio, set PAYRE_KEY in the client."
        )
    return key


def _money(amount_usd: float | str) -> Money:
    try:
        return Money.parse(amount_usd)
    except InvalidAmount as error:
        raise InvalidRequest(f"amount_usd: {error}. Nothing was charged") from None


def _refusal(error: PayreError) -> CallToolResult:
    data = document_of(error)
    return CallToolResult(content=[_text(f"{error.message} ({error.code})")], structured_content=data, is_error=True)


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)
