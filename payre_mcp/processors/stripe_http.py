"""How the stripe package's requests travel: over httpx2, on whatever event loop runs."""

import logging
from collections.abc import Mapping
from typing import Any, cast

import anyio
import httpx2
import stripe

logger = logging.getLogger(__name__)

TIMEOUT_S = 12.0
"""For one attempt, from connecting to the answer's last byte."""


class Httpx2Client(stripe.HTTPClient):
    """What a `stripe.StripeClient` sends with. Only its async calls work: a sync one raises `NotImplementedError`."""

    name = "httpx2"

    def __init__(self, *, transport: httpx2.AsyncBaseTransport | None = None, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        # httpx2's own timeouts are for each read: an answer that trickles in would never run into them.
        self._http = httpx2.AsyncClient(transport=transport, timeout=None, follow_redirects=False)
        self._timeout_s = timeout_s

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: str | None = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """One attempt; answers body, status and headers.

        Raises:
            stripe.APIConnectionError: No answer came in time, or one that is not of Stripe's API.
        """
        try:
            with anyio.fail_after(self._timeout_s):
                reply = await self._http.request(method, url, headers=dict(headers), content=post_data)
        except (httpx2.RequestError, TimeoutError) as error:
            raise stripe.APIConnectionError(f"{type(error).__name__}: {error}", should_retry=True) from error
        if not _is_of_the_api(reply):
            # Some proxy's page. It is kept from the package, which would put it into messages and logs.
            raise stripe.APIConnectionError(f"HTTP {reply.status_code} without JSON", should_retry=reply.status_code >= 500)
        if notice := reply.headers.pop("stripe-notice", ""):
            # The package would make it a Python warning, and a program may make that an exception: after money has moved.
            logger.warning("Stripe says: %s", notice)
        return reply.content, reply.status_code, reply.headers

    async def sleep_async(self, secs: float) -> None:
        """Wait between two attempts."""
        await anyio.sleep(secs)

    async def close_async(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()


def _is_of_the_api(reply: httpx2.Response) -> bool:
    try:
        answer: Any = reply.json()
    except ValueError:
        return False
    if not isinstance(answer, dict):
        return False
    return reply.is_success or isinstance(cast("dict[str, Any]", answer).get("error"), dict)
