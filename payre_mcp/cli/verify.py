"""`payre verify`."""

import sys
from pathlib import Path

from payre_mcp.cli.output import command_settings, emit, ledger_url, receipt_ring
from payre_mcp.connection import sqlite_path
from payre_mcp.errors import NotFound, ReceiptInvalid
from payre_mcp.receipts import KeyRing, verify_receipt


def run(*, receipt: str, data: Path | None, json: bool) -> int:
    """Check a receipt with the ledger's key ring alone: the ledger itself is not opened. Answers the exit code."""
    ring = _ring(data)
    try:
        checked = verify_receipt(_text(receipt), ring)
    except ReceiptInvalid as error:
        emit({"valid": False, "reason": error.reason}, [f"not valid ({error.reason}): {error.message}"], as_json=json)
        return 1
    facts = (
        f"valid: charge {checked.charge_id}, {checked.amount} of {checked.mode} money for {checked.kind} {checked.name} "
        f"of {checked.server}, paid by {checked.consumer} to {checked.developer}"
    )
    emit({"valid": True, "reason": None, **checked.claims()}, [facts], as_json=json)
    return 0


def _text(receipt: str) -> str:
    if receipt == "-":
        return sys.stdin.read().strip()
    if receipt.count(".") == 2 and "/" not in receipt:
        return receipt
    path = Path(receipt)
    return path.read_text().strip() if path.is_file() else receipt


def _ring(data: Path | None) -> KeyRing:
    settings = command_settings()
    if given := receipt_ring(settings):
        return given
    path = sqlite_path(ledger_url(data, settings)).with_suffix(".keys")
    if not path.exists():
        raise NotFound(f"there are no receipt keys at {path}; name the ledger's folder with --data")
    return KeyRing.parse(path.read_text())
