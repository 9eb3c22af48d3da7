"""Priced resources, templates and prompts: charged as tools are, refused as JSON-RPC errors."""

from typing import Any

import pytest
from mcp import Client
from mcp.server import CacheHint
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError

from payre_mcp import PaidMCPServer, Price, prompt, resource
from tests.server.conftest import Shop, code_of, text_of


def office(shop: Shop, **options: Any) -> PaidMCPServer:
    prices = {
        "resource:report://{year}": "0.02",
        "resource:report://latest": "0.03",
        "prompt:brief": Price.per("characters", 1, "0.001"),
    }
    server = PaidMCPServer("office", payre=shop.payre(prices=prices, **options))

    @server.resource("report://{year}")
    def report(year: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return f"In {year} all was well."

    @server.resource("report://latest")
    def latest() -> str:  # pyright: ignore[reportUnusedFunction]
        return "All is well."

    @server.resource("free://{name}")
    def free(name: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return name

    @server.prompt()
    def brief(topic: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return f"Write a brief on {topic}."

    return server


async def test_resources_templates_and_prompts_are_charged_as_tools_are(shop: Shop, mode: Any) -> None:
    async with Client(office(shop), mode=mode) as client:
        meta = shop.meta()
        for result, cost in (
            (await client.read_resource("report://2025", meta=meta), 20_000),
            (await client.read_resource("report://latest", meta=meta), 30_000),
            (await client.get_prompt("brief", {"topic": "peace"}, meta=meta), 5_000),
        ):
            receipt = shop.connection.ledger.ring.verify((result.meta or {})["dev.payre/receipt"])
            assert receipt.amount_micros == cost
        assert "dev.payre/receipt" not in ((await client.read_resource("free://x", meta=meta)).meta or {})
    assert shop.spent() == 55_000


async def test_without_a_key_a_priced_resource_is_an_error_with_the_price_in_its_data(shop: Shop, mode: Any) -> None:
    async with Client(office(shop), mode=mode) as client:
        with pytest.raises(MCPError) as refused:
            await client.read_resource("report://2025")
        assert refused.value.error.data["error"] == "payment_required"
        assert refused.value.error.data["price_micros"] == 20_000
        with pytest.raises(MCPError):
            await client.get_prompt("brief", {"topic": "peace"})
    assert shop.journal() == []


async def test_every_list_carries_its_prices(shop: Shop) -> None:
    async with Client(office(shop)) as client:
        (latest,) = (await client.list_resources()).resources
        templates = {each.uri_template: each for each in (await client.list_resource_templates()).resource_templates}
        (brief,) = (await client.list_prompts()).prompts
    assert (latest.meta or {})["dev.payre/price"]["max_micros"] == 30_000
    assert (templates["report://{year}"].meta or {})["dev.payre/price"]["max_micros"] == 20_000
    assert "dev.payre/price" not in (templates["free://{name}"].meta or {})
    assert (brief.meta or {})["dev.payre/price"]["description"] == "Costs $0.001 per character."


async def test_a_prompt_without_its_arguments_or_an_unknown_address_is_not_even_held(shop: Shop) -> None:
    async with Client(office(shop)) as client:
        for call in (client.get_prompt("brief", {}, meta=shop.meta()), client.read_resource("nothing://x", meta=shop.meta())):
            with pytest.raises(MCPError):
                await call
    assert shop.journal() == []


# Prices in decorators and classes.


class Archive(PaidMCPServer):
    @resource("archive://{year}", price="0.02")
    def volume(self, year: str) -> str:
        """A volume."""
        return f"{self.name} of {year}"

    @resource("archive://index")
    def index(self) -> str:
        """The index, free."""
        return "1970 to 2026"

    @prompt(price="0.001")
    def brief(self, topic: str) -> str:
        """Ask for a brief."""
        return f"Write a brief on {topic}."


def decorated(shop: Shop) -> PaidMCPServer:
    server = PaidMCPServer("archive", payre=shop.payre())

    @server.resource("archive://{year}", price="0.02", description="A volume.")
    def volume(year: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return f"archive of {year}"

    @server.resource("archive://index")
    def index() -> str:  # pyright: ignore[reportUnusedFunction]
        return "1970 to 2026"

    @server.prompt(price="0.001")
    def brief(topic: str) -> str:  # pyright: ignore[reportUnusedFunction]
        """Ask for a brief."""
        return f"Write a brief on {topic}."

    return server


@pytest.mark.parametrize("in_class", [True, False])
async def test_a_price_stands_in_the_decorator_of_a_resource_or_a_prompt(shop: Shop, in_class: bool) -> None:
    server = Archive("archive", payre=shop.payre()) if in_class else decorated(shop)
    async with Client(server) as client:
        volume = await client.read_resource("archive://2025", meta=shop.meta())
        index = await client.read_resource("archive://index", meta=shop.meta())
        brief = await client.get_prompt("brief", {"topic": "peace"}, meta=shop.meta())
        (template,) = (await client.list_resource_templates()).resource_templates
    assert "archive of 2025" in volume.model_dump_json()
    assert "dev.payre/receipt" in (brief.meta or {})
    assert "dev.payre/receipt" not in (index.meta or {})
    assert template.description == "A volume. Costs $0.02 per call."
    assert shop.spent() == 21_000


def test_a_price_is_not_put_on_what_exists_already(shop: Shop) -> None:
    server = decorated(shop)
    with pytest.raises(ValueError, match="resource 'archive://index' exists already"):
        server.resource("archive://index", price="0.01")(lambda: "")
    with pytest.raises(ValueError, match="prompt 'brief' exists already"):
        server.prompt("brief", price="0.01")(lambda: "")
    with pytest.raises(ValueError, match="prompt 'brief' has a price and cannot be removed"):
        server.remove_prompt("brief")


def test_a_free_prompt_can_be_removed(shop: Shop) -> None:
    server = PaidMCPServer("archive", payre=shop.payre())
    server.prompt("brief")(lambda: "")
    server.remove_prompt("brief")
    server.prompt("brief", price="0.01")(lambda: "")


@pytest.mark.parametrize(
    ("template", "address"),
    [
        ("book://shelf{/name}", "book://shelf/noon"),
        ("book://{+name}", "book://shelf/noon"),
        ("book://shelf{?name}", "book://shelf?name=noon"),
    ],
)
async def test_a_template_of_any_form_is_read_and_paid(shop: Shop, template: str, address: str) -> None:
    server = PaidMCPServer("archive", payre=shop.payre())

    @server.resource(template, price="0.02")
    def book(name: str = "") -> str:  # pyright: ignore[reportUnusedFunction]
        return name

    async with Client(server) as client:
        result = await client.read_resource(address, meta=shop.meta())
    assert "dev.payre/receipt" in (result.meta or {})
    assert shop.spent() == 20_000


async def test_a_payre_that_is_not_at_the_wire_says_that_it_cannot_meter_resources(shop: Shop) -> None:
    def search(words: str) -> str:
        return words

    for prices, told in (({"search": "0.01"}, ""), ({"search": "0.01", "resource:archive://paid": "0.02"}, "use install()")):
        server = MCPServer("archive", extensions=[shop.payre(prices=prices)], log_level="WARNING")
        server.tool()(search)
        server.resource("archive://paid", name="paid")(lambda: "paid")
        async with Client(server) as client:
            result = await client.call_tool("search", {"words": "noon"}, meta=shop.meta())
        assert (code_of(result), told in text_of(result)) == ("call_refused" if told else "", True)
    assert shop.spent() == 10_000


async def test_no_shared_cache_may_keep_what_was_paid_for(shop: Shop) -> None:
    hints: dict[Any, CacheHint] = {"resources/read": CacheHint(ttl_ms=60_000, scope="public")}
    server = PaidMCPServer("archive", payre=shop.payre(), cache_hints=hints)
    server.resource("archive://paid", name="paid", price="0.02")(lambda: "paid")
    server.resource("archive://free", name="free")(lambda: "free")
    async with Client(server) as client:
        paid = await client.read_resource("archive://paid", meta=shop.meta())
        free = await client.read_resource("archive://free")
    assert (paid.cache_scope, free.cache_scope) == ("private", "public")
