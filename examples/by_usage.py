"""Prices by what is measured from outside: characters that were sent, bytes that came back, time that it took."""

from payre_mcp import PaidMCPServer, Price

server = PaidMCPServer("translator")


@server.tool(price=Price.per("characters", 1_000, "0.01"))
def translate(text: str) -> str:
    """Translate a text into capitals."""
    return text.upper()


@server.tool(price=Price.per("bytes", 1_000, output="0.002", max_units=100_000))
def fetch(lines: int) -> str:
    """Fetch so many lines of sixty-four bytes."""
    return "".join(f"{number:063}\n" for number in range(lines))


@server.tool(price=Price.per("minutes", 1, "0.06", max_price_usd="0.10"))
async def simulate(days: int) -> str:
    """Simulate so many days of weather."""
    return "sunny, " * days


if __name__ == "__main__":
    server.run()
