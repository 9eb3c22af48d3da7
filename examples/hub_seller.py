"""A server that sells through a hub: not a line of it differs, two settings say where the ledger is.

PAYRE_URL=https://hub.example
PAYRE_SECRET_KEY=pyr_sk_...
"""

from payre_mcp import PaidMCPServer

server = PaidMCPServer("atlas")


@server.tool(price="0.005")
def locate(place: str) -> str:
    """Find a place on the map."""
    return f"{place}: 59.9 N, 10.7 E"


@server.tool()
def legend() -> str:
    """What the signs on the map mean."""
    return "blue: water"


if __name__ == "__main__":
    server.run()
