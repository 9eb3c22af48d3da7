"""What `payre doctor` looks at of payments: Stripe's key and secrets against the ledger, and what waits for a person.

Nothing is changed, here or at Stripe, and without `--online` nothing leaves the machine.
"""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from payre_mcp.billing.desk import Billing
from payre_mcp.billing.opening import signing_secrets
from payre_mcp.billing.payouts import WAITS_FOR_FUNDS
from payre_mcp.cli.billing import with_billing
from payre_mcp.cli.stripe import SETTINGS
from payre_mcp.connection import is_server_url, sqlite_path
from payre_mcp.errors import PayreError
from payre_mcp.money import MICROS_PER_CENT, Money
from payre_mcp.payments import EventState, PaymentKind, PaymentState
from payre_mcp.settings import Settings
from payre_mcp.storage import migrate
from payre_mcp.storage.engine import make_engine, server_engine
from payre_mcp.storage.library import connect, sqlite

_KEY = re.compile(r"[sr]k_(?P<mode>test|live)_[0-9A-Za-z_]+", re.ASCII)


class Check(NamedTuple):
    """One finding."""

    name: str
    ok: bool
    found: str


class Books(NamedTuple):
    """What a ledger says of itself and of its payments."""

    mode: str
    accounts: dict[str, int]
    """How many developers' accounts at Stripe are in which state."""
    parked: int
    waiting: int
    """Payouts that wait for funds, and how much that is."""
    waiting_micros: int


def payment_checks(data: Path | None, address: str, settings: Settings, *, online: bool) -> Iterator[Check]:
    """Every check of payments. A database on a server is asked only `online`."""
    books = None
    try:
        books = _read(address) if online or not is_server_url(address) else None
    except (sqlite.DatabaseError, SQLAlchemyError) as error:
        yield Check("payments", ok=False, found=f"cannot be read: {str(error).splitlines()[0]}")
    if books is not None and books.mode != settings.mode == "live":
        yield Check("PAYRE_MODE", ok=False, found="live, and this ledger was made for test money and stays so: make another")
    yield _key_check(settings, books.mode if books else "")
    if settings.stripe_api_key is not None:
        yield _secrets_check(settings)
    if books is not None:
        yield from _books_checks(books)
    if online and settings.stripe_api_key is not None:
        yield from _online_checks(data)


def _key_check(settings: Settings, mode: str) -> Check:
    wanted = mode or settings.mode
    if settings.stripe_api_key is None:
        live = "not set, and a live ledger is topped up by card only"
        return Check("Stripe key", ok=wanted == "test", found="not set: test money alone" if wanted == "test" else live)
    key = _KEY.fullmatch(settings.stripe_api_key.get_secret_value())
    if key is None:
        return Check("Stripe key", ok=False, found="no secret key: it starts with sk_test_, sk_live_, rk_test_ or rk_live_")
    said = f"for {key['mode']} money, and the ledger holds {wanted} money" if mode else f"for {key['mode']} money"
    return Check("Stripe key", ok=key["mode"] == wanted, found=said)


def _secrets_check(settings: Settings) -> Check:
    given = signing_secrets(settings)
    lacking = [name for endpoint, name in SETTINGS.items() if endpoint not in given]
    if lacking:
        return Check("Stripe webhooks", ok=False, found=f"no {', '.join(lacking)}; payre stripe setup prints what to set")
    wrong = [SETTINGS[endpoint] for endpoint, secrets in given.items() if not all(each.startswith("whsec_") for each in secrets)]
    return Check(
        "Stripe webhooks", ok=not wrong, found=f"not whsec_...: {', '.join(wrong)}" if wrong else "all three have secrets"
    )


def _books_checks(books: Books) -> Iterator[Check]:
    states = ", ".join(f"{count} {state}" for state, count in sorted(books.accounts.items()))
    yield Check("payees", ok=books.accounts.keys() <= {"active", "pending"}, found=states or "no developer has connected a bank")
    parked = f"{books.parked} set aside for you: payre stripe events" if books.parked else "none set aside"
    yield Check("Stripe events", ok=not books.parked, found=parked)
    waiting = (
        f"{books.waiting} of {Money(books.waiting_micros)} wait for funds at Stripe" if books.waiting else "none waits for funds"
    )
    yield Check("payouts", ok=not books.waiting, found=waiting)


def _online_checks(data: Path | None) -> list[Check]:
    try:
        return with_billing(data, None, answers)
    except PayreError as error:
        return [Check("Stripe", ok=False, found=error.message)]


async def answers(billing: Billing) -> list[Check]:
    """What Stripe says to questions that change nothing: that the key is good, and how our webhooks are."""
    cents = await billing.processor.available_cents()
    webhooks = await billing.processor.find_endpoints()
    troubles = [f"{each.endpoint} ({each.url}): {each.trouble}" for each in webhooks if each.trouble]
    missing = sorted(set(SETTINGS) - {each.endpoint for each in webhooks})
    troubles += [f"{', '.join(missing)}: not there; payre stripe setup makes them"] if missing else []
    return [
        Check("Stripe", ok=True, found=f"answers; {Money(cents * MICROS_PER_CENT)} is available for payouts"),
        Check(
            "endpoints",
            ok=not troubles,
            found="; ".join(troubles) or "all three bring all news, at the version that is read here",
        ),
    ]


def _read(address: str) -> Books | None:
    """None where there is no ledger, or one whose tables are of another version."""
    if is_server_url(address):
        engine = server_engine(address)
    else:
        path = sqlite_path(address)
        if not path.exists() or not _is_current(path):
            return None
        engine = make_engine(path, read_only=True)
    try:
        with engine.connect() as connection:
            return _books(connection)
    finally:
        engine.dispose()


def _is_current(path: Path) -> bool:
    with closing(connect(path, read_only=True)) as connection:
        return migrate.schema_state(connection) == migrate.SchemaState.CURRENT


def _books(connection: sa.Connection) -> Books:
    mode = connection.execute(sa.text("select mode from ledger")).scalar_one_or_none() or ""
    accounts = connection.execute(sa.text("select state, count(*) from payee where account_id <> '' group by state"))
    parked = connection.execute(
        sa.text("select count(*) from inbox_event where state = :state"), {"state": str(EventState.PARKED)}
    )
    waiting = connection.execute(
        sa.text(
            "select count(*), cast(coalesce(sum(amount_micros), 0) as bigint) from payment "
            "where kind = :kind and state = :state and problem = :problem"
        ),
        {"kind": str(PaymentKind.PAYOUT), "state": str(PaymentState.OPEN), "problem": WAITS_FOR_FUNDS},
    )
    count, micros = waiting.one()
    return Books(mode, {state: int(number) for state, number in accounts}, parked.scalar_one(), count, micros)
