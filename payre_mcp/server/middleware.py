"""The one seam: every request passes here, and a priced call is held, run, then captured or voided.

Charged is a call that produced a final result which is not an error, whether or not anyone still listens. A refusal, an
error, an exception, a cancellation before a result, and a round that asks for more input cost nothing.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from pydantic import BaseModel

from payre_mcp.clock import Clock
from payre_mcp.errors import (
    CallRefused,
    HoldNotOpen,
    HoldUnknown,
    NotFound,
    NotPriced,
    PayreError,
    PriceSpecInvalid,
    ResultNotStored,
    UsageMissing,
)
from payre_mcp.gateway.base import Authorization, CallOutcome, CallRequest, Gateway, Replay
from payre_mcp.identity import caller_key, request_headers, request_meta
from payre_mcp.pricing import PriceSpec, Target, Usage
from payre_mcp.pricing.spec import DefaultOf
from payre_mcp.pricing.usage import Sent, UsageReport, known_usage, settled_usage
from payre_mcp.receipts import canonical_json, sha256_hex
from payre_mcp.server import wire
from payre_mcp.server.calls import PaidCall, Running, running
from payre_mcp.server.host import Host
from payre_mcp.server.prices import Prices

logger = logging.getLogger(__name__)

SETTLE_WITHIN_S = 10.0
"""How long a result waits for its charge. After that it goes out marked `pending`; the charge stays queued."""

Run = Callable[[], Awaitable[HandlerResult]]

ONE_REQUEST = Usage({"requests": 1})
"""All that is known of a call at a fixed price, and all that it takes."""


class Ledger(Protocol):
    """Where the seam gets its gateway from: opened when first needed, the current price list published."""

    async def ready(self) -> Gateway:
        """The open gateway. Raises `PayreError` when there is none."""
        ...


class Metering:
    """Meters one server."""

    def __init__(self, ledger: Ledger, *, server_name: str, in_description: bool, clock: Clock) -> None:
        self._ledger, self._in_description, self._clock = ledger, in_description, clock
        self.server_name = server_name
        self.host: Host | None = None
        self.prices = Prices()
        self._is_at_wire = False

    def check_targets(self) -> None:
        """Raise `PriceSpecInvalid` when a price names nothing: a typing mistake must not make free what was meant."""
        if self.host is not None:
            self.prices.check(self.host)

    async def request(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Meter a request at the wire, where results are finished dictionaries."""
        self._is_at_wire = True
        if ctx.request_id is None:
            return await call_next(ctx)
        if wire.is_list(ctx.method):
            try:
                self.check_targets()
            except PriceSpecInvalid as error:
                return self._refuse(ctx, error)
            out = _as_dict(await call_next(ctx))
            return wire.with_prices(ctx.method, out, self.prices.adverts, in_description=self._in_description)
        called = wire.called(ctx.method, ctx.params)
        return await call_next(ctx) if called is None else await self._call(ctx, *called, lambda: call_next(ctx))

    async def inner_call(self, name: str, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Meter a tool call at the tool: what the wire has charged passes, what it has not is charged here.

        A call that was charged under another name is refused: the price that was paid is not the price of what runs.
        """
        target, now = Target("tool", name), running.get()
        if not self._is_at_wire and any(each.kind != "tool" for each in self.prices.specs):
            message = "this server prices resources or prompts, and only as middleware does Payre meter them: use install()"
            return self._refuse(ctx, CallRefused(f"{message}. Nothing ran and nothing was charged"))
        if now is None or now.meter is not self:
            return await self._call(ctx, "tool", name, lambda: call_next(ctx))
        if now.call.target != target and target in self.prices.specs:
            paid = now.call.target.name
            return self._refuse(
                ctx, CallRefused(f"this call was charged as {paid!r} and reached {name!r}; it does not run, and costs nothing")
            )
        return await call_next(ctx)

    async def quote(
        self, ctx: ServerRequestContext[Any, Any], kind: str, name: str, arguments: Mapping[str, Any]
    ) -> HandlerResult:
        """What a call would cost its caller now, at most; nothing is held. Raises `MCPError` for what cannot be quoted."""
        target = self._target(kind, name)
        spec = self.prices.specs.get(target)
        try:
            if spec is None:
                if self.host is not None and not self.host.has(target):
                    raise NotFound(f"no {kind} {name!r}")
                return wire.quoted(target, None, None)
            gateway = await self._ledger.ready()
            request = self._request(ctx, target, name, spec, self._arguments(target, name, {"arguments": arguments}))
            return wire.quoted(target, self.prices.adverts[target], await gateway.quote(request))
        except PayreError as error:
            return self._refuse(ctx, error)

    async def _call(self, ctx: ServerRequestContext[Any, Any], kind: str, name: str, run: Run) -> HandlerResult:
        target = self._target(kind, name)
        spec = self.prices.specs.get(target)
        if spec is None:
            return await run() if self.prices.default == "free" else await self._unpriced(ctx, target, run)
        arguments = self._arguments(target, name, ctx.params or {})
        if not self._can_run(target, arguments):
            return await self._run_unheld(ctx, run)
        try:
            request = self._request(ctx, target, name, spec, arguments)
            if request.api_key is None and spec.is_free:
                return await run()
            gateway = await self._ledger.ready()
            authorized = await gateway.authorize(request)
            if isinstance(authorized, Replay):
                return _replayed(authorized)
        except PayreError as error:
            return self._refuse(ctx, error)
        try:
            return await self._run_paid(gateway, authorized, spec, run)
        except UsageMissing as error:
            logger.warning("a call of %s is withheld and not charged: %s", target.name, error)
            return self._refuse(ctx, error)

    def _request(
        self, ctx: ServerRequestContext[Any, Any], target: Target, name: str, spec: PriceSpec, arguments: Mapping[str, Any]
    ) -> CallRequest:
        """What the ledger must know of this call, measured here: arguments never leave the server."""
        meta = request_meta(ctx.params)
        sent = {"uri": name} if target.kind == "resource" else arguments
        plan = spec.plan_of(arguments, self._default_of(target))
        known = ONE_REQUEST
        if plan.fixed_micros is None:
            known = known_usage(plan, Sent.address(name) if target.kind == "resource" else Sent.arguments(arguments))
        return CallRequest(
            api_key=caller_key(request_headers(ctx.request), meta),
            server=self.server_name,
            target=target,
            price_version=spec.version,
            variant=plan.variant,
            known=known,
            args_sha256=sha256_hex(canonical_json(sent)),
            max_price=wire.max_price(meta),
            idempotency_key=wire.idempotency_key(meta),
        )

    def _arguments(self, target: Target, name: str, params: Mapping[str, Any]) -> Any:
        """What was sent; not yet known to be a mapping."""
        return params.get("arguments") or {} if self.host is None else self.host.arguments(target, name, params)

    def _target(self, kind: str, name: str) -> Target:
        return Target(kind, name) if self.host is None else self.host.target(kind, name)

    async def _run_paid(self, gateway: Gateway, authorization: Authorization, spec: PriceSpec, run: Run) -> HandlerResult:
        """Run a call whose money is held. Whatever happens, the hold is ended: captured or voided, once.

        Raises:
            UsageMissing: It ran, what it is priced by is not known, and the price makes that an error. Voided.
        """
        plan, request = authorization.plan, authorization.request
        report = UsageReport(plan.dimensions)
        call = PaidCall(request.target, wire.consumer_id(authorization.consumer_id), authorization.held)
        token, started = running.set(Running(self, call, report)), self._clock.elapsed_us()
        settled = False
        try:
            out = _as_dict(await run())
            if wire.is_success(out):
                took_us = self._clock.elapsed_us() - started
                usage = settled_usage(plan, request.known, report, lambda: wire.answered(out, took_us), spec.usage_preset)
                out = await _capture(gateway, authorization, out, usage)
                settled = True
        finally:
            running.reset(token)
            report.close()
            if not settled:
                await _void(gateway, authorization)
        return out

    async def _unpriced(self, ctx: ServerRequestContext[Any, Any], target: Target, run: Run) -> HandlerResult:
        """What has no price does not run under `default: deny`; what is not there is for the host to say."""
        if self.host is not None and not self.host.has(target):
            return await run()
        message = f"the {target.kind} {target.name!r} has no price and this server runs nothing without one; nothing was charged"
        return self._refuse(ctx, NotPriced(message))

    def _default_of(self, target: Target) -> DefaultOf:
        host = self.host
        return (lambda path: None) if host is None else lambda path: host.default_of(target, path)

    async def _run_unheld(self, ctx: ServerRequestContext[Any, Any], run: Run) -> HandlerResult:
        """Let the host say what is wrong with a call. One that it takes after all is paid at the tool, or not delivered."""
        out = _as_dict(await run())
        if wire.is_success(out) and not wire.is_settled(out):
            return self._refuse(ctx, CallRefused("this call was first refused and then taken; try again. Nothing was charged"))
        return out

    def _can_run(self, target: Target, arguments: object) -> bool:
        """Whether the host will run this; if not, it says why itself and nothing is held."""
        return self.host is None or (self.host.has(target) and self.host.accepts(target, arguments))

    def _refuse(self, ctx: ServerRequestContext[Any, Any], error: PayreError) -> HandlerResult:
        info = self.host.info() if self.host is not None else None
        return wire.refusal(ctx.method, error, version=ctx.protocol_version, server_info=info)


async def _capture(gateway: Gateway, authorization: Authorization, out: wire.Result, usage: Usage) -> wire.Result:
    stored = json.dumps(out) if authorization.request.idempotency_key is not None else ""
    outcome = CallOutcome(usage=usage, result_sha256=wire.result_digest(out), stored_result=stored)
    try:
        # A caller who leaves now has had its result made: the charge stands, and is not torn by the leaving.
        with anyio.move_on_after(SETTLE_WITHIN_S, shield=True):
            return wire.with_receipt(out, await gateway.capture(authorization, outcome))
    except (HoldNotOpen, HoldUnknown) as error:
        logger.warning("a call of %s was delivered and not charged: %s", authorization.request.target.name, error)
        return wire.with_settlement(out, "uncollected")
    except UsageMissing:
        raise
    except PayreError as error:
        logger.warning("the charge of a call of %s is not settled yet: %s", authorization.request.target.name, error)
    return wire.with_settlement(out, "pending")


async def _void(gateway: Gateway, authorization: Authorization) -> None:
    try:
        with anyio.move_on_after(SETTLE_WITHIN_S, shield=True):
            await gateway.void(authorization)
    except PayreError as error:
        logger.warning("a hold could not be given back now and expires by itself: %s", error)


def _replayed(replay: Replay) -> wire.Result:
    if replay.result is None:
        raise ResultNotStored(
            "this idempotency key was paid before and its answer is no longer kept; it was not charged again",
            receipt=replay.settlement.receipt,
        )
    return wire.with_receipt(dict(replay.result), replay.settlement, replayed=True)


def _as_dict(result: HandlerResult) -> wire.Result:
    if isinstance(result, BaseModel):
        return result.model_dump(by_alias=True, mode="json", exclude_none=True)
    return result or {}
