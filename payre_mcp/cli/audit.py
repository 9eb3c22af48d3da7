"""`payre audit`."""

from dataclasses import asdict
from pathlib import Path

from payre_mcp.billing.comparison import Compared
from payre_mcp.cli.billing import with_billing
from payre_mcp.cli.output import command_settings, emit, ledger_url, receipt_ring
from payre_mcp.connection import is_server_url, open_ledger, sqlite_path
from payre_mcp.errors import NotFound
from payre_mcp.ledger.audit import AuditReport
from payre_mcp.money import Money


def run(*, data: Path | None, url: str | None, stripe: bool, json: bool) -> int:
    """Audit a ledger that exists; answers the exit code."""
    settings = command_settings()
    compared = with_billing(data, url, lambda billing: billing.comparison.run()) if stripe else None
    address = url or ledger_url(data, settings)
    if not is_server_url(address) and not sqlite_path(address).exists():
        raise NotFound(f"there is no ledger at {sqlite_path(address)}")
    connection = open_ledger(address, ring=receipt_ring(settings))
    try:
        report = connection.audit()
    finally:
        connection.close()
    return show(report, compared, as_json=json)


def show(report: AuditReport, compared: Compared | None, *, as_json: bool) -> int:
    """Print what was found; answers the exit code."""
    granted, left, spent = map(Money, (report.granted_micros, report.credit_micros, report.credit_spent_micros))
    lines = [
        f"{report.transfers} transfers, {report.charges} charges, {report.open_holds} open holds",
        where_it_is(report),
        *([f"granted {granted} of free credit = left {left} + spent {spent}"] if granted else []),
        *(f"BROKEN: {violation}" for violation in report.violations),
        "every invariant holds" if report.ok else f"{len(report.violations)} invariants are broken",
        *(told(compared) if compared else []),
    ]
    ok = report.ok and not (compared and compared.differences)
    facts = {} if compared is None else {"stripe": asdict(compared)}
    emit({"ok": ok, **asdict(report), **facts}, lines, as_json=as_json)
    return 0 if ok else 1


def where_it_is(report: AuditReport) -> str:
    """What was topped up and where it is now, inside the ledger and, as far as some of it left, outside."""
    inside = {"balances": report.balances_micros, "earnings": report.earned_micros, "fees": report.fees_micros}
    outside = {
        "returned": report.returned_micros, "charged back": report.charged_back_micros,
        "paid out": report.paid_out_micros, "the processor's costs": report.costs_micros,
    }  # fmt: skip
    sums = inside | {name: micros for name, micros in outside.items() if micros}
    return f"topped up {Money(report.topped_up_micros)} = " + " + ".join(f"{name} {Money(sums[name])}" for name in sums)


def told(compared: Compared) -> list[str]:
    """A comparison for people."""
    return [
        f"{compared.payments} payments here, {compared.lines} movements at Stripe",
        *([f"{compared.elsewhere} objects at Stripe are of no payment here"] if compared.elsewhere else []),
        *([f"{compared.test_money} top-ups of test money without Stripe"] if compared.test_money else []),
        *(f"DIFFERS: {difference}" for difference in compared.differences),
        f"{len(compared.differences)} payments differ" if compared.differences else "ledger and Stripe agree",
    ]
