import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner, Result

from payre_mcp.cli.app import app
from payre_mcp.connection import open_ledger
from payre_mcp.gateway.base import CallRequest
from payre_mcp.keys import parse_key
from payre_mcp.money import Money
from payre_mcp.pricing import Target, load_price

Payre = Callable[..., Result]


@pytest.fixture
def payre(tmp_path: Path) -> Payre:
    def run(*arguments: str, data: bool = True, **environ: str) -> Result:
        chosen = ["--data", str(tmp_path)] if data else []
        return CliRunner().invoke(app, [*arguments, *chosen], env=environ)

    return run


def said(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_key_is_made_funded_and_shown_once(payre: Payre) -> None:
    made = said(payre("keys", "create", "--label", "laptop", "--json"))
    assert parse_key(made["consumer_key"]).shown.startswith("pyr_ck_test_...")
    assert said(payre("top-up", "5", "--json"))["balance_micros"] == 5_000_000
    assert said(payre("balance", "--json"))["available_usd"] == "5.00"
    (listed,) = said(payre("keys", "list", "--json"))
    assert listed["label"] == "laptop"
    assert made["consumer_key"] not in json.dumps(listed)


def test_a_balance_says_what_is_free_at_which_server(payre: Payre, tmp_path: Path) -> None:
    key = said(payre("keys", "create", "--json"))["consumer_key"]
    assert "credit" not in said(payre("balance", "--json"))
    connection = open_ledger(f"sqlite:///{tmp_path / 'payre.db'}", free_credit=Money(15_000))
    target, cent = Target("tool", "forecast"), load_price("0.01")
    call = CallRequest(
        api_key=key, server="weather", target=target, price_version=cent.version, args_sha256="", amount=Money(10_000)
    )
    try:
        anyio.run(connection.gateway.publish, "weather", {target: cent})
        anyio.run(connection.gateway.charge, call)
    finally:
        connection.close()
    free = {"server": "weather", "available_micros": 5_000, "available_usd": "0.005"}
    assert said(payre("balance", "--json"))["credit"] == [free]
    assert "$0.005 free credit at weather" in payre("balance").stdout


def test_a_second_key_belongs_to_the_same_consumer_unless_a_new_one_is_asked_for(payre: Payre) -> None:
    first, second = (said(payre("keys", "create", "--json"))["consumer"] for _ in range(2))
    third = said(payre("keys", "create", "--new", "--json"))["consumer"]
    assert first == second
    assert third != first


def test_a_choice_of_consumers_is_asked_for(payre: Payre) -> None:
    wanted = [said(payre("keys", "create", "--new", "--json"))["consumer"] for _ in range(2)]
    assert payre("top-up", "1").exit_code == 1
    assert said(payre("top-up", "1", "--consumer", wanted[1], "--json"))["consumer"] == wanted[1]
    assert said(payre("balance", "--consumer", wanted[0], "--json"))["balance_micros"] == 0


def test_a_revoked_key_is_listed_as_revoked(payre: Payre) -> None:
    said(payre("keys", "create", "--json"))
    (key,) = said(payre("keys", "list", "--json"))
    said(payre("keys", "revoke", key["id"], "--json"))
    assert said(payre("keys", "list", "--json"))[0]["state"] == "revoked"


@pytest.mark.parametrize("amount", ["-1", "nothing", "0.0000001", "0"])
def test_a_wrong_amount_credits_nothing(payre: Payre, amount: str) -> None:
    said(payre("keys", "create", "--json"))
    assert payre("top-up", "--json", "--", amount, data=False).exit_code != 0
    assert payre("top-up", amount).exit_code != 0
    assert said(payre("balance", "--json"))["balance_micros"] == 0


def test_text_is_for_people(payre: Payre) -> None:
    assert "shown only now" in payre("keys", "create").stdout
    assert "$5.00" in payre("top-up", "5").stdout
    assert "active" in payre("keys", "list").stdout
    assert "revoked" in payre("keys", "revoke", said(payre("keys", "list", "--json"))[0]["id"]).stdout


def test_an_empty_ledger_says_how_to_begin(payre: Payre) -> None:
    result = payre("balance")
    assert result.exit_code == 1
    assert "payre keys create" in result.stderr
    assert payre("keys", "list").stdout == "No keys.\n"


def test_an_unknown_consumer_or_key_is_not_found(payre: Payre) -> None:
    said(payre("keys", "create", "--json"))
    for arguments in (("balance", "--consumer", "con_0000000000000"), ("keys", "revoke", "key_0000000000000")):
        result = payre(*arguments)
        assert result.exit_code == 1
        assert "not_found" in result.stderr


def test_the_settings_say_where_the_ledger_is(payre: Payre, tmp_path: Path) -> None:
    said(payre("keys", "create", "--json", data=False, PAYRE_DATA=str(tmp_path)))
    assert len(said(payre("keys", "list", "--json"))) == 1


def test_an_unknown_setting_exits_as_usage(payre: Payre) -> None:
    result = payre("balance", PAYRE_DATTA="x")
    assert result.exit_code == 2
    assert "PAYRE_DATA" in result.stderr
