"""The hub as one application: the API under `/v1`, the pages of top-up links, the wallet at `/wallet/mcp`, webhooks, health."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import anyio
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payre_mcp.billing.desk import Billing
from payre_mcp.clock import Clock, SystemClock
from payre_mcp.connection import Connection
from payre_mcp.hub.api.answers import RequestIds, answer, no_such_route
from payre_mcp.hub.api.call import Desk
from payre_mcp.hub.api.door import Door
from payre_mcp.hub.api.endpoints import ENDPOINTS
from payre_mcp.hub.api.openapi import openapi
from payre_mcp.hub.api.rates import Rates
from payre_mcp.hub.health import VERSION, Health
from payre_mcp.hub.hosts import KnownHosts
from payre_mcp.hub.jobs import Jobs
from payre_mcp.hub.metrics import Meters
from payre_mcp.hub.top_up_page import top_up_routes
from payre_mcp.hub.webhooks import webhook_routes
from payre_mcp.serving import LOOPBACK_HOSTS

WALLET_PATH = "/wallet/mcp"


def hub_application(
    connection: Connection, wallet: MCPServer[Any], *, allowed_hosts: Sequence[str] = LOOPBACK_HOSTS,
    clock: Clock | None = None, consumer_rate: int = 1_000, developer_rate: int = 60_000, billing: Billing | None = None,
) -> Starlette:  # fmt: skip
    """The hub over an open ledger, which its caller closes. With `billing`, top-ups are paid by card."""
    clock = clock or SystemClock()
    meters = Meters()
    jobs = Jobs(connection.ledger, meters)
    door = Door(Desk(connection, meters), Rates(clock, consumer=consumer_rate, developer=developer_rate), clock)
    document = _description()
    # Which hosts it answers to is decided before the request gets there.
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    wallet_app = wallet.streamable_http_app(streamable_http_path=WALLET_PATH, transport_security=security)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with wallet.session_manager.run(), anyio.create_task_group() as group:
            group.start_soon(jobs.run)
            if billing is not None:
                group.start_soon(billing.run)
            yield
            group.cancel_scope.cancel()

    async def describe(_: Request) -> Response:
        return Response(document, media_type="application/json")

    app = Starlette(
        routes=[
            *door.routes(ENDPOINTS),
            Route("/v1/openapi.json", describe),
            Route("/metrics", meters.page),
            *Health(connection, clock).routes(),
            *top_up_routes(connection.top_ups, billing),
            *(webhook_routes(billing) if billing is not None else ()),
            *wallet_app.routes,
        ],
        middleware=[Middleware(RequestIds), Middleware(KnownHosts, allowed=allowed_hosts)],
        exception_handlers={HTTPException: no_such_route},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


@lru_cache(maxsize=1)
def _description() -> bytes:
    """The OpenAPI document, which is the same for every hub of this version."""
    return bytes(answer(openapi(ENDPOINTS, version=VERSION)).body)
