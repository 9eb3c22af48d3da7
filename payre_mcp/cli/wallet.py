"""`payre wallet`: the wallet on stdio, and the page of its top-up links on loopback beside it."""

import contextlib
from pathlib import Path

import anyio
from starlette.applications import Starlette

from payre_mcp.cli.output import command_settings, note, open_chosen_ledger
from payre_mcp.connection import shown_address
from payre_mcp.dev.web import listen, origin, serving
from payre_mcp.errors import InvalidApiKey
from payre_mcp.hub.pages import TOP_UP_PATH
from payre_mcp.hub.top_up_page import top_up_routes
from payre_mcp.identity import serving_stdio
from payre_mcp.wallet.server import build_wallet


def run(*, data: Path | None) -> None:
    """Serve until the client closes the pipe. Nothing but JSON-RPC goes to stdout."""
    key = command_settings().key
    if key is None:
        raise InvalidApiKey("PAYRE_KEY is not set: put the consumer's key into the env of the client's config")
    anyio.run(_serve, data, key.get_secret_value())


async def _serve(data: Path | None, key: str) -> None:
    with contextlib.closing(listen()) as listener:
        connection = open_chosen_ledger(data, top_up_page=origin(listener) + TOP_UP_PATH)
        try:
            note(f"payre wallet: ledger {shown_address(connection.ledger.address)}, top-up page on {origin(listener)}")
            pages = Starlette(routes=[*top_up_routes(connection.top_ups)])
            async with serving(pages, listener):
                with serving_stdio(key):
                    await build_wallet(connection.wallet).run_stdio_async()
        finally:
            connection.close()
