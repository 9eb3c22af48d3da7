"""A client that pays: the key goes into a header, the receipt comes back in `_meta`."""

import sys

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main(url: str, key: str) -> str:
    """Call a paid tool once and return its receipt."""
    async with (
        httpx2.AsyncClient(headers={"X-Payre-Key": key}) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        result = await client.call_tool("forecast", {"city": "Oslo"})
        print(result.content)
        return (result.meta or {})["dev.payre/receipt"]


if __name__ == "__main__":
    print(anyio.run(main, sys.argv[1], sys.argv[2]))
