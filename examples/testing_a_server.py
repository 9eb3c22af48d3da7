"""How to test your own paid server: a real ledger and a funded consumer, gone after the test."""

from examples.subclass import Weather
from payre_mcp import Money
from payre_mcp.testing import sandbox


async def test_a_forecast_costs_half_a_cent() -> None:
    async with sandbox(Weather()) as box, box.client() as client:
        result = await client.call_tool("forecast", {"city": "Oslo"})
        assert not result.is_error
        assert (await box.balance()).balance == Money.parse("4.995")
        assert box.audit().ok
