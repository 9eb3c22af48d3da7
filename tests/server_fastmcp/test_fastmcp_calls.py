"""Paid calls of a FastMCP server over the wire: the same seam, the same receipts, refusals, rounds and prices."""

import threading
from contextlib import closing
from typing import Any

import anyio
import pytest
from fastmcp import Client as FastMCPClient
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.tools import ToolResult
from fastmcp.utilities.versions import VersionSpec
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult, TextContent

from payre_mcp import Price, current_call, report_usage
from payre_mcp.clock import ManualClock
from payre_mcp.connection import open_ledger
from tests.fakes import fund
from tests.server.conftest import Shop, code_of, facts_of, meta_of, text_of
from tests.server.test_top_up import Person
from tests.server_fastmcp.conftest import connected, metered


def library(shop: Shop) -> FastMCP:
    server = FastMCP("library")

    @server.tool
    def search(city: str) -> str:
        return f"{city}: found"

    @server.tool
    def hours(city: str) -> str:
        return f"{city}: open"

    @server.resource("report://latest")
    def latest() -> str:
        return "All is well."

    @server.resource("report://{year}")
    def report(year: str) -> str:
        return f"In {year} all was well."

    @server.prompt
    def brief(topic: str) -> str:
        return f"Write a brief on {topic}."

    prices = {"search": "0.005", "resource:report://latest": "0.03", "resource:report://{year}": "0.02", "prompt:brief": "0.004"}
    metered(shop, server, prices)
    return server


async def test_tools_resources_templates_and_prompts_are_charged_once_each(shop: Shop, mode: Any) -> None:
    meta = shop.meta()
    async with connected(library(shop), mode) as client:
        for result, cost in (
            (await client.call_tool("search", {"city": "Oslo"}, meta=meta), 5_000),
            (await client.read_resource("report://latest", meta=meta), 30_000),
            (await client.read_resource("report://2025", meta=meta), 20_000),
            (await client.get_prompt("brief", {"topic": "peace"}, meta=meta), 4_000),
        ):
            receipt = shop.connection.ledger.ring.verify((result.meta or {})["dev.payre/receipt"])
            assert (receipt.amount_micros, receipt.server) == (cost, "library")
            assert "dev.payre/receipts" not in (result.meta or {})
        free = await client.call_tool("hours", {"city": "Oslo"}, meta=meta)
        assert (text_of(free), "dev.payre/receipt" in meta_of(free)) == ("Oslo: open", False)
    assert shop.spent() == 59_000
    assert shop.journal() == ["HOLD", "CAPTURE"] * 4


async def test_every_list_carries_its_prices(shop: Shop, mode: Any) -> None:
    async with connected(library(shop), mode) as client:
        tools = {each.name: each for each in (await client.list_tools()).tools}
        (latest,) = (await client.list_resources()).resources
        (report,) = (await client.list_resource_templates()).resource_templates
        (brief,) = (await client.list_prompts()).prompts
    prices = [(each.meta or {})["dev.payre/price"]["max_micros"] for each in (tools["search"], latest, report, brief)]
    assert prices == [5_000, 30_000, 20_000, 4_000]
    assert tools["search"].description == "Costs $0.005 per call."
    assert "dev.payre/price" not in (tools["hours"].meta or {})


async def test_the_extension_is_advertised_and_quotes_for_free(shop: Shop) -> None:
    async with connected(library(shop)) as client:
        assert client.server_capabilities is not None
        assert (client.server_capabilities.extensions or {})["dev.payre/metering"] == {"version": 1, "currency": "USD"}


async def test_without_a_key_nothing_runs_and_the_refusal_is_complete_in_text_and_data(shop: Shop, mode: Any) -> None:
    async with connected(library(shop), mode) as client:
        refused = await client.call_tool("search", {"city": "Oslo"})
        assert (refused.is_error, code_of(refused), facts_of(refused)["price_micros"]) == (True, "payment_required", 5_000)
        assert "0.005" in text_of(refused)
        for read in (client.read_resource("report://latest"), client.get_prompt("brief", {"topic": "peace"})):
            with pytest.raises(MCPError) as error:
                await read
            assert error.value.error.data["error"] == "payment_required"
    assert shop.journal() == []


async def test_what_fails_is_voided_and_what_is_unknown_is_never_held(shop: Shop, mode: Any) -> None:
    server = FastMCP("shop", mask_error_details=True)

    @server.tool
    def crash(city: str) -> str:
        raise RuntimeError(city)

    @server.tool
    async def refuse(city: str) -> str:
        raise ToolError(f"not {city}")

    @server.tool
    def fail(city: str) -> ToolResult:
        return ToolResult(f"no {city}", is_error=True)

    @server.resource("data://broken")
    def broken() -> str:
        raise RuntimeError("broken")

    metered(shop, server, {"crash": "0.1", "refuse": "0.1", "fail": "0.1", "resource:data://broken": "0.1"})
    async with connected(server, mode) as client:
        for tool in ("crash", "refuse", "fail"):
            assert (await shop.call(client, tool)).is_error
        assert (await client.call_tool("crash", {"town": 1}, meta=shop.meta())).is_error
        with pytest.raises(MCPError):
            await client.read_resource("data://broken", meta=shop.meta())
        assert shop.journal() == ["HOLD", "VOID"] * 5
        assert (await client.call_tool("nothing", {}, meta=shop.meta())).is_error
        with pytest.raises(MCPError):
            await client.read_resource("data://nothing", meta=shop.meta())
    assert len(shop.journal()) == 10
    assert shop.spent() == 0


async def test_a_cancelled_call_is_voided(shop: Shop) -> None:
    server, started = FastMCP("shop"), anyio.Event()

    @server.tool
    async def slow() -> str:
        started.set()
        await anyio.sleep_forever()
        return ""

    metered(shop, server, {"slow": "0.1"})
    async with connected(server) as client, anyio.create_task_group() as calls:
        calls.start_soon(lambda: client.call_tool("slow", {}, meta=shop.meta()))
        await started.wait()
        calls.cancel_scope.cancel()
    with anyio.fail_after(5):
        while shop.journal() != ["HOLD", "VOID"]:
            await anyio.lowlevel.checkpoint()
    assert shop.spent() == 0


async def test_reported_usage_is_charged_in_sync_and_async_tools_resources_and_prompts(shop: Shop) -> None:
    server, seen = FastMCP("shop"), list[Any]()

    def used() -> str:
        call = current_call()
        seen.append((call and call.target.name, threading.current_thread() is threading.main_thread()))
        report_usage("tokens", 7)
        return "done"

    @server.tool
    def in_thread() -> str:
        return used()

    @server.tool
    async def in_loop() -> str:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, used)
        return "done"

    @server.resource("data://x")
    async def data() -> str:
        return used()

    @server.prompt
    def ask() -> str:
        return used()

    per_token = Price.per("tokens", 1, "0.001", max_units=100)
    metered(shop, server, dict.fromkeys(("in_thread", "in_loop", "resource:data://x", "prompt:ask"), per_token))
    async with connected(server) as client:
        await client.call_tool("in_thread", {}, meta=shop.meta())
        await client.call_tool("in_loop", {}, meta=shop.meta())
        await client.read_resource("data://x", meta=shop.meta())
        await client.get_prompt("ask", meta=shop.meta())
    assert [name for name, _ in seen] == ["in_thread", "in_loop", "data://x", "ask"]
    assert not seen[0][1]
    assert shop.spent() == 28_000


async def test_a_call_of_several_rounds_keeps_one_hold(shop: Shop) -> None:
    server = FastMCP("shop")

    @server.tool
    async def order(ctx: Context) -> str | InputRequiredResult:
        if ctx.input_responses is None:
            form = ElicitRequestFormParams(message="How many?", requested_schema={"type": "object", "properties": {}})
            return InputRequiredResult(input_requests={"how_many": ElicitRequest(params=form)}, request_state="mine")
        assert ctx.request_state == "mine"
        return "ordered"

    async def accept(*_: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={})

    metered(shop, server, {"order": "0.05"})
    async with connected(server, elicitation_callback=accept) as client:
        assert text_of(await client.call_tool("order", {}, meta=shop.meta())) == "ordered"
    assert shop.journal().count("CAPTURE") == 1
    assert shop.journal().count("VOID") == 0
    assert shop.spent() == 50_000


async def test_an_elicitation_inside_a_tool_changes_nothing(shop: Shop) -> None:
    server = FastMCP("shop")

    @server.tool
    async def order(ctx: Context) -> str:
        answer = await ctx.elicit("Sure?", response_type=bool)
        return answer.action

    async def accept(*_: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"value": True})

    metered(shop, server, {"order": "0.05"})
    async with connected(server, "legacy", elicitation_callback=accept) as client:
        assert text_of(await client.call_tool("order", {}, meta=shop.meta())) == "accept"
    assert shop.spent() == 50_000


async def test_an_idempotency_key_pays_once_and_a_results_own_meta_stays(shop: Shop, ran: list[str]) -> None:
    server = FastMCP("shop")

    @server.tool
    def weigh(city: str) -> ToolResult:
        ran.append(city)
        return ToolResult([TextContent(type="text", text=city)], structured_content={"kg": 3}, meta={"mine": 1})

    metered(shop, server, {"weigh": "0.05"})
    async with connected(server) as client:
        first = await shop.call(client, "weigh", idempotency_key="once")
        second = await shop.call(client, "weigh", idempotency_key="once")
    assert (first.structured_content, meta_of(first)["mine"], meta_of(second)["mine"]) == ({"kg": 3}, 1, 1)
    assert meta_of(second)["dev.payre/replayed"] is True
    assert (ran, shop.spent()) == (["Oslo"], 50_000)


def painter(shop: Shop) -> FastMCP:
    """Two versions of a tool, whose price goes by an argument that has another default in each."""
    server = FastMCP("painter")

    @server.tool(name="paint", version="1")
    def paint_1(quality: str = "draft") -> str:
        return quality

    @server.tool(name="paint", version="2")
    def paint_2(quality: str = "poster") -> str:
        return quality

    @server.tool
    async def proxy(ctx: Context, below: str | None = None) -> ToolResult:
        return await ctx.fastmcp.call_tool("paint", version=VersionSpec(lt=below) if below else None)

    metered(shop, server, {"paint": Price.variants("quality", {"draft": "0.01", "poster": "0.25"})})
    return server


@pytest.mark.parametrize(
    ("asked", "runs", "cost"), [("1", "draft", 10_000), (None, "poster", 250_000), ({"eq": "1"}, "poster", 250_000)]
)
async def test_the_variant_goes_by_the_default_of_the_version_that_runs(shop: Shop, asked: Any, runs: str, cost: int) -> None:
    meta: Any = {**shop.meta(), "fastmcp": {"version": asked}}
    async with connected(painter(shop)) as client:
        assert text_of(await client.call_tool("paint", {}, meta=meta)) == runs
    assert shop.spent() == cost


@pytest.mark.parametrize(("below", "runs", "cost"), [(None, "poster", 250_000), ("2", "draft", 10_000)])
async def test_a_version_that_was_asked_of_a_proxy_is_not_that_of_what_it_calls(
    shop: Shop, below: str | None, runs: str, cost: int
) -> None:
    meta: Any = {**shop.meta(), "fastmcp": {"version": "1"}}
    async with connected(painter(shop)) as client:
        assert text_of(await client.call_tool("proxy", {"below": below}, meta=meta)) == runs
    assert shop.spent() == cost


@pytest.mark.parametrize("junk", ["x", 7, ["version"], {"version": ["1"]}, {"version": "99"}])
async def test_junk_where_a_version_belongs_costs_nothing_more(shop: Shop, junk: Any) -> None:
    meta: Any = {**shop.meta(), "fastmcp": junk}
    async with connected(painter(shop)) as client:
        result = await client.call_tool("paint", {}, meta=meta)
    assert shop.spent() == (0 if result.is_error else 250_000)


@pytest.fixture
def only_asyncio(anyio_backend: str) -> None:
    if anyio_backend != "asyncio":
        pytest.skip("fastmcp.Client runs on asyncio alone")


@pytest.mark.usefixtures("only_asyncio")
async def test_fastmcps_own_client_pays_and_reads_refusals(shop: Shop) -> None:
    async with FastMCPClient(library(shop)) as client:
        paid = await client.call_tool("search", {"city": "Oslo"}, meta=shop.meta())
        assert (paid.data, "dev.payre/receipt" in (paid.meta or {})) == ("Oslo: found", True)
        with pytest.raises(ToolError, match=r"\$0.005"):
            await client.call_tool("search", {"city": "Oslo"})
    assert shop.spent() == 5_000


async def test_a_caller_without_money_is_asked_to_add_some_and_the_same_call_goes_on(ledger_path: Any, mode: Any) -> None:
    with closing(
        open_ledger(f"sqlite:///{ledger_path}", clock=ManualClock(), top_up_page="http://127.0.0.1:8402/top-ups")
    ) as ledger:
        shop = Shop(ledger, fund(ledger.ledger, 1_000))
        person = Person(ledger)
        async with connected(library(shop), mode, elicitation_callback=person) as client:
            result = await shop.call(client, "search")
        assert (text_of(result), len(person.asked)) == ("Oslo: found", 1)
        assert shop.consumer.account().balance_micros == 5_001_000 - 5_000
        assert shop.journal() == ["HOLD", "CAPTURE"]
