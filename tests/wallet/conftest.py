"""A wallet over HTTP, beside a paid server whose consumer has $5.00."""

from collections.abc import AsyncGenerator

import pytest
from mcp import Client

from payre_mcp.testing import Sandbox, sandbox
from tests.server.conftest import meta_of


@pytest.fixture
def anyio_backend() -> str:
    """As uvicorn is."""
    return "asyncio"


@pytest.fixture
async def box() -> AsyncGenerator[Sandbox]:
    """The example server and the wallet, on a socket."""
    async with sandbox() as box:
        yield box


@pytest.fixture
async def wallet(box: Sandbox) -> AsyncGenerator[Client]:
    """A client of the wallet that sends the consumer's key."""
    async with box.client(url=box.wallet_url) as client:
        yield client


@pytest.fixture
async def receipts(box: Sandbox) -> list[str]:
    """The receipts of three calls that were just made, oldest first."""
    async with box.client() as client:
        results = [await client.call_tool(tool, {"city": "Oslo"}) for tool in ("forecast", "radar", "forecast")]
    return [meta_of(result)["dev.payre/receipt"] for result in results]
