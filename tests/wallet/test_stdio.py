"""`payre wallet`: the same tools from a process on stdio, and the page of its links on loopback beside it."""

import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from payre_mcp.connection import open_ledger
from payre_mcp.gateway.base import Authorization, CallOutcome, CallRequest
from payre_mcp.pricing import Target, load_price
from tests.fakes import PATIENCE_S, ROOT, fund
from tests.server.conftest import code_of, facts_of, text_of


class Purse(NamedTuple):
    """A ledger folder that no process has open, a consumer's key, and the receipt of their one charge."""

    data: Path
    key: str
    receipt: str


@pytest.fixture
def purse(tmp_path: Path) -> Purse:
    return anyio.run(fill, tmp_path)


async def fill(data: Path) -> Purse:
    """A consumer who had $1.00 and called once for $0.25."""
    connection = open_ledger(f"sqlite:///{data / 'payre.db'}")
    try:
        key = fund(connection.ledger, 1_000_000).key.text
        target, spec = Target("tool", "forecast"), load_price("0.25")
        await connection.gateway.publish("shop", {target: spec})
        request = CallRequest(api_key=key, server="shop", target=target, price_version=spec.version, args_sha256="0" * 64)
        authorized = await connection.gateway.authorize(request)
        assert isinstance(authorized, Authorization)
        settlement = await connection.gateway.capture(authorized, CallOutcome())
        return Purse(data, key, settlement.receipt)
    finally:
        connection.close()


@asynccontextmanager
async def wallet_process(purse: Purse, mode: str = "auto") -> AsyncGenerator[Client]:
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-B", "-m", "payre_mcp", "wallet", "--data", str(purse.data)],
        env={"PAYRE_KEY": purse.key},
        cwd=ROOT,
    )
    with (purse.data / "stderr").open("w") as log:
        async with Client(stdio_client(parameters, errlog=log), mode=mode) as client:  # pyright: ignore[reportArgumentType]
            yield client


async def test_the_tools_answer_on_stdio_for_the_key_of_the_environment(purse: Purse) -> None:
    async with wallet_process(purse) as wallet:
        balance = await wallet.call_tool("get_balance", {})
        (charge,) = facts_of(await wallet.call_tool("list_charges", {}))["charges"]
        one = facts_of(await wallet.call_tool("get_charge", {"charge_id": charge["charge_id"]}))
        verified = facts_of(await wallet.call_tool("verify_receipt", {"receipt": purse.receipt}))
        link = facts_of(await wallet.call_tool("create_top_up_link", {"amount_usd": "5"}))
        pending = facts_of(await wallet.call_tool("get_top_up", {"top_up_id": link["top_up_id"]}))
        async with httpx2.AsyncClient(timeout=PATIENCE_S) as browser:
            page = await browser.get(link["url"])
            answers = [await browser.post(link["url"]) for _ in range(2)]
        paid = facts_of(await wallet.call_tool("get_top_up", {"top_up_id": link["top_up_id"]}))
        after = facts_of(await wallet.call_tool("get_balance", {}))
    assert (facts_of(balance)["balance"], facts_of(balance)["balance_micros"]) == ("$0.75", 750_000)
    assert "$0.75 (750000 micros)" in text_of(balance)
    assert one == charge
    assert (one["receipt"], one["amount"], verified["valid"]) == (purse.receipt, "$0.25", True)
    assert link["consumer"] in page.text
    assert [answer.status_code for answer in answers] == [303, 303]
    assert (pending["status"], paid["status"], after["balance_micros"]) == ("pending", "completed", 5_750_000)


async def test_a_wallet_answers_the_handshake_of_older_clients(purse: Purse) -> None:
    async with wallet_process(purse, "legacy") as wallet:
        assert facts_of(await wallet.call_tool("get_balance", {}))["balance_micros"] == 750_000
    assert str(purse.data / "payre.db") in (purse.data / "stderr").read_text()


async def test_a_wallet_with_a_key_of_another_ledger_starts_and_says_so_on_every_call(purse: Purse) -> None:
    async with wallet_process(purse._replace(key=f"{purse.key[:-1]}{'0' if purse.key[-1] != '0' else '1'}")) as wallet:
        result = await wallet.call_tool("get_balance", {})
    assert code_of(result) == "invalid_api_key"


def test_a_wallet_without_a_key_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-B", "-m", "payre_mcp", "wallet", "--data", str(tmp_path / "none")]
    process = subprocess.run(
        command, cwd=ROOT, env={"HOME": str(tmp_path)}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout) == (3, "")
    assert "PAYRE_KEY is not set" in process.stderr
    assert not (tmp_path / "none").exists()
