"""A server with a priced tool and a free one."""

from payre_mcp import PaidMCPServer

server = PaidMCPServer("library")

BOOKS = ("The Left Hand of Darkness", "Darkness at Noon", "Noon Wine")


@server.tool(price="0.005")
def search(words: str) -> list[str]:
    """Search the catalogue."""
    return [book for book in BOOKS if words.lower() in book.lower()]


@server.tool()
def opening_hours() -> str:
    """When the library is open."""
    return "9 to 5"


if __name__ == "__main__":
    server.run()
