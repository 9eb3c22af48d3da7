"""The wallet's `quote_price`: what a call of any paid server on this ledger would cost the account now."""

from typing import Any

import pytest
from mcp import Client

from payre_mcp import PaidMCPServer, Payre, Price
from payre_mcp.testing import Sandbox
from tests.server.conftest import code_of, facts_of, text_of


def locate(place: str) -> str:
    return place


def count(text: str) -> int:
    return len(text)


PRICES: dict[str, Any] = {
    "locate": Price.tiered("requests", [(1, "0.01"), (None, "0.001")]),
    "count": Price.per("characters", 1, "0.001"),
}


async def open_server(box: Sandbox, name: str, prices: dict[str, Any]) -> PaidMCPServer:
    """A server over the sandbox's ledger, its price list published."""
    server = PaidMCPServer(name, payre=Payre(gateway=box.ledger.gateway, prices=prices))
    server.tool()(locate)
    server.tool()(count)
    async with server.payre.running():
        pass
    return server


async def test_a_quote_follows_the_accounts_own_usage(box: Sandbox, wallet: Client) -> None:
    server = await open_server(box, "maps", PRICES)
    first = await wallet.call_tool("quote_price", {"name": "locate"})
    async with Client(server) as client:
        await client.call_tool("locate", {"place": "Oslo"}, meta={"dev.payre/key": box.consumer_key})
    second = await wallet.call_tool("quote_price", {"name": "locate", "arguments": {"place": "Oslo"}})
    assert [facts_of(each)["total_micros"] for each in (first, second)] == [10_000, 1_000]
    facts = facts_of(second)
    assert (facts["server"], facts["kind"], facts["name"], facts["at_most"]) == ("maps", "tool", "locate", "$0.001")
    assert facts["lines"] == ["1 call at $0.001: $0.001"]
    for fact in ("maps", "locate", "$0.001", "1000 micros", "1 call at $0.001: $0.001", "then $0.001"):
        assert fact in text_of(second)


async def test_what_depends_on_the_arguments_is_said_to(box: Sandbox, wallet: Client) -> None:
    await open_server(box, "maps", PRICES)
    unknown = await wallet.call_tool("quote_price", {"name": "count"})
    assert (facts_of(unknown)["total"], facts_of(unknown)["not_known"]) == (None, ["characters"])
    assert "depends on its arguments" in text_of(unknown)
    known = await wallet.call_tool("quote_price", {"name": "count", "arguments": {"text": "four"}})
    assert facts_of(known)["total"] == "$0.004"
    used = await wallet.call_tool("quote_price", {"name": "count", "usage": {"characters": 25}})
    assert facts_of(used)["total"] == "$0.025"


async def test_the_current_price_list_counts_and_no_older_one(box: Sandbox, wallet: Client) -> None:
    for price in ("0.01", "0.02", "0.01"):
        await open_server(box, "maps", {"locate": price})
        assert facts_of(await wallet.call_tool("quote_price", {"name": "locate"}))["total"] == f"${price}"
    await open_server(box, "maps", {"count": "0.03"})
    assert code_of(await wallet.call_tool("quote_price", {"name": "locate"})) == "not_found"


async def test_of_several_servers_one_must_be_named(box: Sandbox, wallet: Client) -> None:
    await open_server(box, "maps", {"locate": "0.01"})
    await open_server(box, "atlas", {"locate": "0.02"})
    several = await wallet.call_tool("quote_price", {"name": "locate"})
    assert code_of(several) == "invalid_request"
    assert "atlas, maps" in text_of(several)
    named = await wallet.call_tool("quote_price", {"name": "locate", "server": "atlas"})
    assert facts_of(named)["total"] == "$0.02"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ({"name": "nothing"}, "not_found", "no server has a price for the tool 'nothing'"),
        ({"name": "forecast", "server": "maps"}, "not_found", "no server maps has a price for the tool 'forecast'; weather has"),
        ({"name": "forecast", "kind": "prompt"}, "not_found", "the prompt 'forecast'"),
        ({"name": "forecast", "usage": {"token": 1}}, "usage_invalid", "no unit 'token'"),
        ({"name": "forecast", "usage": {"tokens": -1}}, "usage_invalid", "not a quantity"),
    ],
)
async def test_what_cannot_be_quoted_says_why(wallet: Client, arguments: dict[str, Any], code: str, told: str) -> None:
    refused = await wallet.call_tool("quote_price", arguments)
    assert code_of(refused) == code
    assert told in text_of(refused)


async def test_nobody_without_a_key_is_quoted_from_an_account(box: Sandbox) -> None:
    async with box.client(key=None, url=box.wallet_url) as client:
        assert code_of(await client.call_tool("quote_price", {"name": "forecast"})) == "unauthorized"
