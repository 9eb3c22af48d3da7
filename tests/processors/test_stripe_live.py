"""What can be said of Stripe without a browser, to the fake and to Stripe itself in test mode; stripe.md section 6.2.

`STRIPE_TEST_KEY=sk_test_... pytest -m stripe_live tests/processors` runs it there. With `PAYRE_REQUIRE_STRIPE=1` a key that is
missing is a failure.
"""

import os
import secrets
from collections.abc import AsyncGenerator
from typing import NamedTuple

import pytest
import stripe

from payre_mcp.clock import US_PER_S, Clock, ManualClock, SystemClock
from payre_mcp.errors import ProcessorError
from payre_mcp.processors.base import CheckoutOrder, Processor
from payre_mcp.processors.fake_stripe import FakeStripe
from payre_mcp.processors.stripe import StripeProcessor
from payre_mcp.processors.stripe_http import Httpx2Client


class Shop(NamedTuple):
    """A processor, and a client for what its customers do."""

    processor: Processor
    client: stripe.StripeClient
    clock: Clock
    run: str
    """References of this run are of no other: Stripe keeps them for a day."""

    async def saved_card(self, customer: str) -> str:
        return (await self.client.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer})).id


def own_key() -> str:
    key = os.environ.get("STRIPE_TEST_KEY", "")  # noqa: TID251 - a tester's own Stripe account
    if not key.startswith("sk_test_"):
        required = os.environ.get("PAYRE_REQUIRE_STRIPE") == "1"  # noqa: TID251 - how a run says that skipping is failing
        (pytest.fail if required else pytest.skip)("no Stripe: set STRIPE_TEST_KEY to a key that starts with sk_test_")
    return key


@pytest.fixture(params=["fake", pytest.param("stripe", marks=pytest.mark.stripe_live)])
async def shop(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncGenerator[Shop]:
    fake = FakeStripe(clock=clock) if request.param == "fake" else None
    key, time = (fake.api_key, clock) if fake else (own_key(), SystemClock())
    transport, url = (fake.transport(), "http://stripe.test") if fake else (None, "")
    processor = StripeProcessor(key, clock=time, transport=transport, base_url=url)
    http = Httpx2Client(transport=transport)
    client = stripe.StripeClient(
        key,
        http_client=http,
        base_addresses={"api": url, "connect": url, "files": url, "meter_events": url} if url else None,
    )
    yield Shop(processor, client, time, secrets.token_hex(6))
    await processor.aclose()
    await http.close_async()


async def test_a_page_opens_and_closes(shop: Shop) -> None:
    stripe_ = shop.processor
    customer = await stripe_.make_customer(reference=f"con_{shop.run}")
    assert await stripe_.make_customer(reference=f"con_{shop.run}") == customer
    for save_card in (False, True):
        order = CheckoutOrder(
            reference=f"top_{shop.run}{save_card}",
            amount_cents=1000,
            fee_cents=59,
            customer_id=customer,
            page_url="https://example.com/top-ups/1",
            expires_at=shop.clock.now_us() + 3600 * US_PER_S,
            save_card=save_card,
        )
        made = await stripe_.open_checkout(order)
        assert (made.state, made.reference, made.customer_id, made.livemode) == ("open", order.reference, customer, False)
        assert (made.subtotal_cents, made.total_cents, made.currency, bool(made.url)) == (1059, 1059, "usd", True)
        assert await stripe_.open_checkout(order) == await stripe_.find_checkout(made.id) == made
        for _ in range(2):
            assert (await stripe_.expire_checkout(made.id)).state == "expired"


async def test_a_saved_card_is_charged_refunded_and_forgotten(shop: Shop) -> None:
    stripe_, began = shop.processor, shop.clock.now_us()
    customer = await stripe_.make_customer(reference=f"con_{shop.run}")
    method = await shop.saved_card(customer)
    for _ in range(2):
        payment = await stripe_.charge_card(
            reference=f"top_{shop.run}", customer_id=customer, method_id=method, amount_cents=2000
        )
        assert (payment.state, payment.reference, payment.method_id) == ("succeeded", f"top_{shop.run}", method)
        assert (payment.amount_cents, payment.card, payment.livemode) == (2000, "visa 4242", False)
        found = await stripe_.find_card_payment_of(f"top_{shop.run}", customer)
        assert found is not None
        assert found.id == payment.id
        refund = await stripe_.refund(reference=f"ref_{shop.run}", card_payment=payment.id, amount_cents=500)
        assert (refund.state, refund.amount_cents, refund.card_payment) == ("succeeded", 500, payment.id)
        assert await stripe_.find_refund(refund.id) == await stripe_.find_refund_of(f"ref_{shop.run}", payment.id) == refund
        lines = [line async for line in stripe_.bank_lines(since=began - 60 * US_PER_S)]
        assert [line.amount_cents for line in lines if line.card_payment == payment.id] == [2000, -500]
    for _ in range(2):
        await stripe_.forget_card(method)
    with pytest.raises(ProcessorError) as raised:
        await stripe_.charge_card(reference=f"top_{shop.run}x", customer_id=customer, method_id=method, amount_cents=2000)
    assert not raised.value.outcome_unknown


@pytest.mark.parametrize(
    ("card", "decline"),
    [
        ("pm_card_chargeDeclined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card"),
        ("pm_card_authenticationRequired", "authentication_required"),
    ],
)
async def test_test_cards_decline_as_they_say(shop: Shop, card: str, decline: str) -> None:
    customer = await shop.processor.make_customer(reference=f"con_{shop.run}")
    payment = await shop.processor.charge_card(
        reference=f"top_{shop.run}", customer_id=customer, method_id=card, amount_cents=2000
    )
    assert (payment.state, payment.decline, payment.reference) == ("failed", decline, f"top_{shop.run}")


async def test_a_reference_is_for_one_content(shop: Shop) -> None:
    customer = await shop.processor.make_customer(reference=f"con_{shop.run}")
    method = await shop.saved_card(customer)
    await shop.processor.charge_card(reference=f"top_{shop.run}", customer_id=customer, method_id=method, amount_cents=100)
    with pytest.raises(ProcessorError) as raised:
        await shop.processor.charge_card(reference=f"top_{shop.run}", customer_id=customer, method_id=method, amount_cents=200)
    assert (raised.value.reason, raised.value.outcome_unknown) == ("idempotency_error", True)
    assert raised.value.request_id


async def test_a_developer_is_asked_who_they_are(shop: Shop) -> None:
    """Needs Connect, which is turned on in Stripe's dashboard."""
    wish = {"email": "ada@example.com", "name": "Ada", "country": "us"}
    account = await shop.processor.make_payee(reference=f"dev_{shop.run}", **wish)
    assert (await shop.processor.make_payee(reference=f"dev_{shop.run}", **wish)).id == account.id
    assert (await shop.processor.find_payee(account.id)).state in {"restricted", "pending"}
    url = await shop.processor.onboarding_url(account.id, return_url="https://example.com/a", refresh_url="https://example.com/b")
    assert url.startswith("http")
    assert isinstance(await shop.processor.available_cents(), int)


async def test_endpoints_are_made_once(shop: Shop) -> None:
    url = f"https://example.com/stripe/webhook/{shop.run}"
    (made,) = await shop.processor.set_up({"platform": url})
    try:
        (again,) = await shop.processor.set_up({"platform": url})
        assert (again.id, again.secret, again.version) == (made.id, "", stripe.api_version)
        assert made.secret.startswith("whsec_")
    finally:
        await shop.client.v1.webhook_endpoints.delete_async(made.id)
