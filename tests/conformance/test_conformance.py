"""The everything-server in memory: it has all that the suites call, and with prices on everything it answers the same."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestParams, ElicitResult, Prompt, Resource, ResourceTemplate, Result, Tool

from payre_mcp.connection import Connection
from payre_mcp.ledger.model import Kind
from tests.conformance.everything import build_paid_server
from tests.conformance.offer import build_server
from tests.fakes import Funded, file_of, journal_of, open_holds_of

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

Listed = Tool | Resource | ResourceTemplate | Prompt
Call = Callable[[Client, Any], Awaitable[Result]]

PRICE_MICROS = 1_000
SENTENCE = "Costs $0.001 per call."
OURS = "dev.payre/"

TOOLS = {
    "test_simple_text", "test_image_content", "test_audio_content", "test_embedded_resource", "test_multiple_content_types",
    "test_tool_with_logging", "test_logging_tool", "test_tool_with_progress", "test_sampling", "test_elicitation",
    "test_elicitation_sep1034_defaults", "test_elicitation_sep1330_enums", "test_error_handling", "test_reconnection",
    "test_missing_capability", "test_streaming_elicitation", "test_trigger_tool_change", "test_trigger_prompt_change",
    "json_schema_2020_12_tool", "test_input_required_result_elicitation", "test_input_required_result_sampling",
    "test_input_required_result_list_roots", "test_input_required_result_request_state",
    "test_input_required_result_multiple_inputs", "test_input_required_result_multi_round",
    "test_input_required_result_tampered_state", "test_input_required_result_capabilities",
}  # fmt: skip
RESOURCES = {"test://static-text", "test://static-binary", "test://watched-resource"}
TEMPLATES = {"test://template/{id}/data"}
PROMPTS = {
    "test_simple_prompt", "test_prompt_with_arguments", "test_prompt_with_embedded_resource", "test_prompt_with_image",
    "test_input_required_result_prompt",
}  # fmt: skip
"""All names that occur in the server scenarios of 0.1.16 and 0.2.0-alpha.12; any tool with an `x-mcp-header` comes on top."""

TOOL_CALLS: Mapping[str, dict[str, Any]] = {
    "test_simple_text": {}, "test_image_content": {}, "test_audio_content": {}, "test_embedded_resource": {},
    "test_multiple_content_types": {}, "test_tool_with_logging": {}, "test_logging_tool": {}, "test_tool_with_progress": {},
    "test_reconnection": {}, "test_trigger_tool_change": {}, "test_trigger_prompt_change": {},
    "test_x_mcp_header": {"region": "north"}, "json_schema_2020_12_tool": {"phone": "1"},
    "test_input_required_result_capabilities": {},
}  # fmt: skip
READINGS = ("test://static-text", "test://static-binary", "test://watched-resource", "test://template/7/data")
PROMPT_CALLS: Mapping[str, dict[str, str]] = {
    "test_simple_prompt": {},
    "test_prompt_with_arguments": {"arg1": "hello", "arg2": "world"},
    "test_prompt_with_embedded_resource": {"resourceUri": "test://example-resource"},
    "test_prompt_with_image": {},
}
"""What a client can call that offers nothing itself."""


def calling(name: str, arguments: dict[str, Any]) -> Call:
    return lambda client, meta: client.call_tool(name, arguments, meta=meta)


def reading(uri: str) -> Call:
    return lambda client, meta: client.read_resource(uri, meta=meta)


def prompting(name: str, arguments: dict[str, str]) -> Call:
    return lambda client, meta: client.get_prompt(name, arguments, meta=meta)


CALLS: Mapping[str, Call] = {
    **{name: calling(name, arguments) for name, arguments in TOOL_CALLS.items()},
    **{uri: reading(uri) for uri in READINGS},
    **{name: prompting(name, arguments) for name, arguments in PROMPT_CALLS.items()},
}
FORMS = (
    "test_input_required_result_elicitation", "test_input_required_result_request_state",
    "test_input_required_result_tampered_state", "test_input_required_result_multi_round", "test_streaming_elicitation",
)  # fmt: skip
ROUNDS: Mapping[str, Call] = {
    **{name: calling(name, {}) for name in FORMS},
    "test_input_required_result_prompt": prompting("test_input_required_result_prompt", {}),
}
"""What asks its caller to fill in a form first, or several."""


@dataclass(frozen=True)
class Sides:
    """The same server twice, and the consumer who pays for one of them."""

    free: MCPServer[Any]
    paid: MCPServer[Any]
    consumer: Funded

    @asynccontextmanager
    async def open(self, mode: Any, **options: Any) -> AsyncGenerator["Both"]:
        """A client of each, while the block runs."""
        async with Client(self.free, mode=mode, **options) as free, Client(self.paid, mode=mode, **options) as paid:
            yield Both(free, paid, {f"{OURS}key": self.consumer.key.text})

    def charges(self) -> list[int]:
        """What was charged so far; fails if a hold is still open."""
        path = file_of(self.consumer.ledger)
        assert open_holds_of(path) == {}
        return [row.amount_micros for row in journal_of(path) if row.kind in (Kind.CAPTURE, Kind.CHARGE)]


@dataclass(frozen=True)
class Both:
    """A client of either server."""

    free: Client
    paid: Client
    meta: Any

    async def call(self, call: Call) -> tuple[Result, Result]:
        """The results of one call, unpaid and paid."""
        return await call(self.free, None), await call(self.paid, self.meta)


@pytest.fixture
async def sides(connection: Connection, consumer: Funded) -> Sides:
    """Both servers."""
    return Sides(build_server(), await build_paid_server(connection), consumer)


@pytest.fixture(params=["auto", "legacy"])
def mode(request: pytest.FixtureRequest) -> Any:
    """Both eras of the protocol."""
    return request.param


async def listed(server: MCPServer[Any], mode: Any) -> dict[str, Listed]:
    """All that a server lists, by name or address."""
    async with Client(server, mode=mode) as client:
        resources = (await client.list_resources()).resources
        templates = (await client.list_resource_templates()).resource_templates
        return {
            **{tool.name: tool for tool in (await client.list_tools()).tools},
            **{resource.uri: resource for resource in resources},
            **{template.uri_template: template for template in templates},
            **{prompt.name: prompt for prompt in (await client.list_prompts()).prompts},
        }


def without_ours(result: Result | Listed) -> dict[str, Any]:
    """All of a result or an entry but what Payre wrote into its `_meta`."""
    meta = {key: value for key, value in dict(result.meta or {}).items() if not key.startswith(OURS)}
    return {**result.model_dump(by_alias=True, mode="json"), "_meta": meta}


def ours(result: Result | Listed) -> set[str]:
    """The keys of Payre in the `_meta` of a result or an entry."""
    return {key.removeprefix(OURS) for key in dict(result.meta or {}) if key.startswith(OURS)}


async def test_the_server_offers_every_name_that_the_suites_call(sides: Sides, mode: Any) -> None:
    assert (await listed(sides.free, mode)).keys() >= TOOLS | RESOURCES | TEMPLATES | PROMPTS


async def test_some_tool_takes_an_argument_in_a_header(sides: Sides) -> None:
    async with Client(sides.free) as client:
        schemas = [tool.input_schema for tool in (await client.list_tools()).tools]
    assert [each for schema in schemas for each in schema["properties"].values() if each.get("x-mcp-header")]


async def test_all_that_the_paid_server_lists_has_a_price_and_is_else_what_the_free_one_lists(sides: Sides, mode: Any) -> None:
    free, paid = await listed(sides.free, mode), await listed(sides.paid, mode)
    assert list(paid) == list(free)
    for name, entry in paid.items():
        assert ours(entry) == {"price"}, name
        description = f"{free[name].description} {SENTENCE}"
        assert without_ours(entry) == {**without_ours(free[name]), "description": description}


async def test_every_paid_call_is_charged_once_and_answers_what_the_free_one_does(sides: Sides, mode: Any) -> None:
    async with sides.open(mode) as both:
        for number, (name, call) in enumerate(CALLS.items(), 1):
            free, paid = await both.call(call)
            assert without_ours(paid) == without_ours(free), name
            assert ours(paid) == {"receipt"}, name
            assert sides.charges() == [PRICE_MICROS] * number, name


async def test_a_failing_tool_is_never_charged_and_fails_alike(sides: Sides, mode: Any) -> None:
    async with sides.open(mode) as both:
        free, paid = await both.call(calling("test_error_handling", {}))
    assert without_ours(paid) == without_ours(free)
    assert (ours(paid), sides.charges()) == (set(), [])


async def test_a_tool_that_the_client_cannot_serve_is_never_charged_and_refuses_alike(sides: Sides, mode: Any) -> None:
    async with sides.open(mode) as both:
        with pytest.raises(MCPError) as free:
            await both.free.call_tool("test_missing_capability")
        with pytest.raises(MCPError) as paid:
            await both.paid.call_tool("test_missing_capability", meta=both.meta)
    assert paid.value.error == free.value.error
    assert sides.charges() == []


async def fill_in(_: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    """Answer every field of a form with yes or with a name."""
    assert params.mode == "form"
    fields = params.requested_schema["properties"]
    return ElicitResult(action="accept", content={name: fields[name]["type"] == "boolean" or "Alice" for name in fields})


async def test_a_call_of_several_rounds_is_charged_once_and_answers_alike(sides: Sides) -> None:
    async with sides.open("auto", elicitation_callback=fill_in) as both:
        for number, (name, call) in enumerate(ROUNDS.items(), 1):
            free, paid = await both.call(call)
            assert without_ours(paid) == without_ours(free), name
            assert ours(paid) == {"receipt"}, name
            assert sides.charges() == [PRICE_MICROS] * number, name
