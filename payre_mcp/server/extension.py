"""`Payre`: metering for an MCP server, as an extension, as a middleware, or installed on a server that exists."""

import logging
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Literal, Protocol, TypeGuard, TypeVar, cast

import anyio
import anyio.to_thread
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import CallToolRequestParams, RequestParams
from pydantic import SecretStr

from payre_mcp.clock import US_PER_S, Clock, SystemClock
from payre_mcp.connection import connect, shown_address
from payre_mcp.errors import PayreError, PayreUnavailable
from payre_mcp.gateway.base import Gateway
from payre_mcp.gateway.hub_address import HubAddress, is_hub
from payre_mcp.identity import caller_key, request_headers, request_meta
from payre_mcp.logs import redact_handlers
from payre_mcp.money import Money
from payre_mcp.pricing import PriceSpec, Target
from payre_mcp.receipts import KeyRing
from payre_mcp.server.by_hand import ByHand, Charged, Consumed, KeyCheck
from payre_mcp.server.host import SdkHost
from payre_mcp.server.middleware import Metering
from payre_mcp.server.prices import PricingSource
from payre_mcp.server.rounds import seal_states
from payre_mcp.settings import load_settings

logger = logging.getLogger(__name__)

_PUBLISH_WITHIN_S = 2.2
"""A call that finds the prices not published yet waits so long for it; a call is refused within two and a half seconds."""


class Meterable(Protocol):
    """What every server has that `Payre` can be installed on."""

    @property
    def name(self) -> str:
        """The name under which its calls are charged."""
        ...


_Server = TypeVar("_Server", bound=Meterable)


class QuoteParams(RequestParams):
    """What `payre/quote` asks: the price of a call of this tool, prompt or resource with these arguments."""

    name: str
    kind: Literal["tool", "resource", "prompt"] = "tool"
    arguments: dict[str, Any] | None = None


class Payre(Extension):
    """Prices for what one MCP server offers, and the ledger that charges for them.

    With neither `url` nor `gateway` the settings say where the ledger is, by default a test ledger in the user's data
    folder. It is opened when the server starts, never at import. A hub (`https://`) takes a `secret_key` as well, from the
    settings where none is given.

    Examples:
        >>> payre = Payre("sqlite:///payre.db", prices={"search": "0.005"})
        >>> payre.install(MCPServer("library")).name
        'library'
    """

    identifier = "dev.payre/metering"

    def __init__(
        self,
        url: str | None = None,
        *,
        secret_key: str | None = None,
        prices: PricingSource | None = None,
        gateway: Gateway | None = None,
        server_name: str = "mcp-server",
        in_description: bool = True,
        clock: Clock | None = None,
        top_up_wait_s: float | None = None,
    ) -> None:
        self._url, self._secret_key = url, secret_key
        self._gateway, self._lent = gateway, gateway is not None
        self._published: dict[Target, PriceSpec] = {}
        self._users = self._publish_again_at = 0
        self._opening = anyio.Lock()
        self._clock = clock or SystemClock()
        self.metering = Metering(
            self,
            server_name=server_name,
            in_description=in_description,
            clock=self._clock,
            top_up_wait_s=top_up_wait_s,
        )
        self._by_hand = ByHand(self, self.metering)
        if prices is not None:
            self.pricing(prices)

    def pricing(self, prices: PricingSource, *, by_hand: bool = False) -> None:
        """Give tools, resources and prompts their prices: by name, or from a price file, which is read once and now.

        Names are those of tools, or `resource:<uri>` and `prompt:<name>`. All problems are reported together and then
        nothing is taken over.

        With `by_hand` calls are not charged by these prices: the program charges itself, at most so much, with `charge`
        or `consume`. Such a price may name what the server does not have.

        Raises:
            PriceSpecInvalid: A price cannot be used, or a target has one already.
        """
        self.metering.prices.add(prices, by_hand=by_hand)

    def install(self, server: _Server) -> _Server:
        """Meter a server that exists, and return it: an `MCPServer`, or a `FastMCP` of FastMCP 4. One `Payre`, one server.

        Raises:
            TypeError: It is no such server.
            ValueError: This `Payre` meters another server, or the server has a `Payre` already.
        """
        host: object = server
        if isinstance(host, MCPServer):
            metered = cast("MCPServer[Any]", host)
            self.attach(metered)
            seal_states(metered.middleware, metered.name)
            metered.middleware.append(self)
        elif _is_fastmcp(host):
            from payre_mcp.server.fastmcp import install  # noqa: PLC0415

            install(self, host)
        else:
            raise TypeError(f"Payre installs on an MCPServer of mcp 2 or a FastMCP of fastmcp 4, not on {type(server).__name__}")
        return server

    @classmethod
    def of(cls, server: object) -> "Payre | None":
        """The `Payre` that meters a server; None where there is none."""
        chain: Sequence[object] = server.middleware if isinstance(server, MCPServer) else ()
        if not isinstance(server, MCPServer) and _is_fastmcp(server):
            from payre_mcp.server.fastmcp import wire_middleware  # noqa: PLC0415

            chain = wire_middleware(server)
        return next((each for each in chain if isinstance(each, Payre)), None)

    def attach(self, server: MCPServer[Any]) -> None:
        """Bind to the server that this object was given to. Raises `ValueError` when it meters another one."""
        self.metering.attach(SdkHost(server), server.name)
        redact_handlers()  # the SDK has just made its own, and writes whole requests at DEBUG

    def lend(self, gateway: Gateway) -> None:
        """Use an open gateway from now on; whoever lends it closes it."""
        self._gateway, self._lent, self._published = gateway, True, {}

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Open the ledger and publish the prices on entry; close it when the last user leaves.

        Raises:
            PriceSpecInvalid: A price names nothing that the server has.
        """
        self._users += 1
        try:
            await self.metering.check_targets()
            await self.start()
            yield
        finally:
            self._users -= 1
            if not self._users:
                with anyio.CancelScope(shield=True):
                    await self.aclose()

    async def start(self) -> None:
        """`ready`, for a server that starts: where the ledger cannot be reached yet, what is free is served all the same."""
        try:
            await self.ready()
        except PayreUnavailable as error:
            if self._gateway is None:
                raise
            logger.warning("priced calls are refused until the ledger can be reached: %s", error.message)

    async def ready(self) -> Gateway:
        """The open gateway, the current prices published. Opened once, however many ask."""
        gateway = self._gateway
        if gateway is not None and len(self._published) == len(self.metering.prices.adverts):
            return gateway
        async with self._opening:
            if self._gateway is None:
                self._gateway = await anyio.to_thread.run_sync(self._open)
            if len(self._published) != len(self.metering.prices.adverts):
                redact_handlers()  # and those that were made since
                await self._publish(self._gateway)
            return self._gateway

    async def _publish(self, gateway: Gateway) -> None:
        """Publish the prices, in the time that a caller waits; who comes within a second of a failure is refused at once."""
        now = self._clock.elapsed_us()
        if self._publish_again_at > now:
            raise PayreUnavailable
        self._publish_again_at = now + US_PER_S
        prices = self.metering.prices.published
        with anyio.move_on_after(_PUBLISH_WITHIN_S):
            await gateway.publish(self.metering.server_name, prices)
            self._published, self._publish_again_at = prices, 0
            return
        raise PayreUnavailable

    async def charge(
        self, key: str | None, tool: str, amount: Money | str | float, *, idempotency_key: str | None = None
    ) -> Charged:
        """Charge a consumer by hand: `amount` dollars for `tool`, which has a published price and costs at most that.

        Inside a call that this server meters it is held at once, and captured or voided with that call; elsewhere it is
        charged at once, on disk when this returns. A round that asks its caller something gives it back: charge in the one that
        answers. With an idempotency key it is charged once, however often it is asked.
        Something that is not a tool is named `resource:<uri>` or `prompt:<name>`.

        An error that a tool lets pass is what its caller reads.

        Raises:
            PaymentRequired: No key.
            PriceMismatch: No such price, or the amount is above it.
            InsufficientBalance: Less is available; nothing was charged.
            InvalidApiKey: The key is unknown, revoked, expired or malformed.
            Forbidden: The key is of another role or mode, or bound to another server.
            IdempotencyConflict: The idempotency key was used for another amount or tool.
            PayreUnavailable: The ledger cannot be reached.
        """
        return await self._by_hand.charge(key, tool, amount, idempotency_key)

    async def validate_key(self, key: str) -> KeyCheck:
        """Whether a consumer's key can pay here: it is good, for this server, and there is money. False where it cannot.

        Raises:
            ValueError: The key is empty.
            PayreUnavailable: The ledger cannot be reached.
        """
        return await self._by_hand.validate_key(key)

    async def consume(
        self,
        key: str,
        amount: Money | str | float | None = None,
        usage_event_id: str = "",
        *,
        amount_cents: int | None = None,
        tool: str | None = None,
    ) -> Consumed:
        """Charge a consumer by hand, once per `usage_event_id`, and say in the answer what went wrong: it is false then.

        `amount` is in dollars; `amount_cents` in whole cents, exactly one of the two. `tool` is by default the one whose
        call runs, or the only one that has a price. Otherwise as `charge`.

        Raises:
            ValueError: No key, no `usage_event_id`, no amount or two, or it cannot be told what is charged for.
            PayreUnavailable: The ledger cannot be reached.
        """
        if (amount is None) == (amount_cents is None):
            raise ValueError("consume takes amount in dollars or amount_cents, exactly one of them")
        if amount_cents is not None and (type(amount_cents) is not int or amount_cents < 0):
            raise ValueError("amount_cents is a whole number of cents, zero or more")
        dollars = amount if amount_cents is None else Money(amount_cents * 10_000)
        return await self._by_hand.consume(key, dollars, usage_event_id, tool)

    @staticmethod
    def key_of(ctx: Context) -> str | None:
        """The Payre key that the request of a running tool carries, for charging by hand; None when it carries none.

        Raises:
            InvalidApiKey: Two different keys came.
        """
        request = ctx.request_context
        return caller_key(request_headers(request.request), request_meta(request.params))

    async def aclose(self) -> None:
        """Close the ledger, if this object opened it. It opens again when it is needed."""
        gateway = self._gateway
        if gateway is not None and not self._lent:
            self._gateway, self._published = None, {}
            await gateway.aclose()

    def methods(self) -> Sequence[MethodBinding]:
        """The request method `payre/quote`: what a call would cost, before it is made. Free, with or without a key."""
        return [MethodBinding("payre/quote", QuoteParams, self._quote)]

    def settings(self) -> dict[str, Any]:
        """What the server advertises of this extension."""
        return {"version": 1, "currency": "USD"}

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """The middleware: meters what comes over the wire."""
        return await self.metering.request(ctx, call_next)

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """The inner hook: meters what reached a priced tool without passing the middleware."""
        return await self.metering.inner_call("tool", params.name, ctx, lambda: call_next(ctx))

    async def _quote(self, ctx: ServerRequestContext[Any, Any], params: QuoteParams) -> HandlerResult:
        return await self.metering.quote(ctx, params.kind, params.name, params.arguments or {})

    def _open(self) -> Gateway:
        try:
            gateway, told = _opened(self._url, self._secret_key)
        except (PayreError, ValueError):
            raise
        except Exception as error:
            raise PayreUnavailable("the payment ledger cannot be opened; nothing ran and nothing was charged") from error
        if told:
            sys.stderr.write(f"payre: {told}\n")
        return gateway


def _opened(url: str | None, secret_key: str | None) -> tuple[Gateway, str]:
    """The gateway to a ledger, and what its operator is told of it; what was not given, the settings say."""
    if url is not None and not is_hub(url):
        return connect(url, secret_key=secret_key), ""
    settings = None if url is not None and secret_key is not None else load_settings()
    if settings is not None:
        url, secret_key = url or settings.ledger_url, secret_key or _revealed(settings.secret_key)
    assert url is not None
    if settings is None or is_hub(url):
        hub = HubAddress.parse(url, secret_key)
        return connect(hub.url, secret_key=hub.secret_key), f"charges go to the hub at {hub.url} as {hub.shown_key}"
    ring = None if settings.receipt_keys is None else KeyRing.parse(settings.receipt_keys.get_secret_value())
    gateway = connect(url, secret_key=secret_key, fee_bps=settings.fee_bps, ring=ring, free_credit=settings.free_credit_usd)
    return gateway, f"ledger at {shown_address(url)}; make a consumer key with: payre keys create"


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _is_fastmcp(server: object) -> TypeGuard[Any]:
    """Whether this is a server of FastMCP, told without loading it. Raises `TypeError` for a version that is not known."""
    if not any((cls.__module__.split(".")[0], cls.__name__) == ("fastmcp", "FastMCP") for cls in type(server).__mro__):
        return False
    installed = version("fastmcp")
    if installed.split(".")[0] != "4":
        raise TypeError(f"Payre installs on servers of FastMCP 4, and this is one of {installed}: pip install 'fastmcp>=4.1,<5'")
    return True
