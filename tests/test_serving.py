"""`serve()` in processes of its own: who may call, on which transport, and what is refused before anything is started.

That paid calls are the same on every transport stands in server/test_transports.py, what the guard does in test_guard.py.
"""

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from payre_mcp import PaidMCPServer, serve
from payre_mcp.connection import open_ledger
from payre_mcp.dev.web import listen
from payre_mcp.errors import SettingsInvalid
from tests.fakes import PATIENCE_S, ROOT, fund

SERVER = """
import json, sys
from payre_mcp import PaidMCPServer, serve
from payre_mcp.guard import Limits

server = PaidMCPServer("shop", payre=sys.argv[1], log_level="WARNING")

@server.tool(price="0.005")
def forecast(city: str) -> str:
    return f"{city}: sunny"

options = {"transport": "streamable-http", "port": 0, **json.loads(sys.argv[2])}
if "limits" in options:
    options["limits"] = Limits(**options["limits"])
serve(server, **options)
"""
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.fixture
def anyio_backend() -> str:
    """As uvicorn is."""
    return "asyncio"


class Served:
    """A server in a process of its own, and what it wrote."""

    def __init__(self, port: int, key: str) -> None:
        self.origin, self.port, self.key = f"http://127.0.0.1:{port}", port, key

    async def status(self, host: str, origin: str | None = None, path: str = "/mcp", method: str = "POST") -> int:
        """What a ping is answered with that calls the server by this name, from a page of that origin."""
        headers = {**ACCEPT, "Host": host, **({} if origin is None else {"Origin": origin})}
        async with httpx2.AsyncClient(timeout=PATIENCE_S) as http:
            return (await http.request(method, self.origin + path, json=PING, headers=headers)).status_code


@asynccontextmanager
async def served(folder: Path, env: dict[str, str] | None = None, **options: Any) -> AsyncGenerator[Served]:
    script, url = folder / "server.py", f"sqlite:///{folder / 'payre.db'}"
    script.write_text(SERVER)
    connection = open_ledger(url)
    key = fund(connection.ledger, 1_000_000).key.text
    connection.close()
    command = [sys.executable, "-B", str(script), url, json.dumps(options)]
    with anyio.fail_after(PATIENCE_S * 2):
        async with await anyio.open_process(command, env={"PYTHONPATH": str(ROOT), **(env or {})}) as process:
            log, out = "", b""
            assert process.stderr is not None
            async for chunk in process.stderr:
                log += chunk.decode()
                if "(Press CTRL+C" in log:
                    break
            else:
                raise AssertionError(log)
            yield Served(int(log.split("running on ")[1].split(" ")[0].rpartition(":")[2]), key)
            process.terminate()
            assert process.stdout is not None
            async for chunk in process.stdout:
                out += chunk
    assert out == b"", "nothing but JSON-RPC ever goes to stdout"


@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "pay.example", ""])
def test_a_public_host_needs_to_say_by_which_names_it_is_called(host: str, transport: Any) -> None:
    """Without them the SDK's protection against DNS rebinding is off."""
    with pytest.raises(ValueError, match=r"needs allowed_hosts.*\['pay\.example'\].*PAYRE_ALLOWED_HOSTS"):
        serve(PaidMCPServer("shop"), transport, host=host)


@pytest.mark.parametrize("option", ["json_response", "stateless_http"])
def test_options_that_a_transport_has_not_are_refused(option: Any) -> None:
    options: dict[str, Any] = {option: True}
    with pytest.raises(ValueError, match="SSE has neither"):
        serve(PaidMCPServer("shop"), "sse", **options)


def test_a_misspelt_setting_stops_a_server_on_http_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYRE_ALLOWED_HOST", "pay.example")
    with pytest.raises(SettingsInvalid, match="did you mean PAYRE_ALLOWED_HOSTS"):
        serve(PaidMCPServer("shop"), "streamable-http", host="0.0.0.0")


async def test_on_loopback_a_server_answers_to_loopback_alone(tmp_path: Path) -> None:
    async with served(tmp_path, json_response=True, stateless_http=True) as it:
        own = f"127.0.0.1:{it.port}"
        assert await it.status(own) == await it.status(f"localhost:{it.port}") == await it.status("localhost") == 200
        assert await it.status(own, "http://localhost:3000") == 200
        assert await it.status("pay.example") == await it.status("") == 421
        assert await it.status(own, "https://app.example") == 403


async def test_behind_a_proxy_on_loopback_a_server_answers_to_its_public_name_too(tmp_path: Path) -> None:
    async with served(
        tmp_path, {"PAYRE_ALLOWED_HOSTS": "pay.example, other.example:8443"}, json_response=True, stateless_http=True
    ) as it:
        assert await it.status("pay.example") == await it.status("pay.example:8443") == 200
        assert await it.status("other.example:8443") == await it.status("localhost") == 200
        assert await it.status("other.example") == await it.status("pay.example.evil.example") == 421


async def test_on_a_public_host_names_and_origins_are_what_was_said(tmp_path: Path) -> None:
    async with served(
        tmp_path,
        {"PAYRE_ALLOWED_HOSTS": "of.settings"},
        host="0.0.0.0",
        allowed_hosts=["pay.example"],
        allowed_origins=["https://app.example"],
        json_response=True,
        stateless_http=True,
    ) as it:
        assert await it.status("pay.example") == 200
        assert await it.status("pay.example", "https://app.example") == 200
        assert await it.status("of.settings") == await it.status(f"127.0.0.1:{it.port}") == await it.status("localhost") == 421
        assert await it.status("pay.example", "https://evil.example") == 403
        assert await it.status("pay.example", "http://app.example") == await it.status("pay.example", "null") == 403


async def test_sse_is_guarded_by_name_and_charges_as_the_others_do(tmp_path: Path) -> None:
    async with served(tmp_path, transport="sse", path="/events") as it:
        assert await it.status("pay.example", path="/events", method="GET") == 421
        async with Client(sse_client(f"{it.origin}/events", headers={"X-Payre-Key": it.key})) as client:
            paid = await client.call_tool("forecast", {"city": "Oslo"})
    assert "dev.payre/receipt" in (paid.meta or {})


async def test_path_and_limits_are_what_was_asked_for(tmp_path: Path) -> None:
    async with served(tmp_path, path="/paid", limits={"body_bytes": 5 << 20}) as it:
        headers = {"X-Payre-Key": it.key}
        async with httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S) as http:
            async with Client(streamable_http_client(f"{it.origin}/paid", http_client=http)) as client:
                # More than the SDK lets through by itself.
                paid = await client.call_tool("forecast", {"city": "O" * ((4 << 20) + 1)})
            refused = await http.post(f"{it.origin}/paid", content=b"x" * ((5 << 20) + 1))
    assert "dev.payre/receipt" in (paid.meta or {})
    assert (refused.status_code, refused.json()["error"]) == (413, "body_too_large")


async def test_a_port_that_is_taken_ends_the_process_with_an_error(tmp_path: Path) -> None:
    with closing(listen()) as taken:
        (tmp_path / "server.py").write_text(SERVER)
        process = await anyio.run_process(
            [sys.executable, "-B", str(tmp_path / "server.py"), f"sqlite:///{tmp_path / 'payre.db'}",
             json.dumps({"port": taken.getsockname()[1]})],
            env={"PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
    assert process.returncode
    assert b"address already in use" in process.stderr
