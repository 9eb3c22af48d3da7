"""Sends events to their endpoints, signed, again after a failure, and as badly as chaos asks for."""

import heapq
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import cast

import anyio
import httpx2
from stripe import WebhookSignature

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.processors.fake_stripe.chaos import Chaos
from payre_mcp.processors.fake_stripe.endpoints import Endpoints
from payre_mcp.processors.fake_stripe.store import Store
from payre_mcp.processors.fake_stripe.wire import Json

RETRY_AFTER_S = (10, 600)
"""How long it waits after each failure; Stripe's test mode tries three times, too, but over hours."""

# The package leaves the time without a type.
_signed = cast("Callable[[str, str, int], str]", WebhookSignature.generate_signature_header)  # pyright: ignore[reportUnknownMemberType]
_PATIENCE_S = 20.0
_LONGEST_REST_S = 1.0


@dataclass(order=True, frozen=True, slots=True)
class Delivery:
    """One event on its way to one endpoint."""

    due_us: int
    number: int
    endpoint: str = field(compare=False)
    event: Json = field(compare=False)
    tries: int = field(compare=False, default=0)


class Deliveries:
    """The mail of one fake Stripe."""

    def __init__(self, store: Store, endpoints: Endpoints, chaos: Chaos, http: httpx2.AsyncClient | None) -> None:
        self._store, self._endpoints, self._chaos, self._http = store, endpoints, chaos, http
        self.signing_clock: Clock = store.clock
        """What signatures are dated by."""
        self._queue: list[Delivery] = []
        self._waiting: defaultdict[str, set[str]] = defaultdict(set)
        self._posted = 0
        self._news: anyio.Event | None = None

    def wanted(self, type_: str, *, thin: bool, of_account: bool) -> Sequence[str]:
        """The endpoints that want such an event."""
        return self._endpoints.wanted(type_, thin=thin, of_account=of_account)

    def post(self, endpoint: str, event: Json) -> None:
        """Have an event delivered."""
        self._posted += 1
        self._waiting[event["id"]].add(endpoint)
        due = self._store.clock.now_us() + round(self._chaos.delay * US_PER_S)
        heapq.heappush(self._queue, Delivery(due, self._posted, endpoint, event))
        if self._news is not None:
            self._news.set()

    def waiting(self, event: str) -> int:
        """To how many endpoints it has not been delivered; one that failed for good stays among them."""
        return len(self._waiting[event])

    async def deliver(self) -> int:
        """Send what is due, and what comes due by that; answers how many were sent."""
        sent = 0
        while due := self._due():
            client = httpx2.AsyncClient(timeout=_PATIENCE_S, trust_env=False) if self._http is None else nullcontext(self._http)
            async with client as http:
                for delivery in due:
                    for _ in range(1 + self._chaos.happens(self._chaos.duplicate)):
                        sent += await self._send(http, delivery)
        return sent

    async def run(self) -> None:
        """Deliver as they come, until cancelled."""
        while True:
            self._news = anyio.Event()
            await self.deliver()
            with anyio.move_on_after(_LONGEST_REST_S):
                await self._news.wait()

    def _due(self) -> list[Delivery]:
        """Take what is due out of the queue, without what is lost on the way."""
        self._store.tick()
        now, due = self._store.clock.now_us(), list[Delivery]()
        while self._queue and self._queue[0].due_us <= now:
            due.append(heapq.heappop(self._queue))
        return self._chaos.shuffled([each for each in due if not self._chaos.happens(self._chaos.drop)])

    async def _send(self, http: httpx2.AsyncClient, delivery: Delivery) -> int:
        """One try; answers 1, or 0 where the endpoint is gone."""
        url = self._endpoints.url(delivery.endpoint)
        if url is None:
            self._waiting[delivery.event["id"]].discard(delivery.endpoint)
            return 0
        body = self._body(delivery)
        stamp = self.signing_clock.now_us() // US_PER_S
        signature = _signed(body, self._endpoints.secret(delivery.endpoint), stamp)
        headers = {"Stripe-Signature": signature, "Content-Type": "application/json; charset=utf-8", "User-Agent": "Stripe/1.0"}
        try:
            reply = await http.post(url, content=body, headers=headers, follow_redirects=False)
        except httpx2.TransportError:
            self._again(delivery)
            return 1
        if reply.is_success:
            self._waiting[delivery.event["id"]].discard(delivery.endpoint)
        else:
            self._again(delivery)
        return 1

    def _body(self, delivery: Delivery) -> str:
        event = delivery.event
        if event["object"] == "event":
            event = {**event, "api_version": self._endpoints.version(delivery.endpoint)}
        return json.dumps(event, indent=2)

    def _again(self, delivery: Delivery) -> None:
        if delivery.tries < len(RETRY_AFTER_S):
            due = self._store.clock.now_us() + RETRY_AFTER_S[delivery.tries] * US_PER_S
            heapq.heappush(self._queue, replace(delivery, due_us=due, tries=delivery.tries + 1))
