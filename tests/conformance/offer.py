"""What the conformance suites call: a server of tools, resources and prompts, each as one scenario of theirs asks for.

Nothing here knows of prices: `build_server` makes the same server of any class, so that the paid one differs by its prices alone.
Tools that ask their caller for something, over several rounds, stand in `rounds.py`.
"""

import base64
import json
from collections.abc import Callable
from typing import Annotated, Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer, RequestStateSecurity
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    ClientCapabilities,
    Completion,
    CompletionArgument,
    CompletionContext,
    ContentBlock,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    MissingRequiredClientCapabilityErrorData,
    PromptReference,
    ResourceTemplateReference,
    SamplingCapability,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import Field

from tests.conformance import rounds

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
"""A picture of one pixel."""
WAV = "UklGRigAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQQAAACAgICA"
"""Four samples of silence."""

STEP_S = 0.05
"""What the suites ask for between two notifications, so that a client sees them one by one."""

_STATE_KEY = "the conformance suites share no state"
_Context = Context[Any, Any]

JSON_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
"""An input schema that must reach clients word for word."""

DEFAULTS: dict[str, Any] = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "default": True},
}
"""A form field of every primitive type, each with a default."""


def _titled(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"const": const, "title": title} for const, title in pairs]


_TITLES = _titled(("value1", "First"), ("value2", "Second"), ("value3", "Third"))
_OPTIONS = ["option1", "option2", "option3"]
ENUMS: dict[str, Any] = {
    "untitledSingle": {"type": "string", "enum": _OPTIONS},
    "titledSingle": {"type": "string", "oneOf": _TITLES},
    "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["One", "Two", "Three"]},
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": _OPTIONS}},
    "titledMulti": {"type": "array", "items": {"anyOf": _TITLES}},
}
"""A form field of every kind of choice."""


def test_simple_text() -> str:
    """Answers with one text."""
    return "This is a simple text response for testing."


def test_image_content() -> ImageContent:
    """Answers with a picture."""
    return ImageContent(data=PNG, mime_type="image/png")


def test_audio_content() -> AudioContent:
    """Answers with a sound."""
    return AudioContent(data=WAV, mime_type="audio/wav")


def test_embedded_resource() -> EmbeddedResource:
    """Answers with a resource."""
    return _embedded("test://embedded-resource", "This is an embedded resource content.")


def test_multiple_content_types() -> list[ContentBlock]:
    """Answers with a text, a picture and a resource."""
    return [
        TextContent(text="Multiple content types test:"),
        ImageContent(data=PNG, mime_type="image/png"),
        _embedded("test://mixed-content-resource", json.dumps({"test": "data", "value": 123}), "application/json"),
    ]


async def test_tool_with_logging(ctx: _Context) -> str:
    """Logs three times while it works."""
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(line)  # pyright: ignore[reportDeprecated] - the older revisions of the protocol have it
        await anyio.sleep(STEP_S)
    return "logged"


async def test_logging_tool(ctx: _Context) -> str:
    """Logs once; who did not ask for a level is told nothing."""
    await ctx.info("working")  # pyright: ignore[reportDeprecated] - the older revisions of the protocol have it
    return "logged"


async def test_tool_with_progress(ctx: _Context) -> str:
    """Reports its progress in three steps."""
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100)
        await anyio.sleep(STEP_S)
    return "done"


async def test_reconnection(ctx: _Context) -> str:
    """Closes the stream that it answers on; the client comes back for the answer."""
    await ctx.close_sse_stream()
    await anyio.sleep(2 * STEP_S)
    return "answered after the stream was closed"


def test_error_handling() -> str:
    """Always fails."""
    raise ToolError("This tool intentionally returns an error for testing")


async def test_sampling(prompt: str, ctx: _Context) -> str:
    """Asks the client's model."""
    question = SamplingMessage(role="user", content=TextContent(text=prompt))
    answer = await ctx.session.create_message([question], max_tokens=100, related_request_id=ctx.request_id)  # pyright: ignore[reportDeprecated]
    return f"LLM response: {answer.content.model_dump_json()}"


async def test_elicitation(message: str, ctx: _Context) -> str:
    """Asks the client's user for a name and an address."""
    text = {"type": "string"}
    return await _elicit(ctx, message, {"username": text, "email": text}, required=["username", "email"])


async def test_elicitation_sep1034_defaults(ctx: _Context) -> str:
    """Asks with a form whose fields have defaults."""
    return await _elicit(ctx, "Please review these values", DEFAULTS)


async def test_elicitation_sep1330_enums(ctx: _Context) -> str:
    """Asks with a form of choices."""
    return await _elicit(ctx, "Please choose", ENUMS)


def test_missing_capability(ctx: _Context) -> str:
    """Needs a client that can sample."""
    declared = ctx.client_capabilities
    if declared is None or declared.sampling is None:
        needed = MissingRequiredClientCapabilityErrorData(required_capabilities=ClientCapabilities(sampling=SamplingCapability()))
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "needs sampling", needed.model_dump(by_alias=True, exclude_none=True))
    return "the client can sample"


async def test_trigger_tool_change(ctx: _Context) -> str:
    """Tells subscribers that the list of tools has changed."""
    await ctx.notify_tools_changed()
    return "told"


async def test_trigger_prompt_change(ctx: _Context) -> str:
    """Tells subscribers that the list of prompts has changed."""
    await ctx.notify_prompts_changed()
    return "told"


def test_x_mcp_header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Takes an argument that must stand in a header too."""
    return f"region: {region}"


def json_schema_2020_12_tool(name: str = "", phone: str = "", email: str = "") -> str:
    """Has an input schema with all that JSON Schema 2020-12 knows."""
    return f"{name}: {phone or email}"


TOOLS: tuple[Callable[..., Any], ...] = (
    test_simple_text, test_image_content, test_audio_content, test_embedded_resource, test_multiple_content_types,
    test_tool_with_logging, test_logging_tool, test_tool_with_progress, test_reconnection, test_error_handling, test_sampling,
    test_elicitation, test_elicitation_sep1034_defaults, test_elicitation_sep1330_enums, test_missing_capability,
    test_trigger_tool_change, test_trigger_prompt_change, test_x_mcp_header, *rounds.TOOLS,
)  # fmt: skip


def static_text() -> str:
    """A text that never changes."""
    return "This is the content of the static text resource."


def static_binary() -> bytes:
    """A picture that never changes."""
    return base64.b64decode(PNG)


def watched_resource() -> str:
    """What clients subscribe to."""
    return "This is watched."


def template(id: str) -> str:  # noqa: A002 - the suites' template has this parameter
    """Data that goes by an id."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


RESOURCES: dict[str, tuple[Callable[..., Any], str]] = {
    "test://static-text": (static_text, "text/plain"),
    "test://static-binary": (static_binary, "image/png"),
    "test://watched-resource": (watched_resource, "text/plain"),
    "test://template/{id}/data": (template, "application/json"),
}
"""Address, function and MIME type of every resource and template."""


def test_simple_prompt() -> str:
    """One message."""
    return "This is a simple prompt for testing."


def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A message with two arguments in it."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803 - the suites' name
    """A resource and a message."""
    resource = _embedded(resourceUri, "Embedded resource content for testing.")
    return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]


def test_prompt_with_image() -> list[UserMessage]:
    """A picture and a message."""
    return [UserMessage(ImageContent(data=PNG, mime_type="image/png")), UserMessage("Please analyze the image above.")]


PROMPTS: tuple[Callable[..., Any], ...] = (
    test_simple_prompt, test_prompt_with_arguments, test_prompt_with_embedded_resource, test_prompt_with_image, *rounds.PROMPTS,
)  # fmt: skip


def build_server(make: Callable[..., MCPServer[Any]] = MCPServer) -> MCPServer[Any]:
    """The server; `make` is its class, or what takes the place of that."""
    raw = Tool.from_function(json_schema_2020_12_tool).model_copy(update={"parameters": JSON_SCHEMA})
    security = RequestStateSecurity(keys=[_STATE_KEY])
    server = make("everything", version="1", tools=[raw], request_state_security=security, log_level="WARNING")
    for tool in TOOLS:
        server.tool()(tool)
    for uri, (read, mime_type) in RESOURCES.items():
        server.resource(uri, mime_type=mime_type)(read)
    for prompt in PROMPTS:
        server.prompt()(prompt)
    server.completion()(_complete)
    _serve_notified_methods(server)
    return server


async def _complete(
    ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument, context: CompletionContext | None
) -> Completion:
    fitting = [each for each in ("paris", "park", "party") if each.startswith(argument.value)]
    return Completion(values=fitting, total=len(fitting), has_more=False)


def _serve_notified_methods(server: MCPServer[Any]) -> None:
    """Serve the methods of the older revisions that `MCPServer` has no decorator for."""

    async def taken(ctx: ServerRequestContext[Any, Any], params: object) -> EmptyResult:
        return EmptyResult()

    add = server._lowlevel_server.add_request_handler  # pyright: ignore[reportPrivateUsage]
    add("logging/setLevel", SetLevelRequestParams, taken)
    add("resources/subscribe", SubscribeRequestParams, taken)
    add("resources/unsubscribe", UnsubscribeRequestParams, taken)


async def _elicit(ctx: _Context, message: str, properties: dict[str, Any], *, required: list[str] | None = None) -> str:
    schema = {"type": "object", "properties": properties, "required": required or []}
    answer = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
    return f"Elicitation completed: action={answer.action}, content={json.dumps(answer.content)}"


def _embedded(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))
