"""From the settings to the operator's terms, and to billing with Stripe where they have its key."""

from pydantic import SecretStr

from payre_mcp.billing.desk import Billing
from payre_mcp.billing.office import Terms
from payre_mcp.clock import Clock
from payre_mcp.errors import SettingsInvalid
from payre_mcp.money import MICROS_PER_CENT, Money
from payre_mcp.processors.base import Endpoint
from payre_mcp.settings import Settings
from payre_mcp.storage.ledger import OpenLedger


def terms_of(settings: Settings) -> Terms:
    """What the operator set."""
    return Terms(
        top_up_fee_bps=settings.top_up_fee_bps, top_up_fee=settings.top_up_fee_usd, maturity_days=settings.maturity_days,
        first_maturity_days=settings.first_maturity_days, smallest_payout=settings.min_payout_usd,
        payout_days=settings.payout_days, clawback=settings.clawback, delayed=settings.top_up_delayed,
    )  # fmt: skip


def top_up_range(settings: Settings) -> tuple[Money, Money]:
    """The smallest and the largest top-up.

    Raises:
        SettingsInvalid: No amount, or none in whole cents, lies between the two.
    """
    smallest, largest = settings.top_up_min_usd, settings.top_up_max_usd
    in_cents = not smallest.micros % MICROS_PER_CENT and not largest.micros % MICROS_PER_CENT
    if not (in_cents and 0 < smallest.micros <= largest.micros):
        raise SettingsInvalid(
            f"PAYRE_TOP_UP_MIN_USD is {smallest} and PAYRE_TOP_UP_MAX_USD {largest}: set two amounts in whole cents, "
            "the smaller one above zero"
        )
    return smallest, largest


def open_billing(ledger: OpenLedger, settings: Settings, clock: Clock) -> Billing | None:
    """Billing with Stripe; None without its key. The ledger, and the processor of what is opened, are the caller's to close.

    Raises:
        SettingsInvalid: The key is none, or is for test money where the ledger holds live money, or the other way round.
    """
    if settings.stripe_api_key is None:
        return None
    # Stripe's package takes half a second to load: only who has its key waits for it.
    from payre_mcp.processors.stripe import StripeProcessor  # noqa: PLC0415

    secrets = signing_secrets(settings)
    processor = StripeProcessor(settings.stripe_api_key.get_secret_value(), webhook_secrets=secrets, clock=clock)
    return Billing(ledger, processor, clock, terms_of(settings), endpoints=secrets)


def signing_secrets(settings: Settings) -> dict[Endpoint, tuple[str, ...]]:
    """The signing secrets of each webhook that has any; several while one is rolled."""
    given: dict[Endpoint, SecretStr | None] = {
        "platform": settings.stripe_webhook_secret, "connect": settings.stripe_connect_secret,
        "thin": settings.stripe_thin_secret,
    }  # fmt: skip
    secrets = dict[Endpoint, tuple[str, ...]]()
    for endpoint, text in given.items():
        each = (text.get_secret_value() if text else "").split(",")
        if known := tuple(secret.strip() for secret in each if secret.strip()):
            secrets[endpoint] = known
    return secrets
