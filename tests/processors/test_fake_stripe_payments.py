"""Payments at the fake Stripe: sessions, payment intents, saved cards, and the ways in which cards behave."""

from typing import Any

import pytest
import stripe

from payre_mcp.processors.fake_stripe.cards import CARDS, by_number
from payre_mcp.processors.fake_stripe.refusals import Refusal
from tests.processors.fake_stripe_client import Desk, Json, refused_param, session_params, untyped


async def test_a_paid_session_tells_everything_that_a_top_up_is_checked_against() -> None:
    desk = Desk()
    customer = await desk.customer()
    session = await desk.session(1_500, customer=customer, adaptive_pricing={"enabled": False})
    assert (session.status, session.payment_status, session.payment_intent) == ("open", "unpaid", None)
    desk.fake.pay(session.id)
    paid = await desk.client.v1.checkout.sessions.retrieve_async(
        session.id, {"expand": ["line_items", "payment_intent.latest_charge.balance_transaction"]}
    )
    intent: Any = paid.payment_intent
    items: Any = paid.line_items
    assert (paid.status, paid.payment_status, paid.livemode, paid.url) == ("complete", "paid", False, None)
    assert (paid.amount_subtotal, paid.amount_total, paid.currency) == (1_500, 1_500, "usd")
    assert (paid.client_reference_id, paid.metadata and paid.metadata["payre"]) == ("top_1", "top_1")
    assert (intent.metadata["payre"], intent.transfer_group, intent.customer) == ("top_1", "top_1", customer)
    assert intent.latest_charge.balance_transaction.fee == 74
    assert [(item.description, item.amount_total) for item in items.data] == [("Credit", 1_500)]
    assert desk.kinds()[1:] == [
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
        "checkout.session.completed",
    ]


async def test_tax_is_in_the_total_and_not_in_the_subtotal() -> None:
    desk = Desk()
    desk.fake.store.tax_bps = 825
    taxed = await desk.session(1_000, automatic_tax={"enabled": True})
    plain = await desk.session(1_000)
    details: Any = taxed.total_details
    assert (taxed.amount_subtotal, taxed.amount_total, details.amount_tax) == (1_000, 1_082, 82)
    assert plain.amount_total == 1_000


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"mode": "subscription"}, "mode"),
        ({"mode": None}, "mode"),
        ({"ui_mode": "embedded_page"}, "ui_mode"),
        ({"success_url": None}, "success_url"),
        ({"success_url": "hub"}, "success_url"),
        ({"cancel_url": "javascript:alert(1)"}, "cancel_url"),
        ({"line_items": None}, "line_items"),
        ({"line_items": [{"price": "price_1", "quantity": 1}]}, "line_items[0][price]"),
        ({"line_items": [{"quantity": 1}]}, "line_items[0][price_data]"),
        ({"expires_at": 1_767_225_600 + 60}, "expires_at"),
        ({"expires_at": 1_767_225_600 + 25 * 3600}, "expires_at"),
        ({"customer": "cus_none"}, "customer"),
        ({"customer_update": {"address": "auto"}}, "customer_update"),
        ({"mode": "setup", "currency": "usd"}, "line_items"),
        ({"mode": "setup", "line_items": None, "payment_intent_data": None}, "currency"),
        ({"allowed_payment_method_types": ["card"], "excluded_payment_method_types": ["zip"]}, "excluded_payment_method_types"),
    ],
)
async def test_a_session_that_stripe_would_not_make_is_refused(change: Json, param: str) -> None:
    desk = Desk()
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        await desk.client.v1.checkout.sessions.create_async(session_params(**change))
    assert refused_param(refusal.value) == param
    assert not desk.fake.events()


@pytest.mark.parametrize(
    ("price", "quantity"),
    [
        ({"currency": "eur"}, 1), ({"currency": "USD"}, 1), ({"unit_amount": 49}, 1), ({"unit_amount": -1}, 1),
        ({"unit_amount": None}, 1), ({"product_data": None}, 1), ({}, 0), ({}, None), ({"unit_amount": 99_999_999}, 2),
        ({"recurring": {"interval": "month"}}, 1),
    ],
)  # fmt: skip
async def test_a_line_that_stripe_would_not_take_is_refused(price: Json, quantity: int | None) -> None:
    desk = Desk()
    full = {"currency": "usd", "unit_amount": 1_000, "product_data": {"name": "Credit"}, **price}
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        await desk.session(line_items=[{"quantity": quantity, "price_data": full}])
    assert refused_param(refusal.value)


async def test_a_session_expires_when_its_time_is_over_and_cannot_be_paid_then() -> None:
    desk = Desk()
    session = await desk.session(expires_at=desk.seconds() + 1_800)
    desk.clock.advance(1_799)
    assert (await desk.now(session)).status == "open"
    desk.clock.advance(1)
    assert ((await desk.now(session)).status, (await desk.now(session)).url) == ("expired", None)
    with pytest.raises(Refusal):
        desk.fake.pay(session.id)
    assert desk.kinds() == ["checkout.session.expired"]


async def test_a_paid_session_neither_expires_nor_is_paid_twice() -> None:
    desk = Desk()
    session = await desk.session()
    desk.fake.pay(session.id)
    with pytest.raises(stripe.InvalidRequestError):
        await desk.client.v1.checkout.sessions.expire_async(session.id)
    with pytest.raises(Refusal):
        desk.fake.pay(session.id)
    desk.clock.advance(2 * 24 * 3600)
    assert (await desk.now(session)).status == "complete"


async def test_a_session_can_be_closed_by_the_api_once() -> None:
    desk = Desk()
    session = await desk.session()
    assert (await desk.client.v1.checkout.sessions.expire_async(session.id)).status == "expired"
    with pytest.raises(stripe.InvalidRequestError):
        await desk.client.v1.checkout.sessions.expire_async(session.id)
    found = await desk.client.v1.checkout.sessions.list_async({"status": "expired"})
    assert [each.id for each in found.data] == [session.id]


async def test_a_declined_card_leaves_the_session_open_for_another() -> None:
    desk = Desk()
    session = await desk.session()
    desk.fake.decline(session.id)
    declined = await desk.now(session)
    assert (declined.status, declined.payment_status) == ("open", "unpaid")
    desk.fake.pay(session.id)
    assert (await desk.now(session)).payment_intent == declined.payment_intent
    assert desk.kinds() == [
        "payment_intent.created", "charge.failed", "payment_intent.payment_failed",
        "charge.succeeded", "payment_intent.succeeded", "checkout.session.completed",
    ]  # fmt: skip


@pytest.mark.parametrize(("paid", "end"), [(True, "succeeded"), (False, "failed")])
async def test_a_bank_account_pays_days_later_or_never(paid: bool, end: str) -> None:
    desk = Desk()
    session = await desk.session()
    desk.fake.pay_later(session.id)
    waiting = await desk.now(session)
    assert (waiting.status, waiting.payment_status) == ("complete", "unpaid")
    intent = await desk.client.v1.payment_intents.retrieve_async(str(waiting.payment_intent))
    assert intent.status == "processing"
    with pytest.raises(stripe.InvalidRequestError):
        await desk.client.v1.refunds.create_async({"payment_intent": intent.id})
    desk.fake.settle_later(session.id, paid=paid)
    after = await desk.now(session)
    assert after.payment_status == ("paid" if paid else "unpaid")
    assert desk.kinds()[-1] == f"checkout.session.async_payment_{end}"
    assert await desk.balance() == ((0, 1_000 - 59) if paid else (0, 0))
    with pytest.raises(Refusal):
        desk.fake.settle_later(session.id, paid=True)


async def test_a_page_that_excludes_bank_accounts_takes_none() -> None:
    desk = Desk()
    choices: list[Json] = [{"excluded_payment_method_types": ["us_bank_account"]}, {"allowed_payment_method_types": ["card"]}]
    for choice in choices:
        session = await desk.session(1_000, **choice)
        with pytest.raises(Refusal):
            desk.fake.pay_later(session.id)
        assert (await desk.now(session)).status == "open"


async def test_nothing_is_settled_on_a_page_that_nobody_paid() -> None:
    desk = Desk()
    session = await desk.session()
    with pytest.raises(Refusal):
        desk.fake.settle_later(session.id, paid=True)


async def test_a_page_may_make_the_customer() -> None:
    desk = Desk()
    session = await desk.session(customer_creation="always", customer_email="ada@example.com")
    desk.fake.pay(session.id)
    paid = await desk.now(session)
    customer = await desk.client.v1.customers.retrieve_async(str(paid.customer))
    details: Any = paid.customer_details
    assert customer.email == details.email == "ada@example.com"


@pytest.mark.parametrize("save", ["setup_future_usage", "tick", "no"])
async def test_a_card_is_saved_only_where_its_owner_said_so(save: str) -> None:
    desk = Desk()
    customer = await desk.customer()
    data = {"setup_future_usage": "off_session"} if save == "setup_future_usage" else {}
    session = await desk.session(customer=customer, payment_intent_data=data)
    desk.fake.pay(session.id, save=save == "tick")
    saved = await desk.client.v1.payment_methods.list_async({"customer": customer, "type": "card"})
    assert len(saved.data) == (save != "no")


async def test_setup_saves_a_card_without_a_payment() -> None:
    desk = Desk()
    customer = await desk.customer()
    session = await desk.session(
        mode="setup", customer=customer, currency="usd", line_items=None, payment_intent_data=None,
        setup_intent_data={"metadata": {"payre": "con_1"}},
    )  # fmt: skip
    assert session.payment_status == "no_payment_required"
    desk.fake.decline(session.id)
    assert (await desk.now(session)).status == "open"
    desk.fake.pay(session.id, "pm_card_mastercard")
    setup = await desk.client.v1.setup_intents.retrieve_async(str((await desk.now(session)).setup_intent))
    method = await desk.client.v1.payment_methods.retrieve_async(str(setup.payment_method))
    card: Any = method.card
    assert (setup.status, method.customer, card.brand, card.last4) == ("succeeded", customer, "mastercard", "4444")
    assert setup.metadata
    assert setup.metadata["payre"] == "con_1"
    assert desk.kinds()[1:] == [
        "setup_intent.created", "setup_intent.setup_failed", "payment_method.attached", "setup_intent.succeeded",
        "checkout.session.completed",
    ]  # fmt: skip
    assert [each.id for each in (await desk.client.v1.setup_intents.list_async({"customer": customer})).data] == [setup.id]


async def test_a_saved_card_pays_while_its_owner_is_away() -> None:
    desk = Desk()
    customer, method = await desk.saved_card()
    intent = await desk.charge(customer, method)
    assert (intent.status, intent.amount_received, intent.payment_method) == ("succeeded", 2_000, method)
    listed = await desk.client.v1.payment_intents.list_async({"customer": customer})
    assert [each.id for each in listed.data] == [intent.id]


@pytest.mark.parametrize(
    ("card", "code", "reason"),
    [
        ("pm_card_authenticationRequired", "authentication_required", "authentication_required"),
        ("pm_card_chargeCustomerFail", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
    ],
)
async def test_a_declined_recharge_is_a_card_error_with_the_failed_payment_in_it(card: str, code: str, reason: str) -> None:
    desk = Desk()
    customer = await desk.customer()
    with pytest.raises(stripe.CardError) as declined:
        await desk.charge(customer, card)
    error: Any = declined.value.error
    assert (declined.value.http_status, declined.value.code, error.decline_code) == (402, code, reason)
    intent = await desk.client.v1.payment_intents.retrieve_async(error.payment_intent.id)
    last: Any = intent.last_payment_error
    assert (intent.status, last.decline_code, intent.amount_received) == ("requires_payment_method", reason, 0)
    charge = await desk.client.v1.charges.retrieve_async(str(intent.latest_charge))
    assert (charge.status, charge.failure_code) == ("failed", code)
    assert desk.kinds()[1:] == ["payment_intent.created", "charge.failed", "payment_intent.payment_failed"]
    assert await desk.balance() == (0, 0)


@pytest.mark.parametrize("card", ["pm_card_authenticationRequired", "pm_card_chargeCustomerFail"])
async def test_some_cards_can_be_saved_and_decline_only_when_their_owner_is_away(card: str) -> None:
    desk = Desk()
    customer, method = await desk.saved_card(card)
    with pytest.raises(stripe.CardError):
        await desk.charge(customer, method)


async def test_a_decline_is_what_its_key_answers_ever_after() -> None:
    desk = Desk()
    order: Any = {"amount": 500, "currency": "usd", "payment_method": "pm_card_chargeDeclined", "confirm": True}
    for _ in range(2):
        with pytest.raises(stripe.CardError):
            await desk.client.v1.payment_intents.create_async(order, {"idempotency_key": "k"})
    assert desk.kinds().count("charge.failed") == 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"amount": 0}, "amount"), ({"amount": -5}, "amount"), ({"amount": 49}, "amount"), ({"amount": 10**8}, "amount"),
        ({"currency": "eur"}, "currency"), ({"currency": "USD"}, "currency"), ({"customer": "cus_none"}, "customer"),
        ({"payment_method": "pm_none"}, "payment_method"), ({"payment_method": None}, "payment_method"),
        ({"confirm": False}, "off_session"),
    ],
)  # fmt: skip
async def test_a_payment_that_stripe_would_not_try_leaves_nothing_behind(change: Json, param: str) -> None:
    desk = Desk()
    customer = await desk.customer()
    order = {"amount": 500, "currency": "usd", "customer": customer, "payment_method": "pm_card_visa", "off_session": True}
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        await desk.client.v1.payment_intents.create_async(untyped({**order, "confirm": True, **change}))
    assert refused_param(refusal.value) == param
    assert desk.kinds() == ["customer.created"]


async def test_a_card_of_another_customer_or_of_nobody_any_more_cannot_be_charged() -> None:
    desk = Desk()
    customer, method = await desk.saved_card()
    with pytest.raises(stripe.InvalidRequestError):
        await desk.charge(await desk.customer(), method)
    await desk.client.v1.payment_methods.detach_async(method)
    assert desk.kinds()[-1] == "payment_method.detached"
    with pytest.raises(stripe.InvalidRequestError):
        await desk.charge(customer, method)
    with pytest.raises(stripe.InvalidRequestError):
        await desk.client.v1.payment_methods.detach_async(method)
    assert not (await desk.client.v1.payment_methods.list_async({"customer": customer})).data


async def test_a_payment_that_is_not_confirmed_waits_and_then_goes_only_forward() -> None:
    desk = Desk()
    intents = desk.client.v1.payment_intents
    intent = await intents.create_async({"amount": 500, "currency": "usd"})
    assert intent.status == "requires_payment_method"
    with pytest.raises(stripe.InvalidRequestError):
        await intents.confirm_async(intent.id)
    assert (await intents.confirm_async(intent.id, {"payment_method": "pm_card_visa"})).status == "succeeded"
    for act in (intents.confirm_async, intents.cancel_async):
        with pytest.raises(stripe.InvalidRequestError) as refusal:
            await act(intent.id)
        assert refusal.value.code == "payment_intent_unexpected_state"
    other = await intents.create_async({"amount": 500, "currency": "usd", "payment_method": "pm_card_visa"})
    assert other.status == "requires_confirmation"
    assert (await intents.confirm_async(other.id)).status == "succeeded"
    third = await intents.create_async({"amount": 500, "currency": "usd"})
    assert (await intents.cancel_async(third.id, {"cancellation_reason": "abandoned"})).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError):
        await intents.confirm_async(third.id, {"payment_method": "pm_card_visa"})


async def test_a_card_that_asks_for_its_owner_asks_where_the_owner_may_be_there() -> None:
    desk = Desk()
    intents = desk.client.v1.payment_intents
    order: Any = {"amount": 500, "currency": "usd", "payment_method": "pm_card_authenticationRequired", "confirm": True}
    asks = await intents.create_async(untyped({**order, "return_url": "http://hub.test/back"}))
    assert (asks.status, desk.kinds()[-1]) == ("requires_action", "payment_intent.requires_action")
    with pytest.raises(stripe.CardError):
        await intents.create_async(untyped({**order, "error_on_requires_action": True}))


async def test_a_saved_card_may_be_attached_by_the_api_and_renewed_by_its_bank() -> None:
    desk = Desk()
    customer = await desk.customer()
    method = await desk.client.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer})
    assert method.customer == customer
    desk.fake.replace_card(method.id)
    renewed: Any = (await desk.client.v1.payment_methods.retrieve_async(method.id)).card
    assert renewed.last4 == "0341"
    assert desk.kinds()[-1] == "payment_method.automatically_updated"
    changed = await desk.client.v1.customers.update_async(customer, {"invoice_settings": {"default_payment_method": method.id}})
    settings: Any = changed.invoice_settings
    assert settings.default_payment_method == method.id


async def test_a_customer_is_changed_name_by_name() -> None:
    desk = Desk()
    customers = desk.client.v1.customers
    customer = await customers.create_async({"email": "a@b.example", "name": "Ada", "metadata": {"a": "1", "b": "2"}})
    changed = await customers.update_async(customer.id, {"name": "", "metadata": {"a": "", "c": "3"}})
    assert changed.metadata
    assert (changed.name, changed.email, changed.metadata.to_dict()) == (None, "a@b.example", {"b": "2", "c": "3"})
    cleared: Any = await customers.update_async(customer.id, {"metadata": ""})
    assert cleared.metadata.to_dict() == {}
    with pytest.raises(stripe.InvalidRequestError):
        await customers.create_async({"email": "nobody"})
    assert [each.id for each in (await customers.list_async({"email": "a@b.example"})).data] == [customer.id]


def test_a_test_card_is_known_by_its_number_and_a_real_one_is_not() -> None:
    assert by_number("4000 0000 0000 9995") == CARDS["pm_card_chargeDeclinedInsufficientFunds"]
    assert by_number("4000002500003155") == CARDS["pm_card_authenticationRequired"]
    assert by_number("") is None
    assert by_number("4111111111111111") is None
