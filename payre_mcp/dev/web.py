"""Running an ASGI application on loopback inside the event loop that is there."""

import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

import anyio
import uvicorn
from starlette.types import ASGIApp

from payre_mcp.guard import LIMITS, Limits
from payre_mcp.serving import http_config

HOST = "127.0.0.1"


def listen(port: int = 0, host: str = HOST) -> socket.socket:
    """A listening socket, by default on loopback; `port` 0 takes any that is free. Connections queue up before they are served.

    Raises:
        OSError: The port is taken.
    """
    # Only for a socket that says TCP does asyncio switch Nagle's algorithm off, which costs 40 ms an answer.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def origin(listener: socket.socket) -> str:
    """`http://127.0.0.1:port` of a listening socket."""
    return f"http://{HOST}:{listener.getsockname()[1]}"


@asynccontextmanager
async def serving(
    app: ASGIApp, listener: socket.socket, limits: Limits = LIMITS, *,
    around: Callable[[ASGIApp], ASGIApp] | None = None, shutdown_s: int = 5,
) -> AsyncGenerator[None]:  # fmt: skip
    """Serve `app` on `listener` until the block ends, then let running requests finish."""
    server = _QuietServer(http_config(app, limits=limits, around=around, timeout_graceful_shutdown=shutdown_s))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        try:
            yield
        finally:
            server.should_exit = True


class _QuietServer(uvicorn.Server):
    """Leaves the process's signals to whoever owns the process."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
