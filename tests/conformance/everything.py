"""A server that offers all that the official MCP conformance suite calls, free of charge or with a price on every single thing.

    python tests/conformance/everything.py [--port N] [--paid]

Prints its address when it is ready and serves until it is told to stop (SIGTERM, Ctrl-C). With `--paid` the same server
charges a funded test consumer on a ledger of its own, and at the end prints the audit of that ledger as one line of JSON; it
exits with 1 when an invariant of the money is broken.
"""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import warnings
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import anyio
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types import JSONRPCMessage
from starlette.types import ASGIApp, Receive, Scope, Send

sys.path.insert(0, str(Path(__file__).parents[2]))

from payre_mcp.connection import Connection, open_ledger
from payre_mcp.dev.seed import seed_ledger
from payre_mcp.dev.web import listen, origin, serving
from payre_mcp.ledger.audit import AuditReport
from payre_mcp.money import Money
from payre_mcp.server.extension import Payre
from payre_mcp.server.paid_server import PaidMCPServer
from tests.conformance.offer import build_server

PRICE = "0.001"
BALANCE = Money.parse(1_000)


async def build_paid_server(connection: Connection) -> MCPServer[Any]:
    """The same server, where every tool, resource, template and prompt has a price."""
    payre = Payre(gateway=connection.gateway)
    server = build_server(partial(PaidMCPServer, payre=payre))
    names = [
        *(tool.name for tool in await server.list_tools()),
        *(f"resource:{resource.uri}" for resource in await server.list_resources()),
        *(f"resource:{template.uri_template}" for template in await server.list_resource_templates()),
        *(f"prompt:{prompt.name}" for prompt in await server.list_prompts()),
    ]
    payre.pricing(dict.fromkeys(names, PRICE))
    return server


class FrontProxy:
    """Adds a consumer's key to every request: the suites send none, and the server behind this reads it as from any client."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._header = app, (b"x-payre-key", key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], self._header]}
        await self._app(scope, receive, send)


class Events(EventStore):
    """What was sent on every stream, so that a client whose stream was closed can ask for the rest."""

    def __init__(self) -> None:
        self._ids = count(1)
        self._sent: dict[str, tuple[str, JSONRPCMessage | None]] = {}

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        event_id = str(next(self._ids))
        self._sent[event_id] = (stream_id, message)
        return event_id

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        if last_event_id not in self._sent:
            return None
        stream_id, _ = self._sent[last_event_id]
        for event_id, (stream, message) in tuple(self._sent.items()):
            if stream == stream_id and int(event_id) > int(last_event_id) and message is not None:
                await send_callback(EventMessage(message, event_id))
        return stream_id


@asynccontextmanager
async def free_side() -> AsyncGenerator[ASGIApp]:
    """The server without prices."""
    yield _http(build_server())


@asynccontextmanager
async def paid_side(audits: list[AuditReport]) -> AsyncGenerator[ASGIApp]:
    """The server with prices, behind a proxy that pays; the audit of its ledger goes into `audits` when the block ends."""
    with tempfile.TemporaryDirectory(prefix="payre-conformance-") as folder:
        connection = open_ledger(f"sqlite:///{Path(folder) / 'payre.db'}")
        with contextlib.closing(connection):
            seed = await seed_ledger(Path(folder), connection, BALANCE)
            yield FrontProxy(_http(await build_paid_server(connection)), seed.consumer_key)
            audits.append(connection.audit())


def _http(server: MCPServer[Any]) -> ASGIApp:
    # The suites see how a server behaves that keeps its events and says when to come back.
    return server.streamable_http_app(event_store=Events(), retry_interval=100)


async def serve(*, port: int, paid: bool) -> int:
    """Serve one side until a signal says stop; the exit code."""
    audits: list[AuditReport] = []
    with contextlib.closing(listen(port)) as listener:
        async with paid_side(audits) if paid else free_side() as app:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async with serving(app, listener):
                    _say(f"{origin(listener)}/mcp")
                    async for _ in signals:
                        break
    for audit in audits:
        _say(json.dumps(asdict(audit)))
    return 0 if all(audit.ok for audit in audits) else 1


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="where to listen on loopback; 0 takes any free port")
    parser.add_argument("--paid", action="store_true", help="put a price on everything")
    options = parser.parse_args()
    warnings.simplefilter("ignore", MCPDeprecationWarning)  # the suites call what older revisions of the protocol have
    return anyio.run(partial(serve, port=options.port, paid=options.paid))


if __name__ == "__main__":
    sys.exit(main())
