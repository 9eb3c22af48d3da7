"""The gateway to a hub: the same port as over a local ledger, spoken over HTTP.

Prices are published once and plans made here; each act is one entry of a batch that `Lane` sends. A hold is answered
or refused within two seconds and a half. Whatever becomes of a request, an act is done once: the hub knows it by its id.
"""

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import anyio
import anyio.to_thread
from pydantic import ValidationError

from payre_mcp.clock import Clock, SystemClock
from payre_mcp.errors import (
    HoldNotOpen,
    HoldUnknown,
    InProgress,
    InvalidRequest,
    NotPriced,
    PaymentRequired,
    PayreError,
    PayreUnavailable,
)
from payre_mcp.gateway.base import Authorization, CallOutcome, CallRequest, Replay, Settlement, Suspended
from payre_mcp.gateway.hub_address import HubAddress
from payre_mcp.gateway.hub_http import HubHttp, put_prices
from payre_mcp.gateway.local import LONGEST_RESULT, key_digest, plan_by_hand, within
from payre_mcp.gateway.remote_act import Answered, PendingAct, Unattended
from payre_mcp.gateway.remote_lane import Lane
from payre_mcp.gateway.running_holds import RunningHolds
from payre_mcp.gateway.schemas import (
    Act,
    CaptureRequest,
    ChargeRequest,
    HeldAnswer,
    HoldAct,
    HoldRequest,
    HoldState,
    KeyCheckAnswer,
    KeyCheckRequest,
    Message,
    PriceListRequest,
    PriceSent,
    QuoteAnswer,
    RefundAnswer,
    RefundRequest,
    ResumeRequest,
    SettledAnswer,
    UsageSent,
)
from payre_mcp.gateway.waiting import Waiting
from payre_mcp.ids import format_id, parse_id
from payre_mcp.keys import parse_key
from payre_mcp.money import Money
from payre_mcp.pricing import Plan, PriceSpec, Quote, Target
from payre_mcp.pricing.quote import quote_call

logger = logging.getLogger(__name__)

ASK_ON_FOR_S = 600.0
"""How long it is asked what became of a hold whose caller has left; it would soon expire by itself."""


class Patience(NamedTuple):
    """How long everybody waits, in seconds."""

    timeout: float = 2.0
    """To connect, and for each part of an answer."""
    hold: float = 2.1
    """A caller for a hold. After that the call does not run."""
    settle: float = 4.0
    """A caller for a charge, or for the end of a hold, which is tried on without them."""
    close: float = 5.0
    """Whoever closes the gateway, for what is not finished."""


MessageT = TypeVar("MessageT", bound=Message)
BuiltT = TypeVar("BuiltT")


class RemoteGateway:
    """`Gateway` over a hub. Works under asyncio and trio, and from several event loops at once."""

    def __init__(self, address: HubAddress, *, clock: Clock | None = None, patience: Patience | None = None) -> None:
        self.address, self._patience = address, patience or Patience()
        self._prices: dict[tuple[str, Target, str], PriceSpec] = {}
        self._running = RunningHolds(clock or SystemClock())
        self._waiting = Waiting()
        connect = partial(HubHttp, address, timeout_s=self._patience.timeout, within_s=2 * self._patience.timeout)
        self._lane = Lane(connect, self.extend_running)

    def __repr__(self) -> str:
        return f"RemoteGateway({self.address.url!r}, {self.address.shown_key})"

    async def publish(self, server: str, prices: Mapping[Target, PriceSpec]) -> None:
        """Record the server's price list at the hub.

        Raises:
            Unauthorized: The hub does not know the secret key, or it is revoked.
            Forbidden: The secret key is of another role or mode.
            PriceSpecInvalid: The hub cannot use a price.
            PayreUnavailable: There is no hub at this address, or it cannot be reached.
        """
        each = [_built(PriceSent, kind=target.kind, name=target.name, spec=spec.canonical()) for target, spec in prices.items()]
        request = _built(PriceListRequest, prices=each)
        # Published twice is published once: a caller who leaves need not wait for the hub.
        answer = await anyio.to_thread.run_sync(put_prices, self.address, server, request, abandon_on_cancel=True)
        versions = {Target(each.kind, each.name): each.version for each in answer.prices}
        if versions != {target: spec.version for target, spec in prices.items()}:
            raise PayreError(
                f"the hub {self.address.url} reads these prices otherwise than this server, so nothing can be charged; "
                "both need the same version of payre_mcp"
            )
        for target, spec in prices.items():
            self._prices[server, target, spec.version] = spec

    async def authorize(self, request: CallRequest) -> Authorization | Replay:
        """Hold the ceiling of the call; see `Gateway.authorize`."""
        plan = self._plan(request)
        if request.api_key is None:
            raise PaymentRequired(price_micros=plan.ceiling(request.known) or 0)
        _check(request)
        answer = await self._hold(_built(HoldRequest.of, request))
        if isinstance(answer, HeldAnswer):
            return self._authorized(answer, request, plan)
        return Replay(_settlement(answer), answer.result)

    async def suspend(self, authorization: Authorization) -> Suspended:
        """Keep the hold while its caller is asked; see `Gateway.suspend`."""
        held, request = authorization, authorization.request
        self._running.let_go(_hold(held))
        with anyio.move_on_after(self._patience.settle):
            state = await self._ask("suspend", HoldAct(token=held.token), HoldState)
            ids = held.hold_id, held.part, held.consumer_id
            return Suspended(*ids, request.price_version, request.variant, state.expires_at, held.token)
        raise self._too_slow("the hold may have been kept, and is not charged")

    async def resume(self, suspended: Suspended, request: CallRequest) -> Authorization:
        """Go on with a suspended call; see `Gateway.resume`."""
        self._plan(request)
        held_for = replace(request, price_version=suspended.price_version, variant=suspended.variant)
        _check(request)
        asked = _built(HoldRequest.of, request)
        body = _built(ResumeRequest, token=suspended.token, since=suspended.expires_at, call=asked)
        with anyio.move_on_after(self._patience.hold):
            answer = await self._ask("resume", body, HeldAnswer, on_left=self._give_back)
            try:
                return self._authorized(answer, held_for, self._plan(held_for))
            except NotPriced:
                self._give_back(answer)
                raise HoldNotOpen("the price of this round is not known here any more; its hold was given back") from None
        raise self._too_slow()

    async def quote(self, request: CallRequest) -> Quote:
        """The most that the call would cost now; see `Gateway.quote`."""
        plan = self._plan(request)
        used = [0] * len(plan.counters)
        if request.api_key is not None:
            parse_key(request.api_key)
            answer = await self._asked_in_time("quote", _built(HoldRequest.of, request), QuoteAnswer)
            if len(answer.used_before) != len(used):
                raise PayreUnavailable("the hub counts other things than this price does; nothing was charged")
            used = answer.used_before
        return quote_call(plan, request.known, None, used)

    async def capture(self, authorization: Authorization, outcome: CallOutcome) -> Settlement:
        """Charge what the call cost; see `Gateway.capture`. What cannot be settled now is tried until the hold ends."""
        hold, result = _hold(authorization), outcome.stored_result
        body = _built(
            CaptureRequest, token=authorization.token, usage=UsageSent.of(outcome.usage), result_sha256=outcome.result_sha256,
            stored_result=result if len(result) <= LONGEST_RESULT else "",
        )  # fmt: skip
        lives_s = self._running.let_go(hold)
        with anyio.move_on_after(self._patience.settle):
            settled = await self._ask("capture", body, SettledAnswer, on_left=partial(_log_late, hold), lives_s=lives_s)
            return _settlement(settled)
        raise PayreUnavailable("the payment hub has not confirmed this charge yet; it is tried again until its hold ends")

    async def charge(self, request: CallRequest) -> Settlement | Replay:
        """Charge by hand; see `Gateway.charge`."""
        amount = within(self._spec(request), request)
        if request.api_key is None:
            raise PaymentRequired(price_micros=amount.micros)
        _check(request)
        body = _built(
            ChargeRequest, api_key=request.api_key, server=request.server, kind=request.target.kind, tool=request.target.name,
            price_version=request.price_version, args_sha256=request.args_sha256, amount_micros=amount.micros,
            idempotency_key=request.idempotency_key,
        )  # fmt: skip
        with anyio.move_on_after(self._patience.settle):
            return (await self._ask("charge", body, SettledAnswer)).as_settled()
        raise self._too_slow("whether this was charged is not known; the same idempotency key charges it once at most")

    async def can_pay(self, api_key: str, server: str) -> bool:
        """Whether this key can pay here; see `Gateway.can_pay`."""
        body = _built(KeyCheckRequest, api_key=parse_key(api_key).text, server=server)
        return (await self._asked_in_time("check", body, KeyCheckAnswer)).sufficient

    async def void(self, authorization: Authorization) -> None:
        """Release what is held; see `Gateway.void`. What cannot be released now is tried until the hold ends."""
        hold = _hold(authorization)
        lives_s = self._running.let_go(hold)
        body, on_left = HoldAct(token=authorization.token), partial(_log_lost_void, hold)
        with suppress(HoldNotOpen, HoldUnknown), anyio.move_on_after(self._patience.settle) as scope:
            await self._ask("void", body, HoldState, on_left=on_left, lives_s=lives_s)
        if scope.cancelled_caught:
            raise PayreUnavailable("the payment hub has not confirmed that this hold was given back; it is tried again")

    async def refund(self, charge_id: str, amount: Money | None = None, *, idempotency_key: str) -> Money:
        """Return a charge or a part of it; see `Gateway.refund`."""
        parse_id("chg", charge_id)
        if not key_digest(idempotency_key, use="refund"):
            raise InvalidRequest("a refund needs an idempotency key; nothing was refunded")
        body = RefundRequest(amount_micros=None if amount is None else amount.micros)
        with anyio.move_on_after(self._patience.settle):
            answer = await self._ask("refund", body, RefundAnswer, name=idempotency_key, of=charge_id)
            return Money(answer.refunded_micros)
        raise self._too_slow("whether this was refunded is not known; the same idempotency key refunds it once at most")

    async def aclose(self) -> None:
        """Try for a few seconds to end the holds that are to be ended, then let go of the hub."""
        self._running.clear()
        await anyio.to_thread.run_sync(self._lane.close, self._patience.close)

    def extend_running(self) -> None:
        """Ask the hub to extend the holds of calls that run here and whose time is half over. Happens every few seconds."""
        for each in self._running.due():
            assert each.ticket is not None
            lives_s = self._running.lives_s(each)
            act = PendingAct(
                "extend", HoldAct(token=each.token), request_id=_new_id(), ticket=each.ticket,
                give_up_s=time.monotonic() + lives_s, on_left=_nothing,
            )  # fmt: skip
            self._lane.submit(act)

    def _plan(self, request: CallRequest) -> Plan:
        """The plan that the call names. Raises `NotPriced`, or `PriceMismatch` where its amount is above it."""
        spec = self._spec(request)
        return spec.plan(request.variant) if request.amount is None else plan_by_hand(spec, request)

    def _spec(self, request: CallRequest) -> PriceSpec:
        """The price that the call names. Raises `NotPriced`."""
        spec = self._prices.get((request.server, request.target, request.price_version))
        if spec is None:
            raise NotPriced(
                f"{request.target.name!r} has no published price of this version; nothing ran and nothing was charged"
            )
        return spec

    async def _hold(self, body: HoldRequest) -> HeldAnswer | SettledAnswer:
        """Ask for a hold; one whose idempotency key is in use waits a little for the answer of its first call."""
        name, pause, why = _new_id(), 0.01, None
        with anyio.move_on_after(self._patience.hold):
            while True:
                try:
                    return await self._ask("hold", body, HeldAnswer, SettledAnswer, name=name, on_left=self._give_back)
                except InProgress as error:
                    why = error
                await anyio.sleep(pause)
                pause = min(2 * pause, 0.2)
        raise why or self._too_slow()

    def _authorized(self, answer: HeldAnswer, request: CallRequest, plan: Plan) -> Authorization:
        hold_id, consumer_id = parse_id("hold", answer.hold), parse_id("con", answer.consumer)
        self._running.keep(answer.hold, answer.token, answer.expires_at)
        held = Money(answer.held_micros)
        return Authorization(hold_id, 0, consumer_id, request, plan, held, answer.expires_at, answer.token)

    def _give_back(self, answer: Answered) -> None:
        """Void the hold of a caller who left before hearing of it."""
        if not isinstance(answer, HeldAnswer):
            return
        act = PendingAct(
            "void", HoldAct(token=answer.token), request_id=_new_id(), ticket=Unattended(),
            give_up_s=time.monotonic() + ASK_ON_FOR_S, on_left=partial(_log_lost_void, answer.hold),
        )  # fmt: skip
        try:
            self._lane.submit(act)
        except PayreUnavailable:
            logger.warning("the hold %s could not be given back now; it expires by itself", answer.hold)

    async def _asked_in_time(self, act: Act, body: Message, model: type[MessageT]) -> MessageT:
        """Ask for what a call waits for and nothing has to be undone of."""
        with anyio.move_on_after(self._patience.hold):
            return await self._ask(act, body, model)
        raise self._too_slow()

    async def _ask(
        self,
        act: Act,
        body: Message,
        *models: type[MessageT],
        name: str = "",
        of: str = "",
        on_left: Callable[[Answered], None] | None = None,
        lives_s: float = ASK_ON_FOR_S,
    ) -> MessageT:
        """Send one act and wait for its answer; `on_left` gets an answer that comes after the caller has gone."""
        on_left = on_left or _nothing
        waiter, give_up_s = self._waiting.waiter(on_left), time.monotonic() + lives_s
        pending = _built(
            PendingAct, act, body, request_id=name or _new_id(), ticket=waiter, give_up_s=give_up_s, on_left=on_left, of=of
        )
        self._lane.submit(pending)
        answer = await waiter.wait()
        if isinstance(answer, PayreError):
            raise answer
        assert isinstance(answer, models)
        return answer

    def _too_slow(self, what: str = "nothing ran and nothing was charged") -> PayreUnavailable:
        self._lane.cut_slow()
        return PayreUnavailable(f"the payment hub did not answer in time; {what}. Try again shortly")


def _new_id() -> str:
    return secrets.token_hex(16)


def _hold(authorization: Authorization) -> str:
    return format_id("hold", authorization.hold_id)


def _check(request: CallRequest) -> None:
    """Refuse here what no hub would take. Raises `InvalidApiKey` or `InvalidRequest`."""
    parse_key(request.api_key or "")
    key_digest(request.idempotency_key)


def _built(make: Callable[..., BuiltT], *parts: Any, **fields: Any) -> BuiltT:
    """A message. Raises `InvalidRequest` for what a hub does not take, such as a name with a line break."""
    try:
        return make(*parts, **fields)
    except ValidationError:
        raise InvalidRequest("this has a name, an id or a number that a hub does not take; nothing was done") from None


def _settlement(answer: SettledAnswer) -> Settlement:
    settled = answer.as_settled()
    return settled.settlement if isinstance(settled, Replay) else settled


def _nothing(answer: Answered) -> None:
    """Nobody has to do anything about it."""


def _log_late(hold: str, answer: Answered) -> None:
    """Tell the operator how the charge of a call ended that was delivered without one."""
    if isinstance(answer, PayreError):
        logger.error("the call of %s was delivered and could not be charged: %s", hold, answer, extra={"code": answer.code})
    else:
        logger.info("the charge of %s that was pending is settled", hold)


def _log_lost_void(hold: str, answer: Answered) -> None:
    if isinstance(answer, PayreError) and not isinstance(answer, HoldNotOpen | HoldUnknown):
        logger.warning("%s could not be given back and expires by itself: %s", hold, answer, extra={"code": answer.code})
