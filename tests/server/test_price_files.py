"""The prices of a whole server from a file: read once at start, judged against what the server has."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer

from payre_mcp import PaidMCPServer, Payre
from payre_mcp.errors import PriceSpecInvalid
from tests.server.conftest import Shop, code_of, text_of

Write = Callable[[str], Path]


def search(words: str, options: dict[str, Any] | None = None) -> str:
    """Search the catalogue."""
    return f"{words} {options or ''}"


def paint(quality: str = "fine") -> str:
    """Paint something."""
    return quality


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes pricing.yaml."""

    def write_file(text: str) -> Path:
        path = tmp_path / "pricing.yaml"
        path.write_text(text)
        return path

    return write_file


def server_of(shop: Shop, file: Path) -> PaidMCPServer:
    server = PaidMCPServer("library", payre=shop.payre(), pricing=file)
    for function in (search, paint):
        server.tool()(function)
    return server


async def problems_at_start(server: PaidMCPServer) -> list[tuple[str, str, int]]:
    """(code, path, line) of all that stops the server."""
    with pytest.raises(PriceSpecInvalid) as refused:
        async with server.payre.running():
            pass
    return [(each.code, each.path, each.line) for each in refused.value.problems]


@pytest.mark.parametrize("as_text", [True, False])
async def test_a_file_prices_the_tools_that_it_names(shop: Shop, write: Write, as_text: bool) -> None:
    file = write("tools:\n  search: 0.005\n")
    server = PaidMCPServer("library", payre=shop.payre(), pricing=str(file) if as_text else file)
    server.tool()(search)
    server.tool()(paint)
    async with Client(server) as client:
        await client.call_tool("search", {"words": "noon"}, meta=shop.meta())
        await client.call_tool("paint", {}, meta=shop.meta())
    assert shop.spent() == 5_000


async def test_an_installed_payre_takes_a_file_too(shop: Shop, write: Write) -> None:
    file = write("endpoints:\n  - {method: POST, path: v1/search, metering: {dimensions: [{unit: requests, price_usd: 0.01}]}}\n")
    server = shop.payre(prices=file).install(MCPServer("library"))
    server.tool()(search)
    async with Client(server) as client:
        await client.call_tool("search", {"words": "noon"}, meta=shop.meta())
    assert shop.spent() == 10_000


def test_a_wrong_file_is_told_with_file_and_line_when_the_server_is_made(shop: Shop, write: Write) -> None:
    file = write(
        "tools:\n  search: 0.005\n  paint:\n    metering:\n      dimensions: [{unit: page, price_usd: 1}]\n  lookup: free?\n"
    )
    with pytest.raises(PriceSpecInvalid) as refused:
        server_of(shop, file)
    first, second = refused.value.message.splitlines()
    assert first.startswith(
        "pricing.yaml:5 tools.paint.metering.dimensions[0].unit: unit_unknown: no unit 'page' (did you mean 'pages'?)"
    )
    assert second.startswith("pricing.yaml:6 tools.lookup: price_syntax: ")


async def test_a_price_of_nothing_that_the_server_has_stops_it_with_the_nearest_name(shop: Shop, write: Write) -> None:
    file = write("tools:\n  serch: 0.005\n  paint: 0.01\nprompts: {brief: 1}\nresources: {'a://b': 1}\n")
    server = server_of(shop, file)
    assert await problems_at_start(server) == [
        ("unknown_target", "tools.serch", 2),
        ("unknown_target", "resources.a://b", 5),
        ("unknown_target", "prompts.brief", 4),
    ]
    with pytest.raises(PriceSpecInvalid, match=r"did you mean 'search'\?"):
        await server.payre.metering.check_targets()


@pytest.mark.parametrize(("param", "is_known"), [("quality", True), ("quality.depth", True), ("qualty", False)])
async def test_a_variant_goes_by_an_argument_that_the_tool_has(shop: Shop, write: Write, param: str, is_known: bool) -> None:
    file = write(
        "tools:\n  paint:\n    metering:\n      variants:\n"
        f"        - {{param: {param}, value: default, dimensions: [{{unit: requests, price_usd: 1}}]}}\n"
    )
    server = server_of(shop, file)
    if is_known:
        async with server.payre.running():
            pass
    else:
        assert await problems_at_start(server) == [("variant_param_unknown", "tools.paint", 2)]


async def test_a_nested_default_of_the_schema_stands_for_an_absent_argument(shop: Shop, write: Write) -> None:
    file = write(
        "tools:\n  search:\n    metering:\n      variants:\n"
        "        - {param: options.depth, value: deep, dimensions: [{unit: requests, price_usd: 0.02}]}\n"
        "        - {param: options.depth, value: flat, dimensions: [{unit: requests, price_usd: 0.01}]}\n"
    )

    server = PaidMCPServer("library", payre=shop.payre(), pricing=file)

    def search(words: str, options: dict[str, str] = {"depth": "flat"}) -> str:  # noqa: B006 - a default is what is tested
        return words + options["depth"]

    server.tool()(search)
    async with Client(server) as client:
        await client.call_tool("search", {"words": "a"}, meta=shop.meta())
        await client.call_tool("search", {"words": "a", "options": {"depth": "deep"}}, meta=shop.meta())
        refused = await client.call_tool("search", {"words": "a", "options": {"depth": None}}, meta=shop.meta())
    assert shop.spent() == 30_000
    assert refused.is_error


async def test_one_target_has_one_price_wherever_it_is_said(shop: Shop, write: Write) -> None:
    file = write("tools:\n  search: 0.005\n")
    server = PaidMCPServer("library", payre=shop.payre(), pricing=file)
    with pytest.raises(PriceSpecInvalid, match=r"duplicate_price.*already, in pricing.yaml:2 tools.search"):
        server.tool(price="0.01")(search)
    other = PaidMCPServer("library", payre=shop.payre())
    other.tool(price="0.01")(search)
    with pytest.raises(PriceSpecInvalid, match=r"pricing.yaml:2 tools.search: duplicate_price.*already, in code"):
        other.payre.pricing(file)


async def test_under_deny_nothing_runs_without_a_price(shop: Shop, write: Write) -> None:
    file = write("default: deny\ntools:\n  search: free\n")
    async with Client(server_of(shop, file)) as client:
        assert not (await client.call_tool("search", {"words": "noon"})).is_error
        refused = await client.call_tool("paint", {}, meta=shop.meta())
        unknown = await client.call_tool("pant", {})
    assert code_of(refused) == "not_priced"
    assert "nothing was charged" in text_of(refused)
    assert code_of(unknown) == ""
    assert "not_priced" not in text_of(unknown)
    assert shop.journal() == []


def test_a_ceiling_that_nobody_gave_is_told_in_the_log(shop: Shop, write: Write, caplog: pytest.LogCaptureFixture) -> None:
    file = write("tools:\n  search:\n    metering: {dimensions: [{unit: pages, price_usd: 0.01}]}\n")
    with caplog.at_level(logging.WARNING):
        shop.payre(prices=file)
    assert "pricing.yaml:3 tools.search.metering: ceiling_defaulted" in caplog.text


async def test_a_changed_file_is_a_new_version_and_what_it_published_before_stays(shop: Shop, write: Write) -> None:
    versions: list[str] = []
    for price in ("0.005", "0.006", "0.005"):
        file = write(f"tools:\n  search: {price}\n")
        server = server_of(shop, file)
        async with Client(server) as client:
            result = await client.call_tool("search", {"words": "noon"}, meta=shop.meta())
            (tool, _) = (await client.list_tools()).tools
        assert not result.is_error
        versions.append((tool.meta or {})["dev.payre/price"]["version"])
    assert shop.spent() == 16_000
    assert versions[0] == versions[2] != versions[1]


def test_payre_takes_no_price_from_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PriceSpecInvalid, match="cannot be read"):
        Payre("sqlite:///payre.db", prices=tmp_path / "none.yaml")


async def test_what_does_not_fit_the_server_is_told_of_all_sources_together(shop: Shop, write: Write) -> None:
    file = write("tools:\n  serch: 0.005\n")
    server = PaidMCPServer("library", payre=shop.payre(prices={"pant": "0.01"}), pricing=file)
    server.tool()(search)
    assert await problems_at_start(server) == [("unknown_target", "pant", 0), ("unknown_target", "pricing.yaml: tools.serch", 2)]
