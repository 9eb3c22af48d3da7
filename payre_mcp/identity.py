"""Whose key a request carries. Resolved for every request anew, never per session.

The header `X-Payre-Key` (or AgentPay's name for it), `Authorization: Bearer pyr_...`, the claim `dev.payre/key` that a
server's own verifier gives an OAuth token, `_meta["dev.payre/key"]`, and only on stdio the variable `PAYRE_KEY`. Never the
variable on HTTP: a stranger would spend the operator's money.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from mcp.server.auth.middleware.auth_context import get_access_token
from starlette.datastructures import Headers

from payre_mcp.errors import InvalidApiKey
from payre_mcp.keys import is_placeholder

HEADERS = ("x-payre-key", "x-agentpay-api-key")
META_KEY = "dev.payre/key"

_stdio_key: ContextVar[str | None] = ContextVar("payre_stdio_key", default=None)


@contextmanager
def serving_stdio(key: str | None) -> Generator[None]:
    """Requests handled inside come over stdio: `key` pays for those that carry none of their own."""
    token = _stdio_key.set(key)
    try:
        yield
    finally:
        _stdio_key.reset(token)


def caller_key(headers: Mapping[str, str] | None, meta: Mapping[str, Any]) -> str | None:
    """The key that a request carries, None when it carries none. `headers` is None off HTTP.

    Raises:
        InvalidApiKey: Two different keys came, or `_meta` holds one that is not text.
    """
    found = {*_from_headers(headers), *_from_login()} if headers is not None else set[str]()
    in_meta = meta.get(META_KEY)
    if in_meta is not None:
        if not isinstance(in_meta, str):
            raise InvalidApiKey(f"_meta[{META_KEY!r}] is not text. Nothing was charged")
        found.add(in_meta)
    if len(found) > 1:
        raise InvalidApiKey("Two different Payre keys came with one request; send one. Nothing was charged")
    if found:
        return found.pop()
    return _stdio_key.get() if headers is None else None


def request_meta(params: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The `_meta` of a request's parameters, empty where it is absent or malformed."""
    meta = (params or {}).get("_meta")
    return cast("Mapping[str, Any]", meta) if isinstance(meta, Mapping) else {}


def request_headers(request: object) -> Mapping[str, str] | None:
    """The headers of an HTTP request as the SDK hands it over; None off HTTP."""
    return cast("Mapping[str, str] | None", getattr(request, "headers", None))


def peer_address(request: object) -> str | None:
    """The network address that an HTTP request came from; None off HTTP."""
    return getattr(getattr(request, "client", None), "host", None)


def _from_login() -> Iterator[str]:
    """The key of a caller who is signed in: the server's verifier knows whose token it is, and which key pays for them."""
    token = get_access_token()
    key = (token.claims or {}).get(META_KEY) if token is not None else None
    if isinstance(key, str):
        yield key


def _from_headers(headers: Mapping[str, str]) -> Iterator[str]:
    for name in HEADERS:
        yield from filter(None, map(str.strip, _values(headers, name)))
    for value in _values(headers, "authorization"):
        scheme, _, token = value.partition(" ")
        token = token.strip()
        # Another bearer token is the host's own business; ours are known by their prefix, a placeholder by its form.
        if scheme.lower() == "bearer" and (token.startswith("pyr_") or is_placeholder(token)):
            yield token


def _values(headers: Mapping[str, str], name: str) -> list[str]:
    """Every value of a header: one that came twice must not be half read."""
    if isinstance(headers, Headers):
        return headers.getlist(name)
    return [headers[name]] if name in headers else []
