"""`PaidMCPServer`: an `MCPServer` whose tools can carry a price, by decorator or as methods of a subclass."""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from mcp.server.context import ServerMiddleware
from mcp.server.extension import Extension
from mcp.server.lowlevel.server import LifespanResultT
from mcp.server.mcpserver import MCPServer
from mcp_types import Icon, ToolAnnotations

from payre_mcp.identity import serving_stdio
from payre_mcp.pricing import PriceSource, Target
from payre_mcp.server.extension import Payre
from payre_mcp.server.host import SdkHost
from payre_mcp.server.prices import PricingSource
from payre_mcp.settings import load_settings

_Function = TypeVar("_Function", bound=Callable[..., Any])
_MARK = "__payre_tool__"
_SET_BY_INIT = ("payre", "settings", "dependencies")
"""Attributes of every server that its class does not show."""

Lifespan = Callable[[MCPServer[LifespanResultT]], AbstractAsyncContextManager[LifespanResultT]]


def tool(*, price: PriceSource | None = None, **tool_options: Any) -> Callable[[_Function], _Function]:
    """Mark a method of a `PaidMCPServer` subclass as a tool; `tool_options` are those of `MCPServer.tool`.

    Examples:
        class Weather(PaidMCPServer):
            @tool(price="0.005")
            async def forecast(self, city: str) -> str: ...
    """

    return _mark("tool", {"price": price, **tool_options})


def resource(uri: str, *, price: PriceSource | None = None, **resource_options: Any) -> Callable[[_Function], _Function]:
    """Mark a method of a `PaidMCPServer` subclass as a resource, or as a template where `uri` has parameters.

    `resource_options` are those of `MCPServer.resource`. The price of a template holds for every address that fits it.
    """
    return _mark("resource", {"uri": uri, "price": price, **resource_options})


def prompt(*, price: PriceSource | None = None, **prompt_options: Any) -> Callable[[_Function], _Function]:
    """Mark a method of a `PaidMCPServer` subclass as a prompt; `prompt_options` are those of `MCPServer.prompt`."""
    return _mark("prompt", {"price": price, **prompt_options})


def _mark(kind: str, options: dict[str, Any]) -> Callable[[_Function], _Function]:
    def mark(method: _Function) -> _Function:
        setattr(method, _MARK, (kind, options))
        return method

    return mark


class PaidMCPServer(MCPServer[LifespanResultT]):
    """An MCP server that charges for its tools, resources and prompts; those without a price work as in `MCPServer`.

    The ledger opens when the server starts and closes when it stops. `payre` is a `Payre`, or the address of a ledger;
    without it the settings say where the ledger is.

    Raises:
        PriceSpecInvalid: A price cannot be used, or names no tool (then when the server starts).
    """

    def __init__(
        self,
        name: str,
        *,
        payre: Payre | str | None = None,
        pricing: PricingSource | None = None,
        lifespan: Lifespan[LifespanResultT] | None = None,
        extensions: Sequence[Extension] = (),
        middleware: Sequence[ServerMiddleware[Any]] = (),
        **mcp_options: Any,
    ) -> None:
        self.payre = payre if isinstance(payre, Payre) else Payre(payre)
        if pricing is not None:
            self.payre.pricing(pricing)

        @asynccontextmanager
        async def metered(server: MCPServer[LifespanResultT]) -> AsyncGenerator[LifespanResultT]:
            async with self.payre.running():
                if lifespan is None:
                    yield {}  # pyright: ignore[reportReturnType] - as the SDK's own default lifespan
                else:
                    async with lifespan(server) as state:
                        yield state

        super().__init__(
            name,
            lifespan=metered,
            extensions=(*extensions, self.payre),
            middleware=(*middleware, self.payre),
            **mcp_options,
        )
        self.payre.attach(self)
        for method, (kind, options) in self._marked_methods():
            getattr(self, kind)(**options)(method)

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse a marked method that would hide a part of the server itself."""
        super().__init_subclass__(**options)
        for name, value in vars(cls).items():
            if hasattr(value, _MARK) and (hasattr(PaidMCPServer, name) or name in _SET_BY_INIT):
                raise TypeError(
                    f"{cls.__name__}.{name} would replace MCPServer.{name}; name the method differently and pass name={name!r}"
                )

    def tool(
        self,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        annotations: ToolAnnotations | None = None,
        icons: list[Icon] | None = None,
        meta: dict[str, Any] | None = None,
        structured_output: bool | None = None,  # noqa: FBT001 - the SDK's own parameters
        *,
        price: PriceSource | None = None,
    ) -> Callable[[_Function], _Function]:
        """Register a tool, as `MCPServer.tool`; with a `price`, every successful call costs it.

        Raises:
            PriceSpecInvalid: `price` is not an exact amount of dollars.
            ValueError: A tool of this name exists and one of the two has a price.
        """
        register = super().tool(name, title, description, annotations, icons, meta, structured_output)

        def decorate(function: _Function) -> _Function:
            self._put_price("tool", name or function.__name__, price)
            return register(function)

        return decorate

    def resource(self, uri: str, *, price: PriceSource | None = None, **options: Any) -> Callable[[_Function], _Function]:
        """Register a resource or a template, as `MCPServer.resource`; with a `price`, every successful reading costs it.

        Raises:
            PriceSpecInvalid: `price` is no price.
            ValueError: A resource of this address exists already.
        """
        register = super().resource(uri, **options)

        def decorate(function: _Function) -> _Function:
            self._put_price("resource", uri, price)
            return register(function)

        return decorate

    def prompt(
        self,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        icons: list[Icon] | None = None,
        *,
        price: PriceSource | None = None,
    ) -> Callable[[_Function], _Function]:
        """Register a prompt, as `MCPServer.prompt`; with a `price`, every successful rendering costs it.

        Raises:
            PriceSpecInvalid: `price` is no price.
            ValueError: A prompt of this name exists already.
        """
        register = super().prompt(name, title, description, icons)

        def decorate(function: _Function) -> _Function:
            self._put_price("prompt", name or function.__name__, price)
            return register(function)

        return decorate

    def add_tool(self, fn: Callable[..., Any], name: str | None = None, *args: Any, **options: Any) -> None:
        """Register a function as a tool, as `MCPServer.add_tool`. Raises `ValueError` for the name of a priced tool."""
        tool_name = name or fn.__name__
        if self._tool_manager.get_tool(tool_name) is not None and self._is_priced("tool", tool_name):
            raise ValueError(f"the priced tool {tool_name!r} exists already; give the other one another name")
        super().add_tool(fn, name, *args, **options)

    def remove_tool(self, name: str) -> None:
        """Remove a free tool. Raises `ValueError` for a priced one: its price would name nothing."""
        if self._is_priced("tool", name):
            raise ValueError(f"the tool {name!r} has a price and cannot be removed")
        super().remove_tool(name)

    def remove_prompt(self, name: str) -> None:
        """Remove a free prompt. Raises `ValueError` for a priced one: its price would name nothing."""
        if self._is_priced("prompt", name):
            raise ValueError(f"the prompt {name!r} has a price and cannot be removed")
        super().remove_prompt(name)

    async def run_stdio_async(self) -> None:
        """Serve on stdio, where `PAYRE_KEY` pays for calls that carry no key of their own."""
        key = load_settings().key
        with serving_stdio(None if key is None else key.get_secret_value()):
            await super().run_stdio_async()

    def _put_price(self, kind: str, name: str, price: PriceSource | None) -> None:
        if price is None:
            return
        if name in SdkHost(self).names(kind):
            raise ValueError(f"a {kind} {name!r} exists already; a price cannot be put on it twice or later")
        self.payre.pricing({Target(kind, name).label: price})

    def _is_priced(self, kind: str, name: str) -> bool:
        return Target(kind, name) in self.payre.metering.prices.specs

    def _marked_methods(self) -> Iterator[tuple[Callable[..., Any], tuple[str, dict[str, Any]]]]:
        """Methods that were marked, in the order of definition, base classes first; an override counts once."""
        names = dict.fromkeys(
            name for cls in reversed(type(self).__mro__) for name, value in vars(cls).items() if hasattr(value, _MARK)
        )
        for name in names:
            method = getattr(self, name)
            if hasattr(method, _MARK):
                yield method, getattr(method, _MARK)
