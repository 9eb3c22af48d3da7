"""HTTP to the hub, one request at a time: what was answered, or why nothing was, and whether it may have arrived.

Talks through httpx2's transport rather than its client: redirects are never followed, the proxy environment is not read
(a key goes where PAYRE_URL says and nowhere else), and nothing logs each request. TLS certificates are verified, by the
system's authorities or those that OpenSSL's own `SSL_CERT_FILE` names.
"""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import httpx2
from pydantic import ValidationError

from payre_mcp.errors import PayreError, PayreUnavailable
from payre_mcp.gateway.error_document import error_of
from payre_mcp.gateway.hub_address import HubAddress
from payre_mcp.gateway.schemas import BatchAnswer, BatchedAnswer, PriceListAnswer, PriceListRequest

LARGEST_ANSWER = 32 * 1024 * 1024
PUBLISH_TIMEOUT_S = 10.0
LONGEST_WAIT_S = 60.0
"""A hub that asks for more patience than this is asked again anyway."""

_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)


class Failed(Exception):
    """A request that brought no answers. `error` is what the hub told, if it told anything."""

    def __init__(
        self,
        reason: str,
        *,
        may_have_arrived: bool = True,
        is_refused: bool = False,
        is_key_refused: bool = False,
        wait_s: float | None = None,
        error: PayreError | None = None,
    ) -> None:
        super().__init__(reason)
        self.may_have_arrived = may_have_arrived
        self.is_refused = is_refused
        """The hub read this request and will not take it, however often it comes."""
        self.is_key_refused = is_key_refused
        self.wait_s = wait_s
        """The hub is there and asks for patience."""
        self.error = error


class HubHttp:
    """One connection to a hub, kept open. For one thread; only `cut` may be called from another."""

    def __init__(self, address: HubAddress, *, timeout_s: float, within_s: float) -> None:
        self._address, self._within_s = address, within_s
        self._timeout = httpx2.Timeout(timeout_s).as_dict()
        self._transport: httpx2.HTTPTransport | None = None
        self._socket: Any = None
        self._until = math.inf

    def post_batch(self, requests: Sequence[bytes]) -> list[BatchedAnswer]:
        """Send requests of a batch, each of them JSON, and read their answers in order; the last ones may be missing.

        Raises:
            Failed: There are no answers.
        """
        content = b'{"requests":[' + b",".join(requests) + b"]}"
        body = self.send("POST", self._address.path("batch"), content)
        try:
            return BatchAnswer.model_validate_json(body, extra="ignore").answers
        except ValidationError:
            raise Failed("the answer is not that of a hub") from None

    def send(self, method: str, url: str, content: bytes) -> bytes:
        """The body of a good answer. Raises `Failed`."""
        headers = {
            "Authorization": f"Bearer {self._address.secret_key}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        extensions = {"timeout": self._timeout, "trace": self._trace}
        request = httpx2.Request(method, url, headers=headers, content=content, extensions=extensions)
        self._until = time.monotonic() + self._within_s
        try:
            response = self._open().handle_request(request)
            try:
                body = self._read(cast("Iterable[bytes]", response.stream))
            finally:
                response.close()
        except Failed:
            raise
        except Exception as error:  # noqa: BLE001 - whatever went wrong on the wire
            # Its text may quote what a stranger answered; its kind says enough.
            raise Failed(type(error).__name__, may_have_arrived=not isinstance(error, _NOT_SENT)) from None
        finally:
            self._until = math.inf
        if not response.is_success:
            raise _refusal(response, body)
        return body

    def cut(self, *, at_once: bool = False) -> None:
        """Break off a request that takes too long, as one does whose bytes only drip, or any; from any thread."""
        if (at_once or time.monotonic() > self._until) and self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(2)

    def close(self) -> None:
        """Let go of the connection."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _open(self) -> httpx2.HTTPTransport:
        if self._transport is None:
            limits = httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=30)
            self._transport = httpx2.HTTPTransport(limits=limits)
        return self._transport

    def _read(self, stream: Iterable[bytes]) -> bytes:
        parts, size = list[bytes](), 0
        for part in stream:
            size += len(part)
            if size > LARGEST_ANSWER or time.monotonic() > self._until:
                raise Failed("the answer is too large or too slow")
            parts.append(part)
        return b"".join(parts)

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")


def put_prices(address: HubAddress, server: str, prices: PriceListRequest) -> PriceListAnswer:
    """Publish a server's price list, on a connection of its own. Raises `PayreError`, the hub's own where it told one."""
    hub = HubHttp(address, timeout_s=PUBLISH_TIMEOUT_S, within_s=3 * PUBLISH_TIMEOUT_S)
    try:
        answer = hub.send(
            "PUT", address.path("servers", server, "prices"), prices.model_dump_json(exclude_defaults=True).encode()
        )
        return PriceListAnswer.model_validate_json(answer, extra="ignore")
    except Failed as failure:
        if failure.error is not None:
            raise failure.error from None
        raise PayreUnavailable(f"the payment hub {address.url} cannot be reached ({failure}); nothing is charged") from None
    except ValidationError:
        raise PayreUnavailable(f"what answers at {address.url} is no payment hub; check PAYRE_URL. Nothing is charged") from None
    finally:
        hub.close()


def _refusal(response: httpx2.Response, body: bytes) -> Failed:
    """What a status other than a good one means."""
    status = response.status_code
    reason = f"HTTP {status}"
    if status in {401, 403}:
        return Failed(reason, may_have_arrived=False, is_key_refused=True, error=_told(body))
    if status in {429, 503}:
        wait_s = _retry_after_s(response.headers.get("retry-after", ""))
        return Failed(reason, may_have_arrived=status == 503, wait_s=wait_s)
    told = _told(body)
    if 400 <= status < 500 and told is not None:
        return Failed(reason, may_have_arrived=False, is_refused=True, error=told)
    return Failed(reason)  # and what is no hub's answer says nothing of what the hub did


def _told(body: bytes) -> PayreError | None:
    """The error that the hub told; None where whoever answered is no hub."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return error_of(cast("Mapping[str, Any]", document)) if isinstance(document, dict) and "error" in document else None


def _retry_after_s(text: str) -> float:
    """The header's seconds; one second where it says none, or a date."""
    return min(float(text), LONGEST_WAIT_S) if text.isascii() and text.isdigit() else 1.0
