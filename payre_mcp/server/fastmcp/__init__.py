"""`Payre` on a FastMCP server: the seam at the wire, and doors inside, where FastMCP calls its own tools by name.

The only package that imports fastmcp, and it is loaded when a FastMCP server is installed, never before. Private names of
FastMCP are read in these files alone; nothing is patched.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastmcp import FastMCP
from fastmcp.server.extensions import MethodBinding, ServerExtension
from fastmcp.server.providers import Provider

from payre_mcp.errors import PriceSpecInvalid
from payre_mcp.server.extension import Payre
from payre_mcp.server.fastmcp.doors import Doors
from payre_mcp.server.fastmcp.host import FastMCPHost
from payre_mcp.server.rounds import seal_states


def install(payre: Payre, server: FastMCP[Any]) -> None:
    """Meter a FastMCP server. Raises `ValueError` when this `Payre` meters another one, or the server has one already."""
    metering, low_level = payre.metering, server._mcp_server  # pyright: ignore[reportPrivateUsage]
    host = FastMCPHost(server, metering.prices.specs)
    metering.attach(host, server.name)
    doors = Doors(payre, host)
    server.add_extension(_Face(payre, doors))
    doors.stand()
    seal_states(low_level.middleware, server.name)
    low_level.middleware += [doors.at_wire, payre]


def wire_middleware(server: FastMCP[Any]) -> Sequence[object]:
    """What a server's requests pass on the wire."""
    return server._mcp_server.middleware  # pyright: ignore[reportPrivateUsage]


class _Face(ServerExtension):
    """What a server says of its prices, `payre/quote`, and the ledger that is open while the server runs."""

    identifier = Payre.identifier

    def __init__(self, payre: Payre, doors: Doors) -> None:
        self._payre, self._doors = payre, doors

    def settings(self) -> dict[str, Any]:
        return self._payre.settings()

    def methods(self) -> Sequence[MethodBinding]:
        return [MethodBinding(each.method, each.params_type, each.handler) for each in self._payre.methods()]

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        try:
            await self._doors.check()
        except PriceSpecInvalid:
            if not _has_more_once_it_runs(self._doors.host):
                raise
        try:
            await self._payre.start()
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._payre.aclose()


def _has_more_once_it_runs(host: FastMCPHost) -> bool:
    """Whether a provider may offer more once it is started, which comes later: the first request then checks again."""
    return any(type(each).lifespan is not Provider.lifespan for each in host.server.providers)
