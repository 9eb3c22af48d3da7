"""A price by the value of an argument: what nobody named costs what `default` says."""

from typing import Literal

from payre_mcp import PaidMCPServer, Price

server = PaidMCPServer("painter")


@server.tool(price=Price.variants("quality", {"draft": "0.01", "default": "0.05", "poster": "0.25"}))
def paint(subject: str, quality: Literal["draft", "fine", "poster"] = "fine") -> str:
    """Paint a subject."""
    return f"{subject}, {quality}"


if __name__ == "__main__":
    server.run()
