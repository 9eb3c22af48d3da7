"""Where calls pass inside a FastMCP server: outside its middleware, where they are asked for, and inside it, where they run."""

import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

from fastmcp.exceptions import ToolError
from fastmcp.prompts.base import PromptResult
from fastmcp.resources.base import ResourceResult
from fastmcp.resources.template import forward_uri
from fastmcp.server import dependencies
from fastmcp.server.context import Context
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.tools.base import ToolResult
from fastmcp.utilities.versions import VersionSpec
from mcp.server.context import CallNext as WireNext
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp_types import CallToolRequestParams, GetPromptRequestParams, ReadResourceRequestParams
from pydantic_core import to_jsonable_python

from payre_mcp.errors import PriceSpecInvalid
from payre_mcp.identity import serving_stdio
from payre_mcp.pricing import Target
from payre_mcp.server.extension import Payre
from payre_mcp.server.fastmcp.host import FastMCPHost, behind, name_of, unfiltered
from payre_mcp.server.fastmcp.shapes import SHAPES
from payre_mcp.server.nested import Call, Nested, at_wire
from payre_mcp.settings import load_settings

Run = Callable[[], Awaitable[Any]]


class Doors:
    """Where calls pass inside a metered server and inside what is mounted on it."""

    def __init__(self, payre: Payre, host: FastMCPHost) -> None:
        self.nested, self.specs = Nested(payre.metering), payre.metering.prices.specs
        self.adverts = payre.metering.prices.adverts if payre.metering.in_description else {}
        self._payre, self.host = payre, host
        self._is_checked, self._reached = False, 0
        self._places = {id(host.server): _Place(self, host, None)}

    async def at_wire(self, ctx: ServerRequestContext[Any, Any], call_next: WireNext) -> HandlerResult:
        """Before the seam in the chain of the wire."""
        self.stand()
        with self.paying():
            return await at_wire(self._payre.metering, ctx, self._checked(call_next))

    def stand(self) -> None:
        """Take the places again that other middleware may have taken since."""
        for place in self._places.values():
            place.stand()

    async def check(self) -> None:
        """Once: that every price names something, and on stdio that the operator's key can be read.

        Raises:
            PriceSpecInvalid: A price names nothing, or what can run as a background task.
            SettingsInvalid: A variable cannot be used.
        """
        if not self._is_checked:
            with self.paying():
                await self._payre.metering.check_targets()
            self._is_checked = True
        if self._reached != len(self.host.found):
            await self._reach_mounted()

    def _checked(self, call_next: WireNext) -> WireNext:
        async def checked(ctx: ServerRequestContext[Any, Any]) -> HandlerResult:
            await self.check()
            return await call_next(ctx)

        return checked

    async def _reach_mounted(self) -> None:
        """Stand in every mounted server that something priced leads to: its own tools may call that by its name there."""
        self._reached = len(self.host.found)
        with unfiltered():
            for target, component in list(self.host.found.items()):
                async for server, original in behind(target.kind, component):
                    if (place := self._places.get(id(server))) is None:
                        aliases: dict[Target, Target] = {}
                        place = self._places[id(server)] = _Place(self, FastMCPHost(server, aliases), aliases)
                        place.stand()
                    if place.aliases is not None:
                        place.aliases.setdefault(original, target)

    @contextmanager
    def paying(self) -> Generator[None]:
        """On stdio the operator's own key pays for requests that carry none."""
        if Context(fastmcp=self.host.server).transport != "stdio":
            yield
            return
        with serving_stdio(self._operators_key):
            yield

    @cached_property
    def _operators_key(self) -> str | None:
        key = load_settings().key
        return None if key is None else key.get_secret_value()


class _Place:
    """One server and its two doors: the outermost and the innermost of its middleware."""

    def __init__(self, doors: Doors, host: FastMCPHost, aliases: dict[Target, Target] | None) -> None:
        self.doors, self.host, self.aliases = doors, host, aliases
        """`aliases` are what a mounted server's own names are on the metered one; None on that one itself."""
        self._outer, self._inner = _Outer(self), _Inner(self)

    def stand(self) -> None:
        """Stand at both ends, wherever else was added since; doors of another `Payre` may stand further out."""
        chain = self.host.server.middleware
        if self._outer in chain and self._inner in chain:
            before, after = chain[: chain.index(self._outer)], chain[chain.index(self._inner) + 1 :]
            if all(isinstance(each, _Outer) for each in before) and all(isinstance(each, _Inner) for each in after):
                return
            chain.remove(self._outer)
            chain.remove(self._inner)
        chain.insert(0, self._outer)
        chain.append(self._inner)

    async def check(self) -> None:
        """Where this server has no wire of its own, its first call finds what is wrong with its prices. Raises `ToolError`."""
        try:
            await self.doors.check()
        except PriceSpecInvalid as error:
            raise ToolError(
                f"{error.message}\nNothing runs until the server's prices are right, and nothing was charged"
            ) from error

    def keeps(self, kind: str, name: str) -> bool:
        """See `Place.keeps`. Nobody caches who never loaded the module that does."""
        module = sys.modules.get("fastmcp.server.middleware.caching")
        kinds = () if module is None else (module.ResponseCachingMiddleware,)
        return any(_caches(each, kind, name) for each in self.host.server.middleware if isinstance(each, kinds))

    async def call(
        self, kind: str, name: str, params: Mapping[str, Any], context: MiddlewareContext[Any], run: Callable[[], Awaitable[Any]]
    ) -> Call[Any]:
        """A call of this server, as it is priced on the metered one."""
        target, address = await self._meaning(kind, name)
        ctx = _request_of(context)
        if ctx is None and target in self.doors.specs and _in_worker():
            raise ToolError(f"{name!r} has a price, and no background task can pay; it does not run, and costs nothing")
        meta = {"fastmcp": {"version": await self._version(kind, name, context.message.meta or {})}}
        return Call(self, kind, name, target, address, params, meta, ctx, run, SHAPES[kind])

    def described(self, kind: str, components: Sequence[Any]) -> Sequence[Any]:
        """A list that other code of the server asked for, such as a search: priced as its client would see it."""
        if self.doors.nested.around() is None:
            return components
        return [self._described(each, Target(kind, name_of(kind, each))) for each in components]

    def _described(self, component: Any, own: Target) -> Any:
        target = own if self.aliases is None else self.aliases.get(own)
        advert = None if target is None else self.doors.adverts.get(target)
        if advert is None:
            return component
        return component.model_copy(update={"description": f"{component.description or ''} {advert.sentence}".strip()})

    async def _version(self, kind: str, name: str, meta: Mapping[str, Any]) -> str | None:
        """The version that will run, where the server asked for one: what the client asked for is not of this call."""
        asked = meta.get("fastmcp", {}).get("version")
        if not isinstance(asked, Mapping):
            return asked
        limits = VersionSpec(**cast("Mapping[str, str]", asked))
        component = await self.host.component(await self.host.target(kind, name), name, limits)
        return None if component is None else component.version

    async def _meaning(self, kind: str, name: str) -> tuple[Target | None, str]:
        """The target that a name here is on the metered server, and its name or address there."""
        own = await self.host.target(kind, name)
        if self.aliases is None:
            return own, name
        target = self.aliases.get(own)
        if target is None or await self._is_delegated(own):
            return None, name
        if own.name == name:
            return target, target.name
        template: Any = await self.host.beneath(own)
        return target, forward_uri(target.name, template.matches(name) or {}, name)

    async def _is_delegated(self, own: Target) -> bool:
        """Whether the mount itself leads here from the call around, under a name that has its own price or none."""
        around = self.doors.nested.around()
        if around is None or not isinstance(place := around.place, _Place):
            return False
        component = await place.host.component(await place.host.target(around.kind, around.name), around.name)
        return any([step == (self.host.server, own) async for step in behind(around.kind, component)])


class _Door(Middleware):
    """A point that every call of a server passes."""

    def __init__(self, place: _Place) -> None:
        self.place = place

    async def passes(self, kind: str, name: str, params: Mapping[str, Any], context: MiddlewareContext[Any], run: Run) -> Any:
        raise NotImplementedError

    async def on_call_tool(
        self, context: MiddlewareContext[CallToolRequestParams], call_next: CallNext[CallToolRequestParams, ToolResult]
    ) -> ToolResult:
        sent = context.message
        params = {"name": sent.name, "arguments": _plain(sent.arguments)}
        return await self.passes("tool", sent.name, params, context, lambda: call_next(context))

    async def on_read_resource(
        self,
        context: MiddlewareContext[ReadResourceRequestParams],
        call_next: CallNext[ReadResourceRequestParams, ResourceResult],
    ) -> ResourceResult:
        uri = str(context.message.uri)
        return await self.passes("resource", uri, {"uri": uri}, context, lambda: call_next(context))

    async def on_get_prompt(
        self, context: MiddlewareContext[GetPromptRequestParams], call_next: CallNext[GetPromptRequestParams, PromptResult]
    ) -> PromptResult:
        sent = context.message
        params = {"name": sent.name, "arguments": _plain(sent.arguments)}
        return await self.passes("prompt", sent.name, params, context, lambda: call_next(context))


class _Outer(_Door):
    """Outside all other middleware: what a cache answers is paid for too."""

    async def passes(self, kind: str, name: str, params: Mapping[str, Any], context: MiddlewareContext[Any], run: Run) -> Any:
        self.place.stand()  # for the next call: this one's chain is built
        call = await self.place.call(kind, name, params, context, run)
        if call.ctx is not None:
            await self.place.check()
        with self.place.doors.paying():
            return await self.place.doors.nested.outermost(call)

    async def on_list_tools(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Sequence[Any]]) -> Sequence[Any]:
        return self.place.described("tool", await call_next(context))

    async def on_list_resources(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Sequence[Any]]) -> Sequence[Any]:
        return self.place.described("resource", await call_next(context))

    async def on_list_resource_templates(
        self, context: MiddlewareContext[Any], call_next: CallNext[Any, Sequence[Any]]
    ) -> Sequence[Any]:
        return self.place.described("resource", await call_next(context))

    async def on_list_prompts(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Sequence[Any]]) -> Sequence[Any]:
        return self.place.described("prompt", await call_next(context))


class _Inner(_Door):
    """Inside all other middleware: what runs is what passes here."""

    async def passes(self, kind: str, name: str, params: Mapping[str, Any], context: MiddlewareContext[Any], run: Run) -> Any:
        asked = self.place.doors.nested.around()
        if asked is not None and (asked.place, asked.kind, asked.name) == (self.place, kind, name):
            return await run()
        call = await self.place.call(kind, name, params, context, run)
        with self.place.doors.paying():
            return await self.place.doors.nested.innermost(call)


def _caches(caching: Any, kind: str, name: str) -> bool:
    match kind:
        case "tool":
            return caching._call_tool_settings.get("enabled") is not False and caching._matches_tool_cache_settings(
                tool_name=name
            )
        case "resource":
            return caching._read_resource_settings.get("enabled") is not False
        case _:
            return caching._get_prompt_settings.get("enabled") is not False


def _request_of(context: MiddlewareContext[Any]) -> ServerRequestContext[Any, Any] | None:
    """The client's request behind a call; None where no client is behind it."""
    request = None if context.fastmcp_context is None else context.fastmcp_context.request_context
    return None if request is None else request._srctx  # pyright: ignore[reportPrivateUsage]


def _in_worker() -> bool:
    resolver = dependencies._worker_server_resolver  # pyright: ignore[reportPrivateUsage]
    return resolver is not None and resolver() is not None


def _plain(arguments: object) -> Any:
    """Arguments as JSON has them: code may pass what no client could send."""
    return to_jsonable_python(arguments or {}, fallback=str)
