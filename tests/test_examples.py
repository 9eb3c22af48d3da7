"""Every example runs, and does what its first line says."""

from pathlib import Path

import pytest
from mcp.server.mcpserver import MCPServer

from examples import existing_server, fixed_price, paying_client, subclass, testing_a_server, wallet_in_a_client
from payre_mcp.money import Money
from payre_mcp.testing import sandbox

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
    ],
)
async def test_a_call_of_an_example_server_costs_what_it_says(
    server: MCPServer, tool: str, arguments: dict[str, str], cost: str
) -> None:
    async with sandbox(server) as box, box.client() as client:
        result = await client.call_tool(tool, arguments)
        assert not result.is_error
        assert (await box.balance()).balance == Money.parse(5) - Money.parse(cost)


async def test_the_paying_client_gets_a_receipt() -> None:
    async with sandbox() as box:
        receipt = await paying_client.main(box.server_url, box.consumer_key)
        assert (await box.ledger.wallet.verify_receipt(box.consumer_key, receipt)).name == "forecast"


async def test_the_wallet_in_a_client_tells_the_balance(tmp_path: Path) -> None:
    async with sandbox(data=tmp_path, balance="7.5") as box:
        assert await wallet_in_a_client.main(str(tmp_path), box.consumer_key) == "$7.50"


async def test_the_example_of_a_test_passes() -> None:
    await testing_a_server.test_a_forecast_costs_half_a_cent()


def test_no_example_is_left_out() -> None:
    used = {fixed_price, subclass, existing_server, paying_client, wallet_in_a_client, testing_a_server}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {module.__name__.removeprefix("examples.") for module in used}
