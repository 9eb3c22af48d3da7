"""`payre keys`: what a person may say about a key, and what is told back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from payre_mcp.cli.app import app
from payre_mcp.clock import SystemClock
from payre_mcp.connection import open_ledger
from payre_mcp.directory import SpendingLimits
from payre_mcp.money import Money

Payre = Callable[..., Result]
DAY_US = 24 * 3600 * 1_000_000


@pytest.fixture
def payre(tmp_path: Path) -> Payre:
    return lambda *arguments: CliRunner().invoke(app, ["keys", *arguments, "--data", str(tmp_path)])


def said(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def listed(payre: Payre) -> list[Any]:
    return said(payre("list", "--json"))


def test_a_key_is_made_for_one_server_for_some_days_and_with_limits(payre: Payre, tmp_path: Path) -> None:
    limits = (
        "--limit-call",
        "0.05",
        "--limit-day",
        "$1",
        "--limit-month",
        "20",
        "--limit-tool",
        "draw=0.5",
        "--limit-tool",
        "a=0",
    )
    said(payre("create", "--server", "weather", "--expires-days", "30", *limits, "--json"))
    connection = open_ledger(f"sqlite:///{tmp_path / 'payre.db'}")
    (key,) = connection.ledger.directory.list_keys()
    weather = connection.ledger.directory.ensure_server(connection.ledger.directory.sole_developer().id, "weather")
    connection.close()
    assert key.server_id == weather.id
    assert abs(key.expires_at - SystemClock().now_us() - 30 * DAY_US) < DAY_US
    assert key.limits == SpendingLimits(
        call=Money(50_000), day=Money(1_000_000), month=Money(20_000_000), tools={"draw": Money(500_000), "a": Money(0)}
    )


def test_a_key_without_options_has_no_limits(payre: Payre) -> None:
    assert said(payre("create", "--json"))["limits"] == {}
    assert listed(payre)[0]["limits"] == {}
    assert "no limits" in payre("list").stdout


def test_limits_are_shown_changed_one_by_one_and_cleared(payre: Payre) -> None:
    said(payre("create", "--limit-day", "1", "--json"))
    (key,) = listed(payre)
    assert said(payre("limits", key["id"], "--json")) == {"id": key["id"], "limits": {"day_micros": 1_000_000, "day_usd": "1.00"}}
    changed = said(payre("limits", key["id"], "--limit-call", "0.1", "--limit-tool", "draw=2", "--json"))["limits"]
    assert changed == {
        "call_micros": 100_000,
        "call_usd": "0.10",
        "day_micros": 1_000_000,
        "day_usd": "1.00",
        "tools": {"draw": {"day_micros": 2_000_000, "day_usd": "2.00"}},
    }
    assert listed(payre)[0]["limits"] == changed
    assert payre("limits", key["id"]).stdout == f"{key['id']}: $0.10 per call, $1.00 per day, $2.00 per day for draw\n"
    assert said(payre("limits", key["id"], "--none", "--limit-month", "3", "--json"))["limits"] == {
        "month_micros": 3_000_000,
        "month_usd": "3.00",
    }
    assert said(payre("limits", key["id"], "--none", "--json"))["limits"] == {}


@pytest.mark.parametrize("wrong", ["draw", "=1", "draw=", "draw=-1", "draw=much"])
def test_a_limit_that_cannot_be_read_changes_nothing(payre: Payre, wrong: str) -> None:
    said(payre("create", "--limit-day", "1", "--json"))
    (key,) = listed(payre)
    assert payre("limits", key["id"], "--limit-tool", wrong).exit_code == 1
    assert payre("create", "--limit-day", wrong).exit_code == 1
    assert listed(payre) == [key]


def test_a_rotated_key_is_shown_once_and_the_old_one_ends(payre: Payre) -> None:
    first = said(payre("create", "--limit-day", "1", "--label", "laptop", "--json"))
    (old,) = listed(payre)
    made = said(payre("rotate", old["id"], "--overlap-hours", "0", "--json"))
    assert made["replaces"] == old["id"]
    assert made["consumer_key"] != first["consumer_key"]
    before, after = listed(payre)
    assert (before["state"], after["state"]) == ("expired", "active")
    assert {name: after[name] for name in ("owner", "label", "limits")} == {
        name: old[name] for name in ("owner", "label", "limits")
    }
    assert "24 more hours" in payre("rotate", after["id"]).stdout
    assert payre("rotate", old["id"]).exit_code == 1


def test_a_key_that_does_not_exist_is_not_found(payre: Payre) -> None:
    said(payre("create", "--json"))
    unknown = "key_" + "0" * 13
    assert payre("limits", unknown, "--none").exit_code == 1
    assert payre("rotate", unknown).exit_code == 1
