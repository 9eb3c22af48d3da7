"""Variants by the arguments of tools, templates and prompts: dotted paths, defaults of the schema, what no value names."""

from typing import Any, Literal

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from payre_mcp import PaidMCPServer, Price
from payre_mcp.errors import PriceSpecInvalid
from payre_mcp.pricing import PriceSource
from tests.server.conftest import Shop, code_of

SIZES: dict[str, PriceSource] = {"small": "0.01", "large": "0.05"}


class Frame(BaseModel):
    size: Literal["small", "large", "huge"] = "small"


class Options(BaseModel):
    frame: Frame
    back: Frame = Frame(size="large")


def paint(options: Options) -> str:
    return options.frame.size


async def costs(shop: Shop, param: str, options: dict[str, Any]) -> int:
    """What a call with these options costs under a price by `param`; -1 where it has no price."""
    server = PaidMCPServer("shop", payre=shop.payre())
    server.tool(price=Price.variants(param, SIZES))(paint)
    async with Client(server) as client:
        result = await client.call_tool("paint", {"options": options}, meta=shop.meta())
    return -1 if code_of(result) == "invalid_variant" else shop.receipt(result).amount_micros


@pytest.mark.parametrize(
    ("param", "options", "cost"),
    [
        ("options.frame.size", {"frame": {"size": "large"}}, 50_000),
        ("options.frame.size", {"frame": {}}, 10_000),
        ("options.frame.size", {"frame": {"size": "huge"}}, -1),
        ("options.back.size", {"frame": {}, "back": {"size": "small"}}, 10_000),
        ("options.back.size", {"frame": {}}, 50_000),
        ("options.back", {"frame": {}}, -1),
        ("options.frame.colour", {"frame": {}}, -1),
        ("options.back.size.more", {"frame": {}}, -1),
    ],
)
async def test_a_dotted_path_leads_to_the_argument_or_to_the_default_of_its_schema(
    shop: Shop, param: str, options: dict[str, Any], cost: int
) -> None:
    assert await costs(shop, param, options) == cost


def library(shop: Shop, price: PriceSource) -> PaidMCPServer:
    server = PaidMCPServer("library", payre=shop.payre())

    @server.resource("book://{size}/{name}", price=price)
    def book(size: str, name: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return f"{size} {name}"

    @server.prompt(price=price)
    def brief(topic: str, size: str = "small") -> str:  # pyright: ignore[reportUnusedFunction]
        return f"{topic} {size}"

    return server


async def test_the_parameters_of_a_template_and_the_arguments_of_a_prompt_choose_too(shop: Shop) -> None:
    async with Client(library(shop, Price.variants("size", SIZES))) as client:
        book = await client.read_resource("book://large/noon", meta=shop.meta())
        brief = await client.get_prompt("brief", {"topic": "peace", "size": "small"}, meta=shop.meta())
        for refused in (
            client.read_resource("book://huge/noon", meta=shop.meta()),
            client.get_prompt("brief", {"topic": "peace"}, meta=shop.meta()),
        ):
            with pytest.raises(MCPError, match="Priced are size: small, large"):
                await refused
    ring = shop.connection.ledger.ring
    paid = [ring.verify((result.meta or {})["dev.payre/receipt"]).amount_micros for result in (book, brief)]
    assert paid == [50_000, 10_000]
    assert shop.spent() == 60_000


async def test_a_variant_by_what_neither_has_stops_the_server(shop: Shop) -> None:
    server = library(shop, Price.variants("colour", SIZES))
    with pytest.raises(PriceSpecInvalid) as refused:
        async with server.payre.running():
            pass
    assert [(each.code, each.path) for each in refused.value.problems] == [
        ("variant_param_unknown", "book://{size}/{name}"),
        ("variant_param_unknown", "brief"),
    ]


async def test_an_address_that_the_server_refuses_as_unsafe_is_not_even_held(shop: Shop) -> None:
    async with Client(library(shop, "0.01")) as client:
        with pytest.raises(MCPError):
            await client.read_resource("book://large/..%2F..%2Fetc", meta=shop.meta())
    assert shop.journal() == []
