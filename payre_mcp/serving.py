"""Serving a metered server: stdio with its key, or streamable HTTP that is safe to put on a network."""

from collections.abc import Sequence
from typing import Any, Literal

import anyio
import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

from payre_mcp.identity import serving_stdio
from payre_mcp.settings import load_settings

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    server: MCPServer[Any],
    transport: Literal["stdio", "streamable-http"] = "stdio",
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
) -> None:
    """Run a server until it is stopped; blocks.

    On stdio, `PAYRE_KEY` pays for calls that carry no key. On HTTP, anything but loopback needs `allowed_hosts`: without
    them the SDK's protection against DNS rebinding is off.

    Raises:
        ValueError: A public `host` without `allowed_hosts`.
    """
    if transport == "stdio":
        key = load_settings().key
        with serving_stdio(None if key is None else key.get_secret_value()):
            anyio.run(server.run_stdio_async)
        return
    security = None
    if host not in LOOPBACK:
        if not allowed_hosts:
            raise ValueError(f"serving on {host!r} needs allowed_hosts, such as ['pay.example', 'pay.example:*']")
        security = TransportSecuritySettings(
            enable_dns_rebinding_protection=True, allowed_hosts=list(allowed_hosts), allowed_origins=list(allowed_origins)
        )
    app = server.streamable_http_app(host=host, transport_security=security)
    # h11 passes the conformance check on white space around header values that httptools fails.
    uvicorn.run(app, host=host, port=port, http="h11", log_level="info")
