"""Which names the hub answers to: any other is refused, or a web page could reach it through DNS rebinding."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from payre_mcp.hub.api.answers import answer


class KnownHosts:
    """Refuses requests for a host that is not one of `allowed`; a name without a port stands for every port."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app, self._allowed = app, frozenset(name.lower() for name in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 421, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        hosts = Headers(scope=scope).getlist("host")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        if {host, _without_port(host)} & self._allowed:
            await self._app(scope, receive, send)
            return
        text = "this server is not known by the name that the request has in its Host header; nothing was done"
        await answer({"error": "invalid_request", "message": text}, status=421)(scope, receive, send)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
