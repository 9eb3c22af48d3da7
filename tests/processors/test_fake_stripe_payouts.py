"""Developers at the fake Stripe: accounts that can be paid or not, transfers to them, and what comes back."""

from typing import Any

import pytest
import stripe

from payre_mcp.processors.fake_stripe.accounts import Status
from payre_mcp.processors.fake_stripe.refusals import Refusal
from tests.processors.fake_stripe_client import TWO_DAYS, Desk, refused_param, untyped


async def funded(cents: int = 10_000) -> Desk:
    """A desk with money that is available."""
    desk = Desk()
    await desk.paid_intent(cents)
    desk.clock.advance(TWO_DAYS)
    return desk


async def capability(desk: Desk, account: str) -> tuple[str, int]:
    """Whether an account can be paid, and how much is still required of it."""
    found: Any = await desk.client.v2.core.accounts.retrieve_async(
        account, {"include": ["configuration.recipient", "requirements"]}
    )
    return found.configuration.recipient.capabilities.stripe_balance.stripe_transfers.status, len(found.requirements.entries)


@pytest.mark.parametrize(("status", "due"), [("active", 0), ("restricted", 1), ("rejected", 0), ("pending", 0)])
async def test_only_an_account_that_is_active_is_paid(status: Status, due: int) -> None:
    desk = await funded()
    account = await desk.account()
    assert await capability(desk, account) == ("restricted", 1)
    desk.fake.finish_onboarding(account, status=status)
    assert await capability(desk, account) == (status, due)
    if status == "active":
        assert (await desk.transfer(account, 1_000)).amount == 1_000
    else:
        with pytest.raises(stripe.InvalidRequestError) as refusal:
            await desk.transfer(account, 1_000)
        assert refusal.value.code == "insufficient_capabilities_for_transfer"
    changed = "v2.core.account[configuration.recipient].capability_status_updated"
    assert (changed in desk.kinds()) == (status != "restricted")


async def test_an_account_without_the_wish_to_be_paid_never_is() -> None:
    desk = await funded()
    bare = await desk.client.v2.core.accounts.create_async(
        {"configuration": {"recipient": {}}, "include": ["defaults", "identity"]}
    )
    with pytest.raises(stripe.InvalidRequestError):
        await desk.transfer(bare.id, 100)
    with pytest.raises(Refusal):
        desk.fake.finish_onboarding(bare.id)
    with pytest.raises(stripe.InvalidRequestError):
        await desk.client.v2.core.accounts.create_async({"configuration": {"merchant": {}}})
    first = await desk.client.v1.accounts.retrieve_async(bare.id)
    assert (first.country, first.payouts_enabled) == ("US", False)


async def test_a_transfer_needs_money_that_is_available() -> None:
    desk = Desk()
    account = await desk.onboarded()
    await desk.paid_intent(10_000)
    with pytest.raises(stripe.InvalidRequestError) as short:
        await desk.transfer(account, 100)
    assert short.value.code == "balance_insufficient"
    desk.clock.advance(TWO_DAYS)
    with pytest.raises(stripe.InvalidRequestError):
        await desk.transfer(account, 9_681)
    sent = await desk.transfer(account, 9_680)
    assert (await desk.balance(), desk.fake.paid_out(account)) == ((0, 0), 9_680)
    assert (await desk.client.v1.transfers.retrieve_async(sent.id)).destination == account
    assert [each.id for each in (await desk.client.v1.transfers.list_async({"destination": account})).data] == [sent.id]
    changed = await desk.client.v1.transfers.update_async(sent.id, {"description": "June", "metadata": {"run": "6"}})
    assert (changed.description, changed.metadata.to_dict()) == ("June", {"payre": "pay_1", "run": "6"})
    assert desk.kinds()[-2:] == ["transfer.created", "transfer.updated"]


@pytest.mark.parametrize(
    ("change", "param"),
    [({"amount": 0}, "amount"), ({"amount": -1}, "amount"), ({"amount": None}, "amount"), ({"currency": "eur"}, "currency"),
     ({"destination": "acct_none"}, "destination"), ({"source_transaction": "ch_1"}, "source_transaction")],
)  # fmt: skip
async def test_a_transfer_that_stripe_would_not_make_is_refused(change: dict[str, Any], param: str) -> None:
    desk = await funded()
    order = {"amount": 100, "currency": "usd", "destination": await desk.onboarded(), **change}
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        await desk.client.v1.transfers.create_async(untyped(order))
    assert refused_param(refusal.value) == param


async def test_a_transfer_comes_back_in_parts_while_the_account_has_it() -> None:
    desk = await funded()
    account = await desk.onboarded()
    sent = await desk.transfer(account, 5_000)
    reversals = desk.client.v1.transfers.reversals
    assert (await reversals.create_async(sent.id, {"amount": 2_000})).amount == 2_000
    desk.fake.reverse_transfer(sent.id, 500)
    after = await desk.client.v1.transfers.retrieve_async(sent.id)
    assert (after.amount_reversed, after.reversed, desk.fake.paid_out(account)) == (2_500, False, 2_500)
    with pytest.raises(stripe.InvalidRequestError):
        await reversals.create_async(sent.id, {"amount": 2_501})
    desk.fake.reverse_transfer(sent.id)
    assert (await desk.client.v1.transfers.retrieve_async(sent.id)).reversed
    with pytest.raises(stripe.InvalidRequestError):
        await reversals.create_async(sent.id)
    assert await desk.balance() == (9_680, 0)
    assert desk.kinds()[-3:] == ["transfer.reversed"] * 3


async def test_what_has_gone_to_the_bank_cannot_be_taken_back() -> None:
    desk = await funded()
    account = await desk.onboarded()
    sent = await desk.transfer(account, 5_000)
    desk.fake.pay_out(account, paid=False)
    assert (desk.kinds()[-1], desk.fake.events()[-1]["account"]) == ("payout.failed", account)
    with pytest.raises(stripe.InvalidRequestError):
        await desk.client.v2.core.accounts.close_async(account)
    desk.fake.pay_out(account)
    assert desk.kinds()[-1] == "payout.paid"
    with pytest.raises(stripe.InvalidRequestError) as short:
        await desk.client.v1.transfers.reversals.create_async(sent.id)
    assert short.value.code == "balance_insufficient"


async def test_an_account_that_is_closed_is_gone_for_money() -> None:
    desk = await funded()
    account = await desk.onboarded()
    with pytest.raises(stripe.InvalidRequestError):
        await desk.client.v2.core.accounts.close_async(account, {"applied_configurations": []})
    closed = await desk.client.v2.core.accounts.close_async(account, {"applied_configurations": ["recipient"]})
    assert closed.closed
    assert desk.kinds()[-1] == "v2.core.account.closed"
    with pytest.raises(stripe.InvalidRequestError):
        await desk.transfer(account, 100)
    assert (await desk.client.v2.core.accounts.retrieve_async(account)).closed


async def test_links_to_onboarding_and_to_the_dashboard_are_made_for_accounts_that_are_there() -> None:
    desk = Desk()
    account = await desk.account()
    with pytest.raises(stripe.InvalidRequestError):
        await desk.client.v1.accounts.login_links.create_async(account)
    desk.fake.finish_onboarding(account)
    login = await desk.client.v1.accounts.login_links.create_async(account)
    async with desk.browser() as http:
        page = await http.get(login.url)
    assert account in page.text
    links: Any = desk.client.v2.core.account_links
    for wrong in (
        {"account": "acct_none"},
        {"use_case": {"type": "account_update", "account_onboarding": {"refresh_url": "http://h.test"}}},
    ):
        use_case = {"type": "account_onboarding", "account_onboarding": {"refresh_url": "http://hub.test/again"}}
        with pytest.raises(stripe.InvalidRequestError):
            await links.create_async({"account": account, "use_case": use_case, **wrong})
