"""A hub for tests: the real application under uvicorn on loopback, in a thread of its own, over the test's ledger."""

import contextlib
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import anyio
import anyio.to_thread
from starlette.types import ASGIApp, Receive, Scope, Send

from payre_mcp.clock import Clock
from payre_mcp.connection import Connection
from payre_mcp.dev.web import listen, origin, serving
from payre_mcp.gateway.hub_address import HubAddress
from payre_mcp.gateway.remote import Patience, RemoteGateway
from payre_mcp.hub.app import hub_application
from payre_mcp.keys import Role
from payre_mcp.wallet.server import build_wallet
from tests.fakes import PATIENCE_S


class Hub:
    """A hub that runs: its address, a developer's key, and what it has seen."""

    def __init__(self, connection: Connection, clock: Clock | None, port: int) -> None:
        self.connection, self._clock = connection, clock
        ledger = connection.ledger
        self.secret_key = ledger.directory.create_key(Role.DEVELOPER, ledger.directory.sole_developer().id).text
        self._listener = listen(port)
        self.url = origin(self._listener)
        self.batches = self.most_at_once = 0
        self.on_batch: Callable[[], None] = lambda: None
        """Called before a batch is looked at; may wait."""
        self._at_once = 0
        self._news = threading.Condition()
        self._ready, self._stop = threading.Event(), threading.Event()

    def gateway(self, url: str = "", *, clock: Clock | None = None, patience: Patience | None = None) -> RemoteGateway:
        """A seller's gateway to this hub, or to what stands at `url` before it."""
        return RemoteGateway(HubAddress.parse(url or self.url, self.secret_key), clock=clock, patience=patience)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Block until something is so after a batch was answered."""
        with self._news:
            assert self._news.wait_for(is_so, PATIENCE_S), "it never came to that"

    def run(self) -> None:
        """Serve until told to stop."""
        with contextlib.closing(self._listener):
            anyio.run(self._serve)

    async def _serve(self) -> None:
        app = self._counted(hub_application(self.connection, build_wallet(self.connection.wallet), clock=self._clock))
        async with serving(app, self._listener):
            self._ready.set()
            await anyio.to_thread.run_sync(self._stop.wait)

    def wait_ready(self) -> None:
        """Block until it listens."""
        assert self._ready.wait(PATIENCE_S), "the hub did not start"

    def stop(self) -> None:
        """Let it finish."""
        self._stop.set()

    def _counted(self, app: ASGIApp) -> ASGIApp:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] != "/v1/batch":
                await app(scope, receive, send)
                return
            self.batches += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            try:
                await anyio.to_thread.run_sync(self.on_batch)
                await app(scope, receive, send)
            finally:
                self._at_once -= 1
                with self._news:
                    self._news.notify_all()

        return counted


@contextmanager
def running_hub(connection: Connection, clock: Clock | None = None, *, port: int = 0) -> Generator[Hub]:
    """Serve a hub over an open ledger until the block ends."""
    hub = Hub(connection, clock, port)
    thread = threading.Thread(target=hub.run, name="test-hub")
    thread.start()
    try:
        hub.wait_ready()
        yield hub
    finally:
        hub.stop()
        thread.join()
