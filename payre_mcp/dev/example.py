"""The paid server that `payre dev` and `payre demo` run when they are given none."""

from mcp.server.mcpserver.exceptions import ToolError

from payre_mcp.server.extension import Payre
from payre_mcp.server.paid_server import PaidMCPServer, tool


class WeatherServer(PaidMCPServer):
    """A weather service with four prices: small, large, one cent, and free. Its station is always out of order."""

    def __init__(self, payre: Payre | None = None) -> None:
        instructions = "Weather for any city; see the price in each description."
        super().__init__("weather", payre=payre, instructions=instructions, log_level="WARNING")

    @tool(price="0.005")
    async def forecast(self, city: str) -> str:
        """Tomorrow's weather in a city."""
        return f"{city}: sunny, 21 degrees"

    @tool(price="0.01")
    async def radar(self, city: str) -> str:
        """Rain over a city right now."""
        return f"{city}: no rain"

    @tool(price="4.985")
    async def archive(self, city: str) -> str:
        """A hundred years of a city's weather."""
        return f"{city}: 36,525 days"

    @tool(price="0.02")
    async def station(self, city: str) -> str:
        """The measuring station of a city. Out of order: it fails, and a failed call costs nothing."""
        raise ToolError(f"the station in {city} does not answer")

    @tool()
    async def cities(self) -> list[str]:
        """The cities we know. Free."""
        return ["Bergen", "Oslo", "Tromsø"]
