"""`payre payouts`, and what `payre developers` says of banks."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from typer.testing import CliRunner, Result

from payre_mcp.billing.office import Mismatch, Terms
from payre_mcp.cli.app import app
from payre_mcp.cli.billing import with_billing
from payre_mcp.cli.payouts import DASHBOARD, onboarding, pay_all, tell_due
from payre_mcp.errors import InvalidRequest, NotFound, ProcessorError
from payre_mcp.ids import format_id
from payre_mcp.money import Money
from tests.billing.till import Till, developer_of, open_till
from tests.fakes import RING

pytestmark = pytest.mark.anyio

HUNDRED = Money.parse(100)
AT_ONCE = Terms(maturity_days=0, first_maturity_days=0)
KEY = {"PAYRE_STRIPE_API_KEY": "sk_test_nobody"}


@pytest.fixture
def anyio_backend() -> str:
    """The loop that the client of Stripe is used on."""
    return "asyncio"


@pytest.fixture
async def till(ledger_path: Path) -> AsyncGenerator[Till]:
    """A ledger in a file, whose earnings can be paid out at once."""
    async with open_till(f"sqlite:///{ledger_path}", terms=AT_ONCE) as till:
        yield till


def payre(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=environ)


async def said(till: Till, *arguments: str) -> Any:
    """What a command that asks nobody else prints as JSON, run beside the till."""
    data = str(Path(till.ledger.address.removeprefix("sqlite:///")).parent)
    result = await anyio.to_thread.run_sync(lambda: payre(*arguments, "--data", data, "--json"))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def developer(till: Till) -> str:
    return format_id("dev", developer_of(till))


async def connect(till: Till, who: str | None, *, as_json: bool = True) -> None:
    await onboarding(
        till.billing, developer=who, email="ann@example.com", country="US", return_url=DASHBOARD, as_json=as_json
    )  # fmt: skip


def account(till: Till) -> str:
    payee = till.ledger.payments.payee(developer_of(till))
    assert payee is not None
    return payee.account_id


async def sold(till: Till, dollars: str = "30") -> None:
    await till.top_up(HUNDRED)
    till.ledger.writer.ask(till.payer.charge(Money.parse(dollars).micros))
    till.clock.advance(1)


async def test_connecting_prints_the_link_alone_and_asked_again_is_of_the_same_account(
    till: Till, capsys: pytest.CaptureFixture[str]
) -> None:
    await connect(till, developer(till), as_json=False)
    shown = capsys.readouterr()
    assert shown.out.startswith("http://stripe.test/onboard/")
    assert shown.out.count("\n") == 1
    assert account(till) in shown.err
    await connect(till, developer(till))
    again = json.loads(capsys.readouterr().out)
    assert (again["account"], again["developer"], again["bank"]) == (account(till), developer(till), "restricted")


async def test_a_choice_of_developers_is_asked_for(till: Till) -> None:
    till.ledger.directory.create_developer("Ann")
    with pytest.raises(InvalidRequest, match="Ann"):
        await connect(till, None)
    with pytest.raises(NotFound):
        await connect(till, "dev_0000000000000")
    assert till.ledger.payments.payees() == []


@pytest.mark.parametrize(("email", "country"), [("ann", "US"), ("ann@example.com", "USA"), ("ann@example.com", "1")])
def test_an_email_or_country_that_is_none_makes_no_account(ledger_path: Path, email: str, country: str) -> None:
    told = payre("payouts", "connect", "--email", email, "--country", country, "--data", str(ledger_path.parent), **KEY)
    assert told.exit_code == 1
    assert "nothing was made" in told.stderr


async def test_what_is_due_is_told_of_every_developer_with_their_bank(till: Till, capsys: pytest.CaptureFixture[str]) -> None:
    till.ledger.directory.create_developer("Ann")
    await connect(till, developer(till))
    await sold(till)
    capsys.readouterr()
    await tell_due(till.billing, developer=None, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["smallest_usd"] == "10.00"
    assert {each["developer"]: each["due_usd"] for each in told["due"]}[developer(till)] == "29.10"
    assert {each["bank"] for each in told["due"]} == {"restricted", "not connected"}
    await tell_due(till.billing, developer=developer(till), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "$29.10" in lines[0]
    assert lines[1] == "A payout is $10.00 at least."


async def test_a_run_pays_who_is_due_once_and_lists_it(till: Till, capsys: pytest.CaptureFixture[str]) -> None:
    await connect(till, developer(till))
    await sold(till)
    till.stripe.chaos.drop = True
    till.stripe.finish_onboarding(account(till))
    capsys.readouterr()
    assert await pay_all(till.billing, as_json=True) == 0, "no news came that the bank is connected; it was asked for"
    (payout,) = json.loads(capsys.readouterr().out)
    assert (payout["amount_usd"], payout["state"], payout["developer"]) == ("29.10", "succeeded", developer(till))
    assert till.stripe.paid_out(account(till)) == 2910
    assert await pay_all(till.billing, as_json=False) == 0
    assert capsys.readouterr().out == "Nobody is due.\n"
    assert await said(till, "payouts", "list") == [payout]
    assert await said(till, "payouts", "list", "--developer", developer(till)) == [payout]
    other = format_id("dev", till.ledger.directory.create_developer("Ann").id)
    assert await said(till, "payouts", "list", "--developer", other) == []
    assert {each["bank"] for each in await said(till, "developers", "list")} == {"active", "not connected"}


async def test_a_payout_that_fails_makes_the_run_fail(till: Till, capsys: pytest.CaptureFixture[str]) -> None:
    await connect(till, developer(till))
    await sold(till)
    till.stripe.finish_onboarding(account(till))
    await till.news()
    till.stripe.chaos.api(400, path="/v1/transfers")
    capsys.readouterr()
    assert await pay_all(till.billing, as_json=False) == 1
    assert "failed" in capsys.readouterr().out


async def test_a_run_goes_on_where_an_account_cannot_be_looked_at(
    till: Till, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    await connect(till, developer(till))
    capsys.readouterr()
    till.stripe.chaos.api("timeout", times=3, path=f"/v2/core/accounts/{account(till)}")
    assert await pay_all(till.billing, as_json=False) == 0
    assert capsys.readouterr().out == "Nobody is due.\n"
    assert f"the payout of {developer(till)} waits" in caplog.text


def test_a_ledger_on_a_server_is_asked_by_its_address(database: str) -> None:
    shown = payre("payouts", "list", "--url", database, PAYRE_RECEIPT_KEYS=RING.dump().strip())
    assert (shown.exit_code, shown.stdout) == (0, "No payouts.\n")


def test_billing_is_opened_on_a_ledger_that_is_there(ledger_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYRE_STRIPE_API_KEY", "sk_test_nobody")
    monkeypatch.setenv("PAYRE_MIN_PAYOUT_USD", "25")

    async def smallest(billing: Any) -> Money:
        return billing.office.terms.smallest_payout

    assert with_billing(ledger_path.parent, None, smallest) == Money.parse(25)


def test_an_answer_of_stripe_that_does_not_fit_is_told_as_a_sentence(ledger_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYRE_STRIPE_API_KEY", "sk_test_nobody")

    async def mistaken(_: object) -> None:
        raise Mismatch("the transfer tr_1 is not what was asked for")

    with pytest.raises(ProcessorError, match="Nothing was booked"):
        with_billing(ledger_path.parent, None, mistaken)
