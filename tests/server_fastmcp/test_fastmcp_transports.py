"""A FastMCP server over real sockets and real pipes, its ledger opened and closed by the server itself."""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from fastmcp import Client as FastMCPClient
from fastmcp import Context, FastMCP
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp.server.transforms.search import BM25SearchTransform
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from examples import fastmcp_server
from payre_mcp import Payre
from payre_mcp.cli.dev import load_server
from payre_mcp.connection import open_ledger
from payre_mcp.dev.web import listen, origin, serving
from payre_mcp.identity import serving_stdio
from payre_mcp.ledger.model import Kind
from payre_mcp.testing import sandbox
from tests.fakes import PATIENCE_S, ROOT, fund, journal_of
from tests.server.conftest import Shop, code_of, meta_of, text_of
from tests.server_fastmcp.conftest import connected, low_level, metered

PROXIED = {"name": "forecast", "arguments": {"city": "Oslo"}}


@pytest.fixture
def anyio_backend() -> str:
    """As uvicorn is."""
    return "asyncio"


class Till:
    """A ledger in a file, and a consumer with $1.00."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "payre.db"
        self.url = f"sqlite:///{self.path}"
        with closing(open_ledger(self.url)) as ledger:
            self.key = fund(ledger.ledger, 1_000_000).key.text

    def charges(self) -> list[int]:
        return [row.amount_micros for row in journal_of(self.path) if row.kind == Kind.CAPTURE]

    def holds(self) -> int:
        with closing(open_ledger(self.url)) as ledger:
            report = ledger.audit()
        assert report.violations == []
        return report.open_holds


@pytest.fixture
def till(tmp_path: Path) -> Till:
    return Till(tmp_path)


def weather(url: str) -> FastMCP:
    server = FastMCP("weather", transforms=[BM25SearchTransform()])

    @server.tool
    def forecast(city: str) -> str:
        return f"{city}: sunny"

    return Payre(url, prices={"forecast": "0.005"}).install(server)


@asynccontextmanager
async def on_a_socket(server: FastMCP, **options: Any) -> AsyncGenerator[str]:
    listener = listen()
    with closing(listener):
        async with serving(server.http_app("/mcp", **options), listener):
            yield f"{origin(listener)}/mcp"


@pytest.mark.parametrize("options", [{}, {"json_response": True}, {"stateless_http": True}])
async def test_over_http_the_key_in_the_header_pays_directly_and_behind_a_proxy(
    till: Till, mode: Any, options: dict[str, Any]
) -> None:
    async with on_a_socket(weather(till.url), **options) as url, httpx2.AsyncClient(timeout=PATIENCE_S) as http:
        http.headers["X-Payre-Key"] = till.key
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            direct = await client.call_tool("forecast", {"city": "Oslo"})
            proxied = await client.call_tool("call_tool", PROXIED)
    assert [text_of(direct), text_of(proxied)] == ["Oslo: sunny"] * 2
    assert meta_of(direct)["dev.payre/receipt"] != meta_of(proxied)["dev.payre/receipt"]
    assert (till.charges(), till.holds()) == ([5_000, 5_000], 0)


async def test_over_http_an_anonymous_caller_never_spends_the_operators_key(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYRE_KEY", till.key)
    with serving_stdio(till.key):
        async with on_a_socket(weather(till.url)) as url, Client(url) as client:
            assert code_of(await client.call_tool("forecast", {"city": "Oslo"})) == "payment_required"
            assert code_of(await client.call_tool("call_tool", PROXIED)) == "payment_required"
    assert till.charges() == []


async def test_fastmcps_own_client_pays_with_a_header(till: Till) -> None:
    async with (
        on_a_socket(weather(till.url)) as url,
        FastMCPClient(StreamableHttpTransport(url, headers={"X-Payre-Key": till.key})) as client,
    ):
        assert (await client.call_tool("call_tool", PROXIED)).data == "Oslo: sunny"
    assert (till.charges(), till.holds()) == ([5_000], 0)


async def test_requests_of_one_connection_pay_each_with_its_own_key(shop: Shop, mode: Any) -> None:
    server, other = FastMCP("shop"), fund(shop.connection.ledger, 1_000_000)

    @server.tool
    def paid() -> str:
        return ""

    @server.tool
    async def outer(ctx: Context) -> str:
        await ctx.fastmcp.call_tool("paid")
        return ""

    metered(shop, server, {"paid": "0.005"})
    async with (
        on_a_socket(server) as url,
        httpx2.AsyncClient(timeout=PATIENCE_S) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        for consumer, times in ((shop.consumer, 1), (other, 2)):
            http.headers["X-Payre-Key"] = consumer.key.text
            for _ in range(times):
                await client.call_tool("outer", {})
    assert (shop.spent(), other.account().balance_micros) == (5_000, 990_000)


SERVER = """
import sys
from fastmcp import FastMCP
from fastmcp.server.transforms.search import BM25SearchTransform
from payre_mcp import Payre
from payre_mcp.cli.dev import load_server

server = FastMCP("weather", transforms=[BM25SearchTransform()])

@server.tool
def forecast(city: str) -> str:
    return f"{city}: sunny"

sold = Payre(sys.argv[1], prices={"forecast": "0.005"}).install(server)
if sys.argv[2] == "mounted":
    server = FastMCP("over")
    server.mount(sold)
server.run(show_banner=False)
"""


@pytest.mark.parametrize(("how", "keyed"), [("plain", True), ("mounted", True), ("plain", False)])
async def test_on_stdio_the_variable_of_the_clients_configuration_pays(
    till: Till, tmp_path: Path, mode: Any, how: str, keyed: bool
) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    env = {"PYTHONPATH": str(ROOT), **({"PAYRE_KEY": till.key} if keyed else {})}
    parameters = StdioServerParameters(command=sys.executable, args=["-B", str(script), till.url, how], env=env)
    with (tmp_path / "log").open("w") as log:
        async with Client(stdio_client(parameters, errlog=log), mode=mode) as client:
            results = [await client.call_tool("forecast", {"city": "Oslo"}), await client.call_tool("call_tool", PROXIED)]
    assert [code_of(each) for each in results] == ["" if keyed else "payment_required"] * 2
    assert (till.charges(), till.holds()) == ([5_000, 5_000] if keyed else [], 0)


async def test_the_example_sells_its_definition(shop: Shop) -> None:
    (payre,) = [each for each in low_level(fastmcp_server.server).middleware if isinstance(each, Payre)]
    payre.lend(shop.connection.gateway)
    async with connected(fastmcp_server.server) as client:
        result = await client.call_tool("define", {"word": "money"}, meta=shop.meta())
    assert (text_of(result), shop.spent()) == ("money: see the dictionary", 1_000)


SERVED = """
import sys
from fastmcp import FastMCP
from payre_mcp import Payre, serve

server = FastMCP("weather")

@server.tool
def forecast(city: str) -> str:
    return f"{city}: sunny"

serve(Payre(sys.argv[1], prices={"forecast": "0.005"}).install(server), sys.argv[2], port=0, allowed_hosts=["pay.example"])
"""


@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
async def test_serve_runs_a_fastmcp_server_too_and_answers_to_its_names_alone(till: Till, transport: str) -> None:
    async with await anyio.open_process([sys.executable, "-c", SERVED, till.url, transport], cwd=ROOT) as process:
        assert process.stderr is not None
        said = ""
        async for chunk in process.stderr:
            said += chunk.decode()
            if "(Press CTRL+C" in said:
                break
        address = said.split("running on ")[1].split(" ")[0]
        headers = {"X-Payre-Key": till.key}
        async with httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S) as http:
            over_http = streamable_http_client(f"{address}/mcp", http_client=http)
            over_sse = sse_client(f"{address}/sse", headers=headers)
            async with Client(over_sse if transport == "sse" else over_http, mode="legacy") as client:
                result = await client.call_tool("forecast", {"city": "Oslo"})
            stranger = await http.post(f"{address}/mcp", headers={"Host": "evil.example"})
        process.terminate()
    assert "dev.payre/receipt" in meta_of(result)
    assert stranger.status_code == 421
    assert till.charges() == [5_000]


async def test_serve_runs_a_fastmcp_server_on_stdio(till: Till) -> None:
    parameters = StdioServerParameters(
        command=sys.executable, args=["-c", SERVED, till.url, "stdio"], env={"PAYRE_KEY": till.key}, cwd=ROOT
    )
    with (till.path.parent / "stderr").open("w") as log:
        async with Client(stdio_client(parameters, errlog=log)) as client:
            assert "dev.payre/receipt" in meta_of(await client.call_tool("forecast", {"city": "Oslo"}))
    assert till.charges() == [5_000]


async def test_a_sandbox_serves_a_fastmcp_server_beside_wallet_and_pages() -> None:
    async with sandbox(fastmcp_server.server) as box, box.client() as client, box.client(url=box.wallet_url) as wallet:
        result = await client.call_tool("define", {"word": "money"})
        charges = await wallet.call_tool("list_charges", {})
        async with httpx2.AsyncClient(timeout=PATIENCE_S) as http:
            page = await http.get(box.running.addresses.console)
        assert "dev.payre/receipt" in meta_of(result)
        assert "define" in text_of(charges)
        assert "dictionary" in page.text
        assert box.audit().ok


def test_payre_dev_finds_a_fastmcp_server_in_its_file() -> None:
    assert load_server(str(ROOT / "examples" / "fastmcp_server.py")).name == "dictionary"
