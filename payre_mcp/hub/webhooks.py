"""Where the payment processor sends its news: checked, written down and answered at once. It is handled elsewhere, later."""

from collections.abc import Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payre_mcp.billing.desk import Billing
from payre_mcp.errors import PayreError
from payre_mcp.hub.api.answers import answer, refusal
from payre_mcp.processors.base import Endpoint

PATHS: dict[Endpoint, str] = {
    "platform": "/stripe/webhook", "connect": "/stripe/webhook/connect", "thin": "/stripe/webhook/thin",
}  # fmt: skip
LARGEST = 512 << 10


def webhook_routes(billing: Billing) -> Sequence[Route]:
    """A route for each webhook whose signatures can be checked.

    What was taken in, now or before, is answered with 200. Anything else has the processor send it again.
    """
    return [Route(PATHS[endpoint], partial(_receive, billing, endpoint), methods=["POST"]) for endpoint in billing.endpoints]


async def _receive(billing: Billing, endpoint: Endpoint, request: Request) -> Response:
    try:
        body = await _body(request)
        if body is None:
            text = f"a webhook may have {LARGEST} bytes; nothing of it was used"
            return answer({"error": "body_too_large", "message": text}, status=413)
        await billing.receive(endpoint, body, request.headers.get("stripe-signature"))
    except PayreError as error:
        return refusal(error)
    return answer({"received": True})


async def _body(request: Request) -> bytes | None:
    """The bytes as they were signed; None where they are too many."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            return None
    return bytes(body)
