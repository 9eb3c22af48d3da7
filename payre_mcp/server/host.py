"""The server that is metered, seen from the seam: the port, and the one for the SDK's own `MCPServer`.

The few private names of the MCP SDK that we look at stand here, in one place. All are read, none is patched.
"""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

from mcp.server.mcpserver import MCPServer
from pydantic import ValidationError

from payre_mcp.pricing import Target
from payre_mcp.pricing.spec import DefaultOf
from payre_mcp.server.prices import Registry

Schema = Mapping[str, Any]


class HostCall(NamedTuple):
    """A request as the host would run it."""

    arguments: Mapping[str, Any]
    """Those of a resource stand in its address."""
    can_run: bool
    """If not, the host says why itself, and nothing is held."""
    default_of: DefaultOf
    """The default of an argument in the input schema, by dotted path; None where it has none."""


class Host(Protocol):
    """What the seam asks of a server."""

    async def registry(self, targets: Collection[Target]) -> Registry | None:
        """What the server has that can carry a price, now; None where that cannot be seen.

        `targets` are those that are asked for: a server may have more than it lists.
        """
        ...

    async def target(self, kind: str, name: str) -> Target:
        """What a request of this name means; an address that is no resource's own means the first template that it fits."""
        ...

    async def has(self, target: Target) -> bool:
        """Whether this tool, prompt, resource or template is there."""
        ...

    async def call(self, target: Target, name: str, params: Mapping[str, Any]) -> HostCall:
        """A request for a target, before it runs. Never raises for what a client sent."""
        ...

    def info(self) -> Mapping[str, Any] | None:
        """The `serverInfo` stamp of this server's results."""
        ...

    def answers_in_json(self) -> bool:
        """Whether an answer over HTTP is one JSON document, which nothing keeps alive while the client waits."""
        ...


class UnseenHost:
    """`Host` of an extension that was never told its server: it meters tools by their names and knows nothing else of them."""

    async def registry(self, targets: Collection[Target]) -> None:
        """Nothing to compare prices with."""

    async def target(self, kind: str, name: str) -> Target:
        """The name as it came."""
        return Target(kind, name)

    async def has(self, target: Target) -> bool:
        """As far as anybody knows."""
        return True

    async def call(self, target: Target, name: str, params: Mapping[str, Any]) -> HostCall:
        """The arguments as they came."""
        return HostCall(params.get("arguments") or {}, can_run=True, default_of=_no_default)

    def info(self) -> None:
        """No stamp."""

    def answers_in_json(self) -> bool:
        """As most servers: no."""
        return False


class SdkHost:
    """`Host` over an `MCPServer`; its own registry too."""

    def __init__(self, server: MCPServer[Any]) -> None:
        self._server = server

    async def registry(self, targets: Collection[Target]) -> Registry:
        """The server's managers, as they are now."""
        return self

    async def target(self, kind: str, name: str) -> Target:
        """See `Host.target`."""
        found = self._resource(name) if kind == "resource" else None
        return Target(kind, name if found is None else found[0])

    async def has(self, target: Target) -> bool:
        """See `Host.has`."""
        return self._has(target)

    async def call(self, target: Target, name: str, params: Mapping[str, Any]) -> HostCall:
        """See `Host.call`. Arguments are judged by the host's own validator: a JSON Schema check is not the same."""
        arguments = self._arguments(target, name, params)
        can_run = self._has(target) and self._accepts(target, arguments)
        return HostCall(arguments, can_run, partial(self._default_of, target))

    def info(self) -> dict[str, Any]:
        """See `Host.info`."""
        return self._server._lowlevel_server.server_info_stamp  # pyright: ignore[reportPrivateUsage]

    def answers_in_json(self) -> bool:
        """See `Host.answers_in_json`."""
        manager = self._server._lowlevel_server._session_manager  # pyright: ignore[reportPrivateUsage]
        return manager is not None and manager.json_response

    def names(self, kind: str) -> dict[str, None]:
        """The names of all tools or prompts, or the addresses of resources and their templates, in order."""
        match kind:
            case "tool":
                names = (tool.name for tool in self._server._tool_manager.list_tools())  # pyright: ignore[reportPrivateUsage]
            case "prompt":
                names = (prompt.name for prompt in self._prompts.list_prompts())
            case _:
                resources = (resource.uri for resource in self._resources.list_resources())
                names = (*resources, *(template.uri_template for template in self._resources.list_templates()))
        return dict.fromkeys(names)

    def _has(self, target: Target) -> bool:
        if target.kind == "tool":
            return self._tool(target.name) is not None
        if target.kind == "prompt":
            return self._prompts.get_prompt(target.name) is not None
        return target.name in self._resources._resources or target.name in self._resources._templates  # pyright: ignore[reportPrivateUsage]

    def _arguments(self, target: Target, name: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        if target.kind != "resource":
            return cast("Mapping[str, Any]", params.get("arguments") or {})
        found = self._resource(name)
        return {} if found is None else found[1]

    def _accepts(self, target: Target, arguments: object) -> bool:
        """A validator that crashes counts as taking them: the call then runs, fails, and is not charged."""
        if not isinstance(arguments, Mapping):
            return False
        if target.kind == "prompt":
            prompt = self._prompts.get_prompt(target.name)
            given = cast("Mapping[str, Any]", arguments)
            return prompt is not None and all(each.name in given for each in prompt.arguments or () if each.required)
        if target.kind == "resource":
            return True
        try:
            self._tool(target.name).fn_metadata.validate_arguments(dict(cast("Mapping[str, Any]", arguments)))
        except ValidationError:
            return False
        except Exception:  # noqa: BLE001 - whatever the author's validator raises, the SDK reports it better
            return True
        return True

    def parameters(self, target: Target) -> Schema | None:
        """The JSON Schema of each argument by name; None where any argument is taken."""
        if target.kind == "prompt":
            prompt = self._prompts.get_prompt(target.name)
            return {each.name: {} for each in (prompt.arguments if prompt else None) or ()}
        schema = self._schema(target)
        return None if schema.get("additionalProperties") else schema.get("properties", {})

    def _default_of(self, target: Target, path: str) -> object:
        root = self._schema(target)
        return default_in(root, root, path.split("."))

    @property
    def _resources(self) -> Any:
        return self._server._resource_manager  # pyright: ignore[reportPrivateUsage]

    @property
    def _prompts(self) -> Any:
        return self._server._prompt_manager  # pyright: ignore[reportPrivateUsage]

    def _tool(self, name: str) -> Any:
        return self._server._tool_manager.get_tool(name)  # pyright: ignore[reportPrivateUsage]

    def _resource(self, uri: str) -> tuple[str, Mapping[str, Any]] | None:
        """The registered address and its arguments, in the SDK's order: concrete ones first, then templates."""
        if uri in self._resources._resources:  # pyright: ignore[reportPrivateUsage]
            return uri, {}
        for template in self._resources.list_templates():
            try:
                arguments = template.matches(uri)
            except ValueError:  # the SDK refuses an unsafe path, and says so itself
                return None
            if arguments is not None:
                return template.uri_template, arguments
        return None

    def _schema(self, target: Target) -> Schema:
        if target.kind == "tool":
            return self._tool(target.name).parameters
        template = next((each for each in self._resources.list_templates() if each.uri_template == target.name), None)
        return {} if template is None else template.parameters


def _no_default(path: str) -> object:
    return None


def default_in(root: Schema, schema: Schema, path: list[str]) -> object:
    """The default at a path: its own, or what stands there in the default of something around it."""
    name, *rest = path
    inner = _resolved(root, schema).get("properties", {}).get(name)
    if inner is None:
        return None
    if "default" in inner:
        value = inner["default"]
        for each in rest:
            value = cast("Schema", value).get(each) if isinstance(value, Mapping) else None
        return value
    return default_in(root, inner, rest) if rest else None


def _resolved(root: Schema, schema: Schema) -> Schema:
    """The schema that a local `$ref` leads to."""
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    return root.get("$defs", {}).get(name, schema) if name else schema
