"""The one seam: every request passes here, and a priced call is held, run, then captured or voided.

Charged is a call that produced a final result which is not an error, whether or not anyone still listens. A refusal, an
error, an exception and a cancellation before a result cost nothing; a round that asks for more input keeps the hold.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from anyio.lowlevel import checkpoint_if_cancelled
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from pydantic import BaseModel

from payre_mcp.clock import Clock
from payre_mcp.errors import (
    CallRefused,
    HoldNotOpen,
    HoldUnknown,
    InsufficientBalance,
    KeyRejected,
    NotFound,
    NotPriced,
    PaymentRequired,
    PayreError,
    PriceSpecInvalid,
    ResultNotStored,
    UsageMissing,
)
from payre_mcp.gateway.base import Authorization, CallRequest, Gateway, Replay
from payre_mcp.identity import caller_key, peer_address, request_headers, request_meta
from payre_mcp.pricing import PriceSpec, Target
from payre_mcp.pricing.usage import ONE_REQUEST, Sent, UsageReport, known_usage, settled_usage
from payre_mcp.receipts import canonical_json, sha256_hex
from payre_mcp.server import rounds, top_up, wire
from payre_mcp.server.advice import key_advice
from payre_mcp.server.calls import PaidCall, Running, running
from payre_mcp.server.held import Held, held_with_call
from payre_mcp.server.host import Host, HostCall, UnseenHost
from payre_mcp.server.prices import Prices
from payre_mcp.server.rounds import Left, Round
from payre_mcp.server.settling import Settling
from payre_mcp.server.telemetry import Telemetry
from payre_mcp.server.undelivered import Undelivered
from payre_mcp.throttle import Throttle

logger = logging.getLogger(__name__)

Context = ServerRequestContext[Any, Any]
Run = Callable[[], Awaitable[HandlerResult]]

TOP_UP_WAIT_S, TOP_UP_WAIT_IN_JSON_S = 55.0, 20.0
"""How long a call waits for money that its caller went to add: below the time-outs of clients, which are shorter where
nothing keeps the connection alive."""


class Ledger(Protocol):
    """Where the seam gets its gateway from: opened when first needed, the current price list published."""

    async def ready(self) -> Gateway:
        """The open gateway. Raises `PayreError` when there is none."""
        ...


@dataclass(slots=True)
class _Call:
    """One call of something priced, on its way through the seam."""

    ctx: Context
    request: CallRequest
    spec: PriceSpec
    run: Run
    round: Round | None
    """What its earlier rounds left; None where it cannot have rounds."""


class Metering:
    """Meters one server."""

    def __init__(
        self, ledger: Ledger, *, server_name: str, in_description: bool, clock: Clock, top_up_wait_s: float | None = None
    ) -> None:
        self._ledger, self._clock, self._top_up_wait_s = ledger, clock, top_up_wait_s
        self.in_description = in_description
        """Whether descriptions end with the price, for models."""
        self.telemetry = Telemetry(server_name, clock)
        self._settling, self._undelivered, self._throttle = Settling(self.telemetry, clock), Undelivered(clock), Throttle(clock)
        self.host: Host = UnseenHost()
        self.prices = Prices()
        self._is_attached = self._is_at_wire = False

    @property
    def server_name(self) -> str:
        """The name under which prices are published and calls are charged."""
        return self.telemetry.server_name

    def attach(self, host: Host, server_name: str) -> None:
        """Meter this host from now on. Raises `ValueError` when it is another one already."""
        if self._is_attached:
            raise ValueError(f"this Payre meters {self.server_name!r} already; make one for each server")
        self.host, self.telemetry.server_name, self._is_attached = host, server_name, True

    async def check_targets(self) -> None:
        """Raise `PriceSpecInvalid` when a price names nothing: a typing mistake must not make free what was meant."""
        if (registry := await self.host.registry(self.prices.specs)) is not None:
            self.prices.check(registry)

    async def request(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Meter a request at the wire, where results are finished dictionaries."""
        self._is_at_wire = True
        if ctx.request_id is None:
            return await call_next(ctx)
        if wire.is_list(ctx.method):
            try:
                await self.check_targets()
            except PriceSpecInvalid as error:
                return self._refuse(ctx, error)
            out = _as_dict(await call_next(ctx))
            return wire.with_prices(ctx.method, out, self.prices.adverts, in_description=self.in_description)
        called = wire.called(ctx.method, ctx.params)
        if called is None:
            return await call_next(ctx)
        round_, inner = rounds.opened(ctx)
        by_hand = Held(self._settling)
        token = held_with_call.set(by_hand)
        try:
            out = await self.call(inner, *called, lambda: call_next(inner), round_)
            if by_hand.open and wire.is_success(finished := _as_dict(out)):
                out = await by_hand.capture(finished)
            elif by_hand.refusal and _as_dict(out).get("isError"):
                out = self._refuse(ctx, by_hand.refusal)
            elif wire.asks_for_input(asking := _as_dict(out)):
                out = rounds.wrapped(asking)
        finally:
            held_with_call.reset(token)
            await by_hand.void()
        return out

    async def inner_call(self, kind: str, name: str, ctx: Context, run: Run) -> HandlerResult:
        """Meter a call at the thing itself: what the wire has charged passes, what it has not is charged here.

        A call that was charged under another name is refused: the price that was paid is not the price of what runs.
        """
        target, now = await self.host.target(kind, name), running.get()
        if not self._is_at_wire and any(each.kind != "tool" for each in self.prices.specs):
            message = "this server prices resources or prompts, and only as middleware does Payre meter them: use install()"
            return self._refuse(ctx, CallRefused(f"{message}. Nothing ran and nothing was charged"))
        if now is None or now.meter is not self:
            return await self.call(ctx, kind, name, run)
        if now.call.target != target and target in self.prices.specs:
            paid = now.call.target.name
            return self._refuse(
                ctx, CallRefused(f"this call was charged as {paid!r} and reached {name!r}; it does not run, and costs nothing")
            )
        return await run()

    async def quote(self, ctx: Context, kind: str, name: str, arguments: Mapping[str, Any]) -> HandlerResult:
        """What a call would cost its caller now, at most; nothing is held. Raises `MCPError` for what cannot be quoted."""
        target = await self.host.target(kind, name)
        spec = self.prices.specs.get(target)
        try:
            if spec is None:
                if not await self.host.has(target):
                    raise NotFound(f"no {kind} {name!r}")
                return wire.quoted(target, None, None)
            gateway = await self._ledger.ready()
            call = await self.host.call(target, name, {"arguments": arguments})
            quote = await gateway.quote(self._request(ctx, target, name, spec, call))
            return wire.quoted(target, self.prices.adverts[target], quote)
        except PayreError as error:
            return self._refuse(ctx, error)

    async def call(self, ctx: Context, kind: str, name: str, run: Run, round_: Round | None = None) -> HandlerResult:
        """Run a call, and charge it if it is of something priced. Without `round_` each round is a call of its own."""
        target = await self.host.target(kind, name)
        spec = self.prices.specs.get(target)
        if spec is None:
            return await run() if self.prices.default == "free" else await self._unpriced(ctx, target, run)
        try:
            host_call = await self.host.call(target, name, ctx.params or {})
            if not host_call.can_run:
                return await self._run_unheld(ctx, run)
            request = self._request(ctx, target, name, spec, host_call)
            if round_ is not None:
                round_.check_payer(request.api_key)
            if request.api_key is None and spec.is_free:
                return await run()
            return await self._paid(_Call(ctx, request, spec, run, round_))
        except PayreError as error:
            self.telemetry.refused(target, error)
            return self._refuse(ctx, error)

    async def _paid(self, call: _Call) -> HandlerResult:
        """Hold, run, settle. Raises `PayreError` for what is refused."""
        request = call.request
        self._throttle.check(peer_address(call.ctx.request), request.api_key)
        gateway, started = await self._ledger.ready(), self._clock.elapsed_us()
        if self._undelivered.has(request, call.ctx.params):
            await gateway.can_pay(request.api_key or "", request.server)  # a key that is dead gets nothing
            if (out := self._undelivered.take(request, call.ctx.params)) is not None:
                await self._deliver(call, out)
                self.telemetry.ended(request.target, "replayed")
                return wire.replayed(out)
        authorized = await self._authorize(call, gateway)
        if isinstance(authorized, Authorization):
            self.telemetry.held(authorized, started)
            return await self._run(call, gateway, authorized)
        if isinstance(authorized, Replay):
            self.telemetry.ended(request.target, "replayed")
            return _replayed(authorized)
        self.telemetry.ended(request.target, "asked")
        return authorized

    async def _authorize(self, call: _Call, gateway: Gateway) -> Authorization | Replay | wire.Result:
        """The hold of the call, the answer that it had before, or the question to add money."""
        request, peer = call.request, peer_address(call.ctx.request)
        try:
            authorized = await self._held(call, gateway)
        except KeyRejected as error:
            self._throttle.refused(peer)
            error.hint = key_advice(call.ctx)
            raise
        except InsufficientBalance as short:
            if call.round is None or not top_up.can_ask(call.ctx, short):
                raise
            if top_up.asks_by_result(call.ctx) and not call.round.asked:
                return self._question(call, short)
            wait_s = self._top_up_wait_s
            if wait_s is None:
                wait_s = TOP_UP_WAIT_IN_JSON_S if self.host.answers_in_json() else TOP_UP_WAIT_S
            authorized = await top_up.funded(call.ctx, gateway, request, call.round, short, wait_s)
        except PaymentRequired as error:
            if request.api_key is None:
                error.hint = key_advice(call.ctx)
            raise
        self._throttle.accepted(request.api_key)
        return authorized

    async def _held(self, call: _Call, gateway: Gateway) -> Authorization | Replay:
        """The hold of an earlier round, while there is one; else a new one."""
        kept = call.round and call.round.hold
        if kept is not None:
            try:
                return await gateway.resume(kept, call.request)
            except (HoldNotOpen, HoldUnknown):
                # Ended, or taken up by another retry: this is a call of its own, and what was used before is not its own.
                call.round = Round(call.round.payer, asked=call.round.asked, answer=call.round.answer) if call.round else None
        return await gateway.authorize(call.request)

    def _question(self, call: _Call, short: InsufficientBalance) -> wire.Result:
        params = call.ctx.params or {}
        asked = Round(rounds.payer_of(call.request.api_key), asked=True)
        left = Left(asked, params.get("requestState"), params.get("inputResponses") or {})
        return wire.link_question(rounds.QUESTION, top_up.question(short), short.top_up_url or "", left, self.host.info())

    async def _run(self, call: _Call, gateway: Gateway, authorization: Authorization) -> HandlerResult:
        """Run a call whose money is held. Whatever happens, the hold is ended or kept for the next round, once.

        Raises:
            UsageMissing: It ran, what it is priced by is not known, and the price makes that an error. Voided.
        """
        plan, request, before = authorization.plan, authorization.request, call.round or Round()
        report = UsageReport(plan.dimensions)
        paid = PaidCall(request.target, authorization.consumer_id, authorization.held)
        token, started = running.set(Running(self, paid, report)), self._clock.elapsed_us()
        settled = False
        try:
            if any(before.usage):
                report.restore(before.usage)
            out = _as_dict(await call.run())
            took_us = self._clock.elapsed_us() - started + before.took_us
            if wire.is_success(out):
                usage = settled_usage(plan, request.known, report, lambda: wire.answered(out, took_us), call.spec.usage_preset)
                out = await self._settling.capture(gateway, authorization, out, usage)
                settled = True
                if call.round is not None and (by_hand := held_with_call.get()) is not None:
                    out = await by_hand.capture(out)
                await self._deliver(call, out)
            elif wire.asks_for_input(out) and call.round is not None:
                await checkpoint_if_cancelled()  # a question that reaches nobody is no round: its money and key are free
                if kept := await self._settling.suspend(gateway, authorization):
                    settled = True
                    left = Round(rounds.payer_of(request.api_key), kept, before.asked, "", report.saved(), took_us)
                    out = {**out, "requestState": Left(left, out.get("requestState"))}
        except UsageMissing as error:
            logger.warning("a call of %s is withheld and not charged: %s", request.target.name, error)
            raise
        finally:
            running.reset(token)
            report.close()
            if not settled:
                await self._settling.void(gateway, authorization)
        return out

    async def _deliver(self, call: _Call, out: wire.Result) -> None:
        """Let a result that is paid for go out; where its caller has gone, keep it for their next try."""
        if call.request.idempotency_key is not None:
            return  # the ledger keeps it
        try:
            await checkpoint_if_cancelled()
        except BaseException:
            self._undelivered.keep(call.request, call.ctx.params, out)
            raise

    def _request(self, ctx: Context, target: Target, name: str, spec: PriceSpec, call: HostCall) -> CallRequest:
        """What the ledger must know of this call, measured here: arguments never leave the server."""
        meta, arguments = request_meta(ctx.params), call.arguments
        sent = {"uri": name} if target.kind == "resource" else arguments
        plan = spec.plan_of(arguments, call.default_of)
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

    async def _unpriced(self, ctx: Context, target: Target, run: Run) -> HandlerResult:
        """What has no price does not run under `default: deny`; what is not there is for the host to say."""
        if not await self.host.has(target):
            return await run()
        message = f"the {target.kind} {target.name!r} has no price and this server runs nothing without one; nothing was charged"
        return self._refuse(ctx, NotPriced(message))

    async def _run_unheld(self, ctx: Context, run: Run) -> HandlerResult:
        """Let the host say what is wrong with a call. One that it takes after all is paid at the tool, or not delivered."""
        out = _as_dict(await run())
        if wire.is_success(out) and not wire.is_settled(out):
            return self._refuse(ctx, CallRefused("this call was first refused and then taken; try again. Nothing was charged"))
        return out

    def _refuse(self, ctx: Context, error: PayreError) -> HandlerResult:
        return wire.refusal(ctx.method, error, version=ctx.protocol_version, server_info=self.host.info())


def _replayed(replay: Replay) -> wire.Result:
    if replay.result is None:
        raise ResultNotStored(
            "this idempotency key was paid before and its answer is no longer kept; it was not charged again",
            receipt=replay.settlement.receipt,
        )
    return wire.replayed(wire.with_receipt(dict(replay.result), replay.settlement))


def _as_dict(result: HandlerResult) -> wire.Result:
    if isinstance(result, BaseModel):
        return result.model_dump(by_alias=True, mode="json", exclude_none=True)
    return result or {}
