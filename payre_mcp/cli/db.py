"""`payre db`: upgrade, check and back up a ledger's database, and prepare one on a server for many machines."""

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from payre_mcp.cli.output import columns, command_settings, emit, ledger_url
from payre_mcp.connection import is_server_url, sqlite_path
from payre_mcp.errors import InvalidRequest, NotFound, PayreUnavailable
from payre_mcp.receipts import KeyRing
from payre_mcp.storage import migrate
from payre_mcp.storage.deploy import distribute as spread_tables
from payre_mcp.storage.deploy import role_script
from payre_mcp.storage.engine import make_engine, server_engine
from payre_mcp.storage.library import connect

OLDEST = 15
"""The first version of PostgreSQL that we run on."""


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str


def upgrade(*, data: Path | None, url: str | None, json: bool) -> None:
    """Bring the tables of a ledger to this version; stop what uses it before."""
    address = _address(data, url)
    with _engine(address) as engine:
        before = _state(address, engine)
        if before in {migrate.SchemaState.FOREIGN, migrate.SchemaState.NEWER}:
            raise InvalidRequest(f"the database is {_SAID[before]}; nothing was changed")
        if is_server_url(address):
            migrate.make_version_table(engine)
        if before != migrate.SchemaState.CURRENT:
            migrate.upgrade(engine)
    done = "was current" if before == migrate.SchemaState.CURRENT else f"is now at {migrate.HEAD}"
    emit({"before": before, "revision": migrate.HEAD}, [f"the ledger {done}"], as_json=json)


def check(*, data: Path | None, url: str | None, json: bool) -> int:
    """Look at what a ledger's database stands on; answers 1 when something needs attention."""
    address = _address(data, url)
    with _engine(address) as engine:
        state = _state(address, engine)
        findings = [Finding("schema", state == migrate.SchemaState.CURRENT, f"{_SAID[state]}; this version has {migrate.HEAD}")]
        if is_server_url(address):
            findings += _server_findings(engine)
    ok = all(finding.ok for finding in findings)
    lines = columns([["ok" if each.ok else "ATTENTION", each.name, each.found] for each in findings])
    emit({"ok": ok, "checks": [each._asdict() for each in findings]}, lines, as_json=json)
    return 0 if ok else 1


def backup(*, file: Path, data: Path | None, url: str | None, json: bool) -> None:
    """Copy a ledger that may be in use into a new file, as it stands now. Its receipt keys are not in it."""
    address = _address(data, url)
    if file.exists():
        raise InvalidRequest(f"{file} exists already; nothing was written")
    if is_server_url(address):
        _dump(address, file)
    else:
        file.touch(mode=0o600)
        with closing(connect(sqlite_path(address), read_only=True)) as source, closing(connect(file)) as target:
            source.backup(target)
    size = file.stat().st_size
    line = f"{file} ({size} bytes); the receipt keys are not in it: keep payre.keys or PAYRE_RECEIPT_KEYS too"
    emit({"file": str(file), "bytes": size}, [line], as_json=json)


def distribute(*, url: str | None, shards: int, json: bool) -> None:
    """Spread the money tables over a Citus cluster."""
    address = _server_address(url)
    with _engine(address) as engine:
        tables = spread_tables(engine, shards=shards)
    emit({"distributed": tables}, [f"spread by part: {', '.join(tables) or 'nothing, all is spread already'}"], as_json=json)


def role(*, name: str) -> None:
    """Print the SQL that gives a role the rights to serve, and no more."""
    emit({}, [role_script(name)], as_json=False)


def receipt_key(*, json: bool) -> None:
    """Print a new receipt key for PAYRE_RECEIPT_KEYS."""
    text = KeyRing.generate().dump().strip()
    emit({"receipt_key": text}, [text], as_json=json)


_SAID = {
    migrate.SchemaState.EMPTY: "empty",
    migrate.SchemaState.OLDER: "of an older version: payre db upgrade",
    migrate.SchemaState.CURRENT: "current",
    migrate.SchemaState.NEWER: "of a newer version of payre_mcp",
    migrate.SchemaState.FOREIGN: "another program's",
}


def _address(data: Path | None, url: str | None) -> str:
    address = url or ledger_url(data, command_settings())
    if not is_server_url(address) and not sqlite_path(address).exists():
        raise NotFound(f"there is no ledger at {sqlite_path(address)}")
    return address


def _server_address(url: str | None) -> str:
    address = _address(None, url)
    if not is_server_url(address):
        raise InvalidRequest("a file cannot be spread over machines; name a database with --url postgresql://...")
    return address


@contextmanager
def _engine(address: str) -> Generator[sa.Engine]:
    engine = server_engine(address) if is_server_url(address) else make_engine(sqlite_path(address))
    try:
        yield engine
    except OperationalError as error:
        said = str(error.orig).splitlines()
        raise PayreUnavailable(f"the ledger's database cannot be opened: {said[0] if said else 'no answer'}") from error
    finally:
        engine.dispose()


def _state(address: str, engine: sa.Engine) -> migrate.SchemaState:
    if is_server_url(address):
        with engine.connect() as connection:
            return migrate.server_state(connection)
    with closing(connect(sqlite_path(address), read_only=True)) as connection:
        return migrate.schema_state(connection)


def _server_findings(engine: sa.Engine) -> list[Finding]:
    names = ("server_version_num", "fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names")
    with engine.connect() as connection:
        number, fsync, whole_pages, commit, standbys = (
            str(connection.execute(sa.text(f"show {name}")).scalar()) for name in names
        )
        may_change = connection.execute(sa.text("select has_table_privilege('transfer', 'update')")).scalar()
    version = int(number) // 10_000
    waits = commit not in {"off", "local"} or (commit == "local" and not standbys)
    return [
        Finding("PostgreSQL", version >= OLDEST, f"{version}; {OLDEST} or later"),
        Finding("fsync", fsync == "on", f"{fsync}; a commit is on disk only while it is on"),
        Finding("full_page_writes", whole_pages == "on", f"{whole_pages}; a torn page cannot be mended without"),
        Finding("synchronous_commit", waits, commit),
        Finding("synchronous standby", ok=True, found=standbys or "none: what was answered dies with this machine's disk"),
        Finding("rights", ok=True, found="may change the journal; serve with a role of payre db role" if may_change else "least"),
    ]


def _dump(address: str, file: Path) -> None:
    program = shutil.which("pg_dump")
    if program is None:
        raise NotFound("pg_dump is not on the PATH: it comes with PostgreSQL's client programs. Nothing was written")
    from psycopg.conninfo import conninfo_to_dict, make_conninfo  # noqa: PLC0415 - an extra

    file.touch(mode=0o600, exist_ok=False)
    target: dict[str, Any] = dict(conninfo_to_dict(address))
    # What stands on a command line is seen by every user of the machine.
    secret = {"PGPASSWORD": str(target.pop("password"))} if "password" in target else {}
    command = [program, "--format=custom", f"--file={file}", f"--dbname={make_conninfo(**target)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.defpath, **secret})  # noqa: S603 - our own words
    if done.returncode:
        file.unlink()
        raise PayreUnavailable(f"pg_dump failed: {(done.stderr.splitlines() or ['no reason given'])[0]}")
