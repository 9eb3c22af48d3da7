"""What every answer of the hub has: a request id, exact JSON, and errors that say what became of the money."""

import json
import math
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from payre_mcp.errors import NotFound, PayreError
from payre_mcp.gateway.error_document import document_of

REQUEST_ID_HEADER = "X-Request-Id"
_LONGEST_ID = 64


class RequestIds:
    """Names every request and says the name in its answer: the caller's own, if it is 1 to 64 visible ASCII characters."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on under its name."""
        if scope["type"] != "http" or request_id(scope):
            await self._app(scope, receive, send)
            return
        name = _chosen(Headers(scope=scope).getlist(REQUEST_ID_HEADER))
        scope.setdefault("state", {})["request_id"] = name

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = name
            await send(message)

        await self._app(scope, receive, named)


def request_id(scope: Scope) -> str:
    """The name that this request has, empty before it has one."""
    return scope.get("state", {}).get("request_id", "")


def answer(document: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A document as JSON."""
    body = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return Response(body, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


def refusal(error: PayreError) -> Response:
    """An error as an answer."""
    headers: dict[str, str] = {}
    if error.retryable:
        headers["Retry-After"] = str(math.ceil(getattr(error, "retry_after_s", 1.0)))
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return answer(document_of(error), status=error.http_status, headers=headers)


def unknown_failure() -> PayreError:
    """What is answered where something broke that nobody foresaw."""
    return PayreError(
        "something went wrong in the hub, and whether anything was booked is not known; ask again with the same Idempotency-Key"
    )


def no_such_route(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, as documents."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return refusal(NotFound("nothing is at this address; GET /v1/openapi.json tells what is there"))
    return method_refusal(request.method, (error.headers or {}).get("Allow", "").split(", "))


def method_refusal(method: str, allowed: Iterable[str]) -> Response:
    """405: this address takes other methods."""
    names = ", ".join(sorted(allowed))
    text = f"{method} is not taken at this address, which takes {names}; nothing was done"
    return answer({"error": "method_not_allowed", "message": text}, status=405, headers={"Allow": names})


def _chosen(sent: list[str]) -> str:
    if len(sent) == 1 and 0 < len(sent[0]) <= _LONGEST_ID and all("!" <= each <= "~" for each in sent[0]):
        return sent[0]
    return f"req_{secrets.token_hex(10)}"
