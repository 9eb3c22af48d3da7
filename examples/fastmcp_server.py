"""A FastMCP server that exists already, metered with one line."""

from fastmcp import FastMCP

from payre_mcp import Payre

server = FastMCP("dictionary")


@server.tool
def define(word: str) -> str:
    """Define a word."""
    return f"{word}: see the dictionary"


Payre(prices={"define": "0.001"}).install(server)

if __name__ == "__main__":
    server.run()
