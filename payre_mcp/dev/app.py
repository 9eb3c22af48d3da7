"""One application on one origin: the paid server at `/mcp`, the wallet at `/wallet/mcp`, the pages beside them."""

import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from payre_mcp.billing.opening import top_up_range
from payre_mcp.connection import Connection, open_ledger
from payre_mcp.dev.example import WeatherServer
from payre_mcp.dev.seed import Seed, seed_ledger
from payre_mcp.dev.web import listen, origin, serving
from payre_mcp.gateway.top_ups import LARGEST, SMALLEST
from payre_mcp.hub.pages import TOP_UP_PATH, render, see_other
from payre_mcp.hub.top_up_page import top_up_routes
from payre_mcp.money import Money
from payre_mcp.server.extension import Payre
from payre_mcp.serving import HttpServer, application
from payre_mcp.settings import Settings
from payre_mcp.wallet.server import build_wallet

if TYPE_CHECKING:
    from payre_mcp.dev.card_payments import CardPayments

PaidServer = MCPServer[Any] | HttpServer
"""A server that has a `Payre`: the SDK's, or one of FastMCP."""

SERVER_PATH, WALLET_PATH = "/mcp", "/wallet/mcp"
_TEN_DOLLARS = Money.parse(10)


@dataclass(frozen=True)
class Addresses:
    """Where everything is: what `payre dev --json` prints. Keys are secrets of the test ledger."""

    hub: str
    wallet: str
    server: str
    console: str
    consumer_key: str
    developer_key: str
    data: str

    def as_dict(self) -> dict[str, str]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Running:
    """A development setup that is being served."""

    addresses: Addresses
    connection: Connection
    server: PaidServer
    cards: "CardPayments | None"


@asynccontextmanager
async def development(
    data: Path, *, server: PaidServer | None = None, port: int = 0, balance: Money, settings: Settings | None = None
) -> AsyncGenerator[Running]:
    """Serve a paid server, its wallet and its pages on loopback, over the ledger in `data`, until the block ends.

    A new ledger gets a consumer with `balance` of test money; one that is there keeps its consumer, keys and balance.
    With `settings`, top-ups are paid by card: at a fake Stripe, or at the real one's test mode where they have its key.
    Without, a button pays them with test money.

    Raises:
        OSError: The port is taken.
        ValueError: `server` has no `Payre`, so nothing of it could be charged.
        SettingsInvalid: Stripe's key is for live money, or no key.
    """
    listener = listen(port)
    with contextlib.closing(listener):
        base = origin(listener)
        amounts = top_up_range(settings) if settings else (SMALLEST, LARGEST)
        connection = open_ledger(f"sqlite:///{data / 'payre.db'}", top_up_page=base + TOP_UP_PATH, top_up_range=amounts)
        try:
            paid = server or WeatherServer(Payre(gateway=connection.gateway))
            payre = payre_of(paid)
            payre.lend(connection.gateway)
            seed = await seed_ledger(data, connection, balance)
            addresses = Addresses(
                base, base + WALLET_PATH, base + SERVER_PATH, base, seed.consumer_key, seed.developer_key, str(data)
            )
            async with _cards(connection, settings, base) as cards:
                app = _application(paid, payre, connection, addresses, seed, cards)
                async with serving(app, listener):
                    yield Running(addresses, connection, paid, cards)
        finally:
            connection.close()


@asynccontextmanager
async def _cards(connection: Connection, settings: Settings | None, base: str) -> AsyncGenerator["CardPayments | None"]:
    if settings is None:
        yield None
        return
    # Stripe's package takes half a second to load, and a sandbox has no use for it.
    from payre_mcp.dev.card_payments import card_payments  # noqa: PLC0415

    async with card_payments(connection.ledger, settings, base) as cards:
        yield cards


def is_server(value: object) -> bool:
    """Whether this can be served: an `MCPServer` or a `FastMCP`, which is not loaded to find out."""
    return isinstance(value, MCPServer) or (type(value).__name__ == "FastMCP" and hasattr(value, "http_app"))


def payre_of(server: PaidServer) -> Payre:
    """The `Payre` that meters a server. Raises `ValueError` when there is none."""
    payre = Payre.of(server)
    if payre is None:
        raise ValueError(f"the server {server.name!r} has no Payre: make it a PaidMCPServer, or call Payre().install(server)")
    return payre


def snippets(addresses: Addresses) -> Sequence[tuple[str, str]]:
    """Ready-to-paste configuration of common clients, key included: it spends test money only."""
    key = addresses.consumer_key
    both = {"weather": addresses.server, "wallet": addresses.wallet}
    claude = "\n".join(
        f'claude mcp add --transport http --header "X-Payre-Key: {key}" payre-{name} {url}' for name, url in both.items()
    )
    cursor = {"mcpServers": {f"payre-{name}": {"url": url, "headers": {"X-Payre-Key": key}} for name, url in both.items()}}
    vscode = {
        "servers": {f"payre-{name}": {"type": "http", "url": url, "headers": {"X-Payre-Key": key}} for name, url in both.items()}
    }
    return (
        ("Claude Code", claude),
        ("Cursor (.cursor/mcp.json)", json.dumps(cursor, indent=2)),
        ("VS Code (.vscode/mcp.json)", json.dumps(vscode, indent=2)),
    )


def _application(
    server: PaidServer, payre: Payre, connection: Connection, addresses: Addresses, seed: Seed, cards: "CardPayments | None"
) -> Starlette:
    wallet = build_wallet(connection.wallet)
    server_app = application(server, path=SERVER_PATH)
    wallet_app = wallet.streamable_http_app(streamable_http_path=WALLET_PATH)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with server_app.router.lifespan_context(server_app), wallet.session_manager.run():
            yield

    async def start(_: Request) -> Response:
        page = await connection.wallet.list_charges(seed.consumer_key, limit=10)
        values = {
            "server_name": server.name,
            "addresses": addresses,
            "balance": await connection.wallet.get_balance(seed.consumer_key),
            "charges": page.charges,
            "prices": [(target.name, advert.sentence) for target, advert in payre.metering.prices.adverts.items()],
            "snippets": snippets(addresses),
            "mode": connection.top_ups.mode,
            "by_card": cards is not None,
            "earnings": await cards.earnings.show() if cards else None,
        }
        return render("start.html", values, leads_to=("https://connect.stripe.com",))

    async def top_up(_: Request) -> Response:
        asked = await connection.wallet.create_top_up(seed.consumer_key, connection.top_ups.nearest(_TEN_DOLLARS))
        assert asked.url is not None
        return see_other(asked.url)

    return Starlette(
        routes=[
            Route("/", start, methods=["GET"]),
            Route("/", top_up, methods=["POST"]),
            *top_up_routes(connection.top_ups, cards.billing if cards else None),
            *(cards.routes if cards else ()),
            *wallet_app.routes,
            Mount("/", server_app),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])],
        lifespan=lifespan,
    )
