"""`get_spending`: what an account spent, by period and by what it was spent on."""

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.gateway.spending import SpendingReports
from payre_mcp.money import Money
from tests.fakes import Inbox, fund
from tests.wallet.conftest import Holder

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600
NOTHING = {"charges": 0, "amount_micros": 0, "amount_usd": "0.00", "credit_micros": 0, "credit_usd": "0.00"}


async def test_who_spent_nothing_reads_zero(holder: Holder) -> None:
    facts = await holder.facts("get_spending")
    assert {name: facts["total"][name] for name in NOTHING} == NOTHING
    assert (facts["total"]["newest_at"], facts["targets"], facts["cut"]) == (None, [], False)
    assert (facts["period"], facts["since"]) == ("month", "2026-01-01T00:00:00Z")


async def test_charges_are_added_up_by_server_and_tool_the_newest_activity_first(holder: Holder, clock: ManualClock) -> None:
    for server, tool in (("weather", "forecast"), ("bakery", "radar"), ("weather", "radar"), ("weather", "forecast")):
        await holder.pay(server, tool)
        clock.advance(1)
    facts = await holder.facts("get_spending", period="all")
    assert [(each["server"], each["kind"], each["name"], each["charges"], each["amount_usd"]) for each in facts["targets"]] == [
        ("weather", "tool", "forecast", 2, "0.02"),
        ("weather", "tool", "radar", 1, "0.01"),
        ("bakery", "tool", "radar", 1, "0.01"),
    ]
    assert (facts["total"]["charges"], facts["total"]["amount_micros"], facts["since"]) == (4, 40_000, None)
    assert facts["total"]["newest_at"] == facts["targets"][0]["newest_at"] == "2026-01-01T00:00:03Z"


async def test_a_period_begins_with_its_utc_day_or_month(holder: Holder, clock: ManualClock) -> None:
    counted: list[dict[str, int]] = []
    for days in (0, 1, 30):
        clock.advance(days * DAY_S)
        await holder.pay()
        reports = {period: await holder.facts("get_spending", period=period) for period in ("today", "month", "all")}
        counted.append({period: report["total"]["charges"] for period, report in reports.items()})
    assert counted == [
        {"today": 1, "month": 1, "all": 1},
        {"today": 1, "month": 2, "all": 2},
        {"today": 1, "month": 1, "all": 3},
    ]


async def test_what_was_refunded_stands_apart(holder: Holder) -> None:
    charges = [await holder.pay(tool=tool) for tool in ("forecast", "radar", "radar")]
    gateway = holder.connection.gateway
    await gateway.refund(charges[1].charge_id, Money(2_500), idempotency_key="some")
    await gateway.refund(charges[1].charge_id, Money(1_500), idempotency_key="more")
    await gateway.refund(charges[2].charge_id, idempotency_key="whole")
    facts = await holder.facts("get_spending", period="today")
    assert (facts["total"]["amount_micros"], facts["total"]["refunded_micros"]) == (30_000, 14_000)
    assert {each["name"]: each["refunded_usd"] for each in facts["targets"]} == {"radar": "0.014", "forecast": "0.00"}


async def test_holds_and_other_accounts_are_not_spending(holder: Holder) -> None:
    await holder.hold()
    stranger = fund(holder.connection.ledger, 1_000_000, name="bob")
    await holder.with_key(stranger.key.text).pay()
    assert (await holder.facts("get_spending"))["targets"] == []


async def test_a_report_reads_so_many_charges_and_says_that_there_are_older_ones(holder: Holder, clock: ManualClock) -> None:
    inbox, writer = Inbox(), holder.connection.ledger.writer
    charges = [holder.payer.charge(1)._replace(detail='{"server":"weather","kind":"tool"}') for _ in range(1_200)]
    tickets = [inbox.ticket() for _ in charges]
    for charge, ticket in zip(charges, tickets, strict=True):
        writer.submit(charge, ticket)
    inbox.answers(tickets)
    journal, record = holder.connection.ledger.journal, holder.payer.record
    read = {most: SpendingReports(journal, clock, most=most).report(record, "month") for most in (1_000, 1_199, 1_200, 5_000)}
    assert {most: (report.total.charges, report.cut) for most, report in read.items()} == {
        1_000: (1_000, True), 1_199: (1_199, True), 1_200: (1_200, False), 5_000: (1_200, False),
    }  # fmt: skip
    assert not (await holder.facts("get_spending"))["cut"]


async def test_an_unknown_period_is_refused(holder: Holder) -> None:
    assert (await holder.ask("get_spending", period="year")).is_error
