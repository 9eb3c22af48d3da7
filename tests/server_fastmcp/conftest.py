"""The shop of the other server tests, and what they ask of a FastMCP server."""

from typing import Any

import pytest
from fastmcp import FastMCP
from mcp import Client

from payre_mcp import Payre
from payre_mcp.errors import PriceSpecInvalid
from tests.server.conftest import Shop, mode, shop

__all__ = ["connected", "low_level", "metered", "mode", "problem_at_start", "shop"]


def metered(shop: Shop, server: FastMCP, prices: dict[str, Any], **options: Any) -> Payre:
    """Have a server sell at these prices."""
    payre = shop.payre(prices=prices, **options)
    assert payre.install(server) is server
    return payre


def connected(server: FastMCP, mode: Any = "auto", **options: Any) -> Client:
    """The SDK's client of a server, in memory."""
    return Client(low_level(server), mode=mode, **options)


def low_level(server: FastMCP) -> Any:
    """The SDK's server under a FastMCP server; private, and where its wire is."""
    return server._mcp_server  # pyright: ignore[reportPrivateUsage]


async def problem_at_start(server: FastMCP) -> PriceSpecInvalid:
    """What stops a server before it serves anybody."""
    try:
        async with connected(server):
            raise AssertionError("it started")
    except* PriceSpecInvalid as errors:
        found: Any = errors
    while not isinstance(found, PriceSpecInvalid):
        (found,) = found.exceptions
    return found


@pytest.fixture
def ran() -> list[str]:
    """What the tools of a test say when they run."""
    return []
