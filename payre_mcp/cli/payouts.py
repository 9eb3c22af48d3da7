"""`payre payouts`: developers' earnings to their banks, for whoever runs the hub."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from payre_mcp.billing.desk import Billing
from payre_mcp.billing.office import run
from payre_mcp.cli.billing import document, existing_ledger, lines, with_billing
from payre_mcp.cli.output import columns, emit, note
from payre_mcp.directory import Developer, Directory
from payre_mcp.errors import InvalidRequest, NotFound
from payre_mcp.ids import format_id, parse_id
from payre_mcp.payments import PaymentKind, PaymentState

DASHBOARD = "https://connect.stripe.com/express_login"
"""Where developers see their account at Stripe."""


def show(*, developer: str | None, limit: int, data: Path | None, url: str | None, json: bool) -> None:
    """List payouts, the newest first."""
    with existing_ledger(data, url) as connection:
        ledger, kinds = connection.ledger, [PaymentKind.PAYOUT]
        if developer is None:
            found = ledger.payments.list(kinds, before=0, limit=limit)
        else:
            owner = find_developer(ledger.directory, developer)
            found = ledger.payments.of_owner(owner.id, kinds, before=0, limit=limit)
    emit([document(payout) for payout in found], lines(found, "No payouts."), as_json=json)


def due(*, developer: str | None, data: Path | None, url: str | None, json: bool) -> None:
    """Say what could be paid out now."""
    with_billing(data, url, partial(tell_due, developer=developer, as_json=json))


async def tell_due(billing: Billing, *, developer: str | None, as_json: bool) -> None:
    """What has matured of each developer's earnings, and whether it can be paid."""
    directory = billing.ledger.directory
    wanted = await run(directory.developers) if developer is None else [await run(find_developer, directory, developer)]
    accounts = {payee.developer_id: payee.state for payee in await run(billing.ledger.payments.payees)}
    rows = list[dict[str, object]]()
    for each in wanted:
        matured = await billing.payouts.due(each.id)
        rows.append(
            {
                "developer": format_id("dev", each.id),
                "name": each.name,
                "due_micros": matured.micros,
                "due_usd": matured.usd,
                "bank": accounts.get(each.id, "not connected"),
            }
        )
    text = columns([[str(row["developer"]), str(row["name"]), f"${row['due_usd']}", f"bank {row['bank']}"] for row in rows])
    smallest = billing.office.terms.smallest_payout
    emit({"smallest_usd": smallest.usd, "due": rows}, [*text, f"A payout is {smallest} at least."], as_json=as_json)


def pay(*, data: Path | None, url: str | None, json: bool) -> int:
    """Pay everybody who is due."""
    return with_billing(data, url, partial(pay_all, as_json=json))


async def pay_all(billing: Billing, *, as_json: bool) -> int:
    """Pay everybody who is due; answers 1 when a payout failed."""
    made = await billing.payouts.run_all()
    emit([document(payout) for payout in made], lines(made, "Nobody is due."), as_json=as_json)
    return 1 if any(payout.state == PaymentState.FAILED for payout in made) else 0


def connect(
    *, developer: str | None, email: str, country: str, return_url: str | None, data: Path | None, url: str | None, json: bool
) -> None:
    """Print the link on which a developer connects their bank."""
    if not re.fullmatch("[A-Za-z]{2}", country):
        raise InvalidRequest("--country is two letters, such as US; nothing was made")
    if "@" not in email:
        raise InvalidRequest("--email is an address, such as ann@example.com; nothing was made")
    onboard = partial(
        onboarding, developer=developer, email=email, country=country.upper(), return_url=return_url or DASHBOARD, as_json=json
    )
    with_billing(data, url, onboard)


async def onboarding(
    billing: Billing, *, developer: str | None, email: str, country: str, return_url: str, as_json: bool
) -> None:  # fmt: skip
    """The link, for an account that is made the first time."""
    owner = await run(find_developer, billing.ledger.directory, developer)
    link = await billing.payouts.onboard(
        owner.id, email=email, country=country, return_url=return_url, refresh_url=return_url
    )  # fmt: skip
    payee = await run(billing.ledger.payments.payee, owner.id)
    assert payee is not None
    facts = {"developer": format_id("dev", owner.id), "url": link, "account": payee.account_id, "bank": payee.state}
    note(f"for {owner.name or facts['developer']}, account {payee.account_id} ({payee.state}); good once, for some minutes")
    emit(facts, [link], as_json=as_json)


def find_developer(directory: Directory, wanted: str | None) -> Developer:
    """The developer that is meant. Raises `NotFound` where there is none, `InvalidRequest` where there is a choice."""
    if wanted is not None:
        found = directory.find_developer(parse_id("dev", wanted))
        if found is None:
            raise NotFound(f"no developer {wanted}; payre developers list shows them")
        return found
    developers = directory.developers()
    if len(developers) != 1:
        raise InvalidRequest(f"say which developer with --developer: {', '.join(_names(developers)) or 'there is none yet'}")
    return developers[0]


def _names(developers: Sequence[Developer]) -> Iterator[str]:
    return (f"{format_id('dev', each.id)} ({each.name})" for each in developers)
