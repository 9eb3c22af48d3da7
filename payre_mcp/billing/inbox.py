"""News of the processor: taken in once, by id, answered at once, and handled by a job."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from payre_mcp.billing.checkouts import Checkouts
from payre_mcp.billing.disputes import Disputes
from payre_mcp.billing.office import Mismatch, Office, Unknown, run
from payre_mcp.billing.payouts import Payouts
from payre_mcp.billing.recharges import Recharges
from payre_mcp.billing.refunds import Refunds
from payre_mcp.billing.sources import Sources
from payre_mcp.clock import US_PER_S
from payre_mcp.errors import NotFound, PayreError
from payre_mcp.payments import EventState, InboxEvent
from payre_mcp.processors.base import Endpoint, Event

logger = logging.getLogger(__name__)

MOST_TRIES = 12
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5, 3600
_AT_ONCE = 50

Handler = Callable[[str], Awaitable[Any]]


class Inbox:
    """Receives events and handles them. An event only says what to ask for: what it claims is never booked."""

    def __init__(
        self, office: Office, *, checkouts: Checkouts, recharges: Recharges, sources: Sources, refunds: Refunds,
        disputes: Disputes, payouts: Payouts,
    ) -> None:  # fmt: skip
        self._office, self._events, self._payments = office, office.ledger.inbox, office.ledger.payments
        # The first beginning of an event's kind that fits says who handles it.
        self._handlers: tuple[tuple[str, Handler], ...] = (
            ("checkout.session.", checkouts.apply),
            ("payment_intent.", sources.apply),
            ("payment_method.detached", recharges.card_is_gone),
            ("refund.", refunds.apply),
            ("charge.dispute.", disputes.apply),
            ("transfer.", payouts.apply),
            ("account.", payouts.refresh),
            ("v2.core.account", payouts.refresh),
        )

    async def receive(self, endpoint: Endpoint, body: bytes, signature: str | None) -> bool:
        """Take a webhook in, before it is answered; False where the event was here before.

        Raises:
            WebhookInvalid: It was not signed by the processor, or not now, or cannot be read. Nothing of it was used.
        """
        return await self.take_in(endpoint, self._office.processor.read_event(endpoint, body, signature))

    async def take_in(self, endpoint: str, event: Event) -> bool:
        """Write an event down, once; one of the other mode, or of an account that is nobody's, is kept and never handled."""
        now = self._office.clock.now_us()
        problem = await self._stranger(endpoint, event)
        if problem:
            logger.error("the processor's event %s is set aside: %s", event.id, problem)
        state = EventState.PARKED if problem else EventState.WAITING
        return await run(
            self._events.receive,
            InboxEvent(
                event.id,
                endpoint,
                event.kind,
                event.livemode,
                event.account,
                event.object_id,
                event.body,
                state,
                0,
                problem,
                now,
                0,
            ),
        )

    async def work(self) -> int:
        """Handle what waits; answers how many events that were."""
        waiting = await run(self._events.waiting, self._office.clock.now_us(), _AT_ONCE)
        for event in waiting:
            await self.handle(event)
        return len(waiting)

    async def replay(self, event_id: str) -> InboxEvent:
        """Handle one event again, whatever became of it. Raises `NotFound`."""
        event = await run(self._events.find, event_id)
        if event is None:
            raise NotFound(f"no event {event_id} came in here")
        if problem := await self._stranger(event.endpoint, event):
            await run(self._events.finish, event_id, EventState.PARKED, problem=problem)
        else:
            await self.handle(event)
        found = await run(self._events.find, event_id)
        assert found is not None
        return found

    async def handle(self, event: InboxEvent) -> None:
        """Do what an event asks for; what cannot be done now is tried again, and set aside after many tries."""
        handler = next((handler for start, handler in self._handlers if event.kind.startswith(start)), None)
        if handler is None:
            await run(self._events.finish, event.id, EventState.IGNORED)
            return
        try:
            await handler(event.object_id)
        except Unknown as unknown:
            await run(self._events.finish, event.id, EventState.IGNORED, problem=str(unknown))
        except Mismatch as mismatch:
            logger.critical("the processor's event %s is set aside, and nothing was booked: %s", event.id, mismatch)
            await run(self._events.finish, event.id, EventState.PARKED, problem=str(mismatch))
        except PayreError as error:
            await self._again(event, error.message)
        except Exception as error:
            logger.exception("the processor's event %s could not be handled", event.id)
            await self._again(event, type(error).__name__)
        else:
            await run(self._events.finish, event.id, EventState.DONE)

    async def _again(self, event: InboxEvent, problem: str) -> None:
        if event.tries + 1 >= MOST_TRIES:
            logger.critical("the processor's event %s is set aside after %s tries: %s", event.id, MOST_TRIES, problem)
            await run(self._events.finish, event.id, EventState.PARKED, problem=problem)
            return
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**event.tries)
        then = self._office.clock.now_us() + pause_s * US_PER_S
        await run(self._events.finish, event.id, EventState.WAITING, problem=problem, next_try_at=then)

    async def _stranger(self, endpoint: str, event: Event | InboxEvent) -> str:
        """Why an event is not for this ledger; empty where it is."""
        if event.livemode != (self._office.ledger.directory.mode == "live"):
            return "it is of the other mode, test or live"
        if endpoint == "platform" and event.account:
            return "it is of a connected account, and came as one of our own"
        if event.account and await run(self._payments.payee_of_account, event.account) is None:
            return "it is of an account that no developer here has"
        return ""
