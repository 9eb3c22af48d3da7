"""The wallet: an MCP server with which an agent reads its balance, asks for a top-up link, and checks receipts."""
