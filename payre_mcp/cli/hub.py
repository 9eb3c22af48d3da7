"""`payre hub`: one ledger for many developers, over HTTP, until it is told to stop."""

import contextlib
import signal
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio

from payre_mcp.billing.desk import Billing
from payre_mcp.billing.opening import open_billing, top_up_range
from payre_mcp.cli.output import command_settings, emit, ledger_url, receipt_ring
from payre_mcp.connection import Connection, open_ledger
from payre_mcp.dev.web import listen, serving
from payre_mcp.errors import InvalidRequest, SettingsInvalid
from payre_mcp.guard import Limits
from payre_mcp.hub.api.answers import RequestIds
from payre_mcp.hub.api.call import LARGEST_BATCH
from payre_mcp.hub.app import WALLET_PATH, hub_application
from payre_mcp.hub.pages import TOP_UP_PATH
from payre_mcp.keys import Mode
from payre_mcp.serving import LOOPBACK, LOOPBACK_HOSTS, SHUTDOWN_S
from payre_mcp.settings import Settings
from payre_mcp.wallet.server import build_wallet

_CONNECTIONS = 4096
"""Open connections of one address: a seller's processes share one, and so does all that stands behind a proxy."""


def run(*, data: Path | None, url: str | None, host: str, port: int, base_url: str | None, json: bool) -> None:
    """Serve until SIGINT or SIGTERM; then finish what was accepted, and close the ledger."""
    settings = command_settings()
    hosts = allowed_hosts(host, settings)
    try:
        listener = listen(port, host)
    except OSError as error:
        raise InvalidRequest(f"{host} port {port} cannot be used: {error.strerror}; choose another with --port") from None
    with contextlib.closing(listener):
        base = (base_url or _origin(host, listener)).rstrip("/")
        address, ring = url or ledger_url(data, settings), receipt_ring(settings)
        connection = open_ledger(
            address, fee_bps=settings.fee_bps, ring=ring, top_up_page=base + TOP_UP_PATH, top_up_range=top_up_range(settings),
            free_credit=settings.free_credit_usd, mode=Mode(settings.mode),
        )  # fmt: skip
        try:
            billing = open_billing(connection.ledger, settings, connection.ledger.clock)
            check_base(base, billing)
            anyio.run(partial(_serve, connection, billing, listener, settings, hosts, base=base, as_json=json))
        finally:
            connection.close()


def allowed_hosts(host: str, settings: Settings) -> Sequence[str]:
    """The names that the hub answers to. Raises `SettingsInvalid` where it would answer to any."""
    names = [*settings.allowed_hosts, *(LOOPBACK_HOSTS if host in LOOPBACK else ())]
    if not names:
        raise SettingsInvalid(
            f"a hub on {host} needs PAYRE_ALLOWED_HOSTS: the names that clients call it by, such as pay.example, commas between"
        )
    return names


def check_base(base: str, billing: Billing | None) -> None:
    """Raise `SettingsInvalid` where people would pay live money, and come back to a page that anybody on the way can read."""
    if billing is not None and billing.processor.livemode and not base.startswith("https://"):
        raise SettingsInvalid(f"live money is paid by way of https alone, not {base}: give --base-url the hub's https address")


async def _serve(
    connection: Connection, billing: Billing | None, listener: socket.socket, settings: Settings, hosts: Sequence[str], *,
    base: str, as_json: bool,
) -> None:  # fmt: skip
    app = hub_application(
        connection, build_wallet(connection.wallet), allowed_hosts=hosts,
        consumer_rate=settings.rate_limit, developer_rate=settings.developer_rate_limit, billing=billing,
    )  # fmt: skip
    limits = Limits(body_bytes=LARGEST_BATCH, connections_per_address=_CONNECTIONS)
    addresses = {"hub": base, "wallet": base + WALLET_PATH, "openapi": f"{base}/v1/openapi.json"}
    lines = [f"{name.capitalize():8} {address}" for name, address in addresses.items()]
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with serving(app, listener, limits, around=RequestIds, shutdown_s=SHUTDOWN_S):
            emit(addresses, lines, as_json=as_json)
            async for _ in signals:
                break
    if billing is not None:
        await billing.processor.aclose()


def _origin(host: str, listener: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"
