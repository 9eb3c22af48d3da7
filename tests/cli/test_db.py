"""`payre db` on a file and on a server."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from payre_mcp.cli.app import app
from payre_mcp.clock import ManualClock
from payre_mcp.receipts import KeyRing
from payre_mcp.storage import migrate
from payre_mcp.storage.deploy import role_script
from payre_mcp.storage.embedded import open_embedded
from payre_mcp.storage.server import ServerLedger, open_server
from tests.fakes import RING, audited, fund
from tests.postgres_server import Databases, binaries


@pytest.fixture
def served(database: str, clock: ManualClock) -> Iterator[ServerLedger]:
    ledger = open_server(database, clock, ring=RING)
    yield ledger
    ledger.close()


def payre(*arguments: str | Path, code: int = 0) -> str:
    """What a command prints; its exit code must be this one."""
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, (result.output, result.stderr)
    return result.stdout + result.stderr


def test_upgrading_makes_the_tables_of_an_empty_database_and_does_nothing_the_second_time(databases: Databases) -> None:
    url = databases.new()
    first, second = (json.loads(payre("db", "upgrade", "--url", url, "--json")) for _ in range(2))
    assert (first["before"], second["before"]) == ("empty", "current")
    assert first["revision"] == migrate.HEAD
    databases.drop(url)


def test_checking_a_server_says_what_it_promises(database: str) -> None:
    found = json.loads(payre("db", "check", "--url", database, "--json", code=1))
    checks = {each["name"]: each["ok"] for each in found["checks"]}
    assert checks["schema"] is True
    assert checks["fsync"] is False, "the tests' server does not wait for its disk, and that is worth attention"


def test_checking_a_file_and_one_that_is_not_there(ledger_path: Path, tmp_path: Path) -> None:
    assert "current" in payre("db", "check", "--data", ledger_path.parent)
    assert "there is no ledger" in payre("db", "check", "--data", tmp_path / "nowhere", code=1)


def test_a_backup_of_a_file_in_use_is_a_sound_ledger_that_only_its_owner_reads(ledger_path: Path, tmp_path: Path) -> None:
    clock = ManualClock()
    ledger = open_embedded(ledger_path, clock)
    payer = fund(ledger, 1_000)
    ledger.writer.ask(payer.charge(300))
    copy = tmp_path / "copy.db"
    payre("db", "backup", copy, "--data", ledger_path.parent)
    ledger.writer.ask(payer.charge(300))
    report = audited(copy, clock.now_us())
    assert (report.ok, report.charges) == (True, 1)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert "exists already" in payre("db", "backup", copy, "--data", ledger_path.parent, code=1)
    ledger.close()


def test_a_backup_of_a_server_can_be_restored(
    served: ServerLedger, databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = binaries()
    if folder is None or not (folder / "pg_dump").exists():
        pytest.skip("no pg_dump of our own")
    monkeypatch.setenv("PATH", str(folder))
    payer = fund(served, 1_000)
    served.writer.ask(payer.charge(300))
    dump = tmp_path / "ledger.dump"
    payre("db", "backup", dump, "--url", served.url)
    assert dump.read_bytes()[:5] == b"PGDMP"
    assert stat.S_IMODE(dump.stat().st_mode) == 0o600


def test_a_role_of_the_script_can_serve_and_cannot_touch_the_journal(database: str, clock: ManualClock) -> None:
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(role_script("payre_serving").encode())
    url = database.replace("//payre@", "//payre_serving@")
    ledger = open_server(url, clock, ring=RING)
    payer = fund(ledger, 1_000)
    hold = ledger.writer.ask(payer.hold(10, key="once")).transfer
    ledger.writer.ask(payer.capture(hold.id, 10, result="{}"))
    assert ledger.writer.sweep() == 0
    assert audited(ledger, clock.now_us()).ok
    ledger.close()
    with psycopg.connect(url, autocommit=True) as serving:
        for statement in ("update transfer set detail = ''", "delete from transfer", "truncate transfer", "drop table transfer"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                serving.execute(statement.encode())


@pytest.mark.parametrize("name", ["payre; drop table transfer", "Payre", "", "a" * 64])
def test_a_role_is_named_plainly(name: str) -> None:
    assert "nothing was changed" in payre("db", "role", name, code=1)


def test_only_a_server_with_citus_can_be_spread(database: str, ledger_path: Path) -> None:
    assert "no Citus" in payre("db", "distribute", "--url", database, code=1)
    assert "a file cannot be spread" in payre("db", "distribute", "--url", f"sqlite:///{ledger_path}", code=1)


def test_a_new_receipt_key_is_one_that_the_settings_take() -> None:
    assert KeyRing.parse(payre("db", "receipt-key").strip())
