"""The servers that `tool_call.py` compares: unpaid, paid, and paid with a ledger that does nothing, each in its own process.

    python tests/benchmarks/sides.py {free|paid|stub} {http|stdio|memory} [FOLDER] [--busy]

Over HTTP and stdio it serves until its input closes; in memory a client in the same process calls it and it prints what
that took.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
from mcp import Client
from mcp.server.mcpserver import MCPServer

sys.path.insert(0, str(Path(__file__).parents[2]))

from payre_mcp.connection import open_ledger
from payre_mcp.dev.seed import seed_ledger
from payre_mcp.dev.web import listen, origin, serving
from payre_mcp.gateway.base import Authorization, CallOutcome, CallRequest, Settlement
from payre_mcp.identity import serving_stdio
from payre_mcp.keys import Mode, Role, new_key
from payre_mcp.money import ZERO, Money
from payre_mcp.pricing import PriceSpec, Target, load_price
from payre_mcp.server.extension import Payre
from payre_mcp.server.paid_server import PaidMCPServer

Kind = Literal["free", "paid", "stub"]
Transport = Literal["http", "stdio", "memory"]
PRICE = "0.00001"


async def echo(text: str) -> str:
    """The tool of all sides."""
    return text


def pid() -> int:
    """Where this side runs."""
    return os.getpid()


class StubGateway:
    """A ledger that agrees to everything at once: what is left is the seam."""

    def __init__(self) -> None:
        self._plan, self._price = load_price(PRICE).plan(""), Money.parse(PRICE)

    async def publish(self, server: str, prices: Mapping[Target, PriceSpec]) -> None:
        """Nothing to record."""

    async def authorize(self, request: CallRequest) -> Authorization:
        """Yes."""
        return Authorization(1, 0, 1, request, self._plan, self._price)

    async def capture(self, authorization: Authorization, outcome: CallOutcome) -> Settlement:
        """With a receipt of a few letters: carrying a real one is no work of the seam's."""
        return Settlement("chg_1", self._price, ZERO, "receipt", ZERO)

    async def void(self, authorization: Authorization) -> None:
        """As it pleases."""

    async def aclose(self) -> None:
        """Nothing to close."""


@asynccontextmanager
async def server_of(kind: Kind, folder: Path) -> AsyncGenerator[tuple[MCPServer[Any], str]]:
    """A side's server and the key that pays for it."""
    if kind == "free":
        server: MCPServer[Any] = MCPServer("bench", log_level="WARNING")
        server.tool()(echo)
        server.tool()(pid)
        yield server, new_key(Role.CONSUMER, Mode.TEST).text
        return
    connection = open_ledger(f"sqlite:///{folder / 'payre.db'}")
    try:
        seed = await seed_ledger(folder, connection, Money.parse(1_000_000))
        gateway: Any = connection.gateway if kind == "paid" else StubGateway()
        paid: PaidMCPServer[Any] = PaidMCPServer("bench", payre=Payre(gateway=gateway), log_level="WARNING")
        paid.tool(price=PRICE)(echo)
        paid.tool()(pid)
        yield paid, seed.consumer_key
    finally:
        connection.close()


async def run(kind: Kind, transport: Transport, folder: Path, seconds: float) -> None:
    """Serve a side, or measure it in memory."""
    async with server_of(kind, folder) as (server, key):
        if transport == "memory":
            print(json.dumps(await in_memory(server, key, seconds)))
        elif transport == "stdio":
            with serving_stdio(key):  # and not the key of the environment, which this process makes itself
                await MCPServer.run_stdio_async(server)
        else:
            listener = listen()
            async with serving(server.streamable_http_app(), listener):
                print(json.dumps({"url": f"{origin(listener)}/mcp", "key": key}), flush=True)
                await anyio.to_thread.run_sync(sys.stdin.read)


async def in_memory(server: MCPServer[Any], key: str, seconds: float) -> dict[str, float]:
    """CPU and time of a call, client and server in one process."""
    meta: Any = {"dev.payre/key": key}
    async with Client(server) as client:
        for _ in range(100):
            await client.call_tool("echo", {"text": "hello"}, meta=meta)
        calls, cpu, started = 0, time.process_time(), time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            result = await client.call_tool("echo", {"text": "hello"}, meta=meta)
            assert not result.is_error, result
            calls += 1
    return {"cpu_us": (time.process_time() - cpu) / calls * 1e6, "mean_ms": elapsed / calls * 1e3}


def keep_busy() -> None:
    """A thread of the seller's that computes: what metering must live beside."""

    def spin() -> None:
        while True:
            sum(range(1000))

    threading.Thread(target=spin, daemon=True).start()


def main() -> None:
    """Run one side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["free", "paid", "stub"])
    parser.add_argument("transport", choices=["http", "stdio", "memory"])
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--busy", action="store_true")
    options = parser.parse_args()
    if options.busy:
        keep_busy()
    anyio.run(run, options.kind, options.transport, options.folder, options.seconds)


if __name__ == "__main__":
    main()
