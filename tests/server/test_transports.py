"""The same paid call over real sockets and real pipes: whose key pays, and that nothing else differs."""

import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp_types import CallToolResult

from payre_mcp import PaidMCPServer
from payre_mcp.connection import open_ledger
from payre_mcp.dev.web import listen, origin, serving
from payre_mcp.identity import serving_stdio
from payre_mcp.ledger.model import Kind
from payre_mcp.money import Money
from payre_mcp.testing import Sandbox, sandbox
from tests.fakes import PATIENCE_S, ROOT, fund, journal_of
from tests.server.conftest import Shop, code_of, meta_of, text_of

PRICE = Money.parse("0.005")


@pytest.fixture
def anyio_backend() -> str:
    """As uvicorn is."""
    return "asyncio"


@pytest.fixture
async def box() -> AsyncGenerator[Sandbox]:
    """A paid server on a socket, whose consumer has $5.00."""
    server = PaidMCPServer("shop", log_level="WARNING")
    server.tool(price="0.005")(forecast)
    server.tool()(gratis)
    async with sandbox(server) as box:
        yield box


def forecast(city: str) -> str:
    return f"{city}: sunny"


async def gratis(city: str) -> str:
    return f"{city}: free"


@asynccontextmanager
async def connected(url: str, headers: list[tuple[str, str]] | dict[str, str], mode: Any = "auto") -> AsyncGenerator[Client]:
    """A client that sends these headers."""
    async with (
        httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client


async def call(client: Client, tool: str = "forecast") -> CallToolResult:
    return await client.call_tool(tool, {"city": "Oslo"})


async def spent(box: Sandbox) -> Money:
    report = await anyio.to_thread.run_sync(box.audit)
    assert (report.violations, report.open_holds) == ([], 0)
    return Money.parse(5) - (await box.balance()).balance


# HTTP.


@pytest.mark.parametrize("header", ["X-Payre-Key", "X-AGENTPAY-API-KEY", "Authorization"])
async def test_over_http_the_key_in_a_header_pays_once(box: Sandbox, mode: Any, header: str) -> None:
    value = f"Bearer {box.consumer_key}" if header == "Authorization" else box.consumer_key
    async with connected(box.server_url, {header: value}, mode) as client:
        paid, free = await call(client), await call(client, "gratis")
    receipt = box.ledger.ledger.ring.verify(meta_of(paid)["dev.payre/receipt"])
    assert (text_of(paid), receipt.amount, receipt.server) == ("Oslo: sunny", PRICE, "shop")
    assert (text_of(free), "dev.payre/receipt" in meta_of(free)) == ("Oslo: free", False)
    assert await spent(box) == PRICE


async def test_over_http_an_anonymous_caller_never_spends_the_operators_key(
    box: Sandbox, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mcp-seam.md section 4: the variable is read on stdio alone."""
    monkeypatch.setenv("PAYRE_KEY", box.consumer_key)
    with serving_stdio(box.consumer_key):
        async with connected(box.server_url, {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}, mode) as client:
            refused, free = await call(client), await call(client, "gratis")
    assert (code_of(refused), text_of(free)) == ("payment_required", "Oslo: free")
    assert await spent(box) == Money(0)


async def test_two_different_keys_in_one_request_are_refused(box: Sandbox, mode: Any) -> None:
    other = fund(box.ledger.ledger, 1_000_000).key.text
    async with connected(box.server_url, {"X-Payre-Key": box.consumer_key, "Authorization": f"Bearer {other}"}, mode) as client:
        in_headers = await call(client)
    async with connected(box.server_url, {"X-Payre-Key": box.consumer_key}, mode) as client:
        meta: Any = {"dev.payre/key": other}
        in_meta = await client.call_tool("forecast", {"city": "Oslo"}, meta=meta)
    assert (code_of(in_headers), code_of(in_meta)) == ("invalid_api_key", "invalid_api_key")
    assert await spent(box) == Money(0)


async def test_two_different_keys_under_one_header_name_are_refused(box: Sandbox) -> None:
    other = fund(box.ledger.ledger, 1_000_000).key.text
    async with connected(box.server_url, [("X-Payre-Key", box.consumer_key), ("X-Payre-Key", other)]) as client:
        assert code_of(await call(client)) == "invalid_api_key"


async def test_requests_of_one_connection_pay_each_with_its_own_key(box: Sandbox, mode: Any) -> None:
    other = fund(box.ledger.ledger, 1_000_000)
    async with (
        httpx2.AsyncClient(headers={"X-Payre-Key": box.consumer_key}, timeout=PATIENCE_S) as http,
        Client(streamable_http_client(box.server_url, http_client=http), mode=mode) as client,
    ):
        first = await call(client)
        http.headers["X-Payre-Key"] = other.key.text
        second = await call(client)
    ring = box.ledger.ledger.ring
    payers = {ring.verify(meta_of(result)["dev.payre/receipt"]).consumer for result in (first, second)}
    assert len(payers) == 2
    assert other.account().balance_micros == 1_000_000 - PRICE.micros


async def test_a_placeholder_in_a_header_is_named_as_one(box: Sandbox) -> None:
    for headers in ({"X-Payre-Key": "${PAYRE_KEY}"}, {"Authorization": "Bearer ${PAYRE_KEY}"}):
        async with connected(box.server_url, headers) as client:
            result = await call(client)
        assert code_of(result) == "invalid_api_key"
        assert "variable is not set" in text_of(result)


async def test_a_refusal_over_http_links_the_page_that_is_served_beside_it(box: Sandbox) -> None:
    poor = fund(box.ledger.ledger, 1_000).key.text
    async with connected(box.server_url, {"X-Payre-Key": poor}) as client:
        result = await call(client)
    assert code_of(result) == "insufficient_balance"
    assert f"{box.running.addresses.hub}/top-ups/" in text_of(result)


@pytest.mark.parametrize(
    "options", [{"json_response": True}, {"stateless_http": True}, {"json_response": True, "stateless_http": True}]
)
async def test_json_and_stateless_apps_charge_the_same(shop: Shop, mode: Any, options: dict[str, bool]) -> None:
    server = shop.server(forecast)
    app = server.streamable_http_app(**options)  # pyright: ignore[reportArgumentType] - all are flags
    with closing(listen()) as listener:
        async with serving(app, listener):
            url = f"{origin(listener)}/mcp"
            async with connected(url, {"X-Payre-Key": shop.consumer.key.text}, mode) as client:
                paid = await call(client)
            async with connected(url, {}, mode) as client:
                refused = await call(client)
    assert shop.receipt(paid).amount == PRICE
    assert code_of(refused) == "payment_required"
    assert shop.spent() == PRICE.micros


class Verifier:
    """The server's own sign-in: it knows its users, and which key pays for them."""

    def __init__(self, keys: dict[str, str | None]) -> None:
        self._keys = keys

    async def verify_token(self, token: str) -> AccessToken | None:
        if token not in self._keys:
            return None
        key = self._keys[token]
        claims = None if key is None else {"dev.payre/key": key}
        return AccessToken(token=token, client_id="app", scopes=[], subject=token, claims=claims)


async def test_a_caller_who_is_signed_in_pays_with_the_key_that_the_server_knows_for_them(shop: Shop, mode: Any) -> None:
    other = fund(shop.connection.ledger, 1_000_000, name="eve").key.text
    url: Any = "http://127.0.0.1:1/"
    server = PaidMCPServer(
        "shop",
        payre=shop.payre(),
        auth=AuthSettings(issuer_url=url, resource_server_url=url, validate_token_resource=False),
        token_verifier=Verifier({"ada": shop.consumer.key.text, "guest": None}),
    )
    server.tool(price="0.005")(forecast)
    with closing(listen()) as listener:
        async with serving(server.streamable_http_app(), listener):
            address = f"{origin(listener)}/mcp"
            async with connected(address, {"Authorization": "Bearer ada"}, mode) as client:
                paid = await call(client)
            async with connected(address, {"Authorization": "Bearer guest"}, mode) as client:
                keyless = await call(client)
            async with connected(address, {"Authorization": "Bearer ada", "X-Payre-Key": other}, mode) as client:
                torn = await call(client)
    assert shop.receipt(paid).amount == PRICE
    assert (code_of(keyless), code_of(torn)) == ("payment_required", "invalid_api_key")
    assert shop.spent() == PRICE.micros


# Subprocesses: stdio, and HTTP with the operator's key in the environment.


SERVER = """
import sys
from payre_mcp import PaidMCPServer, serve

server = PaidMCPServer("shop", payre=sys.argv[1], log_level="WARNING")

@server.tool(price="0.005")
def forecast(city: str) -> str:
    return f"{city}: sunny"

match sys.argv[2]:
    case "serve":
        serve(server)
    case "run":
        server.run("stdio")
    case "http":
        serve(server, "streamable-http", port=0)
"""


class Till:
    """A ledger in a file, a consumer with $1.00, and a server script that sells over it in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.path, self.script = folder / "payre.db", folder / "server.py"
        self.script.write_text(SERVER)
        connection = open_ledger(f"sqlite:///{self.path}")
        self.key = fund(connection.ledger, 1_000_000).key.text
        connection.close()

    def command(self, how: str) -> list[str]:
        return ["-B", str(self.script), f"sqlite:///{self.path}", how]

    def charges(self) -> list[int]:
        return [row.amount_micros for row in journal_of(self.path) if row.kind == Kind.CAPTURE]

    @asynccontextmanager
    async def client(self, how: str, env: dict[str, str], mode: Any = "auto") -> AsyncGenerator[Client]:
        parameters = StdioServerParameters(command=sys.executable, args=self.command(how), env=env, cwd=ROOT)
        async with AsyncExitStack() as stack:
            log = stack.enter_context((self.path.parent / "stderr").open("w"))
            yield await stack.enter_async_context(Client(stdio_client(parameters, errlog=log), mode=mode))


@pytest.fixture
def till(tmp_path: Path) -> Till:
    return Till(tmp_path)


@pytest.mark.parametrize(("how", "mode"), [("serve", "auto"), ("run", "legacy")])
async def test_on_stdio_the_variable_of_the_clients_configuration_pays(till: Till, how: str, mode: Any) -> None:
    async with till.client(how, {"PAYRE_KEY": till.key}, mode) as client:
        result = await call(client)
    assert text_of(result) == "Oslo: sunny"
    assert "dev.payre/receipt" in meta_of(result)
    assert till.charges() == [PRICE.micros]


async def test_on_stdio_without_the_variable_a_call_is_refused(till: Till) -> None:
    async with till.client("serve", {}) as client:
        assert code_of(await call(client)) == "payment_required"
    assert till.charges() == []


async def test_a_setting_that_does_not_exist_stops_a_stdio_server(till: Till) -> None:
    process = await anyio.run_process(
        [sys.executable, *till.command("serve")], env={"PAYRE_KEYS": till.key, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert process.returncode
    assert b"did you mean PAYRE_KEY?" in process.stderr
    assert till.key.encode() not in process.stderr


def test_a_stdio_server_writes_nothing_but_json_rpc_to_stdout(till: Till) -> None:
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    requests: list[dict[str, Any]] = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "forecast", "arguments": {"city": "Oslo"}}},
        {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "nowhere", "arguments": {}}},
    ]
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, *till.command("serve")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
        env={"PAYRE_KEY": till.key},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        for request in requests:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            if "id" in request:
                lines.append(process.stdout.readline())
        process.stdin.close()
        lines += process.stdout.readlines()
    answers = [json.loads(line) for line in lines]
    assert [(answer["jsonrpc"], answer["id"]) for answer in answers] == [("2.0", 1), ("2.0", 2), ("2.0", 3)]
    assert "dev.payre/receipt" in answers[1]["result"]["_meta"]
    assert answers[2]["result"]["isError"]
    assert process.returncode == 0


async def test_a_process_that_serves_http_never_reads_the_key_of_its_environment(till: Till) -> None:
    env = {"PAYRE_KEY": till.key, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *till.command("http")]
    with anyio.fail_after(PATIENCE_S * 2):
        async with await anyio.open_process(command, env=env, stdout=subprocess.DEVNULL) as process:
            url = f"{await address(process)}/mcp"
            async with connected(url, {}) as client:
                refused = await call(client)
            async with connected(url, {"X-Payre-Key": till.key}) as client:
                paid = await call(client)
            process.terminate()
    assert code_of(refused) == "payment_required"
    assert "dev.payre/receipt" in meta_of(paid)
    assert till.charges() == [PRICE.micros]


async def address(process: anyio.abc.Process) -> str:
    """Where uvicorn says that it listens."""
    log = ""
    assert process.stderr is not None
    async for chunk in process.stderr:
        log += chunk.decode()
        if "(Press CTRL+C" in log:
            return log.split("running on ")[1].split(" ")[0]
    raise AssertionError(log)
