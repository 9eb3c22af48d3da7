"""The environment, read in this file alone and once, into a frozen object that is passed on.

Unknown `PAYRE_` names are an error with a suggestion: a misspelt setting must not be silently ignored where money is.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from payre_mcp.errors import SettingsInvalid
from payre_mcp.money import ZERO, InvalidAmount, Money

PREFIX = "PAYRE_"

ELSEWHERE = ("PAYRE_TEST_", "PAYRE_REQUIRE_", "PAYRE_CHROMIUM", "PAYRE_FAULT")
"""Names that tests and tools read themselves; known, so that `payre` starts with them set."""


FIVE, TEN, FIVE_HUNDRED = Money.parse(5), Money.parse(10), Money.parse(500)

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
LogFormat = Literal["text", "json"]


def _names(value: object) -> object:
    """The names in a list with commas between."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _money(value: object) -> object:
    try:
        return Money.parse(value) if isinstance(value, str) else value
    except InvalidAmount:
        raise ValueError("write dollars, such as 1 or 0.50") from None


class Settings(BaseModel):
    """What the environment says. Secrets hide in `repr`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = Field(
        None, description="The ledger: `sqlite:///payre.db`, or a hub's `https://` address; without it, one in `PAYRE_DATA`"
    )
    secret_key: SecretStr | None = Field(None, description="The developer's secret key (`pyr_sk_`) at a hub")
    key: SecretStr | None = Field(None, description="The consumer's key (`pyr_ck_`) of a server or wallet that runs on stdio")
    data: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("payre")),
        description="The folder of the embedded ledger and its receipt keys",
    )
    receipt_keys: SecretStr | None = Field(None, description="Receipt keys as `kid:secret`, commas between, the newest last")
    free_credit_usd: Annotated[Money, BeforeValidator(_money)] = Field(
        ZERO, description="Free credit that a consumer's first call at each server brings them, in dollars"
    )
    fee_bps: int = Field(300, ge=0, le=10_000, description="The platform's fee in hundredths of a percent")
    mode: Literal["test", "live"] = Field("test", description="What a new ledger holds: `test` money or `live` money")
    stripe_api_key: SecretStr | None = Field(None, description="Stripe's secret key (`sk_`); its mode is that of the ledger")
    stripe_webhook_secret: SecretStr | None = Field(
        None, description="Signing secrets (`whsec_`) of Stripe's webhooks, commas between while one is rolled"
    )
    stripe_connect_secret: SecretStr | None = Field(None, description="The same of the webhook for connected accounts")
    stripe_thin_secret: SecretStr | None = Field(None, description="The same of the destination for accounts' thin events")
    top_up_min_usd: Annotated[Money, BeforeValidator(_money)] = Field(FIVE, description="The smallest top-up, in whole cents")
    top_up_max_usd: Annotated[Money, BeforeValidator(_money)] = Field(FIVE_HUNDRED, description="The largest top-up")
    top_up_fee_bps: int = Field(0, ge=0, le=10_000, description="A processing fee on a top-up, in hundredths of a percent of it")
    top_up_fee_usd: Annotated[Money, BeforeValidator(_money)] = Field(ZERO, description="And so much beside that")
    top_up_delayed: bool = Field(default=False, description="Whether ways to pay are offered whose money takes days to come")
    maturity_days: int = Field(7, ge=0, le=365, description="How old a charge is when its earnings can be paid out")
    first_maturity_days: int = Field(
        14, ge=0, le=365, description="How old a consumer's first top-up is before earnings from them can be paid out"
    )
    min_payout_usd: Annotated[Money, BeforeValidator(_money)] = Field(TEN, description="The smallest payout")
    payout_days: int = Field(7, ge=0, le=365, description="How often payouts are made by themselves; 0 for never")
    clawback: Literal["platform", "developers"] = Field(
        "platform",
        description="Who bears what was spent and then lost in a dispute; `developers`: their charges that are not mature",
    )
    allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        (), description="The names by which clients call a server on HTTP, commas between; `serve(allowed_hosts=...)` goes before"
    )
    rate_limit: int = Field(1_000, ge=1, le=1_000_000, description="Requests a minute of a consumer's key at the hub")
    developer_rate_limit: int = Field(
        60_000, ge=1, le=10_000_000, description="Requests a minute of a developer's key at the hub"
    )
    log_level: Annotated[LogLevel | None, BeforeValidator(_upper)] = Field(
        None, description="How much the log tells: DEBUG, INFO, WARNING, ERROR or CRITICAL"
    )
    log_format: LogFormat = Field("text", description="The log as `text`, or as `json`: one object per line")

    @property
    def ledger_url(self) -> str:
        """The ledger's address, whether it was given or follows from `data`."""
        return self.url or f"sqlite:///{self.data / 'payre.db'}"


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from `environ`, by default the process's own.

    Raises:
        SettingsInvalid: A `PAYRE_` name is unknown (with the nearest known one), or a value cannot be used. The message
            names the variable and never repeats a value.
    """
    variables = os.environ if environ is None else environ
    given = {name: value for name, value in variables.items() if name.startswith(PREFIX) and not name.startswith(ELSEWHERE)}
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"
            raise SettingsInvalid(f"unknown setting {name}{hint}")
    values: dict[str, Any] = {known[name]: value for name, value in given.items() if value}
    try:
        return Settings(**values)
    except ValidationError as error:
        wrong = ", ".join(f"{PREFIX}{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors())
        raise SettingsInvalid(f"settings cannot be used: {wrong}") from None
