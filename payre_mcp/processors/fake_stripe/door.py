"""The way in: authentication, version, idempotency, decoding, the request contract, and what chaos does to all of it."""

import json
from collections.abc import Awaitable, Callable, Sequence
from hmac import compare_digest
from typing import NamedTuple

import httpx2
import stripe
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payre_mcp.processors.fake_stripe.chaos import Chaos, Fault
from payre_mcp.processors.fake_stripe.contract import check
from payre_mcp.processors.fake_stripe.listing import expanded
from payre_mcp.processors.fake_stripe.refusals import Refusal
from payre_mcp.processors.fake_stripe.replays import Answer, Claim, Replays
from payre_mcp.processors.fake_stripe.store import Cause, Store
from payre_mcp.processors.fake_stripe.wire import Json, decode_form, decode_json

LONGEST_KEY = 255


class ApiRoute(NamedTuple):
    """One call: its address, the type of its parameters, and who answers.

    `handle` takes the parameters and then the ids in the address, and either answers or raises a `Refusal`.
    """

    method: str
    path: str
    contract: str
    handle: Callable[..., Json]


class _Arrival(NamedTuple):
    """A request as it came in."""

    request: Request
    body: bytes
    id: str

    @property
    def path(self) -> str:
        return self.request.url.path[len(self.request.scope.get("root_path", "")) :]

    @property
    def second(self) -> bool:
        """Of the second API."""
        return self.path.startswith("/v2/")

    @property
    def account(self) -> str:
        headers = self.request.headers
        return headers.get("stripe-account") or headers.get("stripe-context") or ""

    @property
    def key(self) -> str:
        """The idempotency key, where one counts."""
        counts = self.request.method == "POST" or (self.second and self.request.method == "DELETE")
        return self.request.headers.get("idempotency-key", "") if counts else ""

    def params(self, contract: str) -> Json:
        """The parameters, checked."""
        if self.request.method != "POST":
            return check(contract, decode_form(self.request.url.query), text=True)
        if self.second:
            return check(contract, decode_json(self.body), text=False)
        form = "&".join(part for part in (self.request.url.query, _text(self.body)) if part)
        return check(contract, decode_form(form), text=True)


class Door:
    """Turns calls into routes."""

    def __init__(self, store: Store, chaos: Chaos, api_key: str) -> None:
        self._store, self._chaos, self._api_key = store, chaos, api_key
        self._replays = Replays(store.clock)

    def routes(self, calls: Sequence[ApiRoute]) -> list[Route]:
        """The calls, and an answer for every other address of the two APIs."""
        known = [Route(call.path, self._endpoint(call), methods=[call.method]) for call in calls]
        return [*known, *(Route(f"/{api}/{{rest:path}}", self._endpoint(None)) for api in ("v1", "v2"))]

    def _endpoint(self, call: ApiRoute | None) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            arrival = _Arrival(request, await request.body(), self._store.new_id("req_"))
            return await self._answered(arrival, self._act(call, arrival))

        return endpoint

    def _act(self, call: ApiRoute | None, arrival: _Arrival) -> Callable[[], Json]:
        def act() -> Json:
            if call is None:
                text = f"Unrecognized request URL ({arrival.request.method}: {arrival.path})."
                raise Refusal(text, status=404, executed=False)
            params = arrival.params(call.contract)
            expand = params.pop("expand", [])
            reply = call.handle(params, *arrival.request.path_params.values())
            return expanded(self._store, reply, expand)

        return act

    async def _answered(self, arrival: _Arrival, act: Callable[[], Json]) -> Response:
        """Answer a request, unless chaos has other plans."""
        fault = self._chaos.take(arrival.request.method, arrival.path)
        try:
            self._admit(arrival)
            if fault is not None:
                _fail_before(fault)
            if not arrival.key:
                answer = await self._answer(arrival, act, fault)
                return _response(arrival, _fail_after(fault) or answer, fault)
            if len(arrival.key) > LONGEST_KEY:
                raise Refusal(f"Keys for idempotent requests have up to {LONGEST_KEY} characters", executed=False)
            claim = self._replays.claim(arrival.account, arrival.key, arrival.path, arrival.body)
        except Refusal as refusal:
            return _response(arrival, _refused(refusal), fault)
        if claim.answer is not None:
            return _response(arrival, _fail_after(fault) or claim.answer, fault, replayed=True)
        return await self._claimed(arrival, act, fault, claim)

    async def _claimed(self, arrival: _Arrival, act: Callable[[], Json], fault: Fault | None, claim: Claim) -> Response:
        """Answer a request whose key is its own, and keep the answer."""
        try:
            answer = await self._answer(arrival, act, fault)
            if fault is not None and fault.stored:
                answer = _fail_after(fault) or answer
            claim.answer = answer
        except Refusal as refusal:
            answer = _refused(refusal)
            # The second API runs a request again that has failed.
            claim.answer = answer if refusal.executed and not arrival.second else None
        finally:
            if claim.answer is None:
                self._replays.forget(arrival.account, arrival.key)
        return _response(arrival, _fail_after(fault) or answer, fault)

    async def _answer(self, arrival: _Arrival, act: Callable[[], Json], fault: Fault | None) -> Answer:
        if fault is not None and fault.kind == "hold":
            await self._chaos.held()
        self._store.tick()
        self._store.cause = Cause(arrival.id, arrival.key or None)
        try:
            return Answer(200, json.dumps(act()).encode())
        finally:
            self._store.cause = None

    def _admit(self, arrival: _Arrival) -> None:
        """Whose request it is, and which version it speaks."""
        headers = arrival.request.headers
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Refusal("You did not provide an API key.", status=401, executed=False)
        if not compare_digest(key.encode(), self._api_key.encode()):
            raise Refusal(f"Invalid API Key provided: {key[:7]}****", status=401, executed=False)
        version = headers.get("stripe-version", "")
        if version != stripe.api_version:
            raise Refusal(f"Invalid Stripe API version: {version!r}, not {stripe.api_version}", executed=False)
        account = arrival.account
        if not account:
            return
        if account not in {each["id"] for each in self._store.newest("v2.core.account")}:
            message = f"The provided key does not have access to account '{account}' (or that account does not exist)."
            raise Refusal(message, status=403, code="account_invalid", executed=False)
        if not arrival.second and arrival.path != f"/v1/accounts/{account}":
            raise Refusal("The fake Stripe answers /v1 for the platform alone, not for an account", executed=False)


def _fail_before(fault: Fault) -> None:
    """Raise what happens before anything is done."""
    if fault.kind == "timeout":
        raise httpx2.ReadTimeout("the fake Stripe did not answer in time")
    if fault.kind == "before":
        raise _trouble(500)
    if isinstance(fault.kind, int):
        raise _trouble(fault.kind)


def _fail_after(fault: Fault | None) -> Answer | None:
    """What comes in the place of the answer, once everything is done."""
    if fault is not None and fault.kind == "lost":
        raise httpx2.ReadError("the reply of the fake Stripe was lost")
    return _refused(_trouble(500)) if fault is not None and fault.kind == "after" else None


def _trouble(status: int) -> Refusal:
    if status == 409:
        message = "There is currently another in-progress request using this Idempotent Key. Please try again later."
        return Refusal(message, status=409, kind="idempotency_error", code="idempotency_key_in_use", executed=False)
    if status == 429:
        return Refusal("Too many requests hit the API too quickly.", status=429, code="rate_limit", executed=False)
    return Refusal("An unknown error occurred", status=status, kind="api_error", executed=False)


def _refused(refusal: Refusal) -> Answer:
    return Answer(refusal.status, json.dumps(refusal.envelope()).encode())


def _response(arrival: _Arrival, answer: Answer, fault: Fault | None, *, replayed: bool = False) -> Response:
    headers = {"Request-Id": arrival.id, "Stripe-Version": stripe.api_version}
    if arrival.key:
        headers["Idempotency-Key"] = arrival.key
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    if fault is not None and fault.should_retry is not None:
        headers["Stripe-Should-Retry"] = str(fault.should_retry).lower()
    return Response(answer.body, answer.status, headers, media_type="application/json")


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Refusal("The request body is not UTF-8", executed=False) from error
