"""An error about a key says what to do in the client at hand."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import Implementation

from payre_mcp import PaidMCPServer
from payre_mcp.keys import Mode, Role, new_key
from payre_mcp.testing import Sandbox, sandbox
from payre_mcp.throttle import REFUSALS
from tests.fakes import PATIENCE_S
from tests.server.conftest import Shop, code_of, facts_of, text_of


@pytest.fixture
def anyio_backend() -> str:
    """As uvicorn is."""
    return "asyncio"


@pytest.fixture
async def box() -> AsyncGenerator[Sandbox]:
    server = PaidMCPServer("shop", log_level="CRITICAL")

    @server.tool(price="0.005")
    async def forecast(city: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return city

    async with sandbox(server) as box:
        yield box


@asynccontextmanager
async def named(box: Sandbox, name: str, mode: Any, headers: dict[str, str]) -> AsyncGenerator[Client]:
    """A client that gives itself this name."""
    async with (
        httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S) as http,
        Client(
            streamable_http_client(box.server_url, http_client=http),
            mode=mode,
            client_info=Implementation(name=name, version="1"),
        ) as client,
    ):
        yield client


async def call(client: Client) -> Any:
    return await client.call_tool("forecast", {"city": "Oslo"})


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("claude-code", 'claude mcp add --transport http --header "X-Payre-Key: pyr_ck_..."'),
        ("Cursor", '"headers": {"X-Payre-Key": "${env:PAYRE_KEY}"}'),
        ("Visual Studio Code - Insiders", ".vscode/mcp.json"),
        ("codex-mcp-client", 'env_http_headers = { "X-Payre-Key" = "PAYRE_KEY" }'),
        ("windsurf-client", "mcp_config.json"),
        ("claude-ai", "on stdio, with PAYRE_KEY in its env"),
        ("something else", "Send your Payre key in the X-Payre-Key header."),
    ],
)
async def test_without_a_key_each_client_is_told_where_one_goes(box: Sandbox, mode: Any, name: str, form: str) -> None:
    async with named(box, name, mode, {}) as client:
        result = await call(client)
    assert code_of(result) == "payment_required"
    assert form in text_of(result)
    assert facts_of(result)["hint"] in text_of(result)


async def test_a_placeholder_is_told_too(box: Sandbox, mode: Any) -> None:
    async with named(box, "claude-code", mode, {"X-Payre-Key": "${PAYRE_KEY}"}) as client:
        result = await call(client)
    assert code_of(result) == "invalid_api_key"
    assert "variable is not set" in text_of(result)
    assert "claude mcp add" in text_of(result)


async def test_a_client_that_gives_no_name_is_told_the_header(shop: Shop, mode: Any) -> None:
    async with Client(shop.server(_forecast), mode=mode) as client:
        result = await shop.call(client, "_forecast", key=None)
    assert "PAYRE_KEY" in text_of(result)


async def _forecast(city: str) -> str:
    return city


async def test_who_goes_on_guessing_keys_is_told_to_wait_and_who_pays_goes_on(box: Sandbox) -> None:
    """All come from one address, as behind a proxy."""
    wrong = [new_key(Role.CONSUMER, Mode.TEST).text for _ in range(REFUSALS + 1)]
    async with named(box, "payer", "auto", {"X-Payre-Key": box.consumer_key}) as payer:
        assert not (await call(payer)).is_error
        refusals: list[Any] = []
        for key in wrong:
            async with named(box, "guesser", "auto", {"X-Payre-Key": key}) as guesser:
                refusals.append(await call(guesser))
        assert [code_of(each) for each in refusals] == ["invalid_api_key"] * REFUSALS + ["rate_limited"]
        assert 0 < facts_of(refusals[-1])["retry_after_s"] <= 60
        assert not (await call(payer)).is_error
