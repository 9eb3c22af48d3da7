"""What metering adds to a tool call: the same server unpaid, paid, and paid with a ledger that does nothing.

    python tests/benchmarks/tool_call.py [--seconds 2]

All serve the same tool, in processes of their own; the paid one keeps its ledger on disk and waits for it. Real MCP
clients call them in turn, A B A B, over streamable HTTP, stdio and in memory. Prints one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

sys.path.insert(0, str(Path(__file__).parents[2]))

from payre_mcp.connection import open_ledger
from tests.benchmarks.common import REPEATS, Row, fsync_probe, held, percentile, print_report, progress
from tests.benchmarks.sides import Kind, Transport

TICKS = os.sysconf("SC_CLK_TCK")
AT_ONCE = 16


@dataclass
class Side:
    """One server in its process, and a client that is connected to it."""

    process: int
    client: Client

    def cpu_s(self) -> float:
        """User and system time of the server so far."""
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    async def call(self) -> None:
        """One call, checked."""
        result = await self.client.call_tool("echo", {"text": "hello"})
        assert not result.is_error, result


def command(kind: Kind, transport: Transport, folder: Path, *options: str) -> list[str]:
    """How a side is started."""
    folder.mkdir(exist_ok=True)
    return [str(Path(__file__).with_name("sides.py")), kind, transport, str(folder), *options]


@asynccontextmanager
async def over_http(kind: Kind, folder: Path, *, busy: bool = False) -> AsyncGenerator[Side]:
    """Start a side and connect to it over streamable HTTP."""
    line = [sys.executable, *command(kind, "http", folder, *(["--busy"] if busy else []))]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    try:
        assert process.stdout is not None
        told = json.loads(await anyio.to_thread.run_sync(process.stdout.readline))
        async with (
            httpx2.AsyncClient(headers={"X-Payre-Key": told["key"]}, timeout=60) as http,
            Client(streamable_http_client(told["url"], http_client=http)) as client,
        ):
            yield Side(process.pid, client)
    finally:
        process.communicate()


@asynccontextmanager
async def over_stdio(kind: Kind, folder: Path) -> AsyncGenerator[Side]:
    """Start a side and connect to it over its pipes."""
    parameters = StdioServerParameters(command=sys.executable, args=command(kind, "stdio", folder))
    async with Client(stdio_client(parameters)) as client:
        answer = await client.call_tool("pid", {})
        assert answer.structured_content is not None
        yield Side(answer.structured_content["result"], client)


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


async def compare(sides: Sequence[Side], at_once: int, seconds: float) -> list[list[Load]]:
    """All in turn, as often as every cell is repeated."""
    loads: list[list[Load]] = [[] for _ in sides]
    for _ in range(REPEATS):
        for side, measured in zip(sides, loads, strict=True):
            measured.append(await load(side, at_once, seconds))
    return loads


async def check_same_work(free: Side, *others: Side) -> None:
    """All sides answer the same to the letter and advertise the same schema; the paid ones add their `_meta`."""
    sides = (free, *others)
    tools = [(await each.client.list_tools()).tools[0] for each in sides]
    results = [await each.client.call_tool("echo", {"text": "same"}) for each in sides]
    assert all(tool.output_schema == tools[0].output_schema for tool in tools)
    assert all(tool.input_schema == tools[0].input_schema for tool in tools)
    assert all(result.content == results[0].content for result in results)
    assert all(result.structured_content == results[0].structured_content for result in results)
    assert ["dev.payre/receipt" in (result.meta or {}) for result in results] == [False] + [True] * len(others)


def middle(loads: Sequence[Load], of: Callable[[Load], float]) -> float:
    """The median of one figure."""
    return statistics.median(of(each) for each in loads)


def cells_of(**loads: Sequence[Load]) -> dict[str, float]:
    """The medians of all figures, by side."""
    figures: dict[str, Callable[[Load], float]] = {
        "per_s": lambda each: each.rate,
        "cpu_us": lambda each: each.cpu_us,
        "p50_ms": lambda each: each.p50_ms,
    }
    return {f"{side}_{name}": middle(measured, of) for side, measured in loads.items() for name, of in figures.items()}


async def measure_http(folder: Path, seconds: float, disk_ms: float) -> list[Row]:
    """The figures of a paid call over HTTP, many at once and one at a time, and of the seam alone."""
    rows: list[Row] = []
    async with (
        over_http("free", folder / "free") as free,
        over_http("paid", folder / "paid") as paid,
        over_http("stub", folder / "stub") as stub,
    ):
        await check_same_work(free, paid, stub)
        progress(f"HTTP, {AT_ONCE} at once ...")
        frees, paids, stubs = await compare([free, paid, stub], AT_ONCE, seconds)
        cells = cells_of(free=frees, paid=paids, stub=stubs)
        cpu, rate = cells["paid_cpu_us"] / cells["free_cpu_us"], cells["paid_per_s"] / cells["free_per_s"]
        seam = cells["stub_cpu_us"] / cells["free_cpu_us"]
        rows += [
            held(f"cpu_{AT_ONCE}", f"server CPU, paid against unpaid, {AT_ONCE} at once", cpu, "at most", 1.25, cells),
            held(f"rate_{AT_ONCE}", f"calls/s, paid against unpaid, {AT_ONCE} at once", rate, "at least", 0.85, cells),
            held("seam", "server CPU, the seam alone against unpaid", seam, "at most", 1.05, cells),
        ]
        progress("HTTP, one at a time ...")
        cells = cells_of(**dict(zip(("free", "paid"), await compare([free, paid], 1, seconds), strict=True)))
        added = cells["paid_p50_ms"] - cells["free_p50_ms"] - disk_ms
        what = "p50 added to one call at a time, beyond one fsync"
        rows.append(Row("p50_1", what, round(added, 3), "ms", "at most 0.6 ms", added <= 0.6, cells))
    return rows


async def measure_busy(folder: Path, seconds: float) -> Row:
    """One call at a time beside a thread of the server's that computes."""
    progress("HTTP, beside a busy thread ...")
    async with over_http("free", folder / "free", busy=True) as free, over_http("paid", folder / "busy", busy=True) as paid:
        cells = cells_of(**dict(zip(("free", "paid"), await compare([free, paid], 1, seconds), strict=True)))
    ratio = cells["paid_p50_ms"] / cells["free_p50_ms"]
    return held("busy_1", "p50 beside one CPU-bound thread, paid against unpaid", ratio, "at most", 2.0, cells)


async def measure_stdio(folder: Path, seconds: float) -> list[Row]:
    """A paid call over pipes, one at a time."""
    progress("stdio ...")
    async with over_stdio("free", folder / "free") as free, over_stdio("paid", folder / "stdio") as paid:
        await check_same_work(free, paid)
        cells = cells_of(**dict(zip(("free", "paid"), await compare([free, paid], 1, seconds), strict=True)))
    cpu, added = cells["paid_cpu_us"] / cells["free_cpu_us"], cells["paid_p50_ms"] - cells["free_p50_ms"]
    return [
        Row("stdio_cpu_1", "server CPU over stdio, paid against unpaid, one at a time", round(cpu, 3), "x", cells=cells),
        Row("stdio_p50_1", "p50 added over stdio, one at a time", round(added, 3), "ms", cells=cells),
    ]


async def measure_memory(folder: Path, seconds: float) -> list[Row]:
    """A call in memory, client and server in one process."""
    progress("in memory ...")
    kinds: tuple[Kind, ...] = ("free", "paid", "stub")
    taken: dict[Kind, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for number in range(REPEATS):
        for kind in kinds:
            line = command(kind, "memory", folder / f"memory-{kind}-{number}", "--seconds", str(seconds))
            out = await anyio.run_process([sys.executable, *line], stderr=None)
            taken[kind].append(json.loads(out.stdout))
    cells = {
        f"{kind}_{name}": statistics.median(each[name] for each in taken[kind])
        for kind in kinds
        for name in ("cpu_us", "mean_ms")
    }
    paid, seam = cells["paid_cpu_us"] / cells["free_cpu_us"], cells["stub_cpu_us"] / cells["free_cpu_us"]
    return [
        Row("memory_cpu", "CPU of client and server in memory, paid against unpaid", round(paid, 3), "x", cells=cells),
        Row("memory_seam", "the same, the seam alone against unpaid", round(seam, 3), "x", cells=cells),
    ]


async def measure(folder: Path, seconds: float) -> list[Row]:
    """Every row of the report."""
    disk = fsync_probe(folder, 1.0)
    rows = [Row("fsync", "4 KiB append and fdatasync, p50", round(disk.p50_ms, 3), "ms")]
    rows += await measure_http(folder, seconds, disk.p50_ms)
    rows.append(await measure_busy(folder, seconds))
    rows += await measure_stdio(folder, seconds)
    rows += await measure_memory(folder, seconds)
    for name in ("paid", "busy", "stdio"):
        check_books(folder / name)
    return rows


def check_books(folder: Path) -> None:
    """Every invariant of a side's ledger, after its server has gone."""
    connection = open_ledger(f"sqlite:///{folder / 'payre.db'}")
    try:
        report = connection.audit()
        assert report.ok, report.violations
    finally:
        connection.close()


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long one timed stretch lasts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="payre-bench-") as folder:
        print_report(options.seconds, anyio.run(measure, Path(folder), options.seconds))


if __name__ == "__main__":
    main()
