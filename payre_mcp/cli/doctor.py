"""`payre doctor`: what a ledger stands on, and what needs attention."""

import stat
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from payre_mcp.cli.checks import Check, payment_checks
from payre_mcp.cli.output import columns, emit, ledger_url
from payre_mcp.connection import is_server_url, shown_address, sqlite_path
from payre_mcp.errors import PayreError, SettingsInvalid
from payre_mcp.gateway.hub_address import is_hub
from payre_mcp.keys import Role, parse_key
from payre_mcp.receipts import KeyRing
from payre_mcp.settings import Settings, load_settings
from payre_mcp.storage import migrate
from payre_mcp.storage.library import connect, sqlite, wal_is_safe


def run(*, data: Path | None, online: bool, json: bool) -> int:
    """Run every check; answers the exit code."""
    checks = list(_checks(data, online=online))
    ok = all(check.ok for check in checks)
    lines = columns([["ok" if check.ok else "ATTENTION", check.name, check.found] for check in checks])
    emit({"ok": ok, "checks": [check._asdict() for check in checks]}, lines, as_json=json)
    return 0 if ok else 1


def _checks(data: Path | None, *, online: bool) -> Iterator[Check]:
    yield Check("payre-mcp", ok=True, found=f"{version('payre-mcp')} on mcp {version('mcp')}")
    mode = (
        "WAL + FULL" if wal_is_safe() else "TRUNCATE + FULL: this SQLite can corrupt a WAL; 3.51.3 or later is four times faster"
    )
    yield Check("SQLite library", ok=wal_is_safe(), found=f"{sqlite.__name__} {sqlite.sqlite_version}, {mode}")
    try:
        settings = load_settings()
    except SettingsInvalid as error:
        yield Check("settings", ok=False, found=error.message)
        return
    yield Check("settings", ok=True, found=", ".join(sorted(settings.model_fields_set)) or "all defaults")
    yield _key_check(settings)
    address = ledger_url(data, settings)
    if is_server_url(address):
        found = f"{shown_address(address)}; payre db check looks at it"
        yield Check("ledger", ok=True, found=found)
        yield Check(
            "receipt keys", ok=settings.receipt_keys is not None, found="PAYRE_RECEIPT_KEYS; payre db receipt-key makes one"
        )
        yield from payment_checks(data, address, settings, online=online)
        return
    if is_hub(address):
        yield Check(
            "ledger", ok=settings.secret_key is not None, found=f"the hub at {shown_address(address)}, with PAYRE_SECRET_KEY"
        )
        return
    path = sqlite_path(address)
    yield _ledger_check(path)
    yield _ring_check(settings, path)
    yield from payment_checks(data, address, settings, online=online)


def _key_check(settings: Settings) -> Check:
    if settings.key is None:
        return Check("PAYRE_KEY", ok=True, found="not set; only a server or wallet on stdio needs it")
    try:
        key = parse_key(settings.key.get_secret_value())
    except PayreError as error:
        return Check("PAYRE_KEY", ok=False, found=error.message)
    return Check("PAYRE_KEY", ok=key.role == Role.CONSUMER, found=f"{key.shown}; a consumer's key starts with pyr_ck_")


def _ledger_check(path: Path) -> Check:
    if not path.exists():
        return Check("ledger", ok=True, found=f"none yet at {path}; it is made at first use")
    try:
        connection = connect(path, read_only=True)
        try:
            state = migrate.schema_state(connection)
            journal = connection.execute("pragma journal_mode").fetchone()[0]
        finally:
            connection.close()
    except sqlite.DatabaseError as error:
        return Check("ledger", ok=False, found=f"{path}: {error}")
    usable = state in {migrate.SchemaState.CURRENT, migrate.SchemaState.OLDER}
    return Check("ledger", ok=usable, found=f"{path}, {journal}, schema {state} (this version has {migrate.HEAD})")


def _ring_check(settings: Settings, path: Path) -> Check:
    file = path.with_suffix(".keys")
    try:
        if settings.receipt_keys is not None:
            return Check("receipt keys", ok=True, found=repr(KeyRing.parse(settings.receipt_keys.get_secret_value())))
        if not file.exists():
            return Check("receipt keys", ok=True, found="none yet; they are made with the ledger")
        mode = stat.S_IMODE(file.stat().st_mode)
        return Check("receipt keys", ok=mode & 0o077 == 0, found=f"{KeyRing.parse(file.read_text())!r}, mode {mode:04o}")
    except ValueError as error:
        return Check("receipt keys", ok=False, found=str(error))
