"""Volume prices: each consumer's first two calls of a day are free, and calls get cheaper within the month."""

from payre_mcp import PaidMCPServer, Price

server = PaidMCPServer("geocoder")

CHEAPER_BY_VOLUME = Price.tiered(
    "requests",
    [(4, "0.01"), (10_000, "0.005"), (None, "0.002")],
    free_quota={"amount": 2, "window": "day"},
)


@server.tool(price=CHEAPER_BY_VOLUME)
def locate(place: str) -> str:
    """Say where a place is."""
    return f"{place}: 59.9 N, 10.7 E"


if __name__ == "__main__":
    server.run()
