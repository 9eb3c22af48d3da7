"""Money at the fake Stripe: the balance, refunds and disputes."""

from typing import Any

import pytest
import stripe

from payre_mcp.processors.fake_stripe.disputes import DISPUTE_FEE
from payre_mcp.processors.fake_stripe.intents import DISPUTED_AFTER_S
from payre_mcp.processors.fake_stripe.refusals import Refusal
from tests.processors.fake_stripe_client import TWO_DAYS, Desk, refused_param, untyped


async def funded(cents: int = 10_000) -> tuple[Desk, str]:
    """A desk with money that is available, and the payment that it came from."""
    desk = Desk()
    intent = await desk.paid_intent(cents)
    desk.clock.advance(TWO_DAYS)
    return desk, intent


async def refund(desk: Desk, intent: str, **more: Any) -> stripe.Refund:
    return await desk.client.v1.refunds.create_async(untyped({"payment_intent": intent, **more}))


async def lines(desk: Desk, **which: Any) -> list[tuple[str, int, int]]:
    """Type, amount and fee of the movements of the balance, newest first."""
    listed = await desk.client.v1.balance_transactions.list_async(untyped(which))
    return [(line.type, line.amount, line.fee) for line in listed.data]


async def test_money_of_a_charge_is_there_after_two_days_less_its_fee() -> None:
    desk = Desk()
    await desk.paid_intent(10_000)
    assert await desk.balance() == (0, 10_000 - 320)
    desk.clock.advance(TWO_DAYS - 1)
    assert await desk.balance() == (0, 10_000 - 320)
    desk.clock.advance(1)
    assert await desk.balance() == (10_000 - 320, 0)
    assert await lines(desk) == [("charge", 10_000, 320)]
    found = await desk.client.v1.balance_transactions.list_async({"expand": ["data.source"]})
    source: Any = found.data[0].source
    assert source.payment_intent
    assert (await desk.client.v1.balance_transactions.retrieve_async(found.data[0].id)).status == "available"


async def test_some_cards_pay_at_once() -> None:
    desk = Desk()
    await desk.paid_intent(10_000, "pm_card_bypassPending")
    assert await desk.balance() == (10_000 - 320, 0)


async def test_a_refund_goes_out_of_the_balance_and_shows_on_the_charge() -> None:
    desk, intent = await funded()
    part = await refund(desk, intent, amount=2_500, reason="requested_by_customer", metadata={"payre": "ref_1"})
    assert (part.status, part.amount, part.payment_intent) == ("succeeded", 2_500, intent)
    assert part.metadata
    assert part.metadata["payre"] == "ref_1"
    rest = await refund(desk, intent, amount=None)
    charge = await desk.client.v1.charges.retrieve_async(str(rest.charge))
    assert (rest.amount, charge.amount_refunded, charge.refunded) == (7_500, 10_000, True)
    assert await lines(desk, type="refund") == [("refund", -7_500, 0), ("refund", -2_500, 0)]
    assert await desk.balance() == (-320, 0)
    assert desk.kinds()[-8:] == ["refund.created", "charge.refunded", "refund.updated", "charge.refund.updated"] * 2
    listed = await desk.client.v1.refunds.list_async({"payment_intent": intent})
    assert [each.id for each in listed.data] == [rest.id, part.id]
    with pytest.raises(stripe.InvalidRequestError) as done:
        await refund(desk, intent)
    assert done.value.code == "charge_already_refunded"


async def test_a_refund_of_pending_money_leaves_what_is_available_alone() -> None:
    desk = Desk()
    intent = await desk.paid_intent(10_000)
    await desk.paid_intent(10_000, "pm_card_bypassPending")
    assert (await refund(desk, intent)).status == "succeeded"
    assert await desk.balance() == (10_000 - 320, -320)


@pytest.mark.parametrize(
    ("change", "param"),
    [({"amount": 0}, "amount"), ({"amount": -1}, "amount"), ({"amount": 10_001}, "amount"), ({"reason": "because"}, "reason"),
     ({"payment_intent": "pi_none"}, "payment_intent"), ({"payment_intent": None}, "payment_intent"),
     ({"charge": "ch_none"}, "payment_intent")],
)  # fmt: skip
async def test_a_refund_that_stripe_would_not_make_is_refused(change: dict[str, Any], param: str) -> None:
    desk, intent = await funded()
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        await refund(desk, **{"intent": intent, **change})
    assert refused_param(refusal.value) == param
    assert await desk.balance() == (10_000 - 320, 0)


async def test_a_charge_is_refunded_by_its_own_id_unless_it_failed() -> None:
    desk, intent = await funded()
    charge = (await desk.client.v1.charges.list_async({"payment_intent": intent})).data[0].id
    assert (await desk.client.v1.refunds.create_async({"charge": charge, "amount": 5})).payment_intent == intent
    with pytest.raises(stripe.CardError) as declined:
        await desk.charge(await desk.customer(), "pm_card_chargeDeclined")
    failed: Any = declined.value.error
    with pytest.raises(stripe.InvalidRequestError):
        await desk.client.v1.refunds.create_async({"charge": failed.charge})


@pytest.mark.parametrize("succeeded", [True, False])
async def test_a_refund_may_stay_pending_until_the_bank_has_taken_it_or_not(succeeded: bool) -> None:
    desk, intent = await funded()
    desk.fake.chaos.refunds_pending = True
    pending = await refund(desk, intent, amount=1_000)
    assert (pending.status, pending.pending_reason) == ("pending", "processing")
    desk.fake.settle_refund(pending.id, succeeded=succeeded)
    settled = await desk.client.v1.refunds.retrieve_async(pending.id)
    charge = await desk.client.v1.charges.retrieve_async(str(pending.charge))
    if succeeded:
        assert (settled.status, charge.amount_refunded, desk.kinds()[-2]) == ("succeeded", 1_000, "refund.updated")
    else:
        assert (settled.status, charge.amount_refunded, desk.kinds()[-1]) == ("failed", 0, "refund.failed")
        assert await lines(desk) == [("refund_failure", 1_000, 0), ("refund", -1_000, 0), ("charge", 10_000, 320)]
    assert await desk.balance() == (10_000 - 320 - (1_000 if succeeded else 0), 0)
    with pytest.raises(Refusal):
        desk.fake.settle_refund(pending.id, succeeded=True)


async def test_a_refund_that_succeeded_may_still_come_back() -> None:
    desk, intent = await funded()
    done = await refund(desk, intent)
    desk.fake.settle_refund(done.id, succeeded=False)
    assert (await desk.client.v1.refunds.retrieve_async(done.id)).failure_reason
    assert await desk.balance() == (10_000 - 320, 0)


async def test_a_refund_waits_while_the_balance_is_too_short() -> None:
    desk, intent = await funded()
    desk.fake.chaos.refunds_need_balance = True
    await desk.transfer(await desk.onboarded(), 9_000)
    waiting = await refund(desk, intent, amount=1_000)
    assert (waiting.status, waiting.pending_reason, waiting.balance_transaction) == ("pending", "insufficient_funds", None)
    with pytest.raises(Refusal):
        desk.fake.settle_refund(waiting.id, succeeded=True)
    await desk.paid_intent(5_000)
    paid = await desk.client.v1.refunds.retrieve_async(waiting.id)
    assert paid.status == "succeeded"
    assert paid.balance_transaction


async def test_a_refund_that_waited_may_fail_and_has_moved_nothing() -> None:
    desk, intent = await funded()
    desk.fake.chaos.refunds_need_balance = True
    await desk.transfer(await desk.onboarded(), 9_000)
    waiting = await refund(desk, intent, amount=1_000)
    before = await lines(desk)
    desk.fake.settle_refund(waiting.id, succeeded=False)
    assert await lines(desk) == before


async def test_a_refund_in_the_dashboard_carries_no_reference() -> None:
    desk, intent = await funded()
    made = await desk.client.v1.refunds.retrieve_async(desk.fake.refund_in_dashboard(intent, 300))
    metadata: Any = made.metadata
    assert (made.amount, metadata.to_dict()) == (300, {})
    assert desk.fake.events()[-1]["request"] == {"id": None, "idempotency_key": None}
    changed = await desk.client.v1.refunds.update_async(made.id, {"metadata": {"seen": "1"}})
    assert changed.metadata
    assert changed.metadata["seen"] == "1"


async def test_the_money_of_a_bank_account_is_refunded_as_a_payment() -> None:
    desk = Desk()
    session = await desk.session()
    desk.fake.pay_later(session.id)
    desk.fake.settle_later(session.id, paid=True)
    desk.clock.advance(TWO_DAYS)
    await refund(desk, str((await desk.now(session)).payment_intent), amount=500)
    assert await lines(desk) == [("payment_refund", -500, 0), ("payment", 1_000, 59)]


@pytest.mark.parametrize("won", [True, False])
async def test_a_dispute_takes_the_money_and_a_fee_and_gives_the_money_back_if_it_is_won(won: bool) -> None:
    desk, intent = await funded()
    opened = desk.fake.open_dispute(intent)
    dispute = await desk.client.v1.disputes.retrieve_async(opened)
    assert (dispute.status, dispute.amount, dispute.payment_intent) == ("needs_response", 10_000, intent)
    assert [line.net for line in dispute.balance_transactions] == [-10_000 - DISPUTE_FEE]
    assert await desk.balance() == (-320 - DISPUTE_FEE, 0)
    with pytest.raises(stripe.InvalidRequestError) as disputed:
        await refund(desk, intent)
    assert disputed.value.code == "charge_disputed"
    with pytest.raises(Refusal):
        desk.fake.open_dispute(intent)
    desk.fake.close_dispute(opened, won=won)
    closed = await desk.client.v1.disputes.retrieve_async(opened)
    assert closed.status == ("won" if won else "lost")
    assert await desk.balance() == ((9_680 if won else -320) - DISPUTE_FEE, 0)
    names = ["created", "funds_withdrawn", *(["funds_reinstated"] if won else []), "closed"]
    assert desk.kinds()[-len(names) :] == [f"charge.dispute.{name}" for name in names]
    with pytest.raises(Refusal):
        desk.fake.close_dispute(opened, won=True)
    found = await desk.client.v1.disputes.list_async({"payment_intent": intent})
    assert [each.id for each in found.data] == [opened]


async def test_a_part_may_be_disputed_but_not_more_than_was_paid() -> None:
    desk, intent = await funded()
    for amount in (0, 10_001):
        with pytest.raises(Refusal):
            desk.fake.open_dispute(intent, amount=amount)
    desk.fake.open_dispute(intent, amount=4_000)
    assert (await lines(desk))[0] == ("adjustment", -4_000, DISPUTE_FEE)


async def test_what_was_not_paid_is_not_disputed() -> None:
    desk = Desk()
    intent = await desk.client.v1.payment_intents.create_async({"amount": 500, "currency": "usd"})
    with pytest.raises(Refusal):
        desk.fake.open_dispute(intent.id)


async def test_an_inquiry_takes_no_money_and_allows_a_refund() -> None:
    desk, intent = await funded()
    asked = desk.fake.open_dispute(intent, inquiry=True)
    assert (await desk.client.v1.disputes.retrieve_async(asked)).status == "warning_needs_response"
    desk.fake.close_dispute(asked, won=True)
    assert (await desk.client.v1.disputes.retrieve_async(asked)).status == "warning_closed"
    assert (await refund(desk, intent)).status == "succeeded"
    assert "adjustment" not in [line[0] for line in await lines(desk)]


async def test_evidence_is_submitted_and_a_dispute_is_given_up_by_the_api() -> None:
    desk, intent = await funded()
    opened = desk.fake.open_dispute(intent)
    disputes = desk.client.v1.disputes
    draft = await disputes.update_async(opened, {"evidence": {"customer_name": "Ada"}, "submit": False})
    assert draft.status == "needs_response"
    sent = await disputes.update_async(opened, {"evidence": {"product_description": "calls"}, "submit": True})
    evidence: Any = sent.evidence
    assert (sent.status, sent.evidence_details.submission_count) == ("under_review", 1)
    assert evidence.to_dict() == {"customer_name": "Ada", "product_description": "calls"}
    assert desk.kinds()[-1] == "charge.dispute.updated"
    assert (await disputes.close_async(opened)).status == "lost"
    with pytest.raises(stripe.InvalidRequestError):
        await disputes.close_async(opened)


async def test_one_card_disputes_a_minute_after_it_has_paid() -> None:
    desk = Desk()
    intent = await desk.paid_intent(1_000, "pm_card_createDispute")
    desk.clock.advance(DISPUTED_AFTER_S - 1)
    assert not (await desk.client.v1.disputes.list_async()).data
    desk.clock.advance(1)
    assert [each.payment_intent for each in (await desk.client.v1.disputes.list_async()).data] == [intent]


async def test_that_card_does_not_dispute_what_is_disputed_already() -> None:
    desk = Desk()
    intent = await desk.paid_intent(1_000, "pm_card_createDispute")
    desk.fake.open_dispute(intent)
    desk.clock.advance(DISPUTED_AFTER_S)
    assert len((await desk.client.v1.disputes.list_async()).data) == 1
