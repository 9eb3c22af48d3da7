"""`payre audit`, `payre verify`, `payre doctor`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from payre_mcp.cli.app import app
from payre_mcp.connection import open_ledger
from payre_mcp.ledger.model import ComeBack, Kind, Send, TopUp
from payre_mcp.storage.library import connect
from payre_mcp.testing import sandbox
from tests.fakes import fund


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # uvicorn knows no other


def payre(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=environ)


@pytest.fixture
async def receipt(tmp_path: Path) -> str:
    """The receipt of one paid call on the ledger in `tmp_path`."""
    async with sandbox(data=tmp_path) as box, box.client() as client:
        result = await client.call_tool("forecast", {"city": "Oslo"})
    return (result.meta or {})["dev.payre/receipt"]


async def test_an_audit_of_a_sound_ledger_succeeds(tmp_path: Path, receipt: str) -> None:
    result = payre("audit", "--data", str(tmp_path), "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (report["ok"], report["charges"], report["earned_micros"], report["fees_micros"]) == (True, 1, 4850, 150)
    assert "every invariant holds" in payre("audit", "--url", f"sqlite:///{tmp_path / 'payre.db'}").stdout


async def test_an_audit_says_where_all_money_is(tmp_path: Path) -> None:
    """What left the ledger is named only where some did, less what came back."""
    address = f"sqlite:///{tmp_path / 'payre.db'}"
    connection = open_ledger(address)
    payer, ask = fund(connection.ledger, 5_000_000), connection.ledger.writer.ask
    assert "topped up $5.00 = balances $5.00 + earnings $0.00 + fees $0.00\n" in payre("audit", "--url", address).stdout
    new, part, paid = connection.ledger.ids.new, payer.record.part, (payer.id, 0)
    ask(TopUp(new(), part, payer.id, 1_000_000, "card", 50_000))
    for kind, whose, micros in (
        (Kind.RETURN, paid, 2_000_000),
        (Kind.CHARGEBACK, paid, 500_000),
        (Kind.PAYOUT, (0, payer.developer_id), 30_000),
        (Kind.COST, paid, 70_000),
    ):
        ask(Send(new(), part, kind, *whose, micros, kind.name))
    ask(ComeBack(new(), part, *paid, 400_000, Kind.RETURN.name))
    connection.close()
    result = payre("audit", "--url", address)
    assert (
        "topped up $6.05 = balances $3.90 + earnings -$0.03 + fees -$0.02 "
        "+ returned $1.60 + charged back $0.50 + paid out $0.03 + the processor's costs $0.07\n"
    ) in result.stdout
    assert "every invariant holds" in result.stdout
    report = json.loads(payre("audit", "--url", address, "--json").stdout)
    assert (report["returned_micros"], report["costs_micros"]) == (1_600_000, 70_000)


async def test_an_audit_finds_a_balance_that_was_tampered_with(tmp_path: Path, receipt: str) -> None:
    connection = connect(tmp_path / "payre.db")
    connection.execute("update account set balance_micros = balance_micros + 1")
    connection.close()
    result = payre("audit", "--data", str(tmp_path))
    assert result.exit_code == 1
    assert "BROKEN" in result.stdout


async def test_an_audit_makes_no_ledger(tmp_path: Path) -> None:
    assert payre("audit", "--data", str(tmp_path / "none")).exit_code == 1
    assert not (tmp_path / "none").exists()


async def test_a_receipt_verifies_from_argument_file_and_stdin(tmp_path: Path, receipt: str) -> None:
    file = tmp_path / "receipt.txt"
    file.write_text(receipt + "\n")
    for given in (receipt, str(file)):
        result = payre("verify", given, "--data", str(tmp_path), "--json")
        assert json.loads(result.stdout)["amount_micros"] == 5000
    result = CliRunner().invoke(app, ["verify", "-", "--data", str(tmp_path)], input=receipt)
    assert result.exit_code == 0
    assert "$0.005" in result.stdout


async def test_a_forged_receipt_exits_1(tmp_path: Path, receipt: str) -> None:
    head, payload, signature = receipt.split(".")
    forged = f"{head}.{payload[:-2]}xx.{signature}"
    for given, reason in ((forged, "unknown"), ("nonsense", "malformed")):
        result = payre("verify", given, "--data", str(tmp_path), "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout) == {"valid": False, "reason": reason}


async def test_receipt_keys_of_the_settings_come_first(tmp_path: Path, receipt: str) -> None:
    keys = (tmp_path / "payre.keys").read_text().strip()
    elsewhere = str(tmp_path / "elsewhere")
    assert payre("verify", receipt, "--data", elsewhere).exit_code == 1
    assert payre("verify", receipt, "--data", elsewhere, PAYRE_RECEIPT_KEYS=keys).exit_code == 0


async def test_a_doctor_finds_a_sound_ledger_sound(tmp_path: Path, receipt: str) -> None:
    result = payre("doctor", "--data", str(tmp_path), "--json")
    assert result.exit_code == 0
    found = {check["name"]: check["found"] for check in json.loads(result.stdout)["checks"]}
    assert "wal" in found["ledger"]
    assert "0600" in found["receipt keys"]


async def test_a_doctor_sees_what_needs_attention(tmp_path: Path, receipt: str) -> None:
    (tmp_path / "payre.keys").chmod(0o644)
    damaged = {"PAYRE_KEY": "pyr_ck_test_nonsense"}
    checks = json.loads(payre("doctor", "--data", str(tmp_path), "--json", **damaged).stdout)["checks"]
    assert {check["name"] for check in checks if not check["ok"]} == {"receipt keys", "PAYRE_KEY"}
    result = payre("doctor", PAYRE_FEE_BPS="many")
    assert result.exit_code == 1
    assert "PAYRE_FEE_BPS" in result.stdout


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "postgresql://ann:canary@db.example/payre?target_session_attrs=read-write",
            "postgresql://db.example/payre; payre db check",
        ),
        ("https://hub.example", "the hub at https://hub.example"),
    ],
)
async def test_a_doctor_says_where_a_ledger_is_that_is_not_here_and_who_logs_in_to_nobody(address: str, said: str) -> None:
    result = payre("doctor", PAYRE_URL=address)
    assert said in result.stdout
    assert result.exit_code == 1, "it has no key of its own yet"
    assert "canary" not in result.output


async def test_an_address_that_cannot_be_opened_is_told_without_its_password() -> None:
    result = payre("balance", PAYRE_URL="mysql://ann:canary@db.example/payre")
    assert "mysql://db.example/payre" in result.output
    assert "canary" not in result.output


async def test_a_doctor_works_before_there_is_a_ledger(tmp_path: Path) -> None:
    assert payre("doctor", "--data", str(tmp_path / "none")).exit_code == 0
    assert not (tmp_path / "none").exists()
