"""A key is used and never shown: not in our logs, answers, errors or database."""

import json
import logging
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver.exceptions import ToolError

from payre_mcp.connection import open_ledger
from payre_mcp.keys import Mode, Role, new_key
from payre_mcp.storage.library import connect
from tests.fakes import PATIENCE_S, ROOT, file_of, fund
from tests.server.conftest import Shop, code_of, facts_of

STRANGERS = new_key(Role.CONSUMER, Mode.TEST).text
SECRETS = (new_key(Role.DEVELOPER, Mode.TEST).text, new_key(Role.CONSUMER, Mode.LIVE).text, STRANGERS, STRANGERS[:-1] + "?")


async def sell(city: str) -> str:
    return city


async def fail(city: str) -> str:
    raise ToolError(f"no {city}")


def everything_in(path: Path) -> list[str]:
    database = connect(path, read_only=True)
    tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
    rows = [repr(row) for name in tables for row in database.execute(f"select * from {name}")]
    database.close()
    return rows


async def test_no_key_is_logged_answered_or_stored(
    shop: Shop, mode: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    own = shop.consumer.key.text
    with caplog.at_level(logging.DEBUG):
        async with Client(shop.server(sell, fail), mode=mode) as client:
            results = [await shop.call(client, tool, key=key) for key in (own, *SECRETS) for tool in ("sell", "fail")]
    told = [result.model_dump_json() for result in results]
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("payre_mcp")]
    stored = everything_in(file_of(shop.connection.ledger))
    printed = capfd.readouterr()
    assert any(own[-4:] in row for row in stored)
    for text in (*told, *logged, *stored, printed.out, printed.err, repr(shop.consumer.key)):
        for secret in (own, *SECRETS):
            assert secret not in text
    assert len([result for result in results if not result.is_error]) == 1


# Whole processes, with every logger at DEBUG.


SERVER = """
import logging, sys
from payre_mcp import PaidMCPServer, serve

server = PaidMCPServer("shop", payre=sys.argv[1], log_level="DEBUG")

@server.tool(price="0.005")
def forecast(city: str) -> str:
    return f"{city}: sunny"

@server.tool(price="0.005")
def careless(city: str) -> str:
    logging.getLogger("httpx2").debug("headers %r", {"X-Payre-Key": city, "authorization": f"Bearer {city}"})
    raise ValueError(f"no such city {city}")

serve(server, sys.argv[2], port=0)
"""


class Process:
    """A server in a process of its own that logs all there is to log, and what it wrote."""

    def __init__(self, folder: Path, transport: str, form: str = "text") -> None:
        self.written, self.script = folder / "written", folder / "server.py"
        self.script.write_text(SERVER)
        url = f"sqlite:///{folder / 'payre.db'}"
        connection = open_ledger(url)
        self.key = fund(connection.ledger, 1_000_000).key.text
        connection.close()
        self.transport, self.command = transport, ["-B", str(self.script), url, transport]
        self.env = {"PYTHONPATH": str(ROOT), "PAYRE_LOG_LEVEL": "DEBUG", "PAYRE_LOG_FORMAT": form}

    @asynccontextmanager
    async def client(self, mode: Any) -> AsyncGenerator[Client]:
        """A client that pays with the key in its header, or in its variable on stdio."""
        async with AsyncExitStack() as stack:
            stack.enter_context(anyio.fail_after(PATIENCE_S * 2))
            log = stack.enter_context(self.written.open("w"))
            if self.transport == "stdio":
                env = {**self.env, "PAYRE_KEY": self.key}
                parameters = StdioServerParameters(command=sys.executable, args=self.command, env=env, cwd=ROOT)
                yield await stack.enter_async_context(Client(stdio_client(parameters, errlog=log), mode=mode))
                return
            process = await stack.enter_async_context(
                await anyio.open_process([sys.executable, *self.command], env=self.env, stderr=subprocess.STDOUT)
            )
            origin = ""
            assert process.stdout is not None
            async for chunk in process.stdout:
                log.write(chunk.decode())
                origin += chunk.decode()
                if "(Press CTRL+C" in origin:
                    break
            origin = origin.split("running on ")[1].split(" ")[0]
            headers = {"X-Payre-Key": self.key}
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S))
            over_http = streamable_http_client(f"{origin}/mcp", http_client=http)
            over_sse = sse_client(f"{origin}/sse", headers=headers)
            async with Client(over_sse if self.transport == "sse" else over_http, mode=mode) as client:
                yield client
            process.terminate()
            async for chunk in process.stdout:
                log.write(chunk.decode())


async def try_every_key(process: Process, client: Client) -> None:
    """Every way to send a key, right and wrong, and a few ways to go wrong besides."""
    told: list[str] = []
    for key in (process.key, *cut(process.key), "${PAYRE_KEY}", None):
        for tool in ("forecast", "careless"):
            for more in ({}, {"dev.payre/max-price": "0.001"}, {"dev.payre/max-price": "a lot"}):
                meta: Any = {**more, **({} if key is None else {"dev.payre/key": key})}
                result = await client.call_tool(tool, {"city": process.key}, meta=meta)
                told.append(code_of(result) or ("paid" if not result.is_error else "failed"))
    assert {"paid", "failed", "invalid_api_key", "price_above_limit"} <= set(told)


def cut(key: str) -> tuple[str, ...]:
    """A key with a typing mistake, and one that lost its end."""
    return f"{key[:-1]}?", key[:30]


def leaks(process: Process, text: str) -> bool:
    """Whether something of the key's secret part stands there, line breaks aside."""
    return process.key[12:30] in text.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("transport", "era"),
    [("stdio", "auto"), ("stdio", "legacy"), ("streamable-http", "auto"), ("streamable-http", "legacy"), ("sse", "legacy")],
)
async def test_a_server_that_logs_everything_logs_no_key(tmp_path: Path, transport: str, era: Any) -> None:
    process = Process(tmp_path, transport, form="text" if era == "auto" else "json")
    async with process.client(era) as client:
        await try_every_key(process, client)
    written = process.written.read_text()
    assert not leaks(process, written)
    assert f"pyr_ck_test_...{process.key[-4:]}" in written
    assert "DEBUG" in written
    if era == "legacy":
        assert all(json.loads(line)["level"] for line in written.splitlines() if line.startswith("{"))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_wallet_that_logs_everything_logs_no_key_and_no_link(tmp_path: Path) -> None:
    process = Process(tmp_path, "stdio")
    process.command = ["-B", "-m", "payre_mcp", "wallet", "--data", str(tmp_path)]
    async with process.client("legacy") as wallet:
        link = await wallet.call_tool("create_top_up_link", {"amount_usd": "5"})
        url = str(facts_of(link)["url"])
        async with httpx2.AsyncClient(timeout=PATIENCE_S) as http:
            page = await http.get(url)
        forged = await wallet.call_tool("verify_receipt", {"receipt": f"a.{process.key}.c"})
    written = process.written.read_text()
    assert (page.status_code, facts_of(forged)["valid"]) == (200, False)
    assert "GET /top-ups/... HTTP/1.1" in written
    assert url.rpartition("/")[2] not in written
    assert not leaks(process, written)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_server_that_is_run_by_the_sdk_alone_logs_no_key_either(tmp_path: Path) -> None:
    process = Process(tmp_path, "sse")
    by_itself = SERVER.replace("serve(server, sys.argv[2], port=0)", "server.run(sys.argv[2], port=0)")
    process.script.write_text(f"import logging\nlogging.basicConfig(level='DEBUG')\n{by_itself}")
    async with process.client("legacy") as client:
        await try_every_key(process, client)
    written = process.written.read_text()
    assert "mcp.server.sse" in written
    assert not leaks(process, written)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_without_redaction_the_sdk_logs_keys(tmp_path: Path) -> None:
    """The control: over SSE at DEBUG it writes out whole requests, so the tests above would see a key."""
    process = Process(tmp_path, "sse")
    process.script.write_text(f"import logging\nlogging.basicConfig(level='DEBUG')\n{UNREDACTED}\n{SERVER}")
    async with process.client("legacy") as client:
        await try_every_key(process, client)
    assert leaks(process, process.written.read_text())


UNREDACTED = """
import payre_mcp.logs
payre_mcp.logs.RedactingFilter.filter = lambda self, record: True
"""
