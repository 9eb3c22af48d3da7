"""Settings: our own choice; a misspelt variable must not be silently ignored where money is."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from payre_mcp.errors import SettingsInvalid
from payre_mcp.money import ZERO, Money
from payre_mcp.settings import Settings, load_settings

SECRET = "s3cr3t-and-l0ng"


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(environ)
    assert caught.value.code == "settings_invalid"
    return caught.value.message


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = load_settings({})
    assert settings.fee_bps == 300
    assert settings.url is None
    assert settings.key is None
    assert (settings.allowed_hosts, settings.log_level, settings.log_format) == ((), None, "text")


def test_each_setting_is_read_from_its_variable() -> None:
    settings = load_settings(
        {
            "PAYRE_URL": "sqlite:///other.db",
            "PAYRE_KEY": SECRET,
            "PAYRE_SECRET_KEY": SECRET[::-1],
            "PAYRE_DATA": "/srv/payre",
            "PAYRE_RECEIPT_KEYS": "k1:abc",
            "PAYRE_FEE_BPS": "250",
            "PAYRE_ALLOWED_HOSTS": "pay.example, other.example:8443,",
            "PAYRE_LOG_LEVEL": "debug",
            "PAYRE_LOG_FORMAT": "json",
            "HOME": "/root",
        }
    )
    assert settings.ledger_url == settings.url == "sqlite:///other.db"
    assert settings.key is not None
    assert settings.key.get_secret_value() == SECRET
    assert settings.secret_key is not None
    assert settings.secret_key.get_secret_value() == SECRET[::-1]
    assert settings.receipt_keys is not None
    assert settings.receipt_keys.get_secret_value() == "k1:abc"
    assert settings.data == Path("/srv/payre")
    assert settings.fee_bps == 250
    assert settings.allowed_hosts == ("pay.example", "other.example:8443")
    assert (settings.log_level, settings.log_format) == ("DEBUG", "json")


def test_money_in_and_out_has_defaults_that_an_operator_may_leave() -> None:
    settings = load_settings({})
    assert (settings.mode, settings.stripe_api_key, settings.clawback) == ("test", None, "platform")
    assert (settings.stripe_webhook_secret, settings.stripe_connect_secret, settings.stripe_thin_secret) == (None, None, None)
    assert (settings.top_up_min_usd, settings.top_up_max_usd) == (Money.parse(5), Money.parse(500))
    assert (settings.top_up_fee_bps, settings.top_up_fee_usd) == (0, ZERO)
    assert (settings.maturity_days, settings.first_maturity_days, settings.payout_days) == (7, 14, 7)
    assert settings.min_payout_usd == Money.parse(10)


def test_money_in_and_out_is_read_from_its_variables() -> None:
    settings = load_settings(
        {
            "PAYRE_MODE": "live", "PAYRE_CLAWBACK": "developers", "PAYRE_STRIPE_API_KEY": SECRET,
            "PAYRE_STRIPE_WEBHOOK_SECRET": "whsec_a,whsec_b", "PAYRE_STRIPE_CONNECT_SECRET": "whsec_c",
            "PAYRE_STRIPE_THIN_SECRET": "whsec_d", "PAYRE_TOP_UP_MIN_USD": "$1", "PAYRE_TOP_UP_MAX_USD": "20.50",
            "PAYRE_TOP_UP_FEE_BPS": "290", "PAYRE_TOP_UP_FEE_USD": "0.30", "PAYRE_MATURITY_DAYS": "0",
            "PAYRE_FIRST_MATURITY_DAYS": "30", "PAYRE_MIN_PAYOUT_USD": "25", "PAYRE_PAYOUT_DAYS": "0",
        }
    )  # fmt: skip
    assert (settings.mode, settings.clawback) == ("live", "developers")
    assert settings.stripe_api_key is not None
    assert settings.stripe_api_key.get_secret_value() == SECRET
    assert settings.stripe_webhook_secret is not None
    assert settings.stripe_webhook_secret.get_secret_value() == "whsec_a,whsec_b"
    assert (settings.top_up_min_usd, settings.top_up_max_usd) == (Money.parse(1), Money.parse("20.50"))
    assert (settings.top_up_fee_bps, settings.top_up_fee_usd) == (290, Money.parse("0.30"))
    assert (settings.maturity_days, settings.first_maturity_days, settings.payout_days) == (0, 30, 0)
    assert settings.min_payout_usd == Money.parse(25)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PAYRE_MODE", "real"), ("PAYRE_CLAWBACK", "nobody"), ("PAYRE_TOP_UP_MIN_USD", "some"),
        ("PAYRE_TOP_UP_FEE_BPS", "10001"), ("PAYRE_TOP_UP_FEE_USD", "-1"), ("PAYRE_MATURITY_DAYS", "-1"),
        ("PAYRE_FIRST_MATURITY_DAYS", "366"), ("PAYRE_MIN_PAYOUT_USD", "much"), ("PAYRE_PAYOUT_DAYS", "weekly"),
    ],
)  # fmt: skip
def test_terms_that_cannot_be_are_named(name: str, value: str) -> None:
    assert name in refusal({name: value})


@pytest.mark.parametrize(("text", "micros"), [("1", 1_000_000), ("$0.50", 500_000), ("0", 0)])
def test_free_credit_is_given_in_dollars(text: str, micros: int) -> None:
    assert load_settings({"PAYRE_FREE_CREDIT_USD": text}).free_credit_usd == Money(micros)
    assert load_settings({}).free_credit_usd == ZERO


@pytest.mark.parametrize("text", ["-1", "much", "0.0000001", "2000000"])
def test_free_credit_that_is_no_amount_is_refused_without_repeating_it(text: str) -> None:
    message = refusal({"PAYRE_FREE_CREDIT_USD": text})
    assert "PAYRE_FREE_CREDIT_USD" in message
    assert "write dollars" in message
    assert text not in message.partition("write dollars")[0]


def test_without_an_address_the_ledger_stands_in_the_data_folder() -> None:
    assert load_settings({"PAYRE_DATA": "/srv/payre"}).ledger_url == "sqlite:////srv/payre/payre.db"


def test_the_process_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYRE_FEE_BPS", "0")
    assert load_settings().fee_bps == 0


def test_a_variable_set_to_nothing_counts_as_not_set() -> None:
    assert load_settings(dict.fromkeys(["PAYRE_URL", "PAYRE_KEY", "PAYRE_FEE_BPS"], "")).fee_bps == 300


@pytest.mark.parametrize(
    ("wrong", "right"), [("PAYRE_FEE_BSP", "PAYRE_FEE_BPS"), ("PAYRE_KEYS", "PAYRE_KEY"), ("PAYRE_url", "PAYRE_URL")]
)
def test_an_unknown_name_suggests_the_nearest(wrong: str, right: str) -> None:
    message = refusal({wrong: SECRET})
    assert wrong in message
    assert f"did you mean {right}?" in message
    assert SECRET not in message


def test_a_name_like_no_other_is_told_all_that_are_known() -> None:
    message = refusal({"PAYRE_QQQQQQQQQQQQQQQQQQQQ": SECRET})
    assert all(f"PAYRE_{name.upper()}" in message for name in Settings.model_fields)
    assert SECRET not in message


@pytest.mark.parametrize("name", ["PAYRE_TEST_POSTGRES_URL", "PAYRE_REQUIRE_POSTGRES", "PAYRE_CHROMIUM", "PAYRE_FAULT"])
def test_names_of_tests_and_tools_are_left_alone(name: str) -> None:
    assert load_settings({name: "1"}) == load_settings({})


@pytest.mark.parametrize("value", ["-1", "10001", "3%", SECRET])
def test_a_value_that_cannot_be_used_is_named_and_never_repeated(value: str) -> None:
    message = refusal({"PAYRE_FEE_BPS": value})
    assert "PAYRE_FEE_BPS" in message
    assert value not in message


@pytest.mark.parametrize(("name", "values"), [("PAYRE_LOG_LEVEL", "'WARNING'"), ("PAYRE_LOG_FORMAT", "'json'")])
def test_a_word_that_is_none_of_those_allowed_is_told_them(name: str, values: str) -> None:
    message = refusal({name: SECRET})
    assert name in message
    assert values in message
    assert SECRET not in message


def test_secrets_hide_wherever_settings_are_printed() -> None:
    names = ("KEY", "SECRET_KEY", "STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_CONNECT_SECRET", "STRIPE_THIN_SECRET")
    settings = load_settings({**{f"PAYRE_{name}": SECRET for name in names}, "PAYRE_RECEIPT_KEYS": f"k1:{SECRET}"})
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert SECRET not in shown


def test_settings_never_change_after_they_were_read() -> None:
    with pytest.raises(ValidationError):
        load_settings({}).fee_bps = 0


def test_every_setting_says_what_it_is_for() -> None:
    assert all(each.description for each in Settings.model_fields.values())
