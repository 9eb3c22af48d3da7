"""How a command gets at a ledger that is there, and at billing over it; and how it shows payments."""

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import anyio

from payre_mcp.billing.desk import Billing
from payre_mcp.billing.office import Mismatch, Unknown, name_of
from payre_mcp.billing.opening import open_billing
from payre_mcp.cli.output import columns, command_settings, ledger_url, receipt_ring
from payre_mcp.clock import US_PER_S
from payre_mcp.connection import Connection, is_server_url, open_ledger, sqlite_path
from payre_mcp.errors import InvalidRequest, NotFound, ProcessorError, SettingsInvalid
from payre_mcp.ids import format_id
from payre_mcp.money import InvalidAmount, Money
from payre_mcp.payments import Payment, PaymentKind

T = TypeVar("T")

NO_KEY = (
    "PAYRE_STRIPE_API_KEY is not set, and this asks Stripe: set the secret key that the hub of this ledger runs with "
    "(sk_test_... for test money). Nothing was done"
)


@contextmanager
def existing_ledger(data: Path | None, url: str | None) -> Generator[Connection]:
    """Open the ledger that a command means. Raises `NotFound` where there is none: a mistyped folder makes none."""
    settings = command_settings()
    address = url or ledger_url(data, settings)
    if not is_server_url(address) and not sqlite_path(address).exists():
        raise NotFound(f"there is no ledger at {sqlite_path(address)}")
    with closing(open_ledger(address, fee_bps=settings.fee_bps, ring=receipt_ring(settings))) as connection:
        yield connection


def with_billing(data: Path | None, url: str | None, work: Callable[[Billing], Awaitable[T]]) -> T:
    """Do something with the billing of the ledger that a command means, by the Stripe key of the settings.

    Raises:
        SettingsInvalid: There is no key, or it is of the other mode than the ledger.
    """
    settings = command_settings()
    if settings.stripe_api_key is None:
        raise SettingsInvalid(NO_KEY)
    with existing_ledger(data, url) as connection:
        billing = open_billing(connection.ledger, settings, connection.ledger.clock)
        assert billing is not None
        return anyio.run(_work, billing, work)


async def _work(billing: Billing, work: Callable[[Billing], Awaitable[T]]) -> T:
    try:
        return await work(billing)
    except (Mismatch, Unknown) as error:
        raise ProcessorError(f"{error}. Nothing was booked; compare it with Stripe's dashboard") from error
    finally:
        await billing.processor.aclose()


def dollars(text: str | None, nothing: str) -> Money | None:
    """The amount that an option names, if it does; `nothing` says what did not happen where it is none."""
    try:
        return None if text is None else Money.parse(text)
    except InvalidAmount as error:
        raise InvalidRequest(f"{error}; {nothing}") from None


def document(payment: Payment) -> dict[str, object]:
    """A payment for machines."""
    owner = "developer" if payment.kind == PaymentKind.PAYOUT else "consumer"
    fee = {"fee_micros": payment.fee.micros, "fee_usd": payment.fee.usd} if payment.kind == PaymentKind.TOP_UP else {}
    return {
        "id": name_of(payment),
        "kind": str(payment.kind),
        owner: format_id(owner[:3], payment.owner_id),
        "amount_micros": payment.amount.micros,
        "amount_usd": payment.amount.usd,
        **fee,
        "state": str(payment.state),
        "problem": payment.problem,
        "processor_id": payment.processor_id,
        "created_at": payment.created_at // US_PER_S,
    }


def lines(payments: Sequence[Payment], none: str) -> list[str]:
    """Payments for people; `none` where there are none."""
    rows = [document(payment) for payment in payments]
    return columns(
        [
            [
                str(row["id"]), str(row["kind"]).replace("_", "-"), str(row.get("consumer") or row["developer"]),
                str(payment.amount), str(row["state"]), when(payment.created_at), payment.processor_id or "-", payment.problem,
            ]
            for payment, row in zip(payments, rows, strict=True)
        ]
    ) or [none]  # fmt: skip


def when(moment_us: int) -> str:
    """A moment for people, in UTC."""
    return f"{datetime.fromtimestamp(moment_us // US_PER_S, UTC):%Y-%m-%d %H:%M}"
