"""What a seller's server does at its ledger, one act at a time or many in a batch: both call these very functions.

A hold is answered with a token that says what it is for. Whoever ends it shows the token, so no process of the hub has
to have seen the hold before.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast, get_args

import anyio

from payre_mcp.errors import InsufficientBalance, InvalidRequest, NotPriced, PayreError, PriceMismatch
from payre_mcp.gateway.base import Authorization, CallRequest, Replay, Suspended
from payre_mcp.gateway.error_document import document_of
from payre_mcp.gateway.hold_tokens import HeldCall, sealed, unsealed
from payre_mcp.gateway.schemas import (
    Act,
    BatchAnswer,
    BatchedAnswer,
    BatchedRequest,
    BatchRequest,
    CaptureRequest,
    ChargeRequest,
    HeldAnswer,
    HoldAct,
    HoldRequest,
    HoldState,
    KeyCheckAnswer,
    KeyCheckRequest,
    Message,
    QuoteAnswer,
    RefundAnswer,
    RefundRequest,
    ResumeRequest,
    SettledAnswer,
)
from payre_mcp.hub.api.answers import unknown_failure
from payre_mcp.hub.api.call import AskedT, Call
from payre_mcp.hub.api.reading import amount_of, is_json_object, read, required_amount
from payre_mcp.ids import format_id, parse_id
from payre_mcp.pricing import Target
from payre_mcp.receipts import canonical_json, sha256_hex

logger = logging.getLogger(__name__)

TokenT = TypeVar("TokenT", CaptureRequest, HoldAct, ResumeRequest)
"""What shows the token of a hold."""


async def hold(call: Call[HoldRequest]) -> HeldAnswer | SettledAnswer:
    """Hold the most that a call may cost. A consumer's idempotency key that was paid before answers its charge instead.

    The `Idempotency-Key` header names this request: sent again with the same one, it finds the hold that it made.
    """
    # Digested, since a name of 255 characters has no room for its developer.
    name = call.name and sha256_hex(f"{call.caller.owner_id}:{call.name}".encode())
    try:
        held = await call.gateway.authorize(call.asked.as_call(name))
    except InsufficientBalance as error:
        raise _between_us(error) from None
    return SettledAnswer.of(held) if isinstance(held, Replay) else _held(call, held)


async def capture(call: Call[CaptureRequest]) -> SettledAnswer:
    """Charge what the call used, at most what is held, and release the rest. Asked again, it answers the same charge.

    A `stored_result` that is no JSON object is not kept.
    """
    authorization, outcome = await _authorization(call), call.asked.as_outcome()
    if outcome.stored_result and not is_json_object(outcome.stored_result):
        outcome = replace(outcome, stored_result="")
    return SettledAnswer.of(await call.gateway.capture(authorization, outcome))


async def void(call: Call[HoldAct]) -> HoldState:
    """Release what is held; nothing is charged. A hold that has ended stays as it is."""
    authorization = await _authorization(call)
    await call.gateway.void(authorization)
    return HoldState(hold=format_id("hold", authorization.hold_id), expires_at=0)


async def extend(call: Call[HoldAct]) -> HoldState:
    """Keep the hold of a call that still runs."""
    authorization = await _authorization(call)
    until = await call.gateway.extend(authorization)
    return HoldState(hold=format_id("hold", authorization.hold_id), expires_at=until)


async def suspend(call: Call[HoldAct]) -> HoldState:
    """Keep the hold while its call waits for an answer of its caller."""
    suspended = await call.gateway.suspend(await _authorization(call))
    return HoldState(hold=format_id("hold", suspended.hold_id), expires_at=suspended.expires_at)


async def resume(call: Call[ResumeRequest]) -> HeldAnswer:
    """Go on with a suspended call. Of several who show the same `since`, one succeeds."""
    held, asked = _shown(call), call.asked.call
    if (asked.server, asked.kind, asked.name) != (held.server, held.kind, held.name):
        raise InvalidRequest("`call` is of another server or target than its hold; nothing was done")
    await call.gateway.held(held)  # so that its price is known here
    since = Suspended(held.hold_id, held.part, held.consumer_id, held.price_version, held.variant, call.asked.since)
    return _held(call, await call.gateway.resume(since, asked.as_call(held.request_id)))


async def charge(call: Call[ChargeRequest]) -> SettledAnswer:
    """Charge by hand, hold and capture in one. The tool has a published price, and the amount is at most that.

    Without an `Idempotency-Key` a second request is a second charge.
    """
    asked = call.asked
    if call.name and asked.idempotency_key not in (None, call.name) and not _in_batch(call):
        raise InvalidRequest("the `Idempotency-Key` header and `idempotency_key` differ; send one. Nothing was charged")
    amount, target = required_amount(asked.amount, asked.amount_micros), Target(asked.kind, asked.tool)
    server, version = asked.server, asked.price_version
    if server is None or version is None:
        server, version = await anyio.to_thread.run_sync(_current_price, call, target)
    digest = asked.args_sha256 or sha256_hex(canonical_json({"amount_micros": amount.micros}))
    request = CallRequest(
        api_key=asked.api_key, server=server, target=target, price_version=version, args_sha256=digest, amount=amount,
        idempotency_key=asked.idempotency_key or call.name or None,
    )  # fmt: skip
    try:
        return SettledAnswer.of(await call.gateway.charge(request))
    except InsufficientBalance as error:
        raise _between_us(error) from None
    except NotPriced as error:
        raise PriceMismatch(error.message) from None


async def refund(call: Call[RefundRequest]) -> RefundAnswer:
    """Return a charge, or a part of it, to its consumer; fee and net go back in proportion."""
    charge_id, amount = call.path["charge"], amount_of(call.asked.amount, call.asked.amount_micros)
    returned = await call.gateway.refund(charge_id, amount, idempotency_key=call.name)
    return RefundAnswer(charge_id=charge_id, refunded_micros=returned.micros, refunded_usd=returned.usd)


async def quote(call: Call[HoldRequest]) -> QuoteAnswer:
    """Where the counters of this consumer stand, which the next call's price depends on. Moves nothing."""
    return QuoteAnswer(used_before=await call.gateway.used_before(call.asked.as_call()))


async def check(call: Call[KeyCheckRequest]) -> KeyCheckAnswer:
    """Whether a consumer's key can pay at a server now; never how much."""
    return KeyCheckAnswer(sufficient=await call.gateway.can_pay(call.asked.api_key, call.asked.server))


class _Acting(NamedTuple):
    handler: Callable[[Call[Any]], Awaitable[Message]]
    request: type[Message]


ACTS: Mapping[Act, _Acting] = {
    "hold": _Acting(hold, HoldRequest),
    "capture": _Acting(capture, CaptureRequest),
    "void": _Acting(void, HoldAct),
    "extend": _Acting(extend, HoldAct),
    "suspend": _Acting(suspend, HoldAct),
    "resume": _Acting(resume, ResumeRequest),
    "charge": _Acting(charge, ChargeRequest),
    "refund": _Acting(refund, RefundRequest),
    "quote": _Acting(quote, HoldRequest),
    "check": _Acting(check, KeyCheckRequest),
}
assert set(ACTS) == set(get_args(Act))


async def batch(call: Call[BatchRequest]) -> BatchAnswer:
    """Up to 256 acts at once, each decided on its own: one that fails takes no other with it."""
    requests = call.asked.requests
    answers: list[BatchedAnswer | None] = [None] * len(requests)

    async def act(place: int, request: BatchedRequest) -> None:
        answers[place] = await _acted(call, request)

    async with anyio.create_task_group() as tasks:
        for place, request in enumerate(requests):
            tasks.start_soon(act, place, request)
    return BatchAnswer(answers=cast("list[BatchedAnswer]", answers))


async def _acted(call: Call[BatchRequest], request: BatchedRequest) -> BatchedAnswer:
    handler, model = ACTS[request.act]
    answered = partial(BatchedAnswer, id=request.id)
    try:
        entry = replace(cast("Call[Any]", call), asked=read(dict(request.body), model), path=_path(request), name=request.id)
        done = (await handler(entry)).model_dump()
        call.desk.meters.act(request.act, "done")
        return answered(status=200, body=done)
    except PayreError as error:
        call.desk.meters.act(request.act, error.code)
        return answered(status=error.http_status, body=document_of(error))
    except Exception:
        logger.exception("a %s of a batch broke", request.act)
        broken = unknown_failure()
        return answered(status=broken.http_status, body=document_of(broken))


_BATCHED = "batched"


def _path(request: BatchedRequest) -> Mapping[str, str]:
    return {_BATCHED: request.act, "charge": request.of}


def _in_batch(call: Call[Any]) -> bool:
    """Whether this act came in a batch, where its name is that of its request."""
    return _BATCHED in call.path


def _held(call: Call[AskedT], authorization: Authorization) -> HeldAnswer:
    token = sealed(HeldCall.of(authorization, call.caller.owner_id), call.desk.connection.ledger.ring)
    return HeldAnswer(
        hold=format_id("hold", authorization.hold_id), consumer=format_id("con", authorization.consumer_id),
        held_micros=authorization.held.micros, held_usd=authorization.held.usd,
        expires_at=authorization.expires_at, token=token,
    )  # fmt: skip


def _shown(call: Call[TokenT]) -> HeldCall:
    """The hold whose token was shown; in a path it is named as well."""
    hold_id = parse_id("hold", call.path["hold"]) if "hold" in call.path else None
    return unsealed(call.asked.token, call.desk.connection.ledger.ring, hold_id=hold_id, developer_id=call.caller.owner_id)


async def _authorization(call: Call[TokenT]) -> Authorization:
    return await call.gateway.held(_shown(call))


def _current_price(call: Call[ChargeRequest], target: Target) -> tuple[str, str]:
    """The server and the version of the current price that a charge means. Raises `PriceMismatch`."""
    directory, asked = call.desk.connection.ledger.directory, call.asked
    meant = [offer for offer in directory.offers(call.caller.owner_id, target) if asked.server in (None, offer[0])]
    if not meant:
        raise PriceMismatch("this has no published price, so nothing can be charged for it; publish one. Nothing was charged")
    if len(meant) > 1:
        raise InvalidRequest("several of your servers have a tool of this name; send `server`. Nothing was charged")
    return meant[0][0], asked.price_version or meant[0][1]


def _between_us(error: InsufficientBalance) -> InsufficientBalance:
    """The refusal as a developer may read it: a balance is told to its owner alone."""
    error.balance_micros = error.shortfall_micros = None
    return error
