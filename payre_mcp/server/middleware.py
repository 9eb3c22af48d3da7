"""The one seam: every request passes here, and a priced call is held, run, then captured or voided.

Charged is a call that produced a final result which is not an error, whether or not anyone still listens. A refusal, an
error, an exception, a cancellation before a result, and a round that asks for more input cost nothing.
"""

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from pydantic import BaseModel

from payre_mcp.errors import (
    CallRefused,
    HoldNotOpen,
    HoldUnknown,
    PaymentRequired,
    PayreError,
    PriceSpecInvalid,
    Problem,
    ResultNotStored,
)
from payre_mcp.gateway.base import Authorization, CallOutcome, CallRequest, Gateway, Replay
from payre_mcp.identity import caller_key, request_headers, request_meta
from payre_mcp.pricing import PriceSpec, Target
from payre_mcp.receipts import canonical_json, sha256_hex
from payre_mcp.server import wire
from payre_mcp.server.calls import PaidCall, Running, running
from payre_mcp.server.host import Host

logger = logging.getLogger(__name__)

SETTLE_WITHIN_S = 10.0
"""How long a result waits for its charge. After that it goes out marked `pending`; the charge stays queued."""

Run = Callable[[], Awaitable[HandlerResult]]


class Ledger(Protocol):
    """Where the seam gets its gateway from: opened when first needed, the current price list published."""

    async def ready(self) -> Gateway:
        """The open gateway. Raises `PayreError` when there is none."""
        ...


class Metering:
    """Meters one server. `prices` may grow while the server runs; a price is never taken away."""

    def __init__(self, ledger: Ledger, *, server_name: str, in_description: bool) -> None:
        self._ledger, self._in_description = ledger, in_description
        self.server_name = server_name
        self.host: Host | None = None
        self.prices: dict[Target, PriceSpec] = {}

    def check_targets(self) -> None:
        """Raise `PriceSpecInvalid` when a price names no tool: a typing mistake must not make the tool that was meant free."""
        if self.host is None:
            return
        problems = [
            Problem("unknown_target", target.name, "no such tool; a price that names nothing would charge nothing")
            for target in self.prices
            if not self.host.has_tool(target.name)
        ]
        if problems:
            raise PriceSpecInvalid(problems)

    async def request(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Meter a request at the wire, where results are finished dictionaries."""
        if ctx.request_id is None:
            return await call_next(ctx)
        if wire.is_list(ctx.method):
            try:
                self.check_targets()
            except PriceSpecInvalid as error:
                return self._refuse(ctx, error)
            out = _as_dict(await call_next(ctx))
            return wire.with_prices(ctx.method, out, self.prices.get, in_description=self._in_description)
        target = wire.target_of(ctx.method, ctx.params)
        return await call_next(ctx) if target is None else await self._call(ctx, target, lambda: call_next(ctx))

    async def inner_call(self, name: str, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Meter a tool call at the tool: what the wire has charged passes, what it has not is charged here.

        A call that was charged under another name is refused: the price that was paid is not the price of what runs.
        """
        target, now = Target("tool", name), running.get()
        if now is None or now.meter is not self:
            return await self._call(ctx, target, lambda: call_next(ctx))
        if now.call.target != target and target in self.prices:
            paid = now.call.target.name
            return self._refuse(
                ctx, CallRefused(f"this call was charged as {paid!r} and reached {name!r}; it does not run, and costs nothing")
            )
        return await call_next(ctx)

    async def _call(self, ctx: ServerRequestContext[Any, Any], target: Target, run: Run) -> HandlerResult:
        spec = self.prices.get(target)
        params = ctx.params or {}
        arguments = cast("Any", params.get("arguments") or {})
        if spec is None:
            return await run()
        if not self._can_run(target, arguments):
            return await self._run_unheld(ctx, run)
        try:
            meta = request_meta(params)
            api_key = caller_key(request_headers(ctx.request), meta)
            if api_key is None:
                if spec.is_free:
                    return await run()
                raise PaymentRequired(price_micros=spec.ceiling(arguments).micros)
            request = CallRequest(
                api_key=api_key,
                server=self.server_name,
                target=target,
                price_version=spec.version,
                args_sha256=sha256_hex(canonical_json(arguments)),
                max_price=wire.max_price(meta),
                idempotency_key=wire.idempotency_key(meta),
            )
            gateway = await self._ledger.ready()
            authorized = await gateway.authorize(request)
            if isinstance(authorized, Replay):
                return _replayed(authorized)
        except PayreError as error:
            return self._refuse(ctx, error)
        return await self._run_paid(gateway, authorized, run)

    async def _run_paid(self, gateway: Gateway, authorization: Authorization, run: Run) -> HandlerResult:
        """Run a call whose money is held. Whatever happens, the hold is ended: captured or voided, once."""
        call = PaidCall(authorization.request.target, wire.consumer_id(authorization.consumer_id), authorization.held)
        token = running.set(Running(self, call))
        succeeded = False
        try:
            out = _as_dict(await run())
            succeeded = wire.is_success(out)
        finally:
            running.reset(token)
            if not succeeded:
                await _void(gateway, authorization)
        return await _capture(gateway, authorization, out) if succeeded else out

    async def _run_unheld(self, ctx: ServerRequestContext[Any, Any], run: Run) -> HandlerResult:
        """Let the host say what is wrong with a call. One that it takes after all is paid at the tool, or not delivered."""
        out = _as_dict(await run())
        if wire.is_success(out) and not wire.is_settled(out):
            return self._refuse(ctx, CallRefused("this call was first refused and then taken; try again. Nothing was charged"))
        return out

    def _can_run(self, target: Target, arguments: object) -> bool:
        """Whether the host will run this; if not, it says why itself and nothing is held."""
        if self.host is None:
            return True
        return (
            self.host.has_tool(target.name)
            and isinstance(arguments, dict)
            and self.host.accepts(target.name, cast("dict[str, Any]", arguments))
        )

    def _refuse(self, ctx: ServerRequestContext[Any, Any], error: PayreError) -> HandlerResult:
        info = self.host.info() if self.host is not None else None
        return wire.refusal(ctx.method, error, version=ctx.protocol_version, server_info=info)


async def _capture(gateway: Gateway, authorization: Authorization, out: wire.Result) -> wire.Result:
    replayable = authorization.request.idempotency_key is not None
    outcome = CallOutcome(result_sha256=wire.result_digest(out), stored_result=json.dumps(out) if replayable else "")
    try:
        # A caller who leaves now has had its result made: the charge stands, and is not torn by the leaving.
        with anyio.move_on_after(SETTLE_WITHIN_S, shield=True):
            return wire.with_receipt(out, await gateway.capture(authorization, outcome))
    except (HoldNotOpen, HoldUnknown) as error:
        logger.warning("a call of %s was delivered and not charged: %s", authorization.request.target.name, error)
        return wire.with_settlement(out, "uncollected")
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
