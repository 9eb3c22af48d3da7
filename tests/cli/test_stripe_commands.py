"""`payre stripe`, `payre top-ups`, `payre charges`, `payre audit --stripe` and what `payre doctor` says of payments."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from typer.testing import CliRunner, Result

from payre_mcp.billing.checkouts import RechargeWish
from payre_mcp.billing.desk import Billing
from payre_mcp.billing.payouts import WAITS_FOR_FUNDS
from payre_mcp.cli import stripe as commands
from payre_mcp.cli.app import app
from payre_mcp.cli.audit import show
from payre_mcp.cli.checks import answers
from payre_mcp.cli.refunds import to_cards, turn_off
from payre_mcp.clock import SystemClock
from payre_mcp.connection import open_ledger
from payre_mcp.errors import InvalidRequest, NotFound, ProcessorError
from payre_mcp.ids import format_id
from payre_mcp.keys import Mode
from payre_mcp.ledger.model import Kind, Send
from payre_mcp.money import Money
from payre_mcp.payments import EventState, InboxEvent, Payee, Payment, PaymentKind, PaymentState
from payre_mcp.processors.stripe import StripeProcessor
from tests.billing.till import TEN, Till, named, open_till
from tests.fakes import RING

pytestmark = pytest.mark.anyio

BASE = "https://hub.example"
KEY = {"PAYRE_STRIPE_API_KEY": "sk_test_nobody"}
SECRETS = {f"PAYRE_STRIPE_{name}_SECRET": "whsec_a,whsec_b" for name in ("WEBHOOK", "CONNECT", "THIN")}


@pytest.fixture
def anyio_backend() -> str:
    """The loop that the client of Stripe is used on."""
    return "asyncio"


@pytest.fixture
async def till(ledger_path: Path) -> AsyncGenerator[Till]:
    """A consumer at a ledger in a file, which commands may open beside it."""
    async with open_till(f"sqlite:///{ledger_path}") as till:
        yield till


def payre(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=environ)


async def beside(till: Till, *arguments: str, code: int = 0, environ: Mapping[str, str] = {}) -> Result:
    """A command that a person runs on the same ledger; its exit code must be this one."""
    data = str(Path(till.ledger.address.removeprefix("sqlite:///")).parent)
    result = await anyio.to_thread.run_sync(lambda: payre(*arguments, "--data", data, **environ))
    assert result.exit_code == code, (result.output, result.stderr)
    return result


async def said(till: Till, *arguments: str) -> Any:
    """What a command that asks nobody else prints as JSON."""
    return json.loads((await beside(till, *arguments, "--json")).stdout)


def consumer(till: Till) -> str:
    return format_id("con", till.payer.id)


ASKING = [
    ("stripe", "setup", "--base-url", BASE),
    ("stripe", "reconcile"),
    ("stripe", "replay", "evt_1"),
    ("payouts", "due"),
    ("payouts", "run"),
    ("payouts", "connect", "--email", "a@example.com", "--country", "us"),
    ("top-ups", "refund", "con_0000000000000"),
    ("top-ups", "recharge", "con_0000000000000", "--off"),
    ("audit", "--stripe"),
]


@pytest.mark.parametrize("command", ASKING, ids=" ".join)
def test_a_command_that_asks_stripe_says_which_setting_is_missing(ledger_path: Path, command: tuple[str, ...]) -> None:
    result = payre(*command, "--data", str(ledger_path.parent))
    assert result.exit_code == 2
    assert "PAYRE_STRIPE_API_KEY" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", [*ASKING, ("stripe", "events"), ("payouts", "list"), ("top-ups", "list")], ids=" ".join)
def test_a_mistyped_folder_makes_no_ledger(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = payre(*command, "--data", str(tmp_path / "none"), **KEY)
    assert result.exit_code == 1
    assert "there is no ledger" in result.stderr
    assert not (tmp_path / "none").exists()


def test_a_key_of_the_other_mode_is_refused_before_anything_is_done(ledger_path: Path) -> None:
    result = payre("stripe", "reconcile", "--data", str(ledger_path.parent), PAYRE_STRIPE_API_KEY="rk_live_nobody")
    assert result.exit_code == 2
    assert "settings_invalid" in result.stderr
    assert "nobody" not in result.output


async def test_setting_up_prints_each_secret_once_as_the_setting_that_it_belongs_to(
    till: Till, capsys: pytest.CaptureFixture[str]
) -> None:
    await commands.make_webhooks(till.billing, base_url=BASE, as_json=False)
    first = capsys.readouterr().out.splitlines()
    assert [line.partition("=whsec_")[0] for line in first] == list(commands.SETTINGS.values())
    await commands.make_webhooks(till.billing, base_url=BASE, as_json=False)
    second = capsys.readouterr().out
    assert "whsec_" not in second
    assert all(line.startswith(f"# {BASE}/stripe/webhook") for line in second.splitlines())


async def test_setting_up_tells_machines_the_version_and_what_was_made(till: Till, capsys: pytest.CaptureFixture[str]) -> None:
    await commands.make_webhooks(till.billing, base_url=BASE, as_json=True)
    made = json.loads(capsys.readouterr().out)
    assert {each["endpoint"]: each["url"] for each in made} == {
        "platform": f"{BASE}/stripe/webhook",
        "connect": f"{BASE}/stripe/webhook/connect",
        "thin": f"{BASE}/stripe/webhook/thin",
    }
    assert all(each["made"] and each["secret"].startswith("whsec_") for each in made)
    assert made[0]["version"]


async def test_a_secret_that_is_told_once_is_told_even_if_the_next_webhook_cannot_be_made(
    till: Till, capsys: pytest.CaptureFixture[str]
) -> None:
    till.stripe.chaos.api("timeout", times=3, path="/v2/core/event_destinations", method="POST")
    with pytest.raises(ProcessorError):
        await commands.make_webhooks(till.billing, base_url=BASE, as_json=False)
    assert capsys.readouterr().out.count("whsec_") == 2


def test_live_webhooks_go_nowhere_but_to_https(ledger_path: Path) -> None:
    async def set_up(billing: Billing) -> None:
        with pytest.raises(InvalidRequest, match="https"):
            await commands.make_webhooks(billing, base_url="http://hub.example", as_json=False)

    with closing(open_ledger(f"sqlite:///{ledger_path.with_name('live.db')}", mode=Mode.LIVE)) as connection:
        clock = SystemClock()
        anyio.run(set_up, Billing(connection.ledger, StripeProcessor("sk_live_nobody", clock=clock), clock))


@pytest.mark.parametrize("address", ["hub.example", "ftp://hub.example", "https://", "https://hub.example/?a=b"])
def test_an_address_that_stripe_cannot_reach_is_refused(ledger_path: Path, address: str) -> None:
    result = payre("stripe", "setup", "--base-url", address, "--data", str(ledger_path.parent), **KEY)
    assert result.exit_code == 1
    assert "nothing was made" in result.stderr


async def test_reconciling_books_what_no_webhook_brought_and_says_what_it_found(
    till: Till, capsys: pytest.CaptureFixture[str]
) -> None:
    till.stripe.chaos.drop = True
    await till.top_up()
    assert till.balance() == Money(0)
    assert await commands.find_all(till.billing, as_json=False) == 0
    assert "events that no webhook had brought" in capsys.readouterr().out
    assert till.balance() == TEN
    assert await commands.find_all(till.billing, as_json=True) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["ok"], again["events"], again["moved"], again["parked"]) == (True, 0, 0, 0)


async def test_reconciling_fails_loudly_where_a_payment_cannot_be_settled(till: Till, capsys: pytest.CaptureFixture[str]) -> None:
    session = await till.page_of()
    till.ledger.payments.advance(till.payments(PaymentKind.TOP_UP)[0].id, PaymentState.OPEN)
    till.clock.advance(600)
    till.stripe.chaos.api("timeout", times=3, path=f"/v1/checkout/sessions/{session}")
    assert await commands.find_all(till.billing, as_json=False) == 1
    assert "PROBLEM: top_up top_" in capsys.readouterr().out


def parked(till: Till, event_id: str = "evt_1", **changes: Any) -> InboxEvent:
    """News that was set aside; of a refund that Stripe does not know."""
    event = InboxEvent(
        event_id, "platform", "refund.updated", False, "", "re_unknown", '{"name": "canary"}', EventState.PARKED, 12,
        "it was tried often enough", till.clock.now_us(), 0,
    )._replace(**changes)  # fmt: skip
    assert till.ledger.inbox.receive(event)
    return event


async def test_events_that_were_set_aside_are_listed_without_what_they_hold(till: Till) -> None:
    parked(till)
    parked(till, "evt_2", state=EventState.DONE, problem="")
    (event,) = await said(till, "stripe", "events")
    assert (event["id"], event["state"], event["tries"]) == ("evt_1", "parked", 12)
    assert "canary" not in json.dumps(event)
    assert {each["id"] for each in await said(till, "stripe", "events", "--state", "all")} == {"evt_1", "evt_2"}
    assert await said(till, "stripe", "events", "--state", "waiting") == []
    assert len(await said(till, "stripe", "events", "--state", "all", "--limit", "1")) == 1


async def test_events_for_people(till: Till) -> None:
    parked(till)
    shown = (await beside(till, "stripe", "events")).stdout
    assert "evt_1" in shown
    assert "12 tries" in shown
    assert (await beside(till, "stripe", "events", "--state", "done")).stdout == "No such events.\n"


async def test_an_event_is_replayed_once_its_cause_is_gone(till: Till, capsys: pytest.CaptureFixture[str]) -> None:
    session = await till.page_of()
    till.stripe.chaos.drop = True
    till.stripe.pay(session)
    event = parked(till, kind="checkout.session.completed", object_id=session)
    assert await commands.handle_again(till.billing, event_id=event.id, as_json=False) == 0
    assert capsys.readouterr().out == "evt_1 is done\n"
    assert till.balance() == TEN
    assert await commands.handle_again(till.billing, event_id=event.id, as_json=True) == 0
    assert (json.loads(capsys.readouterr().out)["state"], till.balance()) == ("done", TEN)


async def test_an_event_that_still_cannot_be_handled_says_so(till: Till, capsys: pytest.CaptureFixture[str]) -> None:
    parked(till)
    assert await commands.handle_again(till.billing, event_id="evt_1", as_json=False) == 1
    assert "evt_1 is parked: " in capsys.readouterr().out
    with pytest.raises(NotFound):
        await commands.handle_again(till.billing, event_id="evt_9", as_json=False)


async def test_unspent_money_goes_back_to_the_card(till: Till, capsys: pytest.CaptureFixture[str]) -> None:
    await till.top_up()
    assert await to_cards(till.billing, consumer=consumer(till), amount=Money.parse(4), as_json=True) == 0
    (refund,) = json.loads(capsys.readouterr().out)
    assert (refund["kind"], refund["state"], refund["amount_usd"]) == ("refund", "succeeded", "4.00")
    assert till.balance() == Money.parse(6)
    with pytest.raises(InvalidRequest, match=r"\$6.00 of this balance"):
        await to_cards(till.billing, consumer=consumer(till), amount=TEN, as_json=True)
    assert await to_cards(till.billing, consumer=consumer(till), amount=None, as_json=False) == 0
    assert "$6.00" in capsys.readouterr().out
    assert till.balance() == Money(0)


async def test_a_refund_that_the_card_refuses_is_a_failure_and_the_money_is_there_again(
    till: Till, capsys: pytest.CaptureFixture[str]
) -> None:
    await till.top_up()
    (top_up,) = till.payments(PaymentKind.TOP_UP)
    till.stripe.refund_in_dashboard(top_up.card_payment, 1000)
    assert await to_cards(till.billing, consumer=consumer(till), amount=None, as_json=False) == 1
    assert "failed" in capsys.readouterr().out


async def test_top_ups_are_listed_with_what_went_back_of_them(till: Till, capsys: pytest.CaptureFixture[str]) -> None:
    top_up = await till.top_up()
    await to_cards(till.billing, consumer=consumer(till), amount=Money.parse(1), as_json=True)
    capsys.readouterr()
    listed = await said(till, "top-ups", "list")
    assert [(each["kind"], each["amount_usd"]) for each in listed] == [("refund", "1.00"), ("top_up", "10.00")]
    assert (listed[1]["id"], listed[1]["consumer"], listed[1]["fee_usd"]) == (named(top_up), consumer(till), "0.00")
    assert await said(till, "top-ups", "list", "--consumer", consumer(till)) == listed
    other = till.ledger.directory.create_consumer("other")
    assert await said(till, "top-ups", "list", "--consumer", format_id("con", other.id)) == []


async def test_a_recharge_is_shown_and_turned_off(till: Till, capsys: pytest.CaptureFixture[str]) -> None:
    async def shown(**changes: Any) -> str:
        till.ledger.payments.change_payer(till.payer.id, lambda payer: payer._replace(**changes))
        return (await beside(till, "top-ups", "recharge", consumer(till))).stdout

    assert "no card is charged by itself" in await shown()
    chosen = {"threshold": Money.parse(2), "amount": TEN, "month_cap": Money.parse(50)}
    on = await shown(method_id="pm_unknown", card="visa 4242", **chosen)
    assert "visa 4242 is charged $10.00 when less than $2.00 is available, at most $50.00 a month" in on
    assert "off after 3 declines in a row" in await shown(failures=3)
    facts = await said(till, "top-ups", "recharge", consumer(till))
    assert (facts["recharges"], facts["card"], facts["amount_usd"], facts["month_cap_usd"]) == (
        False,
        "visa 4242",
        "10.00",
        "50.00",
    )
    assert "because the card is gone" in await shown(method_id="", card="")
    await turn_off(till.billing, consumer=consumer(till), as_json=False)
    assert "no card is charged by itself" in capsys.readouterr().out


async def test_turning_a_recharge_off_takes_the_card_off_at_stripe(till: Till, capsys: pytest.CaptureFixture[str]) -> None:
    wish = RechargeWish(Money.parse(2), TEN, Money.parse(50))
    top_up = await till.connection.top_ups.create(till.payer.id, TEN)
    request = till.ledger.directory.top_ups(till.payer.id, before=0, limit=1)[0]
    await till.billing.checkouts.open(request, page_url=f"https://hub.example/{top_up.id}", wish=wish)
    (payment,) = till.payments(PaymentKind.TOP_UP)
    till.stripe.pay(payment.processor_id)
    await till.news()
    before = till.ledger.payments.payer(till.payer.id)
    assert before is not None
    assert before.recharges
    await turn_off(till.billing, consumer=consumer(till), as_json=True)
    assert json.loads(capsys.readouterr().out)["recharges"] is False
    assert "payment_method.detached" in {each["type"] for each in till.stripe.events()}


async def test_a_charge_is_given_back_whole_or_in_part_and_once_by_its_name(till: Till) -> None:
    await till.top_up()
    charge = format_id("chg", till.ledger.writer.ask(till.payer.charge(1_000_000)).transfer.id)
    part = ("charges", "refund", charge, "--amount", "0.25", "--key", "order-7")
    for _ in range(2):
        assert (await said(till, *part))["refunded_usd"] == "0.25"
    assert till.balance() == Money.parse("9.25")
    await beside(till, "charges", "refund", charge, code=1)  # all of it is more than what is left
    assert (await said(till, "charges", "refund", charge, "--amount", "0.75"))["refunded_micros"] == 750_000
    assert till.balance() == TEN
    assert "in the balance again" in (await beside(till, "charges", "refund", whole(till))).stdout
    assert "nothing was refunded" in (await beside(till, "charges", "refund", "chg_0000000000000", code=1)).stderr


def whole(till: Till) -> str:
    return format_id("chg", till.ledger.writer.ask(till.payer.charge(5_000)).transfer.id)


@pytest.mark.parametrize("command", [("top-ups", "refund", "con_0000000000000"), ("charges", "refund", "chg_0000000000000")])
def test_an_amount_that_is_none_refunds_nothing(ledger_path: Path, command: tuple[str, ...]) -> None:
    result = payre(*command, "--amount", "much", "--data", str(ledger_path.parent), **KEY)
    assert result.exit_code == 1
    assert "nothing was refunded" in result.stderr


@pytest.mark.parametrize("command", [("list", "--consumer"), ("recharge",)])
def test_a_consumer_who_is_not_there_is_not_found(ledger_path: Path, command: tuple[str, ...]) -> None:
    result = payre("top-ups", *command, "con_0000000000000", "--data", str(ledger_path.parent))
    assert result.exit_code == 1
    assert "not_found" in result.stderr


async def compared(till: Till, capsys: pytest.CaptureFixture[str], *, code: int) -> list[str]:
    """What an audit with Stripe says; its exit code must be this one."""
    till.clock.advance(600)
    report, found = till.ledger.audit(), await till.billing.comparison.run()
    assert report.ok
    assert show(report, found, as_json=True) == code
    facts = json.loads(capsys.readouterr().out)
    assert (facts["ok"], facts["stripe"]["differences"]) == (code == 0, found.differences)
    show(report, found, as_json=False)
    return capsys.readouterr().out.splitlines()


async def test_an_audit_that_stripe_agrees_with_says_so(till: Till, capsys: pytest.CaptureFixture[str]) -> None:
    await till.top_up()
    await till.sound()
    lines = await compared(till, capsys, code=0)
    assert lines[-2:] == ["1 payments here, 1 movements at Stripe", "ledger and Stripe agree"]


async def test_an_audit_tells_what_is_of_no_payment(till: Till, capsys: pytest.CaptureFixture[str]) -> None:
    top_up = await till.top_up()
    till.stripe.chaos.drop = True
    refund = till.stripe.refund_in_dashboard(top_up.card_payment, 300)
    await till.connection.top_ups.credit_test_money(till.payer.id, TEN)
    till.clock.advance(3600)
    lines = await compared(till, capsys, code=1)
    assert "1 objects at Stripe are of no payment here" in lines
    assert "1 top-ups of test money without Stripe" in lines
    assert f"DIFFERS: {refund}: the processor moved -$3.00 of {named(top_up)}, and nothing of it is booked here" in lines


async def test_an_audit_fails_where_stripe_moved_something_else(till: Till, capsys: pytest.CaptureFixture[str]) -> None:
    top_up, ids, part = await till.top_up(), till.ledger.ids, till.payer.record.part
    till.ledger.writer.ask(Send(ids.new(), part, Kind.RETURN, till.payer.id, 0, 1_000_000, f"{named(top_up)}/again"))
    lines = await compared(till, capsys, code=1)
    assert lines[-1] == "1 payments differ"
    assert lines[-2].startswith(f"DIFFERS: top_up {named(top_up)}")
    assert lines[-2].endswith("the ledger moved $9.00, and the processor $10.00")


async def test_a_doctor_without_a_stripe_key_finds_a_test_ledger_sound_and_a_live_one_not(till: Till, tmp_path: Path) -> None:
    found = (await beside(till, "doctor")).stdout
    assert "not set: test money alone" in found
    live = payre("doctor", "--data", str(tmp_path / "none"), PAYRE_MODE="live")
    assert live.exit_code == 1
    assert "topped up by card only" in live.stdout


async def test_a_doctor_compares_the_key_with_the_ledger_and_counts_the_secrets(till: Till) -> None:
    sound = (await beside(till, "doctor", environ={**KEY, **SECRETS})).stdout
    assert "for test money, and the ledger holds test money" in sound
    assert "all three have secrets" in sound
    live = await attention(till, PAYRE_STRIPE_API_KEY="sk_live_nobody", PAYRE_STRIPE_THIN_SECRET="whsec_a,nonsense")
    assert live["Stripe key"] == "for live money, and the ledger holds test money"
    assert live["Stripe webhooks"].startswith("no PAYRE_STRIPE_WEBHOOK_SECRET, PAYRE_STRIPE_CONNECT_SECRET; payre stripe setup")
    wrong = await attention(till, **{**KEY, **SECRETS, "PAYRE_STRIPE_THIN_SECRET": "whsec_a,nonsense"})
    assert wrong == {"Stripe webhooks": "not whsec_...: PAYRE_STRIPE_THIN_SECRET"}
    assert "stays so" in (await attention(till, PAYRE_MODE="live"))["PAYRE_MODE"]
    public = await attention(till, **SECRETS, PAYRE_STRIPE_API_KEY="pk_test_nobody")
    assert "no secret key" in public["Stripe key"]


async def attention(till: Till, **environ: str) -> dict[str, str]:
    """What a doctor says needs attention."""
    checks = json.loads((await beside(till, "doctor", "--json", code=1, environ=environ)).stdout)["checks"]
    assert "nobody" not in json.dumps(checks)
    return {check["name"]: check["found"] for check in checks if not check["ok"]}


async def test_a_doctor_tells_what_waits_for_a_person(till: Till) -> None:
    parked(till)
    till.ledger.payments.save_payee(Payee(1, "acct_1", "restricted"))
    till.ledger.payments.save_payee(Payee(2, "acct_2", "active"))
    now = till.clock.now_us()
    payout = Payment(
        7, PaymentKind.PAYOUT, PaymentState.OPEN, 1, 0, 0, TEN, Money(0), "", "", WAITS_FOR_FUNDS, "[]", now, now
    )  # fmt: skip
    assert till.ledger.payments.add(payout)
    found = await attention(till)
    assert found == {
        "payees": "1 active, 1 restricted",
        "Stripe events": "1 set aside for you: payre stripe events",
        "payouts": "1 of $10.00 wait for funds at Stripe",
    }


async def test_a_doctor_leaves_a_damaged_ledger_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "payre.db").write_bytes(b"no database at all, not even a small one")
    result = payre("doctor", "--data", str(tmp_path))
    assert result.exit_code == 1
    assert "cannot be read" in result.stdout


async def test_a_doctor_asks_a_database_on_a_server_when_it_may(database: str) -> None:
    keys = {"PAYRE_URL": database, "PAYRE_RECEIPT_KEYS": RING.dump().strip()}
    asked, unasked = (payre("doctor", *options, **keys).stdout for options in (("--online",), ()))
    assert "none set aside" in asked
    assert "none set aside" not in unasked


async def test_a_doctor_online_tells_what_payouts_can_be_made_of(till: Till) -> None:
    await till.top_up()
    stripe, endpoints = await answers(till.billing)
    assert stripe.found == "answers; $9.41 is available for payouts"
    assert (endpoints.ok, endpoints.found) == (True, "all three bring all news, at the version that is read here")


async def test_a_doctor_online_tells_what_is_wrong_with_a_webhook(till: Till) -> None:
    (platform,) = [each for each in await till.processor.find_endpoints() if each.endpoint == "platform"]
    hook = till.stripe.store.get("webhook_endpoint", platform.id)
    for change, said in (
        ({"status": "disabled"}, "disabled"), ({"status": "enabled", "api_version": "2020-08-27"}, "version 2020-08-27"),
        ({"enabled_events": ["refund.created"]}, "not told of"),
    ):  # fmt: skip
        hook.update(change)
        _, endpoints = await answers(till.billing)
        assert not endpoints.ok
        assert said in endpoints.found


async def test_a_doctor_online_says_why_stripe_is_not_asked(ledger_path: Path) -> None:
    live = {"PAYRE_STRIPE_API_KEY": "sk_live_nobody"}
    found = payre("doctor", "--online", "--data", str(ledger_path.parent), **live, **SECRETS)
    assert found.exit_code == 1
    assert "holds test money" in found.stdout
