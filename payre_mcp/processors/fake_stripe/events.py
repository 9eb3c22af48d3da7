"""What happened: every event is kept, listed, and handed to the endpoints that want it, as snapshot or thin."""

from collections.abc import Sequence
from copy import deepcopy
from fnmatch import fnmatchcase
from typing import Protocol

import stripe

from payre_mcp.processors.fake_stripe.door import ApiRoute
from payre_mcp.processors.fake_stripe.listing import page
from payre_mcp.processors.fake_stripe.refusals import invalid
from payre_mcp.processors.fake_stripe.store import Store, iso
from payre_mcp.processors.fake_stripe.wire import Json

_V1_PATHS = {
    "account": "/v1/accounts/{}",
    "charge": "/v1/charges/{}",
    "checkout.session": "/v1/checkout/sessions/{}",
    "customer": "/v1/customers/{}",
    "dispute": "/v1/disputes/{}",
    "payment_intent": "/v1/payment_intents/{}",
    "payment_method": "/v1/payment_methods/{}",
    "refund": "/v1/refunds/{}",
    "setup_intent": "/v1/setup_intents/{}",
    "transfer": "/v1/transfers/{}",
}


class Mail(Protocol):
    """Where events go."""

    def wanted(self, type_: str, *, thin: bool, of_account: bool) -> Sequence[str]:
        """The endpoints that want such an event."""
        ...

    def post(self, endpoint: str, event: Json) -> None:
        """Have an event delivered."""
        ...

    def waiting(self, event: str) -> int:
        """To how many endpoints it has not been delivered yet."""
        ...


class Events:
    """The log of one fake Stripe."""

    def __init__(self, store: Store, mail: Mail) -> None:
        self._store, self._mail = store, mail
        self.bodies: list[Json] = []
        """As they are delivered, in order."""

    def routes(self) -> Sequence[ApiRoute]:
        """What is answered here."""
        return (
            ApiRoute("GET", "/v1/events", "_event_list_params:EventListParams", self.list),
            ApiRoute("GET", "/v1/events/{id}", "_event_retrieve_params:EventRetrieveParams", self.retrieve),
            ApiRoute("GET", "/v2/core/events/{id}", "v2.core._event_retrieve_params:EventRetrieveParams", self.retrieve_thin),
        )

    def emit(self, type_: str, thing: Json, *, account: str | None = None) -> None:
        """Something happened to an object of the first API, of a connected account if one is given."""
        event: Json = {
            "id": self._store.new_id("evt_"), "object": "event", "api_version": stripe.api_version, "created": self._store.now(),
            "data": {"object": deepcopy(thing)}, "livemode": False, "request": self._request(), "type": type_,
        }  # fmt: skip
        if account:
            event["account"] = account
        wanted = self._mail.wanted(type_, thin=False, of_account=bool(account))
        event["pending_webhooks"] = len(wanted)
        self._store.add(event)
        self.bodies.append(event)
        for endpoint in wanted:
            self._mail.post(endpoint, event)
        thin = f"v1.{type_}"
        if self._mail.wanted(thin, thin=True, of_account=bool(account)):
            path = _V1_PATHS.get(thing["object"], "").format(thing["id"])
            related = (thing["id"], thing["object"], path) if path else None
            self.emit_thin(thin, related=related, context=account, snapshot=event["id"])

    def emit_thin(
        self, type_: str, *, related: tuple[str, str, str] | None = None, data: Json | None = None,
        context: str | None = None, snapshot: str | None = None,
    ) -> None:  # fmt: skip
        """Something happened that is told as a thin event: `related` is the id, type and address of the object."""
        cause = self._store.cause
        request = cause and {"id": cause.request_id, "idempotency_key": cause.idempotency_key or ""}
        notification: Json = {
            "id": self._store.new_id("evt_test_"), "object": "v2.core.event", "type": type_, "livemode": False,
            "created": iso(self._store.now()), "context": context,
            "reason": {"type": "request", "request": request} if request else None,
        }  # fmt: skip
        if related:
            notification["related_object"] = dict(zip(("id", "type", "url"), related, strict=True))
        if snapshot:
            notification["snapshot_event"] = snapshot
        # Who was told of it fetches the event for what only that shows.
        self._store.add({**notification, "changes": None} | ({"data": data} if data else {}))
        self.bodies.append(notification)
        for endpoint in self._mail.wanted(type_, thin=True, of_account=context is not None):
            self._mail.post(endpoint, notification)

    def list(self, params: Json) -> Json:
        """Snapshot events, newest first."""
        if "type" in params and "types" in params:
            raise invalid("You may pass either type or types, but not both", "types")
        if len(params.get("types", ())) > 20:
            raise invalid("types may have up to 20 names", "types")
        things = [self._now(event) for event in self._store.newest("event") if self._matches(event, params)]
        return page(things, params, "/v1/events")

    def retrieve(self, _: Json, event: str) -> Json:
        """A snapshot event."""
        return self._now(self._store.get("event", event))

    def retrieve_thin(self, _: Json, event: str) -> Json:
        """A thin event, with its data."""
        return self._store.get("v2.core.event", event)

    def _now(self, event: Json) -> Json:
        return {**event, "pending_webhooks": self._mail.waiting(event["id"])}

    def _matches(self, event: Json, params: Json) -> bool:
        kinds = params.get("types") or [params.get("type", "*")]
        delivered = not self._mail.waiting(event["id"])
        # Connected accounts have lists of their own.
        return (
            "account" not in event
            and any(fnmatchcase(event["type"], kind) for kind in kinds)
            and params.get("delivery_success", delivered) == delivered
        )

    def _request(self) -> Json:
        cause = self._store.cause
        return {"id": cause and cause.request_id, "idempotency_key": cause and cause.idempotency_key}
