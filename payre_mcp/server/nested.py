"""Calls inside calls, for a host that sends a client's one request through several of its own: which of them is charged.

The call that was charged at the wire has to arrive under the name that was charged. What runs inside a charged call is
part of it: one charge, the price of the outer one. Inside a free call (a search proxy, resources offered as tools, a
rename further in) every priced call is charged on its own, with the key of the request. What no client asked for is the
server's own code. Nothing priced that a client caused runs unpaid.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError

from payre_mcp.errors import CallRefused, PayreError
from payre_mcp.identity import request_meta
from payre_mcp.pricing import Target
from payre_mcp.receipts import canonical_json, sha256_hex
from payre_mcp.server import wire
from payre_mcp.server.calls import Running, running
from payre_mcp.server.middleware import Metering

Context = ServerRequestContext[Any, Any]
T = TypeVar("T")


class Shape(Protocol[T]):
    """How the host's results of one kind and those of the wire are made of each other."""

    def to_wire(self, result: T) -> wire.Result:
        """A result as its client would see it."""
        ...

    def from_wire(self, out: wire.Result) -> T:
        """The result of an earlier call, as the host's own."""
        ...

    def with_meta(self, result: T, meta: Mapping[str, Any]) -> T:
        """The same result with this `_meta`."""
        ...

    def refused(self, out: wire.Result, *, completed: bool) -> T:
        """Refuse with this tool error: raise its text where that is completed further out, else deliver it whole."""
        ...


class Place(Protocol):
    """A server whose calls pass here: the metered one, or one that is mounted on it."""

    def keeps(self, kind: str, name: str) -> bool:
        """Whether answers of this are cached here, and given to others."""
        ...


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A call on its way through a host."""

    place: Place
    kind: str
    name: str
    target: Target | None
    """What it means on the metered server; None where that has no such thing."""
    address: str
    """Its name or address there."""
    params: Mapping[str, Any]
    meta: Mapping[str, Any]
    """What the host adds to the `_meta` of the request."""
    ctx: Context | None
    """The request of the client that caused it; None where the server itself did."""
    run: Callable[[], Awaitable[T]]
    shape: Shape[T]


class _Paid(Enum):
    """Who pays for a call."""

    OWN_CODE = "nobody: no client asked for it"
    NOT_YET = "nobody: it is free, and what it reaches may not be"
    IN_PART = "the charged call that it is part of"
    ITSELF = "its caller"


@dataclass(frozen=True, slots=True)
class Entered:
    """A call that is running, and the one around it."""

    meter: Metering
    place: Place
    kind: str
    name: str
    target: Target | None
    paid: _Paid
    outer: "Entered | None"


@dataclass(eq=False, slots=True)
class _Request:
    """A request on the wire, and what the calls inside it leave for its answer."""

    ctx: Context
    receipts: list[str] = field(default_factory=list[str])
    refusals: list[wire.Result] = field(default_factory=list[wire.Result])
    calls: Counter[str] = field(default_factory=Counter[str])

    def is_of(self, ctx: Context) -> bool:
        """Whether this context is of the same request: its parameters may have been changed on the way."""
        return self.ctx.session is ctx.session and self.ctx.request_id == ctx.request_id

    def refusal(self, text: str) -> wire.Result | None:
        """The refusal that an error came from."""
        return next((each for each in reversed(self.refusals) if _text(each) in text), None)


_request: ContextVar[_Request | None] = ContextVar("payre_wire_request", default=None)
_entered: ContextVar[Entered | None] = ContextVar("payre_entered_call", default=None)
_arrived: ContextVar[Running | None] = ContextVar("payre_arrived_call", default=None)
"""The charged call whose own code runs: further calls in it are part of it."""


async def at_wire(metering: Metering, ctx: Context, call_next: CallNext) -> HandlerResult:
    """Around the seam: what calls inside a request were charged, and why one was refused, reaches its client."""
    if ctx.request_id is None:
        return await call_next(ctx)
    request = _Request(ctx)
    token = _request.set(request)
    try:
        out = await call_next(ctx)
    except MCPError as error:
        if (refusal := request.refusal(error.error.message)) is None:
            raise
        raise as_error(refusal) from error
    except PayreError as error:
        return wire.refusal(ctx.method, error, version=ctx.protocol_version, server_info=metering.host.info())
    finally:
        _request.reset(token)
    if not isinstance(out, dict):
        return out
    meta: Mapping[str, Any] = out.get("_meta") or {}
    if out.get("isError") and (refusal := request.refusal(_text(out))) is not None:
        out = {**refusal, "_meta": {**meta, **refusal["_meta"]}}
    return wire.with_receipts(out, request.receipts)


def as_error(refusal: wire.Result) -> MCPError:
    """A refusal where the method has no error result of its own."""
    facts = refusal["structuredContent"]
    return MCPError(code=wire.REFUSED, message=facts["message"], data=facts)


class Nested:
    """Meters the calls inside the requests of one server."""

    def __init__(self, metering: Metering) -> None:
        self._metering = metering

    def around(self) -> Entered | None:
        """The innermost call that runs here; other servers' may run between it and the one that is coming."""
        entered = _entered.get()
        while entered is not None and entered.meter is not self._metering:
            entered = entered.outer
        return entered

    async def outermost(self, call: Call[T]) -> T:
        """A call as it is asked for, before anything of the host has looked at it."""
        if call.ctx is None or _of_request(call.ctx) is not None:
            return await self._asked(call)
        request = _Request(call.ctx)  # the wire is another server's, that this one is mounted on: its answer starts here
        token = _request.set(request)
        try:
            result = await self._asked(call)
        except Exception as error:
            if (refusal := request.refusal(str(error))) is None:
                raise
            return call.shape.refused(refusal, completed=False)
        finally:
            _request.reset(token)
        out = call.shape.to_wire(result) if request.receipts else {}
        return call.shape.with_meta(result, wire.with_receipts(out, request.receipts)["_meta"]) if _is_final(out) else result

    async def _asked(self, call: Call[T]) -> T:
        now, around = running.get(), self.around()
        if call.ctx is None:
            return await self._run(call, _Paid.OWN_CODE)
        if now is not None and now.meter is self._metering and _arrived.get() is not now:
            if call.target != now.call.target and call.target in self._metering.prices.specs:
                return self._refuse_other(call, now.call.target, call.ctx)
            token = _arrived.set(now)
            try:
                return await self._run(call, self._paid(now.call.target))
            finally:
                _arrived.reset(token)
        if around is not None and around.paid in (_Paid.ITSELF, _Paid.IN_PART):
            return await self._run(call, _Paid.IN_PART)
        if self._has_price(call):
            return await self._charged(call, call.ctx)
        return await self._run(call, _Paid.NOT_YET)

    async def innermost(self, call: Call[T]) -> T:
        """The same call as it will run: a host may have changed its name since."""
        asked = self.around()
        if asked is None or asked.place is not call.place:
            return await self.outermost(call)
        same = (call.kind, call.name) == (asked.kind, asked.name) or call.target == asked.target
        if same or asked.paid in (_Paid.OWN_CODE, _Paid.IN_PART) or not self._has_price(call):
            return await call.run()
        assert call.ctx is not None
        if asked.paid is _Paid.ITSELF:
            return self._refuse_other(call, asked.target, call.ctx)
        return await self._charged(call, call.ctx)

    def _has_price(self, call: Call[Any]) -> bool:
        prices = self._metering.prices
        return call.target is not None and (call.target in prices.specs or prices.default == "deny")

    def _paid(self, target: Target | None) -> _Paid:
        """Who pays for what runs inside a call of a target: a price of nothing pays for nothing."""
        spec = None if target is None else self._metering.prices.specs.get(target)
        return _Paid.NOT_YET if spec is not None and spec.is_free else _Paid.ITSELF

    async def _run(self, call: Call[T], paid: _Paid) -> T:
        entered = Entered(self._metering, call.place, call.kind, call.name, call.target, paid, _entered.get())
        token = _entered.set(entered)
        try:
            return await call.run()
        finally:
            _entered.reset(token)

    async def _charged(self, call: Call[T], ctx: Context) -> T:
        """Charge a call on its own."""
        paid = self._paid(call.target)
        if paid is _Paid.ITSELF and (keeper := next(_keepers(_entered.get()), None)) is not None:
            return self._refuse(
                call,
                CallRefused(
                    f"{call.address!r} has a price, and {keeper.name!r}, which called it, has its answers cached for others; "
                    f"exclude {keeper.name!r} from ResponseCachingMiddleware. Nothing ran and nothing was charged"
                ),
                ctx,
            )
        made: list[tuple[T, wire.Result]] = []

        async def run() -> HandlerResult:
            token = _arrived.set(running.get())
            try:
                result = await self._run(call, paid)
            finally:
                _arrived.reset(token)
            made.append((result, call.shape.to_wire(result)))
            return made[-1][1]

        try:
            out = await self._metering.call(_inner_context(call, ctx), call.kind, call.address, run)
        except PayreError as error:
            return self._refuse(call, error, ctx)
        assert isinstance(out, dict)
        if made and out is made[-1][1]:
            return made[-1][0]
        if not wire.is_success(out):
            return self._refused(call, out)
        meta: Mapping[str, Any] = out.get("_meta") or {}
        if (receipt := meta.get(wire.RECEIPT)) and (request := _of_request(ctx)) is not None:
            request.receipts.append(receipt)
        return call.shape.with_meta(made[-1][0], meta) if made else call.shape.from_wire(out)

    def _refuse_other(self, call: Call[T], charged: Target | None, ctx: Context) -> T:
        paid = "" if charged is None else charged.name
        message = f"this call was charged as {paid!r} and reached {call.address!r}; it does not run, and costs nothing"
        return self._refuse(call, CallRefused(message), ctx)

    def _refuse(self, call: Call[T], error: PayreError, ctx: Context) -> T:
        out = wire.refusal("tools/call", error, version=ctx.protocol_version, server_info=self._metering.host.info())
        return self._refused(call, out)

    def _refused(self, call: Call[T], out: wire.Result) -> T:
        request = _request.get()
        assert request is not None
        request.refusals.append(out)
        return call.shape.refused(out, completed=True)


def _of_request(ctx: Context) -> _Request | None:
    """What the wire knows of a request; None where another server's wire took it."""
    request = _request.get()
    return request if request is not None and request.is_of(ctx) else None


def _keepers(entered: Entered | None) -> Iterator[Entered]:
    """The free calls around whose answers are cached, with what is paid inside them."""
    while entered is not None:
        if entered.paid is _Paid.NOT_YET and entered.place.keeps(entered.kind, entered.name):
            yield entered
        entered = entered.outer


def _inner_context(call: Call[Any], ctx: Context) -> Context:
    """The request as it would have come for this call alone, under an idempotency key of its own."""
    meta, request = {**request_meta(ctx.params), **call.meta}, _of_request(ctx)
    if request is not None and isinstance(key := meta.get(wire.IDEMPOTENCY_KEY), str):
        this = sha256_hex(canonical_json([key, call.kind, call.address, dict(call.params)]))
        request.calls[this] += 1
        meta[wire.IDEMPOTENCY_KEY] = sha256_hex(f"{this} {request.calls[this]}".encode())
    return replace(ctx, method="tools/call", params={**call.params, "_meta": meta})


def _is_final(out: wire.Result) -> bool:
    return bool(out) and out.get("resultType") in (None, "complete")


def _text(out: wire.Result) -> str:
    return "\n".join(str(block.get("text", "")) for block in out.get("content", ()))
