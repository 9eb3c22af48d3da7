"""Callers who leave in the middle of a call, over real sockets and real pipes: paid exactly when there is a result.

Where the leaving is seen it ends the call, unless its work is done by then; elsewhere the call runs to its end. Either
way its hold is captured or voided, once, and nothing stays held.
"""

import gc
import json
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import httpx2
import pytest
from anyio.abc import SocketAttribute, SocketStream
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from payre_mcp.clock import US_PER_S, ManualClock, SystemClock
from payre_mcp.connection import open_ledger
from payre_mcp.dev.web import listen, origin, serving
from payre_mcp.ledger.model import HOLD_ENDS, Kind
from payre_mcp.ledger.writer import HOLD_LIFE_US
from tests.fakes import PATIENCE_S, ROOT, Where, fund, journal_of, open_holds_of
from tests.server.conftest import Shop, meta_of, text_of

PRICE = 5_000
MODERN, LEGACY = "2026-07-28", "2025-11-25"
CLIENT: dict[str, Any] = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
TOOLS = ["in_loop", "in_thread"]

pytestmark = pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")


@dataclass(frozen=True)
class Way:
    """A way to serve over HTTP."""

    era: str
    options: dict[str, bool] | None
    """Of the streamable HTTP app; None for the app of the SSE transport."""
    is_seen: bool
    """Whether the server sees that its caller has left."""

    @property
    def has_sessions(self) -> bool:
        """Whether a call belongs to a session that is opened before."""
        return self.era == LEGACY and "stateless_http" not in (self.options or {})


JSON, STATELESS = {"json_response": True}, {"stateless_http": True}
STREAMABLE = {
    "modern": Way(MODERN, {}, is_seen=True),
    "modern JSON": Way(MODERN, JSON, is_seen=False),
    "sessions": Way(LEGACY, {}, is_seen=False),
    "sessions JSON": Way(LEGACY, JSON, is_seen=False),
    "stateless": Way(LEGACY, STATELESS, is_seen=True),
    "stateless JSON": Way(LEGACY, {**STATELESS, **JSON}, is_seen=False),
}
WAYS = {**STREAMABLE, "SSE": Way(LEGACY, None, is_seen=True)}
"""All of them. What a server can see is the SDK's matter, and pinned here because the charge follows from it."""


@pytest.fixture
def anyio_backend() -> str:
    """As uvicorn is."""
    return "asyncio"


@pytest.fixture(autouse=True, scope="module")
def _collected() -> Iterator[None]:
    """The SDK leaves streams of aborted requests unclosed; they shall not warn in another file."""
    yield
    gc.collect()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest) -> str:
    return request.param


class Work:
    """Two tools that wait inside, one in the event loop and one in a thread, and what a test sees of their calls."""

    def __init__(self) -> None:
        self.runs = 0
        self.again()

    def again(self) -> None:
        """Let the next run wait anew."""
        self.inside, self.cancelled, self.ended = anyio.Event(), anyio.Event(), anyio.Event()
        self._in_loop, self._in_thread = anyio.Event(), threading.Event()

    def finish(self) -> None:
        """Let the tool answer, now and at every later run."""
        self._in_loop.set()
        self._in_thread.set()

    async def in_loop(self, city: str) -> str:
        self.runs += 1
        release = self._in_loop
        self.inside.set()
        await release.wait()
        return f"{city} {self.runs}"

    def in_thread(self, city: str) -> str:
        self.runs += 1
        release = self._in_thread
        anyio.from_thread.run_sync(self.inside.set)
        assert release.wait(PATIENCE_S)
        return f"{city} {self.runs}"

    async def watch(self, ctx: Any, call_next: Any) -> Any:
        """Middleware that tells when a call is cancelled and when it is over."""
        if ctx.method != "tools/call":
            return await call_next(ctx)
        cancelled, ended = self.cancelled, self.ended
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_set_when_cancelled, cancelled)
            try:
                return await call_next(ctx)
            finally:
                ended.set()
                tasks.cancel_scope.cancel()


async def _set_when_cancelled(event: anyio.Event) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        event.set()


@dataclass
class Site:
    """A server on a socket, and a caller who speaks to it over raw connections."""

    shop: Shop
    way: Way
    url: str
    http: httpx2.AsyncClient
    work: Work
    headers: dict[str, str] = field(default_factory=dict[str, str])
    """Those of the session, where there is one."""
    number: int = 1
    """The id of the last request."""

    async def start(self, tool: str, city: str = "Oslo", **meta: str) -> SocketStream:
        """Send a call and do not wait for its answer; the connection that the answer would come over."""
        if self.way.options is None:
            return await self._start_over_sse(self._call(tool, city, meta))
        if self.way.has_sessions and not self.headers:
            opened = await self.post({"id": 1, "method": "initialize", "params": CLIENT})
            self.headers = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
            await self.post({"method": "notifications/initialized"})
        sent = json.dumps(self._call(tool, city, meta)).encode()
        lines = [f"{name}: {value}" for name, value in self._headers(tool).items()]
        return await self._connect("POST /mcp HTTP/1.1", *lines, f"Content-Length: {len(sent)}", then=sent)

    async def post(self, message: dict[str, Any], path: str = "/mcp") -> httpx2.Response:
        """Send a message over a connection of its own."""
        return await self.http.post(path, json={"jsonrpc": "2.0", **message}, headers=self._headers(""))

    async def seen(self) -> None:
        """What was sent before has arrived."""
        await self.http.get("/nowhere")

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        """The SDK's client, of this era."""
        mode: Any = "auto" if self.way.era == MODERN else "legacy"
        if self.way.options is None:
            async with Client(sse_client(f"{self.url}/sse"), mode=mode) as client:
                yield client
        else:
            async with Client(streamable_http_client(f"{self.url}/mcp", http_client=self.http), mode=mode) as client:
                yield client

    async def call(self, tool: str, **meta: str) -> CallToolResult:
        """A whole call, by the SDK's client."""
        async with self.client() as client:
            return await self.shop.call(client, tool, **meta)

    def _call(self, tool: str, city: str, meta: dict[str, str]) -> dict[str, Any]:
        self.number += 1
        marks = self.shop.meta(**meta)
        if self.way.era == MODERN:
            marks |= {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
        params = {"name": tool, "arguments": {"city": city}, "_meta": marks}
        return {"jsonrpc": "2.0", "id": self.number, "method": "tools/call", "params": params}

    def _headers(self, tool: str) -> dict[str, str]:
        told = {"MCP-Protocol-Version": self.way.era, "Content-Type": "application/json", **self.headers}
        told |= {"Accept": "application/json, text/event-stream"}
        return told | ({"Mcp-Method": "tools/call", "Mcp-Name": tool} if self.way.era == MODERN else {})

    async def _start_over_sse(self, call: dict[str, Any]) -> SocketStream:
        stream = await self._connect("GET /sse HTTP/1.1")
        told = b""
        while b"session_id=" not in told or not told.endswith(b"\r\n\r\n\r\n"):
            told += await stream.receive()
        path = told.split(b"data: ")[1].split(b"\r\n")[0].decode()
        for message in ({"id": 1, "method": "initialize", "params": CLIENT}, {"method": "notifications/initialized"}):
            await self.post(message, path)
        await self.post(call, path)
        return stream

    async def _connect(self, *lines: str, then: bytes = b"") -> SocketStream:
        host, port = self.url.removeprefix("http://").split(":")
        stream = await anyio.connect_tcp(host, int(port))
        await stream.send("\r\n".join([*lines, f"Host: {host}:{port}", "", ""]).encode() + then)
        return stream


async def abort(stream: SocketStream) -> None:
    """Leave with a reset, as a killed process looks to the other end."""
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await anyio.aclose_forcefully(stream)


@asynccontextmanager
async def site(shop: Shop, way: Way) -> AsyncGenerator[Site]:
    work = Work()
    server = shop.server(work.in_loop, work.in_thread)
    server.middleware.insert(0, work.watch)
    app = server.sse_app() if way.options is None else server.streamable_http_app(**way.options)  # pyright: ignore[reportArgumentType] - all are flags
    with closing(listen()) as listener:
        async with serving(app, listener), httpx2.AsyncClient(base_url=origin(listener), timeout=PATIENCE_S) as http:
            yield Site(shop, way, origin(listener), http, work)


async def left_after(there: Site, stream: SocketStream) -> None:
    """Abort, let the server see of it what it can, and let the tool answer whoever is still there."""
    await there.work.inside.wait()
    await abort(stream)
    await there.seen()
    if there.way.is_seen:
        await there.work.cancelled.wait()
    there.work.finish()
    await there.work.ended.wait()


# HTTP: the connection is reset.


@pytest.mark.parametrize("meta", [{}, {"idempotency_key": "one"}], ids=["without a key", "with a key"])
async def test_who_leaves_is_charged_exactly_when_the_tool_made_a_result(
    shop: Shop, way: Way, tool: str, meta: dict[str, str]
) -> None:
    """mcp-seam.md sections 5 and 6. The retry is free where the result was paid and either side knows of the leaving."""
    async with site(shop, way) as there:
        with anyio.fail_after(PATIENCE_S):
            await left_after(there, await there.start(tool, **meta))
        is_cancelled = way.is_seen and tool == "in_loop"
        assert shop.journal() == ["HOLD", "VOID" if is_cancelled else "CAPTURE"]
        again = await there.call(tool, **meta)
    is_replayed = not is_cancelled and (bool(meta) or way.is_seen)
    assert (meta_of(again).get("dev.payre/replayed", False), text_of(again)) == (
        is_replayed, f"Oslo {1 if is_replayed else 2}",
    )  # fmt: skip
    assert there.work.runs == (1 if is_replayed else 2)
    assert shop.receipt(again).amount_micros == PRICE
    assert shop.spent() == (PRICE if is_cancelled or is_replayed else 2 * PRICE)


async def test_a_retry_while_the_call_of_one_who_left_still_runs_waits_for_its_answer(shop: Shop, tool: str) -> None:
    """Nobody has seen the leaving, so the retry is a duplicate of a call that runs: its answer is theirs, paid once."""
    async with site(shop, WAYS["modern JSON"]) as there:
        results: list[CallToolResult] = []

        async def again() -> None:
            results.append(await there.call(tool, idempotency_key="one"))

        with anyio.fail_after(PATIENCE_S):
            stream = await there.start(tool, idempotency_key="one")
            await there.work.inside.wait()
            await abort(stream)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(again)
                await there.seen()
                there.work.finish()
    assert (text_of(results[0]), there.work.runs) == ("Oslo 1", 1)
    assert shop.spent() == PRICE


# HTTP: the caller says that they leave.


@pytest.mark.parametrize("name", ["sessions", "sessions JSON"])
@pytest.mark.parametrize("by", ["notification", "DELETE"])
async def test_a_cancelled_call_and_a_closed_session_end_as_seen(shop: Shop, tool: str, name: str, by: str) -> None:
    async with site(shop, WAYS[name]) as there:
        with anyio.fail_after(PATIENCE_S):
            stream = await there.start(tool)
            await there.work.inside.wait()
            if by == "DELETE":
                await there.http.delete("/mcp", headers=there.headers)
            else:
                await there.post({"method": "notifications/cancelled", "params": {"requestId": there.number}})
            await there.work.cancelled.wait()
            there.work.finish()
            await there.work.ended.wait()
            await stream.aclose()
        assert shop.journal() == ["HOLD", "VOID" if tool == "in_loop" else "CAPTURE"]
        again = await there.call(tool)
    assert meta_of(again).get("dev.payre/replayed", False) == (tool == "in_thread")
    assert shop.spent() == PRICE


async def test_a_cancel_scope_of_the_sdks_client_ends_a_call_once(shop: Shop, way: Way, tool: str) -> None:
    async with site(shop, way) as there:
        with anyio.fail_after(PATIENCE_S):
            async with there.client() as client:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(shop.call, client, tool)
                    await there.work.inside.wait()
                    tasks.cancel_scope.cancel()
                await there.seen()
            there.work.finish()
            await there.work.ended.wait()
    assert shop.journal() in (["HOLD", "VOID"], ["HOLD", "CAPTURE"])
    assert tool == "in_loop" or shop.journal()[-1] == "CAPTURE"
    assert shop.spent() == shop.journal().count("CAPTURE") * PRICE


# At any moment.


@pytest.mark.timeout(300)
async def test_whenever_a_caller_leaves_a_hold_is_captured_or_voided_once(
    shop: Shop, way: Way, clock: ManualClock, faults: bool
) -> None:
    """A thousand in all, with --faults."""
    dice = random.Random(11)
    async with site(shop, way) as there:
        for number in range(1_000 // len(WAYS) + 1 if faults else 12):
            there.work.again()
            with anyio.fail_after(PATIENCE_S):
                stream = await there.start(dice.choice(TOOLS), f"city {number}")
                if number % 3:
                    await there.work.inside.wait()
                if number % 3 == 2:
                    there.work.finish()
                for _ in range(dice.randrange(30)):
                    await anyio.lowlevel.checkpoint()
                await abort(stream)
                there.work.finish()
    clock.advance(HOLD_LIFE_US / US_PER_S + 1)
    await anyio.to_thread.run_sync(shop.connection.ledger.writer.sweep)
    assert_each_hold_ended_once(shop.connection.ledger)
    assert shop.spent() == shop.journal().count("CAPTURE") * PRICE


def assert_each_hold_ended_once(where: Where) -> None:
    rows = journal_of(where)
    assert sorted(row.id for row in rows if row.kind == Kind.HOLD) == sorted(
        row.ref_id for row in rows if row.kind in HOLD_ENDS or (row.kind == Kind.CHARGE and row.ref_id)
    )
    assert open_holds_of(where) == {}


# Pipes.


SERVER = """
import socket, sys

import anyio
from payre_mcp import PaidMCPServer, serve

server = PaidMCPServer("shop", payre=sys.argv[1], log_level="WARNING")
door = ("127.0.0.1", int(sys.argv[2]))

@server.tool(price="0.005")
async def in_loop(city: str) -> str:
    async with await anyio.connect_tcp(*door) as line:
        await line.receive()
    return city

@server.tool(price="0.005")
def in_thread(city: str) -> str:
    with socket.create_connection(door) as line:
        line.recv(1)
    return city

serve(server)
"""

STARTER = """
import subprocess, sys

server = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
for line in sys.stdin:
    server.stdin.write(line.encode())
    server.stdin.flush()
"""
"""A client that starts its server, sends what it is told, and reads nothing."""


@dataclass
class Pipes:
    """A stdio server in a process of its own, whose tools call this process from inside and wait for its word."""

    path: Path
    door: socket.socket

    def __post_init__(self) -> None:
        self.script = self.path.with_name("server.py")
        self.script.write_text(SERVER)
        with closing(open_ledger(f"sqlite:///{self.path}")) as connection:
            self.key = fund(connection.ledger, 1_000_000).key.text

    def start(self, *before: str) -> subprocess.Popen[bytes]:
        script = [sys.executable, "-B", str(self.script), f"sqlite:///{self.path}", str(self.door.getsockname()[1])]
        pipe = subprocess.PIPE
        return subprocess.Popen([*before, *script], stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT, env={"PAYRE_KEY": self.key})

    @contextmanager
    def call(self, process: subprocess.Popen[bytes], tool: str, era: str) -> Generator[socket.socket]:
        """Call a tool; the line from inside it."""
        if era == LEGACY:
            send(process, {"id": 1, "method": "initialize", "params": CLIENT})
            send(process, {"method": "notifications/initialized"})
        send(process, {"id": 7, "method": "tools/call", "params": {"name": tool, "arguments": {"city": "Oslo"}, **marks(era)}})
        line, _ = self.door.accept()
        line.settimeout(PATIENCE_S)
        with line:
            yield line

    def assert_paid(self, *, is_charged: bool) -> None:
        """The one call was captured or voided, and nothing is held when its hold's life is over."""
        with closing(
            open_ledger(f"sqlite:///{self.path}", clock=ManualClock(SystemClock().now_us() + HOLD_LIFE_US))
        ) as connection:
            assert connection.ledger.writer.sweep() == 0
            assert connection.audit().violations == []
        kinds = sorted(row.kind for row in journal_of(self.path) if row.kind != Kind.TOP_UP)
        assert kinds == sorted([Kind.HOLD, Kind.CAPTURE if is_charged else Kind.VOID])
        assert_each_hold_ended_once(self.path)


def marks(era: str) -> dict[str, Any]:
    """What a request says of itself in this era."""
    said: dict[str, Any] = {"io.modelcontextprotocol/protocolVersion": era, "io.modelcontextprotocol/clientCapabilities": {}}
    return {"_meta": said} if era == MODERN else {}


def send(process: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    process.stdin.flush()


@pytest.fixture
def pipes(ledger_path: Path) -> Iterator[Pipes]:
    with closing(socket.create_server(("127.0.0.1", 0))) as door:
        door.settimeout(PATIENCE_S)
        yield Pipes(ledger_path, door)


@pytest.mark.parametrize(("by", "era"), [("closing", MODERN), ("notification", LEGACY)])
def test_on_stdio_who_leaves_is_charged_exactly_when_the_tool_made_a_result(pipes: Pipes, tool: str, era: str, by: str) -> None:
    with pipes.start() as process, pipes.call(process, tool, era) as line:
        assert process.stdin is not None
        assert process.stdout is not None
        if by == "closing":
            process.stdin.close()
        else:
            send(process, {"method": "notifications/cancelled", "params": {"requestId": 7}})
            send(process, {"id": 8, "method": "tools/list", "params": marks(era)})
            while b'"id":8' not in process.stdout.readline():
                pass
        if tool == "in_thread":
            line.send(b"!")
        assert line.recv(1) == b""  # the tool has returned, or was cancelled
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
    pipes.assert_paid(is_charged=tool == "in_thread")


@pytest.mark.parametrize(("tool", "era"), [("in_loop", LEGACY), ("in_thread", MODERN)])
def test_when_the_client_of_a_stdio_server_is_killed_its_call_ends_and_so_does_the_server(
    pipes: Pipes, tool: str, era: str
) -> None:
    with pipes.start(sys.executable, "-B", "-c", STARTER) as client, pipes.call(client, tool, era) as line:
        assert client.stderr is not None
        client.kill()
        if tool == "in_thread":
            line.send(b"!")
        assert line.recv(1) == b""
        client.stderr.read()  # the server has it too: until it has ended
    pipes.assert_paid(is_charged=tool == "in_thread")
