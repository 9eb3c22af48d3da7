"""The few private names of the MCP SDK that we look at, in one place. All are read, none is patched."""

from collections.abc import Mapping
from typing import Any, cast

from mcp.server.mcpserver import MCPServer
from pydantic import ValidationError

from payre_mcp.pricing import Target

Schema = Mapping[str, Any]


class Host:
    """The server that is metered, seen from the seam."""

    def __init__(self, server: MCPServer[Any]) -> None:
        self._server = server

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

    def has(self, target: Target) -> bool:
        """Whether this tool, prompt, resource or template is registered."""
        if target.kind == "tool":
            return self._tool(target.name) is not None
        if target.kind == "prompt":
            return self._prompts.get_prompt(target.name) is not None
        return target.name in self._resources._resources or target.name in self._resources._templates  # pyright: ignore[reportPrivateUsage]

    def target(self, kind: str, name: str) -> Target:
        """What a request of this name means; an address that is no resource's own means the first template that it fits."""
        found = self._resource(name) if kind == "resource" else None
        return Target(kind, name if found is None else found[0])

    def arguments(self, target: Target, name: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments of a request; those of a resource stand in its address."""
        if target.kind != "resource":
            return cast("Mapping[str, Any]", params.get("arguments") or {})
        found = self._resource(name)
        return {} if found is None else found[1]

    def accepts(self, target: Target, arguments: object) -> bool:
        """Whether the host will run this, by its own validator (a JSON Schema check is not the same).

        A validator that crashes counts as taking them: the call then runs, fails, and is not charged.
        """
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

    def default_of(self, target: Target, path: str) -> object:
        """The default of an argument in the input schema, by dotted path; None where it has none."""
        root = self._schema(target)
        return _default(root, root, path.split("."))

    def info(self) -> dict[str, Any]:
        """The `serverInfo` stamp of this server's results."""
        return self._server._lowlevel_server.server_info_stamp  # pyright: ignore[reportPrivateUsage]

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


def _default(root: Schema, schema: Schema, path: list[str]) -> object:
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
    return _default(root, inner, rest) if rest else None


def _resolved(root: Schema, schema: Schema) -> Schema:
    """The schema that a local `$ref` leads to."""
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    return root.get("$defs", {}).get(name, schema) if name else schema
