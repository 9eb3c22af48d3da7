"""The same as a class: prices on methods, state on the instance."""

from payre_mcp import PaidMCPServer, tool


class Weather(PaidMCPServer):
    """Counts what it sells."""

    def __init__(self, name: str = "weather") -> None:
        super().__init__(name)
        self.forecasts = 0

    @tool(price="0.005")
    async def forecast(self, city: str) -> str:
        """Tomorrow's weather in a city."""
        self.forecasts += 1
        return f"{city}: sunny"

    @tool()
    async def sold(self) -> int:
        """How many forecasts were asked for."""
        return self.forecasts


server = Weather()

if __name__ == "__main__":
    server.run()
