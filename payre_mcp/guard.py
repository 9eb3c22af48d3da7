"""What keeps slow, endless and crowding clients from holding a server: deadlines and limits that uvicorn has not.

A connection gets a time for the head of each request, each request a time and a size for its body, each address a number of
connections. Answers are never limited: event streams and long polls last as long as they like.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

LINGER_S = 5.0
"""How long a refused body is still read, so that its sender gets to read the answer instead of a reset connection."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take of a server over HTTP."""

    header_s: float = 10.0
    """From the first wait for a request to the end of its head."""
    body_s: float = 30.0
    """From the end of the head to the end of the body."""
    body_bytes: int = 4 << 20
    """The largest body."""
    connections_per_address: int | None = 256
    """Open connections of one address; None for no limit. All clients behind a proxy share the proxy's address."""


LIMITS = Limits()


class GuardedH11(H11Protocol):
    """HTTP/1.1 with a deadline for each request head and a cap on the connections of one address."""

    limits = LIMITS
    _disarm: Callable[[], None] | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock of the first head, unless this address is here too often already."""
        super().connection_made(transport)
        most = self.limits.connections_per_address
        if most is not None and self.client is not None and self._open_from(self.client[0]) > most:
            self.logger.warning("closed a connection: %s has %d open already (connections_per_address)", self.client[0], most)
            self.transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Read; what does not finish a head does not extend its time."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the clock."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self._is_answering():
            self._stop()
        elif self._disarm is None:
            self._disarm = self.loop.call_later(self.limits.header_s, self.transport.abort).cancel

    def _stop(self) -> None:
        if self._disarm is not None:
            self._disarm()
        self._disarm = None

    def _is_answering(self) -> bool:
        """Whether a head has come and its request is not answered yet."""
        return bool(self.cycle) and not self.cycle.response_complete

    def _open_from(self, address: str) -> int:
        others = (each.client for each in self.connections if isinstance(each, GuardedH11))
        return sum(other is not None and other[0] == address for other in others)


def guarded_h11(limits: Limits) -> type[H11Protocol]:
    """`GuardedH11` with these limits, as a class: uvicorn makes the objects itself."""

    class Guarded(GuardedH11):
        pass

    Guarded.limits = limits
    return Guarded


class BodyGuard:
    """Hands a request on when its body is here, whole and not too large; else answers 408 or 413 and closes."""

    def __init__(self, app: ASGIApp, limits: Limits = LIMITS) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body of an HTTP request; anything else passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, more, most = bytearray(), True, self._limits.body_bytes
        too_large = _declared(scope) > most
        with anyio.move_on_after(self._limits.body_s):
            while more and not too_large:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                more = message.get("more_body", False)
                too_large = len(body) > most
        if too_large:
            text = f"The body of a request may have {most} bytes here. Nothing ran and nothing was charged."
            await self._refuse(413, "body_too_large", text, send, rest=receive if more else None)
        elif more:
            text = (
                f"The body did not arrive within {self._limits.body_s:g} s. Nothing ran and nothing was charged; send it again."
            )
            await self._refuse(408, "body_too_slow", text, send, rest=receive)
        else:
            await self._app(scope, _replayed(bytes(body), receive), send)

    async def _refuse(self, status: int, code: str, text: str, send: Send, *, rest: Receive | None) -> None:
        """Answer for the application; `rest` is what is still coming of a body that nobody wants."""
        answer = json.dumps({"error": code, "message": text}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer)), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer, "more_body": True})
        if rest is not None:
            with anyio.move_on_after(min(LINGER_S, self._limits.body_s)):
                while (await rest()).get("more_body", False):
                    pass
        await send({"type": "http.response.body"})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body again, then what `receive` says: that the client has left."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


def _declared(scope: Scope) -> int:
    """The length that the head announces, 0 where it announces none."""
    length = Headers(scope=scope).get("content-length", "")
    return int(length) if length.isdecimal() and len(length) < 20 else 0
