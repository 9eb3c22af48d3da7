"""What every request of the API passes: whose key, how often, what is asked, and out again as one answer."""

import logging
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.directory import KeyRecord
from payre_mcp.errors import Forbidden, InvalidApiKey, InvalidRequest, PayreError, Unauthorized
from payre_mcp.gateway.schemas import REQUEST_ID, Message
from payre_mcp.guard import LIMITS, BodyGuard, Limits
from payre_mcp.hub.api.answers import answer, method_refusal, refusal, request_id, unknown_failure
from payre_mcp.hub.api.call import Call, Desk, Endpoint
from payre_mcp.hub.api.rates import Rates
from payre_mcp.hub.api.reading import read_body, read_name, read_query
from payre_mcp.identity import caller_key, peer_address
from payre_mcp.keys import Role, parse_key
from payre_mcp.throttle import Throttle

logger = logging.getLogger(__name__)

_WITH_A_BODY = frozenset({"POST", "PUT"})
_NO_KEY = {
    "developer": "send a developer's secret key (pyr_sk_) as `Authorization: Bearer`; nothing was done",
    "consumer": "send a consumer's key (pyr_ck_) as `X-Payre-Key` or `Authorization: Bearer`; nothing was done",
    "either": "send a Payre key as `Authorization: Bearer`; nothing was done",
}


class Door:
    """Lets requests in to one desk."""

    def __init__(self, desk: Desk, rates: Rates, clock: Clock) -> None:
        self._desk, self._rates, self._clock, self._throttle = desk, rates, clock, Throttle(clock)

    def routes(self, endpoints: Iterable[Endpoint]) -> list[Route]:
        """One route for each address; the methods it does not take are answered with those it does."""
        by_path = groupby(sorted(endpoints, key=lambda each: each.path), key=lambda each: each.path)
        return [Route(path, _Address(self, {each.method: each for each in group})) for path, group in by_path]

    async def answer(self, endpoint: Endpoint, request: Request) -> Response:
        """The answer to a request, whatever becomes of it."""
        began = self._clock.elapsed_us()
        try:
            call = await self._call(endpoint, request)
            response = answer((await endpoint.handler(call)).model_dump())
        except PayreError as error:
            response = refusal(error)
        except Exception:
            logger.exception("%s %s broke (request %s)", endpoint.method, endpoint.path, request_id(request.scope))
            response = refusal(unknown_failure())
        seconds = (self._clock.elapsed_us() - began) / US_PER_S
        self._desk.meters.request(endpoint.method, endpoint.path, response.status_code, seconds)
        return response

    async def _call(self, endpoint: Endpoint, request: Request) -> Call[Any]:
        key, caller = await self._let_in(endpoint, request)
        self._rates.count(caller)
        if endpoint.method in _WITH_A_BODY:
            if request.query_params:
                raise InvalidRequest("this takes no query parameters; nothing was done")
            asked: Message = read_body(await request.body(), endpoint.request)
        else:
            asked = read_query(request.query_params, endpoint.request)
        name = "" if endpoint.naming == "none" else read_name(request.headers)
        if endpoint.naming == "required" and not name:
            raise InvalidRequest(f"this wants an `{REQUEST_ID}` header, so that it can be asked again; nothing was done")
        return Call(self._desk, caller, key, asked, request.path_params, name)

    async def _let_in(self, endpoint: Endpoint, request: Request) -> tuple[str, KeyRecord]:
        """Whose key it is; whoever guesses keys is turned away before any is looked up."""
        peer, key = peer_address(request), caller_key(request.headers, {})
        if key is None:
            raise Unauthorized(_NO_KEY[endpoint.who])
        self._throttle.check(peer, key)
        try:
            record = await self._record(endpoint, key)
        except (Unauthorized, InvalidApiKey):
            self._throttle.refused(peer)
            raise
        self._throttle.accepted(key)
        return key, record

    async def _record(self, endpoint: Endpoint, key: str) -> KeyRecord:
        access = self._desk.connection.access
        role = {"developer": Role.DEVELOPER, "consumer": Role.CONSUMER}.get(endpoint.who) or parse_key(key).role
        if role == Role.PUBLIC:
            raise Forbidden("a public key (pyr_pk_) authorizes nothing; nothing was done")
        return await (access.developer(key) if role == Role.DEVELOPER else access.live_consumer(key))


class _Address:
    """One address of the API with its methods."""

    def __init__(self, door: Door, endpoints: Mapping[str, Endpoint]) -> None:
        self._door, self._endpoints = door, endpoints
        largest = max(each.largest for each in endpoints.values())
        limits = Limits(body_s=LIMITS.body_s, body_bytes=largest)
        self._guarded = BodyGuard(self._answer, limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the endpoint of the method; HEAD is answered as GET, without its body."""
        await self._guarded(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        endpoint = self._endpoints.get("GET" if request.method == "HEAD" else request.method)
        if endpoint is None:
            response = method_refusal(request.method, self._endpoints)
        else:
            response = await self._door.answer(endpoint, request)
        await response(scope, receive, send)
