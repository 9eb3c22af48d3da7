"""What metering adds to a tool call: the same server with and without prices, each in a process of its own.

    python tests/benchmarks/tool_call.py [--seconds 2]

Both serve the same tool over streamable HTTP with the same web server; the paid one keeps its ledger on disk and waits
for it. A real MCP client calls them in turn, A B A B. Prints one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer

sys.path.insert(0, str(Path(__file__).parents[2]))

from payre_mcp.connection import open_ledger
from payre_mcp.dev.seed import seed_ledger
from payre_mcp.dev.web import listen, origin, serving
from payre_mcp.ledger.audit import AuditReport
from payre_mcp.money import Money
from payre_mcp.server.extension import Payre
from payre_mcp.server.paid_server import PaidMCPServer
from tests.benchmarks.common import REPEATS, Row, fsync_probe, held, percentile, print_report, progress

TICKS = os.sysconf("SC_CLK_TCK")
AT_ONCE = 16


async def echo(text: str) -> str:
    """The tool of both servers."""
    return text


def add_tool(server: MCPServer[Any]) -> None:
    """The unpaid side."""
    server.tool()(echo)


@asynccontextmanager
async def paid_server(folder: Path) -> AsyncGenerator[tuple[MCPServer[Any], str]]:
    """The paid side: an embedded ledger on disk and a consumer with a million dollars."""
    connection = open_ledger(f"sqlite:///{folder / 'payre.db'}")
    seed = await seed_ledger(folder, connection, Money.parse(1_000_000))
    server: PaidMCPServer[Any] = PaidMCPServer("bench", payre=Payre(gateway=connection.gateway), log_level="WARNING")
    server.tool(price="0.00001")(echo)
    try:
        yield server, seed.consumer_key
    finally:
        connection.close()


@asynccontextmanager
async def free_server() -> AsyncGenerator[tuple[MCPServer[Any], str]]:
    """The unpaid side."""
    server: MCPServer[Any] = MCPServer("bench", log_level="WARNING")
    add_tool(server)
    yield server, ""


async def serve(folder: Path | None) -> None:
    """Serve one side until stdin closes; tells address and key in one line."""
    async with paid_server(folder) if folder else free_server() as (server, key):
        listener = listen()
        app = server.streamable_http_app()
        async with serving(app, listener):
            print(json.dumps({"url": f"{origin(listener)}/mcp", "key": key}), flush=True)
            await anyio.to_thread.run_sync(sys.stdin.read)


@dataclass
class Side:
    """One server in its process, and a client that is connected to it."""

    process: subprocess.Popen[str]
    client: Client

    def cpu_s(self) -> float:
        """User and system time of the server so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    async def call(self) -> None:
        """One call, checked."""
        result = await self.client.call_tool("echo", {"text": "hello"})
        assert not result.is_error, result


@asynccontextmanager
async def side(folder: Path | None, *, busy: bool = False) -> AsyncGenerator[Side]:
    """Start a server process and connect to it."""
    command = [sys.executable, __file__, "--serve", str(folder or ""), *(["--busy"] if busy else [])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    try:
        assert process.stdout is not None
        told = json.loads(await anyio.to_thread.run_sync(process.stdout.readline))
        headers = {"X-Payre-Key": told["key"]} if told["key"] else {}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            Client(streamable_http_client(told["url"], http_client=http)) as client,
        ):
            yield Side(process, client)
    finally:
        process.communicate()


@dataclass
class Load:
    """What one timed stretch of calls showed."""

    rate: float
    cpu_us: float
    p50_ms: float


async def load(target: Side, at_once: int, seconds: float) -> Load:
    """Call as often as it goes for `seconds`, `at_once` callers at a time."""
    took: list[float] = []
    cpu, started = target.cpu_s(), time.perf_counter()

    async def caller() -> None:
        while (before := time.perf_counter()) - started < seconds:
            await target.call()
            took.append(time.perf_counter() - before)

    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(caller)
    elapsed = time.perf_counter() - started
    return Load(len(took) / elapsed, (target.cpu_s() - cpu) / len(took) * 1e6, percentile(took, 50) * 1000)


async def compare(free: Side, paid: Side, at_once: int, seconds: float) -> tuple[list[Load], list[Load]]:
    """Both in turn, as often as every cell is repeated."""
    frees: list[Load] = []
    paids: list[Load] = []
    for _ in range(REPEATS):
        frees.append(await load(free, at_once, seconds))
        paids.append(await load(paid, at_once, seconds))
    return frees, paids


async def check_same_work(free: Side, paid: Side) -> None:
    """Both sides answer the same to the letter and advertise the same schema; the paid one adds its `_meta`."""
    tools = [(await each.client.list_tools()).tools[0] for each in (free, paid)]
    assert tools[0].output_schema == tools[1].output_schema
    assert tools[0].input_schema == tools[1].input_schema
    results = [await each.client.call_tool("echo", {"text": "same"}) for each in (free, paid)]
    assert results[0].content == results[1].content
    assert results[0].structured_content == results[1].structured_content
    assert "dev.payre/receipt" in (results[1].meta or {})


def middle(loads: list[Load], of: Callable[[Load], float]) -> float:
    """The median of one figure."""
    return statistics.median(of(each) for each in loads)


async def measure(folder: Path, seconds: float) -> list[Row]:
    """Every row of the report."""
    disk = fsync_probe(folder, 1.0)
    rows = [Row("fsync", "4 KiB append and fdatasync, p50", round(disk.p50_ms, 3), "ms")]
    async with side(None) as free, side(folder / "paid") as paid:
        await check_same_work(free, paid)
        for at_once in (AT_ONCE, 1):
            progress(f"{at_once} at once ...")
            frees, paids = await compare(free, paid, at_once, seconds)
            cells = {
                "free_per_s": middle(frees, lambda each: each.rate),
                "paid_per_s": middle(paids, lambda each: each.rate),
                "free_cpu_us": middle(frees, lambda each: each.cpu_us),
                "paid_cpu_us": middle(paids, lambda each: each.cpu_us),
                "free_p50_ms": middle(frees, lambda each: each.p50_ms),
                "paid_p50_ms": middle(paids, lambda each: each.p50_ms),
            }
            cpu, rate = cells["paid_cpu_us"] / cells["free_cpu_us"], cells["paid_per_s"] / cells["free_per_s"]
            if at_once == 1:
                added = cells["paid_p50_ms"] - cells["free_p50_ms"]
                what = "p50 added to one call at a time, beyond one fsync"
                rows.append(
                    Row("p50_1", what, round(added - disk.p50_ms, 3), "ms", "at most 0.6 ms", added - disk.p50_ms <= 0.6, cells)
                )
            else:
                rows.append(
                    held(f"cpu_{at_once}", f"server CPU, paid against unpaid, {at_once} at once", cpu, "at most", 1.25, cells)
                )
                rows.append(
                    held(f"rate_{at_once}", f"calls/s, paid against unpaid, {at_once} at once", rate, "at least", 0.85, cells)
                )
    progress("beside a busy thread ...")
    async with side(None, busy=True) as free, side(folder / "busy", busy=True) as paid:
        frees, paids = await compare(free, paid, 1, seconds)
        cells = {"free_p50_ms": middle(frees, lambda each: each.p50_ms), "paid_p50_ms": middle(paids, lambda each: each.p50_ms)}
        ratio = cells["paid_p50_ms"] / cells["free_p50_ms"]
        rows.append(held("busy_1", "p50 beside one CPU-bound thread, paid against unpaid", ratio, "at most", 2.0, cells))
    for name in ("paid", "busy"):
        report = audited(folder / name)
        assert report.ok, report.violations
    return rows


def audited(folder: Path) -> AuditReport:
    """The ledger of a side, after its server has gone."""
    connection = open_ledger(f"sqlite:///{folder / 'payre.db'}")
    try:
        return connection.audit()
    finally:
        connection.close()


def keep_busy() -> None:
    """A thread of the seller's that computes: what metering must live beside."""

    def spin() -> None:
        while True:
            sum(range(1000))

    threading.Thread(target=spin, daemon=True).start()


def main() -> None:
    """Measure, or serve one side."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long one timed stretch lasts")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--busy", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        if options.busy:
            keep_busy()
        anyio.run(serve, Path(options.serve) if options.serve else None)
        return
    with tempfile.TemporaryDirectory(prefix="payre-bench-") as folder:
        print_report(options.seconds, anyio.run(measure, Path(folder), options.seconds))


if __name__ == "__main__":
    main()
