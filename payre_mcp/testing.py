"""A sandbox for the tests of a paid server: a real ledger, a funded consumer, the wallet, and clients over HTTP.

async with sandbox(my_server) as box, box.client() as client:
    result = await client.call_tool("forecast", {"city": "Oslo"})
    assert (await box.balance()).balance == Money.parse("4.995")
"""

import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from payre_mcp.connection import Connection
from payre_mcp.dev.app import PaidServer, Running, development
from payre_mcp.gateway.base import Balance
from payre_mcp.ledger.audit import AuditReport
from payre_mcp.money import Money


@dataclass(frozen=True)
class Sandbox:
    """A paid server that is being served on loopback, with everything around it."""

    running: Running

    @property
    def server_url(self) -> str:
        """The paid server's MCP address; takes `X-Payre-Key`."""
        return self.running.addresses.server

    @property
    def wallet_url(self) -> str:
        """The wallet's MCP address; takes `X-Payre-Key`."""
        return self.running.addresses.wallet

    @property
    def consumer_key(self) -> str:
        """A key of the funded consumer."""
        return self.running.addresses.consumer_key

    @property
    def developer_key(self) -> str:
        """A secret key of the developer."""
        return self.running.addresses.developer_key

    @property
    def ledger(self) -> Connection:
        """The ledger from both sides."""
        return self.running.connection

    @asynccontextmanager
    async def client(self, *, key: str | None = "", url: str = "", **options: Any) -> AsyncGenerator[Client]:
        """An MCP client of the server, or of `url`, that pays with the consumer's key; with `key=None` it sends none."""
        key = self.consumer_key if key == "" else key
        headers = {} if key is None else {"X-Payre-Key": key}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            Client(streamable_http_client(url or self.server_url, http_client=http), **options) as client,
        ):
            yield client

    async def balance(self) -> Balance:
        """The consumer's balance, exact."""
        return await self.ledger.wallet.get_balance(self.consumer_key)

    def audit(self) -> AuditReport:
        """Check every money invariant of the sandbox's ledger."""
        return self.ledger.audit()


@asynccontextmanager
async def sandbox(server: PaidServer | None = None, *, balance: str = "5", data: Path | None = None) -> AsyncGenerator[Sandbox]:
    """Serve `server`, or an example, over a fresh ledger whose consumer has `balance` dollars; gone when the block ends.

    `server` must be metered: a `PaidMCPServer`, or one with a `Payre` installed. asyncio only, as uvicorn is.
    """
    with tempfile.TemporaryDirectory(prefix="payre-") as folder:
        async with development(data or Path(folder), server=server, balance=Money.parse(balance)) as running:
            yield Sandbox(running)
