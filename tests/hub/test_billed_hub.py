"""From the settings to a hub that takes cards, and the hubs that do not start."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from payre_mcp.billing.office import Terms
from payre_mcp.billing.opening import open_billing, signing_secrets, terms_of, top_up_range
from payre_mcp.cli.app import app
from payre_mcp.cli.hub import check_base
from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection, open_ledger
from payre_mcp.errors import SettingsInvalid
from payre_mcp.hub.webhooks import PATHS
from payre_mcp.keys import Mode
from payre_mcp.money import Money
from payre_mcp.settings import load_settings
from tests.hub.card_desk import no_way_out
from tests.hub.served import serving_hub

LIVE, TEST = {"PAYRE_STRIPE_API_KEY": "sk_live_x"}, {"PAYRE_STRIPE_API_KEY": "sk_test_x"}


def test_terms_are_the_operators() -> None:
    settings = load_settings({
        "PAYRE_TOP_UP_FEE_BPS": "290", "PAYRE_TOP_UP_FEE_USD": "0.30", "PAYRE_MATURITY_DAYS": "3",
        "PAYRE_FIRST_MATURITY_DAYS": "9", "PAYRE_MIN_PAYOUT_USD": "25", "PAYRE_PAYOUT_DAYS": "0", "PAYRE_CLAWBACK": "developers",
        "PAYRE_TOP_UP_DELAYED": "true",
    })  # fmt: skip
    assert terms_of(settings) == Terms(
        top_up_fee_bps=290, top_up_fee=Money.parse("0.30"), maturity_days=3, first_maturity_days=9,
        smallest_payout=Money.parse(25), payout_days=0, clawback="developers", delayed=True,
    )  # fmt: skip
    assert terms_of(load_settings({})) == Terms()


@pytest.mark.parametrize(("smallest", "largest"), [("0", "5"), ("10", "5"), ("5.001", "10"), ("5", "10.001")])
def test_a_range_that_holds_no_amount_is_refused(smallest: str, largest: str) -> None:
    settings = load_settings({"PAYRE_TOP_UP_MIN_USD": smallest, "PAYRE_TOP_UP_MAX_USD": largest})
    with pytest.raises(SettingsInvalid, match="PAYRE_TOP_UP_MIN_USD"):
        top_up_range(settings)


def test_each_webhook_has_its_secrets() -> None:
    settings = load_settings({
        "PAYRE_STRIPE_WEBHOOK_SECRET": "whsec_old, whsec_new", "PAYRE_STRIPE_THIN_SECRET": " , ",
        "PAYRE_STRIPE_CONNECT_SECRET": "whsec_c",
    })  # fmt: skip
    assert signing_secrets(settings) == {"platform": ("whsec_old", "whsec_new"), "connect": ("whsec_c",)}


def test_billing_is_opened_with_a_key_and_listens_where_it_has_a_secret(connection: Connection, clock: ManualClock) -> None:
    assert open_billing(connection.ledger, load_settings({}), clock) is None
    settings = load_settings({**TEST, "PAYRE_STRIPE_WEBHOOK_SECRET": "whsec_x", "PAYRE_MATURITY_DAYS": "1"})
    billing = open_billing(connection.ledger, settings, clock)
    assert billing is not None
    assert list(billing.endpoints) == ["platform"]
    assert billing.office.terms.maturity_days == 1


@pytest.mark.parametrize("key", [*LIVE.values(), "pk_test_x", "nonsense"])
def test_a_key_that_is_not_of_this_ledgers_money_is_refused(connection: Connection, clock: ManualClock, key: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        open_billing(connection.ledger, load_settings({"PAYRE_STRIPE_API_KEY": key}), clock)
    assert key not in str(refused.value)


def test_live_money_is_paid_by_way_of_https_alone(tmp_path: Path, clock: ManualClock, connection: Connection) -> None:
    live = open_ledger(f"sqlite:///{tmp_path / 'live.db'}", clock=clock, mode=Mode.LIVE)
    billing = open_billing(live.ledger, load_settings(LIVE), clock)
    with pytest.raises(SettingsInvalid, match="--base-url"):
        check_base("http://pay.example", billing)
    check_base("https://pay.example", billing)
    check_base("http://pay.example", None)
    check_base("http://127.0.0.1:8080", open_billing(connection.ledger, load_settings(TEST), clock))
    live.close()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (LIVE, "test money"),
        ({**TEST, "PAYRE_MODE": "live"}, "live money"),
        ({**LIVE, "PAYRE_MODE": "live"}, "--base-url"),
        ({"PAYRE_TOP_UP_MAX_USD": "1"}, "PAYRE_TOP_UP_MAX_USD"),
    ],
)
def test_a_hub_whose_settings_do_not_fit_does_not_start(tmp_path: Path, environ: dict[str, str], said: str) -> None:
    done = CliRunner().invoke(app, ["hub", "--data", str(tmp_path), "--port", "0"], env=environ)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_hub_takes_webhooks_while_stripe_is_down_and_stops_when_told(tmp_path: Path) -> None:
    secrets = {"PAYRE_STRIPE_API_KEY": "sk_test_x", "PAYRE_STRIPE_WEBHOOK_SECRET": "whsec_x"}
    with no_way_out() as proxy, serving_hub(tmp_path, HTTPS_PROXY=proxy, **secrets) as served:
        with served.client() as client:
            assert client.post(PATHS["platform"], content=b"{}").status_code == 400
            assert client.post(PATHS["thin"], content=b"{}").status_code == 404
            assert client.get("/readyz").status_code == 200
        said = served.stop()
    assert "Traceback" not in said
    assert "sk_test_x" not in said
