"""The wallet in a client: started on stdio, the key in its environment, as Claude Desktop or Cursor would do it."""

import sys

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client


async def main(data: str, key: str) -> str:
    """Ask the wallet over the ledger in `data` for the balance."""
    wallet = StdioServerParameters(
        command=sys.executable,
        args=["-m", "payre_mcp", "wallet", "--data", data],
        env={"PAYRE_KEY": key},
    )
    async with Client(stdio_client(wallet)) as client:
        result = await client.call_tool("get_balance", {})
        assert result.structured_content is not None
        return result.structured_content["balance"]


if __name__ == "__main__":
    print(anyio.run(main, sys.argv[1], sys.argv[2]))
