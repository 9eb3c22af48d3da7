"""Replies of the fake Stripe that fail: before the effect, after it, or on the way. The money moves once all the same."""

from typing import Any

import pytest
import stripe

from payre_mcp.processors.fake_stripe.chaos import FaultKind
from tests.processors.fake_stripe_client import Desk

PATH = "/v1/payment_intents"


async def charge(desk: Desk, key: str = "recharge:1") -> stripe.PaymentIntent:
    order: Any = {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    return await desk.client.v1.payment_intents.create_async(order, {"idempotency_key": key})


@pytest.mark.parametrize(
    ("kind", "error", "done"),
    [
        ("before", stripe.APIError, 0),
        ("after", stripe.APIError, 1),
        ("lost", stripe.APIConnectionError, 1),
        ("timeout", stripe.APIConnectionError, 0),
        (409, stripe.APIError, 0),
        (429, stripe.RateLimitError, 0),
        (503, stripe.APIError, 0),
    ],
)
async def test_a_request_that_failed_is_done_once_when_it_is_made_again_with_its_key(
    kind: FaultKind, error: type[stripe.StripeError], done: int
) -> None:
    desk = Desk()
    desk.fake.chaos.api(kind, path=PATH)
    with pytest.raises(error):
        await charge(desk)
    assert desk.kinds().count("charge.succeeded") == done
    intent = await charge(desk)
    assert desk.kinds().count("charge.succeeded") == 1
    assert (await desk.client.v1.payment_intents.list_async()).data[0].id == intent.id
    assert await desk.balance() == (0, 500 - 45)


@pytest.mark.parametrize(("kind", "done"), [("before", 1), ("after", 1), ("lost", 1), ("timeout", 1), (409, 1), (429, 0)])
async def test_the_client_tries_again_by_itself_save_where_it_is_too_much(kind: FaultKind, done: int) -> None:
    desk = Desk(retries=2)
    desk.fake.chaos.api(kind, path=PATH, times=2)
    if done:
        assert (await charge(desk)).status == "succeeded"
    else:
        with pytest.raises(stripe.RateLimitError):
            await charge(desk)
    assert desk.kinds().count("charge.succeeded") == done


@pytest.mark.parametrize(("status", "should_retry", "done"), [(429, True, 1), (500, False, 0)])
async def test_a_header_says_whether_to_try_again(status: int, should_retry: bool, done: int) -> None:
    desk = Desk(retries=2)
    desk.fake.chaos.api(status, path=PATH, should_retry=should_retry)
    if done:
        await charge(desk)
    else:
        with pytest.raises(stripe.APIError):
            await charge(desk)
    assert desk.kinds().count("charge.succeeded") == done


async def test_a_failure_may_be_what_the_key_answers_ever_after() -> None:
    desk = Desk(retries=2)
    desk.fake.chaos.api("after", path=PATH, stored=True)
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            await charge(desk)
    assert desk.kinds().count("charge.succeeded") == 1


async def test_a_replayed_answer_may_be_lost_too() -> None:
    desk = Desk()
    first = await charge(desk)
    desk.fake.chaos.api("lost", path=PATH)
    with pytest.raises(stripe.APIConnectionError):
        await charge(desk)
    assert (await charge(desk)).id == first.id


async def test_a_failure_waits_for_its_own_path_and_method_and_is_used_up() -> None:
    desk = Desk()
    desk.fake.chaos.api("before", path=PATH, method="GET")
    await desk.customer()
    intent = await charge(desk)
    with pytest.raises(stripe.APIError):
        await desk.client.v1.payment_intents.retrieve_async(intent.id)
    assert (await desk.client.v1.payment_intents.retrieve_async(intent.id)).id == intent.id


async def test_a_read_may_fail_after_it_was_answered_too() -> None:
    desk = Desk()
    desk.fake.chaos.api("lost", path="/v1/balance")
    with pytest.raises(stripe.APIConnectionError):
        await desk.balance()
    assert await desk.balance() == (0, 0)


async def test_letting_go_of_nothing_is_fine() -> None:
    Desk().fake.chaos.release()
