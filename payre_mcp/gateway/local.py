"""The gateway to a ledger in this process: prices a call, and turns it into ledger commands."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

import anyio
import anyio.to_thread

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.directory import Developer, Directory, KeyRecord, Server
from payre_mcp.errors import (
    HoldNotOpen,
    HoldUnknown,
    InProgress,
    InsufficientBalance,
    InvalidRequest,
    NotFound,
    NotPriced,
    PaymentRequired,
    PayreUnavailable,
    PriceMismatch,
    PriceSpecInvalid,
    Problem,
)
from payre_mcp.gateway.access import Access
from payre_mcp.gateway.base import Authorization, CallOutcome, CallRequest, Replay, Settlement, Suspended
from payre_mcp.gateway.hold_tokens import HeldCall
from payre_mcp.gateway.quotes import Quotes
from payre_mcp.gateway.statement import Statements
from payre_mcp.gateway.top_ups import TopUps
from payre_mcp.gateway.waiting import AsyncWriter
from payre_mcp.ids import IdFactory, parse_id
from payre_mcp.ledger.lanes import LedgerWriter
from payre_mcp.ledger.metering import counters_of
from payre_mcp.ledger.model import CHARGES, Capture, Charge, Done, Extend, Hold, Metered, OpenHold, Refund, Spent, Void, born
from payre_mcp.ledger.store import Journal
from payre_mcp.ledger.writer import HOLD_LIFE_US
from payre_mcp.money import MAX_MICROS, Money
from payre_mcp.pricing import Plan, PriceSpec, Quote, Target, load_price
from payre_mcp.pricing.usage import base_quantities

AUTHORIZE_WITHIN_S = 5.0
"""A ledger that does not answer a hold in this time counts as unreachable: the call does not run."""

ROUND_LIFE_US = 660 * US_PER_S
"""How long a hold waits at least for its caller's input: as long as the SDK accepts request state, and its clock skew."""

FIRST_ANSWER_WITHIN_S = 2.0
"""How long a call waits for the first one with its idempotency key."""

RESULT_LIFE_US = 24 * 3600 * US_PER_S
"""How long the answer of a call with an idempotency key is kept."""

LONGEST_RESULT = 256 * 1024
"""Answers above this many characters are not kept for replays."""

_LONGEST_KEY = 255


class LocalGateway:
    """`Gateway` over a ledger of this process. Prices, fees and receipts are made here, on the ledger's side."""

    def __init__(
        self,
        *,
        writer: LedgerWriter,
        journal: Journal,
        directory: Directory,
        statements: Statements,
        access: Access,
        ids: IdFactory,
        clock: Clock,
        developer: Developer,
        fee_bps: int,
        top_ups: TopUps,
        quotes: Quotes,
        on_close: Callable[[], None],
        calls_run_here: bool = True,
        free_credit: Money | None = None,
    ) -> None:
        self._writer, self._async, self._journal = writer, AsyncWriter(writer), journal
        self._directory, self._statements, self._access = directory, statements, access
        self._ids, self._clock, self._developer, self._fee_bps = ids, clock, developer, fee_bps
        self._top_ups, self._quotes, self._on_close, self._free_credit = top_ups, quotes, on_close, free_credit
        self._calls_run_here = calls_run_here
        self._servers, self._prices = dict[str, Server](), dict[tuple[str, Target, str], PriceSpec]()

    async def publish(self, server: str, prices: Mapping[Target, PriceSpec]) -> None:
        """Record the server's price list. Publishing the same list again changes nothing."""
        server_id = await self._publishing(server, prices)
        await anyio.to_thread.run_sync(self._directory.publish, server_id, dict(prices))
        for target, spec in prices.items():
            self._prices[server, target, spec.version] = spec

    async def publish_one(self, server: str, target: Target, spec: PriceSpec) -> None:
        """Record one price beside the others of the server's current list."""
        server_id = await self._publishing(server, {target: spec})
        await anyio.to_thread.run_sync(self._directory.publish_one, server_id, target, spec)
        self._prices[server, target, spec.version] = spec

    async def _publishing(self, server: str, prices: Mapping[Target, PriceSpec]) -> int:
        """The id of a server that publishes these, made if it is new."""
        shared = [target.name for target, spec in prices.items() if spec.splits]
        if shared:
            message = "this ledger has one developer and nobody to share with; remove splits"
            raise PriceSpecInvalid([Problem("splits_invalid", f"{name}.splits", message) for name in shared])
        self._servers[server] = await anyio.to_thread.run_sync(self._directory.ensure_server, self._developer.id, server)
        return self._servers[server].id

    async def quote(self, request: CallRequest) -> Quote:
        """The most that the call would cost now; see `Gateway.quote`."""
        plan, server_id = await self._published(request)
        record = await self._asking(request, server_id)
        return await self._quotes.quote(plan, request.known, None, server_id=server_id, target=request.target, record=record)

    async def used_before(self, request: CallRequest) -> list[int]:
        """Where the counters stand that the price of this call depends on, for a seller who quotes it elsewhere."""
        plan, server_id = await self._published(request)
        record = await self._asking(request, server_id)
        return await self._quotes.used_before(plan, server_id=server_id, target=request.target, record=record)

    async def _asking(self, request: CallRequest, server_id: int) -> KeyRecord | None:
        """Whose call is quoted, where anybody's."""
        key = request.api_key
        return None if key is None else await self._access.live_consumer(key, server_id=server_id)

    async def authorize(self, request: CallRequest) -> Authorization | Replay:
        """Hold the ceiling of the call; see `Gateway.authorize`."""
        plan, server_id = await self._published(request)
        if request.api_key is None:
            raise PaymentRequired(price_micros=plan.ceiling(request.known) or 0)
        record = await self._access.consumer(request.api_key, server_id=server_id)
        now = self._clock.now_us()
        most = MAX_MICROS if request.max_price is None else request.max_price.micros
        fixed, metered = plan.fixed_micros, None
        if fixed is None:
            metered = Metered(plan, request.known, counters_of(plan, server_id, request.target, now))
        hold = Hold(
            self._ids.new(), record.part, record.owner_id, self._developer.id, record.id, fixed or 0, request.target.name,
            now + HOLD_LIFE_US, _hold_key(request), _fingerprint(request), metered, most, nonce=_nonce(request),
            **self._credit(server_id),
        )  # fmt: skip
        try:
            with anyio.move_on_after(AUTHORIZE_WITHIN_S):
                return self._authorized(await self._hold(hold), request, plan)
        except InsufficientBalance as error:
            await self._top_ups.advise(error, record.owner_id)
            raise
        raise _too_slow()

    async def suspend(self, authorization: Authorization) -> Suspended:
        """Keep the hold while its caller is asked; see `Gateway.suspend`."""
        held, request = authorization, authorization.request
        self._writer.let_go(held.hold_id)
        until = self._clock.now_us() + ROUND_LIFE_US
        hold = await self._async.extend(Extend(held.part, held.hold_id, held.consumer_id, until))
        return Suspended(hold.id, hold.part, hold.consumer_id, request.price_version, request.variant, hold.expires_at)

    async def resume(self, suspended: Suspended, request: CallRequest) -> Authorization:
        """Go on with a suspended call; see `Gateway.resume`."""
        _, server_id = await self._published(request)
        record = await self._access.consumer(request.api_key or "", server_id=server_id)
        if record.owner_id != suspended.consumer_id:
            raise HoldUnknown("no such hold of this account; nothing was charged")
        hold_id, part, consumer_id, version, variant, since, _ = suspended
        held_for = replace(request, price_version=version, variant=variant)
        claim = Extend(part, hold_id, consumer_id, self._clock.now_us() + HOLD_LIFE_US, since)
        with anyio.move_on_after(AUTHORIZE_WITHIN_S):
            return await self._taken_up(await self._async.extend(claim), held_for)
        raise _too_slow()

    async def held(self, call: HeldCall) -> Authorization:
        """The authorization of a hold that another process may have made, from what its token says."""
        request = call.as_call()
        plan, _ = await self._published(request)
        return Authorization(call.hold_id, call.part, call.consumer_id, request, plan, call.held)

    async def extend(self, authorization: Authorization) -> int:
        """Keep the hold of a call that runs in another process for its whole life again; answers its new end.

        Raises:
            HoldNotOpen: The hold has ended.
        """
        held, until = authorization, self._clock.now_us() + HOLD_LIFE_US
        return (await self._async.extend(Extend(held.part, held.hold_id, held.consumer_id, until))).expires_at

    async def _taken_up(self, hold: OpenHold, request: CallRequest) -> Authorization:
        """The authorization of a hold that goes on; one that is not what this round asks for is given back."""
        spec = self._prices.get((request.server, request.target, request.price_version))
        most = MAX_MICROS if request.max_price is None else request.max_price.micros
        if spec is None or hold.key != _hold_key(request) or hold.amount_micros > most:
            await self._async.ask(Void(self._ids.new(), hold.part, hold.id, hold.consumer_id))
            raise HoldNotOpen("this round has another idempotency key, limit or price than its hold, which was given back")
        return self._running(hold, request, spec.plan(request.variant))

    async def capture(self, authorization: Authorization, outcome: CallOutcome) -> Settlement:
        """Charge what the call cost; see `Gateway.capture`."""
        self._writer.let_go(authorization.hold_id)
        plan = authorization.plan
        spent = Spent(plan, outcome.usage) if plan.fixed_micros is None else None
        result = outcome.stored_result if len(outcome.stored_result) <= LONGEST_RESULT else ""
        capture = Capture(
            self._ids.new(), authorization.part, authorization.hold_id, authorization.consumer_id, self._developer.id,
            plan.fixed_micros or 0, self._fee_bps, _detail(authorization.request, outcome),
            result, self._clock.now_us() + RESULT_LIFE_US, spent,
        )  # fmt: skip
        return self._settlement(await self._async.ask(capture))

    async def charge(self, request: CallRequest) -> Settlement | Replay:
        """Charge by hand; see `Gateway.charge`."""
        plan, server_id = await self._published(request)
        assert plan.fixed_micros is not None
        if request.api_key is None:
            raise PaymentRequired(price_micros=plan.fixed_micros)
        record = await self._access.consumer(request.api_key, server_id=server_id)
        charge = Charge(
            self._ids.new(), record.part, record.owner_id, self._developer.id, record.id, plan.fixed_micros, self._fee_bps,
            request.target.name, _detail(request, CallOutcome()), key_digest(request.idempotency_key), _fingerprint(request),
            **self._credit(server_id),
        )  # fmt: skip
        try:
            done = await self._async.ask(charge)
        except InsufficientBalance as error:
            await self._top_ups.advise(error, record.owner_id)
            raise
        return Replay(self._settlement(done), None) if done.replayed else self._settlement(done)

    async def can_pay(self, api_key: str, server: str) -> bool:
        """Whether this key can pay here; see `Gateway.can_pay`."""
        known = self._servers.get(server) or await anyio.to_thread.run_sync(
            self._directory.find_server, self._developer.id, server
        )
        # At a server that nobody published, a key that is bound to one is not good.
        record = await self._access.live_consumer(api_key, server_id=-1 if known is None else known.id)
        account = await anyio.to_thread.run_sync(self._journal.account, record.part, record.owner_id)
        if account is None or account.available_micros or known is None or self._free_credit is None:
            return account is not None and account.available_micros > 0
        granted = await anyio.to_thread.run_sync(self._directory.credit_of, record.owner_id, known.id)
        return (self._free_credit if granted is None else granted).micros > 0

    async def void(self, authorization: Authorization) -> None:
        """Release what is held; see `Gateway.void`."""
        self._writer.let_go(authorization.hold_id)
        try:
            await self._async.ask(Void(self._ids.new(), authorization.part, authorization.hold_id, authorization.consumer_id))
        except (HoldNotOpen, HoldUnknown):
            return

    async def refund(self, charge_id: str, amount: Money | None = None, *, idempotency_key: str) -> Money:
        """Return a charge or a part of it; see `Gateway.refund`."""
        number = parse_id("chg", charge_id)
        charge = await anyio.to_thread.run_sync(self._journal.find, number)
        if charge is None or charge.kind not in CHARGES:
            raise NotFound("no such charge; nothing was refunded")
        micros = charge.amount_micros if amount is None else amount.micros
        key = key_digest(idempotency_key, use="refund")
        if not key:
            raise InvalidRequest("a refund needs an idempotency key; nothing was refunded")
        done = await self._async.ask(
            Refund(self._ids.new(), charge.part, number, charge.consumer_id, self._developer.id, micros, key)
        )
        return Money(done.transfer.amount_micros)

    def _credit(self, server_id: int) -> dict[str, int]:
        """What a hold or charge says of free credit, where this ledger has any."""
        return {} if self._free_credit is None else {"server_id": server_id, "grant_micros": self._free_credit.micros}

    async def _hold(self, hold: Hold) -> Done:
        """Ask for a hold; one whose idempotency key is in use waits a little for the answer of its first call.

        For a call that runs elsewhere its own process waits: in a batch, one that waits would hold up all others.
        """
        waited, pause = 0.0, 0.01
        while True:
            try:
                return await self._async.ask(hold)
            except InProgress:
                if not self._calls_run_here or waited >= FIRST_ANSWER_WITHIN_S:
                    raise
            await anyio.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, 0.2)

    async def aclose(self) -> None:
        """Finish what is queued and let go of the ledger."""
        await anyio.to_thread.run_sync(self._on_close)

    async def _published(self, request: CallRequest) -> tuple[Plan, int]:
        """The plan that the call names, and the server's id."""
        spec = self._prices.get((request.server, request.target, request.price_version))
        if spec is None:
            spec = await anyio.to_thread.run_sync(self._look_up, request)
        server_id = self._servers[request.server].id
        return spec.plan(request.variant) if request.amount is None else plan_by_hand(spec, request), server_id

    def _look_up(self, request: CallRequest) -> PriceSpec:
        """A price that another process published. Raises `NotPriced`."""
        server = self._servers.get(request.server) or self._directory.find_server(self._developer.id, request.server)
        spec = server and self._directory.find_price(server.id, request.target, request.price_version)
        if server is None or spec is None:
            raise NotPriced(
                f"{request.target.name!r} has no published price of this version; nothing ran and nothing was charged"
            )
        self._servers[request.server] = server
        self._prices[request.server, request.target, request.price_version] = spec
        return spec

    def _authorized(self, done: Done, request: CallRequest, plan: Plan) -> Authorization | Replay:
        row = done.transfer
        if done.replayed:
            return Replay(self._settlement(done), json.loads(done.result) if done.result else None)
        return self._running(born(row), request, plan)

    def _running(self, hold: OpenHold, request: CallRequest, plan: Plan) -> Authorization:
        """The authorization of a hold whose call begins, or goes on."""
        if self._calls_run_here:
            self._writer.keep_alive(hold)
        return Authorization(hold.id, hold.part, hold.consumer_id, request, plan, Money(hold.amount_micros), hold.expires_at)

    def _settlement(self, done: Done) -> Settlement:
        row = done.transfer
        return Settlement(
            charge_id=self._statements.charge_id(row),
            amount=Money(row.amount_micros),
            fee=Money(row.fee_micros),
            receipt=self._statements.receipt(row),
            balance=Money(done.account.available_micros),
        )


def _too_slow() -> PayreUnavailable:
    return PayreUnavailable("the payment ledger did not answer in time; nothing ran and nothing was charged. Try again shortly")


def plan_by_hand(spec: PriceSpec, request: CallRequest) -> Plan:
    """The plan of an amount that the seller says. Raises `PriceMismatch`."""
    return _plan_of(within(spec, request).usd)


@lru_cache(maxsize=1024)
def _plan_of(usd: str) -> Plan:
    """The plan of a price that is one amount; a seller charges the same few over and over."""
    return load_price(usd).plan("")


def within(spec: PriceSpec, request: CallRequest) -> Money:
    """The amount that the seller says, which is within the published price. Raises `PriceMismatch`."""
    amount, most = request.amount, spec.most
    assert amount is not None
    if most is None or amount > most:
        bound = "has no ceiling; give its price one" if most is None else f"costs at most {most}"
        raise PriceMismatch(f"{request.target.name!r} {bound}, so {amount} cannot be charged for it. Nothing was charged")
    return amount


def key_digest(idempotency_key: str | None, *, use: str = "call") -> str:
    """The ledger's form of a caller's idempotency key; empty for none.

    Raises:
        InvalidRequest: The key is not 1 to 255 visible ASCII characters.
    """
    if idempotency_key is None:
        return ""
    if not 0 < len(idempotency_key) <= _LONGEST_KEY or not all("!" <= each <= "~" for each in idempotency_key):
        raise InvalidRequest("an idempotency key is 1 to 255 visible ASCII characters; nothing ran and nothing was charged")
    return hashlib.sha256(f"{use}:{idempotency_key}".encode()).hexdigest()[:32]


def _hold_key(request: CallRequest) -> str:
    """The key under which the ledger finds a hold again: the caller's, or the name of a remote seller's request."""
    return key_digest(request.idempotency_key) or _nonce(request)


def _nonce(request: CallRequest) -> str:
    return key_digest(request.request_id, use="request") if request.request_id else ""


def _fingerprint(request: CallRequest) -> str:
    if not _hold_key(request):
        return ""
    act = f"{request.server}\n{request.target.kind}\n{request.target.name}\n{request.args_sha256}"
    return hashlib.sha256(act.encode()).hexdigest()[:32]


def _detail(request: CallRequest, outcome: CallOutcome) -> str:
    """The receipt's claims that no column of the journal holds."""
    claims: dict[str, object] = {  # server and kind come first: see `statement.origin_of`
        "server": request.server,
        "kind": request.target.kind,
        "quantities": {"requests": 1, **base_quantities(outcome.usage)},
        "args_sha256": request.args_sha256,
        "result_sha256": outcome.result_sha256,
    }
    if request.variant:
        claims["variant"] = request.variant
    if request.idempotency_key is not None:
        claims["idempotency_key_sha256"] = hashlib.sha256(request.idempotency_key.encode()).hexdigest()
    return json.dumps(claims, separators=(",", ":"))
