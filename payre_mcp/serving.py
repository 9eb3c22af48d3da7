"""Serving a metered server: stdio with its key, or HTTP that is safe to put on a network."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

import anyio
import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from payre_mcp.guard import LIMITS, BodyGuard, Limits, guarded_h11
from payre_mcp.identity import serving_stdio
from payre_mcp.logs import configure_logs
from payre_mcp.settings import LogLevel, Settings, load_settings

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
SHUTDOWN_S = 30

Transport = Literal["stdio", "streamable-http", "sse"]


class HttpServer(Protocol):
    """What is needed of a FastMCP server; its package is not."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def http_app(self) -> Callable[..., Any]:
        """Makes the server a Starlette application, at a path and with FastMCP's options."""
        ...

    async def run_stdio_async(self) -> None:
        """Serve on stdio."""
        ...


def serve(
    server: MCPServer[Any] | HttpServer,
    transport: Transport = "stdio",
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    path: str | None = None,
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
    json_response: bool = False,
    stateless_http: bool = False,
    limits: Limits = LIMITS,
    log_level: LogLevel | None = None,
) -> None:
    """Run an `MCPServer` or a `FastMCP` until it is stopped; blocks. Logs go to stderr, without secrets.

    On stdio, `PAYRE_KEY` pays for calls that carry no key. On HTTP slow and oversized requests are refused by `limits`,
    and the server answers only to the names it is called by: those of `allowed_hosts` (by default `PAYRE_ALLOWED_HOSTS`),
    and on loopback also its own. A name without a port stands for every port. Web pages may call from `allowed_origins`
    alone, so by default from none. `path` is `/mcp` for streamable HTTP and `/sse` for SSE.

    Raises:
        ValueError: A host other than loopback without `allowed_hosts`: without them any web page that a user opens could
            reach the server through DNS rebinding.
        SettingsInvalid: A `PAYRE_` variable is unknown or cannot be used.
    """
    settings = load_settings()
    if transport == "stdio":
        _configure_logs(log_level, settings)
        with serving_stdio(None if settings.key is None else settings.key.get_secret_value()):
            anyio.run(server.run_stdio_async)
        return
    security = _security(host, allowed_hosts or settings.allowed_hosts, allowed_origins)
    app = application(
        server,
        transport,
        path,
        security=security,
        limits=limits,
        json_response=json_response,
        stateless_http=stateless_http,
    )
    _configure_logs(log_level, settings)
    # Where it listens is worth a line even when the server's own log level is higher.
    level = (log_level or settings.log_level or "INFO").lower()
    running = uvicorn.Server(
        http_config(app, limits=limits, host=host, port=port, log_level=level, timeout_graceful_shutdown=SHUTDOWN_S)
    )
    with contextlib.suppress(KeyboardInterrupt):
        running.run()
    if not running.started:
        raise SystemExit(STARTUP_FAILURE)


def http_config(
    app: ASGIApp, *, limits: Limits = LIMITS, around: Callable[[ASGIApp], ASGIApp] | None = None, **options: Any
) -> uvicorn.Config:
    """How every application of ours runs on uvicorn: guarded, and logging as the process logs. `options` are uvicorn's.

    `around` wraps what is guarded, for what every answer has, a guard's too.
    """
    guarded = BodyGuard(app, limits)
    return uvicorn.Config(
        around(guarded) if around else guarded,
        # h11 passes the conformance check on white space around header values that httptools fails.
        http=guarded_h11(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        **options,
    )


def application(
    server: MCPServer[Any] | HttpServer,
    transport: Literal["streamable-http", "sse"] = "streamable-http",
    path: str | None = None,
    *,
    security: TransportSecuritySettings | None = None,
    limits: Limits = LIMITS,
    json_response: bool = False,
    stateless_http: bool = False,
) -> Starlette:
    """The server as an application, by default for loopback."""
    security = security or _security(LOOPBACK[0], (), ())
    if transport == "sse" and (json_response or stateless_http):
        raise ValueError("json_response and stateless_http are of streamable HTTP; SSE has neither")
    if not isinstance(server, MCPServer):
        return server.http_app(
            path or ("/sse" if transport == "sse" else "/mcp"),
            transport=transport,
            json_response=json_response,
            stateless_http=stateless_http,
            allowed_hosts=security.allowed_hosts,
            allowed_origins=security.allowed_origins,
            host_origin_protection=True,
        )
    if transport == "sse":
        return server.sse_app(sse_path=path or "/sse", max_request_body_size=limits.body_bytes, transport_security=security)
    return server.streamable_http_app(
        streamable_http_path=path or "/mcp",
        json_response=json_response,
        stateless_http=stateless_http,
        max_request_body_size=limits.body_bytes,
        transport_security=security,
    )


def _security(host: str, names: Iterable[str], origins: Iterable[str]) -> TransportSecuritySettings:
    hosts, origins = [*_with_ports(names)], [*_with_ports(origins)]
    if host in LOOPBACK:
        hosts += _with_ports(LOOPBACK_HOSTS)
        origins += _with_ports(f"http://{name}" for name in LOOPBACK_HOSTS)
    if not hosts:
        raise ValueError(
            f"serving on {host!r} needs allowed_hosts: the names that clients call this server by, such as ['pay.example'], "
            "as an argument or in PAYRE_ALLOWED_HOSTS; and allowed_origins, such as ['https://app.example'], "
            "if web pages are to call it"
        )
    return TransportSecuritySettings(enable_dns_rebinding_protection=True, allowed_hosts=hosts, allowed_origins=origins)


def _with_ports(names: Iterable[str]) -> Iterable[str]:
    """Each name, and with every port where it has none."""
    for name in names:
        yield name
        if ":" not in name.partition("://")[2 if "://" in name else 0].rpartition("]")[2]:
            yield f"{name}:*"


def _configure_logs(log_level: LogLevel | None, settings: Settings) -> None:
    configure_logs(log_level or settings.log_level, settings.log_format)
