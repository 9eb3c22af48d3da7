"""Every example runs, and does what its first line says."""

from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer

from examples import (
    by_token,
    by_usage,
    charge_by_hand,
    existing_server,
    fastmcp_server,
    fixed_price,
    hub_seller,
    paying_client,
    price_file,
    subclass,
    testing_a_server,
    tiered_price,
    variant_price,
    wallet_in_a_client,
)
from payre_mcp.connection import open_ledger
from payre_mcp.money import Money
from payre_mcp.testing import sandbox
from tests.fakes import fund
from tests.hubs import running_hub

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # uvicorn knows no other


@pytest.mark.parametrize(
    ("server", "tool", "arguments", "cost"),
    [
        (fixed_price.server, "search", {"words": "noon"}, "0.005"),
        (fixed_price.server, "opening_hours", {}, "0"),
        (subclass.server, "forecast", {"city": "Oslo"}, "0.005"),
        (subclass.server, "sold", {}, "0"),
        (existing_server.server, "define", {"word": "money"}, "0.001"),
        (by_usage.server, "translate", {"text": "x" * 2_500}, "0.025"),
        (by_usage.server, "fetch", {"lines": 10}, "0.00128"),
        (by_token.server, "summarize", {"text": "one two three four five six seven"}, "0.000008"),
        (variant_price.server, "paint", {"subject": "sea", "quality": "draft"}, "0.01"),
        (variant_price.server, "paint", {"subject": "sea"}, "0.05"),
        (variant_price.server, "paint", {"subject": "sea", "quality": "poster"}, "0.25"),
        (price_file.server, "lookup", {"word": "money"}, "0.004"),
        (price_file.server, "opening_hours", {}, "0"),
        (price_file.server, "answer", {"question": "Is it exact?"}, "0.00352"),
        (charge_by_hand.server, "render", {"frames": 12}, "0.012"),
        (price_file.server, "convert", {"pages": 3}, "0.03"),
    ],
)
async def test_a_call_of_an_example_server_costs_what_it_says(
    server: MCPServer, tool: str, arguments: dict[str, Any], cost: str
) -> None:
    async with sandbox(server) as box, box.client() as client:
        result = await client.call_tool(tool, arguments)
        assert not result.is_error
        assert (await box.balance()).balance == Money.parse(5) - Money.parse(cost)


async def test_the_simulation_costs_what_its_receipt_says_it_took() -> None:
    async with sandbox(by_usage.server) as box, box.client() as client:
        result = await client.call_tool("simulate", {"days": 3})
        receipt = box.ledger.ledger.ring.verify((result.meta or {})["dev.payre/receipt"])
        assert receipt.amount_micros == receipt.quantities["milliseconds"] > 0


async def test_volume_prices_fall_from_call_to_call() -> None:
    async with sandbox(tiered_price.server) as box, box.client() as client:
        charged: list[str] = []
        for _ in range(6):
            await client.call_tool("locate", {"place": "Oslo"})
            (last,) = (await box.ledger.wallet.list_charges(box.consumer_key, limit=1)).charges
            charged.append(last.amount.usd)
        assert charged == ["0.00", "0.00", "0.01", "0.01", "0.005", "0.005"]


async def test_the_price_file_charges_for_resources_and_prompts_too() -> None:
    async with sandbox(price_file.server) as box, box.client() as client:
        await client.read_resource("report://2025")
        await client.get_prompt("brief", {"topic": "peace"})
        assert (await box.balance()).balance == Money.parse(5) - Money.parse("0.021")
        assert box.audit().ok


async def test_the_paying_client_gets_a_receipt() -> None:
    async with sandbox() as box:
        receipt = await paying_client.main(box.server_url, box.consumer_key)
        assert (await box.ledger.wallet.verify_receipt(box.consumer_key, receipt)).name == "forecast"


async def test_the_wallet_in_a_client_tells_the_balance(tmp_path: Path) -> None:
    async with sandbox(data=tmp_path, balance="7.5") as box:
        assert await wallet_in_a_client.main(str(tmp_path), box.consumer_key) == "$7.50"


async def test_the_seller_at_a_hub_is_told_where_it_is_by_two_settings(
    ledger_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    connection = open_ledger(f"sqlite:///{ledger_path}")
    consumer = fund(connection.ledger, 1_000_000)
    with running_hub(connection) as hub:
        monkeypatch.setenv("PAYRE_URL", hub.url)
        monkeypatch.setenv("PAYRE_SECRET_KEY", hub.secret_key)
        async with Client(hub_seller.server) as client:
            result = await client.call_tool("locate", {"place": "Oslo"}, meta={"dev.payre/key": consumer.key.text})
            assert not (await client.call_tool("legend", {})).is_error
        receipt = connection.ledger.ring.verify((result.meta or {})["dev.payre/receipt"])
    assert (receipt.server, receipt.name, receipt.amount_micros) == ("atlas", "locate", 5_000)
    assert consumer.account().balance_micros == 995_000
    connection.close()
    told = capfd.readouterr().err
    assert f"charges go to the hub at {hub.url} as pyr_sk_test_...{hub.secret_key[-4:]}" in told
    assert "test ledger" not in told
    assert hub.secret_key not in told


async def test_the_example_of_a_test_passes() -> None:
    await testing_a_server.test_a_forecast_costs_half_a_cent()


def test_no_example_is_left_out() -> None:
    priced = {fixed_price, subclass, existing_server, by_usage, by_token, tiered_price, variant_price, price_file, charge_by_hand}
    used = priced | {paying_client, wallet_in_a_client, testing_a_server, fastmcp_server, hub_seller}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {module.__name__.removeprefix("examples.") for module in used}
