"""Every key that the fake Stripe emits is one that the stripe package knows: of each kind of object, and of their parts."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
from stripe._object_classes import get_object_class  # the package has no public way to its classes by name
from stripe.events._event_classes import get_v2_event_class

from tests.processors.fake_stripe_client import Desk, Json, untyped

EMITTED = {
    "balance", "balance_transaction", "charge", "checkout.session", "customer", "dispute", "event", "payment_intent",
    "payment_method", "payout", "refund", "setup_intent", "transfer", "transfer_reversal", "webhook_endpoint", "account",
    "application", "item", "list", "login_link",
    "v2.core.account", "v2.core.account_link", "v2.core.event", "v2.core.event_destination",
}  # fmt: skip


def class_of(thing: Json) -> Any:
    """The package's class of an object."""
    kind = thing["object"]
    if kind == "v2.core.event":
        return get_v2_event_class(thing["type"])
    return get_object_class("V2" if kind.startswith("v2.") else "V1", kind)


def known_fields(kind: Any) -> set[str]:
    return {name for each in kind.__mro__ for name in getattr(each, "__annotations__", {})}


def strangers(value: Any, kind: Any, where: str) -> Iterator[str]:
    """The keys of a value, and of what is in it, that the package's class has no place for."""
    if isinstance(value, list):
        for one in cast("list[Any]", value):
            yield from strangers(one, kind, where)
    if not isinstance(value, dict):
        return
    thing = cast("Json", value)
    if isinstance(thing.get("object"), str) and thing["object"] != "list":
        kind = class_of(thing)
    inner = getattr(kind, "_inner_class_types", {})
    for name, one in thing.items():
        if kind is not None and thing.get("object") != "list" and name not in known_fields(kind):
            yield f"{where}.{name}"
        yield from strangers(one, inner.get(name), f"{where}.{name}")


def things_in(value: Any) -> Iterator[Json]:
    """Every object in a value."""
    if isinstance(value, list):
        for one in cast("list[Any]", value):
            yield from things_in(one)
    if isinstance(value, dict):
        thing = cast("Json", value)
        if "object" in thing and isinstance(thing["object"], str):
            yield thing
        for one in thing.values():
            yield from things_in(one)


async def whole_story(desk: Desk) -> None:
    """Everything that can happen, once."""
    client = desk.client
    order: Any = {"url": "http://hub.test/webhook", "enabled_events": ["*"]}
    await client.v1.webhook_endpoints.create_async(order)
    thin: Any = {
        "name": "thin", "type": "webhook_endpoint", "event_payload": "thin", "enabled_events": ["*"],
        "events_from": ["@accounts"], "webhook_endpoint": {"url": "http://hub.test/webhook"},
        "include": ["webhook_endpoint.signing_secret"],
    }  # fmt: skip
    await client.v2.core.event_destinations.create_async(thin)
    await client.v2.core.event_destinations.create_async(untyped({**thin, "events_from": ["@self"]}))
    customer, method = await desk.saved_card()
    desk.fake.replace_card(method)
    session = await desk.session(customer=customer, automatic_tax={"enabled": True}, adaptive_pricing={"enabled": False},
                                 saved_payment_method_options={"payment_method_save": "enabled"})  # fmt: skip
    desk.fake.decline(session.id)
    desk.fake.pay_later(session.id)
    desk.fake.settle_later(session.id, paid=True)
    await client.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["line_items"]})
    await client.v1.checkout.sessions.expire_async((await desk.session()).id)
    asks: Any = {"amount": 500, "currency": "usd", "payment_method": "pm_card_authenticationRequired", "confirm": True}
    waiting = await client.v1.payment_intents.create_async(asks)
    await client.v1.payment_intents.cancel_async(waiting.id)
    intent = (await desk.charge(customer, method, 50_000)).id
    done = await client.v1.refunds.create_async({"payment_intent": intent, "amount": 100})
    desk.fake.settle_refund(done.id, succeeded=False)
    desk.fake.chaos.refunds_pending = True
    await client.v1.refunds.create_async({"payment_intent": intent, "amount": 100})
    desk.clock.advance(3 * 24 * 3600)
    account = await desk.onboarded()
    include: Any = {"include": ["configuration.recipient", "defaults", "identity", "requirements"]}
    await client.v2.core.accounts.retrieve_async(account, include)
    details = {"refresh_url": "http://hub.test", "collection_options": {"fields": "currently_due"}}
    link: Any = {"account": account, "use_case": {"type": "account_onboarding", "account_onboarding": details}}
    await client.v2.core.account_links.create_async(link)
    await client.v1.accounts.login_links.create_async(account)
    await client.v1.accounts.retrieve_async(account)
    sent = await client.v1.transfers.create_async({"amount": 1_000, "currency": "usd", "destination": account})
    await client.v1.transfers.reversals.create_async(sent.id, {"amount": 10})
    desk.fake.pay_out(account)
    desk.fake.close_dispute(desk.fake.open_dispute(intent), won=True)
    desk.fake.deauthorize(account)
    await client.v1.balance.retrieve_async()
    await client.v1.events.list_async({"limit": 100})
    for event in desk.fake.events():
        if event["object"] == "v2.core.event":
            await client.v2.core.events.retrieve_async(event["id"])


@pytest.fixture
def anyio_backend() -> str:
    """What is emitted does not depend on who waits for it."""
    return "asyncio"


async def test_no_reply_and_no_event_has_a_key_that_the_package_does_not_know() -> None:
    desk = Desk()
    await whole_story(desk)
    told = [reply.json() for reply in desk.http.replies] + desk.fake.events()
    found = {stranger for thing in told for stranger in strangers(thing, None, str(thing.get("object")))}
    assert not found
    assert {thing["object"] for one in told for thing in things_in(one)} == EMITTED


def test_a_key_that_the_package_does_not_know_would_be_found() -> None:
    refund = {"object": "refund", "id": "re_1", "livemode": False, "destination_details": {"type": "card", "card": {"kind": "x"}}}
    assert set(strangers(refund, None, "refund")) == {"refund.livemode", "refund.destination_details.card.kind"}
