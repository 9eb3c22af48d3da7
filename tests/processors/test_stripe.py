"""The Stripe processor before the fake Stripe: the stories of money in and out. stripe.md sections 3, 4 and 5."""

import io
import json
import logging
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from functools import partial
from typing import Any

import httpx2
import pytest
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payre_mcp.clock import US_PER_S, ManualClock
from payre_mcp.errors import ProcessorError, WebhookInvalid
from payre_mcp.logs import RedactingFilter
from payre_mcp.processors.base import CardPayment, Checkout, CheckoutOrder, Endpoint, Event, Processor, TransferOrder
from payre_mcp.processors.fake_stripe import FakeStripe
from payre_mcp.processors.stripe import StripeProcessor
from payre_mcp.processors.stripe_webhooks import EVENTS

DAY_S = 24 * 3600
URLS: dict[Endpoint, str] = {each: f"https://hub.test/stripe/webhook/{each}" for each in ("platform", "connect", "thin")}


@pytest.fixture
def fake(clock: ManualClock) -> FakeStripe:
    return FakeStripe(clock=clock)


@pytest.fixture
async def processor(fake: FakeStripe, clock: ManualClock) -> AsyncGenerator[Processor]:
    processor = StripeProcessor(fake.api_key, clock=clock, transport=fake.transport(), base_url="http://stripe.test")
    yield processor
    await processor.aclose()


def order(clock: ManualClock, customer_id: str, reference: str = "top_1", **change: Any) -> CheckoutOrder:
    plain = CheckoutOrder(
        reference=reference,
        amount_cents=1000,
        fee_cents=59,
        customer_id=customer_id,
        page_url="https://hub.test/top-ups/1",
        expires_at=clock.now_us() + 3600 * US_PER_S,
        save_card=False,
    )
    return replace(plain, **change)


async def opened(processor: Processor, clock: ManualClock, reference: str = "top_1", **change: Any) -> Checkout:
    customer = await processor.make_customer(reference="con_1")
    return await processor.open_checkout(order(clock, customer, reference, **change))


async def paid(
    processor: Processor, fake: FakeStripe, reference: str = "top_1", card: str = "pm_card_visa", **change: Any
) -> CardPayment:
    checkout = await opened(processor, ManualClock(fake.store.clock.now_us()), reference, **change)
    fake.pay(checkout.id, card)
    return await processor.find_card_payment((await processor.find_checkout(checkout.id)).card_payment)


def sent(fake: FakeStripe, path: str) -> dict[str, Any]:
    """An object as the fake has it."""
    return fake.store.get(path, fake.store.newest(path)[0]["id"])


# Top-ups.


async def test_a_top_up_is_paid_on_a_page(processor: Processor, fake: FakeStripe, clock: ManualClock) -> None:
    checkout = await opened(processor, clock)
    assert (checkout.state, checkout.reference, checkout.card_payment, checkout.livemode) == ("open", "top_1", "", False)
    assert (checkout.subtotal_cents, checkout.total_cents, checkout.currency) == (1059, 1059, "usd")
    assert checkout.url == f"http://stripe.test/pay/{checkout.id}"
    fake.pay(checkout.id)
    checkout = await processor.find_checkout(checkout.id)
    assert (checkout.state, checkout.url) == ("paid", "")
    payment = await processor.find_card_payment(checkout.card_payment)
    assert (payment.state, payment.reference, payment.amount_cents, payment.decline) == ("succeeded", "top_1", 1059, "")
    assert (payment.card, payment.fee_cents, payment.currency) == ("visa 4242", 61, "usd")


async def test_every_object_carries_our_reference(processor: Processor, fake: FakeStripe, clock: ManualClock) -> None:
    await paid(processor, fake)
    session, intent = sent(fake, "checkout.session"), sent(fake, "payment_intent")
    assert session["metadata"] == intent["metadata"] == {"payre": "top_1"}
    assert (session["client_reference_id"], intent["transfer_group"]) == ("top_1", "top_1")
    assert sent(fake, "customer")["metadata"] == {"payre": "con_1"}


async def test_the_person_comes_back_to_our_page(processor: Processor, fake: FakeStripe, clock: ManualClock) -> None:
    for page, joint in (("https://hub.test/top-ups/1", "?"), ("https://hub.test/top-ups/1?a=b", "&")):
        await opened(processor, clock, f"top_{joint}", page_url=page)
        session = sent(fake, "checkout.session")
        assert session["success_url"] == f"{page}{joint}session_id={{CHECKOUT_SESSION_ID}}"
        assert session["cancel_url"] == page


async def test_a_page_takes_no_way_to_pay_that_is_settled_in_days(
    processor: Processor, fake: FakeStripe, clock: ManualClock
) -> None:
    await opened(processor, clock)
    session = sent(fake, "checkout.session")
    assert session["payment_method_types"] == ["card"]
    assert session["adaptive_pricing"] == {"enabled": False}
    assert session["expires_at"] == clock.now_us() // US_PER_S + 3600


async def test_a_page_without_a_fee_has_one_line(processor: Processor, fake: FakeStripe, clock: ManualClock) -> None:
    assert (await opened(processor, clock, fee_cents=0)).total_cents == 1000
    with_fee = await opened(processor, clock, "top_2", fee_cents=59)
    lines = [fake.store.more[each]["line_items"]["data"] for each in (sent(fake, "checkout.session")["id"], with_fee.id)]
    assert [line["amount_total"] for line in lines[1]] == [1000, 59]


@pytest.mark.parametrize("save_card", [True, False])
async def test_a_card_is_kept_only_where_the_person_asked_for_it(processor: Processor, fake: FakeStripe, save_card: bool) -> None:
    payment = await paid(processor, fake, save_card=save_card)
    kept = fake.store.get("payment_method", payment.method_id)["customer"]
    assert kept == (sent(fake, "customer")["id"] if save_card else None)


async def test_the_same_reference_makes_the_same_again(processor: Processor, fake: FakeStripe, clock: ManualClock) -> None:
    customers = {await processor.make_customer(reference="con_1") for _ in range(2)}
    (customer,) = customers
    pages = {(await processor.open_checkout(order(clock, customer))).id for _ in range(2)}
    assert len(pages) == len(fake.store.newest("checkout.session")) == 1
    assert await processor.make_customer(reference="con_2") not in customers


async def test_a_page_closes_once_and_a_paid_one_never(processor: Processor, fake: FakeStripe, clock: ManualClock) -> None:
    first, second = await opened(processor, clock), await opened(processor, clock, "top_2")
    fake.pay(second.id)
    for _ in range(2):
        closed = await processor.expire_checkout(first.id)
        assert (closed.state, closed.url, closed.card_payment) == ("expired", "", "")
    assert (await processor.expire_checkout(second.id)).state == "paid"
    with pytest.raises(ProcessorError) as raised:
        await processor.expire_checkout("cs_test_unknown")
    assert (raised.value.reason, raised.value.outcome_unknown) == ("resource_missing", False)


async def test_a_page_whose_card_declined_is_open_still(processor: Processor, fake: FakeStripe, clock: ManualClock) -> None:
    checkout = await opened(processor, clock)
    fake.decline(checkout.id)
    assert (await processor.find_checkout(checkout.id)).state == "open"
    clock.advance(2 * 3600)
    fake.store.tick()
    assert (await processor.find_checkout(checkout.id)).state == "expired"


# Recharges.


async def saved(processor: Processor, fake: FakeStripe, card: str = "pm_card_visa") -> tuple[str, str]:
    """A customer and their card."""
    payment = await paid(processor, fake, save_card=True, card=card)
    return sent(fake, "customer")["id"], payment.method_id


async def test_a_saved_card_is_charged_once_for_each_reference(processor: Processor, fake: FakeStripe) -> None:
    customer, method = await saved(processor, fake)
    for reference in ("top_2", "top_2", "top_3"):
        payment = await processor.charge_card(reference=reference, customer_id=customer, method_id=method, amount_cents=2000)
        assert (payment.state, payment.reference, payment.amount_cents) == ("succeeded", reference, 2000)
        assert (payment.card, payment.fee_cents, payment.method_id) == ("visa 4242", 88, method)
    assert len(fake.store.newest("charge")) == 3


@pytest.mark.parametrize(
    ("card", "decline"),
    [
        ("pm_card_chargeDeclined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card"),
        ("pm_card_authenticationRequired", "authentication_required"),
    ],
)
async def test_a_decline_is_an_answer(processor: Processor, fake: FakeStripe, card: str, decline: str) -> None:
    customer = await processor.make_customer(reference="con_1")
    payments = [
        await processor.charge_card(reference="top_2", customer_id=customer, method_id=card, amount_cents=2000) for _ in range(2)
    ]
    payment = payments[0]
    assert payments[1] == payment
    assert (payment.state, payment.decline, payment.reference, payment.fee_cents) == ("failed", decline, "top_2", None)
    found = await processor.find_card_payment(payment.id)
    assert (found.state, found.decline, found.method_id) == ("failed", decline, payment.method_id)
    assert len(fake.store.newest("payment_intent")) == 1


async def test_a_reference_with_other_content_moves_nothing(
    processor: Processor, fake: FakeStripe, caplog: pytest.LogCaptureFixture
) -> None:
    customer, method = await saved(processor, fake)
    for cents in (2000, 3000):
        call = processor.charge_card(reference="top_2", customer_id=customer, method_id=method, amount_cents=cents)
        if cents == 2000:
            await call
            continue
        with pytest.raises(ProcessorError) as raised:
            await call
        assert (raised.value.reason, raised.value.outcome_unknown) == ("idempotency_error", True)
    assert len(fake.store.newest("charge")) == 2
    assert "two contents" in caplog.text


async def test_a_payment_whose_answer_was_lost_is_found_by_its_reference(processor: Processor, fake: FakeStripe) -> None:
    customer, method = await saved(processor, fake)
    made = [
        await processor.charge_card(reference=f"top_{each}", customer_id=customer, method_id=method, amount_cents=100)
        for each in range(2, 15)
    ]
    assert await processor.find_card_payment_of("top_2", customer) == made[0]
    assert await processor.find_card_payment_of("top_14", customer) == made[-1]
    assert await processor.find_card_payment_of("top_99", customer) is None


async def test_a_card_is_forgotten_and_may_be_gone_already(processor: Processor, fake: FakeStripe) -> None:
    customer, method = await saved(processor, fake)
    for _ in range(2):
        await processor.forget_card(method)
        assert fake.store.get("payment_method", method)["customer"] is None
    await processor.forget_card("pm_unknown")
    with pytest.raises(ProcessorError) as raised:
        await processor.charge_card(reference="top_2", customer_id=customer, method_id=method, amount_cents=100)
    assert (raised.value.reason, raised.value.outcome_unknown) == ("resource_missing", False)


# What goes wrong on the way.


@pytest.mark.parametrize("fault", ["after", "lost", "timeout", 409])
async def test_an_answer_that_is_lost_on_the_way_charges_once(processor: Processor, fake: FakeStripe, fault: Any) -> None:
    """The package asks again with the same key, by itself."""
    customer, method = await saved(processor, fake)
    fake.chaos.api(fault, path="/v1/payment_intents", method="POST")
    payment = await processor.charge_card(reference="top_2", customer_id=customer, method_id=method, amount_cents=2000)
    assert payment.state == "succeeded"
    assert len(fake.store.newest("charge")) == 2


class Losing(httpx2.AsyncBaseTransport):
    """A line to the fake on which the next answers are lost; requests arrive."""

    def __init__(self, fake: FakeStripe) -> None:
        self._line, self.lost = fake.transport(), 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        reply = await self._line.handle_async_request(request)
        if self.lost:
            self.lost -= 1
            raise httpx2.ReadError("the line broke")
        return reply


async def test_an_outcome_that_stays_unknown_is_settled_by_asking_again(fake: FakeStripe, clock: ManualClock) -> None:
    line = Losing(fake)
    processor = StripeProcessor(fake.api_key, clock=clock, transport=line, base_url="http://stripe.test")
    customer, method = await saved(processor, fake)
    ask = partial(processor.charge_card, reference="top_2", customer_id=customer, method_id=method, amount_cents=2000)
    line.lost = 3
    with pytest.raises(ProcessorError) as raised:
        await ask()
    assert raised.value.outcome_unknown
    assert len(fake.store.newest("charge")) == 2
    assert (await ask()).state == "succeeded"
    assert len(fake.store.newest("charge")) == 2
    await processor.aclose()


async def test_a_card_that_declined_while_the_answer_was_lost_declines_again(fake: FakeStripe, clock: ManualClock) -> None:
    line = Losing(fake)
    processor = StripeProcessor(fake.api_key, clock=clock, transport=line, base_url="http://stripe.test")
    customer = await processor.make_customer(reference="con_1")
    line.lost = 1
    payment = await processor.charge_card(
        reference="top_2", customer_id=customer, method_id="pm_card_chargeDeclined", amount_cents=2000
    )
    assert (payment.state, payment.decline) == ("failed", "generic_decline")
    assert len(fake.store.newest("payment_intent")) == 1
    await processor.aclose()


async def test_a_refusal_for_asking_too_much_is_not_repeated_at_once(processor: Processor, fake: FakeStripe) -> None:
    fake.chaos.api(429)
    with pytest.raises(ProcessorError) as raised:
        await processor.available_cents()
    assert (raised.value.reason, raised.value.outcome_unknown) == ("rate_limit", False)


async def test_a_key_that_stripe_does_not_know_is_a_matter_of_configuration(fake: FakeStripe, clock: ManualClock) -> None:
    other = StripeProcessor("sk_test_51Hother", clock=clock, transport=fake.transport(), base_url="http://stripe.test")
    with pytest.raises(ProcessorError, match="Check the configuration") as raised:
        await other.available_cents()
    assert not raised.value.outcome_unknown
    assert "51H" not in raised.value.message
    await other.aclose()


# Refunds and disputes.


async def test_money_goes_back_to_the_card_once_for_each_reference(processor: Processor, fake: FakeStripe) -> None:
    payment = await paid(processor, fake)
    for reference, cents in (("ref_1", 300), ("ref_1", 300), ("ref_2", 400)):
        refund = await processor.refund(reference=reference, card_payment=payment.id, amount_cents=cents)
        assert (refund.state, refund.reference, refund.amount_cents) == ("succeeded", reference, cents)
        assert (refund.card_payment, refund.currency, refund.livemode) == (payment.id, "usd", False)
    assert await processor.find_refund(refund.id) == refund
    assert await processor.find_refund_of("ref_2", payment.id) == refund
    assert await processor.find_refund_of("ref_3", payment.id) is None
    with pytest.raises(ProcessorError) as raised:
        await processor.refund(reference="ref_3", card_payment=payment.id, amount_cents=360)
    assert not raised.value.outcome_unknown


@pytest.mark.parametrize("succeeded", [True, False])
async def test_a_refund_may_take_days(processor: Processor, fake: FakeStripe, succeeded: bool) -> None:
    payment = await paid(processor, fake)
    fake.chaos.refunds_pending = True
    refund = await processor.refund(reference="ref_1", card_payment=payment.id, amount_cents=300)
    assert refund.state == "pending"
    fake.settle_refund(refund.id, succeeded=succeeded)
    assert (await processor.find_refund(refund.id)).state == ("succeeded" if succeeded else "failed")


async def test_a_refund_that_was_made_at_stripe_has_no_reference(processor: Processor, fake: FakeStripe) -> None:
    payment = await paid(processor, fake)
    refund = await processor.find_refund(fake.refund_in_dashboard(payment.id, 200))
    assert (refund.reference, refund.card_payment, refund.amount_cents) == ("", payment.id, 200)


@pytest.mark.parametrize("won", [True, False])
async def test_a_dispute_takes_money_and_fee_until_it_is_decided(processor: Processor, fake: FakeStripe, won: bool) -> None:
    payment = await paid(processor, fake)
    dispute_id = fake.open_dispute(payment.id, amount=700)
    dispute = await processor.find_dispute(dispute_id)
    assert (dispute.state, dispute.amount_cents, dispute.fee_cents) == ("open", 700, 1500)
    assert (dispute.card_payment, dispute.currency, dispute.livemode) == (payment.id, "usd", False)
    fake.close_dispute(dispute_id, won=won)
    assert (await processor.find_dispute(dispute_id)).state == ("won" if won else "lost")


async def test_an_inquiry_takes_nothing(processor: Processor, fake: FakeStripe) -> None:
    payment = await paid(processor, fake)
    dispute_id = fake.open_dispute(payment.id, inquiry=True)
    asked = await processor.find_dispute(dispute_id)
    fake.close_dispute(dispute_id, won=True)
    assert await processor.find_dispute(dispute_id) == asked
    assert (asked.state, asked.fee_cents) == ("inquiry", 0)


# Payouts.


async def payee(processor: Processor) -> str:
    made = await processor.make_payee(reference="dev_1", email="ada@example.com", name="Ada", country="US")
    return made.id


async def test_a_developer_is_onboarded_on_a_page_of_stripe(processor: Processor, fake: FakeStripe) -> None:
    account = await payee(processor)
    assert account == await payee(processor)
    assert sent(fake, "v2.core.account")["metadata"] == {"payre": "dev_1"}
    assert (await processor.find_payee(account)).state == "restricted"
    urls = {await processor.onboarding_url(account, return_url="https://a.test", refresh_url="https://b.test") for _ in range(2)}
    assert len(urls) == 2
    for status in ("pending", "rejected", "active"):
        fake.finish_onboarding(account, status=status)
        assert (await processor.find_payee(account)).state == status


async def test_a_closed_account_is_closed(processor: Processor, fake: FakeStripe) -> None:
    account = await payee(processor)
    fake.finish_onboarding(account)
    fake.deauthorize(account)
    assert (await processor.find_payee(account)).state == "closed"


async def test_earnings_are_sent_when_they_are_there(processor: Processor, fake: FakeStripe, clock: ManualClock) -> None:
    account = await payee(processor)
    wish = TransferOrder(reference="pay_1", account_id=account, amount_cents=500)
    fake.finish_onboarding(account)
    await paid(processor, fake)
    assert await processor.available_cents() == 0
    with pytest.raises(ProcessorError) as raised:
        await processor.transfer(wish)
    assert (raised.value.reason, raised.value.outcome_unknown) == ("balance_insufficient", False)
    assert await processor.find_transfer_of("pay_1") is None
    clock.advance(3 * DAY_S)
    assert await processor.available_cents() == 1059 - 61
    transfers = [await processor.transfer(wish) for _ in range(2)]
    assert transfers[0] == transfers[1] == await processor.find_transfer_of("pay_1")
    assert (transfers[0].reference, transfers[0].account_id, transfers[0].amount_cents) == ("pay_1", account, 500)
    assert fake.paid_out(account) == 500


async def test_a_transfer_may_come_back(processor: Processor, fake: FakeStripe, clock: ManualClock) -> None:
    account = await payee(processor)
    fake.finish_onboarding(account)
    await paid(processor, fake, card="pm_card_bypassPending")
    made = await processor.transfer(TransferOrder(reference="pay_1", account_id=account, amount_cents=500))
    for back in (200, 500):
        fake.reverse_transfer(made.id, None if back == 500 else back)
        found = await processor.find_transfer(made.id)
        assert (found.amount_cents, found.reversed_cents) == (500, back)


async def test_an_account_that_is_not_active_is_not_paid(processor: Processor, fake: FakeStripe) -> None:
    account = await payee(processor)
    await paid(processor, fake, card="pm_card_bypassPending")
    with pytest.raises(ProcessorError) as raised:
        await processor.transfer(TransferOrder(reference="pay_1", account_id=account, amount_cents=500))
    assert not raised.value.outcome_unknown
    assert raised.value.reason != "balance_insufficient"


# News.


async def all_events(processor: Processor, since: int = 0) -> list[Event]:
    return [event async for event in processor.events(since=since)]


async def test_what_no_webhook_told_is_listed_oldest_first(processor: Processor, fake: FakeStripe, clock: ManualClock) -> None:
    began = clock.now_us()
    for each in range(3):
        await paid(processor, fake, f"top_{each}")
        clock.advance(20 * 3600)
    expected = [event for event in fake.events() if event["type"] in EVENTS["platform"]]
    for since in (0, began - 40 * DAY_S * US_PER_S, began):
        events = await all_events(processor, since)
        assert [(event.id, event.kind) for event in events] == [(event["id"], event["type"]) for event in expected]
    later = [event for event in expected if event["created"] * US_PER_S > began]
    assert [event.id for event in await all_events(processor, began + US_PER_S)] == [event["id"] for event in later]
    assert await all_events(processor, clock.now_us() + DAY_S * US_PER_S) == []
    first = events[0]
    assert (first.object_id, first.livemode, first.account) == (expected[0]["data"]["object"]["id"], False, "")
    assert (first.created_at, json.loads(first.body)["type"]) == (expected[0]["created"] * US_PER_S, first.kind)


async def test_lists_are_read_to_their_end(processor: Processor, fake: FakeStripe) -> None:
    customer, method = await saved(processor, fake)
    for each in range(105):
        await processor.charge_card(reference=f"top_x{each}", customer_id=customer, method_id=method, amount_cents=100)
    events = [event for event in await all_events(processor) if event.kind == "payment_intent.succeeded"]
    lines = [line async for line in processor.bank_lines(since=0)]
    assert (len({event.id for event in events}), len({line.id for line in lines})) == (106, 106)
    first = await processor.find_card_payment_of("top_x0", customer)
    assert first is not None
    assert first.reference == "top_x0"


async def test_every_movement_of_the_balance_names_its_payment(
    processor: Processor, fake: FakeStripe, clock: ManualClock
) -> None:
    payment = await paid(processor, fake, card="pm_card_bypassPending")
    account = await payee(processor)
    fake.finish_onboarding(account)
    clock.advance(2 * DAY_S)
    refund = await processor.refund(reference="ref_1", card_payment=payment.id, amount_cents=100)
    made = await processor.transfer(TransferOrder(reference="pay_1", account_id=account, amount_cents=200))
    fake.reverse_transfer(made.id, 50)
    dispute = fake.open_dispute(payment.id, amount=300)
    lines = [line async for line in processor.bank_lines(since=0)]
    assert [(line.kind, line.amount_cents, line.fee_cents, line.card_payment) for line in lines] == [
        ("charge", 1059, 61, payment.id),
        ("refund", -100, 0, payment.id),
        ("transfer", -200, 0, ""),
        ("transfer_refund", 50, 0, ""),
        ("adjustment", -300, 1500, payment.id),
    ]
    assert [line.source for line in lines[1:3]] == [refund.id, made.id]
    assert lines[4].source == dispute
    assert [line.created_at for line in lines[:2]] == [clock.now_us() - 2 * DAY_S * US_PER_S, clock.now_us()]
    assert [line.id async for line in processor.bank_lines(since=clock.now_us())] == [line.id for line in lines[1:]]


# Webhooks.


async def test_webhooks_are_set_up_once(processor: Processor, fake: FakeStripe) -> None:
    made = await processor.set_up(URLS)
    assert [(each.endpoint, each.url, each.version) for each in made] == [
        ("platform", URLS["platform"], stripe.api_version),
        ("connect", URLS["connect"], stripe.api_version),
        ("thin", URLS["thin"], ""),
    ]
    assert all(each.secret.startswith("whsec_") for each in made)
    again = await processor.set_up(URLS)
    assert [(each.id, each.secret) for each in again] == [(each.id, "") for each in made]
    for each in made:
        endpoint = fake.store.find(each.id)
        assert endpoint is not None
        assert endpoint["enabled_events"] == list(EVENTS[each.endpoint])


async def test_an_endpoint_that_sleeps_or_misses_news_is_put_right(processor: Processor, fake: FakeStripe) -> None:
    (made,) = await processor.set_up({"platform": URLS["platform"]})
    endpoint = fake.store.get("webhook_endpoint", made.id)
    endpoint.update(status="disabled", enabled_events=["charge.succeeded", "transfer.created"])
    await processor.set_up({"platform": URLS["platform"]})
    assert endpoint["status"] == "enabled"
    assert endpoint["enabled_events"][0] == "charge.succeeded"
    assert set(endpoint["enabled_events"]) == {"charge.succeeded", *EVENTS["platform"]}
    endpoint.update(enabled_events=["*"])
    await processor.set_up({"platform": URLS["platform"]})
    assert endpoint["enabled_events"] == ["*"]


@pytest.mark.parametrize(
    ("status", "enabled", "acts"),
    [
        ("enabled", EVENTS["thin"], []),
        ("enabled", ["*"], []),
        ("enabled", EVENTS["thin"][:1], ["/ed_1"]),
        ("disabled", EVENTS["thin"], ["/ed_1/enable"]),
        ("disabled", [], ["/ed_1", "/ed_1/enable"]),
    ],
)
async def test_a_thin_endpoint_that_sleeps_or_misses_news_is_put_right(
    clock: ManualClock, status: str, enabled: list[str], acts: list[str]
) -> None:
    """Over hand-written answers: the fake has no such calls."""
    thin = {
        "object": "v2.core.event_destination", "id": "ed_1", "status": status, "enabled_events": enabled,
        "webhook_endpoint": {"url": URLS["thin"]},
    }  # fmt: skip
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(
                200, json={"data": [{**thin, "id": "ed_0", "webhook_endpoint": None}, thin], "next_page_url": None}
            )
        seen.append(request.url.path.removeprefix("/v2/core/event_destinations"))
        return httpx2.Response(200, json=thin)

    processor = StripeProcessor("sk_test_51H", clock=clock, transport=httpx2.MockTransport(answer), base_url="http://x")
    (found,) = await processor.set_up({"thin": URLS["thin"]})
    assert (found.id, found.url, found.secret, seen) == ("ed_1", URLS["thin"], "", acts)
    await processor.aclose()


async def test_webhooks_are_read_by_the_endpoint_that_they_were_made_for(clock: ManualClock) -> None:
    """From the call that makes the endpoints to the event, over the wire."""
    taken: list[tuple[Endpoint, bytes, str]] = []

    async def take(request: Request) -> Response:
        endpoint: Endpoint = request.path_params["endpoint"]
        taken.append((endpoint, await request.body(), request.headers["stripe-signature"]))
        return Response()

    hub = Starlette(routes=[Route("/stripe/webhook/{endpoint}", take, methods=["POST"])])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=hub)) as http:
        fake = FakeStripe(clock=clock, http=http)
        first = StripeProcessor(fake.api_key, clock=clock, transport=fake.transport(), base_url="http://stripe.test")
        secrets: dict[Endpoint, list[str]] = {each.endpoint: [each.secret] for each in await first.set_up(URLS)}
        account = await payee(first)
        fake.finish_onboarding(account)
        fake.deauthorize(account)
        await paid(first, fake)
        await fake.deliver()
    await first.aclose()
    second = StripeProcessor(fake.api_key, webhook_secrets=secrets, clock=clock, transport=fake.transport(), base_url="http://x")
    events = [second.read_event(*each) for each in taken]
    assert {event.kind for event in events} >= {
        "checkout.session.completed", "payment_intent.succeeded", "account.updated", "account.application.deauthorized",
        *EVENTS["thin"][:2], "v2.core.account_link.returned",
    }  # fmt: skip
    assert all(event.object_id == event.account == account for event in events if "account" in event.kind)
    assert all(event.created_at == clock.now_us() and not event.livemode for event in events)
    for endpoint, body, signature in taken:
        for other in URLS:
            if other != endpoint:
                with pytest.raises(WebhookInvalid):
                    second.read_event(other, body, signature)
    await second.aclose()


# Logs.


@pytest.fixture
def log() -> Generator[io.StringIO]:
    """Everything that anybody logs at DEBUG, as our handler shows it."""
    out, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(out), root.level
    handler.addFilter(RedactingFilter(handler))
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield out
    root.removeHandler(handler)
    root.setLevel(level)


async def test_no_secret_and_no_person_reaches_a_log(
    processor: Processor, fake: FakeStripe, log: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    written = io.StringIO()
    listening = logging.StreamHandler(written)
    package = logging.getLogger("stripe")
    package.addHandler(listening)
    account = await payee(processor)
    link = await processor.onboarding_url(account, return_url="https://a.test", refresh_url="https://b.test")
    secrets = [each.secret for each in await processor.set_up(URLS)]
    customer, method = await saved(processor, fake)
    await processor.charge_card(reference="top_2", customer_id=customer, method_id=method, amount_cents=100)
    with pytest.raises(ProcessorError):
        await processor.charge_card(reference="top_2", customer_id=customer, method_id=method, amount_cents=200)
    await all_events(processor)
    package.removeHandler(listening)
    told, printed = log.getvalue(), capfd.readouterr()
    for kept in ("Request to Stripe api", "message='Post details'", "message='API response body'", "two contents"):
        assert kept in told
    shown = [*secrets, link, "ada@example.com", "ada%40example.com", "_secret_test"]
    assert [secret for secret in shown if secret not in written.getvalue()] == []  # the package does write them
    hidden = [fake.api_key, *shown, *(secret.removeprefix("whsec_") for secret in secrets)]
    for text in (told, printed.out, printed.err):
        assert [secret for secret in hidden if secret in text] == []
