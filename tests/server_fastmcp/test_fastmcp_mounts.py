"""Servers on servers: mounted, nested, behind a proxy, as an app; a price holds wherever its name leads."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastmcp import Context, FastMCP
from fastmcp.apps.app import FastMCPApp
from fastmcp.server import create_proxy
from fastmcp.server.middleware.caching import ResponseCachingMiddleware
from fastmcp.server.providers import FastMCPProvider
from fastmcp.server.providers.addressing import hashed_backend_name
from fastmcp.server.transforms import ResourcesAsTools
from fastmcp.server.transforms.search import BM25SearchTransform
from fastmcp.tools import Tool, ToolResult
from fastmcp.utilities.versions import VersionSpec
from mcp.shared.exceptions import MCPError
from mcp_types import InputRequiredResult

from tests.server.conftest import Shop, code_of, facts_of, meta_of, text_of
from tests.server.test_rounds import MODERN, answers, question
from tests.server_fastmcp.conftest import connected, metered

AROUND = {"name": "paid", "arguments": {"city": "Oslo"}}


def child(ran: list[str], **options: Any) -> FastMCP:
    """A server to be mounted."""
    server = FastMCP("child", **options)

    @server.tool
    def paid(city: str) -> str:
        ran.append("paid")
        return f"{city}: paid for"

    @server.tool
    async def nested(city: str, ctx: Context) -> str:
        ran.append("nested")
        return str((await ctx.fastmcp.call_tool("paid", {"city": city})).structured_content)

    @server.resource("data://{year}/report")
    def report(year: str) -> str:
        ran.append("report")
        return year

    @server.prompt
    def ask(topic: str) -> str:
        ran.append("ask")
        return topic

    return server


def mounted(inner: FastMCP, *namespaces: str) -> FastMCP:
    """A server with `inner` on it, under each of the namespaces in turn, the last one outermost."""
    for namespace in namespaces:
        outer = FastMCP(f"over-{namespace or 'plain'}")
        outer.mount(inner, namespace=namespace or None)
        inner = outer
    return inner


# The parent has the prices.


@pytest.mark.parametrize("namespaces", [("",), ("sub",), ("sub", "top")])
async def test_what_is_mounted_is_sold_under_the_name_that_the_metered_server_lists(
    shop: Shop, mode: Any, ran: list[str], namespaces: tuple[str, ...]
) -> None:
    server = mounted(child(ran), *namespaces)
    tools = [each.name for each in await server.list_tools()]
    (template,) = [each.uri_template for each in await server.list_resource_templates()]
    (prompt,) = [each.name for each in await server.list_prompts()]
    name = next(each for each in tools if each.endswith("paid"))
    metered(shop, server, {name: "0.005", f"resource:{template}": "0.02", f"prompt:{prompt}": "0.01"})
    async with connected(server, mode) as client:
        assert code_of(await shop.call(client, name, key=None)) == "payment_required"
        assert shop.receipt(await shop.call(client, name)).name == name
        await client.read_resource(template.replace("{year}", "2025"), meta=shop.meta())
        await client.get_prompt(prompt, {"topic": "peace"}, meta=shop.meta())
    assert ran == ["paid", "report", "ask"]
    assert shop.journal() == ["HOLD", "CAPTURE"] * 3
    assert shop.spent() == 35_000


@pytest.mark.parametrize("namespaces", [("sub",), ("sub", "top")])
async def test_a_mounted_servers_own_proxy_and_tools_are_no_way_around_a_price(
    shop: Shop, mode: Any, ran: list[str], namespaces: tuple[str, ...]
) -> None:
    prefix = "_".join(reversed(namespaces))
    server = mounted(child(ran, transforms=[BM25SearchTransform()]), *namespaces)
    metered(shop, server, {f"{prefix}_paid": "0.005"})
    async with connected(server, mode) as client:
        refused = await client.call_tool(f"{prefix}_call_tool", AROUND)
        assert (code_of(refused), facts_of(refused)["price_micros"], ran) == ("payment_required", 5_000, [])
        proxied = await client.call_tool(f"{prefix}_call_tool", AROUND, meta=shop.meta())
        assert shop.receipt(proxied).name == f"{prefix}_paid"
        assert code_of(await shop.call(client, f"{prefix}_nested", key=None)) == "payment_required"
        assert shop.receipt(await shop.call(client, f"{prefix}_nested")).name == f"{prefix}_paid"
    assert ran == ["paid", "nested", "nested", "paid"]
    assert shop.spent() == 10_000


async def test_a_mounted_servers_templates_are_charged_by_their_address_on_the_metered_one(shop: Shop, ran: list[str]) -> None:
    inner = child(ran)
    inner.add_transform(ResourcesAsTools(inner))
    server = mounted(inner, "sub")
    metered(shop, server, {"resource:data://sub/{year}/report": "0.02"})
    async with connected(server) as client:
        read = {"uri": "data://2025/report"}
        assert code_of(await client.call_tool("sub_read_resource", read)) == "payment_required"
        paid = await client.call_tool("sub_read_resource", read, meta=shop.meta())
    assert (shop.receipt(paid).name, ran, shop.spent()) == ("data://sub/{year}/report", ["report"], 20_000)


async def test_one_server_mounted_twice_is_sold_under_one_name_and_free_under_the_other(shop: Shop, ran: list[str]) -> None:
    inner, server = child(ran), FastMCP("over")
    server.mount(inner, namespace="sold")
    server.mount(inner, namespace="given")
    metered(shop, server, {"sold_paid": "0.005"})
    async with connected(server) as client:
        assert code_of(await shop.call(client, "sold_paid", key=None)) == "payment_required"
        assert not (await shop.call(client, "given_paid", key=None)).is_error
        await shop.call(client, "sold_paid")
    assert (ran, shop.spent()) == (["paid", "paid"], 5_000)


async def test_what_a_charged_mounted_tool_calls_is_part_of_it(shop: Shop, ran: list[str]) -> None:
    server = mounted(child(ran), "sub")
    metered(shop, server, {"sub_paid": "0.005", "sub_nested": "0.1"})
    async with connected(server) as client:
        await shop.call(client, "sub_nested")
    assert (ran, shop.journal(), shop.spent()) == (["nested", "paid"], ["HOLD", "CAPTURE"], 100_000)


async def test_a_cache_of_a_mounted_servers_proxy_sells_nothing_twice(shop: Shop, ran: list[str]) -> None:
    inner = child(ran, transforms=[BM25SearchTransform()])
    inner.add_middleware(ResponseCachingMiddleware())
    server = mounted(inner, "sub")
    metered(shop, server, {"sub_paid": "0.005"})
    async with connected(server) as client:
        assert code_of(await client.call_tool("sub_call_tool", AROUND, meta=shop.meta())) == "call_refused"
    assert (ran, shop.spent()) == ([], 0)


async def test_what_is_mounted_later_is_sold_once_it_has_a_price_and_was_listed(shop: Shop, ran: list[str]) -> None:
    server = FastMCP("over")
    payre = metered(shop, server, {})
    async with connected(server) as client:
        server.mount(child(ran, transforms=[BM25SearchTransform()]), namespace="sub")
        payre.pricing({"sub_paid": "0.005"})
        await client.list_tools()
        assert code_of(await client.call_tool("sub_call_tool", AROUND)) == "payment_required"
        await shop.call(client, "sub_paid")
    assert (ran, shop.spent()) == (["paid"], 5_000)


# The child has the prices.


async def test_a_metered_server_sells_wherever_it_is_mounted(shop: Shop, mode: Any, ran: list[str]) -> None:
    inner = child(ran)
    metered(shop, inner, {"paid": "0.005", "resource:data://{year}/report": "0.02", "prompt:ask": "0.01"})
    async with connected(mounted(inner, "sub"), mode) as client:
        refused = await shop.call(client, "sub_paid", key=None)
        assert (code_of(refused), facts_of(refused)["price_micros"]) == ("payment_required", 5_000)
        with pytest.raises(MCPError) as error:
            await client.read_resource("data://sub/2025/report")
        assert error.value.error.data["error"] == "payment_required"
        assert shop.receipt(await shop.call(client, "sub_paid")).name == "paid"
        read = await client.read_resource("data://sub/2025/report", meta=shop.meta())
        asked = await client.get_prompt("sub_ask", {"topic": "x"}, meta=shop.meta())
        assert all("dev.payre/receipt" in (each.meta or {}) for each in (read, asked))
        assert shop.receipt(await shop.call(client, "sub_nested")).name == "paid"
    assert ran == ["paid", "report", "ask", "nested", "paid"]
    assert shop.spent() == 40_000


async def test_an_error_after_a_paid_call_stays_an_error_and_keeps_the_receipt(shop: Shop, ran: list[str]) -> None:
    inner = child(ran)

    @inner.tool
    async def failing(city: str, ctx: Context) -> ToolResult:
        await ctx.fastmcp.call_tool("paid", {"city": city})
        return ToolResult("failed", is_error=True)

    metered(shop, inner, {"paid": "0.005"})
    async with connected(mounted(inner, "sub")) as client:
        result = await shop.call(client, "sub_failing")
    assert (result.is_error, text_of(result), shop.receipt(result).name) == (True, "failed", "paid")
    assert shop.spent() == 5_000


async def test_a_question_after_a_paid_call_stays_a_question(shop: Shop, ran: list[str]) -> None:
    inner = child(ran)

    @inner.tool
    async def asking(ctx: Context) -> str | InputRequiredResult:
        if ctx.request_state is None:
            await ctx.fastmcp.call_tool("paid", {"city": "Oslo"})
            return question(state="paid")
        return "answered"

    metered(shop, inner, {"paid": "0.005"})
    async with connected(mounted(inner, "sub"), elicitation_callback=answers) as client:
        result = await client.call_tool("sub_asking", {}, meta=shop.meta())
    assert (text_of(result), ran, shop.spent()) == ("answered", ["paid"], 5_000)


async def test_a_metered_server_on_a_metered_server_is_paid_beside_it_and_both_receipts_arrive(
    shop: Shop, mode: Any, ran: list[str]
) -> None:
    inner = child(ran)
    metered(shop, inner, {"paid": "0.005"})
    server = mounted(inner, "sub")
    metered(shop, server, {"sub_paid": "0.1"})
    async with connected(server, mode) as client:
        result = await shop.call(client, "sub_paid", idempotency_key="once")
        assert not result.is_error
    receipts = [shop.connection.ledger.ring.verify(each) for each in meta_of(result)["dev.payre/receipts"]]
    assert sorted((each.server, each.name, each.amount_micros) for each in receipts) == [
        ("child", "paid", 5_000), ("over-sub", "sub_paid", 100_000),
    ]  # fmt: skip
    assert (ran, shop.spent()) == (["paid"], 105_000)


async def test_a_refusal_of_a_mounted_metered_server_fails_the_call_around_it_unpaid(shop: Shop, ran: list[str]) -> None:
    inner = child(ran)
    metered(shop, inner, {"paid": "5"})
    server = mounted(inner, "sub")
    metered(shop, server, {"sub_paid": "0.1"})
    async with connected(server) as client:
        result = await shop.call(client, "sub_paid")
    assert (code_of(result), facts_of(result)["price_micros"]) == ("insufficient_balance", 5_000_000)
    assert (ran, shop.journal(), shop.spent()) == ([], ["HOLD", "VOID"], 0)


async def test_a_mounted_metered_server_with_a_typing_mistake_in_its_prices_runs_nothing(shop: Shop, ran: list[str]) -> None:
    inner = child(ran)
    metered(shop, inner, {"payd": "0.005"})
    async with connected(mounted(inner, "sub")) as client:
        for _ in range(2):
            refused = await shop.call(client, "sub_paid")
            assert (refused.is_error, "did you mean 'paid'?" in text_of(refused)) == (True, True)
    assert (ran, shop.journal()) == ([], [])


async def test_a_typing_mistake_beside_mounts_refuses_every_request(shop: Shop, ran: list[str]) -> None:
    server = mounted(child(ran), "sub")
    metered(shop, server, {"sub_payd": "0.005"})
    async with connected(server, MODERN) as client:
        refused = await shop.call(client, "sub_paid")
        assert (code_of(refused), "did you mean 'sub_paid'?" in text_of(refused)) == ("price_spec_invalid", True)
    assert (ran, shop.journal()) == ([], [])


async def test_what_a_provider_offers_once_it_runs_can_have_a_price(shop: Shop, ran: list[str]) -> None:
    class Late(FastMCPProvider):
        is_open = False

        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            self.is_open = True
            yield

        async def _list_tools(self) -> Sequence[Tool]:
            return await super()._list_tools() if self.is_open else []

        async def _get_tool(self, name: str, version: VersionSpec | None = None) -> Tool | None:
            return await super()._get_tool(name, version) if self.is_open else None

    server = FastMCP("late")
    server.add_provider(Late(child(ran)))
    metered(shop, server, {"paid": "0.005"})
    async with connected(server) as client:
        await shop.call(client, "paid")
    assert (ran, shop.spent()) == (["paid"], 5_000)


# Proxies and apps.


async def test_what_stands_behind_a_proxy_is_sold_and_its_own_server_charges_nothing(
    shop: Shop, ran: list[str], anyio_backend: str
) -> None:
    if anyio_backend != "asyncio":
        pytest.skip("FastMCP's proxies run on asyncio alone")
    server = FastMCP("front")
    server.mount(create_proxy(child(ran)), namespace="far")
    metered(shop, server, {"far_paid": "0.005"})
    async with connected(server) as client:
        assert code_of(await shop.call(client, "far_paid", key=None)) == "payment_required"
        assert text_of(await shop.call(client, "far_paid")) == "Oslo: paid for"
    assert (ran, shop.journal(), shop.spent()) == (["paid"], ["HOLD", "CAPTURE"], 5_000)


@pytest.mark.parametrize("key", [None, ...])
async def test_an_app_that_calls_a_tool_by_its_hash_pays_for_it(shop: Shop, ran: list[str], key: Any) -> None:
    app, server = FastMCPApp("desk"), FastMCP("shop")

    @app.tool
    def save(city: str) -> str:
        ran.append(city)
        return city

    server.add_provider(app, namespace="desk")
    names = [each.name for each in await server.list_tools()]
    metered(shop, server, {names[0]: "0.005"})
    async with connected(server) as client:
        result = await shop.call(client, hashed_backend_name("desk", "save"), key=key)
    assert (code_of(result), len(ran), shop.spent()) == (("payment_required", 0, 0) if key is None else ("", 1, 5_000))
