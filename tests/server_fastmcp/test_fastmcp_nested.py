"""Calls inside a request: what was charged at the wire arrives, what was not is charged where it runs, nothing twice.

FastMCP sends calls of its own through the same middleware: search proxies, resources and prompts as tools, renames, and
tools that call tools.
"""

from dataclasses import replace
from typing import Any

import anyio
import pytest
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.resources import ResourceContent, ResourceResult
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.server.middleware.caching import ResponseCachingMiddleware
from fastmcp.server.middleware.tool_injection import ToolInjectionMiddleware
from fastmcp.server.transforms import PromptsAsTools, ResourcesAsTools, ToolTransform
from fastmcp.server.transforms.search import BM25SearchTransform
from fastmcp.tools import Tool
from fastmcp.tools.tool_transform import ToolTransformConfig
from mcp.shared.exceptions import MCPError

from payre_mcp import Price, current_call, report_usage
from tests.server.conftest import Shop, code_of, facts_of, meta_of, text_of
from tests.server_fastmcp.conftest import connected, low_level, metered


class Rename(Middleware):
    """Calls by one name what was asked for by another."""

    def __init__(self, old: str, new: str) -> None:
        self.names = {old: new}

    async def on_request(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        message = context.message
        field = "uri" if context.method == "resources/read" else "name"
        name = getattr(message, field, None)
        if name in self.names:
            context = context.copy(message=message.model_copy(update={field: self.names[name]}))
        return await call_next(context)


def market(ran: list[str], **options: Any) -> FastMCP:
    """A server with tools that call each other, a resource, a template and a prompt."""
    server = FastMCP("market", **options)

    @server.tool
    def paid(city: str) -> str:
        ran.append("paid")
        return f"{city}: paid for"

    @server.tool
    def dear(city: str) -> str:
        ran.append("dear")
        return f"{city}: dear"

    @server.tool
    async def both(city: str, ctx: Context) -> str:
        ran.append("both")
        results = [await ctx.fastmcp.call_tool(name, {"city": city}) for name in ("paid", "dear", "paid")]
        return " ".join(block.text for result in results for block in result.content if block.type == "text")

    @server.tool
    async def forgiving(city: str, ctx: Context) -> str:
        try:
            await ctx.fastmcp.call_tool("paid", {"city": city})
        except ToolError:
            return "without it"
        return "with it"

    @server.resource("data://secret", meta={"of": "secret"})
    def secret() -> ResourceResult:
        ran.append("secret")
        return ResourceResult([ResourceContent("secret"), ResourceContent(b"bytes")], meta={"mine": 1})

    @server.resource("data://{year}/report")
    def report(year: str) -> str:
        ran.append("report")
        return year

    @server.prompt
    def ask(topic: str) -> str:
        ran.append("ask")
        return topic

    return server


PAID = {"paid": "0.005"}


# A free proxy.


async def test_a_priced_tool_reached_by_the_search_proxy_is_charged_once_with_the_callers_key(
    shop: Shop, mode: Any, ran: list[str]
) -> None:
    server = market(ran, transforms=[BM25SearchTransform()])
    metered(shop, server, PAID)
    async with connected(server, mode) as client:
        listed = [each.name for each in (await client.list_tools()).tools]
        proxied = {"name": "paid", "arguments": {"city": "Oslo"}}
        result = await client.call_tool("call_tool", proxied, meta=shop.meta())
    assert listed == ["search_tools", "call_tool"]
    assert (text_of(result), shop.receipt(result).name, ran) == ("Oslo: paid for", "paid", ["paid"])
    assert shop.journal() == ["HOLD", "CAPTURE"]
    assert shop.spent() == 5_000


async def test_a_search_tells_the_price_of_what_it_finds(shop: Shop, mode: Any, ran: list[str]) -> None:
    server = market(ran, transforms=[BM25SearchTransform()])
    server.add_transform(ResourcesAsTools(server))
    metered(shop, server, {**PAID, "resource:data://secret": "0.02"})
    async with connected(server, mode) as client:
        found = await client.call_tool("search_tools", {"query": "paid city"})
        listed = await client.call_tool("list_resources", {})
    assert "Costs $0.005 per call." in text_of(found)
    assert text_of(listed).count("Costs $0.02 per call.") == 1


async def test_a_refusal_behind_a_proxy_is_as_readable_as_one_before_it(shop: Shop, mode: Any, ran: list[str]) -> None:
    server = market(ran, transforms=[BM25SearchTransform()], mask_error_details=True)
    metered(shop, server, PAID)
    async with connected(server, mode) as client:
        direct = await client.call_tool("paid", {"city": "Oslo"})
        proxied = await client.call_tool("call_tool", {"name": "paid", "arguments": {"city": "Oslo"}})
    assert (code_of(proxied), text_of(proxied), facts_of(proxied)) == ("payment_required", text_of(direct), facts_of(direct))
    assert meta_of(proxied) == meta_of(direct)
    assert (ran, shop.journal()) == ([], [])


async def test_resources_and_prompts_reached_as_tools_are_charged_or_refused_readably(
    shop: Shop, mode: Any, ran: list[str]
) -> None:
    server = market(ran)
    server.add_transform(ResourcesAsTools(server))
    server.add_transform(PromptsAsTools(server))
    metered(shop, server, {"resource:data://secret": "0.02", "resource:data://{year}/report": "0.03", "prompt:ask": "0.01"})
    calls: list[tuple[str, dict[str, Any], int]] = [
        ("read_resource", {"uri": "data://secret"}, 20_000),
        ("read_resource", {"uri": "data://2025/report"}, 30_000),
        ("get_prompt", {"name": "ask", "arguments": {"topic": "peace"}}, 10_000),
    ]
    async with connected(server, mode) as client:
        for tool, arguments, cost in calls:
            refused = await client.call_tool(tool, arguments)
            assert (code_of(refused), facts_of(refused)["price_micros"]) == ("payment_required", cost)
            paid = await client.call_tool(tool, arguments, meta=shop.meta())
            assert shop.receipt(paid).amount_micros == cost
    assert ran == ["secret", "report", "ask"]
    assert shop.spent() == 60_000


async def test_several_priced_calls_of_one_free_call_are_charged_each_once_and_every_receipt_arrives(
    shop: Shop, mode: Any, ran: list[str]
) -> None:
    server = market(ran)
    metered(shop, server, {"paid": "0.005", "dear": "0.5"})
    async with connected(server, mode) as client:
        result = await shop.call(client, "both")
    receipts = [shop.connection.ledger.ring.verify(each) for each in meta_of(result)["dev.payre/receipts"]]
    assert [(each.name, each.amount_micros) for each in receipts] == [("paid", 5_000), ("dear", 500_000), ("paid", 5_000)]
    assert meta_of(result)["dev.payre/receipt"] == meta_of(result)["dev.payre/receipts"][0]
    assert ran == ["both", "paid", "dear", "paid"]
    assert shop.journal() == ["HOLD", "CAPTURE"] * 3
    assert shop.spent() == 510_000


async def test_a_retry_under_the_same_idempotency_key_charges_no_inner_call_again(shop: Shop, ran: list[str]) -> None:
    server = market(ran)
    metered(shop, server, {"paid": "0.005", "dear": "0.5"})
    async with connected(server) as client:
        first = await shop.call(client, "both", idempotency_key="once")
        second = await shop.call(client, "both", idempotency_key="once")
    assert text_of(first) == text_of(second)
    assert ran == ["both", "paid", "dear", "paid", "both"]
    assert shop.spent() == 510_000


async def test_what_was_paid_before_a_refusal_keeps_its_receipt(shop: Shop, ran: list[str]) -> None:
    server = market(ran)
    metered(shop, server, {"paid": "0.005", "dear": "5"})
    async with connected(server) as client:
        result = await shop.call(client, "both")
    assert (code_of(result), shop.receipt(result).name) == ("insufficient_balance", "paid")
    assert shop.spent() == 5_000


async def test_a_tool_may_go_on_without_what_was_refused(shop: Shop, ran: list[str]) -> None:
    server = market(ran)
    metered(shop, server, PAID)
    async with connected(server) as client:
        result = await client.call_tool("forgiving", {"city": "Oslo"})
    assert (result.is_error, text_of(result), ran, shop.journal()) == (False, "without it", [], [])


async def test_an_inner_call_that_fails_is_voided_and_its_error_is_its_own(shop: Shop) -> None:
    server = FastMCP("shop")

    @server.tool
    def broken() -> str:
        raise ToolError("broken")

    @server.tool
    async def outer(ctx: Context) -> str:
        await ctx.fastmcp.call_tool("broken")
        return ""

    metered(shop, server, {"broken": "0.1"})
    async with connected(server) as client:
        result = await client.call_tool("outer", {}, meta=shop.meta())
    assert (text_of(result), shop.journal(), shop.spent()) == ("broken", ["HOLD", "VOID"], 0)


async def test_an_inner_call_that_is_cancelled_is_voided(shop: Shop) -> None:
    server, started = FastMCP("shop"), anyio.Event()

    @server.tool
    async def slow() -> str:
        started.set()
        await anyio.sleep_forever()
        return ""

    @server.tool
    async def outer(ctx: Context) -> str:
        await ctx.fastmcp.call_tool("slow")
        return ""

    metered(shop, server, {"slow": "0.1"})
    async with connected(server) as client, anyio.create_task_group() as calls:
        calls.start_soon(lambda: client.call_tool("outer", {}, meta=shop.meta()))
        await started.wait()
        calls.cancel_scope.cancel()
    with anyio.fail_after(5):
        while shop.journal() != ["HOLD", "VOID"]:
            await anyio.lowlevel.checkpoint()
    assert shop.spent() == 0


async def test_usage_reported_in_an_inner_call_is_that_calls_own(shop: Shop) -> None:
    server, seen = FastMCP("shop"), list[Any]()

    @server.tool
    def inner() -> str:
        report_usage("tokens", 9)
        return ""

    @server.tool
    async def outer(ctx: Context) -> str:
        report_usage("tokens", 1_000)
        await ctx.fastmcp.call_tool("inner")
        seen.append(current_call())
        return ""

    metered(shop, server, {"inner": Price.per("tokens", 1, "0.001", max_units=100)})
    async with connected(server) as client:
        await client.call_tool("outer", {}, meta=shop.meta())
    assert (seen, shop.spent()) == ([None], 9_000)


# A charged call.


async def test_what_a_charged_tool_calls_is_part_of_it(shop: Shop, mode: Any, ran: list[str]) -> None:
    server = market(ran)
    metered(shop, server, {"both": "0.1", "paid": "0.005", "dear": "0.5"})
    async with connected(server, mode) as client:
        result = await shop.call(client, "both")
    assert (shop.receipt(result).amount_micros, ran) == (100_000, ["both", "paid", "dear", "paid"])
    assert "dev.payre/receipts" not in meta_of(result)
    assert shop.journal() == ["HOLD", "CAPTURE"]
    assert shop.spent() == 100_000


async def test_what_an_inner_charged_tool_calls_is_part_of_that(shop: Shop, ran: list[str]) -> None:
    server = market(ran, transforms=[BM25SearchTransform()])
    metered(shop, server, {"both": "0.1", "paid": "0.005", "dear": "0.5"})
    async with connected(server) as client:
        await client.call_tool("call_tool", {"name": "both", "arguments": {"city": "Oslo"}}, meta=shop.meta())
    assert (ran, shop.spent()) == (["both", "paid", "dear", "paid"], 100_000)


@pytest.mark.parametrize("keyed", [True, False])
async def test_a_price_of_nothing_pays_for_nothing_inside(shop: Shop, ran: list[str], keyed: bool) -> None:
    server = market(ran)
    metered(shop, server, {"both": "0", "paid": "0.005", "dear": "0.5"})
    async with connected(server) as client:
        result = await shop.call(client, "both", key=... if keyed else None)
    assert (code_of(result), ran) == (("", ["both", "paid", "dear", "paid"]) if keyed else ("payment_required", ["both"]))
    assert shop.spent() == (510_000 if keyed else 0)


# Renames further in.


@pytest.mark.parametrize("before", [True, False])
async def test_a_rename_to_another_price_is_refused_and_costs_nothing(
    shop: Shop, mode: Any, ran: list[str], before: bool
) -> None:
    server = market(ran)
    if before:
        server.add_middleware(Rename("paid", "dear"))
    metered(shop, server, {"paid": "0.005", "dear": "0.5"})
    if not before:
        server.add_middleware(Rename("paid", "dear"))
    async with connected(server, mode) as client:
        result = await shop.call(client, "paid")
    assert (code_of(result), ran) == ("call_refused", [])
    assert shop.journal() == ["HOLD", "VOID"]
    assert shop.spent() == 0


@pytest.mark.parametrize("before", [True, False])
async def test_a_rename_of_something_free_to_something_priced_is_charged_as_what_runs(
    shop: Shop, ran: list[str], before: bool
) -> None:
    server = market(ran)
    renames = (Rename("gratis", "both"), Rename("data://free", "data://secret"))
    for each in renames if before else ():
        server.add_middleware(each)
    metered(shop, server, {"both": "0.1", "paid": "0.005", "resource:data://secret": "0.02"})
    for each in () if before else renames:
        server.add_middleware(each)
    async with connected(server) as client:
        assert code_of(await shop.call(client, "gratis", key=None)) == "payment_required"
        assert shop.receipt(await shop.call(client, "gratis")).amount_micros == 100_000
        with pytest.raises(MCPError) as refused:
            await client.read_resource("data://free")
        read = await client.read_resource("data://free", meta=shop.meta())
    assert refused.value.error.data["price_micros"] == 20_000
    assert (read.meta or {})["mine"] == 1
    assert ran == ["both", "paid", "dear", "paid", "secret"]
    assert shop.spent() == 120_000


async def test_a_rename_at_the_wire_itself_is_refused_too(shop: Shop, ran: list[str]) -> None:
    server = market(ran)
    metered(shop, server, {"paid": "0.005", "dear": "0.5"})

    async def rename(ctx: Any, call_next: Any) -> Any:
        return await call_next(ctx if ctx.method != "tools/call" else _named(ctx, "dear"))

    low_level(server).middleware.append(rename)
    async with connected(server) as client:
        assert code_of(await shop.call(client, "paid")) == "call_refused"
    assert (ran, shop.spent()) == ([], 0)


def _named(ctx: Any, name: str) -> Any:
    return replace(ctx, params={**ctx.params, "name": name})


async def test_a_renamed_resource_or_prompt_is_refused_as_a_protocol_error(shop: Shop, ran: list[str]) -> None:
    server = market(ran)
    metered(shop, server, {"resource:data://secret": "0.02", "resource:data://{year}/report": "0.03"})
    server.add_middleware(Rename("data://secret", "data://2025/report"))
    async with connected(server) as client:
        with pytest.raises(MCPError) as refused:
            await client.read_resource("data://secret", meta=shop.meta())
    assert (refused.value.error.code, refused.value.error.data["error"], ran) == (-32010, "call_refused", [])
    assert shop.spent() == 0


async def test_a_renaming_transform_is_priced_by_the_name_that_is_listed(shop: Shop, mode: Any, ran: list[str]) -> None:
    server = market(ran)
    server.add_transform(ToolTransform({"paid": ToolTransformConfig(name="sold")}))
    metered(shop, server, {"sold": "0.005"})
    async with connected(server, mode) as client:
        assert shop.receipt(await shop.call(client, "sold")).name == "sold"
        assert (await shop.call(client, "paid")).is_error
    assert (ran, shop.spent()) == (["paid"], 5_000)


# The server's own code, caches, and tools from elsewhere.


async def test_the_servers_own_calls_are_free(shop: Shop, ran: list[str]) -> None:
    server = market(ran)
    metered(shop, server, {**PAID, "resource:data://secret": "0.02", "prompt:ask": "0.01"})
    async with connected(server):
        assert (await server.call_tool("both", {"city": "Oslo"})).is_error is False
        await server.read_resource("data://secret")
        await server.render_prompt("ask", {"topic": "peace"})
    assert ran == ["both", "paid", "dear", "paid", "secret", "ask"]
    assert shop.journal() == []


async def test_a_rename_in_the_servers_own_calls_is_its_own_too(shop: Shop, ran: list[str]) -> None:
    server = market(ran)
    metered(shop, server, PAID)
    server.add_middleware(Rename("gratis", "paid"))
    async with connected(server):
        await server.call_tool("gratis", {"city": "Oslo"})
    assert (ran, shop.journal()) == (["paid"], [])


@pytest.mark.parametrize("before", [True, False])
async def test_an_answer_from_the_cache_is_paid_for_like_any_other(shop: Shop, ran: list[str], before: bool) -> None:
    server = market(ran)
    cache = ResponseCachingMiddleware()
    if before:
        server.add_middleware(cache)
    metered(shop, server, {**PAID, "resource:data://secret": "0.02", "prompt:ask": "0.01"})
    if not before:
        server.add_middleware(cache)
    async with connected(server, cache=None) as client:
        for _ in range(2):
            assert "dev.payre/receipt" in meta_of(await shop.call(client, "paid"))
            assert "dev.payre/receipt" in ((await client.read_resource("data://secret", meta=shop.meta())).meta or {})
            assert "dev.payre/receipt" in ((await client.get_prompt("ask", {"topic": "x"}, meta=shop.meta())).meta or {})
        assert code_of(await shop.call(client, "paid", key=None)) == "payment_required"
    assert (ran, shop.spent()) == (["paid", "secret", "ask"], 70_000)


@pytest.mark.parametrize("before", [True, False])
async def test_a_proxy_whose_answers_are_cached_reaches_nothing_that_is_paid(shop: Shop, ran: list[str], before: bool) -> None:
    server = market(ran, transforms=[BM25SearchTransform()])
    proxied = {"name": "paid", "arguments": {"city": "Oslo"}}
    if before:
        server.add_middleware(ResponseCachingMiddleware())
    metered(shop, server, PAID)
    if not before:
        server.add_middleware(ResponseCachingMiddleware())
    async with connected(server) as client:
        for key in (shop.consumer.key.text, None):
            refused = await client.call_tool("call_tool", proxied, meta=shop.meta(key=key))
            assert code_of(refused) == "call_refused"
            assert "ResponseCachingMiddleware" in text_of(refused)
    assert (ran, shop.spent()) == ([], 0)


async def test_a_proxy_that_is_excluded_from_the_cache_sells_what_the_cache_has(shop: Shop, ran: list[str]) -> None:
    server = market(ran, transforms=[BM25SearchTransform()])
    server.add_middleware(ResponseCachingMiddleware(call_tool_settings={"excluded_tools": ["call_tool"]}))
    metered(shop, server, PAID)
    async with connected(server) as client:
        for _ in range(2):
            proxied = {"name": "paid", "arguments": {"city": "Oslo"}}
            assert "dev.payre/receipt" in meta_of(await client.call_tool("call_tool", proxied, meta=shop.meta()))
    assert (ran, shop.spent()) == (["paid"], 10_000)


async def test_an_injected_tool_is_sold_like_any_other(shop: Shop, ran: list[str]) -> None:
    def extra(city: str) -> str:
        ran.append("extra")
        return city

    server = market(ran)
    metered(shop, server, {"extra": "0.005"})
    server.add_middleware(ToolInjectionMiddleware([Tool.from_function(extra)]))
    async with connected(server) as client:
        assert code_of(await shop.call(client, "extra", key=None)) == "payment_required"
        assert shop.receipt(await shop.call(client, "extra")).name == "extra"
    assert (ran, shop.spent()) == (["extra"], 5_000)


async def test_a_disabled_tool_is_neither_a_typing_mistake_nor_charged(shop: Shop, ran: list[str]) -> None:
    server = market(ran)
    server.disable(names={"paid"})
    metered(shop, server, PAID)
    async with connected(server) as client:
        assert "paid" not in [each.name for each in (await client.list_tools()).tools]
        assert (await shop.call(client, "paid")).is_error
    assert (ran, shop.journal()) == ([], [])


async def test_calls_at_the_same_time_are_charged_each_to_its_own_key(shop: Shop, ran: list[str]) -> None:
    server = market(ran, transforms=[BM25SearchTransform()])
    metered(shop, server, PAID)
    proxied = {"name": "paid", "arguments": {"city": "Oslo"}}
    receipts: list[str] = []
    async with connected(server) as client, anyio.create_task_group() as tasks:

        async def buy() -> None:
            receipts.append(meta_of(await client.call_tool("call_tool", proxied, meta=shop.meta()))["dev.payre/receipt"])

        for _ in range(20):
            tasks.start_soon(buy)
    assert (len(set(receipts)), len(ran), shop.spent()) == (20, 20, 100_000)
