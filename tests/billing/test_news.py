"""News of Stripe: what is forged, old, early, of the wrong mode or account changes nothing; what is genuine acts once."""

import json
from typing import Any

import anyio
import pytest

from payre_mcp.billing.inbox import MOST_TRIES
from payre_mcp.errors import NotFound, WebhookInvalid
from payre_mcp.money import ZERO
from payre_mcp.payments import EventState, InboxEvent
from tests.billing.till import TEN, Till

pytestmark = pytest.mark.anyio


async def paid_unseen(till: Till) -> dict[str, Any]:
    """Somebody has paid, and the news of it is here and was not delivered."""
    till.stripe.chaos.drop = True
    session = await till.page_of()
    till.stripe.pay(session)
    await till.stripe.deliver()
    return next(each for each in till.stripe.events() if each["type"] == "checkout.session.completed")


def signed(till: Till, event: dict[str, Any], *, secret: str = "", age_s: int = 0) -> tuple[bytes, str]:
    body = json.dumps(event)
    return body.encode(), till.sign(body, secret=secret, age_s=age_s)


def known(till: Till, event: dict[str, Any]) -> InboxEvent:
    found = till.ledger.inbox.find(event["id"])
    assert found is not None
    return found


async def test_a_genuine_event_credits_once_however_often_it_comes(till: Till) -> None:
    event = await paid_unseen(till)
    body, signature = signed(till, event)
    assert await till.billing.receive("platform", body, signature)
    assert not await till.billing.receive("platform", body, signature)
    assert till.balance() == ZERO, "a webhook is answered before it is handled"
    await till.billing.inbox.work()
    assert not await till.billing.receive("platform", body, signature)
    await till.billing.inbox.work()
    assert (till.balance(), known(till, event).state) == (TEN, EventState.DONE)


async def test_concurrent_deliveries_and_workers_credit_once(till: Till) -> None:
    event = await paid_unseen(till)
    body, signature = signed(till, event)
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(till.billing.receive, "platform", body, signature)
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(till.billing.inbox.work)
            tasks.start_soon(till.billing.checkouts.apply, event["data"]["object"]["id"])
    assert till.balance() == TEN
    await till.sound()


@pytest.mark.parametrize("wrong", [{"secret": "whsec_of_somebody_else"}, {"age_s": 301}, {"age_s": -301}])
async def test_a_forged_old_or_early_event_is_not_even_written_down(till: Till, wrong: dict[str, Any]) -> None:
    event = await paid_unseen(till)
    with pytest.raises(WebhookInvalid):
        await till.billing.receive("platform", *signed(till, event, **wrong))
    assert till.ledger.inbox.find(event["id"]) is None
    await till.billing.inbox.work()
    assert till.balance() == ZERO


async def test_an_altered_body_is_forged(till: Till) -> None:
    body, signature = signed(till, await paid_unseen(till))
    with pytest.raises(WebhookInvalid):
        await till.billing.receive("platform", body.replace(b"1000", b"9000"), signature)


@pytest.mark.parametrize("body", [b"\xff\xfe", b"{", b"[]", b"null", b"", b"{}"])
async def test_a_signed_body_that_is_no_event_is_refused(till: Till, body: bytes) -> None:
    with pytest.raises(WebhookInvalid):
        await till.billing.receive("platform", body, till.sign(body.decode("latin-1")))


async def test_a_secret_that_is_being_rolled_is_taken_beside_the_old_one(till: Till) -> None:
    event = await paid_unseen(till)
    old = till.secrets["platform"][0]
    till.secrets["platform"].insert(0, "whsec_new")
    assert await till.billing.receive("platform", *signed(till, event, secret=old))


async def test_an_event_of_the_other_mode_is_set_aside(till: Till) -> None:
    event: dict[str, Any] = await paid_unseen(till) | {"livemode": True}
    await till.billing.receive("platform", *signed(till, event))
    await till.billing.inbox.work()
    assert (known(till, event).state, till.balance()) == (EventState.PARKED, ZERO)
    assert (await till.billing.inbox.replay(event["id"])).state == EventState.PARKED


@pytest.mark.parametrize("endpoint", ["platform", "connect"])
async def test_an_event_of_a_strange_account_is_set_aside(till: Till, endpoint: Any) -> None:
    event = await paid_unseen(till) | {"account": "acct_of_somebody"}
    await till.billing.receive(endpoint, *signed(till, event, secret=till.secrets[endpoint][0]))
    await till.billing.inbox.work()
    assert (known(till, event).state, till.balance()) == (EventState.PARKED, ZERO)


async def test_an_unknown_kind_and_an_unknown_object_are_ignored(till: Till) -> None:
    event = await paid_unseen(till)
    others = (event | {"id": "evt_1", "type": "something.new"}, event | {"id": "evt_2", "data": {"object": {"id": "cs_nobody"}}})
    for other in others:
        await till.billing.receive("platform", *signed(till, other))
    await till.billing.inbox.work()
    assert known(till, others[0]).state == EventState.IGNORED
    assert till.balance() == ZERO


async def test_what_an_event_claims_is_never_booked(till: Till) -> None:
    session = await till.page_of()
    lie = {
        "id": "evt_lie", "object": "event", "type": "checkout.session.completed", "livemode": False, "created": 0,
        "data": {"object": {"id": session, "object": "checkout.session", "payment_status": "paid", "amount_total": 1000}},
    }  # fmt: skip
    await till.billing.receive("platform", *signed(till, lie))
    await till.billing.inbox.work()
    assert till.balance() == ZERO


@pytest.mark.parametrize("wrong", [{"amount_total": 9000}, {"amount_subtotal": 9000}, {"currency": "eur"}])
async def test_a_payment_that_is_not_what_was_asked_for_is_set_aside_with_an_alarm(
    till: Till, wrong: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    event = await paid_unseen(till)
    till.stripe.store.get("checkout.session", event["data"]["object"]["id"]).update(wrong)
    await till.billing.receive("platform", *signed(till, event))
    await till.billing.inbox.work()
    assert (known(till, event).state, till.balance()) == (EventState.PARKED, ZERO)
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]


async def test_while_stripe_is_down_an_event_waits_longer_each_time_and_is_handled_then(till: Till) -> None:
    event = await paid_unseen(till)
    await till.billing.receive("platform", *signed(till, event))
    till.stripe.chaos.api("before", times=3, path="/v1/checkout/sessions", should_retry=False)
    for _ in range(3):
        assert await till.billing.inbox.work() == 1
        assert await till.billing.inbox.work() == 0, "not yet again"
        till.clock.advance(60)
    assert till.balance() == ZERO
    assert await till.billing.inbox.work() == 1
    assert (till.balance(), known(till, event).state) == (TEN, EventState.DONE)


async def test_an_event_that_fails_again_and_again_is_set_aside_and_can_be_replayed(till: Till) -> None:
    event = await paid_unseen(till)
    await till.billing.receive("platform", *signed(till, event))
    till.stripe.chaos.api("before", times=MOST_TRIES, path="/v1/checkout/sessions", should_retry=False)
    for _ in range(MOST_TRIES):
        assert await till.billing.inbox.work() == 1
        till.clock.advance(3601)
    assert known(till, event).state == EventState.PARKED
    assert await till.billing.inbox.work() == 0
    assert (await till.billing.inbox.replay(event["id"])).state == EventState.DONE
    assert till.balance() == TEN


async def test_only_an_event_that_came_in_can_be_replayed(till: Till) -> None:
    with pytest.raises(NotFound):
        await till.billing.inbox.replay("evt_nobody")
