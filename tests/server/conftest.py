"""A shop: a ledger, a consumer with money, and servers that sell to them in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import pytest
from mcp import Client
from mcp_types import CallToolResult

from payre_mcp.connection import Connection
from payre_mcp.ledger.model import Kind
from payre_mcp.receipts import Receipt
from payre_mcp.server.extension import Payre
from payre_mcp.server.paid_server import PaidMCPServer
from tests.fakes import Funded, journal_of, open_holds_of


@dataclass(frozen=True)
class Shop:
    """A ledger with one consumer, and what a test asks of them."""

    connection: Connection
    consumer: Funded

    def payre(self, **options: Any) -> Payre:
        """Metering over this ledger, which stays open when a server stops."""
        return Payre(gateway=self.connection.gateway, **options)

    def server(self, *tools: Callable[..., Any], price: str = "0.005", free: Sequence[Callable[..., Any]] = ()) -> PaidMCPServer:
        """A server that sells `tools` at `price` each and gives `free` away."""
        server = PaidMCPServer("shop", payre=self.payre())
        for function in tools:
            server.tool(price=price)(function)
        for function in free:
            server.tool()(function)
        return server

    async def call(
        self, client: Client, tool: str, city: str = "Oslo", *, key: str | EllipsisType | None = ..., **meta: Any
    ) -> CallToolResult:
        """Call with the consumer's key, or `key`, and `meta` under `dev.payre/` with dashes for underscores."""
        return await client.call_tool(tool, {"city": city}, meta=self.meta(key=key, **meta))

    def meta(self, *, key: str | EllipsisType | None = ..., **meta: Any) -> Any:
        """The `_meta` of a call that pays, None where there is nothing to say."""
        marks = {"key": self.consumer.key.text if key is ... else key, **meta}
        return {f"dev.payre/{name.replace('_', '-')}": each for name, each in marks.items() if each is not None} or None

    def journal(self) -> list[str]:
        """What calls wrote into the journal, in order: `HOLD`, `CAPTURE`, `CHARGE`, `VOID`, `EXPIRE`."""
        rows = [row for row in journal_of(self.connection.ledger) if row.kind != Kind.TOP_UP]
        return [Kind(row.kind).name for row in sorted(rows, key=lambda row: row.id)]

    def spent(self) -> int:
        """Micros that left the account since it had its $1.00; fails if money is still held or the audit finds fault."""
        account, report = self.consumer.account(), self.connection.audit()
        assert (report.violations, account.held_micros, open_holds_of(self.connection.ledger)) == ([], 0, {})
        return 1_000_000 - account.balance_micros

    def receipt(self, result: CallToolResult) -> Receipt:
        """What the receipt of a result says; fails unless this ledger signed it."""
        return self.connection.ledger.ring.verify(meta_of(result)["dev.payre/receipt"])


def meta_of(result: CallToolResult) -> dict[str, Any]:
    """The `_meta` of a result."""
    return dict(result.meta or {})


def text_of(result: CallToolResult) -> str:
    """What a person reads of a result."""
    return " ".join(block.text for block in result.content if block.type == "text")


def facts_of(result: CallToolResult) -> dict[str, Any]:
    """What a program reads of a result."""
    return result.structured_content or {}


def code_of(result: CallToolResult) -> str:
    """The code of a refusal; empty for a result that is none."""
    return str(facts_of(result).get("error", "")) if result.is_error else ""


@pytest.fixture
def shop(connection: Connection, consumer: Funded) -> Shop:
    """A ledger whose consumer has $1.00."""
    return Shop(connection, consumer)


@pytest.fixture(params=["auto", "legacy"])
def mode(request: pytest.FixtureRequest) -> Any:
    """Both eras of the protocol: 2026-07-28 without a handshake, and the handshake before it."""
    return request.param
