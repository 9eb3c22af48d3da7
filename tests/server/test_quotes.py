"""`payre/quote`: what a call would cost its caller now, asked by a real client, free and with or without a key."""

from pathlib import Path
from typing import Any, Literal

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import Request, RequestParams, Result
from pydantic import ConfigDict

from payre_mcp import PaidMCPServer, Price
from tests.server.conftest import Shop


class Quoted(Result):
    """A result whose members are all extra to those that every result has."""

    model_config = ConfigDict(extra="allow")


class QuoteParams(RequestParams):
    name: str
    kind: str = "tool"
    arguments: dict[str, Any] | None = None


class QuoteRequest(Request[QuoteParams, Literal["payre/quote"]]):
    method: Literal["payre/quote"] = "payre/quote"
    params: QuoteParams


def locate(place: str = "here") -> str:
    return place


def count(text: str) -> int:
    return len(text)


def opening_hours() -> str:
    return "9 to 5"


def server_of(shop: Shop) -> PaidMCPServer:
    server = PaidMCPServer("shop", payre=shop.payre(prices={"resource:report://{year}": "0.02"}))
    server.tool(price=Price.tiered("requests", [(1, "0.01"), (None, "0.001")], free_quota={"amount": 1}))(locate)
    server.tool(price=Price.per("characters", 1, "0.001"))(count)
    server.tool()(opening_hours)

    @server.resource("report://{year}")
    def report(year: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return year

    return server


async def quote(
    client: Client, shop: Shop, name: str, *, kind: str = "tool", arguments: Any = None, key: Any = ...
) -> dict[str, Any]:
    params = QuoteParams(name=name, kind=kind, arguments=arguments, _meta=shop.meta(key=key))
    quoted = await client.session.send_request(QuoteRequest(params=params), Quoted)
    return quoted.model_extra or {}


async def test_a_quote_follows_what_the_caller_used_before(shop: Shop, mode: Any) -> None:
    async with Client(server_of(shop), mode=mode) as client:
        most: list[int] = []
        for _ in range(3):
            most.append((await quote(client, shop, "locate"))["max_micros"])
            await client.call_tool("locate", {}, meta=shop.meta())
        assert most == [0, 1_000, 1_000]
        nobody = await quote(client, shop, "locate", key=None)
        assert nobody["max_micros"] == 0
        assert nobody["lines"] == ["1 call of the free quota: $0.00"]
    assert shop.spent() == 2_000


async def test_a_quote_measures_the_arguments_and_charges_nothing(shop: Shop, mode: Any) -> None:
    async with Client(server_of(shop), mode=mode) as client:
        quoted = await quote(client, shop, "count", arguments={"text": "abc"})
    assert (quoted["kind"], quoted["name"], quoted["max_usd"], quoted["max_micros"]) == ("tool", "count", "0.003", 3_000)
    assert quoted["lines"] == ["3 characters at $0.001: $0.003"]
    assert quoted["price"]["description"] == "Costs $0.001 per character."
    assert shop.journal() == []


async def test_a_resource_is_quoted_by_its_address_and_what_is_free_costs_nothing(shop: Shop) -> None:
    async with Client(server_of(shop)) as client:
        report = await quote(client, shop, "report://2025", kind="resource")
        assert (report["name"], report["max_micros"]) == ("report://{year}", 20_000)
        free = await quote(client, shop, "opening_hours")
        assert (free["price"], free["max_micros"]) == (None, 0)


@pytest.mark.parametrize(
    ("name", "key", "code"), [("nothing", ..., "not_found"), ("locate", "pyr_ck_test_no", "invalid_api_key")]
)
async def test_what_cannot_be_quoted_is_an_error_that_says_why(shop: Shop, mode: Any, name: str, key: Any, code: str) -> None:
    async with Client(server_of(shop), mode=mode) as client:
        with pytest.raises(MCPError) as refused:
            await quote(client, shop, name, key=key)
    assert refused.value.error.data["error"] == code


async def test_a_dead_key_is_not_told_what_its_account_used(shop: Shop) -> None:
    async with Client(server_of(shop)) as client:
        assert (await quote(client, shop, "locate"))["max_micros"] == 0
        shop.connection.ledger.directory.revoke_key(shop.consumer.record.id)
        with pytest.raises(MCPError) as refused:
            await quote(client, shop, "locate")
    assert refused.value.error.data["error"] == "invalid_api_key"


async def test_the_variant_of_a_template_is_chosen_by_its_address(shop: Shop) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())

    @server.resource("map://{size}", price=Price.variants("size", {"small": "0.01", "large": "0.05"}))
    def draw(size: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return size

    async with Client(server) as client:
        quoted = await quote(client, shop, "map://large", kind="resource")
    assert (quoted["variant"], quoted["max_micros"]) == ("size=large", 50_000)


async def test_a_variant_without_a_price_cannot_be_quoted(shop: Shop, tmp_path: Path) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())
    server.tool(price=Price.variants("place", {"there": "0.01"}))(locate)
    async with Client(server) as client:
        with pytest.raises(MCPError, match="Priced are place: there"):
            await quote(client, shop, "locate", arguments={"place": "here"})
        assert (await quote(client, shop, "locate", arguments={"place": "there"}))["variant"] == "place=there"
