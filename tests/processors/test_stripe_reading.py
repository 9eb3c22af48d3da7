"""Stripe's answers as the port's dataclasses: our own choice of what unknown values mean; stripe.md sections 3 and 5."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.errors import ProcessorError
from payre_mcp.processors.stripe_reading import (
    as_bank_line,
    as_card_dispute,
    as_card_payment,
    as_card_refund,
    as_checkout,
    as_payee,
    as_transfer,
    available_cents,
)

SESSION: dict[str, Any] = {
    "id": "cs_1", "object": "checkout.session", "status": "open", "payment_status": "unpaid", "url": "https://pay",
    "currency": "usd", "client_reference_id": "top_1", "amount_subtotal": 1030, "amount_total": 1040, "livemode": False,
    "customer": "cus_1", "payment_intent": "pi_1",
}  # fmt: skip
INTENT: dict[str, Any] = {
    "id": "pi_1", "status": "succeeded", "amount": 1000, "currency": "usd", "livemode": True, "metadata": {"payre": "top_1"},
    "payment_method": {"id": "pm_1", "object": "payment_method"},
    "latest_charge": {
        "id": "ch_1",
        "payment_method_details": {"type": "card", "card": {"brand": "visa", "last4": "4242"}},
        "balance_transaction": {"id": "txn_1", "fee": 59, "currency": "usd"},
    },
}  # fmt: skip
REFUND: dict[str, Any] = {
    "id": "re_1",
    "status": "succeeded",
    "amount": 5,
    "currency": "usd",
    "payment_intent": "pi_1",
    "metadata": {},
}
DISPUTE: dict[str, Any] = {
    "id": "dp_1", "status": "needs_response", "amount": 1000, "currency": "usd", "livemode": False, "payment_intent": "pi_1",
    "balance_transactions": [{"amount": -1000, "fee": 1500}],
}  # fmt: skip
DECLINED: dict[str, Any] = {
    "code": "card_declined",
    "decline_code": "insufficient_funds",
    "payment_method": {"id": "pm_2", "card": {"brand": "amex", "last4": "0005"}},
}


def account(status: Any, **more: Any) -> dict[str, Any]:
    capabilities = {"stripe_balance": {"stripe_transfers": {"status": status}}}
    return {"id": "acct_1", "closed": False, "configuration": {"recipient": {"capabilities": capabilities}}, **more}


@pytest.mark.parametrize(
    ("status", "payment_status", "state"),
    [
        ("open", "unpaid", "open"),
        ("open", "no_payment_required", "open"),
        ("complete", "paid", "paid"),
        ("complete", "no_payment_required", "paid"),
        ("complete", "unpaid", "processing"),
        ("expired", "unpaid", "expired"),
        (None, "unpaid", "processing"),
        (None, "paid", "paid"),
        ("later", "unpaid", "processing"),
        ("later", "no_payment_required", "processing"),
        ("complete", "later", "processing"),
    ],
)
def test_a_page_is_paid_only_where_stripe_says_so(status: str | None, payment_status: str, state: str) -> None:
    checkout = as_checkout({**SESSION, "status": status, "payment_status": payment_status})
    assert checkout.state == state
    assert checkout.url == ("https://pay" if state == "open" else "")
    assert checkout.card_payment == ("pi_1" if state in {"paid", "processing"} else "")


def test_a_page_tells_whose_it_is_and_what_it_costs() -> None:
    checkout = as_checkout({**SESSION, "customer": {"id": "cus_1"}, "payment_intent": None})
    assert (checkout.id, checkout.reference, checkout.customer_id, checkout.card_payment) == ("cs_1", "top_1", "cus_1", "")
    assert (checkout.subtotal_cents, checkout.total_cents, checkout.currency, checkout.livemode) == (1030, 1040, "usd", False)
    assert as_checkout({**SESSION, "client_reference_id": None}).reference == ""


@pytest.mark.parametrize(
    ("status", "problem", "state", "decline"),
    [
        ("succeeded", None, "succeeded", ""),
        ("succeeded", DECLINED, "succeeded", ""),
        ("processing", None, "processing", ""),
        ("canceled", None, "canceled", ""),
        ("requires_action", None, "failed", "authentication_required"),
        ("requires_payment_method", DECLINED, "failed", "insufficient_funds"),
        ("requires_payment_method", {"code": "expired_card", "decline_code": None}, "failed", "expired_card"),
        ("requires_payment_method", None, "processing", ""),
        ("requires_confirmation", None, "processing", ""),
        ("requires_capture", None, "processing", ""),
        ("later", DECLINED, "processing", ""),
    ],
)
def test_a_card_payment_failed_only_where_somebody_said_no(status: str, problem: Any, state: str, decline: str) -> None:
    payment = as_card_payment({**INTENT, "status": status, "last_payment_error": problem})
    assert (payment.state, payment.decline) == (state, decline)


def test_a_card_payment_tells_its_card_and_what_stripe_keeps() -> None:
    payment = as_card_payment(INTENT)
    assert (payment.id, payment.reference, payment.amount_cents, payment.currency) == ("pi_1", "top_1", 1000, "usd")
    assert (payment.livemode, payment.method_id, payment.card, payment.fee_cents) == (True, "pm_1", "visa 4242", 59)


@pytest.mark.parametrize("charge", [None, "ch_1", {}, {"balance_transaction": "txn_1"}, {"balance_transaction": None}])
def test_what_is_not_known_of_a_charge_yet_is_left_out(charge: Any) -> None:
    payment = as_card_payment({**INTENT, "latest_charge": charge, "payment_method": None, "metadata": None})
    assert (payment.card, payment.fee_cents, payment.method_id, payment.reference) == ("", None, "", "")


def test_a_fee_in_another_currency_is_not_known() -> None:
    charge = {**INTENT["latest_charge"], "balance_transaction": {"fee": 59, "currency": "eur"}}
    assert as_card_payment({**INTENT, "latest_charge": charge}).fee_cents is None


def test_a_declined_payment_tells_the_card_that_declined() -> None:
    payment = as_card_payment(
        {**INTENT, "status": "requires_payment_method", "last_payment_error": DECLINED, "payment_method": None}
    )
    assert (payment.method_id, payment.card) == ("pm_2", "amex 0005")


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("succeeded", "succeeded"),
        ("failed", "failed"),
        ("canceled", "failed"),
        ("pending", "pending"),
        ("requires_action", "pending"),
        ("later", "pending"),
        (None, "pending"),
    ],
)
def test_a_refund_is_settled_only_where_stripe_says_so(status: str | None, state: str) -> None:
    refund = as_card_refund({**REFUND, "status": status}, livemode=True)
    assert (refund.state, refund.card_payment, refund.reference, refund.livemode) == (state, "pi_1", "", True)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("needs_response", "open"),
        ("under_review", "open"),
        ("appeal_needs_response", "open"),
        ("appeal_under_review", "open"),
        ("won", "won"),
        ("lost", "lost"),
        ("warning_needs_response", "inquiry"),
        ("warning_under_review", "inquiry"),
        ("warning_closed", "inquiry"),
        ("prevented", "open"),
        ("later", "open"),
    ],
)
def test_a_dispute_of_an_unknown_status_is_open_while_the_money_is_away(status: str, state: str) -> None:
    assert as_card_dispute({**DISPUTE, "status": status}).state == state
    came_back = [*DISPUTE["balance_transactions"], {"amount": 1000, "fee": 0}]
    for movements in ([], came_back):
        told = as_card_dispute({**DISPUTE, "status": status, "balance_transactions": movements}).state
        assert told == ("inquiry" if status in {"prevented", "later"} else state)


def test_a_disputes_fee_is_what_stripe_kept_in_the_end() -> None:
    assert as_card_dispute(DISPUTE).fee_cents == 1500
    given_back = [{"amount": -1000, "fee": 1500}, {"amount": 1000, "fee": -1500}]
    assert as_card_dispute({**DISPUTE, "balance_transactions": given_back}).fee_cents == 0
    assert as_card_dispute({**DISPUTE, "payment_intent": None}).card_payment == ""


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (account("active"), "active"),
        (account("pending"), "pending"),
        (account("restricted"), "restricted"),
        (account("rejected"), "rejected"),
        (account("unsupported"), "restricted"),
        (account("later"), "restricted"),
        (account(None), "restricted"),
        (account("active", closed=True), "closed"),
        ({"id": "acct_1", "closed": None, "configuration": None}, "restricted"),
        ({"id": "acct_1", "configuration": {"recipient": None}}, "restricted"),
    ],
)
def test_only_an_account_that_stripe_calls_active_is(answer: dict[str, Any], state: str) -> None:
    assert as_payee(answer).state == state


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20))
def test_no_status_of_a_later_year_is_money_or_breaks_anything(status: str) -> None:
    known = {"paid", "no_payment_required", "succeeded", "failed", "canceled", "won", "lost", "active"}
    if status not in known:
        assert as_checkout({**SESSION, "status": "complete", "payment_status": status}).state == "processing"
        assert as_card_payment({**INTENT, "status": status, "last_payment_error": None}).state in {"processing", "failed"}
        assert as_card_refund({**REFUND, "status": status}, livemode=False).state == "pending"
        assert as_card_dispute({**DISPUTE, "status": status}).state in {"open", "inquiry"}
        assert as_payee(account(status)).state in {"pending", "restricted", "rejected"}


def test_a_transfer_tells_where_it_went_and_what_came_back() -> None:
    answer = {
        "id": "tr_1", "destination": {"id": "acct_1"}, "amount": 500, "amount_reversed": 200, "currency": "usd",
        "livemode": False, "metadata": {"payre": "pay_1"},
    }  # fmt: skip
    transfer = as_transfer(answer)
    assert (transfer.id, transfer.account_id, transfer.reference) == ("tr_1", "acct_1", "pay_1")
    assert (transfer.amount_cents, transfer.reversed_cents) == (500, 200)


@pytest.mark.parametrize(
    ("source", "name", "card_payment"),
    [
        ({"id": "ch_1", "object": "charge", "payment_intent": "pi_1"}, "ch_1", "pi_1"),
        ({"id": "re_1", "object": "refund", "payment_intent": {"id": "pi_1"}}, "re_1", "pi_1"),
        ({"id": "tr_1", "object": "transfer"}, "tr_1", ""),
        ({"id": "ch_1", "object": "charge", "payment_intent": None}, "ch_1", ""),
        ("po_1", "po_1", ""),
        (None, "", ""),
    ],
)
def test_a_bank_line_names_the_payment_that_it_is_of(source: Any, name: str, card_payment: str) -> None:
    line = as_bank_line({"id": "txn_1", "type": "charge", "amount": 1, "fee": 2, "created": 3, "source": source})
    assert (line.source, line.card_payment, line.created_at) == (name, card_payment, 3_000_000)


def test_only_dollars_are_available() -> None:
    funds = [{"amount": 70, "currency": "usd"}, {"amount": 5, "currency": "eur"}, {"amount": -20, "currency": "usd"}]
    assert available_cents({"available": funds}, "usd") == 50
    assert available_cents({"available": []}, "usd") == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"amount_total": None}, "amount_total"),
        ({"amount_total": "1040"}, "amount_total"),
        ({"amount_subtotal": 10.5}, "amount_subtotal"),
        ({"livemode": "false"}, "livemode"),
        ({"id": None}, "id"),
    ],
)
def test_an_answer_that_lacks_what_counts_is_an_outcome_that_is_not_known(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ProcessorError) as caught:
        as_checkout({**SESSION, "url": "https://pay/of-ada", **change})
    assert caught.value.outcome_unknown
    assert caught.value.reason == "unreadable_answer"
    assert named in caught.value.message
    assert "ada" not in caught.value.message
    assert caught.value.__cause__ is None
