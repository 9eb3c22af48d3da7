"""`payre dev`: everything on loopback, in one process."""

import importlib.util
import signal
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio

from payre_mcp.cli.output import command_settings, emit, note
from payre_mcp.dev.app import PaidServer, Running, development, is_server, snippets
from payre_mcp.errors import InvalidRequest
from payre_mcp.money import InvalidAmount, Money
from payre_mcp.settings import Settings

_FAKE = "by card at a fake Stripe: 4242 4242 4242 4242 pays, and no money moves"
_REAL = "by card at Stripe's test mode; no webhook comes here, so they count on return to the page, or within some minutes"


def run(*, server: str | None, port: int, data: Path | None, balance: str, json: bool) -> int:
    """Serve until interrupted; answers what shells know an interrupted process by."""
    try:
        money = Money.parse(balance)
    except InvalidAmount as error:
        raise InvalidRequest(f"--balance: {error}") from None
    settings = command_settings()
    if not json:
        note("payre dev: loading the server ...")
    loaded = None if server is None else load_server(server)
    with _folder(data) as folder:
        return anyio.run(partial(_serve, folder, loaded, settings, port=port, balance=money, as_json=json))


def load_server(place: str) -> PaidServer:
    """The server in `FILE` or `FILE:OBJECT`.

    Raises:
        InvalidRequest: There is no such file or object, or the file holds several servers and none was named.
    """
    name, _, wanted = place.partition(":")
    path = Path(name)
    if not path.is_file():
        raise InvalidRequest(f"there is no file {name!r}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InvalidRequest(f"{name!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(module)
    found: dict[str, PaidServer] = {key: value for key, value in vars(module).items() if is_server(value)}
    if wanted:
        if wanted not in found:
            raise InvalidRequest(f"{name} has no server {wanted!r}; it has {', '.join(found) or 'none'}")
        return found[wanted]
    if len(found) != 1:
        raise InvalidRequest(f"{name} has {len(found)} servers ({', '.join(found)}); name one as {name}:OBJECT")
    return next(iter(found.values()))


async def _serve(data: Path, server: PaidServer | None, settings: Settings, *, port: int, balance: Money, as_json: bool) -> int:
    if not as_json:
        note("payre dev: opening the ledger ...")
    try:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with development(data, server=server, port=port, balance=balance, settings=settings) as running:
                emit(running.addresses.as_dict(), _lines(running), as_json=as_json)
                return 128 + await anext(signals)
    except OSError as error:
        raise InvalidRequest(f"port {port} cannot be used: {error.strerror}; choose another with --port") from None
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def _lines(running: Running) -> list[str]:
    addresses = running.addresses
    lines = [
        f"Paid server   {addresses.server}   ({running.server.name})",
        f"Wallet        {addresses.wallet}",
        f"Pages         {addresses.console}",
        f"Consumer key  {addresses.consumer_key}",
        f"Ledger        {addresses.data}   (test money)",
        f"Top-ups       {_FAKE if running.cards and running.cards.fake else _REAL}",
    ]
    for title, snippet in snippets(addresses):
        lines += ["", f"{title}:", snippet]
    return [*lines, "", "Press Ctrl-C to stop."]


@contextmanager
def _folder(data: Path | None) -> Generator[Path]:
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
        yield data.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="payre-dev-") as folder:
        yield Path(folder)
