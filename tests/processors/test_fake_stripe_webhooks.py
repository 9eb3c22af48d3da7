"""Webhooks of the fake Stripe: who gets what, signed how, and how badly they may be delivered."""

import json
from collections.abc import Callable
from typing import Any

import anyio
import httpx2
import pytest
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payre_mcp.clock import SystemClock
from payre_mcp.processors.fake_stripe import Chaos, FakeStripe
from payre_mcp.processors.fake_stripe.deliveries import RETRY_AFTER_S
from tests.processors.fake_stripe_client import HOOK, URL, Desk, Json, refused_param

THIN_TYPES = [
    "v2.core.account.created",
    "v2.core.account[requirements].updated",
    "v2.core.account[configuration.recipient].capability_status_updated",
    "v2.core.account_link.returned",
    "v2.core.account.closed",
]


async def endpoint(desk: Desk, *types: str, **more: Any) -> str:
    """An endpoint of the platform; answers its secret."""
    order: Any = {"url": HOOK, "enabled_events": list(types) or ["*"], **more}
    return str((await desk.client.v1.webhook_endpoints.create_async(order)).secret)


async def destination(desk: Desk, *types: str, **more: Any) -> stripe.v2.core.EventDestination:
    """A destination of thin events of the accounts, with its secret."""
    order: Any = {
        "name": "accounts", "type": "webhook_endpoint", "event_payload": "thin", "enabled_events": list(types),
        "events_from": ["@accounts"], "webhook_endpoint": {"url": HOOK}, "include": ["webhook_endpoint.signing_secret"], **more,
    }  # fmt: skip
    return await desk.client.v2.core.event_destinations.create_async(order)


def bodies(desk: Desk) -> list[Json]:
    return [json.loads(body) for body, _ in desk.inbox.taken]


async def test_an_event_is_delivered_signed_and_carries_the_object_as_it_was_then() -> None:
    desk = Desk()
    desk.fake.deliveries.signing_clock = SystemClock()
    secret = await endpoint(desk, api_version=stripe.api_version)
    customer = await desk.customer()
    await desk.client.v1.customers.update_async(customer, {"name": "Ada"}, {"idempotency_key": "k"})
    assert await desk.fake.deliver() == 2
    created, updated = (desk.client.construct_event(body, signature, secret) for body, signature in desk.inbox.taken)
    assert (created.type, created.data.object["id"], created.data.object["name"]) == ("customer.created", customer, None)
    assert (updated.type, updated.data.object["name"]) == ("customer.updated", "Ada")
    assert updated.request
    assert updated.request.idempotency_key == "k"
    assert str(updated.request.id).startswith("req_")
    assert (updated.api_version, updated.livemode) == (stripe.api_version, False)
    with pytest.raises(stripe.SignatureVerificationError):
        desk.client.construct_event(desk.inbox.taken[0][0], desk.inbox.taken[1][1], secret)
    assert await desk.fake.deliver() == 0


async def test_signatures_are_dated_by_the_clock_of_the_fake() -> None:
    desk = Desk()
    await endpoint(desk)
    await desk.customer()
    await desk.fake.deliver()
    assert desk.inbox.taken[0][1].startswith(f"t={desk.seconds()},v1=")


async def test_an_endpoint_gets_what_it_asked_for_in_its_version_while_it_is_on() -> None:
    desk = Desk()
    await endpoint(desk, "customer.updated", api_version="2020-08-27")
    customer = await desk.customer()
    await desk.client.v1.customers.update_async(customer, {"name": "Ada"})
    await desk.fake.deliver()
    assert [(body["type"], body["api_version"]) for body in bodies(desk)] == [("customer.updated", "2020-08-27")]
    endpoints = desk.client.v1.webhook_endpoints
    known = (await endpoints.list_async()).data[0]
    assert getattr(known, "secret", None) is None
    changed = await endpoints.update_async(
        known.id, {"url": HOOK + "?2", "enabled_events": ["customer.created"], "disabled": False, "description": "ours"}
    )
    assert (changed.url, changed.status, changed.description) == (HOOK + "?2", "enabled", "ours")
    await desk.customer()
    assert await desk.fake.deliver() == 1
    await desk.customer()
    await endpoints.update_async(known.id, {"disabled": True})
    assert await desk.fake.deliver() == 0
    await endpoints.update_async(known.id, {"disabled": False})
    assert (await endpoints.delete_async(known.id)).deleted
    await desk.customer()
    assert await desk.fake.deliver() == 0
    assert not (await endpoints.list_async()).data


@pytest.mark.parametrize(
    "wrong", [{"url": "hub"}, {"url": "ftp://hub/x"}, {"enabled_events": []}, {"enabled_events": ["nothing"]}]
)
async def test_an_endpoint_needs_an_address_and_events_that_there_are(wrong: Json) -> None:
    desk = Desk()
    order: Any = {"url": HOOK, "enabled_events": ["*"], **wrong}
    with pytest.raises(stripe.InvalidRequestError):
        await desk.client.v1.webhook_endpoints.create_async(order)


async def test_events_of_an_account_go_to_connect_endpoints_alone() -> None:
    desk = Desk()
    account = await desk.account()
    await endpoint(desk, "*", connect=True)
    await endpoint(desk, "account.updated", "customer.created")
    await desk.customer()
    desk.fake.finish_onboarding(account)
    desk.fake.deauthorize(account)
    assert await desk.fake.deliver() == 3
    told = [(body["type"], body.get("account")) for body in bodies(desk)]
    assert told == [("customer.created", None), ("account.updated", account), ("account.application.deauthorized", account)]
    assert bodies(desk)[1]["data"]["object"]["payouts_enabled"]


async def test_a_thin_event_names_its_object_and_tells_the_rest_when_it_is_fetched() -> None:
    desk = Desk()
    desk.fake.deliveries.signing_clock = SystemClock()
    place = await destination(desk, *THIN_TYPES)
    hook: Any = place.webhook_endpoint
    account = await desk.account()
    desk.fake.finish_onboarding(account)
    await desk.client.v2.core.accounts.close_async(account, {"applied_configurations": ["recipient"]})
    assert await desk.fake.deliver() == 5
    notes: Any = [desk.client.parse_event_notification(body, header, hook.signing_secret) for body, header in desk.inbox.taken]
    assert [note.type for note in notes] == THIN_TYPES
    assert "data" not in bodies(desk)[2]
    assert notes[2].related_object.id == account
    events = desk.client.v2.core.events
    event: Any = await events.retrieve_async(notes[2].id, {}, {"stripe_context": notes[2].context})
    assert event.data.updated_capability == "stripe_balance.stripe_transfers"
    returned: Any = await events.retrieve_async(notes[3].id)
    assert returned.data.account_id == account
    with pytest.raises(ValueError, match="thin"):
        desk.client.construct_event(*desk.inbox.taken[0], hook.signing_secret)


async def test_every_event_of_the_first_api_has_a_thin_twin_for_who_wants_it() -> None:
    desk = Desk()
    desk.fake.deliveries.signing_clock = SystemClock()
    place = await destination(
        desk, "v1.customer.created", events_from=["@self"], include=["webhook_endpoint.signing_secret", "webhook_endpoint.url"]
    )
    hook: Any = place.webhook_endpoint
    customer = await desk.customer()
    assert await desk.fake.deliver() == 1
    note: Any = desk.client.parse_event_notification(*desk.inbox.taken[0], hook.signing_secret)
    assert (note.related_object.id, hook.url) == (customer, HOOK)
    whole: Any = await desk.client.v2.core.events.retrieve_async(note.id)
    assert [event["id"] for event in desk.fake.events()] == [whole.snapshot_event, note.id]


async def test_what_a_thin_event_fetches_by_itself_is_refused() -> None:
    """A gap, pinned: stripe 16.1 sends its own bookkeeping (`usage`) as a parameter then, in the async calls alone."""
    desk = Desk()
    desk.fake.deliveries.signing_clock = SystemClock()
    hook: Any = (await destination(desk, "v2.core.account.created")).webhook_endpoint
    await desk.account()
    await desk.fake.deliver()
    note: Any = desk.client.parse_event_notification(*desk.inbox.taken[0], hook.signing_secret)
    for fetch in (note.fetch_related_object_async, note.fetch_event_async):
        with pytest.raises(stripe.InvalidRequestError) as refusal:
            await fetch()
        assert refused_param(refusal.value) == "usage"


async def test_the_thin_twin_of_news_about_an_application_has_no_object_to_fetch() -> None:
    desk = Desk()
    account = await desk.account()
    await destination(desk, "v1.account.application.deauthorized", "v1.account.updated")
    desk.fake.finish_onboarding(account)
    desk.fake.deauthorize(account)
    await desk.fake.deliver()
    updated, cut = bodies(desk)
    assert "related_object" not in cut
    assert (updated["related_object"]["type"], updated["context"]) == ("account", account)


async def test_destinations_are_listed_without_their_secrets() -> None:
    desk = Desk()
    made = await destination(desk, *THIN_TYPES, include=[])
    await destination(
        desk, "customer.created", event_payload="snapshot", events_from=["@self"], snapshot_api_version=stripe.api_version
    )
    destinations = desk.client.v2.core.event_destinations
    listed: Any = (await destinations.list_async({"include": ["webhook_endpoint.url"]})).data
    assert [each.webhook_endpoint.to_dict() for each in listed] == [{"url": HOOK}] * 2
    assert listed[1].id == made.id
    plain: Any = (await destinations.list_async()).data
    assert plain[0].webhook_endpoint is None
    await desk.customer()
    await desk.fake.deliver()
    assert [body["object"] for body in bodies(desk)] == ["event"]
    with pytest.raises(stripe.InvalidRequestError):
        await destination(desk, "customer.created", type="amazon_eventbridge")


async def test_a_failed_delivery_is_tried_again_and_then_never_more() -> None:
    desk = Desk()
    await endpoint(desk)
    await desk.customer()
    desk.inbox.statuses = [500, 302, 400]
    assert [await desk.fake.deliver() for _ in range(2)] == [1, 0]
    for wait_s in RETRY_AFTER_S:
        desk.clock.advance(wait_s)
        assert await desk.fake.deliver() == 1
    desk.clock.advance(30 * 24 * 3600)
    assert await desk.fake.deliver() == 0
    assert len({body for body, _ in desk.inbox.taken}) == 1
    missed = await desk.client.v1.events.list_async({"delivery_success": False})
    assert [(event.type, event.pending_webhooks) for event in missed.data] == [("customer.created", 1)]
    assert not (await desk.client.v1.events.list_async({"delivery_success": True})).data


async def test_an_endpoint_that_cannot_be_reached_is_tried_again() -> None:
    """Over the network, since nobody listens on this port: what `payre dev` does without a client of its own."""
    desk = Desk()
    desk.serve(FakeStripe(clock=desk.clock, url=URL))
    await endpoint(desk, url="http://127.0.0.1:9/webhook")
    await desk.customer()
    assert await desk.fake.deliver() == 1
    desk.clock.advance(RETRY_AFTER_S[0])
    assert await desk.fake.deliver() == 1


async def three_events(chaos: Callable[[Chaos], None], *, seed: int = 0) -> tuple[Desk, list[str]]:
    """A desk, and which of three customers each delivery was of."""
    desk = Desk(seed=seed)
    chaos(desk.fake.chaos)
    await endpoint(desk)
    made = [await desk.customer() for _ in range(6)]
    await desk.fake.deliver()
    return desk, [str(made.index(body["data"]["object"]["id"])) for body in bodies(desk)]


def all_twice(chaos: Chaos) -> None:
    chaos.duplicate = True


def all_lost(chaos: Chaos) -> None:
    chaos.drop = True


def some_lost(chaos: Chaos) -> None:
    chaos.drop = 0.5


def any_order(chaos: Chaos) -> None:
    chaos.reorder = True


def late(chaos: Chaos) -> None:
    chaos.delay = 60.0


async def test_webhooks_come_twice() -> None:
    _, order = await three_events(all_twice)
    assert "".join(order) == "001122334455"


async def test_webhooks_get_lost_and_are_still_listed() -> None:
    desk, order = await three_events(all_lost)
    assert not order
    desk.fake.chaos.drop = False
    desk.clock.advance(3600)
    assert await desk.fake.deliver() == 0
    assert len((await desk.client.v1.events.list_async({"types": ["customer.created"], "delivery_success": False})).data) == 6


async def test_some_webhooks_get_lost_the_same_for_the_same_seed() -> None:
    first, again = (await three_events(some_lost))[1], (await three_events(some_lost))[1]
    assert first == again
    assert 0 < len(first) < 6


async def test_webhooks_come_in_any_order_the_same_for_the_same_seed() -> None:
    _, order = await three_events(any_order)
    assert sorted(order) == list("012345") != order
    assert order == (await three_events(any_order))[1]
    assert order != (await three_events(any_order, seed=1))[1]


async def test_webhooks_come_late() -> None:
    desk, order = await three_events(late)
    assert not order
    desk.clock.advance(60)
    assert await desk.fake.deliver() == 6


async def test_what_a_webhook_sets_off_is_delivered_too() -> None:
    desk = Desk()

    async def take(request: Request) -> Response:
        event = await request.json()
        if event["type"] == "customer.created":
            await desk.client.v1.customers.update_async(event["data"]["object"]["id"], {"name": "Ada"})
        return Response()

    hub = Starlette(routes=[Route("/webhook", take, methods=["POST"])])
    desk.serve(FakeStripe(clock=desk.clock, url=URL, http=httpx2.AsyncClient(transport=httpx2.ASGITransport(app=hub))))
    await endpoint(desk)
    await desk.customer()
    assert await desk.fake.deliver() == 2


async def test_run_delivers_as_they_come_until_it_is_cancelled() -> None:
    desk = Desk()
    arrived = anyio.Event()

    class Waiting(type(desk.inbox)):
        async def take(self, request: Request) -> Response:
            reply = await super().take(request)
            arrived.set()
            return reply

    inbox = Waiting()
    desk.serve(FakeStripe(clock=desk.clock, url=URL, http=inbox.http()))
    await endpoint(desk)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(desk.fake.run)
            await anyio.wait_all_tasks_blocked()
            await desk.customer()
            await arrived.wait()
            group.cancel_scope.cancel()
    assert len(inbox.taken) == 1


async def test_events_are_found_by_type_and_one_by_one() -> None:
    desk = Desk()
    await desk.paid_intent(1_000)
    events = desk.client.v1.events
    found = await events.list_async({"type": "payment_intent.*"})
    assert [event.type for event in found.data] == ["payment_intent.succeeded", "payment_intent.created"]
    by_types = await events.list_async({"types": ["charge.succeeded", "customer.created"], "created": {"gte": desk.seconds()}})
    assert [event.type for event in by_types.data] == ["charge.succeeded", "customer.created"]
    assert (await events.retrieve_async(found.data[0].id)).type == "payment_intent.succeeded"
    for wrong in ({"type": "a", "types": ["b"]}, {"types": ["a"] * 21}):
        with pytest.raises(stripe.InvalidRequestError):
            await events.list_async(wrong)  # pyright: ignore[reportArgumentType]
