"""The whole of it: `payre hub` on PostgreSQL, two paid servers in two processes, and one consumer who pays both.

Everything is a process of its own and talks as it would in earnest: MCP on stdio, HTTP to the hub, PostgreSQL behind it.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from payre_mcp.receipts import KeyRing
from tests.fakes import ROOT
from tests.postgres_server import Databases
from tests.server.conftest import text_of

PAYRE = [sys.executable, "-m", "payre_mcp"]
CALLS = 12
ENVIRONMENT = dict(os.environ)  # noqa: TID251 - what the processes start with


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Market(NamedTuple):
    """A hub that runs on PostgreSQL, two developers' keys, and a consumer with $5.00."""

    hub: str
    developers: tuple[str, str]
    consumer_key: str
    environment: dict[str, str]

    def payre(self, *arguments: str) -> Any:
        """What a command says of the hub's ledger."""
        return payre(self.environment, *arguments)


def payre(environment: dict[str, str], *arguments: str) -> Any:
    command = [*PAYRE, *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT | environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def market(databases: Databases) -> Generator[Market]:
    url = databases.new()
    environment = {"PAYRE_URL": url, "PAYRE_RECEIPT_KEYS": KeyRing.generate().dump().strip()}
    payre(environment, "db", "upgrade")
    developers = tuple(payre(environment, "developers", "create", name)["developer_key"] for name in ("ann", "bob"))
    consumer_key = payre(environment, "keys", "create")["consumer_key"]
    payre(environment, "top-up", "5")
    command = [*PAYRE, "hub", "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT | environment)
    assert process.stdout is not None
    try:
        hub = json.loads(process.stdout.readline())["hub"]
        yield Market(hub, (developers[0], developers[1]), consumer_key, environment)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=40)
        databases.drop(url)
    assert process.returncode == 0


@asynccontextmanager
async def seller(market: Market, secret_key: str, log: Path) -> AsyncGenerator[Client]:
    """`examples/hub_seller.py` in a process of its own, with nothing but its two lines and its caller's key."""
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-B", str(ROOT / "examples" / "hub_seller.py")],
        env={"PAYRE_URL": market.hub, "PAYRE_SECRET_KEY": secret_key, "PAYRE_KEY": market.consumer_key},
        cwd=ROOT,
    )
    with log.open("w") as stderr:
        async with Client(stdio_client(parameters, errlog=stderr)) as client:
            yield client


async def test_two_servers_in_two_processes_charge_one_consumer_and_the_audit_is_clean(market: Market, tmp_path: Path) -> None:
    answers: list[str] = []
    async with AsyncExitStack() as stack:
        shops = [
            await stack.enter_async_context(seller(market, key, tmp_path / f"{number}.log"))
            for number, key in enumerate(market.developers)
        ]

        async def buy(shop: Client) -> None:
            result = await shop.call_tool("locate", {"place": "Oslo"})
            assert not result.is_error, text_of(result)
            answers.append(text_of(result))

        async with anyio.create_task_group() as group:
            for shop in shops:
                for _ in range(CALLS):
                    group.start_soon(buy, shop)
        assert not (await shops[0].call_tool("legend", {})).is_error
    assert len(answers) == 2 * CALLS
    assert market.payre("balance")["balance_micros"] == 5_000_000 - 2 * CALLS * 5_000
    report = market.payre("audit")
    assert (report["ok"], report["charges"], report["open_holds"]) == (True, 2 * CALLS, 0)
    said = "".join((tmp_path / f"{number}.log").read_text() for number in range(2))
    assert all(key not in said for key in (*market.developers, market.consumer_key))
