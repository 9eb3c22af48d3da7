"""A wallet over HTTP, beside a paid server whose consumer has $5.00; and one in memory, over either database."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from mcp import Client
from mcp_types import CallToolResult

from payre_mcp.connection import Connection
from payre_mcp.gateway.base import Authorization, CallOutcome, CallRequest, Settlement
from payre_mcp.keys import parse_key
from payre_mcp.pricing import Target, load_price
from payre_mcp.testing import Sandbox, sandbox
from payre_mcp.wallet.server import build_wallet
from tests.both_databases import ledger_url
from tests.fakes import Funded
from tests.server.conftest import code_of, facts_of, meta_of, text_of

__all__ = ["ledger_url"]

CENT = load_price("0.01")


@dataclass(frozen=True)
class Holder:
    """A consumer with a client of the wallet, and what a test asks of them."""

    connection: Connection
    client: Client
    payer: Funded

    def with_key(self, key: str) -> "Holder":
        """The same account, asking with another of its keys."""
        found = self.connection.ledger.directory.find_key(parse_key(key).digest)
        assert found is not None
        return replace(self, payer=self.payer._replace(key=parse_key(key), record=found))

    async def ask(self, tool: str, /, **arguments: Any) -> CallToolResult:
        """Call a tool of the wallet with the consumer's key."""
        return await self.client.call_tool(tool, arguments, meta={"dev.payre/key": self.payer.key.text})

    async def facts(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """What a tool answers; fails where a fact of it is not in its text too."""
        result = await self.ask(tool, **arguments)
        assert not result.is_error, text_of(result)
        for name, fact in flat(facts_of(result)):
            wanted = f"${fact}" if name.endswith("_usd") else str(fact)
            assert isinstance(fact, bool) or wanted in text_of(result), f"{name} {fact!r} is not in {text_of(result)!r}"
        return facts_of(result)

    async def refused(self, tool: str, /, **arguments: Any) -> tuple[str, str]:
        """The code and the text of a refusal."""
        result = await self.ask(tool, **arguments)
        return code_of(result), text_of(result)

    def request(self, server: str = "weather", tool: str = "forecast") -> CallRequest:
        """A call for a cent."""
        return CallRequest(
            api_key=self.payer.key.text, server=server, target=Target("tool", tool), price_version=CENT.version, args_sha256=""
        )

    async def hold(self, server: str = "weather", tool: str = "forecast") -> Authorization:
        """Begin a call for a cent, and publish its price."""
        await self.connection.gateway.publish(server, {Target("tool", name): CENT for name in {tool, "forecast", "radar"}})
        held = await self.connection.gateway.authorize(self.request(server, tool))
        assert isinstance(held, Authorization)
        return held

    async def pay(self, server: str = "weather", tool: str = "forecast") -> Settlement:
        """A whole call for a cent."""
        return await self.connection.gateway.capture(await self.hold(server, tool), CallOutcome())


def flat(facts: Any, name: str = "") -> list[tuple[str, Any]]:
    """Every fact that is there, however deep, by its own name."""
    if isinstance(facts, dict):
        return [each for key, fact in facts.items() for each in flat(fact, key)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(facts, list):
        return [each for fact in facts for each in flat(fact, name)]  # pyright: ignore[reportUnknownVariableType]
    return [] if facts is None or facts == 0 else [(name, facts)]


@pytest.fixture
async def holder(connection: Connection, consumer: Funded) -> AsyncGenerator[Holder]:
    """A consumer with $1.00 and a client of the wallet, in memory."""
    async with Client(build_wallet(connection.wallet)) as client:
        yield Holder(connection, client, consumer)


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
