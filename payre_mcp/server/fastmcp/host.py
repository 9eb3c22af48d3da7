"""A FastMCP server, seen from the seam: what it has, and what a request of it would run."""

from collections.abc import AsyncGenerator, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import fastmcp
from fastmcp import FastMCP
from fastmcp.prompts.base import Prompt
from fastmcp.resources.template import ResourceTemplate
from fastmcp.server.context import Context, reset_transport, set_transport
from fastmcp.server.dependencies import extract_version_spec
from fastmcp.server.providers.addressing import parse_hashed_backend_name
from fastmcp.server.providers.fastmcp_provider import (
    FastMCPProviderPrompt,
    FastMCPProviderResource,
    FastMCPProviderResourceTemplate,
    FastMCPProviderTool,
)
from fastmcp.tools.tool_transform import TransformedTool
from fastmcp.utilities.versions import VersionSpec

from payre_mcp.errors import PriceSpecInvalid, Problem
from payre_mcp.identity import request_meta
from payre_mcp.pricing import Target
from payre_mcp.server.host import HostCall, default_in

Server = FastMCP[Any]
Component = Any
"""A tool, prompt, resource or template; FastMCP has no common type that knows what we ask."""


class FastMCPHost:
    """`Host` over a FastMCP server. Arguments are judged by FastMCP, and only when it runs a call."""

    def __init__(self, server: Server, specs: Mapping[Target, object]) -> None:
        self.server, self._specs = server, specs
        self.found: dict[Target, Component] = {}
        """What has a price, once it was seen."""

    async def registry(self, targets: Collection[Target]) -> "_Registry":
        """What is there, whoever may see it.

        Raises:
            PriceSpecInvalid: Something priced can run as a background task: its result comes later, and unpaid.
        """
        missing = [target for target in targets if target not in self.found]
        names: dict[str, list[str]] = {}
        with unfiltered():
            for target in missing:
                if (component := await self.beneath(target)) is None:
                    names[target.kind] = []
                else:
                    _check_task(target, component)
                    self.found[target] = component
            for kind in names:
                names[kind] = await self._listed(kind)
        return _Registry(self.found, names)

    async def target(self, kind: str, name: str) -> Target:
        """See `Host.target`. An app may call a tool by its hash."""
        target = Target(kind, name)
        if target in self._specs or all(each.kind != kind for each in self._specs):
            return target
        if kind == "resource":
            component = await self._resource(name)
            return target if component is None else Target(kind, name_of(kind, component))
        if kind == "tool" and (hashed := parse_hashed_backend_name(name)) is not None:
            async with Context(fastmcp=self.server):
                if await self.server.get_tool(name) is None and (tool := await self.server.get_tool_by_hash(*hashed)):
                    return Target(kind, tool.name)
        return target

    async def has(self, target: Target) -> bool:
        """See `Host.has`."""
        return await self.component(target, target.name) is not None

    async def call(self, target: Target, name: str, params: Mapping[str, Any]) -> HostCall:
        """See `Host.call`.

        Raises:
            PriceSpecInvalid: It can run as a background task.
        """
        version = extract_version_spec(dict(request_meta(params)))
        component = await self.component(target, name, VersionSpec(eq=version) if version else None)
        if component is None:
            return HostCall({}, can_run=False, default_of=partial(_default_of, {}))
        _check_task(target, component)
        if target.kind != "resource":
            arguments = cast("Mapping[str, Any]", params.get("arguments") or {})
        else:
            arguments = (component.matches(name) or {}) if isinstance(component, ResourceTemplate) else {}
        return HostCall(arguments, can_run=True, default_of=partial(_default_of, getattr(component, "parameters", {})))

    def info(self) -> dict[str, Any]:
        """See `Host.info`."""
        return self.server._mcp_server.server_info_stamp  # pyright: ignore[reportPrivateUsage]

    def answers_in_json(self) -> bool:
        """As the settings of FastMCP say: an application that says otherwise does not tell its server."""
        return fastmcp.settings.json_response

    async def beneath(self, target: Target) -> Component | None:
        """A component as it was registered, hidden or not."""
        every = super(FastMCP, self.server)
        async with Context(fastmcp=self.server):
            match target.kind:
                case "tool":
                    return await self.server.get_tool(target.name) or await every.get_tool(target.name)
                case "prompt":
                    return await every.get_prompt(target.name)
                case _:
                    templates = await every.list_resource_templates()
                    template = next((each for each in templates if each.uri_template == target.name), None)
                    return template or await every.get_resource(target.name)

    async def component(self, target: Target, name: str, version: VersionSpec | None = None) -> Component | None:
        """What a request of this name runs, as its caller may see it."""
        if target.kind == "resource":
            return await self._resource(name, version)
        async with Context(fastmcp=self.server):
            get = self.server.get_tool if target.kind == "tool" else self.server.get_prompt
            return await get(target.name, version)

    async def _resource(self, uri: str, version: VersionSpec | None = None) -> Component | None:
        """In FastMCP's own order: concrete addresses first."""
        async with Context(fastmcp=self.server):
            return await self.server.get_resource(uri, version) or await self.server.get_resource_template(uri, version)

    async def _listed(self, kind: str) -> list[str]:
        if kind == "tool":
            return [each.name for each in await self.server.list_tools(run_middleware=False)]
        if kind == "prompt":
            return [each.name for each in await self.server.list_prompts(run_middleware=False)]
        resources = await self.server.list_resources(run_middleware=False)
        templates = await self.server.list_resource_templates(run_middleware=False)
        return [*(str(each.uri) for each in resources), *(each.uri_template for each in templates)]


class _Registry:
    """What a server has, as far as it was asked for."""

    def __init__(self, found: Mapping[Target, Component], listed: Mapping[str, Sequence[str]]) -> None:
        self._found, self._listed = found, listed

    def names(self, kind: str) -> dict[str, None]:
        return dict.fromkeys([*(each.name for each in self._found if each.kind == kind), *self._listed.get(kind, ())])

    def parameters(self, target: Target) -> Mapping[str, object] | None:
        component = self._found.get(target)
        if isinstance(component, Prompt):
            return {each.name: {} for each in component.arguments or ()}
        schema: Mapping[str, Any] = getattr(component, "parameters", {})
        return None if schema.get("additionalProperties") else schema.get("properties", {})


@contextmanager
def unfiltered() -> Generator[None]:
    """Look at servers as FastMCP does on stdio, where every caller may see everything."""
    token = set_transport("stdio")
    try:
        yield
    finally:
        reset_transport(token)


async def behind(kind: str, component: Component) -> AsyncGenerator[tuple[Server, Target]]:
    """The mounted servers that a component leads to, outermost first, and what it is there."""
    while component is not None:
        while isinstance(component, TransformedTool):
            component = component.parent_tool
        match component:
            case FastMCPProviderTool() | FastMCPProviderPrompt():
                name = component._original_name  # pyright: ignore[reportPrivateUsage]
            case FastMCPProviderResource():
                name = component._original_uri  # pyright: ignore[reportPrivateUsage]
            case FastMCPProviderResourceTemplate():
                name = component._original_uri_template  # pyright: ignore[reportPrivateUsage]
            case _:
                return
        server: Server = component._server  # pyright: ignore[reportPrivateUsage]
        target = Target(kind, name or "")
        yield server, target
        component = await FastMCPHost(server, {}).beneath(target)


def _check_task(target: Target, component: Component) -> None:
    if component.task_config.supports_tasks():
        message = (
            f"the {target.kind} {target.name!r} can run as a background task, and what ends after its call cannot be charged: "
            "take its price away, or task= from its definition"
        )
        raise PriceSpecInvalid([Problem("task_priced", target.name, message)])


def name_of(kind: str, component: Component) -> str:
    """The name of a tool or prompt, or the address of a resource or template."""
    if kind != "resource":
        return component.name
    return component.uri_template if isinstance(component, ResourceTemplate) else str(component.uri)


def _default_of(schema: Mapping[str, Any], path: str) -> object:
    return default_in(schema, schema, path.split("."))
