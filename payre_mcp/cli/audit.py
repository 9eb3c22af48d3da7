"""`payre audit`."""

from dataclasses import asdict
from pathlib import Path

from payre_mcp.cli.output import command_settings, emit, ledger_url, receipt_ring
from payre_mcp.connection import is_server_url, open_ledger, sqlite_path
from payre_mcp.errors import NotFound
from payre_mcp.money import Money


def run(*, data: Path | None, url: str | None, json: bool) -> int:
    """Audit a ledger that exists; answers the exit code."""
    settings = command_settings()
    address = url or ledger_url(data, settings)
    if not is_server_url(address) and not sqlite_path(address).exists():
        raise NotFound(f"there is no ledger at {sqlite_path(address)}")
    connection = open_ledger(address, ring=receipt_ring(settings))
    try:
        report = connection.audit()
    finally:
        connection.close()
    whole, parts = Money(report.topped_up_micros), (report.balances_micros, report.earned_micros, report.fees_micros)
    balances, earnings, fees = (Money(part) for part in parts)
    granted, left, spent = map(Money, (report.granted_micros, report.credit_micros, report.credit_spent_micros))
    lines = [
        f"{report.transfers} transfers, {report.charges} charges, {report.open_holds} open holds",
        f"topped up {whole} = balances {balances} + earnings {earnings} + fees {fees}",
        *([f"granted {granted} of free credit = left {left} + spent {spent}"] if granted else []),
        *(f"BROKEN: {violation}" for violation in report.violations),
        "every invariant holds" if report.ok else f"{len(report.violations)} invariants are broken",
    ]
    emit({"ok": report.ok, **asdict(report)}, lines, as_json=json)
    return 0 if report.ok else 1
