"""What `Payre.install` takes, what it refuses and when, and what it never loads."""

import subprocess
import sys
from typing import Any

import pytest
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.server import dependencies
from fastmcp.server.auth import require_scopes
from fastmcp.server.extensions import ServerExtension
from fastmcp.utilities.tasks import TASKS_EXTENSION_ID
from mcp.server.mcpserver import MCPServer
from mcp.server.request_state import RequestStateBoundary
from mcp_types import CallToolResult, CreateMessageResult, SamplingMessage, TextContent

from payre_mcp import Payre, Price
from payre_mcp.server import extension
from tests.fakes import ROOT
from tests.server.conftest import Shop, code_of, facts_of, meta_of, text_of
from tests.server.test_quotes import quote
from tests.server_fastmcp.conftest import connected, low_level, metered, problem_at_start


class Tasks(ServerExtension):
    """Has the place of the tasks extension: a call of `quick` becomes a task, though nothing says so."""

    identifier = TASKS_EXTENSION_ID

    async def intercept_tool_call(self, params: Any, context: Any, call_next: Any) -> Any:
        result = await call_next()
        return result if params.name != "quick" else CallToolResult(content=[], result_type="task")


def test_the_server_comes_back_as_what_it_is(shop: Shop) -> None:
    fast: FastMCP = shop.payre().install(FastMCP("a"))
    plain: MCPServer = shop.payre().install(MCPServer("b"))
    assert (fast.name, plain.name) == ("a", "b")


def test_one_payre_meters_one_server_and_a_server_has_one_payre(shop: Shop) -> None:
    server = FastMCP("a")
    payre = metered(shop, server, {})
    with pytest.raises(ValueError, match="meters 'a' already"):
        payre.install(FastMCP("b"))
    with pytest.raises(ValueError, match="already registered"):
        shop.payre().install(server)


def test_what_is_no_server_is_refused_with_what_to_pass(shop: Shop) -> None:
    nothing: Any = object()
    with pytest.raises(TypeError, match="an MCPServer of mcp 2 or a FastMCP of fastmcp 4, not on object"):
        shop.payre().install(nothing)


def test_another_generation_of_fastmcp_is_refused_by_its_number(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "version", {"fastmcp": "3.2.1"}.__getitem__)
    with pytest.raises(TypeError, match=r"one of 3\.2\.1: pip install 'fastmcp>=4\.1,<5'"):
        shop.payre().install(FastMCP("old"))


def test_request_states_are_sealed_before_the_seam_sees_them(shop: Shop) -> None:
    server = FastMCP("a")
    chain = low_level(server).middleware
    chain[:] = [each for each in chain if not isinstance(each, RequestStateBoundary)]
    payre = metered(shop, server, {})
    names = [type(each).__name__ for each in chain]
    assert names.index("RequestStateBoundary") < chain.index(payre)


@pytest.mark.parametrize("statement", ["import payre_mcp", "from payre_mcp import PaidMCPServer, Payre; PaidMCPServer('x')"])
def test_fastmcp_is_loaded_by_its_own_servers_alone(statement: str) -> None:
    program = f"{statement}\nimport sys\nassert 'fastmcp' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


async def test_a_price_that_names_nothing_stops_the_server_with_advice(shop: Shop) -> None:
    server = FastMCP("a")

    @server.tool
    def search() -> str:
        return ""

    metered(shop, server, {"serch": "0.1"})
    problem = await problem_at_start(server)
    assert "no tool 'serch'" in problem.message
    assert "did you mean 'search'?" in problem.message


async def test_what_a_caller_may_not_see_is_no_typing_mistake_and_lists_stay_whole_for_them(shop: Shop, ran: list[str]) -> None:
    server, inner = FastMCP("a"), FastMCP("b")

    def secret() -> str:
        ran.append("secret")
        return ""

    for each in (server, inner):
        each.tool(secret, auth=require_scopes("admin"))
    server.mount(inner, namespace="sub")
    metered(shop, server, {"secret": "0.1", "sub_secret": "0.1"})
    async with connected(server) as client:
        assert (await client.list_tools()).tools == []
        for tool in ("secret", "sub_secret"):
            assert (await client.call_tool(tool, {}, meta=shop.meta())).is_error
    assert (ran, shop.journal()) == ([], [])


async def test_a_price_added_while_the_server_runs_is_checked_by_the_next_list(shop: Shop) -> None:
    server = FastMCP("a")
    payre = metered(shop, server, {})
    async with connected(server) as client:
        payre.pricing({"nothing": "0.1"})
        with pytest.raises(Exception, match="nothing"):
            await client.list_tools()


async def test_a_variant_that_goes_by_no_argument_stops_the_server(shop: Shop) -> None:
    server = FastMCP("a")

    @server.tool
    def paint(quality: str = "x") -> str:
        return quality

    metered(shop, server, {"paint": Price.variants("qualty", {"x": "0.1"})})
    assert "did you mean 'quality'?" in (await problem_at_start(server)).message


# Background tasks.


def with_task(**options: Any) -> FastMCP:
    server = FastMCP("a")
    server.add_extension(Tasks())

    @server.tool(task=True)
    async def slow() -> str:
        return "slow"

    @server.tool
    async def quick() -> str:
        return "quick"

    @server.tool
    async def outer(ctx: Context) -> str:
        await ctx.fastmcp.call_tool("quick")
        return "started"

    return server


async def test_a_price_on_what_can_run_as_a_background_task_stops_the_server(shop: Shop) -> None:
    server = with_task()
    metered(shop, server, {"slow": "0.1"})
    assert [(each.code, each.path) for each in (await problem_at_start(server)).problems] == [("task_priced", "slow")]


async def test_a_task_tool_that_is_priced_while_the_server_runs_is_refused_unrun(shop: Shop) -> None:
    server = with_task()
    payre = metered(shop, server, {})
    async with connected(server) as client:
        payre.pricing({"slow": "0.1"})
        refused = await client.call_tool("slow", {}, meta=shop.meta())
    assert (code_of(refused), shop.journal()) == ("price_spec_invalid", [])


async def test_a_result_that_comes_later_is_not_charged(shop: Shop) -> None:
    server = with_task()
    metered(shop, server, {"quick": "0.1"})
    async with connected(server) as client:
        with pytest.raises(Exception, match=r".*"):
            await client.call_tool("quick", {}, meta=shop.meta())
        await client.call_tool("outer", {}, meta=shop.meta())
    assert (shop.journal(), shop.spent()) == (["HOLD", "VOID"] * 2, 0)


async def test_a_background_worker_runs_nothing_that_has_a_price(shop: Shop) -> None:
    server = with_task()
    metered(shop, server, {"quick": "0.1"})
    dependencies.set_worker_server_resolver(lambda: server)
    try:
        with pytest.raises(ToolError, match="no background task can pay"):
            await server.call_tool("quick")
    finally:
        dependencies.set_worker_server_resolver(None)
    assert shop.journal() == []


# What else a request may bring.


async def test_quotes_are_free_for_tools_resources_and_prompts(shop: Shop) -> None:
    server = FastMCP("a")

    @server.resource("data://{year}")
    def report(year: str) -> str:
        return year

    metered(shop, server, {"resource:data://{year}": "0.02"})
    async with connected(server) as client:
        quoted = await quote(client, shop, "data://2025", kind="resource")
        assert (quoted["max_micros"], quoted["name"]) == (20_000, "data://{year}")
        with pytest.raises(Exception, match="no tool 'nothing'"):
            await quote(client, shop, "nothing")
    assert shop.journal() == []


async def test_what_a_session_hides_is_neither_run_nor_charged(shop: Shop) -> None:
    server = FastMCP("a")

    @server.tool
    def paid() -> str:
        return "paid"

    @server.tool
    async def hide(ctx: Context) -> str:
        await ctx.disable_components(names={"paid"})
        return "hidden"

    metered(shop, server, {"paid": "0.1"})
    async with connected(server, "legacy") as client:
        await client.call_tool("paid", {}, meta=shop.meta())
        await client.call_tool("hide", {})
        hidden = await client.call_tool("paid", {}, meta=shop.meta())
    assert (hidden.is_error, shop.journal(), shop.spent()) == (True, ["HOLD", "CAPTURE"], 100_000)


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_a_tool_that_asks_the_clients_model_is_charged_as_any_other(shop: Shop) -> None:
    server = FastMCP("a")

    @server.tool
    async def think(ctx: Context) -> str:
        thought = SamplingMessage(role="user", content=TextContent(type="text", text="Think"))
        session: Any = ctx.session
        answer = (await session.create_message([thought], max_tokens=9)).content
        assert isinstance(answer, TextContent)
        return answer.text

    async def model(*_: Any) -> CreateMessageResult:
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text="thought"), model="m")

    metered(shop, server, {"think": "0.1"})
    async with connected(server, "legacy", sampling_callback=model) as client:
        result = await client.call_tool("think", {}, meta=shop.meta())
    assert (text_of(result), "dev.payre/receipt" in meta_of(result), shop.spent()) == ("thought", True, 100_000)


async def test_where_what_has_no_price_is_refused_nothing_inside_runs_unpaid_either(shop: Shop, tmp_path: Any) -> None:
    server = FastMCP("a")

    @server.tool
    async def outer(ctx: Context) -> str:
        return str((await ctx.fastmcp.call_tool("inner")).structured_content)

    @server.tool
    def inner() -> str:
        return "inner"

    prices = tmp_path / "prices.yaml"
    prices.write_text("version: 1\ndefault: deny\ntools:\n  outer: free\n")
    shop.payre(prices=prices).install(server)
    async with connected(server) as client:
        for tool in ("inner", "outer"):
            refused = await client.call_tool(tool, {})
            assert (code_of(refused), "'inner'" in text_of(refused)) == ("not_priced", True)


def test_payre_is_the_object_in_the_chain(shop: Shop) -> None:
    server = FastMCP("a")
    payre = metered(shop, server, {})
    assert [each for each in low_level(server).middleware if isinstance(each, Payre)] == [payre]
    assert facts_of(CallToolResult(content=[])) == {}
